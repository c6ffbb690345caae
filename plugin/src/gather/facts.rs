//! Versions that run, for a compatibility matrix. What cannot be read is noted as unread.

use super::read::{Read, list_all};
use super::workloads::{self, Object};
use crate::client::Session;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::Api;
use upgrade_core::api::matrix::{ConfigMapKey, VersionSource};
use upgrade_core::matrix::{Facts, Known, Matrix, workload_object};
use upgrade_core::policy::Workload;
use upgrade_core::version::Version;

/// A key of a ConfigMap, and its value where there is one.
pub type Setting = (ConfigMapKey, Option<String>);

/// Reads every component and setting that a matrix names.
pub async fn read(session: &Session, matrix: &Matrix) -> (Facts, Vec<Setting>) {
    let mut facts = Facts::default();
    for (name, source) in matrix.components() {
        if let Err(why) = component(session, name, source, &mut facts).await {
            facts.unread(name, &why);
        }
    }
    let mut settings = Vec::new();
    for key in matrix.settings() {
        // A setting that was not read is one of which nothing is said.
        if let Ok(value) = value(session, key).await {
            facts.setting(key.clone(), value.as_deref());
            settings.push((key.clone(), value));
        }
    }
    (facts, settings)
}

async fn component(
    session: &Session,
    name: &str,
    source: &VersionSource,
    facts: &mut Facts,
) -> Result<(), String> {
    if source.kubernetes.is_some() {
        let info = session.client.apiserver_version().await.map_err(|e| e.to_string())?;
        facts.read(name, "the API server", &info.git_version);
    } else if source.kubelets.is_some() {
        kubelets(session, name, facts).await?;
    } else if let Some(key) = source.config_map.as_ref().or(source.schema.as_ref()) {
        match value(session, key).await? {
            Some(version) => {
                facts.read(name, &format!("ConfigMap {}/{}", key.namespace, key.name), &version)
            }
            None => facts.absent(name),
        };
    } else if let Some(crd) = &source.crd {
        let api: Api<CustomResourceDefinition> = Api::all(session.client.clone());
        let need = format!("get customresourcedefinitions {}", crd.name);
        match Read::of(session, api.get_opt(&crd.name).await, &need) {
            Read::Unknown(needs) => return Err(needs),
            Read::Absent => {
                facts.absent(name);
            }
            Read::There(found) => {
                let stored = found.status.and_then(|s| s.stored_versions).unwrap_or_default();
                for version in stored {
                    facts.read(name, &format!("CRD {}", crd.name), &version);
                }
            }
        }
    } else {
        of_workloads(session, name, source, facts).await?;
    }
    Ok(())
}

async fn kubelets(session: &Session, name: &str, facts: &mut Facts) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(session.client.clone());
    match list_all(session, &nodes, "list nodes").await {
        Read::Unknown(needs) => Err(needs),
        Read::Absent => {
            facts.absent(name);
            Ok(())
        }
        Read::There(nodes) => {
            facts.absent(name);
            for node in nodes {
                let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
                let version = info.map(|i| i.kubelet_version.clone()).unwrap_or_default();
                facts.read(name, &format!("node {}", node.name_any()), &version);
            }
            Ok(())
        }
    }
}

async fn value(session: &Session, key: &ConfigMapKey) -> Result<Option<String>, String> {
    let api: Api<ConfigMap> = Api::namespaced(session.client.clone(), &key.namespace);
    let need = format!("get configmaps {} in namespace {}", key.name, key.namespace);
    match Read::of(session, api.get_opt(&key.name).await, &need) {
        Read::There(map) => Ok(map.data.and_then(|d| d.get(&key.key).cloned())),
        Read::Absent => Ok(None),
        Read::Unknown(needs) => Err(needs),
    }
}

/// What templates say; a canary's second version is read from its pods by the controller alone.
async fn of_workloads(
    session: &Session,
    name: &str,
    source: &VersionSource,
    facts: &mut Facts,
) -> Result<(), String> {
    let (namespace, container, label) = match (&source.workload, &source.workloads) {
        (Some(w), _) => (&w.namespace, &w.container, &w.label),
        (_, Some(w)) => (&w.namespace, &w.container, &w.label),
        // A literal: the matrix itself says it.
        _ => return Ok(()),
    };
    let is_it =
        |object: &Object, workload: &Workload<'_>| match (&source.workload, &source.workloads) {
            (Some(w), _) => w.kind == object.kind && w.name == *workload.name,
            (_, Some(w)) => !object.owned && w.selector.matches(&workload.labels),
            _ => false,
        };
    facts.absent(name);
    for object in workloads::list(session, namespace).await? {
        let Ok(workload) = Workload::parse(object.kind, &object.raw) else { continue };
        if object.over || !is_it(&object, &workload) {
            continue;
        }
        let at = |container| workload_object(object.kind, namespace, &workload.name, container);
        if let Some(label) = label {
            let version = workload.pod_labels.get(label);
            let version = version.ok_or_else(|| format!("{} has no label {label}", at(None)))?;
            facts.read(name, &at(None), version);
            continue;
        }
        let wanted = |c: &str| container.as_ref().is_none_or(|wanted| wanted == c);
        let mut any = false;
        for image in workload.images.iter().filter(|i| wanted(&i.container)) {
            let object = at(Some(&image.container));
            let version = Version::of_image(&image.image)
                .ok_or_else(|| format!("the image of {object} has no tag: {}", image.image))?;
            facts.read(name, &object, version.as_str());
            any = true;
        }
        if !any {
            return Err(format!("{} has no such container", at(container.as_deref())));
        }
    }
    Ok(())
}

/// Copies what is known of a component.
pub fn copy(from: &Facts, name: &str, source: &VersionSource, to: &mut Facts) {
    match from.known(name, source) {
        Known::Absent => {
            to.absent(name);
        }
        Known::Unread(why) => {
            to.unread(name, &why);
        }
        Known::Runs(readings) => {
            for reading in readings {
                to.read(name, &reading.object, reading.version.as_str());
            }
        }
    }
}
