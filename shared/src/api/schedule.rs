//! `UpgradeSchedule`: Upgrades that are made by themselves, time and again.

use super::upgrade::{AutoRollback, Strategy, WindowOverrun};
use super::{Identity, WorkloadKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes an Upgrade of a template at every time of a schedule, with the images that run then as
/// `from`. Where everything runs the wanted images already, none is made.
///
/// Each Upgrade is asked for in the name of whoever made or last changed the schedule, with the
/// rights that they have at that time, and passes the same gates as any other.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "UpgradeSchedule",
    namespaced,
    shortname = "ups",
    category = "kubectl-upgrade",
    status = "UpgradeScheduleStatus",
    derive = "PartialEq",
    doc = "Makes an Upgrade of a template at every time of a schedule.",
    validation = Rule::new("size(self.metadata.name) <= 52").message(
        "metadata.name must be at most 52 characters: the time is appended to it for each Upgrade"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Upgrade", type_ = "string", json_path = ".status.lastUpgrade"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextScheduleTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeScheduleSpec {
    /// When, as five fields of cron: minute, hour, day of month, month, day of week; for instance
    /// `0 1 * * 0`.
    #[schemars(length(min = 1, max = 256))]
    pub schedule: String,
    /// IANA time zone that the schedule is read in. Absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Makes no Upgrade while it is true; what is under way goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How late, in seconds, an Upgrade may be made when nobody was there at its time, 1 to
    /// 604,800. Absent: 3,600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 604800")
        .message("startingDeadlineSeconds is a number of seconds from 1 to 604800"))]
    pub starting_deadline_seconds: Option<i64>,
    /// How many ended Upgrades of the schedule are kept, 0 to 100. Absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100")
        .message("historyLimit is a number from 0 to 100"))]
    pub history_limit: Option<i32>,
    /// What each Upgrade is made from.
    pub template: UpgradeTemplate,
    /// Who made or last changed it; stamped at admission from `userInfo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<Identity>,
}

/// What an Upgrade is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeTemplate {
    /// Version to get to, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub to: Option<String>,
    /// Stages, walked in order.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub stages: Vec<StageTemplate>,
    /// When the upgrade is taken back without anybody asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<AutoRollback>,
    /// What becomes of it when its maintenance window shuts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_overrun: Option<WindowOverrun>,
}

/// One stage of a template; exactly one of its kinds is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.workloads)")
    .message("a stage needs exactly one kind; this version knows `workloads`"))]
pub struct StageTemplate {
    /// Name of the stage, unique in the template.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Rolls workloads out to images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsTemplate>,
}

/// Rolls workloads out to images, all of them in step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadsTemplate {
    /// How each of the targets gets there.
    pub strategy: Strategy,
    /// What changes.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub targets: Vec<TargetTemplate>,
}

/// A workload and the images it is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind == 'Deployment'")
    .message("targets: kind must be Deployment; this version upgrades no other kind"))]
pub struct TargetTemplate {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload, in the schedule's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Images, at most one for a container.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["container".into()]))]
    pub images: Vec<WantedImage>,
}

/// The image that a container is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WantedImage {
    /// Container or init container.
    #[schemars(length(min = 1, max = 63))]
    pub container: String,
    /// Image to run.
    #[schemars(length(min = 1, max = 512))]
    pub to: String,
}

/// What a schedule has done. Written by the controller alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeScheduleStatus {
    /// `metadata.generation` this status is about.
    #[serde(default)]
    pub observed_generation: i64,
    /// The last time that was dealt with, whether an Upgrade was needed or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// The last Upgrade that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_upgrade: Option<String>,
    /// The next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Time>,
    /// What happened last, in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Standard conditions: `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
