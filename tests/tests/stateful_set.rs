//! StatefulSets in place by partition, on the real StatefulSet controller.

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::json;
use upgrade_core::api::Phase;
use upgrade_sandbox::kinds::STATEFUL;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};
use upgrade_sandbox::{eventually, wait_for};

const WEB: (&str, &str) = (STATEFUL, "web");
const BAD: &str = "web:v2-crash-after-2s";

async fn shop() -> Shop {
    lab().await.shop(0).await.expect("a shop")
}

fn partition(object: &DynamicObject) -> Option<i64> {
    object.data["spec"]["updateStrategy"]["rollingUpdate"]["partition"].as_i64()
}

#[tokio::test]
async fn a_canary_rests_at_whole_pods_from_the_top_and_leaves_the_owners_fields() {
    let shop = shop().await;
    let before = shop.stateful("web", 5, json!({})).await.unwrap();
    let watch = shop.watch_ready("web").await.unwrap();
    let steps = canary(&["20", "", "60", ""]);
    shop.upgrade_of("up", WEB, "web:v2", &steps, json!({})).await.unwrap();
    let rest = shop.rests_at("up", 1).await.unwrap();
    let pods = shop.runs("web").await.unwrap();
    let new: Vec<_> = pods.iter().filter(|(_, i)| *i == "web:v2").map(|(p, _)| p).collect();
    assert_eq!(new, ["web-4"], "the top ordinal first: {pods:?}");
    let target = rest.status.unwrap().stages[0].targets[0].clone();
    assert_eq!((target.effective_weight, target.canary, target.stable), (20, 1, 4));
    let live = shop.of_kind(STATEFUL).get("web").await.unwrap();
    assert_eq!(partition(&live), Some(4));
    assert_eq!(
        live.data["status"]["updateRevision"].as_str(),
        target.canary_replica_set.as_deref()
    );
    shop.promote("up").await.unwrap();
    shop.rests_at("up", 3).await.unwrap();
    shop.runs_are("web", "web:v2", (2, 3)).await.unwrap();
    // A pod that is lost under the partition comes back old.
    shop.lose("web-0").await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.runs_are("web", "web:v2", (0, 5)).await.unwrap();
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
    assert!(watch.least().unwrap() >= 3, "one at a time, and one was lost");
}

#[tokio::test]
async fn a_rolling_upgrade_costs_one_pod_at_a_time_and_git_applies_clean_afterwards() {
    let shop = shop().await;
    let git = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"replicas": 3, "serviceName": "web", "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": "web"}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": image}]}}}})
    };
    let apply = PatchParams::apply("git");
    let api = shop.of_kind(STATEFUL);
    api.patch("web", &apply, &Patch::Apply(&git("web:v1"))).await.unwrap();
    let before = shop.settled(STATEFUL, "web", 3).await.unwrap();
    let watch = shop.watch_ready("web").await.unwrap();
    shop.upgrade_of("up", WEB, "web:v2", &json!({"rolling": {}}), json!({})).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
    assert!(watch.least().unwrap() >= 2);
    // Without force: nobody else owns what Git says, and the images are approved.
    api.patch("web", &apply, &Patch::Apply(&git("web:v2"))).await.unwrap();
    shop.settled(STATEFUL, "web", 3).await.unwrap();
}

#[tokio::test]
async fn a_partition_of_its_owner_is_put_back() {
    let shop = shop().await;
    let own = json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}});
    let before = shop.stateful("web", 3, own).await.unwrap();
    let strategy = canary(&["34", "100"]);
    shop.upgrade_of("up", WEB, "web:v2", &strategy, json!({})).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.runs_are("web", "web:v2", (0, 3)).await.unwrap();
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
}

#[tokio::test]
async fn a_broken_pod_of_the_bad_revision_is_deleted_so_that_the_way_back_does_not_stall() {
    let shop = shop().await;
    let before = shop.stateful("web", 4, json!({})).await.unwrap();
    let stay = json!({"autoRollback": {"onFailure": {"healthCheckFailure": false}}});
    shop.upgrade_of("up", WEB, BAD, &canary(&["50", ""]), stay).await.unwrap();
    shop.phase("up", Phase::Degraded).await.unwrap();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    shop.runs_are("web", BAD, (4, 0)).await.unwrap();
    shop.settled(STATEFUL, "web", 4).await.unwrap();
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
}

