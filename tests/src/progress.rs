//! What a start says while it runs.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Sink = dyn Fn(&str) + Send + Sync;

/// Where a start reports what it does.
#[derive(Clone)]
pub struct Progress(Option<Arc<Sink>>);

impl Progress {
    /// Says nothing. The first build of the binaries still shows itself: it takes minutes.
    pub fn silent() -> Self {
        Self(None)
    }

    /// Each step as a line on stderr.
    pub fn stderr() -> Self {
        Self(Some(Arc::new(|step| eprintln!("{step}"))))
    }

    /// Each step to `sink`.
    pub fn to(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    pub(crate) fn step(&self, step: &str) {
        if let Some(sink) = &self.0 {
            sink(step);
        }
    }
}

/// A line that counts the seconds: redrawn on a terminal, appended now and then elsewhere, so that
/// neither a person nor a log is left without a sign of life.
pub(crate) struct Ticker {
    what: String,
    started: Instant,
    terminal: bool,
}

impl Ticker {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let ticker = Self {
            what: what.into(),
            started: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        };
        ticker.tick();
        ticker
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(if self.terminal { 1 } else { 15 })
    }

    pub(crate) fn tick(&self) {
        let seconds = self.started.elapsed().as_secs();
        let (what, mut out) = (&self.what, std::io::stderr().lock());
        // Nobody is left to tell when stderr itself fails.
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{what}: {seconds} s").and_then(|()| out.flush())
        } else {
            writeln!(out, "{what}: {seconds} s")
        };
    }

    pub(crate) fn done(self, outcome: &str) {
        let seconds = self.started.elapsed().as_secs();
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{start}{outcome} after {seconds} s");
    }
}
