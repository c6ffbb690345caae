//! `AnalysisTemplate`: what is measured, how often, and what the measurements must say.
//!
//! The spec is that of an Argo Rollouts AnalysisTemplate, so that one works here as it is, for the
//! providers below; `noData` and the provider `kubernetes` are ours.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is measured, and what the measurements must say.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "AnalysisTemplate",
    namespaced,
    shortname = "upgat",
    category = "kubectl-upgrade",
    derive = "PartialEq",
    doc = "Metrics that an Upgrade is judged by: what is asked, how often, and what the answers must say.",
    printcolumn(name = "Metrics", type_ = "string", json_path = ".spec.metrics[*].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.templates)")
    .message("templates: a template cannot include others here; name them all in the Upgrade"))]
pub struct AnalysisTemplateSpec {
    /// Arguments; `{{args.NAME}}` stands for one in any text of a metric. One without a value must
    /// be given by the Upgrade.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub args: Vec<TemplateArg>,
    /// What is measured.
    #[schemars(length(min = 1, max = 20))]
    pub metrics: Vec<Metric>,
    /// Metrics that are measured and shown, and decide nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub dry_run: Vec<DryRun>,
    /// How many measurements of a metric are kept in the Upgrade's status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub measurement_retention: Vec<MeasurementRetention>,
    /// Other templates to include: not supported, and refused rather than left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub templates: Vec<TemplateRef>,
}

/// An argument of a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
    .message("args: an argument has a value or a valueFrom, not both"))]
pub struct TemplateArg {
    /// Its name.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value, unless the Upgrade gives another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub value: Option<String>,
    /// Where its value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ArgSource>,
}

/// Where the value of an argument is; exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.secretKeyRef), has(self.fieldRef), has(self.podTemplateHashValue)].filter(x, x).size() == 1")
    .message("valueFrom needs exactly one of `secretKeyRef`, `fieldRef` and `podTemplateHashValue`"))]
pub struct ArgSource {
    /// A key of a Secret of the namespace. It is read when the question is asked and stands in no
    /// status, log or event. Only templates may name one, and only requests may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKey>,
    /// A field of the workload or of the Upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRef>,
    /// The `pod-template-hash` of the old (`Stable`) or new (`Latest`) ReplicaSet of the stage's
    /// first workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template_hash_value: Option<PodTemplateHash>,
}

/// A key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret, in the Upgrade's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A field of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldRef {
    /// Its path, for instance `metadata.labels['region']`.
    #[schemars(length(min = 1, max = 256))]
    pub field_path: String,
    /// Which object has it. Absent: the first workload of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<FieldOf>,
}

/// Which object a field is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FieldOf {
    /// The first workload of the stage.
    #[default]
    Workload,
    /// The Upgrade.
    Upgrade,
}

/// One of the two ReplicaSets of a Deployment under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodTemplateHash {
    /// That of the old images.
    Stable,
    /// That of the new images.
    Latest,
}

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Its name, unique in an analysis.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Time between measurements, for instance `30s` or `5m`. Absent: it is measured once. After an
    /// error the next one comes after 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub interval: Option<String>,
    /// Time before the first measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub initial_delay: Option<String>,
    /// How many measurements without error end it. Absent: one, or with an interval no end, which
    /// only an analysis in the background may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<IntOrString>,
    /// When a measurement is successful, for instance `result[0] >= 0.95`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub success_condition: Option<String>,
    /// When a measurement has failed. Where both conditions are given and neither holds, it is
    /// inconclusive; where one is given, the other is its opposite; where none is, every answer is
    /// a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub failure_condition: Option<String>,
    /// How many failed measurements are still borne; -1: any number, where
    /// `consecutiveSuccessLimit` decides. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_limit: Option<IntOrString>,
    /// How many inconclusive measurements are still borne. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inconclusive_limit: Option<IntOrString>,
    /// How many errors in a row are still borne. Absent: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_error_limit: Option<IntOrString>,
    /// How many successes in a row end it well. Absent or 0: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_success_limit: Option<IntOrString>,
    /// What a measurement is that has nothing in it: no series, NaN, null. Absent: the conditions
    /// decide where they ask for it (`len`, `isNaN`, `isNil`, `isInf`, `default`, `??`); otherwise
    /// it is inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_data: Option<NoData>,
    /// Who is asked.
    pub provider: Provider,
}

