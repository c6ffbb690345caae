//! The way back, the guarded fields, and standing still.

use super::{Driver, Move, Side, side};
use crate::engine::effect::Write;
use crate::engine::law;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

impl Driver<'_> {
    /// Back to the old images, with the workload's own fields.
    pub fn back(&self) -> Move {
        let next = match side(self.target, self.now) {
            Side::Canary => Move::Write(self.abort()),
            Side::Stable if self.now.inflated() || self.is_stopped() => Move::Write(self.abort()),
            Side::Stable => self.settle_back(),
            Side::Other => self.restore(),
        };
        self.without_noise(next)
    }

    /// Paused, and not only because its owner wants it so.
    fn is_stopped(&self) -> bool {
        self.now.paused && (!self.originals.paused || self.counts().canary > 0)
    }

    /// The guarded fields as their owner wrote them.
    pub fn restore(&self) -> Move {
        let why = "put the guarded fields back".to_owned();
        let paused = Some(self.originals.paused);
        self.without_noise(Move::Write(Write { paused, why, ..self.own_fields() }))
    }

    /// Stands still where it is.
    pub fn freeze(&self) -> Move {
        let n = self.now.replicas;
        if n == 0
            && self.canary
            && side(self.target, self.now) == Side::Canary
            && self.now.inflated()
        {
            return self.without_noise(Move::Write(self.abort()));
        }
        let moving = side(self.target, self.now) == Side::Canary || self.now.inflated();
        if !moving || self.now.paused {
            return Move::Reached;
        }
        let write = Write { paused: Some(true), why: "pause".to_owned(), ..Write::default() };
        self.without_noise(Move::Write(write))
    }

    /// One write back. Where the workload may surge, no ready pod is given up; what the canary
    /// costs already is not asked for again, or a full quota would stall it for ever.
    pub(super) fn abort(&self) -> Write {
        let unavailable = if self.surges() && self.now.replica_failure.is_none() {
            Some(law::percent(ceil_unavailable(self.cost(), self.now.replicas)))
        } else {
            self.at_least_cost()
        };
        self.native(Side::Stable, unavailable, "roll back")
    }

    /// The old template is back; wait until only its pods are left, then put the fields back.
    fn settle_back(&self) -> Move {
        let n = self.now.replicas;
        let c = self.counts();
        if !self.now.settled()
            || c.canary > 0
            || self.now.updated < n
            || self.now.status_replicas > n
        {
            let stuck = self.now.replica_failure.is_some() && self.canary;
            let raised = Write {
                max_unavailable: self.at_least_cost(),
                why: "no room for stable pods: let canary pods go first".to_owned(),
                ..Write::default()
            };
            let lower = self.now.unavailable()
                < law::resolve_unavailable(raised.max_unavailable.as_ref(), n);
            if stuck && lower {
                return Move::Write(raised);
            }
            return Move::Wait(format!("{} canary pods left{}", c.canary, self.failure()));
        }
        if self.canary { self.restore() } else { Move::Reached }
    }

    /// The larger of the workload's own `maxUnavailable` and what is missing already.
    fn at_least_cost(&self) -> Option<IntOrString> {
        let n = self.now.replicas;
        let own = self.originals.max_unavailable.clone();
        if self.cost() > law::resolve_unavailable(own.as_ref(), n) {
            return Some(law::percent(ceil_unavailable(self.cost(), n)));
        }
        own
    }

    /// Ready pods that are missing already.
    fn cost(&self) -> i32 {
        let ready: i32 = self.now.replica_sets.iter().map(|s| s.ready).sum();
        (self.now.replicas - ready).max(0)
    }
}

/// Smallest percentage that allows at least so many unavailable pods.
fn ceil_unavailable(pods: i32, replicas: i32) -> i32 {
    (0..=100).find(|p| law::share_down(*p, replicas) >= pods).unwrap_or(100)
}
