//! Analyses on the walk: what a canary does at a step whose metrics say yes, no or nothing.

use super::Bench;
use crate::api::analysis_run::{AnalysisPhase, AnalysisRunStatus};
use crate::api::status::Phase;
use crate::engine::analysis::TEMPLATES;
use crate::engine::effect::{Effect, How};
use crate::engine::model::Native;
use crate::engine::objects::{Look, Sight};
use crate::engine::questions::{Answer, Question};
use jiff::SignedDuration;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::sync::Arc;

fn prometheus(more: &Value) -> Value {
    let mut metric = json!({"name": "rate", "successCondition": "result[0] >= 0.9",
        "provider": {"prometheus": {"address": "http://prometheus:9090", "query": "rate"}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        metric[key] = value.clone();
    }
    metric
}

fn object(template: &Value) -> Arc<DynamicObject> {
    Arc::new(serde_json::from_value(template.clone()).expect("an object"))
}

fn template(metrics: &Value) -> Value {
    json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "AnalysisTemplate",
        "metadata": {"name": "t"}, "spec": {"metrics": metrics}})
}

/// A canary of 10 % with an analysis, and the template of it.
fn bench(metrics: &Value) -> Bench {
    let steps = json!([{"setWeight": 10}, {"analysis": {"templates": [{"templateName": "t"}]}}]);
    with(metrics, &json!({"steps": steps}))
}

fn with(metrics: &Value, canary: &Value) -> Bench {
    let mut bench = Bench::with(Native::new(10, "25%", "25%"), &json!({ "canary": canary }));
    bench.show(&template(metrics));
    bench
}

impl Bench {
    pub(super) fn show(&mut self, template: &Value) {
        let look = Look::name(TEMPLATES, "t");
        self.objects.insert(look, Sight::Seen(vec![object(template)]));
    }

    /// Answers whatever is asked, once.
    fn answer(&mut self, result: &Result<Value, String>) {
        for (key, _) in std::mem::take(&mut self.asked) {
            let answer = Answer { at: self.now, result: result.clone() };
            self.answers.insert(key, answer);
        }
        self.run();
    }

    fn samples(&mut self, samples: &[&str]) {
        let result: Vec<Value> = samples.iter().map(|s| json!({"value": [0, s]})).collect();
        let body = json!({"data": {"resultType": "vector", "result": result}});
        self.answer(&Ok(json!({"status": 200, "body": body.to_string()})));
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.run();
    }

    fn analysis(&self) -> &AnalysisRunStatus {
        self.status.analysis_runs.last().expect("a run")
    }
}

#[test]
fn a_step_waits_for_its_metrics_and_goes_on_when_they_say_yes() {
    let mut bench = bench(&json!([prometheus(&json!({"interval": "30s", "count": 2}))]));
    assert_eq!(bench.run(), Phase::Progressing);
    assert_eq!((bench.pods(), bench.native.paused), ((9, 1), true), "rests at its weight");
    assert_eq!(bench.asked.len(), 1, "{:?}", bench.asked);
    let Question::Request(request) = &bench.asked[0].1 else { panic!("no request") };
    assert_eq!(request.url, "http://prometheus:9090/api/v1/query");
    bench.samples(&["0.95"]);
    assert!(bench.status.message.contains("rate 1/2"), "{}", bench.status.message);
    assert!(bench.asked.is_empty(), "the next one is due later");
    bench.wait(29);
    assert!(bench.asked.is_empty());
    bench.wait(1);
    bench.samples(&["0.99"]);
    assert_eq!(bench.status.phase, Phase::Completed);
    assert_eq!(bench.analysis().phase, AnalysisPhase::Successful);
    assert_eq!(bench.analysis().metrics[0].measurements[1].value, "[0.99]");
    bench.untouched();
}

