//! Services: the user's, those that are made for the time of an upgrade, and which of their
//! endpoints are ready.

use super::{HASH_LABEL, Names};
use crate::api::IN_FLIGHT_LABEL;
use crate::engine::objects::{ENDPOINT_SLICES, Look, SERVICES, Sight};
use crate::engine::observed::Workload;
use kube::core::DynamicObject;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// All Services of the namespace: which one is the workload's shows only in their selectors.
pub(super) fn all() -> Look {
    Look::labels(SERVICES, "")
}

/// The endpoints of a Service.
pub(super) fn endpoints(service: &str) -> Look {
    Look::labels(ENDPOINT_SLICES, format!("kubernetes.io/service-name={service}"))
}

/// One object of a sight, by its name.
pub(super) fn named<'o>(
    objects: &'o [Arc<DynamicObject>],
    name: &str,
) -> Option<&'o DynamicObject> {
    objects.iter().map(AsRef::as_ref).find(|o| o.metadata.name.as_deref() == Some(name))
}

/// Whether an object was made by this Upgrade for this workload.
pub(super) fn is_ours(object: &DynamicObject, upgrade: &str, workload: &str) -> bool {
    let labelled = object.metadata.labels.iter().flatten();
    let owners = object.metadata.owner_references.iter().flatten();
    labelled.into_iter().any(|(k, v)| k == IN_FLIGHT_LABEL && v == upgrade)
        && owners.into_iter().any(|o| o.uid == workload)
}

/// Whether a Service sends to the pods of a workload.
pub(super) fn selects(service: &DynamicObject, workload: &Workload) -> bool {
    let selector = service.data.pointer("/spec/selector").and_then(Value::as_object);
    selector.is_some_and(|s| {
        !s.is_empty()
            && s.iter().all(|(k, v)| workload.pod_labels.get(k).map(String::as_str) == v.as_str())
    })
}

/// Metadata of an object that is there for the time of an upgrade; it goes with its workload at
/// the latest.
pub(super) fn metadata(upgrade: &str, name: &str, kind: &str, owner: &str, uid: &str) -> Value {
    json!({
        "name": name,
        "labels": {IN_FLIGHT_LABEL: upgrade, "app.kubernetes.io/managed-by": "kubectl-upgrade"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": uid}],
    })
}

/// The selector of a Service for the pods of one ReplicaSet.
pub(super) fn selector(root: &DynamicObject, hash: &str) -> Value {
    let mut selector =
        root.data.pointer("/spec/selector").and_then(Value::as_object).cloned().unwrap_or_default();
    selector.insert(HASH_LABEL.to_owned(), json!(hash));
    Value::Object(selector)
}

/// The spec of a Service like another, for the pods of one ReplicaSet.
pub(super) fn spec(root: &DynamicObject, hash: &str) -> Value {
    let mut spec = Map::new();
    let kept = [
        "sessionAffinity",
        "sessionAffinityConfig",
        "ipFamilies",
        "ipFamilyPolicy",
        "internalTrafficPolicy",
        "trafficDistribution",
    ];
    for key in kept {
        if let Some(value) = root.data.pointer(&format!("/spec/{key}")) {
            spec.insert(key.to_owned(), value.clone());
        }
    }
    if root.data.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None") {
        spec.insert("clusterIP".to_owned(), json!("None"));
    }
    let mut ports = root.data.pointer("/spec/ports").cloned().unwrap_or_else(|| json!([]));
    for port in ports.as_array_mut().into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
    spec.insert("ports".to_owned(), ports);
    spec.insert("selector".to_owned(), selector(root, hash));
    Value::Object(spec)
}

/// How many endpoints of a Service are ready, of the pods of one ReplicaSet; none is known before
/// they were listed.
pub(super) fn ready(sight: Option<&Sight>, workload: &Workload, set: &str) -> Option<usize> {
    let Some(Sight::Seen(slices)) = sight else { return None };
    let pods: BTreeSet<&str> =
        workload.pods.iter().filter(|p| p.set == set).map(|p| p.name.as_str()).collect();
    let endpoints = slices
        .iter()
        .flat_map(|s| s.data.get("endpoints").and_then(Value::as_array).into_iter().flatten());
    let counts = |e: &&Value| {
        let is_ready = e.pointer("/conditions/ready").and_then(Value::as_bool) == Some(true);
        let pod = e.pointer("/targetRef/name").and_then(Value::as_str);
        is_ready && pod.is_some_and(|p| pods.contains(p))
    };
    Some(endpoints.filter(counts).count())
}

/// Pods of a ReplicaSet that are Ready.
pub(super) fn ready_pods(workload: &Workload, set: &str) -> usize {
    workload.pods.iter().filter(|p| p.set == set && p.ready_since.is_some()).count()
}

impl Names {
    /// The Service that a host name means, where it is one of this namespace.
    pub(super) fn short<'h>(&self, host: &'h str) -> Option<&'h str> {
        let mut parts = host.split('.');
        let name = parts.next()?;
        let local = match (parts.next(), parts.next()) {
            (None, _) => true,
            (Some(namespace), None | Some("svc")) => namespace == self.namespace,
            _ => false,
        };
        local.then_some(name)
    }
}
