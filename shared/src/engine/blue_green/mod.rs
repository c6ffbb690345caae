//! Blue-green of a Deployment in place, the way there.
//!
//! 1. Our label claims the Deployment; then the active Service is pinned to the old pods' hash.
//! 2. The new template comes with the inflation and a surge of 100 %: all new pods beside all old
//!    ones, and a preview Service for them.
//! 3. Promoted, and with every new pod an endpoint of the preview, the active Service goes to
//!    their hash. It is never pointed at pods that are not Ready.
//! 4. After the delay the guarded fields go back: the native controller takes the old pods away.
//! 5. Both Services are as their owners had them, and then the Deployment is.
//!
//! Every round looks only at what runs and at the status, so that whoever comes after a crash goes
//! on. What carries the switch is [`Walk::turn`] alone: with `trafficRouting` the weights of routes
//! are 0 or 100, and where this says that a Service is pinned or goes somewhere, they are, and do.

mod back;
mod claim;
#[cfg(test)]
mod routed;
pub mod services;
mod switch;
#[cfg(test)]
mod tests;

use super::Walk;
use super::analysis::AnalysisMove;
use super::deployment::Driver;
use super::driver::{Move, Side, side};
use super::observed::{HASH_LABEL, Set, Workload};
use super::plan::{BlueGreenPlan, PlanTarget, Rest, Share, Step, WorkloadsPlan};
use super::stages::StageMove;
use super::stages::workloads::Round;
use crate::api::blue_green::{BlueGreenPhase, BlueGreenStatus};
use crate::api::status::{Originals, TargetPhase, TargetStatus};
use crate::api::traffic::TrafficPhase;
use crate::engine::effect::Write;
use crate::engine::health;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use services::{Found, Service};

/// A point at which an analysis may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The new pods are there, and serve nobody but the preview.
    PrePromotion,
    /// The new pods serve; the old ones are all still there.
    PostPromotion,
}

/// What a round of a target came to.
enum Next {
    /// This was written.
    Wrote(String),
    /// It moves, or something outside has to; a deadline runs.
    Wait(String),
    /// It is where it should be for now; no deadline runs.
    Rest(String),
    /// Somebody changed it under us.
    Broken(String),
    /// An analysis has said no.
    Denied(String),
    /// The Services are as their owners had them.
    Done,
}

/// What a round is about.
struct Flight<'a, 'd> {
    stage: usize,
    target: &'a PlanTarget,
    workload: &'a Workload,
    plan: &'a WorkloadsPlan,
    settings: &'a BlueGreenPlan,
    driver: &'d Driver<'d>,
    originals: &'d Originals,
}

impl Flight<'_, '_> {
    fn stable(&self) -> Option<&Set> {
        self.driver.stable_set().and_then(|name| self.workload.set(name))
    }

    /// Names of the pods of one ReplicaSet.
    fn has(&self, set: Option<&Set>, pod: &str) -> bool {
        let name = set.map(|s| s.name.as_str());
        self.workload.pods.iter().any(|p| p.name == pod && Some(p.set.as_str()) == name)
    }
}

impl<'a> Walk<'a> {
    /// One round of a blue-green stage.
    pub(crate) fn walk_blue_green(
        &mut self,
        stage: usize,
        plan: &'a WorkloadsPlan,
        settings: &'a BlueGreenPlan,
    ) -> StageMove {
        if !self.begun(stage, 1) {
            if self.observed.governance.unjudged {
                // The stage was reached in this round; the next one asks the matrices.
                self.alarms.extend(self.now.checked_add(SignedDuration::from_millis(1)).ok());
                return StageMove::Waiting;
            }
            if !self.may_begin(stage, 0, true) {
                return StageMove::Waiting;
            }
        }
        match self.blue_green(stage, plan, settings) {
            Round::Waiting => {
                let overdue = self.failed(stage, plan, health::deadline);
                overdue.map_or(StageMove::Waiting, StageMove::Failed)
            }
            Round::Broken(why) => StageMove::Failed(why),
            Round::Denied(why) => StageMove::AnalysisFailed(why),
            Round::Reached => self.finish_stage(stage, plan),
        }
    }

    fn blue_green(
        &mut self,
        stage: usize,
        plan: &'a WorkloadsPlan,
        settings: &'a BlueGreenPlan,
    ) -> Round {
        let Some((target, seen, mut status)) = self.target(stage, 0) else {
            return Round::Reached;
        };
        let round = match self.enter(target, seen, &mut status) {
            Err(round) => round,
            Ok(workload) => {
                let before = status.clone();
                let originals = status.originals.clone().unwrap_or_else(|| workload.fields.clone());
                let driver = &Driver::new(target, workload, &originals, &before, plan, self.now);
                self.note_counts(driver, workload, &mut status);
                let originals = &originals;
                let flight = Flight { stage, target, workload, plan, settings, driver, originals };
                let next = self.fly(&flight, &mut status);
                self.note_next(&flight, &before, &mut status, next)
            }
        };
        self.set_target(stage, 0, status);
        round
    }