#[test]
fn a_step_whose_metrics_say_no_takes_the_upgrade_back_unless_told_otherwise() {
    for back in [true, false] {
        let mut bench = bench(&json!([prometheus(&json!({}))]));
        bench.plan.rollback_on_analysis = back;
        bench.run();
        bench.samples(&["0.5"]);
        let phase = if back { Phase::RolledBack } else { Phase::Degraded };
        assert_eq!(bench.status.phase, phase, "{}", bench.status.message);
        let why = "analysis web/step-1: metric rate: 1 failed, failureLimit is 0; measured [0.5]";
        assert!(bench.status.message.contains(why), "{}", bench.status.message);
        assert_eq!(bench.status.current_step_index, 1);
        if back {
            bench.untouched();
        }
    }
}

#[test]
fn without_data_it_passes_fails_rests_or_waits_as_no_data_says() {
    for (no_data, phase) in [
        (json!("pass"), Phase::Completed),
        (json!("fail"), Phase::RolledBack),
        (json!("inconclusive"), Phase::Paused),
        (json!("wait"), Phase::Progressing),
        (Value::Null, Phase::Paused),
    ] {
        for samples in [&[][..], &["NaN"][..]] {
            let mut bench = bench(&json!([prometheus(&json!({"noData": no_data}))]));
            bench.run();
            bench.samples(samples);
            assert_eq!(bench.status.phase, phase, "{no_data} {}", bench.status.message);
            if phase == Phase::Progressing {
                bench.wait(10);
                bench.samples(&["1"]);
                assert_eq!(bench.status.phase, Phase::Completed);
            }
            if phase == Phase::Paused {
                assert!(bench.status.message.contains("kubectl upgrade promote up"));
                bench.wait(100_000);
                assert_eq!(bench.status.phase, Phase::Paused, "until somebody decides");
                bench.promote();
                assert_eq!(bench.run(), Phase::Completed);
                assert!(bench.analysis().overruled);
                assert!(bench.status.paused_seconds >= 100_000);
            }
        }
    }
}

#[test]
fn errors_are_tried_again_after_ten_seconds_and_are_a_no_in_the_end() {
    let mut bench = bench(&json!([prometheus(&json!({"interval": "5m", "count": 3}))]));
    bench.run();
    for n in 1..=5 {
        assert_eq!(bench.asked.len(), 1, "measurement {n}");
        bench.answer(&Err("http://prometheus:9090: Connection refused".to_owned()));
        bench.wait(10);
    }
    assert_eq!(bench.status.phase, Phase::RolledBack, "{}", bench.status.message);
    let why = "5 errors in a row, consecutiveErrorLimit is 4: http://prometheus:9090: Connection";
    assert!(bench.status.message.contains(why), "{}", bench.status.message);
    bench.untouched();
}

#[test]
fn what_runs_beside_the_steps_takes_it_back_at_any_of_them_and_ends_with_them() {
    let beside = json!({"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}],
        "analysis": {"templates": [{"templateName": "t"}], "startingStep": 2}});
    let metrics = json!([prometheus(&json!({"interval": "10s", "failureLimit": 1}))]);
    let mut bench = with(&metrics, &beside);
    assert_eq!(bench.run(), Phase::Paused);
    assert!(bench.asked.is_empty(), "it begins with step 2");
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    bench.samples(&["1"]);
    bench.wait(10);
    bench.samples(&["0.1"]);
    assert_eq!(bench.status.phase, Phase::Paused, "one failure is borne");
    let mut other = with(&metrics, &beside);
    other.status = bench.status.clone();
    (other.native, other.now, other.held) = (bench.native.clone(), bench.now, bench.held);
    other.promote();
    assert_eq!(other.run(), Phase::Completed);
    assert_eq!(other.analysis().message, "ended with the steps");
    bench.wait(10);
    bench.samples(&["0.1"]);
    assert_eq!(bench.status.phase, Phase::RolledBack, "{}", bench.status.message);
    bench.untouched();
}

#[test]
fn the_clock_of_an_analysis_stops_while_everything_is_paused() {
    let metrics =
        json!([prometheus(&json!({"interval": "60s", "count": 2, "initialDelay": "60s"}))]);
    let mut bench = bench(&metrics);
    bench.run();
    bench.wait(30);
    bench.plan.paused = true;
    bench.wait(0);
    bench.wait(1000);
    bench.plan.paused = false;
    bench.wait(0);
    assert!(bench.asked.is_empty(), "half a minute is left");
    bench.wait(29);
    assert!(bench.asked.is_empty());
    bench.wait(1);
    assert_eq!(bench.asked.len(), 1);
}

