//! The stage kind `workloads`: its targets move together, a step at a time.

use super::StageMove;
use crate::api::status::{Phase, StageStatus, TargetPhase, TargetStatus};
use crate::api::{IN_FLIGHT_LABEL, WorkloadKind};
use crate::engine::deployment::{Driver, Move, Side, side};
use crate::engine::effect::{Effect, WorkloadPatch, Write, set};
use crate::engine::health::{Health, judge};
use crate::engine::observed::Workload;
use crate::engine::plan::{PlanStage, PlanTarget, Step};
use crate::engine::{Walk, law, seconds_between};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;

/// What a round over all targets of a stage came to.
enum Round {
    Reached,
    Waiting,
    Broken(String),
}

impl<'a> Walk<'a> {
    /// One round of a stage.
    pub(crate) fn walk_workloads(&mut self, index: usize, stage: &'a PlanStage) -> StageMove {
        self.begin_stage(index, stage);
        if let Some(why) = self.failure(index, stage) {
            return StageMove::Failed(why);
        }
        loop {
            let at = usize::try_from(self.status.current_step_index).unwrap_or(0);
            let next = match stage.steps.get(at) {
                None => return self.finish_stage(index, stage),
                Some(Step::Weight(weight)) => {
                    let rest = matches!(stage.steps.get(at + 1), Some(Step::Pause(_)));
                    self.drive(index, stage, *weight, rest)
                }
                Some(Step::Pause(length)) => {
                    let weight = weight_before(&stage.steps, at);
                    match if weight > 0 { self.drive(index, stage, weight, true) } else { Round::Reached } {
                        Round::Reached if self.released(index, at, *length) => Round::Reached,
                        Round::Reached => Round::Waiting,
                        other => other,
                    }
                }
            };
            match next {
                Round::Waiting => return StageMove::Waiting,
                Round::Broken(why) => return StageMove::Failed(why),
                Round::Reached => self.next_step(stage, at),
            }
        }
    }

    fn next_step(&mut self, stage: &PlanStage, at: usize) {
        if let Some(Step::Weight(weight)) = stage.steps.get(at) {
            self.event(false, "WeightReached", format!("stage {}: weight {weight}", stage.name));
        }
        self.status.current_step_index += 1;
    }

    /// One entry for each target, made when the stage begins.
    fn begin_stage(&mut self, index: usize, stage: &PlanStage) {
        while self.status.stages.len() <= index {
            let fresh = |t: &PlanTarget| TargetStatus::new(t.kind, &t.name);
            let targets = stage.targets.iter().map(fresh).collect();
            self.status.stages.push(StageStatus { name: stage.name.clone(), targets });
        }
    }

    /// Brings every target to a weight.
    fn drive(&mut self, stage: usize, plan: &'a PlanStage, weight: i32, rest: bool) -> Round {
        let mut round = Round::Reached;
        for index in 0..plan.targets.len() {
            match self.drive_target(stage, index, plan, weight, rest) {
                Round::Reached => {}
                Round::Waiting => round = Round::Waiting,
                Round::Broken(why) => return Round::Broken(why),
            }
        }
        round
    }

    fn drive_target(&mut self, stage: usize, index: usize, plan: &PlanStage, weight: i32, rest: bool) -> Round {
        let Some((target, seen, mut status)) = self.target(stage, index) else { return Round::Reached };
        if status.phase == TargetPhase::Completed {
            return Round::Reached;
        }
        let Some(workload) = seen else {
            return Round::Broken(format!("{target} does not exist any more"));
        };
        if status.uid.as_ref().is_some_and(|uid| *uid != workload.uid) {
            return Round::Broken(format!("{target} was deleted and created again meanwhile"));
        }
        if status.originals.is_none() {
            if let Some(round) = self.before_first_write(target, workload, &mut status) {
                self.set_target(stage, index, status);
                return round;
            }
        }
        let originals = status.originals.clone().unwrap_or_else(|| workload.fields.clone());
        let stable = status.stable_replica_set.clone().or_else(|| latest_set(workload));
        let driver =
            Driver::new(target, workload, &originals, stable.as_deref(), plan.canary, self.now);
        status.requested_weight = weight;
        self.note_counts(&driver, workload, &mut status);
        status.message.clear();
        let round = match driver.toward(weight, rest) {
            Move::Reached => {
                status.phase = TargetPhase::AtWeight;
                Round::Reached
            }
            Move::Wait(what) => {
                if status.phase == TargetPhase::AtWeight {
                    status.phase = TargetPhase::Progressing;
                    status.last_progress_time = Some(MicroTime(self.now));
                }
                status.message = format!("{target}: {what}");
                self.alarms.extend(driver.next_available());
                Round::Waiting
            }
            Move::Write(write) => {
                status.originals = Some(originals.clone());
                status.uid = Some(workload.uid.clone());
                status.stable_replica_set.clone_from(&stable);
                status.phase = TargetPhase::Progressing;
                status.last_progress_time = Some(MicroTime(self.now));
                status.message = format!("{target}: {}", write.why);
                self.patch(target, workload, write);
                Round::Waiting
            }
            Move::Broken(why) => Round::Broken(why),
        };
        self.set_target(stage, index, status);
        round
    }

