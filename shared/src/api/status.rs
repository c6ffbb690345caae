//! Status of an Upgrade: what people read, and the engine's write-ahead log.

use super::blue_green::BlueGreenStatus;
use super::notification::PendingNotification;
use super::{Identity, WorkloadKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where an Upgrade is. Written by the controller alone, always before the write it announces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// `metadata.generation` this status is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// Where it is, in one word.
    #[serde(default)]
    pub phase: Phase,
    /// What it does while it is `Progressing`, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Why, and what would change it, in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Version that runs: `spec.from`, and `spec.to` once completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    /// Version it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// Hash of the plan: what an approval is bound to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan_hash: String,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Identity>,
    /// Approvals that count and that are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<ApprovalCount>,
    /// What it has to pass before it starts, or goes on, as last looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateStatus>,
    /// When the present plan was announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<NoticeStatus>,
    /// Notifications that have not arrived yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<PendingNotification>,
    /// How often it was started over.
    #[serde(default)]
    pub attempt: i32,
    /// Approvals, by `metadata.uid`, that an earlier attempt has used up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_approvals: Vec<String>,
    /// Since when it waits at a gate, once it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<MicroTime>,
    /// Since when it stands still because its window has shut (`windowOverrun: Pause`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_shut_since: Option<MicroTime>,
    /// The stage it is in, for the table: `1/2 web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Index of the stage it is in, from 0.
    #[serde(default)]
    pub current_stage_index: i32,
    /// Index of the step it is in, from 0.
    #[serde(default)]
    pub current_step_index: i32,
    /// Hash of the stage's steps that the index counts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_step_hash: Option<String>,
    /// Share of the pods that run the new images, in percent, as last seen.
    #[serde(default)]
    pub canary_weight: i32,
    /// When the pause it is in began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_start_time: Option<MicroTime>,
    /// When the first write of this attempt was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// Seconds spent in pauses in this attempt; deadlines leave them out.
    #[serde(default)]
    pub paused_seconds: i64,
    /// When the present pause of the whole Upgrade (`spec.paused`) began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<MicroTime>,
    /// When something will change by itself at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_transition_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Whether it was taken back.
    #[serde(default)]
    pub rolled_back: bool,
    /// Why it is taken back, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_reason: Option<String>,
    /// Last stage that was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_stage: Option<String>,
    /// Standard conditions: `Approved`, `Progressing`, `Completed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// One entry for a stage that has begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageStatus>,
    /// Analyses of this attempt, in the order in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analysis_runs: Vec<super::AnalysisRunStatus>,
}

/// One thing that an Upgrade has to pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// Which one.
    pub gate: Gate,
    /// Whether it lets the Upgrade pass.
    pub open: bool,
    /// Why, with the evidence, in one sentence.
    pub message: String,
    /// When that changes by itself, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
}

/// What holds an Upgrade, a stage or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Gate {
    /// What its policy says of strategies, images and requesters.
    Policy,
    /// The people whom its policy asks for.
    Approval,
    /// `spec.notBefore`
    NotBefore,
    /// The announcement and the time after it.
    Notice,
    /// Maintenance windows and freezes.
    Window,
    /// Compatibility matrices.
    Matrix,
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Policy => "Policy",
            Self::Approval => "Approval",
            Self::NotBefore => "NotBefore",
            Self::Notice => "Notice",
            Self::Window => "Window",
            Self::Matrix => "Matrix",
        })
    }
}

/// When a plan was announced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoticeStatus {
    /// The plan that was announced; another one is announced anew.
    pub plan_hash: String,
    /// When everybody had been told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// Receivers that were told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<String>,
}

/// Approvals that count and that are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalCount {
    /// How many are needed.
    pub required: i32,
    /// Who approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_by: Vec<String>,
    /// Who rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_by: Option<String>,
}

/// Where an Upgrade is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Seen; something that the message names is still missing.
    #[default]
    Pending,
    /// Waits for people.
    AwaitingApproval,
    /// Moves.
    Progressing,
    /// Rests, at a step or because `spec.paused` says so.
    Paused,
    /// Stands still after a failure; what runs goes on serving.
    Degraded,
    /// Is being taken back.
    RollingBack,
    /// Done: every target runs the new images.
    Completed,
    /// Taken back after a failure.
    RolledBack,
    /// Taken back because somebody asked.
    Aborted,
    /// Somebody rejected it; nothing was touched.
    Rejected,
    /// Cannot run as it is written; nothing was touched.
    Failed,
}

/// What an Upgrade does while it is `Progressing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Activity {
    /// A Job of it runs.
    Migrating,
    /// Workloads move.
    Deploying,
    /// What runs is asked how it is.
    HealthChecking,
}

impl Activity {
    /// The activity as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Migrating => "Migrating",
            Self::Deploying => "Deploying",
            Self::HealthChecking => "HealthChecking",
        }
    }
}

