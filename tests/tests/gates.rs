//! Windows, notice and approvals by stage and step, on the real API server with a clock that the
//! test sets. Rows of systems that this replaces have their number in the test's name.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use upgrade_core::api::status::Gate;
use upgrade_core::api::{MaintenanceWindow, Phase, Upgrade, UpgradeSchedule};
use upgrade_sandbox::clock::clock;
use upgrade_sandbox::scenario::{PATIENCE, canary};
use upgrade_sandbox::{eventually, wait_for};

fn rolling() -> Value {
    json!({"rolling": {}})
}

/// A window of every night, 02:00 to 04:00 in Berlin.
fn nightly() -> Value {
    json!({"kind": "Allow", "schedule": "0 2 * * *", "duration": "2h", "timeZone": "Europe/Berlin"})
}

#[tokio::test]
async fn a8_an_upgrade_scheduled_into_a_window_starts_by_itself_when_it_opens() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-01T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    shop.window("nightly", nightly()).await?;
    shop.deploy("web", 2, json!({})).await?;
    shop.upgrade("up", &["web"], "web:v2", &rolling()).await?;
    let waits = shop.says("up", "opens 2027-03-02T01:00:00Z").await?;
    let status = waits.status.context("no status")?;
    assert_eq!(status.phase, Phase::Pending);
    let gate = status.gates.iter().find(|g| g.gate == Gate::Window).context("no gate")?;
    assert!(!gate.open && gate.message.contains("-nightly"), "{gate:?}");
    let next = status.next_transition_time.context("no time")?.0;
    assert_eq!(next.to_string(), "2027-03-02T01:00:00Z");
    assert_eq!(shop.split("web", "web:v2").await?, (2, 0));
    clock.set("2027-03-02T01:00:00Z")?;
    shop.phase("up", Phase::Completed).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (0, 2));
    Ok(())
}

#[tokio::test]
async fn a8_not_before_holds_an_upgrade_without_any_window() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-01T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    shop.deploy("web", 1, json!({})).await?;
    let more = json!({"notBefore": "2027-03-05T08:30:00Z"});
    shop.upgrade_with("up", &["web"], "web:v2", &rolling(), more).await?;
    shop.says("up", "it starts at 2027-03-05T08:30:00Z at the earliest").await?;
    clock.set("2027-03-05T08:29:59Z")?;
    shop.phase("up", Phase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn e10_tuesday_to_thursday_at_night_with_48_hours_notice_of_a_major_version() -> Result<()> {
    let clock = clock().await;
    // Monday. In Berlin it is UTC+1.
    clock.set("2027-03-01T00:00:00+01:00")?;
    let shop = clock.shop(0).await?;
    shop.policy(json!({"notice": {"major": "48h"}})).await?;
    let spec = json!({"kind": "Allow", "days": ["Tuesday", "Wednesday", "Thursday"],
        "start": "02:00", "end": "06:00", "timeZone": "Europe/Berlin"});
    shop.window("nights", spec).await?;
    for name in ["api", "web"] {
        shop.deploy(name, 2, json!({})).await?;
    }
    let versions = |from: &str, to: &str| json!({"from": from, "to": to});
    shop.upgrade_with("major", &["web"], "web:v2", &rolling(), versions("v1.9.3", "v2.0.0"))
        .await?;
    shop.upgrade_with("minor", &["api"], "web:v2", &rolling(), versions("v1.9.3", "v1.10.0"))
        .await?;
    shop.says("major", "asks for 48h of notice before a major version").await?;
    let nights = "opens 2027-03-02T01:00:00Z";
    shop.says("minor", nights).await?;

    // Monday is never a day for it, neither in its night nor one second before Tuesday's window.
    for monday in ["2027-03-01T03:00:00+01:00", "2027-03-02T01:59:50+01:00"] {
        clock.set(monday)?;
        shop.says("minor", nights).await?;
    }
    // On Tuesday the minor version goes; the major one has 24 hours of notice left.
    clock.set("2027-03-02T02:00:00+01:00")?;
    shop.phase("minor", Phase::Completed).await?;
    let major = shop.says("major", "so it starts after 2027-03-02T23:0").await?;
    let gates = major.status.context("no status")?.gates;
    let shut: Vec<_> = gates.iter().filter(|g| !g.open).map(|g| g.gate).collect();
    assert_eq!(shut, [Gate::Notice], "the window is open: {gates:?}");
    // Its 48 hours are over on Wednesday at midnight, and the window opens at two.
    clock.set("2027-03-03T00:10:00+01:00")?;
    shop.says("major", "opens 2027-03-03T01:00:00Z").await?;
    clock.set("2027-03-03T02:00:01+01:00")?;
    shop.phase("major", Phase::Completed).await?;

    // Friday: nothing until Tuesday.
    clock.set("2027-03-05T03:00:00+01:00")?;
    shop.deploy("late", 1, json!({})).await?;
    shop.upgrade_with("friday", &["late"], "web:v2", &rolling(), versions("v1.0.0", "v1.0.1"))
        .await?;
    shop.says("friday", "opens 2027-03-09T01:00:00Z").await?;
    Ok(())
}

#[tokio::test]
async fn e10_two_hours_for_the_whole_or_it_is_taken_back() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T02:00:00+01:00")?;
    let shop = clock.shop(0).await?;
    let slow = json!({"progressDeadlineSeconds": 36000});
    shop.deploy("web", 2, slow).await?;
    let more = json!({"autoRollback": {"onTimeout": "2h"}});
    shop.upgrade_with("up", &["web"], "web:v2-never-ready", &rolling(), more).await?;
    shop.phase("up", Phase::Progressing).await?;
    clock.set("2027-03-02T03:50:00+01:00")?;
    shop.phase("up", Phase::Progressing).await?;
    clock.set("2027-03-02T04:00:01+01:00")?;
    let over = shop.phase("up", Phase::RolledBack).await?;
    let message = over.status.context("no status")?.message;
    assert!(message.contains("not done within onTimeout of 2h"), "{message}");
    Ok(())
}

