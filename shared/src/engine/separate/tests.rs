//! A canary of its own against the model of the native controller.

use crate::api::separate::CANARY_LABEL;
use crate::api::status::{Phase, UpgradeStatus};
use crate::api::upgrade::Promote;
use crate::api::{IN_FLIGHT_LABEL, Upgrade, UpgradeSpec};
use crate::engine::effect::{Effect, How, ObjectWrite};
use crate::engine::model::{Behaviour, NEW, Native, OLD};
use crate::engine::objects::{DEPLOYMENTS, Look, Objects, PODS, REPLICA_SETS, Sight};
use crate::engine::observed::Observed;
use crate::engine::plan::Plan;
use crate::engine::step;
use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// A Deployment under the model, and beside it whatever is called `web-canary`.
struct World {
    plan: Plan,
    native: Native,
    canary: Option<Value>,
    /// Pods of the canary are Ready.
    ready: bool,
    status: UpgradeStatus,
    now: Timestamp,
    held: bool,
    looks: Vec<Look>,
    version: u64,
}

fn upgrade(canary: &Value) -> Upgrade {
    let spec: UpgradeSpec = serde_json::from_value(json!({"from": "v1", "to": "v2",
        "stages": [{"name": "web", "workloads": {"strategy": {"canary": canary}, "targets": [
            {"kind": "Deployment", "name": "web",
             "images": [{"container": "web", "from": OLD, "to": NEW}]}]}}]}))
    .expect("a valid spec");
    let mut upgrade = Upgrade::new("up", spec);
    upgrade.metadata.uid = Some("u-1".to_owned());
    upgrade
}

/// Weights, each with a rest after it.
fn steps(weights: &[i32]) -> Value {
    let all: Vec<Value> =
        weights.iter().flat_map(|w| [json!({"setWeight": w}), json!({"pause": {}})]).collect();
    json!({"separate": {}, "steps": all})
}

fn object(value: Value) -> Arc<DynamicObject> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

impl World {
    fn new(n: i32, canary: &Value) -> Self {
        Self {
            plan: Plan::new(&upgrade(canary)).expect("a valid plan"),
            native: Native::new(n, "25%", "25%"),
            canary: None,
            ready: true,
            status: UpgradeStatus::default(),
            now: "2026-11-21T12:00:00Z".parse().expect("a time"),
            held: false,
            looks: vec![],
            version: 1,
        }
    }

    fn wanted(&self) -> i64 {
        self.canary.as_ref().map_or(0, |c| c["spec"]["replicas"].as_i64().expect("a number"))
    }

