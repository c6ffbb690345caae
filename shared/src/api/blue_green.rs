//! Blue-green: the new pods come up beside the old ones, then one Service goes from these to those.

use super::analysis::AnalysisRef;
use super::traffic::TrafficRouting;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the name of a preview Service that is made ends with.
pub const PREVIEW_SUFFIX: &str = "-preview";

/// Settings of the strategy blueGreen, in Argo Rollouts' words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.previewService) || self.previewService != self.activeService")
    .message("blueGreen: previewService must be another Service than activeService"))]
#[x_kube(validation = Rule::new("has(self.previewService) || size(self.activeService) <= 55")
    .message("blueGreen: activeService is too long for a preview Service named after it; name one in previewService"))]
#[x_kube(validation = Rule::new("self.autoPromotionEnabled || !has(self.autoPromotionSeconds)")
    .message("blueGreen: autoPromotionSeconds does nothing with autoPromotionEnabled: false; leave one of them out"))]
#[x_kube(validation = Rule::new("!has(self.trafficRouting) || !has(self.trafficRouting.smi) || !has(self.trafficRouting.smi.rootService) || self.trafficRouting.smi.rootService == self.activeService")
    .message("blueGreen: trafficRouting.smi.rootService must be activeService; leave it out"))]
pub struct BlueGreen {
    /// The Service whose clients are switched from the old pods to the new. It must select the
    /// pods of the Deployment and no others.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub active_service: String,
    /// A Service that selects the new pods before the switch. Absent: one is made beside the
    /// active one, with its name and `-preview`, and deleted at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub preview_service: Option<String>,
    /// Switches by itself once every new pod is available. Otherwise `kubectl upgrade promote`
    /// does.
    #[serde(default = "yes")]
    pub auto_promotion_enabled: bool,
    /// How long the preview stands before it is switched to by itself, in seconds, 0 to 604800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub auto_promotion_seconds: Option<i32>,
    /// How long the old pods stay after the switch, so that an abort is instant; in seconds, 0 to
    /// 604800.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 604_800))]
    pub scale_down_delay_seconds: i32,
    /// Asked once every new pod is available, before anybody may promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_promotion_analysis: Option<AnalysisRef>,
    /// Asked once clients are with the new pods; where it says no, they go back to the old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_promotion_analysis: Option<AnalysisRef>,
    /// New pods until it is promoted, where that is to be fewer than the workload has replicas;
    /// all of them are there before the switch. At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub preview_replica_count: Option<i32>,
    /// The router whose routes go from the old pods to the new; the active Service, to which they
    /// send, is then never edited. Without one its selector is what is switched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRouting>,
}

impl Default for BlueGreen {
    fn default() -> Self {
        Self {
            active_service: String::new(),
            preview_service: None,
            auto_promotion_enabled: true,
            auto_promotion_seconds: None,
            scale_down_delay_seconds: thirty(),
            pre_promotion_analysis: None,
            post_promotion_analysis: None,
            preview_replica_count: None,
            traffic_routing: None,
        }
    }
}

impl BlueGreen {
    /// Name of the preview Service, and whether it is made.
    pub fn preview(&self) -> (String, bool) {
        match &self.preview_service {
            Some(name) => (name.clone(), false),
            None => (format!("{}{PREVIEW_SUFFIX}", self.active_service), true),
        }
    }
}

/// Where a blue-green target is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlueGreenStatus {
    /// What is being done.
    #[serde(default)]
    pub phase: BlueGreenPhase,
    /// `pod-template-hash` of the old pods, read from their ReplicaSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_hash: Option<String>,
    /// `pod-template-hash` of the new pods, read from their ReplicaSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_hash: Option<String>,
    /// Hash whose pods clients reach, by the active Service's selector or by the routes, as last
    /// seen; absent where they reach both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_selector: Option<String>,
    /// Hash that the preview Service selects, as last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview_selector: Option<String>,
    /// The active Service as its owner had it.
    #[serde(default)]
    pub active: ServiceStatus,
    /// The preview Service as its owner had it.
    #[serde(default)]
    pub preview: ServiceStatus,
    /// When somebody promoted it, or its time was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_at: Option<MicroTime>,
    /// When clients were seen to reach the new pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_at: Option<MicroTime>,
    /// Since when the old pods stay for nothing but an abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed_since: Option<MicroTime>,
}

/// A Service, and what is put back of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// It was made for the preview, and is deleted at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// `spec.selector` as its owner wrote it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
}

/// What is being done to a blue-green target, in the order in which it happens.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum BlueGreenPhase {
    /// The active Service, or the routes to it, are pinned to the old pods.
    #[default]
    Pinning,
    /// The new pods come up.
    Preview,
    /// The new pods are there; it waits to be promoted.
    PrePromotion,
    /// Clients go to the new pods.
    Switching,
    /// The new pods serve; the old ones are still there.
    PostPromotion,
    /// The old pods stay for a while, for an abort to be instant.
    ScaleDownDelay,
    /// The old pods go.
    Promoting,
    /// The Services are as their owners had them, or are being made so.
    Restoring,
}

impl BlueGreenPhase {
    /// The phase as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinning => "Pinning",
            Self::Preview => "Preview",
            Self::PrePromotion => "PrePromotion",
            Self::Switching => "Switching",
            Self::PostPromotion => "PostPromotion",
            Self::ScaleDownDelay => "ScaleDownDelay",
            Self::Promoting => "Promoting",
            Self::Restoring => "Restoring",
        }
    }
}

fn yes() -> bool {
    true
}

fn thirty() -> i32 {
    30
}
