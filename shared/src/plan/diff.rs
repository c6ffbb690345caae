//! What a manifest really changes of a live object.
//!
//! Only fields that the manifest writes count. What the API server fills in, the order of maps and
//! of lists that are keyed by name, how a quantity or a number is spelled, and an empty value where
//! the live object has none are no differences. A field that the manifest no longer writes counts
//! where `kubectl apply` left a record of having written it.

use super::manifest::{ObjectId, containers, pod_spec_pointer};
use super::quantity;
use crate::api::upgrade::ImageChange;
use crate::image;
use serde_json::{Map, Value};

/// The record that `kubectl apply` keeps of what it last wrote.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One difference that is no image.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// Where, for instance `spec.template.spec.containers[web].env[MODE].value`.
    pub path: String,
    /// What is there now; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Value>,
    /// What the manifest says; absent where it takes something away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Value>,
}

/// How a manifest relates to the live object.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// There is no such object yet.
    New,
    /// Live.
    Live {
        /// Image changes of containers that both have.
        images: Vec<ImageChange>,
        /// Everything else that differs.
        other: Vec<Difference>,
    },
}

impl Comparison {
    /// Whether applying the manifest would change nothing of meaning.
    pub fn is_same(&self) -> bool {
        matches!(self, Self::Live { images, other } if images.is_empty() && other.is_empty())
    }
}

/// Compares a manifest with the live object.
pub fn compare(id: &ObjectId, target: &Value, live: Option<&Value>) -> Comparison {
    let Some(live) = live else {
        return Comparison::New;
    };
    let mut walk = Walk { differences: Vec::new(), secret: id.kind == "Secret" };
    let target = normalized(id, target);
    walk.value("", &Value::Object(target.clone()), Some(live), &[]);
    if let Some(before) = last_applied(live) {
        let before = Value::Object(normalized(id, &before));
        walk.removed("", &before, &Value::Object(target), live);
    }
    let images = images(id, &mut walk.differences, live);
    walk.differences.sort_by(|a, b| a.path.cmp(&b.path));
    walk.differences.dedup_by(|a, b| a.path == b.path);
    Comparison::Live { images, other: walk.differences }
}

/// Takes the image changes out of the differences.
fn images(id: &ObjectId, differences: &mut Vec<Difference>, live: &Value) -> Vec<ImageChange> {
    let Some(pointer) = pod_spec_pointer(&id.kind) else {
        return Vec::new();
    };
    let Some(pod) = live.pointer(pointer) else {
        return Vec::new();
    };
    let prefix = pointer.trim_start_matches('/').replace('/', ".");
    let mut changes = Vec::new();
    for container in containers(pod) {
        let list = if container.init { "initContainers" } else { "containers" };
        let path = format!("{prefix}.{list}[{}].image", container.name);
        let Some(at) = differences.iter().position(|d| d.path == path) else {
            continue;
        };
        if let Some(Value::String(to)) = &differences[at].target {
            changes.push(ImageChange {
                container: container.name.to_owned(),
                from: container.image.to_owned(),
                to: to.clone(),
            });
            differences.remove(at);
        }
    }
    changes
}

/// The parts of a manifest that are compared: no status, no bookkeeping, no name.
fn normalized(id: &ObjectId, document: &Value) -> Map<String, Value> {
    let mut map = document.as_object().cloned().unwrap_or_default();
    for key in ["apiVersion", "kind", "status"] {
        map.remove(key);
    }
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        metadata.retain(|key, _| matches!(key.as_str(), "labels" | "annotations"));
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(LAST_APPLIED);
        }
    }
    if id.kind == "Secret" {
        encode_string_data(&mut map);
    }
    map
}

/// `stringData` is written once and read back as `data`.
fn encode_string_data(map: &mut Map<String, Value>) {
    let Some(Value::Object(strings)) = map.remove("stringData") else {
        return;
    };
    let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
    let Some(data) = data.as_object_mut() else {
        return;
    };
    for (key, value) in strings {
        let bytes = value.as_str().unwrap_or_default().as_bytes().to_vec();
        let encoded = serde_json::to_value(k8s_openapi::ByteString(bytes)).unwrap_or_default();
        data.insert(key, encoded);
    }
}

fn last_applied(live: &Value) -> Option<Value> {
    let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    serde_json::from_str(text).ok()
}

struct Walk {
    differences: Vec<Difference>,
    /// Values of a Secret are never shown.
    secret: bool,
}

impl Walk {
    fn note(&mut self, path: &str, current: Option<&Value>, target: Option<&Value>) {
        let show = |v: &Value| {
            if self.secret { Value::from("<redacted>") } else { v.clone() }
        };
        self.differences.push(Difference {
            path: path.to_owned(),
            current: current.map(show),
            target: target.map(show),
        });
    }

    /// Compares what the manifest writes at `path` with what is there.
    fn value(&mut self, path: &str, target: &Value, live: Option<&Value>, parents: &[&str]) {
        match (target, live) {
            (_, None) if is_empty(target, parents) => {}
            (_, None) => self.note(path, None, Some(target)),
            (Value::Object(target), Some(Value::Object(live))) => {
                for (key, value) in target {
                    let mut parents = parents.to_vec();
                    parents.push(key);
                    self.value(&join(path, key), value, live.get(key), &parents);
                }
            }
            (Value::Array(target_items), Some(Value::Array(live_items))) => {
                self.list(path, (target, target_items), live_items, parents, live);
            }
            (_, Some(live)) => {
                if !same_scalar(target, live, parents) {
                    self.note(path, Some(live), Some(target));
                }
            }
        }
    }