    /// The book-keeping of a round.
    fn note_next(
        &mut self,
        f: &Flight<'_, '_>,
        before: &TargetStatus,
        status: &mut TargetStatus,
        next: Next,
    ) -> Round {
        let now = || Some(MicroTime(self.now));
        let target = f.target;
        match next {
            Next::Broken(why) => return Round::Broken(why),
            Next::Denied(why) => return Round::Denied(why),
            Next::Done => {
                status.phase = TargetPhase::Restoring;
                status.message.clear();
                return Round::Reached;
            }
            Next::Rest(what) => {
                status.phase = TargetPhase::AtWeight;
                status.message = format!("{target}: {what}");
            }
            Next::Wrote(what) => {
                self.wrote(before, status, format!("{target}: {what}"));
            }
            Next::Wait(what) => {
                let resting = before.phase == TargetPhase::AtWeight;
                if f.workload.replicas == 0 {
                    status.last_progress_time = None;
                } else if status.originals.is_some()
                    && (resting || status.last_progress_time.is_none())
                {
                    status.last_progress_time = now();
                }
                status.phase = TargetPhase::Progressing;
                status.message = format!("{target}: {what}");
                self.alarms.extend(f.driver.next_available());
            }
        }
        Round::Waiting
    }

    /// One round of the way there.
    fn fly(&mut self, f: &Flight<'a, '_>, status: &mut TargetStatus) -> Next {
        // Without originals the write that claims the Deployment has not landed.
        let begun = status.blue_green.clone().filter(|_| status.originals.is_some());
        let active = match self.service(&f.settings.active) {
            Found::Unknown(what) => return Next::Wait(what),
            Found::Here(service) => Some(service),
            Found::Missing => None,
        };
        let Some(mut bg) = begun else {
            return self.claim(f, active, status);
        };
        let next = match active {
            _ if bg.phase == BlueGreenPhase::Restoring => self.restore_services(f, &bg),
            None => {
                let name = &f.settings.active;
                Next::Wait(format!("Service {name} is gone; create it again, or abort"))
            }
            Some(active) => self.travel(f, &mut bg, active),
        };
        self.note_clients(f, &mut bg, active, status);
        status.blue_green = Some(bg);
        next
    }

    /// From pinned to the old pods' end.
    fn travel(
        &mut self,
        f: &Flight<'a, '_>,
        bg: &mut BlueGreenStatus,
        active: Service<'a>,
    ) -> Next {
        if let Some(why) = f.driver.overtaken() {
            return Next::Broken(why);
        }
        if bg.phase > BlueGreenPhase::Preview && side(f.target, f.workload) == Side::Stable {
            // Scaled to nothing meanwhile: the stable template is back, and it starts over.
            bg.phase = BlueGreenPhase::Preview;
            (bg.switched_at, bg.delayed_since) = (None, None);
        }
        let on_new = self.on_new(f, bg, active);
        let goal = Self::goal(f, bg, on_new);
        if let Some(next) = self.turn(f, bg, active, goal.as_deref(), "pin its clients") {
            return next;
        }
        if bg.phase == BlueGreenPhase::Pinning {
            bg.phase = BlueGreenPhase::Preview;
            self.set_traffic_phase(f.stage, TrafficPhase::Splitting);
        }
        let switched = bg.phase >= BlueGreenPhase::Switching && self.on_new(f, bg, active);
        if switched { self.after_switch(f, bg, active) } else { self.before_switch(f, bg, active) }
    }

    /// The hash whose pods clients are to reach now. A side without a pod is never it while the
    /// other has some.
    fn goal(f: &Flight<'_, '_>, bg: &BlueGreenStatus, on_new: bool) -> Option<String> {
        let switched =
            bg.switched_at.is_some() || (bg.phase >= BlueGreenPhase::Switching && on_new);
        let stable = (f.stable(), &bg.stable_hash);
        let new = (f.driver.canary_set(), &bg.new_hash);
        let (first, second) = if switched { (new, stable) } else { (stable, new) };
        let empty = |set: Option<&Set>| set.is_none_or(|s| s.replicas == 0);
        let other = empty(first.0) && second.0.is_some_and(|s| s.ready > 0);
        if other { second.1.clone() } else { first.1.clone() }
    }

