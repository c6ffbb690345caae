//! Driver of Deployments: from where one is to where it should be, one write at a time.
//!
//! Level-triggered: it looks only at what runs and at the originals, so that a controller that
//! died after any write goes on where the last one stood. Why each write is what it is:
//! [`super::law`].

mod alongside;
mod back;
mod beside;
mod held;
mod lower;

pub use super::driver::{Counts, Move, Side, side};
use super::driver::{Drive, images};
use super::effect::Write;
use super::law;
use super::observed::{Set, Workload};
use super::plan::{PlanTarget, Share, WorkloadsPlan};
use super::traffic::Traffic;
use crate::api::status::{Originals, TargetStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// One Deployment on its way.
#[expect(clippy::struct_excessive_bools, reason = "they are what the plan says, not modes")]
pub struct Driver<'a> {
    target: &'a PlanTarget,
    now: &'a Workload,
    originals: &'a Originals,
    /// Name of the ReplicaSet that was complete when the upgrade began.
    stable: Option<&'a str>,
    /// Name of the canary's ReplicaSet as last seen.
    known_canary: Option<&'a str>,
    /// In place, weight by weight; otherwise the workload's own rolling update.
    canary: bool,
    /// Some weight is under 100: the template is never written without the inflation.
    parts: bool,
    /// Mode `Hold` opened it: templates are written whole.
    whole: bool,
    /// A router carries the weights: all stable pods stay, and the canary's stand beside them.
    beside: bool,
    clock: Timestamp,
}

impl<'a> Driver<'a> {
    /// A driver for one moment. `status` knows the ReplicaSets once the first write was decided;
    /// before it, the present one is the stable one.
    pub fn new(
        target: &'a PlanTarget,
        now: &'a Workload,
        originals: &'a Originals,
        status: &'a TargetStatus,
        stage: &WorkloadsPlan,
        clock: Timestamp,
    ) -> Self {
        let latest = || now.replica_sets.iter().max_by_key(|s| s.revision);
        let stable = match (&status.stable_replica_set, &status.originals) {
            (Some(name), _) => Some(name.as_str()),
            (None, Some(_)) => None,
            // Held, the latest may be the new one's, left over from an attempt.
            (None, None) if now.hold.is_some() => now.serving().map(|s| s.name.as_str()),
            (None, None) => latest().map(|s| s.name.as_str()),
        };
        Self {
            target,
            now,
            originals,
            stable,
            known_canary: status.canary_replica_set.as_deref(),
            canary: stage.canary && !now.recreate,
            parts: stage.parts,
            whole: stage.held,
            beside: stage.traffic.as_ref().is_some_and(Traffic::routes),
            clock,
        }
    }

