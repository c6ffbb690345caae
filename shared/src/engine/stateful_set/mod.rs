//! Driver of StatefulSets: in place by a partition that follows the replicas.
//!
//! The native controller replaces the pods from the partition up, from the top and by the owner's
//! own knobs; those below it come back at the old revision whatever happens to them. The template
//! is written together with the partition, so that nothing moves that was not asked for. Pods that
//! are made by scaling up lie above the partition and come up new: the partition is raised, and
//! those under it that are new are deleted one by one, so that they come back old.

mod observed;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use super::driver::{Counts, Drive, Move, Side};
use super::effect::{PodDelete, Write};
use super::observed::{PodState, Set, Workload};
use super::plan::{PlanTarget, Share, WorkloadsPlan};
use super::revised::{Revised, count, delete};
use crate::api::status::{Originals, RollingUpdate, TargetStatus, UpdateStrategy};
use jiff::Timestamp;

/// One StatefulSet on its way.
pub(super) struct Driver<'a> {
    of: Revised<'a>,
    /// Some weight is under 100: the template is never written without a partition.
    parts: bool,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        target: &'a PlanTarget,
        now: &'a Workload,
        originals: &'a Originals,
        status: &'a TargetStatus,
        stage: &WorkloadsPlan,
        clock: Timestamp,
    ) -> Self {
        Self { of: Revised::new(target, now, originals, status, clock), parts: stage.parts }
    }

    fn n(&self) -> i32 {
        self.of.now.replicas
    }

    /// The owner's `updateStrategy` with another partition.
    fn at(&self, partition: i32) -> UpdateStrategy {
        let own = self.of.own().rolling_update.unwrap_or_default();
        UpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdate { partition: Some(partition), ..own }),
        }
    }

    /// Index of a pod from the first ordinal, which is what a partition counts.
    fn index(&self, pod: &PodState) -> i32 {
        let ordinal = pod.name.rsplit_once('-').and_then(|(_, o)| o.parse::<i32>().ok());
        ordinal.map_or(-1, |o| o - self.of.now.revisions.first)
    }

    fn part(&self, share: Share) -> Move {
        let (n, k) = (self.n(), share.count_without_surge(self.n()));
        match self.of.side() {
            Side::Other => Move::Broken(self.of.changed_under_us()),
            Side::Canary if n == 0 => {
                Move::Write(self.take_back("scaled to 0: put the stable template back"))
            }
            Side::Canary if self.lost_stable() => {
                let why = "scaling left no stable pod: put the stable template back";
                Move::Write(self.take_back(why))
            }
            Side::Canary => self.hold_at(k),
            Side::Stable if n == 0 => {
                Move::Wait("scaled to 0 replicas: a canary needs pods; scale it up".to_owned())
            }
            // The only pod is all of them.
            Side::Stable if k == 0 => Move::Reached,
            Side::Stable => self.not_startable().map_or_else(
                || Move::Write(self.forward(n - k, format!("canary from 0 to {k} of {n} pods"))),
                Move::Wait,
            ),
        }
    }

    /// The template is the canary's: grow, shrink, or stand.
    fn hold_at(&self, k: i32) -> Move {
        if self.of.third() {
            return Move::Broken(self.of.changed_under_us());
        }
        let (n, c) = (self.n(), self.of.counts());
        let why = format!("canary from {} to {k} of {n} pods", c.canary);
        let write = self.forward(n - k, why);
        if !write.is_empty() {
            return Move::Write(write);
        }
        let over = self.over(n - k);
        if !over.is_empty() {
            let what = format!("{} new pods are over the weight", over.len());
            return match self.give_back(&over) {
                Some(pod) => Move::Delete(vec![pod], format!("{what}: one comes back old")),
                None => Move::Wait(format!("{what}: the next goes when all others are available")),
            };
        }
        if c.canary_ready < k {
            return Move::Wait(format!("{} of {k} canary pods available", c.canary_ready));
        }
        Move::Reached
    }

    /// New pods below a partition, the highest first.
    fn over(&self, partition: i32) -> Vec<&PodState> {
        let new = self.of.now.pods.iter().filter(|p| self.of.is_new(p));
        let mut over: Vec<&PodState> = new.filter(|p| self.index(p) < partition).collect();
        over.sort_by_key(|p| -self.index(p));
        over
    }

    /// The next pod to come back old: one that serves nobody first, for it costs nothing.
    fn give_back(&self, over: &[&PodState]) -> Option<PodDelete> {
        let idle = over.iter().find(|p| !self.of.available(p));
        // One at a time: what more the owner may allow is for the native controller to use.
        let next = if self.of.budget(1, self.n()) > 0 { idle.or(over.first()) } else { idle };
        next.map(|p| delete(p, "it is over the canary's weight"))
    }

    /// At 0 replicas the native controller forgets which revision was the old one.
    fn lost_stable(&self) -> bool {
        let current = self.of.now.revisions.current.as_deref();
        current.is_some() && self.of.stable.is_some() && current != self.of.stable
    }

    fn full(&self) -> Move {
        let (n, side) = (self.n(), self.of.side());
        if side == Side::Other || self.of.third() {
            return Move::Broken(self.of.changed_under_us());
        }
        if side == Side::Stable {
            if let Some(why) = self.not_startable() {
                return Move::Wait(why);
            }
            if self.parts && n == 0 {
                return Move::Wait("scaled to 0 replicas: scale it up to go on".to_owned());
            }
            if self.parts && n > 1 {
                return Move::Write(self.forward(n, "the template, and nothing moves".to_owned()));
            }
        }
        let write = self.forward(0, "promote".to_owned());
        if !write.is_empty() {
            return Move::Write(write);
        }
        let w = self.of.now;
        if w.complete() && w.revisions.current == w.revisions.update {
            return Move::Reached;
        }
        Move::Wait(format!("{} of {n} pods updated, {} available", w.updated, w.available))
    }

    fn forward(&self, partition: i32, why: String) -> Write {
        self.of.write(Side::Canary, self.at(partition), why)
    }

    /// The old template, and every pod comes back to it.
    fn take_back(&self, why: &str) -> Write {
        self.of.write(Side::Stable, self.at(0), why.to_owned())
    }

    fn not_startable(&self) -> Option<String> {
        let revisions = &self.of.now.revisions;
        if revisions.current != revisions.update {
            return Some(
                "its present rollout is not complete: it has pods of two revisions, or a \
                         partition holds some back"
                    .to_owned(),
            );
        }
        self.of.not_complete()
    }

    /// The old template is back; wait until only its pods are left, then put the fields back.
    fn settle_back(&self) -> Move {
        let (w, c) = (self.of.now, self.of.counts());
        if w.label.is_none() {
            // The first write carries our label: nothing of ours is on it.
            return Move::Reached;
        }
        if !w.observed {
            return Move::Wait("the StatefulSet controller has not seen the last write".to_owned());
        }
        if c.canary == 0 && w.updated == w.replicas && w.status_replicas == w.replicas {
            return self.restore();
        }
        let write = self.take_back("roll back");
        if !write.is_empty() {
            return Move::Write(write);
        }
        // The native controller waits for them (kubernetes/kubernetes#67250).
        let new = w.pods.iter().filter(|p| self.of.is_new(p));
        let broken: Vec<PodDelete> = new
            .filter(|p| p.ready_since.is_none())
            .map(|p| delete(p, "it is of the revision that is taken back, and not ready"))
            .collect();
        if !broken.is_empty() {
            let what = format!("{} pods that are not ready go, to come back old", broken.len());
            return Move::Delete(broken, what);
        }
        Move::Wait(format!(
            "{} canary pods left, {} of {} pods old",
            c.canary, w.updated, w.replicas
        ))
    }
}

