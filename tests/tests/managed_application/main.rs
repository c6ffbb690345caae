//! System A: what users of a rolling-upgrade operator for applications do, row by row, with
//! `kubectl upgrade` on the real API server. Pods are fake; the HTTP server that health checks
//! reach at their addresses is not.

mod health;
mod jobs;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use upgrade_core::api::status::{Activity, JobPhase};
use upgrade_core::api::{Phase, Upgrade};
use upgrade_sandbox::answers::{Answers, pod_spec};
use upgrade_sandbox::scenario::{Lab, PATIENCE, Shop, canary, lab};
use upgrade_sandbox::{eventually, wait_for};

/// A governed namespace, and what answers at the addresses of its pods.
struct App {
    lab: &'static Lab,
    shop: Shop,
    answers: Answers,
}

impl App {
    async fn open() -> Result<Self> {
        let lab = lab().await;
        let shop = lab.shop(0).await?;
        let answers = Answers::start(&shop.client).await?;
        Ok(Self { lab, shop, answers })
    }

    /// A Deployment at `web:v1` whose pods have addresses that answer.
    async fn deploy(&self, name: &str, replicas: i32) -> Result<()> {
        let template = json!({"spec": pod_spec("web:v1")});
        self.shop.deploy(name, replicas, json!({"template": template})).await?;
        Ok(())
    }

    /// `httpGet` on `/healthz`, with quick rounds.
    fn health(&self) -> Value {
        json!([{"name": "health", "periodSeconds": 1, "failureThreshold": 2,
            "httpGet": {"path": "/healthz", "port": self.answers.port()}}])
    }

    fn workloads(&self, names: &[&str], to: &str, strategy: &Value) -> Value {
        let target = |n: &&str| {
            json!({"kind": "Deployment", "name": n,
            "images": [{"container": "web", "from": "web:v1", "to": to}]})
        };
        json!({"strategy": strategy, "healthChecks": self.health(),
            "targets": names.iter().map(target).collect::<Vec<_>>()})
    }

    async fn start(&self, name: &str, to: &str, stages: Value) -> Result<Upgrade> {
        self.start_with(name, to, stages, json!({})).await
    }

    async fn start_with(
        &self,
        name: &str,
        to: &str,
        stages: Value,
        more: Value,
    ) -> Result<Upgrade> {
        let mut spec = json!({"from": "v1", "to": to, "stages": stages});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        create(&self.shop.client, &self.shop.namespace, name, spec).await
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.shop.client.clone(), &self.shop.namespace)
    }

    /// As people look for them.
    async fn migrations(&self, app: &str) -> Result<Vec<Job>> {
        let labels = format!("app={app},type=migration");
        Ok(self.jobs().list(&ListParams::default().labels(&labels)).await?.items)
    }

    /// Reasons of the events of an Upgrade, each once.
    async fn events(&self, name: &str) -> Result<BTreeSet<String>> {
        let api: Api<CoreEvent> = Api::namespaced(self.shop.client.clone(), &self.shop.namespace);
        let fields = format!("involvedObject.name={name}");
        let list = api.list(&ListParams::default().fields(&fields)).await?;
        Ok(list.into_iter().filter_map(|e| e.reason).collect())
    }

    /// Waits until every one of these was told.
    async fn told(&self, name: &str, wanted: &[&str]) -> Result<()> {
        eventually("the events", PATIENCE, || async {
            let told = self.events(name).await?;
            let missing: Vec<_> = wanted.iter().filter(|w| !told.contains(**w)).collect();
            if missing.is_empty() { Ok(()) } else { bail!("{missing:?} is not in {told:?}") }
        })
        .await
    }
}

async fn create(client: &Client, namespace: &str, name: &str, spec: Value) -> Result<Upgrade> {
    let object: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": name}, "spec": spec}))?;
    let api: Api<Upgrade> = Api::namespaced(client.clone(), namespace);
    Ok(api.create(&PostParams::default(), &object).await?)
}

fn rolling() -> Value {
    json!({"rolling": {}})
}

/// A migration whose image says how it behaves.
fn migrate(image: &str) -> Value {
    json!({"name": "migrate", "job": {"image": image, "command": ["migrate", "up"]}})
}

