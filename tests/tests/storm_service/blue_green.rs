//! Blue-green of native Deployments on a real control plane: what the clients of the active Service
//! can reach is read from the watch of its EndpointSlices.

use crate::services::{self, Clients, apply, assert_given_back, hash, serve, services};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use upgrade_core::api::{BlueGreenPhase, BlueGreenStatus, Phase, Upgrade};
use upgrade_sandbox::scenario::{PATIENCE, Shop, lab};
use upgrade_sandbox::wait::gone;
use upgrade_sandbox::{eventually, wait_for};

const US: &str = "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook";
const HPA: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";

/// The strategy, with `web` as the active Service.
fn blue_green(more: Value) -> Value {
    let mut settings = json!({"activeService": "web", "scaleDownDelaySeconds": 0});
    let more: serde_json::Map<String, Value> = serde_json::from_value(more).expect("an object");
    settings.as_object_mut().expect("an object").extend(more);
    json!({"blueGreen": settings})
}

fn by_hand() -> Value {
    blue_green(json!({"autoPromotionEnabled": false}))
}

/// A Deployment `web` of so many pods behind a Service `web`, and its clients.
async fn shop(replicas: i32) -> (Shop, Clients) {
    let shop = lab().await.shop(0).await.expect("a shop");
    shop.deploy("web", replicas, json!({})).await.expect("web");
    serve(&shop, "web").await.expect("a Service");
    let clients = Clients::watch(&shop, "web", usize::try_from(replicas).expect("few"))
        .await
        .expect("a watch");
    (shop, clients)
}

fn state(upgrade: &Upgrade) -> BlueGreenStatus {
    let target = upgrade.status.as_ref().and_then(|s| s.stages.first()?.targets.first().cloned());
    target.and_then(|t| t.blue_green).unwrap_or_default()
}

async fn reaches(shop: &Shop, phase: BlueGreenPhase) -> Upgrade {
    let there = move |u: Option<&Upgrade>| u.is_some_and(|u| state(u).phase == phase);
    wait_for(shop.upgrades(), "up", there, PATIENCE).await.expect("the phase")
}

/// At rest with its preview.
async fn previewed(shop: &Shop, strategy: &Value) -> Upgrade {
    shop.upgrade("up", &["web"], "web:v2", strategy).await.expect("an Upgrade");
    shop.phase("up", Phase::Paused).await.expect("a rest")
}

/// One version at every moment, and never fewer endpoints than that.
fn unharmed(clients: &Clients, least: usize) {
    assert!(clients.least() >= least, "{} endpoints, {least} promised", clients.least());
    assert_eq!(clients.mixed(), Duration::ZERO, "endpoints of both versions");
}

async fn ends(shop: &Shop, phase: Phase) -> Upgrade {
    let ended = shop.phase("up", phase).await.expect("the end");
    assert_given_back(shop, "web").await.expect("the Service");
    assert!(services(shop).get_opt("web-preview").await.expect("a read").is_none(), "preview left");
    ended
}

#[tokio::test]
async fn d2_active_and_preview_service_are_pinned_switched_and_given_back() {
    let (shop, clients) = shop(4).await;
    let before = shop.deployments().get("web").await.unwrap();
    serve(&shop, "next").await.unwrap();
    let old = clients.one(4).await.unwrap();
    let strategy = blue_green(json!({"autoPromotionEnabled": false, "previewService": "next"}));
    let rest = previewed(&shop, &strategy).await;
    let seen = state(&rest);
    assert_eq!(seen.phase, BlueGreenPhase::PrePromotion);
    assert_eq!(rest.status.unwrap().canary_weight, 0);
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 4));
    assert_eq!(hash(&shop, "web").await.unwrap(), Some(old.clone()));
    let new = seen.new_hash.expect("a hash");
    assert_eq!(hash(&shop, "next").await.unwrap(), Some(new.clone()));
    assert_ne!(new, old);
    let preview = Clients::watch(&shop, "next", 4).await.unwrap();
    assert_eq!(preview.one(4).await.unwrap(), new);
    shop.promote("up").await.unwrap();
    let done = ends(&shop, Phase::Completed).await;
    assert!(state(&done).switched_at.is_some());
    assert_given_back(&shop, "next").await.unwrap();
    assert_eq!(clients.one(4).await.unwrap(), new);
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 4));
    unharmed(&clients, 4);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn d2_auto_promotion_switches_after_its_seconds_and_the_preview_that_was_made_goes() {
    let (shop, clients) = shop(3).await;
    let strategy = blue_green(json!({"autoPromotionSeconds": 2}));
    let rest = previewed(&shop, &strategy).await;
    let made = services(&shop).get("web-preview").await.unwrap();
    let owner = made.metadata.owner_references.unwrap().remove(0);
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Deployment", "web"));
    assert!(rest.status.unwrap().next_transition_time.is_some(), "it says when");
    ends(&shop, Phase::Completed).await;
    unharmed(&clients, 3);
}

