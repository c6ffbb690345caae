//! Two Upgrades that want one workload: refused, queued or superseding, as the later one says.

use anyhow::{Context, Result, ensure};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use upgrade_core::api::{Phase, Upgrade};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};
use upgrade_sandbox::{eventually, wait_for};

fn upgrade(name: &str, from: &str, to: &str, steps: &Value, on_conflict: Option<&str>) -> Upgrade {
    let mut spec = json!({"stages": [{"name": "web", "workloads": {"strategy": steps, "targets": [
        {"kind": "Deployment", "name": "web", "images": [{"container": "web", "from": from, "to": to}]}]}}]});
    if let Some(word) = on_conflict {
        spec["onConflict"] = json!(word);
    }
    serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": name}, "spec": spec}))
    .expect("an Upgrade")
}

async fn create(shop: &Shop, object: &Upgrade) -> Result<Upgrade, kube::Error> {
    shop.upgrades().create(&PostParams::default(), object).await
}

#[tokio::test]
async fn a_second_one_is_refused_unless_it_says_otherwise() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    shop.deploy("web", 4, json!({})).await?;
    shop.upgrade("one", &["web"], "web:v2", &canary(&["50", "", "100"])).await?;
    shop.rests_at("one", 1).await?;
    let two = upgrade("two", "web:v1", "web:v3", &json!({"rolling": {}}), None);
    let refused = create(&shop, &two).await.expect_err("refused").to_string();
    assert!(refused.contains("WorkloadBusy") && refused.contains("Upgrade one"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn one_that_queues_starts_from_what_the_first_leaves_behind() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let before = shop.deploy("web", 4, json!({})).await?;
    shop.upgrade("one", &["web"], "web:v2", &canary(&["50", "", "100"])).await?;
    shop.rests_at("one", 1).await?;
    let two = upgrade("two", "web:v2", "web:v3", &json!({"rolling": {}}), Some("Queue"));
    create(&shop, &two).await?;
    let waits = shop.says("two", "it is queued behind Upgrade one").await?;
    assert_eq!(waits.status.context("no status")?.phase, Phase::Pending);
    assert_eq!(shop.split("web", "web:v2").await?, (2, 2), "nothing moved");
    shop.promote("one").await?;
    shop.phase("one", Phase::Completed).await?;
    shop.phase("two", Phase::Completed).await?;
    assert_eq!(shop.pods("web").await?["web:v3"], 4);
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn one_that_supersedes_takes_the_first_back_and_starts_where_it_started() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let before = shop.deploy("web", 4, json!({})).await?;
    let watch = shop.watch("web").await?;
    shop.upgrade("one", &["web"], "web:v2", &canary(&["50", "", "100"])).await?;
    shop.rests_at("one", 1).await?;
    let steps = canary(&["25", "", "100"]);
    let two = upgrade("two", "web:v1", "web:v3", &steps, Some("Supersede"));

    // Whoever may not abort the first may not supersede it.
    let dora = shop.cluster.client_for("dora", &[]).await?;
    for (verb, resource) in
        [("patch", "deployments.apps"), ("create", "upgrades.kubectl-upgrade.dev")]
    {
        let (role, user) = (format!("dora-{verb}"), "--user=dora");
        let (resource, verb) = (format!("--resource={resource}"), format!("--verb={verb}"));
        let binding = format!("--role={role}");
        for args in [
            vec!["create", "role", &role, &resource, &verb],
            vec!["create", "rolebinding", &role, &binding, user],
        ] {
            let made = shop.cluster.kubectl().args(["-n", &shop.namespace]).args(args).output()?;
            assert!(made.status.success());
        }
    }
    let hers: Api<Upgrade> = Api::namespaced(dora, &shop.namespace);
    let refused = eventually("the refusal", PATIENCE, || async {
        let error =
            hers.create(&PostParams::default(), &two).await.expect_err("refused").to_string();
        ensure!(error.contains("SubjectAccessReview says no"), "{error}");
        Ok(error)
    })
    .await?;
    assert!(refused.contains("abort") && refused.contains("/one"), "{refused}");

    create(&shop, &two).await?;
    shop.phase("one", Phase::Aborted).await?;
    shop.rests_at("two", 1).await?;
    let pods = shop.pods("web").await?;
    assert_eq!((pods["web:v1"], pods["web:v3"]), (3, 1), "{pods:?}");
    shop.promote("two").await?;
    shop.phase("two", Phase::Completed).await?;
    let seen = watch.finish().await?;
    assert!(seen.min_ready >= 4, "{} ready", seen.min_ready);
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn three_in_a_queue_go_one_after_the_other() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    shop.deploy("web", 2, json!({})).await?;
    shop.upgrade("one", &["web"], "web:v2", &canary(&["50", "", "100"])).await?;
    shop.rests_at("one", 1).await?;
    for (name, from, to) in [("two", "web:v2", "web:v3"), ("three", "web:v3", "web:v4")] {
        let object = upgrade(name, from, to, &json!({"rolling": {}}), Some("Queue"));
        let made = create(&shop, &object).await?.metadata.creation_timestamp.context("a time")?.0;
        shop.says(name, "queued behind").await?;
        // Who comes first is told by whole seconds.
        eventually("the next second", PATIENCE, || async move {
            ensure!(jiff::Timestamp::now().as_second() > made.as_second());
            Ok(())
        })
        .await?;
    }
    shop.promote("one").await?;
    for name in ["one", "two", "three"] {
        let over = |u: Option<&Upgrade>| {
            u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase.is_terminal())
        };
        let ended = wait_for(shop.upgrades(), name, over, PATIENCE).await?;
        let status = ended.status.context("no status")?;
        assert_eq!(status.phase, Phase::Completed, "{name}: {}", status.message);
    }
    assert_eq!(shop.pods("web").await?["web:v4"], 2);
    Ok(())
}

