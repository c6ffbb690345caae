//! `CompatibilityMatrix`: which versions go together, and how one gets from one to another.

use super::{Selector, WorkloadKind};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which versions of components go together, which paths lead from one to another, and in which
/// order components move. What it says is published by somebody: give the source of each row.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "CompatibilityMatrix",
    plural = "compatibilitymatrices",
    shortname = "cmx",
    category = "kubectl-upgrade",
    derive = "PartialEq",
    doc = "Which versions of components go together, which paths lead from one to another, and in which order components move.",
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.subject.component"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.components.exists(c, c.name == self.subject.component)")
    .message("subject.component is none of spec.components: name one of them"))]
#[x_kube(validation = Rule::new("!has(self.rows) || self.rows.all(r, r.versions.all(n, self.components.exists(c, c.name == n)))")
    .message("rows: a key of versions is none of spec.components: add the component, or correct the key"))]
#[x_kube(validation = Rule::new("!has(self.paths) || self.paths.all(p, !has(p.component) || self.components.exists(c, c.name == p.component))")
    .message("paths: component is none of spec.components: add it there, or leave it out to mean the subject"))]
#[x_kube(validation = Rule::new("!has(self.skew) || self.skew.all(s, self.components.exists(c, c.name == s.component) && self.components.exists(c, c.name == s.notAheadOf))")
    .message("skew: component and notAheadOf must be names of spec.components"))]
#[x_kube(validation = Rule::new("!has(self.order) || self.order.all(o, self.components.exists(c, c.name == o.first) && self.components.exists(c, c.name == o.then))")
    .message("order: first and then must be names of spec.components"))]
#[x_kube(validation = Rule::new("!has(self.migrations) || self.migrations.all(m, self.components.exists(c, c.name == m.requires.component))")
    .message("migrations: requires.component is none of spec.components: name one of them"))]
pub struct CompatibilityMatrixSpec {
    /// The component whose version is judged: rows, paths and migrations are about it.
    pub subject: Subject,
    /// Everything that has a version here, and where the version is read.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub components: Vec<Component>,
    /// What goes together. Every row that matches what runs counts, and the worst verdict decides;
    /// so a warning about one patch stands beside the row of its minor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub rows: Vec<Row>,
    /// Verdict where no row is about the subject's version.
    #[serde(default)]
    pub default: Verdict,
    /// Verdict where rows are about the subject's version and none of them lists the other
    /// component's.
    #[serde(default = "untested")]
    pub unlisted: Verdict,
    /// How a component may get from one version to another. Every rule that is about a change must
    /// hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub paths: Vec<PathRule>,
    /// How far apart two components may be at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub skew: Vec<Skew>,
    /// What moves before what, where a plan moves both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub order: Vec<Order>,
    /// Changes of the subject that need a migration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub migrations: Vec<Migration>,
}

/// The component whose version is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Name of a component.
    #[schemars(length(min = 1, max = 63))]
    pub component: String,
}

/// How well versions go together, from the best to the worst.
///
/// `Unknown` is worse than `NotRecommended`, about which somebody at least said what happens.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum Verdict {
    /// The vendor stands by it.
    Supported,
    /// Somebody ran it; nobody stands by it.
    Tested,
    /// Nobody said anything about it.
    Untested,
    /// It runs, and the vendor advises against it.
    NotRecommended,
    /// It could not be judged.
    #[default]
    Unknown,
    /// The vendor says no.
    Unsupported,
}

impl Verdict {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supported => "Supported",
            Self::Tested => "Tested",
            Self::Untested => "Untested",
            Self::NotRecommended => "NotRecommended",
            Self::Unknown => "Unknown",
            Self::Unsupported => "Unsupported",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn untested() -> Verdict {
    Verdict::Untested
}

fn unsupported() -> Verdict {
    Verdict::Unsupported
}

/// Something that has a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Name by which the rest of the matrix speaks of it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Where its version is read.
    pub version: VersionSource,
    /// It may be absent, and rows that name it then say nothing. Otherwise its absence is Unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Where a version is read; exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.kubernetes), has(self.kubelets), has(self.workload), has(self.workloads), has(self.crd), has(self.configMap), has(self.schema), has(self.literal)].filter(x, x).size() == 1")
    .message("version needs exactly one of `kubernetes`, `kubelets`, `workload`, `workloads`, `crd`, `configMap`, `schema` and `literal`"))]
pub struct VersionSource {
    /// The API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Cluster>,
    /// The kubelet of every node; each of them must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelets: Option<Cluster>,
    /// What a workload's pods run: the image's tag, or a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadSource>,
    /// The same of every workload that a selector matches; each of them must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadsSource>,
    /// The stored versions of a CustomResourceDefinition; each of them must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crd: Option<CrdSource>,
    /// A value in a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKey>,
    /// A value in a ConfigMap in which migrations record the schema they left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<ConfigMapKey>,
    /// This version, for what cannot be read from the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub literal: Option<String>,
}

/// The cluster itself: there is nothing to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Cluster {}

/// A workload whose pods run the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSource {
    /// Namespace of the workload.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Container whose image's tag is the version. Absent: every container's is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Label of the pods that says the version instead, for instance `app.kubernetes.io/version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub label: Option<String>,
}

