//! What every driver can say and do, and which one a workload has.

use super::effect::{PodDelete, Write};
use super::observed::{Set, Workload};
use super::plan::{PlanTarget, Share, WorkloadsPlan};
use super::{daemon_set, deployment, separate, stateful_set};
use crate::api::WorkloadKind;
use crate::api::status::{Originals, TargetStatus};
use crate::api::upgrade::ImageChange;
use crate::image;
use jiff::Timestamp;
use std::ops::Deref;

/// What to do next with a workload.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// It is where it should be.
    Reached,
    /// It moves, or something outside has to; the words say what.
    Wait(String),
    /// This has to be written.
    Write(Write),
    /// These pods have to go; the words say why.
    Delete(Vec<PodDelete>, String),
    /// Somebody changed it under us; nothing is written any more.
    Broken(String),
}

/// Whose images the template holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The old ones, in every container that changes.
    Stable,
    /// The new ones.
    Canary,
    /// Neither.
    Other,
}

/// Pods by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods wanted of every other ReplicaSet or revision.
    pub stable: i32,
    /// Of these, Ready.
    pub stable_ready: i32,
    /// Pods wanted of the canary's ReplicaSet or revision.
    pub canary: i32,
    /// Of these, available by the workload's own `minReadySeconds`.
    pub canary_ready: i32,
}

/// Whose images the template of a workload holds.
pub fn side(target: &PlanTarget, workload: &Workload) -> Side {
    let all = |pick: fn(&ImageChange) -> &str| {
        target.images.iter().all(|change| {
            workload
                .container(&change.container)
                .is_some_and(|c| image::same(&c.image, pick(change)))
        })
    };
    if all(|c| &c.to) {
        Side::Canary
    } else if all(|c| &c.from) {
        Side::Stable
    } else {
        Side::Other
    }
}

/// The images of one side by pointer. Where the ReplicaSet or revision of that side writes an image
/// otherwise, its text is taken: another text would be another template, and another of these.
pub(super) fn images(
    target: &PlanTarget,
    now: &Workload,
    set: Option<&Set>,
    to: Side,
) -> Vec<(String, String)> {
    let text = |change: &ImageChange| {
        let wanted = if to == Side::Stable { &change.from } else { &change.to };
        let written = set.and_then(|s| s.images.iter().find(|(c, _)| *c == change.container));
        written
            .filter(|(_, i)| image::same(i, wanted))
            .map_or_else(|| wanted.clone(), |(_, i)| i.clone())
    };
    let pointer = |change: &ImageChange| Some(now.container(&change.container)?.pointer.clone());
    target.images.iter().filter_map(|c| Some((pointer(c)?, text(c)))).collect()
}

/// One workload on its way. Level-triggered: a driver looks only at what runs and at the
/// originals, so that whoever comes after a crash goes on where the last write stood.
pub trait Drive {
    /// Name of the ReplicaSet or revision of the old images.
    fn stable_set(&self) -> Option<&str>;
    /// The ReplicaSet or revision of the new images, once there is one.
    fn canary_set(&self) -> Option<&Set>;
    /// Pods by side.
    fn counts(&self) -> Counts;
    /// When the next pod becomes available, if nothing happens to it.
    fn next_available(&self) -> Option<Timestamp>;
    /// Pods that run the new images beyond a share, because they came up new by themselves.
    fn drift(&self, _share: Share) -> i32 {
        0
    }
    /// Towards a share of the pods; `rest` says that it is to stand still there.
    fn toward(&self, share: Share, rest: bool) -> Move;
    /// Towards a share that a router carries: all stable pods stay, the others stand beside them.
    fn alongside(&self, share: Share, rest: bool) -> Move {
        self.toward(share, rest)
    }
    /// Whether pods may be made on top of those there are.
    fn has_room(&self) -> bool {
        false
    }
    /// All stable pods again, beside those of the new images that are there.
    fn summon(&self) -> Move {
        Move::Reached
    }
    /// Stands still where it is.
    fn freeze(&self) -> Move;
    /// Back to the old images, with the workload's own fields.
    fn back(&self) -> Move;
    /// The guarded fields as their owner wrote them.
    fn restore(&self) -> Move;
    /// Back to where mode Hold had it, where it can hold this kind.
    fn hold_again(&self) -> Option<Write> {
        None
    }
}

/// The driver of a workload.
pub struct Driver<'a>(Box<dyn Drive + 'a>);

impl<'a> Driver<'a> {
    /// A driver for one moment. `status` knows the ReplicaSets or revisions once the first write
    /// was decided; before it, the present one is the stable one.
    pub fn new(
        target: &'a PlanTarget,
        now: &'a Workload,
        originals: &'a Originals,
        status: &'a TargetStatus,
        stage: &WorkloadsPlan,
        clock: Timestamp,
    ) -> Self {
        let driver: Box<dyn Drive + 'a> = match target.kind {
            WorkloadKind::StatefulSet => {
                Box::new(stateful_set::Driver::new(target, now, originals, status, stage, clock))
            }
            WorkloadKind::DaemonSet => {
                Box::new(daemon_set::Driver::new(target, now, originals, status, stage, clock))
            }
            _ if stage.separate.is_some() => {
                Box::new(separate::Driver::new(target, now, originals, status, stage, clock))
            }
            // A plan has no others.
            _ => Box::new(deployment::Driver::new(target, now, originals, status, stage, clock)),
        };
        Self(driver)
    }
}

impl<'a> Deref for Driver<'a> {
    type Target = dyn Drive + 'a;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}
