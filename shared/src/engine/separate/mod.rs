//! A canary that is a Deployment of its own, beside a workload that is not touched before the last
//! weight: for weights that go down, other labels in the canary, and replicas that may reach 0.
//!
//! 1. Our label claims the workload; nothing else of it is written.
//! 2. `NAME-canary` is made of its template: the new images, labels that its selector does not
//!    match, and so many pods as the weight comes to of its replicas, but one at least. Each step,
//!    and each change of scale, is one write of `replicas`.
//! 3. At 100 the workload gets the images and rolls out natively; then the canary goes.
//!
//! Capacity never falls: whatever happens to the canary, the workload keeps all its pods. What
//! reaches the canary is decided by its labels alone.

mod canary;
mod driver;
#[cfg(test)]
mod tests;

pub use driver::Driver;

use super::driver::{Drive, Move, Side, side};
use super::effect::{Effect, How, ObjectWrite, Write, set};
use super::health::earliest;
use super::objects::{DEPLOYMENTS, Look, PODS, REPLICA_SETS, Sight};
use super::observed::{Observed, Workload};
use super::plan::{PlanStage, PlanTarget, Share, WorkloadsPlan};
use super::stages::{Position, Round};
use super::{Walk, plan_error};
use crate::api::WorkloadKind;
use crate::api::separate::{CANARY_LABEL, MAX_CANARY_OF, Separate, canary_of};
use crate::api::status::{Originals, TargetPhase, TargetStatus};
use crate::api::upgrade::WorkloadsStage;
use canary::Canary;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::DynamicObject;
use serde_json::json;
use std::borrow::Cow;

/// The settings of a stage, where its canaries are Deployments of their own; or why they cannot be.
pub(super) fn read(stage: &WorkloadsStage, held: bool) -> Result<Option<Separate>, String> {
    let Some((canary, settings)) =
        stage.strategy.canary.as_ref().and_then(|c| Some((c, c.separate.as_ref()?)))
    else {
        return Ok(None);
    };
    let routed = canary.traffic_routing.is_some()
        || canary.stable_service.is_some()
        || canary.canary_service.is_some();
    if routed {
        return Err(
            "separate goes without trafficRouting, stableService and canaryService; leave \
                    `separate` out, and the router carries the weights of a canary in place"
                .to_owned(),
        );
    }
    if held {
        return Err("separate: mode Hold opens no Upgrade with a canary of its own; leave it out \
                    of hold.strategy"
            .to_owned());
    }
    for target in &stage.targets {
        if target.kind != WorkloadKind::Deployment {
            return Err(format!(
                "separate is for Deployments, and {} is a {}; leave it out",
                target.name, target.kind
            ));
        }
        if target.name.len() > MAX_CANARY_OF {
            return Err(format!(
                "separate: the name {} has more than {MAX_CANARY_OF} characters, and the canary's \
                 would be no label; leave `separate` out",
                target.name
            ));
        }
    }
    Ok(Some(settings.clone()))
}

/// What runs, with the canaries that are Deployments of their own beside their workloads.
pub(super) fn with_canaries<'o>(
    plan: &super::plan::Plan,
    observed: &'o Observed,
) -> Cow<'o, Observed> {
    let mut all = Cow::Borrowed(observed);
    for (index, stage) in plan.stages.iter().enumerate() {
        if stage.workloads().is_none_or(|w| w.separate.is_none()) {
            continue;
        }
        for (at, target) in stage.targets().iter().enumerate() {
            let Some(canary) = canary_workload(plan, target, observed) else { continue };
            let row = all.to_mut().workloads.get_mut(index).and_then(|row| row.get_mut(at));
            if let Some(Some(workload)) = row {
                workload.separate = Some(Box::new(canary));
            }
        }
    }
    all
}

/// The canary's Deployment with its ReplicaSets and pods, where all of them have been listed.
fn canary_workload(
    plan: &super::plan::Plan,
    target: &PlanTarget,
    observed: &Observed,
) -> Option<Workload> {
    let [deployment, sets, pods] = looks(target).map(|look| match observed.objects.get(&look) {
        Some(Sight::Seen(objects)) => Some(objects),
        _ => None,
    });
    let deployment = deployment?.first().filter(|o| canary::is_ours(o, plan))?;
    let deployment: Deployment = DynamicObject::clone(deployment).try_parse().ok()?;
    let sets = sets?.iter().filter_map(|o| DynamicObject::clone(o).try_parse().ok());
    let sets: Vec<ReplicaSet> = sets.collect();
    let pods = pods?.iter().filter_map(|o| DynamicObject::clone(o).try_parse().ok());
    let pods: Vec<Pod> = pods.collect();
    let (sets, pods): (Vec<_>, Vec<_>) = (sets.iter().collect(), pods.iter().collect());
    Some(Workload::new(&deployment, &sets, &pods))
}

