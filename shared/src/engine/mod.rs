//! How an Upgrade moves: `step(plan, observed, status, now) -> (status, effects)`.
//!
//! One pure function. The status it returns is written before any of the effects is performed: it
//! is the write-ahead log. Nothing is remembered anywhere else, so whoever comes after a crash
//! goes on from what is written and what runs.
//!
//! | file | idea |
//! |---|---|
//! | [`plan`] | the spec, read once |
//! | [`observed`] | what runs |
//! | [`objects`], [`questions`] | what else is looked at, and what only the world outside can answer |
//! | [`gates`] | what must hold before anything is written |
//! | [`governance`], `checkpoint` | what others ask for, and where on the walk it is looked at |
//! | `analysis` | metrics: at a step, beside the steps, around a promotion |
//! | [`stages`] | one file a stage kind |
//! | [`traffic`] | what routers and Services carry of a canary |
//! | [`blue_green`] | new pods beside the old ones, and a Service that is switched |
//! | [`separate`] | a canary that is a Deployment of its own |
//! | [`driver`] | what every driver of a workload can say and do |
//! | [`deployment`], [`stateful_set`], [`daemon_set`] | from where one is to where it should be |
//! | `revised` | what the last two share: controller revisions |
//! | [`managed`] | steps that make routes of their own |
//! | [`steps`] | the steps of a canary, and how many pods each asks for |
//! | `exact` | weights that whole pods cannot express, where a policy lets none be rounded |
//! | [`law`] | the arithmetic of surge and unavailable |
//! | [`checks`] | what is asked of what runs, and what the answers mean |
//! | [`health`] | what counts as failure |
//! | [`rollback`] | the way back |
//! | `hold` | Upgrades that mode `Hold` opened |
//! | `notifications` | who is told |
//! | [`effect`] | what the controller is asked to do |

pub(crate) mod analysis;
pub mod blue_green;
mod checkpoint;
pub mod checks;
pub mod conditions;
pub mod daemon_set;
pub mod deployment;
pub mod driver;
pub mod effect;
mod exact;
pub mod gates;
pub mod governance;
pub mod health;
mod hold;
pub mod law;
pub mod managed;
mod notifications;
pub mod objects;
pub mod observed;
pub mod plan;
pub mod questions;
mod revised;
pub mod rollback;
pub mod separate;
pub mod stages;
pub mod stateful_set;
pub mod steps;
pub mod traffic;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use crate::api::status::{Activity, Phase, TargetPhase, TargetStatus, UpgradeStatus};
use effect::{Effect, Event};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use objects::{Look, Sight};
use observed::Observed;
use plan::{Plan, StageKind};
use questions::{Answer, Question};

/// What is to be written and done.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The status to write first, where it differs from the present one.
    pub status: UpgradeStatus,
    /// What to do then, in this order; the first failure ends the round.
    pub effects: Vec<Effect>,
    /// A gate was found open in this round: what was observed of policies, windows and matrices
    /// must not be older than the round.
    pub passes: bool,
}

/// One round: where the Upgrade is now, and what is to be done about it.
pub fn step(plan: &Plan, observed: &Observed, before: &UpgradeStatus, now: Timestamp) -> Outcome {
    let observed = &*separate::with_canaries(plan, observed);
    let mut walk = Walk {
        plan,
        observed,
        now,
        status: before.clone(),
        effects: vec![],
        alarms: vec![],
        passes: false,
    };
    walk.header();
    walk.look_at_canaries();
    walk.run();
    walk.finish(before)
}

/// One round under way.
pub(crate) struct Walk<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) observed: &'a Observed,
    pub(crate) now: Timestamp,
    pub(crate) status: UpgradeStatus,
    pub(crate) effects: Vec<Effect>,
    /// Times at which something changes by itself.
    pub(crate) alarms: Vec<Timestamp>,
    /// Every gate of a checkpoint was open.
    pub(crate) passes: bool,
}

impl<'a> Walk<'a> {
    fn header(&mut self) {
        self.status.observed_generation = self.observed.generation;
        self.status.activity = None;
        self.status.plan_hash.clone_from(&self.plan.hash);
        self.status.requester.clone_from(&self.plan.requester);
        self.status.target_version.clone_from(&self.plan.to);
        if self.status.current_version.is_none() {
            self.status.current_version.clone_from(&self.plan.from);
        }
    }

