//! A canary that is a Deployment of its own, on a real control plane: the workload beside it is not
//! touched before the last weight, whatever becomes of the canary.

mod services;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use services::{Clients, serve};
use upgrade_core::api::{LEDGER_NAME, Phase, TargetStatus, Upgrade, UpgradeLedger};
use upgrade_sandbox::scenario::{PATIENCE, Shop, lab};
use upgrade_sandbox::wait::gone;
use upgrade_sandbox::{eventually, wait_for};

const CANARY: &str = "web-canary";
const LABEL: &str = "kubectl-upgrade.dev/canary";

/// Weights, each with a rest after it, by a canary of its own.
fn separate(weights: &[i32]) -> Value {
    let steps: Vec<Value> =
        weights.iter().flat_map(|w| [json!({"setWeight": w}), json!({"pause": {}})]).collect();
    json!({"canary": {"separate": {}, "steps": steps}})
}

async fn shop(replicas: i32) -> (Shop, Deployment) {
    let shop = lab().await.shop(0).await.expect("a shop");
    let web = shop.deploy("web", replicas, json!({})).await.expect("web");
    (shop, web)
}

fn target(upgrade: &Upgrade) -> TargetStatus {
    let status = upgrade.status.clone().expect("a status");
    status.stages[0].targets[0].clone()
}

/// Rests at this step with so many canary pods, all of them available.
async fn rests(shop: &Shop, step: i32, canary: i32) -> Upgrade {
    let there = move |u: Option<&Upgrade>| {
        u.and_then(|u| u.status.as_ref()).is_some_and(|s| {
            let ready = s.stages.first().and_then(|s| s.targets.first()).map(|t| t.canary_ready);
            s.phase == Phase::Paused && s.current_step_index == step && ready == Some(canary)
        })
    };
    wait_for(shop.upgrades(), "up", there, PATIENCE).await.expect("the rest")
}

/// The spec of `web` is to the letter what it was, but for the replicas.
async fn untouched_yet(shop: &Shop, before: &Deployment) {
    let without = |d: &Deployment| {
        let mut spec = d.spec.clone().expect("a spec");
        spec.replicas = None;
        spec
    };
    let now = shop.deployments().get("web").await.expect("web");
    assert_eq!(without(&now), without(before));
}

/// It is over, and nothing of it is left.
async fn ends(shop: &Shop, phase: Phase, before: &Deployment) -> Upgrade {
    let ended = shop.phase("up", phase).await.expect("the end");
    gone(shop.deployments(), CANARY, PATIENCE).await.expect("the canary goes");
    shop.assert_untouched("web", before).await.expect("web");
    ended
}

fn ns<K>(shop: &Shop) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(shop.client.clone(), &shop.namespace)
}

#[tokio::test]
async fn weights_go_up_and_down_and_the_workload_is_written_with_the_last_one() {
    let (shop, before) = shop(10).await;
    let watch = shop.watch("web").await.unwrap();
    let counter = shop.cluster.count_writes(&shop.namespace, "web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &separate(&[20, 50, 10])).await.unwrap();
    for (step, weight, canary, effective) in [(1, 20, 2, 17), (3, 50, 5, 33), (5, 10, 1, 9)] {
        let rest = rests(&shop, step, canary).await;
        let target = target(&rest);
        assert_eq!((target.requested_weight, target.effective_weight), (weight, effective));
        assert_eq!((target.stable, target.canary), (10, canary));
        assert_eq!(rest.status.unwrap().canary_weight, effective);
        shop.split_is("web", "web:v2", (10, 0)).await.unwrap();
        untouched_yet(&shop, &before).await;
        let now = shop.deployments().get("web").await.unwrap();
        assert_eq!(now.metadata.generation, before.metadata.generation, "no write to its spec");
        shop.promote("up").await.unwrap();
    }
    ends(&shop, Phase::Completed, &before).await;
    shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 10));
    // The last step is the workload's own rolling update, by its own maxUnavailable.
    assert!(watch.finish().await.unwrap().min_ready >= 8);
    println!("writes to web: {:?}", counter.by_user().await.unwrap());
    let ledger: Api<UpgradeLedger> = ns(&shop);
    let entries = ledger.get(LEDGER_NAME).await.unwrap().spec.entries;
    assert!(entries.iter().all(|e| e.name != CANARY), "{entries:?}");
}

