//! The controller killed with SIGKILL at random moments: whoever comes next goes on from what is
//! written and what runs, and nobody who is served notices.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::time::Duration;
use upgrade_core::api::{Phase, SYSTEM_NAMESPACE};
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary};
use upgrade_sandbox::wait_for;

/// As many as in the Online Boutique, all in one Upgrade.
const DEPLOYMENTS: usize = 11;
const KILLS: usize = 20;
/// Short, so that a killed controller is followed soon.
const LEASE: &[&str] = &["--lease-duration", "2"];

/// Waits until the process that runs now holds the lease: one that does not lead is no loss.
async fn leads(shop: &Shop, product: &Product) {
    let leases: Api<Lease> = Api::namespaced(shop.client.clone(), SYSTEM_NAMESPACE);
    let me = format!("-{}", product.webhook().pid().expect("it runs"));
    let mine = move |l: Option<&Lease>| {
        l.and_then(|l| l.spec.as_ref())
            .and_then(|s| s.holder_identity.as_deref())
            .is_some_and(|h| h.ends_with(&me))
    };
    wait_for(leases, "kubectl-upgrade-controller", mine, PATIENCE).await.expect("it leads");
}

#[tokio::test]
async fn killed_at_20_random_moments_it_converges_and_no_deployment_ever_has_less_than_n_ready() {
    let seed: u64 = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().unsigned_abs());
    println!("SEED={seed} replays the moments");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
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
        "1s", "90", "1s",
    ];
    shop.upgrade("up", &targets, "web:v2-ready-after-2s", &canary(&steps)).await.unwrap();
    let mut killed = 0;
    while killed < KILLS {
        leads(&shop, &product).await;
        let lives = Duration::from_millis(random.random_range(0..1000));
        // Not a wait for anything: the moment of death is meant to be any.
        tokio::time::sleep(lives).await;
        let before = shop.upgrades().get("up").await.unwrap().status.unwrap_or_default();
        product.kill().await.unwrap();
        assert_ne!(before.phase, Phase::Completed, "over after {killed} kills; SEED={seed}");
        killed += 1;
        product.restart(cluster).await.unwrap();
    }
    let done = shop.phase("up", Phase::Completed).await.unwrap().status.unwrap();
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
