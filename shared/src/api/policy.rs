//! `UpgradePolicy`: which workloads are governed and what they require.

#![expect(
    clippy::duplicated_attributes,
    reason = "what the derive makes of two columns of one struct"
)]

use super::notification::Notification;
use super::upgrade::{AutoRollback, Strategy, StrategyName};
use super::{Identity, Selector, Verdict, WorkloadKind};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which workloads are governed, in namespaces that opted in, and what they require.
///
/// Where several policies match a workload, the most specific one holds and no other: two
/// exceptions never add up. The order is that of [`UpgradePolicySpec::rank`]; between equals the
/// stricter mode holds, then the one that asks for more approvals, then the first by name.
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
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
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
    /// What becomes of an image change that no approved Upgrade covers.
    #[serde(default)]
    pub mode: Mode,
    /// The Upgrade that mode `Hold` opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldSettings>,
    /// What becomes of the same when the request is a dry run, in mode `Deny`.
    #[serde(default)]
    pub dry_run: DryRun,
    /// What a workload that was never seen before needs.
    #[serde(default)]
    pub first_install: FirstInstall,
    /// Whose word an Upgrade needs.
    #[serde(default)]
    pub approvals: ApprovalRequirement,
    /// Who may ask for an Upgrade, of those whom RBAC lets. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requesters: Option<People>,
    /// Which images an Upgrade may go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageRules>,
    /// Strategies that an Upgrade may use. Absent: every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub strategies: Vec<StrategyName>,
    /// What becomes of a weight that the pods of a workload cannot express: 10 % of three of them.
    #[serde(default)]
    pub weight_rounding: WeightRounding,
    /// How long before its start an Upgrade is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// Who is told when an Upgrade comes into a phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub notifications: Vec<Notification>,
    /// What CompatibilityMatrices have to say of the versions that an Upgrade brings together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
    /// Images that an ephemeral container (`kubectl debug`) may run in pods of these workloads.
    /// Absent or empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral_containers: Option<EphemeralContainers>,
}

impl UpgradePolicySpec {
    /// How specific the policy is: how much of a workload and of its namespace it names.
    ///
    /// What is said of the workload weighs more than what is said of its namespace.
    pub fn rank(&self) -> (usize, usize, bool) {
        let parts = |s: &Option<Selector>| {
            s.as_ref().map_or(0, |s| s.match_labels.len() + s.match_expressions.len())
        };
        (
            parts(&self.workloads.selector),
            parts(&self.namespace_selector),
            !self.workloads.kinds.is_empty(),
        )
    }
}

/// What becomes of an image change that no approved Upgrade covers. The order is that of
/// strictness.
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
pub enum Mode {
    /// It passes, and is counted and noted in the audit log.
    Audit,
    /// It passes with a warning to whoever made it.
    Warn,
    /// A Deployment takes it, but paused: what runs goes on serving, and an Upgrade is opened that
    /// carries it out once it is approved. Any other kind of workload is refused.
    Hold,
    /// It is refused.
    #[default]
    Deny,
}

/// What becomes of a weight that whole pods cannot express.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum WeightRounding {
    /// It is rounded down to whole pods, but never to none; the plan says to what, and the status
    /// has the weight that it amounts to.
    #[default]
    Allow,
    /// The Upgrade waits with the weights that could be; so does a step, where the workload was
    /// scaled meanwhile.
    Refuse,
}

/// The Upgrade that mode `Hold` opens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.strategy) || !has(self.strategy.blueGreen)")
    .message("hold.strategy cannot be blueGreen: its activeService is of one Deployment, and a policy is about many"))]
pub struct HoldSettings {
    /// How the workload gets there. Absent: its own rolling update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// When the upgrade is taken back without anybody asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<AutoRollback>,
}

/// What becomes of an uncovered image change that is a dry run: nothing would be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DryRun {
    /// It gets the answer that the real request would get.
    #[default]
    Enforce,
    /// It passes with a warning: a tool that compares by dry runs would else see an error for a
    /// whole application.
    Warn,
}

/// People, by name or by group; one match is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.users) && size(self.users) > 0) || (has(self.groups) && size(self.groups) > 0)")
    .message("name at least one user or group, or leave the field out to mean everybody"))]
pub struct People {
    /// Usernames, as the API server knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub users: Vec<String>,
    /// Groups, as the API server knows them at the time of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub groups: Vec<String>,
}

impl People {
    /// Whether somebody is one of them.
    pub fn include(&self, who: &Identity) -> bool {
        self.users.contains(&who.username) || self.groups.iter().any(|g| who.groups.contains(g))
    }
}

/// Which images an Upgrade may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageRules {
    /// Registries, or repositories in one, that the new images must come from; a name covers what
    /// lies below it. Absent: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub registries: Vec<String>,
    /// Whether the new images must be named by digest, so that what was approved is what runs.
    #[serde(default)]
    pub digest: Digest,
}

/// Whether images must be named by digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Digest {
    /// A tag is enough.
    #[default]
    Optional,
    /// Every `to` of an Upgrade names a digest.
    Required,
}

/// How long before its start an Upgrade is announced, by how much of the version changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// For a new major version, and where it cannot be told, for instance `48h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(s|m|h))+$')")
        .message("notice.major is a number with a unit (s, m, h), for instance 48h"))]
    pub major: Option<String>,
    /// For a new minor version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(s|m|h))+$')")
        .message("notice.minor is a number with a unit (s, m, h), for instance 24h"))]
    pub minor: Option<String>,
    /// For a new patch version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(s|m|h))+$')")
        .message("notice.patch is a number with a unit (s, m, h), for instance 1h"))]
    pub patch: Option<String>,
    /// Names of Secrets in our own namespace whose key `url` is told by a POST of JSON. The time
    /// runs from when all of them were told; with none, from when the Upgrade was first seen, and
    /// its event is the announcement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub receivers: Vec<String>,
}

/// What CompatibilityMatrices have to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compatibility {
    /// Verdicts that pass. Absent or empty: `Supported` and `Tested`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    pub pass: Vec<Verdict>,
}

impl Compatibility {
    /// Verdicts that pass where nobody says otherwise.
    pub const DEFAULT: [Verdict; 2] = [Verdict::Supported, Verdict::Tested];
}

/// Images that an ephemeral container may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralContainers {
    /// Images; one without tag and digest covers every tag and digest of its repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub images: Vec<String>,
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
    /// What one approval covers.
    #[serde(default)]
    pub per: ApprovalScope,
    /// Whose approvals count, of those whom RBAC lets approve. Absent: everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvers: Option<People>,
    /// How long an approval counts from when it was made, for instance `72h`, where what it covers
    /// has not begun by then. Absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(s|m|h))+$')")
        .message("approvals.expiresAfter is a number with a unit (s, m, h), for instance 72h"))]
    pub expires_after: Option<String>,
    /// Whether a retry of the same Upgrade needs new approvals.
    #[serde(default = "yes")]
    pub single_use: bool,
}

/// What one approval covers; the order is that of fineness.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ApprovalScope {
    /// The whole Upgrade.
    #[default]
    Upgrade,
    /// One stage; each waits for approvals of its own.
    Stage,
    /// One weight of a canary; each waits for approvals of its own.
    Step,
}

impl Default for ApprovalRequirement {
    fn default() -> Self {
        Self {
            required: one(),
            per: ApprovalScope::default(),
            approvers: None,
            expires_after: None,
            single_use: true,
        }
    }
}

fn yes() -> bool {
    true
}

fn one() -> i32 {
    1
}