#[tokio::test]
async fn the_notice_starts_anew_with_another_plan() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-01T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    shop.policy(json!({"notice": {"major": "48h", "patch": "1h"}})).await?;
    shop.deploy("web", 1, json!({})).await?;
    let major = json!({"from": "v1.0.0", "to": "v2.0.0"});
    shop.upgrade_with("up", &["web"], "web:v2", &rolling(), major.clone()).await?;
    shop.says("up", "starts after 2027-03-03T12:00").await?;
    clock.set("2027-03-03T11:00:00Z")?;
    // A changed plan is another Upgrade: of the same name, with another image.
    shop.upgrades().delete("up", &kube::api::DeleteParams::default()).await?;
    upgrade_sandbox::wait::gone(shop.upgrades(), "up", PATIENCE).await?;
    shop.upgrade_with("up", &["web"], "web:v3", &rolling(), major).await?;
    shop.says("up", "starts after 2027-03-05T11:00").await?;
    Ok(())
}

#[tokio::test]
async fn receivers_are_told_and_the_notice_runs_from_when_they_all_were() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-01T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    let (address, told) = receiver().await?;
    let secrets: Api<Secret> = Api::namespaced(shop.client.clone(), "kubectl-upgrade-system");
    let name = format!("{}-chat", shop.namespace);
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": name}, "stringData": {"url": format!("http://{address}/hook/s3cret")},
    }))?;
    secrets.create(&PostParams::default(), &secret).await?;
    shop.policy(json!({"notice": {"minor": "1h", "receivers": [name]}})).await?;
    shop.deploy("web", 1, json!({})).await?;
    let minor = json!({"from": "v1.0.0", "to": "v1.1.0"});
    shop.upgrade_with("up", &["web"], "web:v2", &rolling(), minor).await?;
    // The first answer is 503: the time does not run yet.
    let waits = shop.says("up", "has been told yet").await?;
    assert!(waits.status.context("no status")?.notice.context("no notice")?.since.is_none());
    clock.set("2027-03-01T12:01:00Z")?;
    shop.says("up", "starts after 2027-03-01T13:01").await?;
    assert_eq!(told.load(Ordering::Relaxed), 2, "once refused, once taken, and never again");
    // The address is a secret and stands in no event.
    let events: Api<k8s_openapi::api::events::v1::Event> =
        Api::namespaced(shop.client.clone(), &shop.namespace);
    eventually("the event", PATIENCE, || async {
        let all = events.list(&kube::api::ListParams::default()).await?;
        let text = serde_json::to_string(&all.items)?;
        anyhow::ensure!(text.contains("NotToldYet"), "not yet");
        assert!(!text.contains("s3cret"), "{text}");
        Ok(())
    })
    .await?;
    clock.set("2027-03-01T13:01:30Z")?;
    shop.phase("up", Phase::Completed).await?;
    Ok(())
}

