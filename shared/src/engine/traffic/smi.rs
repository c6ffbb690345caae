//! A TrafficSplit of the Service Mesh Interface: the user's, or one that is made for the time of
//! the upgrade.

use super::Names;
use crate::engine::objects::Resource;
use serde_json::{Value, json};

/// The only version that the CRDs of the last release serve.
pub(super) const SPLIT: Resource = Resource {
    api_version: "split.smi-spec.io/v1alpha4",
    kind: "TrafficSplit",
    plural: "trafficsplits",
};

/// Pointer to the list of backends.
pub(super) fn lists(split: &Value) -> Vec<String> {
    let found = split.pointer("/spec/backends").map(|_| "/spec/backends".to_owned());
    found.into_iter().collect()
}

/// The spec of one that is ours.
pub(super) fn spec(names: &Names, weight: i32) -> Value {
    let all = [(&names.stable, 100 - weight), (&names.canary, weight)];
    let backends: Vec<Value> = all
        .into_iter()
        .filter(|(_, w)| *w > 0)
        .map(|(service, weight)| json!({"service": service, "weight": weight}))
        .collect();
    json!({"service": names.root, "backends": backends})
}
