//! The wall clock, and who is told when it jumps.
//!
//! Timers run on monotonic time. A machine that slept, or whose clock was set, would keep its
//! appointments late or early: everything that waits for a time of day looks again after a jump.

use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Milliseconds that tests have moved the clock by; zero in whatever is shipped.
static MOVED: AtomicI64 = AtomicI64::new(0);

/// How far wall clock and monotonic clock may drift apart between two looks.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The time of day.
pub fn now() -> Timestamp {
    let moved = SignedDuration::from_millis(MOVED.load(Ordering::Relaxed));
    let now = Timestamp::now();
    now.saturating_add(moved).unwrap_or(now)
}

/// Time from now to `at`, none if it has passed.
pub fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now())).unwrap_or(Duration::ZERO)
}

/// Tells of every jump of the wall clock until `stop` is cancelled.
///
/// With a `file`, the time in it is what the clock says from the moment it is seen there: for
/// tests, and in debug builds only.
pub fn follow(file: Option<PathBuf>, stop: CancellationToken) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    let look = if file.is_some() { Duration::from_millis(20) } else { LOOK };
    tokio::spawn(async move {
        let mut last = (Instant::now(), now());
        let mut seen = String::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(look) => {}
            }
            if let Some(file) = &file {
                set_from(file, &mut seen);
            }
            let here = (Instant::now(), now());
            let monotonic = SignedDuration::try_from(here.0 - last.0).unwrap_or_default();
            let drift = here.1.duration_since(last.1) - monotonic;
            if drift.abs() > TOLERANCE {
                tracing::info!(drift = %drift, now = %here.1, "the clock jumped");
                sender.send_replace(());
            }
            last = here;
        }
    });
    receiver
}

/// Takes a new time from the file.
fn set_from(file: &std::path::Path, seen: &mut String) {
    let Ok(text) = std::fs::read_to_string(file) else { return };
    if text == *seen {
        return;
    }
    if let Ok(wanted) = text.trim().parse::<Timestamp>() {
        let moved = wanted.duration_since(Timestamp::now()).as_millis();
        MOVED.store(i64::try_from(moved).unwrap_or(0), Ordering::Relaxed);
        tracing::warn!(now = %wanted, "a test has set the clock");
        *seen = text;
    }
}