    /// What may end a target's way before it began: it is there already, or somebody else is on it.
    fn before_first_write(&self, target: &PlanTarget, workload: &Workload, status: &mut TargetStatus) -> Option<Round> {
        if let Some(other) = workload.label.as_ref().filter(|l| **l != self.plan.name) {
            status.message = format!("{target}: Upgrade {other} is in flight on it");
            return Some(Round::Waiting);
        }
        match side(target, workload) {
            Side::Canary if workload.label.is_none() => {
                status.phase = TargetPhase::Completed;
                status.message = "it runs the new images already".to_owned();
                status.canary = workload.replicas;
                Some(Round::Reached)
            }
            Side::Other => Some(Round::Broken(crate::engine::plan_error(target, "its images changed meanwhile"))),
            _ => None,
        }
    }

    /// Whether a pause step is over.
    fn released(&mut self, stage: usize, at: usize, length: Option<jiff::SignedDuration>) -> bool {
        let start = self.status.pause_start_time.get_or_insert(MicroTime(self.now)).0;
        let end = length.and_then(|l| start.saturating_add(l).ok());
        let index = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let promoted = self.plan.promote.as_ref().is_some_and(|p| {
            p.attempt == self.status.attempt && p.stage == index(stage) && (p.full || p.step == index(at))
        });
        if promoted || end.is_some_and(|e| e <= self.now) {
            self.status.paused_seconds += seconds_between(start, self.now);
            self.status.pause_start_time = None;
            self.touch_progress();
            self.event(false, "PauseEnded", if promoted { "promoted" } else { "time is up" }.to_owned());
            return true;
        }
        self.status.phase = Phase::Paused;
        self.alarms.extend(end);
        self.status.message = match end {
            Some(end) => format!("rests until {end:.0}; `kubectl upgrade promote {}` goes on now", self.plan.name),
            None => format!("rests until somebody promotes it: `kubectl upgrade promote {}`", self.plan.name),
        };
        false
    }

    /// The fields back, then our marks off.
    fn finish_stage(&mut self, stage: usize, plan: &PlanStage) -> StageMove {
        let mut done = true;
        for index in 0..plan.targets.len() {
            match self.finish_target(stage, index, plan.canary) {
                Ok(finished) => done &= finished,
                Err(why) => return StageMove::Failed(why),
            }
        }
        if done { StageMove::Done } else { StageMove::Waiting }
    }

    fn finish_target(&mut self, stage: usize, index: usize, canary: bool) -> Result<bool, String> {
        let Some((target, seen, mut status)) = self.target(stage, index) else { return Ok(true) };
        if status.phase == TargetPhase::Completed {
            return Ok(true);
        }
        let workload = seen.filter(|w| status.uid.as_ref() == Some(&w.uid));
        let (Some(workload), Some(originals)) = (workload, status.originals.clone()) else {
            return Err(format!("{target} was deleted meanwhile"));
        };
        let stable = status.stable_replica_set.clone();
        let driver = Driver::new(target, workload, &originals, stable.as_deref(), canary, self.now);
        self.note_counts(&driver, workload, &mut status);
        status.phase = TargetPhase::Restoring;
        status.message.clear();
        let restore = if canary { driver.restore() } else { Move::Reached };
        match restore {
            Move::Write(write) => self.patch(target, workload, write),
            _ if workload.label.is_some() => {
                self.effects.push(Effect::Record { kind: target.kind, name: target.name.clone() });
                self.release(target, workload);
            }
            _ => status.phase = TargetPhase::Completed,
        }
        let done = status.phase == TargetPhase::Completed;
        self.set_target(stage, index, status);
        Ok(done)
    }

