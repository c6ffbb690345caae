//! A model of the native DaemonSet controller (`manage`, `rollingUpdate` of Kubernetes 1.36): a pod
//! for each node, made of the present template; replaced by itself with `RollingUpdate` only. What
//! it says is confirmed against the real one in `tests/tests/daemon_set.rs`.

use crate::api::WorkloadKind;
use crate::api::status::{Originals, RollingUpdate, UpdateStrategy};
use crate::engine::bench::{Behaviour, Model, NEW, OLD, Object};
use crate::engine::effect::PodDelete;
use crate::engine::observed::{Container, PodState, Set, Workload};
use crate::engine::revised::count;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct Pod {
    pub image: String,
    uid: u64,
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct Native {
    pub object: Object,
    pub most: i32,
    pub behaviour: Behaviour,
    pub nodes: BTreeMap<i32, Option<Pod>>,
    /// Nodes that the canary takes first.
    pub preferred: Vec<i32>,
    /// Pods that the native controller replaced by itself.
    pub replaced: usize,
    uids: u64,
}

pub fn rolling(most: i32) -> UpdateStrategy {
    UpdateStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdate {
            partition: None,
            max_unavailable: Some(IntOrString::Int(most)),
            max_surge: Some(IntOrString::Int(0)),
        }),
    }
}

impl Native {
    pub fn new(n: i32, most: i32) -> Self {
        let pod = |i: i32| Pod { image: OLD.to_owned(), uid: i.unsigned_abs().into(), ready: true };
        Self {
            object: Object::new(rolling(most)),
            most,
            behaviour: Behaviour::Ready,
            nodes: (0..n).map(|i| (i, Some(pod(i)))).collect(),
            preferred: vec![],
            replaced: 0,
            uids: 1000,
        }
    }

    pub fn join(&mut self, node: i32) {
        self.nodes.entry(node).or_insert(None);
    }

    pub fn leave(&mut self, node: i32) {
        self.nodes.remove(&node);
    }

    pub fn lose(&mut self, node: i32) {
        if let Some(pod) = self.nodes.get_mut(&node) {
            *pod = None;
        }
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.values().flatten()
    }

    pub fn count(&self, image: &str) -> i32 {
        count(self.pods().filter(|p| p.image == image))
    }

    pub fn split(&self) -> (i32, i32) {
        (self.count(OLD), self.count(NEW))
    }

    pub fn n(&self) -> i32 {
        count(self.nodes.keys())
    }

    pub fn ready(&self) -> i32 {
        count(self.pods().filter(|p| p.ready))
    }

    fn update(&mut self) -> bool {
        if self.object.strategy.is_on_delete() {
            return false;
        }
        let spare = self.most - (self.n() - self.ready());
        let old = |p: &Pod| p.image != self.object.image;
        let broken =
            self.nodes.iter().find(|(_, p)| p.as_ref().is_some_and(|p| old(p) && !p.ready));
        let next = self.nodes.iter().find(|(_, p)| spare > 0 && p.as_ref().is_some_and(old));
        let Some(node) = broken.or(next).map(|(i, _)| *i) else { return false };
        self.lose(node);
        self.replaced += 1;
        true
    }
}

impl Model for Native {
    fn kind() -> WorkloadKind {
        WorkloadKind::DaemonSet
    }

    fn object(&mut self) -> &mut Object {
        &mut self.object
    }

    fn tick(&mut self) -> bool {
        if self.object.seen != self.object.version {
            self.object.seen = self.object.version;
            return true;
        }
        let good = self.behaviour == Behaviour::Ready;
        let waits =
            self.nodes.values_mut().flatten().find(|p| !p.ready && (good || p.image == OLD));
        if let Some(pod) = waits {
            pod.ready = true;
            return true;
        }
        if let Some(pod) = self.nodes.values_mut().find(|p| p.is_none()) {
            self.uids += 1;
            *pod = Some(Pod { image: self.object.image.clone(), uid: self.uids, ready: false });
            return true;
        }
        self.update()
    }

    fn delete(&mut self, pod: &PodDelete) {
        let node = pod.name.rsplit('-').next().and_then(|o| o.parse().ok()).expect("a node");
        let found = self.nodes.get(&node).and_then(Option::as_ref);
        let Some(found) = found.filter(|p| p.uid.to_string() == pod.uid) else { return };
        if found.ready {
            assert!(
                self.ready() > self.n() - self.most,
                "{} of {} ready: {pod:?}",
                self.ready(),
                self.n()
            );
        }
        self.lose(node);
    }

    fn observe(&self, now: Timestamp) -> Workload {
        let since = now - SignedDuration::from_secs(3600);
        let set = |(i, image): (i64, &str)| Set {
            name: image.replace(':', "-"),
            hash: None,
            replicas: self.count(image),
            status_replicas: self.count(image),
            ready: self.count(image),
            revision: if image == self.object.image { 100 } else { i },
            created: Timestamp::from_second(i).ok(),
            images: vec![("db".to_owned(), image.to_owned())],
        };
        let seen_new = self.object.image == NEW || self.count(NEW) > 0;
        let known = [(0, OLD), (1, NEW)].into_iter().filter(|(_, i)| *i == OLD || seen_new);
        let pods = self.nodes.iter().filter_map(|(i, p)| {
            let p = p.as_ref()?;
            Some(PodState {
                name: format!("db-{i}"),
                uid: p.uid.to_string(),
                node: Some(format!("node-{i:02}")),
                preferred: self.preferred.contains(i),
                set: p.image.replace(':', "-"),
                since: Some(since),
                ready_since: p.ready.then_some(since),
                ..PodState::default()
            })
        });
        Workload {
            uid: "uid".to_owned(),
            resource_version: self.object.version.to_string(),
            label: self.object.label.then(|| "up".to_owned()),
            has_labels: true,
            observed: self.object.seen == self.object.version,
            replicas: self.n(),
            fields: Originals {
                update_strategy: Some(self.object.strategy.clone()),
                ..Originals::default()
            },
            containers: vec![Container {
                name: "db".to_owned(),
                image: self.object.image.clone(),
                pointer: "/spec/template/spec/containers/0".to_owned(),
            }],
            replica_sets: known.map(set).collect(),
            pods: pods.collect(),
            status_replicas: count(self.pods()),
            updated: self.count(&self.object.image),
            available: self.ready(),
            ..Workload::default()
        }
    }
}
