//! Rows 29 to 40: what governance itself is made of.

use crate::ground::{Ground, SOON, User, governed, refusal};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::Path;
use upgrade_sandbox::eventually;

/// Somebody who may write everything that governance is made of, as a broad role for operators of
/// the cluster would have it, and who may not `administer` it.
struct Wanda<'g> {
    ground: &'g Ground,
    name: String,
}

impl<'g> Wanda<'g> {
    fn of(ground: &'g Ground) -> Result<Self> {
        let name = format!("wanda-{}", ground.ns);
        let every = |groups: &[&str], resources: &[&str]| {
            json!({"apiGroups": groups, "resources": resources,
                "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]})
        };
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": [
            every(&["admissionregistration.k8s.io"],
                &["validatingwebhookconfigurations", "mutatingwebhookconfigurations"]),
            every(&["apiextensions.k8s.io"], &["customresourcedefinitions"]),
            every(&["kubectl-upgrade.dev"], &["upgradepolicies"]),
            every(&[""], &["namespaces", "pods", "secrets", "services", "serviceaccounts",
                "serviceaccounts/token", "configmaps"]),
            every(&["apps"], &["deployments", "deployments/scale"]),
            every(&["discovery.k8s.io"], &["endpointslices"]),
            every(&["networking.k8s.io"], &["networkpolicies"]),
        ]});
        ground.creates(User::Admin, &role)?;
        let (role, user) = (format!("--clusterrole={name}"), format!("--user={name}"));
        ground.passes(User::Admin, &["create", "clusterrolebinding", &name, &role, &user]);
        Ok(Self { ground, name })
    }

    /// Expects that the guard refuses what RBAC lets her do. Dry, as none of it may come to pass:
    /// the control plane is the other rows', too.
    async fn refused(&self, args: &[&str]) -> Result<()> {
        self.refused_with(args, "").await
    }

    async fn refused_with(&self, args: &[&str], stdin: &str) -> Result<()> {
        let guard = "../manifests/base/floor.yaml";
        if !Path::new(env!("CARGO_MANIFEST_DIR")).join(guard).exists() {
            println!("no guard in this checkout: {args:?} was not tried");
            return Ok(());
        }
        let who = format!("--as={}", self.name);
        let args = [args, &["--dry-run=server", &who]].concat();
        eventually("the guard", SOON, || async {
            match self.ground.run_with(User::Admin, &args, stdin, &[]) {
                Ok(text) => bail!("passed: {text}"),
                Err(error) => {
                    let text = error.to_string();
                    text.contains("`administer`").then_some(()).context(text)
                }
            }
        })
        .await
        .with_context(|| format!("{args:?}"))
    }
}

pub async fn row_29_forged_annotations_and_labels() -> Result<()> {
    let g = governed().await?;
    let patch = json!({
        "metadata": {"annotations": {"kubectl-upgrade.dev/approved": "true",
            "kubectl-upgrade.dev/approved-by": "bob", "kubectl-upgrade.dev/requester": "bob"}},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "web:v2"}]}}}});
    let args = ["patch", "deploy", "web", "-p", &patch.to_string()];
    g.refused(User::Alice, &args, &["UpgradeRequired"]);
    // The label of what is in flight is the controller's, with or without an Upgrade of its name.
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    let mut patch = patch;
    patch["metadata"]["labels"] = json!({"kubectl-upgrade.dev/upgrade": "web-v2"});
    let args = ["patch", "deploy", "web", "-p", &patch.to_string()];
    g.refused(User::Alice, &args, &["LabelReserved"]);
    let label = ["label", "deploy", "web", "kubectl-upgrade.dev/upgrade=web-v2"];
    g.refused(User::Alice, &label, &["LabelReserved"]);
    // Nor does the label of a BreakGlass that nobody opened say anything, whoever writes it.
    patch["metadata"]["labels"] = json!({"kubectl-upgrade.dev/break-glass": "x"});
    let args = ["patch", "deploy", "web", "-p", &patch.to_string()];
    g.refused(User::Alice, &args, &[]);
    g.refused(User::Admin, &args, &[]);
    assert_eq!(g.image(), "web:v1");
    Ok(())
}

