//! Canaries that are Deployments of their own: the rights, what our own controller may create, and
//! when their workloads may follow.

use super::create::intrusion;
use super::decide::{Place, Verdict};
use super::question::{Access, AccessNeed, ImagesTopic, LabelsOf, Question, Topic, UpgradeRef};
use super::refusal::Reason;
use super::workload::{Image, ImageDelta, Workload, deltas};
use crate::api::separate::{CANARY_SUFFIX, canary_of};
use crate::api::upgrade::WorkloadTarget;
use crate::api::{LedgerEntry, Phase, Upgrade, WorkloadKind};
use crate::image::same;

/// What the requester has to be able to do by hand besides changing the workloads: make the
/// canaries, size them, and take them away.
pub(super) fn rights(upgrade: &Upgrade, namespace: &str) -> Vec<AccessNeed> {
    let names: Vec<String> = targets(upgrade).map(|(_, t)| canary_of(&t.name)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let right = |verb, name| Access {
        verb,
        group: "apps",
        resource: "deployments",
        namespace: namespace.to_owned(),
        name,
    };
    // A create cannot be limited by name.
    let mut needs = vec![AccessNeed::One(right("create", None))];
    needs.extend(["patch", "delete"].map(|verb| {
        let each = names.iter().map(|name| right(verb, Some(name.clone()))).collect();
        AccessNeed::WholeOrEach { whole: right(verb, None), each }
    }));
    needs
}

/// The targets that have canaries of their own, with the index of their stage.
fn targets(upgrade: &Upgrade) -> impl Iterator<Item = (usize, &WorkloadTarget)> {
    let stages = upgrade.spec.stages.iter().enumerate();
    let stages = stages.filter_map(|(i, s)| Some((i, s.workloads.as_ref()?)));
    let separate = |(_, w): &(usize, &crate::api::upgrade::WorkloadsStage)| {
        w.strategy.canary.as_ref().is_some_and(|c| c.separate.is_some())
    };
    stages.filter(separate).flat_map(|(i, w)| w.targets.iter().map(move |t| (i, t)))
}

/// Our own controller makes a Deployment under an Upgrade's label: a canary, and of what the ledger
/// knows its workload to run only what the Upgrade names may differ. None where it is anything
/// else, or its workload is not known: that is a creation like any other.
pub(super) fn decide(place: &Place<'_>, new: &Workload<'_>) -> Option<Verdict> {
    let upgrade = new.in_flight().filter(|_| place.own)?;
    if new.kind != WorkloadKind::Deployment {
        return None;
    }
    let main = new.name.strip_suffix(CANARY_SUFFIX)?;
    let entry = place.view.entry(WorkloadKind::Deployment, main)?;
    // In somebody else's selector its pods would get somebody else's traffic.
    if let Some(refusal) = intrusion(place, new) {
        return Some(refusal.into());
    }
    let question = Question {
        upgrade: Some(UpgradeRef { namespace: place.namespace.into(), name: upgrade.to_owned() }),
        access: Vec::new(),
        templates: Vec::new(),
        labels: LabelsOf::Nothing,
        on_behalf_of: None,
        topic: Topic::Images(ImagesTopic {
            kind: new.kind,
            namespace: place.namespace.to_owned(),
            name: main.to_owned(),
            upgrade: upgrade.to_owned(),
            deltas: changes(entry, new),
            may_go_forward: true,
            held: false,
            canary: true,
        }),
    };
    Some(question.into())
}

fn changes(entry: &LedgerEntry, new: &Workload<'_>) -> Vec<ImageDelta> {
    let mut approved: Vec<Image<'_>> = entry
        .images
        .iter()
        .map(|i| Image { container: (&*i.container).into(), image: (&*i.image).into() })
        .collect();
    approved.sort_unstable();
    deltas(&approved, &new.images)
}

/// Why an Upgrade, read live, does not cover the canary that our own controller is about to make:
/// reason, evidence, help.
pub(super) fn uncovered(
    live: &Upgrade,
    topic: &ImagesTopic,
) -> Option<(Reason, String, &'static str)> {
    let phase = live.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let aborted = live.spec.control.as_ref().is_some_and(|c| c.abort);
    if phase == Phase::RollingBack || aborted || live.metadata.deletion_timestamp.is_some() {
        let why = "it is being taken back".to_owned();
        return Some((Reason::WrongPhase, why, "no canary is made on the way back"));
    }
    let mut mine = targets(live).map(|(_, t)| t).filter(|t| is(t, topic)).peekable();
    if mine.peek().is_none() {
        let why = format!("no stage of it makes a canary of its own of {}", topic.name);
        return Some((Reason::NotCovered, why, "an approval covers the listed workloads only"));
    }
    let named = |t: &WorkloadTarget, d: &ImageDelta| {
        let to =
            |to: &String| t.images.iter().any(|c| c.container == d.container && same(to, &c.to));
        d.to.as_ref().is_some_and(to)
    };
    if mine.any(|t| topic.deltas.iter().all(|d| named(t, d))) {
        return None;
    }
    let why = "its stages name other images for this workload".to_owned();
    Some((Reason::NotCovered, why, "an approval covers the listed images only"))
}

fn is(target: &WorkloadTarget, topic: &ImagesTopic) -> bool {
    target.kind == topic.kind && target.name == topic.name
}

/// Why the workload itself may not follow its canary yet, in words. The status is written before
/// anything else is, so that the last weight stands there first.
pub(super) fn early(live: &Upgrade, topic: &ImagesTopic) -> Option<String> {
    let reached = |(stage, _): (usize, &WorkloadTarget)| {
        let seen = live.status.as_ref().and_then(|s| s.stages.get(stage));
        let mut seen = seen.into_iter().flat_map(|s| &s.targets);
        seen.any(|t| t.kind == topic.kind && t.name == topic.name && t.requested_weight >= 100)
    };
    let mut mine = targets(live).filter(|(_, t)| is(t, topic));
    (!mine.any(reached)).then(|| "its canary is not at the last weight".to_owned())
}