#[tokio::test]
async fn the_plugin_starts_one_behind_another_or_in_its_place() -> Result<()> {
    let lab = lab().await;
    let shop = lab.shop(0).await?;
    shop.deploy("web", 4, json!({})).await?;
    shop.upgrade("one", &["web"], "web:v2", &canary(&["50", "", "100"])).await?;
    shop.rests_at("one", 1).await?;
    let start = async |to: &str, name: &str, more: &[&str]| -> Result<(Option<i32>, String)> {
        let mut args =
            vec!["start", "deploy/web", "--to", to, "--name", name, "-n", &shop.namespace];
        args.extend(more);
        let output = lab.plugin(shop.cluster.kubeconfig().to_owned(), &args).await?;
        Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
    };
    let (code, said) = start("v3", "two", &[]).await?;
    assert!(code == Some(1) && said.contains("--on-conflict queue or supersede"), "{said}");
    let (code, said) = start("v1", "two", &["--on-conflict", "supersede"]).await?;
    assert!(code == Some(1) && said.contains("kubectl upgrade abort"), "{said}");
    let (code, said) =
        start("v3", "two", &["--on-conflict", "Supersede", "--steps", "25,pause"]).await?;
    assert_eq!(code, Some(0), "{said}");
    shop.phase("one", Phase::Aborted).await?;
    shop.rests_at("two", 1).await?;
    let (code, said) = start("v4", "three", &["--on-conflict", "queue"]).await?;
    assert_eq!(code, Some(0), "{said}");
    let waits = shop.says("three", "it is queued behind Upgrade two").await?;
    let stage = waits.spec.stages[0].workloads.clone().context("workloads")?;
    assert_eq!(stage.targets[0].images[0].from, "web:v3");
    shop.promote("two").await?;
    shop.phase("three", Phase::Completed).await?;
    assert_eq!(shop.pods("web").await?["web:v4"], 4);
    Ok(())
}