#[tokio::test]
async fn d2_scale_down_delay_keeps_the_old_pods_after_the_switch() {
    let (shop, clients) = shop(3).await;
    let old = clients.one(3).await.unwrap();
    let strategy = blue_green(json!({"scaleDownDelaySeconds": 8}));
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    let seen = reaches(&shop, BlueGreenPhase::ScaleDownDelay).await;
    let new = state(&seen).new_hash.expect("a hash");
    assert_ne!(new, old);
    clients.is(&new, 3).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 3));
    assert_eq!(seen.status.as_ref().unwrap().canary_weight, 100);
    let since = state(&seen).delayed_since.unwrap().0;
    let done = ends(&shop, Phase::Completed).await;
    let end = done.status.unwrap().completion_time.unwrap().0;
    assert!(end.duration_since(since).as_secs() >= 7, "{since} to {end}");
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 3));
    unharmed(&clients, 3);
}

#[tokio::test]
async fn d2_preview_replica_count_is_all_of_them_before_the_switch() {
    let (shop, clients) = shop(5).await;
    let strategy = blue_green(json!({"autoPromotionEnabled": false, "previewReplicaCount": 2}));
    previewed(&shop, &strategy).await;
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (5, 2));
    shop.promote("up").await.unwrap();
    ends(&shop, Phase::Completed).await;
    unharmed(&clients, 5);
}

#[tokio::test]
async fn a1_blue_green_by_the_plugin_is_started_looked_at_and_promoted() {
    let lab = lab().await;
    let (shop, clients) = shop(2).await;
    let run = async |words: &str| {
        let words: Vec<&str> = words.split(' ').chain(["-n", &shop.namespace]).collect();
        let said = lab.plugin(lab.cluster.kubeconfig().to_owned(), &words).await.expect("it runs");
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (said.status.code(), text(&said.stdout) + &text(&said.stderr))
    };
    let start = "start deploy/web --image web=web:v2 --strategy blueGreen --active-service web \
                 --auto-promotion=false --scale-down-delay 0s --name up";
    let (code, said) = run(start).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("DoubleCapacity") || said.contains("twice as many"), "{said}");
    shop.phase("up", Phase::Paused).await.unwrap();
    let (_, said) = run("status up").await;
    assert!(said.contains("web: old pods, web-preview: new pods (PrePromotion)"), "{said}");
    let (code, said) = run("promote up").await;
    assert_eq!(code, Some(0), "{said}");
    ends(&shop, Phase::Completed).await;
    unharmed(&clients, 2);
}

#[tokio::test]
async fn e3_blue_green_is_the_third_strategy_that_policies_know() {
    let (shop, clients) = shop(2).await;
    shop.policy(json!({"strategies": ["blueGreen"]})).await.unwrap();
    let image = json!({"container": "web", "from": "web:v1", "to": "web:v2"});
    let target = json!({"kind": "Deployment", "name": "web", "images": [image]});
    let other: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "other"}, "spec": {"stages": [{"name": "web",
            "workloads": {"strategy": {"rolling": {}}, "targets": [target]}}]},
    }))
    .unwrap();
    // On trial: taken before the policy is heard of, it would begin.
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the policy to hold", PATIENCE, || async {
        let other = shop.upgrades().create(&trial, &other).await;
        let refused = other.err().map(|e| e.to_string()).unwrap_or_default();
        anyhow::ensure!(refused.contains("(StrategyNotAllowed)"), "{refused}");
        anyhow::ensure!(refused.contains("use `blueGreen`"), "{refused}");
        Ok(())
    })
    .await
    .unwrap();
    shop.upgrade("up", &["web"], "web:v2", &blue_green(json!({}))).await.unwrap();
    ends(&shop, Phase::Completed).await;
    unharmed(&clients, 2);
}

