//! The reverse: a canary that scaling left over its weight, taken down again. With the stable
//! template and the inflation the canary is the old side, which the law lets shrink.

use super::{Driver, Move, Side, inflated};
use crate::engine::effect::Write;
use crate::engine::law;

impl Driver<'_> {
    /// The reverse write: with the stable template and the inflation, the canary is the old side.
    pub(super) fn begin_lower(&self, canary: i32, k: i32) -> Write {
        let n = self.now.replicas;
        let (s, u) = self.knobs(n - canary, n - k);
        Write {
            images: self.images(Side::Stable),
            template: self.template(Side::Stable),
            paused: Some(false),
            why: format!("canary of {canary} pods is over its weight: give back to {k}"),
            ..inflated(s, u)
        }
    }

    /// In the reverse: stable pods are made, then canary pods taken away, then forward again.
    pub(super) fn lower(&self, k: i32, rest: bool) -> Move {
        let n = self.now.replicas;
        let c = self.counts();
        if self.now.paused {
            // Held in the middle: paused, the native controller makes no pod of ours.
            let why = "go on giving back".to_owned();
            return Move::Write(Write { paused: Some(false), why, ..Write::default() });
        }
        if self.now.settled() && c.canary == 0 {
            // Scaling took the whole canary: start over from the stable side.
            return Move::Write(self.abort());
        }
        let told = n.min(self.now.surge() + self.now.unavailable());
        if !self.now.settled() || c.stable < told || c.stable_ready < c.stable {
            return Move::Wait(format!("{} of {told} stable pods ready", c.stable_ready));
        }
        if c.canary > k + law::tolerance(n) {
            let (surge, unavailable) = self.knobs(c.stable.min(n - k), n - k);
            let why = format!("canary from {} back to {k} pods", c.canary);
            let write = self.now.missing(Write {
                paused: Some(false),
                why,
                ..inflated(surge, unavailable)
            });
            if write.operations().is_empty() {
                return Move::Wait(format!("{} canary pods, going back to {k}", c.canary));
            }
            return Move::Write(write);
        }
        Move::Write(Write {
            images: self.images(Side::Canary),
            template: self.template(Side::Canary),
            paused: Some(rest),
            why: format!("forward again at {} canary pods", c.canary),
            ..inflated(0, law::unavailable_percent(c.canary, n))
        })
    }
}
