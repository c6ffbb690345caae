//! Gates at one point of the walk: the start, a stage, a step.

use super::Walk;
use super::governance::Door;
use super::plan::{StageKind, Step};
use crate::api::UpgradeApproval;
use crate::api::approval::Decision;
use crate::api::policy::ApprovalScope;
use crate::api::status::{ApprovalCount, Gate, GateStatus, Phase};
use crate::api::upgrade::WindowOverrun;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// A point of the walk at which gates are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The stage that is to begin, or is under way.
    pub(crate) stage: usize,
    /// The step that is to begin.
    pub(crate) step: usize,
    /// No weight of the stage was begun yet.
    pub(crate) begins_stage: bool,
    /// Nothing was written yet.
    pub(crate) start: bool,
}

impl Checkpoint {
    /// Before the first write.
    pub(crate) const START: Self = Self { stage: 0, step: 0, begins_stage: true, start: true };
}

impl Walk<'_> {
    /// Looks at every gate of a checkpoint, notes them all, and gives the first that is shut.
    pub(crate) fn look(&mut self, at: Checkpoint) -> Option<GateStatus> {
        let mut gates = Vec::new();
        if at.start {
            gates.extend(self.violation());
        }
        gates.extend(self.inexact(at));
        gates.extend(self.approval(at));
        if at.start {
            gates.extend(self.not_before());
            gates.extend(self.notice());
        }
        let governance = &self.observed.governance;
        gates.extend(door(Gate::Window, &governance.window));
        if at.begins_stage {
            gates.extend(door(Gate::Matrix, &governance.compatibility));
        }
        self.alarms.extend(gates.iter().filter_map(|g| g.next.as_ref()).map(|t| t.0));
        let shut = gates.iter().find(|g| !g.open).cloned();
        self.status.gates = gates;
        self.passes |= shut.is_none();
        shut
    }

    /// Whether a step may begin. Where it may not, the Upgrade says why and rests.
    pub(crate) fn may_begin(&mut self, stage: usize, step: usize, begins_stage: bool) -> bool {
        if stage == 0 && step == 0 {
            return true; // looked at on the way from seen to started
        }
        let Some(shut) = self.look(Checkpoint { stage, step, begins_stage, start: false }) else {
            self.gate_opened();
            return true;
        };
        self.status.phase = Phase::Paused;
        self.status.message = shut.message;
        if self.status.waiting_since.is_none() && self.status.pause_start_time.is_none() {
            self.status.waiting_since = Some(MicroTime(self.now));
        }
        false
    }

    /// What becomes of an Upgrade under way whose window has shut: true where the round is over.
    pub(crate) fn overrun(&mut self) -> bool {
        let Door::Shut { why, next } = &self.observed.governance.window else {
            self.alarms.extend(match &self.observed.governance.window {
                Door::Open { until, .. } => *until,
                Door::Shut { .. } => None,
            });
            if let Some(since) = self.status.window_shut_since.take() {
                self.shift_analyses(self.now.duration_since(since.0));
                self.status.paused_seconds += super::seconds_between(since.0, self.now);
                self.touch_progress();
            }
            return false;
        };
        match self.plan.overrun {
            WindowOverrun::FinishStep => false,
            WindowOverrun::Pause => {
                if self.status.window_shut_since.is_none() {
                    self.status.window_shut_since = Some(MicroTime(self.now));
                }
                self.alarms.extend(*next);
                self.status.phase = Phase::Paused;
                self.status.message = format!("{why}; it goes on when the window opens");
                self.status.gates =
                    door(Gate::Window, &self.observed.governance.window).into_iter().collect();
                self.freeze_workloads();
                true
            }
            WindowOverrun::Rollback => {
                self.begin_rollback(why.clone());
                self.roll_back();
                true
            }
        }
    }

    /// Time spent waiting at a gate is no time of the upgrade's own.
    fn gate_opened(&mut self) {
        if let Some(since) = self.status.waiting_since.take() {
            self.status.paused_seconds += super::seconds_between(since.0, self.now);
            self.touch_progress();
        }
    }

    /// Whether somebody who may rejected this plan.
    pub(crate) fn rejected_by(&self) -> Option<String> {
        let rejected = |a: &&UpgradeApproval| {
            a.spec.decision == Decision::Rejected && a.spec.plan_hash == self.plan.hash
        };
        let found = self.observed.approvals.iter().find(rejected)?;
        found.spec.approver.as_ref().map(|a| a.username.clone())
    }

    fn violation(&self) -> Option<GateStatus> {
        let why = self.observed.governance.violation.clone()?;
        Some(GateStatus { gate: Gate::Policy, open: false, message: why, next: None })
    }

    fn not_before(&self) -> Option<GateStatus> {
        let at = self.plan.not_before?;
        let open = self.now >= at;
        let message = if open {
            format!("it was not to start before {at:.0}")
        } else {
            format!("it starts at {at:.0} at the earliest (spec.notBefore)")
        };
        let next = (!open).then_some(Time(at));
        Some(GateStatus { gate: Gate::NotBefore, open, message, next })
    }

    fn notice(&self) -> Option<GateStatus> {
        let wanted = self.observed.governance.notice.as_ref()?;
        let since = self.status.notice.as_ref().and_then(|n| n.since.as_ref());
        let gate = |open, message, next| GateStatus { gate: Gate::Notice, open, message, next };
        let Some(since) = since else {
            let receivers = wanted.receivers.join(", ");
            return Some(gate(
                false,
                format!("{}; not everybody of {receivers} has been told yet", wanted.why),
                None,
            ));
        };
        let Ok(end) = since.0.saturating_add(wanted.length) else {
            return Some(gate(false, wanted.why.clone(), None));
        };
        if self.now >= end {
            return Some(gate(true, format!("{}; announced {:.0}", wanted.why, since.0), None));
        }
        let message =
            format!("{}; announced {:.0}, so it starts after {end:.0}", wanted.why, since.0);
        Some(gate(false, message, Some(Time(end))))
    }

    /// The people whose word this checkpoint needs.
    fn approval(&mut self, at: Checkpoint) -> Option<GateStatus> {
        let wanted = &self.observed.governance.approvals;
        if wanted.required <= 0 {
            return None;
        }
        let stage = self.plan.stages.get(at.stage)?;
        // A step that is a pause changes nothing: the next weight is what is approved. A stage
        // without steps is one as a whole.
        let weight = || stage.steps().iter().skip(at.step).position(Step::moves);
        let step = match &stage.kind {
            StageKind::Workloads(_) => weight().map(|n| n + at.step)?,
            StageKind::Job(_) => 0,
            StageKind::Checks(_) if wanted.per == ApprovalScope::Upgrade => 0,
            StageKind::Checks(_) => return None,
        };
        let scope = match wanted.per {
            ApprovalScope::Upgrade if !at.start => return None,
            ApprovalScope::Stage if !at.begins_stage => return None,
            ApprovalScope::Upgrade => (None, None),
            ApprovalScope::Stage => (Some(stage.name.clone()), None),
            ApprovalScope::Step => (Some(stage.name.clone()), i32::try_from(step).ok()),
        };
        Some(self.word(&scope, at.stage))
    }

    /// Somebody's word on a pause that waits for it, whatever the policies ask for.
    pub(crate) fn approved_step(&mut self, stage: usize, step: usize) -> GateStatus {
        let name = self.plan.stages.get(stage).map(|s| s.name.clone());
        self.word(&(name, i32::try_from(step).ok()), stage)
    }

    /// Whether everybody has said yes to one step whose word it takes.
    pub(crate) fn step_is_approved(&self, stage: usize, step: usize) -> bool {
        let name = self.plan.stages.get(stage).map(|s| s.name.clone());
        let (count, _) = self.count_approvals(&(name, i32::try_from(step).ok()), stage);
        i32::try_from(count.approved_by.len()).is_ok_and(|n| n >= count.required)
    }

    fn word(&mut self, scope: &(Option<String>, Option<i32>), stage: usize) -> GateStatus {
        let (count, until) = self.count_approvals(scope, stage);
        let missing = count.required - i32::try_from(count.approved_by.len()).unwrap_or(i32::MAX);
        let open = missing <= 0;
        let by = count.approved_by.join(", ");
        let message =
            if open { format!("approved by {by}") } else { needs(missing, &self.plan.name, scope) };
        self.status.approvals = Some(count);
        // What expires before it is used has to be asked for again.
        self.alarms.extend(until);
        GateStatus { gate: Gate::Approval, open, message, next: None }
    }

    /// Approvals that count for a scope, by different people, none of them the requester; and when
    /// the first of them expires.
    fn count_approvals(
        &self,
        scope: &(Option<String>, Option<i32>),
        stage: usize,
    ) -> (ApprovalCount, Option<Timestamp>) {
        let wanted = &self.observed.governance.approvals;
        let requester = self.plan.requester.as_ref().map(|r| r.username.as_str());
        // Who asks for a word asks for one at least.
        let required = wanted.required.max(1);
        let mut count = ApprovalCount { required, ..ApprovalCount::default() };
        let mut until: Option<Timestamp> = None;
        let mut approvals: Vec<_> = self.observed.approvals.iter().collect();
        approvals.sort_by_key(|a| created(a).unwrap_or(Timestamp::MAX));
        for approval in approvals {
            let spec = &approval.spec;
            let Some(who) = &spec.approver else { continue };
            let used = approval.metadata.uid.as_ref();
            let counts = spec.plan_hash == self.plan.hash
                && spec.decision == Decision::Approved
                && (&spec.stage, &spec.step) == (&scope.0, &scope.1)
                && Some(who.username.as_str()) != requester
                && !count.approved_by.contains(&who.username)
                && !used.is_some_and(|uid| self.status.used_approvals.contains(uid))
                && wanted
                    .approvers
                    .iter()
                    .filter(|(of, _)| scope.0.is_none() || *of == stage)
                    .all(|(_, people)| people.include(who));
            if !counts {
                continue;
            }
            if let Some(life) = wanted.expires_after {
                // A time that is not known has passed.
                let end = created(approval).and_then(|t| t.saturating_add(life).ok());
                let Some(end) = end.filter(|e| *e > self.now) else { continue };
                until = Some(until.map_or(end, |u| u.min(end)));
            }
            count.approved_by.push(who.username.clone());
        }
        (count, until)
    }

    /// What an attempt leaves behind for the next: the approvals it has used up.
    pub(crate) fn spent_approvals(&self) -> Vec<String> {
        if !self.observed.governance.approvals.single_use {
            return Vec::new();
        }
        let seen = self.observed.approvals.iter().filter_map(|a| a.metadata.uid.clone());
        seen.collect()
    }
}

fn created(approval: &UpgradeApproval) -> Option<Timestamp> {
    approval.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

/// "needs 1 more approval by somebody other than the requester: …".
fn needs(missing: i32, name: &str, scope: &(Option<String>, Option<i32>)) -> String {
    let (what, flags) = match scope {
        (Some(stage), Some(step)) => {
            (format!(" of step {step} of stage {stage}"), format!(" --stage {stage} --step {step}"))
        }
        (Some(stage), None) => (format!(" of stage {stage}"), format!(" --stage {stage}")),
        _ => (String::new(), String::new()),
    };
    format!(
        "needs {missing} more approval(s){what} by somebody other than the requester: \
         `kubectl upgrade approve {name}{flags}`"
    )
}

/// A door as a gate; one that cannot shut is none.
fn door(gate: Gate, door: &Door) -> Option<GateStatus> {
    let (open, message, next) = match door {
        Door::Open { why: None, until: None } => return None,
        Door::Open { why, until } => {
            let why = why.clone().unwrap_or_else(|| "open".to_owned());
            (true, why, *until)
        }
        Door::Shut { why, next } => (false, why.clone(), *next),
    };
    Some(GateStatus { gate, open, message, next: next.map(Time) })
}
