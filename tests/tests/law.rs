//! The in-place law on the real Deployment controller: each row of the table of what goes wrong
//! (DESIGN, "Where the law stops") is a test named after it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use upgrade_core::api::{IN_FLIGHT_LABEL, Phase};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};
use upgrade_sandbox::wait_for;

async fn shop() -> Shop {
    lab().await.shop(0).await.expect("a shop")
}

#[tokio::test]
async fn a_rest_is_paused_and_scaling_10_1_3_with_a_bad_canary_keeps_the_stable_pods() {
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    // Nobody takes it back: the point is what native scaling does to it.
    let stay = json!({"autoRollback": {"onFailure": {"healthCheckFailure": false}}});
    let steps = canary(&["30", "", "60"]);
    shop.upgrade_with("up", &["web"], "web:v2-crash-after-2s", &steps, stay).await.unwrap();
    shop.phase("up", Phase::Degraded).await.unwrap();
    // Said first, then done.
    let paused = |d: Option<&Deployment>| {
        d.and_then(|d| d.spec.as_ref()).is_some_and(|s| s.paused == Some(true))
    };
    wait_for(shop.deployments(), "web", paused, PATIENCE).await.expect("a rest is paused");
    for (n, least) in [(1, 1), (3, 2)] {
        shop.scale("web", n).await.unwrap();
        wait_for(shop.deployments(), "web", settled(n), PATIENCE).await.unwrap();
        let (stable, _) = shop.split("web", "web:v2-crash-after-2s").await.unwrap();
        assert!(stable >= least, "{stable} stable pods of {n}");
    }
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    assert_eq!(shop.split("web", "web:v2-crash-after-2s").await.unwrap(), (3, 0));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn a_canary_over_its_weight_after_10_4_20_10_is_lowered_by_the_reverse_write() {
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.split_is("web", "web:v2", (9, 1)).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    for (n, split) in [(4, (3, 1)), (20, (18, 2)), (10, (9, 1))] {
        shop.scale("web", n).await.unwrap();
        shop.split_is("web", "web:v2", split).await.unwrap();
    }
    let seen = watch.finish().await.unwrap();
    assert!(seen.min_ready_of("web:v1") >= 3, "stable pods: {}", seen.min_ready_of("web:v1"));
    shop.rests_at("up", 1).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn a_paused_rest_at_5_5_over_10_5_10_is_back_at_its_weight() {
    let shop = shop().await;
    shop.deploy("web", 10, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    for (n, split) in [(5, (3, 2)), (10, (5, 5))] {
        shop.scale("web", n).await.unwrap();
        shop.split_is("web", "web:v2", split).await.unwrap();
    }
}

#[tokio::test]
async fn n_of_0_mid_way_puts_the_stable_template_back_so_10_comes_up_stable() {
    for history in [10, 0] {
        let shop = shop().await;
        let before =
            shop.deploy("web", 10, json!({"revisionHistoryLimit": history})).await.unwrap();
        shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "", "100"])).await.unwrap();
        shop.rests_at("up", 1).await.unwrap();
        shop.scale("web", 0).await.unwrap();
        wait_for(shop.deployments(), "web", runs("web:v1"), PATIENCE).await.unwrap();
        let watch = shop.watch("web").await.unwrap();
        shop.scale("web", 10).await.unwrap();
        shop.split_is("web", "web:v2", (5, 5)).await.unwrap();
        let seen = watch.finish().await.unwrap();
        let first = seen.trace.iter().find(|s| s.ready == 10).expect("ten ready pods");
        assert_eq!(first.ready_by_image.get("web:v1"), Some(&10), "10,0 first: {first:?}");
        shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
        shop.phase("up", Phase::Aborted).await.unwrap();
        shop.assert_untouched("web", &before).await.unwrap();
    }
}

#[tokio::test]
async fn no_canary_starts_at_n_of_0() {
    let shop = shop().await;
    shop.deploy("web", 0, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "100"])).await.unwrap();
    let waits = |u: Option<&upgrade_core::api::Upgrade>| {
        u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.message.contains("scaled to 0"))
    };
    wait_for(shop.upgrades(), "up", waits, PATIENCE).await.unwrap();
    let now = shop.deployments().get("web").await.unwrap();
    assert!(runs("web:v1")(Some(&now)), "nothing was written");
    shop.scale("web", 2).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
}

