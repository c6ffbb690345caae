//! The stage kind `workloads`: its targets move together, a step at a time.

use super::StageMove;
use super::target::Position;
use crate::api::status::{Phase, StageStatus, TargetPhase, TargetStatus};
use crate::engine::checks::Checked;
use crate::engine::driver::{Driver, Move};
use crate::engine::health::{Health, deadline, pods};
use crate::engine::observed::Workload;
use crate::engine::plan::{PlanStage, PlanTarget, Rest, Share, Step, WorkloadsPlan};
use crate::engine::{Walk, seconds_between};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// What a round over all targets of a stage came to.
pub(crate) enum Round {
    Reached,
    Waiting,
    Broken(String),
    /// An analysis has said no.
    Denied(String),
}

impl<'a> Walk<'a> {
    /// One round of a stage.
    pub(crate) fn walk_workloads(&mut self, index: usize, stage: &'a WorkloadsPlan) -> StageMove {
        self.begin_stage(index, stage);
        if let Some(why) =
            self.failed(index, stage, |driver, workload, _, now| pods(driver, workload, now))
        {
            return StageMove::Failed(why);
        }
        if let Some(settings) = &stage.blue_green {
            return self.walk_blue_green(index, stage, settings);
        }
        loop {
            self.jump(index, stage);
            if let Some(ended) = self.walk_background(index, stage) {
                return ended;
            }
            let at = usize::try_from(self.status.current_step_index).unwrap_or(0);
            let next = match stage.steps.get(at) {
                None => {
                    self.end_background(stage);
                    return self.finish_stage(index, stage);
                }
                Some(Step::Weight(_) | Step::Replicas(_)) if self.begun(index, at) => {
                    self.drive_all(index, stage, position(stage, at))
                }
                Some(Step::Weight(_) | Step::Replicas(_)) => self.wait_to_begin(index, stage, at),
                Some(Step::Analysis(asked)) => match self.at_rest(index, stage, at) {
                    Round::Reached => match self.walk_analysis(stage, index, at, asked) {
                        Ok(true) => Round::Reached,
                        Ok(false) => Round::Waiting,
                        Err(why) => return StageMove::AnalysisFailed(why),
                    },
                    other => other,
                },
                // The routes follow the step that it is at.
                Some(Step::Route(_)) => self.at_rest(index, stage, at),
                Some(Step::Pause(rest)) => match self.at_rest(index, stage, at) {
                    Round::Reached if self.released(index, at, *rest) => Round::Reached,
                    Round::Reached => Round::Waiting,
                    other => other,
                },
            };
            match next {
                Round::Waiting => {
                    // Asked only once what runs now has been noted: whoever was away does not
                    // blame the pods for it.
                    let overdue = self.failed(index, stage, deadline);
                    return overdue.map_or(StageMove::Waiting, StageMove::Failed);
                }
                Round::Broken(why) => return StageMove::Failed(why),
                Round::Denied(why) => return StageMove::AnalysisFailed(why),
                Round::Reached => match self.check_step(index, stage, at) {
                    Checked::Passed => self.next_step(index, stage, at),
                    Checked::Waiting => return StageMove::Waiting,
                    Checked::Failed(why) => return StageMove::Failed(why),
                },
            }
        }
    }

    /// Brings every target to where it was before a step that rests.
    fn at_rest(&mut self, index: usize, stage: &'a WorkloadsPlan, at: usize) -> Round {
        match self.last_begun(index, at) {
            None => Round::Reached,
            Some(last) => self.drive_all(index, stage, at_rest(stage, last)),
        }
    }

    /// Whether a step was begun: some target has been asked for its pods.
    ///
    /// A step that is under way is finished, whatever shuts meanwhile.
    pub(crate) fn begun(&self, stage: usize, at: usize) -> bool {
        let step = self.plan.stages.get(stage).and_then(|s| s.steps().get(at));
        let Some(step) = step.filter(|s| s.moves()) else { return true };
        let asked = |t: &TargetStatus| match (t.requested_step, step) {
            (Some(last), _) => usize::try_from(last).is_ok_and(|last| last >= at),
            // Noted by nothing but the weight.
            (None, Step::Weight(weight)) => t.requested_weight >= *weight,
            (None, _) => false,
        };
        let targets = self.status.stages.get(stage).into_iter().flat_map(|s| &s.targets);
        targets.into_iter().any(asked)
    }

