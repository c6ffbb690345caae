use super::workloads::{DEPLOYMENT, flying, nothing, update};
use crate::api::{HELD_ANNOTATION, Held, IN_FLIGHT_LABEL, Identity, Phase, WorkloadKind};
use crate::policy::hold::{Wanted, wanted};
use crate::policy::review::{Change, Operation, Review, Subject};
use crate::policy::testing::{US, outcome, review, shop_with, upgrade, user, web, workload};
use crate::policy::{Answers, Granted, Live, Snapshot, Verdict, Workload, confirm};
use serde_json::value::RawValue;
use serde_json::{Value, json};

fn shop() -> Snapshot {
    shop_with(json!({"workloads": {"all": true}, "mode": "Hold"}))
}

/// A Deployment with a complete rollout.
fn done(image: &str, change: impl FnOnce(&mut Value)) -> Value {
    web(image, |o| {
        o["metadata"]["uid"] = json!("uid");
        o["metadata"]["generation"] = json!(4);
        o["status"] = json!({"observedGeneration": 4, "replicas": 3, "updatedReplicas": 3});
        change(o);
    })
}

fn asked(s: &Snapshot, name: &str, old: &Value, new: &Value) -> Option<Wanted> {
    let raw = |v: &Value| RawValue::from_string(v.to_string()).expect("valid JSON");
    let (old, new) = (raw(old), raw(new));
    let parse = |r| Workload::parse(DEPLOYMENT, r).expect("parses");
    let change = Change { old: Some(parse(&old)), new: Some(parse(&new)) };
    let subject = Subject::Workload(Box::new(change));
    let review: Review<'_> = review(name, Operation::Update, "", subject);
    wanted(s, &review)
}

/// As admission leaves it.
fn stamped(object: &mut Value, upgrade: &str, held: &Held) {
    object["metadata"]["labels"][IN_FLIGHT_LABEL] = json!(upgrade);
    object["metadata"]["annotations"] = json!({HELD_ANNOTATION: held.text()});
    object["spec"]["paused"] = json!(true);
}

fn held_by(name: &str) -> Held {
    let requester: Identity = user(name).identity();
    Held { requester, paused: false }
}

/// The change of `done("web:v1")` to `web:v2` by alice, stamped.
fn held(s: &Snapshot) -> (Value, String) {
    let new = done("web:v2", nothing);
    let Some(Wanted::Hold { upgrade, held }) = asked(s, "alice", &done("web:v1", nothing), &new)
    else {
        panic!("not held");
    };
    let stamp = |o: &mut Value| stamped(o, &upgrade, &held);
    (done("web:v2", stamp), upgrade)
}

type Edit = (&'static str, fn(&mut Value));

#[test]
fn only_what_is_stamped_for_who_asks_passes() {
    let s = shop();
    let old = done("web:v1", nothing);
    let (good, name) = held(&s);
    assert_eq!(outcome(&update(&s, "alice", &old, &good)), "Allow");
    let edits: [Edit; 5] = [
        ("unpaused", |o| o["spec"]["paused"] = json!(false)),
        ("no label", |o| o["metadata"]["labels"][IN_FLIGHT_LABEL] = Value::Null),
        ("another label", |o| o["metadata"]["labels"][IN_FLIGHT_LABEL] = json!("web-0000000000")),
        ("no stamp", |o| o["metadata"]["annotations"] = json!({})),
        ("another's stamp", |o| {
            o["metadata"]["annotations"][HELD_ANNOTATION] = json!(held_by("bob").text());
        }),
    ];
    for (what, edit) in edits {
        let mut bad = good.clone();
        if what == "no label" {
            bad["metadata"]["labels"].as_object_mut().expect("labels").remove(IN_FLIGHT_LABEL);
        } else {
            edit(&mut bad);
        }
        assert_eq!(outcome(&update(&s, "alice", &old, &bad)), "NotHeld", "{what}");
    }
    assert_eq!(outcome(&update(&s, "bob", &old, &good)), "NotHeld", "bob with alice's stamp");
    let mut more = good.clone();
    more["spec"]["template"]["metadata"]["annotations"] = json!({"a": "b"});
    assert_eq!(outcome(&update(&s, "alice", &old, &more)), "NotHeld", "the name covers it all");
    assert!(name.starts_with("web-") && name.len() == 14, "{name}");
}

#[test]
fn what_cannot_be_held_is_refused() {
    let s = shop();
    let set = |path: &'static str, value: Value| {
        move |o: &mut Value| *o.pointer_mut(path).expect("a field") = value
    };
    let zero = || set("/spec/replicas", json!(0));
    let extra = |o: &mut Value| {
        o["spec"]["template"]["spec"]["initContainers"] = json!([{"name": "i", "image": "i:1"}]);
    };
    let rows = [
        ("N = 0", done("web:v1", zero()), done("web:v2", zero()), "no replicas"),
        ("from 0", done("web:v1", zero()), done("web:v2", nothing), "no replicas"),
        ("to 0", done("web:v1", nothing), done("web:v2", zero()), "no replicas"),
        (
            "rolling",
            done("web:v1", set("/status/updatedReplicas", json!(1))),
            done("web:v2", nothing),
            "not complete",
        ),
        ("more containers", done("web:v1", nothing), done("web:v2", extra), "`i` comes"),
    ];
    for (what, old, new, says) in rows {
        let verdict = update(&s, "alice", &old, &new);
        assert_eq!(outcome(&verdict), "UpgradeRequired", "{what}");
        let Verdict::Deny(refusal) = verdict else { panic!("{what}") };
        assert!(refusal.to_string().contains(says), "{what}: {refusal}");
        assert_eq!(asked(&s, "alice", &old, &new), None, "{what}");
    }
    let mut busy = shop();
    busy.set_upgrade(&upgrade("shop", "other", "Pending"));
    let (old, new) = (done("web:v1", nothing), done("web:v2", nothing));
    assert_eq!(asked(&busy, "alice", &old, &new), None);
    assert_eq!(outcome(&update(&busy, "alice", &old, &new)), "UpgradeRequired");
    let verdict = workload(&s, "alice", WorkloadKind::StatefulSet, Some(&old), &new);
    assert_eq!(outcome(&verdict), "UpgradeRequired", "no other kind is held");
    let mut unsynced = shop();
    unsynced.set_synced(false);
    assert_eq!(asked(&unsynced, "alice", &old, &new), None);
    assert_eq!(outcome(&update(&unsynced, "alice", &old, &held(&s).0)), "NotReady");
}

