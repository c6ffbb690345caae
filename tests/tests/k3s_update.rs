//! System C, a small cluster's update runbook: what its users do, row by row. C8 (every week by itself)
//! is in `gates`.

mod receiver;
mod routed;

use anyhow::{Context, Result};
use receiver::Receiver;
use routed::{apply, carries, face, kind, only_services, serve, services};
use serde_json::{Value, json};
use upgrade_core::api::Phase;
use upgrade_sandbox::eventually;
use upgrade_sandbox::scenario::{PATIENCE, canary, lab};

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

#[tokio::test]
async fn c4_a_canary_ingress_carries_10_and_50_percent_and_an_undo_takes_it_away() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let ingresses = kind("networking.k8s.io/v1", "Ingress", "ingresses");
    serve(&shop, "web", 4).await?;
    let before = shop.deployments().get("web").await?;
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"},
        "spec": {"ingressClassName": "nginx", "defaultBackend":
            {"service": {"name": "web", "port": {"number": 80}}}},
    });
    apply(&shop, &ingresses, &ingress).await?;
    let face_before = face(&shop, &ingresses, "web").await?;
    let weight = |i: &Value| {
        let annotations = &i["metadata"]["annotations"];
        let canary = annotations["nginx.ingress.kubernetes.io/canary"] == "true";
        let weight = annotations["nginx.ingress.kubernetes.io/canary-weight"].as_str()?;
        canary.then(|| weight.parse().ok()).flatten()
    };
    let routing = json!({"nginx": {"stableIngress": "web"}});
    let strategy = routed::routed(&["10", "", "50", "", "100"], &routing);
    shop.upgrade("up", &["web"], "web:v2", &strategy).await?;
    for (step, share) in [(1, 10), (3, 50)] {
        shop.rests_at("up", step).await?;
        carries(&shop, &ingresses, "web-web-canary", weight, Some(share)).await?;
        let new = services(&shop).get("web-canary").await?.spec.context("a spec")?;
        assert!(new.selector.is_some_and(|s| s.contains_key("pod-template-hash")));
        if step == 1 {
            shop.promote("up").await?;
        }
    }
    shop.steer("up", json!({"control": {"abort": true}})).await?;
    shop.phase("up", Phase::Aborted).await?;
    carries(&shop, &ingresses, "web-web-canary", weight, None).await?;
    assert_eq!(face(&shop, &ingresses, "web").await?, face_before);
    only_services(&shop, &["web"]).await?;
    shop.assert_untouched("web", &before).await
}

#[tokio::test]
async fn c7_a_failure_is_undone_verified_and_told_to_slack() -> Result<()> {
    let shop = lab().await.shop(0).await?;
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
