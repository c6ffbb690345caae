//! The driver of a workload with a canary beside it: the workload's own rolling update is the last
//! step, and what counts are the pods of both.

use super::earliest;
use crate::api::status::{Originals, TargetStatus};
use crate::engine::deployment;
use crate::engine::driver::{Counts, Drive, Move, Side, side};
use crate::engine::observed::{Set, Workload};
use crate::engine::plan::{PlanTarget, Share, WorkloadsPlan};
use jiff::Timestamp;

/// One Deployment and its canary.
pub struct Driver<'a> {
    main: deployment::Driver<'a>,
    target: &'a PlanTarget,
    now: &'a Workload,
    originals: &'a Originals,
    clock: Timestamp,
}

impl<'a> Driver<'a> {
    /// A driver for one moment; see [`deployment::Driver::new`].
    pub fn new(
        target: &'a PlanTarget,
        now: &'a Workload,
        originals: &'a Originals,
        status: &'a TargetStatus,
        stage: &WorkloadsPlan,
        clock: Timestamp,
    ) -> Self {
        let main = deployment::Driver::new(target, now, originals, status, stage, clock);
        Self { main, target, now, originals, clock }
    }

    /// Why the workload may not be started on now.
    pub(super) fn not_startable(&self) -> Option<String> {
        self.main.not_startable()
    }

    /// Somebody else's template has come to the workload, in words.
    pub(super) fn overtaken(&self) -> Option<String> {
        let early = side(self.target, self.now) == Side::Canary;
        let why = || format!("{} got the new images from somebody else", self.target);
        self.main.overtaken().or_else(|| early.then(why))
    }

    /// Pods of the canary's Deployment: wanted, and available by the workload's own
    /// `minReadySeconds`.
    pub(super) fn canary_counts(&self) -> (i32, i32) {
        let Some(canary) = &self.now.separate else { return (0, 0) };
        let set = self.beside().map(|s| s.name.as_str());
        let available = canary.pods.iter().filter(|p| Some(p.set.as_str()) == set).filter(|p| {
            p.available_at(self.originals.min_ready_seconds).is_some_and(|t| t <= self.clock)
        });
        let ready = i32::try_from(available.count()).unwrap_or(i32::MAX);
        (canary.replica_sets.iter().map(|s| s.replicas).sum(), ready)
    }

    /// The ReplicaSet of the canary's Deployment.
    fn beside(&self) -> Option<&Set> {
        self.now.separate.as_ref()?.replica_sets.iter().max_by_key(|s| s.revision)
    }
}

impl Drive for Driver<'_> {
    fn stable_set(&self) -> Option<&str> {
        self.main.stable_set()
    }

    fn canary_set(&self) -> Option<&Set> {
        let promoted = side(self.target, self.now) == Side::Canary;
        let own = self.main.canary_set().filter(|_| promoted);
        own.or_else(|| self.beside()).or_else(|| self.main.canary_set())
    }

    fn counts(&self) -> Counts {
        let (canary, ready) = self.canary_counts();
        let main = self.main.counts();
        Counts { canary: main.canary + canary, canary_ready: main.canary_ready + ready, ..main }
    }

    fn next_available(&self) -> Option<Timestamp> {
        let pods = self.now.separate.iter().flat_map(|c| &c.pods);
        let times = pods.filter_map(|p| p.available_at(self.originals.min_ready_seconds));
        earliest(self.main.next_available(), times.filter(|t| *t > self.clock).min())
    }

    /// Nothing but the last weight is the workload's own.
    fn toward(&self, share: Share, rest: bool) -> Move {
        if share.is_full() { self.main.toward(share, rest) } else { Move::Reached }
    }

    fn freeze(&self) -> Move {
        self.main.freeze()
    }

    fn back(&self) -> Move {
        self.main.back()
    }

    fn restore(&self) -> Move {
        self.main.restore()
    }
}
