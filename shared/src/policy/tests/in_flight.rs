use super::workloads::{flying, held, nothing, update};
use crate::api::WorkloadKind;
use crate::policy::testing::{US, outcome, shop, upgrade, web, workload};
use crate::policy::{Answers, Live, Verdict, confirm};
use serde_json::{Value, json};

/// Phase, image before, image after, what else the write has, outcome.
type Row = (&'static str, &'static str, &'static str, fn(&mut Value), &'static str);

#[test]
fn our_own_image_changes_are_confirmed_by_the_live_upgrade() {
    let s = shop();
    let change = |phase: &str, from: &str, to: &str, edit: fn(&mut Value)| {
        let (old, new) = (web(from, flying), web(to, edit));
        let Verdict::Confirm(question) = update(&s, US, &old, &new) else {
            return "no question".to_owned();
        };
        let live = Live::Found(Box::new(upgrade("shop", "web-v2", phase)));
        match confirm(&question, &Answers { upgrade: live, ..Answers::default() }) {
            Ok(()) => "Allow".to_owned(),
            Err(refusal) => refusal.reason.to_string(),
        }
    };
    let rows: [Row; 13] = [
        ("Progressing", "web:v1", "web:v2", held, "Allow"),
        ("Paused", "web:v1", "web:v2", held, "Allow"),
        ("Degraded", "web:v2", "web:v1", flying, "Allow"),
        ("RollingBack", "web:v2", "web:v1", flying, "Allow"),
        ("RollingBack", "web:v1", "web:v2", held, "WrongPhase"),
        ("AwaitingApproval", "web:v1", "web:v2", held, "WrongPhase"),
        ("Completed", "web:v1", "web:v2", held, "WrongPhase"),
        ("Pending", "web:v2", "web:v1", flying, "WrongPhase"),
        ("Progressing", "web:v1", "web:v2", flying, "NotHeldBack"),
        ("Progressing", "web:v1", "web:v3", held, "NotCovered"),
        ("Progressing", "web:v0", "web:v2", held, "NotCovered"),
        (
            "Progressing",
            "web:v1",
            "web:v2",
            |o| {
                flying(o);
                o["spec"]["strategy"] = json!({"type": "Recreate"});
            },
            "Allow",
        ),
        ("Progressing", "web:v1", "web:v2", nothing, "no question"),
    ];
    for (phase, from, to, edit, expected) in rows {
        assert_eq!(change(phase, from, to, edit), expected, "{phase} {from} -> {to}");
    }
    assert_eq!(
        outcome(&update(&s, US, &web("web:v1", flying), &web("web:v2", nothing))),
        "UpgradeRequired"
    );
}

#[test]
fn without_a_live_answer_nothing_passes() {
    let s = shop();
    let verdict = update(&s, US, &web("web:v1", flying), &web("web:v2", held));
    let Verdict::Confirm(question) = verdict else { panic!("no question") };
    let ask = |live| {
        confirm(&question, &Answers { upgrade: live, ..Answers::default() })
            .expect_err("refused")
            .reason
            .as_str()
    };
    assert_eq!(ask(Live::Missing), "UpgradeNotFound");
    assert_eq!(ask(Live::Failed("timeout".into())), "Unconfirmed");
    assert_eq!(ask(Live::NotAsked), "Unconfirmed");
    let mut going = upgrade("shop", "web-v2", "Progressing");
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
    assert_eq!(ask(Live::Found(Box::new(going))), "WrongPhase", "a deleted Upgrade goes back only");
    let mut aborted = upgrade("shop", "web-v2", "Progressing");
    aborted.spec.control = serde_json::from_value(json!({"abort": true})).ok();
    assert_eq!(ask(Live::Found(Box::new(aborted))), "WrongPhase", "an abort counts once asked for");
    let mut other = upgrade("shop", "web-v2", "Progressing");
    other.spec.stages[0].workloads.as_mut().expect("a stage").targets[0].name = "api".into();
    assert_eq!(ask(Live::Found(Box::new(other))), "NotCovered");
}

#[test]
fn nothing_goes_from_one_upgrade_to_another() {
    let other = |o: &mut Value| {
        held(o);
        o["metadata"]["labels"]["kubectl-upgrade.dev/upgrade"] = json!("api-v2");
    };
    let verdict = update(&shop(), US, &web("web:v1", other), &web("web:v2", held));
    assert_eq!(outcome(&verdict), "NotCovered");
}

#[test]
fn a_canary_of_the_other_kinds_comes_with_a_partition_or_on_delete() {
    let s = shop();
    let rolling = |partition: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    let on_delete = json!({"type": "OnDelete"});
    for (kind, strategy, image, expected) in [
        (WorkloadKind::StatefulSet, rolling(2), "web:v2", "Allow"),
        (WorkloadKind::StatefulSet, rolling(0), "web:v2", "NotHeldBack"),
        (WorkloadKind::StatefulSet, rolling(2), "web:v3", "NotCovered"),
        (WorkloadKind::DaemonSet, on_delete.clone(), "web:v2", "Allow"),
        (WorkloadKind::DaemonSet, json!({"type": "RollingUpdate"}), "web:v2", "NotHeldBack"),
    ] {
        let old = web("web:v1", nothing);
        let new = web(image, |o| {
            flying(o);
            o["spec"]["updateStrategy"] = strategy.clone();
        });
        let Verdict::Confirm(question) = workload(&s, US, kind, Some(&old), &new) else {
            panic!("no question")
        };
        let mut live = upgrade("shop", "web-v2", "Progressing");
        live.spec.stages[0].workloads.as_mut().expect("a stage").targets[0].kind = kind;
        let live = Live::Found(Box::new(live));
        let said = match confirm(&question, &Answers { upgrade: live, ..Answers::default() }) {
            Ok(()) => "Allow".to_owned(),
            Err(refusal) => refusal.reason.to_string(),
        };
        assert_eq!(said, expected, "{kind} {image}");
        // And nobody else moves the canary meanwhile.
        let mut other = new.clone();
        other["spec"]["updateStrategy"] = json!({"type": "Other"});
        let verdict = workload(&s, "alice", kind, Some(&new), &other);
        assert_eq!(outcome(&verdict), "InFlight", "{kind}");
    }
}
