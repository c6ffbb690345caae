//! Where analyses stand on the walk through a canary's steps.

use super::AnalysisMove;
use crate::api::analysis::AnalysisRef;
use crate::api::analysis_run::{AnalysisPhase, AnalysisRunStatus};
use crate::api::status::Phase;
use crate::engine::plan::{Step, WorkloadsPlan};
use crate::engine::stages::StageMove;
use crate::engine::{Walk, seconds_between};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

impl<'a> Walk<'a> {
    /// One round of the analysis of a step, once its weight is reached: whether the step is over.
    pub(crate) fn walk_analysis(
        &mut self,
        stage: &WorkloadsPlan,
        index: usize,
        at: usize,
        asked: &AnalysisRef,
    ) -> Result<bool, String> {
        let run = format!("{}/step-{at}", stage.stage);
        match self.analyse(&run, asked) {
            AnalysisMove::Wait => {
                self.end_rest();
                Ok(false)
            }
            AnalysisMove::Passed => {
                self.end_rest();
                Ok(true)
            }
            AnalysisMove::Failed(why) => Err(why),
            AnalysisMove::Inconclusive(why) => Ok(!self.rests_undecided(&run, index, at, &why)),
        }
    }

    /// One round of the analysis beside the steps; what ends the round, if anything does.
    pub(crate) fn walk_background(
        &mut self,
        index: usize,
        stage: &'a WorkloadsPlan,
    ) -> Option<StageMove> {
        let asked = stage.background.as_ref()?;
        if self.status.stages.get(index).is_some_and(|s| s.rollback_window.is_some()) {
            return None;
        }
        let at = usize::try_from(self.status.current_step_index).unwrap_or(0);
        let run = background(stage);
        if at >= stage.steps.len() {
            return None;
        }
        let targets = self.status.stages.get(index).into_iter().flat_map(|s| &s.targets);
        let begun = asked.starting_step.map_or_else(
            || targets.map(|t| t.requested_weight).any(|w| w > 0),
            |step| usize::try_from(step).is_ok_and(|s| at >= s),
        );
        if !begun {
            return None;
        }
        match self.analyse(&run, asked) {
            AnalysisMove::Wait | AnalysisMove::Passed => {
                // At a pause or an analysis the rest is that of the step.
                if stage.steps.get(at).is_some_and(|s| !s.is_rest()) {
                    self.end_rest();
                }
                None
            }
            AnalysisMove::Failed(why) => Some(StageMove::AnalysisFailed(why)),
            AnalysisMove::Inconclusive(why) => {
                if !self.rests_undecided(&run, index, at, &why) {
                    return None;
                }
                self.freeze_workloads();
                Some(StageMove::Waiting)
            }
        }
    }

    /// Ends the analysis beside the steps: the last one is over.
    pub(crate) fn end_background(&mut self, stage: &WorkloadsPlan) {
        if stage.background.is_some() {
            self.end_analysis(&background(stage), "ended with the steps");
        }
    }

    /// Ends the analysis of a step that is left out, where the step is one.
    pub(crate) fn end_step_analysis(&mut self, stage: &WorkloadsPlan, at: usize) {
        if let Some(Step::Analysis(_)) = stage.steps.get(at) {
            let run = format!("{}/step-{at}", stage.stage);
            self.end_analysis(&run, "left out on the way to a later step");
        }
    }

    /// Rests at an analysis that can say neither yes nor no, until somebody promotes; true while it
    /// rests.
    pub(crate) fn rests_undecided(
        &mut self,
        run: &str,
        stage: usize,
        at: usize,
        why: &str,
    ) -> bool {
        if self.promoted(stage, at) {
            self.end_rest();
            self.overrule(run);
            self.event(false, "AnalysisOverruled", format!("{why}; somebody went on"));
            return false;
        }
        self.status.pause_start_time.get_or_insert(MicroTime(self.now));
        self.status.phase = Phase::Paused;
        self.status.message =
            format!("{why}; `kubectl upgrade promote {}` goes on all the same", self.plan.name);
        true
    }

    /// Whether somebody has gone on past a step.
    pub(crate) fn promoted(&self, stage: usize, at: usize) -> bool {
        let index = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        self.plan.promote.as_ref().is_some_and(|p| {
            p.attempt == self.status.attempt
                && p.stage == index(stage)
                && (p.full || p.step == index(at))
        })
    }

    /// A run that could not be made at all has no entry yet.
    fn overrule(&mut self, run: &str) {
        let now = MicroTime(self.now);
        if self.run_index(run).is_none() {
            let name = run.to_owned();
            let fresh = AnalysisRunStatus { name, ..AnalysisRunStatus::default() };
            self.status.analysis_runs.push(fresh);
        }
        if let Some(run) = self.status.analysis_runs.iter_mut().find(|r| r.name == run) {
            run.overruled = true;
            run.phase = AnalysisPhase::Inconclusive;
            run.completed_at.get_or_insert(now);
        }
    }

    /// The time that somebody took to decide is no time of the upgrade's own.
    pub(crate) fn end_rest(&mut self) {
        if let Some(since) = self.status.pause_start_time.take() {
            self.status.paused_seconds += seconds_between(since.0, self.now);
            self.touch_progress();
        }
    }
}

fn background(stage: &WorkloadsPlan) -> String {
    format!("{}/background", stage.stage)
}
