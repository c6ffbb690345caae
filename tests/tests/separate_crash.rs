//! The controller killed at any moment of a canary of its own: whoever comes next goes on, and the
//! workload beside it never notices.

mod deaths;

use serde_json::json;
use upgrade_core::api::Phase;
use upgrade_sandbox::product;
use upgrade_sandbox::scenario::{PATIENCE, Shop};
use upgrade_sandbox::wait::gone;

const KILLS: usize = 10;
const NEW: &str = "web:v2-ready-after-1s";

#[tokio::test]
async fn killed_at_any_moment_it_converges_and_nothing_of_it_is_left() {
    let (seed, mut random) = deaths::moments();
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install_with(cluster, &["--lease-duration", "2"]).await.unwrap();
    let shop = Shop::open(cluster, 0).await.unwrap();
    let rolling = json!({"strategy": {"rollingUpdate": {"maxUnavailable": 0}}});
    let before = shop.deploy("web", 5, rolling).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    let weights = [20, 60, 20, 80, 40];
    let steps: Vec<_> = weights
        .iter()
        .flat_map(|w| [json!({"setWeight": w}), json!({"pause": {"duration": "2s"}})])
        .collect();
    let strategy = json!({"canary": {"separate": {}, "steps": steps}});
    shop.upgrade("up", &["web"], NEW, &strategy).await.unwrap();
    deaths::kill(&mut product, cluster, &mut random, KILLS).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.complete("web").await.unwrap();
    gone(shop.deployments(), "web-canary", PATIENCE).await.unwrap();
    assert_eq!(shop.split("web", NEW).await.unwrap(), (0, 5));
    let least = watch.finish().await.unwrap().min_ready;
    assert!(least >= 5, "{least} ready; SEED={seed}");
    shop.assert_untouched("web", &before).await.unwrap();
}
