//! From what is wanted and what runs to a plan: the spec of an Upgrade, its hash, its risks.

use super::hash::plan_hash;
use super::live::Live;
use super::risks::{Notice, notices};
use crate::api::upgrade::{
    AutoRollback, HealthCheck, ImageChange, JobStage, OnConflict, Stage, Strategy, UpgradeSpec,
    WindowOverrun, WorkloadTarget, WorkloadsStage,
};
use crate::image::Image;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use std::collections::BTreeSet;

/// Longest name of an Upgrade: it becomes a label value on the workloads.
pub const MAX_NAME: usize = 63;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Namespace of the workloads and of the Upgrade.
    pub namespace: String,
    /// Name of the Upgrade; made up from the workloads and the version if absent.
    pub name: Option<String>,
    /// How the workloads get there.
    pub strategy: Strategy,
    /// When it is taken back by itself.
    pub auto_rollback: Option<AutoRollback>,
    /// When it may start at the earliest.
    pub not_before: Option<Time>,
    /// What becomes of it when its window shuts under way.
    pub window_overrun: Option<WindowOverrun>,
    /// What becomes of it where another Upgrade has one of its workloads.
    pub on_conflict: Option<OnConflict>,
    /// A Job that runs before anything changes.
    pub before: Option<JobStage>,
    /// What new pods are asked after each weight.
    pub health_checks: Vec<HealthCheck>,
    /// What is to change.
    pub workloads: Vec<Workload>,
}

/// A live workload and the images it is to run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The workload as it is now.
    pub live: Live,
    /// Its image changes.
    pub images: Vec<ImageChange>,
    /// Whether something scales it.
    pub autoscaler: Autoscaler,
}

/// Whether something scales a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Autoscaler {
    /// Nothing that was seen.
    None,
    /// A HorizontalPodAutoscaler of this name.
    Named(String),
    /// Autoscalers could not be read.
    Unknown,
}

impl Workload {
    /// `deploy/NAME`
    pub fn reference(&self) -> String {
        self.live.reference()
    }

    /// Pods wanted now.
    pub fn replicas(&self) -> i32 {
        self.live.replicas()
    }

    /// Whether its own strategy replaces all pods at once.
    pub fn is_recreate(&self) -> bool {
        self.live.is_recreate()
    }

    /// Whether its last rollout is complete.
    pub fn is_settled(&self) -> bool {
        self.live.is_settled()
    }

    fn is_init(&self, container: &str) -> bool {
        let inits = self.live.pod().and_then(|p| p.init_containers.as_ref());
        inits.is_some_and(|list| list.iter().any(|c| c.name == container))
    }
}

/// What an Upgrade will do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Name of the Upgrade.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What it is made of.
    pub spec: UpgradeSpec,
    /// What an approval is bound to.
    pub plan_hash: String,
    /// One row for each image that changes.
    pub changes: Vec<Row>,
    /// What to know before saying yes, the risks first.
    pub notices: Vec<Notice>,
}

/// One image that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// `deploy/NAME`
    pub component: String,
    /// The container.
    pub container: String,
    /// Whether it is an init container.
    pub init: bool,
    /// Version that runs.
    pub current: String,
    /// Version to run.
    pub target: String,
    /// Image that runs.
    pub from: String,
    /// Image to run.
    pub to: String,
    /// Pods that are replaced.
    pub replicas: i32,
}

/// Makes a plan. Workloads without an image change are left out; the rest is sorted, so that the
/// same intention always has the same hash.
pub fn plan(mut request: Request) -> Plan {
    request.workloads.retain(|w| !w.images.is_empty());
    request.workloads.sort_by_key(|w| (w.live.name_any(), w.live.kind()));
    for workload in &mut request.workloads {
        workload.images.sort_by(|a, b| a.container.cmp(&b.container));
    }
    let (from, to) = versions(&request.workloads);
    let name =
        request.name.clone().unwrap_or_else(|| default_name(&request.workloads, to.as_deref()));
    let spec = UpgradeSpec {
        from,
        to,
        stages: stages(&request),
        auto_rollback: request.auto_rollback.clone(),
        not_before: request.not_before.clone(),
        window_overrun: request.window_overrun,
        on_conflict: request.on_conflict,
        ..UpgradeSpec::default()
    };
    let plan_hash = plan_hash(&request.namespace, &name, &spec);
    Plan {
        name,
        namespace: request.namespace.clone(),
        plan_hash,
        changes: request.workloads.iter().flat_map(rows).collect(),
        notices: notices(&request),
        spec,
    }
}

