use super::workloads::{DEPLOYMENT, flying};
use crate::api::WorkloadKind;
use crate::policy::testing::{outcome, shop, shop_with, web, workload};
use serde_json::{Value, json};

#[test]
fn creation_is_checked_against_the_ledger() {
    let strict = shop_with(json!({"workloads": {"all": true}, "firstInstall": "Upgrade"}));
    let deployments = shop_with(json!({"workloads": {"all": true, "kinds": ["Deployment"]}}));
    let named = |name: &'static str, app: &'static str, image: &'static str| {
        web(image, |o| {
            o["metadata"]["name"] = json!(name);
            o["spec"]["template"]["metadata"]["labels"] = json!({"app": app});
        })
    };
    let rows = [
        ("as approved", shop(), DEPLOYMENT, named("web", "web", "web:v1"), "Allow"),
        ("other images", shop(), DEPLOYMENT, named("web", "web", "web:v2"), "LedgerMismatch"),
        ("never seen", shop(), DEPLOYMENT, named("api", "api", "api:v1"), "Allow"),
        ("never seen, strict", strict, DEPLOYMENT, named("api", "api", "api:v1"), "FirstInstall"),
        ("another's pods", shop(), DEPLOYMENT, named("fake", "web", "evil:1"), "SelectorTaken"),
        ("another's pods, its images", shop(), DEPLOYMENT, named("twin", "web", "web:v1"), "Allow"),
        (
            "a ReplicaSet that a Deployment would adopt",
            shop(),
            WorkloadKind::ReplicaSet,
            named("web-1", "web", "web:v1"),
            "SelectorTaken",
        ),
        (
            "a kind that is not governed",
            deployments.clone(),
            WorkloadKind::ReplicaSet,
            named("fake", "web", "evil:1"),
            "SelectorTaken",
        ),
        (
            "a kind that is not governed, apart",
            deployments,
            WorkloadKind::ReplicaSet,
            named("rs", "x", "x:1"),
            "Allow",
        ),
        ("with our label", shop(), DEPLOYMENT, web("web:v1", flying), "LabelReserved"),
    ];
    for (what, s, kind, object, expected) in rows {
        assert_eq!(outcome(&workload(&s, "alice", kind, None, &object)), expected, "{what}");
    }
    let pod = |labels: Value| {
        json!({"metadata": {"name": "p", "labels": labels,
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}]},
            "spec": {"containers": [{"name": "web", "image": "evil:1"}]}})
    };
    let s = shop();
    let bare = pod(json!({"app": "web"}));
    assert_eq!(
        outcome(&workload(&s, "alice", WorkloadKind::Pod, None, &bare)),
        "SelectorTaken",
        "an owner reference proves nothing"
    );
    let owner = "system:serviceaccount:kube-system:replicaset-controller";
    assert_eq!(outcome(&workload(&s, owner, WorkloadKind::Pod, None, &bare)), "Allow");
}

#[test]
fn a_job_runs_what_its_cron_job_was_approved_to_run() {
    use crate::policy::testing::ledger;
    let nightly = json!([{"kind": "CronJob", "name": "nightly", "since": "2026-01-01T00:00:00Z",
        "images": [{"container": "job", "image": "job:1"}]}]);
    let mut strict = shop_with(json!({"workloads": {"all": true}, "firstInstall": "Upgrade"}));
    strict.set_ledger(&ledger("shop", &nightly));
    let mut only = shop_with(json!({"workloads": {"all": true, "kinds": ["CronJob"]}}));
    only.set_ledger(&ledger("shop", &nightly));
    let job = |owner: &str, image: &str| {
        json!({"metadata": {"name": "once", "ownerReferences":
                [{"kind": "CronJob", "name": owner, "controller": true}]},
            "spec": {"template": {"spec": {"containers": [{"name": "job", "image": image}]}}}})
    };
    let rows = [
        ("approved, strict", &strict, job("nightly", "job:1"), "Allow"),
        ("other image, strict", &strict, job("nightly", "job:2"), "LedgerMismatch"),
        ("an unknown CronJob, strict", &strict, job("daily", "job:1"), "FirstInstall"),
        ("other image, Jobs not governed", &only, job("nightly", "job:2"), "LedgerMismatch"),
        ("an unknown CronJob, Jobs not governed", &only, job("daily", "job:2"), "Allow"),
    ];
    for (what, s, object, expected) in rows {
        let verdict = workload(s, "alice", WorkloadKind::Job, None, &object);
        assert_eq!(outcome(&verdict), expected, "{what}");
    }
}
