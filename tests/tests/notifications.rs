//! Notifications on the real API server, with a real receiver: who is told, what, and what becomes
//! of it when the receiver does not answer.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upgrade_core::api::Phase;
use upgrade_sandbox::clock::clock;
use upgrade_sandbox::eventually;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary};

/// A receiver: what it was told, and a Secret that names it.
struct Receiver {
    told: Arc<Mutex<Vec<Value>>>,
    secret: String,
}

impl Receiver {
    /// Refuses the first requests, and takes the others.
    async fn start(shop: &Shop, name: &str, refuse: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        tokio::spawn(async move {
            let mut asked = 0;
            while let Ok((stream, _)) = listener.accept().await {
                asked += 1;
                if let Ok(body) = answer(stream, asked > refuse).await
                    && asked > refuse
                {
                    heard.lock().unwrap().push(body);
                }
            }
        });
        let secret = format!("{}-{name}", shop.namespace);
        let object: Secret = serde_json::from_value(json!({
            "metadata": {"name": secret}, "stringData": {"url": format!("http://{address}/hook/s3cret")},
        }))?;
        let secrets: Api<Secret> = Api::namespaced(shop.client.clone(), "kubectl-upgrade-system");
        secrets.create(&PostParams::default(), &object).await?;
        Ok(Self { told, secret })
    }

    fn heard(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}

/// Reads one request and answers it; its body.
async fn answer(mut stream: TcpStream, take: bool) -> Result<Value> {
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    let body = loop {
        let n = stream.read(&mut part).await?;
        anyhow::ensure!(n > 0, "closed");
        text.extend_from_slice(&part[..n]);
        let Some(head) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        if let Ok(body) = serde_json::from_slice::<Value>(&text[head + 4..]) {
            break body;
        }
    };
    let status = if take { "200 OK" } else { "503 Service Unavailable" };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    Ok(body)
}

/// Notes of an Upgrade's events with this reason.
async fn notes(shop: &Shop, reason: &str) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let all = events.list(&ListParams::default()).await?.items;
    let of = all.into_iter().filter(|e| e.reason.as_deref() == Some(reason));
    Ok(of.filter_map(|e| e.note).collect())
}

#[tokio::test]
async fn c7_a_failure_is_undone_verified_and_told_to_slack() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-01T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    let slack = Receiver::start(&shop, "slack", 0).await?;
    let all = Receiver::start(&shop, "all", 0).await?;
    let template = "{name} in {namespace}: {phase} after {previous}. {message}";
    shop.policy(json!({"notifications": [
        {"receiver": slack.secret, "phases": ["RolledBack", "Degraded"], "format": "Slack", "template": template},
        {"receiver": all.secret},
    ]}))
    .await?;
    let before = shop.deploy("web", 4, json!({})).await?;
    shop.upgrade("up", &["web"], "web:v2-crash-after-1s", &canary(&["50", "", "100"])).await?;
    shop.phase("up", Phase::RolledBack).await?;
    assert_eq!(shop.split("web", "web:v2-crash-after-1s").await?, (4, 0));
    shop.assert_untouched("web", &before).await?;
    eventually("both to be told", PATIENCE, || async {
        anyhow::ensure!(slack.heard().len() == 1 && !all.heard().is_empty());
        let last = all.heard().last().cloned().unwrap_or_default();
        anyhow::ensure!(last["phase"] == "RolledBack", "{last}");
        Ok(())
    })
    .await?;
    let text = slack.heard()[0].clone();
    assert_eq!(text.as_object().map(serde_json::Map::len), Some(1), "Slack takes `text` alone");
    let text = text["text"].as_str().context("a text")?;
    let begins =
        format!("up in {}: RolledBack after RollingBack. taken back: pod ", shop.namespace);
    assert!(text.starts_with(&begins), "{text}");
    let phases: Vec<_> = all.heard().iter().map(|b| b["phase"].clone()).collect();
    assert_eq!(phases.first(), Some(&json!("Progressing")));
    assert!(phases.ends_with(&[json!("RollingBack"), json!("RolledBack")]), "{phases:?}");
    assert!(phases.windows(2).all(|two| two[0] != two[1]), "each transition once: {phases:?}");
    Ok(())
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
