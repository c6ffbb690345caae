//! ingress-nginx: the user's Ingress goes to the stable pods, and a second one beside it carries
//! the canary's weight by its annotations.

use super::Names;
use crate::api::traffic::Nginx;
use crate::engine::objects::Resource;
use serde_json::{Map, Value, json};

/// The kind.
pub(super) const INGRESS: Resource =
    Resource { api_version: "networking.k8s.io/v1", kind: "Ingress", plural: "ingresses" };
/// What ingress-nginx listens to unless it was told otherwise.
const PREFIX: &str = "nginx.ingress.kubernetes.io";

/// Pointers to the names of all Services that an Ingress sends to.
pub(super) fn backends(ingress: &Value) -> Vec<String> {
    let mut found = vec!["/spec/defaultBackend/service/name".to_owned()];
    let rules = ingress.pointer("/spec/rules").and_then(Value::as_array);
    for (i, rule) in rules.into_iter().flatten().enumerate() {
        let paths = rule.pointer("/http/paths").and_then(Value::as_array).map_or(0, Vec::len);
        found.extend(
            (0..paths).map(|j| format!("/spec/rules/{i}/http/paths/{j}/backend/service/name")),
        );
    }
    found.retain(|pointer| ingress.pointer(pointer).is_some());
    found
}

/// Annotations and spec of the canary's Ingress: the paths of the user's that go to the workload.
pub(super) fn canary(stable: &Value, nginx: &Nginx, names: &Names, weight: i32) -> (Value, Value) {
    let prefix = nginx.annotation_prefix.as_deref().unwrap_or(PREFIX);
    let mut annotations = Map::new();
    let class = "kubernetes.io/ingress.class";
    if let Some(value) = stable.pointer("/metadata/annotations").and_then(|a| a.get(class)) {
        annotations.insert(class.to_owned(), value.clone());
    }
    for (key, value) in &nginx.additional_ingress_annotations {
        annotations.insert(format!("{prefix}/{key}"), json!(value));
    }
    annotations.insert(format!("{prefix}/canary"), json!("true"));
    annotations.insert(format!("{prefix}/canary-weight"), json!(weight.to_string()));
    let mut spec = Map::new();
    if let Some(class) = stable.pointer("/spec/ingressClassName") {
        spec.insert("ingressClassName".to_owned(), class.clone());
    }
    let rules = stable.pointer("/spec/rules").and_then(Value::as_array);
    let rules: Vec<Value> =
        rules.into_iter().flatten().filter_map(|rule| with_canary(rule, names)).collect();
    if rules.is_empty()
        && let Some(backend) = stable.pointer("/spec/defaultBackend")
    {
        let mut backend = backend.clone();
        if let Some(name) = backend.pointer_mut("/service/name") {
            *name = json!(names.canary);
        }
        spec.insert("defaultBackend".to_owned(), backend);
    } else {
        spec.insert("rules".to_owned(), Value::Array(rules));
    }
    (Value::Object(annotations), Value::Object(spec))
}

/// A rule with only the paths that go to the workload, to its canary.
fn with_canary(rule: &Value, names: &Names) -> Option<Value> {
    let mut rule = rule.clone();
    let paths = rule.pointer_mut("/http/paths")?.as_array_mut()?;
    let ours = |path: &Value| {
        let name = path.pointer("/backend/service/name").and_then(Value::as_str);
        name.is_some_and(|n| n == names.stable || names.is_root(n))
    };
    paths.retain(ours);
    for path in paths.iter_mut() {
        if let Some(name) = path.pointer_mut("/backend/service/name") {
            *name = json!(names.canary);
        }
    }
    (!paths.is_empty()).then_some(rule)
}