pub async fn row_30_status_and_approvals_that_somebody_else_writes() -> Result<()> {
    let g = governed().await?;
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "AwaitingApproval").await?;
    let status = r#"{"status":{"phase":"Progressing"}}"#;
    let patch =
        ["patch", "upgrade", "web-v2", "--subresource=status", "--type=merge", "-p", status];
    g.refused(User::Alice, &patch, &["forbidden"]);
    g.refused(User::Admin, &patch, &["ControllerOnly"]);
    // An approval is the word of who writes it, and of somebody else than who asked.
    let mut approval = g.approval("web-v2").await?;
    g.not_created(User::Alice, &approval, &["forbidden"]);
    approval["spec"]["approver"] = json!({"username": "carol", "groups": ["managers"]});
    approval["metadata"] = json!({"name": "forged", "namespace": g.ns});
    g.creates(User::Bob, &approval)?;
    assert_eq!(g.field("upgradeapproval/forged", ".spec.approver.username"), "bob");
    let other = r#"{"spec":{"approver":{"username":"carol"}}}"#;
    let change = ["patch", "upgradeapproval", "forged", "--type=merge", "-p", other];
    g.refused(User::Admin, &change, &["never changed"]);
    g.phase("web-v2", "Paused").await?;
    let own = governed().await?;
    own.creates(User::Bob, &own.upgrade("own"))?;
    own.phase("own", "AwaitingApproval").await?;
    own.not_created(User::Bob, &own.approval("own").await?, &["OwnUpgrade"]);
    let mut asked = own.upgrade("asked");
    asked["spec"]["requester"] = json!({"username": "carol"});
    own.not_created(User::Alice, &asked, &["WorkloadBusy"]);
    Ok(())
}

pub async fn row_31_a_plan_that_changes_after_its_approval() -> Result<()> {
    let g = governed().await?;
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "AwaitingApproval").await?;
    g.approve("web-v2").await?;
    g.phase("web-v2", "Paused").await?;
    let image = r#"[{"op":"replace","path":"/spec/stages/0/workloads/targets/0/images/0/to","value":"evil:1"}]"#;
    let weight = r#"[{"op":"replace","path":"/spec/stages/0/workloads/strategy/canary/steps/0/setWeight","value":100}]"#;
    let requester = r#"[{"op":"replace","path":"/spec/requester/username","value":"bob"}]"#;
    for patch in [image, weight, requester] {
        for user in [User::Alice, User::Admin] {
            let args = ["patch", "upgrade", "web-v2", "--type=json", "-p", patch];
            g.refused(user, &args, &["immutable"]);
        }
    }
    Ok(())
}

/// No policy means that nothing is governed; so who may take one away is what is guarded.
pub async fn row_32_deleting_policies_and_their_kind() -> Result<()> {
    let g = governed().await?;
    let wanda = Wanda::of(&g)?;
    let looser = r#"{"spec":{"approvals":{"required":0}}}"#;
    let patch = ["patch", "upgradepolicy", g.ns.as_str(), "--type=merge", "-p", looser];
    let delete = ["delete", "upgradepolicy", g.ns.as_str()];
    let selector = format!("--field-selector=metadata.name={}", g.ns);
    let collection = ["delete", "upgradepolicy", &selector];
    let kind = ["delete", "crd", "upgradepolicies.kubectl-upgrade.dev"];
    for args in [&patch[..], &delete, &collection, &kind] {
        g.refused(User::Alice, args, &["forbidden"]);
        wanda.refused(args).await?;
    }
    // One that is more specific, and weaker, is as good as an edit.
    let weaker = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradePolicy",
        "metadata": {"name": format!("weaker-{}", g.ns)},
        "spec": {"workloads": {"selector": {"matchLabels": {"app": "web"}}},
            "approvals": {"required": 0}}});
    g.not_created(User::Alice, &weaker, &["forbidden"]);
    wanda.refused_with(&["create", "-f", "-"], &weaker.to_string()).await
}

