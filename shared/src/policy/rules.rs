//! What a policy says of an Upgrade: who may ask for it, how it may go, and to which images.

use super::question::{Labelled, StartTopic};
use super::refusal::{Reason, Refusal};
use super::snapshot::{Labels, NamespaceView, PolicyView};
use crate::api::Identity;
use crate::api::policy::{ApprovalScope, Digest, People, UpgradePolicySpec};
use crate::api::upgrade::{ImageChange, StrategyName, WorkloadTarget};
use crate::image::Image;
use std::fmt;

/// A rule of a policy that a target of an Upgrade breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Reason for machines.
    pub reason: Reason,
    /// The field of the Upgrade that breaks it.
    pub field: Field,
    /// The field of the policy that says so, for instance `spec.images.registries`.
    pub rule: &'static str,
    /// What is wrong, in one sentence.
    pub what: String,
    /// What would be right.
    pub help: String,
}

/// A field of an Upgrade, as far as one target of it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `spec.requester`
    Requester,
    /// The strategy of the target's stage.
    Strategy,
    /// `to` of the image change with this index.
    Image(usize),
    /// An image of the stage's Job.
    Job,
}

impl Field {
    /// Its path in an Upgrade, by the indices of the stage and of the target.
    pub fn path(self, stage: usize, target: usize) -> String {
        match self {
            Self::Requester => "spec.requester".to_owned(),
            Self::Strategy => format!("spec.stages[{stage}].workloads.strategy"),
            Self::Job => format!("spec.stages[{stage}].job"),
            Self::Image(image) => {
                format!("spec.stages[{stage}].workloads.targets[{target}].images[{image}].to")
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.help)
    }
}

/// The first rule that a target breaks, by what the Upgrade says and nothing else.
///
/// An unknown requester is none of those who may ask.
pub fn first_violation(
    policy: &UpgradePolicySpec,
    target: &WorkloadTarget,
    strategy: StrategyName,
    requester: Option<&Identity>,
) -> Option<Violation> {
    let changes = || target.images.iter().enumerate();
    requester_rule(policy.requesters.as_ref(), requester)
        .or_else(|| strategy_rule(&policy.strategies, strategy))
        .or_else(|| changes().find_map(|(i, c)| registry_rule(policy, i, c)))
        .or_else(|| changes().find_map(|(i, c)| digest_rule(policy, i, c)))
}

pub(super) fn requester_rule(
    allowed: Option<&People>,
    requester: Option<&Identity>,
) -> Option<Violation> {
    let allowed = allowed?;
    if requester.is_some_and(|r| allowed.include(r)) {
        return None;
    }
    let what = match requester {
        Some(requester) => {
            format!("`{}` is none of those who may ask for an Upgrade", requester.username)
        }
        None => "it does not say who asks for it".to_owned(),
    };
    Some(Violation {
        reason: Reason::RequesterNotAllowed,
        field: Field::Requester,
        rule: "spec.requesters",
        what,
        help: format!("these may ask: {}", people(allowed)),
    })
}

fn strategy_rule(allowed: &[StrategyName], strategy: StrategyName) -> Option<Violation> {
    if allowed.is_empty() || allowed.contains(&strategy) {
        return None;
    }
    let names: Vec<_> = allowed.iter().map(|s| format!("`{s}`")).collect();
    Some(Violation {
        reason: Reason::StrategyNotAllowed,
        field: Field::Strategy,
        rule: "spec.strategies",
        what: format!("strategy `{strategy}` is not allowed"),
        help: format!("use {}", names.join(" or ")),
    })
}

pub(super) fn registry_rule(
    policy: &UpgradePolicySpec,
    index: usize,
    change: &ImageChange,
) -> Option<Violation> {
    let places = &policy.images.as_ref()?.registries;
    let lies = |image: &Image| places.iter().any(|place| image.is_in(place));
    // What cannot be read comes from nowhere that could be allowed.
    if places.is_empty() || Image::parse(&change.to).is_ok_and(|image| lies(&image)) {
        return None;
    }
    Some(Violation {
        reason: Reason::RegistryNotAllowed,
        field: Field::Image(index),
        rule: "spec.images.registries",
        what: format!(
            "container `{}` would run {}, which comes from no allowed registry",
            change.container, change.to
        ),
        help: format!("take an image from {}", some(places)),
    })
}

pub(super) fn digest_rule(
    policy: &UpgradePolicySpec,
    index: usize,
    change: &ImageChange,
) -> Option<Violation> {
    let required = policy.images.as_ref()?.digest == Digest::Required;
    if !required || Image::parse(&change.to).is_ok_and(|image| image.digest().is_some()) {
        return None;
    }
    Some(Violation {
        reason: Reason::DigestRequired,
        field: Field::Image(index),
        rule: "spec.images.digest",
        what: format!(
            "container `{}` would run {}, which names no digest: its tag may mean another image \
             tomorrow",
            change.container, change.to
        ),
        help: "append the digest of the image: `…:TAG@sha256:…`".to_owned(),
    })
}

/// Ends the question of an Upgrade that is to be created, with the labels that its targets have
/// now. They may have others when it starts: the engine asks again then.
pub(super) fn confirm(topic: &StartTopic, labels: &Labelled) -> Result<(), Box<Refusal>> {
    for (s, stage) in topic.spec.stages.iter().enumerate() {
        if let Some(job) = &stage.job {
            super::jobs::confirm(topic, labels, s, job)?;
        }
        let Some(workloads) = &stage.workloads else { continue };
        let strategy = workloads.strategy.name();
        for (t, target) in workloads.targets.iter().enumerate() {
            let Some(policy) = policy_of(&topic.view, labels, target) else { continue };
            let requester = topic.spec.requester.as_ref();
            if let Some(v) = first_violation(&policy.spec, target, strategy, requester) {
                let path = v.field.path(s, t);
                return Err(refuse(&topic.object, target, policy, &path, v).into());
            }
        }
    }
    Ok(())
}

/// The policy that governs a target: by its labels now, and by those that the ledger noted.
pub(super) fn policy_of<'v>(
    view: &'v NamespaceView,
    labels: &Labelled,
    target: &WorkloadTarget,
) -> Option<&'v PolicyView> {
    let none = Labels::new();
    let labels = labels.get(&(target.kind, target.name.clone())).unwrap_or(&none);
    view.policy(target.kind, &target.name, labels)
}

