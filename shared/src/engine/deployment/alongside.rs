//! Where a router carries the weights: all stable pods stay, so that the way back is one write of
//! a route, and the canary's pods come on top. With nothing unavailable the law is `old = N`,
//! `new = s`.

use super::{Driver, Move, Side, inflated, side};
use crate::engine::effect::Write;
use crate::engine::law;
use crate::engine::plan::Share;

impl Driver<'_> {
    /// Towards a share, beside all stable pods. At 100 both versions have all of theirs.
    pub fn alongside(&self, share: Share, rest: bool) -> Move {
        if !self.now.observed {
            return Move::Wait("the Deployment controller has not seen the last write".to_owned());
        }
        let next = if self.now.hold.is_some() { self.begin(share) } else { self.part(share, rest) };
        self.without_noise(next)
    }

    /// Whether pods may be made on top of those there are.
    pub fn has_room(&self) -> bool {
        self.canary && self.surges()
    }

    /// The surge that makes the next pods, by no more than the workload's own allows at once.
    pub(super) fn more(&self, have: i32, want: i32) -> (i32, i32) {
        let n = self.now.replicas;
        let surge = law::resolve_surge(self.originals.max_surge.as_ref(), n).max(1);
        (law::surge_percent(have + surge.min(want - have), n), 0)
    }

    /// All stable pods again, beside those of the new images that are there: traffic is to go back
    /// to them before any of the others goes.
    pub fn summon(&self) -> Move {
        let n = self.now.replicas;
        let ready = self.counts().stable_ready;
        match side(self.target, self.now) {
            Side::Other => return Move::Reached,
            _ if n == 0 => return Move::Reached,
            // The promote never landed: nobody took a stable pod away.
            Side::Canary if self.now.inflated() => return Move::Reached,
            Side::Stable if self.now.inflated() && !self.now.paused => {
                if ready >= n {
                    return Move::Reached;
                }
                return Move::Wait(format!("{ready} of {n} stable pods ready"));
            }
            // However many there are: the native controller is at taking them away.
            _ => {}
        }
        self.without_noise(Move::Write(Write {
            images: self.images(Side::Stable),
            template: self.template(Side::Stable),
            paused: Some(false),
            why: "make the stable pods again, beside the new ones".to_owned(),
            ..inflated(100, 0)
        }))
    }
}