impl Drive for Driver<'_> {
    fn stable_set(&self) -> Option<&str> {
        self.of.stable
    }

    fn canary_set(&self) -> Option<&Set> {
        self.of.canary()
    }

    fn counts(&self) -> Counts {
        self.of.counts()
    }

    fn next_available(&self) -> Option<Timestamp> {
        self.of.next_available()
    }

    fn drift(&self, share: Share) -> i32 {
        (self.of.counts().canary - share.count_without_surge(self.n())).max(0)
    }

    fn toward(&self, share: Share, _rest: bool) -> Move {
        if self.of.own().is_on_delete() {
            return Move::Broken(format!(
                "{} has the updateStrategy OnDelete, with which a lost pod can come back at a \
                 revision older than the one that runs; set its type to RollingUpdate first",
                self.of.target
            ));
        }
        if !self.of.now.observed {
            return Move::Wait("the StatefulSet controller has not seen the last write".to_owned());
        }
        if share.is_all_of(self.n()) { self.full() } else { self.part(share) }
    }

    fn freeze(&self) -> Move {
        if self.of.side() != Side::Canary {
            return Move::Reached;
        }
        if self.n() == 0 {
            return Move::Write(self.take_back("scaled to 0: put the stable template back"));
        }
        let new = count(self.of.now.pods.iter().filter(|p| self.of.is_new(p)));
        let partition = (self.n() - new).max(0);
        if partition <= self.of.strategy().partition() {
            return Move::Reached;
        }
        Move::Write(self.forward(partition, "pause".to_owned()))
    }

    fn back(&self) -> Move {
        match self.of.side() {
            Side::Canary => Move::Write(self.take_back("roll back")),
            Side::Stable => self.settle_back(),
            Side::Other => self.restore(),
        }
    }

    fn restore(&self) -> Move {
        let write = self.of.restore();
        if write.is_empty() { Move::Reached } else { Move::Write(write) }
    }
}
