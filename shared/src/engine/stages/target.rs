//! One target of a `workloads` stage: a round of its own, and the book-keeping around it.

use super::workloads::Round;
use crate::api::status::{Originals, TargetPhase, TargetStatus};
use crate::api::{HELD_ANNOTATION, Held, IN_FLIGHT_LABEL, WorkloadKind};
use crate::engine::driver::{Drive, Driver, Move, Side, side};
use crate::engine::effect::{Effect, PodDelete, WorkloadPatch, Write, set};
use crate::engine::observed::Workload;
use crate::engine::plan::{PlanTarget, Share, Step, WorkloadsPlan};
use crate::engine::{Walk, law};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;

/// A step's position for a target.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    /// Pods on the new images.
    pub(crate) share: Share,
    /// Index of the step that asks for them, from 0.
    pub(crate) step: usize,
    /// The next step is a pause: trim the surplus and stand still there.
    pub(crate) rest: bool,
    /// A router carries the weight: the canary's pods stand beside all stable ones, at 100, too.
    pub(crate) beside: bool,
}

impl Position {
    /// What is asked of a workload now.
    pub(crate) fn note(self, workload: &Workload, status: &mut TargetStatus) {
        let n = workload.replicas;
        status.requested_weight = self.share.in_percent(n);
        status.requested_replicas = self.share.number(n);
        status.requested_step = i32::try_from(self.step).ok();
    }
}

impl<'a> Walk<'a> {
    /// One round of one target towards a position.
    pub(crate) fn drive_target(
        &mut self,
        stage: usize,
        index: usize,
        plan: &WorkloadsPlan,
        to: Position,
    ) -> Round {
        let Some((target, seen, mut status)) = self.target(stage, index) else {
            return Round::Reached;
        };
        let round = match self.enter(target, seen, &mut status) {
            Ok(workload) => self.drive(target, workload, &mut status, plan, to),
            Err(round) => round,
        };
        self.set_target(stage, index, status);
        round
    }

