//! The way back: the stage under way first, then the finished ones, last first.

use super::Walk;
use super::driver::{Driver, Move};
use super::effect::Effect;
use super::plan::{Plan, PlanStage, PlanTarget, StageKind, taken_back};
use crate::api::status::{Phase, TargetPhase, TargetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

impl<'a> Walk<'a> {
    /// Decides for the way back.
    pub(crate) fn begin_rollback(&mut self, why: String) {
        self.effects.retain(|e| !e.moves() && !matches!(e, Effect::Release { .. }));
        self.stop_analyses();
        self.status.phase = Phase::RollingBack;
        self.status.pause_start_time = None;
        self.status.held_since = None;
        self.status.waiting_since = None;
        self.status.window_shut_since = None;
        self.status.gates.clear();
        self.status.rollback_reason = Some(why);
        let touched = self.status.stages.iter_mut().flat_map(|s| &mut s.targets);
        for target in touched.filter(|t| t.originals.is_some()) {
            target.phase = TargetPhase::RollingBack;
        }
    }

    /// One round of it.
    pub(crate) fn roll_back(&mut self) {
        let why = self.status.rollback_reason.clone().unwrap_or_default();
        self.status.message = format!("taking it back: {why}");
        for stage in (0..self.status.stages.len()).rev() {
            if !self.roll_back_stage(stage) {
                return;
            }
        }
        let phase = taken_back(self.plan.abort || self.observed.deleting);
        self.status.phase = phase;
        self.status.rolled_back = true;
        self.status.canary_weight = 0;
        self.status.completion_time = Some(Time(self.now));
        let lasting = self.what_stays();
        self.status.message = format!(
            "taken back: {why}{lasting}; `kubectl upgrade retry {}` starts it over",
            self.plan.name
        );
        if self.plan.retry > self.status.attempt && !self.plan.abort && !self.observed.deleting {
            return self.ended();
        }
        self.let_go();
    }

    /// Whether every workload of the stage is back.
    fn roll_back_stage(&mut self, stage: usize) -> bool {
        let all: &'a Plan = self.plan;
        let Some(kind) = all.stages.get(stage).map(|s| &s.kind) else { return true };
        let plan = match kind {
            StageKind::Workloads(plan) => plan,
            StageKind::Job(plan) => return self.roll_back_job(stage, plan),
            StageKind::Checks(_) => return true,
        };
        if !self.traffic_off(stage, plan) {
            return false;
        }
        let mut done = true;
        for index in 0..plan.targets.len() {
            done &= self.roll_back_target(stage, index);
        }
        done && self.traffic_home(stage, plan)
    }

    /// What of ours is still beside a workload, and is put back or taken away now.
    fn left_beside(
        &mut self,
        stage: usize,
        target: &PlanTarget,
        status: &TargetStatus,
    ) -> Option<String> {
        self.services_left(status).or_else(|| self.canary_left(stage, target))
    }

    /// The way back of a workload. What is beside it need not wait for that, and never holds it up.
    fn back_or_beside(&mut self, driver: &Driver<'_>, stage: usize, target: &PlanTarget) -> Move {
        let next = driver.back();
        if matches!(next, Move::Wait(_) | Move::Broken(_)) {
            let _ = self.canary_left(stage, target);
        }
        next
    }

    fn roll_back_target(&mut self, stage: usize, index: usize) -> bool {
        let Some((target, seen, mut status)) = self.target(stage, index) else {
            return true;
        };
        if status.phase == TargetPhase::RolledBack {
            return true;
        }
        let gone = seen.is_none_or(|w| status.uid.as_ref() != Some(&w.uid));
        if (gone || status.originals.is_none())
            && let Some(what) = self.left_beside(stage, target, &status)
        {
            status.message = what;
            self.set_target(stage, index, status);
            return false;
        }
        let Some(originals) = status.originals.clone() else {
            return true;
        };
        let Some(workload) = seen.filter(|_| !gone) else {
            status.phase = TargetPhase::RolledBack;
            status.message = "it was deleted meanwhile: nothing to put back".to_owned();
            self.set_target(stage, index, status);
            return true;
        };
        if let Some(done) = self.held_again(workload, &mut status) {
            self.set_target(stage, index, status);
            return done;
        }
        let Some(plan) = self.plan.stages.get(stage).and_then(PlanStage::workloads) else {
            return true;
        };
        let before = status.clone();
        let driver = Driver::new(target, workload, &originals, &before, plan, self.now);
        status.phase = TargetPhase::RollingBack;
        self.note_counts(&*driver, workload, &mut status);
        status.message.clear();
        if let Some(what) = self.services_before_back(workload, &before) {
            status.message = what;
            self.set_target(stage, index, status);
            return false;
        }
        match self.back_or_beside(&driver, stage, target) {
            Move::Write(write) => self.patch(target, workload, write),
            Move::Wait(what) | Move::Broken(what) => status.message = what,
            Move::Delete(pods, what) => {
                status.message = what;
                self.delete(pods);
            }
            Move::Reached if let Some(what) = self.left_beside(stage, target, &before) => {
                status.message = what;
            }
            Move::Reached if self.hold_again(&driver, target, workload, originals.paused) => {}
            Move::Reached if workload.label.is_some() => self.release(target, workload),
            Move::Reached => status.phase = TargetPhase::RolledBack,
        }
        let done = status.phase == TargetPhase::RolledBack;
        self.set_target(stage, index, status);
        done
    }
}