    /// The last step before this one that was begun: one that was jumped over was not.
    fn last_begun(&self, stage: usize, at: usize) -> Option<usize> {
        let steps = self.plan.stages.get(stage).map(PlanStage::steps).unwrap_or_default();
        let before = steps.iter().take(at).enumerate().rev().filter(|(_, s)| s.moves());
        before.map(|(i, _)| i).find(|i| self.begun(stage, *i))
    }

    /// Begins a step where every gate is open; rests before it where one is shut.
    fn wait_to_begin(&mut self, index: usize, stage: &'a WorkloadsPlan, at: usize) -> Round {
        let last = self.last_begun(index, at);
        if last.is_none() && self.observed.governance.unjudged {
            // The stage was reached in this round; the next one asks the matrices.
            self.alarms.extend(self.now.checked_add(SignedDuration::from_millis(1)).ok());
            return Round::Waiting;
        }
        if self.may_begin(index, at, last.is_none()) {
            return self.drive_all(index, stage, position(stage, at));
        }
        if let Some(last) = last {
            return match self.drive_all(index, stage, at_rest(stage, last)) {
                Round::Reached => Round::Waiting,
                other => other,
            };
        }
        Round::Waiting
    }

    fn next_step(&mut self, index: usize, stage: &WorkloadsPlan, at: usize) {
        if let Some(status) = self.status.stages.get_mut(index) {
            status.step_start_time = Some(MicroTime(self.now));
        }
        if let Some(step) = stage.steps.get(at).filter(|s| !s.is_rest()) {
            let reason = if step.moves() { "WeightReached" } else { "RouteReached" };
            self.event(false, reason, format!("stage {}: {step}", stage.stage));
        }
        self.status.current_step_index += 1;
    }

    /// One entry for each target, made when the stage begins.
    fn begin_stage(&mut self, index: usize, stage: &WorkloadsPlan) {
        while self.status.stages.len() <= index {
            let fresh = |t: &PlanTarget| TargetStatus::new(t.kind, &t.name);
            let targets = stage.targets.iter().map(fresh).collect();
            let step_start_time = Some(MicroTime(self.now));
            let name = stage.stage.clone();
            let rollback_window = self.within_window(index, stage);
            self.event(false, "StageStarted", format!("stage {}", stage.stage));
            if let Some(why) = &rollback_window {
                self.event(false, "RollbackWindow", format!("stage {}: {why}", stage.stage));
            }
            let fresh = StageStatus {
                name,
                targets,
                rollback_window,
                step_start_time,
                ..StageStatus::default()
            };
            self.status.stages.push(fresh);
        }
    }

    /// Brings every target to a position, and the traffic where a router carries it.
    fn drive_all(&mut self, stage: usize, plan: &'a WorkloadsPlan, to: Position) -> Round {
        if plan.traffic.is_some() {
            return self.drive_routed(stage, plan, to);
        }
        self.drive_pods(stage, plan, to)
    }

    /// Brings every target's pods to a position.
    pub(crate) fn drive_pods(
        &mut self,
        stage: usize,
        plan: &'a WorkloadsPlan,
        to: Position,
    ) -> Round {
        let mut round = Round::Reached;
        for index in 0..plan.targets.len() {
            let one = match &plan.separate {
                Some(settings) => self.separate_target(stage, index, plan, settings, to),
                None => self.drive_target(stage, index, plan, to),
            };
            match one {
                Round::Reached => {}
                Round::Waiting => round = Round::Waiting,
                ended => return ended,
            }
        }
        round
    }

