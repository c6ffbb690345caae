//! What StatefulSets and DaemonSets have in common: controller revisions instead of ReplicaSets.
//! Their names are read from the pods and never computed.

use super::driver::{Counts, Side, images, side};
use super::effect::{PodDelete, Write};
use super::observed::{PodState, Set, Workload, containers, controlled_by};
use super::plan::PlanTarget;
use crate::api::status::{Originals, TargetStatus, UpdateStrategy};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Label of a pod that says which revision it was made of.
const REVISION_LABEL: &str = "controller-revision-hash";

/// A workload with controller revisions on its way.
pub(super) struct Revised<'a> {
    pub(super) target: &'a PlanTarget,
    pub(super) now: &'a Workload,
    pub(super) originals: &'a Originals,
    /// The revision that all pods had when the upgrade began.
    pub(super) stable: Option<&'a str>,
    /// The canary's revision as last seen.
    known_canary: Option<&'a str>,
    clock: Timestamp,
}

impl<'a> Revised<'a> {
    pub(super) fn new(
        target: &'a PlanTarget,
        now: &'a Workload,
        originals: &'a Originals,
        status: &'a TargetStatus,
        clock: Timestamp,
    ) -> Self {
        let latest = || now.replica_sets.iter().max_by_key(|s| s.revision).map(|s| s.name.as_str());
        let stable = match (&status.stable_replica_set, &status.originals) {
            (Some(name), _) => Some(name.as_str()),
            (None, Some(_)) => None,
            (None, None) => latest(),
        };
        let known_canary = status.canary_replica_set.as_deref();
        Self { target, now, originals, stable, known_canary, clock }
    }

    /// Whose images the template holds.
    pub(super) fn side(&self) -> Side {
        side(self.target, self.now)
    }

    /// The canary's revision: it has the new images, and of several it is the latest.
    pub(super) fn canary(&self) -> Option<&'a Set> {
        self.now
            .replica_sets
            .iter()
            .filter(|s| Some(s.name.as_str()) != self.stable)
            .filter(|s| self.target.images.iter().all(|c| s.runs(&c.container, &c.to)))
            .max_by_key(|s| s.revision)
    }

    /// Whether a pod runs the new images.
    pub(super) fn is_new(&self, pod: &PodState) -> bool {
        self.canary().is_some_and(|s| s.name == pod.set)
    }

    /// Pods by side. What is of no known revision is not new.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for pod in &self.now.pods {
            let (new, ready) = (self.is_new(pod), i32::from(pod.ready_since.is_some()));
            if new {
                counts.canary += 1;
                counts.canary_ready += i32::from(self.available(pod));
            } else {
                counts.stable += 1;
                counts.stable_ready += ready;
            }
        }
        counts
    }

    /// Whether a pod is available by the workload's own `minReadySeconds`.
    pub(super) fn available(&self, pod: &PodState) -> bool {
        pod.available_at(self.originals.min_ready_seconds).is_some_and(|t| t <= self.clock)
    }

    /// Pods that are available.
    pub(super) fn available_pods(&self) -> i32 {
        count(self.now.pods.iter().filter(|p| self.available(p)))
    }

    /// When the next pod becomes available, if nothing happens to it.
    pub(super) fn next_available(&self) -> Option<Timestamp> {
        let times =
            self.now.pods.iter().filter_map(|p| p.available_at(self.originals.min_ready_seconds));
        times.filter(|t| *t > self.clock).min()
    }

    /// The owner's `updateStrategy`.
    pub(super) fn own(&self) -> UpdateStrategy {
        self.originals.update_strategy.clone().unwrap_or_default()
    }

    /// The present `updateStrategy`.
    pub(super) fn strategy(&self) -> UpdateStrategy {
        self.now.fields.update_strategy.clone().unwrap_or_default()
    }

    /// How many of `wanted` pods may still be taken away, where `most` may be unavailable at once.
    pub(super) fn budget(&self, most: i32, wanted: i32) -> i32 {
        most - (wanted - self.available_pods()).max(0)
    }

    fn images(&self, to: Side) -> Vec<(String, String)> {
        let set = match to {
            Side::Stable => self.stable.and_then(|name| self.now.set(name)),
            _ => self.canary(),
        };
        images(self.target, self.now, set, to)
    }

    /// One write: a side's images and an `updateStrategy`, without what is so already.
    pub(super) fn write(&self, to: Side, strategy: UpdateStrategy, why: String) -> Write {
        self.now.missing(Write {
            images: self.images(to),
            update_strategy: Some(strategy),
            why,
            ..Write::default()
        })
    }

    /// The same without images.
    pub(super) fn restore(&self) -> Write {
        self.now.missing(Write {
            update_strategy: self.originals.update_strategy.clone(),
            why: "put the updateStrategy back".to_owned(),
            ..Write::default()
        })
    }

    /// A revision that is neither side's is the latest and has pods, or the canary's is another
    /// than it was and both have pods.
    pub(super) fn third(&self) -> bool {
        let canary = self.canary().map(|s| s.name.as_str());
        let known =
            |s: &&Set| Some(s.name.as_str()) == canary || Some(s.name.as_str()) == self.stable;
        let latest = self.now.replica_sets.iter().max_by_key(|s| s.revision);
        let third = canary.is_some() && latest.is_some_and(|s| s.replicas > 0 && !known(&s));
        let before = self.known_canary.filter(|name| Some(*name) != canary && canary.is_some());
        third || before.and_then(|name| self.now.set(name)).is_some_and(|s| s.replicas > 0)
    }

    pub(super) fn changed_under_us(&self) -> String {
        format!("the template or a guarded field of {} was changed by somebody else", self.target)
    }

    /// Why it may not be started on now; native rollouts under way are left to finish.
    pub(super) fn not_complete(&self) -> Option<String> {
        let w = self.now;
        (!w.complete() || self.available_pods() < w.replicas).then(|| {
            format!(
                "its present rollout is not complete: {} of {} pods updated, {} available",
                w.updated, w.replicas, w.available
            )
        })
    }
}

