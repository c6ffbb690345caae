//! A Deployment that mode `Hold` holds: its template is the new one already, nothing of it runs.

use super::{Driver, Move, Side, side};
use crate::engine::effect::Write;
use crate::engine::plan::Share;

impl Driver<'_> {
    /// The first write of an Upgrade that Hold opened: the Deployment is let go, a canary's with
    /// the inflation in the same write.
    pub(super) fn begin(&self, share: Share) -> Move {
        let n = self.now.replicas;
        if n == 0 {
            // The controller puts the old template back: nobody can tell any more which one serves.
            return Move::Wait("scaled to 0 replicas while it is held".to_owned());
        }
        if side(self.target, self.now) != Side::Canary {
            return Move::Broken(self.changed_under_us());
        }
        if let Some(why) = self.not_serving() {
            return Move::Wait(why);
        }
        let first = share.count(n);
        Move::Write(if self.canary && self.parts { self.raise(0, first) } else { self.promote() })
    }

    /// Back to where Hold had it: the new template, paused, whatever of it is left to be found.
    /// Only where nothing but the old template's pods is left.
    pub fn hold_again(&self) -> Write {
        Write {
            images: self.images(Side::Canary),
            template: self.template(Side::Canary),
            paused: Some(true),
            why: "hold the new template again".to_owned(),
            ..Write::default()
        }
    }

    /// The ReplicaSet whose template is written whole where Hold opened the Upgrade and the sides
    /// change; without one (`revisionHistoryLimit: 0` keeps none) the images alone are.
    pub(super) fn template(&self, to: Side) -> Option<String> {
        if !self.whole || side(self.target, self.now) == to {
            return None;
        }
        match to {
            Side::Stable => self.stable.and_then(|name| self.now.set(name)).map(|s| s.name.clone()),
            _ => self.canary_set().map(|s| s.name.clone()),
        }
    }

    /// Why the pods that serve are not all there.
    fn not_serving(&self) -> Option<String> {
        let w = self.now;
        let all = w.serving().is_some_and(|s| s.replicas == w.replicas)
            && w.available == w.replicas
            && w.settled();
        (!all).then(|| {
            format!(
                "{} of {} pods available while it is held; it begins when all are",
                w.available, w.replicas
            )
        })
    }
}
