//! The floor on the real API server: attacks on what governs, and what our webhook is called for.
//!
//! Whoever may write ValidatingAdmissionPolicies or their bindings, and whoever may grant rights
//! that they do not have (`escalate`, `bind`), stands above the floor: no policy can match these.
#![expect(clippy::too_many_lines, reason = "each test is one story, told in order")]

mod ground;

use anyhow::{Context, Result, ensure};
use ground::{ADMIN, EDNA, GREG, SYSTEM, alone, fed, kubectl, manifest, no, ok, own_deployment};
use serde_json::{Value, json};
use upgrade_core::api::Phase;
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};
use upgrade_sandbox::{ControlPlane, eventually};

fn greg_and_edna(cluster: &ControlPlane) {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "broad"}, "rules": [
            {"apiGroups": ["", "apps", "batch", "discovery.k8s.io", "networking.k8s.io",
                "rbac.authorization.k8s.io", "apiextensions.k8s.io", "coordination.k8s.io"],
             "resources": ["*"],
             "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]},
            {"apiGroups": ["admissionregistration.k8s.io"],
             "resources": ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
             "verbs": ["*"]},
            {"apiGroups": ["kubectl-upgrade.dev"],
             "resources": ["upgradepolicies", "breakglasses", "breakglasses/status"],
             "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]}]});
    fed(cluster, ADMIN, "apply -f -", &role.to_string());
    ok(cluster, ADMIN, "create clusterrolebinding greg --clusterrole=broad --user=greg");
    ok(cluster, ADMIN, "create clusterrolebinding edna --clusterrole=edit --user=edna");
}

/// What an attacker types, and what goes in.
fn attacks(ns: &str, pod: &str, slice: &str) -> Vec<(String, String)> {
    let v = "validatingwebhookconfigurations";
    let m = "mutatingwebhookconfigurations";
    let group = "/apis/admissionregistration.k8s.io/v1";
    let part = "labelSelector=app.kubernetes.io/part-of%3Dkubectl-upgrade";
    let set = |path: &str, value: &str| {
        format!(r#"--type=json -p [{{"op":"replace","path":"{path}","value":{value}}}]"#)
    };
    let lines = [
        format!("delete {v} kubectl-upgrade"),
        format!("delete {m} kubectl-upgrade"),
        format!("delete --raw {group}/{v}"),
        format!("delete --raw {group}/{m}?{part}"),
        format!("patch {v} kubectl-upgrade {}", set("/webhooks/0/failurePolicy", r#""Ignore""#)),
        format!("patch {v} kubectl-upgrade {}", set("/webhooks/0/rules/0/operations", r#"["CREATE"]"#)),
        format!("patch {v} kubectl-upgrade {}", set("/webhooks/0/namespaceSelector", r#"{"matchLabels":{"a":"b"}}"#)),
        format!("patch {v} kubectl-upgrade {}", set("/webhooks/0/matchConditions/0/expression", r#""false""#)),
        format!("patch {v} kubectl-upgrade {}", set("/webhooks", "[]")),
        format!("patch {m} kubectl-upgrade {}", set("/webhooks", "[]")),
        "delete crd upgradepolicies.kubectl-upgrade.dev".to_owned(),
        format!("delete --raw /apis/apiextensions.k8s.io/v1/customresourcedefinitions?{part}"),
        format!("patch crd upgrades.kubectl-upgrade.dev {}", set("/spec/versions/0/served", "false")),
        r#"patch crd upgrades.kubectl-upgrade.dev --subresource=status --type=merge -p {"status":{"conditions":[]}}"#.to_owned(),
        "delete clusterrole kubectl-upgrade-webhook".to_owned(),
        "delete clusterrolebinding kubectl-upgrade-webhook".to_owned(),
        format!("delete --raw /apis/rbac.authorization.k8s.io/v1/clusterrolebindings?{part}"),
        format!("patch clusterrole kubectl-upgrade-webhook {}", set("/rules", "[]")),
        format!("delete upgradepolicy {ns}"),
        "delete --raw /apis/kubectl-upgrade.dev/v1alpha1/upgradepolicies".to_owned(),
        format!(r#"patch upgradepolicy {ns} --type=merge -p {{"spec":{{"approvals":{{"required":0}}}}}}"#),
        format!("label ns {ns} kubectl-upgrade.dev/governed-"),
        format!("label ns {ns} kubectl-upgrade.dev/governed=false --overwrite"),
        format!(r#"patch ns {ns} --subresource=status --type=merge -p {{"metadata":{{"labels":{{"kubectl-upgrade.dev/governed":null}}}}}}"#),
        format!("delete ns {SYSTEM}"),
        format!("label ns {SYSTEM} pod-security.kubernetes.io/enforce-"),
        format!("scale -n {SYSTEM} deploy/upgrade-webhook --replicas=0"),
        format!("delete -n {SYSTEM} deploy/upgrade-webhook"),
        format!("delete -n {SYSTEM} deploy --all"),
        format!("set image -n {SYSTEM} deploy/upgrade-webhook upgrade-webhook=evil:1"),
        format!("set image -n {SYSTEM} {pod} upgrade-webhook=evil:1"),
        format!("exec -n {SYSTEM} {pod} -- sh"),
        format!("create token -n {SYSTEM} upgrade-webhook"),
        format!("delete -n {SYSTEM} secret upgrade-webhook-ca"),
        format!("delete --raw /api/v1/namespaces/{SYSTEM}/secrets"),
        format!(r#"patch -n {SYSTEM} secret upgrade-webhook-ca --type=merge -p {{"data":{{"ca.crt":"eA=="}}}}"#),
        format!("delete -n {SYSTEM} service upgrade-webhook"),
        format!("patch -n {SYSTEM} {slice} {}", set("/endpoints", "[]")),
        format!("delete -n {SYSTEM} {slice}"),
        format!("delete -n {SYSTEM} sa upgrade-webhook"),
        format!("delete -n {SYSTEM} rolebinding upgrade-webhook"),
        format!("patch -n {SYSTEM} role upgrade-webhook {}", set("/rules", "[]")),
        format!(r#"patch -n {SYSTEM} lease kubectl-upgrade-controller --type=merge -p {{"spec":{{"holderIdentity":"me"}}}}"#),
    ];
    let mut all: Vec<_> = lines.into_iter().map(|l| (l, String::new())).collect();
    let spec = json!({"serviceAccountName": "upgrade-webhook",
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "image": "evil:1", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    let labels = json!({"a": "b"});
    for object in [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "p"}, "spec": {
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}}),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": "p", "annotations": {"kubernetes.io/service-account.name": "upgrade-webhook"}}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "p", "labels": {"kubernetes.io/service-name": "upgrade-webhook"}}, "endpoints": []}),
    ] {
        all.push((format!("create -n {SYSTEM} -f -"), object.to_string()));
    }
    let weak = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradePolicy",
        "metadata": {"name": "weak"}, "spec": {"workloads": {"all": true}}});
    all.push(("create -f -".to_owned(), weak.to_string()));
    let bare = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns},
        "spec": {"finalizers": ["kubernetes"]}});
    all.push((format!("replace --raw /api/v1/namespaces/{ns}/finalize -f -"), bare.to_string()));
    all
}

#[tokio::test]
async fn nobody_but_who_administers_changes_what_governs() -> Result<()> {
    let lab = lab().await;
    let cluster = lab.cluster;
    let shop = lab.shop(1).await?;
    greg_and_edna(cluster);
    fed(cluster, ADMIN, "apply -f -", &own_deployment());
    let pod = eventually("a pod of ours", PATIENCE, || async {
        let all = ok(cluster, ADMIN, &format!("get pods -n {SYSTEM} -o name"));
        all.lines().next().map(str::to_owned).context("none yet")
    })
    .await?;
    let slice = "endpointslice/upgrade-webhook-outside";
    let kinds = "validatingwebhookconfigurations,mutatingwebhookconfigurations,crd,clusterroles,clusterrolebindings,upgradepolicies";
    let names = || ok(cluster, ADMIN, &format!("get {kinds} -o name"));
    let ours = || {
        let kinds = "deploy,service,secret,sa,role,rolebinding,endpointslice,networkpolicy";
        let what =
            r"jsonpath={range.items[*]}{.kind}/{.metadata.name}:{.metadata.generation},{end}";
        ok(cluster, ADMIN, &format!("get -n {SYSTEM} {kinds} -o {what}"))
    };
    let before = (names(), ours());
    let all = attacks(&shop.namespace, &pod, slice);
    for (line, stdin) in &all {
        let said = kubectl(cluster, GREG, line, stdin);
        assert_ne!(said.code, Some(0), "greg: {line} {stdin}: {}", said.out);
        assert!(said.err.contains("kubectl-upgrade-guard"), "{line} {stdin}: {}", said.err);
        assert!(said.err.contains("can-i administer"), "{line}: {}", said.err);
        let said = kubectl(cluster, EDNA, line, stdin);
        assert_ne!(said.code, Some(0), "edna: {line} {stdin}: {}", said.out);
        let err = said.err.to_lowercase();
        assert!(err.contains("forbidden"), "{line} {stdin}: {err}");
    }
    println!("{} attacks, each by two people: none got through", all.len());
    // Out of reach for a policy; RBAC it is.
    for what in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
        for who in [EDNA, GREG] {
            no(cluster, who, &format!("delete {what} kubectl-upgrade-guard"), &["cannot delete"]);
        }
    }
    assert_eq!((names(), ours()), before);
    // What is not ours is nobody's business, and work goes on.
    ok(cluster, GREG, &format!("label ns {} team=a", shop.namespace));
    ok(cluster, GREG, &format!("delete -n {SYSTEM} {pod} --wait=false"));
    ok(cluster, GREG, "create clusterrole other --verb=get --resource=pods");
    ok(cluster, GREG, "delete clusterrole other");
    ok(cluster, ADMIN, &format!("rollout restart -n {SYSTEM} deploy/upgrade-webhook"));
    ok(cluster, ADMIN, &format!("rollout status -n {SYSTEM} deploy/upgrade-webhook --timeout=60s"));
    // Whoever was given the right, may.
    ok(cluster, ADMIN, "create clusterrolebinding gus --clusterrole=broad --user=gus");
    ok(
        cluster,
        ADMIN,
        "create clusterrolebinding gus2 --clusterrole=kubectl-upgrade-administrator --user=gus",
    );
    eventually("gus's right", PATIENCE, || async {
        let said = kubectl(
            cluster,
            "gus",
            &format!("annotate upgradepolicy {} a=b --overwrite", shop.namespace),
            "",
        );
        ensure!(said.code == Some(0), "{}", said.err);
        Ok(())
    })
    .await?;
    ok(cluster, ADMIN, &format!("delete -n {SYSTEM} deploy/upgrade-webhook"));
    Ok(())
}

async fn calls(product: &Product) -> Result<u64> {
    let text = product::get(product.probes(), "/metrics").await?;
    let counts = text.lines().filter(|l| l.starts_with("kubectl_upgrade_admission_requests_total"));
    counts.map(|l| Ok(l.rsplit(' ').next().context("a count")?.parse::<u64>()?)).sum()
}

#[tokio::test]
async fn a_rolling_upgrade_of_five_replicas_costs_three_calls() -> Result<()> {
    let (cluster, product) = alone().await?;
    let shop = Shop::open(cluster, 0).await?;
    for (name, strategy, most) in
        [("rolling", json!({"rolling": {}}), 3), ("canary", canary(&["25", "50", "75", "100"]), 3)]
    {
        shop.deploy(name, 5, json!({})).await?;
        let before = calls(&product).await?;
        shop.upgrade(name, &[name], "web:v2", &strategy).await?;
        shop.phase(name, Phase::Completed).await?;
        let spent = calls(&product).await? - before;
        println!("{name}: {spent} calls of the webhook");
        assert!(spent <= most, "{name}: {spent}");
    }
    Ok(())
}

fn documents(file: &str) -> Vec<Value> {
    let all = manifest(file);
    all.split("\n---\n").map(|d| serde_saphyr::from_str(d).expect("YAML")).collect()
}

/// What the webhook hands over must be matched by the floor, and what the floor says it better for
/// must be what the webhook refuses: the texts are kept in step.
#[test]
fn the_floor_matches_what_the_webhook_matches() {
    let floor = documents("floor.yaml");
    let hooks = documents("webhooks.yaml");
    let policy = |name: &str| {
        let found = floor
            .iter()
            .find(|d| d["kind"] == "ValidatingAdmissionPolicy" && d["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no policy {name}"))["spec"].clone()
    };
    let resources = |rules: &Value| {
        let rules = rules.as_array().expect("rules").iter();
        let mut all: Vec<String> = rules
            .flat_map(|r| {
                let group = r["apiGroups"][0].as_str().expect("a group").to_owned();
                assert_eq!(r["operations"], json!(["CREATE", "UPDATE"]));
                let names = r["resources"].as_array().expect("resources").clone();
                names.into_iter().map(move |n| format!("{group}/{}", n.as_str().expect("a name")))
            })
            .collect();
        all.sort();
        all
    };
    let entries = hooks[0]["webhooks"].as_array().expect("entries");
    let workloads: Vec<&Value> =
        entries.iter().filter(|e| e["name"] != "upgrades.kubectl-upgrade.dev").collect();
    let mut all: Vec<String> = workloads.iter().flat_map(|e| resources(&e["rules"])).collect();
    all.sort();
    for name in ["kubectl-upgrade-outage", "kubectl-upgrade-config-gone"] {
        let constraints = &policy(name)["matchConstraints"];
        assert_eq!(resources(&constraints["resourceRules"]), all, "{name}");
        assert_eq!(constraints["namespaceSelector"], workloads[0]["namespaceSelector"], "{name}");
    }
    let constraints = &policy("kubectl-upgrade-break-glass")["matchConstraints"];
    assert_eq!(constraints["namespaceSelector"], workloads[0]["namespaceSelector"]);
    let decided = resources(&constraints["resourceRules"]);
    let asks = policy("kubectl-upgrade-break-glass")["matchConditions"].clone();
    let squeeze =
        |v: &Value| v["expression"].as_str().expect("text").split_whitespace().collect::<String>();
    for entry in &workloads {
        let conditions = entry["matchConditions"].as_array().expect("conditions");
        let Some(skip) = conditions.iter().find(|c| c["name"] == "not-break-glass") else {
            continue;
        };
        assert!(squeeze(skip).contains(&squeeze(&asks[0])), "asks for the same: {entry}");
        // What BreakGlasses do not name is not skipped, and so has nobody else to decide it.
        let named = "request.kind.kindin['Deployment','StatefulSet','DaemonSet']&&";
        let limited = squeeze(skip).contains(named);
        let never = ["apps/replicasets", "/replicationcontrollers"];
        let skipped = resources(&entry["rules"]);
        for resource in skipped.iter().filter(|r| !(limited && never.contains(&r.as_str()))) {
            assert!(decided.contains(resource), "{resource} is skipped, and decided by nobody");
        }
    }
}
