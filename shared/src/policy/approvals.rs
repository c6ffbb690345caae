//! Approvals: one person's word on exactly one plan.

use super::decide::Verdict;
use super::question::{Access, AccessNeed, ApprovalTopic, Question, Topic, UpgradeRef};
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review};
use super::upgrades::identity;
use crate::api::{Decision, Upgrade, UpgradeApproval};
use crate::plan::plan_hash;

/// A write to an UpgradeApproval. Only its creation says anything: it is never changed (the CRD's
/// rule), and deleting one takes a word back.
pub fn decide(review: &Review<'_>, change: &Change<UpgradeApproval>) -> Verdict {
    let (Operation::Create, Some(new)) = (review.operation, &change.new) else {
        return Verdict::Allow;
    };
    let spec = &new.spec;
    let object = format!("the approval of Upgrade {}/{}", review.namespace, spec.upgrade);
    if let Err(refusal) = identity(review, spec.approver.as_ref(), &object, "spec.approver") {
        return refusal.into();
    }
    Question {
        upgrade: Some(UpgradeRef {
            namespace: review.namespace.to_string(),
            name: spec.upgrade.clone(),
        }),
        access: vec![AccessNeed::One(Access::upgrade("approve", &review.namespace, &spec.upgrade))],
        topic: Topic::Approval(ApprovalTopic {
            namespace: review.namespace.to_string(),
            upgrade: spec.upgrade.clone(),
            uid: spec.upgrade_uid.clone(),
            plan_hash: spec.plan_hash.clone(),
            decision: spec.decision,
            approver: review.user.identity(),
        }),
    }
    .into()
}

/// Ends the question with the Upgrade as it is now.
pub fn confirm(topic: &ApprovalTopic, live: &Upgrade) -> Result<(), Box<Refusal>> {
    let refuse = |reason, why: String, help: &str| {
        let what = format!(
            "`{}` may not say {:?} to Upgrade {}/{}",
            topic.approver.username, topic.decision, topic.namespace, topic.upgrade
        );
        Err(Box::new(
            Refusal::new(reason, what, why, help)
                .run(format!("kubectl upgrade status {} -n {}", topic.upgrade, topic.namespace)),
        ))
    };
    let look = "look at the plan that is there now and decide on that one";
    let uid = live.metadata.uid.as_deref();
    if topic.uid.as_deref() != uid {
        let why = match &topic.uid {
            Some(said) => format!(
                "the Upgrade of this name is another: its uid is {}, the approval says {said}",
                uid.unwrap_or("unknown")
            ),
            None => "spec.upgradeUID was not stamped: the mutating webhook did not answer".into(),
        };
        return refuse(Reason::StalePlan, why, look);
    }
    let hash = plan_hash(&topic.namespace, &topic.upgrade, &live.spec);
    if hash.is_empty() || hash != topic.plan_hash {
        let why = format!(
            "the plan you looked at is not this one: the Upgrade's is {hash}, the approval says {}",
            topic.plan_hash
        );
        return refuse(Reason::StalePlan, why, look);
    }
    let phase = live.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if phase.is_terminal() || phase.is_in_flight() {
        let help = if phase.is_terminal() {
            "it is over: start another Upgrade"
        } else {
            "it was approved already; pause or abort it to stop it"
        };
        return refuse(Reason::WrongPhase, format!("it is {phase}"), help);
    }
    let requester = live.spec.requester.as_ref().map(|r| r.username.as_str());
    if topic.decision == Decision::Approved
        && requester.is_none_or(|r| r == topic.approver.username)
    {
        let why = match requester {
            Some(_) => "you asked for it, and an approval is somebody else's word".to_owned(),
            None => {
                "it does not say who asked for it, so nobody can be shown to be another".to_owned()
            }
        };
        let help = "another person with the verb `approve` has to look at it";
        return refuse(Reason::OwnUpgrade, why, help);
    }
    Ok(())
}