/// What a measurement is that has nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NoData {
    /// A success.
    Pass,
    /// A failure.
    Fail,
    /// Neither; `inconclusiveLimit` counts it.
    Inconclusive,
    /// None at all: it is measured again, after the interval or 10 s, until there is data.
    Wait,
}

/// Who is asked; exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.prometheus), has(self.datadog), has(self.web), has(self.job), has(self.kubernetes)].filter(x, x).size() == 1")
    .message("provider needs exactly one of `prometheus`, `datadog`, `web`, `job` and `kubernetes`; there is no other"))]
pub struct Provider {
    /// A Prometheus query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// A Datadog query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datadog: Option<Datadog>,
    /// An HTTP request that is answered in JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web: Option<Web>,
    /// A Job that succeeds or fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobMetric>,
    /// A condition or a field of an object of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<ObjectMetric>,
}

/// A Prometheus query. `result` is a list of the samples' values, or one number for a scalar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.authentication)")
    .message("authentication: not supported; use `headers` with an argument from a Secret"))]
pub struct Prometheus {
    /// URL of the server, for instance `http://prometheus.monitoring:9090`.
    #[schemars(length(min = 1, max = 1024))]
    pub address: String,
    /// The query.
    #[schemars(length(min = 1, max = 8192))]
    pub query: String,
    /// Longest time to wait for the answer, in seconds. Absent: 30; at most 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Certificates are not verified.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Headers of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub headers: Vec<Header>,
    /// Asks for a range of time instead of one moment; `result` is then the list of all samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_query: Option<RangeQuery>,
    /// Not supported, and refused rather than left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub authentication: Option<Value>,
}

/// A range of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RangeQuery {
    /// Its begin: `now()` or `now() - duration("1h")`.
    #[schemars(length(min = 1, max = 256))]
    pub start: String,
    /// Its end, in the same way.
    #[schemars(length(min = 1, max = 256))]
    pub end: String,
    /// Time between two samples.
    #[schemars(length(min = 1, max = 128))]
    pub step: String,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Its name.
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
    /// Its value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// A Datadog query. `result` is the last point, or nil.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.query) != has(self.queries)")
    .message("datadog needs exactly one of `query` and `queries`"))]
#[x_kube(validation = Rule::new("!has(self.queries) || (has(self.apiVersion) && self.apiVersion == 'v2')")
    .message("datadog: `queries` needs apiVersion v2"))]
#[x_kube(validation = Rule::new("has(self.formula) ? has(self.queries) : (!has(self.queries) || size(self.queries) == 1)")
    .message("datadog: several `queries` need a `formula`, and a `formula` needs `queries`"))]
#[x_kube(validation = Rule::new("!has(self.aggregator) || (has(self.apiVersion) && self.apiVersion == 'v2')")
    .message("datadog: `aggregator` needs apiVersion v2"))]
pub struct Datadog {
    /// URL of the API. Absent: the key `address` of the Secret, else `https://api.datadoghq.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub address: Option<String>,
    /// How far back the query looks. Absent: `5m`. This is not the time between measurements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub interval: Option<String>,
    /// The query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub query: Option<String>,
    /// Queries by name, for the formula (v2).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "named_texts")]
    pub queries: BTreeMap<String, String>,
    /// A formula of the queries (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub formula: Option<String>,
    /// Version of Datadog's API. Absent: `v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<DatadogApi>,
    /// How the points become one (v2). Absent: `last`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub aggregator: Option<String>,
    /// The Secret with the keys `api-key` and `app-key`. Absent: the one named `datadog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<DatadogSecret>,
}

/// Version of Datadog's API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatadogApi {
    /// `/api/v1/query`
    #[default]
    V1,
    /// `/api/v2/query/scalar`
    V2,
}

