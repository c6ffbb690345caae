//! A workload is created, and pods that would be taken for somebody else's.

use super::decide::{Place, Verdict};
use super::images::{self as changes, waiting};
use super::refusal::{Reason, Refusal};
use super::separate;
use super::workload::Workload;
use crate::api::{FirstInstall, IN_FLIGHT_LABEL, LedgerEntry, WorkloadKind};

/// A CREATE of an object that carries images, by anybody but its verified controller.
pub fn decide(place: &Place<'_>, new: &Workload<'_>) -> Verdict {
    if !place.view.governed() {
        return Verdict::Allow;
    }
    if let Some(upgrade) = new.in_flight().filter(|_| !place.own) {
        return reserved(place, new, upgrade).into();
    }
    if let Some(upgrade) = new.in_flight().filter(|_| place.own && new.kind == WorkloadKind::Job) {
        let images: Vec<_> = super::workload::deltas(&[], &new.images);
        return changes::question(place, new, upgrade, images).into();
    }
    if let Some(verdict) = separate::decide(place, new) {
        return verdict;
    }
    if let Some(verdict) = from_cron_job(place, new) {
        return verdict;
    }
    let Some(policy) = place.policy(None, new) else {
        return intrusion(place, new).map_or(Verdict::Allow, Verdict::from);
    };
    let object = format!("{} {}/{}", new.kind, place.namespace, new.name);
    if let Some(entry) = place.view.entry(new.kind, &new.name) {
        if new.runs(entry) {
            return Verdict::Allow;
        }
        let by = format!("policy `{}` governs it", policy.name);
        return mismatch(place, new, entry, &by).into();
    }
    if policy.spec.first_install != FirstInstall::Upgrade {
        return intrusion(place, new).map_or(Verdict::Allow, Verdict::from);
    }
    Refusal::new(
        Reason::FirstInstall,
        format!("{object} may not be created: nobody approved a workload of this name"),
        format!(
            "policy `{}` wants an Upgrade even for a first install (`spec.firstInstall: Upgrade`), and the \
             ledger of the namespace has no entry for it",
            policy.name
        ),
        "this version approves changes of images and not first installs: set \
         `spec.firstInstall: Allow` while it is created",
    )
    .run(format!("kubectl edit upgradepolicy {}", policy.name))
    .into()
}

/// The verdict on a Job that names a governed CronJob as its controller: it runs what that was
/// approved to run, also where a first install needs an Upgrade.
fn from_cron_job(place: &Place<'_>, new: &Workload<'_>) -> Option<Verdict> {
    let name = new.cron_job.as_deref().filter(|_| new.kind == WorkloadKind::Job)?;
    let entry = place.view.entry(WorkloadKind::CronJob, name)?;
    let policy = place.view.policy(WorkloadKind::CronJob, name, &entry.labels)?;
    if new.runs(entry) {
        return Some(intrusion(place, new).map_or(Verdict::Allow, Verdict::from));
    }
    let by = format!("policy `{}` governs CronJob {name}, which it is made from", policy.name);
    Some(mismatch(place, new, entry, &by).into())
}

/// The refusal for pods that would fall into the selector of a governed workload and run other
/// images than that one: its Services would send them traffic, its ReplicaSet adopt them.
///
/// A ReplicaSet is refused also with the same images: a Deployment adopts it and keeps it, and
/// after the next Upgrade it would be one with old images that the Deployment did not make.
pub fn intrusion(place: &Place<'_>, new: &Workload<'_>) -> Option<Refusal> {
    // Without pod labels nothing can be selected; most requests end here.
    if new.pod_labels.is_empty() {
        return None;
    }
    let taken = |entry: &&LedgerEntry| {
        let selector = entry.selector.as_ref().filter(|s| !s.is_empty());
        let other = entry.kind != new.kind || entry.name != new.name;
        let adopted =
            new.kind == WorkloadKind::ReplicaSet && entry.kind == WorkloadKind::Deployment;
        other
            && selector.is_some_and(|s| s.matches(&new.pod_labels))
            && (adopted || !new.runs(entry))
    };
    let entry = place.view.entries().find(taken)?;
    let owner = format!("{} {}", entry.kind, entry.name);
    Some(
        Refusal::new(
            Reason::SelectorTaken,
            format!(
                "{} {}/{}: its pods would count as those of {owner}",
                new.kind, place.namespace, new.name
            ),
            if new.runs(entry) {
                format!("their labels match the selector of {owner}, which makes its own")
            } else {
                format!(
                    "their labels match the selector of {owner}, which was approved to run {}",
                    images(entry)
                )
            },
            format!("give the pods other labels, or change the images of {owner} by an Upgrade"),
        )
        .run(format!(
            "kubectl get {} {} -n {} -o jsonpath='{{.spec.selector}}'",
            entry.kind.resource(),
            entry.name,
            place.namespace
        )),
    )
}

fn mismatch(place: &Place<'_>, new: &Workload<'_>, entry: &LedgerEntry, by: &str) -> Refusal {
    let images: Vec<_> =
        new.images.iter().map(|i| format!("`{}` {}", i.container, i.image)).collect();
    let refusal = Refusal::new(
        Reason::LedgerMismatch,
        format!(
            "{} {}/{} may not be created with {}",
            new.kind,
            place.namespace,
            new.name,
            images.join(", ")
        ),
        format!("{by}, and that was last approved with {}", self::images(entry)),
        "create it with the approved images, then start an Upgrade to the others: deleting and \
         creating a workload is no way to change its images",
    );
    if let Some(open) = place.view.open_upgrade(new.kind, &new.name) {
        let why = format!("{}; {} is under way", refusal.why, waiting(open));
        let command = format!("kubectl upgrade status {} -n {}", open.name, place.namespace);
        return Refusal { why, ..refusal }.run(command);
    }
    if !super::images::is_upgraded(new.kind) {
        return refusal
            .run(format!("kubectl get upgradeledger ledger -n {} -o yaml", place.namespace));
    }
    refusal.run(format!(
        "kubectl upgrade start {}/{} --image CONTAINER=IMAGE -n {}",
        new.kind.short(),
        new.name,
        place.namespace
    ))
}

fn reserved(place: &Place<'_>, new: &Workload<'_>, upgrade: &str) -> Refusal {
    Refusal::new(
        Reason::LabelReserved,
        format!(
            "{} {}/{} may not be created with the label {IN_FLIGHT_LABEL}={upgrade}",
            new.kind, place.namespace, new.name
        ),
        "the upgrade controller alone sets that label, while an Upgrade is in flight",
        "create it without the label; a saved manifest of an object in flight carries it",
    )
    .run(format!("kubectl upgrade status {upgrade} -n {}", place.namespace))
}

fn images(entry: &LedgerEntry) -> String {
    let all: Vec<_> =
        entry.images.iter().map(|i| format!("`{}` {}", i.container, i.image)).collect();
    all.join(", ")
}
