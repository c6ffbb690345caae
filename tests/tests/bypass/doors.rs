//! Rows 8, 10 and 17: doors that the API server itself keeps shut, so that nothing waits for us.

use crate::ground::{SOON, User, all, free, governed, refusal};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use upgrade_sandbox::eventually;

pub async fn row_08_scaling_an_old_replica_set_up() -> Result<()> {
    let g = free().await?;
    g.creates(User::Alice, &g.workload("Deployment", "web", "web:v0"))?;
    let old = g.set_of("web:v0").await?;
    g.passes(User::Alice, &["set", "image", "deploy/web", "app=web:v1"]);
    g.set_of("web:v1").await?;
    // Before its first pod it is empty, too.
    g.passes(User::Alice, &["rollout", "status", "deploy/web", "--timeout=60s"]);
    eventually("the old one to be empty", SOON, || async {
        let replicas = g.field(&old, ".status.replicas");
        ensure!(replicas == "0", "{replicas}");
        Ok(())
    })
    .await?;
    g.creates(User::Alice, &g.workload("ReplicaSet", "apart", "tool:1"))?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", "web:v1").await?;
    // While it is paused its controller takes nothing back.
    g.passes(User::Alice, &["rollout", "pause", "deploy/web"]);
    let says = ["OwnedByDeployment", "Deployment web"];
    g.shut(User::Alice, &["scale", &old, "--replicas=2"], &says).await?;
    let more = r#"{"spec":{"replicas":2}}"#;
    g.shut(User::Alice, &["patch", &old, "-p", more], &says).await?;
    let scale = ["patch", &old, "--subresource=scale", "--type=merge", "-p", more];
    g.shut(User::Admin, &scale, &says).await?;
    // An autoscaler is what anybody points at it. kubectl looks at the object first, which that
    // controller's own rights do not let it.
    let account = "--serviceaccount=kube-system:horizontal-pod-autoscaler";
    g.passes(User::Admin, &["create", "rolebinding", "hpa", "--clusterrole=edit", account]);
    let autoscaler = "--as=system:serviceaccount:kube-system:horizontal-pod-autoscaler";
    let as_autoscaler = |set: &str, from: &str, to: &str| {
        let (from, to) = (format!("--current-replicas={from}"), format!("--replicas={to}"));
        g.run(User::Admin, &["scale", set, &from, &to, autoscaler])
    };
    refusal(as_autoscaler(&old, "0", "2"), &says);
    assert_eq!(g.field(&old, ".spec.replicas"), "0");
    // What is nobody's old set scales, and so does the Deployment, for people and autoscalers.
    g.passes(User::Alice, &["scale", "rs/apart", "--replicas=3"]);
    as_autoscaler("deploy/web", "2", "3")?;
    g.passes(User::Alice, &["rollout", "resume", "deploy/web"]);
    g.passes(User::Alice, &["scale", "deploy/web", "--replicas=4"]);
    let set = g.set_of("web:v1").await?;
    eventually("the Deployment to scale its own", SOON, || async {
        let replicas = g.field(&set, ".spec.replicas");
        ensure!(replicas == "4", "{replicas}");
        Ok(())
    })
    .await
}

