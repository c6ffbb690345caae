//! Errors of the admission path, injected one by one on the real API server: each refuses an image
//! change, and lets everything else pass. What cannot be read at all is in `outage`.

mod rig;

use std::time::Duration;

use anyhow::{Context, Result};
use rig::{Rig, User, all, approval, governed, refused, upgrade};
use serde_json::json;
use upgrade_sandbox::eventually;

/// What has to work whatever is wrong with us.
async fn everything_else_passes(rig: &Rig, ns: &str) -> Result<()> {
    for args in [
        &["scale", "deploy/web", "--replicas=3", "-n", ns][..],
        &["annotate", "deploy/web", "a=b", "--overwrite", "-n", ns],
        &["label", "deploy/web", "team=a", "--overwrite", "-n", ns],
        &["rollout", "restart", "deploy/web", "-n", ns],
        &["set", "env", "deploy/web", "A=B", "-n", ns],
        &["set", "env", "deploy/web", "A-", "-n", ns],
    ] {
        rig.accepts(User::Alice, args);
    }
    rig.accepts(User::Alice, &["rollout", "status", "deploy/web", "-n", ns, "--timeout=60s"]);
    let pods = |word: &str| -> Result<Vec<String>> {
        let args = ["get", "pods", "-n", ns, "-lapp=web", "-o", "name", word];
        let text = rig.run(User::Admin, &args, None)?;
        Ok(text.lines().filter(|l| l.starts_with("pod/")).map(str::to_owned).collect())
    };
    // Pods that go are still running.
    let running = eventually("the new pods alone", Duration::from_secs(30), || async {
        let now = pods("--field-selector=status.phase=Running")?;
        anyhow::ensure!(now.len() == 3, "{now:?}");
        Ok(now)
    })
    .await?;
    let lost = running.first().context("no pod")?;
    rig.accepts(User::Alice, &["delete", lost, "-n", ns]);
    eventually("the lost pod to be replaced", Duration::from_secs(30), || async {
        let now = pods("--field-selector=status.phase=Running")?;
        anyhow::ensure!(now.len() == 3 && !now.contains(lost), "{now:?}");
        Ok(())
    })
    .await?;
    rig.accepts(User::Alice, &["scale", "deploy/web", "--replicas=2", "-n", ns]);
    Ok(())
}

/// The rights of our service account on the cluster, but for reading what decisions are made on.
fn without_rights(rig: &Rig) {
    rig.accepts(User::Admin, &["delete", "clusterrolebinding", "kubectl-upgrade-webhook"]);
}

fn with_rights(rig: &Rig) {
    let role = "--clusterrole=kubectl-upgrade-webhook";
    let account = "--serviceaccount=kubectl-upgrade-system:upgrade-webhook";
    let name = "kubectl-upgrade-webhook";
    rig.accepts(User::Admin, &["create", "clusterrolebinding", name, role, account]);
}

