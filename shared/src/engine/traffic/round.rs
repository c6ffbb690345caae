//! One round of a split: what is looked at, the next writes, and when a weight counts as carried.

use super::routes::{Carrier, Part, carried_by};
use super::{Names, Traffic, nginx, services, smi};
use crate::api::traffic::{RouteOriginal, TrafficStatus};
use crate::engine::Walk;
use crate::engine::deployment::Driver;
use crate::engine::effect::{Effect, How, ObjectWrite, set};
use crate::engine::managed::{self, RouteStep};
use crate::engine::objects::{Look, Sight};
use crate::engine::observed::Workload;
use crate::engine::plan::{PlanTarget, WorkloadsPlan};
use crate::engine::steps::Step as EngineStep;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::sync::Arc;

/// How long the way back waits for a router's own word: a router that is gone does not hold it.
const ROUTER_PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// What the routes are to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The canary at this weight, in percent.
    Weight(i32),
    /// What their owner wrote.
    Own,
}

/// What a round came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    Reached,
    Waiting(String),
    Broken(String),
}

pub(super) type Step<T> = Result<T, Carry>;

pub(super) fn wait<T>(what: impl Into<String>) -> Step<T> {
    Err(Carry::Waiting(what.into()))
}

/// What one round is about.
pub(super) struct Scene<'a> {
    pub(super) traffic: &'a Traffic,
    pub(super) target: &'a PlanTarget,
    pub(super) workload: Option<&'a Workload>,
    pub(super) uid: String,
    pub(super) services: &'a [Arc<DynamicObject>],
    pub(super) names: Names,
    /// Names of the ReplicaSets.
    pub(super) stable: Option<String>,
    pub(super) canary: Option<String>,
    /// Routes of our own that are to be there.
    pub(super) managed: Vec<&'a RouteStep>,
    /// All of the canary's steps.
    pub(super) steps: &'a [EngineStep],
    pub(super) note: TrafficStatus,
}

/// What serves through a Service.
#[derive(Default)]
struct Serving {
    any: bool,
    all: bool,
    since: Option<MicroTime>,
}

pub(super) type Seen<'a> = (Part, Option<&'a DynamicObject>);

impl<'a> Walk<'a> {
    /// One round towards what the routes are to say.
    pub(super) fn carry(&mut self, stage: usize, plan: &'a WorkloadsPlan, want: Want) -> Carry {
        let Some(traffic) = &plan.traffic else { return Carry::Reached };
        let mut scene = match self.scene(stage, plan, traffic) {
            Ok(scene) => scene,
            Err(carry) => return carry,
        };
        let done = match want {
            Want::Weight(weight) => self.weigh(&mut scene, weight),
            Want::Own => self.hand_back(&mut scene),
        };
        let note = &mut scene.note;
        note.message.clear();
        let carry = done.err().unwrap_or(Carry::Reached);
        match &carry {
            Carry::Reached => note.asked = None,
            Carry::Waiting(what) | Carry::Broken(what) => {
                note.message.clone_from(what);
                note.asked.get_or_insert(MicroTime(self.now));
            }
        }
        if let Some(stage) = self.status.stages.get_mut(stage) {
            stage.traffic = Some(scene.note);
        }
        carry
    }

