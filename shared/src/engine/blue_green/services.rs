//! Services as blue-green sees and writes them.
//!
//! A Service that an Upgrade points somewhere carries our label for as long, so that admission and
//! whoever comes after a crash know it. `spec.selector` is written whole: to an apply it is one
//! value, and a manifest applied again would drop our key from it.

use crate::api::{FIELD_MANAGER, IN_FLIGHT_LABEL};
use crate::engine::Walk;
use crate::engine::effect::{Effect, How, ObjectWrite, set};
use crate::engine::objects::{ENDPOINT_SLICES, Look, SERVICES, Sight};
use crate::engine::observed::{HASH_LABEL, Workload};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The label that names the Service of an EndpointSlice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Labels that a Service selects pods by.
pub(crate) type Labels = BTreeMap<String, String>;

/// What is known of a Service.
pub(crate) enum Found<'a> {
    /// Nothing yet, or nothing that can be: these are the words for it.
    Unknown(String),
    /// There is none of this name.
    Missing,
    /// This is how it is.
    Here(Service<'a>),
}

/// A Service that is there.
#[derive(Clone, Copy)]
pub(crate) struct Service<'a>(&'a DynamicObject);

impl<'a> Service<'a> {
    fn spec(self) -> &'a Value {
        self.0.data.get("spec").unwrap_or(&Value::Null)
    }

    pub(crate) fn name(self) -> &'a str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn selector(self) -> Labels {
        let map = self.spec().get("selector").and_then(Value::as_object);
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        map.into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect()
    }

    /// The selector but for the key that is ours.
    pub(crate) fn original(self) -> Labels {
        let mut selector = self.selector();
        selector.remove(HASH_LABEL);
        selector
    }

    /// The `pod-template-hash` that it selects.
    pub(crate) fn hash(self) -> Option<String> {
        self.selector().remove(HASH_LABEL)
    }

    /// The Upgrade that points it somewhere.
    pub(crate) fn label(self) -> Option<&'a str> {
        self.0.metadata.labels.as_ref()?.get(IN_FLIGHT_LABEL).map(String::as_str)
    }

    fn is_external(self) -> bool {
        self.spec().get("type").and_then(Value::as_str) == Some("ExternalName")
    }

    /// Whether it was made for a Deployment.
    pub(crate) fn is_of(self, uid: &str) -> bool {
        self.0.metadata.owner_references.iter().flatten().any(|o| o.uid == uid)
    }

    fn version(self) -> Value {
        json!({"op": "test", "path": "/metadata/resourceVersion",
            "value": self.0.metadata.resource_version})
    }

    /// The write that makes it select these pods under an Upgrade's name, where it does not yet.
    pub(crate) fn select(
        self,
        upgrade: &str,
        original: &Labels,
        hash: Option<&str>,
        why: &str,
    ) -> Option<ObjectWrite> {
        let mut wanted = original.clone();
        if let Some(hash) = hash {
            wanted.insert(HASH_LABEL.to_owned(), hash.to_owned());
        }
        let mut operations = vec![self.version()];
        if self.label() != Some(upgrade) {
            let key = format!("/metadata/labels/{}", IN_FLIGHT_LABEL.replace('/', "~1"));
            operations.push(match self.0.metadata.labels {
                Some(_) => set(&key, &json!(upgrade)),
                None => set("/metadata/labels", &json!({ IN_FLIGHT_LABEL: upgrade })),
            });
        }
        if self.selector() != wanted {
            operations.push(set("/spec/selector", &json!(wanted)));
        }
        (operations.len() > 1).then(|| self.write(How::Patch(operations), why.to_owned()))
    }

    /// The last write: our label and our entry of `managedFields` go. None where neither is there.
    pub(crate) fn release(self) -> Option<ObjectWrite> {
        let meta = &self.0.metadata;
        let ours = |manager: &Option<String>| manager.as_deref() == Some(FIELD_MANAGER);
        let entries = meta.managed_fields.iter().flatten();
        let others: Vec<_> = entries.clone().filter(|f| !ours(&f.manager)).collect();
        // The API server takes an empty list for no word about them.
        let owned = entries.clone().any(|f| ours(&f.manager)) && !others.is_empty();
        if self.label().is_none() && !owned {
            return None;
        }
        let mut operations = vec![self.version()];
        if owned {
            operations.push(set("/metadata/managedFields", &json!(others)));
        }
        if self.label().is_some() {
            let one = meta.labels.as_ref().is_some_and(|l| l.len() == 1);
            let key = format!("/metadata/labels/{}", IN_FLIGHT_LABEL.replace('/', "~1"));
            let path = if one { "/metadata/labels".to_owned() } else { key };
            operations.push(json!({"op": "remove", "path": path}));
        }
        Some(self.write(How::Patch(operations), "take our marks off".to_owned()))
    }

    /// The write that deletes it.
    pub(crate) fn delete(self) -> ObjectWrite {
        let uid = self.0.metadata.uid.clone().unwrap_or_default();
        self.write(How::Delete(uid), "the preview is over".to_owned())
    }

    /// The write that makes a Service like it for the new pods of a Deployment, which owns it.
    pub(crate) fn preview(
        self,
        name: &str,
        upgrade: &str,
        owner: (&str, &Workload),
        selector: &Labels,
    ) -> ObjectWrite {
        let mut ports = self.spec().get("ports").cloned().unwrap_or_default();
        for port in ports.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
        let mut spec = json!({"selector": selector, "ports": ports});
        for field in ["ipFamilies", "ipFamilyPolicy", "publishNotReadyAddresses"] {
            if let Some(value) = self.spec().get(field) {
                spec[field] = value.clone();
            }
        }
        if self.spec().get("clusterIP").and_then(Value::as_str) == Some("None") {
            spec["clusterIP"] = json!("None");
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "labels": {IN_FLIGHT_LABEL: upgrade},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment",
                    "name": owner.0, "uid": owner.1.uid}]},
            "spec": spec,
        });
        let why = format!("a preview of the new pods behind {}", self.name());
        ObjectWrite { resource: SERVICES, name: name.to_owned(), how: How::Create(object), why }
    }

    fn write(self, how: How, why: String) -> ObjectWrite {
        ObjectWrite { resource: SERVICES, name: self.name().to_owned(), how, why }
    }

    /// Why it cannot be switched between the pods of a workload.
    pub(crate) fn unfit(self, upgrade: &str, workload: &Workload) -> Option<String> {
        let name = self.name();
        let ours = self.label() == Some(upgrade);
        if self.is_external() {
            return Some(format!("Service {name} is of type ExternalName, which selects no pods"));
        }
        let selector = if ours { self.original() } else { self.selector() };
        if selector.is_empty() {
            return Some(format!("Service {name} has no selector: its endpoints are not pods"));
        }
        if selector.contains_key(HASH_LABEL) {
            return Some(format!(
                "Service {name} selects a {HASH_LABEL} already: somebody else switches it; take \
                 that key out of its selector"
            ));
        }
        let own = selector.iter().all(|(k, v)| workload.pod_labels.get(k) == Some(v));
        (!own).then(|| format!("Service {name} does not select its pods: see its selector"))
    }
}

