//! The kinds of the API group `kubectl-upgrade.dev`, one file each.

pub mod analysis;
pub mod analysis_run;
pub mod approval;
pub mod blue_green;
pub mod breakglass;
pub mod check;
pub mod held;
pub mod job;
pub mod ledger;
pub mod managed_route;
pub mod matrix;
pub mod notification;
pub mod orders;
pub mod policy;
pub mod schedule;
pub mod separate;
pub mod stage;
pub mod status;
pub mod strategy;
pub mod traffic;
pub mod upgrade;
pub mod window;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use analysis::{AnalysisRef, AnalysisTemplate, AnalysisTemplateSpec};
pub use analysis_run::{AnalysisPhase, AnalysisRunStatus, MeasurementStatus, MetricStatus};
pub use approval::{Decision, UpgradeApproval, UpgradeApprovalSpec};
pub use blue_green::{BlueGreenPhase, BlueGreenStatus};
pub use breakglass::{
    BREAK_GLASS_LABEL, BREAK_GLASS_NAME, BreakGlass, BreakGlassImage, BreakGlassKind,
    BreakGlassObject, BreakGlassPhase, BreakGlassSpec, BreakGlassStatus, BreakGlassUse,
};
pub use held::{HELD_ANNOTATION, Held};
pub use ledger::{LedgerEntry, UpgradeLedger, UpgradeLedgerSpec};
pub use matrix::{CompatibilityMatrix, CompatibilityMatrixSpec, Verdict};
pub use policy::{FirstInstall, Mode, UpgradePolicy, UpgradePolicySpec};
pub use schedule::{UpgradeSchedule, UpgradeScheduleSpec};
pub use status::{Phase, StageStatus, TargetPhase, TargetStatus, UpgradeStatus};
pub use upgrade::{StrategyName, Upgrade, UpgradeSpec};
pub use window::{
    Change, Exclusion, MaintenanceWindow, MaintenanceWindowSpec, Weekday, WindowKind,
};

/// API group of every kind here.
pub const GROUP: &str = "kubectl-upgrade.dev";
/// Version served and stored.
pub const VERSION: &str = "v1alpha1";
/// Label that a workload carries while an Upgrade is in flight on it; its value names the Upgrade.
///
/// A label and not an annotation: `kubectl rollout undo` replaces all annotations.
pub const IN_FLIGHT_LABEL: &str = "kubectl-upgrade.dev/upgrade";
/// Label by which a namespace opts in to governance; any value but `false` counts.
pub const GOVERNED_LABEL: &str = "kubectl-upgrade.dev/governed";
/// Field manager of every write of ours.
pub const FIELD_MANAGER: &str = "kubectl-upgrade";
/// Namespace that `kubectl upgrade install` uses unless told otherwise.
pub const SYSTEM_NAMESPACE: &str = "kubectl-upgrade-system";
/// Service account of the controller and webhook.
pub const SERVICE_ACCOUNT: &str = "upgrade-webhook";
/// Finalizer that keeps a deleted Upgrade until everything is put back.
pub const FINALIZER: &str = "kubectl-upgrade.dev/restore";
/// Name of the one UpgradeLedger of a namespace.
pub const LEDGER_NAME: &str = "ledger";

/// Who made a request, as the API server's authenticators established it.
///
/// Only ever copied from `userInfo` of an AdmissionReview: a value that a client writes is refused
/// unless it says the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Name that uniquely identifies the user among all active users.
    #[schemars(length(min = 1, max = 512))]
    pub username: String,
    /// Opaque identifier of the user, stable across renames, where the authenticator has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Groups at the time of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// Kinds of workload that carry images.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment
    Deployment,
    /// `apps/v1` StatefulSet
    StatefulSet,
    /// `apps/v1` DaemonSet
    DaemonSet,
    /// `apps/v1` ReplicaSet that no Deployment controls
    ReplicaSet,
    /// `batch/v1` CronJob
    CronJob,
    /// `batch/v1` Job that no CronJob controls
    Job,
    /// bare `v1` Pod
    Pod,
}

impl WorkloadKind {
    /// Every kind, in the order in which they are listed to people.
    pub const ALL: [Self; 7] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::ReplicaSet,
        Self::CronJob,
        Self::Job,
        Self::Pod,
    ];

    /// The kind as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
            Self::Pod => "Pod",
        }
    }

    /// The resource in the form `kubectl` prints: `deployment.apps`.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Deployment => "deployment.apps",
            Self::StatefulSet => "statefulset.apps",
            Self::DaemonSet => "daemonset.apps",
            Self::ReplicaSet => "replicaset.apps",
            Self::CronJob => "cronjob.batch",
            Self::Job => "job.batch",
            Self::Pod => "pod",
        }
    }

    /// The resource as in a path: `deployments`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
            Self::DaemonSet => "daemonsets",
            Self::ReplicaSet => "replicasets",
            Self::CronJob => "cronjobs",
            Self::Job => "jobs",
            Self::Pod => "pods",
        }
    }

    /// The kind as people abbreviate it: `deploy`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Deployment => "deploy",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
            Self::ReplicaSet => "rs",
            Self::CronJob => "cronjob",
            Self::Job => "job",
            Self::Pod => "pod",
        }
    }

    /// Reads a kind as the API spells it (`Deployment`).
    pub fn from_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == kind)
    }
}

impl std::fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A label selector in the form every Kubernetes API uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that must all be present with these values.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub match_labels: std::collections::BTreeMap<String, String>,
    /// Requirements that must all hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)"
).message("operators In and NotIn need values; Exists and DoesNotExist take none"))]
pub struct SelectorRequirement {
    /// Label key.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label relates to the values.
    pub operator: SelectorOperator,
    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// Operators of a label selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    /// The label's value is one of the values.
    In,
    /// The label is absent or its value is none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Selector {
    /// A selector that names no requirement at all; Kubernetes reads it as "everything".
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|r| r.matches(labels.get(&r.key)))
    }
}

impl SelectorRequirement {
    fn matches(&self, value: Option<&String>) -> bool {
        match self.operator {
            SelectorOperator::In => value.is_some_and(|v| self.values.contains(v)),
            SelectorOperator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// Every CustomResourceDefinition of the group, in the order in which they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        Upgrade::crd(),
        UpgradeApproval::crd(),
        UpgradePolicy::crd(),
        UpgradeLedger::crd(),
        UpgradeSchedule::crd(),
        MaintenanceWindow::crd(),
        CompatibilityMatrix::crd(),
        BreakGlass::crd(),
        AnalysisTemplate::crd(),
    ]
}
