//! Traffic of a canary: a router carries its weights, exactly, while the pods follow. Blue-green by
//! route is the same with two weights, none and all.
//!
//! Only route objects and Services of our own are written; the user's Service never is. The order
//! is what keeps every request answered. Up: canary pods, ready endpoints of their Service, the
//! weight, the router's word and a grace. Down: the route first, a grace, then the pods. A weight
//! is never given to a Service without ready endpoints.
//!
//! | file | idea |
//! |---|---|
//! | `round` | what is looked at, the next writes, and when a weight counts as carried |
//! | `routes` | fields of route objects, what they were, and what a split makes of them |
//! | `refs` | weighted lists of backends |
//! | `support`, `back` | what has to be there before a route names it; the end |
//! | `services` | Services of our own, and ready endpoints |
//! | `keep` | what admission keeps of a route that somebody else writes |
//! | `managed` | routes of our own beside the user's |
//! | `features` | what routers say that they can |
//! | `gateway`, `nginx`, `istio`, `smi` | what differs between the routers |

mod back;
mod features;
mod gateway;
mod istio;
mod keep;
mod managed;
#[cfg(test)]
mod managed_tests;
mod nginx;
mod refs;
mod round;
mod routes;
mod services;
mod smi;
mod support;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

use super::Walk;
use super::deployment::{Driver, Move, Side, side};
use super::plan::WorkloadsPlan;
use super::stages::{Position, Round};
use crate::api::blue_green::BlueGreen;
use crate::api::status::TargetPhase;
use crate::api::strategy::Canary;
use crate::api::traffic::{Istio, Nginx, Smi, TrafficPhase, TrafficRouting, TrafficStatus};
use jiff::SignedDuration;
pub use keep::keep;
pub use managed::own_routes;
pub(crate) use round::Carry;
use round::Want;

/// Label by which the pods of one ReplicaSet are told from others.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Grace where the Upgrade names none, in seconds: routers are told of a change within one or two.
const GRACE_SECONDS: i32 = 5;
/// What the names of the Services that are made end with.
const STABLE: &str = "stable";
const CANARY: &str = "canary";

/// How traffic is split, as the Upgrade says.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    router: Router,
    /// The user's Service, where it is named; otherwise the routes say which one it is.
    root: Option<String>,
    stable: Option<String>,
    canary: Option<String>,
    grace: SignedDuration,
    namespace: String,
    /// Names of the routes of our own that steps make.
    managed: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Router {
    /// None: each version has a Service, and traffic follows the number of pods.
    Services,
    /// HTTPRoutes, by name.
    Gateway(Vec<String>),
    Nginx(Nginx),
    Istio(Istio),
    Smi(Smi),
}

/// The names that a split is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    /// The user's Service.
    root: String,
    /// Services of the user's that stand for it.
    aliases: Vec<String>,
    stable: String,
    canary: String,
    namespace: String,
}

impl Names {
    /// Names as noted; what the Upgrade names and is not ours stands for the user's Service.
    fn noted(traffic: &Traffic, note: &TrafficStatus) -> Self {
        let chosen = [&traffic.stable, &traffic.canary].into_iter().flatten();
        let made = [&note.stable_service, &note.canary_service];
        Self {
            root: note.service.clone(),
            aliases: chosen.filter(|n| !made.contains(n)).cloned().collect(),
            stable: note.stable_service.clone(),
            canary: note.canary_service.clone(),
            namespace: traffic.namespace.clone(),
        }
    }

    fn is_root(&self, name: &str) -> bool {
        name == self.root || self.aliases.iter().any(|a| a == name)
    }
}

impl Traffic {
    /// What a canary asks for; none where it names no router and no Services.
    pub fn read(canary: &Canary, namespace: &str, targets: usize) -> Result<Option<Self>, String> {
        let managed = super::managed::names(canary)?;
        let (stable, new) = (canary.stable_service.clone(), canary.canary_service.clone());
        if canary.traffic_routing.is_none() && stable.is_none() && new.is_none() {
            return Ok(None);
        }
        if targets != 1 {
            return Err(format!(
                "trafficRouting, stableService and canaryService need a stage with one target, not \
                 {targets}; put each workload into a stage of its own"
            ));
        }
        let by_number = canary.steps.iter().position(|s| s.set_replicas.is_some());
        if let (Some(_), Some(at)) = (&canary.traffic_routing, by_number) {
            return Err(format!(
                "steps[{at}].setReplicas does not go with trafficRouting: a router carries \
                 percentages; use setWeight"
            ));
        }
        if stable.is_some() && stable == new {
            return Err("stableService and canaryService must differ".to_owned());
        }
        let (router, seconds) = match &canary.traffic_routing {
            None => (Router::Services, Some(0)),
            Some(routing) => (Router::read(routing, namespace)?, routing.grace_seconds),
        };
        let (grace, namespace) = (grace(seconds), namespace.to_owned());
        Ok(Some(Self { router, root: None, stable, canary: new, grace, namespace, managed }))
    }

