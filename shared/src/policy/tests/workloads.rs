use crate::api::{IN_FLIGHT_LABEL, WorkloadKind};
use crate::policy::testing::{US, outcome, shop, shop_with, upgrade, web, workload};
use crate::policy::{Snapshot, Verdict};
use proptest::prelude::*;
use serde_json::{Value, json};

pub const DEPLOYMENT: WorkloadKind = WorkloadKind::Deployment;

pub fn nothing(_: &mut Value) {}

pub fn flying(object: &mut Value) {
    object["metadata"]["labels"][IN_FLIGHT_LABEL] = json!("web-v2");
}

pub fn held(object: &mut Value) {
    flying(object);
    object["spec"]["minReadySeconds"] = json!(2_147_483_646);
    object["spec"]["progressDeadlineSeconds"] = json!(2_147_483_647);
}

pub fn update(snapshot: &Snapshot, user: &str, old: &Value, new: &Value) -> Verdict {
    workload(snapshot, user, DEPLOYMENT, Some(old), new)
}

#[test]
fn updates_of_a_deployment() {
    let s = shop();
    let set = |path: &'static str, value: Value| {
        move |o: &mut Value| *o.pointer_mut(path).expect("a field") = value
    };
    let extra = |o: &mut Value| {
        o["spec"]["template"]["spec"]["initContainers"] = json!([{"name": "i", "image": "i:1"}]);
    };
    let restart = |o: &mut Value| {
        o["spec"]["template"]["metadata"]["annotations"] = json!({"restartedAt": "now"});
    };
    let rows: Vec<(&str, Value, Value, &str)> = vec![
        ("nothing", web("web:v1", nothing), web("web:v1", nothing), "Allow"),
        (
            "scaling",
            web("web:v1", nothing),
            web("web:v1", set("/spec/replicas", json!(9))),
            "Allow",
        ),
        ("restart", web("web:v1", nothing), web("web:v1", restart), "Allow"),
        ("image", web("web:v1", nothing), web("web:v2", nothing), "UpgradeRequired"),
        ("same image", web("web:v1", nothing), web("docker.io/library/web:v1", nothing), "Allow"),
        ("back to the ledger", web("web:v9", nothing), web("web:v1", nothing), "Allow"),
        ("init container", web("web:v1", nothing), web("web:v1", extra), "UpgradeRequired"),
        ("drops a container", web("web:v1", extra), web("web:v1", nothing), "Allow"),
        ("label comes", web("web:v1", nothing), web("web:v1", flying), "LabelReserved"),
        ("label goes", web("web:v1", flying), web("web:v1", nothing), "InFlight"),
        (
            "restart in flight",
            web("web:v1", flying),
            web("web:v1", |o| {
                flying(o);
                restart(o);
            }),
            "InFlight",
        ),
        ("image in flight", web("web:v2", flying), web("web:v1", flying), "InFlight"),
        ("guarded in flight", web("web:v1", held), web("web:v1", flying), "InFlight"),
        (
            "paused in flight",
            web("web:v1", flying),
            web("web:v1", |o| {
                flying(o);
                o["spec"]["paused"] = json!(true);
            }),
            "InFlight",
        ),
        (
            "scaling in flight",
            web("web:v1", flying),
            web("web:v1", |o| {
                flying(o);
                o["spec"]["replicas"] = json!(1);
            }),
            "Allow",
        ),
        (
            "other label in flight",
            web("web:v1", flying),
            web("web:v1", |o| {
                flying(o);
                o["metadata"]["labels"]["a"] = json!("b");
            }),
            "Allow",
        ),
    ];
    for (what, old, new, expected) in rows {
        assert_eq!(outcome(&update(&s, "alice", &old, &new)), expected, "{what}");
    }
    // Where nobody opted in, nothing is ours, even with our label.
    let mut free = shop();
    free.set_namespace("shop", crate::policy::testing::labels(&[]));
    assert_eq!(
        outcome(&update(&free, "alice", &web("web:v1", flying), &web("web:v2", nothing))),
        "Allow"
    );
}

#[test]
fn the_refusal_of_an_image_change_says_how_to_get_it() {
    let mut s = shop();
    let (old, new) = (web("web:v1", nothing), web("web:v2", nothing));
    let Verdict::Deny(refusal) = update(&s, "alice", &old, &new) else { panic!("allowed") };
    assert_eq!(
        refusal.to_string(),
        "Deployment shop/web: no approved Upgrade covers container `web` web:v1 -> web:v2 (UpgradeRequired)\n  \
         why: policy `all` governs this workload\n  \
         help: start an Upgrade; it makes this change once it is approved\n  \
         run: kubectl upgrade start deploy/web --image web=web:v2 -n shop"
    );
    s.set_upgrade(&upgrade("shop", "web-v2", "Paused"));
    let Verdict::Deny(refusal) = update(&s, "alice", &old, &new) else { panic!("allowed") };
    assert!(
        refusal.why.ends_with("Upgrade web-v2 (Paused: waits for promote) has it"),
        "{refusal}"
    );
    assert_eq!(refusal.command.as_deref(), Some("kubectl upgrade status web-v2 -n shop"));
    s.set_upgrade(&upgrade("shop", "web-v2", "Completed"));
    let Verdict::Deny(refusal) = update(&s, "alice", &old, &new) else { panic!("allowed") };
    assert!(
        refusal.command.is_some_and(|c| c.contains("start")),
        "an Upgrade that is over helps nobody"
    );
    let images = json!([{"name": "a\u{1b}[2J", "image": "x:1"}]);
    let odd = web("web:v1", |o| {
        o["spec"]["template"]["spec"]["containers"] = images;
    });
    let Verdict::Deny(refusal) = update(&s, "alice", &old, &odd) else { panic!("allowed") };
    assert!(refusal.help.contains("neither adds nor removes"), "{refusal}");
}