    /// Name of the ReplicaSet of the old images.
    pub fn stable_set(&self) -> Option<&'a str> {
        self.stable
    }

    /// The canary's ReplicaSet: it runs the new images, and of several the Deployment
    /// controller's latest.
    pub fn canary_set(&self) -> Option<&'a Set> {
        self.now
            .replica_sets
            .iter()
            .filter(|s| Some(s.name.as_str()) != self.stable)
            .filter(|s| self.target.images.iter().all(|c| s.runs(&c.container, &c.to)))
            .max_by_key(|s| s.revision)
    }

    /// Pods by side.
    pub fn counts(&self) -> Counts {
        let canary = self.canary_set();
        let name = canary.map(|s| s.name.as_str());
        let others = self.now.replica_sets.iter().filter(|s| Some(s.name.as_str()) != name);
        let (mut stable, mut stable_ready) = (0, 0);
        for set in others {
            stable += set.replicas;
            stable_ready += set.ready;
        }
        let available = self.now.pods.iter().filter(|p| Some(p.set.as_str()) == name);
        let canary_ready = available.filter(|p| {
            p.available_at(self.originals.min_ready_seconds).is_some_and(|t| t <= self.clock)
        });
        Counts {
            stable,
            stable_ready,
            canary: canary.map_or(0, |s| s.replicas),
            canary_ready: i32::try_from(canary_ready.count()).unwrap_or(i32::MAX),
        }
    }

    /// When the next pod of the canary becomes available, if nothing happens to it.
    pub fn next_available(&self) -> Option<Timestamp> {
        let name = self.canary_set()?.name.as_str();
        let times = self
            .now
            .pods
            .iter()
            .filter(|p| p.set == name)
            .filter_map(|p| p.available_at(self.originals.min_ready_seconds));
        times.filter(|t| *t > self.clock).min()
    }

    /// Towards a share. With `rest` the surplus is trimmed and the Deployment paused there.
    pub fn toward(&self, share: Share, rest: bool) -> Move {
        if !self.now.observed {
            return Move::Wait("the Deployment controller has not seen the last write".to_owned());
        }
        let next = match (share.is_full(), self.canary) {
            (_, true) | (true, false) if self.now.hold.is_some() => self.begin(share),
            (true, _) => self.full(),
            (false, true) => self.part(share, rest),
            // Recreate replaces everything at once: nothing happens before the last weight.
            (false, false) => Move::Reached,
        };
        self.without_noise(next)
    }

    fn part(&self, share: Share, rest: bool) -> Move {
        let n = self.now.replicas;
        let k = share.count(n);
        match side(self.target, self.now) {
            Side::Other => Move::Broken(self.changed_under_us()),
            Side::Canary if n == 0 => Move::Write(Write {
                why: "scaled to 0: put the stable template back".to_owned(),
                ..self.abort()
            }),
            Side::Stable if n == 0 && self.now.inflated() => Move::Write(self.abort()),
            Side::Stable if n == 0 => {
                Move::Wait("scaled to 0 replicas: a canary needs pods; scale it up".to_owned())
            }
            Side::Stable if self.now.inflated() => self.lower(k, rest),
            Side::Stable => {
                self.not_startable().map_or_else(|| Move::Write(self.raise(0, k)), Move::Wait)
            }
            Side::Canary if !self.now.inflated() => Move::Broken(self.changed_under_us()),
            Side::Canary => self.hold_at(k, rest),
        }
    }

    /// The template is the canary's and inflated: grow, shrink, or rest.
    fn hold_at(&self, k: i32, rest: bool) -> Move {
        let n = self.now.replicas;
        let c = self.counts();
        if self.third_set() {
            return Move::Broken(self.changed_under_us());
        }
        // Scaling down may have left no stable pod; natively, the next scaling up would then make
        // canary pods only. As at 0, the stable template goes back at once.
        if self.now.settled() && c.stable == 0 && self.surges() {
            let why = "scaling left no stable pod: put the stable template back".to_owned();
            return Move::Write(Write { why, ..self.abort() });
        }
        if !self.beside && self.now.settled() && c.canary > k + law::tolerance(n) {
            return Move::Write(self.begin_lower(c.canary, k));
        }
        let told = n.min(self.now.surge() + self.now.unavailable());
        if !self.now.paused && c.canary < told.min(k) {
            return Move::Wait(format!("{} of {k} canary pods made{}", c.canary, self.failure()));
        }
        if c.canary_ready < c.canary {
            return Move::Wait(format!(
                "{} of {} canary pods available{}",
                c.canary_ready,
                c.canary,
                self.failure()
            ));
        }
        if c.canary < k {
            if !self.now.settled() {
                return Move::Wait(format!(
                    "{} of {k} canary pods made{}",
                    c.canary,
                    self.failure()
                ));
            }
            return Move::Write(self.raise(c.canary, k));
        }
        if rest { self.rest(c) } else { Move::Reached }
    }

    /// Trim the surplus, then pause.
    fn rest(&self, c: Counts) -> Move {
        let n = self.now.replicas;
        let u = law::unavailable_percent(c.canary, n);
        let keep = n - law::share_down(u, n);
        // A canary of all pods before the end keeps its surge: trimming would leave no stable pod.
        if !self.beside && c.stable > keep && c.canary < n {
            let write = self.now.missing(Write {
                paused: Some(false),
                max_surge: Some(law::percent(0)),
                max_unavailable: Some(law::percent(u)),
                why: format!("trim to {keep} stable and {} canary pods", c.canary),
                ..Write::default()
            });
            if write.operations().is_empty() || !self.now.settled() {
                return Move::Wait(format!("{} stable pods, trimming to {keep}", c.stable));
            }
            return Move::Write(write);
        }
        if self.now.paused {
            return Move::Reached;
        }
        let why = format!("rest at {} canary pods of {n}", c.canary);
        Move::Write(Write { paused: Some(true), why, ..Write::default() })
    }

    /// One write up: what is ready replaces stable pods, and the next pods are made.
    fn raise(&self, canary: i32, k: i32) -> Write {
        let n = self.now.replicas;
        let (s, u) = if self.beside { self.more(canary, k) } else { self.knobs(canary, k) };
        let next = n.min(law::share_up(s, n) + law::share_down(u, n));
        Write {
            images: self.images(Side::Canary),
            template: self.template(Side::Canary),
            paused: Some(false),
            why: format!("canary from {canary} to {next} of {n} pods"),
            ..inflated(s, u)
        }
    }

    /// Percentages that keep `have` pods of the incoming side in place of others, and make it grow
    /// towards `want` by no more than the workload's own knobs allow at once.
    fn knobs(&self, have: i32, want: i32) -> (i32, i32) {
        let n = self.now.replicas;
        let surge = law::resolve_surge(self.originals.max_surge.as_ref(), n);
        if surge > 0 {
            let u = law::unavailable_percent(have, n);
            let next = have + surge.min(want - have);
            return (law::surge_percent(next - law::share_down(u, n), n), u);
        }
        let unavailable =
            law::resolve_unavailable(self.originals.max_unavailable.as_ref(), n).max(1);
        let next = have + unavailable.min(want - have);
        (0, (0..=100).find(|p| law::share_down(*p, n) >= next).unwrap_or(100))
    }

    /// The last weight: the native controller finishes by the workload's own knobs, but without
    /// giving up a ready pod where it may surge.
    fn full(&self) -> Move {
        let template = side(self.target, self.now);
        if template == Side::Other || self.third_set() {
            return Move::Broken(self.changed_under_us());
        }
        if template == Side::Stable
            && !self.now.inflated()
            && let Some(why) = self.not_startable()
        {
            return Move::Wait(why);
        }
        if template == Side::Stable && self.canary && self.parts {
            if self.now.replicas == 0 {
                return Move::Wait("scaled to 0 replicas: scale it up to go on".to_owned());
            }
            return Move::Write(self.raise(0, self.now.replicas));
        }
        let write = self.now.missing(self.promote());
        if !write.is_empty() {
            return Move::Write(write);
        }
        if self.now.complete() {
            return Move::Reached;
        }
        Move::Wait(format!(
            "{} of {} pods updated, {} available{}",
            self.now.updated,
            self.now.replicas,
            self.now.available,
            self.failure()
        ))
    }

    fn promote(&self) -> Write {
        let unavailable = if self.surges() {
            Some(law::percent(0))
        } else {
            self.originals.max_unavailable.clone()
        };
        self.native(Side::Canary, unavailable, "promote")
    }

    /// One write that leaves the rest to the native controller: a side's images, and in place the
    /// workload's own fields but for `maxUnavailable`.
    fn native(&self, to: Side, unavailable: Option<IntOrString>, why: &str) -> Write {
        let fields = if self.canary { self.own_fields() } else { Write::default() };
        Write {
            images: self.images(to),
            template: self.template(to),
            paused: Some(false),
            max_unavailable: unavailable.filter(|_| self.canary),
            why: why.to_owned(),
            ..fields
        }
    }

    /// The guarded fields as their owner wrote them.
    fn own_fields(&self) -> Write {
        Write {
            paused: Some(false),
            max_surge: self.originals.max_surge.clone(),
            max_unavailable: self.originals.max_unavailable.clone(),
            min_ready_seconds: Some(self.originals.min_ready_seconds),
            progress_deadline_seconds: self.originals.progress_deadline_seconds,
            ..Write::default()
        }
    }

    /// Whether the workload's own knobs let it make pods on top.
    fn surges(&self) -> bool {
        law::resolve_surge(self.originals.max_surge.as_ref(), self.now.replicas) > 0
    }

    fn images(&self, to: Side) -> Vec<(String, String)> {
        let set = match to {
            Side::Stable => self.stable.and_then(|name| self.now.set(name)),
            _ => self.canary_set(),
        };
        images(self.target, self.now, set, to)
    }

    /// Why it may not be started on now; native rollouts under way are left to finish.
    pub fn not_startable(&self) -> Option<String> {
        if self.now.paused {
            return Some("it is paused (`kubectl rollout resume` it first)".to_owned());
        }
        let w = self.now;
        (!w.complete() || !w.settled()).then(|| {
            format!(
                "its present rollout is not complete: {} of {} pods available",
                w.available, w.replicas
            )
        })
    }

    /// A ReplicaSet that is neither side's has pods, and the controller's revision says that it
    /// is the latest; or the canary's is another than it was and both have pods.
    fn third_set(&self) -> bool {
        let canary = self.canary_set().map(|s| s.name.as_str());
        let known =
            |s: &&Set| Some(s.name.as_str()) == canary || Some(s.name.as_str()) == self.stable;
        let latest = self.now.replica_sets.iter().max_by_key(|s| s.revision);
        let third = canary.is_some() && latest.is_some_and(|s| s.replicas > 0 && !known(&s));
        let before = self.known_canary.filter(|name| Some(*name) != canary);
        third || before.and_then(|name| self.now.set(name)).is_some_and(|s| s.replicas > 0)
    }

    fn changed_under_us(&self) -> String {
        format!("the template or a guarded field of {} was changed by somebody else", self.target)
    }

    fn failure(&self) -> String {
        self.now.replica_failure.as_ref().map(|m| format!("; {m}")).unwrap_or_default()
    }

    /// A write that changes nothing is no write.
    fn without_noise(&self, next: Move) -> Move {
        match next {
            Move::Write(write) => {
                let write = self.now.missing(write);
                if write.is_empty() { Move::Reached } else { Move::Write(write) }
            }
            other => other,
        }
    }
}

