//! Notifications on the real API server, with a real receiver: what becomes of one that the receiver
//! does not take.

mod receiver;

use anyhow::{Context, Result};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use receiver::Receiver;
use serde_json::json;
use upgrade_core::api::Phase;
use upgrade_sandbox::clock::clock;
use upgrade_sandbox::eventually;
use upgrade_sandbox::scenario::{PATIENCE, Shop};

/// Notes of an Upgrade's events with this reason.
async fn notes(shop: &Shop, reason: &str) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let all = events.list(&ListParams::default()).await?.items;
    let of = all.into_iter().filter(|e| e.reason.as_deref() == Some(reason));
    Ok(of.filter_map(|e| e.note).collect())
}

#[tokio::test]
async fn what_is_refused_is_tried_again_and_what_is_never_taken_becomes_an_event() -> Result<()> {
    let clock = clock().await;
    let mut now = clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    let late = Receiver::start(&shop, "late", 2).await?;
    let never = Receiver::start(&shop, "never", usize::MAX).await?;
    shop.policy(json!({"notifications": [
        {"receiver": late.secret, "phases": ["Completed"]},
        {"receiver": never.secret, "phases": ["Completed"]},
        {"receiver": "nobody-made-it", "phases": ["Completed"]},
    ]}))
    .await?;
    shop.deploy("web", 1, json!({})).await?;
    shop.upgrade("up", &["web"], "web:v2", &json!({"rolling": {}})).await?;
    shop.phase("up", Phase::Completed).await?;
    eventually("the end of all tries", PATIENCE, || {
        // Nobody is to wait for five minutes.
        now += jiff::SignedDuration::from_secs(200);
        let (clock, shop, late, now) = (&clock, &shop, &late, now);
        async move {
            clock.set(&now.to_string())?;
            let lost = notes(shop, "NotificationLost").await?;
            anyhow::ensure!(lost.len() == 2, "{lost:?}");
            anyhow::ensure!(late.heard().len() == 1, "{:?}", late.heard());
            Ok(())
        }
    })
    .await?;
    let lost = notes(&shop, "NotificationLost").await?.join("\n");
    assert!(lost.contains("it answered 503") && lost.contains("is Completed"), "{lost}");
    assert!(lost.contains("there is no Secret nobody-made-it"), "{lost}");
    assert!(!lost.contains("s3cret"), "the address is a secret: {lost}");
    let told = late.heard();
    assert_eq!((&told[0]["kind"], &told[0]["name"]), (&json!("UpgradeNotification"), &json!("up")));
    assert!(never.heard().is_empty());
    let upgrade = shop.upgrades().get("up").await?;
    assert!(upgrade.status.context("no status")?.notifications.is_empty(), "nothing is left");
    Ok(())
}