#[tokio::test]
async fn neither_its_scale_nor_its_budget_nor_its_service_counts_the_canary() {
    let (shop, before) = shop(4).await;
    serve(&shop, "web").await.unwrap();
    let clients = Clients::watch(&shop, "web", 4).await.unwrap();
    let old = clients.one(4).await.unwrap();
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}}))
    .unwrap();
    ns::<PodDisruptionBudget>(&shop).create(&PostParams::default(), &budget).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &separate(&[50])).await.unwrap();
    rests(&shop, 1, 2).await;
    let scale: Scale = shop.deployments().get_scale("web").await.unwrap();
    let selector = scale.status.and_then(|s| s.selector).unwrap();
    let pods = ns::<Pod>(&shop).list(&ListParams::default().labels(&selector)).await.unwrap();
    assert_eq!(pods.items.len(), 4, "what an HPA counts: {selector}");
    let counts = |b: Option<&PodDisruptionBudget>| {
        b.and_then(|b| b.status.as_ref())
            .is_some_and(|s| (s.expected_pods, s.current_healthy) == (Some(4), Some(4)))
    };
    wait_for(ns(&shop), "web", counts, PATIENCE).await.unwrap();
    clients.is(&old, 4).await.unwrap();
    assert_eq!(clients.mixed(), std::time::Duration::ZERO, "no client of `web` met the canary");
    let canary = shop.deployments().get(CANARY).await.unwrap();
    let labels = canary.spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert_eq!(json!(labels), json!({"app": CANARY, LABEL: "web"}));
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    ends(&shop, Phase::Aborted, &before).await;
    assert_eq!(clients.least(), 4);
}

#[tokio::test]
async fn labels_decide_which_services_reach_the_canary() {
    let shop = lab().await.shop(0).await.unwrap();
    let track = json!({"app": "web", "track": "stable"});
    let template = json!({"metadata": {"labels": track}});
    let spec = json!({"selector": {"matchLabels": track}, "template": template});
    let before = shop.deploy("web", 4, spec).await.unwrap();
    serve(&shop, "web").await.unwrap();
    let clients = Clients::watch(&shop, "web", 4).await.unwrap();
    let mut strategy = separate(&[50]);
    strategy["canary"]["separate"]["labels"] = json!({"track": "canary"});
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    rests(&shop, 1, 2).await;
    eventually("endpoints of both", PATIENCE, || async {
        let now: Vec<usize> = clients.now().into_values().collect();
        anyhow::ensure!(now == [2, 4] || now == [4, 2], "{now:?}");
        Ok(())
    })
    .await
    .unwrap();
    shop.promote("up").await.unwrap();
    ends(&shop, Phase::Completed, &before).await;
    assert!(clients.least() >= 3, "{}", clients.least());

    // What would put the canary into the workload's own selector is refused, and nothing is touched.
    let before = shop.complete("web").await.unwrap();
    strategy["canary"]["separate"]["labels"] = json!({"team": "a"});
    let swap = json!({"stages": [{"name": "web", "workloads": {"strategy": strategy, "targets": [
        {"kind": "Deployment", "name": "web",
         "images": [{"container": "web", "from": "web:v2", "to": "web:v3"}]}]}}]});
    shop.upgrade_with("bad", &[], "web:v3", &strategy, swap).await.unwrap();
    let ended = shop.phase("bad", Phase::RolledBack).await.unwrap().status.unwrap();
    assert!(ended.message.contains("would still match its selector"), "{}", ended.message);
    assert_eq!(shop.deployments().get("web").await.unwrap().spec, before.spec);
}

