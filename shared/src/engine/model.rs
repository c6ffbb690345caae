//! A model of the native Deployment controller, for tests of the engine: the arithmetic of its
//! rolling update (`reconcileNewReplicaSet`, `cleanupUnhealthyReplicas`,
//! `scaleDownOldReplicaSetsForRollingUpdate`) and of its proportional scaling while paused, with
//! every pod started at once. It is there to try thousands of cases quickly; what it says is
//! confirmed against the real controller in the `law` tests.

mod services;

use super::effect::{Effect, WorkloadPatch};
use super::observed::{Container, PodState, Set, Trouble, Workload};
use crate::api::status::Originals;
use crate::engine::law;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

/// How pods of the new image behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Ready,
    Never,
    Crash,
}

/// One Deployment under the model.
#[expect(clippy::struct_excessive_bools, reason = "they are facts of the object, not modes")]
#[derive(Clone, Debug)]
pub struct Native {
    pub n: i32,
    pub image: String,
    pub fields: Originals,
    pub paused: bool,
    pub label: Option<String>,
    /// Mode Hold's annotation.
    pub held: bool,
    /// We own fields.
    pub owned: bool,
    /// (image, wanted, minReadySeconds)
    pub sets: Vec<(String, i32, i32)>,
    pub behaviour: Behaviour,
    pub version: u64,
    pub spec_writes: usize,
    pub releases: usize,
    /// Fewest ready and most live pods seen since the last reset.
    pub least: i32,
    pub most: i32,
    /// Pods of the new image have only become more.
    pub monotone: bool,
    new: i32,
    pub services: services::Services,
}

pub const OLD: &str = "web:v1";
pub const NEW: &str = "web:v2";

impl Native {
    pub fn new(n: i32, surge: &str, unavailable: &str) -> Self {
        let fields = Originals {
            paused: false,
            strategy: Some("RollingUpdate".to_owned()),
            max_surge: Some(knob(surge)),
            max_unavailable: Some(knob(unavailable)),
            min_ready_seconds: 0,
            progress_deadline_seconds: Some(600),
            update_strategy: None,
        };
        Self {
            n,
            image: OLD.to_owned(),
            fields,
            paused: false,
            label: None,
            held: false,
            owned: false,
            sets: vec![(OLD.to_owned(), n, 0)],
            behaviour: Behaviour::Ready,
            version: 1,
            spec_writes: 0,
            releases: 0,
            least: n,
            most: n,
            monotone: true,
            new: 0,
            services: services::Services::default(),
        }
    }

    /// Somebody's new template, as admission takes it under mode Hold.
    pub fn hold(&mut self) {
        self.version += 1;
        NEW.clone_into(&mut self.image);
        (self.paused, self.held, self.label) = (true, true, Some("up".to_owned()));
    }

    fn ready(&self, image: &str, wanted: i32) -> i32 {
        if image == NEW && self.behaviour != Behaviour::Ready { 0 } else { wanted }
    }

    fn available(&self, set: &(String, i32, i32)) -> i32 {
        if set.2 == law::INFLATED_MIN_READY_SECONDS { 0 } else { self.ready(&set.0, set.1) }
    }

    pub fn count(&self, image: &str) -> i32 {
        self.sets.iter().find(|s| s.0 == image).map_or(0, |s| s.1)
    }

    fn note(&mut self) {
        let ready: i32 = self.sets.iter().map(|s| self.ready(&s.0, s.1)).sum();
        let live: i32 = self.sets.iter().map(|s| s.1).sum();
        self.least = self.least.min(ready);
        self.most = self.most.max(live);
        let new = self.count(NEW);
        self.monotone &= new >= self.new;
        self.new = new;
        self.note_endpoints();
    }