pub async fn row_33_editing_our_kinds() -> Result<()> {
    let g = governed().await?;
    let wanda = Wanda::of(&g)?;
    let crds = ["upgrades", "upgradeapprovals", "upgradepolicies", "upgradeledgers"];
    let patch =
        r#"[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec"}]"#;
    for crd in crds {
        let crd = format!("{crd}.kubectl-upgrade.dev");
        let args = ["patch", "crd", crd.as_str(), "--type=json", "-p", patch];
        g.refused(User::Alice, &args, &["forbidden"]);
        wanda.refused(&args).await?;
    }
    Ok(())
}

/// There is one version of our kinds and one of what carries images; a version that is served some
/// day is judged as its equivalent.
pub async fn row_34_another_version_of_our_kinds() -> Result<()> {
    let g = governed().await?;
    for group in ["kubectl-upgrade.dev", "apps", "batch"] {
        let text = g.passes(User::Alice, &["get", "--raw", &format!("/apis/{group}")]);
        let found: Value = serde_json::from_str(&text)?;
        let versions: Vec<_> = found["versions"]
            .as_array()
            .context("versions")?
            .iter()
            .map(|v| v["version"].clone())
            .collect();
        ensure!(versions.len() == 1, "{group} is served in {versions:?}");
    }
    let mut older = g.workload("Deployment", "web", "web:v2");
    older["apiVersion"] = json!("extensions/v1beta1");
    g.not_created(User::Alice, &older, &["no matches for kind"]);
    for configuration in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
        let object = format!("{configuration}/kubectl-upgrade");
        let all = g.field(&object, ".webhooks[*].matchPolicy");
        assert!(all.split(' ').all(|p| p == "Equivalent"), "{object}: {all}");
    }
    Ok(())
}

/// No webhook is called for a webhook configuration; a policy of the API server is.
pub async fn row_35_the_webhook_configurations() -> Result<()> {
    let g = governed().await?;
    let wanda = Wanda::of(&g)?;
    let ignore = r#"[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]"#;
    for kind in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
        let delete = ["delete", kind, "kubectl-upgrade"];
        let collection = ["delete", kind, "-l", "app.kubernetes.io/part-of=kubectl-upgrade"];
        let patch = ["patch", kind, "kubectl-upgrade", "--type=json", "-p", ignore];
        for args in [&delete[..], &collection] {
            g.refused(User::Alice, args, &["forbidden"]);
            wanda.refused(args).await?;
        }
        g.refused(User::Alice, &patch, &["forbidden"]);
        if kind.starts_with("validating") {
            wanda.refused(&patch).await?;
        }
    }
    Ok(())
}

/// Nothing in the API guards these: who may write them is above governance. `edit` may not.
pub async fn row_36_the_policies_of_the_api_server() -> Result<()> {
    let g = governed().await?;
    for kind in ["validatingadmissionpolicy", "validatingadmissionpolicybinding"] {
        let names = g.passes(User::Admin, &["get", kind, "-o", "name"]);
        let ours: Vec<_> = names
            .lines()
            .filter_map(|l| l.split_once('/'))
            .filter(|(_, n)| n.starts_with("kubectl-upgrade"))
            .collect();
        assert!(ours.len() >= 4, "{names}");
        for (_, name) in ours {
            let patch = r#"{"spec":{"failurePolicy":"Ignore"}}"#;
            g.refused(User::Alice, &["delete", kind, name], &["forbidden"]);
            let args = ["patch", kind, name, "--type=merge", "-p", patch];
            g.refused(User::Alice, &args, &["forbidden"]);
        }
        g.refused(User::Alice, &["delete", kind, "--all"], &["forbidden"]);
    }
    Ok(())
}

