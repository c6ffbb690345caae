//! The engine against a small world: the model of the native controller, a route, Services and
//! their endpoints. After every round the rule holds that no Service without ready endpoints has a
//! weight.

use crate::api::status::{Phase, UpgradeStatus};
use crate::api::traffic::TrafficPhase;
use crate::api::{Upgrade, UpgradeSpec};
use crate::engine::effect::{Effect, How, ObjectWrite};
use crate::engine::model::{Behaviour, NEW, Native, OLD};
use crate::engine::objects::{Look, Objects, Sight, Which};
use crate::engine::observed::{Observed, Workload};
use crate::engine::plan::Plan;
use crate::engine::step;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) native: Native,
    pub(crate) status: UpgradeStatus,
    pub(crate) now: Timestamp,
    pub(crate) deleting: bool,
    held: bool,
    looks: BTreeSet<Look>,
    /// By resource and name.
    pub(crate) objects: BTreeMap<(String, String), Value>,
    version: u64,
    pub(crate) weights: Vec<i64>,
    /// How many HTTPRoutes of our own there were.
    pub(crate) beside: Vec<usize>,
    /// There may be no pods at all.
    pub(crate) lax: bool,
    /// After how many effects each next round dies; then none does.
    pub(crate) deaths: Vec<usize>,
}

