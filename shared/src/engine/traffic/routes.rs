//! Fields of route objects: what they were, and what a split makes of them.

use super::refs::Style;
use super::{Names, Router, gateway, istio, nginx, smi};
use crate::api::traffic::{DestinationRule, Nginx, RouteOriginal};
use crate::api::{FIELD_MANAGER, IN_FLIGHT_LABEL};
use crate::engine::effect::{How, ObjectWrite, set};
use crate::engine::objects::{Look, Resource};
use kube::core::DynamicObject;
use serde_json::{Value, json};

/// Group and version of the Gateway API.
pub(super) const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
pub(super) const ROUTE: Resource =
    Resource { api_version: GATEWAY_API, kind: "HTTPRoute", plural: "httproutes" };
const VIRTUAL: Resource = Resource {
    api_version: "networking.istio.io/v1",
    kind: "VirtualService",
    plural: "virtualservices",
};
const RULE: Resource = Resource {
    api_version: "networking.istio.io/v1",
    kind: "DestinationRule",
    plural: "destinationrules",
};

/// An object that a router reads.
pub(super) struct Part {
    pub(super) resource: Resource,
    pub(super) name: String,
    pub(super) how: Carrier,
}

/// What of it carries traffic.
pub(super) enum Carrier {
    /// Weighted lists in an object of the user's; of an HTTP route of these names, where it has
    /// routes.
    Lists(Style, Vec<String>),
    /// Names of Services in the user's Ingress.
    Ingress,
    /// An Ingress of our own beside the one of this name.
    Beside(Nginx),
    /// A TrafficSplit of the user's, or of our own where there is none.
    Split,
    /// An HTTPRoute of our own, by the name that steps have for it, beside one of the user's.
    Managed {
        /// Name of the route in the steps.
        name: String,
        /// Name of the user's HTTPRoute.
        of: String,
    },
    /// Nothing by itself: subsets that other routes name.
    Subsets,
}

impl Router {
    /// What it reads, in the order in which it is written.
    pub(super) fn parts(&self, workload: &str) -> Vec<Part> {
        let part = |resource: &Resource, name: &str, how| Part {
            resource: resource.clone(),
            name: name.to_owned(),
            how,
        };
        match self {
            Self::Services => vec![],
            Self::Gateway(names) => {
                let lists = |n: &String| part(&ROUTE, n, Carrier::Lists(Style::Gateway, vec![]));
                names.iter().map(lists).collect()
            }
            Self::Nginx(n) => {
                let beside = format!("{workload}-{}-canary", n.stable_ingress);
                vec![
                    part(&nginx::INGRESS, &n.stable_ingress, Carrier::Ingress),
                    part(&nginx::INGRESS, &beside, Carrier::Beside(n.clone())),
                ]
            }
            Self::Istio(i) => {
                let style = i.destination_rule.as_ref().map_or(Style::Host, |r| Style::Subset {
                    stable: r.stable_subset_name.clone(),
                    canary: r.canary_subset_name.clone(),
                });
                let lists = Carrier::Lists(style, i.virtual_service.routes.clone());
                vec![part(&VIRTUAL, &i.virtual_service.name, lists)]
            }
            Self::Smi(s) => {
                let name = s.traffic_split_name.as_deref().unwrap_or(workload);
                vec![part(&smi::SPLIT, name, Carrier::Split)]
            }
        }
    }

    /// The DestinationRule whose subsets stand for Services.
    pub(super) fn rule(&self) -> Option<&DestinationRule> {
        match self {
            Self::Istio(i) => i.destination_rule.as_ref(),
            _ => None,
        }
    }
}

/// Where to look for a DestinationRule.
pub(super) fn rule(name: &str) -> Part {
    Part { resource: RULE, name: name.to_owned(), how: Carrier::Subsets }
}

impl Part {
    pub(super) fn look(&self) -> Look {
        Look::name(self.resource.clone(), self.name.clone())
    }

