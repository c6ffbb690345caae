//! Upgrades that mode `Hold` opened: what ends them before they begin, and how their Deployment is
//! held again when they are taken back.

use super::Walk;
use super::driver::{Driver, Side, side};
use super::effect::Effect;
use super::observed::Workload;
use super::plan::PlanTarget;
use crate::api::Held;
use crate::api::status::{Phase, TargetPhase, TargetStatus};

impl Walk<'_> {
    /// How an Upgrade of a held Deployment ends before it began, and why: its change was taken
    /// back, or made another.
    pub(crate) fn no_longer_held(&self) -> Option<(Phase, String)> {
        let (target, workload) = self.only_target()?;
        let ours = workload.label.as_deref() == Some(self.plan.name.as_str());
        if !self.plan.held {
            let why = format!(
                "{target} is held, and this Upgrade has the name of the one that carries it out; \
                 delete it, and that one is opened"
            );
            return (ours && workload.hold.is_some()).then_some((Phase::Failed, why));
        }
        let why = match &workload.label {
            Some(_) if ours => return None,
            Some(other) => format!("superseded: {target} was changed again, see Upgrade {other}"),
            None if workload.replicas == 0 => format!(
                "{target} was scaled to 0 while it was held, and has its old template back; make \
                 the change again when it has replicas"
            ),
            None if side(target, workload) == Side::Stable => {
                format!("the change of {target} was taken back")
            }
            None => format!("{target} is not held any more"),
        };
        Some((Phase::Aborted, why))
    }

    /// Before the first write landed a held Deployment still says so. What was noted for that
    /// write counts no more, and what ends a waiting Upgrade ends this one.
    pub(crate) fn held_meanwhile(&mut self) -> Option<(Phase, String)> {
        let began =
            self.status.stages.iter().flat_map(|s| &s.targets).any(|t| t.originals.is_some());
        let still = self.only_target().is_some_and(|(_, w)| w.hold.is_some());
        if !self.plan.held || (began && !still) {
            return None;
        }
        for target in self.status.stages.iter_mut().flat_map(|s| &mut s.targets) {
            target.originals = None;
            target.stable_replica_set = None;
        }
        self.no_longer_held()
    }

    fn only_target(&self) -> Option<(&PlanTarget, &Workload)> {
        let target = self.plan.stages.first()?.targets().first()?;
        Some((target, self.observed.workloads.first()?.first()?.as_ref()?))
    }

    /// The way back of a held Deployment ends where Hold had it, and without our name on any of
    /// its fields: Git's next apply is to meet no other owner. None where it is not held, else
    /// whether that is so.
    pub(crate) fn held_again(
        &mut self,
        workload: &Workload,
        status: &mut TargetStatus,
    ) -> Option<bool> {
        let ours = workload.label.as_deref() == Some(self.plan.name.as_str());
        if !self.plan.held || !ours || workload.hold.is_none() {
            return None;
        }
        if workload.owned {
            let (kind, name, uid) = (status.kind, status.name.clone(), workload.uid.clone());
            self.effects.push(Effect::Release { kind, name, uid, held: true });
            return Some(false);
        }
        status.phase = TargetPhase::RolledBack;
        status.message = "held: the new template waits, what ran before serves".to_owned();
        Some(true)
    }

    /// The last write of the way back: the new template again, paused. Not at 0 replicas, where
    /// nobody can tell which template serves, and not without anybody's name to stamp.
    pub(crate) fn hold_again(
        &mut self,
        driver: &Driver<'_>,
        target: &PlanTarget,
        workload: &Workload,
        paused: bool,
    ) -> bool {
        let ours = workload.label.as_deref() == Some(self.plan.name.as_str());
        let Some(requester) = self.plan.requester.clone().filter(|_| self.plan.held && ours) else {
            return false;
        };
        if workload.replicas == 0 {
            return false;
        }
        let Some(write) = driver.hold_again() else { return false };
        self.patch_and_stamp(target, workload, write, Some(&Held { requester, paused }));
        true
    }
}
