//! `doctor` on the real API server: a healthy installation has nothing wrong, and whatever is
//! broken is told by the check that is there for it, with what helps.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use upgrade_core::api::{LEDGER_NAME, UpgradeLedger};
use upgrade_sandbox::scenario::{Lab, Said, lab, say};
use upgrade_sandbox::wait_for;

/// A run of `doctor`: its exit code and the checks that found something, with their outcome.
struct Run {
    code: Option<i32>,
    found: Vec<(String, String)>,
    json: Value,
}

impl Run {
    /// All that a check says: message, evidence, hints.
    fn text(&self, id: &str) -> String {
        let checks = self.json["checks"].as_array().expect("checks");
        checks.iter().find(|c| c["id"] == id).map(ToString::to_string).expect("the check")
    }
}

fn command(lab: &Lab, user: &Path, args: &[&str]) -> Command {
    let mut command = lab.product.plugin(user);
    command.args(["doctor"]).args(args).env("LC_ALL", "C.UTF-8");
    // Nothing of this machine's PATH is a plugin of ours.
    command.env("PATH", "/nowhere");
    command
}

fn judged(said: &Said) -> Run {
    let json: Value =
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}{}", said.out, said.err));
    let found = json["checks"].as_array().expect("checks").iter().filter_map(|c| {
        let outcome = c["outcome"].as_str()?;
        let id = c["id"].as_str()?.to_owned();
        matches!(outcome, "Error" | "Warning" | "NotChecked").then(|| (id, outcome.to_owned()))
    });
    Run { code: said.code, found: found.collect(), json: json.clone() }
}

fn doctor(lab: &Lab, args: &[&str]) -> Run {
    let args = [args, &["-o", "json"]].concat();
    judged(&say(&mut command(lab, lab.cluster.kubeconfig(), &args), "").expect("doctor"))
}

fn kubectl(lab: &Lab, line: &[&str]) {
    let said = say(lab.cluster.kubectl().args(line), "").expect("kubectl");
    assert_eq!(said.code, Some(0), "{line:?}: {}{}", said.out, said.err);
}

/// Breaks our validating configuration by a JSON patch.
fn patch(lab: &Lab, kind: &str, name: &str, operation: &Value) {
    let body = json!([operation]).to_string();
    kubectl(lab, &["patch", kind, name, "--type=json", "-p", &body]);
}