    fn scene(
        &mut self,
        stage: usize,
        plan: &'a WorkloadsPlan,
        traffic: &'a Traffic,
    ) -> Step<Scene<'a>> {
        let Some((target, workload, status)) = self.target(stage, 0) else {
            return Err(Carry::Reached);
        };
        let services = self.list(&services::all(), "services")?;
        let note =
            self.status.stages.get(stage).and_then(|s| s.traffic.clone()).unwrap_or_default();
        let mut scene = Scene {
            traffic,
            target,
            workload,
            uid: workload.map(|w| w.uid.clone()).or(status.uid.clone()).unwrap_or_default(),
            services,
            names: Names::default(),
            stable: None,
            canary: None,
            managed: self.managed(stage, plan),
            steps: &plan.steps,
            note,
        };
        if let Some(workload) = workload {
            let originals = status.originals.clone().unwrap_or_else(|| workload.fields.clone());
            let driver = Driver::new(target, workload, &originals, &status, plan, self.now);
            let hash = |name: &str| {
                workload.set(name).and_then(|s| s.hash.clone()).filter(|h| !h.is_empty())
            };
            scene.stable = driver.stable_set().map(str::to_owned);
            // The stable pods stay those that were when all traffic was pinned to them.
            if scene.note.stable_hash.is_none() {
                scene.note.stable_hash = scene.stable.as_deref().and_then(hash);
            }
            if let Some(set) = driver.canary_set() {
                scene.canary = Some(set.name.clone());
                scene.note.canary_hash = hash(&set.name).or(scene.note.canary_hash);
            }
        }
        scene.name();
        Ok(scene)
    }

    fn managed(&self, stage: usize, plan: &'a WorkloadsPlan) -> Vec<&'a RouteStep> {
        let here = usize::try_from(self.status.current_stage_index).is_ok_and(|s| s == stage);
        let at = usize::try_from(self.status.current_step_index).ok().filter(|_| here);
        at.map(|at| managed::in_force(&plan.steps, at)).unwrap_or_default()
    }

    /// What is seen of a look; it is waited for where it is not known yet.
    pub(super) fn list(&mut self, look: &Look, what: &str) -> Step<&'a [Arc<DynamicObject>]> {
        match self.see(look) {
            None => wait(format!("{what} are being listed")),
            Some(Sight::Unavailable(why)) => wait(format!("{what} cannot be read: {why}")),
            Some(Sight::Seen(objects)) => Ok(objects),
        }
    }

    pub(super) fn object(&mut self, part: &Part) -> Step<Option<&'a DynamicObject>> {
        Ok(self.list(&part.look(), &part.id())?.first().map(AsRef::as_ref))
    }

    pub(super) fn objects(&mut self, scene: &Scene<'a>) -> Step<Vec<Seen<'a>>> {
        let parts = scene.traffic.parts(&scene.target.name);
        parts.into_iter().map(|part| self.object(&part).map(|o| (part, o))).collect()
    }

    pub(super) fn put(&mut self, write: ObjectWrite) {
        // What is written in a round already was decided on the same sight: once is enough.
        let same = |e: &Effect| matches!(e, Effect::Write(w) if w.resource == write.resource && w.name == write.name);
        if self.effects.iter().any(same) {
            return;
        }
        let (kind, name, why) = (write.resource.plural, &write.name, &write.why);
        let note = format!("{kind}/{name}: {why}");
        self.effects.push(Effect::Write(write));
        self.event(false, "Routed", note);
    }

    /// The canary at a weight.
    fn weigh(&mut self, scene: &mut Scene<'a>, weight: i32) -> Step<()> {
        let Some(workload) = scene.workload else {
            return wait(format!("{} does not exist", scene.target));
        };
        let objects = self.objects(scene)?;
        check(&objects, &self.plan.name)?;
        if scene.note.service.is_empty() {
            for step in scene.steps.iter().filter_map(EngineStep::route) {
                self.able(&objects, step)?;
            }
            scene.begin(&objects, workload, &self.plan.name)?;
        }
        if self.support(scene, workload)? {
            scene.note.since = None;
            return wait("Services of its own are being made");
        }
        if !scene.traffic.routes() {
            return Ok(());
        }
        let allowed = self.allowed(scene, workload, weight)?;
        let mut wrote = self.unroute(scene, &objects, allowed)?;
        if wrote {
            scene.note.since = None;
        }
        let own = |p: &Part| matches!(p.how, Carrier::Managed { .. });
        for (part, object) in objects.iter().filter(|(p, _)| !own(p)) {
            let stable = objects.first().and_then(|(_, o)| *o);
            wrote |= self.weigh_part(scene, part, *object, stable, allowed)?;
        }
        if wrote {
            scene.note.since = None;
        }
        wrote |= self.route(scene, &objects, allowed)?;
        if wrote {
            scene.note.since = None;
            return wait(format!("traffic goes to {allowed} % canary"));
        }
        scene.note.effective_weight = allowed;
        self.follow(scene, &objects, allowed == 0)?;
        if allowed == weight {
            return Ok(());
        }
        let service = &scene.note.canary_service;
        match &scene.note.canary_since {
            Some(_) => wait(format!("routers learn of Service {service}")),
            None => wait(format!("Service {service} has no ready endpoints yet")),
        }
    }

    /// How much of a weight may be given now: nothing to a Service without ready endpoints, and
    /// nothing before routers had the time to learn of them: routes and endpoints reach them by
    /// different ways, and in any order.
    fn allowed(&mut self, scene: &mut Scene<'a>, workload: &Workload, weight: i32) -> Step<i32> {
        let settled = scene.note.since.is_some();
        let names = &scene.names;
        let rule = scene.traffic.router.rule().is_some();
        let of = |own: &String| if rule { names.root.clone() } else { own.clone() };
        let (to_stable, to_canary) = (of(&names.stable), of(&names.canary));
        let (stable_set, canary_set) = (scene.stable.clone(), scene.canary.clone());
        let before = scene.note.stable_since.clone();
        let stable = self.serving(&to_stable, stable_set.as_deref(), workload, before)?;
        let before = scene.note.canary_since.clone();
        let canary = self.serving(&to_canary, canary_set.as_deref(), workload, before)?;
        scene.note.stable_since.clone_from(&stable.since);
        scene.note.canary_since.clone_from(&canary.since);
        let grace = scene.traffic.grace;
        let mut learned = |serving: &Serving| {
            let end = serving.since.as_ref().and_then(|s| s.0.saturating_add(grace).ok());
            self.alarms.extend(end);
            end.is_some_and(|e| e <= self.now)
        };
        let allowed = match weight {
            0 => 0,
            _ if learned(&canary) && (canary.all || settled) => weight,
            // What it has, it keeps while anything of it is ready.
            _ if canary.any => weight.min(scene.note.effective_weight),
            _ => 0,
        };
        let whole = if settled { stable.any } else { stable.all };
        if allowed < 100 && !whole {
            return wait(format!("Service {to_stable} has no ready endpoints"));
        }
        if allowed < 100 && !learned(&stable) {
            return wait(format!("routers learn of Service {to_stable}"));
        }
        Ok(allowed)
    }

    /// What of a ReplicaSet serves through a Service.
    fn serving(
        &mut self,
        service: &str,
        set: Option<&str>,
        workload: &Workload,
        since: Option<MicroTime>,
    ) -> Step<Serving> {
        let sight = self.see(&services::endpoints(service));
        let Some(set) = set else { return Ok(Serving::default()) };
        let Some(ready) = services::ready(sight, workload, set) else {
            return wait(format!("endpoints of Service {service} are being listed"));
        };
        let all = ready >= services::ready_pods(workload, set).max(1);
        let since = match since {
            Some(since) if ready > 0 => Some(since),
            None if all => Some(MicroTime(self.now)),
            _ => None,
        };
        Ok(Serving { any: ready > 0, all, since })
    }

    fn weigh_part(
        &mut self,
        scene: &mut Scene<'a>,
        part: &Part,
        object: Option<&DynamicObject>,
        stable: Option<&DynamicObject>,
        weight: i32,
    ) -> Step<bool> {
        let why = format!("canary at {weight} %");
        let ours = object.is_some_and(|o| services::is_ours(o, &self.plan.name, &scene.uid));
        let next = match (&part.how, object) {
            (Carrier::Beside(_), Some(o)) if !ours => {
                let name = o.metadata.name.as_deref().unwrap_or_default();
                let what = format!("Ingress {name} is there already, and is not this Upgrade's");
                return Err(Carry::Broken(what));
            }
            (Carrier::Beside(_), Some(o)) if weight == 0 => Some(part.write(remove(o), why)),
            (Carrier::Beside(_), None) if weight == 0 => None,
            (Carrier::Beside(settings), _) => {
                let stable = stable.map(whole).unwrap_or_default();
                let (annotations, spec) = nginx::canary(&stable, settings, &scene.names, weight);
                self.own_object(scene, part, object, Some(annotations), &spec, why)
            }
            (Carrier::Split, _) if ours || object.is_none() => {
                self.own_object(scene, part, object, None, &smi::spec(&scene.names, weight), why)
            }
            (_, Some(o)) => {
                let value = whole(o);
                let fields = part.fields(&value, &scene.names, &scene.note.originals);
                if fields.is_empty() {
                    let (id, service) = (part.id(), &scene.note.service);
                    return wait(format!("{id} does not send to Service {service}"));
                }
                for (pointer, original) in &fields {
                    scene.record(&part.id(), pointer, Some(original));
                }
                let carried = fields.into_iter().filter_map(|(pointer, original)| {
                    let to = part.carried(&original, &scene.names, weight);
                    (value.pointer(&pointer) != Some(&to)).then_some((pointer, to))
                });
                let carried: Vec<_> = carried.collect();
                (!carried.is_empty()).then(|| part.patch(o, &self.plan.name, &carried, why))
            }
            (_, None) => return wait(format!("{} does not exist", part.id())),
        };
        let wrote = next.is_some();
        if let Some(write) = next {
            self.put(write);
        }
        Ok(wrote)
    }

    /// An object of our own as it should be.
    pub(super) fn own_object(
        &self,
        scene: &Scene<'a>,
        part: &Part,
        object: Option<&DynamicObject>,
        annotations: Option<Value>,
        spec: &Value,
        why: String,
    ) -> Option<ObjectWrite> {
        let Some(object) = object else {
            let mut metadata = scene.metadata(&self.plan.name, &part.name);
            if let (Some(annotations), Some(m)) = (annotations, metadata.as_object_mut()) {
                m.insert("annotations".to_owned(), annotations);
            }
            return Some(part.write(
                How::Create(json!({
                    "apiVersion": part.resource.api_version, "kind": part.resource.kind,
                    "metadata": metadata, "spec": spec,
                })),
                why,
            ));
        };
        let now = json!(object.metadata.annotations.clone().unwrap_or_default());
        let same =
            annotations.as_ref().is_none_or(|a| *a == now) && object.data.get("spec") == Some(spec);
        if same {
            return None;
        }
        let mut operations = vec![super::routes::same_version(object), set("/spec", spec)];
        operations.extend(annotations.map(|a| set("/metadata/annotations", &a)));
        Some(part.write(How::Patch(operations), why))
    }

    /// The routes say it; now the routers have to do it.
    pub(super) fn follow(
        &mut self,
        scene: &mut Scene<'a>,
        objects: &[Seen<'a>],
        down: bool,
    ) -> Step<()> {
        let since = scene.note.since.get_or_insert(MicroTime(self.now)).0;
        let patience = since.saturating_add(ROUTER_PATIENCE).unwrap_or(since);
        if !down || self.now < patience {
            for (part, object) in objects {
                if let Some(why) = object.and_then(|o| part.refused(&whole(o))) {
                    self.alarms.push(patience);
                    return wait(format!("{}: {why}", part.id()));
                }
            }
        }
        let end = since.saturating_add(scene.traffic.grace).unwrap_or(since);
        if self.now < end {
            self.alarms.push(end);
            return wait(format!("routers follow until {end:.0}"));
        }
        Ok(())
    }
}

pub(super) fn remove(object: &DynamicObject) -> How {
    How::Delete(object.metadata.uid.clone().unwrap_or_default())
}

/// An object with its metadata, as pointers expect it.
pub(super) fn whole(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The fields of an object that are there.
pub(super) fn whole_value(object: &Value, pointers: &[&str]) -> Vec<(String, Value)> {
    let there = |p: &&str| Some(((*p).to_owned(), object.pointer(p)?.clone()));
    pointers.iter().filter_map(there).collect()
}

impl RouteOriginal {
    /// The field's value; none where it was not there.
    pub(super) fn value(&self) -> Option<Value> {
        self.value.as_ref().and_then(|v| serde_json::from_str(v).ok())
    }
}

impl Scene<'_> {
    /// Names as noted; what the Upgrade names and is not ours stands for the user's Service.
    pub(super) fn name(&mut self) {
        self.names = Names::noted(self.traffic, &self.note);
    }

    pub(super) fn metadata(&self, upgrade: &str, name: &str) -> Value {
        services::metadata(upgrade, name, self.target.kind.as_str(), &self.target.name, &self.uid)
    }

    pub(super) fn record(&mut self, object: &str, path: &str, value: Option<&Value>) {
        let value = value.map(ToString::to_string);
        let all = &mut self.note.originals;
        if let Some(known) = all.iter_mut().find(|o| o.object == object && o.path == path) {
            known.value = value;
            return;
        }
        all.push(RouteOriginal { object: object.to_owned(), path: path.to_owned(), value });
    }

    /// What was noted of a field.
    pub(super) fn noted(&self, object: &str, path: &str) -> Option<&RouteOriginal> {
        self.note.originals.iter().find(|o| o.object == object && o.path == path)
    }
}

/// Another Upgrade may carry weights in the same object.
fn check(objects: &[Seen<'_>], upgrade: &str) -> Step<()> {
    // One of ours with the name of another's is told of where it is to be made.
    let own = |p: &Part| matches!(p.how, Carrier::Managed { .. });
    for (part, object) in objects.iter().filter(|(p, _)| !own(p)) {
        if let Some(other) = object.and_then(carried_by).filter(|l| *l != upgrade) {
            return wait(format!("{} is used by Upgrade {other}", part.id()));
        }
    }
    Ok(())
}