fn message(upgrade: &Upgrade) -> String {
    upgrade.status.as_ref().map(|s| s.message.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a1_rolling() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 4).await?;
    let before = app.shop.deployments().get("web").await?;
    let stages =
        json!([{"name": "web", "workloads": app.workloads(&["web"], "web:v2", &rolling())}]);
    app.start("up", "v2", stages).await?;
    let done = app.shop.phase("up", Phase::Completed).await?;
    let status = done.status.context("no status")?;
    assert_eq!((status.current_version.as_deref(), status.canary_weight), (Some("v2"), 100));
    assert_eq!(app.shop.split("web", "web:v2").await?, (0, 4));
    app.shop.assert_untouched("web", &before).await
}

#[tokio::test]
async fn a1_rolling_with_migration() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 3).await?;
    let web = app.workloads(&["web"], "web:v2", &rolling());
    let stages = json!([migrate("migrations:ready-after-2s"), {"name": "web", "workloads": web}]);
    app.start("up", "v2", stages).await?;
    // While it runs, nothing of the application has changed.
    let running = |u: Option<&Upgrade>| {
        let job = u.and_then(|u| u.status.as_ref()?.stages.first()?.job.as_ref());
        job.is_some_and(|j| j.phase == JobPhase::Running)
    };
    let at = wait_for(app.shop.upgrades(), "up", running, PATIENCE).await?;
    assert_eq!(at.status.as_ref().and_then(|s| s.activity), Some(Activity::Migrating));
    assert_eq!(app.shop.split("web", "web:v2").await?, (3, 0));
    app.shop.phase("up", Phase::Completed).await?;
    assert_eq!(app.shop.split("web", "web:v2").await?, (0, 3));
    assert_eq!(app.migrations("web").await?.len(), 1, "it ran once");
    Ok(())
}

#[tokio::test]
async fn a1_canary() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 10).await?;
    let web = app.workloads(&["web"], "web:v2", &canary(&["20", "", "100"]));
    app.start("up", "v2", json!([{"name": "web", "workloads": web}])).await?;
    app.shop.rests_at("up", 1).await?;
    assert_eq!(app.shop.split("web", "web:v2").await?, (8, 2));
    app.shop.promote("up").await?;
    app.shop.phase("up", Phase::Completed).await?;
    Ok(())
}

// a1_blue_green: the strategy `blueGreen` comes with traffic; its test belongs here.

#[tokio::test]
async fn a1_paused_stops_everything() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 2).await?;
    let web = app.workloads(&["web"], "web:v2", &rolling());
    let stages = json!([migrate("migrations:v2"), {"name": "web", "workloads": web}]);
    app.start_with("up", "v2", stages, json!({"paused": true})).await?;
    app.shop.says("up", "paused by spec.paused before it began").await?;
    assert!(app.migrations("web").await?.is_empty(), "no Job either");
    app.shop.steer("up", json!({"paused": false})).await?;
    app.shop.phase("up", Phase::Completed).await?;
    Ok(())
}

#[tokio::test]
async fn a4_ten_fifty_a_hundred_with_pauses_in_seconds() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 10).await?;
    let steps = canary(&["10", "5s", "50", "5s", "100"]);
    let web = app.workloads(&["web"], "web:v2", &steps);
    app.start("up", "v2", json!([{"name": "web", "workloads": web}])).await?;
    for (step, split) in [(1, (9, 1)), (3, (5, 5))] {
        let at = app.shop.rests_at("up", step).await?.status.context("no status")?;
        assert_eq!(app.shop.split("web", "web:v2").await?, split);
        assert_eq!(at.canary_weight, split.1 * 10);
        assert!(at.pause_start_time.is_some());
    }
    let done = app.shop.phase("up", Phase::Completed).await?.status.context("no status")?;
    assert!(done.paused_seconds >= 10, "{}", done.paused_seconds);
    Ok(())
}

