//! `UpgradeApproval`: one person's word on one plan.

#![expect(
    clippy::duplicated_attributes,
    reason = "what the derive makes of two rules on one struct"
)]

use super::Identity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One person's decision on exactly one plan of one Upgrade. Created, never changed.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "UpgradeApproval",
    namespaced,
    shortname = "upa",
    category = "kubectl-upgrade",
    derive = "PartialEq",
    doc = "One person's decision on exactly one plan of one Upgrade. Created, never changed.",
    printcolumn(name = "Upgrade", type_ = "string", json_path = ".spec.upgrade"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".spec.decision"),
    printcolumn(name = "Approver", type_ = "string", json_path = ".spec.approver.username"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf")
    .message("an UpgradeApproval is never changed: create another"))]
#[x_kube(validation = Rule::new("self.decision == 'Approved' || (has(self.reason) && size(self.reason) > 0)")
    .message("spec.reason: a rejection says why"))]
#[x_kube(validation = Rule::new("!has(self.step) || has(self.stage)")
    .message("spec.step: name its stage in spec.stage, too"))]
pub struct UpgradeApprovalSpec {
    /// Name of the Upgrade, in the approval's namespace.
    #[schemars(length(min = 1, max = 63))]
    pub upgrade: String,
    /// `metadata.uid` of that Upgrade, so that a namesake made later is not covered. Stamped at
    /// admission when absent.
    #[serde(default, rename = "upgradeUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub upgrade_uid: Option<String>,
    /// The plan that was looked at: `status.planHash` of the Upgrade.
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')")
        .message("planHash is `sha256:` and 64 hexadecimal digits, as in the Upgrade's status"))]
    #[schemars(length(max = 71))]
    pub plan_hash: String,
    /// Name of the one stage that is approved, where the policy asks for approvals by stage or step.
    /// Absent: the whole plan, where the policy asks for one approval of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub stage: Option<String>,
    /// Index, from 0, of the one step of that stage that is approved, where the policy asks for
    /// approvals by step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0").message("step counts from 0"))]
    pub step: Option<i32>,
    /// The decision; one rejection ends the Upgrade.
    pub decision: Decision,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Who decided; stamped at admission from `userInfo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<Identity>,
}

/// The two things that can be said of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Decision {
    /// The plan may run.
    Approved,
    /// The plan must not run.
    Rejected,
}
