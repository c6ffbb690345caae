//! `promote --to-step N`: forward over what lies between, but over nobody's word.

use super::{Order, senseless};
use crate::client::Session;
use crate::objects::{hash, list, status};
use crate::output::Refusal;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;
use upgrade_core::api::{Decision, Phase, Upgrade, UpgradeApproval};
use upgrade_core::engine::plan::{Plan, PlanStage, Rest, Step};

/// Approvals of this very plan; none where they cannot be read, so that what may be missing is.
pub async fn approvals(session: &Session, upgrade: &Upgrade) -> Vec<UpgradeApproval> {
    let api: Api<UpgradeApproval> = Api::namespaced(session.client.clone(), &session.namespace);
    let mut all = list(session, &api, &ListParams::default()).await.unwrap_or_default();
    let (name, plan) = (upgrade.name_any(), hash(upgrade));
    all.retain(|a| {
        let spec = &a.spec;
        spec.upgrade == name && spec.plan_hash == plan && spec.decision == Decision::Approved
    });
    all
}

/// The order to go on to a step, or why there is none to give.
pub fn order(upgrade: &Upgrade, to: i32, approvals: &[UpgradeApproval]) -> Result<Order, Refusal> {
    let status = status(upgrade);
    if upgrade.spec.paused && status.phase.is_in_flight() {
        return Err(senseless(upgrade, "all of it is paused; `resume` comes first"));
    }
    if !matches!(status.phase, Phase::Paused | Phase::Progressing) {
        return Err(senseless(upgrade, "it is not under way, so it cannot go on to a step"));
    }
    let plan = Plan::new(upgrade).map_err(|error| {
        Refusal::new("InvalidPlan", format!("Upgrade {}: {error}", upgrade.name_any()))
    })?;
    let index = usize::try_from(status.current_stage_index).unwrap_or(0);
    let Some(stage) = plan.stages.get(index) else {
        return Err(senseless(upgrade, "every stage of it is done"));
    };
    let at = usize::try_from(status.current_step_index).unwrap_or(0);
    let goal = in_range(upgrade, stage, at, to)?;
    unapproved(upgrade, stage, at..goal, approvals)?;
    let order = json!({
        "attempt": status.attempt,
        "stage": status.current_stage_index,
        "step": status.current_step_index,
        "full": null,
        "toStep": to,
    });
    let left = format!(
        "it goes on to step {to} of stage {}{}; approvals by step, and the gates of that step, still \
         hold it",
        stage.name,
        leaves_out(stage.steps(), at, goal)
    );
    Ok(Order::Patch(json!({"spec": {"control": {"promote": order}}}), "promoted", left))
}

/// Whether there is such a step, and it lies ahead.
fn in_range(upgrade: &Upgrade, stage: &PlanStage, at: usize, to: i32) -> Result<usize, Refusal> {
    let name = upgrade.name_any();
    let canary = stage.workloads().is_some_and(|w| w.canary && w.blue_green.is_none());
    if !canary {
        let text = format!(
            "--to-step: stage {} of Upgrade {name} is no canary and has no steps to choose from",
            stage.name
        );
        return Err(
            Refusal::new("NoSuchStep", text).hint(format!("kubectl upgrade promote {name}"))
        );
    }
    let last = stage.steps().len().saturating_sub(1);
    if at >= last {
        let what =
            format!("it is at the last step of stage {}: there is none to go on to", stage.name);
        return Err(senseless(upgrade, &what));
    }
    match usize::try_from(to) {
        Ok(goal) if goal > at && goal <= last => Ok(goal),
        other => {
            let what = if other.is_ok_and(|goal| goal > last) {
                "has no such step"
            } else {
                "is there or past it"
            };
            let text = format!(
                "--to-step {to}: stage {} of Upgrade {name} {what}: it is at step {at}, and the flag \
                 takes {} to {last}; the way back is `abort`",
                stage.name,
                at + 1
            );
            let namespace = upgrade.namespace().unwrap_or_default();
            Err(Refusal::new("NoSuchStep", text)
                .hint(format!("kubectl upgrade status {name} -n {namespace}")))
        }
    }
}