fn refs(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

impl World {
    pub(crate) fn new(n: i32, steps: &Value) -> Self {
        let routing = json!({"gatewayAPI": {"httpRoute": "web"}});
        Self::of(n, &json!({"canary": {"steps": steps, "trafficRouting": routing}}))
    }

    /// A Deployment of so many pods behind a route, and an Upgrade with a strategy.
    pub(crate) fn of(n: i32, strategy: &Value) -> Self {
        let spec: UpgradeSpec = serde_json::from_value(json!({
            "from": "v1", "to": "v2",
            "stages": [{"name": "web", "workloads": {
                "strategy": strategy,
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "web", "from": OLD, "to": NEW}]}]}}]
        }))
        .expect("a valid spec");
        let mut world = Self {
            plan: Plan::new(&Upgrade::new("up", spec)).expect("a valid plan"),
            native: Native::new(n, "25%", "25%"),
            status: UpgradeStatus::default(),
            now: "2026-11-21T12:00:00Z".parse().expect("a time"),
            deleting: false,
            held: false,
            deaths: vec![],
            lax: false,
            looks: BTreeSet::new(),
            objects: BTreeMap::new(),
            version: 1,
            weights: vec![],
            beside: vec![],
        };
        world.put(
            "services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        );
        world.put(
            "httproutes",
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "web"}, "spec": {"rules": [{"backendRefs": refs("web")}]}}),
        );
        world
    }

    pub(crate) fn put(&mut self, plural: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["uid"] = json!(format!("uid-{}", object["metadata"]["name"]));
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        self.objects.insert((plural.to_owned(), name), object);
    }

    pub(crate) fn workload(&self) -> Workload {
        let pod_labels = [("app".to_owned(), "web".to_owned())].into();
        Workload { pod_labels, ..self.native.observe(self.now) }
    }

    pub(crate) fn ready(&self, service: &str, workload: &Workload) -> Vec<String> {
        let Some(service) = self.objects.get(&("services".to_owned(), service.to_owned())) else {
            return vec![];
        };
        let hash = service["spec"]["selector"]["pod-template-hash"].as_str();
        let of = |set: &str| {
            workload.set(set).is_some_and(|s| hash.is_none_or(|h| s.hash.as_deref() == Some(h)))
        };
        let pods = workload.pods.iter().filter(|p| p.ready_since.is_some() && of(&p.set));
        pods.map(|p| p.name.clone()).collect()
    }

    fn sight(&self, look: &Look, workload: &Workload) -> Sight {
        let values: Vec<Value> = match (&look.which, look.resource.plural) {
            (Which::Labels(selector), "endpointslices") => {
                let service = selector.rsplit_once('=').map_or("", |(_, s)| s);
                let endpoints = self.ready(service, workload);
                let endpoints = endpoints
                    .iter()
                    .map(|p| json!({"conditions": {"ready": true}, "targetRef": {"name": p}}));
                vec![json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"name": service}, "endpoints": endpoints.collect::<Vec<_>>()})]
            }
            (which, plural) => {
                let wanted = |name: &str| match which {
                    Which::Name(n) | Which::Elsewhere { name: n, .. } => n == name,
                    Which::Labels(_) => true,
                };
                let all = self.objects.iter().filter(|((p, n), _)| p == plural && wanted(n));
                all.map(|(_, v)| v.clone()).collect()
            }
        };
        let read = |v| Arc::new(serde_json::from_value(v).expect("an object"));
        Sight::Seen(values.into_iter().map(read).collect())
    }

    fn write(&mut self, write: &ObjectWrite) {
        let plural = write.resource.plural;
        let key = (plural.to_owned(), write.name.clone());
        match &write.how {
            How::Create(object) => {
                assert!(!self.objects.contains_key(&key), "{} is there already", write.name);
                self.put(plural, object.clone());
            }
            How::Delete(_) => drop(self.objects.remove(&key)),
            How::Patch(operations) => {
                let mut object = self.objects.get(&key).expect("it is there").clone();
                for op in operations {
                    patch(&mut object, op);
                }
                self.put(plural, object);
            }
        }
    }

    pub(crate) fn round(&mut self) {
        let workload = self.workload();
        let objects: Objects =
            self.looks.iter().map(|l| (l.clone(), self.sight(l, &workload))).collect();
        let observed = Observed {
            held: self.held,
            deleting: self.deleting,
            objects,
            workloads: vec![vec![Some(workload)]],
            ..Observed::default()
        };
        let outcome = step(&self.plan, &observed, &self.status, self.now);
        // As it is stored and read again.
        let stored = serde_json::to_value(&outcome.status).expect("JSON");
        self.status = serde_json::from_value(stored).expect("a status");
        let dies = self.deaths.pop();
        for effect in outcome.effects.into_iter().take(dies.unwrap_or(usize::MAX)) {
            self.native.perform(std::slice::from_ref(&effect));
            match effect {
                Effect::Hold => self.held = true,
                Effect::LetGo => self.held = false,
                Effect::Watch(look) => drop(self.looks.insert(look)),
                Effect::Write(write) => self.write(&write),
                _ => {}
            }
        }
        if dies.is_some() {
            self.looks.clear();
        }
        self.check();
        self.now += SignedDuration::from_secs(1);
    }

    fn check(&mut self) {
        let workload = self.workload();
        let route = &self.objects[&("httproutes".to_owned(), "web".to_owned())];
        let list = route["spec"]["rules"][0]["backendRefs"].as_array().expect("a list");
        let mut canary = 0;
        for entry in list {
            let name = entry["name"].as_str().expect("a name");
            let served = self.lax || !self.ready(name, &workload).is_empty();
            assert!(served, "{name} has no endpoints: {list:?}");
            if name == "web-canary" {
                canary = entry["weight"].as_i64().expect("a weight");
            }
        }
        let (all, mut beside) = (self.objects.iter().filter(|((p, _), _)| p == "httproutes"), 0);
        for ((_, route), object) in all.filter(|((_, n), _)| n.starts_with("web-")) {
            let Some(rules) = object["spec"]["rules"].as_array() else { continue };
            let sent = rules.iter().flat_map(|r| r["backendRefs"].as_array().into_iter().flatten());
            let copied = rules.iter().flat_map(|r| r["filters"].as_array().into_iter().flatten());
            let copied = copied.map(|f| &f["requestMirror"]["backendRef"]);
            for entry in sent.chain(copied) {
                let name = entry["name"].as_str().expect("a name");
                let served = self.lax || name == "api" || !self.ready(name, &workload).is_empty();
                assert!(served, "{route}: {name} has no endpoints");
            }
            beside += 1;
        }
        if self.beside.last() != Some(&beside) {
            self.beside.push(beside);
        }
        if self.weights.last() != Some(&canary) {
            self.weights.push(canary);
        }
    }

    pub(crate) fn until(&mut self, there: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if there(self) {
                return;
            }
            self.round();
        }
        panic!("never there: {:#?} {:?}", self.status, self.native);
    }

    pub(crate) fn ends(&mut self) -> Phase {
        self.until(|w| w.status.phase.is_terminal() && !w.held);
        self.status.phase
    }

    pub(crate) fn clean(&self) {
        assert_eq!(self.objects.len(), 2, "{:?}", self.objects.keys());
        let route = &self.objects[&("httproutes".to_owned(), "web".to_owned())];
        assert_eq!(route["spec"]["rules"][0]["backendRefs"], refs("web"));
        assert_eq!(route["metadata"].get("labels"), None);
        assert!(self.native.label.is_none() && !self.native.paused);
        assert_eq!(self.native.fields, Native::new(self.native.n, "25%", "25%").fields);
    }

    fn promised(&self) {
        assert!(self.native.least >= self.native.n, "{} ready", self.native.least);
    }

    /// Somebody applies the manifest of the route again.
    pub(crate) fn reapply(&mut self) {
        let key = ("httproutes".to_owned(), "web".to_owned());
        let mut route = self.objects[&key].clone();
        route["spec"]["rules"][0]["backendRefs"] = refs("web");
        self.put("httproutes", route);
    }

    /// Ready pods behind each backend of the route.
    pub(crate) fn clients(&self) -> Vec<Vec<String>> {
        let workload = self.workload();
        let route = &self.objects[&("httproutes".to_owned(), "web".to_owned())];
        let list = route["spec"]["rules"][0]["backendRefs"].as_array().expect("a list");
        list.iter().map(|e| self.ready(e["name"].as_str().expect("a name"), &workload)).collect()
    }

    pub(crate) fn promote(&mut self) {
        self.plan.promote = Some(crate::api::upgrade::Promote {
            attempt: self.status.attempt,
            stage: 0,
            step: self.status.current_step_index,
            full: false,
            to_step: None,
        });
    }

    fn phase(&self) -> Option<TrafficPhase> {
        Some(self.status.stages.first()?.traffic.as_ref()?.phase)
    }
}