/// The Job first, where there is one, then all workloads together.
fn stages(request: &Request) -> Vec<Stage> {
    let job = |job: &JobStage| Stage {
        name: "migrate".to_owned(),
        job: Some(job.clone()),
        ..Stage::default()
    };
    let workloads = Stage {
        name: "workloads".to_owned(),
        workloads: Some(WorkloadsStage {
            strategy: request.strategy.clone(),
            targets: request.workloads.iter().map(target).collect(),
            health_checks: request.health_checks.clone(),
        }),
        ..Stage::default()
    };
    request.before.iter().map(job).chain([workloads]).collect()
}

/// The hash of a plan under another name.
pub fn rename(plan: &mut Plan, name: String) {
    plan.plan_hash = plan_hash(&plan.namespace, &name, &plan.spec);
    plan.name = name;
}

fn target(workload: &Workload) -> WorkloadTarget {
    WorkloadTarget {
        kind: workload.live.kind(),
        name: workload.live.name_any(),
        images: workload.images.clone(),
    }
}

fn rows(workload: &Workload) -> Vec<Row> {
    let row = |change: &ImageChange| {
        let (current, target) = (version(&change.from), version(&change.to));
        Row {
            component: workload.reference(),
            init: workload.is_init(&change.container),
            container: change.container.clone(),
            current,
            target,
            from: change.from.clone(),
            to: change.to.clone(),
            replicas: workload.replicas(),
        }
    };
    workload.images.iter().map(row).collect()
}

/// What a person would call the version of an image.
pub fn version(image: &str) -> String {
    Image::parse(image).map_or_else(|_| image.to_owned(), |i| i.version())
}

/// The versions before and after, where all images agree; helpers that start before the others
/// (init containers) need not.
fn versions(workloads: &[Workload]) -> (Option<String>, Option<String>) {
    let pick = |side: fn(&ImageChange) -> &str| {
        let all = workloads.iter().flat_map(|w| w.images.iter().map(move |c| (w, c)));
        let main = all.clone().filter(|(w, c)| !w.is_init(&c.container));
        agreed(all.map(|(_, c)| version(side(c))))
            .or_else(|| agreed(main.map(|(_, c)| version(side(c)))))
    };
    (pick(|c| &c.from), pick(|c| &c.to))
}

fn agreed(versions: impl Iterator<Item = String>) -> Option<String> {
    let mut set: BTreeSet<String> = versions.collect();
    if set.len() == 1 { set.pop_first() } else { None }
}

fn default_name(workloads: &[Workload], to: Option<&str>) -> String {
    let subject = match workloads {
        [one] => one.live.name_any(),
        _ => "upgrade".to_owned(),
    };
    name_of(&subject, to.unwrap_or("images"))
}

/// A valid object name and label value from two words.
pub fn name_of(subject: &str, version: &str) -> String {
    let clean = |text: &str| -> String {
        let lower = text.to_ascii_lowercase();
        let kept: String = lower
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' })
            .collect();
        // `..`, `.-` and `-.` are not allowed in a name.
        kept.split('.')
            .map(|part| part.trim_matches('-'))
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(".")
    };
    let (subject, mut version) = (clean(subject), clean(version));
    version.truncate(30);
    let room = MAX_NAME.saturating_sub(version.len() + 1);
    let subject: String = subject.chars().take(room).collect();
    let ends = |c: char| matches!(c, '-' | '.');
    format!("{}-{}", subject.trim_matches(ends), version.trim_matches(ends))
        .trim_matches(ends)
        .to_owned()
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
