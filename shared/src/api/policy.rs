//! `UpgradePolicy`: which workloads are governed and what they require.

use super::{Selector, WorkloadKind};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which workloads are governed, in namespaces that opted in, and what they require.
///
/// Where several policies match a workload, all of them must be satisfied.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "UpgradePolicy",
    plural = "upgradepolicies",
    shortname = "upp",
    category = "kubectl-upgrade",
    derive = "PartialEq",
    doc = "Which workloads are governed, in namespaces that opted in, and what they require.",
    printcolumn(name = "Approvals", type_ = "integer", json_path = ".spec.approvals.required"),
    printcolumn(name = "First-Install", type_ = "string", json_path = ".spec.firstInstall"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct UpgradePolicySpec {
    /// Namespaces it holds in, by their labels, of those labelled `kubectl-upgrade.dev/governed`.
    /// Absent: all of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("namespaceSelector is empty: give at least one label, or leave it out to mean every governed namespace"))]
    pub namespace_selector: Option<Selector>,
    /// Workloads it holds for.
    pub workloads: WorkloadSelection,
    /// What a workload that was never seen before needs.
    #[serde(default)]
    pub first_install: FirstInstall,
    /// Whose word an Upgrade needs.
    #[serde(default)]
    pub approvals: ApprovalRequirement,
}

/// Workloads of a namespace: all of them, or those that a selector matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.all) && self.all) != has(self.selector)")
    .message("workloads needs exactly one of `all: true` and `selector`"))]
pub struct WorkloadSelection {
    /// Every workload.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Workloads whose own labels match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("workloads.selector is empty: give at least one label, or write `all: true` to govern every workload"))]
    pub selector: Option<Selector>,
    /// Kinds it is about. Absent: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub kinds: Vec<WorkloadKind>,
}

/// What a workload that was never seen before needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FirstInstall {
    /// Nothing, unless its pods would fall into the selector of a governed workload.
    #[default]
    Allow,
    /// It is refused: only what the ledger knows may be created.
    Upgrade,
}

/// Whose word an Upgrade needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRequirement {
    /// How many people other than the requester must approve, 0 to 10.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 10")
        .message("approvals.required is a number from 0 to 10"))]
    pub required: i32,
}

impl Default for ApprovalRequirement {
    fn default() -> Self {
        Self { required: one() }
    }
}

fn one() -> i32 {
    1
}
