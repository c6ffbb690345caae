//! DaemonSets by batches of nodes, on the real DaemonSet controller.

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::json;
use upgrade_core::api::Phase;
use upgrade_sandbox::eventually;
use upgrade_sandbox::kinds::DAEMON;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};

const NET: (&str, &str) = (DAEMON, "net");
const BAD: &str = "web:v2-crash-after-2s";

async fn shop(nodes: &[&str]) -> Shop {
    let shop = lab().await.shop(0).await.expect("a shop");
    shop.nodes(nodes, &[]).await.expect("nodes");
    shop
}

fn strategy(object: &DynamicObject) -> &str {
    object.data["spec"]["updateStrategy"]["type"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_canary_takes_its_nodes_first_and_never_more_than_max_unavailable_at_once() {
    let shop = shop(&["a", "b", "c", "d", "e"]).await;
    shop.nodes(&["z"], &[("canary", "yes")]).await.unwrap();
    let before = shop.daemon("net", 6, json!({})).await.unwrap();
    let watch = shop.watch_ready("net").await.unwrap();
    let mut steps = canary(&["20", "", "50", ""]);
    steps["canary"]["canaryNodes"] = json!({"canary": "yes"});
    let to = "web:v2-ready-after-1s";
    shop.upgrade_of("up", NET, to, &steps, json!({})).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    let pods = shop.runs("net").await.unwrap();
    let new: Vec<_> = pods.iter().filter(|(_, i)| *i == to).map(|(n, _)| n).collect();
    assert_eq!(new, ["z"], "{pods:?}");
    let live = shop.of_kind(DAEMON).get("net").await.unwrap();
    assert_eq!(strategy(&live), "OnDelete");
    shop.promote("up").await.unwrap();
    shop.rests_at("up", 3).await.unwrap();
    shop.runs_are("net", to, (3, 3)).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.runs_are("net", to, (0, 6)).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &before).await.unwrap();
    assert!(watch.least().unwrap() >= 5, "maxUnavailable is 1");
}

#[tokio::test]
async fn a_rolling_upgrade_is_the_native_one() {
    let shop = shop(&["a", "b", "c", "d"]).await;
    let own = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    let before = shop.daemon("net", 4, own).await.unwrap();
    let watch = shop.watch_ready("net").await.unwrap();
    shop.upgrade_of("up", NET, "web:v2", &json!({"rolling": {}}), json!({})).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.runs_are("net", "web:v2", (0, 4)).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &before).await.unwrap();
    assert!(watch.least().unwrap() >= 4, "the new pod comes first");
    let again = shop.upgrade_of("again", NET, "web:v3", &canary(&["50"]), json!({})).await;
    let fix = again.expect("its image is checked when it begins");
    assert_eq!(fix.spec.stages.len(), 1);
}

#[tokio::test]
async fn max_surge_is_no_canary_and_says_what_would_help() {
    let shop = shop(&["a", "b"]).await;
    let own = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    shop.daemon("net", 2, own).await.unwrap();
    shop.upgrade_of("up", NET, "web:v2", &canary(&["50"]), json!({})).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap();
    let message = done.status.unwrap().message;
    assert!(message.contains("maxSurge") && message.contains("strategy rolling"), "{message}");
}

#[tokio::test]
async fn a_bad_version_costs_max_unavailable_nodes_and_is_taken_back_before_the_strategy_is() {
    let shop = shop(&["a", "b", "c", "d", "e"]).await;
    let own = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}});
    let before = shop.daemon("net", 5, own).await.unwrap();
    let watch = shop.watch_ready("net").await.unwrap();
    let bad = "web:v2-crash-loop";
    shop.upgrade_of("up", NET, bad, &canary(&["80", ""]), json!({})).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap();
    assert!(done.status.unwrap().message.contains("crashes"));
    shop.settled(DAEMON, "net", 5).await.unwrap();
    shop.runs_are("net", bad, (5, 0)).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &before).await.unwrap();
    assert!(watch.least().unwrap() >= 3, "maxUnavailable is 2");
}

#[tokio::test]
async fn an_abort_of_a_canary_that_broke_after_it_was_ready() {
    let shop = shop(&["a", "b", "c", "d"]).await;
    let before = shop.daemon("net", 4, json!({})).await.unwrap();
    let stay = json!({"autoRollback": {"onFailure": {"healthCheckFailure": false}}});
    shop.upgrade_of("up", NET, BAD, &canary(&["50", ""]), stay).await.unwrap();
    shop.phase("up", Phase::Degraded).await.unwrap();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    shop.runs_are("net", BAD, (4, 0)).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &before).await.unwrap();
}

#[tokio::test]
async fn a_new_node_and_a_lost_pod_come_up_new_and_the_drift_is_said() {
    let shop = shop(&["a", "b", "c", "d"]).await;
    let before = shop.daemon("net", 4, json!({})).await.unwrap();
    shop.upgrade_of("up", NET, "web:v2", &canary(&["25", ""]), json!({})).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.nodes(&["e"], &[]).await.unwrap();
    shop.says("up", "pods beyond the weight that run the new images: 1").await.unwrap();
    shop.runs_are("net", "web:v2", (3, 2)).await.unwrap();
    let status = shop.upgrades().get("up").await.unwrap().status.unwrap();
    assert_eq!((status.phase, status.stages[0].targets[0].drift), (Phase::Paused, 1));
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    shop.settled(DAEMON, "net", 5).await.unwrap();
    shop.runs_are("net", "web:v2", (5, 0)).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &before).await.unwrap();
}

#[tokio::test]
async fn deleting_the_upgrade_mid_flight_puts_everything_back_and_git_applies_clean() {
    let shop = shop(&["a", "b", "c"]).await;
    let git = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "net", "labels": {"app": "net"}},
            "spec": {"selector": {"matchLabels": {"app": "net"}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "34%"}},
                "template": {"metadata": {"labels": {"app": "net"}},
                    "spec": {"nodeSelector": {"shop": shop.namespace},
                        "containers": [{"name": "web", "image": image}]}}}})
    };
    let apply = PatchParams::apply("git");
    let api = shop.of_kind(DAEMON);
    api.patch("net", &apply, &Patch::Apply(&git("web:v1"))).await.unwrap();
    let before = shop.settled(DAEMON, "net", 3).await.unwrap();
    shop.upgrade_of("up", NET, "web:v2", &canary(&["67", ""]), json!({})).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.runs_are("net", "web:v2", (1, 2)).await.unwrap();
    let body = json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}});
    let refused = api.patch("net", &PatchParams::default(), &Patch::Merge(&body)).await;
    let message = refused.expect_err("in flight").to_string();
    assert!(message.contains("Upgrade up"), "{message}");
    shop.upgrades().delete("up", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", PATIENCE, || async {
        let found = shop.upgrades().get_opt("up").await?;
        anyhow::ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    shop.settled(DAEMON, "net", 3).await.unwrap();
    shop.runs_are("net", "web:v2", (3, 0)).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &before).await.unwrap();
    // Without force: nobody else owns what Git says.
    api.patch("net", &apply, &Patch::Apply(&git("web:v1"))).await.unwrap();
}