#[tokio::test]
async fn a_failing_canary_is_taken_back_by_itself() {
    let shop = shop().await;
    let before = shop.stateful("web", 3, json!({})).await.unwrap();
    shop.upgrade_of("up", WEB, BAD, &canary(&["34", ""]), json!({})).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap();
    let message = done.status.unwrap().message;
    assert!(message.contains("pod web-2"), "{message}");
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
}

#[tokio::test]
async fn scaled_mid_flight_the_partition_follows_and_the_drift_is_given_back() {
    let shop = shop().await;
    let before = shop.stateful("web", 4, json!({"podManagementPolicy": "Parallel"})).await.unwrap();
    shop.upgrade_of("up", WEB, "web:v2", &canary(&["25", ""]), json!({})).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    for (n, split) in [(12, (9, 3)), (4, (3, 1)), (8, (6, 2))] {
        shop.scale_stateful("web", n).await.unwrap();
        shop.runs_are("web", "web:v2", split).await.unwrap();
        shop.rests_at("up", 1).await.unwrap();
        eventually("no drift is left", PATIENCE, || async {
            let live = shop.of_kind(STATEFUL).get("web").await?;
            let status = shop.upgrades().get("up").await?.status.unwrap_or_default();
            let (old, _) = split;
            anyhow::ensure!(partition(&live) == i64::try_from(old).ok(), "{live:?}");
            anyhow::ensure!(status.stages[0].targets[0].drift == 0, "{status:?}");
            Ok(())
        })
        .await
        .unwrap();
    }
    shop.scale_stateful("web", 0).await.unwrap();
    shop.runs_are("web", "web:v2", (0, 0)).await.unwrap();
    shop.scale_stateful("web", 4).await.unwrap();
    shop.runs_are("web", "web:v2", (3, 1)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.runs_are("web", "web:v2", (0, 4)).await.unwrap();
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
}

#[tokio::test]
async fn deleting_the_upgrade_mid_flight_puts_everything_back() {
    let shop = shop().await;
    let before = shop.stateful("web", 3, json!({})).await.unwrap();
    shop.upgrade_of("up", WEB, "web:v2", &canary(&["67", ""]), json!({})).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.runs_are("web", "web:v2", (1, 2)).await.unwrap();
    shop.upgrades().delete("up", &DeleteParams::default()).await.unwrap();
    let gone = |u: Option<&upgrade_core::api::Upgrade>| u.is_none();
    eventually("it is gone", PATIENCE, || async {
        let found = shop.upgrades().get_opt("up").await?;
        anyhow::ensure!(gone(found.as_ref()), "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    shop.settled(STATEFUL, "web", 3).await.unwrap();
    shop.runs_are("web", "web:v2", (3, 0)).await.unwrap();
    shop.assert_untouched_kind(STATEFUL, &before).await.unwrap();
}

#[tokio::test]
async fn in_flight_nobody_else_changes_the_template_or_the_partition() {
    let shop = shop().await;
    shop.stateful("web", 3, json!({})).await.unwrap();
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:v3"}]}}}});
    let api = shop.of_kind(STATEFUL);
    let params = PatchParams::default();
    let refused = api.patch("web", &params, &Patch::Strategic(&image)).await;
    let message = refused.expect_err("ungoverned").to_string();
    assert!(message.contains("kubectl upgrade start sts/web --image web=web:v3"), "{message}");
    shop.upgrade_of("up", WEB, "web:v2", &canary(&["34", ""]), json!({})).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    for body in [
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}),
        json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}}),
    ] {
        let refused = api.patch("web", &params, &Patch::Merge(&body)).await;
        let message = refused.expect_err("in flight").to_string();
        assert!(message.contains("Upgrade up"), "{message}");
    }
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
}

#[tokio::test]
async fn on_delete_is_refused_and_says_what_would_help() {
    let shop = shop().await;
    let own = json!({"updateStrategy": {"type": "OnDelete"}});
    shop.stateful("web", 2, own).await.unwrap();
    shop.upgrade_of("up", WEB, "web:v2", &canary(&["50", ""]), json!({})).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap();
    let message = done.status.unwrap().message;
    assert!(message.contains("OnDelete") && message.contains("RollingUpdate first"), "{message}");
    let runs = |o: Option<&DynamicObject>| o.is_some_and(|o| o.metadata.generation == Some(1));
    wait_for(shop.of_kind(STATEFUL), "web", runs, PATIENCE).await.unwrap();
}