    /// What the native controller makes of the canary's Deployment at once.
    fn beside(&self) -> [Vec<Arc<DynamicObject>>; 3] {
        let Some(canary) = &self.canary else { return [vec![], vec![], vec![]] };
        let (n, uid) = (self.wanted(), &canary["metadata"]["uid"]);
        let mut deployment = canary.clone();
        deployment["status"] = json!({"replicas": n, "updatedReplicas": n});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "web-canary-abc", "labels": {CANARY_LABEL: "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment",
                    "name": "web-canary", "uid": uid, "controller": true}]},
            "spec": {"replicas": n, "selector": {}, "template": canary["spec"]["template"]},
            "status": {"replicas": n}});
        let since = self.now - SignedDuration::from_hours(1);
        let status = if self.ready { "True" } else { "False" };
        let pods = (0..n).map(|i| {
            object(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("web-canary-abc-{i}"), "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-canary-abc",
                     "uid": "rs", "controller": true}]},
                "status": {"conditions": [{"type": "Ready", "status": status,
                    "lastTransitionTime": since.to_string()}]}}))
        });
        [vec![object(deployment)], vec![object(set)], pods.collect()]
    }

    fn main(&self) -> Arc<DynamicObject> {
        let mut labels = json!({"app": "web"});
        if let Some(label) = &self.native.label {
            labels[IN_FLIGHT_LABEL] = json!(label);
        }
        object(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "uid": "uid", "labels": labels},
            "spec": {"replicas": self.native.n, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                    {"name": "log", "image": "log:1"}, {"name": "web", "image": self.native.image}]}}}}))
    }

    fn objects(&self) -> Objects {
        let [deployments, sets, pods] = self.beside();
        let mine = format!("{CANARY_LABEL}=web");
        let all = [
            (Look::name(DEPLOYMENTS, "web"), vec![self.main()]),
            (Look::name(DEPLOYMENTS, "web-canary"), deployments),
            (Look::labels(REPLICA_SETS, mine.clone()), sets),
            (Look::labels(PODS, mine), pods),
        ];
        let seen = all.into_iter().filter(|(look, _)| self.looks.contains(look));
        seen.map(|(look, objects)| (look, Sight::Seen(objects))).collect()
    }

    /// A round; the effects from the `dies`-th on are lost.
    fn round_until(&mut self, dies: usize) -> bool {
        let observed = Observed {
            held: self.held,
            workloads: vec![vec![Some(self.native.observe(self.now))]],
            objects: self.objects(),
            ..Observed::default()
        };
        let outcome = step(&self.plan, &observed, &self.status, self.now);
        let changed = outcome.status != self.status;
        self.status = outcome.status;
        let mut moved = false;
        for effect in outcome.effects.iter().take(dies) {
            match effect {
                Effect::Hold => self.held = true,
                Effect::LetGo => self.held = false,
                Effect::Watch(look) if !self.looks.contains(look) => {
                    self.looks.push(look.clone());
                    moved = true;
                }
                Effect::Write(write) => {
                    self.write(write);
                    moved = true;
                }
                Effect::Patch(_) | Effect::Release { .. } => {
                    self.native.perform(std::slice::from_ref(effect));
                    moved = true;
                }
                _ => {}
            }
        }
        moved || changed
    }

    fn write(&mut self, write: &ObjectWrite) {
        assert_eq!((write.resource.kind, write.name.as_str()), ("Deployment", "web-canary"));
        self.version += 1;
        match &write.how {
            How::Create(object) => {
                assert!(self.canary.is_none(), "made twice");
                let mut object = object.clone();
                object["metadata"]["uid"] = json!(format!("c-{}", self.version));
                self.canary = Some(object);
            }
            How::Patch(operations) => {
                let canary = self.canary.as_mut().expect("there is one");
                let version = &canary["metadata"]["resourceVersion"];
                assert_eq!(operations[0]["value"], *version, "written on a stale version");
                for op in &operations[1..] {
                    let path = op["path"].as_str().expect("a path");
                    *canary.pointer_mut(path).expect("the field") = op["value"].clone();
                }
            }
            How::Delete(uid) => {
                let now = self.canary.take().expect("there is one");
                assert_eq!(now["metadata"]["uid"], json!(uid));
            }
        }
        if let Some(canary) = &mut self.canary {
            canary["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
    }

    fn run(&mut self) -> Phase {
        for _ in 0..500 {
            if !self.round_until(usize::MAX) {
                return self.status.phase;
            }
        }
        panic!("no fixpoint: {:#?} {:?}", self.status, self.native);
    }

    fn promote(&mut self) {
        self.plan.promote = Some(Promote {
            attempt: self.status.attempt,
            stage: self.status.current_stage_index,
            step: self.status.current_step_index,
            full: false,
            to_step: None,
        });
    }

    /// Pods of the workload by image, and of the canary.
    fn pods(&self) -> (i32, i32, i64) {
        (self.native.count(OLD), self.native.count(NEW), self.wanted())
    }

    fn clean(&self) {
        assert!(self.canary.is_none(), "the canary is gone: {:#?}", self.canary);
        let fresh = Native::new(self.native.n, "25%", "25%");
        assert_eq!(self.native.fields, fresh.fields);
        assert!(!self.native.paused && self.native.label.is_none() && !self.held);
    }
}

#[test]
fn weights_go_up_and_down_and_the_workload_is_written_with_the_last_one() {
    let mut world = World::new(10, &steps(&[20, 50, 10]));
    for (weight, wanted) in [(20, 2), (50, 5), (10, 1)] {
        assert_eq!(world.run(), Phase::Paused);
        assert_eq!(world.pods(), (10, 0, wanted), "at {weight}");
        let target = &world.status.stages[0].targets[0];
        assert_eq!((target.requested_weight, i64::from(target.canary_ready)), (weight, wanted));
        assert_eq!(
            target.effective_weight,
            (i32::try_from(wanted).expect("few") * 100 + 5)
                / (10 + i32::try_from(wanted).expect("few"))
        );
        assert_eq!(target.canary_replica_set.as_deref(), Some("web-canary-abc"));
        assert_eq!(world.native.spec_writes, 1, "nothing but the label");
        world.promote();
    }
    assert_eq!(world.run(), Phase::Completed);
    assert_eq!(world.pods(), (0, 10, 0));
    assert_eq!(world.native.spec_writes, 2);
    world.clean();
}

#[test]
fn it_is_made_of_the_template_with_labels_that_its_workload_does_not_select() {
    let mut world = World::new(10, &steps(&[20]));
    assert_eq!(world.run(), Phase::Paused);
    let canary = world.canary.clone().expect("a canary");
    let spec = &canary["spec"];
    assert_eq!(spec["selector"], json!({"matchLabels": {CANARY_LABEL: "web"}}));
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(*labels, json!({"app": "web-canary", CANARY_LABEL: "web"}));
    let containers = &spec["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("log:1"), &json!(NEW)));
    assert_eq!(canary["metadata"]["labels"][IN_FLIGHT_LABEL], json!("up"));
    assert_eq!(canary["metadata"]["ownerReferences"][0]["uid"], json!("u-1"));
}

#[test]
fn it_follows_every_change_of_scale_and_one_pod_stays_where_there_are_none() {
    let mut world = World::new(10, &steps(&[30]));
    assert_eq!(world.run(), Phase::Paused);
    for (n, wanted) in [(20, 6), (4, 1), (0, 1), (10, 3)] {
        world.native.scale(n);
        assert_eq!(world.run(), Phase::Paused);
        assert_eq!(world.pods(), (n, 0, wanted), "of {n}");
    }
    let mut none = World::new(0, &steps(&[30]));
    assert_eq!(none.run(), Phase::Paused);
    assert_eq!(none.pods(), (0, 0, 1), "it begins at 0, too");
    none.promote();
    assert_eq!(none.run(), Phase::Completed);
    none.native.scale(3);
    assert_eq!(none.pods(), (0, 3, 0));
    none.clean();
}

#[test]
fn what_is_not_ours_is_refused_before_anything_is_touched() {
    let mut world = World::new(10, &steps(&[20]));
    let theirs = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web-canary", "uid": "x"},
        "spec": {"replicas": 3, "template": {}}});
    world.canary = Some(theirs.clone());
    assert_eq!(world.run(), Phase::RolledBack);
    let why = world.status.rollback_reason.clone().unwrap_or_default();
    assert!(why.contains("there is a Deployment web-canary already"), "{why}");
    assert_eq!((world.native.spec_writes, world.canary), (0, Some(theirs)));
}

