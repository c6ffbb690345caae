//! Row A2: migrations before the deploy.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use upgrade_core::api::status::JobPhase;
use upgrade_core::api::{Phase, Upgrade};
use upgrade_sandbox::eventually;
use upgrade_sandbox::scenario::{PATIENCE, Shop};

use super::{App, create, message, migrate, rolling};

#[tokio::test]
async fn a2_a_migration_is_found_by_its_labels_and_its_pods_get_no_traffic() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 2).await?;
    let job = json!({"name": "migrate", "job": {"image": "migrations:never-ready",
        "command": ["migrate"], "args": ["up"], "env": [{"name": "TO", "value": "7"}],
        "ttlSecondsAfterFinished": 60}});
    let web = app.workloads(&["web"], "web:v2", &rolling());
    app.start("up", "v2", json!([job, {"name": "web", "workloads": web}])).await?;
    let found = eventually("the migration", PATIENCE, || async {
        app.migrations("web").await?.pop().context("none yet")
    })
    .await?;
    let spec = found.spec.clone().context("no spec")?;
    let (ttl, retries, deadline) =
        (spec.ttl_seconds_after_finished, spec.backoff_limit, spec.active_deadline_seconds);
    assert_eq!((ttl, retries, deadline), (Some(60), Some(0), Some(1800)));
    let container = spec.template.spec.context("no pod")?.containers.remove(0);
    assert_eq!(container.image.as_deref(), Some("migrations:never-ready"));
    assert_eq!(container.command, Some(vec!["migrate".to_owned()]));
    assert_eq!(container.args, Some(vec!["up".to_owned()]));
    let labels = spec.template.metadata.and_then(|m| m.labels).unwrap_or_default();
    assert!(!labels.contains_key("app"), "a Service of app=web would take it: {labels:?}");

    // Taken back while it runs: the Job goes, and its pod with it.
    app.shop.says("up", "runs").await?;
    app.shop.steer("up", json!({"control": {"abort": true}})).await?;
    let over = app.shop.phase("up", Phase::Aborted).await?;
    let job = over.status.context("no status")?.stages.remove(0).job.context("no job")?;
    assert_eq!(job.phase, JobPhase::Deleted);
    assert!(app.migrations("web").await?.is_empty());
    app.told("up", &["StageStarted", "Migrating", "JobStarted", "JobDeleted", "Aborted"]).await
}

#[tokio::test]
async fn a2_a_failed_migration_means_that_nothing_was_deployed_and_a_retry_makes_another_job()
-> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 3).await?;
    let before = app.shop.deployments().get("web").await?;
    let web = app.workloads(&["web"], "web:v2", &rolling());
    let stages = json!([migrate("migrations:crash-loop"), {"name": "web", "workloads": web}]);
    app.start("up", "v2", stages).await?;
    let over = app.shop.phase("up", Phase::RolledBack).await?;
    let said = message(&over);
    let first = app.migrations("web").await?.pop().context("no job")?.name_any();
    let logs = format!("kubectl logs job/{first} -n {}", app.shop.namespace);
    for part in ["BackoffLimitExceeded", &logs, "nothing was deployed"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert_eq!(app.shop.split("web", "web:v2").await?, (3, 0));
    let now = app.shop.deployments().get("web").await?;
    assert_eq!(now.metadata.generation, before.metadata.generation, "its spec was never written");

    app.shop.steer("up", json!({"control": {"retry": 1}})).await?;
    eventually("the second Job", PATIENCE, || async {
        let names: Vec<_> = app.migrations("web").await?.iter().map(Job::name_any).collect();
        if names.len() == 2 { Ok(()) } else { bail!("{names:?}") }
    })
    .await
}