/// An HTTP server that refuses the first request and takes the others.
async fn receiver() -> Result<(std::net::SocketAddr, std::sync::Arc<AtomicUsize>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let mut text = String::new();
            while !text.contains("UpgradeNotice") {
                match stream.read(&mut request).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => text.push_str(&String::from_utf8_lossy(&request[..n])),
                }
            }
            let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            let status = if first { "503 Service Unavailable" } else { "200 OK" };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((address, count))
}

#[tokio::test]
async fn c8_a_weekly_schedule_runs_the_procedure_by_itself() -> Result<()> {
    let clock = clock().await;
    // Saturday; the schedule is Sunday at one.
    clock.set("2027-03-06T20:00:00Z")?;
    let shop = clock.shop(0).await?;
    shop.deploy("web", 2, json!({})).await?;
    shop.employ("crew").await?;
    let alice = shop.cluster.client_for("alice", &["crew"]).await?;
    let schedules: Api<UpgradeSchedule> = Api::namespaced(alice, &shop.namespace);
    let weekly: UpgradeSchedule = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeSchedule",
        "metadata": {"name": "weekly"},
        "spec": {"schedule": "0 1 * * 0", "historyLimit": 1, "template": {
            "to": "v2", "stages": [{"name": "web", "workloads": {"strategy": rolling(),
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "web", "to": "web:v2"}]}]}}]}},
    }))?;
    let made = schedules.create(&PostParams::default(), &weekly).await?;
    let requester = made.spec.requester.context("nobody was stamped")?;
    assert_eq!(requester.username, "alice");
    let status = |next: &'static str| {
        move |s: Option<&UpgradeSchedule>| {
            let status = s.and_then(|s| s.status.as_ref());
            let time = status.and_then(|s| s.next_schedule_time.as_ref());
            time.is_some_and(|t| t.0.to_string() == next)
        }
    };
    wait_for(schedules.clone(), "weekly", status("2027-03-07T01:00:00Z"), PATIENCE).await?;

    clock.set("2027-03-07T01:00:00Z")?;
    shop.phase("weekly-2703070100", Phase::Completed).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (0, 2));
    let upgrade = shop.upgrades().get("weekly-2703070100").await?;
    assert_eq!(upgrade.spec.requester.context("no requester")?.username, "alice");

    // A week later everything is as it is wanted: no Upgrade is made.
    clock.set("2027-03-14T01:00:00Z")?;
    let done =
        wait_for(schedules.clone(), "weekly", status("2027-03-21T01:00:00Z"), PATIENCE).await?;
    let message = done.status.context("no status")?.message;
    assert!(message.contains("everything runs the wanted images already"), "{message}");

    // The third week brings a third version; the history keeps one Upgrade.
    let patch = json!([{"op": "replace", "value": "web:v3",
        "path": "/spec/template/stages/0/workloads/targets/0/images/0/to"}]);
    let patch = kube::api::Patch::<()>::Json(serde_json::from_value(patch)?);
    let params = kube::api::PatchParams::default();
    let wanted = schedules.patch("weekly", &params, &patch).await?.metadata.generation;
    let heard = move |s: Option<&UpgradeSchedule>| {
        let status = s.and_then(|s| s.status.as_ref());
        status.is_some_and(|s| Some(s.observed_generation) >= wanted)
    };
    wait_for(schedules.clone(), "weekly", heard, PATIENCE).await?;
    clock.set("2027-03-21T01:00:00Z")?;
    shop.phase("weekly-2703210100", Phase::Completed).await?;
    upgrade_sandbox::wait::gone(shop.upgrades(), "weekly-2703070100", PATIENCE).await?;

    // Nobody was there for a day: that time is missed, and said to be.
    schedules
        .patch(
            "weekly",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(json!({
        "spec": {"suspend": true}})),
        )
        .await?;
    clock.set("2027-03-29T03:00:00Z")?;
    schedules
        .patch(
            "weekly",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(json!({
        "spec": {"suspend": false}})),
        )
        .await?;
    let late = wait_for(schedules, "weekly", status("2027-04-04T01:00:00Z"), PATIENCE).await?;
    let message = late.status.context("no status")?.message;
    assert!(message.contains("was missed"), "{message}");
    Ok(())
}

