//! Analyses on the real API server: a real Prometheus, Datadog's requests, any web server, Jobs and
//! objects of the namespace.

use crate::meters::{Prometheus, Server};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use upgrade_core::api::{AnalysisPhase, AnalysisTemplate, Phase, Upgrade, UpgradeStatus};
use upgrade_sandbox::scenario::{Lab, Shop, lab, say};
use upgrade_sandbox::wait_for;

/// Several measurements and a rollout, on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(3);

async fn shop() -> (&'static Lab, Shop) {
    let lab = lab().await;
    (lab, lab.shop(0).await.expect("a shop"))
}

async fn template(shop: &Shop, name: &str, spec: &Value) {
    let object: AnalysisTemplate = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "AnalysisTemplate",
        "metadata": {"name": name}, "spec": spec}))
    .expect("a template");
    let api: Api<AnalysisTemplate> = Api::namespaced(shop.client.clone(), &shop.namespace);
    api.create(&PostParams::default(), &object).await.expect("created");
}

/// A step of an analysis by one template.
fn by(template: &str, args: &Value) -> Value {
    json!({"analysis": {"templates": [{"templateName": template}], "args": args}})
}

fn steps(list: &[Value]) -> Value {
    json!({"canary": {"steps": list}})
}

fn weight(percent: i32) -> Value {
    json!({ "setWeight": percent })
}

/// A metric of Prometheus: the series `shop_rate` of one shop.
#[expect(clippy::needless_pass_by_value, reason = "a literal reads best")]
fn rate(prometheus: &Prometheus, more: Value) -> Value {
    let mut metric = json!({"name": "rate", "interval": "1s", "count": 3,
        "successCondition": "result[0] >= 0.95",
        "provider": {"prometheus": {"address": format!("http://{}", prometheus.address),
            "query": "shop_rate{shop=\"{{args.shop}}\"}"}}});
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        metric[key] = value;
    }
    json!({"args": [{"name": "shop"}], "metrics": [metric]})
}

async fn reached(shop: &Shop, name: &str, what: impl Fn(&UpgradeStatus) -> bool) -> UpgradeStatus {
    let there = |u: Option<&Upgrade>| u.and_then(|u| u.status.as_ref()).is_some_and(&what);
    let upgrade = wait_for(shop.upgrades(), name, there, PATIENCE).await.expect("reached");
    upgrade.status.expect("a status")
}

async fn ended(shop: &Shop, name: &str, phase: Phase) -> UpgradeStatus {
    let there = |s: &UpgradeStatus| s.phase == phase || s.phase.is_terminal();
    let status = reached(shop, name, there).await;
    assert_eq!(status.phase, phase, "{}", status.message);
    status
}

