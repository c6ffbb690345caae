//! What must hold before anything is written: the plan fits what runs, nobody else is on it, and
//! every gate is open. Gates are looked at again before each stage and each step.

use super::analysis::Ready;
use super::checkpoint::Checkpoint;
use super::deployment::{Side, side};
use super::effect::Effect;
use super::observed::Workload;
use super::plan::PlanTarget;
use super::{Walk, plan_error};
use crate::api::status::{Gate, NoticeStatus, Phase};
use crate::api::upgrade::OnConflict;
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
        if let Some((phase, why)) = self.no_longer_held() {
            return self.end(phase, why);
        }
        // What runs now is not what it will start from.
        if self.behind_another() {
            return;
        }
        if let Some(why) = self.unfit() {
            return self.end(Phase::Failed, why);
        }
        match self.analyses_ready() {
            Ready::Yes => {}
            Ready::Never(why) => return self.end(Phase::Failed, why),
            Ready::NotYet(why) => {
                self.status.phase = Phase::Pending;
                self.status.message = why;
                return;
            }
        }
        // What is held carries our label, and that counts more than who came first.
        if let Some(rival) = self.observed.rival.as_ref().filter(|_| !self.plan.held) {
            let why = format!(
                "{} is in Upgrade {} already; wait for it or abort it: `kubectl upgrade abort {}`",
                rival.workload, rival.name, rival.name
            );
            return self.end(Phase::Failed, why);
        }
        if let Some(who) = self.rejected_by() {
            return self.end(Phase::Rejected, format!("rejected by {who}"));
        }
        self.announce();
        let shut = self.look(Checkpoint::START);
        if let Some(shut) = shut {
            let approval = shut.gate == Gate::Approval;
            self.status.phase = if approval { Phase::AwaitingApproval } else { Phase::Pending };
            self.status.message = shut.message;
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

    /// Whether it waits for the end of another Upgrade; one that it supersedes is told to end.
    fn behind_another(&mut self) -> bool {
        let Some(rival) = self.observed.rival.as_ref().filter(|_| !self.plan.held) else {
            return false;
        };
        let name = rival.name.clone();
        let what = match self.plan.on_conflict {
            OnConflict::Reject => return false,
            OnConflict::Queue => "it is queued behind",
            OnConflict::Supersede => {
                self.effects.push(Effect::Abort { name: name.clone() });
                "it supersedes"
            }
        };
        self.status.phase = Phase::Pending;
        self.status.message =
            format!("{what} Upgrade {name}, which has {}, and waits for its end", rival.workload);
        true
    }

    fn start(&mut self) {
        self.status.phase = Phase::Progressing;
        self.status.start_time = Some(MicroTime(self.now));
        self.walk_stages();
    }

    pub(crate) fn end(&mut self, phase: Phase, message: String) {
        self.status.phase = phase;
        self.status.message = message;
        self.status.gates.clear();
        self.status.completion_time = Some(Time(self.now));
        if self.observed.held {
            self.effects.push(Effect::LetGo);
        }
    }

    /// Tells who is to be told, once for each plan; the time runs when everybody was.
    fn announce(&mut self) {
        let Some(wanted) = &self.observed.governance.notice else {
            self.status.notice = None;
            return;
        };
        let known = self.status.notice.take().filter(|n| n.plan_hash == self.plan.hash);
        let first = known.is_none();
        let mut notice = known.unwrap_or_else(|| NoticeStatus {
            plan_hash: self.plan.hash.clone(),
            since: None,
            told: Vec::new(),
        });
        let news = wanted.told.iter().filter(|t| !notice.told.contains(t)).cloned();
        let news: Vec<_> = news.collect();
        notice.told.extend(news);
        let missing: Vec<_> =
            wanted.receivers.iter().filter(|r| !notice.told.contains(r)).cloned().collect();
        if !missing.is_empty() {
            self.effects.push(Effect::Announce { receivers: missing });
        } else if notice.since.is_none() {
            notice.since = Some(MicroTime(self.now));
        }
        self.status.notice = Some(notice);
        if first {
            self.event(false, "Announced", format!("it is going to start: {}", wanted.why));
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