    /// What a blue-green asks for: none where a Service's selector is switched.
    pub fn switched(settings: &BlueGreen, namespace: &str) -> Result<Option<Self>, String> {
        let Some(routing) = &settings.traffic_routing else { return Ok(None) };
        let router = Router::read(routing, namespace)?;
        let active = &settings.active_service;
        let other = routing.smi.as_ref().and_then(|s| s.root_service.as_ref());
        if let Some(other) = other.filter(|o| *o != active) {
            return Err(format!(
                "trafficRouting.smi.rootService is {other} and activeService {active}; they are \
                 the same Service, so leave rootService out"
            ));
        }
        let preview = settings.preview().0;
        if [STABLE, CANARY].iter().any(|end| preview == made(active, end)) {
            return Err(format!(
                "previewService: {preview} is the name of a Service that trafficRouting makes; \
                 choose another, or leave it out"
            ));
        }
        Ok(Some(Self {
            router,
            root: Some(active.clone()),
            stable: None,
            canary: None,
            grace: grace(routing.grace_seconds),
            namespace: namespace.to_owned(),
            managed: vec![],
        }))
    }

    /// What is looked at and written, in the order in which it is: ours after the user's.
    fn parts(&self, workload: &str) -> Vec<routes::Part> {
        let mut parts = self.router.parts(workload);
        if let Router::Gateway(routes) = &self.router {
            parts.extend(managed::parts(workload, &self.managed, routes));
        }
        parts
    }

    /// A router carries the weights: all stable pods stay, and the canary's come beside them.
    pub fn routes(&self) -> bool {
        self.router != Router::Services
    }
}

/// The name of a Service that is made beside another.
fn made(root: &str, end: &str) -> String {
    format!("{}-{end}", root.get(..56).unwrap_or(root))
}

fn grace(seconds: Option<i32>) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds.unwrap_or(GRACE_SECONDS).clamp(0, 600)))
}

impl Router {
    fn read(routing: &TrafficRouting, namespace: &str) -> Result<Self, String> {
        let one = "trafficRouting needs exactly one of `gatewayAPI`, `nginx`, `istio` and `smi`";
        match routing {
            TrafficRouting {
                gateway_api: Some(g), nginx: None, istio: None, smi: None, ..
            } => {
                if let Some(other) = g.namespace.as_ref().filter(|n| *n != namespace) {
                    return Err(format!(
                        "gatewayAPI.namespace is {other}; an Upgrade writes in its own namespace \
                         only, so make it in {other} or leave the field out"
                    ));
                }
                let names = g.names();
                if names.is_empty() {
                    return Err("gatewayAPI needs `httpRoute` or `httpRoutes`".to_owned());
                }
                Ok(Self::Gateway(names))
            }
            TrafficRouting {
                gateway_api: None, nginx: Some(n), istio: None, smi: None, ..
            } => Ok(Self::Nginx(n.clone())),
            TrafficRouting {
                gateway_api: None, nginx: None, istio: Some(i), smi: None, ..
            } => Ok(Self::Istio(i.clone())),
            TrafficRouting {
                gateway_api: None, nginx: None, istio: None, smi: Some(s), ..
            } => Ok(Self::Smi(s.clone())),
            _ => Err(one.to_owned()),
        }
    }
}

impl<'a> Walk<'a> {
    /// Brings the pods of a stage, and the traffic with them, to a position.
    pub(crate) fn drive_routed(
        &mut self,
        stage: usize,
        plan: &'a WorkloadsPlan,
        to: Position,
    ) -> Round {
        let routes = plan.traffic.as_ref().is_some_and(Traffic::routes);
        match self.before_pods(stage, plan, to) {
            Round::Reached => {}
            other => return other,
        }
        if !routes {
            return self.drive_pods(stage, plan, to);
        }
        if self.traffic_phase(stage) < TrafficPhase::Promoting {
            let beside = Position { beside: true, rest: to.rest && !to.share.is_full(), ..to };
            match self.drive_pods(stage, plan, beside) {
                Round::Reached => {}
                other => return other,
            }
            if self.settled_elsewhere(stage) {
                return Round::Reached;
            }
            match self.after_pods(stage, plan, to.share.weight) {
                Round::Reached => {}
                other => return other,
            }
            if !to.share.is_full() {
                return Round::Reached;
            }
            self.set_traffic_phase(stage, TrafficPhase::Promoting);
        }
        self.drive_pods(stage, plan, to)
    }

