//! The controller killed with SIGKILL at random moments: whoever comes next goes on from what is
//! written and what runs, and nobody who is served notices.

use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::time::Duration;
use upgrade_core::api::Phase;
use upgrade_sandbox::product;
use upgrade_sandbox::scenario::{Shop, canary};

/// As many as in the Online Boutique, all in one Upgrade.
const DEPLOYMENTS: usize = 11;
const KILLS: usize = 20;

#[tokio::test]
async fn killed_at_20_random_moments_it_converges_and_no_deployment_ever_has_less_than_n_ready() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        jiff::Timestamp::now().as_microsecond().unsigned_abs()
    });
    println!("SEED={seed} replays the moments");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install(cluster).await.unwrap();
    let shop = Shop::open(cluster, 0).await.unwrap();
    let names: Vec<String> = (0..DEPLOYMENTS).map(|i| format!("d{i}")).collect();
    let mut before = vec![];
    let mut watches = vec![];
    for name in &names {
        before.push(shop.deploy(name, 10, json!({})).await.unwrap());
        watches.push(shop.watch(name).await.unwrap());
    }
    let targets: Vec<&str> = names.iter().map(String::as_str).collect();
    let steps = canary(&["10", "2s", "20", "30", "2s", "50", "2s", "70", "2s", "100"]);
    shop.upgrade("up", &targets, "web:v2-ready-after-2s", &steps).await.unwrap();
    let mut killed = 0;
    while killed < KILLS {
        let lives = Duration::from_millis(random.random_range(0..1500));
        // Not a wait for anything: the moment of death is meant to be any.
        tokio::time::sleep(lives).await;
        product.kill().await.unwrap();
        killed += 1;
        product.restart(cluster).await.unwrap();
    }
    let done = shop.phase("up", Phase::Completed).await.unwrap().status.unwrap();
    assert_eq!(done.attempt, 0);
    for ((name, before), watch) in names.iter().zip(&before).zip(watches) {
        shop.complete(name).await.unwrap();
        assert_eq!(shop.split(name, "web:v2-ready-after-2s").await.unwrap(), (0, 10), "{name}");
        let seen = watch.finish().await.unwrap();
        assert!(seen.min_ready >= 10, "{name}: {} ready; SEED={seed}", seen.min_ready);
        shop.assert_untouched(name, before).await.unwrap();
    }
    println!("killed {killed} times; {DEPLOYMENTS} Deployments, never under N ready");
}
