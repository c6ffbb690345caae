//! Admission against the real API server: what passes, what is refused and in which words.
#![expect(clippy::too_many_lines, reason = "each test is one story, told in order")]

mod rig;

use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use rig::{User, all, approval, deployment, governed, pod, refused, shared, upgrade};
use serde_json::{Value, json};
use upgrade_core::api::{Upgrade, UpgradeApproval};
use upgrade_core::plan::plan_hash;
use upgrade_sandbox::eventually;

#[tokio::test]
async fn an_image_change_needs_an_upgrade_and_the_refusal_says_how() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let text = rig.rejects(
        User::Alice,
        &["set", "image", "deploy/web", "app=web:v2", "-n", &ns],
        &[
            "(UpgradeRequired)",
            "`app` web:v1 -> web:v2",
            &format!("policy `all-{ns}` governs"),
            &format!("kubectl upgrade start deploy/web --image app=web:v2 -n {ns}"),
        ],
    );
    println!("{text}");
    // An administrator is nobody special.
    rig.rejects(
        User::Admin,
        &["set", "image", "deploy/web", "app=web:v2", "-n", &ns],
        &["UpgradeRequired"],
    );
    // The same image written otherwise is the same image.
    rig.accepts(
        User::Alice,
        &["set", "image", "deploy/web", "app=docker.io/library/web:v1", "-n", &ns],
    );
    // With an Upgrade under way the refusal names it.
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    rig.phase(&ns, "web-v2", "AwaitingApproval").await?;
    eventually("the Upgrade to be seen", Duration::from_secs(10), || async {
        let text = rig
            .run(User::Alice, &["set", "image", "deploy/web", "app=web:v3", "-n", &ns], None)
            .err()
            .context("accepted")?
            .to_string();
        text.contains("Upgrade web-v2 (AwaitingApproval: waits for promote)")
            .then_some(())
            .context(text)
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn other_kinds_and_other_doors_are_closed_too() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let patch = |image: &str| {
        json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}})
            .to_string()
    };
    // A ReplicaSet's template, a live Pod, an ephemeral container, a Pod in another's selector.
    let rs = eventually("the ReplicaSet", Duration::from_secs(20), || async {
        let rs = rig.run(User::Admin, &["get", "rs", "-n", &ns, "-o", "name"], None)?;
        rs.lines().next().map(str::to_owned).context("none yet")
    })
    .await?;
    rig.rejects(
        User::Alice,
        &["patch", &rs, "-n", &ns, "-p", &patch("web:v9")],
        &["UpgradeRequired", "ReplicaSet"],
    );
    let live = eventually("the Pods", Duration::from_secs(20), || async {
        let pods = rig.run(User::Admin, &["get", "pods", "-n", &ns, "-o", "name"], None)?;
        pods.lines().next().map(str::to_owned).context("none yet")
    })
    .await?;
    rig.rejects(
        User::Alice,
        &["set", "image", &live, "app=web:v9", "-n", &ns],
        &["UpgradeRequired"],
    );
    rig.rejects(
        User::Admin,
        &["debug", &live, "-n", &ns, "--image=busybox", "--", "sh"],
        &["EphemeralContainerNotAllowed", "`spec.ephemeralContainers` allows no image"],
    );
    refused(
        rig.creates(User::Alice, &pod(&ns, "intruder", "web", "evil:1")),
        &["SelectorTaken", "Deployment web"],
    );
    rig.creates(User::Alice, &pod(&ns, "stranger", "other", "tool:1"))?;
    // Delete and create is no door.
    rig.accepts(User::Alice, &["delete", "deploy", "web", "-n", &ns]);
    refused(
        rig.creates(User::Alice, &deployment(&ns, "web", "web:v2")),
        &["LedgerMismatch", "`app` web:v1"],
    );
    rig.creates(User::Alice, &deployment(&ns, "web", "web:v1"))?;
    rig.creates(User::Alice, &deployment(&ns, "fresh", "fresh:1"))?;
    // Nor is taking a label off first, or generating a name.
    let job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly", "namespace": ns},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "app", "image": "job:1"}]}}}}}});
    rig.creates(User::Alice, &job)?;
    rig.rejects(
        User::Alice,
        &["set", "image", "cronjob/nightly", "app=job:2", "-n", &ns],
        &["an Upgrade is of Deployments, StatefulSets and DaemonSets", "spec.workloads.kinds"],
    );
    rig.accepts(User::Alice, &["create", "job", "once", "--from=cronjob/nightly", "-n", &ns]);
    Ok(())
}