/// Workloads whose pods run the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadsSource {
    /// Namespace of the workloads.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Workloads by their own labels.
    #[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("workloads.selector is empty: give at least one label"))]
    pub selector: Selector,
    /// Container whose image's tag is the version. Absent: every container's is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Label of the pods that says the version instead, for instance `app.kubernetes.io/version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub label: Option<String>,
}

/// A CustomResourceDefinition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrdSource {
    /// Name of the definition: `certificates.cert-manager.io`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a ConfigMap.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKey {
    /// Namespace of the ConfigMap.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl std::fmt::Display for ConfigMapKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {} of configmap/{} in {}", self.key, self.name, self.namespace)
    }
}

/// A set of versions: `1.29.4`, `1.29` (all its patches), `1.29.x`, `>=1.29 <2`, `1.30 - 1.34`,
/// `~1.2`, `^1.2`, `4.0.0 || 4.0.1`, `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RangeText(
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[-0-9A-Za-z.*<>=~^|,+_ ]+$"))]
    pub  String,
);

/// Versions that go together, or do not.
///
/// Components that stand in one row are judged together; what a vendor publishes as columns that
/// do not depend on each other is one row a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retrieved) || has(self.source)")
    .message("retrieved says when source was read: give source too"))]
pub struct Row {
    /// Range of each component that the row is about, by name.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub versions: BTreeMap<String, RangeText>,
    /// How well they go together.
    pub verdict: Verdict,
    /// Settings under which the row holds. Absent: always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub when: Vec<Condition>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub note: Option<String>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^https?://"))]
    pub source: Option<String>,
    /// When the source was read: `2026-10-31`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub retrieved: Option<String>,
    /// When the subject's version gets no more fixes: a date or an event. Shown, not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub end_of_life: Option<String>,
}

/// A setting that must have a value. One that cannot be read makes its row Unknown, unless the row
/// says worse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Where it is read.
    pub config_map: ConfigMapKey,
    /// The value it must have, to the letter.
    #[schemars(length(max = 253))]
    pub equals: String,
}

/// How a component may get from one version to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.maxMinorStep) || has(self.maxMajorStep) || has(self.minimumSource) || has(self.downgrade) || has(self.verdict)")
    .message("a path needs at least one of `maxMinorStep`, `maxMajorStep`, `minimumSource`, `downgrade` and `verdict`"))]
pub struct PathRule {
    /// Component that changes. Absent: the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub component: Option<String>,
    /// Versions it comes from. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RangeText>,
    /// Versions it goes to. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RangeText>,
    /// Most minors at once, up or down; 1 skips none. Another major is more than any number of
    /// minors, unless maxMajorStep allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100")
        .message("maxMinorStep is a number from 0 to 100"))]
    pub max_minor_step: Option<i32>,
    /// Most majors at once, up or down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100")
        .message("maxMajorStep is a number from 0 to 100"))]
    pub max_major_step: Option<i32>,
    /// What an upgrade must come from: the latest patches of the minor before, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_source: Option<RangeText>,
    /// Whether it may go down. Where paths are about a component and none of those that are about
    /// a downgrade says so, it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downgrade: Option<Downgrade>,
    /// Verdict on a change that does not hold to the rule; Unsupported if absent. Of a rule that
    /// limits nothing: verdict on every change from `from` to `to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub note: Option<String>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^https?://"))]
    pub source: Option<String>,
}

/// Whether a component may go to an earlier version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Downgrade {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// How far behind another a component may be; never ahead. Minors are compared, patches are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.component != self.notAheadOf")
    .message("skew: component and notAheadOf are the same: name two components"))]
pub struct Skew {
    /// Component that follows.
    #[schemars(length(min = 1, max = 63))]
    pub component: String,
    /// Component that leads.
    #[schemars(length(min = 1, max = 63))]
    pub not_ahead_of: String,
    /// Most minors behind. Absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 100")
        .message("maxMinorBehind is a number from 0 to 100"))]
    pub max_minor_behind: Option<i32>,
    /// Verdict where it is ahead or too far behind.
    #[serde(default = "unsupported")]
    pub verdict: Verdict,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub note: Option<String>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^https?://"))]
    pub source: Option<String>,
}

/// One component moves before another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.first != self.then")
    .message("order: first and then are the same: name two components"))]
pub struct Order {
    /// Moves first, and is finished before the other starts.
    #[schemars(length(min = 1, max = 63))]
    pub first: String,
    /// Moves after it.
    #[schemars(length(min = 1, max = 63))]
    pub then: String,
    /// Settings under which it holds. Absent: always. One that cannot be read holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub when: Vec<Condition>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub note: Option<String>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^https?://"))]
    pub source: Option<String>,
}

/// A change of the subject that needs a migration before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// Versions the subject comes from.
    pub from: RangeText,
    /// Versions it goes to.
    pub to: RangeText,
    /// What must be there before it goes.
    pub requires: Requirement,
    /// Verdict on the time between: the migration is done and the subject still at `from`. Rows
    /// seldom speak of it. Absent: they decide all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meanwhile: Option<Verdict>,
    /// Verdict on going without it.
    #[serde(default = "unsupported")]
    pub verdict: Verdict,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub note: Option<String>,
    /// Where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^https?://"))]
    pub source: Option<String>,
}

/// The version that a migration leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Component that the migration changes, mostly one whose source is `schema`.
    #[schemars(length(min = 1, max = 63))]
    pub component: String,
    /// Its version afterwards.
    pub range: RangeText,
}