    /// The target runs the new images without us: no traffic of it was ever touched.
    fn settled_elsewhere(&self, stage: usize) -> bool {
        let done = self.target(stage, 0).is_some_and(|(_, _, s)| s.phase == TargetPhase::Completed);
        done && self.traffic(stage).is_none()
    }

    /// Before the first write of the template all traffic is pinned to the stable pods; after it
    /// the routes are kept as they should be, whoever writes to them.
    fn before_pods(&mut self, stage: usize, plan: &'a WorkloadsPlan, to: Position) -> Round {
        if self.traffic_phase(stage) > TrafficPhase::Pinning {
            self.keep_traffic(stage);
            return Round::Reached;
        }
        let Some((target, Some(workload), status)) = self.target(stage, 0) else {
            return Round::Reached;
        };
        let label = workload.label.as_deref();
        let free = label.is_none_or(|l| l == self.plan.name);
        let old = side(target, workload) == Side::Stable || workload.hold.is_some();
        if !free || !old || status.phase == TargetPhase::Completed {
            return Round::Reached;
        }
        let originals = status.originals.clone().unwrap_or_else(|| workload.fields.clone());
        let driver = Driver::new(target, workload, &originals, &status, plan, self.now);
        if plan.traffic.as_ref().is_some_and(Traffic::routes) && !driver.has_room() {
            return Round::Broken(format!(
                "{target}: with trafficRouting the canary's pods stand beside all stable ones, and \
                 its strategy leaves no room for them: set spec.strategy.rollingUpdate.maxSurge, \
                 or leave trafficRouting out"
            ));
        }
        if !matches!(driver.toward(to.share, false), Move::Write(_)) {
            return Round::Reached;
        }
        match self.carry(stage, plan, Want::Weight(0)) {
            Carry::Reached => {
                self.set_traffic_phase(stage, TrafficPhase::Splitting);
                Round::Reached
            }
            Carry::Waiting(what) => self.wait_for_traffic(stage, &what),
            Carry::Broken(why) => Round::Broken(why),
        }
    }

    /// With the pods there, their share of the traffic.
    fn after_pods(&mut self, stage: usize, plan: &'a WorkloadsPlan, weight: i32) -> Round {
        let now = self.aimed_at(stage);
        let mut carried = self.carry(stage, plan, Want::Weight(now));
        if now != weight && carried == Carry::Reached {
            carried = self.aim(stage, plan, weight);
        }
        match carried {
            Carry::Reached => Round::Reached,
            Carry::Waiting(what) => self.wait_for_traffic(stage, &what),
            Carry::Broken(why) => Round::Broken(why),
        }
    }

    /// The weight that the routes of a stage are to have.
    pub(crate) fn aimed_at(&self, stage: usize) -> i32 {
        self.traffic(stage).map_or(0, |t| t.requested_weight)
    }

    /// One round towards a weight; how far it is.
    pub(crate) fn aim(&mut self, stage: usize, plan: &'a WorkloadsPlan, weight: i32) -> Carry {
        if let Some(traffic) = self.traffic_mut(stage)
            && traffic.requested_weight != weight
        {
            traffic.requested_weight = weight;
            traffic.since = None;
            traffic.asked = None;
        }
        self.carry(stage, plan, Want::Weight(weight))
    }

    fn wait_for_traffic(&mut self, stage: usize, what: &str) -> Round {
        if let Some((target, seen, mut status)) = self.target(stage, 0) {
            let seconds = seen.and_then(|w| w.fields.progress_deadline_seconds);
            let originals = status.originals.as_ref().and_then(|o| o.progress_deadline_seconds);
            status.message = format!("{target}: {what}");
            self.set_target(stage, 0, status);
            let seconds = originals.or(seconds).filter(|s| *s != i32::MAX).unwrap_or(600);
            let asked = self.traffic(stage).and_then(|t| t.asked.as_ref()).map(|t| t.0);
            let end = asked
                .and_then(|t| t.saturating_add(SignedDuration::from_secs(i64::from(seconds))).ok());
            if end.is_some_and(|e| e <= self.now) {
                return Round::Broken(format!("{target}: for {seconds} s, {what}"));
            }
            self.alarms.extend(end);
        }
        Round::Waiting
    }

