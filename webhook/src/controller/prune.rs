//! What of watched objects is kept: only the parts that somebody reads.

use super::ledger::of_driver;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use kube::{Resource, ResourceExt};
use serde_json::json;
use upgrade_core::api::FIELD_MANAGER;

pub(super) fn drop_noise<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}

/// Of a Deployment's template only the images and labels matter.
pub(super) fn prune_deployment(deployment: &mut Deployment) {
    // Of the owners of its fields only whether we are one.
    let mut ours = std::mem::take(deployment.managed_fields_mut());
    ours.retain(|f| f.manager.as_deref() == Some(FIELD_MANAGER));
    for entry in &mut ours {
        entry.fields_v1 = None;
    }
    drop_noise(deployment);
    *deployment.managed_fields_mut() = ours;
    let pod = deployment.spec.as_mut().and_then(|s| s.template.spec.as_mut());
    if let Some(pod) = pod {
        prune_template(pod);
    }
}

/// The same of a StatefulSet's.
pub(super) fn prune_stateful_set(set: &mut StatefulSet) {
    drop_noise(set);
    let Some(spec) = &mut set.spec else { return };
    spec.volume_claim_templates = None;
    if let Some(pod) = &mut spec.template.spec {
        prune_template(pod);
    }
}

/// The same of a DaemonSet's.
pub(super) fn prune_daemon_set(set: &mut DaemonSet) {
    drop_noise(set);
    let pod = set.spec.as_mut().and_then(|s| s.template.spec.as_mut());
    if let Some(pod) = pod {
        prune_template(pod);
    }
}

fn prune_template(pod: &mut PodSpec) {
    prune_containers(pod);
    pod.volumes.iter_mut().for_each(|v| v.retain(|v| v.image.is_some() || of_driver(v).is_some()));
}

/// Of a revision only the images of its template matter.
pub(super) fn prune_revision(revision: &mut ControllerRevision) {
    drop_noise(revision);
    let Some(data) = revision.data.as_mut().map(|d| &mut d.0) else { return };
    let pod = data.pointer("/spec/template/spec").cloned();
    let mut pod: PodSpec = pod.and_then(|p| serde_json::from_value(p).ok()).unwrap_or_default();
    prune_containers(&mut pod);
    let images = PodSpec {
        containers: pod.containers,
        init_containers: pod.init_containers,
        ..PodSpec::default()
    };
    *data = json!({"spec": {"template": {"spec": images}}});
}

/// Of a node only its labels matter.
pub(super) fn prune_node(node: &mut Node) {
    drop_noise(node);
    node.metadata.annotations = None;
    node.spec = None;
    node.status = None;
}

/// Of a ReplicaSet's pods only the images matter.
pub(super) fn prune_set(set: &mut ReplicaSet) {
    drop_noise(set);
    let pod = set.spec.as_mut().and_then(|s| s.template.as_mut()).and_then(|t| t.spec.as_mut());
    if let Some(pod) = pod {
        prune_containers(pod);
        pod.volumes = None;
    }
}

/// Of a pod only its node, its readiness and its containers' troubles matter.
pub(super) fn prune_pod(pod: &mut Pod) {
    drop_noise(pod);
    let node_name = pod.spec.take().and_then(|s| s.node_name);
    pod.spec = Some(PodSpec { node_name, ..PodSpec::default() });
}

fn prune_containers(pod: &mut PodSpec) {
    let all = pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten());
    for container in all {
        *container = Container {
            name: std::mem::take(&mut container.name),
            image: container.image.take(),
            ..Container::default()
        };
    }
}