#[tokio::test]
async fn with_empty_stores_images_wait_and_nothing_else_does() -> Result<()> {
    let rig = Rig::start().await?;
    let ns = governed(&rig, &all()).await?;
    rig.webhook.kill()?;
    rig.webhook.wait_exit().await;
    without_rights(&rig);
    // In its place one that may read its CA, and no namespace, policy, ledger or Upgrade.
    let us =
        rig.cluster.kubeconfig_for(rig::US, &["system:serviceaccounts", "system:authenticated"])?;
    let [_, probes] = rig::free_ports()?;
    let argv = [
        upgrade_sandbox::product::build().await?.webhook.display().to_string(),
        "--no-controller".into(),
        format!("--kubeconfig={}", us.display()),
        format!("--listen=127.0.0.1:{}", rig.port),
        format!("--metrics-listen=127.0.0.1:{probes}"),
        "--namespace=kubectl-upgrade-system".into(),
        "--san=127.0.0.1".into(),
    ];
    let empty = rig.cluster.spawn("webhook-empty", argv, [("RUST_LOG", "info")]).await?;
    let image = ["set", "image", "deploy/web", "app=web:v2", "-n", &ns];
    eventually("it to answer", Duration::from_secs(30), || async {
        let text = match rig.run(User::Alice, &image, None) {
            Ok(text) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(text.contains("does not know the cluster's policies yet"), "{text}");
        Ok(())
    })
    .await
    .with_context(|| empty.log_tail(20))?;
    refused(rig.creates(User::Alice, &upgrade(&ns, "web-v2")), &["yet"]);
    everything_else_passes(&rig, &ns).await?;
    // The first verdict after it has read everything is the right one.
    with_rights(&rig);
    eventually("it to know", Duration::from_mins(1), || async {
        let text = rig.run(User::Alice, &image, None).err().context("accepted")?.to_string();
        anyhow::ensure!(text.contains("no approved Upgrade covers"), "{text}");
        Ok(())
    })
    .await
    .with_context(|| empty.log_tail(20))?;
    empty.kill()?;
    empty.wait_exit().await;
    Ok(())
}

#[tokio::test]
async fn a_lookup_that_fails_is_a_refusal_and_touches_nothing_else() -> Result<()> {
    let rig = Rig::start().await?;
    let ns = governed(&rig, &all()).await?;
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    // What our controller writes to a workload, it may go on writing.
    let role =
        ["create", "clusterrole", "writes", "--verb=get,patch", "--resource=deployments.apps"];
    rig.accepts(User::Admin, &role);
    let user = format!("--user={}", rig::US);
    let bind = ["create", "clusterrolebinding", "writes", "--clusterrole=writes", &user];
    rig.accepts(User::Admin, &bind);
    without_rights(&rig);

    // The one live read of the allow path.
    let forward = json!({"metadata": {"labels": {"kubectl-upgrade.dev/upgrade": "web-v2"}},
        "spec": {"minReadySeconds": 2_147_483_646, "progressDeadlineSeconds": 2_147_483_647,
            "template": {"spec": {"containers": [{"name": "app", "image": "web:v2"}]}}}});
    let forward = forward.to_string();
    eventually("the read to fail", Duration::from_secs(20), || async {
        let args = ["patch", "deploy", "web", "-n", &ns, "-p", &forward];
        let text = rig.run(User::Us, &args, None).err().context("accepted")?.to_string();
        anyhow::ensure!(text.contains("could not be confirmed"), "{text}");
        Ok(())
    })
    .await?;
    // Access reviews, and the read of what is approved.
    let mut other = upgrade(&ns, "other");
    other["spec"]["stages"][0]["workloads"]["targets"][0]["name"] = json!("other");
    refused(rig.creates(User::Alice, &other), &["could not be confirmed"]);
    let hash = format!("sha256:{}", "0".repeat(64));
    refused(rig.creates(User::Bob, &approval(&ns, "web-v2", &hash)), &["could not be confirmed"]);
    let image = ["set", "image", "deploy/web", "app=web:v2", "-n", &ns];
    rig.rejects(User::Alice, &image, &["no approved Upgrade covers"]);
    everything_else_passes(&rig, &ns).await?;
    let template = "jsonpath={.spec.template.spec.containers[0].image}";
    let runs = rig.run(User::Admin, &["get", "deploy", "web", "-n", &ns, "-o", template], None)?;
    assert_eq!(runs, "web:v1");
    Ok(())
}

#[tokio::test]
async fn overloaded_it_refuses_and_stands_in_nobodys_way() -> Result<()> {
    let rig = Rig::start().await?;
    let ns = governed(&rig, &all()).await?;
    // More connections than it takes at once, none of which says a word.
    let mut crowd = Vec::new();
    for _ in 0..700 {
        crowd.push(tokio::net::TcpStream::connect(("127.0.0.1", rig.port)).await?);
    }
    let image = ["set", "image", "deploy/web", "app=web:v2", "-n", &ns];
    for _ in 0..3 {
        rig.run(User::Alice, &image, None).expect_err("refused, by us or for want of us");
    }
    everything_else_passes(&rig, &ns).await?;
    drop(crowd);
    eventually("a verdict", Duration::from_secs(30), || async {
        let text = rig.run(User::Alice, &image, None).err().context("accepted")?.to_string();
        anyhow::ensure!(text.contains("no approved Upgrade covers"), "{text}");
        Ok(())
    })
    .await?;
    Ok(())
}