impl Drive for Driver<'_> {
    fn stable_set(&self) -> Option<&str> {
        self.stable_set()
    }

    fn canary_set(&self) -> Option<&Set> {
        self.canary_set()
    }

    fn counts(&self) -> Counts {
        self.counts()
    }

    fn next_available(&self) -> Option<Timestamp> {
        self.next_available()
    }

    fn toward(&self, share: Share, rest: bool) -> Move {
        self.toward(share, rest)
    }

    fn alongside(&self, share: Share, rest: bool) -> Move {
        self.alongside(share, rest)
    }

    fn has_room(&self) -> bool {
        self.has_room()
    }

    fn summon(&self) -> Move {
        self.summon()
    }

    fn freeze(&self) -> Move {
        self.freeze()
    }

    fn back(&self) -> Move {
        self.back()
    }

    fn restore(&self) -> Move {
        self.restore()
    }

    fn hold_again(&self) -> Option<Write> {
        Some(self.hold_again())
    }
}

/// The fields that keep new pods from ever becoming Available.
fn inflated(surge: i32, unavailable: i32) -> Write {
    Write {
        max_surge: Some(law::percent(surge)),
        max_unavailable: Some(law::percent(unavailable)),
        min_ready_seconds: Some(law::INFLATED_MIN_READY_SECONDS),
        progress_deadline_seconds: Some(law::INFLATED_PROGRESS_DEADLINE_SECONDS),
        ..Write::default()
    }
}
