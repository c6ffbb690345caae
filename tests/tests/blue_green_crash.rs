//! The controller killed at every stage of a blue-green: whoever comes next goes on, and no client
//! notices.

mod deaths;
mod services;

use serde_json::json;
use services::{Clients, assert_given_back, serve};
use std::time::Duration;
use upgrade_core::api::Phase;
use upgrade_sandbox::product;
use upgrade_sandbox::scenario::Shop;

const KILLS: usize = 10;

#[tokio::test]
async fn d2_killed_at_any_moment_it_converges_and_every_client_is_served_by_one_version() {
    let (seed, mut random) = deaths::moments();
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install_with(cluster, &["--lease-duration", "2"]).await.unwrap();
    let shop = Shop::open(cluster, 0).await.unwrap();
    let before = shop.deploy("web", 5, json!({})).await.unwrap();
    serve(&shop, "web").await.unwrap();
    let clients = Clients::watch(&shop, "web", 5).await.unwrap();
    let strategy = json!({"blueGreen": {"activeService": "web", "previewReplicaCount": 2,
        "autoPromotionSeconds": 4, "scaleDownDelaySeconds": 4}});
    shop.upgrade("up", &["web"], "web:v2-ready-after-2s", &strategy).await.unwrap();
    deaths::kill(&mut product, cluster, &mut random, KILLS).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2-ready-after-2s").await.unwrap(), (0, 5));
    assert!(clients.least() >= 5, "{} endpoints; SEED={seed}", clients.least());
    assert_eq!(clients.mixed(), Duration::ZERO, "endpoints of both versions; SEED={seed}");
    assert_given_back(&shop, "web").await.unwrap();
    shop.assert_untouched("web", &before).await.unwrap();
}