#[tokio::test]
async fn a2_what_the_api_server_would_not_take_fails_with_its_words() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 1).await?;
    let template = json!({"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "a", "image": "a:1"}]}});
    let web = app.workloads(&["web"], "web:v2", &rolling());
    let stages = json!([{"name": "migrate", "job": {"template": template}}, {"name": "web", "workloads": web}]);
    app.start("up", "v2", stages).await?;
    let said = message(&app.shop.phase("up", Phase::RolledBack).await?);
    assert!(said.contains("cannot be made") && said.contains("Duplicate value"), "{said}");
    assert!(said.contains("nothing was deployed"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a2_jobs_are_under_the_policy_and_under_the_requesters_rights() -> Result<()> {
    let app = App::open().await?;
    app.deploy("web", 1).await?;
    let namespace = &app.shop.namespace;
    app.shop.policy(json!({"images": {"registries": ["docker.io/library"]}})).await?;
    let web = app.workloads(&["web"], "web:v2", &rolling());
    let stages = |image: &str| json!([migrate(image), {"name": "web", "workloads": web}]);
    let refused = |result: Result<Upgrade>| result.map(|_| ()).expect_err("refused").to_string();
    // The policy counts once the webhook has seen it.
    let strange: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "strange"},
        "spec": {"to": "v2", "stages": stages("elsewhere.example/migrations:v2")}}))?;
    // On trial: taken before the policy is heard of, it would begin.
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the policy to hold", PATIENCE, || async {
        let said = app.shop.upgrades().create(&trial, &strange).await.map(drop);
        let said = said.err().map(|e| e.to_string()).unwrap_or_default();
        for part in ["spec.stages[0].job", "no allowed registry"] {
            anyhow::ensure!(said.contains(part), "{said}");
        }
        Ok(())
    })
    .await?;

    // Somebody who may change the Deployment, and neither make Jobs nor read logs.
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]},
        {"apiGroups": ["kubectl-upgrade.dev"], "resources": ["upgrades"], "verbs": ["create", "get"]}]);
    grant(&app.shop, "dana", rules).await?;
    app.shop.may("dana", &[], "create", "upgrades").await?;
    let dana = app.lab.cluster.client_for("dana", &[]).await?;
    let spec = |stages: Value| json!({"to": "v2", "stages": stages});
    let said = refused(create(&dana, namespace, "job", spec(stages("web:v2"))).await);
    assert!(said.contains("`create` on jobs.batch"), "{said}");
    let mut logs = app.workloads(&["web"], "web:v2", &rolling());
    logs["healthChecks"] = json!([{"name": "quiet", "logs": {"pattern": "ERROR"}}]);
    let logs = json!([{"name": "web", "workloads": logs}]);
    let said = refused(create(&dana, namespace, "logs", spec(logs)).await);
    assert!(said.contains("`get` on pods/log"), "{said}");
    let plain = json!([{"name": "web", "workloads": web}]);
    create(&dana, namespace, "plain", spec(plain)).await?;
    app.shop.phase("plain", Phase::Completed).await?;

    // A Job by hand that looks like one of ours is none.
    let job: Job = serde_json::from_value(json!({"metadata": {"name": "by-hand",
        "labels": {"app": "web", "type": "migration", "kubectl-upgrade.dev/upgrade": "plain"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "job", "image": "elsewhere.example/x"}]}}}}))?;
    let said = app.jobs().create(&PostParams::default(), &job).await.expect_err("reserved");
    assert!(said.to_string().contains("LabelReserved"), "{said}");
    Ok(())
}

/// Lets a user do these things in the shop, and nothing else.
async fn grant(shop: &Shop, user: &str, rules: Value) -> Result<()> {
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    let role: Role = serde_json::from_value(json!({"metadata": {"name": user}, "rules": rules}))?;
    let api: Api<Role> = Api::namespaced(shop.client.clone(), &shop.namespace);
    api.create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({"metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]}))?;
    let api: Api<RoleBinding> = Api::namespaced(shop.client.clone(), &shop.namespace);
    api.create(&PostParams::default(), &binding).await?;
    Ok(())
}