    /// Whether a pause step is over.
    pub(crate) fn released(&mut self, stage: usize, at: usize, rest: Rest) -> bool {
        let start = self.status.pause_start_time.get_or_insert(MicroTime(self.now)).0;
        let end = match rest {
            Rest::For(length) => start.saturating_add(length).ok(),
            Rest::UntilPromoted | Rest::UntilApproved => None,
        };
        let approval = (rest == Rest::UntilApproved).then(|| self.approved_step(stage, at));
        let promoted = self.promoted(stage, at) && approval.is_none();
        let approved = approval.as_ref().is_some_and(|a| a.open);
        if promoted || approved || end.is_some_and(|e| e <= self.now) {
            self.status.paused_seconds += seconds_between(start, self.now);
            self.status.pause_start_time = None;
            self.touch_progress();
            self.event(
                false,
                "PauseEnded",
                match approval {
                    Some(approval) => approval.message,
                    None if promoted => "promoted".to_owned(),
                    None => "time is up".to_owned(),
                },
            );
            return true;
        }
        self.status.phase = Phase::Paused;
        self.alarms.extend(end);
        if let Some(approval) = approval {
            self.status.message = format!("rests: {}", approval.message);
            self.status.gates = vec![approval];
            return false;
        }
        self.status.message = match end {
            Some(end) => format!(
                "rests until {end:.0}; `kubectl upgrade promote {}` goes on now",
                self.plan.name
            ),
            None => format!(
                "rests until somebody promotes it: `kubectl upgrade promote {}`",
                self.plan.name
            ),
        };
        false
    }

    /// The fields back, then our marks off.
    pub(crate) fn finish_stage(&mut self, stage: usize, plan: &'a WorkloadsPlan) -> StageMove {
        if !self.traffic_home(stage, plan) {
            return StageMove::Waiting;
        }
        let mut done = true;
        for index in 0..plan.targets.len() {
            match self.finish_target(stage, index, plan) {
                Ok(finished) => done &= finished,
                Err(why) => return StageMove::Failed(why),
            }
        }
        if done { StageMove::Done } else { StageMove::Waiting }
    }

    /// The first target under way that a judgement fails, in words; the others say when to look
    /// again.
    pub(crate) fn failed(
        &mut self,
        stage: usize,
        plan: &WorkloadsPlan,
        judge: impl Fn(&Driver<'_>, &Workload, &TargetStatus, Timestamp) -> Health,
    ) -> Option<String> {
        for index in 0..plan.targets.len() {
            let Some((target, Some(workload), status)) = self.target(stage, index) else {
                continue;
            };
            let Some(originals) = &status.originals else { continue };
            if status.phase == TargetPhase::Completed {
                continue;
            }
            let driver = Driver::new(target, workload, originals, &status, plan, self.now);
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
        let Some(plan) = self.plan.stages.get(stage).and_then(PlanStage::workloads) else {
            return;
        };
        self.hold_services(stage);
        self.keep_traffic(stage);
        for index in 0..plan.targets.len() {
            let Some((target, Some(workload), mut status)) = self.target(stage, index) else {
                continue;
            };
            let Some(originals) = status.originals.clone() else {
                continue;
            };
            if matches!(status.phase, TargetPhase::Completed | TargetPhase::Restoring) {
                continue;
            }
            let before = status.clone();
            let driver = Driver::new(target, workload, &originals, &before, plan, self.now);
            self.note_counts(&*driver, workload, &mut status);
            if let Move::Write(write) = driver.freeze()
                && !write.is_empty()
            {
                self.patch(target, workload, write);
            }
            self.set_target(stage, index, status);
        }
    }
}

/// Where a step is to bring every target; a rest comes after it where the next step is one.
fn position(stage: &WorkloadsPlan, at: usize) -> Position {
    let steps = &stage.steps;
    let rest = steps.get(at + 1).is_some_and(Step::rests);
    // A canary of its own may shrink; one in place only grows.
    let own = stage.separate.is_some().then(|| steps.get(at).map(Step::share)).flatten();
    let share = own.unwrap_or_else(|| Share::up_to(steps, at));
    Position { share, step: at, rest, beside: false }
}

/// The same, to stand still there.
fn at_rest(stage: &WorkloadsPlan, at: usize) -> Position {
    Position { rest: true, ..position(stage, at) }
}
