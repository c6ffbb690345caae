//! Large, and under whatever else acts on a Deployment: disruption budgets and autoscalers.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use upgrade_core::api::{Phase, Upgrade};
use upgrade_sandbox::scenario::{Shop, canary, is_complete, lab};
use upgrade_sandbox::{Sample, wait_for};

/// A thousand pods take their time, and whatever runs beside them waits for the same two cores.
const PATIENCE: Duration = Duration::from_mins(4);

async fn shop() -> Shop {
    lab().await.shop(0).await.expect("a shop")
}

async fn when(shop: &Shop, there: impl Fn(&Upgrade) -> bool + Send) -> Upgrade {
    let there = move |u: Option<&Upgrade>| u.is_some_and(&there);
    wait_for(shop.upgrades(), "up", there, PATIENCE).await.expect("the Upgrade gets there")
}

fn phase(upgrade: &Upgrade) -> Phase {
    upgrade.status.as_ref().map(|s| s.phase).unwrap_or_default()
}

/// At the end, and not in another way than by completing: that would be known at once.
async fn completes(shop: &Shop) {
    let done = when(shop, |u| phase(u).is_terminal()).await;
    assert_eq!(phase(&done), Phase::Completed, "{:?}", done.status);
}

async fn rests(shop: &Shop) {
    let there = |u: &Upgrade| phase(u).is_terminal() || phase(u) == Phase::Paused;
    let rest = when(shop, there).await;
    assert_eq!(phase(&rest), Phase::Paused, "{:?}", rest.status);
}

/// Waits until the Deployment controller has answered a number of replicas.
async fn answered(shop: &Shop, replicas: i32, there: impl Fn(i32) -> bool + Send) {
    let there = move |d: Option<&Deployment>| {
        let Some((d, status)) = d.and_then(|d| d.status.as_ref().map(|s| (d, s))) else {
            return false;
        };
        d.spec.as_ref().and_then(|s| s.replicas) == Some(replicas)
            && status.observed_generation >= d.metadata.generation
            && there(status.replicas.unwrap_or(0))
    };
    wait_for(shop.deployments(), "web", there, PATIENCE).await.expect("an answer");
}

#[tokio::test]
async fn a_thousand_pods_keep_every_promise() {
    const N: usize = 1000;
    let (shop, n) = (shop().await, i32::try_from(N).expect("small"));
    shop.deploy("web", 1, json!({})).await.unwrap();
    let booted = Instant::now();
    shop.scale("web", n).await.unwrap();
    let before = wait_for(shop.deployments(), "web", is_complete, PATIENCE).await.unwrap();
    println!("{N} pods are up after {:?}", booted.elapsed());

    let watch = shop.watch("web").await.unwrap();
    let counter = shop.cluster.count_writes(&shop.namespace, "web").await.unwrap();
    let started = Instant::now();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "50", "100"])).await.unwrap();
    completes(&shop).await;
    let took = started.elapsed();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, n));
    let seen = watch.finish().await.unwrap();
    println!(
        "10, 50, 100 % of {N} pods took {took:?}: {} ready at the least, {} asked for at the most, \
         writes {:?}",
        seen.min_ready,
        seen.max_desired,
        counter.by_user().await.unwrap()
    );
    assert!(seen.min_ready >= N, "{} ready", seen.min_ready);
    // The owner's 25 %; above 100 pods whole percents miss by 1 % of them on either side.
    let most = i32::try_from(N + N / 4 + 2 * (N / 100)).unwrap();
    assert!(seen.max_desired <= most, "{} asked for, {most} are the most", seen.max_desired);
    let last = seen.trace.last().expect("a trace");
    assert_eq!(last.ready_by_image, [("web:v2".to_owned(), N)].into());
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn a_disruption_budget_that_allows_nothing_does_not_stop_an_upgrade() {
    let shop = shop().await;
    let before = shop.deploy("web", 4, json!({})).await.unwrap();
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "all"},
        "spec": {"minAvailable": "100%", "selector": {"matchLabels": {"app": "web"}}},
    }))
    .unwrap();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(shop.client.clone(), &shop.namespace);
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    let counts = |b: Option<&PodDisruptionBudget>| {
        b.and_then(|b| b.status.as_ref()).is_some_and(|s| {
            (s.expected_pods, s.current_healthy, s.disruptions_allowed)
                == (Some(4), Some(4), Some(0))
        })
    };
    wait_for(budgets.clone(), "all", counts, PATIENCE).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2-ready-after-1s", &canary(&["25", "50", "100"]))
        .await
        .unwrap();
    completes(&shop).await;
    assert_eq!(watch.finish().await.unwrap().min_ready, 4, "the budget's promise is kept, too");
    wait_for(budgets, "all", counts, PATIENCE).await.unwrap();
    shop.assert_untouched("web", &before).await.unwrap();
}