#[tokio::test]
async fn d1_a_step_passes_when_prometheus_says_yes_with_the_new_pods_hash() {
    let (lab, shop) = shop().await;
    let Some(prometheus) = Prometheus::start(lab.cluster).await.unwrap() else { return };
    let before = shop.deploy("web", 4, json!({})).await.unwrap();
    prometheus.shows("shop_rate{shop=\"good\"}", "0.99").await.unwrap();
    let mut spec = rate(&prometheus, json!({}));
    spec["args"] = json!([{"name": "shop"}, {"name": "hash"}, {"name": "app"}]);
    spec["metrics"][0]["provider"]["prometheus"]["query"] =
        json!("shop_rate{shop=\"{{args.shop}}\"} and on() vector(1) # {{args.hash}} {{args.app}}");
    template(&shop, "success-rate", &spec).await;
    let args = json!([{"name": "shop", "value": "good"},
        {"name": "hash", "valueFrom": {"podTemplateHashValue": "Latest"}},
        {"name": "app", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]);
    let list = [weight(25), by("success-rate", &args), weight(100)];
    shop.upgrade("up", &["web"], "web:v2", &steps(&list)).await.unwrap();
    let status = ended(&shop, "up", Phase::Completed).await;
    let run = &status.analysis_runs[0];
    assert_eq!((run.name.as_str(), run.phase), ("web/step-1", AnalysisPhase::Successful));
    assert_eq!((run.metrics[0].successful, run.metrics[0].measurements.len()), (3, 3));
    assert_eq!(run.metrics[0].measurements[0].value, "[0.99]");
    shop.assert_untouched("web", &before).await.unwrap();
    let words = ["status", "up", "-n", &shop.namespace];
    let said = lab.plugin(lab.cluster.kubeconfig().to_owned(), &words);
    let said = String::from_utf8(said.await.unwrap().stdout).unwrap();
    assert!(said.contains("step-1") && said.contains("rate 3 of 3 (last [0.99])"), "{said}");
}

#[tokio::test]
async fn d3_a_step_fails_when_prometheus_says_no_and_is_taken_back_at_that_step() {
    let (lab, shop) = shop().await;
    let Some(prometheus) = Prometheus::start(lab.cluster).await.unwrap() else { return };
    let before = shop.deploy("web", 4, json!({})).await.unwrap();
    prometheus.shows("shop_rate{shop=\"a\"}", "1").await.unwrap();
    template(&shop, "short", &rate(&prometheus, json!({"count": 1}))).await;
    template(&shop, "long", &rate(&prometheus, json!({"count": 60, "failureLimit": 1}))).await;
    let args = json!([{"name": "shop", "value": "a"}]);
    let list = [weight(25), by("short", &args), weight(50), by("long", &args), weight(100)];
    shop.upgrade("up", &["web"], "web:v2", &steps(&list)).await.unwrap();
    let measured = |s: &UpgradeStatus| {
        s.current_step_index == 3
            && s.analysis_runs.get(1).is_some_and(|r| r.metrics[0].successful > 0)
    };
    reached(&shop, "up", measured).await;
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (2, 2));
    prometheus.shows("shop_rate{shop=\"a\"}", "0.5").await.unwrap();
    let status = ended(&shop, "up", Phase::RolledBack).await;
    assert_eq!(status.current_step_index, 3);
    let why = "analysis web/step-3: metric rate: 2 failed, failureLimit is 1; measured [0.5]";
    assert!(status.message.contains(why), "{}", status.message);
    assert_eq!(status.analysis_runs[0].phase, AnalysisPhase::Successful);
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn without_data_each_no_data_does_what_it_says() {
    let (lab, shop) = shop().await;
    let Some(prometheus) = Prometheus::start(lab.cluster).await.unwrap() else { return };
    let args = json!([{"name": "shop", "value": "quiet"}]);
    for no_data in ["pass", "fail", "inconclusive", "wait"] {
        template(&shop, no_data, &rate(&prometheus, json!({"count": 1, "noData": no_data}))).await;
        shop.deploy(no_data, 2, json!({})).await.unwrap();
        let list = [weight(50), by(no_data, &args), weight(100)];
        shop.upgrade(no_data, &[no_data], "web:v2", &steps(&list)).await.unwrap();
    }
    let passed = ended(&shop, "pass", Phase::Completed).await;
    assert_eq!(passed.analysis_runs[0].metrics[0].measurements[0].message, "there is no data");
    let failed = ended(&shop, "fail", Phase::RolledBack).await;
    assert!(failed.message.contains("there is no data"), "{}", failed.message);
    let undecided = ended(&shop, "inconclusive", Phase::Paused).await;
    assert!(undecided.message.contains("1 inconclusive"), "{}", undecided.message);
    shop.promote("inconclusive").await.unwrap();
    assert!(ended(&shop, "inconclusive", Phase::Completed).await.analysis_runs[0].overruled);
    let waits =
        |s: &UpgradeStatus| s.analysis_runs.first().is_some_and(|r| r.metrics[0].no_data > 1);
    assert_eq!(reached(&shop, "wait", waits).await.phase, Phase::Progressing);
    prometheus.shows("shop_rate{shop=\"quiet\"}", "NaN").await.unwrap();
    let more = reached(&shop, "wait", waits).await.analysis_runs[0].metrics[0].no_data + 2;
    reached(&shop, "wait", |s| s.analysis_runs[0].metrics[0].no_data > more).await;
    prometheus.shows("shop_rate{shop=\"quiet\"}", "1").await.unwrap();
    ended(&shop, "wait", Phase::Completed).await;
}

#[tokio::test]
async fn a_prometheus_that_dies_half_way_is_errors_and_these_take_it_back() {
    let (lab, shop) = shop().await;
    let Some(prometheus) = Prometheus::start(lab.cluster).await.unwrap() else { return };
    let before = shop.deploy("web", 4, json!({})).await.unwrap();
    prometheus.shows("shop_rate{shop=\"a\"}", "1").await.unwrap();
    let metric = rate(&prometheus, json!({"count": 100, "consecutiveErrorLimit": 1}));
    template(&shop, "rate", &metric).await;
    let beside = json!({"templates": [{"templateName": "rate"}],
        "args": [{"name": "shop", "value": "a"}]});
    let strategy = json!({"canary": {"steps": [weight(50), {"pause": {}}], "analysis": beside}});
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    let half = |s: &UpgradeStatus| {
        s.phase == Phase::Paused
            && s.analysis_runs.first().is_some_and(|r| r.metrics[0].successful >= 2)
    };
    reached(&shop, "up", half).await;
    prometheus.process.kill().unwrap();
    prometheus.process.wait_exit().await;
    let status = ended(&shop, "up", Phase::RolledBack).await;
    let run = &status.analysis_runs[0];
    assert_eq!((run.name.as_str(), run.phase), ("web/background", AnalysisPhase::Error));
    assert_eq!(run.metrics[0].consecutive_error, 2);
    let why = "2 errors in a row, consecutiveErrorLimit is 1";
    assert!(status.message.contains(why), "{}", status.message);
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn d7_a_web_metric_sends_a_secret_that_nothing_shows() {
    let (lab, shop) = shop().await;
    let token = "s3cr\"et-t0ken";
    // It echoes what it was sent, as careless servers do.
    let server = Server::start(|asked| {
        (200, json!({"data": {"ok": true, "rate": 0.97}, "echo": asked.headers}).to_string())
    })
    .await
    .unwrap();
    let secrets: Api<Secret> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let secret =
        json!({"metadata": {"name": "gauge"}, "stringData": {"token": format!("{token}\n")}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    template(
        &shop,
        "web",
        &json!({
        "args": [{"name": "hash"},
            {"name": "token", "valueFrom": {"secretKeyRef": {"name": "gauge", "key": "token"}}}],
        "metrics": [{"name": "echo", "successCondition": "result.authorization contains '*****'",
            "consecutiveErrorLimit": 0,
            "provider": {"web": {"url": format!("{}/measure", server.url()), "method": "POST",
                "headers": [{"key": "Authorization", "value": "Bearer {{ args.token }}"}],
                "jsonBody": {"hash": "{{args.hash}}", "key": "{{args.token}}"},
                "jsonPath": "{$.echo}"}}}]}),
    )
    .await;
    shop.deploy("web", 2, json!({})).await.unwrap();
    let hash = json!([{"name": "hash", "valueFrom": {"podTemplateHashValue": "Latest"}}]);
    let list = [weight(50), by("web", &hash), weight(100)];
    shop.upgrade("up", &["web"], "web:v2", &steps(&list)).await.unwrap();
    let status = ended(&shop, "up", Phase::RolledBack).await;
    let says = ["Secret gauge may not be read by the controller", "kubectl create role"];
    assert!(says.iter().all(|s| status.message.contains(s)), "{}", status.message);
    assert!(server.seen().is_empty());

    let kubectl = |args: &[&str]| {
        let mut command = lab.cluster.kubectl();
        command.args(args).args(["-n", &shop.namespace]);
        let said = say(&mut command, "").unwrap();
        assert_eq!(said.code, Some(0), "{}", said.err);
    };
    kubectl(&[
        "create",
        "role",
        "upgrade-analysis",
        "--verb=get",
        "--resource=secrets",
        "--resource-name=gauge",
    ]);
    kubectl(&[
        "create",
        "rolebinding",
        "upgrade-analysis",
        "--role=upgrade-analysis",
        "--serviceaccount=kubectl-upgrade-system:upgrade-webhook",
    ]);
    shop.steer("up", json!({"control": {"retry": 1}})).await.unwrap();
    let completed = |s: &UpgradeStatus| s.phase == Phase::Completed;
    let status = reached(&shop, "up", completed).await;
    let seen = server.seen();
    assert_eq!(seen[0].line, "POST /measure HTTP/1.1");
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {token}"));
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    let set = status.stages[0].targets[0].canary_replica_set.as_deref().unwrap();
    let sets: Api<ReplicaSet> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let hash = sets.get(set).await.unwrap().labels()["pod-template-hash"].clone();
    assert_eq!(body, json!({"hash": hash, "key": token}));
    let shown = serde_json::to_string(&shop.upgrades().get("up").await.unwrap()).unwrap();
    assert!(!shown.contains("s3cr"), "{shown}");
    assert!(!lab.product.webhook().log_tail(10_000).contains("s3cr"));
    assert!(status.analysis_runs[0].metrics[0].measurements[0].value.contains("*****"));
}

#[tokio::test]
async fn d7_datadog_is_asked_as_its_two_apis_want_it() {
    let (lab, shop) = shop().await;
    let server = Server::start(|asked| {
        if asked.line.starts_with("GET /api/v1/query?") {
            return (200, json!({"series": [{"pointlist": [[1, 0.2], [2, 0.01]]}]}).to_string());
        }
        let columns = json!([{"values": [0.02]}]);
        (200, json!({"data": {"attributes": {"columns": columns}}}).to_string())
    })
    .await
    .unwrap();
    let keys = json!({"address": server.url(), "api-key": "the-api", "app-key": "the-app"});
    let secrets: Api<Secret> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let secret = json!({"metadata": {"name": "datadog"}, "stringData": keys});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let allow = json!([{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "analysis", "namespace": shop.namespace},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["datadog"], "verbs": ["get"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "analysis", "namespace": shop.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "analysis"},
        "subjects": [{"kind": "ServiceAccount", "name": "upgrade-webhook", "namespace": "kubectl-upgrade-system"}]}]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": allow}).to_string();
    let said = say(lab.cluster.kubectl().args(["apply", "-f", "-"]), &list).unwrap();
    assert_eq!(said.code, Some(0), "{}", said.err);
    template(&shop, "datadog", &json!({"args": [{"name": "service", "value": "web"}], "metrics": [
        {"name": "errors", "successCondition": "default(result, 0) < 0.05",
            "provider": {"datadog": {"query": "sum:errors{service:{{args.service}}}", "interval": "10m"}}},
        {"name": "formula", "failureCondition": "result >= 0.05",
            "provider": {"datadog": {"apiVersion": "v2", "aggregator": "avg", "formula": "a / b",
                "queries": {"a": "sum:errors{*}", "b": "sum:requests{*}"}}}}]})).await;
    shop.deploy("web", 2, json!({})).await.unwrap();
    let list = [weight(50), by("datadog", &json!([])), weight(100)];
    shop.upgrade("up", &["web"], "web:v2", &steps(&list)).await.unwrap();
    let status = ended(&shop, "up", Phase::Completed).await;
    let values: Vec<_> =
        status.analysis_runs[0].metrics.iter().map(|m| m.measurements[0].value.as_str()).collect();
    assert_eq!(values, ["0.01", "0.02"]);
    let seen = server.seen();
    for asked in &seen {
        assert_eq!(asked.headers["dd-api-key"], "the-api");
        assert_eq!(asked.headers["dd-application-key"], "the-app");
    }
    let v1 = seen.iter().find(|a| a.line.starts_with("GET")).unwrap();
    assert!(v1.line.contains("query=sum%3Aerrors%7Bservice%3Aweb%7D"), "{}", v1.line);
    let number = |name: &str| {
        let (_, rest) = v1.line.split_once(&format!("{name}=")).unwrap();
        rest.split(['&', ' ']).next().unwrap().parse::<i64>().unwrap()
    };
    assert_eq!(number("to") - number("from"), 600);
    let v2 = seen.iter().find(|a| a.line.starts_with("POST /api/v2/query/scalar ")).unwrap();
    let body: Value = serde_json::from_str(&v2.body).unwrap();
    let attributes = &body["data"]["attributes"];
    assert_eq!(attributes["formulas"], json!([{"formula": "a / b"}]));
    assert_eq!(
        attributes["queries"][1],
        json!({"aggregator": "avg", "data_source": "metrics",
        "name": "b", "query": "sum:requests{*}"})
    );
}

#[tokio::test]
async fn a_job_and_an_object_of_the_namespace_say_yes_and_no() {
    let (_, shop) = shop().await;
    let job = |image: &str, more: Value| {
        let mut spec = json!({"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "smoke", "image": image}]}}});
        for (key, value) in more.as_object().cloned().unwrap_or_default() {
            spec[key] = value;
        }
        json!({"metrics": [{"name": "smoke", "provider": {"job": {
            "metadata": {"labels": {"kind": "smoke"}}, "spec": spec}}}]})
    };
    template(&shop, "smoke", &job("smoke:v1", json!({}))).await;
    template(&shop, "late", &job("smoke:v1-never-ready", json!({"activeDeadlineSeconds": 1})))
        .await;
    template(
        &shop,
        "object",
        &json!({"metrics": [
        {"name": "available", "provider": {"kubernetes": {"apiVersion": "apps/v1",
            "kind": "Deployment", "name": "store", "condition": "Available"}}},
        {"name": "replicas", "successCondition": "result == 3", "provider": {"kubernetes": {
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "store",
            "jsonPath": "{.status.readyReplicas}"}}}]}),
    )
    .await;
    let store = shop.deploy("store", 3, json!({})).await.unwrap();
    let before = shop.deploy("web", 2, json!({})).await.unwrap();
    let list = [weight(50), by("smoke", &json!([])), by("object", &json!([])), weight(100)];
    shop.upgrade("up", &["web"], "web:v2", &steps(&list)).await.unwrap();
    let status = ended(&shop, "up", Phase::Completed).await;
    let names: Vec<_> = status.analysis_runs.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["web/step-1", "web/step-2"]);
    let jobs: Api<Job> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let made = jobs.list(&ListParams::default().labels("kind=smoke")).await.unwrap().items;
    assert_eq!(made.len(), 1);
    let owner = &made[0].metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Upgrade", "up"));
    shop.assert_untouched("web", &before).await.unwrap();

    let list = [weight(50), by("late", &json!([])), weight(100)];
    shop.upgrade("late", &["store"], "web:v2", &steps(&list)).await.unwrap();
    let status = ended(&shop, "late", Phase::RolledBack).await;
    assert!(status.message.contains("metric smoke: 1 failed"), "{}", status.message);
    shop.assert_untouched("store", &store).await.unwrap();
}

#[tokio::test]
async fn a_template_that_cannot_be_measured_by_is_refused_when_it_is_written() {
    let (lab, shop) = shop().await;
    let apply = |who: Option<&std::path::Path>, metric: Value, args: Value| {
        let object = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "AnalysisTemplate",
            "metadata": {"name": "t", "namespace": shop.namespace},
            "spec": {"args": args, "metrics": [metric]}});
        let mut command = lab.cluster.kubectl_with(who.unwrap_or(lab.cluster.kubeconfig()));
        command.args(["create", "--dry-run=server", "--validate=ignore", "-f", "-"]);
        say(&mut command, &object.to_string()).unwrap()
    };
    let web = json!({"web": {"url": "http://a.example/b"}});
    for (metric, says) in [
        (
            json!({"name": "m", "successCondition": "result =~ 1", "provider": web}),
            "metric m: successCondition: `=` means nothing at character 8",
        ),
        (json!({"name": "m", "interval": "often", "provider": web}), "`often` is no duration"),
        (json!({"name": "m", "count": 2, "provider": web}), "interval: a count over 1 needs one"),
        (
            json!({"name": "m", "provider": {"newRelic": {"query": "x"}}}),
            "provider needs exactly one of",
        ),
        (
            json!({"name": "m", "provider": {"web": {"url": "http://a", "body": "x"}}}),
            "a body needs method POST or PUT",
        ),
        (
            json!({"name": "m", "provider": {"kubernetes": {"apiVersion": "v1", "kind": "Secret", "name": "x"}}}),
            "what is in a Secret is not shown",
        ),
    ] {
        let said = apply(None, metric.clone(), json!([]));
        assert!(said.code != Some(0) && said.err.contains(says), "{metric}: {}", said.err);
    }
    // Whoever may write templates and no Jobs cannot have them made, nor Secrets sent about.
    let rules = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "writes", "namespace": shop.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubectl-upgrade-edit"},
            "subjects": [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}]}]});
    let said = say(lab.cluster.kubectl().args(["apply", "-f", "-"]), &rules.to_string()).unwrap();
    assert_eq!(said.code, Some(0), "{}", said.err);
    let mallory = lab.cluster.kubeconfig_for("mallory", &["people"]).unwrap();
    let plain = json!({"name": "m", "provider": web});
    upgrade_sandbox::eventually("mallory's rights", PATIENCE, || async {
        let said = apply(Some(&mallory), plain.clone(), json!([]));
        anyhow::ensure!(said.code == Some(0), "{}", said.err);
        Ok(())
    })
    .await
    .unwrap();
    let job = json!({"name": "m", "provider": {"job": {"spec": {"template": {}}}}});
    let said = apply(Some(&mallory), job, json!([]));
    assert!(said.err.contains("`mallory` may not write AnalysisTemplate"), "{}", said.err);
    assert!(said.err.contains("`create` on jobs.batch"), "{}", said.err);
    let secret = json!([{"name": "t", "valueFrom": {"secretKeyRef": {"name": "ca", "key": "k"}}}]);
    let said = apply(Some(&mallory), plain, secret);
    assert!(said.err.contains("`get` on secrets/ca"), "{}", said.err);
}

