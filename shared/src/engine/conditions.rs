//! Standard conditions, derived from the phase.

use crate::api::status::{Phase, UpgradeStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Brings `Approved`, `Progressing` and `Completed` in line with the phase. The transition time
/// moves only when a condition's status does.
pub fn update(status: &mut UpgradeStatus, now: Timestamp) {
    let phase = status.phase;
    let count = status.approvals.clone().unwrap_or_default();
    let enough = i32::try_from(count.approved_by.len()).unwrap_or(i32::MAX) >= count.required;
    let approved = match phase {
        Phase::Rejected => Some((false, "Rejected")),
        Phase::Failed | Phase::Pending => None,
        Phase::AwaitingApproval => Some((false, "AwaitingApproval")),
        _ if enough => Some((true, "Approved")),
        _ => None,
    };
    let progressing = match phase {
        Phase::Progressing => Some((true, "Progressing")),
        Phase::RollingBack => Some((true, "RollingBack")),
        Phase::Paused => Some((false, "Paused")),
        Phase::Degraded => Some((false, "Degraded")),
        _ if phase.is_terminal() => Some((false, "Ended")),
        _ => Some((false, "Waiting")),
    };
    let completed = Some((phase == Phase::Completed, phase.as_str()));
    let message = status.message.clone();
    let generation = status.observed_generation;
    for (kind, state) in
        [("Approved", approved), ("Progressing", progressing), ("Completed", completed)]
    {
        if let Some((is, reason)) = state {
            set(&mut status.conditions, kind, is, reason, &message, generation, now);
        }
    }
}

fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    is: bool,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    let state = if is { "True" } else { "False" };
    let old = conditions.iter().position(|c| c.type_ == kind);
    let since = old
        .and_then(|i| conditions.get(i))
        .filter(|c| c.status == state)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(generation),
        last_transition_time: since,
    };
    match old.and_then(|i| conditions.get_mut(i)) {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}