#[tokio::test]
async fn d2_abort_before_the_switch_no_client_notices() {
    let (shop, clients) = shop(4).await;
    let before = shop.deployments().get("web").await.unwrap();
    previewed(&shop, &by_hand()).await;
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    ends(&shop, Phase::Aborted).await;
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    unharmed(&clients, 4);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn d2_abort_after_the_switch_sends_clients_back_before_any_pod_goes() {
    let (shop, clients) = shop(4).await;
    let before = shop.deployments().get("web").await.unwrap();
    let old = clients.one(4).await.unwrap();
    let strategy = blue_green(json!({"scaleDownDelaySeconds": 600}));
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    reaches(&shop, BlueGreenPhase::ScaleDownDelay).await;
    assert_ne!(clients.one(4).await.unwrap(), old);
    let asked = Instant::now();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    clients.is(&old, 4).await.unwrap();
    println!("clients were back after {:?}", asked.elapsed());
    ends(&shop, Phase::Aborted).await;
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    unharmed(&clients, 4);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn d2_new_pods_that_never_become_ready_get_no_client() {
    let shop = lab().await.shop(0).await.unwrap();
    shop.deploy("web", 3, json!({"progressDeadlineSeconds": 3})).await.unwrap();
    serve(&shop, "web").await.unwrap();
    let clients = Clients::watch(&shop, "web", 3).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2-never-ready", &blue_green(json!({}))).await.unwrap();
    ends(&shop, Phase::RolledBack).await;
    unharmed(&clients, 3);
}

#[tokio::test]
async fn d2_deleting_the_upgrade_in_flight_puts_services_and_pods_back() {
    let (shop, clients) = shop(3).await;
    let before = shop.deployments().get("web").await.unwrap();
    previewed(&shop, &by_hand()).await;
    shop.upgrades().delete("up", &DeleteParams::default()).await.unwrap();
    gone(shop.upgrades(), "up", PATIENCE).await.unwrap();
    assert_given_back(&shop, "web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 0));
    unharmed(&clients, 3);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn a_service_applied_again_keeps_its_selector_and_follows_git_afterwards() {
    let (shop, clients) = shop(3).await;
    apply(&shop, "git", "web").await.unwrap();
    let old = clients.one(3).await.unwrap();
    previewed(&shop, &by_hand()).await;
    let kept = apply(&shop, "git", "web").await.unwrap();
    let selector = kept.spec.unwrap().selector.unwrap();
    assert_eq!(selector.get("pod-template-hash"), Some(&old), "the webhook keeps it");
    let replaced = json!({"spec": {"selector": {"app": "elsewhere"}}});
    let patch = PatchParams::default();
    services(&shop).patch("web", &patch, &Patch::Merge(replaced)).await.unwrap();
    assert_eq!(hash(&shop, "web").await.unwrap(), Some(old));
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_given_back(&shop, "web").await.unwrap();
    apply(&shop, "git", "web").await.unwrap();
    unharmed(&clients, 3);
}

#[tokio::test]
async fn a_selector_that_gets_past_the_webhook_is_put_back_at_once_and_empties_nothing() {
    let (shop, clients) = shop(3).await;
    let old = clients.one(3).await.unwrap();
    previewed(&shop, &by_hand()).await;
    // As us, so that admission lets it pass: as if no replica of it answered.
    let written = Instant::now();
    let client = shop.cluster.client_for(US, &["system:masters"]).await.unwrap();
    let api: Api<Service> = Api::namespaced(client, &shop.namespace);
    let bare = services::manifest("web")["spec"]["selector"].clone();
    let patch = json!([{"op": "replace", "path": "/spec/selector", "value": bare}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).unwrap());
    api.patch("web", &PatchParams::default(), &patch).await.unwrap();
    let again = |s: Option<&Service>| {
        let selector = s.and_then(|s| s.spec.as_ref()?.selector.as_ref());
        selector.and_then(|s| s.get("pod-template-hash")) == Some(&old)
    };
    wait_for(services(&shop), "web", again, PATIENCE).await.unwrap();
    let lasted = written.elapsed();
    println!("a wrong selector lasted {lasted:?}, endpoints of both {:?}", clients.mixed());
    assert!(lasted < Duration::from_secs(20), "{lasted:?}");
    assert!(clients.least() >= 3, "{} endpoints", clients.least());
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    ends(&shop, Phase::Aborted).await;
}

#[tokio::test]
async fn an_autoscaler_that_scales_mid_way_leaves_all_of_the_new_number_serving() {
    let (shop, clients) = shop(6).await;
    let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"minReplicas": 1, "maxReplicas": 20,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}))
    .unwrap();
    let hpas: Api<HorizontalPodAutoscaler> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let hpa = hpas.create(&PostParams::default(), &hpa).await.unwrap();
    previewed(&shop, &by_hand()).await;
    let client = shop.cluster.client_for(HPA, &["system:masters"]).await.unwrap();
    let scaler: Api<k8s_openapi::api::apps::v1::Deployment> =
        Api::namespaced(client, &shop.namespace);
    for n in [3, 8, 4] {
        let scale = Patch::Merge(json!({"spec": {"replicas": n}}));
        scaler.patch_scale("web", &PatchParams::default(), &scale).await.unwrap();
        shop.split_is("web", "web:v2", (n, n)).await.unwrap();
        clients.one(usize::try_from(n).unwrap()).await.unwrap();
    }
    shop.phase("up", Phase::Paused).await.unwrap();
    shop.promote("up").await.unwrap();
    ends(&shop, Phase::Completed).await;
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 4));
    unharmed(&clients, 3);
    let now = hpas.get("web").await.unwrap();
    assert_eq!(now.spec, hpa.spec, "an autoscaler is nobody's to change");
}

