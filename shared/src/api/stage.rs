//! Stages of an Upgrade: one field for each stage kind.

use super::WorkloadKind;
use super::check::{ChecksStage, HealthCheck};
use super::job::JobStage;
use super::strategy::Strategy;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One ordered part of an Upgrade; exactly one of its kinds is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.workloads), has(self.job), has(self.checks)].filter(x, x).size() == 1")
    .message("a stage needs exactly one kind; this version knows `workloads`, `job` and `checks`"))]
pub struct Stage {
    /// Name of the stage, unique in the Upgrade.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Rolls workloads out to new images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsStage>,
    /// Runs a Job to its end: migrations before and after, backups, smoke tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobStage>,
    /// Checks the health of what runs, and changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<ChecksStage>,
}

/// Rolls workloads out to new images, all of them in step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.strategy.blueGreen) || size(self.targets) == 1")
    .message("a blueGreen stage has exactly one target, for its activeService is that one's; make a stage for each"))]
#[x_kube(validation = Rule::new("self.targets.size() == 1 || !has(self.strategy.canary) || !(has(self.strategy.canary.trafficRouting) || has(self.strategy.canary.stableService) || has(self.strategy.canary.canaryService))")
    .message("trafficRouting, stableService and canaryService need a stage with exactly one target; put each workload into a stage of its own"))]
pub struct WorkloadsStage {
    /// How each of the targets gets there.
    pub strategy: Strategy,
    /// What changes. Targets of one stage move together, a step at a time.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub targets: Vec<WorkloadTarget>,
    /// What the new pods are asked after each weight, before the step counts as done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub health_checks: Vec<HealthCheck>,
}

/// A workload and the images it is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind in ['Deployment', 'StatefulSet', 'DaemonSet']")
    .message("targets: kind must be Deployment, StatefulSet or DaemonSet; no other kind is upgraded"))]
pub struct WorkloadTarget {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload, in the Upgrade's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Image changes, at most one for a container.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["container".into()]))]
    pub images: Vec<ImageChange>,
}

/// The image of one container, before and after.
///
/// That they differ is checked by the controller: the API server's budget for rules does not
/// stretch to comparing thousands of strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageChange {
    /// Container or init container; their names are unique in a pod.
    #[schemars(length(min = 1, max = 63))]
    pub container: String,
    /// Image that runs now; the Upgrade fails before it touches anything if it is another.
    #[schemars(length(min = 1, max = 512))]
    pub from: String,
    /// Image to run.
    #[schemars(length(min = 1, max = 512))]
    pub to: String,
}
