//! New pods beside all the stable ones, for blue-green: with the inflation, a surge and nothing
//! unavailable, the native controller keeps N stable pods whatever becomes of the new ones.

use super::{Driver, Move, Side, inflated, side};
use crate::engine::effect::Write;

impl Driver<'_> {
    /// Towards so many new pods beside all the stable ones. Both sides follow a change of scale:
    /// the surge is a percentage.
    pub fn beside(&self, wanted: i32) -> Move {
        if !self.now.observed {
            return Move::Wait("the Deployment controller has not seen the last write".to_owned());
        }
        let n = self.now.replicas;
        let next = match side(self.target, self.now) {
            Side::Other => Move::Broken(self.changed_under_us()),
            // At 0 nobody can tell any more which template serves.
            Side::Canary if n == 0 => Move::Write(Write {
                why: "scaled to 0: put the stable template back".to_owned(),
                ..self.abort()
            }),
            Side::Canary if !self.now.inflated() => Move::Broken(self.changed_under_us()),
            Side::Canary => self.stand_beside(wanted),
            Side::Stable if self.now.inflated() => Move::Write(self.abort()),
            Side::Stable => {
                self.unready().map_or_else(|| Move::Write(self.first(wanted)), Move::Wait)
            }
        };
        self.without_noise(next)
    }

    /// Why new pods may not be made beside the stable ones yet.
    pub fn unready(&self) -> Option<String> {
        if self.now.replicas == 0 {
            return Some("scaled to 0 replicas: blue-green needs pods; scale it up".to_owned());
        }
        self.not_startable()
    }

    /// Somebody else's template has come, in words.
    pub fn overtaken(&self) -> Option<String> {
        let other = side(self.target, self.now) == Side::Other || self.third_set();
        other.then(|| self.changed_under_us())
    }

    /// The template, with the inflation in the same write.
    fn first(&self, wanted: i32) -> Write {
        let n = self.now.replicas;
        Write {
            images: self.images(Side::Canary),
            template: self.template(Side::Canary),
            paused: Some(false),
            why: format!("{wanted} new pods beside {n} old ones"),
            ..inflated(share(wanted, n), 0)
        }
    }

    fn stand_beside(&self, wanted: i32) -> Move {
        let n = self.now.replicas;
        let c = self.counts();
        if self.third_set() {
            return Move::Broken(self.changed_under_us());
        }
        if self.now.settled() && c.stable < n {
            // Natively no old ReplicaSet grows, but where the scale changes.
            let why = "scaling left too few stable pods: put the stable template back".to_owned();
            return Move::Write(Write { why, ..self.abort() });
        }
        // What scaling up has made of them already is kept: with less surge than there are pods on
        // top, the next change of scale would take the difference from both sides.
        let wanted = wanted.max(c.canary.min(n));
        let write = self.now.missing(Write {
            paused: Some(false),
            why: format!("{wanted} new pods beside {n} old ones"),
            ..inflated(share(wanted, n), 0)
        });
        if !write.is_empty() {
            return Move::Write(write);
        }
        let told = n.min(self.now.surge());
        if c.canary < told || !self.now.settled() {
            return Move::Wait(format!("{} of {told} new pods made{}", c.canary, self.failure()));
        }
        if c.canary_ready < c.canary {
            let failure = self.failure();
            return Move::Wait(format!(
                "{} of {} new pods available{failure}",
                c.canary_ready, c.canary
            ));
        }
        Move::Reached
    }
}

/// The share of all the pods that so many are, as a surge: all of them is 100 %, also where less
/// would do, and what is rounded is rounded least, so that both sides follow a change of scale
/// alike.
fn share(wanted: i32, replicas: i32) -> i32 {
    if wanted >= replicas {
        return 100;
    }
    let percent = i64::from(wanted) * 100 / i64::from(replicas.max(1));
    i32::try_from(percent).unwrap_or(100).clamp(1, 100)
}