    pub fn scale(&mut self, n: i32) {
        self.version += 1;
        let before = self.n;
        self.n = n;
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].1 > 0).collect();
        match active.as_slice() {
            [] => {
                let image = self.image.clone();
                if let Some(set) = self.sets.iter_mut().find(|s| s.0 == image) {
                    set.1 = n;
                }
            }
            [only] => self.sets[*only].1 = n,
            _ => self.proportional(before),
        }
        self.settle();
    }

    /// Proportional scaling, larger sets first, the rest to the first; as the real one does it
    /// for two sets.
    fn proportional(&mut self, before: i32) {
        let surge = |n| law::resolve_surge(self.fields.max_surge.as_ref(), n);
        let (was, allowed) =
            (before + surge(before), if self.n > 0 { self.n + surge(self.n) } else { 0 });
        let total: i32 = self.sets.iter().map(|s| s.1).sum();
        let mut left = allowed - total;
        let mut order: Vec<usize> = (0..self.sets.len()).collect();
        order.sort_by_key(|i| -self.sets[*i].1);
        for i in order.clone() {
            let size = self.sets[i].1;
            // Rounded to the nearest, as the real one does.
            let (size64, was64) = (i64::from(size), i64::from(was.max(1)));
            let scaled = (2 * size64 * i64::from(allowed) + was64) / (2 * was64);
            let share = i32::try_from(scaled).expect("small") - size;
            let share = if left > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
            self.sets[i].1 = (size + share).max(0);
            left -= share;
        }
        if let Some(first) = order.first() {
            self.sets[*first].1 = (self.sets[*first].1 + left).max(0);
        }
    }

    /// Runs until nothing moves.
    pub fn settle(&mut self) {
        self.note();
        if self.paused {
            return;
        }
        let image = self.image.clone();
        if !self.sets.iter().any(|s| s.0 == image) {
            self.sets.push((image.clone(), 0, self.fields.min_ready_seconds));
        }
        for _ in 0..10_000 {
            if !self.sync(&image) {
                return;
            }
            self.note();
        }
        panic!("the model does not settle: {self:?}");
    }

    fn sync(&mut self, image: &str) -> bool {
        let inflated = self.fields.min_ready_seconds;
        let (mut s, mut u) = (
            law::resolve_surge(self.fields.max_surge.as_ref(), self.n),
            law::resolve_unavailable(self.fields.max_unavailable.as_ref(), self.n),
        );
        if s == 0 && u == 0 {
            u = 1;
        }
        s = s.min(self.n);
        let new = self.sets.iter().position(|x| x.0 == image).expect("made above");
        self.sets[new].2 = inflated;
        let total: i32 = self.sets.iter().map(|x| x.1).sum();
        let size = self.sets[new].1;
        if size > self.n {
            self.sets[new].1 = self.n;
            return true;
        }
        if size < self.n && total < self.n + s {
            self.sets[new].1 = size + (self.n + s - total).min(self.n - size);
            return true;
        }
        let mut budget = total - (self.n - u) - (size - self.available(&self.sets[new]));
        let mut moved = false;
        for i in 0..self.sets.len() {
            if i == new || budget <= 0 {
                continue;
            }
            let unhealthy = (self.sets[i].1 - self.available(&self.sets[i])).min(budget).max(0);
            self.sets[i].1 -= unhealthy;
            budget -= unhealthy;
            moved |= unhealthy > 0;
        }
        let available: i32 = self.sets.iter().map(|x| self.available(x)).sum();
        let mut healthy = available - (self.n - u);
        for i in 0..self.sets.len() {
            if i == new || healthy <= 0 {
                continue;
            }
            let go = self.sets[i].1.min(healthy);
            self.sets[i].1 -= go;
            healthy -= go;
            moved |= go > 0;
        }
        moved
    }

    /// Performs the engine's effects as the API server would.
    pub fn perform(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Patch(patch) => self.patch(patch),
                Effect::Write(write) => self.write(write),
                Effect::Release { held, .. } => {
                    if !held {
                        self.label = None;
                    }
                    self.owned = false;
                    self.version += 1;
                    self.releases += 1;
                }
                _ => {}
            }
        }
    }

    fn patch(&mut self, patch: &WorkloadPatch) {
        assert_eq!(patch.resource_version, self.version.to_string(), "written on a stale version");
        self.version += 1;
        self.spec_writes += 1;
        self.owned = true;
        if let Some(name) = &patch.template {
            let set = self.sets.iter().find(|s| s.0.replace(':', "-") == *name);
            self.image = set.expect("the ReplicaSet is there").0.clone();
        }
        for op in &patch.operations {
            let (pointer, value) = (op["path"].as_str().expect("path"), &op["value"]);
            let number = || i32::try_from(value.as_i64().expect("a number")).expect("in range");
            match pointer {
                "/metadata/resourceVersion" => {}
                "/spec/paused" => self.paused = value.as_bool().expect("a bool"),
                "/spec/minReadySeconds" => self.fields.min_ready_seconds = number(),
                "/spec/progressDeadlineSeconds" => {
                    self.fields.progress_deadline_seconds = Some(number());
                }
                "/spec/strategy/rollingUpdate/maxSurge" => {
                    self.fields.max_surge = Some(read(value));
                }
                "/spec/strategy/rollingUpdate/maxUnavailable" => {
                    self.fields.max_unavailable = Some(read(value));
                }
                "/spec/template/spec/containers/0/image" => {
                    value.as_str().expect("an image").clone_into(&mut self.image);
                }
                "/metadata/annotations/kubectl-upgrade.dev~1held" => self.held = op["op"] == "add",
                "/metadata/labels" | "/metadata/labels/kubectl-upgrade.dev~1upgrade" => {
                    self.label = Some("up".to_owned());
                }
                other => panic!("unexpected {other}"),
            }
        }
        self.settle();
    }

    /// What the engine sees.
    pub fn observe(&self, now: Timestamp) -> Workload {
        let set = |(i, x): (usize, &(String, i32, i32))| Set {
            name: x.0.replace(':', "-"),
            hash: Some(x.0.replace(':', "-")),
            replicas: x.1,
            status_replicas: x.1,
            ready: self.ready(&x.0, x.1),
            revision: if x.0 == self.image { 100 } else { i64::try_from(i).expect("few") },
            created: Timestamp::from_second(i64::try_from(i).expect("few")).ok(),
            images: vec![("web".to_owned(), x.0.clone())],
        };
        let since = now - jiff::SignedDuration::from_secs(3600);
        let crash = (self.behaviour == Behaviour::Crash).then(|| Trouble {
            container: "web".to_owned(),
            reason: "CrashLoopBackOff".to_owned(),
            restarts: 3,
        });
        let pods = self.sets.iter().flat_map(|x| {
            let ready = self.ready(&x.0, x.1) > 0;
            let trouble = if x.0 == NEW { crash.clone() } else { None };
            (0..x.1).map(move |i| PodState {
                ip: Some(format!("192.0.2.{i}")),
                name: format!("{}-{i}", x.0),
                set: x.0.replace(':', "-"),
                since: Some(since),
                ready_since: ready.then_some(since),
                trouble: trouble.clone(),
                ..PodState::default()
            })
        });
        Workload {
            uid: "uid".to_owned(),
            resource_version: self.version.to_string(),
            label: self.label.clone(),
            hold: self.held.then(crate::api::Held::default),
            stamped: self.held,
            owned: self.owned,
            has_labels: true,
            observed: true,
            replicas: self.n,
            paused: self.paused,
            recreate: false,
            fields: self.fields.clone(),
            containers: vec![Container {
                name: "web".to_owned(),
                image: self.image.clone(),
                pointer: "/spec/template/spec/containers/0".to_owned(),
            }],
            pod_labels: [("app".to_owned(), "web".to_owned())].into(),
            replica_sets: self.sets.iter().enumerate().map(set).collect(),
            pods: pods.collect(),
            status_replicas: self.sets.iter().map(|x| x.1).sum(),
            updated: self.count(&self.image),
            available: self.sets.iter().map(|x| self.available(x)).sum(),
            ..Workload::default()
        }
    }
}

fn knob(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

fn read(value: &Value) -> IntOrString {
    serde_json::from_value(value.clone()).expect("int or string")
}