    fn before_switch(
        &mut self,
        f: &Flight<'a, '_>,
        bg: &mut BlueGreenStatus,
        active: Service<'a>,
    ) -> Next {
        let n = f.workload.replicas;
        let few = f.settings.preview_replicas.filter(|_| bg.promoted_at.is_none());
        let wanted = few.map_or(n, |k| k.min(n));
        let moved = f.driver.beside(wanted);
        if let Move::Write(write) = moved {
            if side(f.target, f.workload) == Side::Stable {
                bg.phase = BlueGreenPhase::Preview;
            }
            return self.write_workload(f, write);
        }
        if side(f.target, f.workload) == Side::Canary
            && let Some(hash) = f.driver.canary_set().and_then(|s| s.hash.clone())
        {
            bg.new_hash = Some(hash);
            if let Some(next) = self.keep_preview(f, bg, active) {
                return next;
            }
        }
        match moved {
            Move::Wait(what) => return Next::Wait(what),
            Move::Broken(why) => return Next::Broken(why),
            _ => {}
        }
        if let Some(why) = self.unseen(f, &f.settings.preview) {
            return Next::Wait(why);
        }
        if bg.promoted_at.is_none() {
            if let Some(next) = self.unpromoted(f, bg) {
                return next;
            }
            if few.is_some_and(|k| k < n) {
                return self.before_switch(f, bg, active);
            }
        }
        self.switch(f, bg, active)
    }

    /// Waits until an analysis passes and somebody promotes, or the time is up.
    fn unpromoted(&mut self, f: &Flight<'a, '_>, bg: &mut BlueGreenStatus) -> Option<Next> {
        let arrived = bg.phase < BlueGreenPhase::PrePromotion;
        bg.phase = BlueGreenPhase::PrePromotion;
        match self.at_point(f, Point::PrePromotion, arrived) {
            StageMove::Done => {}
            StageMove::Waiting => return Some(Next::Rest("analysis before promotion".to_owned())),
            StageMove::Failed(why) => return Some(Next::Broken(why)),
            StageMove::AnalysisFailed(why) => return Some(Next::Denied(why)),
        }
        let steps = self.plan.stages.get(f.stage).map(super::plan::PlanStage::steps);
        let rest = match steps.and_then(<[Step]>::first) {
            Some(Step::Pause(rest)) => *rest,
            _ => Rest::UntilPromoted,
        };
        if rest != Rest::For(SignedDuration::ZERO) && !self.released(f.stage, 0, rest) {
            let preview = &f.settings.preview;
            return Some(Next::Rest(format!("previewed by Service {preview}")));
        }
        bg.promoted_at = Some(MicroTime(self.now));
        self.status.current_step_index = 1;
        None
    }

    /// The switch, where every gate is open.
    fn switch(
        &mut self,
        f: &Flight<'a, '_>,
        bg: &mut BlueGreenStatus,
        active: Service<'a>,
    ) -> Next {
        if !self.may_begin(f.stage, 1, false) {
            return Next::Rest("waits to be switched".to_owned());
        }
        bg.phase = BlueGreenPhase::Switching;
        let hash = bg.new_hash.clone();
        let next = self.turn(f, bg, active, hash.as_deref(), "switch to the new pods");
        next.unwrap_or_else(|| Next::Wait("switches".to_owned()))
    }

    fn after_switch(
        &mut self,
        f: &Flight<'a, '_>,
        bg: &mut BlueGreenStatus,
        active: Service<'a>,
    ) -> Next {
        if let Some(next) = self.keep_preview(f, bg, active) {
            return next;
        }
        // With nothing scaled up there is nobody to wait for.
        let none = f.workload.replicas == 0;
        if bg.phase == BlueGreenPhase::Switching {
            if f.plan.traffic.is_none()
                && let Some(why) = self.unseen(f, active.name()).filter(|_| !none)
            {
                return Next::Wait(why);
            }
            bg.switched_at = Some(MicroTime(self.now));
            bg.phase = BlueGreenPhase::PostPromotion;
            let what = if f.plan.traffic.is_some() { "routes to Service" } else { "Service" };
            self.event(false, "Switched", format!("{what} {}: to the new pods", active.name()));
        }
        if bg.phase == BlueGreenPhase::PostPromotion {
            let arrived = bg.delayed_since.is_none();
            match self.at_point(f, Point::PostPromotion, arrived) {
                StageMove::Done => {}
                StageMove::Waiting => return Next::Rest("analysis after promotion".to_owned()),
                StageMove::Failed(why) => return Next::Broken(why),
                StageMove::AnalysisFailed(why) => return Next::Denied(why),
            }
            bg.phase = BlueGreenPhase::ScaleDownDelay;
        }
        if bg.phase == BlueGreenPhase::ScaleDownDelay {
            let since = bg.delayed_since.get_or_insert(MicroTime(self.now)).0;
            let end = since.saturating_add(f.settings.delay).unwrap_or(since);
            if self.now < end && !none {
                self.alarms.push(end);
                return Next::Rest(format!(
                    "switched; the old pods stay until {end:.0}, and until then `kubectl upgrade \
                     abort {}` is instant",
                    self.plan.name
                ));
            }
            bg.phase = BlueGreenPhase::Promoting;
        }
        // From here on an abort makes the old pods again first.
        self.set_traffic_phase(f.stage, TrafficPhase::Promoting);
        match f.driver.toward(Share::ALL, false) {
            Move::Write(write) => self.write_workload(f, write),
            // A Deployment's pods are its controller's to delete.
            Move::Wait(what) | Move::Delete(_, what) => Next::Wait(what),
            Move::Broken(why) => Next::Broken(why),
            Move::Reached => {
                bg.phase = BlueGreenPhase::Restoring;
                self.restore_services(f, bg)
            }
        }
    }

