//! A held Deployment while nobody of ours is there: it stays as it is and serves.

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use upgrade_core::api::{HELD_ANNOTATION, Phase, UpgradePolicy};
use upgrade_sandbox::eventually;
use upgrade_sandbox::product;
use upgrade_sandbox::scenario::{PATIENCE, Shop};

fn image(tag: &str) -> Patch<Value> {
    Patch::Strategic(json!({"spec": {"template": {"spec":
        {"containers": [{"name": "web", "image": format!("web:{tag}")}]}}}}))
}

#[tokio::test]
async fn killed_while_something_is_held_it_stays_paused_serves_and_scales_and_goes_on_later() {
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install_with(cluster, &["--lease-duration", "2"]).await.unwrap();
    let shop = Shop::open(cluster, 1).await.unwrap();
    let policies: Api<UpgradePolicy> = Api::all(shop.client.clone());
    let hold = json!({"spec": {"mode": "Hold"}});
    policies.patch(&shop.namespace, &PatchParams::default(), &Patch::Merge(&hold)).await.unwrap();
    shop.deploy("web", 3, json!({})).await.unwrap();
    let api = shop.deployments();
    let web = eventually("it to be held", PATIENCE, || async {
        let web = api.patch("web", &PatchParams::default(), &image("v2")).await?;
        anyhow::ensure!(web.annotations().contains_key(HELD_ANNOTATION), "{web:?}");
        Ok(web)
    })
    .await
    .unwrap();
    let name = web.labels()["kubectl-upgrade.dev/upgrade"].clone();
    shop.phase(&name, Phase::AwaitingApproval).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    product.kill().await.unwrap();
    for tag in ["v3", "v1"] {
        let refused = api.patch("web", &PatchParams::default(), &image(tag)).await;
        assert!(refused.is_err(), "an image change while nobody answers: {tag}");
    }
    let resume = Patch::Merge(json!({"spec": {"paused": false}}));
    assert!(api.patch("web", &PatchParams::default(), &resume).await.is_err());
    let strip = Patch::Merge(json!({"metadata": {"annotations": {HELD_ANNOTATION: null}}}));
    assert!(api.patch("web", &PatchParams::default(), &strip).await.is_err());
    shop.scale("web", 5).await.unwrap();
    shop.split_is("web", "web:v2", (5, 0)).await.unwrap();
    product.restart(cluster).await.unwrap();
    product.ready().await.unwrap();
    policies
        .patch(
            &shop.namespace,
            &PatchParams::default(),
            &Patch::Merge(&json!({"spec": {"approvals": {"required": 0}}})),
        )
        .await
        .unwrap();
    shop.phase(&name, Phase::Completed).await.unwrap();
    shop.split_is("web", "web:v2", (0, 5)).await.unwrap();
    assert!(watch.finish().await.unwrap().min_ready >= 3);
}