#[test]
fn what_is_held_stays_is_taken_back_or_held_anew() {
    let s = shop();
    let (now, name) = held(&s);
    let with = |edit: fn(&mut Value)| {
        let mut object = now.clone();
        edit(&mut object);
        object
    };
    let rows: [(&str, Value, &str); 6] = [
        ("the same", with(|o| o["spec"]["strategy"] = json!({"type": "Recreate"})), "Allow"),
        ("scaled", with(|o| o["spec"]["replicas"] = json!(9)), "Allow"),
        ("resumed", with(|o| o["spec"]["paused"] = json!(false)), "InFlight"),
        (
            "another stamp",
            with(|o| {
                o["metadata"]["annotations"][HELD_ANNOTATION] = json!(held_by("bob").text());
            }),
            "InFlight",
        ),
        ("no stamp", with(|o| o["metadata"]["annotations"] = json!({})), "InFlight"),
        (
            "reverted with our marks",
            with(|o| {
                o["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:v1");
            }),
            "NotHeld",
        ),
    ];
    for (what, new, expected) in rows {
        assert_eq!(outcome(&update(&s, "bob", &now, &new)), expected, "{what}");
    }
    let old = done("web:v1", nothing);
    let back = Wanted::Release { upgrade: name.clone(), paused: false };
    assert_eq!(asked(&s, "bob", &now, &old), Some(back));
    assert_eq!(outcome(&update(&s, "bob", &now, &old)), "Allow");
    let mut third = with(|o| {
        o["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:v3");
    });
    let Some(Wanted::Hold { upgrade, held }) = asked(&s, "bob", &now, &third) else {
        panic!("not held anew");
    };
    assert_ne!(upgrade, name);
    assert_eq!(held.requester.username, "bob");
    assert_eq!(outcome(&update(&s, "bob", &now, &third)), "NotHeld");
    stamped(&mut third, &upgrade, &held);
    assert_eq!(outcome(&update(&s, "bob", &now, &third)), "Allow");
    let deny = shop_with(json!({"workloads": {"all": true}}));
    assert_eq!(outcome(&update(&deny, "bob", &now, &third)), "InFlight", "mode Deny by now");
}

#[test]
fn nobody_stamps_an_object_in_flight() {
    let s = shop();
    let now = done("web:v1", flying);
    let mut forged = now.clone();
    forged["metadata"]["annotations"] = json!({HELD_ANNOTATION: held_by("alice").text()});
    assert_eq!(outcome(&update(&s, "alice", &now, &forged)), "InFlight");
}

#[test]
fn our_own_controller_begins_what_is_held_as_the_upgrade_says_and_holds_it_again() {
    let s = shop();
    let (now, name) = held(&s);
    let begun = |inflated: bool| {
        let mut o = now.clone();
        o["metadata"]["annotations"] = json!({});
        o["spec"]["paused"] = json!(false);
        if inflated {
            o["spec"]["minReadySeconds"] = json!(2_147_483_646);
            o["spec"]["progressDeadlineSeconds"] = json!(2_147_483_647);
        }
        o
    };
    let live = |phase: &str| {
        let mut live = upgrade("shop", &name, phase);
        live.spec.held = true;
        Answers {
            upgrade: Live::Found(Box::new(live)),
            access: Vec::<Granted>::new(),
            ..Answers::default()
        }
    };
    let ask = |old: &Value, new: &Value, phase: &str| match update(&s, US, old, new) {
        Verdict::Confirm(question) => match confirm(&question, &live(phase)) {
            Ok(()) => "Ok",
            Err(refusal) => refusal.reason.as_str(),
        },
        verdict => outcome(&verdict),
    };
    assert_eq!(ask(&now, &begun(true), Phase::Progressing.as_str()), "Ok");
    assert_eq!(ask(&now, &begun(false), Phase::Progressing.as_str()), "NotHeldBack");
    for phase in [Phase::AwaitingApproval, Phase::Aborted, Phase::RollingBack] {
        assert_eq!(ask(&now, &begun(true), phase.as_str()), "WrongPhase", "{phase}");
    }
    let old = done("web:v1", |o| o["metadata"]["labels"][IN_FLIGHT_LABEL] = json!(name));
    assert_eq!(ask(&old, &now, Phase::RollingBack.as_str()), "Ok", "held again");
    assert_eq!(ask(&old, &begun(true), Phase::RollingBack.as_str()), "WrongPhase");
    assert_eq!(ask(&now, &done("web:v1", nothing), "AwaitingApproval"), "Allow", "put back");
}