    /// Where an analysis is asked before and after the switch: it holds there while the answer is
    /// Waiting. `arrived` says that the point was reached in this round.
    fn at_point(&mut self, f: &Flight<'a, '_>, point: Point, arrived: bool) -> StageMove {
        let stage = self.plan.stages.get(f.stage).map_or("", |s| s.name.as_str());
        let (reason, what, run, asked, at) = match point {
            Point::PrePromotion => {
                let what = "every new pod of the preview is available";
                ("PreviewReady", what, "prePromotion", &f.settings.before, 0)
            }
            Point::PostPromotion => {
                let what = "the new pods serve";
                ("PostPromotion", what, "postPromotion", &f.settings.after, 1)
            }
        };
        if arrived {
            self.event(false, reason, format!("stage {stage}: {what}"));
        }
        let (Some(asked), run) = (asked, format!("{stage}/{run}")) else {
            return StageMove::Done;
        };
        match self.analyse(&run, asked) {
            AnalysisMove::Wait => StageMove::Waiting,
            AnalysisMove::Failed(why) => StageMove::AnalysisFailed(why),
            AnalysisMove::Inconclusive(why) if self.rests_undecided(&run, f.stage, at, &why) => {
                StageMove::Waiting
            }
            // Where it could not say, somebody has gone on past it.
            AnalysisMove::Passed | AnalysisMove::Inconclusive(_) => StageMove::Done,
        }
    }

    /// The preview Service selects the new pods; what is to be done for it, if anything.
    fn keep_preview(
        &mut self,
        f: &Flight<'a, '_>,
        bg: &mut BlueGreenStatus,
        active: Service<'a>,
    ) -> Option<Next> {
        let hash = bg.new_hash.clone()?;
        let name = &f.settings.preview;
        let owner = if f.settings.generated { bg.active.clone() } else { bg.preview.clone() };
        match self.service(name) {
            Found::Unknown(what) => Some(Next::Wait(what)),
            Found::Missing if f.settings.generated => {
                let mut selector = owner.selector;
                selector.insert(HASH_LABEL.to_owned(), hash);
                let of = (f.target.name.as_str(), f.workload);
                let write = active.preview(name, &self.plan.name, of, &selector);
                Some(Next::Wrote(self.write_service(write)))
            }
            Found::Missing => Some(Next::Wait(format!("Service {name} is gone; create it again"))),
            Found::Here(it) if f.settings.generated && !it.is_of(&f.workload.uid) => {
                Some(Next::Broken(format!("Service {name} was made by somebody else meanwhile")))
            }
            Found::Here(it) => {
                let wrote = self.point(it, &owner, Some(&hash), "preview the new pods");
                bg.preview_selector = it.hash();
                wrote.map(Next::Wrote)
            }
        }
    }

    /// Why the endpoints of a Service are not yet all the new pods and no others.
    fn unseen(&mut self, f: &Flight<'a, '_>, service: &str) -> Option<String> {
        let pods = match self.endpoints(service) {
            Ok(pods) => pods,
            Err(why) => return Some(why),
        };
        let canary = f.driver.canary_set();
        let wanted = f.driver.counts().canary;
        let there = pods.iter().filter(|p| f.has(canary, p)).count();
        let there = i32::try_from(there).unwrap_or(i32::MAX);
        let others = pods.iter().any(|p| f.has(f.stable(), p));
        (there < wanted.max(1) || others).then(|| {
            let old = if others { ", and old ones" } else { "" };
            format!("Service {service} has {there} of {wanted} new pods as ready endpoints{old}")
        })
    }

    fn write_workload(&mut self, f: &Flight<'a, '_>, write: Write) -> Next {
        let why = write.why.clone();
        self.patch(f.target, f.workload, write);
        Next::Wrote(why)
    }

    /// The routes and the Services are put back; done when they are.
    fn restore_services(&mut self, f: &Flight<'a, '_>, bg: &BlueGreenStatus) -> Next {
        let routes = self.traffic_away(f.stage, f.plan);
        match routes.or_else(|| self.let_services_go(bg, &f.workload.uid)) {
            None => Next::Done,
            Some(what) => Next::Wait(what),
        }
    }
}