#[tokio::test]
async fn it_follows_every_change_of_scale_and_goes_with_its_upgrade() {
    let (shop, before) = shop(10).await;
    let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"minReplicas": 1, "maxReplicas": 20,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}))
    .unwrap();
    let hpas = ns::<HorizontalPodAutoscaler>(&shop);
    let hpa = hpas.create(&PostParams::default(), &hpa).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &separate(&[30])).await.unwrap();
    rests(&shop, 1, 3).await;
    for (n, canary) in [(20, 6), (4, 1), (0, 1), (10, 3)] {
        shop.scale("web", n).await.unwrap();
        shop.split_is("web", "web:v2", (n, 0)).await.unwrap();
        rests(&shop, 1, canary).await;
        let seen = shop.deployments().get(CANARY).await.unwrap().spec.unwrap().replicas;
        assert_eq!(seen, Some(canary), "of {n}");
    }
    untouched_yet(&shop, &before).await;
    assert_eq!(
        hpas.get("web").await.unwrap().spec,
        hpa.spec,
        "an autoscaler is nobody's to change"
    );
    shop.upgrades().delete("up", &DeleteParams::default()).await.unwrap();
    gone(shop.upgrades(), "up", PATIENCE).await.unwrap();
    gone(shop.deployments(), CANARY, PATIENCE).await.unwrap();
    shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (10, 0));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn it_begins_beside_a_workload_of_no_pods() {
    let (shop, before) = shop(1).await;
    shop.scale("web", 0).await.unwrap();
    shop.split_is("web", "web:v2", (0, 0)).await.unwrap();
    shop.complete("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &separate(&[30])).await.unwrap();
    rests(&shop, 1, 1).await;
    shop.promote("up").await.unwrap();
    ends(&shop, Phase::Completed, &before).await;
    shop.scale("web", 2).await.unwrap();
    shop.split_is("web", "web:v2", (0, 2)).await.unwrap();
}

#[tokio::test]
async fn what_has_its_name_already_is_left_alone_and_nothing_is_touched() {
    let (shop, before) = shop(3).await;
    let theirs = shop.deploy(CANARY, 2, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &separate(&[30])).await.unwrap();
    let ended = shop.phase("up", Phase::RolledBack).await.unwrap().status.unwrap();
    for part in ["there is a Deployment web-canary already", "nothing of it was touched"] {
        assert!(ended.message.contains(part), "{}", ended.message);
    }
    let now = shop.deployments().get(CANARY).await.unwrap();
    assert_eq!((now.uid(), &now.spec), (theirs.uid(), &theirs.spec));
    let web = shop.deployments().get("web").await.unwrap();
    assert_eq!(web.metadata.managed_fields, before.metadata.managed_fields, "not even a label");
}

#[tokio::test]
async fn a_quota_and_a_canary_that_never_gets_ready_cost_the_workload_nothing() {
    for what in ["quota", "never ready"] {
        let shop = lab().await.shop(0).await.unwrap();
        let before = shop.deploy("web", 4, json!({"progressDeadlineSeconds": 3})).await.unwrap();
        let watch = shop.watch("web").await.unwrap();
        let image = if what == "quota" { "web:v2" } else { "web:v2-never-ready" };
        if what == "quota" {
            let quota: ResourceQuota = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"},
                "spec": {"hard": {"pods": "5"}}}))
            .unwrap();
            ns::<ResourceQuota>(&shop).create(&PostParams::default(), &quota).await.unwrap();
            let counted = |q: Option<&ResourceQuota>| {
                q.and_then(|q| q.status.as_ref()).is_some_and(|s| s.used.is_some())
            };
            wait_for(ns(&shop), "pods", counted, PATIENCE).await.unwrap();
        }
        shop.upgrade("up", &["web"], image, &separate(&[50])).await.unwrap();
        let ended = ends(&shop, Phase::RolledBack, &before).await.status.unwrap();
        assert!(ended.message.contains("made no progress for 3 s"), "{what}: {}", ended.message);
        if what == "quota" {
            assert!(ended.message.contains("quota"), "{}", ended.message);
        }
        untouched_yet(&shop, &before).await;
        assert_eq!(watch.finish().await.unwrap().min_ready, 4, "{what}");
    }
}

#[tokio::test]
async fn a_rollout_that_fails_after_the_canary_is_taken_back_and_the_canary_goes() {
    let shop = lab().await.shop(0).await.unwrap();
    let before = shop.deploy("web", 4, json!({"progressDeadlineSeconds": 15})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &separate(&[25])).await.unwrap();
    rests(&shop, 1, 1).await;
    // From now on there is room for no more pods.
    let quota: ResourceQuota = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"},
        "spec": {"hard": {"pods": "1"}}}))
    .unwrap();
    ns::<ResourceQuota>(&shop).create(&PostParams::default(), &quota).await.unwrap();
    let counted = |q: Option<&ResourceQuota>| {
        q.and_then(|q| q.status.as_ref()).is_some_and(|s| s.used.is_some())
    };
    wait_for(ns(&shop), "pods", counted, PATIENCE).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::RollingBack).await.unwrap();
    gone(shop.deployments(), CANARY, PATIENCE).await.unwrap();
    ns::<ResourceQuota>(&shop).delete("pods", &DeleteParams::default()).await.unwrap();
    ends(&shop, Phase::RolledBack, &before).await;
    shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
}