/// An autoscaler as people write it. There is no metrics server, so what moves it are its bounds.
async fn autoscaler(shop: &Shop) -> Api<HorizontalPodAutoscaler> {
    let scaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 20,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    }))
    .unwrap();
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(shop.client.clone(), &shop.namespace);
    api.create(&PostParams::default(), &scaler).await.unwrap();
    let works = |h: Option<&HorizontalPodAutoscaler>| {
        let conditions = h.and_then(|h| h.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "AbleToScale" && c.status == "True"))
    };
    wait_for(api.clone(), "web", works, PATIENCE).await.unwrap();
    api
}

#[tokio::test]
async fn an_autoscaler_goes_10_1_10_in_the_middle_of_a_step() {
    const NEW: &str = "web:v2-ready-after-10s";
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    let scaler = autoscaler(&shop).await;
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], NEW, &canary(&["50", "", "100"])).await.unwrap();
    // The first write is done and its pods are ten seconds from being ready.
    answered(&shop, 10, |live| live > 10).await;
    shop.scale("web", 1).await.unwrap();
    answered(&shop, 1, |live| live < 5).await;
    shop.scale("web", 10).await.unwrap();
    let middle = shop.upgrades().get("up").await.unwrap();
    assert_eq!(phase(&middle), Phase::Progressing, "this test is about a step under way");
    answered(&shop, 10, |live| live >= 10).await;
    rests(&shop).await;
    shop.split_is("web", NEW, (5, 5)).await.unwrap();
    let rested = Timestamp::now();

    // At the rest the autoscaler itself writes: its lower bound goes up.
    let bound = Patch::Merge(json!({"spec": {"minReplicas": 16}}));
    scaler.patch("web", &PatchParams::default(), &bound).await.unwrap();
    answered(&shop, 16, |live| live >= 16).await;
    shop.split_is("web", NEW, (8, 8)).await.unwrap();
    let audit = shop.cluster.audit().await.unwrap();
    let wrote = audit.iter().find(|e| {
        e.namespace == shop.namespace
            && e.subresource == "scale"
            && e.user.ends_with(":horizontal-pod-autoscaler")
    });
    assert!(wrote.is_some(), "it was the autoscaler and nobody else");
    let promoted = Timestamp::now();
    shop.promote("up").await.unwrap();
    completes(&shop).await;
    let seen = watch.finish().await.unwrap();

    let count = |by: &std::collections::BTreeMap<String, usize>, image: &str| {
        by.get(image).copied().unwrap_or(0)
    };
    let rest = |s: &&Sample| s.at >= rested && s.at < promoted;
    let over: Vec<_> =
        seen.trace.iter().filter(rest).filter(|s| count(&s.live_by_image, NEW) > 8).collect();
    assert!(over.is_empty(), "over half of 16 at a rest: {over:#?}");
    let none: Vec<_> = seen
        .trace
        .iter()
        .filter(|s| s.at < promoted && count(&s.ready_by_image, "web:v1") == 0)
        .collect();
    assert!(none.is_empty(), "no stable pod before the end: {none:#?}");
    assert!(seen.min_ready >= 1, "{}", seen.min_ready);
    assert_eq!(shop.split("web", NEW).await.unwrap(), (0, 16));
    shop.assert_untouched("web", &before).await.unwrap();
}
