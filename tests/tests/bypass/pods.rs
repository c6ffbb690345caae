//! Rows 6, 7, 9, 11 to 13, 18, 19 and 26 to 28: what makes pods, and pods themselves.

use crate::ground::{SOON, User, all, free, governed, refusal, to};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use upgrade_sandbox::eventually;

pub async fn row_06_the_template_of_a_replica_set() -> Result<()> {
    let g = governed().await?;
    let set = g.set_of("web:v1").await?;
    let args = ["patch", set.as_str(), "-p", &to("evil:1")];
    g.refused(User::Alice, &args, &["UpgradeRequired", "ReplicaSet"]);
    g.refused(User::Admin, &args, &["UpgradeRequired", "ReplicaSet"]);
    // Also where the policy is about Deployments alone.
    let g = free().await?;
    g.creates(User::Alice, &g.workload("Deployment", "web", "web:v1"))?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", "web:v1").await?;
    let kinds = r#"{"spec":{"workloads":{"kinds":["Deployment"]}}}"#;
    g.passes(User::Admin, &["patch", "upgradepolicy", &g.ns, "--type=merge", "-p", kinds]);
    let set = g.set_of("web:v1").await?;
    let args = ["patch", set.as_str(), "-p", &to("evil:1"), "--dry-run=server"];
    eventually("the narrower policy", SOON, || async {
        let error = g.run(User::Alice, &args).err().context("passed")?.to_string();
        error.contains("SelectorTaken").then_some(()).context(error)
    })
    .await
}