#[test]
fn a_template_that_is_missing_or_wrong_refuses_the_start_and_a_changed_one_is_said() {
    let metrics = json!([prometheus(&json!({"interval": "60s", "count": 2}))]);
    let mut missing = bench(&metrics);
    missing.objects.insert(Look::name(TEMPLATES, "t"), Sight::Seen(vec![]));
    assert_eq!(missing.run(), Phase::Failed);
    assert!(missing.status.message.contains("AnalysisTemplate t does not exist"));
    assert_eq!(missing.native.spec_writes, 0);

    for (metric, says) in [
        (
            json!({"successCondition": "results[0] > 1"}),
            "metric rate: successCondition: `results` is unknown; the measured value is `result` at character 1",
        ),
        (json!({"interval": "10s"}), "metric rate has an interval and no count"),
        (json!({"interval": "soon"}), "metric rate: interval: `soon` is no duration"),
        (
            json!({"successCondition": "result[0] > {{args.least}}"}),
            "`{{args.least}}` is no argument",
        ),
    ] {
        let mut wrong = bench(&json!([prometheus(&metric)]));
        assert_eq!(wrong.run(), Phase::Failed, "{metric}");
        assert!(wrong.status.message.contains(says), "{}", wrong.status.message);
    }

    let mut bench = bench(&metrics);
    bench.run();
    bench.samples(&["1"]);
    bench.show(&template(&json!([prometheus(&json!({"noData": "pass"}))])));
    bench.wait(60);
    assert_eq!(bench.status.phase, Phase::Paused);
    assert!(bench.status.message.contains("AnalysisTemplate t was changed"));
    assert!(bench.asked.is_empty(), "nothing is measured by another template");
    bench.show(&template(&metrics));
    bench.wait(0);
    bench.samples(&["1"]);
    assert_eq!(bench.status.phase, Phase::Completed, "put back, it goes on");
}

#[test]
fn a_share_of_failures_over_the_threshold_is_a_no_whatever_each_metric_bears() {
    let metrics = json!([prometheus(&json!({"interval": "1s", "count": 100, "failureLimit": 50}))]);
    let mut bench = bench(&metrics);
    bench.plan.error_threshold = Some(20);
    bench.run();
    for good in ["0", "1", "1", "1"] {
        bench.samples(&[good]);
        assert_eq!(bench.status.phase, Phase::Progressing, "1 of 4 are too few to say");
        bench.wait(1);
    }
    bench.samples(&["0"]);
    assert_eq!(bench.status.phase, Phase::RolledBack);
    assert!(
        bench.status.message.contains("2 of 5 measurements failed"),
        "{}",
        bench.status.message
    );
}

#[test]
fn a_job_is_made_once_and_judged_by_how_it_ends() {
    let job = json!([{"name": "smoke", "provider": {"job": {"spec": {"template": {}}}}}]);
    for (condition, phase) in [("Complete", Phase::Completed), ("Failed", Phase::RolledBack)] {
        let mut bench = bench(&job);
        bench.run();
        let looks: Vec<_> = bench.looks.iter().filter(|l| l.resource.kind == "Job").collect();
        let jobs = looks[0].clone();
        bench.objects.insert(jobs.clone(), Sight::Seen(vec![]));
        bench.wait(0);
        let Some(Effect::Write(write)) = bench.writes.first().cloned() else { panic!("no Job") };
        let How::Create(mut made) = write.how else { panic!("not made: {write:?}") };
        assert_eq!(made["metadata"]["labels"]["kubectl-upgrade.dev/analysis-of"], "up");
        made["status"] = json!({"conditions": [{"type": condition, "status": "True"}]});
        bench.objects.insert(jobs, Sight::Seen(vec![object(&made)]));
        assert_eq!(bench.run(), phase, "{}", bench.status.message);
    }
}
