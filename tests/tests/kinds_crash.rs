//! The controller killed while it drives a StatefulSet and a DaemonSet: whoever comes next goes on
//! from what is written and what runs, and never more pods are down than promised.

use serde_json::json;
use std::time::Duration;
use upgrade_core::api::Phase;
use upgrade_sandbox::kinds::{DAEMON, STATEFUL};
use upgrade_sandbox::product;
use upgrade_sandbox::scenario::{Shop, canary};

const KILLS: u64 = 6;
const TO: &str = "web:v2-ready-after-1s";
/// Short, so that a killed controller is followed soon.
const LEASE: &[&str] = &["--lease-duration", "2"];

#[tokio::test]
async fn killed_on_the_way_it_converges_and_never_more_pods_are_down_than_promised() {
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install_with(cluster, LEASE).await.unwrap();
    let shop = Shop::open(cluster, 0).await.unwrap();
    shop.nodes(&["a", "b", "c", "d", "e", "f"], &[]).await.unwrap();
    let db = shop.stateful("db", 6, json!({"podManagementPolicy": "Parallel"})).await.unwrap();
    let net = shop.daemon("net", 6, json!({})).await.unwrap();
    let watches = [shop.watch_ready("db").await.unwrap(), shop.watch_ready("net").await.unwrap()];
    let image = json!([{"container": "web", "from": "web:v1", "to": TO}]);
    let steps = canary(&["20", "1s", "40", "1s", "60", "1s", "80", "1s"]);
    let both = json!({"stages": [{"name": "web", "workloads": {"strategy": steps, "targets": [
        {"kind": STATEFUL, "name": "db", "images": image},
        {"kind": DAEMON, "name": "net", "images": image}]}}]});
    shop.upgrade_with("up", &[], TO, &steps, both).await.unwrap();
    for kill in 0..KILLS {
        // Not a wait for anything: the moment of death is meant to be any.
        tokio::time::sleep(Duration::from_millis(700 + 450 * kill)).await;
        product.kill().await.unwrap();
        product.restart(cluster).await.unwrap();
    }
    shop.phase("up", Phase::Completed).await.unwrap();
    for (name, watch) in ["db", "net"].iter().zip(watches) {
        shop.runs_are(name, TO, (0, 6)).await.unwrap();
        let least = watch.least().unwrap();
        assert!(least >= 5, "{name}: {least} of 6 ready");
    }
    shop.assert_untouched_kind(STATEFUL, &db).await.unwrap();
    shop.assert_untouched_kind(DAEMON, &net).await.unwrap();
}
