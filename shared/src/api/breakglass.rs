//! `BreakGlass`: a time-limited, reasoned exception, itself an object.

use super::Identity;
use super::ledger::ContainerImage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the one BreakGlass of a namespace.
pub const BREAK_GLASS_NAME: &str = "break-glass";
/// Label that puts a request under the BreakGlass of its namespace; its value is that one's uid.
///
/// A label and not an annotation: the API server looks a policy's parameter up before the policy's
/// conditions, so that only a selector keeps a missing BreakGlass from refusing everything else.
pub const BREAK_GLASS_LABEL: &str = "kubectl-upgrade.dev/break-glass";
/// How long a BreakGlass is good for that does not say.
pub const DEFAULT_TTL: &str = "1h";

/// A time-limited exception: who opens it may give the objects listed the images listed, without
/// an Upgrade, also while the webhook is down. Created, never changed.
///
/// There is one to a namespace, so that two exceptions never add up.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "BreakGlass",
    plural = "breakglasses",
    namespaced,
    shortname = "bg",
    category = "kubectl-upgrade",
    status = "BreakGlassStatus",
    derive = "PartialEq",
    doc = "A time-limited, reasoned exception for listed objects and images; one to a namespace.",
    validation = Rule::new("self.metadata.name == 'break-glass'").message(
        "metadata.name must be break-glass: there is one to a namespace, so that two never add up"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requester.username"),
    printcolumn(name = "TTL", type_ = "string", json_path = ".spec.ttl"),
    printcolumn(name = "Until", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Ticket", type_ = "string", json_path = ".spec.ticket"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf")
    .message("a BreakGlass is never changed: delete it and open another"))]
#[x_kube(validation = Rule::new("self.objects.all(o, self.objects.exists_one(p, p.kind == o.kind && p.name == o.name))")
    .message("spec.objects: an object is listed once"))]
pub struct BreakGlassSpec {
    /// Why, for the record.
    #[x_kube(validation = Rule::new("self.trim() != ''").message("spec.reason: say why"))]
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Number of an incident or change, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub ticket: Option<String>,
    /// How long from its creation it is good for, more than 0 and at most `24h`, for instance `1h`
    /// or `30m`. The controller ends it; while that is down, it stays open.
    #[serde(default = "default_ttl")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(h|m|s))+$') && duration(self) > duration('0s') && duration(self) <= duration('24h')")
        .message("spec.ttl is a duration of at most 24h, for instance 1h or 30m"))]
    #[schemars(length(min = 1, max = 16))]
    pub ttl: String,
    /// The objects that may change, and to what.
    #[schemars(length(min = 1, max = 20))]
    pub objects: Vec<BreakGlassObject>,
    /// Who opens it; refused unless it is whoever asks.
    pub requester: Identity,
}

fn default_ttl() -> String {
    DEFAULT_TTL.to_owned()
}

/// One object that may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakGlassObject {
    /// Its kind.
    pub kind: BreakGlassKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The images that it may be given, each as it will be written. Containers that are not here
    /// keep theirs.
    #[schemars(length(min = 1, max = 20))]
    pub images: Vec<BreakGlassImage>,
}

/// The image that one container may be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakGlassImage {
    /// Container, init container, or `volume:NAME` for an image volume.
    #[schemars(length(min = 1, max = 80))]
    pub container: String,
    /// The image, to the letter.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
}

impl From<&BreakGlassImage> for ContainerImage {
    fn from(image: &BreakGlassImage) -> Self {
        Self { container: image.container.clone(), image: image.image.clone() }
    }
}

/// Kinds that a BreakGlass can be about: those that people write. What controllers make of them
/// follows by itself.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum BreakGlassKind {
    /// `apps/v1` Deployment
    Deployment,
    /// `apps/v1` StatefulSet
    StatefulSet,
    /// `apps/v1` DaemonSet
    DaemonSet,
    /// `batch/v1` CronJob
    CronJob,
}

impl From<BreakGlassKind> for super::WorkloadKind {
    fn from(kind: BreakGlassKind) -> Self {
        match kind {
            BreakGlassKind::Deployment => Self::Deployment,
            BreakGlassKind::StatefulSet => Self::StatefulSet,
            BreakGlassKind::DaemonSet => Self::DaemonSet,
            BreakGlassKind::CronJob => Self::CronJob,
        }
    }
}

/// What came of it. Written by the controller alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakGlassStatus {
    /// Whether it still opens anything.
    #[serde(default)]
    pub phase: BreakGlassPhase,
    /// When it ends or ended: its creation and `spec.ttl` after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When the controller ended it, which is later where the controller was down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_at: Option<Time>,
    /// What was changed under it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub uses: Vec<BreakGlassUse>,
}

/// One object that runs what the exception allows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakGlassUse {
    /// Its kind.
    pub kind: BreakGlassKind,
    /// Its name.
    pub name: String,
    /// When the controller saw it.
    pub seen: Time,
}

/// Whether a BreakGlass still opens anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BreakGlassPhase {
    /// It does.
    #[default]
    Active,
    /// It does not any more.
    Expired,
}

impl BreakGlass {
    /// Whether the controller has ended it.
    pub fn is_expired(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.phase == BreakGlassPhase::Expired)
    }

    /// When it ends: `spec.ttl` after its creation. A length that cannot be read is none at all:
    /// the schema lets no such thing in.
    pub fn expires_at(&self) -> Option<jiff::Timestamp> {
        let created = self.metadata.creation_timestamp.as_ref()?.0;
        let ttl: jiff::SignedDuration = self.spec.ttl.parse().unwrap_or_default();
        created.checked_add(ttl).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_its_ttl_after_its_creation() {
        let glass = |ttl: &str| -> BreakGlass {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "BreakGlass",
                "metadata": {"name": "break-glass", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"reason": "r", "ttl": ttl, "objects": [], "requester": {"username": "u"}},
            }))
            .expect("a BreakGlass")
        };
        let ends = |ttl: &str| glass(ttl).expires_at().map(|t| t.to_string());
        assert_eq!(ends("1h30m").as_deref(), Some("2026-01-01T01:30:00Z"));
        assert_eq!(ends("90s").as_deref(), Some("2026-01-01T00:01:30Z"));
        assert_eq!(ends("24h").as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(ends("soon").as_deref(), Some("2026-01-01T00:00:00Z"), "an error opens nothing");
    }
}
