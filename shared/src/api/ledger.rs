//! `UpgradeLedger`: the last approved images of every governed workload of a namespace.

use super::{Selector, WorkloadKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The last approved images of every governed workload of a namespace. One object, named
/// `ledger`, written by the controller alone. An entry outlives its workload: deleting and
/// creating a workload is no way to change its images.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "UpgradeLedger",
    namespaced,
    shortname = "upl",
    category = "kubectl-upgrade",
    derive = "PartialEq",
    doc = "The last approved images of every governed workload of a namespace; written by the controller.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeLedgerSpec {
    /// One entry for a workload.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub entries: Vec<LedgerEntry>,
}

/// What a workload was last approved to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LedgerEntry {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload.
    pub name: String,
    /// Images by container; init containers and image volumes included.
    pub images: Vec<ContainerImage>,
    /// The workload's pod selector: pods of anybody else may not fall into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The workload's own labels then: taking a label off later is no way out of a policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The Upgrade that approved them; absent for what ran when the policy came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// Since when.
    pub since: Time,
}

/// How an image volume is named where containers are: no container may have a colon in its name.
pub fn volume(name: &str) -> String {
    format!("volume:{name}")
}

/// The image of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerImage {
    /// Container, init container, or `volume:NAME` for an image volume.
    pub container: String,
    /// Image as the workload writes it.
    pub image: String,
}
