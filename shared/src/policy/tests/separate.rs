use super::workloads::{DEPLOYMENT, flying, nothing, update};
use crate::api::Upgrade;
use crate::api::separate::Separate;
use crate::policy::testing::{US, outcome, shop, shop_with, upgrade, web, workload};
use crate::policy::{Answers, Live, Snapshot, Verdict, confirm};
use serde_json::{Value, json};

/// An Upgrade whose canary is a Deployment of its own, with `web` at this weight.
fn separate(phase: &str, weight: i32) -> Upgrade {
    let mut upgrade = upgrade("shop", "web-v2", phase);
    let stage = upgrade.spec.stages[0].workloads.as_mut().expect("workloads");
    stage.strategy.canary.as_mut().expect("a canary").separate = Some(Separate::default());
    let stages = json!([{"name": "web", "targets": [
        {"kind": "Deployment", "name": "web", "requestedWeight": weight}]}]);
    upgrade.status.as_mut().expect("a status").stages =
        serde_json::from_value(stages).expect("stages");
    upgrade
}

/// The canary as our controller makes it; `change` edits it.
fn canary(image: &str, change: impl FnOnce(&mut Value)) -> Value {
    web(image, |o| {
        flying(o);
        o["metadata"]["name"] = json!("web-canary");
        o["spec"]["template"]["metadata"]["labels"] =
            json!({"app": "web-canary", "kubectl-upgrade.dev/canary": "web"});
        change(o);
    })
}

fn asked(verdict: Verdict, live: Upgrade) -> String {
    let Verdict::Confirm(question) = verdict else { return outcome(&verdict).to_owned() };
    let live = Live::Found(Box::new(live));
    match confirm(&question, &Answers { upgrade: live, ..Answers::default() }) {
        Ok(()) => "Allow".to_owned(),
        Err(refusal) => refusal.reason.to_string(),
    }
}

#[test]
fn a_canary_is_made_by_us_of_what_its_upgrade_names_and_by_nobody_else() {
    let make = |s: &Snapshot, who: &str, object: &Value, live: Upgrade| {
        asked(workload(s, who, DEPLOYMENT, None, object), live)
    };
    let fine = || separate("Progressing", 10);
    let sidecar = |o: &mut Value| {
        let pod = &mut o["spec"]["template"]["spec"];
        pod["initContainers"] = json!([{"name": "log", "image": "evil:1"}]);
    };
    let into_web =
        |o: &mut Value| o["spec"]["template"]["metadata"]["labels"] = json!({"app": "web"});
    let bare = |o: &mut Value| {
        o["spec"]["template"]["spec"]["containers"] = json!([]);
    };
    let mut aborted = fine();
    aborted.spec.control = serde_json::from_value(json!({"abort": true})).expect("control");
    let mut other = fine();
    other.spec.stages[0].workloads.as_mut().expect("workloads").targets[0].name = "api".to_owned();
    let in_place = upgrade("shop", "web-v2", "Progressing");
    let rows = [
        ("as approved", canary("web:v2", nothing), fine(), "Allow"),
        ("another image", canary("web:v3", nothing), fine(), "NotCovered"),
        ("another container", canary("web:v2", sidecar), fine(), "NotCovered"),
        ("a container less", canary("web:v2", bare), fine(), "NotCovered"),
        ("in the workload's selector", canary("web:v2", into_web), fine(), "SelectorTaken"),
        ("of a canary in place", canary("web:v2", nothing), in_place, "NotCovered"),
        ("of another workload", canary("web:v2", nothing), other, "NotCovered"),
        ("aborted", canary("web:v2", nothing), aborted, "WrongPhase"),
        ("on the way back", canary("web:v2", nothing), separate("RollingBack", 10), "WrongPhase"),
        ("not approved", canary("web:v2", nothing), separate("Pending", 0), "WrongPhase"),
        ("over", canary("web:v2", nothing), separate("Completed", 100), "WrongPhase"),
    ];
    let strict = shop_with(json!({"workloads": {"all": true}, "firstInstall": "Upgrade"}));
    for (what, object, live, expected) in rows {
        for s in [&shop(), &strict] {
            assert_eq!(make(s, US, &object, live.clone()), expected, "{what}");
        }
        assert_eq!(make(&shop(), "alice", &object, live), "LabelReserved", "{what}");
    }
    // Of a workload that the ledger does not know it is a creation like any other.
    let unknown = canary("api:v2", |o| o["metadata"]["name"] = json!("api-canary"));
    assert_eq!(make(&shop(), US, &unknown, fine()), "Allow");
    assert_eq!(make(&strict, US, &unknown, fine()), "FirstInstall");
}

#[test]
fn the_workload_follows_its_canary_with_the_last_weight_only() {
    let s = shop();
    let (old, new) = (web("web:v1", flying), web("web:v2", flying));
    let go = |live| asked(update(&s, US, &old, &new), live);
    assert_eq!(go(separate("Progressing", 10)), "NotHeldBack");
    assert_eq!(go(separate("Progressing", 100)), "Allow");
    assert_eq!(go(separate("RollingBack", 100)), "WrongPhase");
    let back = asked(update(&s, US, &new, &old), separate("RollingBack", 100));
    assert_eq!(back, "Allow");
}