#[tokio::test]
async fn patched_and_never_applied_so_min_ready_seconds_30_stays_and_git_applies_clean() {
    let shop = shop().await;
    let git = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 2, "minReadySeconds": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:v1"}]}}},
    });
    let apply = PatchParams::apply("git");
    shop.deployments().patch("web", &apply, &Patch::Apply(&git)).await.unwrap();
    let before = shop.complete("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "100"])).await.unwrap();
    let done = shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(
        done.status.unwrap().stages[0].targets[0].originals.as_ref().unwrap().min_ready_seconds,
        3
    );
    shop.assert_untouched("web", &before).await.unwrap();
    // Without force: nobody else owns what Git says.
    let mut next = git.clone();
    next["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:v2");
    let applied = shop.deployments().patch("web", &apply, &Patch::Apply(&next)).await.unwrap();
    assert_eq!(applied.spec.unwrap().min_ready_seconds, Some(3));
}

#[tokio::test]
async fn an_abort_under_a_full_quota_with_a_bad_canary_does_not_stall() {
    let shop = shop().await;
    let knobs = json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, "progressDeadlineSeconds": 600});
    let before = shop.deploy("web", 5, knobs).await.unwrap();
    let stay = json!({"autoRollback": {"onFailure": {"healthCheckFailure": false}}});
    let bad = "web:v2-crash-after-3s";
    shop.upgrade_with("up", &["web"], bad, &canary(&["40", "", "100"]), stay).await.unwrap();
    shop.phase("up", Phase::Degraded).await.unwrap();
    let quota: ResourceQuota = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"},
        "spec": {"hard": {"pods": "5"}},
    }))
    .unwrap();
    let quotas: Api<ResourceQuota> = Api::namespaced(shop.client.clone(), &shop.namespace);
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    wait_for(
        quotas,
        "full",
        |q: Option<&ResourceQuota>| {
            q.and_then(|q| q.status.as_ref()).is_some_and(|s| s.used.is_some())
        },
        PATIENCE,
    )
    .await
    .unwrap();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", bad).await.unwrap(), (5, 0));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_starts_only_on_a_complete_rollout() {
    let shop = shop().await;
    shop.deploy("web", 3, json!({})).await.unwrap();
    // A native rollout that is stuck: not an image change, so nobody refuses it.
    let stuck = json!({"spec": {"template": {"spec": {"nodeSelector": {"nowhere": "true"}}}}});
    shop.deployments().patch("web", &PatchParams::default(), &Patch::Merge(&stuck)).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "100"])).await.unwrap();
    let waits = |u: Option<&upgrade_core::api::Upgrade>| {
        u.and_then(|u| u.status.as_ref())
            .is_some_and(|s| s.message.contains("present rollout is not complete"))
    };
    wait_for(shop.upgrades(), "up", waits, PATIENCE).await.unwrap();
    let cured = json!({"spec": {"template": {"spec": {"nodeSelector": null}}}});
    shop.deployments().patch("web", &PatchParams::default(), &Patch::Merge(&cured)).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
}

#[tokio::test]
async fn a_third_template_in_flight_is_refused_and_the_label_survives_undo() {
    let shop = shop().await;
    shop.deploy("web", 10, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["30", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.split_is("web", "web:v2", (7, 3)).await.unwrap();
    let restart =
        json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}});
    let refused =
        shop.deployments().patch("web", &PatchParams::default(), &Patch::Merge(&restart)).await;
    let message = refused.expect_err("a third template").to_string();
    assert!(message.contains("Upgrade up") && message.contains("kubectl upgrade"), "{message}");
    // What `rollout undo` writes: all annotations replaced.
    let annotations =
        json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "2"}}});
    let now = shop
        .deployments()
        .patch("web", &PatchParams::default(), &Patch::Merge(&annotations))
        .await
        .unwrap();
    assert_eq!(now.metadata.labels.unwrap().get(IN_FLIGHT_LABEL).map(String::as_str), Some("up"));
    assert_eq!(
        shop.split("web", "web:v2").await.unwrap(),
        (7, 3),
        "the ready canaries are all there"
    );
}