/// How many there are.
pub(super) fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// The order to delete a pod as it was looked at.
pub(super) fn delete(pod: &PodState, why: &str) -> PodDelete {
    PodDelete {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        resource_version: pod.resource_version.clone(),
        why: why.to_owned(),
    }
}

/// Pods of a workload, and its revisions with their pods counted.
pub(super) fn read(
    uid: &str,
    revisions: &[&ControllerRevision],
    pods: &[&Pod],
) -> (Vec<Set>, Vec<PodState>) {
    let mine = pods.iter().filter(|p| controlled_by(p.metadata.owner_references.as_deref(), uid));
    let pods: Vec<PodState> = mine
        .filter_map(|p| {
            let labels = p.metadata.labels.as_ref();
            let hash = labels.and_then(|l| l.get(REVISION_LABEL)).cloned().unwrap_or_default();
            PodState::of(p, hash)
        })
        .collect();
    let mine =
        revisions.iter().filter(|r| controlled_by(r.metadata.owner_references.as_deref(), uid));
    let sets = mine.map(|r| revision(r, &pods)).collect();
    (sets, pods)
}

fn revision(revision: &ControllerRevision, pods: &[PodState]) -> Set {
    let labels = revision.metadata.labels.as_ref();
    // A DaemonSet's pods carry the hash, a StatefulSet's the name.
    let hash = labels.and_then(|l| l.get(REVISION_LABEL)).or(revision.metadata.name.as_ref());
    let name = hash.cloned().unwrap_or_default();
    let template = revision.data.as_ref().and_then(|d| d.0.pointer("/spec/template/spec"));
    let pod: Option<PodSpec> = template.and_then(|t| serde_json::from_value(t.clone()).ok());
    let images = pod.as_ref().map(containers).unwrap_or_default();
    let mine = || pods.iter().filter(|p| p.set == name);
    Set {
        hash: None,
        replicas: count(mine()),
        status_replicas: count(mine()),
        ready: count(mine().filter(|p| p.ready_since.is_some())),
        revision: revision.revision,
        created: revision.metadata.creation_timestamp.as_ref().map(|t| t.0),
        images: images.into_iter().map(|c| (c.name, c.image)).collect(),
        name,
    }
}