#[tokio::test]
async fn c8_an_upgrade_of_a_schedule_has_the_rights_of_its_author_and_no_others() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-06T20:00:00Z")?;
    let shop = clock.shop(0).await?;
    shop.deploy("web", 1, json!({})).await?;
    // May write schedules, and no Deployments.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "planner"},
        "rules": [{"apiGroups": ["kubectl-upgrade.dev"], "resources": ["upgradeschedules"],
            "verbs": ["create", "get", "list", "watch"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "planner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "planner"},
        "subjects": [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}]});
    let roles: Api<k8s_openapi::api::rbac::v1::Role> =
        Api::namespaced(shop.client.clone(), &shop.namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> =
        Api::namespaced(shop.client.clone(), &shop.namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    shop.may("mallory", &[], "create", "upgradeschedules").await?;
    let mallory = shop.cluster.client_for("mallory", &[]).await?;
    let schedules: Api<UpgradeSchedule> = Api::namespaced(mallory, &shop.namespace);
    let hourly: UpgradeSchedule = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeSchedule",
        "metadata": {"name": "hourly"},
        "spec": {"schedule": "0 * * * *", "requester": {"username": "admin"}, "template": {
            "stages": [{"name": "web", "workloads": {"strategy": rolling(),
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "web", "to": "web:v2"}]}]}}]}},
    }))?;
    let made = schedules.create(&PostParams::default(), &hourly).await?;
    assert_eq!(made.spec.requester.context("nobody")?.username, "mallory", "stamped over");
    clock.set("2027-03-06T21:00:00Z")?;
    let refused = |s: Option<&UpgradeSchedule>| {
        s.and_then(|s| s.status.as_ref()).is_some_and(|s| s.message.contains("was refused"))
    };
    let said = wait_for(schedules, "hourly", refused, PATIENCE).await?;
    let message = said.status.context("no status")?.message;
    assert!(message.contains("mallory") && message.contains("patch"), "{message}");
    assert!(shop.upgrades().list(&kube::api::ListParams::default()).await?.items.is_empty());
    assert_eq!(shop.split("web", "web:v2").await?, (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_window_that_shuts_lets_the_step_be_finished_and_the_next_one_wait() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T02:00:00+01:00")?;
    let shop = clock.shop(0).await?;
    shop.window("nightly", nightly()).await?;
    let before = shop.deploy("web", 10, json!({})).await?;
    let strategy = canary(&["10", "30", "90m", "60", "100"]);
    shop.upgrade("up", &["web"], "web:v2", &strategy).await?;
    shop.rests_at("up", 2).await?;
    // The pause ends at half past three; the next step begins and is finished, at four it shuts.
    clock.set("2027-03-02T04:00:00+01:00")?;
    let waits = shop.says("up", "opens 2027-03-03T01:00:00Z").await?;
    assert_eq!(waits.status.context("no status")?.phase, Phase::Paused);
    shop.split_is("web", "web:v2", (7, 3)).await?;
    clock.set("2027-03-03T02:00:00+01:00")?;
    shop.phase("up", Phase::Completed).await?;
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn a_freeze_added_mid_upgrade_pauses_it_where_it_says_so() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(0).await?;
    let before = shop.deploy("web", 10, json!({})).await?;
    let more = json!({"windowOverrun": "Pause"});
    let strategy = canary(&["20", "1h", "60"]);
    shop.upgrade_with("up", &["web"], "web:v2", &strategy, more).await?;
    shop.rests_at("up", 1).await?;
    let freeze = json!({"kind": "Deny", "reason": "year-end freeze, ask the platform team"});
    let freeze = shop.window("freeze", freeze).await?;
    let frozen = shop.says("up", "year-end freeze").await?;
    let status = frozen.status.context("no status")?;
    assert!(status.window_shut_since.is_some() && status.phase == Phase::Paused, "{status:?}");
    clock.set("2027-03-02T15:00:00Z")?;
    shop.split_is("web", "web:v2", (8, 2)).await?;
    let windows: Api<MaintenanceWindow> = Api::all(shop.client.clone());
    windows.delete(&freeze.name_any(), &kube::api::DeleteParams::default()).await?;
    shop.phase("up", Phase::Completed).await?;
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn a_window_that_shuts_takes_it_back_where_it_says_so() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T02:00:00+01:00")?;
    let shop = clock.shop(0).await?;
    shop.window("nightly", nightly()).await?;
    let before = shop.deploy("web", 10, json!({})).await?;
    let watch = shop.watch("web").await?;
    let more = json!({"windowOverrun": "Rollback"});
    shop.upgrade_with("up", &["web"], "web:v2", &canary(&["20", ""]), more).await?;
    shop.rests_at("up", 1).await?;
    clock.set("2027-03-02T04:00:00+01:00")?;
    let over = shop.phase("up", Phase::RolledBack).await?;
    let message = over.status.context("no status")?.message;
    assert!(message.contains("outside of MaintenanceWindow"), "{message}");
    shop.split_is("web", "web:v2", (10, 0)).await?;
    assert!(watch.finish().await?.min_ready >= 10);
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_by_the_name_of_its_field() -> Result<()> {
    let clock = clock().await;
    let shop = clock.shop(0).await?;
    let broken = json!({"kind": "Deny", "schedule": "0 25 * * *", "duration": "1h"});
    let refused = shop.window("broken", broken).await.expect_err("refused").to_string();
    assert!(refused.contains("spec.schedule"), "{refused}");
    let broken = json!({"kind": "Allow", "schedule": "0 2 * * *", "duration": "1h",
        "timeZone": "Europe/Atlantis"});
    let refused = shop.window("broken", broken).await.expect_err("refused").to_string();
    assert!(refused.contains("spec.timeZone") && refused.contains("Europe/Atlantis"), "{refused}");
    Ok(())
}

async fn waits_for_approval(
    shop: &upgrade_sandbox::scenario::Shop,
    name: &str,
    of: &str,
) -> Result<Upgrade> {
    shop.says(name, &format!("more approval(s) of {of} by somebody other")).await
}

#[tokio::test]
async fn approvals_by_stage_and_by_step_are_each_waited_for() -> Result<()> {
    let clock = clock().await;
    clock.set("2027-03-02T12:00:00Z")?;
    let shop = clock.shop(1).await?;
    shop.employ("crew").await?;
    shop.policy(json!({"approvals": {"required": 1, "per": "Step"}})).await?;
    let before = shop.deploy("web", 10, json!({})).await?;
    shop.upgrade("up", &["web"], "web:v2", &canary(&["20", "60"])).await?;
    for (step, split) in [(0, (10, 0)), (1, (8, 2)), (2, (4, 6))] {
        waits_for_approval(&shop, "up", &format!("step {step} of stage web")).await?;
        shop.split_is("web", "web:v2", split).await?;
        shop.approve("up", "bob", &["crew"], json!({"stage": "web", "step": step})).await?;
    }
    shop.phase("up", Phase::Completed).await?;
    shop.assert_untouched("web", &before).await?;

    shop.policy(json!({"approvals": {"required": 1, "per": "Stage"}})).await?;
    shop.deploy("api", 2, json!({})).await?;
    let stages = json!([
        {"name": "first", "workloads": {"strategy": rolling(), "targets": [{"kind": "Deployment",
            "name": "api", "images": [{"container": "web", "from": "web:v1", "to": "web:v2"}]}]}},
        {"name": "second", "workloads": {"strategy": rolling(), "targets": [{"kind": "Deployment",
            "name": "web", "images": [{"container": "web", "from": "web:v2", "to": "web:v3"}]}]}},
    ]);
    shop.upgrade_with("two", &[], "web:v3", &rolling(), json!({"stages": stages})).await?;
    waits_for_approval(&shop, "two", "stage first").await?;
    shop.approve("two", "bob", &["crew"], json!({"stage": "first"})).await?;
    waits_for_approval(&shop, "two", "stage second").await?;
    assert_eq!(shop.split("api", "web:v2").await?, (0, 2));
    shop.approve("two", "bob", &["crew"], json!({"stage": "second"})).await?;
    shop.phase("two", Phase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn an_approval_expires_and_is_good_for_one_attempt() -> Result<()> {
    let clock = clock().await;
    let start = jiff::Timestamp::now();
    clock.set(&start.to_string())?;
    let shop = clock.shop(1).await?;
    shop.employ("crew").await?;
    shop.policy(json!({"approvals": {"required": 1, "expiresAfter": "1h"}})).await?;
    shop.deploy("web", 2, json!({})).await?;
    let later = jiff::SignedDuration::from_hours(2);
    let more = json!({"notBefore": start.checked_add(later)?.to_string()});
    shop.upgrade_with("up", &["web"], "web:v2-never-ready", &rolling(), more).await?;
    shop.phase("up", Phase::AwaitingApproval).await?;
    shop.approve("up", "bob", &["crew"], json!({})).await?;
    shop.says("up", "at the earliest").await?;
    // An hour later it counts no more, and when the time comes nothing starts.
    clock.set(&start.checked_add(later)?.to_string())?;
    shop.phase("up", Phase::AwaitingApproval).await?;

    clock.set(&jiff::Timestamp::now().to_string())?;
    shop.policy(json!({"approvals": {"required": 1, "expiresAfter": null}})).await?;
    shop.deploy("api", 2, json!({"progressDeadlineSeconds": 2})).await?;
    shop.upgrade("bad", &["api"], "web:v2-never-ready", &rolling()).await?;
    shop.phase("bad", Phase::AwaitingApproval).await?;
    shop.approve("bad", "bob", &["crew"], json!({})).await?;
    shop.phase("bad", Phase::RolledBack).await?;
    shop.steer("bad", json!({"control": {"retry": 1}})).await?;
    let again = shop.phase("bad", Phase::AwaitingApproval).await?;
    assert_eq!(again.status.context("no status")?.used_approvals.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_policy_that_lets_no_weight_be_rounded_holds_it_until_the_pods_can_express_it()
-> Result<()> {
    let clock = clock().await;
    let shop = clock.shop(0).await?;
    shop.policy(json!({"weightRounding": "Refuse"})).await?;
    shop.deploy("web", 3, json!({})).await?;
    shop.upgrade("up", &["web"], "web:v2", &canary(&["10", "", "100"])).await?;
    let waits = shop.says("up", "with 3 pods it can be 33 % or 67 %").await?;
    assert_eq!(waits.status.context("no status")?.phase, Phase::Pending);
    shop.scale("web", 10).await?;
    shop.rests_at("up", 1).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (9, 1));
    shop.promote("up").await?;
    shop.phase("up", Phase::Completed).await.map(drop)
}
