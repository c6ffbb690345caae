//! Back to a version that ran not long ago: rests and analyses are left out, gates are not.

use crate::engine::Walk;
use crate::engine::observed::{Set, Workload};
use crate::engine::plan::{PlanTarget, WorkloadsPlan};
use std::cmp::Reverse;

impl Walk<'_> {
    /// Why the stage goes straight to its end, in words: every target runs the new images already,
    /// or has them in one of its last ReplicaSets or revisions before the present one. Asked once,
    /// when the stage begins: later the new images have the latest of them.
    pub(super) fn within_window(&self, index: usize, stage: &WorkloadsPlan) -> Option<String> {
        let revisions = stage.rollback_window?;
        let seen = self.observed.workloads.get(index)?;
        let known = |(target, workload): (&PlanTarget, &Option<Workload>)| {
            workload.as_ref().is_some_and(|w| is_known(target, w, revisions))
        };
        (seen.len() == stage.targets.len() && stage.targets.iter().zip(seen).all(known)).then(|| {
            format!(
                "back within the rollback window of {revisions} revision(s): pauses and analyses \
                 are left out"
            )
        })
    }
}

fn is_known(target: &PlanTarget, workload: &Workload, revisions: usize) -> bool {
    let sets = &workload.replica_sets;
    let present = if workload.hold.is_some() {
        workload.serving()
    } else {
        sets.iter().max_by_key(|s| s.revision)
    };
    let Some(present) = present else { return false };
    let runs = |set: &Set| target.images.iter().all(|c| set.runs(&c.container, &c.to));
    if runs(present) {
        return true;
    }
    // By age and not by revision: a rollback gives the old one the highest number again, and what
    // it took back would look older than it is.
    let Some(since) = present.created else { return false };
    let mut older: Vec<_> = sets.iter().filter(|s| s.created.is_some_and(|t| t < since)).collect();
    older.sort_by_key(|s| Reverse(s.created));
    older.into_iter().take(revisions).any(runs)
}