    /// The routes of a stage as they should be by now, whoever wrote to them.
    pub(crate) fn keep_traffic(&mut self, stage: usize) {
        let plan = self.plan;
        let Some(plan) = plan.stages.get(stage).and_then(|s| s.workloads()) else { return };
        let Some(traffic) = self.traffic(stage) else { return };
        let weight = traffic.requested_weight;
        if matches!(traffic.phase, TrafficPhase::Splitting | TrafficPhase::Promoting) {
            self.carry(stage, plan, Want::Weight(weight));
        }
    }

    /// The way back, before any pod is touched: all traffic to the stable pods. Whether it is so.
    pub(crate) fn traffic_off(&mut self, stage: usize, plan: &'a WorkloadsPlan) -> bool {
        match self.traffic_phase_if_any(stage) {
            // Where nothing but the pin was written, it stays until the end.
            None | Some(TrafficPhase::HandedBack | TrafficPhase::Pinning) => return true,
            Some(TrafficPhase::HandingBack) => return self.traffic_home(stage, plan),
            Some(TrafficPhase::Promoting) => {
                if self.summon(stage, plan) {
                    return false;
                }
            }
            Some(TrafficPhase::Splitting) => {}
        }
        if plan.traffic.as_ref().is_none_or(|t| !t.routes()) {
            return true;
        }
        if let Some((_, None, _)) = self.target(stage, 0) {
            return true;
        }
        match self.aim(stage, plan, 0) {
            Carry::Reached => {
                self.set_traffic_phase(stage, TrafficPhase::Splitting);
                true
            }
            Carry::Waiting(what) | Carry::Broken(what) => {
                self.say(stage, what);
                false
            }
        }
    }

    /// At the end, either way: the routes as they were, then nothing of ours is left. Whether it
    /// is so.
    pub(crate) fn traffic_home(&mut self, stage: usize, plan: &'a WorkloadsPlan) -> bool {
        let left = self.traffic_away(stage, plan);
        left.map(|what| self.say(stage, what)).is_none()
    }

    /// The same; what is left to do, in words.
    pub(crate) fn traffic_away(&mut self, stage: usize, plan: &'a WorkloadsPlan) -> Option<String> {
        match self.traffic_phase_if_any(stage) {
            None | Some(TrafficPhase::HandedBack) => return None,
            Some(TrafficPhase::HandingBack) => {}
            Some(_) => {
                if let Some(traffic) = self.traffic_mut(stage) {
                    traffic.phase = TrafficPhase::HandingBack;
                    traffic.since = None;
                    traffic.asked = None;
                }
            }
        }
        match self.carry(stage, plan, Want::Own) {
            Carry::Reached => {
                self.set_traffic_phase(stage, TrafficPhase::HandedBack);
                None
            }
            Carry::Waiting(what) | Carry::Broken(what) => Some(what),
        }
    }

    /// Promoted, the old pods go. Before traffic can go back to them they are made again, beside
    /// the new ones. Whether that is still to be waited for.
    fn summon(&mut self, stage: usize, plan: &'a WorkloadsPlan) -> bool {
        let Some((target, Some(workload), mut status)) = self.target(stage, 0) else {
            return false;
        };
        let before = status.clone();
        let Some(originals) = &before.originals else { return false };
        let driver = Driver::new(target, workload, originals, &before, plan, self.now);
        self.note_counts(&driver, workload, &mut status);
        let next = driver.summon();
        if let Move::Wait(what) = &next {
            status.message.clone_from(what);
        }
        self.set_target(stage, 0, status);
        match next {
            Move::Write(write) => {
                self.patch(target, workload, write);
                true
            }
            Move::Wait(_) => true,
            Move::Reached | Move::Delete(..) | Move::Broken(_) => false,
        }
    }

    fn say(&mut self, stage: usize, what: String) {
        if let Some((_, _, mut status)) = self.target(stage, 0) {
            status.message = what;
            self.set_target(stage, 0, status);
        }
    }

    pub(crate) fn traffic(&self, stage: usize) -> Option<&TrafficStatus> {
        self.status.stages.get(stage)?.traffic.as_ref()
    }

    fn traffic_mut(&mut self, stage: usize) -> Option<&mut TrafficStatus> {
        self.status.stages.get_mut(stage)?.traffic.as_mut()
    }

    fn traffic_phase_if_any(&self, stage: usize) -> Option<TrafficPhase> {
        self.traffic(stage).map(|t| t.phase)
    }

    fn traffic_phase(&self, stage: usize) -> TrafficPhase {
        self.traffic_phase_if_any(stage).unwrap_or_default()
    }

    pub(crate) fn set_traffic_phase(&mut self, stage: usize, phase: TrafficPhase) {
        if let Some(traffic) = self.traffic_mut(stage) {
            traffic.phase = phase;
        }
    }
}
