//! A model of the native StatefulSet controller (`updateStatefulSet`, `newVersionedStatefulSetPod`,
//! `completeRollingUpdate` of Kubernetes 1.36): one pod at a time, from the top, down to the
//! partition. What it says is confirmed against the real one in `tests/tests/stateful_set.rs`.

use crate::api::WorkloadKind;
use crate::api::status::{Originals, RollingUpdate, UpdateStrategy};
use crate::engine::bench::{Behaviour, Model, NEW, OLD, Object};
use crate::engine::effect::PodDelete;
use crate::engine::observed::{Container, PodState, Revisions, Set, Workload};
use jiff::{SignedDuration, Timestamp};
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
    pub n: i32,
    pub parallel: bool,
    pub behaviour: Behaviour,
    pub current: String,
    pub pods: BTreeMap<i32, Pod>,
    uids: u64,
}

pub fn rolling(partition: i32) -> UpdateStrategy {
    let partition = Some(partition);
    UpdateStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdate { partition, ..RollingUpdate::default() }),
    }
}

impl Native {
    pub fn new(n: i32) -> Self {
        let pod =
            |i: i32| (i, Pod { image: OLD.to_owned(), uid: i.unsigned_abs().into(), ready: true });
        Self {
            object: Object::new(rolling(0)),
            n,
            parallel: false,
            behaviour: Behaviour::Ready,
            current: OLD.to_owned(),
            pods: (0..n).map(pod).collect(),
            uids: 1000,
        }
    }

    pub fn scale(&mut self, n: i32) {
        self.n = n;
        self.object.version += 1;
    }

    pub fn lose(&mut self, ordinal: i32) {
        self.pods.remove(&ordinal);
    }

    pub fn count(&self, image: &str) -> i32 {
        crate::engine::revised::count(self.pods.values().filter(|p| p.image == image))
    }

    pub fn split(&self) -> (i32, i32) {
        (self.count(OLD), self.count(NEW))
    }

    fn ready(&self) -> i32 {
        crate::engine::revised::count(self.pods.values().filter(|p| p.ready))
    }

    fn revision(image: &str) -> String {
        format!("db-{}", image.replace(':', "-"))
    }

    /// The first phase: pods become ready, missing ones are made, those too many go.
    fn replicas(&mut self) -> bool {
        let good = |p: &Pod| p.image == OLD || self.behaviour == Behaviour::Ready;
        let waits = self.pods.iter().find(|(_, p)| !p.ready && good(p)).map(|(i, _)| *i);
        if let Some(pod) = waits.and_then(|i| self.pods.get_mut(&i)) {
            pod.ready = true;
            return true;
        }
        for ordinal in 0..self.n {
            match self.pods.get(&ordinal) {
                None => {
                    self.uids += 1;
                    let below = ordinal < self.object.strategy.partition();
                    let image = if below { &self.current } else { &self.object.image };
                    let pod = Pod { image: image.clone(), uid: self.uids, ready: false };
                    self.pods.insert(ordinal, pod);
                    return true;
                }
                Some(pod) if !pod.ready && !self.parallel => return false,
                Some(_) => {}
            }
        }
        false
    }

    /// The second: from the top, the first that is not of the update revision.
    fn update(&mut self) -> bool {
        let blocked = |p: &Pod| !p.ready && !self.parallel;
        if (0..self.n).any(|i| self.pods.get(&i).is_none_or(blocked)) {
            return false;
        }
        for ordinal in (self.object.strategy.partition()..self.n).rev() {
            let Some(pod) = self.pods.get(&ordinal) else { continue };
            if pod.image != self.object.image {
                self.pods.remove(&ordinal);
                return true;
            }
            if !pod.ready {
                return false;
            }
        }
        false
    }
}

impl Model for Native {
    fn kind() -> WorkloadKind {
        WorkloadKind::StatefulSet
    }

    fn object(&mut self) -> &mut Object {
        &mut self.object
    }

    fn tick(&mut self) -> bool {
        if self.object.seen != self.object.version {
            self.object.seen = self.object.version;
            return true;
        }
        let top = self.pods.keys().next_back().copied().filter(|i| *i >= self.n);
        if let Some(top) = top {
            self.pods.remove(&top);
            return true;
        }
        if self.replicas() || self.update() {
            return true;
        }
        let all = self.count(&self.object.image) == self.n && self.ready() == self.n;
        if all && self.current != self.object.image {
            self.current = self.object.image.clone();
            return true;
        }
        false
    }

    fn delete(&mut self, pod: &PodDelete) {
        let ordinal = pod.name.rsplit('-').next().and_then(|o| o.parse().ok()).expect("ordinal");
        let Some(found) = self.pods.get(&ordinal).filter(|p| p.uid.to_string() == pod.uid) else {
            return;
        };
        if found.ready {
            assert!(self.ready() >= self.n, "{} of {} ready: {pod:?}", self.ready(), self.n);
        }
        self.pods.remove(&ordinal);
    }

    fn observe(&self, now: Timestamp) -> Workload {
        let since = now - SignedDuration::from_secs(3600);
        let count = |image: &str| self.count(image);
        let set = |(i, image): (i64, &str)| Set {
            name: Self::revision(image),
            hash: None,
            replicas: count(image),
            status_replicas: count(image),
            ready: count(image),
            revision: if image == self.object.image { 100 } else { i },
            created: Timestamp::from_second(i).ok(),
            images: vec![("db".to_owned(), image.to_owned())],
        };
        let seen_new = self.object.image == NEW || self.count(NEW) > 0 || self.current == NEW;
        let known = [(0, OLD), (1, NEW)].into_iter().filter(|(_, i)| *i == OLD || seen_new);
        let pods = self.pods.iter().map(|(i, p)| PodState {
            name: format!("db-{i}"),
            uid: p.uid.to_string(),
            set: Self::revision(&p.image),
            since: Some(since),
            ready_since: p.ready.then_some(since),
            ..PodState::default()
        });
        Workload {
            uid: "uid".to_owned(),
            resource_version: self.object.version.to_string(),
            label: self.object.label.then(|| "up".to_owned()),
            has_labels: true,
            observed: self.object.seen == self.object.version,
            replicas: self.n,
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
            revisions: Revisions {
                current: Some(Self::revision(&self.current)),
                update: Some(Self::revision(&self.object.image)),
                first: 0,
            },
            pods: pods.collect(),
            status_replicas: crate::engine::revised::count(self.pods.values()),
            updated: self.count(&self.object.image),
            available: self.ready(),
            ..Workload::default()
        }
    }
}