#[test]
fn each_kind_is_told_how_its_images_change() {
    let s = shop();
    for kind in WorkloadKind::ALL.into_iter().filter(|k| *k != DEPLOYMENT) {
        let object = |image: &str| {
            let pod = json!({"containers": [{"name": "c", "image": image}]});
            let template = json!({"spec": pod});
            let spec = match kind {
                WorkloadKind::Pod => pod,
                WorkloadKind::CronJob => json!({"jobTemplate": {"spec": {"template": template}}}),
                _ => json!({"template": template}),
            };
            json!({"metadata": {"name": "db"}, "spec": spec})
        };
        let verdict = workload(&s, "alice", kind, Some(&object("a:1")), &object("a:2"));
        assert_eq!(outcome(&verdict), "UpgradeRequired", "{kind}");
        let Verdict::Deny(refusal) = verdict else { panic!("{kind}") };
        if matches!(kind, WorkloadKind::StatefulSet | WorkloadKind::DaemonSet) {
            let command = format!("kubectl upgrade start {}/db --image c=a:2", kind.short());
            assert!(refusal.command.is_some_and(|c| c.starts_with(&command)), "{kind}");
            continue;
        }
        assert!(
            refusal
                .help
                .contains(&format!("leave {kind} out of the policy's `spec.workloads.kinds`")),
            "{refusal}"
        );
    }
}

#[test]
fn mode_hold_says_that_it_holds_deployments_only() {
    let s = shop_with(json!({"workloads": {"all": true}, "mode": "Hold"}));
    for kind in [WorkloadKind::StatefulSet, WorkloadKind::DaemonSet] {
        let (old, new) = (web("web:v1", nothing), web("web:v2", nothing));
        let Verdict::Deny(refusal) = workload(&s, "alice", kind, Some(&old), &new) else {
            panic!("{kind}")
        };
        assert!(refusal.why.contains("mode Hold holds Deployments only"), "{refusal}");
    }
}

#[test]
fn what_is_not_known_is_refused_only_where_it_matters() {
    let mut unsynced = shop();
    unsynced.set_synced(false);
    let unseen = {
        let mut s = Snapshot::new(US);
        s.set_synced(true);
        s
    };
    for s in [&unsynced, &unseen] {
        let (v1, v2) = (web("web:v1", nothing), web("web:v2", nothing));
        assert_eq!(outcome(&update(s, "alice", &v1, &v2)), "NotReady");
        assert_eq!(outcome(&update(s, US, &v1, &v2)), "NotReady", "not even we");
        assert_eq!(
            outcome(&update(s, "alice", &v1, &web("web:v1", |o| o["spec"]["replicas"] = json!(0)))),
            "Allow"
        );
        assert_eq!(outcome(&update(s, "alice", &web("web:v1", flying), &v1)), "NotReady");
        assert_eq!(outcome(&workload(s, "alice", DEPLOYMENT, None, &v1)), "NotReady");
        let replica = "system:serviceaccount:kube-system:replicaset-controller";
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(
            outcome(&workload(s, replica, WorkloadKind::Pod, None, &pod)),
            "Allow",
            "pods are replaced"
        );
    }
}

#[test]
fn a_policy_that_is_narrowed_lets_go_at_once() {
    let s = shop_with(json!({"workloads": {"selector": {"matchLabels": {"app": "other"}}}}));
    assert_eq!(
        outcome(&update(&s, "alice", &web("web:v1", nothing), &web("web:v2", nothing))),
        "Allow"
    );
}

#[test]
fn taking_the_label_off_first_does_not_help() {
    let s = shop_with(json!({"workloads": {"selector": {"matchLabels": {"app": "web"}}}}));
    let bare = |o: &mut Value| o["metadata"]["labels"] = json!({});
    let outcome_of = |old: &Value, new: &Value| outcome(&update(&s, "alice", old, new)).to_owned();
    assert_eq!(outcome_of(&web("web:v1", nothing), &web("web:v1", bare)), "Allow");
    assert_eq!(outcome_of(&web("web:v1", bare), &web("web:v2", bare)), "UpgradeRequired");
    assert_eq!(
        outcome_of(&web("web:v1", nothing), &web("web:v2", bare)),
        "UpgradeRequired",
        "in one write"
    );
    let other = |o: &mut Value| {
        bare(o);
        o["metadata"]["name"] = json!("job");
        o["spec"]["template"]["metadata"] = json!({});
    };
    assert_eq!(
        outcome_of(&web("web:v1", other), &web("web:v2", other)),
        "Allow",
        "nobody governs it"
    );
}

fn image() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|v| format!("web:v{v}"))
}

proptest! {
    /// Whatever is known or not: an image change by anybody but us passes only back to the ledger,
    /// and what changes no image and is not in flight always passes.
    #[test]
    fn no_state_lets_an_image_through(
        (from, to) in (image(), image()), synced: bool, fly: bool, phase in "Pending|Progressing|Completed",
    ) {
        let mut s = shop();
        s.set_upgrade(&upgrade("shop", "web-v2", &phase));
        s.set_synced(synced);
        let edit = if fly { flying } else { nothing };
        let verdict = update(&s, "alice", &web(&from, edit), &web(&to, |o| { edit(o); o["spec"]["replicas"] = json!(7); }));
        let back = synced && !fly && to == "web:v1";
        prop_assert_eq!(outcome(&verdict) == "Allow", from == to || back, "{:?}", verdict);
    }
}
