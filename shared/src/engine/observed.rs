//! What runs: the parts of a workload, its ReplicaSets or revisions and its pods that the engine
//! reasons on. Deployments are read here; the others beside their drivers.

use crate::api::status::Originals;
use crate::api::{FIELD_MANAGER, HELD_ANNOTATION, Held, IN_FLIGHT_LABEL, UpgradeApproval};
use crate::engine::effect::Write;
use crate::engine::governance::Governance;
use crate::engine::law;
use crate::engine::objects::Objects;
use crate::engine::questions::Answers;
use crate::image;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The label by which the Deployment controller tells the pods of its ReplicaSets apart.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Everything a decision about one Upgrade is made on.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// `metadata.generation` of the Upgrade.
    pub generation: i64,
    /// `metadata.creationTimestamp` of the Upgrade.
    pub created: Option<Timestamp>,
    /// Somebody deleted the Upgrade; our finalizer holds it.
    pub deleting: bool,
    /// Our finalizer is on the Upgrade.
    pub held: bool,
    /// Approvals and rejections that name this Upgrade.
    pub approvals: Vec<UpgradeApproval>,
    /// What policies, windows and matrices ask for.
    pub governance: Governance,
    /// The workloads, in the order of the plan: stage by stage, target by target.
    pub workloads: Vec<Vec<Option<Workload>>>,
    /// Objects other than workloads that the last round wanted to see.
    pub objects: Objects,
    /// Answers to what the last round asked.
    pub answers: Answers,
    /// When to look again at what no watch tells of.
    pub look_again: Option<Timestamp>,
    /// Another Upgrade, older and not ended, that names one of the workloads.
    pub rival: Option<Rival>,
}

/// Another Upgrade that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// The workload both want.
    pub workload: String,
}

/// A workload as the engine sees it. What is said of a Deployment's ReplicaSets holds for the
/// controller revisions of the other kinds, which have no counts of their own: their pods do.
#[expect(clippy::struct_excessive_bools, reason = "they are facts of the object, not modes")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub resource_version: String,
    /// The Upgrade named by our label.
    pub label: Option<String>,
    /// What mode `Hold` noted of it: beside our label it says that its new template has not begun.
    pub hold: Option<Held>,
    /// Our annotation is on it, whatever it says.
    pub stamped: bool,
    /// We own fields of it: an entry of `metadata.managedFields` is ours.
    pub owned: bool,
    /// Whether it has any labels at all.
    pub has_labels: bool,
    /// The Deployment controller has seen the spec as it is.
    pub observed: bool,
    /// `spec.replicas`
    pub replicas: i32,
    /// `spec.paused`
    pub paused: bool,
    /// `spec.strategy.type` is `Recreate`
    pub recreate: bool,
    /// The guarded fields as they are.
    pub fields: Originals,
    /// Containers and init containers.
    pub containers: Vec<Container>,
    /// Labels of the pod template.
    pub pod_labels: BTreeMap<String, String>,
    /// ReplicaSets that it controls.
    pub replica_sets: Vec<Set>,
    /// What a StatefulSet says of its revisions.
    pub revisions: Revisions,
    /// Its pods that are not being deleted.
    pub pods: Vec<PodState>,
    /// `status.replicas`
    pub status_replicas: i32,
    /// `status.updatedReplicas`
    pub updated: i32,
    /// `status.availableReplicas`
    pub available: i32,
    /// Message of a true `ReplicaFailure` condition: quota, admission, limits.
    pub replica_failure: Option<String>,
    /// Its canary, where that is a Deployment of its own and runs.
    pub separate: Option<Box<Workload>>,
}

/// What a StatefulSet says of its revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// `status.currentRevision`: what pods under the partition come up as.
    pub current: Option<String>,
    /// `status.updateRevision`: what the others come up as.
    pub update: Option<String>,
    /// `spec.ordinals.start`
    pub first: i32,
}

/// A container of the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// JSON pointer to it in the Deployment.
    pub pointer: String,
}

/// A ReplicaSet, or a controller revision with the pods of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// `metadata.name`; of a revision what its pods carry in `controller-revision-hash`
    pub name: String,
    /// Its label `pod-template-hash`, as the Deployment controller gave it.
    pub hash: Option<String>,
    /// `spec.replicas`
    pub replicas: i32,
    /// `status.replicas`
    pub status_replicas: i32,
    /// `status.readyReplicas`
    pub ready: i32,
    /// Revision that the Deployment controller gave it.
    pub revision: i64,
    /// `metadata.creationTimestamp`, in whole seconds.
    pub created: Option<Timestamp>,
    /// Images by container.
    pub images: Vec<(String, String)>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodState {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub resource_version: String,
    /// The node it is on, once it is on one.
    pub node: Option<String>,
    /// That node is one of those that the canary takes first.
    pub preferred: bool,
    /// ReplicaSet that controls it, or revision that it was made of.
    pub set: String,
    /// `status.podIP`
    pub ip: Option<String>,
    /// Since when it has been able to start its containers: the latest of its creation, its node,
    /// its init containers, and the end of its last readiness.
    pub since: Option<Timestamp>,
    /// Since when it is Ready.
    pub ready_since: Option<Timestamp>,
    /// Why it does not run, where a container says so.
    pub trouble: Option<Trouble>,
}

