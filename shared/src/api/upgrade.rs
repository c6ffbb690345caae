//! `Upgrade`: one intended change of a namespace's workloads, in ordered stages.

use super::status::UpgradeStatus;
use super::{Identity, WorkloadKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to change, in which stages, and how failure is answered.
///
/// Everything but `paused` and `control` is immutable: a different plan is a different Upgrade.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "Upgrade",
    namespaced,
    shortname = "upg",
    category = "kubectl-upgrade",
    status = "UpgradeStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One intended change of a namespace's workloads, in ordered stages behind gates.",
    validation = Rule::new("size(self.metadata.name) <= 63").message(
        "metadata.name must be at most 63 characters: it becomes a label value on the workloads"),
    printcolumn(name = "Current", type_ = "string", json_path = ".status.currentVersion"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.targetVersion"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.stage"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.canaryWeight"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.from) == has(oldSelf.from) && (!has(self.from) || self.from == oldSelf.from)")
    .message("spec.from is immutable: make another Upgrade"))]
#[x_kube(validation = Rule::new("has(self.to) == has(oldSelf.to) && (!has(self.to) || self.to == oldSelf.to)")
    .message("spec.to is immutable: make another Upgrade"))]
#[x_kube(validation = Rule::new("self.stages == oldSelf.stages")
    .message("spec.stages is immutable: an approval covers exactly one plan; make another Upgrade"))]
#[x_kube(validation = Rule::new("has(self.autoRollback) == has(oldSelf.autoRollback) && (!has(self.autoRollback) || self.autoRollback == oldSelf.autoRollback)")
    .message("spec.autoRollback is immutable: make another Upgrade"))]
#[x_kube(validation = Rule::new("has(self.windowOverrun) == has(oldSelf.windowOverrun) && (!has(self.windowOverrun) || self.windowOverrun == oldSelf.windowOverrun)")
    .message("spec.windowOverrun is immutable: make another Upgrade"))]
#[x_kube(validation = Rule::new("has(self.notBefore) == has(oldSelf.notBefore) && (!has(self.notBefore) || self.notBefore == oldSelf.notBefore)")
    .message("spec.notBefore is immutable: make another Upgrade"))]
#[x_kube(validation = Rule::new("(has(self.held) && self.held) == (has(oldSelf.held) && oldSelf.held)")
    .message("spec.held is immutable: mode Hold sets it"))]
#[x_kube(validation = Rule::new("has(self.requester) == has(oldSelf.requester) && (!has(self.requester) || self.requester == oldSelf.requester)")
    .message("spec.requester is immutable: it is stamped at admission"))]
pub struct UpgradeSpec {
    /// Version that runs now, for people; the images in the stages are what is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub from: Option<String>,
    /// Version to get to, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub to: Option<String>,
    /// Stages, walked in order; each is finished and verified before the next starts.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub stages: Vec<Stage>,
    /// When the upgrade is taken back without anybody asking. Absent: on a failed health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<AutoRollback>,
    /// What becomes of it when its maintenance window shuts, or a freeze comes, while it is under
    /// way. Absent: the step is finished, and the next one waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_overrun: Option<WindowOverrun>,
    /// The earliest time at which it may start by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Mode `Hold` opened it: its one Deployment has the new template already, paused. Set by the
    /// controller alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Stops everything where it stands, until it is false again; what runs goes on serving.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Orders to an Upgrade under way, each a verb with rights of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// Who asked for it; stamped at admission from `userInfo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Identity>,
}

/// One ordered part of an Upgrade; exactly one of its kinds is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.workloads)")
    .message("a stage needs exactly one kind; this version knows `workloads`"))]
pub struct Stage {
    /// Name of the stage, unique in the Upgrade.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Rolls workloads out to new images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsStage>,
}

/// Rolls workloads out to new images, all of them in step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadsStage {
    /// How each of the targets gets there.
    pub strategy: Strategy,
    /// What changes. Targets of one stage move together, a step at a time.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub targets: Vec<WorkloadTarget>,
}