    fn list(
        &mut self,
        path: &str,
        (target, items): (&Value, &[Value]),
        live_items: &[Value],
        parents: &[&str],
        live: Option<&Value>,
    ) {
        let field = parents.last().copied().unwrap_or_default();
        if let (Some(keyed), Some(live_keyed)) = (keyed(field, items), keyed(field, live_items)) {
            for (key, item) in &keyed {
                let found = live_keyed.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
                self.value(&format!("{path}[{key}]"), item, found, parents);
            }
            return;
        }
        let mut probe = Walk { differences: Vec::new(), secret: self.secret };
        if items.len() == live_items.len() {
            for (item, live) in items.iter().zip(live_items) {
                probe.value("", item, Some(live), parents);
            }
        }
        // A list without keys is one value: it is replaced as a whole.
        if items.len() != live_items.len() || !probe.differences.is_empty() {
            self.note(path, live, Some(target));
        }
    }

    /// Finds what was once written, is written no more, and is still there.
    fn removed(&mut self, path: &str, before: &Value, target: &Value, live: &Value) {
        match (before, target, live) {
            (Value::Object(before), Value::Object(target), Value::Object(live)) => {
                for (key, old) in before {
                    let path = join(path, key);
                    match (target.get(key), live.get(key)) {
                        (_, None) => {}
                        (None, Some(live)) if is_empty(old, &[key.as_str()]) => {
                            // Written empty, so whatever is there now is somebody else's.
                            let _ = live;
                        }
                        (None, Some(live)) => self.note(&path, Some(live), None),
                        (Some(new), Some(live)) => self.removed(&path, old, new, live),
                    }
                }
            }
            (Value::Array(before), Value::Array(target), Value::Array(live)) => {
                let field = path.rsplit('.').next().unwrap_or_default();
                let field = field.split('[').next().unwrap_or_default();
                let (Some(before), Some(target), Some(live)) =
                    (keyed(field, before), keyed(field, target), keyed(field, live))
                else {
                    return;
                };
                let find = |list: &[(String, &Value)], key: &str| {
                    list.iter().find(|(k, _)| k == key).map(|(_, v)| (*v).clone())
                };
                for (key, old) in &before {
                    let path = format!("{path}[{key}]");
                    match (find(&target, key), find(&live, key)) {
                        (_, None) => {}
                        (None, Some(live)) => self.note(&path, Some(&live), None),
                        (Some(new), Some(live)) => self.removed(&path, old, &new, &live),
                    }
                }
            }
            _ => {}
        }
    }
}

fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.contains(['.', '/'])) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}[{key}]"),
        (false, false) => format!("{path}.{key}"),
    }
}

/// A value that the API server does not keep, so that its absence says the same.
fn is_empty(value: &Value, parents: &[&str]) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        // `emptyDir: {}` chooses a kind of volume; other empty maps say nothing.
        Value::Object(map) => {
            parents.last() != Some(&"emptyDir")
                && map.iter().all(|(key, value)| is_empty(value, &[key.as_str()]))
        }
    }
}

fn same_scalar(target: &Value, live: &Value, parents: &[&str]) -> bool {
    if target == live || (is_empty(target, &[]) && is_empty(live, &[])) {
        return true;
    }
    let (Some(a), Some(b)) = (scalar_text(target), scalar_text(live)) else {
        return false;
    };
    let leaf = parents.last().copied().unwrap_or_default();
    if leaf == "image" && target.is_string() && live.is_string() {
        return image::same(&a, &b);
    }
    // `8080` and `"8080"`: a port or percentage may be either, and nothing that must be text is
    // ever accepted as a number.
    if a == b {
        return target.is_number() || live.is_number();
    }
    is_quantity(parents)
        && matches!((quantity::nanos(&a), quantity::nanos(&b)), (Some(a), Some(b)) if a == b)
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Whether the field holds a quantity: elsewhere `0.1` and `100m` are different texts.
fn is_quantity(parents: &[&str]) -> bool {
    const MAPS: [&str; 6] = ["requests", "limits", "hard", "capacity", "overhead", "allocatable"];
    const FIELDS: [&str; 4] = ["sizeLimit", "divisor", "averageValue", "storage"];
    let leaf = parents.last().copied().unwrap_or_default();
    let map = parents.len().checked_sub(2).and_then(|at| parents.get(at)).copied();
    FIELDS.contains(&leaf) || map.is_some_and(|m| MAPS.contains(&m))
}

/// The items of a list under the keys by which the API merges it; `None` if it has none, or if
/// two items share one.
fn keyed<'a>(field: &str, items: &'a [Value]) -> Option<Vec<(String, &'a Value)>> {
    let fields: &[&str] = match field {
        "ports" => &["containerPort", "port", "protocol"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "hostAliases" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        // The order of these carries meaning, or they have no names.
        "command" | "args" | "rules" | "subjects" | "paths" | "tolerations" | "items" => {
            return None;
        }
        _ => &["name"],
    };
    let mut keyed: Vec<(String, &Value)> = Vec::with_capacity(items.len());
    for item in items {
        let key = key(item.as_object()?, fields)?;
        if keyed.iter().any(|(k, _)| *k == key) {
            return None;
        }
        keyed.push((key, item));
    }
    Some(keyed)
}

fn key(item: &Map<String, Value>, fields: &[&str]) -> Option<String> {
    let mut parts = Vec::new();
    for field in fields {
        match item.get(*field).and_then(scalar_text) {
            Some(text) => parts.push(text),
            None if *field == "protocol" => parts.push("TCP".to_owned()),
            None => {}
        }
    }
    let enough = if fields.contains(&"protocol") { 2 } else { fields.len() };
    (parts.len() == enough).then(|| parts.join("/"))
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