/// What is looked at of a canary: its Deployment, its ReplicaSets, its pods.
fn looks(target: &PlanTarget) -> [Look; 3] {
    let mine = format!("{CANARY_LABEL}={}", target.name);
    [
        Look::name(DEPLOYMENTS, canary_of(&target.name)),
        Look::labels(REPLICA_SETS, mine.clone()),
        Look::labels(PODS, mine),
    ]
}

/// What a round of a target came to.
enum Next {
    Reached,
    /// This was written.
    Wrote(String),
    /// It moves, or something outside has to.
    Wait(String),
    Broken(String),
}

/// What a round is about.
struct Flight<'a, 'd> {
    target: &'a PlanTarget,
    workload: &'a Workload,
    settings: &'a Separate,
    driver: &'d Driver<'d>,
    originals: &'d Originals,
}

impl<'a> Walk<'a> {
    /// Canaries of their own are looked at for as long as the Upgrade is in flight.
    pub(super) fn look_at_canaries(&mut self) {
        if !self.status.phase.is_in_flight() {
            return;
        }
        let (plan, begun) = (self.plan, self.status.stages.len());
        let stages = plan.stages.iter().take(begun);
        let separate = |s: &&PlanStage| s.workloads().is_some_and(|w| w.separate.is_some());
        for target in stages.filter(separate).flat_map(PlanStage::targets) {
            for look in looks(target) {
                self.see(&look);
            }
        }
    }

    /// Brings a target's canary to a share; at 100 the target itself.
    pub(super) fn separate_target(
        &mut self,
        stage: usize,
        index: usize,
        plan: &'a WorkloadsPlan,
        settings: &'a Separate,
        to: Position,
    ) -> Round {
        let Some((target, seen, mut status)) = self.target(stage, index) else {
            return Round::Reached;
        };
        let round = match self.enter(target, seen, &mut status) {
            Err(round) => round,
            Ok(workload) => {
                let before = status.clone();
                let originals = status.originals.clone().unwrap_or_else(|| workload.fields.clone());
                let driver = &Driver::new(target, workload, &originals, &before, plan, self.now);
                to.note(workload, &mut status);
                status.message.clear();
                self.note_counts(driver, workload, &mut status);
                let flight = Flight { target, workload, settings, driver, originals: &originals };
                let next = if to.share.is_full() {
                    self.promote_main(&flight, &mut status)
                } else {
                    self.beside_main(&flight, &mut status, to.share)
                };
                self.note_separate(&flight, &before, &mut status, next)
            }
        };
        self.set_target(stage, index, status);
        round
    }

    /// The book-keeping of a round.
    fn note_separate(
        &mut self,
        f: &Flight<'_, '_>,
        before: &TargetStatus,
        status: &mut TargetStatus,
        next: Next,
    ) -> Round {
        let resting = before.phase == TargetPhase::AtWeight;
        match next {
            Next::Reached => {
                status.phase = TargetPhase::AtWeight;
                return Round::Reached;
            }
            Next::Broken(why) => return Round::Broken(why),
            Next::Wrote(what) => {
                self.wrote(before, status, format!("{}: {what}", f.target));
            }
            Next::Wait(what) => {
                let under_way = status.originals.is_some();
                if resting || (under_way && status.last_progress_time.is_none()) {
                    status.last_progress_time = Some(MicroTime(self.now));
                }
                if resting {
                    status.phase = TargetPhase::Progressing;
                }
                status.message = format!("{}: {what}", f.target);
                self.alarms.extend(f.driver.next_available());
            }
        }
        Round::Waiting
    }

    /// The last weight: the workload's own rolling update, and then the canary goes.
    fn promote_main(&mut self, f: &Flight<'a, '_>, status: &mut TargetStatus) -> Next {
        match f.driver.toward(Share::ALL, false) {
            Move::Write(write) => self.write_main(f, status, write),
            // A Deployment's pods are its controller's to delete.
            Move::Wait(what) | Move::Delete(_, what) => Next::Wait(what),
            Move::Broken(why) => Next::Broken(why),
            Move::Reached => self.take_away(f.target).map_or(Next::Reached, Next::Wait),
        }
    }

    fn write_main(&mut self, f: &Flight<'a, '_>, status: &mut TargetStatus, write: Write) -> Next {
        status.originals = Some(f.originals.clone());
        status.uid = Some(f.workload.uid.clone());
        status.stable_replica_set = f.driver.stable_set().map(str::to_owned);
        let why = write.why.clone();
        self.patch(f.target, f.workload, write);
        Next::Wrote(why)
    }

