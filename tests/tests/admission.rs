//! The webhook against the real API server: what passes, what is refused and in which words, and
//! what goes on when nobody answers.

mod rig;

use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use rig::{Rig, US, User, approval, deployment, pod, policy, refused, upgrade};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use upgrade_core::api::{Upgrade, UpgradeApproval};
use upgrade_core::plan::plan_hash;
use upgrade_sandbox::eventually;

async fn shared() -> &'static Rig {
    static RIG: OnceCell<Rig> = OnceCell::const_new();
    match RIG.get_or_try_init(Rig::start).await {
        Ok(rig) => rig,
        Err(error) => panic!("no webhook: {error:#}"),
    }
}

async fn governed(rig: &Rig, spec: &Value) -> Result<String> {
    let ns = rig.governed().await?;
    rig.creates(User::Admin, &policy(&ns, spec))?;
    // The policy reaches the webhook by a watch.
    eventually("the policy to hold", Duration::from_secs(10), || async {
        let args = [
            "set",
            "image",
            "deploy/web",
            "app=web:probe",
            "-n",
            &ns,
            "--dry-run=server",
        ];
        match rig.run(User::Alice, &args, None) {
            Ok(_) => anyhow::bail!("not yet"),
            Err(_) => Ok(()),
        }
    })
    .await?;
    Ok(ns)
}

fn all() -> Value {
    json!({"workloads": {"all": true}})
}

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
        &[
            "set",
            "image",
            "deploy/web",
            "app=docker.io/library/web:v1",
            "-n",
            &ns,
        ],
    );
    // With an Upgrade under way the refusal names it.
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    rig.phase(&ns, "web-v2", "AwaitingApproval").await?;
    eventually(
        "the Upgrade to be seen",
        Duration::from_secs(10),
        || async {
            let text = rig
                .run(
                    User::Alice,
                    &["set", "image", "deploy/web", "app=web:v3", "-n", &ns],
                    None,
                )
                .err()
                .context("accepted")?
                .to_string();
            text.contains("Upgrade web-v2 (AwaitingApproval: waits for promote)")
                .then_some(())
                .context(text)
        },
    )
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
        &["UpgradeRequired", "added with busybox"],
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
        &["upgrades Deployments only", "spec.workloads.kinds"],
    );
    rig.accepts(
        User::Alice,
        &["create", "job", "once", "--from=cronjob/nightly", "-n", &ns],
    );
    Ok(())
}

