//! What counts as failure of new pods, early and without false alarm.

use super::driver::Driver;
use super::law;
use super::observed::{PodState, Trouble, Workload};
use crate::api::status::{TargetPhase, TargetStatus};
use jiff::{SignedDuration, Timestamp};

/// A container that has been restarted this often and is in back-off again will not recover by
/// itself; the first restart may be a dependency that was late.
const CRASHES: i32 = 2;
/// How long a pod may fail to be started (image, configuration) before it counts: registries and
/// Secrets come late, too.
const START_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// What the health of a target's new pods means now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// No reason to stop; look again at this time, if any.
    Fine(Option<Timestamp>),
    /// The upgrade has failed.
    Failed(String),
}

/// Judges the new pods of a target that is under way.
pub fn pods(driver: &Driver<'_>, workload: &Workload, now: Timestamp) -> Health {
    let mut alarm = None;
    let canary = driver.canary_set().map(|s| s.name.as_str());
    let pods = workload.and_its_canary().flat_map(|w| &w.pods);
    for pod in pods.filter(|p| Some(p.set.as_str()) == canary) {
        match pod_health(pod, now) {
            Health::Failed(why) => return Health::Failed(why),
            Health::Fine(at) => alarm = earliest(alarm, at),
        }
    }
    Health::Fine(alarm)
}

fn pod_health(pod: &PodState, now: Timestamp) -> Health {
    let Some(trouble) = &pod.trouble else {
        return Health::Fine(None);
    };
    let Trouble { container, reason, restarts } = trouble;
    let fails =
        |what: &str| Health::Failed(format!("pod {}: container {container} {what}", pod.name));
    match reason.as_str() {
        "CrashLoopBackOff" if *restarts >= CRASHES => {
            fails(&format!("crashes ({restarts} restarts)"))
        }
        "CrashLoopBackOff" => Health::Fine(None),
        "InvalidImageName" => fails("names an invalid image"),
        _ => {
            let until = pod.since.and_then(|t| t.saturating_add(START_GRACE).ok());
            match until {
                Some(t) if t > now => Health::Fine(Some(t)),
                _ => fails(&format!("cannot be started ({reason})")),
            }
        }
    }
}

/// The workload's own progress deadline, counted from the last progress and not while it rests. A
/// pod that is Ready and only has its `minReadySeconds` before it is progress.
pub fn deadline(
    driver: &Driver<'_>,
    workload: &Workload,
    status: &TargetStatus,
    now: Timestamp,
) -> Health {
    if status.phase != TargetPhase::Progressing {
        return Health::Fine(None);
    }
    let (Some(since), Some(originals)) = (&status.last_progress_time, &status.originals) else {
        return Health::Fine(None);
    };
    let seconds =
        originals.progress_deadline_seconds.unwrap_or(law::DEFAULT_PROGRESS_DEADLINE_SECONDS);
    if seconds == i32::MAX {
        return Health::Fine(None);
    }
    let Ok(end) = since.0.saturating_add(SignedDuration::from_secs(i64::from(seconds))) else {
        return Health::Fine(None);
    };
    if now < end {
        return Health::Fine(Some(end));
    }
    if let Some(available) = driver.next_available() {
        return Health::Fine(Some(available));
    }
    let quota = workload.replica_failure.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
    Health::Failed(format!(
        "{}/{} made no progress for {seconds} s ({}){quota}",
        status.kind.resource(),
        status.name,
        status.message
    ))
}

/// The earlier of two times that may not be.
pub fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