    /// What may end a target's round before it began: it is done, gone, another, or taken.
    pub(crate) fn enter(
        &self,
        target: &PlanTarget,
        seen: Option<&'a Workload>,
        status: &mut TargetStatus,
    ) -> Result<&'a Workload, Round> {
        if status.phase == TargetPhase::Completed {
            return Err(Round::Reached);
        }
        let Some(workload) = seen else {
            return Err(Round::Broken(format!("{target} does not exist any more")));
        };
        if status.uid.as_ref().is_some_and(|uid| *uid != workload.uid) {
            let what = format!("{target} was deleted and created again meanwhile");
            return Err(Round::Broken(what));
        }
        let ours = workload.label.as_deref() == Some(self.plan.name.as_str());
        if status.originals.is_some() {
            let untouched = !ours && !workload.inflated() && side(target, workload) == Side::Stable;
            if !untouched {
                return Ok(workload);
            }
            // The first write carries our label, so it never landed: what was noted of the
            // workload before it may have changed since.
            status.originals = None;
            status.stable_replica_set = None;
        }
        if let Some(other) = workload.label.as_ref().filter(|l| **l != self.plan.name) {
            status.message = format!("{target}: Upgrade {other} is in flight on it");
            return Err(Round::Waiting);
        }
        match side(target, workload) {
            Side::Canary if workload.label.is_none() => {
                status.phase = TargetPhase::Completed;
                status.message = "it runs the new images already".to_owned();
                status.canary = workload.replicas;
                Err(Round::Reached)
            }
            Side::Other => Err(Round::Broken(crate::engine::plan_error(
                target,
                "its images changed meanwhile",
            ))),
            _ => Ok(workload),
        }
    }

    fn drive(
        &mut self,
        target: &PlanTarget,
        workload: &Workload,
        status: &mut TargetStatus,
        plan: &WorkloadsPlan,
        to: Position,
    ) -> Round {
        let own = || {
            let paused = workload.hold.as_ref().is_some_and(|h| h.paused);
            Originals { paused, ..workload.fields.clone() }
        };
        let originals = status.originals.clone().unwrap_or_else(own);
        let before = status.clone();
        let driver = Driver::new(target, workload, &originals, &before, plan, self.now);
        to.note(workload, status);
        self.note_counts(&*driver, workload, status);
        status.message.clear();
        let next = if to.beside {
            driver.alongside(to.share, to.rest)
        } else {
            driver.toward(to.share, to.rest)
        };
        match next {
            Move::Reached => {
                status.phase = TargetPhase::AtWeight;
                let kept = plan.steps.get(to.step).and_then(|step| kept(step, to.share, status));
                let adrift = (status.drift > 0).then(|| drift(status));
                status.message = kept.into_iter().chain(adrift).collect::<Vec<_>>().join("; ");
                Round::Reached
            }
            Move::Wait(what) => {
                self.waits(workload, status, format!("{target}: {what}"));
                self.alarms.extend(driver.next_available());
                Round::Waiting
            }
            Move::Delete(pods, why) => {
                self.waits(workload, status, format!("{target}: {why}"));
                self.delete(pods);
                Round::Waiting
            }
            Move::Write(write) => {
                status.originals = Some(originals.clone());
                status.uid = Some(workload.uid.clone());
                status.stable_replica_set = driver.stable_set().map(str::to_owned);
                self.wrote(&before, status, format!("{target}: {}", write.why));
                self.patch(target, workload, write);
                Round::Waiting
            }
            Move::Broken(why) => Round::Broken(why),
        }
    }

    /// Books a round in which something of the target was written.
    pub(crate) fn wrote(&self, before: &TargetStatus, status: &mut TargetStatus, message: String) {
        // The same write again was refused before: that is no progress.
        if before.phase != TargetPhase::Progressing || before.message != message {
            status.last_progress_time = Some(MicroTime(self.now));
        }
        status.phase = TargetPhase::Progressing;
        status.message = message;
    }

    /// Books a round in which the target moves by itself, or waits for something outside.
    fn waits(&self, workload: &Workload, status: &mut TargetStatus, message: String) {
        let resting = status.phase == TargetPhase::AtWeight;
        if workload.replicas == 0 {
            // Somebody scaled it to nothing: nobody can expect progress.
            status.last_progress_time = None;
        } else if resting || (status.originals.is_some() && status.last_progress_time.is_none()) {
            status.last_progress_time = Some(MicroTime(self.now));
        }
        if resting {
            status.phase = TargetPhase::Progressing;
        }
        status.message = message;
    }

    /// Pods go, so that their controller makes others.
    pub(crate) fn delete(&mut self, pods: Vec<PodDelete>) {
        self.effects.extend(pods.into_iter().map(Effect::DeletePod));
    }

    /// The fields back, then our marks off. Whether the target is finished, or why it cannot be.
    pub(crate) fn finish_target(
        &mut self,
        stage: usize,
        index: usize,
        plan: &WorkloadsPlan,
    ) -> Result<bool, String> {
        let Some((target, seen, mut status)) = self.target(stage, index) else {
            return Ok(true);
        };
        if status.phase == TargetPhase::Completed {
            return Ok(true);
        }
        let workload = seen.filter(|w| status.uid.as_ref() == Some(&w.uid));
        let (Some(workload), Some(originals)) = (workload, status.originals.clone()) else {
            return Err(format!("{target} was deleted meanwhile"));
        };
        let before = status.clone();
        let driver = Driver::new(target, workload, &originals, &before, plan, self.now);
        self.note_counts(&*driver, workload, &mut status);
        status.phase = TargetPhase::Restoring;
        status.message.clear();
        let restore = if plan.canary || originals.paused || target.kind != WorkloadKind::Deployment
        {
            driver.restore()
        } else {
            Move::Reached
        };
        match restore {
            Move::Write(write) => self.patch(target, workload, write),
            _ if workload.label.is_some() => {
                self.release(target, workload);
            }
            _ => status.phase = TargetPhase::Completed,
        }
        let done = status.phase == TargetPhase::Completed;
        self.set_target(stage, index, status);
        Ok(done)
    }

    /// A target, what runs of it, and its status.
    pub(crate) fn target(
        &self,
        stage: usize,
        index: usize,
    ) -> Option<(&'a PlanTarget, Option<&'a Workload>, TargetStatus)> {
        let plan = self.plan;
        let observed = self.observed;
        let target = plan.stages.get(stage)?.targets().get(index)?;
        let seen =
            observed.workloads.get(stage).and_then(|s| s.get(index)).and_then(Option::as_ref);
        let status = self.status.stages.get(stage)?.targets.get(index)?.clone();
        Some((target, seen, status))
    }

    /// Writes a target's status back.
    pub(crate) fn set_target(&mut self, stage: usize, index: usize, status: TargetStatus) {
        let slot = self.status.stages.get_mut(stage).and_then(|s| s.targets.get_mut(index));
        if let Some(slot) = slot {
            *slot = status;
        }
    }

    /// Pods as they are now; closer to the goal counts as progress.
    pub(crate) fn note_counts(
        &self,
        driver: &dyn Drive,
        workload: &Workload,
        status: &mut TargetStatus,
    ) {
        let counts = driver.counts();
        let moved = (counts.canary_ready, counts.canary, counts.stable)
            != (status.canary_ready, status.canary, status.stable);
        if moved && status.last_progress_time.is_some() {
            status.last_progress_time = Some(MicroTime(self.now));
        }
        status.replicas = workload.replicas;
        status.stable = counts.stable;
        status.canary = counts.canary;
        status.canary_ready = counts.canary_ready;
        status.effective_weight = law::effective_weight(counts.canary, counts.stable);
        let forward = matches!(status.phase, TargetPhase::Progressing | TargetPhase::AtWeight);
        status.drift = if forward { driver.drift(requested(status)) } else { 0 };
        status.canary_replica_set = driver.canary_set().map(|s| s.name.clone());
    }

    /// A write to a workload's spec; the in-flight label goes with it wherever it is missing.
    pub(crate) fn patch(&mut self, target: &PlanTarget, workload: &Workload, write: Write) {
        self.patch_and_stamp(target, workload, write, None);
    }

    /// The same, and with a stamp it is held from then on; without one it is not, whatever it
    /// carried before.
    pub(crate) fn patch_and_stamp(
        &mut self,
        target: &PlanTarget,
        workload: &Workload,
        write: Write,
        held: Option<&Held>,
    ) {
        let version = &workload.resource_version;
        let mut operations =
            vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
        if workload.label.as_deref() != Some(self.plan.name.as_str()) {
            operations.push(if workload.has_labels {
                let key = IN_FLIGHT_LABEL.replace('/', "~1");
                set(&format!("/metadata/labels/{key}"), &json!(self.plan.name))
            } else {
                set("/metadata/labels", &json!({ IN_FLIGHT_LABEL: self.plan.name }))
            });
        }
        let stamp = format!("/metadata/annotations/{}", HELD_ANNOTATION.replace('/', "~1"));
        match held {
            // The Deployment controller writes annotations of its own: the map is there.
            Some(held) => operations.push(set(&stamp, &json!(held.text()))),
            None if workload.stamped => operations.push(json!({"op": "remove", "path": stamp})),
            None => {}
        }
        operations.extend(write.operations());
        let note = format!("{target}: {}", write.why);
        self.effects.push(Effect::Patch(WorkloadPatch {
            kind: target.kind,
            name: target.name.clone(),
            resource_version: version.clone(),
            operations,
            template: write.template,
            why: write.why,
        }));
        // After it: what was not written is not told.
        self.event(false, "Patched", note);
    }

    /// The last write to a workload, once the ledger knows what it runs.
    pub(crate) fn release(&mut self, target: &PlanTarget, workload: &Workload) {
        let (kind, name, uid) = (target.kind, target.name.clone(), workload.uid.clone());
        self.effects.push(Effect::Record { kind, name: name.clone() });
        self.effects.push(Effect::Release { kind, name, uid, held: false });
    }
}