/// Both of our configurations as they are.
fn saved(lab: &Lab) -> String {
    let kinds = "validatingwebhookconfiguration,mutatingwebhookconfiguration";
    let get = ["get", kinds, "-l", "app.kubernetes.io/part-of=kubectl-upgrade", "-o", "json"];
    let said = say(lab.cluster.kubectl().args(get), "").expect("kubectl");
    let mut list: Value = serde_json::from_str(&said.out).expect("JSON");
    for item in list["items"].as_array_mut().expect("items") {
        item["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    }
    list.to_string()
}

fn install(lab: &Lab, url: &str) {
    let mut command = lab.product.plugin(lab.cluster.kubeconfig());
    let said = say(command.args(["install", "--webhook-url", url]), "").expect("install");
    assert_eq!(said.code, Some(0), "{}", said.err);
}

/// Exactly this check found something, says this, and gives a hint.
#[track_caller]
fn only(run: &Run, id: &str, outcome: &str, says: &[&str]) {
    assert_eq!(run.found, [(id.to_owned(), outcome.to_owned())], "{:#}", run.json);
    let text = run.text(id);
    for part in says {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    assert!(text.contains("\"hints\":["), "no hint: {text}");
    let code = i32::from(outcome == "Error");
    assert_eq!(run.code, Some(code));
}

/// What is broken in the webhook configurations: kind, patch, the check, and what it says.
fn breaks() -> Vec<(&'static str, Value, &'static str, &'static str, Vec<&'static str>)> {
    let validating = "validatingwebhookconfiguration";
    let replace = |path: &str, value: Value| json!({"op": "replace", "path": path, "value": value});
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    vec![
        (
            validating,
            replace("/webhooks/0/failurePolicy", json!("Ignore")),
            "webhook-policy",
            "Error",
            vec!["workloads.kubectl-upgrade.dev: failurePolicy is Ignore, should be Fail"],
        ),
        (
            validating,
            replace("/webhooks/3/rules/0/resources", json!(["pods"])),
            "webhook-rules",
            "Error",
            vec!["pods.kubectl-upgrade.dev: no rule for UPDATE of pods/ephemeralcontainers"],
        ),
        (
            validating,
            replace("/webhooks/0/matchConditions/0/expression", json!("false")),
            "webhook-conditions",
            "Error",
            vec!["changes-what-is-governed says something else: false"],
        ),
        (
            validating,
            add("/webhooks/2/matchConditions/-", json!({"name": "not-ana", "expression": "true"})),
            "webhook-conditions",
            "Error",
            vec!["cronjobs.kubectl-upgrade.dev: not-ana was added: true"],
        ),
        (
            validating,
            add("/webhooks/1/namespaceSelector/matchLabels", json!({"a": "b"})),
            "webhook-selectors",
            "Error",
            vec!["jobs.kubectl-upgrade.dev: namespaceSelector.matchLabels was added"],
        ),
        (
            validating,
            add("/webhooks/1/objectSelector/matchLabels", json!({"a": "b"})),
            "webhook-selectors",
            "Error",
            vec!["jobs.kubectl-upgrade.dev: objectSelector.matchLabels was added"],
        ),
        (
            validating,
            replace("/webhooks/0/matchPolicy", json!("Exact")),
            "webhook-match",
            "Error",
            vec!["matchPolicy is Exact"],
        ),
        (
            validating,
            replace("/webhooks/0/sideEffects", json!("NoneOnDryRun")),
            "webhook-effects",
            "Error",
            vec!["sideEffects is NoneOnDryRun"],
        ),
        (
            validating,
            replace("/webhooks/0/timeoutSeconds", json!(29)),
            "webhook-timeout",
            "Warning",
            vec!["timeoutSeconds is 29, should be 5"],
        ),
        (
            "mutatingwebhookconfiguration",
            replace("/webhooks/1/clientConfig/url", json!("https://127.0.0.1:1/mutate")),
            "webhook-address",
            "Error",
            vec!["orders.kubectl-upgrade.dev calls https://127.0.0.1:1/mutate"],
        ),
    ]
}

#[tokio::test]
async fn each_thing_that_is_broken_is_told_by_its_own_check() {
    let lab = lab().await;
    // Who has just begun leads in a moment.
    wait_for_health(lab).await;
    let healthy = doctor(lab, &["--fail-on=warning"]);
    assert_eq!((healthy.code, healthy.found.len()), (Some(0), 0), "{:#}", healthy.json);
    assert!(healthy.text("replicas").contains("runs outside the cluster, at https://127.0.0.1"));
    let url = healthy.text("webhook-address");
    let url = url.split_once("https://").and_then(|(_, rest)| rest.split(',').next());
    let url = format!("https://{}", url.expect("an address"));

    // An install takes nothing away that others added, so what was there is put back whole.
    let saved = saved(lab);
    for (kind, operation, id, outcome, says) in breaks() {
        patch(lab, kind, "kubectl-upgrade", &operation);
        only(&doctor(lab, &[]), id, outcome, &says);
        let said =
            say(lab.cluster.kubectl().args(["replace", "-f", "-"]), &saved).expect("kubectl");
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
    // A running webhook puts its CA back within 15 s, perhaps before anybody looks.
    let remove = json!({"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"});
    let run = (0..10).find_map(|_| {
        patch(lab, "validatingwebhookconfiguration", "kubectl-upgrade", &remove);
        Some(doctor(lab, &[])).filter(|run| !run.found.is_empty())
    });
    only(&run.expect("a look in time"), "ca-bundle", "Error", &["it has no caBundle"]);
    wait_for_health(lab).await;

    objects(lab, &url);
    rights(lab);
    this_machine(lab);
    governance(lab).await.expect("governance");
    ends(lab).await.expect("the end");
}

async fn wait_for_health(lab: &Lab) {
    upgrade_sandbox::eventually("health", Duration::from_secs(30), || async {
        let run = doctor(lab, &[]);
        anyhow::ensure!(run.found.is_empty(), "{:?}", run.found);
        Ok(())
    })
    .await
    .expect("health");
}

fn objects(lab: &Lab, url: &str) {
    let wider = json!({"op": "add", "path": "/rules/-", "value":
        {"apiGroups": ["kubectl-upgrade.dev"], "resources": ["upgradepolicies"], "verbs": ["patch"]}});
    patch(lab, "clusterrole", "kubectl-upgrade-edit", &wider);
    only(&doctor(lab, &[]), "objects", "Error", &["kubectl-upgrade-edit: rules has", "install"]);
    install(lab, url);
    // Whoever may edit may approve.
    let label = "rbac.authorization.k8s.io/aggregate-to-edit";
    kubectl(lab, &["label", "clusterrole", "kubectl-upgrade-approver", &format!("{label}=true")]);
    only(&doctor(lab, &[]), "objects", "Error", &["kubectl-upgrade-approver", label, "was added"]);
    kubectl(lab, &["label", "clusterrole", "kubectl-upgrade-approver", &format!("{label}-")]);

    let rules = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations";
    let crd = "upgrades.kubectl-upgrade.dev";
    patch(lab, "crd", crd, &json!({"op": "remove", "path": rules}));
    only(&doctor(lab, &[]), "crds", "Error", &["x-kubernetes-validations is missing"]);
    install(lab, url);
}

fn rights(lab: &Lab) {
    kubectl(lab, &["create", "clusterrole", "imp", "--verb=impersonate", "--resource=users"]);
    kubectl(lab, &["create", "clusterrolebinding", "imp", "--clusterrole=imp", "--user=mallory"]);
    let says = ["User mallory (ClusterRoleBinding imp)", "act as somebody else"];
    only(&doctor(lab, &[]), "impersonators", "Warning", &says);
    let strict = doctor(lab, &["--fail-on=warning"]);
    assert_eq!((strict.code, &strict.json["reason"]), (Some(1), &json!("WarningsFound")));
    let ignored = doctor(lab, &["--fail-on=warning", "--ignore=impersonators"]);
    assert_eq!((ignored.code, ignored.found.len()), (Some(0), 0));
    kubectl(lab, &["delete", "clusterrolebinding", "imp"]);
    let everybody = "--group=system:authenticated";
    kubectl(lab, &["create", "clusterrolebinding", "imp", "--clusterrole=imp", everybody]);
    only(&doctor(lab, &[]), "impersonators", "Error", &["Group system:authenticated"]);
    kubectl(lab, &["delete", "clusterrolebinding", "imp"]);

    let bot = "--serviceaccount=default:bot";
    kubectl(lab, &["create", "clusterrolebinding", "bot", "--clusterrole=cluster-admin", bot]);
    only(&doctor(lab, &[]), "administrators", "Warning", &["ServiceAccount default/bot"]);
    kubectl(lab, &["delete", "clusterrolebinding", "bot"]);

    let ours = "kubectl-upgrade-system";
    let token = ["--verb=create", "--resource=serviceaccounts/token", "-n", ours];
    kubectl(lab, &[&["create", "role", "token"], token.as_slice()].concat());
    let mallory = ["--role=token", "--user=mallory", "-n", ours];
    kubectl(lab, &[&["create", "rolebinding", "token"], mallory.as_slice()].concat());
    let says = ["User mallory (RoleBinding kubectl-upgrade-system/token)"];
    only(&doctor(lab, &[]), "account-takers", "Warning", &says);
    kubectl(lab, &["delete", "rolebinding", "token", "-n", ours]);
}

fn this_machine(lab: &Lab) {
    let directory = tempfile::tempdir().expect("a directory");
    let hijacker = directory.path().join("kubectl-upgrade-approve");
    std::fs::write(&hijacker, "#!/bin/sh\n").expect("a file");
    let run = || {
        let mut command = command(lab, lab.cluster.kubeconfig(), &["-o", "json"]);
        judged(&say(command.env("PATH", directory.path()), "").expect("doctor"))
    };
    assert!(run().found.is_empty(), "it is no executable yet");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&hijacker, executable.clone()).expect("a mode");
    only(
        &run(),
        "path",
        "Error",
        &["kubectl-upgrade-approve runs instead of `kubectl upgrade approve`"],
    );

    // A file of another name adds a word; another plugin of our name comes first.
    std::fs::rename(&hijacker, directory.path().join("kubectl-upgrade-foo")).expect("renamed");
    assert!(run().found.is_empty());
    std::fs::copy(
        directory.path().join("kubectl-upgrade-foo"),
        directory.path().join("kubectl-upgrade"),
    )
    .expect("copied");
    only(&run(), "path", "Warning", &["comes first in PATH"]);
}

async fn governance(lab: &Lab) -> Result<()> {
    let namespace = lab.cluster.namespace("lawless").await?;
    kubectl(lab, &["label", "namespace", &namespace, "kubectl-upgrade.dev/governed=true"]);
    only(&doctor(lab, &[]), "policies", "Warning", &[&namespace, "nothing is refused"]);
    kubectl(lab, &["label", "namespace", &namespace, "kubectl-upgrade.dev/governed-"]);

    let shop = lab.shop(1).await?;
    let run = doctor(lab, &[]);
    let idle = format!("{}: it selects no workload", shop.namespace);
    only(&run, "idle-policies", "Warning", &[&idle]);

    shop.deploy("web", 2, json!({})).await?;
    let ledgers: Api<UpgradeLedger> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let listed = |l: Option<&UpgradeLedger>| l.is_some_and(|l| !l.spec.entries.is_empty());
    let ledger = wait_for(ledgers, LEDGER_NAME, listed, Duration::from_secs(30)).await?;
    assert!(doctor(lab, &[]).found.is_empty());

    // The ledger says otherwise, which only the controller can have written.
    let us: PathBuf = lab.cluster.dir().join("webhook.kubeconfig");
    let us = upgrade_sandbox_client(&us).await?;
    let ledgers: Api<UpgradeLedger> = Api::namespaced(us, &shop.namespace);
    let mut entries = ledger.spec.entries.clone();
    "web:v0".clone_into(&mut entries[0].images[0].image);
    let body = json!({"spec": {"entries": entries}});
    ledgers.patch(LEDGER_NAME, &PatchParams::default(), &Patch::Merge(&body)).await?;
    let place =
        format!("{}/deployment.apps/web runs web:v1 in web, approved is web:v0", shop.namespace);
    let pod = format!("{}/pod/web-", shop.namespace);
    only(&doctor(lab, &[]), "drift", "Error", &[&place, &pod]);
    let body = json!({"spec": {"entries": ledger.spec.entries}});
    ledgers.patch(LEDGER_NAME, &PatchParams::default(), &Patch::Merge(&body)).await?;
    assert!(doctor(lab, &[]).found.is_empty());
    Ok(())
}

async fn upgrade_sandbox_client(kubeconfig: &Path) -> Result<kube::Client> {
    let config = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Nobody answers and nobody leads any more: the last step, for nothing is started again.
async fn ends(lab: &Lab) -> Result<()> {
    lab.product.kill().await?;
    // Its last renewal counts for a few seconds yet.
    let run =
        upgrade_sandbox::eventually("the lease to be missed", Duration::from_mins(1), || async {
            let run = doctor(lab, &[]);
            anyhow::ensure!(run.text("lease").contains("\"outcome\":\"Error\""), "{:#}", run.json);
            Ok(run)
        })
        .await?;
    let found = [("answers", "Error"), ("lease", "Error"), ("clock-controller", "NotChecked")]
        .map(|(id, outcome)| (id.to_owned(), outcome.to_owned()));
    assert_eq!((run.code, run.found.as_slice()), (Some(1), found.as_slice()), "{:#}", run.json);
    assert!(run.text("lease").contains("has not renewed its Lease for"));
    assert!(run.text("answers").contains("does not reach the webhook"));

    // As text, for people whose terminal knows ASCII only.
    let mut command = command(lab, lab.cluster.kubeconfig(), &["--ignore", "answers"]);
    let said = say(command.env("LC_ALL", "C"), "")?;
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.out.is_ascii(), "{}", said.out);
    for part in [
        "\nx  lease ",
        "\n?  clock-controller ",
        "\nok clock-here ",
        "\n-  answers ",
        "     hint: kubectl get pods",
    ] {
        assert!(said.out.contains(part), "`{part}` is not in\n{}", said.out);
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_may_look_at_is_not_checked_and_never_passes() {
    let lab = lab().await;
    let eve = lab.cluster.kubeconfig_for("eve", &["people"]).unwrap();
    let said = say(&mut command(lab, &eve, &["-o", "json"]), "").unwrap();
    let run = judged(&said);
    assert_eq!((run.code, &run.json["reason"]), (Some(4), &json!("NotEverythingChecked")));
    for check in run.json["checks"].as_array().expect("checks") {
        let (id, outcome) = (check["id"].as_str(), check["outcome"].as_str());
        let own = matches!(id, Some("clock-here" | "path" | "floor"));
        assert!(own || outcome == Some("NotChecked"), "{check}");
    }
    for id in ["crds", "webhooks", "ca-secret", "answers", "lease", "drift", "impersonators"] {
        assert!(
            run.text(id).contains("needs the right to") || run.text(id).contains("see `webhooks`"),
            "{}",
            run.text(id)
        );
    }
}

#[tokio::test]
async fn a_check_that_does_not_exist_cannot_be_ignored() {
    let lab = lab().await;
    let mut command = command(lab, lab.cluster.kubeconfig(), &["--ignore", "webhook-rule"]);
    let said = say(&mut command, "").unwrap();
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("no check `webhook-rule`")
            && said.err.contains("did you mean webhook-rules?"),
        "{}",
        said.err
    );
}
