//! Health checks: what is asked of what runs before an Upgrade goes on.

use super::WorkloadKind;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One question to what runs, with the defaults and the meaning of a pod's own probes; exactly one
/// of `httpGet`, `tcpSocket` and `logs` is set.
///
/// It is asked of every new pod itself, at its own address, or of a Service. A round passes when
/// every one of them answers well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.httpGet), has(self.tcpSocket), has(self.logs)].filter(x, x).size() == 1")
    .message("a health check needs exactly one of `httpGet`, `tcpSocket` and `logs`"))]
#[x_kube(validation = Rule::new("!(has(self.service) && has(self.logs))")
    .message("`logs` are read from pods: leave `service` out"))]
pub struct HealthCheck {
    /// Name of the check, unique in its stage.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// An HTTP GET; redirects are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetCheck>,
    /// Whether a TCP connection can be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketCheck>,
    /// Lines in the logs since the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogsCheck>,
    /// Ask this Service of the namespace, and not every pod itself. One of type ExternalName is
    /// not asked: it leads out of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub service: Option<String>,
    /// Seconds from the moment the step is reached to the first round, 0 to 3600.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub initial_delay_seconds: i32,
    /// Seconds from one round to the next, 1 to 3600.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,
    /// Seconds that one answer may take, 1 to 60.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 60))]
    pub timeout_seconds: i32,
    /// Rounds in a row that fail before the check has failed, 1 to 100.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,
    /// Rounds in a row that pass before the check has passed, 1 to 100.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: i32,
}

/// An HTTP GET.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetCheck {
    /// Path, with its query if it needs one.
    #[serde(default = "root")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/[!-~]*$"))]
    pub path: String,
    /// Port of the pods, or of the Service, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// How to connect.
    #[serde(default)]
    pub scheme: Scheme,
    /// The one status that is well. Absent: any from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub expected_status: Option<i32>,
    /// The version that the answer has to name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<ExpectedVersion>,
}

/// How an HTTP connection is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scheme {
    /// In plain text.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// By TLS; certificates are not verified, as for the probes of pods.
    #[serde(rename = "HTTPS")]
    Https,
}

/// A version that a JSON answer names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedVersion {
    /// JSONPath (RFC 9535) of it in the answer, for instance `$.version`; kubectl's `{.version}`
    /// is understood as well.
    #[schemars(length(min = 1, max = 256))]
    pub json_path: String,
    /// What stands there.
    #[schemars(length(min = 1, max = 128))]
    pub value: String,
}

/// Whether a TCP connection can be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpSocketCheck {
    /// Port of the pods, or of the Service, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// Lines in a pod's logs since the step began. One more than `max` cannot get better, so it fails
/// at once, whatever `failureThreshold` says. Whoever asks for it needs the right to read the logs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogsCheck {
    /// Regular expression (of the Rust crate `regex`) that counts a line when it matches a part of
    /// it.
    #[schemars(length(min = 1, max = 512))]
    pub pattern: String,
    /// Lines that one pod may have, 0 to 10000.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10000))]
    pub max: i32,
    /// The container whose log is read. Absent: all of them together, init containers left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

/// Only health checks: against workloads as they run, or against Services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.targets) && size(self.targets) > 0) || self.healthChecks.all(c, has(c.service))")
    .message("checks needs `targets`, or a `service` in each health check"))]
pub struct ChecksStage {
    /// Workloads of the namespace; every pod of them is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub targets: Vec<CheckTarget>,
    /// What is asked.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub health_checks: Vec<HealthCheck>,
}

/// A workload whose pods are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.kind in ['Deployment', 'StatefulSet', 'DaemonSet']")
    .message("targets: kind must be Deployment, StatefulSet or DaemonSet"))]
pub struct CheckTarget {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload, in the Upgrade's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn root() -> String {
    "/".to_owned()
}

fn one() -> i32 {
    1
}

fn three() -> i32 {
    3
}

fn ten() -> i32 {
    10
}