#[tokio::test]
async fn nobody_else_makes_or_changes_a_canary() {
    let (shop, _) = shop(4).await;
    let made = |name: &str, app: &str, labels: Value| -> Deployment {
        serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": {"matchLabels": {"app": app}}, "template": {
                "metadata": {"labels": {"app": app}},
                "spec": {"containers": [{"name": "web", "image": "web:v2"}]}}}}))
        .unwrap()
    };
    let refused = |result: kube::Result<Deployment>, why: &str| {
        let text = result.expect_err(why).to_string();
        assert!(text.contains(why), "{text}");
    };
    let create =
        async |object: &Deployment| shop.deployments().create(&PostParams::default(), object).await;
    refused(create(&made(CANARY, "web", json!({LABEL: "web"}))).await, "SelectorTaken");
    shop.upgrade("up", &["web"], "web:v2", &separate(&[25])).await.unwrap();
    rests(&shop, 1, 1).await;
    let ours = json!({LABEL: "web", "kubectl-upgrade.dev/upgrade": "up"});
    refused(create(&made("other-canary", "other", ours)).await, "LabelReserved");
    let change = async |name: &str, spec: Value| {
        let patch = Patch::Strategic(json!({ "spec": spec }));
        shop.deployments().patch(name, &PatchParams::default(), &patch).await
    };
    let image = |image: &str| json!({"template": {"spec": {"containers": [{"name": "web", "image": image}]}}});
    for name in ["web", CANARY] {
        refused(change(name, image("web:v3")).await, "InFlight");
    }
    // Scaled by hand it comes back to its weight.
    shop.scale(CANARY, 4).await.unwrap();
    let back = |d: Option<&Deployment>| {
        d.and_then(|d| d.spec.as_ref()).and_then(|s| s.replicas) == Some(1)
    };
    wait_for(shop.deployments(), CANARY, back, PATIENCE).await.unwrap();
    // Deleted by hand it is made again.
    let first = shop.deployments().get(CANARY).await.unwrap().uid();
    shop.deployments().delete(CANARY, &DeleteParams::default()).await.unwrap();
    let again = move |d: Option<&Deployment>| d.is_some_and(|d| d.uid() != first);
    wait_for(shop.deployments(), CANARY, again, PATIENCE).await.unwrap();
    rests(&shop, 1, 1).await;
}

#[tokio::test]
async fn its_requester_could_have_made_sized_and_deleted_it() {
    let (shop, _) = shop(2).await;
    let who = format!("carl-{}", shop.namespace);
    let grant = async |verbs: &[&str]| {
        let role: Role = serde_json::from_value(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "carl"}, "rules": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": verbs},
                {"apiGroups": ["kubectl-upgrade.dev"], "resources": ["upgrades"], "verbs": ["create"]}]}))
        .unwrap();
        let params = PatchParams::apply("test").force();
        ns::<Role>(&shop).patch("carl", &params, &Patch::Apply(&role)).await.unwrap();
    };
    grant(&["patch"]).await;
    let binding: RoleBinding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "carl"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "carl"},
        "subjects": [{"kind": "User", "name": who, "apiGroup": "rbac.authorization.k8s.io"}]}))
    .unwrap();
    ns::<RoleBinding>(&shop).create(&PostParams::default(), &binding).await.unwrap();
    let client = shop.cluster.client_for(&who, &[]).await.unwrap();
    let carl = Shop { client, cluster: shop.cluster, namespace: shop.namespace.clone() };
    let asked = async || {
        let refused = carl.upgrade("up", &["web"], "web:v2", &separate(&[50])).await;
        refused.map(drop).map_err(|e| format!("{e:#}"))
    };
    for (verbs, lacks) in [
        (vec!["patch"], "`create` on deployments.apps in"),
        (vec!["patch", "create"], "`delete` on deployments.apps/web-canary in"),
    ] {
        grant(&verbs).await;
        eventually("the refusal", PATIENCE, || async {
            let said = asked().await.expect_err("accepted");
            anyhow::ensure!(said.contains("AccessDenied") && said.contains(lacks), "{said}");
            Ok(())
        })
        .await
        .unwrap();
    }
    grant(&["patch", "create", "delete"]).await;
    eventually("the right", PATIENCE, || async { asked().await.map_err(anyhow::Error::msg) })
        .await
        .unwrap();
    rests(&shop, 1, 1).await;
}

#[tokio::test]
async fn the_api_says_what_does_not_go_together() {
    let (shop, _) = shop(1).await;
    let with = |more: Value| {
        let mut strategy = separate(&[20]);
        for (key, value) in more.as_object().expect("a map") {
            strategy["canary"][key.as_str()] = value.clone();
        }
        strategy
    };
    let down = json!({"steps": [{"setWeight": 50}, {"setWeight": 20}]});
    let mut in_place = with(down.clone());
    in_place["canary"].as_object_mut().unwrap().remove("separate");
    let router = json!({"trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}});
    for (strategy, why) in [
        (in_place, "setWeight must not go down"),
        (with(router), "separate goes without trafficRouting"),
        (with(json!({"canaryService": "web-new"})), "separate goes without trafficRouting"),
    ] {
        let error = shop.upgrade("up", &["web"], "web:v2", &strategy).await.expect_err(why);
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
    shop.upgrade("up", &["web"], "web:v2", &with(down)).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
}
