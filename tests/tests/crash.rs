//! The controller killed with SIGKILL at random moments: whoever comes next goes on from what is
//! written and what runs, and nobody who is served notices.

mod deaths;

use deaths::leads;
use rand::RngExt;
use serde_json::json;
use std::time::Duration;
use upgrade_core::api::Phase;
use upgrade_sandbox::scenario::{Shop, canary};
use upgrade_sandbox::{eventually, product};

/// As many as in the Online Boutique, all in one Upgrade.
const DEPLOYMENTS: usize = 11;
const KILLS: usize = 20;
/// For all pods of all of them, on a machine that does other things.
const LONG: Duration = Duration::from_mins(4);
/// Short, so that a killed controller is followed soon.
const LEASE: &[&str] = &["--lease-duration", "2"];

#[tokio::test]
async fn killed_at_20_random_moments_it_converges_and_no_deployment_ever_has_less_than_n_ready() {
    let (seed, mut random) = deaths::moments();
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install_with(cluster, LEASE).await.unwrap();
    let shop = Shop::open(cluster, 0).await.unwrap();
    let names: Vec<String> = (0..DEPLOYMENTS).map(|i| format!("d{i}")).collect();
    let mut before = vec![];
    let mut watches = vec![];
    for name in &names {
        before.push(shop.deploy(name, 10, json!({})).await.unwrap());
        watches.push(shop.watch(name).await.unwrap());
    }
    let targets: Vec<&str> = names.iter().map(String::as_str).collect();
    let steps = [
        "10", "1s", "20", "1s", "30", "1s", "40", "1s", "50", "1s", "60", "1s", "70", "1s", "80",
        "1s", "90", "",
    ];
    shop.upgrade("up", &targets, "web:v2-ready-after-2s", &canary(&steps)).await.unwrap();
    let mut killed = 0;
    while killed < KILLS {
        leads(&shop, &product).await.unwrap();
        let lives = Duration::from_millis(random.random_range(0..1000));
        // Not a wait for anything: the moment of death is meant to be any.
        tokio::time::sleep(lives).await;
        let before = shop.upgrades().get("up").await.unwrap().status.unwrap_or_default();
        product.kill().await.unwrap();
        assert_ne!(before.phase, Phase::Completed, "over after {killed} kills; SEED={seed}");
        killed += 1;
        product.restart(cluster).await.unwrap();
    }
    // The last rest ends when it is told to: however quick or slow the machine, all died before.
    let rests = i32::try_from(steps.len() - 1).unwrap();
    eventually("the last rest", LONG, || shop.rests_at("up", rests)).await.unwrap();
    shop.promote("up").await.unwrap();
    let done = eventually("the end", LONG, || shop.phase("up", Phase::Completed)).await.unwrap();
    let done = done.status.unwrap();
    assert_eq!(done.attempt, 0);
    for ((name, before), watch) in names.iter().zip(&before).zip(watches) {
        shop.complete(name).await.unwrap();
        assert_eq!(shop.split(name, "web:v2-ready-after-2s").await.unwrap(), (0, 10), "{name}");
        let least = watch.finish().await.unwrap().min_ready;
        assert!(least >= 10, "{name}: {least} ready; SEED={seed}");
        shop.assert_untouched(name, before).await.unwrap();
    }
    println!("killed {killed} times; {DEPLOYMENTS} Deployments, never under N ready");
}
