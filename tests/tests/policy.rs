//! What an UpgradePolicy says, on the real API server: which one holds, what its mode makes of a
//! change, and what an Upgrade and a debug container may bring.
#![expect(clippy::too_many_lines, reason = "each test is one story, told in order")]

mod rig;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use rig::{Rig, User, all, deployment, governed, policy, refused, shared, upgrade};
use serde_json::{Value, json};
use upgrade_sandbox::eventually;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SOON: Duration = Duration::from_secs(10);

/// Merges into the policy of a namespace.
fn says(rig: &Rig, ns: &str, spec: &Value) {
    let (name, patch) = (format!("all-{ns}"), json!({ "spec": spec }).to_string());
    rig.accepts(User::Admin, &["patch", "upgradepolicy", &name, "--type=merge", "-p", &patch]);
}

/// What `kubectl set image` prints, once that says this: policies come by a watch.
async fn prints(rig: &Rig, ns: &str, more: &[&str], says: &str) -> Result<String> {
    let mut args = vec!["set", "image", "deploy/web", "app=web:v2", "-n", ns];
    args.extend(more);
    eventually("the policy to hold", SOON, || async {
        let text = match rig.run(User::Alice, &args, None) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        };
        ensure!(text.contains(says), "does not say `{says}`: {text}");
        Ok(text)
    })
    .await
}