#[tokio::test]
async fn an_object_in_flight_keeps_what_the_upgrade_gave_it() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    let label = "kubectl-upgrade.dev/upgrade=web-v2";
    rig.rejects(User::Alice, &["label", "deploy", "web", label, "-n", &ns], &["LabelReserved"]);
    let step = |image: &str, held: bool| {
        let mut patch = json!({"metadata": {"labels": {"kubectl-upgrade.dev/upgrade": "web-v2"}},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        if held {
            patch["spec"]["minReadySeconds"] = json!(2_147_483_646);
            patch["spec"]["progressDeadlineSeconds"] = json!(2_147_483_647);
        }
        patch.to_string()
    };
    let ours =
        |patch: &str| rig.run(User::Us, &["patch", "deploy", "web", "-n", &ns, "-p", patch], None);
    rig.phase(&ns, "web-v2", "AwaitingApproval").await?;
    refused(ours(&step("web:v2", true)), &["WrongPhase", "AwaitingApproval"]);
    rig.phase(&ns, "web-v2", "Progressing").await?;
    refused(ours(&step("web:v3", true)), &["NotCovered"]);
    refused(ours(&step("web:v2", false)), &["NotHeldBack"]);
    ours(&step("web:v2", true))?;
    eventually("the Upgrade in flight to be seen", Duration::from_secs(10), || async {
        let e = rig
            .run(User::Alice, &["rollout", "restart", "deploy/web", "-n", &ns], None)
            .err()
            .context("accepted")?;
        e.to_string().contains("(Progressing: waits for promote)").then_some(()).context(e)
    })
    .await?;
    let abort = format!("kubectl upgrade abort web-v2 -n {ns}");
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/web", "app=web:v1", "-n", &ns],
        &["InFlight", &abort],
    );
    // Without its ReplicaSet kubectl finds no revision to go back to.
    eventually("the new ReplicaSet", Duration::from_secs(20), || async {
        let path = "jsonpath={.items[*].spec.template.spec.containers[0].image}";
        let all = rig.run(User::Admin, &["get", "rs", "-n", &ns, "-o", path], None)?;
        all.contains("web:v2").then_some(()).context(all)
    })
    .await?;
    rig.rejects(User::Alice, &["rollout", "undo", "deploy/web", "-n", &ns], &["InFlight"]);
    rig.rejects(
        User::Alice,
        &["rollout", "restart", "deploy/web", "-n", &ns],
        &["InFlight", "spec.template"],
    );
    // Guarded fields and the label are put back, with a warning; the rest passes.
    let text = rig.accepts(User::Alice, &["rollout", "pause", "deploy/web", "-n", &ns]);
    assert!(text.contains("Warning: in flight: spec.paused"), "{text}");
    rig.accepts(
        User::Alice,
        &["label", "deploy", "web", "kubectl-upgrade.dev/upgrade-", "team=a", "-n", &ns],
    );
    rig.accepts(User::Alice, &["annotate", "deploy", "web", "a=b", "-n", &ns]);
    rig.accepts(User::Alice, &["scale", "deploy", "web", "--replicas=3", "-n", &ns]);
    let now: Value = serde_json::from_str(
        &rig.accepts(User::Alice, &["get", "deploy", "web", "-n", &ns, "-o", "json"]),
    )?;
    assert_eq!(now["spec"]["paused"], Value::Null);
    assert_eq!(
        now["metadata"]["labels"],
        json!({"kubectl-upgrade.dev/upgrade": "web-v2", "team": "a"})
    );
    assert_eq!(
        (&now["spec"]["replicas"], &now["spec"]["minReadySeconds"]),
        (&json!(3), &json!(2_147_483_646))
    );
    // The way back is open, also while it is rolled back; the way forward is not then.
    rig.phase(&ns, "web-v2", "RollingBack").await?;
    ours(&step("web:v1", false))?;
    refused(ours(&step("web:v2", true)), &["WrongPhase", "taken back"]);
    Ok(())
}

