//! What answers mean, and what cannot be asked.

use super::*;
use crate::api::status::{Phase, UpgradeStatus};
use crate::api::{Upgrade, UpgradeSpec};
use crate::engine::effect::Effect;
use crate::engine::objects::Resource;
use crate::engine::observed::Observed;
use crate::engine::plan::Plan;
use crate::engine::{Outcome, step};
use serde_json::json;
use std::sync::Arc;

fn check(spec: Value) -> HealthCheck {
    serde_json::from_value(spec).expect("a check")
}

fn http(spec: Value) -> HttpGetCheck {
    serde_json::from_value(spec).expect("a check")
}

#[test]
fn the_defaults_are_those_of_a_pods_probes() {
    let c = check(json!({"name": "a", "tcpSocket": {"port": 1}}));
    let timing = (c.initial_delay_seconds, c.period_seconds, c.timeout_seconds);
    assert_eq!((timing, c.failure_threshold, c.success_threshold), ((0, 10, 1), 3, 1));
}

#[test]
fn what_cannot_be_asked_is_said_before_anything_starts() {
    let wrong = |spec: Value| validate(&[check(spec)]).expect_err("refused").1;
    let pattern = wrong(json!({"name": "a", "logs": {"pattern": "(a"}}));
    assert!(pattern.starts_with("logs.pattern: `(a` is no regular expression"), "{pattern}");
    let huge = wrong(json!({"name": "a", "logs": {"pattern": "(?:\\pL{900}){900}"}}));
    assert!(huge.contains("size limit"), "{huge}");
    let path = |p: &str| {
        json!({"name": "a", "httpGet": {"port": 1,
        "expectedVersion": {"jsonPath": p, "value": "1"}}})
    };
    assert!(wrong(path("$..[")).contains("is no JSONPath"));
    for fine in ["$.version", "{.version}", ".version", "version", "$['a.b'][0]"] {
        assert_eq!(validate(&[check(path(fine))]), Ok(()), "{fine}");
    }
}

