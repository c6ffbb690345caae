//! Jobs that Upgrades run, and logs that they read: the rights, the policies, and what our own
//! controller may create.

use super::question::{Access, AccessNeed, Labelled, StartTopic};
use super::refusal::{Reason, Refusal};
use super::rules::{self, Field, Violation, digest_rule, registry_rule, requester_rule};
use super::snapshot::{Labels, NamespaceView, PolicyView, targets};
use super::workload::ImageDelta;
use crate::api::upgrade::{HealthCheck, ImageChange, JobStage, Stage, WorkloadTarget};
use crate::api::{Phase, Upgrade, UpgradeSpec, WorkloadKind};
use crate::engine::stages::job;
use crate::image::same;

/// What the requester has to be able to do by hand besides changing the workloads: create the Jobs,
/// read the logs.
pub fn rights(upgrade: &Upgrade, namespace: &str) -> Vec<AccessNeed> {
    let stages = &upgrade.spec.stages;
    let need = |verb, group, resource| {
        let namespace = namespace.to_owned();
        AccessNeed::One(Access { verb, group, resource, namespace, name: None })
    };
    let job = stages.iter().any(|s| s.job.is_some());
    let logs = stages.iter().flat_map(checks).any(|c| c.logs.is_some());
    let create = job.then(|| need("create", "batch", "jobs"));
    create.into_iter().chain(logs.then(|| need("get", "", "pods/log"))).collect()
}

fn checks(stage: &Stage) -> impl Iterator<Item = &HealthCheck> {
    let workloads = stage.workloads.iter().flat_map(|w| &w.health_checks);
    workloads.chain(stage.checks.iter().flat_map(|c| &c.health_checks))
}

/// The labels that the Job of a stage will have, as far as policies select by them.
fn labels_of(app: &str) -> Labels {
    [("app", app), ("type", "migration")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// The policies that an Upgrade's Jobs are under, with the index of the stage: the one that governs
/// Jobs of these labels, and those of the workloads that the same Upgrade changes.
pub fn governing<'v>(
    view: &'v NamespaceView,
    upgrade: &Upgrade,
    labels: impl Fn(WorkloadKind, &str) -> Option<Labels>,
) -> Vec<(usize, &'v PolicyView)> {
    let jobs = upgrade.spec.stages.iter().enumerate();
    let jobs: Vec<_> = jobs.filter_map(|(i, s)| Some((i, s.job.as_ref()?))).collect();
    if jobs.is_empty() {
        return Vec::new();
    }
    let mut shared: Vec<&PolicyView> = Vec::new();
    for target in targets(upgrade) {
        let own = labels(target.kind, &target.name).unwrap_or_default();
        add(&mut shared, view.policy(target.kind, &target.name, &own));
    }
    let mut found = Vec::new();
    for (stage, job) in jobs {
        let app = job::app(job, upgrade);
        let mut all = shared.clone();
        add(&mut all, view.policy(WorkloadKind::Job, &app, &labels_of(&app)));
        found.extend(all.into_iter().map(|policy| (stage, policy)));
    }
    found
}

fn add<'v>(all: &mut Vec<&'v PolicyView>, policy: Option<&'v PolicyView>) {
    all.extend(policy.filter(|p| !all.iter().any(|known| known.name == p.name)));
}

/// The rule of a policy that the Job of a stage breaks: who may ask, and which images may run. Its
/// strategies are about workloads.
fn first_violation(policy: &PolicyView, spec: &UpgradeSpec, job: &JobStage) -> Option<Violation> {
    let asks = requester_rule(policy.spec.requesters.as_ref(), spec.requester.as_ref());
    let images = job::images(job).unwrap_or_default();
    let change = |(container, image): &(String, String)| ImageChange {
        container: container.clone(),
        from: String::new(),
        to: image.clone(),
    };
    let broken = images.iter().map(change).find_map(|change| {
        registry_rule(&policy.spec, 0, &change).or_else(|| digest_rule(&policy.spec, 0, &change))
    });
    asks.or_else(|| broken.map(|v| Violation { field: Field::Job, ..v }))
}

/// What a policy says of the Job of a stage now; it may have changed since the Upgrade was admitted.
pub fn violation(policy: &PolicyView, upgrade: &Upgrade, stage: usize) -> Option<String> {
    let job = upgrade.spec.stages.get(stage)?.job.as_ref()?;
    let found = first_violation(policy, &upgrade.spec, job)?;
    let field = found.field.path(stage, 0);
    Some(format!("policy `{}` ({}): {field}: {found}", policy.name, found.rule))
}

/// Ends the question of an Upgrade that is to be created, for the Job of one of its stages.
pub(super) fn confirm(
    topic: &StartTopic,
    labels: &Labelled,
    stage: usize,
    job: &JobStage,
) -> Result<(), Box<Refusal>> {
    let name = topic.object.rsplit('/').next().unwrap_or_default();
    let upgrade = Upgrade::new(name, topic.spec.clone());
    let known = |kind, name: &str| labels.get(&(kind, name.to_owned())).cloned();
    let app = job::app(job, &upgrade);
    for (at, policy) in governing(&topic.view, &upgrade, known) {
        if at != stage {
            continue;
        }
        if let Some(v) = first_violation(policy, &topic.spec, job) {
            let path = v.field.path(stage, 0);
            let target =
                WorkloadTarget { kind: WorkloadKind::Job, name: app.clone(), images: Vec::new() };
            return Err(rules::refuse(&topic.object, &target, policy, &path, v).into());
        }
    }
    Ok(())
}

/// Why an Upgrade, read live, does not cover a Job that our own controller is about to create:
/// reason, evidence, help.
pub fn uncovered(live: &Upgrade, images: &[ImageDelta]) -> Option<(Reason, String, &'static str)> {
    let phase = live.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let aborted = live.spec.control.as_ref().is_some_and(|c| c.abort);
    let leaving = live.metadata.deletion_timestamp.is_some();
    if phase == Phase::RollingBack || aborted || leaving {
        let why = "it is being taken back".to_owned();
        return Some((Reason::WrongPhase, why, "no Job is made on the way back"));
    }
    let jobs = live.spec.stages.iter().filter_map(|s| s.job.as_ref());
    let covers = |job: &JobStage| {
        let listed = job::images(job).unwrap_or_default();
        let is = |(c, i): &(String, String), d: &ImageDelta| {
            *c == d.container && d.to.as_ref().is_some_and(|to| same(i, to))
        };
        listed.len() == images.len() && images.iter().all(|d| listed.iter().any(|l| is(l, d)))
    };
    if jobs.into_iter().any(covers) {
        return None;
    }
    let why = "none of its stages runs a Job of these images".to_owned();
    Some((Reason::NotCovered, why, "an approval covers the listed images only"))
}
