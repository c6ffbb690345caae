//! Orders to go on to a later step: forward, and to a step that is there.

use super::refusal::{Reason, Refusal};
use super::review::Review;
use crate::api::Upgrade;
use crate::engine::plan::Plan;

/// The refusal of an order that goes back or nowhere; the engine would not follow it either.
pub fn astray(review: &Review<'_>, old: &Upgrade, new: &Upgrade, name: &str) -> Option<Refusal> {
    let order = |u: &Upgrade| u.spec.control.as_ref().and_then(|c| c.promote.clone());
    let given = order(new).filter(|given| order(old).as_ref() != Some(given))?;
    let to = given.to_step?;
    let plan = Plan::new(new).ok()?;
    let stage = plan.stages.get(usize::try_from(given.stage).ok()?)?;
    let last = i32::try_from(stage.steps().len()).ok()? - 1;
    let status = old.status.as_ref().filter(|s| s.current_stage_index == given.stage);
    let at = status.map_or(given.step, |s| s.current_step_index);
    if to > at && to <= last {
        return None;
    }
    let what = format!(
        "Upgrade {}/{name} may not go on to step {to} of stage {}",
        review.namespace, stage.name
    );
    let why = format!("it is at step {at}, and the steps of that stage are 0 to {last}");
    let help = "spec.control.promote.toStep goes forward, and to a step that is there; the way back \
                is abort";
    let command = format!("kubectl upgrade status {name} -n {}", review.namespace);
    Some(Refusal::new(Reason::WrongPhase, what, why, help).run(command))
}