#[test]
fn a_canary_that_fails_is_taken_away_and_the_workload_never_knew() {
    for behaviour in ["never ready", "aborted", "deleted by hand"] {
        let mut world = World::new(10, &steps(&[20, 60]));
        assert_eq!(world.run(), Phase::Paused);
        world.ready = behaviour != "never ready";
        match behaviour {
            "aborted" => world.plan.abort = true,
            "deleted by hand" => {
                world.canary = None;
                assert_eq!(world.run(), Phase::Paused);
                assert_eq!(world.pods(), (10, 0, 2), "it is made again");
                continue;
            }
            _ => {
                world.promote();
                world.run();
                world.now += SignedDuration::from_secs(601);
            }
        }
        let end = if behaviour == "aborted" { Phase::Aborted } else { Phase::RolledBack };
        assert_eq!(world.run(), end, "{behaviour}: {:?}", world.status.message);
        assert_eq!(world.pods(), (10, 0, 0));
        assert_eq!((world.native.spec_writes, world.native.least), (1, 10));
        world.clean();
    }
}

#[test]
fn a_rollout_of_the_workload_that_fails_is_taken_back_with_the_canary() {
    let mut world = World::new(10, &steps(&[20]));
    assert_eq!(world.run(), Phase::Paused);
    world.native.behaviour = Behaviour::Crash;
    world.promote();
    assert_eq!(world.run(), Phase::RolledBack, "{}", world.status.message);
    assert_eq!(world.pods(), (10, 0, 0));
    world.clean();
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let with = |more: Value| {
        let mut canary = steps(&[20]);
        for (key, value) in more.as_object().expect("a map") {
            canary[key.as_str()] = value.clone();
        }
        upgrade(&canary)
    };
    let router = json!({"trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}});
    let mut long = with(json!({}));
    let mut other = long.clone();
    let mut hold = long.clone();
    hold.spec.held = true;
    let target =
        |u: &mut Upgrade| u.spec.stages[0].workloads.as_mut().expect("workloads").targets.remove(0);
    let mut name = target(&mut long);
    name.name = "x".repeat(57);
    long.spec.stages[0].workloads.as_mut().expect("workloads").targets = vec![name];
    let mut kind = target(&mut other);
    kind.kind = crate::api::WorkloadKind::StatefulSet;
    other.spec.stages[0].workloads.as_mut().expect("workloads").targets = vec![kind];
    let after = json!({"steps": [{"setWeight": 100}, {"setWeight": 50}]});
    for (upgrade, why) in [
        (with(router), "goes without trafficRouting"),
        (with(json!({"stableService": "a"})), "goes without trafficRouting"),
        (with(after), "goes down from 100"),
        (long, "more than 56 characters"),
        (other, "is for Deployments"),
        (hold, "mode Hold opens no"),
    ] {
        let error = Plan::new(&upgrade).expect_err(why).to_string();
        assert!(error.contains(why) && error.contains(".canary"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is lost, scaled or deleted at whatever moment: before the last weight the workload
    /// runs its old images only, and the end is all new or all old, with nothing of ours left.
    #[test]
    fn any_canary_of_its_own_converges(
        n in 1..=20i32,
        weights in prop::collection::vec(1..=99i32, 1..5),
        moments in prop::collection::vec((0..7u8, 0..12usize, 0..=20i32), 0..40),
        abort in any::<bool>(),
    ) {
        let mut world = World::new(n, &steps(&weights));
        for (what, dies, scale) in moments {
            match what {
                0 | 1 => drop(world.round_until(dies)),
                2 => world.native.scale(scale),
                3 if world.native.label.is_some() => world.canary = None,
                4 => world.looks.clear(),
                5 => world.promote(),
                _ => drop(world.round_until(usize::MAX)),
            }
            let last = world.status.stages.first().is_some_and(|s| s.targets[0].requested_weight >= 100);
            prop_assert!(last || world.native.count(NEW) == 0);
        }
        world.plan.abort = abort;
        for _ in 0..10 {
            world.run();
            world.promote();
        }
        let ended = world.status.phase;
        prop_assert!(ended.is_terminal(), "{ended}: {:#?}", world.status);
        let n = world.native.n;
        let all = if ended == Phase::Completed { (0, n, 0) } else { (n, 0, 0) };
        prop_assert_eq!(world.pods(), all);
        world.clean();
    }
}
