//! Watches that have fallen behind: what a policy, a freeze or a person forbids is not begun on the strength of
//! a store that has not heard of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, PostParams};
use serde_json::json;
use upgrade_core::api::{Phase, SERVICE_ACCOUNT, SYSTEM_NAMESPACE};
use upgrade_sandbox::scenario::Shop;
use upgrade_sandbox::{ControlPlane, eventually, product};

/// What others ask of an Upgrade.
const GOVERNANCE: [&str; 4] =
    ["upgradepolicies", "maintenancewindows", "compatibilitymatrices", "upgradeapprovals"];

/// Our service account may list them from now on, and not watch them.
async fn deafen(cluster: &ControlPlane) -> Result<()> {
    let client = cluster.client().await?;
    let api: Api<ClusterRole> = Api::all(client.clone());
    let mut role = api.get("kubectl-upgrade-webhook").await?;
    let rules = role.rules.as_mut().context("no rules")?;
    for rule in rules.iter_mut().filter(|r| r.verbs.iter().any(|v| v == "watch")) {
        if let Some(resources) = &mut rule.resources {
            resources.retain(|r| !GOVERNANCE.contains(&r.as_str()));
        }
    }
    rules.push(PolicyRule {
        api_groups: Some(vec!["kubectl-upgrade.dev".to_owned()]),
        resources: Some(GOVERNANCE.map(str::to_owned).to_vec()),
        verbs: vec!["list".to_owned()],
        ..PolicyRule::default()
    });
    api.replace("kubectl-upgrade-webhook", &PostParams::default(), &role).await?;
    let reviews: Api<SubjectAccessReview> = Api::all(client);
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{SERVICE_ACCOUNT}")),
            resource_attributes: Some(ResourceAttributes {
                group: Some("kubectl-upgrade.dev".to_owned()),
                resource: Some(GOVERNANCE[1].to_owned()),
                verb: Some("watch".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    eventually("the right to watch to be gone", Duration::from_secs(30), || async {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        ensure!(answer.status.is_some_and(|s| !s.allowed));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_no_watch_has_told_of_still_holds() -> Result<()> {
    let cluster = upgrade_sandbox::shared().await;
    let mut product = product::install_with(cluster, &["--lease-duration", "2"]).await?;
    product.ready().await?;
    deafen(cluster).await?;
    product.kill().await?;
    product.restart(cluster).await?;
    product.ready().await?;
    let rolling = json!({"rolling": {}});

    let asks = Shop::open(cluster, 1).await?;
    asks.deploy("web", 2, json!({})).await?;
    let frozen = Shop::open(cluster, 0).await?;
    frozen.window("freeze", json!({"kind": "Deny", "reason": "year's end"})).await?;
    frozen.deploy("web", 2, json!({})).await?;
    asks.upgrade("up", &["web"], "web:v2", &rolling).await?;
    frozen.upgrade("up", &["web"], "web:v2", &rolling).await?;
    let rejected = Shop::open(cluster, 0).await?;
    rejected.deploy("web", 2, json!({})).await?;
    let soon = jiff::Timestamp::now() + Duration::from_secs(12);
    let later = json!({ "notBefore": soon.to_string() });
    rejected.upgrade_with("up", &["web"], "web:v2", &rolling, later).await?;
    rejected
        .approve("up", "bob", &["system:masters"], json!({"decision": "Rejected", "reason": "no"}))
        .await?;

    asks.phase("up", Phase::AwaitingApproval).await?;
    let waits = frozen.says("up", "year's end").await?;
    assert_eq!(waits.status.context("no status")?.phase, Phase::Pending);
    rejected.phase("up", Phase::Rejected).await?;
    for shop in [&asks, &frozen, &rejected] {
        assert_eq!(shop.split("web", "web:v2").await?, (2, 0));
    }
    Ok(())
}
