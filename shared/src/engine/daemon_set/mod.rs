//! Driver of DaemonSets: `OnDelete`, and our own deletions by batches of nodes.
//!
//! The template and `OnDelete` are one write, made only when the first batch may go: from then on
//! a lost pod and a new node come up new. Never more nodes are without an available pod than the
//! owner's `maxUnavailable` allows. The owner's `updateStrategy` comes back when all pods are of
//! the present template, so that the native controller finds nothing to do. A rolling upgrade of a
//! DaemonSet that rolls by itself is left to the native controller.

mod observed;

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use super::driver::{Counts, Drive, Move, Side};
use super::effect::{PodDelete, Write};
use super::law;
use super::observed::{PodState, Set, Workload};
use super::plan::{PlanTarget, Share, WorkloadsPlan};
use super::revised::{Revised, count, delete};
use crate::api::status::{Originals, TargetStatus, UpdateStrategy};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// One DaemonSet on its way.
pub(super) struct Driver<'a> {
    of: Revised<'a>,
    /// Weight by weight, or the owner replaces pods by deleting them: the deletions are ours.
    by_hand: bool,
    /// Weight by weight.
    canary: bool,
    /// Some weight is under 100.
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
        let of = Revised::new(target, now, originals, status, clock);
        let by_hand = stage.canary || of.own().is_on_delete();
        Self { of, by_hand, canary: stage.canary, parts: stage.parts }
    }

    /// Nodes that are to run a pod. Its status may be behind: a pod that is there counts.
    fn n(&self) -> i32 {
        self.of.now.replicas.max(count(self.of.now.pods.iter()))
    }

    /// The `updateStrategy` while it is in flight.
    fn held(&self) -> UpdateStrategy {
        if self.by_hand { UpdateStrategy::on_delete() } else { self.of.own() }
    }

    /// A new pod beside the old one is the owner's way never to be without one.
    fn surges(&self) -> bool {
        let surge = self.of.own().rolling_update.and_then(|r| r.max_surge);
        surge.is_some() && law::resolve_surge(surge.as_ref(), 100) > 0
    }

    /// Nodes that may still lose their pod now.
    fn budget(&self) -> i32 {
        let n = self.n();
        let most = match self.of.own().rolling_update.and_then(|r| r.max_unavailable) {
            None => 1,
            Some(IntOrString::Int(most)) => most,
            // Rounded up, as the native controller does it.
            Some(IntOrString::String(text)) => text
                .strip_suffix('%')
                .and_then(|p| p.parse::<i32>().ok())
                .map_or(1, |p| law::share_up(p.clamp(0, 100), n)),
        };
        self.of.budget(most.max(1), n)
    }

    fn part(&self, share: Share) -> Move {
        let (n, k) = (self.n(), share.count_without_surge(self.n()));
        match self.of.side() {
            Side::Other => Move::Broken(self.of.changed_under_us()),
            Side::Canary => self.go_to(k),
            Side::Stable if n == 0 => {
                Move::Wait("no node runs a pod of it: a canary needs one".to_owned())
            }
            // The only node is all of them.
            Side::Stable if k == 0 => Move::Reached,
            Side::Stable => self.of.not_complete().map_or_else(
                || Move::Write(self.forward(format!("canary on {k} of {n} nodes"))),
                Move::Wait,
            ),
        }
    }

    fn full(&self) -> Move {
        match self.of.side() {
            Side::Other => Move::Broken(self.of.changed_under_us()),
            Side::Stable if self.parts && self.n() == 0 => {
                Move::Wait("no node runs a pod of it".to_owned())
            }
            Side::Stable => self.of.not_complete().map_or_else(
                || Move::Write(self.forward(format!("all {} nodes", self.n()))),
                Move::Wait,
            ),
            Side::Canary if self.by_hand => match self.go_to(self.n()) {
                Move::Reached => self.all_new(),
                other => other,
            },
            Side::Canary => {
                let write = self.forward("go on".to_owned());
                if write.is_empty() { self.all_new() } else { Move::Write(write) }
            }
        }
    }

    fn all_new(&self) -> Move {
        let w = self.of.now;
        if w.complete() {
            return Move::Reached;
        }
        let (n, updated) = (w.replicas, w.updated);
        Move::Wait(format!("{updated} of {n} pods updated, {} available", w.available))
    }

    /// The template is the canary's: the next batch, where it may go.
    fn go_to(&self, k: i32) -> Move {
        let write = self.forward("hold the native rollout".to_owned());
        if !write.is_empty() {
            return Move::Write(write);
        }
        if self.of.third() {
            return Move::Broken(self.of.changed_under_us());
        }
        if self.of.canary().is_none() {
            return Move::Wait("the revision of the new images is not seen yet".to_owned());
        }
        let c = self.of.counts();
        // A node without a pod gets a new one.
        let coming = self.n() - c.stable;
        if coming < k {
            let batch = self.batch(k - coming);
            if !batch.is_empty() {
                let why = format!("{} nodes next: {coming} of {k} are new", batch.len());
                return Move::Delete(batch, why);
            }
        }
        if c.canary_ready < k.max(c.canary) {
            return Move::Wait(format!("{} of {k} canary pods available", c.canary_ready));
        }
        Move::Reached
    }

    /// Old pods that may go now: nodes that the canary takes first, and never more available ones
    /// than the budget has.
    fn batch(&self, most: i32) -> Vec<PodDelete> {
        let mut old: Vec<&PodState> =
            self.of.now.pods.iter().filter(|p| !self.of.is_new(p)).collect();
        old.sort_by_key(|p| (!p.preferred, self.of.available(p), p.node.clone(), p.name.clone()));
        let mut budget = self.budget();
        let may_go = |p: &&&PodState| {
            // What serves nobody costs nothing.
            let free = !self.of.available(p);
            budget -= i32::from(!free);
            free || budget >= 0
        };
        let going = old.iter().filter(may_go).take(usize::try_from(most).unwrap_or(0));
        going.map(|p| delete(p, "its node is next")).collect()
    }

    fn forward(&self, why: String) -> Write {
        self.of.write(Side::Canary, self.held(), why)
    }

    /// The old template is back; new pods go batch by batch, those that serve nobody first.
    fn settle_back(&self) -> Move {
        let (w, c) = (self.of.now, self.of.counts());
        if w.label.is_none() {
            // The first write carries our label: nothing of ours is on it.
            return Move::Reached;
        }
        if !w.observed {
            return Move::Wait("the DaemonSet controller has not seen the last write".to_owned());
        }
        if c.canary == 0 && (self.by_hand || w.updated >= w.replicas) {
            return self.restore();
        }
        if !self.by_hand {
            let write = self.of.restore();
            let what = format!("{} canary pods left", c.canary);
            return if write.is_empty() { Move::Wait(what) } else { Move::Write(write) };
        }
        let mut new: Vec<&PodState> = w.pods.iter().filter(|p| self.of.is_new(p)).collect();
        new.sort_by_key(|p| (self.of.available(p), p.node.clone(), p.name.clone()));
        let mut budget = self.budget();
        let mut going = vec![];
        for pod in new {
            if self.of.available(pod) {
                budget -= 1;
                if budget < 0 {
                    break;
                }
            }
            going.push(delete(pod, "it is of the revision that is taken back"));
        }
        if going.is_empty() {
            return Move::Wait(format!("{} canary pods left", c.canary));
        }
        let why = format!("{} of {} new pods go, to come back old", going.len(), c.canary);
        Move::Delete(going, why)
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
        if !self.by_hand {
            return 0;
        }
        (self.of.counts().canary - share.count_without_surge(self.n())).max(0)
    }

    fn toward(&self, share: Share, _rest: bool) -> Move {
        if self.canary && self.surges() {
            return Move::Broken(format!(
                "{} has maxSurge, and its canary would take a node's pod away before the new one \
                 is there; use the strategy rolling, or set maxUnavailable instead",
                self.of.target
            ));
        }
        if !self.of.now.observed {
            return Move::Wait("the DaemonSet controller has not seen the last write".to_owned());
        }
        if share.is_all_of(self.n()) { self.full() } else { self.part(share) }
    }

    /// With `OnDelete` nothing moves but what is deleted.
    fn freeze(&self) -> Move {
        if self.of.side() != Side::Canary {
            return Move::Reached;
        }
        let why = "pause".to_owned();
        let write = self.of.write(Side::Canary, UpdateStrategy::on_delete(), why);
        if write.is_empty() { Move::Reached } else { Move::Write(write) }
    }

    fn back(&self) -> Move {
        match self.of.side() {
            Side::Canary => {
                Move::Write(self.of.write(Side::Stable, self.held(), "roll back".to_owned()))
            }
            Side::Stable => self.settle_back(),
            Side::Other => self.restore(),
        }
    }

    fn restore(&self) -> Move {
        let write = self.of.restore();
        if write.is_empty() { Move::Reached } else { Move::Write(write) }
    }
}