    fn run(&mut self) {
        if self.observed.deleting {
            return self.deleting();
        }
        match self.status.phase {
            Phase::Pending | Phase::AwaitingApproval => self.gate(),
            Phase::Progressing | Phase::Paused => self.advance(),
            Phase::Degraded => self.degraded(),
            Phase::RollingBack => self.roll_back(),
            Phase::Completed => self.let_go(),
            Phase::RolledBack | Phase::Aborted | Phase::Rejected | Phase::Failed => self.ended(),
        }
    }

    /// Deleting an Upgrade in flight takes it back first; our finalizer waits for that.
    fn deleting(&mut self) {
        if self.status.phase.is_in_flight() {
            if self.status.phase != Phase::RollingBack {
                self.begin_rollback("the Upgrade was deleted".to_owned());
            }
            self.roll_back();
        } else {
            self.let_go();
        }
    }

    fn advance(&mut self) {
        if let Some((phase, why)) = self.held_meanwhile() {
            return self.end(phase, why);
        }
        if self.plan.abort {
            self.begin_rollback("aborted".to_owned());
            return self.roll_back();
        }
        if self.plan.paused {
            return self.hold_still();
        }
        self.resume();
        if let Some(who) = self.rejected_by() {
            self.begin_rollback(format!("rejected by {who}"));
            return self.roll_back();
        }
        if self.overrun() {
            return;
        }
        if let Some(why) = self.timed_out() {
            return self.fail(why);
        }
        self.status.phase = Phase::Progressing;
        self.walk_stages();
    }

    fn walk_stages(&mut self) {
        loop {
            let index = usize::try_from(self.status.current_stage_index).unwrap_or(0);
            let Some(stage) = self.plan.stages.get(index) else {
                return self.complete();
            };
            let moved = match &stage.kind {
                StageKind::Workloads(plan) => {
                    self.status.activity = Some(Activity::Deploying);
                    self.walk_workloads(index, plan)
                }
                StageKind::Job(plan) => self.walk_job(index, plan),
                StageKind::Checks(plan) => self.walk_checks(index, plan),
            };
            match moved {
                stages::StageMove::Waiting => return,
                stages::StageMove::Failed(why) => return self.fail(why),
                stages::StageMove::AnalysisFailed(why) => {
                    return self.fail_or_stand(why, self.plan.rollback_on_analysis);
                }
                stages::StageMove::Done => {
                    self.event(false, "StageCompleted", format!("stage {} is done", stage.name));
                    self.status.last_successful_stage = Some(stage.name.clone());
                    self.status.current_stage_index += 1;
                    self.status.current_step_index = 0;
                }
            }
        }
    }

    /// `spec.paused`: every workload stands still where it is, and no clock runs.
    fn hold_still(&mut self) {
        if self.status.held_since.is_none() {
            self.status.held_since = Some(MicroTime(self.now));
        }
        self.status.phase = Phase::Paused;
        self.status.message =
            "paused by spec.paused; `kubectl upgrade resume` goes on from here".to_owned();
        self.freeze_workloads();
    }

    fn resume(&mut self) {
        if let Some(since) = self.status.held_since.take() {
            self.shift_analyses(self.now.duration_since(since.0));
            // A pause step that went on meanwhile counts its own time.
            if self.status.pause_start_time.is_none() {
                self.status.paused_seconds += seconds_between(since.0, self.now);
            }
            self.touch_progress();
        }
    }

    /// Deadlines start anew: they leave pauses out.
    pub(crate) fn touch_progress(&mut self) {
        let now = MicroTime(self.now);
        for target in self.status.stages.iter_mut().flat_map(|s| &mut s.targets) {
            if target.last_progress_time.is_some() {
                target.last_progress_time = Some(now.clone());
            }
        }
    }

    fn timed_out(&mut self) -> Option<String> {
        let (timeout, start) = (self.plan.timeout?, self.status.start_time.as_ref()?.0);
        if self.status.pause_start_time.is_some()
            || self.status.waiting_since.is_some()
            || self.status.window_shut_since.is_some()
        {
            return None;
        }
        let paused = SignedDuration::from_secs(self.status.paused_seconds);
        let end = start.saturating_add(timeout.saturating_add(paused)).ok()?;
        if self.now >= end {
            return Some(format!("not done within onTimeout of {timeout:#}"));
        }
        self.alarms.push(end);
        None
    }