#[tokio::test]
async fn an_approval_is_somebody_elses_word_on_this_plan() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    let api: Api<Upgrade> = Api::namespaced(rig.cluster.client().await?, &ns);
    let made = api.get("web-v2").await?;
    let requester = made.spec.requester.clone().context("not stamped")?;
    assert_eq!(
        (requester.username.as_str(), &requester.groups[0]),
        ("alice", &"people".to_owned())
    );
    let hash = plan_hash(&ns, "web-v2", &made.spec);

    let none = approval(&ns, "nothing", &hash);
    refused(rig.creates(User::Bob, &none), &["UpgradeNotFound"].map(|_| "no Upgrade"));
    let mine = approval(&ns, "web-v2", &hash);
    refused(rig.creates(User::Alice, &mine), &["forbidden"]);
    refused(rig.creates(User::Mallory, &mine), &["AccessDenied", "`approve` on upgrades"]);
    let stale = approval(&ns, "web-v2", &format!("sha256:{}", "0".repeat(64)));
    refused(rig.creates(User::Bob, &stale), &["StalePlan", "not this one"]);
    let mut other = mine.clone();
    other["spec"]["upgradeUID"] = json!("00000000-0000-0000-0000-000000000000");
    refused(rig.creates(User::Bob, &other), &["StalePlan", "uid"]);
    // Somebody else's name is overwritten with one's own.
    let mut forged = mine.clone();
    forged["spec"]["approver"] = json!({"username": "carol"});
    rig.creates(User::Bob, &forged)?;
    let approvals: Api<UpgradeApproval> = Api::namespaced(rig.cluster.client().await?, &ns);
    let found = approvals.list(&ListParams::default()).await?.items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].spec.approver.as_ref().map(|a| a.username.as_str()), Some("bob"));
    assert_eq!(found[0].spec.upgrade_uid, made.uid());
    // One's own Upgrade: the admin may approve everything, but not this one.
    rig.accepts(User::Alice, &["delete", "upgrade", "web-v2", "-n", &ns, "--wait=false"]);
    rig.accepts(
        User::Admin,
        &[
            "patch",
            "upgrade",
            "web-v2",
            "-n",
            &ns,
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ],
    );
    api.delete("web-v2", &DeleteParams::default()).await.ok();
    eventually("the end of web-v2 to be heard of", Duration::from_secs(10), || async {
        match rig.creates(User::Bob, &upgrade(&ns, "own")) {
            Err(e) if e.to_string().contains("WorkloadBusy") => Err(e),
            answer => Ok(answer),
        }
    })
    .await??;
    let own = api.get("own").await?;
    let own = approval(&ns, "own", &plan_hash(&ns, "own", &own.spec));
    refused(rig.creates(User::Bob, &own), &["OwnUpgrade"]);
    let mut rejection = own.clone();
    rejection["spec"]["decision"] = json!("Rejected");
    rejection["spec"]["reason"] = json!("changed my mind");
    rig.creates(User::Bob, &rejection)?;
    rig.phase(&ns, "own", "Progressing").await?;
    refused(rig.creates(User::Admin, &own), &["WrongPhase", "Progressing"]);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_does_what_its_requester_could_do_and_obeys_who_may_order() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    refused(
        rig.creates(User::Mallory, &upgrade(&ns, "web-v2")),
        &["AccessDenied", "`patch` on deployments.apps/web"],
    );
    let mut forged = upgrade(&ns, "web-v2");
    forged["spec"]["requester"] = json!({"username": "admin"});
    rig.creates(User::Alice, &forged)?;
    let name = rig.accepts(
        User::Alice,
        &["get", "upgrade", "web-v2", "-n", &ns, "-o", "jsonpath={.spec.requester.username}"],
    );
    assert_eq!(name, "alice");
    eventually("the first Upgrade to be seen", Duration::from_secs(10), || async {
        let e = rig.creates(User::Alice, &upgrade(&ns, "again")).err().context("accepted");
        if e.is_err() {
            rig.accepts(
                User::Alice,
                &[
                    "patch",
                    "upgrade",
                    "again",
                    "-n",
                    &ns,
                    "--type=json",
                    "-p",
                    r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
                ],
            );
            rig.accepts(User::Alice, &["delete", "upgrade", "again", "-n", &ns]);
        }
        let e = e?.to_string();
        (e.contains("WorkloadBusy") && e.contains("Upgrade web-v2")).then_some(()).context(e)
    })
    .await?;
    // Status and ledger are the controller's, whoever asks.
    let status = [
        "patch",
        "upgrade",
        "web-v2",
        "-n",
        &ns,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"phase":"Completed"}}"#,
    ];
    rig.rejects(User::Admin, &status, &["ControllerOnly"]);
    rig.rejects(
        User::Admin,
        &["delete", "upgradeledger", "ledger", "-n", &ns],
        &["ControllerOnly"],
    );
    // Orders need their verb; a bare right to update is not enough.
    rig.accepts(
        User::Admin,
        &[
            "create",
            "clusterrole",
            &format!("editor-{ns}"),
            "--verb=get,list,update,patch,delete",
            "--resource=upgrades.kubectl-upgrade.dev",
        ],
    );
    let dave = rig.cluster.kubeconfig_for(&format!("dave-{ns}"), &["people"])?;
    rig.accepts(
        User::Admin,
        &[
            "create",
            "clusterrolebinding",
            &format!("dave-{ns}"),
            &format!("--clusterrole=editor-{ns}"),
            &format!("--user=dave-{ns}"),
        ],
    );
    let as_dave = |args: &[&str]| {
        let output = rig.cluster.kubectl_with(&dave).args(args).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually("dave's rights", Duration::from_secs(20), || async {
        as_dave(&["auth", "can-i", "patch", "upgrades.kubectl-upgrade.dev", "-n", &ns])
    })
    .await?;
    rig.phase(&ns, "web-v2", "Progressing").await?;
    for (patch, verb) in [
        (r#"{"spec":{"paused":true}}"#, "pause"),
        (r#"{"spec":{"control":{"abort":true}}}"#, "abort"),
        (r#"{"spec":{"control":{"retry":1}}}"#, "retry"),
        (r#"{"spec":{"control":{"promote":{"stage":0,"step":1}}}}"#, "promote"),
    ] {
        let args = ["patch", "upgrade", "web-v2", "-n", &ns, "--type=merge", "-p", patch];
        refused(as_dave(&args), &["AccessDenied", &format!("`{verb}` on upgrades")]);
        rig.accepts(User::Alice, &args);
    }
    let label = ["label", "upgrade", "web-v2", "-n", &ns, "a=b"];
    as_dave(&label)?;
    refused(as_dave(&["delete", "upgrade", "web-v2", "-n", &ns]), &["AccessDenied", "`abort`"]);
    rig.rejects(
        User::Admin,
        &[
            "patch",
            "upgrade",
            "web-v2",
            "-n",
            &ns,
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ],
        &["FinalizerGuarded"],
    );
    // A namespace goes with all that is in it.
    rig.phase(&ns, "web-v2", "Completed").await?;
    rig.accepts(
        User::Alice,
        &[
            "patch",
            "upgrade",
            "web-v2",
            "-n",
            &ns,
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ],
    );
    rig.accepts(User::Admin, &["delete", "ns", &ns, "--timeout=60s"]);
    let metrics = rig.metrics().await?;
    assert!(metrics.contains(r#"kubectl_upgrade_admission_requests_total{path="validate",verdict="deny",reason="ControllerOnly",kind="Upgrade"}"#), "{metrics}");
    Ok(())
}
