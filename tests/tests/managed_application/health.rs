//! Rows A3 and E12: what is asked of the pods, of Services, of logs; and the stage kind `checks`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use upgrade_core::api::Phase;
use upgrade_sandbox::eventually;
use upgrade_sandbox::logs::Logs;
use upgrade_sandbox::scenario::{PATIENCE, canary};

use super::{App, message, rolling};

#[tokio::test]
async fn a3_every_new_pod_is_asked_after_every_step() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 4).await?;
    let mut web = app.workloads(&["web"], "web:v2", &canary(&["25", "", "50", "", "100"]));
    web["healthChecks"][0]["httpGet"]["expectedVersion"] =
        json!({"jsonPath": "{.build.version}", "value": "v2"});
    app.start("up", "v2", json!([{"name": "web", "workloads": web}])).await?;
    let pods = |asked: &[upgrade_sandbox::answers::Asked]| -> BTreeSet<String> {
        asked.iter().map(|a| a.pod.clone()).collect()
    };
    let mut seen = 0;
    for (step, count) in [(1, 1), (3, 2)] {
        app.shop.rests_at("up", step).await?;
        let asked = app.answers.asked(&app.shop.namespace);
        let new = asked.get(seen..).unwrap_or_default();
        assert_eq!(pods(new).len(), count, "{new:?}");
        assert!(asked.iter().all(|a| a.image == "web:v2" && a.path == "/healthz"), "{asked:?}");
        seen = asked.len();
        app.shop.promote("up").await?;
    }
    let done = app.shop.phase("up", Phase::Completed).await?;
    let asked = app.answers.asked(&app.shop.namespace);
    assert_eq!(pods(asked.get(seen..).unwrap_or_default()).len(), 4, "after the last step, too");
    let health = done.status.context("no status")?.stages.remove(0).health.context("no health")?;
    assert!(health.checks.iter().all(|c| c.passed && c.name == "health"), "{health:?}");
    app.told("up", &["HealthChecksStarted", "HealthCheckPassed", "WeightReached"]).await
}

#[tokio::test]
async fn a3_an_initial_delay_is_waited_for_and_tcp_and_another_version_are_told_apart() -> Result<()>
{
    let app = App::open().await?;
    app.deploy("web", 1).await?;
    let mut web = app.workloads(&["web"], "web:v2", &rolling());
    let port = app.answers.port();
    web["healthChecks"] = json!([
        {"name": "open", "tcpSocket": {"port": port}, "initialDelaySeconds": 2},
        {"name": "version", "periodSeconds": 1, "failureThreshold": 2, "httpGet": {"port": port,
            "expectedVersion": {"jsonPath": "$.build.version", "value": "v3"}}}]);
    app.start("up", "v2", json!([{"name": "web", "workloads": web}])).await?;
    let over = app.shop.phase("up", Phase::RolledBack).await?;
    let said = message(&over);
    assert!(
        said.contains("health check version") && said.contains("says version v2 and not v3"),
        "{said}"
    );
    assert_eq!(app.shop.split("web", "web:v2").await?, (1, 0));
    Ok(())
}

#[tokio::test]
async fn checks_alone_pass_or_fail_and_change_nothing() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 3).await?;
    let checks = |path: &str| {
        let get = json!({"port": app.answers.port(), "path": path, "expectedStatus": 200,
            "expectedVersion": {"jsonPath": "$.build.version", "value": "v1"}});
        json!([{"name": "verify", "checks": {"targets": [{"kind": "Deployment", "name": "web"}],
            "healthChecks": [{"name": "version", "httpGet": get}]}}])
    };
    app.start("fine", "v1", checks("/version")).await?;
    app.shop.phase("fine", Phase::Completed).await?;
    let pods: BTreeSet<_> =
        app.answers.asked(&app.shop.namespace).into_iter().map(|a| a.pod).collect();
    assert_eq!(pods.len(), 3, "every instance");
    let targets = json!([{"kind": "Deployment", "name": "gone"}]);
    let quick = json!([{"name": "verify", "checks": {"targets": targets, "healthChecks":
        [{"name": "up", "tcpSocket": {"port": 1}, "failureThreshold": 1}]}}]);
    app.start("gone", "v1", quick).await?;
    let said = message(&app.shop.phase("gone", Phase::RolledBack).await?);
    assert!(said.contains("deployment.apps/gone: does not exist"), "{said}");
    let service = json!([{"name": "verify", "checks": {"healthChecks":
        [{"name": "up", "service": "web", "tcpSocket": {"port": 1}, "failureThreshold": 1}]}}]);
    app.start("service", "v1", service).await?;
    let said = message(&app.shop.phase("service", Phase::RolledBack).await?);
    assert!(said.contains("Service web: does not exist"), "{said}");
    let pods: Api<Pod> = Api::namespaced(app.shop.client.clone(), &app.shop.namespace);
    assert_eq!(pods.list(&ListParams::default()).await?.items.len(), 3);
    Ok(())
}

