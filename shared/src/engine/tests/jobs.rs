//! The stage kind `job`.

use crate::api::policy::ApprovalScope;
use crate::api::status::{Activity, JobPhase, Phase, UpgradeStatus};
use crate::api::{Upgrade, UpgradeSpec};
use crate::engine::effect::{Effect, How};
use crate::engine::objects::JOBS;
use crate::engine::objects::{Look, Sight};
use crate::engine::observed::Observed;
use crate::engine::plan::{Plan, PlanError};
use crate::engine::questions::{Answer, Question};
use crate::engine::{Outcome, step};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

struct Bench {
    plan: Plan,
    observed: Observed,
    status: UpgradeStatus,
    now: Timestamp,
    /// The Job as the API server has it.
    job: Option<Value>,
}

fn upgrade(job: &Value) -> Upgrade {
    let spec: UpgradeSpec =
        serde_json::from_value(json!({"stages": [{"name": "migrate", "job": job}]})).expect("spec");
    let mut upgrade = Upgrade::new("web.v2", spec);
    upgrade.metadata.namespace = Some("shop".into());
    upgrade.metadata.uid = Some("u-1".into());
    upgrade
}

impl Bench {
    fn new() -> Self {
        let plan = Plan::new(&upgrade(&json!({"image": "migrate:2"}))).expect("a plan");
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        let observed = Observed { held: true, ..Observed::default() };
        Self { plan, observed, status: UpgradeStatus::default(), now, job: None }
    }

    /// A round on what the API server has, and what it makes of the effects.
    fn round(&mut self) -> Outcome {
        let outcome = step(&self.plan, &self.observed, &self.status, self.now);
        self.status = outcome.status.clone();
        self.observed.answers.clear();
        for effect in &outcome.effects {
            match effect {
                Effect::Ask { key, question } => {
                    let result = match question {
                        Question::Live { .. } => {
                            Ok(self.job.as_ref().map_or(Value::Null, |_| json!("j-1")))
                        }
                        _ => Ok(json!({})),
                    };
                    self.observed.answers.insert(key.clone(), Answer { at: self.now, result });
                }
                Effect::Write(write) => match &write.how {
                    How::Create(object) => {
                        let mut object = object.clone();
                        object["metadata"]["uid"] = json!("j-1");
                        self.job = Some(object);
                    }
                    How::Delete(uid) => {
                        assert_eq!(uid, "j-1");
                        self.job = None;
                    }
                    How::Patch(_) => panic!("a Job is never patched"),
                },
                _ => {}
            }
        }
        if let Some(name) = self.status.stages.first().and_then(|s| s.job.as_ref()) {
            let look = Look::name(JOBS, name.name.clone());
            let seen = self.job.clone().filter(|j| j["metadata"]["name"] == json!(name.name));
            let seen = seen.map(|j| Arc::new(serde_json::from_value(j).expect("an object")));
            self.observed.objects.insert(look, Sight::Seen(seen.into_iter().collect()));
        }
        outcome
    }

    fn rounds(&mut self, n: usize) {
        for _ in 0..n {
            self.round();
        }
    }

    fn ends(&mut self, kind: &str) {
        let condition = json!({"type": kind, "status": "True", "reason": "R", "message": "M"});
        self.job.as_mut().expect("a Job")["status"] = json!({"conditions": [condition]});
        self.rounds(2);
    }

    fn phase(&self) -> JobPhase {
        self.status.stages[0].job.as_ref().expect("a Job").phase
    }
}

#[test]
fn it_is_made_once_and_remembered_when_it_is_gone() {
    let mut bench = Bench::new();
    bench.rounds(5);
    let job = bench.job.clone().expect("it was made");
    assert_eq!(
        (bench.phase(), bench.status.activity),
        (JobPhase::Running, Some(Activity::Migrating))
    );
    let meta = &job["metadata"];
    let labels =
        json!({"app": "web.v2", "type": "migration", "kubectl-upgrade.dev/upgrade": "web.v2"});
    assert_eq!(meta["labels"], labels);
    let name = meta["name"].as_str().expect("a name");
    assert!(name.starts_with("web-v2-migrate-") && name.len() <= 63, "{name}");
    let spec = &job["spec"];
    let limits = ["backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"];
    assert_eq!(limits.map(|f| spec[f].as_i64()), [Some(0), Some(1800), Some(300)]);
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Never");
    assert!(
        spec["template"].get("metadata").is_none(),
        "no label by which a Service finds its pods"
    );
    bench.ends("Complete");
    assert_eq!((bench.phase(), bench.status.phase), (JobPhase::Succeeded, Phase::Completed));
}