#[tokio::test]
async fn whoever_may_not_patch_the_service_may_not_have_it_switched() {
    let (shop, _clients) = shop(1).await;
    shop.employ("devs").await.unwrap();
    let upgrade = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "up"}, "spec": {"stages": [{"name": "web", "workloads": {
            "strategy": blue_green(json!({})), "targets": [{"kind": "Deployment", "name": "web",
                "images": [{"container": "web", "from": "web:v1", "to": "web:v2"}]}]}}]}});
    let upgrade: Upgrade = serde_json::from_value(upgrade).unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "deployers"}, "rules": [
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]},
            {"apiGroups": ["kubectl-upgrade.dev"], "resources": ["upgrades"], "verbs": ["create"]}]});
    let roles: Api<k8s_openapi::api::rbac::v1::Role> =
        Api::namespaced(shop.client.clone(), &shop.namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "deployers"}, "subjects": [{"kind": "User", "name": "dora",
            "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployers"}});
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> =
        Api::namespaced(shop.client.clone(), &shop.namespace);
    bindings
        .create(&PostParams::default(), &serde_json::from_value(binding).unwrap())
        .await
        .unwrap();
    let dora = shop.cluster.client_for("dora", &[]).await.unwrap();
    let theirs: Api<Upgrade> = Api::namespaced(dora, &shop.namespace);
    eventually("the refusal", PATIENCE, || async {
        let refused = theirs.create(&PostParams::default(), &upgrade).await;
        let said = refused.err().map(|e| e.to_string()).unwrap_or_default();
        anyhow::ensure!(said.contains("`patch` on services/web in namespace"), "{said}");
        Ok(())
    })
    .await
    .unwrap();
    let ann = shop.cluster.client_for("ann", &["devs"]).await.unwrap();
    let theirs: Api<Upgrade> = Api::namespaced(ann, &shop.namespace);
    theirs.create(&PostParams::default(), &upgrade).await.expect("who may edit may");
    ends(&shop, Phase::Completed).await;
}

#[tokio::test]
async fn what_cannot_be_switched_is_refused_in_words_and_not_touched() {
    let shop = lab().await.shop(0).await.unwrap();
    shop.deploy("web", 1, json!({})).await.unwrap();
    let zero = json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}});
    shop.deploy("full", 1, zero).await.unwrap();
    shop.deploy("all", 1, json!({"strategy": {"type": "Recreate"}})).await.unwrap();
    for (target, says) in [
        ("web", "there is no Service web (activeService)"),
        ("full", "its maxSurge is 0"),
        ("all", "its strategy is Recreate"),
    ] {
        if target == "full" {
            serve(&shop, "web").await.unwrap();
        }
        let before = shop.deployments().get(target).await.unwrap();
        shop.upgrade(target, &[target], "web:v2", &blue_green(json!({}))).await.unwrap();
        let ended = shop.phase(target, Phase::RolledBack).await.unwrap();
        let said = ended.status.unwrap().message;
        assert!(said.contains(says), "{said}");
        let after = shop.deployments().get(target).await.unwrap();
        assert_eq!(before.metadata.generation, after.metadata.generation, "{target}");
    }
    assert_given_back(&shop, "web").await.unwrap();
}