/// A container that does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Container.
    pub container: String,
    /// Reason as the kubelet gives it: `CrashLoopBackOff`, `ImagePullBackOff`.
    pub reason: String,
    /// How often it was restarted.
    pub restarts: i32,
}

impl Workload {
    /// Reads what matters from the API's objects. `sets` and `pods` may hold those of others.
    pub fn new(deployment: &Deployment, sets: &[&ReplicaSet], pods: &[&Pod]) -> Self {
        let meta = &deployment.metadata;
        let spec = deployment.spec.clone().unwrap_or_default();
        let status = deployment.status.clone().unwrap_or_default();
        let uid = meta.uid.clone().unwrap_or_default();
        let replica_sets: Vec<Set> = sets
            .iter()
            .filter(|s| controlled_by(s.metadata.owner_references.as_deref(), &uid))
            .map(|s| Set::new(s))
            .collect();
        let pods = pods.iter().filter_map(|p| PodState::new(p, &replica_sets)).collect();
        Self {
            observed: status.observed_generation.unwrap_or(0) >= meta.generation.unwrap_or(0),
            replicas: spec.replicas.unwrap_or(1),
            paused: spec.paused.unwrap_or(false),
            recreate: is_recreate(&spec),
            fields: originals(&spec),
            containers: spec.template.spec.as_ref().map(containers).unwrap_or_default(),
            pod_labels: spec.template.metadata.and_then(|m| m.labels).unwrap_or_default(),
            replica_sets,
            pods,
            status_replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            replica_failure: replica_failure(&status),
            ..Self::of(meta)
        }
    }

    /// What the metadata says.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let label = meta.labels.as_ref().and_then(|l| l.get(IN_FLIGHT_LABEL)).cloned();
        let stamp = meta.annotations.as_ref().and_then(|a| a.get(HELD_ANNOTATION));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            hold: stamp.filter(|_| label.is_some()).and_then(|text| Held::read(text)),
            stamped: stamp.is_some(),
            owned: meta.managed_fields.iter().flatten().any(is_ours),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            label,
            has_labels: meta.labels.is_some(),
            ..Self::default()
        }
    }

    /// It, and its canary where that is a Deployment of its own.
    pub fn and_its_canary(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.separate.as_deref())
    }

    /// New pods are kept from ever becoming Available.
    pub fn inflated(&self) -> bool {
        self.fields.min_ready_seconds == law::INFLATED_MIN_READY_SECONDS
    }

    /// The native rollout is over: every pod is of the present template and available.
    pub fn complete(&self) -> bool {
        self.observed
            && self.updated == self.replicas
            && self.status_replicas == self.replicas
            && self.available == self.replicas
    }

    /// What the ReplicaSets say and what the Deployment says of them is the same moment, and no
    /// pod is still to be made or taken away. Two watches feed us; either may be behind.
    pub fn settled(&self) -> bool {
        let wanted: i32 = self.replica_sets.iter().map(|s| s.replicas).sum();
        let made: i32 = self.replica_sets.iter().map(|s| s.status_replicas).sum();
        self.observed && wanted == made && made == self.status_replicas
    }

    /// The ReplicaSet that serves while the Deployment is held: of those with pods the largest.
    pub fn serving(&self) -> Option<&Set> {
        self.replica_sets.iter().filter(|s| s.replicas > 0).max_by_key(|s| s.replicas)
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The ReplicaSet of that name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.replica_sets.iter().find(|s| s.name == name)
    }

    /// Surge in force, in pods.
    pub fn surge(&self) -> i32 {
        law::resolve_surge(self.fields.max_surge.as_ref(), self.replicas)
    }

    /// Unavailable pods in force.
    pub fn unavailable(&self) -> i32 {
        law::resolve_unavailable(self.fields.max_unavailable.as_ref(), self.replicas)
    }

    /// Drops from a write whatever is already so.
    pub fn missing(&self, mut write: Write) -> Write {
        write.images.retain(|(pointer, image)| {
            self.containers.iter().any(|c| c.pointer == *pointer && c.image != *image)
        });
        let fields = &self.fields;
        write.paused = write.paused.filter(|v| *v != self.paused);
        write.max_surge = write.max_surge.filter(|v| Some(v) != fields.max_surge.as_ref());
        write.max_unavailable =
            write.max_unavailable.filter(|v| Some(v) != fields.max_unavailable.as_ref());
        write.min_ready_seconds =
            write.min_ready_seconds.filter(|v| *v != fields.min_ready_seconds);
        write.progress_deadline_seconds = write
            .progress_deadline_seconds
            .filter(|v| Some(*v) != fields.progress_deadline_seconds);
        write.update_strategy =
            write.update_strategy.filter(|v| Some(v) != fields.update_strategy.as_ref());
        write
    }
}