pub async fn row_07_a_replica_set_to_be_adopted() -> Result<()> {
    let g = governed().await?;
    // Other images, and also the same: it would be an old one after the next Upgrade.
    for image in ["evil:1", "web:v1"] {
        let mut set = g.workload("ReplicaSet", "web", image);
        set["metadata"]["name"] = json!("web-more");
        g.not_created(User::Alice, &set, &["SelectorTaken", "Deployment web"]);
        set["spec"]["selector"]["matchLabels"]["pod-template-hash"] = json!("abc");
        set["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] = json!("abc");
        g.not_created(User::Alice, &set, &["SelectorTaken", "Deployment web"]);
    }
    g.creates(User::Alice, &g.workload("ReplicaSet", "apart", "tool:1"))?;
    Ok(())
}

pub async fn row_09_a_bare_pod_with_the_same_labels() -> Result<()> {
    let g = governed().await?;
    let says = ["SelectorTaken", "Deployment web"];
    g.not_created(User::Alice, &g.pod("intruder", "web", "evil:1"), &says);
    let mut generated = g.pod("x", "web", "evil:1");
    generated["metadata"] = json!({"generateName": "web-", "labels": {"app": "web", "b": "c"}});
    g.not_created(User::Admin, &generated, &says);
    // The approved image and one more.
    let mut more = g.pod("more", "web", "web:v1");
    more["spec"]["initContainers"] = json!([{"name": "init", "image": "evil:1"}]);
    g.not_created(User::Alice, &more, &says);
    g.creates(User::Alice, &g.pod("stranger", "stranger", "tool:1"))?;
    Ok(())
}

pub async fn row_11_the_image_of_a_live_pod() -> Result<()> {
    let g = governed().await?;
    let pod = g.one("pods", "app=web").await?;
    let args = ["set", "image", pod.as_str(), "app=evil:1"];
    g.refused(User::Alice, &args, &["UpgradeRequired"]);
    g.refused(User::Admin, &args, &["UpgradeRequired"]);
    assert_eq!(g.field(&pod, ".spec.containers[0].image"), "web:v1");
    Ok(())
}

pub async fn row_12_an_ephemeral_container() -> Result<()> {
    let g = governed().await?;
    let pod = g.one("pods", "app=web").await?;
    let debug = ["debug", pod.as_str(), "--image=evil:1", "--", "sh"];
    // `edit` alone does not reach the subresource; nobody else is let through by it.
    g.refused(User::Alice, &debug, &[]);
    g.refused(User::Admin, &debug, &["evil:1"]);
    assert_eq!(g.field(&pod, ".spec.ephemeralContainers"), "");
    Ok(())
}

pub async fn row_13_debug_copies_and_run() -> Result<()> {
    let g = governed().await?;
    let pod = g.one("pods", "app=web").await?;
    let says = ["SelectorTaken", "Deployment web"];
    let copy = ["debug", pod.as_str(), "--copy-to=copy", "--set-image=app=evil:1", "--keep-labels"];
    g.refused(User::Alice, &copy, &says);
    g.refused(User::Alice, &["run", "more", "--image=evil:1", "--labels=app=web"], &says);
    g.refused(User::Alice, &copy[..4], &says);
    // Without the labels nothing takes it for one of them.
    g.passes(User::Alice, &["run", "apart", "--image=evil:1"]);
    Ok(())
}

pub async fn row_18_stateful_sets_daemon_sets_and_the_old_kinds() -> Result<()> {
    let g = free().await?;
    let kinds = [("StatefulSet", "sts"), ("DaemonSet", "ds"), ("ReplicationController", "rc")];
    for (kind, short) in kinds {
        g.creates(User::Alice, &g.workload(kind, &format!("old-{short}"), "old:1"))?;
    }
    g.creates(User::Alice, &g.workload("Deployment", "web", "web:v1"))?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", "web:v1").await?;
    g.noted("StatefulSet", "old-sts", "old:1").await?;
    g.noted("DaemonSet", "old-ds", "old:1").await?;
    for (kind, short) in kinds {
        let object = format!("{short}/old-{short}");
        let says = ["UpgradeRequired", "old:1 -> evil:1"];
        g.refused(User::Alice, &["patch", &object, "-p", &to("evil:1")], &says);
        let mut intruder = g.workload(kind, "web", "evil:1");
        intruder["metadata"]["name"] = json!("intruder");
        g.not_created(User::Alice, &intruder, &["SelectorTaken", "Deployment web"]);
        // The pods that its own controller makes need nobody's word.
        let label = format!("app=old-{short}");
        let pods = || g.run(User::Admin, &["get", "pods", "-l", &label, "-o", "name"]);
        let (pod, before) = (g.one("pods", &label).await?, pods()?);
        g.passes(User::Alice, &["delete", &pod, "--now"]);
        // A StatefulSet's has the same name again.
        eventually("another pod", SOON, || async {
            let now = pods()?;
            let another = now.lines().any(|l| l == pod || !before.contains(l));
            another.then_some(()).context(now)
        })
        .await?;
    }
    for (kind, short) in &kinds[..2] {
        let name = format!("old-{short}");
        g.passes(User::Alice, &["delete", short, &name]);
        let other = g.workload(kind, &name, "evil:1");
        g.not_created(User::Alice, &other, &["LedgerMismatch"]);
    }
    // Nothing makes pods from a PodTemplate; it is a note.
    let note = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "note"},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "evil:1"}]}}});
    g.creates(User::Admin, &note)?;
    Ok(())
}

pub async fn row_19_jobs_and_cron_jobs() -> Result<()> {
    let g = free().await?;
    g.creates(User::Alice, &g.job("CronJob", "nightly", "job:1"))?;
    let mut waiting = g.job("Job", "waiting", "job:1");
    waiting["spec"]["suspend"] = json!(true);
    g.creates(User::Alice, &waiting)?;
    g.govern(&json!({"workloads": {"all": true}, "firstInstall": "Upgrade"})).await?;
    g.noted("CronJob", "nightly", "job:1").await?;
    let says = ["UpgradeRequired", "job:1 -> job:2"];
    g.refused(User::Alice, &["set", "image", "cronjob/nightly", "app=job:2"], &says);
    // A suspended Job's image is the API server's to keep; nobody reaches it either way.
    let image = ["patch", "job", "waiting", "-p", &to("job:2")];
    g.refused(User::Alice, &image, &[]);
    // A run by hand is what the CronJob was approved for, and nothing else.
    g.passes(User::Alice, &["create", "job", "once", "--from=cronjob/nightly"]);
    let dry = ["create", "job", "more", "--from=cronjob/nightly", "--dry-run=client", "-o", "json"];
    let mut other: Value = serde_json::from_str(&g.passes(User::Alice, &dry))?;
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("job:2");
    let by = ["LedgerMismatch", "CronJob nightly", "`app` job:1"];
    g.not_created(User::Alice, &other, &by);
    other["spec"]["suspend"] = json!(true);
    g.not_created(User::Alice, &other, &by);
    g.not_created(User::Alice, &g.job("Job", "bare", "job:1"), &["FirstInstall"]);
    // The controller's own pass by its identity.
    let mut own = other.clone();
    own["metadata"]["name"] = json!("nightly-1");
    let as_controller = "--as=system:serviceaccount:kube-system:cronjob-controller";
    g.run_with(User::Admin, &["create", as_controller, "-f", "-"], &own.to_string(), &[])?;
    g.passes(User::Alice, &["delete", "cronjob", "nightly"]);
    g.not_created(User::Alice, &g.job("CronJob", "nightly", "job:2"), &["LedgerMismatch"]);
    Ok(())
}