/// The Secret with Datadog's keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatadogSecret {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Read and ignored: the Secret is always in the Upgrade's own namespace, so that nobody uses
    /// the keys of another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub namespaced: bool,
}

/// An HTTP request. `result` is what `jsonPath` finds in the answer, or its text where it is no
/// JSON. Redirects are not followed; any status but 2xx is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.authentication)")
    .message("authentication: not supported; use `headers` with an argument from a Secret"))]
#[x_kube(validation = Rule::new("!(has(self.body) && has(self.jsonBody))")
    .message("web takes `body` or `jsonBody`, not both"))]
#[x_kube(validation = Rule::new("!(has(self.body) || has(self.jsonBody)) || (has(self.method) && self.method != 'GET')")
    .message("web: a body needs method POST or PUT"))]
pub struct Web {
    /// Where.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Absent: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Headers of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub headers: Vec<Header>,
    /// Body of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
    /// Body of the request as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub json_body: Option<Value>,
    /// Longest time to wait for the answer, in seconds. Absent: 10; at most 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i64>,
    /// Which part of the answer is the result, for instance `{$.data.rate}`. Absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub json_path: Option<String>,
    /// Certificates are not verified.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Not supported, and refused rather than left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub authentication: Option<Value>,
}

/// Methods of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
}

impl Method {
    /// As it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

/// A Job; each measurement makes one. It succeeds where the Job completes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobMetric {
    /// Labels and annotations of the Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub metadata: Option<Value>,
    /// `spec` of the Job.
    #[schemars(schema_with = "any_object")]
    pub spec: Value,
}

/// A condition or a field of an object of the Upgrade's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.condition) && has(self.jsonPath))")
    .message("kubernetes takes `condition` or `jsonPath`, not both"))]
pub struct ObjectMetric {
    /// For instance `apps/v1`.
    #[schemars(length(min = 1, max = 253))]
    pub api_version: String,
    /// For instance `Deployment`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Type of a condition of its status: `result` is whether it is `True`, and without conditions
    /// of the metric that is the success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 316))]
    pub condition: Option<String>,
    /// A field of it, for instance `{.status.readyReplicas}`. Absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub json_path: Option<String>,
}

/// Metrics that decide nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    /// A metric's name, or a pattern with `.*`; `*` is all of them.
    #[schemars(length(min = 1, max = 128))]
    pub metric_name: String,
}

/// How many measurements of a metric are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeasurementRetention {
    /// A metric's name, or a pattern with `.*`; `*` is all of them.
    #[schemars(length(min = 1, max = 128))]
    pub metric_name: String,
    /// How many, at most 50. Absent for a metric: 10.
    pub limit: i32,
}

/// An analysis that an Upgrade asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisRef {
    /// AnalysisTemplates of the Upgrade's namespace; their metrics are measured together.
    #[schemars(length(min = 1, max = 8))]
    pub templates: Vec<TemplateRef>,
    /// Values for their arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub args: Vec<AnalysisArg>,
    /// Metrics that decide nothing, besides those of the templates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub dry_run: Vec<DryRun>,
    /// How many measurements are kept, besides what the templates say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub measurement_retention: Vec<MeasurementRetention>,
    /// In the background only: index of the step with which it begins. Absent: with the first
    /// setWeight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_step: Option<i32>,
}

/// An AnalysisTemplate by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.clusterScope) || !self.clusterScope")
    .message("clusterScope: there are no templates of the whole cluster; put it into the namespace"))]
pub struct TemplateRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub template_name: String,
    /// Not supported, and refused rather than left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_scope: Option<bool>,
}

/// A value for an argument of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)")
    .message("args: an argument needs exactly one of `value` and `valueFrom`"))]
#[x_kube(validation = Rule::new("!has(self.valueFrom) || !has(self.valueFrom.secretKeyRef)")
    .message("args: only an AnalysisTemplate may name a Secret"))]
pub struct AnalysisArg {
    /// Name of the argument.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub value: Option<String>,
    /// Where its value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ArgSource>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn named_texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 8192}})
}