    /// The first target of the stage that has failed, in words.
    fn failure(&mut self, stage: usize, plan: &PlanStage) -> Option<String> {
        for index in 0..plan.targets.len() {
            let Some((target, Some(workload), status)) = self.target(stage, index) else { continue };
            let Some(originals) = status.originals.clone() else { continue };
            if status.phase == TargetPhase::Completed {
                continue;
            }
            let stable = status.stable_replica_set.as_deref();
            let driver = Driver::new(target, workload, &originals, stable, plan.canary, self.now);
            match judge(&driver, workload, &status, self.now) {
                Health::Failed(why) => return Some(why),
                Health::Fine(at) => self.alarms.extend(at),
            }
        }
        None
    }

    /// Every workload of the present stage stands still.
    pub(crate) fn freeze_workloads(&mut self) {
        let stage = usize::try_from(self.status.current_stage_index).unwrap_or(0);
        let Some(plan) = self.plan.stages.get(stage) else { return };
        for index in 0..plan.targets.len() {
            let Some((target, Some(workload), mut status)) = self.target(stage, index) else { continue };
            let Some(originals) = status.originals.clone() else { continue };
            if matches!(status.phase, TargetPhase::Completed | TargetPhase::Restoring) {
                continue;
            }
            let stable = status.stable_replica_set.clone();
            let driver = Driver::new(target, workload, &originals, stable.as_deref(), plan.canary, self.now);
            self.note_counts(&driver, workload, &mut status);
            if let Move::Write(write) = driver.freeze() {
                self.patch(target, workload, write);
            }
            self.set_target(stage, index, status);
        }
    }

    /// A target, what runs of it, and its status.
    pub(crate) fn target(
        &self,
        stage: usize,
        index: usize,
    ) -> Option<(&'a PlanTarget, Option<&'a Workload>, TargetStatus)> {
        let plan = self.plan;
        let observed = self.observed;
        let target = plan.stages.get(stage)?.targets.get(index)?;
        let seen = observed.workloads.get(stage).and_then(|s| s.get(index)).and_then(Option::as_ref);
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
    pub(crate) fn note_counts(&self, driver: &Driver<'_>, workload: &Workload, status: &mut TargetStatus) {
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
        status.canary_replica_set = driver.canary_set().map(|s| s.name.clone());
    }

    /// A write to a workload's spec; the in-flight label goes with it wherever it is missing.
    pub(crate) fn patch(&mut self, target: &PlanTarget, workload: &Workload, write: Write) {
        let mut operations =
            vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": workload.resource_version})];
        if workload.label.as_deref() != Some(self.plan.name.as_str()) {
            operations.push(if workload.has_labels {
                let key = IN_FLIGHT_LABEL.replace('/', "~1");
                set(&format!("/metadata/labels/{key}"), &json!(self.plan.name))
            } else {
                set("/metadata/labels", &json!({ IN_FLIGHT_LABEL: self.plan.name }))
            });
        }
        operations.extend(write.operations());
        self.event(false, "Patched", format!("{target}: {}", write.why));
        self.effects.push(Effect::Patch(WorkloadPatch {
            kind: target.kind,
            name: target.name.clone(),
            resource_version: workload.resource_version.clone(),
            operations,
            why: write.why,
        }));
    }

    pub(crate) fn release(&mut self, target: &PlanTarget, workload: &Workload) {
        let (kind, name, uid) = (target.kind, target.name.clone(), workload.uid.clone());
        self.effects.push(Effect::Release { kind, name, uid });
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
            requested_weight: 0,
            effective_weight: 0,
            stable_replica_set: None,
            canary_replica_set: None,
            originals: None,
            last_progress_time: None,
            message: String::new(),
        }
    }
}

fn weight_before(steps: &[Step], at: usize) -> i32 {
    let before = steps.iter().take(at).rev();
    before.filter_map(|s| if let Step::Weight(w) = s { Some(*w) } else { None }).next().unwrap_or(0)
}

/// The ReplicaSet of the present template: the Deployment controller's latest revision.
fn latest_set(workload: &Workload) -> Option<String> {
    workload.replica_sets.iter().max_by_key(|s| s.revision).map(|s| s.name.clone())
}

