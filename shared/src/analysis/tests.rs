//! Argo Rollouts' rules, row by row: which measurements make which phase.

use super::args::{Arg, Args};
use super::assess::{metric as assess, note, over_threshold, run};
use super::condition::Value;
use super::source::Source;
use super::template::{Metric, Verdict, arguments, check, compile};
use crate::api::analysis::{AnalysisRef, AnalysisTemplateSpec};
use crate::api::analysis_run::{AnalysisPhase as Phase, AnalysisRunStatus, MetricStatus};
use crate::engine::questions::Question;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn spec(more: &Json) -> AnalysisTemplateSpec {
    let mut metric = json!({"name": "m", "provider": {"web": {"url": "http://a"}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        metric[key] = value.clone();
    }
    serde_json::from_value(json!({"metrics": [metric]})).expect("a spec")
}

fn compiled(more: &Json) -> Result<Metric, String> {
    let spec = spec(more);
    compile(&[("t", &spec)], &AnalysisRef::default(), &Args::new()).map(|mut m| m.remove(0))
}

/// The phase after measurements: s(uccess), f(ailure), i(nconclusive), e(rror), w(ait).
fn after(metric: &Metric, measured: &str) -> Phase {
    let mut status = MetricStatus::default();
    for c in measured.chars() {
        let is = |phase| Verdict::Is(phase, String::new());
        let verdict = match c {
            's' => is(Phase::Successful),
            'f' => is(Phase::Failed),
            'i' => is(Phase::Inconclusive),
            'e' => is(Phase::Error),
            _ => Verdict::Wait,
        };
        assert!(!status.phase.is_over(), "{measured} is over before its end");
        note(metric, &mut status, verdict, "1", Timestamp::UNIX_EPOCH);
        status.phase = assess(metric, &status, false).0;
    }
    status.phase
}

#[test]
fn measurements_make_the_phases_that_they_make_there() {
    let every = json!({"interval": "1m"});
    let with = |more: Json| {
        let mut all = every.clone();
        more.as_object().into_iter().flatten().for_each(|(k, v)| all[k] = v.clone());
        all
    };
    let rows = [
        // Once where nothing is said; an error is not counted and tried again.
        (json!({}), "s", Phase::Successful),
        (json!({}), "f", Phase::Failed),
        (json!({}), "i", Phase::Inconclusive),
        (json!({}), "eeees", Phase::Successful),
        (json!({}), "eeeee", Phase::Error),
        // An interval alone has no end.
        (every.clone(), "sssssssssssss", Phase::Running),
        (every.clone(), "sssf", Phase::Failed),
        (with(json!({"count": 3})), "sss", Phase::Successful),
        (with(json!({"count": "3"})), "ss", Phase::Running),
        // Over the limit, not at it.
        (with(json!({"count": 4, "failureLimit": 1})), "fsss", Phase::Successful),
        (with(json!({"count": 4, "failureLimit": 1})), "ff", Phase::Failed),
        (with(json!({"count": 3, "inconclusiveLimit": 2})), "iis", Phase::Successful),
        (with(json!({"count": 3, "inconclusiveLimit": 1})), "ii", Phase::Inconclusive),
        (with(json!({"consecutiveErrorLimit": 1})), "esesese", Phase::Running),
        (with(json!({"consecutiveErrorLimit": 1})), "see", Phase::Error),
        (with(json!({"consecutiveErrorLimit": 0})), "e", Phase::Error),
        // Successes in a row.
        (
            with(json!({"consecutiveSuccessLimit": 3, "failureLimit": -1})),
            "ssfsss",
            Phase::Successful,
        ),
        (with(json!({"consecutiveSuccessLimit": 3, "failureLimit": -1})), "sefsfs", Phase::Running),
        (
            with(json!({"count": 3, "consecutiveSuccessLimit": 3, "failureLimit": -1})),
            "sfs",
            Phase::Failed,
        ),
        (
            with(json!({"count": 3, "consecutiveSuccessLimit": 3, "failureLimit": 2})),
            "sfs",
            Phase::Inconclusive,
        ),
        // Ours: what waits for data is not counted.
        (with(json!({"count": 2})), "wwwwws", Phase::Running),
        (with(json!({"count": 2})), "swwwws", Phase::Successful),
    ];
    for (metric, measured, phase) in rows {
        assert_eq!(after(&compiled(&metric).unwrap(), measured), phase, "{metric} {measured}");
    }
}

#[test]
fn values_are_judged_as_they_are_there() {
    let (yes, no) = ("result > 1", "result < 0");
    let rows = [
        (None, None, 5.0, Phase::Successful),
        (Some(yes), None, 5.0, Phase::Successful),
        (Some(yes), None, 1.0, Phase::Failed),
        (None, Some(no), 1.0, Phase::Successful),
        (None, Some(no), -1.0, Phase::Failed),
        (Some(yes), Some(no), 5.0, Phase::Successful),
        (Some(yes), Some(no), -1.0, Phase::Failed),
        (Some(yes), Some(no), 0.5, Phase::Inconclusive),
        (Some("result > 1"), Some("result > 2"), 3.0, Phase::Failed),
        (Some("result[0] > 1"), None, 3.0, Phase::Error),
    ];
    for (success, failure, value, phase) in rows {
        let metric = compiled(&json!({"successCondition": success, "failureCondition": failure}));
        let Verdict::Is(is, why) = metric.unwrap().judge(&Value::Number(value)) else {
            panic!("it waits")
        };
        assert_eq!(is, phase, "{success:?} {failure:?} {value}: {why}");
    }
}

#[test]
fn the_first_no_ends_the_analysis_and_dry_runs_decide_nothing() {
    let spec: AnalysisTemplateSpec = serde_json::from_value(json!({
        "metrics": [
            {"name": "good", "interval": "1m", "count": 9, "provider": {"web": {"url": "http://a"}}},
            {"name": "bad", "provider": {"web": {"url": "http://a"}}}],
        "measurementRetention": [{"metricName": ".*o.*", "limit": 3}]}))
    .unwrap();
    for (dry, phase) in [(&[][..], Phase::Failed), (&["^ba.*"][..], Phase::Running)] {
        let dry: Vec<_> = dry.iter().map(|d| json!({"metricName": d})).collect();
        let asked: AnalysisRef =
            serde_json::from_value(json!({"templates": [], "dryRun": dry})).unwrap();
        let metrics = compile(&[("t", &spec)], &asked, &Args::new()).unwrap();
        assert_eq!((metrics[0].retention, metrics[1].retention), (3, 10));
        let named = |m: &Metric| MetricStatus {
            name: m.name.clone(),
            dry_run: m.dry_run,
            ..MetricStatus::default()
        };
        let mut status = AnalysisRunStatus {
            metrics: metrics.iter().map(named).collect(),
            ..AnalysisRunStatus::default()
        };
        for _ in 0..5 {
            let yes = Verdict::Is(Phase::Successful, String::new());
            note(&metrics[0], &mut status.metrics[0], yes, "1", Timestamp::UNIX_EPOCH);
        }
        assert_eq!(status.metrics[0].measurements.len(), 3);
        let no = Verdict::Is(Phase::Failed, "it is 500".to_owned());
        note(&metrics[1], &mut status.metrics[1], no, "0", Timestamp::UNIX_EPOCH);
        run(&metrics, &mut status, false, Timestamp::UNIX_EPOCH);
        assert_eq!(status.phase, phase, "{}", status.message);
    }
}

#[test]
fn what_cannot_be_measured_by_is_said() {
    for (metric, says) in [
        (json!({"count": 2}), "a count over 1 needs one"),
        (json!({"interval": "1ms"}), "the shortest is 1s"),
        (json!({"interval": "1m", "count": 2, "failureLimit": 3}), "3 can never be passed"),
        (json!({"failureLimit": -1}), "-1 needs a consecutiveSuccessLimit"),
        (json!({"count": "many"}), "`many` is no whole number"),
        (json!({"consecutiveErrorLimit": -1}), "-1; it is at least 0"),
        (json!({"provider": {}}), "needs exactly one of"),
        (json!({"provider": {"web": {"url": "ftp://a"}}}), "`ftp://a` is no URL"),
        (
            json!({"provider": {"web": {"url": "http://a", "jsonPath": "{..a}"}}}),
            "`..` is not known",
        ),
        (
            json!({"provider": {"prometheus": {"address": "http://a", "query": "b",
            "rangeQuery": {"start": "yesterday", "end": "now()", "step": "1m"}}}}),
            "`yesterday` is not known",
        ),
    ] {
        let error = compiled(&metric).expect_err("refused");
        assert!(error.contains(says), "{metric}: {error}");
        assert!(error.starts_with("AnalysisTemplate t: metric m: "), "{error}");
    }
    let open = spec(&json!({"interval": "{{args.every}}", "count": "{{args.n}}",
        "successCondition": "result < {{args.most}} && result != '{{args.not}}'"}));
    let named = |name: &str| serde_json::from_value(json!({ "name": name })).unwrap();
    let args = ["every", "n", "most", "not"].map(named).to_vec();
    assert_eq!(check(&AnalysisTemplateSpec { args, ..open.clone() }), Ok(()));
    assert!(check(&open).is_err_and(|e| e.contains("no argument of the template")));
}

#[test]
fn arguments_are_given_by_the_upgrade_else_by_a_template() {
    let a: AnalysisTemplateSpec = serde_json::from_value(
        json!({"metrics": [], "args": [{"name": "x"}, {"name": "y", "value": "1"}]}),
    )
    .unwrap();
    let b: AnalysisTemplateSpec =
        serde_json::from_value(json!({"metrics": [], "args": [{"name": "y", "value": "2"}]}))
            .unwrap();
    let asked = |args: Json| -> AnalysisRef {
        serde_json::from_value(json!({"templates": [], "args": args})).unwrap()
    };
    let said = |templates: &[(&str, &AnalysisTemplateSpec)], args| {
        arguments(templates, &asked(args)).map(|a| a.len()).unwrap_err()
    };
    assert!(said(&[("a", &a)], json!([])).contains("nobody gives argument x"));
    let both = [("a", &a), ("b", &b)];
    let x = json!({"name": "x", "value": "0"});
    assert!(said(&both, json!([x])).contains("y has different values"));
    let z = json!({"name": "z", "value": "0"});
    assert!(said(&[("a", &a)], json!([x, z])).contains("no template has an argument z"));
    let given = asked(json!([x, {"name": "y", "value": "3"}]));
    assert_eq!(arguments(&both, &given).map(|a| a.len()).ok(), Some(2));
}

#[test]
fn answers_of_prometheus_become_lists_and_numbers() {
    let provider =
        serde_json::from_value(json!({"prometheus": {"address": "http://p", "query": "up"}}))
            .unwrap();
    let source = Source::new(&provider).unwrap();
    let body = |kind: &str, result: Json| {
        let body = json!({"data": {"resultType": kind, "result": result}}).to_string();
        source.value(&json!({"status": 200, "body": body}))
    };
    let numbers = |all: &[f64]| Value::List(all.iter().map(|n| Value::Number(*n)).collect());
    let vector = json!([{"value": [1, "0.5"]}, {"value": [1, "+Inf"]}]);
    assert_eq!(body("vector", vector), Ok(numbers(&[0.5, f64::INFINITY])));
    let matrix = json!([{"values": [[1, "1"], [2, "2"]]}, {"values": [[1, "3"]]}]);
    assert_eq!(body("matrix", matrix), Ok(numbers(&[1.0, 2.0, 3.0])));
    assert_eq!(body("scalar", json!([1, "7"])), Ok(Value::Number(7.0)));
    assert!(body("string", json!([1, "x"])).is_err());
    let refused = json!({"status": 400, "body": json!({"error": "parse error"}).to_string()});
    assert!(source.value(&refused).is_err_and(|e| e.contains("status 400: parse error")));
    assert!(source.value(&json!({"status": 302, "body": ""})).is_err());
    assert!(source.value(&json!({"status": 200, "body": "<html>"})).is_err());
    let Some(Question::Request(asked)) = source.question(Timestamp::UNIX_EPOCH) else {
        panic!("no request")
    };
    assert_eq!((asked.url.as_str(), asked.form), ("http://p/api/v1/query", true));
}

#[test]
fn a_secret_may_stand_in_requests_and_nowhere_else() {
    let key = crate::api::analysis::SecretKey { name: "s".into(), key: "k".into() };
    let args = Args::from([("t".to_owned(), Arg::Secret(key))]);
    for (metric, allowed) in [
        (json!({"provider": {"web": {"url": "http://a/{{args.t}}"}}}), true),
        (json!({"successCondition": "result == '{{args.t}}'"}), false),
        (json!({"interval": "{{args.t}}"}), false),
        (json!({"provider": {"job": {"spec": {"template": {"a": "{{args.t}}"}}}}}), false),
    ] {
        let spec = spec(&metric);
        let made = compile(&[("t", &spec)], &AnalysisRef::default(), &args);
        assert_eq!(made.is_ok(), allowed, "{metric}: {made:?}");
    }
}

proptest! {
    /// Whatever is measured: the counters agree, and nothing that is over goes on.
    #[test]
    fn counters_agree(measured in "[sfiew]{0,40}", limit in 0..5i32) {
        let metric = compiled(&json!({"interval": "1m", "failureLimit": limit,
            "inconclusiveLimit": limit, "consecutiveErrorLimit": limit})).unwrap();
        let mut status = MetricStatus::default();
        for c in measured.chars() {
            let verdict = match c {
                's' => Verdict::Is(Phase::Successful, String::new()),
                'f' => Verdict::Is(Phase::Failed, String::new()),
                'i' => Verdict::Is(Phase::Inconclusive, String::new()),
                'e' => Verdict::Is(Phase::Error, String::new()),
                _ => Verdict::Wait,
            };
            note(&metric, &mut status, verdict, "", Timestamp::UNIX_EPOCH);
        }
        let of = |c: char| i32::try_from(measured.matches(c).count()).unwrap();
        prop_assert_eq!(status.count, of('s') + of('f') + of('i'));
        prop_assert_eq!(status.asked, of('s') + of('f') + of('i') + of('e') + of('w'));
        prop_assert!(status.measurements.len() <= 10);
        let (phase, _) = assess(&metric, &status, false);
        let no = of('f') > limit || of('i') > limit || status.consecutive_error > limit;
        prop_assert_eq!(phase.is_over(), no);
        let runs = [AnalysisRunStatus { metrics: vec![status], ..AnalysisRunStatus::default() }];
        let all = of('s') + of('f') + of('i') + of('e');
        let over = all >= 5 && (of('f') + of('e')) * 100 > all * 20;
        prop_assert_eq!(over_threshold(&runs, 20).is_some(), over);
    }
}
