//! `Upgrade`: one intended change of a namespace's workloads, in ordered stages.

use super::Identity;
use super::status::UpgradeStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::blue_green::BlueGreen;
pub use super::check::{
    CheckTarget, ChecksStage, ExpectedVersion, HealthCheck, HttpGetCheck, LogsCheck, Scheme,
    TcpSocketCheck,
};
pub use super::job::JobStage;
pub use super::stage::{ImageChange, Stage, WorkloadTarget, WorkloadsStage};
pub use super::strategy::{
    Canary, CanaryStep, Pause, RollbackWindow, Rolling, Strategy, StrategyName,
};

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
#[x_kube(validation = Rule::new("has(self.onConflict) == has(oldSelf.onConflict) && (!has(self.onConflict) || self.onConflict == oldSelf.onConflict)")
    .message("spec.onConflict is immutable: make another Upgrade"))]
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
    /// What becomes of it where another Upgrade has one of its workloads. Absent: it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<OnConflict>,
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

/// What becomes of an Upgrade that wants a workload which another one has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnConflict {
    /// It is refused.
    #[default]
    Reject,
    /// It waits for the end of those made before it, by `metadata.creationTimestamp` (in whole
    /// seconds); its `from` is what they leave behind.
    Queue,
    /// It aborts those before it, which needs the verb `abort` on each, and starts from what they
    /// started from.
    Supersede,
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
    /// An analysis says no, or cannot be made. Otherwise the Upgrade stands still, Degraded.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub analysis_failure: bool,
    /// More than this share of all measurements failed, whatever each metric's own limits bear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_threshold: Option<ErrorThreshold>,
}

/// The share of measurements that may fail over a whole attempt.
///
/// Counted are the failed ones and the errors of all analyses of the attempt, dry runs left out. It
/// is looked at once there are so many measurements that a single one is not over it by itself:
/// 20 of them at 5 %.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorThreshold {
    /// In percent, 1 to 99.
    #[x_kube(validation = Rule::new("self >= 1 && self <= 99")
        .message("errorThreshold.percent is a percentage from 1 to 99"))]
    pub percent: i32,
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
#[x_kube(validation = Rule::new("!has(self.toStep) || self.toStep > (has(self.step) ? self.step : 0)")
    .message("promote.toStep must come after promote.step: it goes forward only; abort takes it back"))]
#[x_kube(validation = Rule::new("!has(self.toStep) || !has(self.full) || !self.full")
    .message("promote.toStep and promote.full exclude each other"))]
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
    /// Index of a later step to go on to, from 0: pauses and analyses before it are left out, weights
    /// too, but neither approvals nor the gates of the step itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_step: Option<i32>,
}

impl Default for OnFailure {
    fn default() -> Self {
        Self { health_check_failure: true, analysis_failure: true, error_threshold: None }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_yes(yes: &bool) -> bool {
    *yes
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}
