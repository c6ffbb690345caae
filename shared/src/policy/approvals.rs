//! Approvals: one person's word on exactly one plan, or on one stage or step of it.

use super::decide::{Verdict, not_ready};
use super::question::{
    Access, AccessNeed, ApprovalTopic, Labelled, LabelsOf, Question, Topic, UpgradeRef,
};
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review};
use super::rules;
use super::snapshot::{PolicyView, Snapshot};
use super::upgrades::identity;
use crate::api::policy::ApprovalScope;
use crate::api::upgrade::Stage;
use crate::api::{Decision, Phase, Upgrade, UpgradeApproval, UpgradeApprovalSpec, UpgradeStatus};
use crate::engine::plan::{Plan, PlanStage, Rest, Step};
use crate::plan::plan_hash;

/// A write to an UpgradeApproval. Only its creation says anything: it is never changed (the CRD's
/// rule), and deleting one takes a word back.
pub fn decide(
    snapshot: &Snapshot,
    review: &Review<'_>,
    change: &Change<UpgradeApproval>,
) -> Verdict {
    let (Operation::Create, Some(new)) = (review.operation, &change.new) else {
        return Verdict::Allow;
    };
    let spec = &new.spec;
    let object = format!("the approval of Upgrade {}/{}", review.namespace, spec.upgrade);
    if let Err(refusal) = identity(review, spec.approver.as_ref(), &object, "spec.approver") {
        return refusal.into();
    }
    question(snapshot, review, spec)
}

/// What has to be known of somebody's word, whoever it was checked to be from.
pub(super) fn question(
    snapshot: &Snapshot,
    review: &Review<'_>,
    spec: &UpgradeApprovalSpec,
) -> Verdict {
    let object = format!("the approval of Upgrade {}/{}", review.namespace, spec.upgrade);
    let view = snapshot.shared_namespace(&review.namespace).filter(|_| snapshot.synced());
    let Some(view) = view else {
        return not_ready(&format!("{object} cannot be created now")).into();
    };
    Question {
        upgrade: Some(UpgradeRef {
            namespace: review.namespace.to_string(),
            name: spec.upgrade.clone(),
        }),
        access: vec![AccessNeed::One(Access::upgrade("approve", &review.namespace, &spec.upgrade))],
        labels: if view.governed() { LabelsOf::Targets } else { LabelsOf::Nothing },
        templates: Vec::new(),
        on_behalf_of: None,
        topic: Topic::Approval(ApprovalTopic {
            namespace: review.namespace.to_string(),
            upgrade: spec.upgrade.clone(),
            uid: spec.upgrade_uid.clone(),
            plan_hash: spec.plan_hash.clone(),
            decision: spec.decision,
            stage: spec.stage.clone(),
            step: spec.step,
            approver: review.user.identity(),
            view,
        }),
    }
    .into()
}

/// Ends the question with the Upgrade as it is now.
pub fn confirm(
    topic: &ApprovalTopic,
    live: &Upgrade,
    labels: &Labelled,
) -> Result<(), Box<Refusal>> {
    let policies = live.spec.stages.iter().flat_map(|stage| policies(topic, labels, stage));
    let scope = rules::scope(policies.map(|p| &p.spec));
    let word = Word { topic, live, labels, scope };
    let refusal = word
        .stale()
        .or_else(|| word.untimely())
        .or_else(|| word.misplaced())
        .or_else(|| word.not_an_approver())
        .or_else(|| word.own());
    refusal.map_or(Ok(()), |refusal| Err(Box::new(refusal)))
}

fn policies<'a>(
    topic: &'a ApprovalTopic,
    labels: &'a Labelled,
    stage: &'a Stage,
) -> impl Iterator<Item = &'a PolicyView> {
    let targets = stage.workloads.iter().flat_map(|w| &w.targets);
    targets.filter_map(|t| rules::policy_of(&topic.view, labels, t))
}

/// One person's word, and the Upgrade it is about.
struct Word<'a> {
    topic: &'a ApprovalTopic,
    live: &'a Upgrade,
    labels: &'a Labelled,
    scope: ApprovalScope,
}

