use super::workloads::{DEPLOYMENT, flying, nothing, update};
use crate::api::WorkloadKind;
use crate::policy::review::{Change, Operation, Review, Subject};
use crate::policy::testing::{labels, ledger, outcome, policy, review, shop_with, web, workload};
use crate::policy::{Snapshot, Verdict, Workload, decide};
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Value, json};

const NOT: &str = "EphemeralContainerNotAllowed";

fn mode(mode: &str) -> Snapshot {
    shop_with(json!({"workloads": {"all": true}, "mode": mode}))
}

#[test]
fn the_mode_says_what_becomes_of_an_uncovered_change() {
    let named = |name: &'static str, app: &'static str, image: &'static str| {
        web(image, |o| {
            o["metadata"]["name"] = json!(name);
            o["spec"]["template"]["metadata"]["labels"] = json!({"app": app});
        })
    };
    let old = web("web:v1", nothing);
    for (m, change, mismatch, intrusion) in [
        ("Deny", "UpgradeRequired", "LedgerMismatch", "SelectorTaken"),
        ("Hold", "UpgradeRequired", "LedgerMismatch", "SelectorTaken"),
        ("Warn", "warn", "warn", "warn"),
        ("Audit", "audit", "audit", "audit"),
    ] {
        let s = mode(m);
        let create = |o: &Value| outcome(&workload(&s, "alice", DEPLOYMENT, None, o)).to_owned();
        assert_eq!(outcome(&update(&s, "alice", &old, &web("web:v2", nothing))), change, "{m}");
        assert_eq!(outcome(&update(&s, "alice", &old, &old)), "Allow", "{m}");
        assert_eq!(create(&named("web", "web", "web:v2")), mismatch, "{m}");
        assert_eq!(create(&named("fake", "web", "evil:1")), intrusion, "{m}");
        assert_eq!(create(&named("web", "web", "web:v1")), "Allow", "{m}");
        // Objects in flight and our label are not for the mode to say.
        assert_eq!(
            outcome(&update(&s, "alice", &web("web:v1", flying), &web("web:v2", flying))),
            "InFlight"
        );
        assert_eq!(outcome(&update(&s, "alice", &old, &web("web:v1", flying))), "LabelReserved");
        assert_eq!(create(&web("web:v1", flying)), "LabelReserved", "{m}");
    }
    let first = json!({"workloads": {"all": true}, "mode": "Warn", "firstInstall": "Upgrade"});
    let s = shop_with(first);
    let fresh = named("fresh", "fresh", "fresh:1");
    assert_eq!(outcome(&workload(&s, "alice", DEPLOYMENT, None, &fresh)), "warn");
    let mut unsynced = mode("Audit");
    unsynced.set_synced(false);
    assert_eq!(outcome(&update(&unsynced, "alice", &old, &web("web:v2", nothing))), "NotReady");
}

#[test]
fn a_note_carries_the_whole_refusal() {
    let verdict = update(&mode("Warn"), "alice", &web("web:v1", nothing), &web("web:v2", nothing));
    let Verdict::Noted(note) = verdict else { panic!("{verdict:?}") };
    assert_eq!(
        note.warning(),
        "policy `all` is against this (UpgradeRequired): Deployment shop/web: no approved Upgrade covers container \
         `web` web:v1 -> web:v2; run: kubectl upgrade start deploy/web --image web=web:v2 -n shop"
    );
}

#[test]
fn one_policys_leniency_does_not_open_another_workload() {
    let mut s = shop_with(json!({"workloads": {"all": true}}));
    s.set_policy(&policy(
        "lax",
        json!({"workloads": {"selector": {"matchLabels": {"team": "play"}}}, "mode": "Audit"}),
    ));
    let toy = |app: &'static str, image: &'static str| {
        web(image, |o| {
            o["metadata"] = json!({"name": "toy", "labels": {"team": "play"}});
            o["spec"]["template"]["metadata"]["labels"] = json!({"app": app});
        })
    };
    let entry = |name: &str, app: &str, labels: &Value| {
        json!({"kind": "Deployment", "name": name, "since": "2026-01-01T00:00:00Z",
            "images": [{"container": "web", "image": format!("{name}:v1")}],
            "selector": {"matchLabels": {"app": app}}, "labels": labels})
    };
    s.set_ledger(&ledger(
        "shop",
        &json!([
            entry("web", "web", &json!({"app": "web"})),
            entry("toy", "toy", &json!({"team": "play"}))
        ]),
    ));
    let create = |o: &Value| outcome(&workload(&s, "alice", DEPLOYMENT, None, o)).to_owned();
    assert_eq!(create(&toy("toy", "toy:v2")), "audit");
    assert_eq!(create(&toy("web", "toy:v2")), "SelectorTaken", "web is under the strict one");
    assert_eq!(
        outcome(&update(&s, "alice", &toy("toy", "toy:v1"), &toy("web", "toy:v2"))),
        "SelectorTaken"
    );
    assert_eq!(
        outcome(&update(&s, "alice", &toy("toy", "toy:v1"), &toy("toy", "toy:v2"))),
        "audit"
    );
    // A label into the laxer, more specific policy, or off the stricter: nothing is won.
    let joins = |o: &mut Value| o["metadata"]["labels"] = json!({"app": "web", "team": "play"});
    let bare = |o: &mut Value| o["metadata"]["labels"] = json!({});
    for (old, new) in [
        (web("web:v1", nothing), web("web:v2", joins)),
        (web("web:v1", joins), web("web:v2", joins)),
        (web("web:v1", bare), web("web:v2", bare)),
        (web("web:v1", bare), web("web:v2", joins)),
    ] {
        assert_eq!(outcome(&update(&s, "alice", &old, &new)), "UpgradeRequired", "{new}");
    }
}