fn patch(object: &mut Value, op: &Value) {
    let path = op["path"].as_str().expect("a path");
    let (parent, key) = path.rsplit_once('/').expect("a pointer");
    let key = key.replace("~1", "/");
    if op["op"] == "test" {
        assert_eq!(object.pointer(path), Some(&op["value"]), "written on a stale version");
        return;
    }
    let parent = object.pointer_mut(parent).expect("its parent");
    match parent {
        Value::Object(map) if op["op"] == "remove" => drop(map.remove(&key)),
        Value::Object(map) => drop(map.insert(key, op["value"].clone())),
        other => panic!("{path} in {other}"),
    }
}

fn weights(list: &[i32]) -> Value {
    json!(list.iter().map(|w| json!({"setWeight": w})).collect::<Vec<_>>())
}

#[test]
fn weights_go_up_in_order_and_all_is_as_it_was() {
    for n in [1, 3, 10] {
        let mut world = World::new(n, &weights(&[1, 33, 60]));
        assert_eq!(world.ends(), Phase::Completed);
        assert_eq!(world.weights, [0, 1, 33, 60, 100, 0], "{n}");
        assert_eq!((world.native.count(OLD), world.native.count(NEW)), (0, n));
        world.clean();
        world.promised();
    }
}

#[test]
fn an_abort_at_any_round_puts_everything_back() {
    for rounds in 0..90 {
        let mut world = World::new(4, &weights(&[30, 70]));
        (0..rounds).for_each(|_| world.round());
        world.plan.abort = true;
        let phase = world.ends();
        assert!(matches!(phase, Phase::Aborted | Phase::Completed), "{rounds}: {phase}");
        world.clean();
        world.promised();
    }
}

#[test]
fn a_canary_without_ready_pods_loses_its_weight_and_never_gets_one() {
    let mut world = World::new(4, &json!([{"setWeight": 50}, {"pause": {}}]));
    world.until(|w| w.weights.last() == Some(&50));
    world.native.behaviour = Behaviour::Never;
    // The rule cannot hold in the moment in which they fail.
    let route = &world.objects[&("httproutes".to_owned(), "web".to_owned())];
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][1]["weight"], 50);
    world.plan.paused = true;
    world.round();
    assert_eq!(world.weights.last(), Some(&0));
    world.native.behaviour = Behaviour::Ready;
    world.until(|w| w.weights.last() == Some(&50));
    world.plan.abort = true;
    world.plan.paused = false;
    assert_eq!(world.ends(), Phase::Aborted);
    world.clean();
    world.promised();
}

#[test]
fn an_abort_while_the_old_pods_go_makes_them_again_first() {
    let mut world = World::new(10, &weights(&[50]));
    world.until(|w| w.phase() == Some(TrafficPhase::Promoting));
    world.round();
    world.plan.abort = true;
    assert_eq!(world.ends(), Phase::Aborted);
    assert_eq!((world.native.count(OLD), world.native.count(NEW)), (10, 0));
    world.clean();
    world.promised();
}