#[test]
fn its_failure_is_the_upgrades_and_a_retry_makes_another() {
    let mut bench = Bench::new();
    bench.rounds(5);
    let first = bench.job.clone().expect("a Job")["metadata"]["name"].clone();
    bench.ends("Failed");
    assert_eq!(bench.status.phase, Phase::RolledBack);
    for part in ["failed (R: M)", "kubectl logs job/", "nothing was deployed"] {
        assert!(bench.status.message.contains(part), "{}", bench.status.message);
    }
    (bench.plan.retry, bench.job) = (1, None);
    bench.rounds(5);
    let second = bench.job.clone().expect("another")["metadata"]["name"].clone();
    assert_ne!(first, second);
    bench.ends("Complete");
    assert_eq!(bench.status.phase, Phase::Completed);
}

#[test]
fn what_runs_is_taken_away_and_what_has_run_is_not_undone() {
    let mut bench = Bench::new();
    bench.rounds(5);
    bench.plan.abort = true;
    bench.rounds(3);
    assert_eq!((bench.status.phase, bench.phase()), (Phase::Aborted, JobPhase::Deleted));
    assert!(bench.job.is_none());

    // Aborted before the watch tells of it: it is not forgotten.
    let mut bench = Bench::new();
    bench.rounds(3);
    assert!(bench.job.is_some() && bench.phase() == JobPhase::Pending);
    for sight in bench.observed.objects.values_mut() {
        *sight = Sight::Seen(vec![]);
    }
    bench.plan.abort = true;
    bench.rounds(4);
    assert_eq!((bench.status.phase, bench.job.is_some()), (Phase::Aborted, false));
}

#[test]
fn one_that_is_gone_before_its_end_was_seen_is_no_success() {
    let mut bench = Bench::new();
    bench.rounds(5);
    bench.job = None;
    bench.rounds(2);
    assert_eq!(bench.status.phase, Phase::RolledBack);
    assert!(bench.status.message.contains("deleted before its end was seen"));
}

#[test]
fn one_of_the_same_name_that_is_not_ours_is_no_success_either() {
    let mut bench = Bench::new();
    bench.rounds(5);
    let job = bench.job.as_mut().expect("a Job");
    job["metadata"]["ownerReferences"][0]["uid"] = json!("somebody");
    bench.ends("Complete");
    assert_eq!(bench.status.phase, Phase::RolledBack);
    assert!(bench.status.message.contains("none of ours"), "{}", bench.status.message);
}

#[test]
fn it_waits_for_approval_like_everything_else() {
    for per in [ApprovalScope::Upgrade, ApprovalScope::Stage, ApprovalScope::Step] {
        let mut bench = Bench::new();
        bench.observed.governance.approvals.required = 1;
        bench.observed.governance.approvals.per = per;
        bench.rounds(4);
        assert_eq!(bench.status.phase, Phase::AwaitingApproval, "{per:?}");
        assert!(bench.job.is_none());
        bench.now += SignedDuration::from_hours(1);
        bench.rounds(4);
        assert!(bench.job.is_none());
    }
}

#[test]
fn a_template_that_is_none_is_refused_by_name() {
    let plan = |job: Value| Plan::new(&upgrade(&job)).map(drop);
    assert!(matches!(plan(json!({"template": {"spec": 5}})), Err(PlanError::Job(0, _))));
    assert!(matches!(plan(json!({})), Err(PlanError::Job(0, _))));
    let fine = json!({"template": {"spec": {"containers": [{"name": "a", "image": "a:1"}]}}});
    assert_eq!(plan(fine), Ok(()));
}
