//! Going on to a later step: pauses and analyses on the way are left out, words of people are not.

use crate::api::policy::ApprovalScope;
use crate::engine::Walk;
use crate::engine::plan::{Rest, Step, WorkloadsPlan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// How far it is to go, and who says so.
struct Goal {
    /// Index of the step that it goes on to; one past the last is the end.
    step: usize,
    why: String,
}

impl Walk<'_> {
    /// Goes forward to where somebody ordered it to, or where its rollback window lets it.
    ///
    /// A step under way is finished first. From there it is the last step that may be reached: one
    /// that asks for pods is then begun behind its own gates, and those before it are left out.
    pub(crate) fn jump(&mut self, index: usize, stage: &WorkloadsPlan) {
        let at = usize::try_from(self.status.current_step_index).unwrap_or(0);
        let Some(goal) = self.ordered_goal(index, stage).filter(|g| g.step > at) else { return };
        let moving = |i: usize| stage.steps.get(i).is_some_and(Step::moves);
        if moving(at) && self.begun(index, at) {
            return;
        }
        let stop = (at..goal.step).find(|i| !self.may_pass(index, stage, *i)).unwrap_or(goal.step);
        let landing = if stop == goal.step && moving(stop) {
            stop
        } else {
            // A rest is held at the pods before it, and these have gates of their own.
            (at..stop).rev().find(|i| moving(*i)).unwrap_or(stop)
        };
        if landing > at {
            self.land(index, stage, at, landing, &goal.why);
        }
    }

    fn land(&mut self, index: usize, stage: &WorkloadsPlan, at: usize, to: usize, why: &str) {
        self.end_rest();
        for step in at..to {
            self.end_step_analysis(stage, step);
        }
        if let Some(status) = self.status.stages.get_mut(index) {
            status.step_start_time = Some(MicroTime(self.now));
        }
        self.status.current_step_index = i32::try_from(to).unwrap_or(i32::MAX);
        let place = match stage.steps.get(to) {
            Some(step) => format!("step {to}, {step}"),
            None => "the end".to_owned(),
        };
        self.event(
            false,
            "Jumped",
            format!("stage {}: from step {at} to {place}; {why}", stage.stage),
        );
    }

    fn ordered_goal(&self, index: usize, stage: &WorkloadsPlan) -> Option<Goal> {
        let window = self.status.stages.get(index).and_then(|s| s.rollback_window.as_ref());
        let by_window = || window.map(|why| Goal { step: stage.steps.len(), why: why.clone() });
        by_window().or_else(|| {
            let step = self.ordered_step(index, stage)?;
            Some(Goal { step, why: format!("somebody went on to step {step}") })
        })
    }

    /// The step that somebody ordered this stage to go on to; none where there is no such step.
    fn ordered_step(&self, index: usize, stage: &WorkloadsPlan) -> Option<usize> {
        let order = self.plan.promote.as_ref()?;
        let mine = order.attempt == self.status.attempt
            && usize::try_from(order.stage).is_ok_and(|s| s == index);
        let step = usize::try_from(order.to_step?).ok()?;
        (mine && step < stage.steps.len()).then_some(step)
    }

    /// Whether a step may be left out: nobody's word is.
    fn may_pass(&self, index: usize, stage: &WorkloadsPlan, at: usize) -> bool {
        let per_step = self.observed.governance.approvals.per == ApprovalScope::Step;
        match stage.steps.get(at) {
            Some(Step::Pause(Rest::UntilApproved)) => self.step_is_approved(index, at),
            Some(Step::Weight(_) | Step::Replicas(_)) => {
                let wanted = per_step && self.observed.governance.approvals.required > 0;
                !wanted || self.begun(index, at) || self.step_is_approved(index, at)
            }
            Some(Step::Pause(_) | Step::Analysis(_) | Step::Route(_)) | None => true,
        }
    }
}
