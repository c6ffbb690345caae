//! Manifests as documents: which objects they hold, and where a workload keeps its pods.

use crate::api::WorkloadKind;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// Which object a document is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// `apiVersion` as written.
    pub api_version: String,
    /// `kind` as written.
    pub kind: String,
    /// `metadata.namespace`, where one is written.
    pub namespace: Option<String>,
    /// `metadata.name`
    pub name: String,
}

impl ObjectId {
    /// Reads what a document says of itself.
    pub fn of(document: &Value) -> Result<Self, ManifestError> {
        let text = |pointer: &str| {
            document.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
        };
        let named = |what: &'static str| ManifestError::Incomplete {
            what,
            object: text("/metadata/name").or(text("/kind")).unwrap_or("a document").to_owned(),
        };
        Ok(Self {
            api_version: text("/apiVersion").ok_or_else(|| named("apiVersion"))?.to_owned(),
            kind: text("/kind").ok_or_else(|| named("kind"))?.to_owned(),
            namespace: text("/metadata/namespace").map(str::to_owned),
            name: text("/metadata/name").ok_or_else(|| named("metadata.name"))?.to_owned(),
        })
    }

    /// Group and version, split.
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }

    /// Whether this version of the product carries such an object to a new state.
    pub fn is_carried(&self) -> bool {
        self.carried_kind().is_some()
    }

    /// Its kind, where an Upgrade may be about it.
    pub fn carried_kind(&self) -> Option<WorkloadKind> {
        let kinds = [WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::DaemonSet];
        let kind = WorkloadKind::from_kind(&self.kind)?;
        (self.api_version == "apps/v1" && kinds.contains(&kind)).then_some(kind)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.to_lowercase(), self.name)
    }
}

/// Why a document cannot be a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A document that is no object at all.
    #[error("document {0} is not an object with apiVersion, kind and metadata")]
    NotAnObject(usize),
    /// A field is missing without which the object cannot be found.
    #[error("`{object}` has no {what}")]
    Incomplete {
        /// The missing field.
        what: &'static str,
        /// What is known of the object.
        object: String,
    },
    /// `metadata.generateName` cannot be compared with anything.
    #[error("`{0}` is named by generateName, so there is no live object to compare it with")]
    Generated(String),
    /// Two documents about the same object.
    #[error("{0} is written twice; keep one of them")]
    Twice(String),
}

/// Opens every `List`, drops empty documents, and checks that each object can be found by name and
/// is written once.
pub fn flatten(documents: Vec<Value>) -> Result<Vec<(ObjectId, Value)>, ManifestError> {
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        open(document, index, &mut objects)?;
    }
    let mut seen = BTreeSet::new();
    for (id, _) in &objects {
        if !seen.insert(id) {
            return Err(ManifestError::Twice(id.to_string()));
        }
    }
    Ok(objects)
}

fn open(
    mut document: Value,
    index: usize,
    objects: &mut Vec<(ObjectId, Value)>,
) -> Result<(), ManifestError> {
    if document.is_null() {
        return Ok(());
    }
    let Some(map) = document.as_object_mut() else {
        return Err(ManifestError::NotAnObject(index + 1));
    };
    let is_list = map.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    if is_list && let Some(Value::Array(items)) = map.remove("items") {
        for item in items {
            open(item, index, objects)?;
        }
        return Ok(());
    }
    if let Some(prefix) = document.pointer("/metadata/generateName").and_then(Value::as_str)
        && document.pointer("/metadata/name").is_none()
    {
        return Err(ManifestError::Generated(prefix.to_owned()));
    }
    let id = ObjectId::of(&document)?;
    objects.push((id, document));
    Ok(())
}

/// Where an object of this kind keeps its pod spec, as a JSON pointer.
pub fn pod_spec_pointer(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some("/spec"),
        "CronJob" => Some("/spec/jobTemplate/spec/template/spec"),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
            Some("/spec/template/spec")
        }
        _ => None,
    }
}

/// One container as a pod spec writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its image, as written.
    pub image: &'a str,
    /// Whether it is an init container.
    pub init: bool,
}

/// Containers of a pod spec, the ordinary ones first.
pub fn containers(pod_spec: &Value) -> Vec<Container<'_>> {
    [("containers", false), ("initContainers", true)]
        .into_iter()
        .flat_map(|(list, init)| {
            let items = pod_spec.get(list).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(move |c| {
                let name = c.get("name")?.as_str()?;
                Some(Container { name, image: c.get("image")?.as_str()?, init })
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_opened_and_every_object_is_named_once() {
        let object =
            |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [object("a"), object("b")]});
        let got = flatten(vec![list.clone(), Value::Null, object("c")]).expect("valid");
        let names: Vec<_> = got.iter().map(|(id, _)| id.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let twice = flatten(vec![list, object("a")]).expect_err("a is there twice");
        assert_eq!(twice.to_string(), "service/a is written twice; keep one of them");
    }

    #[test]
    fn a_document_that_cannot_be_found_by_name_says_what_is_missing() {
        let say = |v: Value| flatten(vec![v]).expect_err("bad").to_string();
        assert_eq!(
            say(json!({"kind": "Service", "metadata": {"name": "a"}})),
            "`a` has no apiVersion"
        );
        assert_eq!(
            say(json!({"apiVersion": "v1", "kind": "Service"})),
            "`Service` has no metadata.name"
        );
        assert!(say(json!("text")).starts_with("document 1 is not an object"));
        let generated =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}});
        assert!(say(generated).contains("generateName"));
    }
}