#[test]
fn a_status_and_a_version_are_well_or_not() {
    let verdict = |spec: Value, status: i32, body: &str| {
        http_verdict(&http(spec), "http://a", &json!({"status": status, "body": body}))
    };
    for (status, well) in [(199, false), (200, true), (399, true), (400, false), (0, false)] {
        assert_eq!(verdict(json!({"port": 1}), status, "") == Verdict::Well, well, "{status}");
    }
    assert_eq!(verdict(json!({"port": 1, "expectedStatus": 418}), 418, ""), Verdict::Well);
    assert_ne!(verdict(json!({"port": 1, "expectedStatus": 418}), 200, ""), Verdict::Well);
    let version = |value: &str, body: &str| {
        let expected = json!({"jsonPath": "{.b[0].v}", "value": value});
        verdict(json!({"port": 1, "expectedVersion": expected}), 200, body)
    };
    assert_eq!(version("v2", r#"{"b": [{"v": "v2"}]}"#), Verdict::Well);
    assert_eq!(version("2", r#"{"b": [{"v": 2}]}"#), Verdict::Well);
    for bad in ["", "[]", r#"{"b": []}"#, r#"{"b": [{"v": null}]}"#, r#"{"b": [{"v": "v1"}]}"#] {
        assert!(matches!(version("v2", bad), Verdict::Bad(_)), "{bad}");
    }
    let long = format!(r#"{{"b": [{{"v": "{}"}}]}}"#, "x".repeat(5000));
    let Verdict::Bad(why) = version("v2", &long) else { panic!("well") };
    assert!(why.len() < 200, "an answer is cut before it is shown");
}

#[test]
fn a_line_too_many_fails_at_once() {
    let quiet = check(json!({"name": "q", "logs": {"pattern": "ERR", "max": 2}}));
    let question = Question::Logs(LogsQuestion {
        pod: "web-1".to_owned(),
        container: None,
        since: Timestamp::UNIX_EPOCH,
        pattern: "ERR".to_owned(),
        timeout: seconds(1),
    });
    let of = |result| judge(&quiet, &question, &Answer { at: Timestamp::UNIX_EPOCH, result });
    assert_eq!(of(Ok(json!({"lines": 2}))), Verdict::Well);
    assert!(matches!(of(Ok(json!({"lines": 3}))), Verdict::Hopeless(w) if w.contains("3 lines")));
    assert!(matches!(of(Ok(json!({}))), Verdict::Bad(_)), "what cannot be read is not well");
    assert!(matches!(of(Err("gone".to_owned())), Verdict::Bad(_)));
}

/// A stage that asks two pods, and a clock.
struct Bench {
    plan: Plan,
    observed: Observed,
    status: UpgradeStatus,
    now: Timestamp,
}

impl Bench {
    #[expect(clippy::needless_pass_by_value, reason = "a literal reads best")]
    fn new(spec: Value) -> Self {
        let mut health = json!({"name": "up", "httpGet": {"port": 80}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            health[key] = value.clone();
        }
        let spec: UpgradeSpec =
            serde_json::from_value(json!({"stages": [{"name": "verify", "checks":
            {"targets": [{"kind": "Deployment", "name": "web"}], "healthChecks": [health]}}]}))
            .expect("a spec");
        let plan = Plan::new(&Upgrade::new("up", spec)).expect("a plan");
        let object = |v: Value| Arc::new(serde_json::from_value(v).expect("an object"));
        let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        let pod = |name: &str, ip: &str| {
            object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "status": {"phase": "Running", "podIP": ip,
                    "conditions": [{"type": "Ready", "status": "True"}]}}))
        };
        let deployments =
            Resource { api_version: "apps/v1", kind: "Deployment", plural: "deployments" };
        let pods = Resource { api_version: "v1", kind: "Pod", plural: "pods" };
        let objects = [
            (Look::name(deployments, "web"), Sight::Seen(vec![object(web)])),
            (
                Look::labels(pods, "app=web"),
                Sight::Seen(vec![pod("a", "192.0.2.1"), pod("b", "2001:db8::1")]),
            ),
        ];
        let observed = Observed { objects: objects.into(), held: true, ..Observed::default() };
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        Self { plan, observed, status: UpgradeStatus::default(), now }
    }

    fn round(&mut self) -> Outcome {
        let outcome = step(&self.plan, &self.observed, &self.status, self.now);
        self.status = outcome.status.clone();
        outcome
    }

    /// Keys that are asked; each is answered with its status, by the name of the pod.
    fn answer(&mut self, status: impl Fn(&str) -> i32) -> Vec<String> {
        let asked: Vec<_> = self
            .round()
            .effects
            .into_iter()
            .filter_map(|e| {
                if let Effect::Ask { key, question } = e { Some((key, question)) } else { None }
            })
            .collect();
        self.observed.answers.clear();
        for (key, _) in &asked {
            let result = Ok(json!({"status": status(key), "body": ""}));
            self.observed.answers.insert(key.clone(), Answer { at: self.now, result });
        }
        let urls = asked.into_iter().map(|(_, q)| match q {
            Question::Http(h) => h.url,
            other => format!("{other:?}"),
        });
        let urls = urls.collect();
        self.round();
        urls
    }

    fn check(&self) -> CheckStatus {
        self.status.stages[0].health.clone().expect("health").checks.remove(0)
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }
}

#[test]
fn a_round_asks_every_pod_and_passes_when_all_are_well() {
    let mut bench = Bench::new(json!({}));
    let urls = bench.answer(|_| 200);
    assert_eq!(urls, ["http://192.0.2.1:80/", "http://[2001:db8::1]:80/"]);
    assert_eq!(bench.status.phase, Phase::Completed);
}

#[test]
fn one_pod_fails_the_round_and_enough_rounds_in_a_row_fail_the_check() {
    let mut bench = Bench::new(json!({"failureThreshold": 2, "successThreshold": 2}));
    let sick = |key: &str| if key.contains("pod b") { 500 } else { 200 };
    bench.answer(sick);
    assert_eq!((bench.check().failures, bench.check().passes), (1, 0));
    assert!(bench.check().message.starts_with("pod b: GET "), "{:?}", bench.check());
    assert!(bench.answer(sick).is_empty(), "nobody is asked before the period is over");
    bench.later(10);
    bench.answer(|_| 200);
    assert_eq!((bench.check().failures, bench.check().passes), (0, 1), "in a row, not in total");
    for failures in [1, 2] {
        bench.later(10);
        bench.answer(sick);
        assert_eq!(bench.check().failures, failures);
    }
    assert_eq!(bench.status.phase, Phase::RolledBack);
    assert!(bench.status.message.contains("health check up: pod b: "), "{}", bench.status.message);
}

#[test]
fn the_first_round_waits_for_the_initial_delay_and_a_lost_answer_is_asked_again() {
    let mut bench = Bench::new(json!({"initialDelaySeconds": 30}));
    assert!(bench.answer(|_| 200).is_empty());
    let next = bench.status.next_transition_time.clone().expect("a time").0;
    assert_eq!(next, bench.now + SignedDuration::from_secs(30));
    bench.later(30);
    bench.observed.answers.clear();
    let ask = |o: Outcome| o.effects.iter().filter(|e| matches!(e, Effect::Ask { .. })).count();
    assert_eq!(ask(bench.round()), 2);
    assert_eq!(ask(bench.round()), 2, "as a controller that comes after a crash does");
    assert_eq!(bench.check().rounds, 0);
    bench.answer(|_| 200);
    assert_eq!(bench.status.phase, Phase::Completed);
}

#[test]
fn what_is_not_ready_or_not_there_is_not_well() {
    let mut bench = Bench::new(json!({"failureThreshold": 1}));
    for sight in bench.observed.objects.values_mut() {
        *sight = Sight::Seen(vec![]);
    }
    bench.round();
    assert_eq!(bench.status.phase, Phase::RolledBack);
    assert!(bench.status.message.contains("does not exist"), "{}", bench.status.message);
}