    /// Towards so many canary pods beside all of the workload's.
    fn beside_main(&mut self, f: &Flight<'a, '_>, status: &mut TargetStatus, share: Share) -> Next {
        let name = canary_of(&f.target.name);
        let seen = self.canary(f.target);
        if let Canary::Unknown(what) = seen {
            // Whoever was away does not blame the pods for it.
            status.last_progress_time = status.originals.as_ref().map(|_| MicroTime(self.now));
            return Next::Wait(what);
        }
        if f.workload.label.as_deref() != Some(self.plan.name.as_str()) {
            return self.claim_main(f, status, &seen);
        }
        if let Some(why) = f.driver.overtaken() {
            return Next::Broken(why);
        }
        // One at least, also of none: it is there to be looked at.
        let wanted = share.count(f.workload.replicas).max(1);
        match seen {
            Canary::Taken(why) => Next::Broken(why),
            Canary::Unknown(what) | Canary::Leaving(what) => Next::Wait(what),
            Canary::Missing => self.make_canary(f, wanted),
            Canary::Here(object) => match &f.workload.separate {
                None => Next::Wait(format!("looks at the pods of Deployment {name}")),
                Some(canary) if side(f.target, canary) != Side::Canary => Next::Broken(format!(
                    "the images of deployments/{name} were changed by somebody else"
                )),
                Some(canary) => self.size_canary(f, object, canary, wanted),
            },
        }
    }

    /// Before anything else our label goes on the workload: from then on no other template comes
    /// to it, and the canary is made of the one that it has.
    fn claim_main(
        &mut self,
        f: &Flight<'a, '_>,
        status: &mut TargetStatus,
        seen: &Canary<'a>,
    ) -> Next {
        let broken = |why: &str| Next::Broken(plan_error(f.target, why));
        match seen {
            Canary::Taken(why) => return broken(why),
            Canary::Unknown(what) | Canary::Leaving(what) => return Next::Wait(what.clone()),
            Canary::Missing | Canary::Here(_) => {}
        }
        match self.manifest(f, 1) {
            Ok(_) => {}
            Err(Next::Broken(why)) => return broken(&why),
            Err(other) => return other,
        }
        if let Some(why) = f.driver.not_startable() {
            return Next::Wait(why);
        }
        self.write_main(f, status, Write { why: "begins".to_owned(), ..Write::default() })
    }

    fn make_canary(&mut self, f: &Flight<'a, '_>, wanted: i32) -> Next {
        let object = match self.manifest(f, wanted) {
            Ok(object) => object,
            Err(next) => return next,
        };
        let name = canary_of(&f.target.name);
        let why = format!("a canary of {wanted} pods beside {}", f.workload.replicas);
        self.write_canary(ObjectWrite {
            resource: DEPLOYMENTS,
            name,
            how: How::Create(object),
            why,
        })
    }

    /// So many pods, all of them available.
    fn size_canary(
        &mut self,
        f: &Flight<'a, '_>,
        object: &DynamicObject,
        canary: &Workload,
        wanted: i32,
    ) -> Next {
        if canary.replicas != wanted || canary.paused {
            let operations = vec![
                json!({"op": "test", "path": "/metadata/resourceVersion",
                    "value": object.metadata.resource_version}),
                set("/spec/replicas", &json!(wanted)),
                set("/spec/paused", &json!(false)),
            ];
            let why = format!("from {} to {wanted} canary pods", canary.replicas);
            let name = canary_of(&f.target.name);
            let how = How::Patch(operations);
            return self.write_canary(ObjectWrite { resource: DEPLOYMENTS, name, how, why });
        }
        let ready = f.driver.canary_counts().1;
        if canary.settled() && ready >= wanted {
            return Next::Reached;
        }
        let failure = canary.replica_failure.as_ref().map(|m| format!("; {m}")).unwrap_or_default();
        Next::Wait(format!("{ready} of {wanted} canary pods available{failure}"))
    }

    fn write_canary(&mut self, write: ObjectWrite) -> Next {
        let note = format!("deployments/{}: {}", write.name, write.why);
        self.effects.push(Effect::Write(write));
        self.event(false, "Patched", note.clone());
        Next::Wrote(note)
    }

    /// The canary of a target goes, where the stage has such; none where it is gone.
    pub(super) fn canary_left(&mut self, stage: usize, target: &PlanTarget) -> Option<String> {
        let plan = self.plan.stages.get(stage).and_then(PlanStage::workloads)?;
        plan.separate.as_ref()?;
        self.take_away(target)
    }

    fn take_away(&mut self, target: &PlanTarget) -> Option<String> {
        let object = match self.canary(target) {
            // A namesake is somebody else's.
            Canary::Missing | Canary::Taken(_) => return None,
            Canary::Unknown(what) | Canary::Leaving(what) => return Some(what),
            Canary::Here(object) => object,
        };
        let name = canary_of(&target.name);
        let how = How::Delete(object.metadata.uid.clone().unwrap_or_default());
        let why = "the canary is over".to_owned();
        match self.write_canary(ObjectWrite { resource: DEPLOYMENTS, name, how, why }) {
            Next::Wrote(note) | Next::Wait(note) | Next::Broken(note) => Some(note),
            Next::Reached => None,
        }
    }
}
