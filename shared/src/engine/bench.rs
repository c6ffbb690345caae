//! The engine against a model of a native controller, one small step of either at a time: rounds
//! that die after any of their effects, pods that are lost, replicas that change.

use super::effect::{Effect, PodDelete, WorkloadPatch};
use super::observed::{Observed, Workload};
use super::plan::Plan;
use super::step;
use crate::api::status::{Phase, UpdateStrategy, UpgradeStatus};
use crate::api::upgrade::Promote;
use crate::api::{Upgrade, UpgradeSpec, WorkloadKind};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

pub const OLD: &str = "db:v1";
pub const NEW: &str = "db:v2";

/// How pods of the new image behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Ready,
    Never,
}

/// The parts of an object that every model has.
#[derive(Clone, Debug)]
pub struct Object {
    pub image: String,
    pub strategy: UpdateStrategy,
    pub label: bool,
    pub version: u64,
    /// Version that the native controller has seen.
    pub seen: u64,
    pub spec_writes: usize,
}

impl Object {
    pub fn new(strategy: UpdateStrategy) -> Self {
        let image = OLD.to_owned();
        Self { image, strategy, label: false, version: 1, seen: 1, spec_writes: 0 }
    }

    /// Performs a patch as the API server would.
    pub fn patch(&mut self, patch: &WorkloadPatch) {
        assert_eq!(patch.resource_version, self.version.to_string(), "written on a stale version");
        self.version += 1;
        self.spec_writes += 1;
        for op in &patch.operations {
            let (pointer, value) = (op["path"].as_str().expect("path"), &op["value"]);
            match pointer {
                "/metadata/resourceVersion" => {}
                "/metadata/labels/kubectl-upgrade.dev~1upgrade" => self.label = true,
                "/spec/updateStrategy" => {
                    self.strategy = serde_json::from_value(value.clone()).expect("a strategy");
                }
                "/spec/template/spec/containers/0/image" => {
                    value.as_str().expect("an image").clone_into(&mut self.image);
                }
                other => panic!("unexpected {other}"),
            }
        }
    }
}

/// A model of a workload and its native controller.
pub trait Model {
    fn kind() -> WorkloadKind;
    fn object(&mut self) -> &mut Object;
    fn observe(&self, now: Timestamp) -> Workload;
    /// One step of the native controller or of a pod; whether there was one to make.
    fn tick(&mut self) -> bool;
    /// Takes a pod away, as we asked; it asserts that this keeps the promise.
    fn delete(&mut self, pod: &PodDelete);
}

/// An Upgrade, the workload under the model, and a clock.
pub struct Bench<M> {
    pub plan: Plan,
    pub model: M,
    pub status: UpgradeStatus,
    pub now: Timestamp,
    held: bool,
}

impl<M: Model> Bench<M> {
    pub fn new(model: M, strategy: &Value) -> Self {
        let spec: UpgradeSpec = serde_json::from_value(json!({
            "from": "v1", "to": "v2",
            "stages": [{"name": "db", "workloads": {"strategy": strategy, "targets": [
                {"kind": M::kind().as_str(), "name": "db",
                 "images": [{"container": "db", "from": OLD, "to": NEW}]}]}}]
        }))
        .expect("a valid spec");
        let plan = Plan::new(&Upgrade::new("up", spec)).expect("a valid plan");
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        Self { plan, model, status: UpgradeStatus::default(), now, held: false }
    }

    /// One round, that dies after so many effects. Whether it did anything.
    pub fn round(&mut self, dies_after: usize) -> bool {
        let observed = Observed {
            held: self.held,
            workloads: vec![vec![Some(self.model.observe(self.now))]],
            ..Observed::default()
        };
        let outcome = step(&self.plan, &observed, &self.status, self.now);
        let mut moved = outcome.status != self.status;
        self.status = outcome.status;
        for effect in outcome.effects.into_iter().take(dies_after) {
            match effect {
                Effect::Patch(patch) => self.model.object().patch(&patch),
                Effect::DeletePod(pod) => self.model.delete(&pod),
                Effect::Release { .. } => {
                    self.model.object().label = false;
                    self.model.object().version += 1;
                }
                Effect::Hold => self.held = true,
                Effect::LetGo => self.held = false,
                _ => continue,
            }
            moved = true;
        }
        moved
    }

    /// Until nothing moves any more.
    pub fn run(&mut self) -> Phase {
        for _ in 0..5000 {
            let round = self.round(usize::MAX);
            if !self.model.tick() && !round {
                return self.status.phase;
            }
        }
        panic!("no fixpoint: {:#?}", self.status);
    }

    pub fn promote(&mut self) {
        self.plan.promote = Some(Promote {
            attempt: self.status.attempt,
            stage: self.status.current_stage_index,
            step: self.status.current_step_index,
            full: false,
            to_step: None,
        });
    }

    /// Goes on from rest to rest, to the end.
    pub fn finish(&mut self) -> Phase {
        for _ in 0..30 {
            if self.run() != Phase::Paused {
                break;
            }
            self.promote();
        }
        self.status.phase
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn untouched(&mut self, strategy: &UpdateStrategy) {
        assert!(!self.held, "the finalizer is off");
        assert!(!self.model.object().label, "the label is off");
        assert_eq!(self.model.object().strategy, *strategy, "the updateStrategy is what it was");
    }
}

/// A canary: numbers of pods, each with a rest after it.
pub fn numbers(pods: &[i32]) -> Value {
    let pair = |k: &i32| [json!({"setReplicas": k}), json!({"pause": {}})];
    json!({"canary": {"steps": pods.iter().flat_map(pair).collect::<Vec<_>>()}})
}

/// A canary: weights, each with a rest after it.
pub fn rests(weights: &[i32]) -> Value {
    let pair = |w: &i32| [json!({"setWeight": w}), json!({"pause": {}})];
    json!({"canary": {"steps": weights.iter().flat_map(pair).collect::<Vec<_>>()}})
}
