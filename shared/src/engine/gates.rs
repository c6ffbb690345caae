//! What must hold before anything is written: the plan fits what runs, nobody else is on it, and
//! the people that the policy asks for have agreed.

use super::deployment::{Side, side};
use super::effect::Effect;
use super::observed::Workload;
use super::plan::PlanTarget;
use super::{Walk, plan_error};
use crate::api::approval::Decision;
use crate::api::status::{ApprovalCount, Phase};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// How long a workload may come after its Upgrade.
const ARRIVAL: SignedDuration = SignedDuration::from_secs(3);

impl Walk<'_> {
    /// From seen to started.
    pub(crate) fn gate(&mut self) {
        if self.plan.abort {
            return self.end(Phase::Aborted, "aborted before anything was touched".to_owned());
        }
        if let Some(until) = self.not_seen_yet() {
            self.alarms.push(until);
            self.status.phase = Phase::Pending;
            self.status.message = "waits for a workload that is not there yet".to_owned();
            return;
        }
        if let Some(why) = self.unfit() {
            return self.end(Phase::Failed, why);
        }
        if let Some(rival) = &self.observed.rival {
            let why = format!(
                "{} is in Upgrade {} already; wait for it or abort it: `kubectl upgrade abort {}`",
                rival.workload, rival.name, rival.name
            );
            return self.end(Phase::Failed, why);
        }
        let count = self.count_approvals();
        let missing = count.required - i32::try_from(count.approved_by.len()).unwrap_or(i32::MAX);
        let rejected = count.rejected_by.clone();
        self.status.approvals = Some(count);
        if let Some(who) = rejected {
            return self.end(Phase::Rejected, format!("rejected by {who}"));
        }
        if missing > 0 {
            self.status.phase = Phase::AwaitingApproval;
            self.status.message = format!(
                "needs {missing} more approval(s) by somebody other than the requester: `kubectl upgrade approve {}`",
                self.plan.name
            );
            return;
        }
        if self.plan.paused {
            self.status.phase = Phase::Pending;
            self.status.message =
                "paused by spec.paused before it began; `kubectl upgrade resume` starts it"
                    .to_owned();
            return;
        }
        self.start();
    }

    fn start(&mut self) {
        self.status.phase = Phase::Progressing;
        self.status.start_time = Some(MicroTime(self.now));
        self.walk_stages();
    }

    pub(crate) fn end(&mut self, phase: Phase, message: String) {
        self.status.phase = phase;
        self.status.message = message;
        self.status.completion_time = Some(Time(self.now));
        if self.observed.held {
            self.effects.push(Effect::LetGo);
        }
    }

    /// Until when a missing workload may still come: the one watch may be ahead of the other, and
    /// `kubectl apply` may have made both in one go.
    fn not_seen_yet(&self) -> Option<Timestamp> {
        let missing = self.observed.workloads.iter().flatten().any(Option::is_none);
        let until = self.observed.created?.saturating_add(ARRIVAL).ok()?;
        (missing && until > self.now).then_some(until)
    }

    /// Why the plan does not fit what runs; checked before anything is touched.
    fn unfit(&self) -> Option<String> {
        let seen = self.observed.workloads.iter().flatten();
        self.plan.targets().zip(seen).find_map(|((_, t), w)| unfit_target(t, w.as_ref()))
    }

    /// Approvals that count: of this plan, by different people, none of them the requester.
    fn count_approvals(&self) -> ApprovalCount {
        let requester = self.plan.requester.as_ref().map(|r| r.username.as_str());
        let mut count = ApprovalCount {
            required: self.observed.required_approvals,
            ..ApprovalCount::default()
        };
        let mut approvals: Vec<_> = self.observed.approvals.iter().collect();
        approvals.sort_by_key(|a| {
            a.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |t| t.0)
        });
        for approval in approvals {
            let spec = &approval.spec;
            let Some(who) = spec.approver.as_ref().map(|a| a.username.clone()) else {
                continue;
            };
            if spec.plan_hash != self.plan.hash {
                continue;
            }
            match spec.decision {
                Decision::Rejected => count.rejected_by = count.rejected_by.or(Some(who)),
                Decision::Approved if Some(who.as_str()) == requester => {}
                Decision::Approved if count.approved_by.contains(&who) => {}
                Decision::Approved => count.approved_by.push(who),
            }
        }
        count
    }
}

/// Why a target cannot be brought from its `from` images to its `to` images.
fn unfit_target(target: &PlanTarget, workload: Option<&Workload>) -> Option<String> {
    let Some(workload) = workload else {
        return Some(format!("{target} does not exist; nothing was touched"));
    };
    for change in &target.images {
        if workload.container(&change.container).is_none() {
            let names: Vec<_> = workload.containers.iter().map(|c| c.name.as_str()).collect();
            return Some(format!(
                "{target} has no container {}; it has {}; nothing was touched",
                change.container,
                names.join(", ")
            ));
        }
    }
    if side(target, workload) == Side::Other {
        let runs = target.images.iter().find_map(|c| {
            let now = workload.container(&c.container)?;
            (!crate::image::same(&now.image, &c.from))
                .then(|| format!("container {} runs {} and not {}", c.container, now.image, c.from))
        });
        return Some(plan_error(target, &runs.unwrap_or_default()));
    }
    None
}
