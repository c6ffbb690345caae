//! Strategies: how a workload moves from its old images to the new.

use super::blue_green::BlueGreen;
use super::managed_route::{SetHeaderRoute, SetMirrorRoute};
use super::separate::Separate;
use super::traffic::TrafficRouting;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a workload moves from its old images to the new; exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.rolling), has(self.canary), has(self.blueGreen)].filter(x, x).size() == 1")
    .message("strategy needs exactly one of `rolling`, `canary` and `blueGreen`"))]
pub struct Strategy {
    /// The workload's own rolling update, watched and taken back when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<Rolling>,
    /// Weight by weight, in place, with pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// All new pods beside all old ones, then one Service is switched to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreen>,
}

/// Name of a strategy, where a rule is about strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StrategyName {
    /// The workload's own rolling update.
    Rolling,
    /// Weight by weight.
    Canary,
    /// All at once, by a Service.
    BlueGreen,
}

impl StrategyName {
    /// The name as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Canary => "canary",
            Self::BlueGreen => "blueGreen",
        }
    }
}

impl std::fmt::Display for StrategyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Strategy {
    /// Its name; what says none or several is taken for the most careful one.
    pub fn name(&self) -> StrategyName {
        match (&self.rolling, &self.canary, &self.blue_green) {
            (Some(_), None, None) => StrategyName::Rolling,
            (_, None, Some(_)) => StrategyName::BlueGreen,
            _ => StrategyName::Canary,
        }
    }

    /// Every analysis that it asks for: beside the steps, at steps, around a promotion.
    pub fn analyses(&self) -> impl Iterator<Item = &super::analysis::AnalysisRef> {
        let canary = self.canary.iter().flat_map(|c| {
            c.analysis.iter().chain(c.steps.iter().filter_map(|s| s.analysis.as_ref()))
        });
        let around = self
            .blue_green
            .iter()
            .flat_map(|b| b.pre_promotion_analysis.iter().chain(&b.post_promotion_analysis));
        canary.chain(around)
    }
}

/// Settings of the rolling strategy: the workload's own knobs apply, so there are none yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Rolling {}

/// Settings of the canary strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.trafficRouting) || !self.steps.exists(s, has(s.setReplicas))")
    .message("steps: setReplicas does not go with trafficRouting: a router carries percentages; use setWeight"))]
#[x_kube(validation = Rule::new("(has(self.trafficRouting) && has(self.trafficRouting.gatewayAPI)) || !self.steps.exists(s, has(s.setHeaderRoute) || has(s.setMirrorRoute))")
    .message("steps: setHeaderRoute and setMirrorRoute need trafficRouting.gatewayAPI; with nginx use trafficRouting.nginx.additionalIngressAnnotations: {canary-by-header: NAME}"))]
#[x_kube(validation = Rule::new("has(self.separate) || self.steps.filter(s, has(s.setWeight)).map(s, s.setWeight).isSorted()")
    .message("steps: setWeight must not go down; a canary in place can only grow (abort takes it back), one with `separate` may shrink"))]
#[x_kube(validation = Rule::new("has(self.separate) || self.steps.filter(s, has(s.setReplicas)).map(s, s.setReplicas).isSorted()")
    .message("steps: setReplicas must not go down; a canary in place can only grow (abort takes it back), one with `separate` may shrink"))]
#[x_kube(validation = Rule::new("!has(self.separate) || !(has(self.trafficRouting) || has(self.stableService) || has(self.canaryService) || has(self.canaryNodes))")
    .message("separate goes without trafficRouting, stableService, canaryService and canaryNodes: what reaches its pods is decided by their labels"))]
pub struct Canary {
    /// Steps, walked in order; after the last one the workload is at 100.
    #[schemars(length(min = 1, max = 50))]
    pub steps: Vec<CanaryStep>,
    /// The canary is a Deployment of its own, `NAME-canary`, beside a workload that is not touched
    /// before the last weight. Weights may then go down, and the replicas to 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separate: Option<Separate>,
    /// Labels of the nodes that a DaemonSet's canary takes first. Absent: any node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8), inner(length(max = 63)))]
    pub canary_nodes: BTreeMap<String, String>,
    /// Measured beside the steps, from `startingStep` to the end of the stage: as soon as it says
    /// no, the upgrade has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<super::analysis::AnalysisRef>,
    /// Back to images that ran not long ago it goes straight to the last step: pauses and analyses
    /// are left out; gates, approvals and health checks are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<RollbackWindow>,
    /// The router that carries the weights exactly; without one they are shares of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_routing: Option<TrafficRouting>,
    /// Name of the Service of the stable pods, made for the time of the upgrade; `SERVICE-stable`
    /// where absent. A Service of this name that is there already is not touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub stable_service: Option<String>,
    /// Name of the Service of the canary pods, as `stableService`; `SERVICE-canary` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub canary_service: Option<String>,
}

/// How far back a canary goes without rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackWindow {
    /// ReplicaSets, or revisions of a StatefulSet or DaemonSet, before the present one by age, 1 to
    /// 100. Every target must have the new images in one of them, or run them already.
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100")
        .message("rollbackWindow.revisions is a number from 1 to 100"))]
    pub revisions: i32,
}

/// One step of a canary; exactly one of its fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.setWeight), has(self.setReplicas), has(self.pause), has(self.analysis), has(self.setHeaderRoute), has(self.setMirrorRoute)].filter(x, x).size() == 1")
    .message("a step needs exactly one of `setWeight`, `setReplicas`, `pause`, `analysis`, `setHeaderRoute` and `setMirrorRoute`"))]
#[x_kube(validation = Rule::new("!has(self.analysis) || !has(self.analysis.startingStep)")
    .message("startingStep belongs to `canary.analysis`; the analysis of a step begins with its step"))]
pub struct CanaryStep {
    /// Share of the replicas that run the new images after this step, in percent, 1 to 100.
    ///
    /// The canary is rounded down to whole pods, but never to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 100")
        .message("setWeight is a percentage from 1 to 100"))]
    pub set_weight: Option<i32>,
    /// Pods that run the new images after this step, of each target: so many at any number of
    /// replicas, and all of them where there are no more.
    ///
    /// A step that asks for fewer than an earlier one has brought changes nothing. Of more than 100
    /// replicas a Deployment may have up to one percent more. Not with `trafficRouting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("setReplicas is a number of pods, at least 1"))]
    pub set_replicas: Option<i32>,
    /// Rests here: for a while, or until somebody promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Rests here until these metrics have said yes; where they say no, the upgrade has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<super::analysis::AnalysisRef>,
    /// Sends requests with certain headers to the canary, from this step until the stage is at 100 or
    /// a step takes it away. With `trafficRouting.gatewayAPI` only, after the first `setWeight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_header_route: Option<SetHeaderRoute>,
    /// Sends a copy of certain requests to the canary, as long as `setHeaderRoute` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_mirror_route: Option<SetMirrorRoute>,
}

/// A rest between steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.duration) && has(self.untilApproval) && self.untilApproval)")
    .message("a pause is for a `duration` or `untilApproval`, not both"))]
pub struct Pause {
    /// How long, for instance `30s`, `5m`, `1h30m`. Absent: until `kubectl upgrade promote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]+(ms|s|m|h))+$')")
        .message("duration is a number with a unit (ms, s, m, h), for instance 30s, 5m or 1h30m"))]
    pub duration: Option<String>,
    /// Until somebody other than the requester approves this very step: `kubectl upgrade approve
    /// NAME --stage STAGE --step STEP`. A promote does not pass it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub until_approval: bool,
}