#[tokio::test]
async fn a5_each_of_its_phases_can_be_read_and_each_transition_is_an_event() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 2).await?;
    let mut web = app.workloads(&["web"], "web:v2", &canary(&["50", "", "100"]));
    web["healthChecks"][0]["initialDelaySeconds"] = json!(1);
    let stages = json!([migrate("migrations:ready-after-2s"), {"name": "web", "workloads": web},
        {"name": "smoke", "checks": {"targets": [{"kind": "Deployment", "name": "web"}],
            "healthChecks": app.health()}}]);
    app.start("up", "v2", stages).await?;
    for activity in [Activity::Migrating, Activity::HealthChecking] {
        let is = move |u: Option<&Upgrade>| {
            u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.activity == Some(activity))
        };
        let at = wait_for(app.shop.upgrades(), "up", is, PATIENCE).await?;
        let status = at.status.context("no status")?;
        assert_eq!(status.phase, Phase::Progressing);
        assert_eq!(
            (status.current_version.as_deref(), status.target_version.as_deref()),
            (Some("v1"), Some("v2"))
        );
    }
    let rests = app.shop.rests_at("up", 1).await?.status.context("no status")?;
    assert_eq!((rests.canary_weight, rests.activity), (50, None));
    let shown = app
        .lab
        .plugin(
            app.lab.cluster.kubeconfig().to_owned(),
            &["status", "up", "-n", &app.shop.namespace],
        )
        .await?;
    let shown = String::from_utf8(shown.stdout)?;
    for part in ["Job", "Succeeded", "HealthCheck", "Passed", "canary 50, pause, 100"] {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    app.shop.promote("up").await?;
    let done = app.shop.phase("up", Phase::Completed).await?.status.context("no status")?;
    assert_eq!(done.current_version.as_deref(), Some("v2"));
    assert!(done.conditions.iter().any(|c| c.type_ == "Completed" && c.status == "True"));
    app.told(
        "up",
        &[
            "Progressing",
            "Migrating",
            "JobStarted",
            "JobSucceeded",
            "StageStarted",
            "StageCompleted",
            "Deploying",
            "HealthChecking",
            "HealthCheckPassed",
            "WeightReached",
            "Paused",
            "PauseEnded",
            "Completed",
        ],
    )
    .await?;
    let mut describe = app.lab.cluster.kubectl();
    describe.args(["describe", "upgrade", "up", "-n", &app.shop.namespace]);
    let text = String::from_utf8(describe.output()?.stdout)?;
    for part in ["JobSucceeded", "HealthChecking", "Completed", "Current Version:"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn a6_a_failed_health_check_takes_it_back_by_itself_at_the_first_step() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 10).await?;
    let before = app.shop.deployments().get("web").await?;
    let web = app.workloads(&["web"], "web:v2-sick", &canary(&["10", "50", "100"]));
    app.start("up", "v2", json!([{"name": "web", "workloads": web}])).await?;
    let over = app.shop.phase("up", Phase::RolledBack).await?;
    let said = message(&over);
    assert!(
        said.contains("health check health: pod web-") && said.contains("answered 503"),
        "{said}"
    );
    assert_eq!(app.shop.split("web", "web:v2-sick").await?, (10, 0));
    let pods: BTreeSet<_> =
        app.answers.asked(&app.shop.namespace).into_iter().map(|a| a.pod).collect();
    assert_eq!(pods.len(), 1, "only the tenth that was the first step was ever reached");
    app.told("up", &["HealthCheckFailed", "RollingBack", "RolledBack"]).await?;
    app.shop.assert_untouched("web", &before).await
}

#[tokio::test]
async fn a6_where_nothing_is_taken_back_by_itself_it_stands_still() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 4).await?;
    let web = app.workloads(&["web"], "web:v2-sick", &canary(&["25", "", "100"]));
    let more = json!({"autoRollback": {"onFailure": {"healthCheckFailure": false}}});
    app.start_with("up", "v2", json!([{"name": "web", "workloads": web}]), more).await?;
    app.shop.phase("up", Phase::Degraded).await?;
    assert_eq!(app.shop.split("web", "web:v2-sick").await?, (3, 1));
    app.shop.steer("up", json!({"control": {"abort": true}})).await?;
    app.shop.phase("up", Phase::Aborted).await?;
    assert_eq!(app.shop.split("web", "web:v2-sick").await?, (4, 0));
    Ok(())
}