impl Set {
    fn new(set: &ReplicaSet) -> Self {
        let spec = set.spec.as_ref();
        let status = set.status.as_ref();
        let revision = set.metadata.annotations.as_ref();
        Self {
            name: set.metadata.name.clone().unwrap_or_default(),
            hash: set.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL)).cloned(),
            replicas: spec.and_then(|s| s.replicas).unwrap_or(0),
            status_replicas: status.map_or(0, |s| s.replicas),
            ready: status.and_then(|s| s.ready_replicas).unwrap_or(0),
            revision: revision
                .and_then(|a| a.get("deployment.kubernetes.io/revision"))
                .and_then(|r| r.parse().ok())
                .unwrap_or(0),
            created: set.metadata.creation_timestamp.as_ref().map(|t| t.0),
            images: spec
                .and_then(|s| s.template.as_ref())
                .and_then(|t| t.spec.as_ref())
                .map(containers)
                .unwrap_or_default()
                .into_iter()
                .map(|c| (c.name, c.image))
                .collect(),
        }
    }

    /// Runs this image in this container.
    pub fn runs(&self, container: &str, image: &str) -> bool {
        self.images.iter().any(|(c, i)| c == container && image::same(i, image))
    }
}

impl PodState {
    fn new(pod: &Pod, sets: &[Set]) -> Option<Self> {
        let owner =
            pod.metadata.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))?;
        let set = sets.iter().find(|s| s.name == owner.name)?;
        Self::of(pod, set.name.clone())
    }

    /// A pod of this ReplicaSet or revision; none where it is being deleted.
    pub(super) fn of(pod: &Pod, set: String) -> Option<Self> {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let status = pod.status.as_ref();
        let ready = status
            .and_then(|s| s.conditions.as_ref())
            .and_then(|c| c.iter().find(|c| c.type_ == "Ready" && c.status == "True"));
        let containers = status
            .into_iter()
            .flat_map(|s| s.init_container_statuses.iter().chain(s.container_statuses.iter()))
            .flatten();
        Some(Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            resource_version: pod.metadata.resource_version.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            preferred: false,
            set,
            ip: status.and_then(|s| s.pod_ip.clone()),
            since: able_since(pod),
            ready_since: ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
            trouble: containers.filter_map(trouble).max_by_key(|t| t.restarts),
        })
    }

    /// When it is available by so many `minReadySeconds`, if nothing happens to it.
    pub(super) fn available_at(&self, min_ready_seconds: i32) -> Option<Timestamp> {
        let length = SignedDuration::from_secs(i64::from(min_ready_seconds));
        self.ready_since.map(|t| t.saturating_add(length).unwrap_or(t))
    }
}

fn able_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let marks = conditions.filter(|c| match c.type_.as_str() {
        "PodScheduled" | "Initialized" => c.status == "True",
        "Ready" => c.status != "True",
        _ => false,
    });
    let times = marks.filter_map(|c| c.last_transition_time.as_ref());
    times.chain(&pod.metadata.creation_timestamp).map(|t| t.0).max()
}

fn trouble(status: &ContainerStatus) -> Option<Trouble> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    let normal = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
    (!normal).then(|| Trouble {
        container: status.name.clone(),
        reason,
        restarts: status.restart_count,
    })
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER)
}

pub(super) fn controlled_by(
    owners: Option<&[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]>,
    uid: &str,
) -> bool {
    owners.unwrap_or_default().iter().any(|o| o.controller == Some(true) && o.uid == uid)
}

pub(super) fn containers(pod: &PodSpec) -> Vec<Container> {
    let read = |list: &[k8s_openapi::api::core::v1::Container], field: &str| {
        list.iter()
            .enumerate()
            .map(|(i, c)| Container {
                name: c.name.clone(),
                image: c.image.clone().unwrap_or_default(),
                pointer: format!("/spec/template/spec/{field}/{i}"),
            })
            .collect::<Vec<_>>()
    };
    let mut all = read(pod.init_containers.as_deref().unwrap_or_default(), "initContainers");
    all.extend(read(&pod.containers, "containers"));
    all
}

fn is_recreate(spec: &k8s_openapi::api::apps::v1::DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

fn originals(spec: &k8s_openapi::api::apps::v1::DeploymentSpec) -> Originals {
    let strategy = spec.strategy.as_ref();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let own = |v: Option<&IntOrString>| v.cloned();
    Originals {
        // What is paused is started on only where it is held, and then the stamp says it.
        paused: false,
        strategy: strategy.and_then(|s| s.type_.clone()),
        max_surge: own(rolling.and_then(|r| r.max_surge.as_ref())),
        max_unavailable: own(rolling.and_then(|r| r.max_unavailable.as_ref())),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        progress_deadline_seconds: spec.progress_deadline_seconds,
        update_strategy: None,
    }
}

fn replica_failure(status: &k8s_openapi::api::apps::v1::DeploymentStatus) -> Option<String> {
    let conditions = status.conditions.as_ref()?;
    let failed = conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    Some(failed.message.clone().unwrap_or_else(|| "pods cannot be created".to_owned()))
}
