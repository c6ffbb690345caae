//! Versions that go together: matrices at admission and before each stage, against what runs, on
//! the real API server.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use upgrade_core::api::status::Gate;
use upgrade_core::api::{CompatibilityMatrix, Phase, Upgrade};
use upgrade_sandbox::clock::clock;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, say};
use upgrade_sandbox::wait::gone;
use upgrade_sandbox::{eventually, wait_for};

/// The matrix of the example, in a namespace of the test's own.
async fn published(shop: &Shop) -> Result<()> {
    let example = include_str!("../../examples/matrices/operator-and-agents.yaml");
    let here = example.replace("namespace: shop", &format!("namespace: {}", shop.namespace));
    let mut matrix: CompatibilityMatrix = serde_saphyr::from_str(&here)?;
    matrix.metadata.name = Some(format!("{}-operators", shop.namespace));
    Api::all(shop.client.clone()).create(&PostParams::default(), &matrix).await?;
    Ok(())
}

/// The schema version that a migration leaves behind.
async fn schema(shop: &Shop, version: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let patch = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "migrations"}, "data": {"schema": version}});
    let params = PatchParams::apply("migration").force();
    api.patch("migrations", &params, &Patch::Apply(&patch)).await?;
    Ok(())
}

fn runs(container: &str, image: &str) -> Value {
    json!({"template": {"spec": {"containers": [{"name": container, "image": image}]}}})
}

async fn labelled(shop: &Shop, name: &str, container: &str, image: &str) -> Result<()> {
    shop.deploy(name, 2, runs(container, image)).await?;
    let label = json!({"metadata": {"labels": {"app": container}}});
    shop.deployments().patch(name, &PatchParams::default(), &Patch::Merge(&label)).await?;
    Ok(())
}

fn target(name: &str, container: &str, from: &str, to: &str) -> Value {
    json!({"kind": "Deployment", "name": name, "images": [{"container": container,
        "from": format!("{container}:{from}"), "to": format!("{container}:{to}")}]})
}

/// An Upgrade with one stage for each list of targets.
async fn upgrade(shop: &Shop, name: &str, stages: &[Vec<Value>], more: Value) -> Result<Upgrade> {
    let stages: Vec<_> = stages
        .iter()
        .enumerate()
        .map(|(i, targets)| {
            json!({"name": format!("stage-{i}"),
                "workloads": {"strategy": {"rolling": {}}, "targets": targets}})
        })
        .collect();
    let mut spec = json!({ "stages": stages });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    shop.upgrade_with(name, &[], "web:none", &json!({"rolling": {}}), spec).await
}