#[tokio::test]
async fn measuring_takes_the_rights_to_what_is_measured_by() {
    let (lab, shop) = shop().await;
    let job = json!({"metrics": [{"name": "smoke", "provider": {"job": {"spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "smoke", "image": "smoke:v1"}]}}}}}}]});
    template(&shop, "smoke", &job).await;
    let sends = json!({"args": [{"name": "host"},
        {"name": "token", "valueFrom": {"secretKeyRef": {"name": "gauge", "key": "token"}}}],
        "metrics": [{"name": "rate", "provider": {"web": {"url": "http://{{args.host}}/",
            "headers": [{"key": "Authorization", "value": "{{args.token}}"}]}}}]});
    template(&shop, "sends", &sends).await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let ns = shop.namespace.as_str();
    let may = |rules: &[&str]| {
        let output = lab.cluster.kubectl().args(["-n", ns]).args(rules).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    may(&["create", "role", "patches", "--verb=patch", "--resource=deployments"]);
    may(&["create", "rolebinding", "patches", "--role=patches", "--user=mallory"]);
    may(&["create", "rolebinding", "asks", "--clusterrole=kubectl-upgrade-edit", "--user=mallory"]);
    let mallory = lab.cluster.kubeconfig_for("mallory", &["people"]).unwrap();
    let start = |step: Value| {
        let strategy = steps(&[weight(50), step, weight(100)]);
        let images = json!([{"container": "web", "from": "web:v1", "to": "web:v2"}]);
        let object = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": "up", "namespace": ns}, "spec": {"stages": [{"name": "web",
                "workloads": {"strategy": strategy,
                    "targets": [{"kind": "Deployment", "name": "web", "images": images}]}}]}});
        let mut command = lab.cluster.kubectl_with(&mallory);
        command.args(["create", "--dry-run=server", "-f", "-"]);
        say(&mut command, &object.to_string()).unwrap()
    };
    upgrade_sandbox::eventually("mallory's rights", PATIENCE, || async {
        let said = start(json!({"pause": {}}));
        anyhow::ensure!(said.code == Some(0), "{}", said.err);
        Ok(())
    })
    .await
    .unwrap();
    let chosen = json!([{"name": "host", "value": "mallory.example"}]);
    for (step, lacks) in [
        (by("smoke", &json!([])), "`create` on jobs.batch"),
        (by("not-yet", &json!([])), "`create` on jobs.batch"),
        (by("sends", &chosen), "`get` on secrets/gauge"),
    ] {
        let said = start(step);
        assert!(said.code != Some(0) && said.err.contains(lacks), "{lacks}: {}", said.err);
    }
    may(&["create", "role", "runs", "--verb=create", "--resource=jobs"]);
    may(&["create", "rolebinding", "runs", "--role=runs", "--user=mallory"]);
    upgrade_sandbox::eventually("the right to make Jobs", PATIENCE, || async {
        let said = start(by("smoke", &json!([])));
        anyhow::ensure!(said.code == Some(0), "{}", said.err);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn templates_of_argo_rollouts_work_as_they_are() {
    let (lab, shop) = shop().await;
    // Only read while the test runs, from the module's own archive.
    let Some(source) = argo() else { return };
    let (mut taken, mut files) = (0, vec![source.join("examples"), source.join("test/e2e")]);
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---") {
            let Ok(mut object) = serde_saphyr::from_str::<Value>(document) else { continue };
            let ours = ["prometheus", "datadog", "web", "job"];
            let metrics = object["spec"]["metrics"].as_array().cloned().unwrap_or_default();
            let known = |m: &Value| ours.iter().any(|p| m["provider"][p].is_object());
            if object["kind"] != "AnalysisTemplate"
                || metrics.is_empty()
                || !metrics.iter().all(known)
            {
                continue;
            }
            object["apiVersion"] = json!("kubectl-upgrade.dev/v1alpha1");
            object["metadata"]["namespace"] = json!(shop.namespace);
            let mut command = lab.cluster.kubectl();
            command.args(["create", "--dry-run=server", "--validate=strict", "-f", "-"]);
            let said = say(&mut command, &object.to_string()).unwrap();
            assert_eq!(said.code, Some(0), "{}: {}\n{document}", path.display(), said.err);
            taken += 1;
        }
    }
    println!("{taken} templates of Argo Rollouts are taken as they are");
    assert!(taken >= 10, "{taken}");
}

/// Where Go keeps the source of Argo Rollouts; none where it cannot be fetched.
fn argo() -> Option<std::path::PathBuf> {
    let module = "github.com/argoproj/argo-rollouts@v1.9.1";
    let output = std::process::Command::new("go")
        .current_dir(std::env::temp_dir())
        .args(["mod", "download", "-json", module])
        .output()
        .ok()?;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let found = told["Dir"].as_str().map(std::path::PathBuf::from);
    if found.is_none() {
        println!("skipped: {module} cannot be fetched");
    }
    found
}