#[tokio::test]
async fn an_object_in_flight_keeps_what_the_upgrade_gave_it() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    let label = "kubectl-upgrade.dev/upgrade=web-v2";
    rig.rejects(
        User::Alice,
        &["label", "deploy", "web", label, "-n", &ns],
        &["LabelReserved"],
    );
    let step = |image: &str, held: bool| {
        let mut patch = json!({"metadata": {"labels": {"kubectl-upgrade.dev/upgrade": "web-v2"}},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        if held {
            patch["spec"]["minReadySeconds"] = json!(2_147_483_646);
            patch["spec"]["progressDeadlineSeconds"] = json!(2_147_483_647);
        }
        patch.to_string()
    };
    let ours = |patch: &str| {
        rig.run(
            User::Us,
            &["patch", "deploy", "web", "-n", &ns, "-p", patch],
            None,
        )
    };
    rig.phase(&ns, "web-v2", "AwaitingApproval").await?;
    refused(
        ours(&step("web:v2", true)),
        &["WrongPhase", "AwaitingApproval"],
    );
    rig.phase(&ns, "web-v2", "Progressing").await?;
    refused(ours(&step("web:v3", true)), &["NotCovered"]);
    refused(ours(&step("web:v2", false)), &["NotHeldBack"]);
    ours(&step("web:v2", true))?;
    eventually(
        "the Upgrade in flight to be seen",
        Duration::from_secs(10),
        || async {
            let e = rig
                .run(
                    User::Alice,
                    &["rollout", "restart", "deploy/web", "-n", &ns],
                    None,
                )
                .err()
                .context("accepted")?;
            e.to_string()
                .contains("(Progressing: waits for promote)")
                .then_some(())
                .context(e)
        },
    )
    .await?;
    let abort = format!("kubectl upgrade abort web-v2 -n {ns}");
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/web", "app=web:v1", "-n", &ns],
        &["InFlight", &abort],
    );
    rig.rejects(
        User::Alice,
        &["rollout", "undo", "deploy/web", "-n", &ns],
        &["InFlight"],
    );
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
        &[
            "label",
            "deploy",
            "web",
            "kubectl-upgrade.dev/upgrade-",
            "team=a",
            "-n",
            &ns,
        ],
    );
    rig.accepts(
        User::Alice,
        &["annotate", "deploy", "web", "a=b", "-n", &ns],
    );
    rig.accepts(
        User::Alice,
        &["scale", "deploy", "web", "--replicas=3", "-n", &ns],
    );
    let now: Value = serde_json::from_str(&rig.accepts(
        User::Alice,
        &["get", "deploy", "web", "-n", &ns, "-o", "json"],
    ))?;
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
    refused(
        rig.creates(User::Bob, &none),
        &["UpgradeNotFound"].map(|_| "no Upgrade"),
    );
    let mine = approval(&ns, "web-v2", &hash);
    refused(rig.creates(User::Alice, &mine), &["forbidden"]);
    refused(
        rig.creates(User::Mallory, &mine),
        &["AccessDenied", "`approve` on upgrades"],
    );
    let stale = approval(&ns, "web-v2", &format!("sha256:{}", "0".repeat(64)));
    refused(
        rig.creates(User::Bob, &stale),
        &["StalePlan", "not this one"],
    );
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
    assert_eq!(
        found[0].spec.approver.as_ref().map(|a| a.username.as_str()),
        Some("bob")
    );
    assert_eq!(found[0].spec.upgrade_uid, made.uid());
    // One's own Upgrade: the admin may approve everything, but not this one.
    rig.accepts(
        User::Alice,
        &["delete", "upgrade", "web-v2", "-n", &ns, "--wait=false"],
    );
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
    rig.creates(User::Bob, &upgrade(&ns, "own"))?;
    let own = api.get("own").await?;
    let own = approval(&ns, "own", &plan_hash(&ns, "own", &own.spec));
    refused(rig.creates(User::Bob, &own), &["OwnUpgrade"]);
    let mut rejection = own.clone();
    rejection["spec"]["decision"] = json!("Rejected");
    rejection["spec"]["reason"] = json!("changed my mind");
    rig.creates(User::Bob, &rejection)?;
    rig.phase(&ns, "own", "Progressing").await?;
    refused(
        rig.creates(User::Admin, &own),
        &["WrongPhase", "Progressing"],
    );
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
        &[
            "get",
            "upgrade",
            "web-v2",
            "-n",
            &ns,
            "-o",
            "jsonpath={.spec.requester.username}",
        ],
    );
    assert_eq!(name, "alice");
    eventually(
        "the first Upgrade to be seen",
        Duration::from_secs(10),
        || async {
            let e = rig
                .creates(User::Alice, &upgrade(&ns, "again"))
                .err()
                .context("accepted");
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
            (e.contains("WorkloadBusy") && e.contains("Upgrade web-v2"))
                .then_some(())
                .context(e)
        },
    )
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
    let dave = rig
        .cluster
        .kubeconfig_for(&format!("dave-{ns}"), &["people"])?;
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
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    rig.phase(&ns, "web-v2", "Progressing").await?;
    for (patch, verb) in [
        (r#"{"spec":{"paused":true}}"#, "pause"),
        (r#"{"spec":{"control":{"abort":true}}}"#, "abort"),
        (r#"{"spec":{"control":{"retry":1}}}"#, "retry"),
        (
            r#"{"spec":{"control":{"promote":{"stage":0,"step":1}}}}"#,
            "promote",
        ),
    ] {
        let args = [
            "patch",
            "upgrade",
            "web-v2",
            "-n",
            &ns,
            "--type=merge",
            "-p",
            patch,
        ];
        refused(
            as_dave(&args),
            &["AccessDenied", &format!("`{verb}` on upgrades")],
        );
        rig.accepts(User::Alice, &args);
    }
    let label = ["label", "upgrade", "web-v2", "-n", &ns, "a=b"];
    as_dave(&label)?;
    refused(
        as_dave(&["delete", "upgrade", "web-v2", "-n", &ns]),
        &["AccessDenied", "`abort`"],
    );
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
    assert_eq!(
        US,
        "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook"
    );
    Ok(())
}

/// A client of the webhook itself, which trusts the CA of its Secret and nothing else.
async fn direct(rig: &Rig) -> Result<kube::Client> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let secret: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(rig.cluster.client().await?, "kubectl-upgrade-system");
    let data = secret
        .get("upgrade-webhook-ca")
        .await?
        .data
        .context("no data")?;
    let ca = CertificateDer::from_pem_slice(&data["ca.crt"].0)?;
    let url = format!("https://127.0.0.1:{}", rig.port).parse()?;
    let mut config = kube::Config::new(url);
    config.root_cert = Some(vec![ca.to_vec()]);
    Ok(kube::Client::try_from(config)?)
}

async fn post(client: &kube::Client, path: &str, body: Vec<u8>) -> Result<(u16, String)> {
    use kube::client::Body;
    let request = http::Request::post(path).body(Body::from(body))?;
    let response = client.send(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect_bytes().await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_and_refused() -> Result<()> {
    let rig = shared().await;
    let client = direct(rig).await?;
    let head =
        r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"a-b-c","#;
    for path in ["/validate", "/mutate"] {
        let bad: [&[u8]; 6] = [
            b"",
            b"not json",
            b"{}",
            b"[1,2]",
            b"\xff\xfe",
            br#"{"kind":"AdmissionReview"}"#,
        ];
        for body in bad {
            let (status, text) = post(&client, path, body.to_vec()).await?;
            assert_eq!(status, 400, "{text}");
            assert!(text.contains("not an AdmissionReview"), "{text}");
        }
        // Where the uid can be found, the API server gets an answer it takes.
        let broken = [
            format!("{head}\"kind\":"),
            format!("{head}\"operation\":\"NOPE\"}}}}"),
            format!(
                "{head}{}",
                r#""kind":{"group":"apps","version":"v1","kind":"Deployment"},"operation":"UPDATE","userInfo":{},"object":{"metadata":7}}}"#
            ),
        ];
        for body in broken {
            let (status, text) = post(&client, path, body.into_bytes()).await?;
            assert!(
                status == 200 && text.contains(r#""uid":"a-b-c","allowed":false"#),
                "{status} {text}"
            );
        }
        let mut large = format!("{head}\"object\":\"").into_bytes();
        large.resize(10 * 1024 * 1024, b'x');
        let (status, text) = post(&client, path, large).await?;
        assert!(
            status == 200 && text.contains("larger than 7 MiB") && text.contains("\"a-b-c\""),
            "{status} {text}"
        );
        let (status, text) = post(&client, path, vec![b' '; 10 * 1024 * 1024]).await?;
        assert!(
            status == 413 && text.contains("larger than 7 MiB"),
            "{status} {text}"
        );
    }
    assert_eq!(post(&client, "/elsewhere", Vec::new()).await?.0, 404);
    // Deep JSON ends in an error, not in a stack overflow.
    let deep = format!("{head}\"object\":{}1", "[".repeat(200_000));
    assert_eq!(post(&client, "/validate", deep.into_bytes()).await?.0, 200);
    // And the largest object that the API server takes still gets its verdict.
    let ns = governed(rig, &all()).await?;
    let mut big = deployment(&ns, "big", "big:1");
    big["metadata"]["annotations"] = json!({"fill": "x".repeat(250_000)});
    let env: Vec<Value> = (0..2)
        .map(|i| json!({"name": format!("V{i}"), "value": "y".repeat(600_000)}))
        .collect();
    big["spec"]["template"]["spec"]["containers"][0]["env"] = json!(env);
    rig.creates(User::Alice, &big)?;
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/big", "app=big:2", "-n", &ns],
        &["UpgradeRequired"],
    );
    Ok(())
}

#[tokio::test]
async fn a_new_ca_is_taken_into_use_without_a_failed_request() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let secret: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(rig.cluster.client().await?, "kubectl-upgrade-system");
    let first = secret
        .get("upgrade-webhook-ca")
        .await?
        .data
        .context("no data")?;
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
        Api::namespaced(rig.cluster.client_for("alice", &["people"]).await?, &ns);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let load = async {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "web:v2"}]}}}});
        let dry = kube::api::PatchParams {
            dry_run: true,
            ..kube::api::PatchParams::default()
        };
        let mut refused = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let error = deployments
                .patch("web", &dry, &kube::api::Patch::Strategic(&patch))
                .await
                .expect_err("refused");
            assert!(error.to_string().contains("UpgradeRequired"), "{error}");
            refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        refused
    };
    let ago = |seconds: i64| (jiff::Timestamp::now().as_second() - seconds).to_string();
    let age = async |key: &str, seconds: i64| {
        let patch = json!({"stringData": {key: ago(seconds)}});
        secret
            .patch(
                "upgrade-webhook-ca",
                &kube::api::PatchParams::default(),
                &kube::api::Patch::Merge(patch),
            )
            .await
    };
    let rotation = async {
        age("ca.since", 300 * 24 * 3600).await?;
        let has = async |key: &str| {
            eventually(key, Duration::from_secs(40), || async {
                let data = secret
                    .get("upgrade-webhook-ca")
                    .await?
                    .data
                    .context("no data")?;
                data.contains_key(key).then_some(data).context("not yet")
            })
            .await
        };
        has("next.crt").await?;
        // Its caBundle is there before it signs; the hour between is shortened here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        age("next.since", 2 * 3600).await?;
        let data = has("old.crt").await?;
        assert_eq!(data["old.crt"], first["ca.crt"]);
        assert_ne!(data["ca.crt"], first["ca.crt"]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (refused, rotated) = tokio::join!(load, rotation);
    rotated?;
    println!("{refused} requests, none failed");
    // The new certificate is really what is served.
    let (status, _) = post(&direct(rig).await?, "/validate", b"{}".to_vec()).await?;
    assert_eq!(status, 400);
    Ok(())
}

#[tokio::test]
async fn when_nobody_answers_only_image_changes_wait() -> Result<()> {
    let rig = Rig::start().await?;
    let ns = governed(&rig, &all()).await?;
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    let job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "minutely", "namespace": ns},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "app", "image": "job:1"}]}}}}}});
    rig.creates(User::Alice, &job)?;
    let sts = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": ns},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": {
            "metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "db", "image": "db:1"}]}}}});
    rig.creates(User::Alice, &sts)?;

    // On SIGTERM it says that it goes, and answers until it is gone.
    rig.webhook.term()?;
    eventually("unreadiness", Duration::from_secs(3), || async {
        let ready = rig.readyz().await.err().context("still ready")?.to_string();
        ready.contains("503").then_some(()).context(ready)
    })
    .await?;
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/web", "app=web:v2", "-n", &ns],
        &["UpgradeRequired"],
    );
    tokio::time::timeout(Duration::from_secs(30), rig.webhook.wait_exit()).await?;

    let n = ns.as_str();
    let pods = |app: &str| -> Result<Vec<String>> {
        let selector = format!("-lapp={app}");
        let text = rig.run(
            User::Admin,
            &[
                "get",
                "pods",
                "-n",
                n,
                &selector,
                "-o",
                "name",
                "--field-selector=status.phase=Running",
            ],
            None,
        )?;
        Ok(text
            .lines()
            .map(str::to_owned)
            .filter(|l| l.starts_with("pod/"))
            .collect())
    };
    let count = async |app: &str, wanted: usize| {
        eventually("pods", Duration::from_secs(30), || async {
            let found = pods(app)?;
            anyhow::ensure!(found.len() == wanted, "{found:?}");
            Ok(found)
        })
        .await
    };
    for args in [
        &["scale", "deploy/web", "--replicas=4", "-n", n][..],
        &["annotate", "deploy/web", "a=b", "-n", n],
        &["label", "deploy/web", "team=a", "-n", n],
        &["rollout", "restart", "deploy/web", "-n", n],
        &["rollout", "restart", "sts/db", "-n", n],
        &["set", "env", "deploy/web", "A=B", "-n", n],
        &["rollout", "pause", "deploy/web", "-n", n],
        &["rollout", "resume", "deploy/web", "-n", n],
        &[
            "patch",
            "cronjob",
            "minutely",
            "-n",
            n,
            "-p",
            r#"{"spec":{"suspend":false}}"#,
        ],
        &[
            "patch",
            "deploy",
            "web",
            "-n",
            n,
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"collisionCount":1}}"#,
        ],
        &["set", "resources", "sts/db", "--requests=cpu=1m", "-n", n],
    ] {
        rig.accepts(User::Admin, args);
    }
    rig.accepts(
        User::Admin,
        &["rollout", "status", "deploy/web", "-n", n, "--timeout=60s"],
    );
    let running = count("web", 4).await?;
    rig.accepts(
        User::Admin,
        &["delete", &running[0], "-n", n, "--wait=false"],
    );
    let again = count("web", 4).await?;
    assert!(!again.contains(&running[0]), "a lost pod is replaced");
    count("db", 1).await?;
    rig.phase(n, "web-v2", "AwaitingApproval").await?;

    let down = ["failed calling webhook"];
    rig.rejects(
        User::Admin,
        &["set", "image", "deploy/web", "app=web:v2", "-n", n],
        &down,
    );
    rig.rejects(
        User::Admin,
        &["set", "image", "sts/db", "db=db:2", "-n", n],
        &down,
    );
    rig.rejects(
        User::Admin,
        &["set", "image", "cronjob/minutely", "app=job:2", "-n", n],
        &down,
    );
    rig.rejects(
        User::Admin,
        &["set", "image", &again[0], "app=web:v2", "-n", n],
        &down,
    );
    rig.rejects(
        User::Admin,
        &["debug", &again[0], "-n", n, "--image=busybox", "--", "sh"],
        &down,
    );
    refused(
        rig.creates(User::Admin, &pod(n, "bare", "web", "evil:1")),
        &down,
    );
    refused(
        rig.creates(User::Admin, &deployment(n, "fresh", "fresh:1")),
        &down,
    );
    refused(
        rig.creates(
            User::Bob,
            &approval(n, "web-v2", &format!("sha256:{}", "0".repeat(64))),
        ),
        &down,
    );
    // Where nobody opted in, nothing is missing.
    let free = rig.cluster.namespace("free").await?;
    rig.creates(User::Admin, &deployment(&free, "web", "web:v1"))?;
    rig.accepts(
        User::Admin,
        &["set", "image", "deploy/web", "app=web:v2", "-n", &free],
    );
    // The CronJob controller goes on, and a namespace can go.
    eventually("a Job of the CronJob", Duration::from_secs(80), || async {
        let jobs = rig.run(User::Admin, &["get", "jobs", "-n", n, "-o", "name"], None)?;
        jobs.contains("job.batch/minutely")
            .then_some(())
            .context(jobs)
    })
    .await?;
    Ok(())
}