impl<'a> Walk<'a> {
    /// A Service, from now on watched.
    pub(crate) fn service(&mut self, name: &str) -> Found<'a> {
        match self.see(&Look::name(SERVICES, name)) {
            None => Found::Unknown(format!("looks at Service {name}")),
            Some(Sight::Unavailable(why)) => {
                Found::Unknown(format!("Service {name} cannot be read: {why}"))
            }
            Some(Sight::Seen(found)) => match found.first() {
                None => Found::Missing,
                Some(object) => Found::Here(Service(object)),
            },
        }
    }

    /// Names of the pods that are ready endpoints of a Service, as its EndpointSlices say; or why
    /// they are not known.
    pub(crate) fn endpoints(&mut self, service: &str) -> Result<BTreeSet<&'a str>, String> {
        let look = Look::labels(ENDPOINT_SLICES, format!("{SERVICE_NAME}={service}"));
        let slices = match self.see(&look) {
            None => return Err(format!("looks at the endpoints of Service {service}")),
            Some(Sight::Unavailable(why)) => {
                return Err(format!("endpoints of Service {service} cannot be read: {why}"));
            }
            Some(Sight::Seen(slices)) => slices,
        };
        let all = slices.iter().filter_map(|s| s.data.get("endpoints")?.as_array()).flatten();
        // Absent is ready: see the EndpointSlice API.
        let ready =
            |e: &&Value| e.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
        Ok(all
            .filter(ready)
            .map(|e| e.pointer("/targetRef/name").and_then(Value::as_str).unwrap_or_default())
            .collect())
    }

    /// Writes a Service, and tells of it.
    pub(crate) fn write_service(&mut self, write: ObjectWrite) -> String {
        let note = format!("services/{}: {}", write.name, write.why);
        self.effects.push(Effect::Write(write));
        self.event(false, "Patched", note.clone());
        note
    }
}