    fn complete(&mut self) {
        self.status.phase = Phase::Completed;
        self.status.message = "every workload runs the new images".to_owned();
        self.status.gates.clear();
        self.status.current_version.clone_from(&self.plan.to);
        self.status.completion_time = Some(Time(self.now));
        self.status.canary_weight = 100;
        self.let_go();
    }

    /// A failure: back, where the Upgrade says so; otherwise nothing moves until somebody decides.
    pub(crate) fn fail(&mut self, why: String) {
        self.fail_or_stand(why, self.plan.rollback_on_failure);
    }

    fn fail_or_stand(&mut self, why: String, back: bool) {
        if back {
            self.begin_rollback(why);
            return self.roll_back();
        }
        self.effects.retain(|e| !e.moves());
        self.stop_analyses();
        self.status.phase = Phase::Degraded;
        self.status.rollback_reason = Some(why.clone());
        self.status.message =
            format!("{why}; `kubectl upgrade abort` takes it back, `retry` starts it over");
        self.freeze_workloads();
    }

    fn degraded(&mut self) {
        if self.plan.abort || self.plan.retry > self.status.attempt {
            let why = if self.plan.abort { "aborted" } else { "started over" };
            self.begin_rollback(why.to_owned());
            return self.roll_back();
        }
        self.freeze_workloads();
    }

    /// Nothing of ours is left to put back.
    fn let_go(&mut self) {
        if self.observed.held {
            self.effects.push(Effect::LetGo);
        }
    }

    fn ended(&mut self) {
        if self.plan.retry > self.status.attempt && !self.plan.abort {
            let fresh = UpgradeStatus {
                attempt: self.plan.retry,
                used_approvals: self.spent_approvals(),
                notifications: std::mem::take(&mut self.status.notifications),
                conditions: std::mem::take(&mut self.status.conditions),
                ..UpgradeStatus::default()
            };
            self.status = fresh;
            self.header();
            self.event(false, "Retried", format!("attempt {}", self.plan.retry));
            return self.gate();
        }
        self.let_go();
    }

