//! The stage kind `job`: something that runs once, to its end, before the next stage begins.

use k8s_openapi::api::core::v1::EnvVar;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Runs one `batch/v1` Job to its end: a migration, a backup, a smoke test. Exactly one of `image`
/// and `template` is set.
///
/// The Job has the labels `app` (below) and `type=migration`, and is made anew for each attempt.
/// It runs at least once: like every Job it may run more often where nodes fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.image) != has(self.template)")
    .message("a job needs exactly one of `image` and `template`"))]
#[x_kube(validation = Rule::new("!has(self.template) || !(has(self.command) || has(self.args) || has(self.env) || has(self.serviceAccountName))")
    .message("`command`, `args`, `env` and `serviceAccountName` go with `image`; a `template` has its own"))]
pub struct JobStage {
    /// Value of the Job's label `app`. Absent: the first workload that the Upgrade names, else the
    /// Upgrade's own name. The pods do not carry it: a Service would send them traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub app: Option<String>,
    /// Image of the one container, which is called `job`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Entry point, in place of the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub command: Vec<String>,
    /// Arguments, in place of the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub args: Vec<String>,
    /// Environment, as in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub env: Vec<EnvVar>,
    /// Service account that it runs as. Absent: the namespace's `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How often a pod of it may fail before the Job has failed, 0 to 100.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub backoff_limit: i32,
    /// Seconds that it may take, 1 to 604800.
    #[serde(default = "half_an_hour")]
    #[schemars(range(min = 1, max = 604_800))]
    pub active_deadline_seconds: i64,
    /// Seconds after its end until it is deleted, with its logs, 60 to 2592000.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub ttl_seconds_after_finished: i32,
    /// The whole pod template, where one container is not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub template: Option<Value>,
}

/// An object that is checked when it is used: typed here, one that is wrong would keep every other
/// Upgrade from being read.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn half_an_hour() -> i64 {
    1800
}

fn five_minutes() -> i32 {
    300
}
