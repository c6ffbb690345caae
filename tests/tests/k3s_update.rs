//! System C, a small cluster's update runbook: what its users do, row by row. C4 (a canary Ingress)
//! is in `traffic`, C7 (undo, verify, tell Slack) in `notifications`, C8 (every week by itself) in
//! `gates`.

use anyhow::{Context, Result};
use serde_json::json;
use upgrade_core::api::Phase;
use upgrade_sandbox::scenario::{canary, lab};

#[tokio::test]
async fn c3_a_rolling_update_goes_by_the_owners_knobs() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let knobs = json!({
        "minReadySeconds": 3,
        "revisionHistoryLimit": 3,
        "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}},
    });
    let before = shop.deploy("web", 8, knobs).await?;
    let watch = shop.watch("web").await?;
    shop.upgrade("up", &["web"], "web:v2", &json!({"rolling": {}})).await?;
    shop.phase("up", Phase::Completed).await?;
    let seen = watch.finish().await?;
    assert!(seen.max_desired <= 10, "maxSurge 2: {}", seen.max_desired);
    assert!(seen.min_ready >= 7, "maxUnavailable 1: {}", seen.min_ready);
    // Three at a time, so twice the next ones wait; whole seconds are compared, so for up to one
    // second less, and without the knob for none at all.
    let at = |ready: usize| {
        let found = seen.trace.iter().find(|s| s.ready_by_image.get("web:v2") >= Some(&ready));
        found.map(|s| s.at).context("so many")
    };
    let took = at(8)?.duration_since(at(1)?);
    assert!(took.as_secs_f64() >= 3.5, "minReadySeconds 3: {took:#}");
    shop.assert_untouched("web", &before).await?;
    let spec = shop.deployments().get("web").await?.spec.context("a spec")?;
    assert_eq!(spec.revision_history_limit, Some(3));
    Ok(())
}

#[tokio::test]
async fn c3_a_canary_keeps_them_too_and_gives_them_back() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let knobs = json!({
        "minReadySeconds": 1,
        "revisionHistoryLimit": 3,
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    });
    let before = shop.deploy("web", 6, knobs).await?;
    let watch = shop.watch("web").await?;
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "1s", "100"])).await?;
    shop.phase("up", Phase::Completed).await?;
    let seen = watch.finish().await?;
    assert!(
        seen.max_desired <= 7 && seen.min_ready >= 6,
        "{} {}",
        seen.max_desired,
        seen.min_ready
    );
    shop.assert_untouched("web", &before).await?;
    Ok(())
}