/// How a workload moves from its old images to the new; exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.rolling) != has(self.canary)")
    .message("strategy needs exactly one of `rolling` and `canary`"))]
pub struct Strategy {
    /// The workload's own rolling update, watched and taken back when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// Weight by weight, in place, with pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// Name of a strategy, where a rule is about strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StrategyName {
    /// The workload's own rolling update.
    Rolling,
    /// Weight by weight.
    Canary,
}

impl StrategyName {
    /// The name as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Canary => "canary",
        }
    }
}

impl std::fmt::Display for StrategyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Strategy {
    /// Its name; what says neither or both is taken for the more careful one.
    pub fn name(&self) -> StrategyName {
        if self.rolling.is_some() && self.canary.is_none() {
            StrategyName::Rolling
        } else {
            StrategyName::Canary
        }
    }
}

/// What becomes of an Upgrade whose window shuts while it is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WindowOverrun {
    /// The step under way is finished; the next one waits for the window.
    #[default]
    FinishStep,
    /// Everything stands still at once, and goes on when the window opens.
    Pause,
    /// It is taken back.
    Rollback,
}

/// Settings of the rolling strategy: the workload's own knobs apply, so there are none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Rolling {}

/// Settings of the canary strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Steps, walked in order; after the last one the workload is at 100.
    #[schemars(length(min = 1, max = 50))]
    #[x_kube(validation = Rule::new("self.filter(s, has(s.setWeight)).map(s, s.setWeight).isSorted()")
        .message("steps: setWeight must not go down; a canary in place can only grow (abort takes it back)"))]
    pub steps: Vec<CanaryStep>,
}

/// One step of a canary; exactly one of its fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.setWeight) != has(self.pause)")
    .message("a step needs exactly one of `setWeight` and `pause`"))]
pub struct CanaryStep {
    /// Share of the replicas that run the new images after this step, in percent, 1 to 100.
    ///
    /// The canary is rounded down to whole pods, but never to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100")
        .message("setWeight is a percentage from 1 to 100"))]
    pub set_weight: Option<i32>,
    /// Rests here: for a while, or until somebody promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

/// A rest between steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// How long, for instance `30s`, `5m`, `1h30m`. Absent: until `kubectl upgrade promote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(ms|s|m|h))+$')")
        .message("duration is a number with a unit (ms, s, m, h), for instance 30s, 5m or 1h30m"))]
    pub duration: Option<String>,
}

/// A workload and the images it is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind == 'Deployment'")
    .message("targets: kind must be Deployment; this version upgrades no other kind"))]
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

/// When an upgrade is taken back by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoRollback {
    /// Failures that take the upgrade back.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Longest time from the first write to the end, pauses left out, for instance `30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(ms|s|m|h))+$')")
        .message("onTimeout is a number with a unit (ms, s, m, h), for instance 30m"))]
    pub on_timeout: Option<String>,
}

/// Failures that take an upgrade back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnFailure {
    /// New pods crash, cannot be started, or make no progress within the workload's own
    /// `progressDeadlineSeconds`. Otherwise the Upgrade stands still, Degraded, and waits for a
    /// person.
    #[serde(default = "yes")]
    pub health_check_failure: bool,
}

/// Orders to an Upgrade under way. Outside the plan hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Control {
    /// Take it back to where it started. Stays until a retry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
    /// Go on past a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote: Option<Promote>,
    /// How often it is to be started over; one more than `status.attempt` starts it over.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[x_kube(validation = Rule::new("self >= 0").message("retry counts up from 0"))]
    pub retry: i32,
}

/// How far to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Promote {
    /// The attempt this is meant for (`status.attempt`), so that an old order never carries over.
    #[serde(default)]
    pub attempt: i32,
    /// Index of the stage whose pause is released.
    #[serde(default)]
    pub stage: i32,
    /// Index of the pause step that is released.
    #[serde(default)]
    pub step: i32,
    /// Release every pause from here to the end of the stage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

impl Default for OnFailure {
    fn default() -> Self {
        Self { health_check_failure: true }
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}
