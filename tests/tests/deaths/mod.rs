//! Deaths of the controller at moments that a seed decides.
#![allow(dead_code, reason = "each file of tests uses a part")]

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use upgrade_core::api::SYSTEM_NAMESPACE;
use upgrade_sandbox::product::Product;
use upgrade_sandbox::scenario::{PATIENCE, Shop};
use upgrade_sandbox::{ControlPlane, wait_for};

/// A source of moments, and the seed that replays them: that of the environment, or of the clock.
pub fn moments() -> (u64, StdRng) {
    let seed: u64 = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().unsigned_abs());
    println!("SEED={seed} replays the moments");
    (seed, StdRng::seed_from_u64(seed))
}

/// Kills it so many times, each within 3.5 s of its start, and starts it again.
pub async fn kill(
    product: &mut Product,
    cluster: &ControlPlane,
    random: &mut StdRng,
    times: usize,
) -> Result<()> {
    for _ in 0..times {
        // Not a wait for anything: the moment of death is meant to be any.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..3500))).await;
        product.kill().await?;
        product.restart(cluster).await?;
    }
    Ok(())
}

/// Waits until the process that runs now holds the lease: one that does not lead is no loss.
pub async fn leads(shop: &Shop, product: &Product) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(shop.client.clone(), SYSTEM_NAMESPACE);
    let me = format!("-{}", product.webhook().pid().context("it does not run")?);
    let mine = move |l: Option<&Lease>| {
        l.and_then(|l| l.spec.as_ref())
            .and_then(|s| s.holder_identity.as_deref())
            .is_some_and(|h| h.ends_with(&me))
    };
    wait_for(leases, "kubectl-upgrade-controller", mine, PATIENCE).await.map(drop)
}