pub(super) fn refuse(
    object: &str,
    target: &WorkloadTarget,
    policy: &PolicyView,
    path: &str,
    violation: Violation,
) -> Refusal {
    let Violation { reason, rule, what, help, .. } = violation;
    Refusal::new(
        reason,
        format!("{object} may not be created: {path}: {what}"),
        format!(
            "`{rule}` of policy `{}`, which governs {} {}",
            policy.name, target.kind, target.name
        ),
        help,
    )
    .run(format!("kubectl get upgradepolicy {} -o jsonpath='{{.{rule}}}'", policy.name))
}

/// What one approval covers where several policies are about an Upgrade: the least that one of them
/// says, of those that ask for approvals at all.
pub fn scope<'p>(policies: impl IntoIterator<Item = &'p UpgradePolicySpec>) -> ApprovalScope {
    let asking = policies.into_iter().filter(|p| p.approvals.required > 0);
    asking.map(|p| p.approvals.per).max().unwrap_or_default()
}

/// Whether somebody's approval counts under a policy; RBAC is asked elsewhere.
pub fn may_approve(policy: &UpgradePolicySpec, who: &Identity) -> bool {
    policy.approvals.approvers.as_ref().is_none_or(|people| people.include(who))
}

/// People, for messages: "user `ann`, group `sre`".
pub(super) fn people(people: &People) -> String {
    let users = people.users.iter().map(|u| format!("user `{u}`"));
    let all: Vec<_> = users.chain(people.groups.iter().map(|g| format!("group `{g}`"))).collect();
    some(&all)
}

/// The first few of a list that somebody may have made long.
pub(super) fn some(list: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = list.get(..SHOWN).unwrap_or(list).join(", ");
    match list.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