#[tokio::test]
async fn a7_several_services_go_in_order_and_come_back_together_in_reverse() -> Result<()> {
    let app = App::open().await?;
    for name in ["db", "api", "web"] {
        app.deploy(name, 2).await?;
    }
    let stage = |name: &str, to: &str| json!({"name": name, "workloads": app.workloads(&[name], to, &rolling())});
    let stages = json!([
        migrate("migrations:v2"),
        stage("db", "web:v2"),
        stage("api", "web:v2"),
        stage("web", "web:v2-sick")
    ]);
    app.start("up", "v2", stages).await?;
    let over = app.shop.phase("up", Phase::RolledBack).await?;
    let said = message(&over);
    assert!(said.contains("answered 503") && said.contains("did is not undone"), "{said}");
    for name in ["db", "api", "web"] {
        let counts = app.shop.pods(name).await?;
        assert_eq!(counts.get("web:v1"), Some(&2), "{name}: {counts:?}");
    }
    // The audit log has every write in its order.
    let writes = app.lab.cluster.audit().await?;
    let ours = writes.iter().filter(|e| e.user.ends_with(":upgrade-webhook"));
    let mut turns: Vec<&str> = ours
        .filter(|e| e.wrote_deployment(&app.shop.namespace, &e.name))
        .map(|e| e.name.as_str())
        .collect();
    turns.dedup();
    assert_eq!(turns, ["db", "api", "web", "api", "db"]);
    Ok(())
}

#[tokio::test]
async fn a8_an_upgrade_waits_for_its_window_and_runs_none_of_its_jobs_before() -> Result<()> {
    let app = App::open().await?;
    let never =
        json!({"kind": "Allow", "schedule": "0 3 29 2 *", "duration": "1m", "timeZone": "UTC"});
    let window = app.shop.window("rare", never).await?;
    app.deploy("web", 2).await?;
    let web = app.workloads(&["web"], "web:v2", &rolling());
    let stages = json!([migrate("migrations:v2"), {"name": "web", "workloads": web}]);
    app.start("up", "v2", stages).await?;
    app.shop.says("up", "does not open within a year").await?;
    assert!(app.migrations("web").await?.is_empty());
    let api: Api<upgrade_core::api::MaintenanceWindow> = Api::all(app.shop.client.clone());
    let open = json!({"spec": {"schedule": "* * * * *"}});
    api.patch(&window.name_any(), &PatchParams::default(), &Patch::Merge(&open)).await?;
    app.shop.phase("up", Phase::Completed).await?;
    assert_eq!(app.migrations("web").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_worked_example_of_the_docs_runs() -> Result<()> {
    let app = App::open().await?;
    for (name, replicas) in [("api", 2), ("web", 10)] {
        let mut pod = pod_spec(&format!("shop/{name}:v1"));
        pod["containers"][0]["name"] = json!(name);
        app.shop.deploy(name, replicas, json!({"template": {"spec": pod}})).await?;
    }
    let page =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/managed-application.md");
    let page = std::fs::read_to_string(page)?;
    let yaml =
        page.split("```yaml\n").nth(1).and_then(|t| t.split("```").next()).context("no YAML")?;
    // The port of the one server that answers here.
    let yaml = yaml.replace("8080", &app.answers.port().to_string());
    let mut apply = app.lab.cluster.kubectl();
    apply.args(["create", "--validate=strict", "-n", &app.shop.namespace, "-f", "-"]);
    let said = upgrade_sandbox::scenario::say(&mut apply, &yaml)?;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let ended = |u: Option<&Upgrade>| {
        u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase.is_terminal())
    };
    // Four stages, two of them with rests.
    let done = wait_for(app.shop.upgrades(), "shop-v2", ended, PATIENCE * 4).await?;
    let done = done.status.context("no status")?;
    assert_eq!(done.phase, Phase::Completed, "{}", done.message);
    let names: Vec<_> = done.stages.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["migrate", "api", "web", "verify"]);
    let asked = app.answers.asked(&app.shop.namespace);
    let pods: BTreeSet<_> =
        asked.iter().filter(|a| a.path == "/version").map(|a| a.pod.as_str()).collect();
    assert_eq!(pods.len(), 12, "every pod of both");

    // Its command makes the same for one service.
    let line =
        page.lines().find_map(|l| l.strip_prefix("$ kubectl upgrade ")).context("no command")?;
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.splice(1..1, ["-n", &app.shop.namespace, "--dry-run=server", "-o", "json"]);
    let line = words.iter().map(|w| w.replace("web=shop/web:v2", "web=shop/web:v3"));
    let line: Vec<String> = line.collect();
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let made = app.lab.plugin(app.lab.cluster.kubeconfig().to_owned(), &line).await?;
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{text}{}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_str(&text)?;
    let stages = &made["spec"]["stages"];
    assert_eq!(stages[0]["job"]["command"], json!(["migrate", "up"]), "{made}");
    assert_eq!(stages[1]["workloads"]["healthChecks"][0]["httpGet"]["path"], "/healthz");
    Ok(())
}