#[test]
fn a_dry_run_gets_a_warning_where_the_policy_says_so() {
    let (old, new) = (web("web:v1", nothing), web("web:v2", nothing));
    let flown = (web("web:v1", flying), web("web:v2", flying));
    for (spec, dry_run, expected) in [
        (json!({}), true, "UpgradeRequired"),
        (json!({"dryRun": "Warn"}), true, "warn"),
        (json!({"dryRun": "Warn"}), false, "UpgradeRequired"),
        (json!({"dryRun": "Warn", "mode": "Audit"}), true, "audit"),
    ] {
        let mut all = json!({"workloads": {"all": true}});
        all.as_object_mut().expect("one").extend(spec.as_object().expect("one").clone());
        let s = shop_with(all);
        let said = |old: &Value, new: &Value| ask(&s, old, new, |r| r.dry_run = dry_run);
        assert_eq!(said(&old, &new), expected, "{spec} {dry_run}");
        assert_eq!(said(&flown.0, &flown.1), "InFlight", "{spec} {dry_run}");
    }
}

fn ask(s: &Snapshot, old: &Value, new: &Value, edit: impl FnOnce(&mut Review<'_>)) -> &'static str {
    let raw = |v: &Value| RawValue::from_string(v.to_string()).expect("valid JSON");
    let kind = if new["spec"]["template"].is_null() { WorkloadKind::Pod } else { DEPLOYMENT };
    let (old, new) = (raw(old), raw(new));
    let parse = |r| Workload::parse(kind, r).expect("parses");
    let change = Change { old: Some(parse(&old)), new: Some(parse(&new)) };
    let subject = Subject::Workload(Box::new(change));
    let mut review = review("alice", Operation::Update, "", subject);
    edit(&mut review);
    outcome(&decide(s, &review, Timestamp::UNIX_EPOCH))
}

#[test]
fn an_ephemeral_container_is_one_that_the_policy_lists() {
    let pod = |app: &str, image: &str, debug: &[&str]| {
        let debug = debug.iter().enumerate();
        let debug: Vec<_> =
            debug.map(|(i, image)| json!({"name": format!("d{i}"), "image": image})).collect();
        json!({"metadata": {"name": "web-1", "labels": {"app": app}},
            "spec": {"containers": [{"name": "web", "image": image}], "ephemeralContainers": debug}})
    };
    let shop = |kinds: Value, more: Value| {
        let mut spec = json!({"workloads": {"all": true, "kinds": kinds}});
        spec.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        shop_with(spec)
    };
    let list = |images: Value| json!({"ephemeralContainers": {"images": images}});
    let debug = |s: &Snapshot, app: &str, images: &[&str]| {
        ask(s, &pod(app, "web:v1", &[]), &pod(app, "web:v1", images), |r| {
            r.subresource = "ephemeralcontainers".into();
        })
    };
    for kinds in [json!([]), json!(["Deployment"]), json!(["Pod"])] {
        let none = shop(kinds.clone(), json!({}));
        assert_eq!(debug(&none, "web", &["busybox"]), NOT, "{kinds}: by default none");
        let busybox = shop(kinds.clone(), list(json!(["busybox", "tool:1"])));
        for (images, expected) in [
            (vec!["busybox"], "Allow"),
            (vec!["docker.io/library/busybox:1.36"], "Allow"),
            (vec!["tool:1"], "Allow"),
            (vec!["tool:2"], NOT),
            (vec!["busybox", "evil"], NOT),
            (vec!["evil.org/library/busybox"], NOT),
            (vec!["busybox/evil"], NOT),
        ] {
            assert_eq!(debug(&busybox, "web", &images), expected, "{kinds} {images:?}");
        }
        let warn = shop(kinds.clone(), json!({"mode": "Warn"}));
        assert_eq!(debug(&warn, "web", &["busybox"]), "warn", "{kinds}");
    }
    let deployments = shop(json!(["Deployment"]), json!({}));
    assert_eq!(debug(&deployments, "stranger", &["busybox"]), "Allow", "nobody governs it");
    // Two policies are about the pod, its own and its workload's: both have to allow it.
    let mut two = shop(json!(["Deployment"]), list(json!(["busybox"])));
    let pods = json!({"workloads": {"all": true, "kinds": ["Pod"]}});
    two.set_policy(&policy("pods", pods));
    assert_eq!(debug(&two, "web", &["busybox"]), NOT);
    // What the API server would not let through there is an image change like any other.
    let all = shop(json!([]), list(json!(["busybox"])));
    let through = |old: &Value, new: &Value| {
        ask(&all, old, new, |r| r.subresource = "ephemeralcontainers".into())
    };
    let other = pod("web", "busybox", &[]);
    assert_eq!(through(&pod("web", "web:v1", &[]), &other), "UpgradeRequired");
    let (one, swapped) =
        (pod("web", "web:v1", &["busybox:1"]), pod("web", "web:v1", &["busybox:2"]));
    assert_eq!(through(&one, &swapped), "UpgradeRequired");
    let mut free = shop(json!([]), json!({}));
    free.set_namespace("shop", labels(&[]));
    assert_eq!(debug(&free, "web", &["busybox"]), "Allow");
}