impl std::fmt::Display for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Phase {
    /// The phase as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::AwaitingApproval => "AwaitingApproval",
            Self::Progressing => "Progressing",
            Self::Paused => "Paused",
            Self::Degraded => "Degraded",
            Self::RollingBack => "RollingBack",
            Self::Completed => "Completed",
            Self::RolledBack => "RolledBack",
            Self::Aborted => "Aborted",
            Self::Rejected => "Rejected",
            Self::Failed => "Failed",
        }
    }

    /// Nothing more happens by itself.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::RolledBack | Self::Aborted | Self::Rejected | Self::Failed
        )
    }

    /// Workloads may carry its marks: the controller has started to write and is not done.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Self::Progressing | Self::Paused | Self::Degraded | Self::RollingBack)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Name of the stage.
    pub name: String,
    /// One entry for a target of a `workloads` stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetStatus>,
    /// Where the traffic goes, where a router carries weights or Services were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<super::traffic::TrafficStatus>,
    /// Why it goes straight to its end, where what it goes to lies in its rollback window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<String>,
    /// When the step it is in began; health checks count log lines from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_start_time: Option<MicroTime>,
    /// The Job of a `job` stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobStatus>,
    /// The health checks of the present step, else of the last one that had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
}

/// Where the Job of a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Name of the Job.
    pub name: String,
    /// Where it is; what has ended is remembered here when the Job itself is gone.
    #[serde(default)]
    pub phase: JobPhase,
    /// What it waits for, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Where a Job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// It is being made.
    #[default]
    Pending,
    /// It was seen, and has not ended.
    Running,
    /// It ran to its end.
    Succeeded,
    /// It failed, see the message.
    Failed,
    /// It was taken away before its end, on the way back.
    Deleted,
}

/// The health checks of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// Index of the step.
    #[serde(default)]
    pub step: i32,
    /// When the step was reached; delays count from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// One entry for a check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
}

/// Where one health check is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckStatus {
    /// Name of the check.
    pub name: String,
    /// It has passed often enough.
    #[serde(default)]
    pub passed: bool,
    /// Rounds so far; every instance is asked once in a round.
    #[serde(default)]
    pub rounds: i32,
    /// Rounds in a row that passed.
    #[serde(default)]
    pub passes: i32,
    /// Rounds in a row that failed.
    #[serde(default)]
    pub failures: i32,
    /// When the last round ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_time: Option<MicroTime>,
    /// Why the last round failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Where one workload is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload.
    pub name: String,
    /// `metadata.uid` of the workload that the originals are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// What is being done to it.
    #[serde(default)]
    pub phase: TargetPhase,
    /// Replicas wanted, as last seen.
    #[serde(default)]
    pub replicas: i32,
    /// Pods of the old images.
    #[serde(default)]
    pub stable: i32,
    /// Pods of the new images.
    #[serde(default)]
    pub canary: i32,
    /// New pods that are available by the workload's own `minReadySeconds`.
    #[serde(default)]
    pub canary_ready: i32,
    /// Weight that was asked for; where pods were, the smallest weight that they are no more than.
    #[serde(default)]
    pub requested_weight: i32,
    /// Pods that were asked for, where `setReplicas` decides how many are new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_replicas: Option<i32>,
    /// Index of the step that asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_step: Option<i32>,
    /// Weight that the whole pods amount to.
    #[serde(default)]
    pub effective_weight: i32,
    /// Pods that run the new images beyond the weight: pods that came up new by themselves, which
    /// this kind of workload does not let anybody prevent.
    #[serde(default, skip_serializing_if = "is_none_adrift")]
    pub drift: i32,
    /// ReplicaSet or controller revision of the old images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_replica_set: Option<String>,
    /// ReplicaSet or controller revision of the new images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_replica_set: Option<String>,
    /// The workload's own values of the guarded fields; put back at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originals: Option<Originals>,
    /// Where its Services are, where the strategy is blueGreen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreenStatus>,
    /// When the target last came closer to its step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<MicroTime>,
    /// What it waits for, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What is being done to a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetPhase {
    /// Nothing yet.
    #[default]
    Pending,
    /// Moves to the step's weight.
    Progressing,
    /// Is at the step's weight.
    AtWeight,
    /// Runs the new images; the guarded fields are being put back.
    Restoring,
    /// Runs the new images with its own fields.
    Completed,
    /// Failed, see the message.
    Failed,
    /// Goes back to the old images.
    RollingBack,
    /// Runs the old images with its own fields.
    RolledBack,
}

/// The guarded fields of a workload as its owner wrote them; `None` is "not set".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Originals {
    /// `spec.paused`; true only where a paused Deployment was changed under mode `Hold`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// `spec.strategy.type`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// `spec.strategy.rollingUpdate.maxSurge`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
    /// `spec.strategy.rollingUpdate.maxUnavailable`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// `spec.minReadySeconds`
    #[serde(default)]
    pub min_ready_seconds: i32,
    /// `spec.progressDeadlineSeconds`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<i32>,
    /// `spec.updateStrategy` of a StatefulSet or DaemonSet
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
}

/// `spec.updateStrategy` of a StatefulSet or DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Its knobs, where the type is `RollingUpdate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// Knobs of a `RollingUpdate`; `partition` is a StatefulSet's, `maxSurge` a DaemonSet's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// Pods below it, counted from the first ordinal, stay at the old revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Most pods that may be unavailable at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// Most nodes that may have a new pod beside the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
}

impl UpdateStrategy {
    /// Nothing moves but what somebody deletes.
    pub fn on_delete() -> Self {
        Self { type_: Some("OnDelete".to_owned()), rolling_update: None }
    }

    /// Whether nothing moves but what somebody deletes.
    pub fn is_on_delete(&self) -> bool {
        self.type_.as_deref() == Some("OnDelete")
    }

    /// `rollingUpdate.partition`, where there is one.
    pub fn partition(&self) -> i32 {
        self.rolling_update.as_ref().and_then(|r| r.partition).unwrap_or(0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_none_adrift(n: &i32) -> bool {
    *n == 0
}