impl TargetStatus {
    /// A target that nothing was done to yet.
    pub fn new(kind: WorkloadKind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            uid: None,
            phase: TargetPhase::Pending,
            replicas: 0,
            stable: 0,
            canary: 0,
            canary_ready: 0,
            drift: 0,
            requested_weight: 0,
            requested_replicas: None,
            requested_step: None,
            effective_weight: 0,
            stable_replica_set: None,
            canary_replica_set: None,
            originals: None,
            blue_green: None,
            last_progress_time: None,
            message: String::new(),
        }
    }
}

/// What a target was last asked for.
fn requested(status: &TargetStatus) -> Share {
    match status.requested_replicas {
        Some(pods) => Share { weight: 0, pods },
        None => Share { weight: status.requested_weight, pods: 0 },
    }
}

/// A step that asks for fewer pods than an earlier one changes nothing, in words.
fn kept(step: &Step, share: Share, status: &TargetStatus) -> Option<String> {
    let (n, has) = (status.replicas, share.count(status.replicas));
    (step.share().count(n) < has).then(|| {
        format!(
            "{}/{}: {step} of {n} would be fewer new pods than the {has} that an earlier step asked \
             for: nothing changes",
            status.kind.resource(),
            status.name
        )
    })
}

/// What came up new by itself, in words.
pub(crate) fn drift(status: &TargetStatus) -> String {
    format!(
        "{}/{}: pods beyond the weight that run the new images: {} (lost pods and new ones come up \
         new)",
        status.kind.resource(),
        status.name,
        status.drift
    )
}
