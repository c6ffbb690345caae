//! Traffic routing of a canary: which router carries its weights, and what is noted of it.
//!
//! Field names are those of Argo Rollouts (`spec.strategy.canary.trafficRouting`), so that what its
//! users wrote can be taken over; the Gateway API is a field here and a plugin there.

use super::managed_route::ManagedRoute;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The router that carries the weights of a canary; exactly one of the routers is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.gatewayAPI), has(self.nginx), has(self.istio), has(self.smi)].filter(r, r).size() == 1")
    .message("trafficRouting needs exactly one of `gatewayAPI`, `nginx`, `istio` and `smi`"))]
pub struct TrafficRouting {
    /// HTTPRoutes of the Gateway API.
    #[serde(default, rename = "gatewayAPI", skip_serializing_if = "Option::is_none")]
    pub gateway_api: Option<GatewayApi>,
    /// An Ingress of ingress-nginx, by its canary annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nginx: Option<Nginx>,
    /// A VirtualService of Istio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istio: Option<Istio>,
    /// A TrafficSplit of the Service Mesh Interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smi: Option<Smi>,
    /// Seconds that proxies get to follow a change of routes before anything relies on it, 0 to
    /// 600; 5 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 600")
        .message("graceSeconds is a number of seconds from 0 to 600"))]
    pub grace_seconds: Option<i32>,
    /// Names of the routes that the steps `setHeaderRoute` and `setMirrorRoute` make. The list can be
    /// left out; where there is one, it must have every name that a step uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub managed_routes: Vec<ManagedRoute>,
}

impl TrafficRouting {
    /// Name of the router's field.
    pub fn router(&self) -> &'static str {
        match self {
            Self { gateway_api: Some(_), .. } => "gatewayAPI",
            Self { nginx: Some(_), .. } => "nginx",
            Self { istio: Some(_), .. } => "istio",
            _ => "smi",
        }
    }
}

/// HTTPRoutes whose rules send to the Service of the workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.httpRoute) != has(self.httpRoutes)")
    .message("gatewayAPI needs exactly one of `httpRoute` and `httpRoutes`"))]
pub struct GatewayApi {
    /// Name of the HTTPRoute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub http_route: Option<String>,
    /// Several of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub http_routes: Option<Vec<RouteName>>,
    /// Their namespace. Upgrades write in their own namespace only, so it can be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

impl GatewayApi {
    /// Names of the HTTPRoutes.
    pub fn names(&self) -> Vec<String> {
        let many = self.http_routes.iter().flatten().map(|r| r.name.clone());
        self.http_route.iter().cloned().chain(many).collect()
    }
}

/// Name of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteName {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The Ingress that serves the workload; a second one carries the canary's weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nginx {
    /// Name of the Ingress.
    #[schemars(length(min = 1, max = 253))]
    pub stable_ingress: String,
    /// Prefix of the canary annotations; `nginx.ingress.kubernetes.io` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub annotation_prefix: Option<String>,
    /// More annotations of the canary's Ingress, without the prefix: `canary-by-header: X-Canary`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub additional_ingress_annotations: BTreeMap<String, String>,
}

/// A VirtualService whose routes send to the Service of the workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Istio {
    /// The VirtualService.
    pub virtual_service: VirtualService,
    /// Split by subsets of one host; without it by two Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_rule: Option<DestinationRule>,
}

/// A VirtualService, and which of its HTTP routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualService {
    /// Name of the VirtualService.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Names of its HTTP routes; all that send to the Service where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub routes: Vec<String>,
}

/// A DestinationRule whose subsets tell stable from canary pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRule {
    /// Name of the DestinationRule.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of the canary's subset; it is added where there is none.
    #[schemars(length(min = 1, max = 63))]
    pub canary_subset_name: String,
    /// Name of the stable pods' subset; it is added where there is none.
    #[schemars(length(min = 1, max = 63))]
    pub stable_subset_name: String,
}

/// A TrafficSplit; it is made where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Smi {
    /// The Service that clients use; the one that selects the workload's pods where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub root_service: Option<String>,
    /// Name of the TrafficSplit; the workload's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub traffic_split_name: Option<String>,
}

/// Where the traffic of a stage goes, and what to put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// How far it is.
    #[serde(default)]
    pub phase: TrafficPhase,
    /// Share of the traffic that the canary is to get, in percent.
    #[serde(default)]
    pub requested_weight: i32,
    /// Share that the routes give it, as last seen.
    #[serde(default)]
    pub effective_weight: i32,
    /// The user's Service, which is never edited.
    #[serde(default)]
    pub service: String,
    /// Service of the stable pods, while the upgrade is under way.
    #[serde(default)]
    pub stable_service: String,
    /// Service of the canary pods, while the upgrade is under way.
    #[serde(default)]
    pub canary_service: String,
    /// `pod-template-hash` of the stable ReplicaSet, as read from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_hash: Option<String>,
    /// `pod-template-hash` of the canary's ReplicaSet, as read from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_hash: Option<String>,
    /// Since when the Service of the stable pods has had ready endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_since: Option<MicroTime>,
    /// Since when the Service of the canary pods has had ready endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_since: Option<MicroTime>,
    /// The routes' own values of the fields that are carried; put back at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub originals: Vec<RouteOriginal>,
    /// Since when the routes say what they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// Since when that is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<MicroTime>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How far the traffic of a stage is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum TrafficPhase {
    /// Being pinned to the stable pods, before the template is written.
    #[default]
    Pinning,
    /// Split by weight.
    Splitting,
    /// All of it goes to the new pods; the old ones are being removed.
    Promoting,
    /// Goes back to the user's own Service.
    HandingBack,
    /// The routes are as they were; nothing of ours is left.
    HandedBack,
}

/// A field of a route as its owner wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteOriginal {
    /// Resource and name: `httproutes/web`.
    pub object: String,
    /// JSON pointer of the field.
    pub path: String,
    /// Its value, as JSON; absent: the field was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}