/// Refused when it is asked for. Until its watch has told of a matrix the webhook may take an Upgrade
/// that the controller then holds.
async fn refused(shop: &Shop, name: &str, stages: &[Vec<Value>], says: &[&str]) -> Result<()> {
    let text = eventually("a refusal", PATIENCE, || async {
        if let Err(error) = upgrade(shop, name, stages, json!({})).await {
            return Ok(format!("{error:#}"));
        }
        shop.says(name, "CompatibilityMatrix").await?;
        shop.upgrades().delete(name, &DeleteParams::default()).await?;
        gone(shop.upgrades(), name, PATIENCE).await?;
        bail!("it was taken, and waits")
    })
    .await?;
    for part in [&["do not go together", "CompatibilityMatrix"], says].concat() {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn e9_operators_go_with_their_agents_and_their_schema_in_every_state_on_the_way() -> Result<()>
{
    let clock = clock().await;
    clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    schema(&shop, "v1").await?;
    labelled(&shop, "operator", "operator", "operator:v1.1.0").await?;
    for agent in ["agent-a", "agent-b"] {
        labelled(&shop, agent, "agent", "agent:v1.0.4").await?;
    }
    published(&shop).await?;
    let operator = |from: &str, to: &str| vec![target("operator", "operator", from, to)];
    let agents = |from: &str, to: &str| {
        vec![target("agent-a", "agent", from, to), target("agent-b", "agent", from, to)]
    };
    // Agents v1.0 and schema v1 do not go with v2.0.
    refused(&shop, "too-soon", &[operator("v1.1.0", "v2.0.0")], &["v2.0.0", "v1.0.4"]).await?;
    // All in one, agents last: the end is fine, and the state in between is not.
    let both = [operator("v1.1.0", "v2.0.0"), agents("v1.0.4", "v2.0.0")];
    refused(&shop, "in-between", &both, &["v1.0.4"]).await?;
    // Agents first is what the rows let pass.
    upgrade(&shop, "agents", &[agents("v1.0.4", "v1.1.2")], json!({})).await?;
    shop.phase("agents", Phase::Completed).await?;
    // Now the schema is in the way: v2.0 needs its migration.
    refused(&shop, "no-schema", &[operator("v1.1.0", "v2.0.0")], &["schema", "v2"]).await?;
    schema(&shop, "v2").await?;
    upgrade(&shop, "operator", &[operator("v1.1.0", "v2.0.0")], json!({})).await?;
    shop.phase("operator", Phase::Completed).await?;
    // One agent that was left behind is one too many.
    upgrade(&shop, "agent-a", &[vec![target("agent-a", "agent", "v1.1.2", "v2.0.0")]], json!({}))
        .await?;
    shop.phase("agent-a", Phase::Completed).await?;
    // A version that no row is about is not known to be fine.
    refused(&shop, "unknown", &[operator("v2.0.0", "v2.1.0")], &["v2.1.0"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_runs_is_looked_at_again_before_it_starts() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    schema(&shop, "v2").await?;
    labelled(&shop, "operator", "operator", "operator:v1.1.0").await?;
    labelled(&shop, "agent-a", "agent", "agent:v1.1.0").await?;
    published(&shop).await?;
    let later = json!({"notBefore": "2027-03-02T13:00:00Z"});
    let stages = [vec![target("operator", "operator", "v1.1.0", "v2.0.0")]];
    upgrade(&shop, "up", &stages, later).await?;
    shop.says("up", "at the earliest").await?;
    // Somebody takes the migration back before it starts.
    schema(&shop, "v1").await?;
    clock.set("2027-03-02T13:00:01Z")?;
    let waits = shop.says("up", "CompatibilityMatrix").await?;
    let status = waits.status.context("no status")?;
    assert_eq!(status.phase, Phase::Pending);
    let gate = status.gates.iter().find(|g| g.gate == Gate::Matrix).context("no gate")?;
    assert!(!gate.open && gate.message.contains("schema"), "{gate:?}");
    // Nobody has to say anything when it fits again.
    schema(&shop, "v2").await?;
    shop.phase("up", Phase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn what_runs_is_looked_at_again_before_each_stage() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    schema(&shop, "v2").await?;
    labelled(&shop, "operator", "operator", "operator:v1.1.0").await?;
    labelled(&shop, "agent-a", "agent", "agent:v1.1.0").await?;
    shop.deploy("web", 2, json!({})).await?;
    published(&shop).await?;
    // The second stage begins with a rest, as a stage may: what comes after it begins the stage.
    let stage = |name: &str, steps: &[&str], target: Value| json!({"name": name, "workloads": {"strategy": canary(steps), "targets": [target]}});
    let stages = json!([
        stage("first", &["50", ""], target("web", "web", "v1", "v2")),
        stage("second", &["1s", "50"], target("operator", "operator", "v1.1.0", "v2.0.0")),
    ]);
    shop.upgrade_with("up", &[], "web:none", &json!({"rolling": {}}), json!({ "stages": stages }))
        .await?;
    shop.rests_at("up", 1).await?;
    schema(&shop, "v1").await?;
    shop.promote("up").await?;
    let waits = shop.says("up", "CompatibilityMatrix").await?;
    let status = waits.status.context("no status")?;
    assert_eq!((status.current_stage_index, status.phase), (1, Phase::Paused));
    assert_eq!(shop.split("web", "web:v2").await?, (0, 2));
    assert_eq!(shop.split("operator", "operator:v2.0.0").await?.1, 0);
    schema(&shop, "v2").await?;
    shop.phase("up", Phase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn what_passes_is_for_the_policy_to_say() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    shop.deploy("web", 1, runs("web", "web:1.0.0")).await?;
    let matrix = json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "CompatibilityMatrix",
        "metadata": {"name": format!("{}-web", shop.namespace)},
        "spec": {"subject": {"component": "web"}, "components": [
            {"name": "web", "version": {"workload": {"namespace": shop.namespace,
                "kind": "Deployment", "name": "web"}}},
            {"name": "kubernetes", "version": {"kubernetes": {}}}],
            "rows": [
                {"versions": {"web": "1.0.x", "kubernetes": ">=1.20"}, "verdict": "Supported"},
                {"versions": {"web": "1.1.x", "kubernetes": "1.20 - 1.21"}, "verdict": "Supported"}],
            "unlisted": "Untested"},
    });
    let matrix: CompatibilityMatrix = serde_json::from_value(matrix)?;
    Api::all(shop.client.clone()).create(&PostParams::default(), &matrix).await?;
    let stages = [vec![target("web", "web", "1.0.0", "1.1.0")]];
    refused(&shop, "up", &stages, &["Untested"]).await?;
    // A plan says so before anybody asks for it.
    let mut plan = clock.lab().product.plugin(shop.cluster.kubeconfig());
    plan.args(["plan", "deploy/web", "--image", "web=web:1.1.0", "-n", &shop.namespace]);
    let said = say(&mut plan, "")?;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("it would be refused") && said.err.contains("Untested"), "{said:?}");
    shop.policy(json!({"compatibility": {"pass": ["Supported", "Tested", "Untested"]}})).await?;
    // The policy reaches the webhook by its watch.
    upgrade_sandbox::eventually("the policy to be known", PATIENCE, || async {
        upgrade(&shop, "up", &stages, json!({})).await
    })
    .await?;
    wait_for(shop.upgrades(), "up", ended, PATIENCE).await?;
    Ok(())
}

fn ended(upgrade: Option<&Upgrade>) -> bool {
    upgrade.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase == Phase::Completed)
}
