//! The stage kind `workloads`: its targets move together, a step at a time.

use super::StageMove;
use super::target::Position;
use crate::api::status::{Phase, StageStatus, TargetPhase, TargetStatus};
use crate::engine::deployment::{Driver, Move};
use crate::engine::health::{Health, deadline, pods};
use crate::engine::observed::Workload;
use crate::engine::plan::{PlanStage, PlanTarget, Step};
use crate::engine::{Walk, seconds_between};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// What a round over all targets of a stage came to.
pub(crate) enum Round {
    Reached,
    Waiting,
    Broken(String),
}

impl<'a> Walk<'a> {
    /// One round of a stage.
    pub(crate) fn walk_workloads(&mut self, index: usize, stage: &'a PlanStage) -> StageMove {
        self.begin_stage(index, stage);
        if let Some(why) =
            self.failed(index, stage, |driver, workload, _, now| pods(driver, workload, now))
        {
            return StageMove::Failed(why);
        }
        loop {
            let at = usize::try_from(self.status.current_step_index).unwrap_or(0);
            let next = match stage.steps.get(at) {
                None => return self.finish_stage(index, stage),
                Some(Step::Weight(_)) if !self.begun(index, at) => {
                    self.wait_to_begin(index, stage, at)
                }
                Some(Step::Weight(weight)) => {
                    let rest = matches!(stage.steps.get(at + 1), Some(Step::Pause(_)));
                    self.drive_all(index, stage, Position { weight: *weight, rest })
                }
                Some(Step::Pause(length)) => {
                    let weight = weight_before(&stage.steps, at);
                    match if weight > 0 {
                        self.drive_all(index, stage, Position { weight, rest: true })
                    } else {
                        Round::Reached
                    } {
                        Round::Reached if self.released(index, at, *length) => Round::Reached,
                        Round::Reached => Round::Waiting,
                        other => other,
                    }
                }
            };
            match next {
                Round::Waiting => {
                    // Asked only once what runs now has been noted: whoever was away does not
                    // blame the pods for it.
                    let overdue = self.failed(index, stage, deadline);
                    return overdue.map_or(StageMove::Waiting, StageMove::Failed);
                }
                Round::Broken(why) => return StageMove::Failed(why),
                Round::Reached => self.next_step(stage, at),
            }
        }
    }

    /// Whether a step was begun: some target has been asked for its weight.
    ///
    /// A step that is under way is finished, whatever shuts meanwhile.
    fn begun(&self, stage: usize, at: usize) -> bool {
        let Some(Step::Weight(weight)) = self.plan.stages.get(stage).and_then(|s| s.steps.get(at))
        else {
            return true;
        };
        let targets = self.status.stages.get(stage).into_iter().flat_map(|s| &s.targets);
        targets.map(|t| t.requested_weight).any(|w| w >= *weight)
    }

    /// Begins a step where every gate is open; rests before it where one is shut.
    fn wait_to_begin(&mut self, index: usize, stage: &'a PlanStage, at: usize) -> Round {
        let weight = weight_before(&stage.steps, at);
        if weight == 0 && self.observed.governance.unjudged {
            // The stage was reached in this round; the next one asks the matrices.
            self.alarms.extend(self.now.checked_add(SignedDuration::from_millis(1)).ok());
            return Round::Waiting;
        }
        if self.may_begin(index, at, weight == 0) {
            let Some(Step::Weight(next)) = stage.steps.get(at) else { return Round::Reached };
            let rest = matches!(stage.steps.get(at + 1), Some(Step::Pause(_)));
            return self.drive_all(index, stage, Position { weight: *next, rest });
        }
        if weight > 0 {
            return match self.drive_all(index, stage, Position { weight, rest: true }) {
                Round::Reached => Round::Waiting,
                other => other,
            };
        }
        Round::Waiting
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

    /// Brings every target to a position.
    fn drive_all(&mut self, stage: usize, plan: &'a PlanStage, to: Position) -> Round {
        let mut round = Round::Reached;
        for index in 0..plan.targets.len() {
            match self.drive_target(stage, index, plan, to) {
                Round::Reached => {}
                Round::Waiting => round = Round::Waiting,
                Round::Broken(why) => return Round::Broken(why),
            }
        }
        round
    }

    /// Whether a pause step is over.
    fn released(&mut self, stage: usize, at: usize, length: Option<jiff::SignedDuration>) -> bool {
        let start = self.status.pause_start_time.get_or_insert(MicroTime(self.now)).0;
        let end = length.and_then(|l| start.saturating_add(l).ok());
        let index = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let promoted = self.plan.promote.as_ref().is_some_and(|p| {
            p.attempt == self.status.attempt
                && p.stage == index(stage)
                && (p.full || p.step == index(at))
        });
        if promoted || end.is_some_and(|e| e <= self.now) {
            self.status.paused_seconds += seconds_between(start, self.now);
            self.status.pause_start_time = None;
            self.touch_progress();
            self.event(
                false,
                "PauseEnded",
                if promoted { "promoted" } else { "time is up" }.to_owned(),
            );
            return true;
        }
        self.status.phase = Phase::Paused;
        self.alarms.extend(end);
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
    fn finish_stage(&mut self, stage: usize, plan: &PlanStage) -> StageMove {
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
    fn failed(
        &mut self,
        stage: usize,
        plan: &PlanStage,
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
        let Some(plan) = self.plan.stages.get(stage) else {
            return;
        };
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
            self.note_counts(&driver, workload, &mut status);
            if let Move::Write(write) = driver.freeze() {
                self.patch(target, workload, write);
            }
            self.set_target(stage, index, status);
        }
    }
}

fn weight_before(steps: &[Step], at: usize) -> i32 {
    let weight = |s: &Step| if let Step::Weight(w) = s { Some(*w) } else { None };
    steps.iter().take(at).rev().find_map(weight).unwrap_or(0)
}