/// The kinds of operators are unknown here; the pods they make are not.
pub async fn row_26_pods_that_an_unknown_kind_makes() -> Result<()> {
    let g = governed().await?;
    g.passes(User::Admin, &["create", "sa", "operator"]);
    let account = format!("--serviceaccount={}:operator", g.ns);
    let role = ["create", "rolebinding", "operator", "--clusterrole=edit", &account];
    g.passes(User::Admin, &role);
    let operator = format!("--as=system:serviceaccount:{}:operator", g.ns);
    let mut pod = g.pod("member-0", "web", "evil:1");
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Rollout",
        "name": "web", "uid": "00000000-0000-0000-0000-000000000001", "controller": true}]);
    for (object, reason) in [
        (pod, "SelectorTaken"),
        (g.workload("ReplicaSet", "web", "web:v2"), "SelectorTaken"),
        (g.workload("StatefulSet", "web", "web:v2"), "SelectorTaken"),
    ] {
        let object = object.to_string();
        let args = ["create", &operator, "-f", "-"];
        refusal(g.run_with(User::Admin, &args, &object, &[]), &[reason, "Deployment web"]);
    }
    Ok(())
}

/// What is judged is what would be stored. The pods of controllers are let through by who made
/// them, so a policy that changes these stays out of reach; making one is not an editor's right.
pub async fn row_27_a_mutating_policy_behind_the_approval() -> Result<()> {
    let g = governed().await?;
    let name = format!("mutate-{}", g.ns);
    let constraints = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": g.ns}},
        "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
            "resources": ["deployments"]}]});
    let change = r#"[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/image", value: "evil:1"}]"#;
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": constraints, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": change}}]}});
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name}});
    g.not_created(User::Alice, &policy, &["forbidden"]);
    g.not_created(User::Alice, &binding, &["forbidden"]);
    g.creates(User::Admin, &policy)?;
    g.creates(User::Admin, &binding)?;
    eventually("the mutating policy", SOON, || async {
        let args = ["annotate", "deploy", "web", "a=b", "--overwrite", "--dry-run=server"];
        let error = g.run(User::Alice, &args).err().context("not changed yet")?.to_string();
        error.contains("web:v1 -> evil:1").then_some(()).context(error)
    })
    .await?;
    g.refused(User::Alice, &["annotate", "deploy", "web", "a=b"], &["UpgradeRequired"]);
    assert_eq!(g.image(), "web:v1");
    g.passes(User::Admin, &["delete", "mutatingadmissionpolicybinding", &name]);
    g.passes(User::Admin, &["delete", "mutatingadmissionpolicy", &name]);
    Ok(())
}

pub async fn row_28_forged_owner_references() -> Result<()> {
    let g = governed().await?;
    let set = g.set_of("web:v1").await?;
    let uid = g.field(&set, ".metadata.uid");
    let name = set.trim_start_matches("rs/");
    let mut pod = g.pod("forged", "web", "evil:1");
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}]);
    let hash = g.field(&set, ".metadata.labels.pod-template-hash");
    pod["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    g.not_created(User::Alice, &pod, &["SelectorTaken", "Deployment web"]);
    let uid = g.field("deploy/web", ".metadata.uid");
    let mut set = g.workload("ReplicaSet", "web", "evil:1");
    set["metadata"]["name"] = json!("web-forged");
    set["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "forged"});
    set["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment",
        "name": "web", "uid": uid, "controller": true, "blockOwnerDeletion": true}]);
    g.not_created(User::Alice, &set, &["SelectorTaken", "Deployment web"]);
    Ok(())
}