impl Word<'_> {
    fn refuse(&self, reason: Reason, why: String, help: impl Into<String>) -> Refusal {
        let topic = self.topic;
        let part = match (&topic.stage, topic.step) {
            (Some(stage), Some(step)) => format!("step {step} of stage {stage} of "),
            (Some(stage), None) => format!("stage {stage} of "),
            _ => String::new(),
        };
        let what = format!(
            "`{}` may not say {:?} to {part}Upgrade {}/{}",
            topic.approver.username, topic.decision, topic.namespace, topic.upgrade
        );
        Refusal::new(reason, what, why, help)
            .run(format!("kubectl upgrade status {} -n {}", topic.upgrade, topic.namespace))
    }

    /// It is about another plan.
    fn stale(&self) -> Option<Refusal> {
        let (topic, live) = (self.topic, self.live);
        let look = "look at the plan that is there now and decide on that one";
        let uid = live.metadata.uid.as_deref();
        if topic.uid.as_deref() != uid || uid.is_none() {
            let why = match &topic.uid {
                Some(said) => format!(
                    "the Upgrade of this name is another: its uid is {}, the approval says {said}",
                    uid.unwrap_or("unknown")
                ),
                None => {
                    "spec.upgradeUID was not stamped: the mutating webhook did not answer".into()
                }
            };
            return Some(self.refuse(Reason::StalePlan, why, look));
        }
        let hash = plan_hash(&topic.namespace, &topic.upgrade, &live.spec);
        if !hash.is_empty() && hash == topic.plan_hash {
            return None;
        }
        let why = format!(
            "the plan you looked at is not this one: the Upgrade's is {hash}, the approval says {}",
            topic.plan_hash
        );
        Some(self.refuse(Reason::StalePlan, why, look))
    }

    /// It comes too late.
    fn untimely(&self) -> Option<Refusal> {
        let before = UpgradeStatus::default();
        let status = self.live.status.as_ref().unwrap_or(&before);
        let phase = status.phase;
        if !phase.is_terminal() && !phase.is_in_flight() {
            return None;
        }
        let approves = self.topic.decision == Decision::Approved;
        let by_parts = approves && (self.scope != ApprovalScope::Upgrade || self.of_pause());
        if by_parts && matches!(phase, Phase::Progressing | Phase::Paused) {
            let begun = self.past(status)?;
            let help = "approve what is still to come; pause or abort it to stop it";
            return Some(self.refuse(Reason::WrongPhase, begun, help));
        }
        let help = if phase.is_terminal() {
            "it is over: start another Upgrade"
        } else if by_parts {
            "it waits for no approval now; pause or abort it to stop it"
        } else {
            "it was approved already; pause or abort it to stop it"
        };
        Some(self.refuse(Reason::WrongPhase, format!("it is {phase}"), help))
    }

    /// Why what is approved lies behind an Upgrade in flight.
    fn past(&self, status: &UpgradeStatus) -> Option<String> {
        let name = self.topic.stage.as_ref()?;
        let stage = self.live.spec.stages.iter().position(|s| s.name == *name)?;
        let stage = i32::try_from(stage).ok()?;
        let (at, step) = (status.current_stage_index, status.current_step_index);
        if stage < at {
            return Some(format!("stage {name} is behind it"));
        }
        let mine = self.topic.step?;
        (stage == at && mine < step)
            .then(|| format!("step {mine} of stage {name} is behind it: it is at step {step}"))
    }

    /// It covers more or less than the policies ask for, or what the plan does not have.
    fn misplaced(&self) -> Option<Refusal> {
        let (topic, stages) = (self.topic, &self.live.spec.stages);
        let mismatch = |why: String, help: String| self.refuse(Reason::ScopeMismatch, why, help);
        let place = |name: &String| stages.iter().position(|s| s.name == *name);
        let index = topic.stage.as_ref().and_then(place);
        if let (Some(name), None) = (&topic.stage, index) {
            let names: Vec<_> = stages.iter().map(|s| s.name.as_str()).collect();
            let why = format!("spec.stage: the plan has no stage {name}");
            return Some(mismatch(why, format!("its stages are {}", names.join(", "))));
        }
        if let Some(step) = topic.step {
            let weights = index.map(|i| self.weights(i)).unwrap_or_default();
            if !weights.contains(&step) && !self.of_pause() {
                let why = format!(
                    "spec.step: step {step} of that stage sets no weight and waits for no approval"
                );
                let list: Vec<_> = weights.iter().map(ToString::to_string).collect();
                return Some(mismatch(why, format!("steps that do: {}", list.join(", "))));
            }
        }
        // A rejection ends the whole, whatever part it looked at.
        if topic.decision == Decision::Rejected || self.of_pause() {
            return None;
        }
        let (given, asked) = ((index.is_some(), topic.step.is_some()), self.scope);
        let (fits, by) = match asked {
            ApprovalScope::Upgrade => (given == (false, false), "the whole Upgrade"),
            ApprovalScope::Stage => (given == (true, false), "one stage at a time"),
            ApprovalScope::Step => (given == (true, true), "one step at a time"),
        };
        if fits {
            return None;
        }
        let why = format!(
            "`spec.approvals.per` is {asked:?} here, so an approval covers {by}, and this one does not"
        );
        let refusal = mismatch(why, "give exactly that part".to_owned());
        Some(refusal.run(self.command()))
    }

    /// It is about a pause `untilApproval`, which asks for itself.
    fn of_pause(&self) -> bool {
        let found = || {
            let plan = Plan::new(self.live).ok()?;
            let stage = plan.stages.iter().find(|s| Some(&s.name) == self.topic.stage.as_ref())?;
            let step = usize::try_from(self.topic.step?).ok()?;
            stage.steps().get(step).map(|s| *s == Step::Pause(Rest::UntilApproved))
        };
        found().unwrap_or(false)
    }

    /// Indices of the steps of a stage that ask for pods, the last one to 100 included.
    fn weights(&self, stage: usize) -> Vec<i32> {
        let Ok(plan) = Plan::new(self.live) else {
            return Vec::new();
        };
        let steps = plan.stages.get(stage).map(PlanStage::steps).unwrap_or_default();
        let weights = steps.iter().enumerate().filter(|(_, s)| s.moves());
        weights.filter_map(|(i, _)| i32::try_from(i).ok()).collect()
    }

    /// The command for the part that comes next.
    fn command(&self) -> String {
        let (topic, status) = (self.topic, self.live.status.as_ref());
        let at = status.map_or(0, |s| usize::try_from(s.current_stage_index).unwrap_or(0));
        let stage = self.live.spec.stages.get(at).map(|s| s.name.as_str()).unwrap_or_default();
        let from = status.map_or(0, |s| s.current_step_index);
        let step = self.weights(at).into_iter().find(|w| *w >= from).unwrap_or(0);
        let part = match self.scope {
            ApprovalScope::Upgrade => String::new(),
            ApprovalScope::Stage => format!(" --stage {stage}"),
            ApprovalScope::Step => format!(" --stage {stage} --step {step}"),
        };
        format!("kubectl upgrade approve {}{part} -n {}", topic.upgrade, topic.namespace)
    }

    /// A policy of what is approved does not count this person's word. Where there are several, it
    /// has to count under each: two exceptions never add up.
    fn not_an_approver(&self) -> Option<Refusal> {
        let topic = self.topic;
        if topic.decision == Decision::Rejected {
            return None;
        }
        let covered = |s: &&Stage| topic.stage.as_ref().is_none_or(|name| s.name == *name);
        let stages = self.live.spec.stages.iter().filter(covered);
        let against = |p: &&PolicyView| !rules::may_approve(&p.spec, &topic.approver);
        let policy = stages.flat_map(|s| policies(topic, self.labels, s)).find(against)?;
        let list = policy.spec.approvals.approvers.as_ref().map(rules::people).unwrap_or_default();
        let why = format!(
            "`spec.approvals.approvers` of policy `{}` names {list}, and the API server says that you \
             are in {}",
            policy.name,
            groups(&topic.approver.groups)
        );
        let help = "one of these has to approve it; groups count as they are at the request";
        let command =
            format!("kubectl get upgradepolicy {} -o jsonpath='{{.spec.approvals}}'", policy.name);
        Some(self.refuse(Reason::ApproverNotAllowed, why, help).run(command))
    }

    /// It is the requester's.
    fn own(&self) -> Option<Refusal> {
        let requester = self.live.spec.requester.as_ref().map(|r| r.username.as_str());
        let somebody_else = requester.is_some_and(|r| r != self.topic.approver.username);
        if self.topic.decision == Decision::Rejected || somebody_else {
            return None;
        }
        let why = match requester {
            Some(_) => "you asked for it, and an approval is somebody else's word",
            None => "it does not say who asked for it, so nobody can be shown to be another",
        };
        let help = "another person with the verb `approve` has to look at it";
        Some(self.refuse(Reason::OwnUpgrade, why.to_owned(), help))
    }
}

fn groups(groups: &[String]) -> String {
    match groups {
        [] => "no group".to_owned(),
        groups => groups.join(", "),
    }
}