    /// What is known of some objects; what is not looked at yet, is from now on.
    pub(crate) fn see(&mut self, look: &Look) -> Option<&'a Sight> {
        let watch = Effect::Watch(look.clone());
        if !self.effects.contains(&watch) {
            self.effects.push(watch);
        }
        self.observed.objects.get(look)
    }

    /// The answer to a question, once there is one; see [`questions`] for what a key is.
    pub(crate) fn ask(&mut self, key: &str, question: Question) -> Option<&'a Answer> {
        self.effects.push(Effect::Ask { key: key.to_owned(), question });
        self.observed.answers.get(key)
    }

    pub(crate) fn event(&mut self, warning: bool, reason: &'static str, note: String) {
        self.effects.push(Effect::Event(Event { warning, reason, note }));
    }

    fn finish(mut self, before: &UpgradeStatus) -> Outcome {
        self.summarize();
        self.tell_activity(before);
        let phase = self.status.phase;
        self.alarms.retain(|t| *t > self.now);
        let next = self.alarms.iter().min().copied().filter(|_| !phase.is_terminal());
        self.status.next_transition_time = next.map(|t| Time(whole_seconds_up(t)));
        conditions::update(&mut self.status, self.now);
        // Before anything else: what is deleted from now on waits until all is put back.
        if phase.is_in_flight() && !self.observed.held && !self.observed.deleting {
            self.effects.insert(0, Effect::Hold);
        }
        self.notify(before.phase);
        if phase != before.phase {
            let warning = matches!(
                phase,
                Phase::Degraded | Phase::RollingBack | Phase::RolledBack | Phase::Failed
            );
            let note = if self.status.message.is_empty() {
                phase.to_string()
            } else {
                self.status.message.clone()
            };
            self.effects.insert(0, Effect::Event(Event { warning, reason: phase.as_str(), note }));
        }
        // What is looked at now and then is nothing to announce.
        let again = self.observed.look_again.filter(|_| !phase.is_terminal());
        if let Some(at) = [next, again].into_iter().flatten().min() {
            self.effects.push(Effect::RequeueAt(at));
        }
        Outcome { status: self.status, effects: self.effects, passes: self.passes }
    }

    /// What the table shows.
    fn summarize(&mut self) {
        let index = usize::try_from(self.status.current_stage_index).unwrap_or(0);
        let shown = index.min(self.plan.stages.len().saturating_sub(1));
        if let Some(stage) = self.plan.stages.get(shown) {
            self.status.stage =
                Some(format!("{}/{} {}", shown + 1, self.plan.stages.len(), stage.name));
            self.status.current_step_hash = Some(stage.step_hash.clone());
        }
        if self.status.phase != Phase::Completed {
            let targets =
                self.status.stages.get(shown).map(|s| s.targets.as_slice()).unwrap_or_default();
            let canary = targets.iter().map(|t| t.canary).sum();
            let stable = targets.iter().map(|t| t.stable).sum();
            // What clients see, where a Service decides it.
            let switched = targets.iter().find(|t| t.blue_green.is_some());
            self.status.canary_weight = switched
                .map_or_else(|| law::effective_weight(canary, stable), |t| t.effective_weight);
        }
        if self.status.phase == Phase::Progressing {
            self.status.message = self.progress_message(shown);
        } else if self.status.phase == Phase::Paused {
            let drift = self.drift_message(shown);
            self.status.message.push_str(&drift);
        }
        self.say_window(shown);
    }

    /// Why it goes straight to the end of a stage, where it does.
    fn say_window(&mut self, stage: usize) {
        let status = &mut self.status;
        let window = status.stages.get(stage).and_then(|s| s.rollback_window.as_ref());
        if let (Some(why), Phase::Progressing | Phase::Paused) = (window, status.phase) {
            let join = if status.message.is_empty() { "" } else { "; " };
            status.message = format!("{}{join}{why}", status.message);
        }
    }

    /// A rest says what came up new by itself meanwhile, and which step changed nothing.
    fn drift_message(&self, stage: usize) -> String {
        let targets = self.status.stages.get(stage).into_iter().flat_map(|s| &s.targets);
        let said = |t: &TargetStatus| match t.phase {
            TargetPhase::AtWeight => Some(t.message.clone()).filter(|m| !m.is_empty()),
            _ => (t.drift > 0).then(|| stages::drift(t)),
        };
        let all: Vec<String> = targets.filter_map(said).collect();
        if all.is_empty() { String::new() } else { format!("; {}", all.join("; ")) }
    }

    /// One event where it begins to do something else.
    fn tell_activity(&mut self, before: &UpgradeStatus) {
        if self.status.phase != Phase::Progressing {
            self.status.activity = None;
        }
        let Some(activity) = self.status.activity.filter(|a| before.activity != Some(*a)) else {
            return;
        };
        let stage = self.status.stage.clone().unwrap_or_default();
        self.event(false, activity.as_str(), format!("stage {stage}"));
    }

    fn progress_message(&self, stage: usize) -> String {
        let waiting: Vec<String> = self
            .status
            .stages
            .get(stage)
            .into_iter()
            .flat_map(|s| &s.targets)
            .filter(|t| t.phase != TargetPhase::Completed && !t.message.is_empty())
            .map(|t| t.message.clone())
            .chain(self.analysis_messages())
            .collect();
        if let (Some(word), []) = (self.status.stages.get(stage), waiting.as_slice()) {
            return word.waits_for().unwrap_or_default();
        }
        match waiting.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
        }
    }
}

/// Whole seconds from one time to another, none if it lies behind.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs().max(0)
}

/// `metav1.Time` has seconds only; a time that is announced may not be too early.
fn whole_seconds_up(time: Timestamp) -> Timestamp {
    let up = i64::from(time.subsec_nanosecond() > 0);
    Timestamp::from_second(time.as_second() + up).unwrap_or(time)
}

/// A plan that does not fit what runs.
pub(crate) fn plan_error(target: &plan::PlanTarget, what: &str) -> String {
    format!("{target}: {what}; nothing of it was touched; make an Upgrade from what runs")
}
