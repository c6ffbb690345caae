//! Rows 25, 41 to 44 and 50: who asks.

use crate::ground::{User, governed, refusal};
use anyhow::Result;
use serde_json::{Value, json};

/// The service account of somebody's tool, with edit rights in the namespace, as `--as` names it.
fn tool(g: &crate::ground::Ground, name: &str) -> String {
    g.passes(User::Admin, &["create", "sa", name]);
    let account = format!("--serviceaccount={}:{name}", g.ns);
    g.passes(User::Admin, &["create", "rolebinding", name, "--clusterrole=edit", &account]);
    format!("--as=system:serviceaccount:{}:{name}", g.ns)
}

pub async fn row_25_an_operator_is_nobody_special() -> Result<()> {
    let g = governed().await?;
    let operator = tool(&g, "postgres-operator");
    g.creates(User::Alice, &g.workload("StatefulSet", "db", "db:1"))?;
    g.noted("StatefulSet", "db", "db:1").await?;
    let says = ["UpgradeRequired", "db:1 -> db:2"];
    g.refused(User::Admin, &[&operator, "set", "image", "sts/db", "app=db:2"], &says);
    // An editor may act as a service account of the namespace, and gains nothing by it.
    g.refused(User::Alice, &[&operator, "set", "image", "sts/db", "app=db:2"], &says);
    g.passes(User::Admin, &[&operator, "scale", "sts/db", "--replicas=3"]);
    Ok(())
}

/// Admission cannot see who impersonates: it is a right to be given to nobody. `edit` has it for
/// service accounts of its own namespace only.
pub async fn row_41_impersonation() -> Result<()> {
    let g = governed().await?;
    for who in [
        "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook",
        "system:serviceaccount:kube-system:deployment-controller",
        "system:serviceaccount:kube-system:replicaset-controller",
        "system:kube-controller-manager",
        "admin",
    ] {
        let who = format!("--as={who}");
        let args = ["set", "image", "deploy/web", "app=evil:1", &who];
        g.refused(User::Alice, &args, &["cannot impersonate"]);
    }
    let masters = ["--as=alice", "--as-group=system:masters", "get", "secrets", "-A"];
    g.refused(User::Alice, &masters, &["cannot impersonate"]);
    // Even who may is bound by the Upgrade where the identity is ours, and by the kind where it
    // is a controller's.
    let us = "--as=system:serviceaccount:kubectl-upgrade-system:upgrade-webhook";
    let args = ["set", "image", "deploy/web", "app=evil:1", us];
    g.refused(User::Admin, &args, &["UpgradeRequired"]);
    let account = "--serviceaccount=kube-system:deployment-controller";
    g.passes(User::Admin, &["create", "rolebinding", "them", "--clusterrole=edit", account]);
    let them = "--as=system:serviceaccount:kube-system:deployment-controller";
    let args = ["set", "image", "deploy/web", "app=evil:1", them];
    g.refused(User::Admin, &args, &["UpgradeRequired"]);
    Ok(())
}

pub async fn row_42_tokens_of_controllers() -> Result<()> {
    let g = governed().await?;
    for (ns, account) in [
        ("kubectl-upgrade-system", "upgrade-webhook"),
        ("kube-system", "deployment-controller"),
        ("kube-system", "replicaset-controller"),
    ] {
        g.refused(User::Alice, &["create", "token", account, "-n", ns], &["forbidden"]);
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "mint", "namespace": ns,
                "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token"});
        let mut pod = g.pod("mint", "mint", "tool:1");
        pod["metadata"]["namespace"] = json!(ns);
        pod["spec"]["serviceAccountName"] = json!(account);
        for object in [secret, pod] {
            let args = ["create", "-n", ns, "-f", "-"];
            let result = g.run_with(User::Alice, &args, &object.to_string(), &[]);
            refusal(result, &["forbidden"]);
        }
    }
    // A token of a namesake in one's own namespace is a namesake's.
    g.passes(User::Alice, &["create", "sa", "upgrade-webhook"]);
    let token = g.passes(User::Alice, &["create", "token", "upgrade-webhook"]);
    let account = format!("--serviceaccount={}:upgrade-webhook", g.ns);
    g.passes(User::Admin, &["create", "rolebinding", "namesake", "--clusterrole=edit", &account]);
    let token = format!("--token={}", token.trim());
    let server = format!("--server={}", g.cluster.url());
    let args = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &server, &token];
    let set = ["set", "image", "deploy/web", "app=web:v2"];
    g.refused(User::Alice, &[&args[..], &set].concat(), &["UpgradeRequired"]);
    Ok(())
}