#[tokio::test]
async fn e12_error_lines_are_counted_per_instance_since_the_step_began() -> Result<()> {
    let app = App::open().await?;
    let logs = Logs::start(app.lab.cluster).await?;
    app.deploy("web", 4).await?;
    let mut web = app.workloads(&["web"], "web:v2", &canary(&["50", "", "100"]));
    // A log that cannot be read yet is asked for again; a line too many fails at once.
    web["healthChecks"] = json!([{"name": "quiet", "periodSeconds": 1, "failureThreshold": 100,
        "logs": {"pattern": "^(ERROR|panic:)", "max": 1}}]);
    app.start("up", "v2", json!([{"name": "web", "workloads": web}])).await?;
    let new = async |count: usize| {
        eventually("the new pods", PATIENCE, || async {
            let pods: Api<Pod> = Api::namespaced(app.shop.client.clone(), &app.shop.namespace);
            let all = pods.list(&ListParams::default().labels("app=web")).await?;
            let image = |p: &Pod| p.spec.as_ref().and_then(|s| s.containers.first()?.image.clone());
            let new = all.iter().filter(|p| image(p).as_deref() == Some("web:v2"));
            let names: Vec<_> = new.map(Pod::name_any).collect();
            if names.len() == count { Ok(names) } else { bail!("{names:?}") }
        })
        .await
    };
    let now = jiff::Timestamp::now;
    let long_ago = now() - jiff::SignedDuration::from_hours(1);
    let later = now() + jiff::SignedDuration::from_mins(1);
    let fine = [
        (long_ago, "ERROR before the step"),
        (long_ago, "ERROR another"),
        (later, "ERROR one"),
        (later, "no ERROR"),
    ];
    let first = new(2).await?;
    for pod in &first {
        logs.write(&app.shop.namespace, pod, &fine).await?;
    }
    app.shop.rests_at("up", 1).await?;
    app.shop.promote("up").await?;
    let loud = [(later, "ERROR one"), (later, "panic: two"), (later, "ERROR three")];
    let all = new(4).await?;
    let last = all.iter().find(|p| !first.contains(p)).context("no other pod")?;
    for pod in all.iter().filter(|p| !first.contains(p)) {
        let lines = if pod == last { loud.as_slice() } else { fine.as_slice() };
        logs.write(&app.shop.namespace, pod, lines).await?;
    }
    let over = app.shop.phase("up", Phase::RolledBack).await?;
    let said = message(&over);
    let named = format!("health check quiet: pod {last}: 3 lines of its log match");
    assert!(said.contains(&named), "{said}");
    assert!(!said.contains("panic: two"), "no line of a log is in a status: {said}");
    assert_eq!(app.shop.split("web", "web:v2").await?, (4, 0));
    Ok(())
}

#[tokio::test]
async fn a3_a_service_is_asked_at_each_ready_endpoint_and_one_that_leads_away_is_not() -> Result<()>
{
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    let app = App::open().await?;
    app.deploy("web", 1).await?;
    let namespace = &app.shop.namespace;
    let services: Api<Service> = Api::namespaced(app.shop.client.clone(), namespace);
    let service = |name: &str, spec: Value| {
        serde_json::from_value::<Service>(json!({"metadata": {"name": name}, "spec": spec}))
    };
    let port = app.answers.port();
    let headless = json!({"clusterIP": "None", "ports": [{"port": port}]});
    services.create(&PostParams::default(), &service("web", headless)?).await?;
    let away = json!({"type": "ExternalName", "externalName": "localhost"});
    services.create(&PostParams::default(), &service("away", away)?).await?;
    let stage = |service: &str| {
        json!([{"name": "verify", "checks": {"healthChecks": [
        {"name": "up", "service": service, "periodSeconds": 1, "failureThreshold": 2,
            "tcpSocket": {"port": port}}]}}])
    };
    app.start("away", "v1", stage("away")).await?;
    let said = message(&app.shop.phase("away", Phase::RolledBack).await?);
    assert!(said.contains("ExternalName, which leads out of the cluster"), "{said}");
    app.start("nobody", "v1", stage("web")).await?;
    let said = message(&app.shop.phase("nobody", Phase::RolledBack).await?);
    assert!(said.contains("there is nobody to ask"), "{said}");

    // Endpoints cannot be on loopback: the machine's own address, where it has another.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|a| a.ip());
    let Some(own) = own.ok().filter(|ip| !ip.is_loopback()) else {
        eprintln!("skipped: this machine has no address but loopback");
        return Ok(());
    };
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": port}],
        "endpoints": [{"addresses": [own], "conditions": {"ready": true}},
            {"addresses": ["192.0.2.200"], "conditions": {"ready": false}}]}))?;
    let slices: Api<EndpointSlice> = Api::namespaced(app.shop.client.clone(), namespace);
    slices.create(&PostParams::default(), &slice).await?;
    app.start("there", "v1", stage("web")).await?;
    app.shop.phase("there", Phase::Completed).await?;
    Ok(())
}
