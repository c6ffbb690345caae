//! The main job on the real API server: an Upgrade from start to end, steered by people.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use upgrade_core::api::{LEDGER_NAME, Phase, UpgradeLedger};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};
use upgrade_sandbox::{wait, wait_for};

async fn shop() -> Shop {
    lab().await.shop(0).await.expect("a shop")
}

#[tokio::test]
async fn a_canary_of_s_steps_costs_s_plus_1_writes_and_one_of_metadata() {
    let shop = shop().await;
    let before = shop.deploy("web", 20, json!({})).await.unwrap();
    let counter = shop.cluster.count_writes(&shop.namespace, "web").await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "30", "50", "75", "100"]))
        .await
        .unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let writes = counter.writes().await.unwrap();
    let spec = |w: &&upgrade_sandbox::AuditEvent| {
        w.request.as_ref().is_some_and(|r| r.to_string().contains("/spec/"))
    };
    let (of_spec, of_metadata): (Vec<_>, Vec<_>) =
        writes.iter().filter(|w| w.user.contains("upgrade-webhook")).partition(spec);
    assert_eq!((of_spec.len(), of_metadata.len()), (6, 1), "{writes:#?}");
    assert_eq!(watch.finish().await.unwrap().min_ready, 20);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn each_rest_costs_two_writes_more() {
    let shop = shop().await;
    shop.deploy("web", 20, json!({})).await.unwrap();
    let counter = shop.cluster.count_writes(&shop.namespace, "web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "1s", "30", "1s", "50", "75"]))
        .await
        .unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let writes = counter.by_user().await.unwrap();
    let ours: usize =
        writes.iter().filter(|(u, _)| u.contains("upgrade-webhook")).map(|(_, n)| n).sum();
    assert_eq!(ours, 6 + 2 * 2 + 1, "{writes:?}");
}

#[tokio::test]
async fn pause_resume_abort_and_retry() {
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    shop.upgrade(
        "up",
        &["web"],
        "web:v2-ready-after-2s",
        &canary(&["10", "20", "30", "60s", "100"]),
    )
    .await
    .unwrap();
    shop.phase("up", Phase::Progressing).await.unwrap();
    shop.steer("up", json!({"paused": true})).await.unwrap();
    let paused = shop.phase("up", Phase::Paused).await.unwrap();
    assert!(paused.status.unwrap().message.contains("spec.paused"));
    shop.steer("up", json!({"paused": null})).await.unwrap();
    shop.rests_at("up", 3).await.unwrap();
    assert_eq!(shop.split("web", "web:v2-ready-after-2s").await.unwrap(), (7, 3));
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    assert_eq!(shop.split("web", "web:v2-ready-after-2s").await.unwrap(), (10, 0));
    shop.assert_untouched("web", &before).await.unwrap();
    shop.steer(
        "up",
        json!({"control": {"abort": null, "retry": 1, "promote": {"attempt": 1, "full": true}}}),
    )
    .await
    .unwrap();
    let done = shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(done.status.unwrap().attempt, 1);
    assert_eq!(shop.split("web", "web:v2-ready-after-2s").await.unwrap(), (0, 10));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn crash_looping_pods_are_taken_back_early_and_the_stable_pods_never_fall_under_n() {
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2-crash-loop", &canary(&["10", "50", "100"])).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap().status.unwrap();
    assert!(done.rolled_back && done.message.contains("crashes"), "{}", done.message);
    assert_eq!(watch.finish().await.unwrap().min_ready_of("web:v1"), 10);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn pods_that_crash_after_they_were_ready_are_taken_back_at_the_rest() {
    let shop = shop().await;
    let before = shop.deploy("web", 4, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2-crash-after-3s", &canary(&["50", "", "100"]))
        .await
        .unwrap();
    shop.phase("up", Phase::RolledBack).await.unwrap();
    assert_eq!(shop.split("web", "web:v2-crash-after-3s").await.unwrap(), (4, 0));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn never_ready_pods_are_taken_back_after_the_workloads_own_deadline_which_stops_in_pauses() {
    let shop = shop().await;
    let before = shop.deploy("web", 4, json!({"progressDeadlineSeconds": 20})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2-never-ready", &canary(&["50", "100"])).await.unwrap();
    shop.split_is("web", "web:v2-never-ready", (4, 1)).await.unwrap();
    shop.steer("up", json!({"paused": true})).await.unwrap();
    let paused = shop.phase("up", Phase::Paused).await.unwrap().status.unwrap();
    let since = paused.held_since.unwrap().0;
    // The deadline passes while it is paused: nothing may happen.
    let over = since + jiff::SignedDuration::from_secs(22);
    let waits = std::time::Duration::try_from(over.duration_since(jiff::Timestamp::now())).unwrap();
    let ended = |u: Option<&upgrade_core::api::Upgrade>| {
        u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase != Phase::Paused)
    };
    assert!(
        wait_for(shop.upgrades(), "up", ended, waits).await.is_err(),
        "the clock ran in the pause"
    );
    shop.steer("up", json!({"paused": null})).await.unwrap();
    let resumed = shop.phase("up", Phase::Progressing).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap().status.unwrap();
    let took = done.completion_time.unwrap().0.duration_since(
        resumed.status.unwrap().stages[0].targets[0].last_progress_time.clone().unwrap().0,
    );
    assert!(took.as_secs() >= 19, "a whole deadline again after the pause: {took}");
    assert!(done.message.contains("no progress for 20 s"), "{}", done.message);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn readiness_is_judged_by_the_original_min_ready_seconds() {
    let shop = shop().await;
    shop.deploy("web", 4, json!({"minReadySeconds": 4})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["25", "", "100"])).await.unwrap();
    let rest = shop.rests_at("up", 1).await.unwrap().status.unwrap();
    let waited = rest.pause_start_time.unwrap().0.duration_since(rest.start_time.unwrap().0);
    assert!(waited.as_secs() >= 3, "the canary must have been ready for 4 s: {waited}");
}

#[tokio::test]
async fn deleting_an_upgrade_in_flight_puts_everything_back_first() {
    let shop = shop().await;
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["30", "", "100"])).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    shop.upgrades().delete("up", &DeleteParams::default()).await.unwrap();
    wait::gone(shop.upgrades(), "up", PATIENCE).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (10, 0));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn several_targets_move_in_step_and_are_taken_back_together_over_stages() {
    let shop = shop().await;
    let a = shop.deploy("a", 4, json!({})).await.unwrap();
    let b = shop.deploy("b", 4, json!({})).await.unwrap();
    let c = shop.deploy("c", 4, json!({})).await.unwrap();
    let target = |name: &str, to: &str| json!({"kind": "Deployment", "name": name, "images": [{"container": "web", "from": "web:v1", "to": to}]});
    let stages = json!({"stages": [
        {"name": "first", "workloads": {"strategy": canary(&["50", "100"]), "targets": [target("a", "web:v2"), target("b", "web:v2")]}},
        {"name": "second", "workloads": {"strategy": canary(&["50", "100"]), "targets": [target("c", "web:v2-crash-loop")]}},
    ]});
    shop.upgrade_with("up", &[], "v2", &json!({}), stages).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap().status.unwrap();
    assert_eq!(done.last_successful_stage.as_deref(), Some("first"));
    for (name, before) in [("a", &a), ("b", &b), ("c", &c)] {
        assert_eq!(shop.split(name, "web:v2").await.unwrap().0, 4, "{name}");
        shop.assert_untouched(name, before).await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_fit_what_runs_fails_before_anything_is_touched() {
    let shop = shop().await;
    shop.deploy("web", 2, json!({})).await.unwrap();
    let counter = shop.cluster.count_writes(&shop.namespace, "web").await.unwrap();
    let steps = canary(&["50", "100"]);
    shop.upgrade("nobody", &["nobody"], "web:v2", &steps).await.unwrap();
    let image = |container: &str, from: &str| {
        json!({"stages": [{"name": "s", "workloads": {"strategy": canary(&["50"]), "targets": [
            {"kind": "Deployment", "name": "web", "images": [{"container": container, "from": from, "to": "web:v9"}]}]}}]})
    };
    shop.upgrade_with("container", &[], "x", &json!({}), image("sidecar", "web:v1")).await.unwrap();
    // The first Upgrade of `web` has failed by then, or the second would be refused.
    let expect = async |name: &str, words: &[&str]| {
        let status = shop.phase(name, Phase::Failed).await.unwrap().status.unwrap();
        for word in words {
            assert!(status.message.contains(word), "{name}: {}", status.message);
        }
    };
    expect("nobody", &["deployment.apps/nobody does not exist"]).await;
    expect("container", &["has no container sidecar", "it has web"]).await;
    shop.upgrade_with("image", &[], "x", &json!({}), image("web", "web:v0")).await.unwrap();
    expect("image", &["runs web:v1 and not web:v0"]).await;
    assert!(counter.writes().await.unwrap().is_empty());
}

#[tokio::test]
async fn every_transition_is_an_event_and_the_ledger_follows() {
    let shop = shop().await;
    shop.deploy("web", 4, json!({})).await.unwrap();
    let ledgers: Api<UpgradeLedger> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let says = |image: &'static str| {
        move |l: Option<&UpgradeLedger>| {
            l.is_some_and(|l| {
                l.spec.entries.iter().any(|e| e.images.iter().any(|i| i.image == image))
            })
        }
    };
    wait_for(ledgers.clone(), LEDGER_NAME, says("web:v1"), PATIENCE).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "1s", "100"])).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let ledger = wait_for(ledgers, LEDGER_NAME, says("web:v2"), PATIENCE).await.unwrap();
    assert_eq!(ledger.spec.entries[0].upgrade.as_deref(), Some("up"));
    let events: Api<Event> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let about = ListParams::default().fields("regarding.kind=Upgrade,regarding.name=up");
    let wanted = [
        "Progressing",
        "Patched",
        "WeightReached",
        "Paused",
        "PauseEnded",
        "StageCompleted",
        "Completed",
    ];
    upgrade_sandbox::eventually("the events", PATIENCE, || async {
        let list = events.list(&about).await?;
        let told: Vec<_> = list.items.iter().filter_map(|e| e.reason.clone()).collect();
        let missing: Vec<_> = wanted.iter().filter(|w| !told.iter().any(|t| t == *w)).collect();
        anyhow::ensure!(missing.is_empty(), "{missing:?} missing of {told:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_promotion_goes_on_to_a_later_step_but_past_nobodys_word() {
    let (lab, shop) = (lab().await, shop().await);
    let before = shop.deploy("web", 10, json!({})).await.unwrap();
    let steps = json!({"canary": {"steps": [
        {"setWeight": 10}, {"pause": {}}, {"setWeight": 20}, {"pause": {"duration": "1h"}},
        {"setReplicas": 5}, {"pause": {"untilApproval": true}}, {"setWeight": 80}, {"pause": {}}]}});
    shop.upgrade("up", &["web"], "web:v2", &steps).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    let promote = async |to: &str, more: &[&str]| {
        let mut args = vec!["promote", "up", "--to-step", to, "-n", &shop.namespace];
        args.extend(more);
        let output = lab.plugin(shop.cluster.kubeconfig().to_owned(), &args).await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for (to, says) in [
        ("0", "is there or past it"),
        ("9", "has no such step"),
        ("7", "step 5 of stage web waits for somebody's approval"),
    ] {
        let (code, said) = promote(to, &[]).await;
        assert!(code != Some(0) && said.contains("--to-step") && said.contains(says), "{said}");
    }
    let (code, said) = promote("4", &["--dry-run=server", "-o", "json"]).await;
    assert!(code == Some(0) && said.contains("\"toStep\": 4"), "{said}");
    let (code, said) = promote("4", &["--dry-run"]).await;
    assert!(code == Some(0) && said.contains("promoted (dry run)"), "{said}");
    assert!(said.contains("leaves out 2 pauses"), "{said}");
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (9, 1), "nothing was ordered");
    // By hand: back is refused, and a word that is missing holds it all the same.
    let at = |step: i32, to: i32| json!({"control": {"promote": {"step": step, "toStep": to}}});
    let refused = shop.steer("up", at(1, 0)).await.expect_err("back").to_string();
    assert!(refused.contains("it goes forward only; abort takes it back"), "{refused}");
    shop.steer("up", at(1, 7)).await.unwrap();
    let rests = shop.rests_at("up", 5).await.unwrap().status.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (5, 5));
    assert!(rests.message.contains("--stage web --step 5"), "{}", rests.message);
    let events: Api<Event> = Api::namespaced(shop.client.clone(), &shop.namespace);
    upgrade_sandbox::eventually("the event", PATIENCE, || async {
        let list = events.list(&ListParams::default().fields("reason=Jumped")).await?;
        let notes: Vec<_> = list.items.into_iter().filter_map(|e| e.note).collect();
        anyhow::ensure!(notes.iter().any(|n| n.contains("to step 4, 5 pods")), "{notes:?}");
        Ok(())
    })
    .await
    .unwrap();
    shop.employ("people").await.unwrap();
    shop.approve("up", "sue", &["people"], json!({"stage": "web", "step": 5})).await.unwrap();
    shop.rests_at("up", 7).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (2, 8));
    let (code, said) = promote("8", &["-o", "name"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "upgrade.kubectl-upgrade.dev/up\n"));
    shop.phase("up", Phase::Completed).await.unwrap();
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn back_within_the_rollback_window_it_goes_straight_to_the_end() {
    let shop = shop().await;
    // Ages are told by whole seconds.
    let before = shop.deploy("web", 4, json!({"minReadySeconds": 2})).await.unwrap();
    let stateful = shop.stateful("db", 3, json!({"minReadySeconds": 2})).await.unwrap();
    let to = |from: &str, to: &str, revisions: i32| {
        let target = |kind: &str, name: &str| {
            json!({"kind": kind, "name": name,
                "images": [{"container": "web", "from": from, "to": to}]})
        };
        let strategy = json!({"canary": {"rollbackWindow": {"revisions": revisions}, "steps": [
            {"setReplicas": 1}, {"pause": {}},
            {"analysis": {"templates": [{"templateName": "never"}]}}, {"setWeight": 50}, {"pause": {}}]}});
        json!({"stages": [{"name": "web", "workloads": {"strategy": strategy,
            "targets": [target("Deployment", "web"), target("StatefulSet", "db")]}}]})
    };
    let never: upgrade_core::api::AnalysisTemplate = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "AnalysisTemplate",
        "metadata": {"name": "never"},
        "spec": {"metrics": [{"name": "m", "successCondition": "result[0] > 0", "provider":
            {"prometheus": {"address": "http://192.0.2.1:9090", "query": "up"}}}]}}))
    .unwrap();
    let templates = Api::namespaced(shop.client.clone(), &shop.namespace);
    templates.create(&kube::api::PostParams::default(), &never).await.unwrap();

    // Forward there is no shortcut.
    shop.upgrade_with("up", &[], "v2", &json!({}), to("web:v1", "web:v2", 1)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    let order = json!({"control": {"promote": {"step": 1, "toStep": 5}}});
    shop.steer("up", order).await.unwrap();
    let done = shop.phase("up", Phase::Completed).await.unwrap().status.unwrap();
    assert_eq!(done.stages[0].rollback_window, None);
    // Back there is.
    shop.upgrade_with("back", &[], "v1", &json!({}), to("web:v2", "web:v1", 1)).await.unwrap();
    let done = shop.phase("back", Phase::Completed).await.unwrap().status.unwrap();
    let why = done.stages[0].rollback_window.clone().unwrap_or_default();
    assert!(why.contains("rollback window of 1 revision(s)"), "{why}");
    assert!(done.analysis_runs.is_empty());
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    shop.runs_are("db", "web:v2", (3, 0)).await.unwrap();
    // And what was left behind just now is no older than what runs.
    shop.upgrade_with("again", &[], "v2", &json!({}), to("web:v1", "web:v2", 9)).await.unwrap();
    shop.rests_at("again", 1).await.unwrap();
    shop.steer("again", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("again", Phase::Aborted).await.unwrap();
    shop.assert_untouched("web", &before).await.unwrap();
    shop.assert_untouched_kind("StatefulSet", &stateful).await.unwrap();
}
