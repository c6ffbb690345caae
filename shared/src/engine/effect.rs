//! What the engine wants done. Data only: the controller performs it.

use super::objects::{Look, Resource};
use super::questions::{Key, Question};
use crate::api::WorkloadKind;
use crate::api::status::UpdateStrategy;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

/// One thing to be done, safe to do again.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write to a workload's spec, if it is still at the resource version that was looked at.
    Patch(WorkloadPatch),
    /// Delete a pod, if it is still the one, and as it was, that was looked at.
    DeletePod(PodDelete),
    /// The last write: take our label and our `managedFields` entry off a workload.
    Release {
        /// Kind of the workload.
        kind: WorkloadKind,
        /// Name of the workload.
        name: String,
        /// `metadata.uid` of the workload that carries the marks; a namesake's are not ours.
        uid: String,
        /// It stays held: only our `managedFields` entry goes.
        held: bool,
    },
    /// Note what a workload is approved to run now.
    Record {
        /// Kind of the workload.
        kind: WorkloadKind,
        /// Name of the workload.
        name: String,
    },
    /// Tell people.
    Event(Event),
    /// Tell these receivers that the Upgrade is going to start.
    Announce {
        /// Names of their Secrets.
        receivers: Vec<String>,
    },
    /// Order another Upgrade of the namespace to be taken back.
    Abort {
        /// Its name.
        name: String,
    },
    /// Put our finalizer on the Upgrade, so that deleting it puts everything back first.
    Hold,
    /// Take our finalizer off the Upgrade.
    LetGo,
    /// Keep an eye on these objects until the Upgrade is over.
    Watch(Look),
    /// Ask, unless it is being asked already.
    Ask {
        /// Names this asking.
        key: Key,
        /// What is asked.
        question: Question,
    },
    /// Write an object other than a workload.
    Write(ObjectWrite),
    /// Look again at this time, should nothing happen before.
    RequeueAt(Timestamp),
}

impl Effect {
    /// The workload whose images are to be noted.
    pub fn recorded(&self) -> Option<(WorkloadKind, String)> {
        match self {
            Self::Record { kind, name } => Some((*kind, name.clone())),
            _ => None,
        }
    }

    /// It brings a workload forward: nothing that is still to be done once the way back begins.
    pub fn moves(&self) -> bool {
        matches!(self, Self::Patch(_) | Self::DeletePod(_) | Self::Write(_))
    }
}

/// A pod that is to go, so that its controller makes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDelete {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`: its successor in a StatefulSet has the same name.
    pub uid: String,
    /// `metadata.resourceVersion` that the decision was made on.
    pub resource_version: String,
    /// What it is deleted for, for logs.
    pub why: String,
}

/// A write to an object other than a workload, in the Upgrade's own namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectWrite {
    /// Its kind.
    pub resource: Resource,
    /// Its name.
    pub name: String,
    /// What is written.
    pub how: How,
    /// What it does, for logs and events.
    pub why: String,
}

/// How an object is written. Each is safe to repeat: what is there already, or gone already, is
/// looked at again and no error.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// Make it; it must not exist.
    Create(Value),
    /// RFC 6902 operations; the first tests `/metadata/resourceVersion`.
    Patch(Vec<Value>),
    /// Delete it, if it is still the one with this `metadata.uid`; what it owns goes with it.
    Delete(String),
}

/// An event on the Upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub warning: bool,
    /// One word of a small set, for filters.
    pub reason: &'static str,
    /// One sentence.
    pub note: String,
}

/// A JSON patch of one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadPatch {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload.
    pub name: String,
    /// `metadata.resourceVersion` that the decision was made on.
    pub resource_version: String,
    /// RFC 6902 operations; the first tests the resource version.
    pub operations: Vec<Value>,
    /// The ReplicaSet whose pod template is written, before the operations; it is read then, for
    /// no cache of ours keeps whole templates.
    pub template: Option<String>,
    /// What it does, for logs and events.
    pub why: String,
}

/// Changes of a workload's spec; `None` leaves a field alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Write {
    /// Images by JSON pointer of the container.
    pub images: Vec<(String, String)>,
    /// The ReplicaSet whose whole pod template is written instead.
    pub template: Option<String>,
    /// `spec.paused`
    pub paused: Option<bool>,
    /// `spec.strategy.rollingUpdate.maxSurge`
    pub max_surge: Option<IntOrString>,
    /// `spec.strategy.rollingUpdate.maxUnavailable`
    pub max_unavailable: Option<IntOrString>,
    /// `spec.minReadySeconds`
    pub min_ready_seconds: Option<i32>,
    /// `spec.progressDeadlineSeconds`
    pub progress_deadline_seconds: Option<i32>,
    /// `spec.updateStrategy` of a StatefulSet or DaemonSet, whole
    pub update_strategy: Option<UpdateStrategy>,
    /// What it does, in a few words.
    pub why: String,
}

impl Write {
    /// Nothing would change.
    pub fn is_empty(&self) -> bool {
        self.template.is_none() && self.operations().is_empty()
    }

    /// The operations that make these changes, without the test of the resource version.
    pub fn operations(&self) -> Vec<Value> {
        // The template of a ReplicaSet comes whole, with its images.
        let images = self.images.iter().filter(|_| self.template.is_none());
        let mut ops: Vec<Value> = images
            .map(|(pointer, image)| set(&format!("{pointer}/image"), &json!(image)))
            .collect();
        let rolling = "/spec/strategy/rollingUpdate";
        let fields = [
            ("/spec/paused".to_owned(), self.paused.map(|v| json!(v))),
            (format!("{rolling}/maxSurge"), self.max_surge.as_ref().map(|v| json!(v))),
            (format!("{rolling}/maxUnavailable"), self.max_unavailable.as_ref().map(|v| json!(v))),
            ("/spec/minReadySeconds".to_owned(), self.min_ready_seconds.map(|v| json!(v))),
            (
                "/spec/progressDeadlineSeconds".to_owned(),
                self.progress_deadline_seconds.map(|v| json!(v)),
            ),
            ("/spec/updateStrategy".to_owned(), self.update_strategy.as_ref().map(|v| json!(v))),
        ];
        ops.extend(fields.iter().filter_map(|(p, v)| v.as_ref().map(|v| set(p, v))));
        ops
    }
}

/// `add` and not `replace`: it does both (RFC 6902 §4.1), and the field may be absent.
pub fn set(pointer: &str, value: &Value) -> Value {
    json!({"op": "add", "path": pointer, "value": value})
}