pub async fn row_10_relabelling_pods_and_templates_into_a_selector() -> Result<()> {
    let g = governed().await?;
    let says = ["SelectorTaken", "Deployment web"];
    g.creates(User::Alice, &g.pod("stranger", "stranger", "evil:1"))?;
    let label = ["label", "pod", "stranger", "app=web", "--overwrite"];
    g.shut(User::Alice, &label, &says).await?;
    g.refused(User::Admin, &label, &says);
    let json = r#"[{"op":"replace","path":"/metadata/labels/app","value":"web"}]"#;
    g.refused(User::Alice, &["patch", "pod", "stranger", "--type=json", "-p", json], &says);
    // The template of a workload that was made apart, with every kind that has one.
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"] {
        let name = format!("apart-{}", kind.to_lowercase());
        let mut object = g.workload(kind, &name, "evil:1");
        let own = json!({"name": name});
        object["spec"]["template"]["metadata"]["labels"] = own.clone();
        object["spec"]["selector"] = match kind {
            "ReplicationController" => own,
            _ => json!({ "matchLabels": own }),
        };
        g.creates(User::Alice, &object)?;
        let patch = r#"{"spec":{"template":{"metadata":{"labels":{"app":"web"}}}}}"#;
        let object = format!("{kind}/{name}");
        g.shut(User::Alice, &["patch", &object, "-p", patch], &says).await?;
        // Other labels are free.
        let patch = r#"{"spec":{"template":{"metadata":{"labels":{"team":"a"}}}}}"#;
        g.passes(User::Alice, &["patch", &object, "-p", patch]);
    }
    g.creates(User::Alice, &g.job("CronJob", "apart", "evil:1"))?;
    let patch =
        r#"{"spec":{"jobTemplate":{"spec":{"template":{"metadata":{"labels":{"app":"web"}}}}}}}"#;
    g.shut(User::Alice, &["patch", "cronjob", "apart", "-p", patch], &says).await?;
    // To take a pod aside and to put it back is a way to look at it.
    let pod = g.one("pods", "app=web").await?;
    g.passes(User::Alice, &["label", &pod, "team=a"]);
    g.passes(User::Alice, &["label", &pod, "app-"]);
    // Another has come in its place, so that one of them may go at once.
    g.passes(User::Alice, &["label", &pod, "app=web"]);
    Ok(())
}

pub async fn row_17_controller_revisions_and_the_current_revision() -> Result<()> {
    let g = free().await?;
    g.creates(User::Alice, &g.workload("StatefulSet", "db", "db:1"))?;
    let revision = g.one("controllerrevisions", "app=db").await?;
    g.govern(&all()).await?;
    g.noted("StatefulSet", "db", "db:1").await?;
    // `edit` may not write them; who may is refused all the same.
    let delete = ["delete", revision.as_str()];
    g.refused(User::Alice, &delete, &["forbidden"]);
    g.shut(User::Admin, &delete, &["ControllerOnly"]).await?;
    let forged = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": "db-forged", "namespace": g.ns, "labels": {"app": "db"}},
        "revision": 9, "data": {"spec": {"template": {"$patch": "replace",
            "metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [{"name": "app", "image": "evil:1"}]}}}}});
    g.not_created(User::Alice, &forged, &["forbidden"]);
    g.not_created(User::Admin, &forged, &["ControllerOnly"]);
    let status = r#"{"status":{"currentRevision":"db-forged"}}"#;
    let patch = ["patch", "sts", "db", "--subresource=status", "--type=merge", "-p", status];
    g.refused(User::Alice, &patch, &["forbidden"]);
    g.shut(User::Admin, &patch, &["ControllerOnly", "currentRevision"]).await?;
    // Its own controller goes on, and other kinds keep theirs.
    g.passes(User::Alice, &["scale", "sts/db", "--replicas=3"]);
    g.passes(User::Alice, &["rollout", "restart", "sts/db"]);
    eventually("the restart", SOON * 2, || async {
        let columns =
            "jsonpath={.status.updatedReplicas} {.status.currentRevision} {.status.updateRevision}";
        let text = g.run(User::Admin, &["get", "sts", "db", "-o", columns])?;
        let words: Vec<_> = text.split_whitespace().collect();
        let done = matches!(words[..], [n, current, update] if n == "3" && current == update
            && format!("controllerrevision.apps/{current}") != revision);
        done.then_some(()).context(text)
    })
    .await?;
    let mut theirs = forged;
    theirs["metadata"]["name"] = json!("vm-1");
    theirs["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Machine",
        "name": "vm", "uid": "00000000-0000-0000-0000-000000000001", "controller": true}]);
    g.creates(User::Admin, &theirs)?;
    Ok(())
}