    /// `httproutes/web`
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.resource.plural, self.name)
    }

    /// Pointers to what may carry traffic.
    pub(super) fn pointers(&self, object: &Value) -> Vec<String> {
        match &self.how {
            Carrier::Lists(Style::Gateway, _) => gateway::lists(object),
            Carrier::Lists(Style::Host | Style::Subset { .. }, routes) => {
                istio::lists(object, routes)
            }
            Carrier::Lists(Style::Smi, _) | Carrier::Split => smi::lists(object),
            Carrier::Ingress => nginx::backends(object),
            Carrier::Beside(_) | Carrier::Managed { .. } | Carrier::Subsets => vec![],
        }
    }

    pub(super) fn style(&self) -> Option<&Style> {
        match &self.how {
            Carrier::Lists(style, _) => Some(style),
            Carrier::Split => Some(&Style::Smi),
            _ => None,
        }
    }

    /// Names of the Services that it sends to.
    pub(super) fn backends(&self, object: &Value, namespace: &str) -> Vec<String> {
        let anything = Names { namespace: namespace.to_owned(), ..Names::default() };
        let mut found = vec![];
        for pointer in self.pointers(object) {
            let Some(value) = object.pointer(&pointer) else { continue };
            let Some(style) = self.style() else {
                found.extend(value.as_str().map(str::to_owned));
                continue;
            };
            for entry in value.as_array().into_iter().flatten() {
                let name = match style {
                    Style::Gateway => entry.get("name").and_then(Value::as_str),
                    Style::Smi => entry.get("service").and_then(Value::as_str),
                    Style::Host | Style::Subset { .. } => entry
                        .pointer("/destination/host")
                        .and_then(Value::as_str)
                        .and_then(|h| anything.short(h)),
                };
                found.extend(name.map(str::to_owned));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The fields that send to the workload, with what each was before we wrote it. What somebody
    /// else wrote meanwhile is what it is to be put back to.
    pub(super) fn fields(
        &self,
        object: &Value,
        names: &Names,
        known: &[RouteOriginal],
    ) -> Vec<(String, Value)> {
        let id = self.id();
        let known: Vec<(&str, Value)> = known
            .iter()
            .filter(|k| k.object == id)
            .filter_map(|k| Some((k.path.as_str(), serde_json::from_str(k.value.as_ref()?).ok()?)))
            .collect();
        let fields = self.pointers(object).into_iter().filter_map(|pointer| {
            let value = object.pointer(&pointer)?;
            let original = self.original(&pointer, value, names, &known)?;
            Some((pointer, original))
        });
        fields.collect()
    }

    fn original(
        &self,
        pointer: &str,
        value: &Value,
        names: &Names,
        known: &[(&str, Value)],
    ) -> Option<Value> {
        let Some(style) = self.style() else {
            let name = value.as_str()?;
            if name == names.stable {
                let noted = known.iter().find(|(p, _)| *p == pointer);
                return Some(noted.map_or_else(|| json!(names.root), |(_, v)| v.clone()));
            }
            return names.is_root(name).then(|| value.clone());
        };
        let made = |v: &Value| style.made_of(value, v, names);
        if let Some((_, noted)) = known.iter().find(|(p, v)| *p == pointer && made(v)) {
            return Some(noted.clone());
        }
        if style.mentions(value, names) {
            let moved = known.iter().find(|(_, v)| made(v)).map(|(_, v)| v.clone());
            return Some(moved.unwrap_or_else(|| style.undo(value, names)));
        }
        let entries = value.as_array()?;
        entries.iter().any(|e| style.role(e, names).is_some()).then(|| value.clone())
    }

    /// A field with the canary at a weight in percent.
    pub(super) fn carried(&self, original: &Value, names: &Names, weight: i32) -> Value {
        match self.style() {
            Some(style) => style.carry(original, names, weight),
            None => json!(names.stable),
        }
    }

    /// Why the router does not do yet what the object says.
    pub(super) fn refused(&self, object: &Value) -> Option<String> {
        match &self.how {
            Carrier::Lists(Style::Gateway, _) | Carrier::Managed { .. } => gateway::refused(object),
            _ => None,
        }
    }

    /// A patch of the user's object: fields, and our label on it for as long.
    pub(super) fn patch(
        &self,
        object: &DynamicObject,
        upgrade: &str,
        fields: &[(String, Value)],
        why: String,
    ) -> ObjectWrite {
        let mut operations = vec![same_version(object)];
        if object.metadata.labels.as_ref().and_then(|l| l.get(IN_FLIGHT_LABEL)).is_none() {
            operations.push(if object.metadata.labels.is_some() {
                set(&label_path(), &json!(upgrade))
            } else {
                set("/metadata/labels", &json!({ IN_FLIGHT_LABEL: upgrade }))
            });
        }
        operations.extend(fields.iter().map(|(pointer, value)| match value {
            Value::Null => json!({"op": "remove", "path": pointer}),
            value => set(pointer, value),
        }));
        self.write(How::Patch(operations), why)
    }

    /// Our marks off an object of the user's, where there are any: Git's next apply is to meet no
    /// other owner.
    pub(super) fn unmark(&self, object: &DynamicObject, upgrade: &str) -> Option<ObjectWrite> {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let labelled = labels.get(IN_FLIGHT_LABEL).is_some_and(|l| l == upgrade);
        let entries = object.metadata.managed_fields.clone().unwrap_or_default();
        let others: Vec<_> =
            entries.iter().filter(|f| f.manager.as_deref() != Some(FIELD_MANAGER)).collect();
        if !labelled && others.len() == entries.len() {
            return None;
        }
        let mut operations =
            vec![same_version(object), set("/metadata/managedFields", &json!(others))];
        if labelled {
            let path = if labels.len() == 1 { "/metadata/labels".to_owned() } else { label_path() };
            operations.push(json!({"op": "remove", "path": path}));
        }
        Some(self.write(How::Patch(operations), "take our marks off".to_owned()))
    }

    pub(super) fn write(&self, how: How, why: String) -> ObjectWrite {
        ObjectWrite { resource: self.resource.clone(), name: self.name.clone(), how, why }
    }
}

/// Whose an object is, by our label.
pub(super) fn carried_by(object: &DynamicObject) -> Option<&str> {
    object.metadata.labels.as_ref()?.get(IN_FLIGHT_LABEL).map(String::as_str)
}

pub(super) fn same_version(object: &DynamicObject) -> Value {
    json!({"op": "test", "path": "/metadata/resourceVersion", "value": object.metadata.resource_version})
}

fn label_path() -> String {
    format!("/metadata/labels/{}", IN_FLIGHT_LABEL.replace('/', "~1"))
}