pub async fn row_37_our_own_namespace() -> Result<()> {
    let g = governed().await?;
    let wanda = Wanda::of(&g)?;
    let ns = "--namespace=kubectl-upgrade-system";
    let deployment = g.workload("Deployment", "upgrade-webhook", "evil:1");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "upgrade-webhook"},
        "spec": {"selector": {"app": "evil"}, "ports": [{"port": 443}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "upgrade-webhook-1", "labels": {"kubernetes.io/service-name": "upgrade-webhook"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 443}]});
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "shut"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "upgrade-webhook-ca-2"}, "data": {}});
    for mut object in [deployment, service, slice, policy, secret] {
        object["metadata"]["namespace"] = json!("kubectl-upgrade-system");
        let args = ["create", ns, "-f", "-"];
        let text = object.to_string();
        refusal(g.run_with(User::Alice, &args, &text, &[]), &["forbidden"]);
        wanda.refused_with(&args, &text).await?;
    }
    let delete = ["delete", "secret", "upgrade-webhook-ca", ns];
    g.refused(User::Alice, &delete, &["forbidden"]);
    wanda.refused(&delete).await?;
    let delete = ["delete", "ns", "kubectl-upgrade-system"];
    g.refused(User::Alice, &delete, &["forbidden"]);
    wanda.refused(&delete).await
}

pub async fn row_38_the_label_of_the_namespace() -> Result<()> {
    let g = governed().await?;
    let wanda = Wanda::of(&g)?;
    let ns = g.ns.as_str();
    let off = ["label", "ns", ns, "kubectl-upgrade.dev/governed-"];
    let no = ["label", "ns", ns, "kubectl-upgrade.dev/governed=false", "--overwrite"];
    let labels = r#"{"metadata":{"labels":null}}"#;
    let all = ["patch", "ns", ns, "--type=merge", "-p", labels];
    for args in [&off[..], &no, &all] {
        g.refused(User::Alice, args, &["forbidden"]);
        wanda.refused(args).await?;
    }
    // And what is allowed to everybody there stays so.
    let who = format!("--as={}", wanda.name);
    g.passes(User::Admin, &["label", "ns", ns, "team=a", &who]);
    g.passes(User::Admin, &["label", "ns", ns, "team-", &who]);
    Ok(())
}

pub async fn row_39_labels_that_opt_an_object_out() -> Result<()> {
    let g = governed().await?;
    let labels = [
        "kubectl-upgrade.dev/governed=false",
        "kubectl-upgrade.dev/ignore=true",
        "admission.kubernetes.io/ignore=true",
        "control-plane=controller-manager",
    ];
    g.passes(User::Alice, &[&["label", "deploy", "web"][..], &labels].concat());
    let set = ["set", "image", "deploy/web", "app=web:v2"];
    g.refused(User::Alice, &set, &["UpgradeRequired"]);
    for configuration in ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"] {
        let object = format!("{configuration}/kubectl-upgrade");
        // The guards of Services and routes in flight select them by our label, and an object
        // selector matches the old object as well; of images they know nothing.
        let all = g.field(&object, "range .webhooks[*]}{.name}={.objectSelector}{'\\n'}{end");
        let guards = ["services.kubectl-upgrade.dev=", "routes.kubectl-upgrade.dev="];
        let others = all.lines().filter(|l| !guards.iter().any(|g| l.starts_with(g)));
        assert!(others.clone().count() > 0);
        assert!(others.clone().all(|l| l.ends_with("={}")), "{object}: {all}");
    }
    Ok(())
}

/// A namespace that did not opt in is not governed. An editor can neither make one nor reach those
/// of the system.
pub async fn row_40_another_namespace() -> Result<()> {
    let g = governed().await?;
    g.refused(User::Alice, &["create", "ns", "elsewhere"], &["forbidden"]);
    for ns in ["kube-system", "kube-public", "default", "kubectl-upgrade-system"] {
        let mut object = g.workload("Deployment", "web", "web:v2");
        object["metadata"]["namespace"] = json!(ns);
        let args = ["create", "-n", ns, "-f", "-"];
        let text = object.to_string();
        refusal(g.run_with(User::Alice, &args, &text, &[]), &["forbidden"]);
    }
    Ok(())
}
