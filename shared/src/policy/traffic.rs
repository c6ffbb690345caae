//! What an Upgrade with traffic routing does besides patching workloads, as rights: its requester
//! could have done it by hand.

use super::question::{Access, AccessNeed};
use crate::api::Upgrade;
use crate::api::traffic::{Istio, Nginx, Smi, TrafficRouting};
use crate::engine::traffic::own_routes;

/// Rights that the traffic routing of an Upgrade needs.
pub(super) fn needs(upgrade: &Upgrade, namespace: &str) -> Vec<AccessNeed> {
    let workloads = upgrade.spec.stages.iter().filter_map(|s| s.workloads.as_ref());
    let mut all: Vec<Access> = vec![];
    for stage in workloads {
        let first = stage.targets.first().map(|t| t.name.as_str()).unwrap_or_default();
        if let Some(canary) = &stage.strategy.canary {
            let routing = canary.traffic_routing.as_ref();
            let named = canary.stable_service.is_some() || canary.canary_service.is_some();
            if routing.is_some() || named {
                of_routing(routing, namespace, first, &mut all);
            }
            of_own_routes(&own_routes(canary, first), namespace, &mut all);
        }
        let switched = stage.strategy.blue_green.as_ref();
        if let Some(routing) = switched.and_then(|b| b.traffic_routing.as_ref()) {
            of_routing(Some(routing), namespace, first, &mut all);
        }
    }
    let mut seen: Vec<Access> = vec![];
    for access in all {
        if !seen.contains(&access) {
            seen.push(access);
        }
    }
    seen.into_iter().map(AccessNeed::One).collect()
}

/// HTTPRoutes that steps make beside the user's.
fn of_own_routes(names: &[String], namespace: &str, all: &mut Vec<Access>) {
    let mut add = |verb, name: Option<&String>| {
        let (group, resource) = ("gateway.networking.k8s.io", "httproutes");
        let (namespace, name) = (namespace.to_owned(), name.cloned());
        all.push(Access { verb, group, resource, namespace, name });
    };
    for name in names {
        add("create", None);
        add("patch", Some(name));
        add("delete", Some(name));
    }
}

fn of_routing(
    routing: Option<&TrafficRouting>,
    namespace: &str,
    workload: &str,
    all: &mut Vec<Access>,
) {
    let mut add = |verb, group, resource, name: Option<&str>| {
        let (namespace, name) = (namespace.to_owned(), name.map(str::to_owned));
        all.push(Access { verb, group, resource, namespace, name });
    };
    add("create", "", "services", None);
    add("delete", "", "services", None);
    let Some(TrafficRouting { gateway_api, nginx, istio, smi, .. }) = routing else { return };
    if let Some(gateway) = gateway_api {
        let many = gateway.http_routes.iter().flatten().map(|r| &r.name);
        for name in gateway.http_route.iter().chain(many) {
            add("patch", "gateway.networking.k8s.io", "httproutes", Some(name));
        }
    }
    if let Some(Nginx { stable_ingress, .. }) = nginx {
        add("patch", "networking.k8s.io", "ingresses", Some(stable_ingress));
        add("create", "networking.k8s.io", "ingresses", None);
        add("delete", "networking.k8s.io", "ingresses", None);
    }
    if let Some(Istio { virtual_service, destination_rule }) = istio {
        let group = "networking.istio.io";
        add("patch", group, "virtualservices", Some(&virtual_service.name));
        if let Some(rule) = destination_rule {
            add("patch", group, "destinationrules", Some(&rule.name));
        }
    }
    if let Some(Smi { traffic_split_name, .. }) = smi {
        let name = traffic_split_name.as_deref().unwrap_or(workload);
        let group = "split.smi-spec.io";
        add("patch", group, "trafficsplits", Some(name));
        add("create", group, "trafficsplits", None);
        add("delete", group, "trafficsplits", None);
    }
}