#[tokio::test]
async fn from_10_to_100_never_exceeds_the_users_max_surge() {
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let seen = watch.finish().await.unwrap();
    assert!(seen.max_desired <= 13, "25 % of 10 is 3 more: {}", seen.max_desired);
    assert!(seen.min_ready >= 10, "{}", seen.min_ready);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn max_surge_0_makes_no_pod_too_many_and_stays_under_max_unavailable() {
    let shop = shop().await;
    let knobs = json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}}});
    let before = shop.deploy("web", 10, knobs).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (5, 5));
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let seen = watch.finish().await.unwrap();
    assert!(
        seen.max_desired <= 10 && seen.min_ready >= 8,
        "{} asked for, {} ready",
        seen.max_desired,
        seen.min_ready
    );
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn recreate_is_one_gated_write() {
    let shop = shop().await;
    let before = shop
        .deploy("web", 3, json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}))
        .await
        .unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 0), "the pause gates the one write");
    let counter = shop.cluster.count_writes(&shop.namespace, "web").await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 3));
    assert_eq!(
        ours(&counter.by_user().await.unwrap()),
        2,
        "the template, and the metadata at the end"
    );
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn above_100_replicas_whole_percents_miss_by_at_most_one_percent_and_say_so() {
    let shop = shop().await;
    let before = shop.deploy("web", 150, json!({})).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["1", "", "50", "", "100"])).await.unwrap();
    let rest = shop.rests_at("up", 1).await.unwrap();
    let (stable, new) = shop.split("web", "web:v2").await.unwrap();
    assert!((1..=3).contains(&new) && stable >= 148, "{stable},{new}");
    let target = rest.status.unwrap().stages[0].targets[0].clone();
    assert_eq!((target.requested_weight, target.effective_weight), (1, 1));
    shop.promote("up").await.unwrap();
    shop.rests_at("up", 3).await.unwrap();
    let (stable, new) = shop.split("web", "web:v2").await.unwrap();
    assert!((75..=77).contains(&new) && stable >= 74, "{stable},{new}");
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let seen = watch.finish().await.unwrap();
    assert!(seen.min_ready >= 150, "{}", seen.min_ready);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn one_replica_keeps_its_stable_pod_beside_the_canary() {
    let shop = shop().await;
    let before = shop.deploy("web", 1, json!({})).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (1, 1));
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let seen = watch.finish().await.unwrap();
    assert_eq!((seen.min_ready, seen.max_desired), (1, 2));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn a_quota_that_blocks_the_surge_stalls_safely_and_is_taken_back() {
    let shop = shop().await;
    let knobs = json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, "progressDeadlineSeconds": 5});
    let before = shop.deploy("web", 4, knobs).await.unwrap();
    let quota: ResourceQuota = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"},
        "spec": {"hard": {"pods": "4"}},
    }))
    .unwrap();
    let quotas: Api<ResourceQuota> = Api::namespaced(shop.client.clone(), &shop.namespace);
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    let used = |q: Option<&ResourceQuota>| {
        q.and_then(|q| q.status.as_ref()).is_some_and(|s| s.used.is_some())
    };
    wait_for(quotas, "full", used, PATIENCE).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["25", "100"])).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap();
    let message = done.status.unwrap().message;
    assert!(message.contains("quota"), "the reason is named: {message}");
    assert_eq!(watch.finish().await.unwrap().min_ready, 4);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn no_strategy_two_strategies_and_kinds_without_a_driver_are_refused() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let both = json!({"rolling": {}, "blueGreen": {"activeService": "web"}});
    for strategy in [json!({}), both] {
        let refused = shop.upgrade("up", &["web"], "web:v2", &strategy).await;
        let message = format!("{:#}", refused.expect_err("no such strategy"));
        let says = "exactly one of `rolling`, `canary` and `blueGreen`";
        assert!(message.contains(says), "{message}");
    }
    for kind in ["CronJob", "Job", "ReplicaSet"] {
        let more = json!({"stages": [{"name": "web", "workloads": {"strategy": {"rolling": {}}, "targets": [
            {"kind": kind, "name": "web", "images": [{"container": "web", "from": "a", "to": "b"}]}]}}]});
        let refused = shop.upgrade_with("up", &[], "web:v2", &json!({"rolling": {}}), more).await;
        let message = format!("{:#}", refused.expect_err("no driver"));
        assert!(message.contains("kind must be Deployment"), "{message}");
    }
}

fn ours(by_user: &std::collections::BTreeMap<String, usize>) -> usize {
    by_user.iter().filter(|(u, _)| u.contains("kubectl-upgrade-system")).map(|(_, n)| n).sum()
}

fn settled(n: i32) -> impl Fn(Option<&Deployment>) -> bool {
    move |d: Option<&Deployment>| {
        let Some(d) = d else { return false };
        let status = d.status.clone().unwrap_or_default();
        status.observed_generation >= d.metadata.generation && status.replicas.unwrap_or(0) <= n + 1
    }
}

fn runs(image: &'static str) -> impl Fn(Option<&Deployment>) -> bool {
    move |d: Option<&Deployment>| {
        d.and_then(|d| d.spec.as_ref())
            .and_then(|s| s.template.spec.as_ref())
            .is_some_and(|s| s.containers.iter().any(|c| c.image.as_deref() == Some(image)))
    }
}