/// A pause that waits for somebody's word is not left out.
fn unapproved(
    upgrade: &Upgrade,
    stage: &PlanStage,
    between: std::ops::Range<usize>,
    approvals: &[UpgradeApproval],
) -> Result<(), Refusal> {
    let requester = upgrade.spec.requester.as_ref().map(|r| r.username.as_str());
    let said = |at: usize| {
        approvals.iter().any(|a| {
            let spec = &a.spec;
            let who = spec.approver.as_ref().map(|w| w.username.as_str());
            spec.stage.as_ref() == Some(&stage.name)
                && spec.step.is_some_and(|s| usize::try_from(s).is_ok_and(|s| s == at))
                && who != requester
        })
    };
    let waits = |at: &usize| stage.steps().get(*at) == Some(&Step::Pause(Rest::UntilApproved));
    let Some(at) = between.filter(waits).find(|at| !said(*at)) else { return Ok(()) };
    let (name, namespace) = (upgrade.name_any(), upgrade.namespace().unwrap_or_default());
    let text = format!(
        "--to-step: step {at} of stage {} waits for somebody's approval, which nobody goes past; go \
         no further than step {at}, or have it approved first",
        stage.name
    );
    Err(Refusal::blocked("AwaitingApproval", text).hint(format!(
        "kubectl upgrade approve {name} --stage {} --step {at} -n {namespace}",
        stage.name
    )))
}

/// `, and leaves out 2 pauses and 1 analysis`
fn leaves_out(steps: &[Step], at: usize, goal: usize) -> String {
    let between = || steps.iter().take(goal).skip(at);
    let pauses = between().filter(|s| matches!(s, Step::Pause(_))).count();
    let analyses = between().filter(|s| matches!(s, Step::Analysis(_))).count();
    let many = |n: usize, one: &str, more: &str| match n {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {more}")),
    };
    let all = [many(pauses, "pause", "pauses"), many(analyses, "analysis", "analyses")];
    let all: Vec<_> = all.into_iter().flatten().collect();
    if all.is_empty() { String::new() } else { format!(", and leaves out {}", all.join(" and ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Steps 0 to 6, the last one implied.
    fn upgrade(phase: &str, step: i32, strategy: &Value) -> Upgrade {
        serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": "web-v2", "namespace": "shop"},
            "spec": {"stages": [{"name": "web", "workloads": {"strategy": strategy, "targets": [
                {"kind": "Deployment", "name": "web",
                 "images": [{"container": "web", "from": "web:v1", "to": "web:v2"}]}]}}]},
            "status": {"phase": phase, "attempt": 1, "currentStepIndex": step}
        }))
        .expect("an Upgrade")
    }

    fn canary(third: &Value) -> Value {
        json!({"canary": {"steps": [{"setWeight": 10}, {"pause": {}}, {"setReplicas": 3}, third,
            {"setWeight": 50}, {"pause": {"duration": "5m"}}]}})
    }

    fn refused(upgrade: &Upgrade, to: i32, parts: &[&str]) {
        let refusal = order(upgrade, to, &[]).expect_err("refused");
        for part in parts {
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
    }

    #[test]
    fn it_goes_forward_and_says_what_it_leaves_out() {
        let now = upgrade("Paused", 1, &canary(&json!({"pause": {}})));
        let Order::Patch(body, word, left) = order(&now, 4, &[]).expect("an order") else {
            panic!("no patch")
        };
        assert_eq!(
            body,
            json!({"spec": {"control": {"promote":
            {"attempt": 1, "stage": 0, "step": 1, "full": null, "toStep": 4}}}})
        );
        assert_eq!(word, "promoted");
        assert!(left.contains("step 4 of stage web, and leaves out 2 pauses;"), "{left}");
        assert!(order(&upgrade("Progressing", 0, &canary(&json!({"pause": {}}))), 6, &[]).is_ok());
    }

    #[test]
    fn back_and_beyond_are_refused_with_the_range_and_the_way_back() {
        let now = upgrade("Paused", 3, &canary(&json!({"pause": {}})));
        for to in [0, 3] {
            refused(&now, to, &["--to-step", "at step 3", "takes 4 to 6", "`abort`"]);
        }
        refused(&now, 7, &["--to-step 7", "has no such step", "takes 4 to 6"]);
        refused(&upgrade("Progressing", 6, &canary(&json!({"pause": {}}))), 6, &["last step"]);
        refused(&upgrade("Completed", 6, &canary(&json!({"pause": {}}))), 6, &["not under way"]);
        refused(&upgrade("Progressing", 0, &json!({"rolling": {}})), 1, &["is no canary"]);
    }

    #[test]
    fn nobodys_word_is_left_out() {
        let now = upgrade("Paused", 1, &canary(&json!({"pause": {"untilApproval": true}})));
        refused(&now, 4, &["step 3 of stage web waits for somebody's approval"]);
        assert!(order(&now, 3, &[]).is_ok(), "up to it is fine");
        let approval = serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
            "metadata": {"name": "a"},
            "spec": {"upgrade": "web-v2", "planHash": "x", "decision": "Approved", "stage": "web",
                "step": 3, "approver": {"username": "sue"}},
        }))
        .expect("an approval");
        assert!(order(&now, 4, &[approval]).is_ok());
    }
}