/// kubectl by this kubeconfig's user.
fn run(rig: &Rig, kubeconfig: &Path, args: &[&str], stdin: &str) -> Result<String> {
    let mut command = rig.cluster.kubectl_with(kubeconfig);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("no stdin")?.write_all(stdin.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

#[tokio::test]
async fn the_mode_says_what_becomes_of_a_change() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    says(rig, &ns, &json!({"mode": "Warn"}));
    let warning = format!("Warning: policy `all-{ns}` is against this (UpgradeRequired): ");
    let text = prints(rig, &ns, &["--dry-run=server"], &warning).await?;
    let command = format!("run: kubectl upgrade start deploy/web --image app=web:v2 -n {ns}");
    assert!(text.contains(&command), "{text}");
    prints(rig, &ns, &[], &warning).await?;
    rig.accepts(User::Alice, &["delete", "deploy", "web", "-n", &ns]);
    let text = rig.creates(User::Alice, &deployment(&ns, "web", "web:v3"))?;
    assert!(text.contains("Warning: policy") && text.contains("(LedgerMismatch)"), "{text}");
    let twin = json!({"app": "web"});
    let mut intruder = deployment(&ns, "intruder", "evil:1");
    intruder["spec"]["selector"]["matchLabels"] = twin.clone();
    intruder["spec"]["template"]["metadata"]["labels"] = twin;
    let text = rig.creates(User::Alice, &intruder)?;
    assert!(text.contains("(SelectorTaken)"), "{text}");
    // Our own label is for no mode to give away.
    let label = ["label", "deploy", "web", "kubectl-upgrade.dev/upgrade=u", "-n", &ns];
    rig.rejects(User::Alice, &label, &["LabelReserved"]);

    says(rig, &ns, &json!({"mode": "Audit"}));
    eventually("silence", SOON, || async {
        let args = ["set", "image", "deploy/web", "app=web:v4", "-n", &ns, "--dry-run=server"];
        let text = rig.run(User::Alice, &args, None)?;
        ensure!(!text.contains("Warning"), "{text}");
        Ok(())
    })
    .await?;
    rig.accepts(User::Alice, &["set", "image", "deploy/web", "app=web:v4", "-n", &ns]);
    rig.cluster.audit().await?;
    let log = std::fs::read_to_string(rig.cluster.kubeconfig().with_file_name("audit.log"))?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let changed = lines.filter(|l| {
        l["objectRef"]["namespace"] == *ns
            && l["verb"] == "patch"
            && l["requestObject"].to_string().contains("web:v4")
            && !l["requestURI"].as_str().unwrap_or_default().contains("dryRun")
    });
    let noted: Vec<_> = changed.map(|l| l["annotations"].clone()).collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!(noted[0]["workloads.kubectl-upgrade.dev/would-deny"], "UpgradeRequired");
    assert_eq!(noted[0]["workloads.kubectl-upgrade.dev/policy"], format!("all-{ns}"));
    rig.rejects(User::Alice, &label, &["LabelReserved"]);
    let metrics = rig.metrics().await?;
    for verdict in ["warn", "audit"] {
        let line = format!(
            r#"{{path="validate",verdict="{verdict}",reason="UpgradeRequired",kind="Deployment"}}"#
        );
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    says(rig, &ns, &json!({"mode": "Deny"}));
    prints(rig, &ns, &["--dry-run=server"], "denied the request").await?;
    Ok(())
}

#[tokio::test]
async fn a_dry_run_may_warn_where_the_real_thing_is_refused() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    says(rig, &ns, &json!({"dryRun": "Warn"}));
    let warning = format!("Warning: policy `all-{ns}` is against this (UpgradeRequired): ");
    prints(rig, &ns, &["--dry-run=server"], &warning).await?;
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/web", "app=web:v2", "-n", &ns],
        &["denied the request", "(UpgradeRequired)"],
    );
    // As a GitOps tool compares.
    let wanted = deployment(&ns, "web", "web:v2").to_string();
    let apply =
        ["apply", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-"];
    let dry: Vec<_> = apply.iter().copied().chain(["--dry-run=server"]).collect();
    let text = rig.run(User::Alice, &dry, Some(&wanted))?;
    assert!(text.contains(&warning), "{text}");
    refused(rig.run(User::Alice, &apply, Some(&wanted)), &["(UpgradeRequired)"]);
    Ok(())
}

#[tokio::test]
async fn the_most_specific_policy_holds_and_labels_are_no_way_into_a_laxer_one() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let narrow = |name: &str, labels: Value, more: Value| {
        let mut spec = json!({"workloads": {"selector": {"matchLabels": labels}}});
        spec.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
        let mut object = policy(&ns, &spec);
        object["metadata"]["name"] = json!(format!("{name}-{ns}"));
        object
    };
    rig.creates(User::Admin, &narrow("lax", json!({"team": "play"}), json!({"mode": "Audit"})))?;
    let gold = json!({"team": "play", "tier": "gold"});
    rig.creates(User::Admin, &narrow("gold", gold, json!({"mode": "Deny"})))?;
    let mut toy = deployment(&ns, "toy", "toy:v1");
    toy["metadata"]["labels"] = json!({"team": "play"});
    rig.creates(User::Alice, &toy)?;
    let set = |name: &str, image: &str| {
        let (name, image) = (format!("deploy/{name}"), format!("app={image}"));
        rig.run(User::Alice, &["set", "image", &name, &image, "-n", &ns], None)
    };
    eventually("the laxer policy", SOON, || async { set("toy", "toy:v2").map(drop) }).await?;
    // More specific still, and stricter.
    rig.accepts(User::Alice, &["label", "deploy", "toy", "tier=gold", "-n", &ns]);
    let text = eventually("the strictest", SOON, || async {
        let trial = ["set", "image", "deploy/toy", "app=toy:v3", "-n", &ns, "--dry-run=server"];
        rig.run(User::Alice, &trial, None).err().map(|e| e.to_string()).context("accepted")
    })
    .await?;
    assert!(text.contains(&format!("policy `gold-{ns}`")), "{text}");
    // Off again in the same write: what it was counts, too.
    let leaves = json!({"metadata": {"labels": {"tier": null}},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "toy:v3"}]}}}});
    let leaves = ["patch", "deploy", "toy", "-n", &ns, "-p", &leaves.to_string()];
    rig.rejects(User::Alice, &leaves, &[&format!("policy `gold-{ns}`")]);
    // A label into the laxer one, first or in the same write: the ledger knows `web` without.
    rig.accepts(User::Alice, &["label", "deploy", "web", "team=play", "-n", &ns]);
    refused(set("web", "web:v2"), &["(UpgradeRequired)", &format!("policy `all-{ns}`")]);
    rig.accepts(User::Alice, &["label", "deploy", "web", "team-", "-n", &ns]);
    let joins = json!({"metadata": {"labels": {"team": "play"}},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "web:v2"}]}}}});
    let joins = ["patch", "deploy", "web", "-n", &ns, "-p", &joins.to_string()];
    rig.rejects(User::Alice, &joins, &["(UpgradeRequired)", &format!("policy `all-{ns}`")]);
    rig.accepts(User::Alice, &["delete", "deploy", "web", "-n", &ns]);
    let mut again = deployment(&ns, "web", "web:v2");
    again["metadata"]["labels"] = json!({"team": "play"});
    refused(rig.creates(User::Alice, &again), &["(LedgerMismatch)"]);
    // Nor does a lax workload get at the pods of a strict one.
    let mut thief = deployment(&ns, "thief", "evil:1");
    thief["metadata"]["labels"] = json!({"team": "play"});
    thief["spec"]["selector"]["matchLabels"] = json!({"app": "web"});
    thief["spec"]["template"]["metadata"]["labels"] = json!({"app": "web"});
    refused(rig.creates(User::Alice, &thief), &["(SelectorTaken)"]);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_is_held_to_the_policy_of_each_of_its_targets() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let to = |image: &str| {
        let mut object = upgrade(&ns, "web-v2");
        object["spec"]["stages"][0]["workloads"]["targets"][0]["images"][0]["to"] = json!(image);
        object.to_string()
    };
    let dry = ["create", "-f", "-", "--dry-run=server"];
    let ask = |image: &str| rig.run(User::Alice, &dry, Some(&to(image)));
    let refuses = |image: &'static str, says: [&'static str; 2]| {
        eventually("the rule to hold", SOON, move || async move {
            let text = ask(image).err().context("accepted")?.to_string();
            for part in says {
                ensure!(text.contains(part), "does not say `{part}`: {text}");
            }
            Ok(text)
        })
    };
    ask("web:v2")?;
    says(rig, &ns, &json!({"strategies": ["rolling"]}));
    let text =
        refuses("web:v2", ["(StrategyNotAllowed)", "spec.stages[0].workloads.strategy"]).await?;
    let help = format!("kubectl get upgradepolicy all-{ns} -o jsonpath='{{.spec.strategies}}'");
    assert!(text.contains(&help) && text.contains("use `rolling`"), "{text}");

    let registries = json!({"registries": ["registry.example.com/app"]});
    says(rig, &ns, &json!({"strategies": ["rolling", "canary"], "images": registries}));
    let field = "spec.stages[0].workloads.targets[0].images[0].to";
    refuses("web:v2", ["(RegistryNotAllowed)", field]).await?;
    for evil in [
        "registry.example.com.evil.org/app/web:2",
        "registry.example.com/appevil/web:2",
        "registry.example.com:5000/app/web:2",
        "evil.org/registry.example.com/app/web:2",
        "REGISTRY/app/web:2",
    ] {
        refused(ask(evil), &["(RegistryNotAllowed)", "registry.example.com/app"]);
    }
    ask("registry.example.com/app/web:2")?;
    ask("Registry.Example.com/app:2")?;

    says(rig, &ns, &json!({"images": {"registries": null, "digest": "Required"}}));
    refuses("web:v2", ["(DigestRequired)", field]).await?;
    ask(&format!("web:v2@{DIGEST}"))?;
    ask(&format!("web@{DIGEST}"))?;

    says(rig, &ns, &json!({"images": null, "requesters": {"groups": ["release"]}}));
    refuses("web:v2", ["(RequesterNotAllowed)", "group `release`"]).await?;
    let rita = rig.cluster.kubeconfig_for("rita", &["release"])?;
    let binding = ["--clusterrole=edit", "--user=rita", "-n", &ns];
    let bind: Vec<_> = ["create", "rolebinding", "rita"].into_iter().chain(binding).collect();
    rig.accepts(User::Admin, &bind);
    eventually("rita's rights", SOON, || async { run(rig, &rita, &dry, &to("web:v2")) }).await?;
    // Whose group it is, the API server says.
    let mut forged: Value = serde_json::from_str(&to("web:v2"))?;
    forged["spec"]["requester"] = json!({"username": "alice", "groups": ["release"]});
    refused(
        rig.run(User::Alice, &dry, Some(&forged.to_string())),
        &["(RequesterNotAllowed)", "`alice` is none of those"],
    );

    // The labels of now decide, too.
    says(rig, &ns, &json!({"requesters": null}));
    let mut gold = policy(
        &ns,
        &json!({"workloads": {"selector": {"matchLabels": {"tier": "gold"}}},
        "approvals": {"required": 2}, "strategies": ["rolling"]}),
    );
    gold["metadata"]["name"] = json!(format!("gold-{ns}"));
    rig.creates(User::Admin, &gold)?;
    eventually("the end of the rule", SOON, || async { ask("web:v2") }).await?;
    rig.accepts(User::Alice, &["label", "deploy", "web", "tier=gold", "-n", &ns]);
    let text = refuses("web:v2", ["(StrategyNotAllowed)", "policy `gold-"]).await?;
    assert!(text.contains("which governs Deployment web"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_debug_container_is_one_that_the_policy_lists() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let pod = eventually("a pod of web", Duration::from_secs(20), || async {
        let args = ["get", "pods", "-n", &ns, "-l", "app=web", "-o", "name"];
        let pods = rig.run(User::Admin, &args, None)?;
        pods.lines().next().map(str::to_owned).context("none yet")
    })
    .await?;
    let debug = |image: &str| {
        let image = format!("--image={image}");
        rig.run(User::Admin, &["debug", &pod, "-n", &ns, &image, "--", "sh"], None)
    };
    let text = refused(
        debug("busybox"),
        &[
            "(EphemeralContainerNotAllowed)",
            "may not run busybox",
            "`spec.ephemeralContainers.images`",
        ],
    );
    assert!(text.contains(&format!("kubectl edit upgradepolicy all-{ns}")), "{text}");
    // The Deployment's policy is that of its pods, also where it is about Deployments only.
    says(
        rig,
        &ns,
        &json!({"workloads": {"kinds": ["Deployment"]},
        "ephemeralContainers": {"images": ["busybox", "tool:1"]}}),
    );
    eventually("the list to hold", SOON, || async { debug("busybox:1.36") }).await?;
    debug(&format!("docker.io/library/busybox@{DIGEST}"))?;
    debug("tool:1")?;
    for image in ["tool:2", "busybox/evil", "evil.org/library/busybox", "busyboxevil"] {
        refused(debug(image), &["(EphemeralContainerNotAllowed)", "covers that image"]);
    }
    // Another image for a container that is there does not go through that door.
    let name = pod.trim_start_matches("pod/");
    let pods: Api<Pod> = Api::namespaced(rig.cluster.client().await?, &ns);
    let patch = json!({"spec": {"containers": [{"name": "app", "image": "evil:1"}]}});
    let through = pods
        .patch_subresource(
            "ephemeralcontainers",
            name,
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await;
    let now = pods.get(name).await?.spec.context("a spec")?.containers;
    assert_eq!(now[0].image.as_deref(), Some("web:v1"), "{through:?}");

    says(rig, &ns, &json!({"mode": "Warn"}));
    let text = eventually("the mode to hold", SOON, || async { debug("tool:3") }).await?;
    assert!(
        text.contains("Warning: policy") && text.contains("(EphemeralContainerNotAllowed)"),
        "{text}"
    );
    Ok(())
}