/// Which identity a controller has depends on the distribution: both are known, look-alikes are not.
pub async fn row_43_look_alikes_of_controllers() -> Result<()> {
    let g = governed().await?;
    let set = |name: &str| -> Value {
        let mut set = g.workload("ReplicaSet", "web", "evil:1");
        set["metadata"]["name"] = json!(name);
        set
    };
    let create = |who: &str, object: &Value| {
        let who = format!("--as={who}");
        let args = ["create", "-f", "-", "--dry-run=server", &who];
        g.run_with(User::Admin, &args, &object.to_string(), &[])
    };
    let manager = "--user=system:kube-controller-manager";
    g.passes(User::Admin, &["create", "rolebinding", "manager", "--clusterrole=edit", manager]);
    create("system:kube-controller-manager", &set("a"))?;
    create("system:serviceaccount:kube-system:deployment-controller", &set("b"))?;
    let namesake = tool(&g, "deployment-controller");
    let namesake = namesake.trim_start_matches("--as=");
    refusal(create(namesake, &set("c")), &["SelectorTaken"]);
    // Each controller makes its own kind and no other.
    for user in ["system:kube-controller-manager:x", "kube-controller-manager"] {
        let (name, subject) =
            (format!("like-{}", user.replace(':', "-")), format!("--user={user}"));
        g.passes(User::Admin, &["create", "rolebinding", &name, "--clusterrole=edit", &subject]);
        refusal(create(user, &set("d")), &["SelectorTaken"]);
    }
    let pods = "system:serviceaccount:kube-system:deployment-controller";
    let subject = "--serviceaccount=kube-system:deployment-controller";
    g.passes(User::Admin, &["create", "rolebinding", "pods", "--clusterrole=edit", subject]);
    refusal(create(pods, &g.pod("e", "web", "evil:1")), &["SelectorTaken"]);
    Ok(())
}

/// A kubelet starts the files of its node whatever the API says. To the API a Pod is a Pod.
pub async fn row_44_mirror_pods() -> Result<()> {
    let g = governed().await?;
    let node = g.field("nodes", ".items[0].metadata.name");
    let mut pod = g.pod("static", "web", "evil:1");
    pod["spec"]["nodeName"] = json!(node);
    g.not_created(User::Alice, &pod, &["SelectorTaken"]);
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    g.not_created(User::Alice, &pod, &[]);
    Ok(())
}

pub async fn row_50_a_syncer_is_nobody_special() -> Result<()> {
    let g = governed().await?;
    let name = format!("syncer-{}", g.ns);
    let user = "system:serviceaccount:argocd:argocd-application-controller";
    let (who, subject) = (format!("--as={user}"), format!("--user={user}"));
    g.passes(
        User::Admin,
        &["create", "clusterrolebinding", &name, "--clusterrole=cluster-admin", &subject],
    );
    let object = g.workload("Deployment", "web", "web:v2").to_string();
    for more in [&["--server-side", "--force-conflicts"][..], &["--dry-run=server"], &[]] {
        let args = [&["apply", "-f", "-", &who], more].concat();
        refusal(g.run_with(User::Admin, &args, &object, &[]), &["UpgradeRequired"]);
    }
    g.passes(User::Admin, &["delete", "clusterrolebinding", &name]);
    assert_eq!(g.image(), "web:v1");
    Ok(())
}
