//! Services and their endpoints under the model: the endpoint controller is as fast as can be.

use super::Native;
use crate::api::IN_FLIGHT_LABEL;
use crate::engine::effect::{How, ObjectWrite};
use crate::engine::objects::{ENDPOINT_SLICES, SERVICES};
use crate::engine::objects::{Look, Objects, Sight, Which};
use crate::engine::observed::HASH_LABEL;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Services, and what was seen of the endpoints of the one called `web` since the last reset.
#[derive(Clone, Debug, Default)]
pub struct Services {
    pub all: BTreeMap<String, Value>,
    pub writes: usize,
    version: u64,
    /// Ready endpoints less replicas, the fewest.
    pub worst: Option<i32>,
    /// It had endpoints of both versions.
    pub mixed: bool,
    /// It had none though there were replicas.
    pub empty: bool,
}

impl Native {
    /// Somebody's Service of the pods.
    pub fn serve(&mut self, name: &str) {
        self.services.version += 1;
        let object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "uid": name, "resourceVersion": self.services.version.to_string()},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        self.services.all.insert(name.to_owned(), object);
    }

    /// What a Service selects by hash.
    pub fn selects(&self, name: &str) -> Option<&str> {
        self.services.all.get(name)?["spec"]["selector"][HASH_LABEL].as_str()
    }

    /// Somebody applies the manifest of a Service again, and nobody keeps it from doing so.
    pub fn reapply(&mut self, name: &str) {
        self.services.version += 1;
        let version = self.services.version.to_string();
        let object = self.services.all.get_mut(name).expect("it is there");
        object["spec"]["selector"] = json!({"app": "web"});
        object["metadata"]["resourceVersion"] = json!(version);
    }

    /// Ready endpoints of a Service by image.
    pub fn endpoints(&self, name: &str) -> Vec<(String, i32)> {
        let hash = self.selects(name);
        let picked = self.sets.iter().filter(|s| hash.is_none_or(|h| h == s.0.replace(':', "-")));
        picked.map(|s| (s.0.clone(), self.ready(&s.0, s.1))).filter(|s| s.1 > 0).collect()
    }

    pub(super) fn note_endpoints(&mut self) {
        if !self.services.all.contains_key("web") {
            return;
        }
        let seen = self.endpoints("web");
        let count: i32 = seen.iter().map(|s| s.1).sum();
        let less = count - self.n;
        self.services.worst = Some(self.services.worst.map_or(less, |w| w.min(less)));
        self.services.mixed |= seen.len() > 1;
        self.services.empty |= count == 0 && self.n > 0;
    }

    pub(super) fn write(&mut self, write: &ObjectWrite) {
        // Whatever else is written is no part of this model, nor what nobody serves here.
        if write.resource != SERVICES || self.services.all.is_empty() {
            return;
        }
        self.services.version += 1;
        self.services.writes += 1;
        let version = self.services.version.to_string();
        match &write.how {
            How::Create(object) => {
                let mut object = object.clone();
                object["metadata"]["uid"] = json!(write.name);
                object["metadata"]["resourceVersion"] = json!(version);
                let before = self.services.all.insert(write.name.clone(), object);
                assert!(before.is_none(), "{} was there", write.name);
            }
            How::Delete(_) => drop(self.services.all.remove(&write.name)),
            How::Patch(operations) => {
                let object = self.services.all.get_mut(&write.name).expect("it is there");
                for op in operations {
                    change(object, op);
                }
                object["metadata"]["resourceVersion"] = json!(version);
            }
        }
        self.note_endpoints();
    }

    /// What the controller would see of these.
    pub fn sights<'l>(&self, looks: impl Iterator<Item = &'l Look>) -> Objects {
        looks.map(|look| (look.clone(), Sight::Seen(self.sight(look)))).collect()
    }

    fn sight(&self, look: &Look) -> Vec<Arc<kube::core::DynamicObject>> {
        let read = |v: Value| Arc::new(serde_json::from_value(v).expect("an object"));
        match &look.which {
            Which::Name(name) | Which::Elsewhere { name, .. } => {
                self.services.all.get(name).cloned().map(read).into_iter().collect()
            }
            Which::Labels(selector) => {
                assert_eq!(look.resource, ENDPOINT_SLICES);
                let name = selector.split('=').next_back().expect("a name");
                if !self.services.all.contains_key(name) {
                    return vec![];
                }
                let pods = self.endpoints(name).into_iter();
                let pods = pods.flat_map(|(image, n)| (0..n).map(move |i| format!("{image}-{i}")));
                let endpoints: Vec<_> = pods
                    .map(|p| json!({"conditions": {"ready": true}, "targetRef": {"name": p}}))
                    .collect();
                vec![read(json!({"metadata": {"name": name}, "endpoints": endpoints}))]
            }
        }
    }
}

fn change(object: &mut Value, op: &Value) {
    let key = format!("/metadata/labels/{}", IN_FLIGHT_LABEL.replace('/', "~1"));
    let (path, value) = (op["path"].as_str().expect("a path"), op["value"].clone());
    match (op["op"].as_str().expect("an op"), path) {
        ("test", path) => assert_eq!(object.pointer(path), Some(&value), "a stale write"),
        ("add", "/metadata/labels") => object["metadata"]["labels"] = value,
        ("add", "/spec/selector") => object["spec"]["selector"] = value,
        ("add", path) if path == key => object["metadata"]["labels"][IN_FLIGHT_LABEL] = value,
        ("remove", "/metadata/labels") => {
            object["metadata"].as_object_mut().expect("metadata").remove("labels");
        }
        other => panic!("unexpected {other:?}"),
    }
}
