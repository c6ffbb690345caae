//! Shared by the tests of the floor and of break-glass: who attacks, and with what.
#![allow(dead_code)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::Api;
use serde_json::json;
use upgrade_core::api::{BREAK_GLASS_LABEL, LEDGER_NAME, UpgradeLedger};
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{PATIENCE, Said, Shop, say};
use upgrade_sandbox::{ControlPlane, Options, eventually};

pub const SYSTEM: &str = "kubectl-upgrade-system";
pub const ADMIN: &str = "admin";
/// ClusterRole `edit` everywhere.
pub const EDNA: &str = "edna";
/// Broad rights, as an operator or a GitOps controller has them, but not `administer`.
pub const GREG: &str = "greg";

/// kubectl; the words of `line` are separated by spaces, so its JSON has none.
pub fn kubectl(cluster: &ControlPlane, who: &str, line: &str, stdin: &str) -> Said {
    let mut command = cluster.kubectl();
    if who != ADMIN {
        command.args(["--as", who, "--as-group", "system:authenticated"]);
    }
    command.args(line.split_whitespace());
    say(&mut command, stdin).expect("kubectl runs")
}

#[track_caller]
pub fn ok(cluster: &ControlPlane, who: &str, line: &str) -> String {
    fed(cluster, who, line, "")
}

#[track_caller]
pub fn fed(cluster: &ControlPlane, who: &str, line: &str, stdin: &str) -> String {
    let said = kubectl(cluster, who, line, stdin);
    assert_eq!(said.code, Some(0), "{who}: {line}: {}{}", said.out, said.err);
    said.out
}

#[track_caller]
pub fn no(cluster: &ControlPlane, who: &str, line: &str, says: &[&str]) -> String {
    let said = kubectl(cluster, who, line, "");
    assert_ne!(said.code, Some(0), "{who}: {line}: {}", said.out);
    for part in says {
        assert!(said.err.contains(part), "{who}: {line}: `{part}` is not in:\n{}", said.err);
    }
    said.err
}

/// Until a refusal says this: what a policy reads reaches it by a watch.
pub async fn refused_by(cluster: &ControlPlane, who: &str, line: &str, says: &str) -> String {
    eventually("a refusal", Duration::from_secs(20), || async {
        let said = kubectl(cluster, who, line, "");
        ensure!(
            said.code != Some(0) && said.err.contains(says),
            "{line}: {}{}",
            said.out,
            said.err
        );
        Ok(said.err)
    })
    .await
    .expect("refused")
}

pub fn manifest(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base").join(file);
    std::fs::read_to_string(path).expect("a manifest")
}

/// Our Deployment alone: what the lab runs instead is a process, behind a Service without selector.
pub fn own_deployment() -> String {
    let all = manifest("deployment.yaml");
    all.split("\n---\n").next().expect("a document").to_owned()
}

/// A control plane of its own with the product on it: this one is killed.
pub async fn alone() -> Result<(&'static ControlPlane, Product)> {
    let cluster: &ControlPlane =
        Box::leak(Box::new(ControlPlane::start(Options::default()).await?));
    let product = product::install_with(cluster, &["--lease-duration", "2"]).await?;
    Ok((cluster, product))
}

pub fn plugin(product: &Product, kubeconfig: &Path, ns: &str, line: &str) -> Said {
    let mut command: Command = product.plugin(kubeconfig);
    command.args(line.split_whitespace()).args(["-n", ns]);
    say(&mut command, "").expect("the plugin runs")
}

pub async fn runs(shop: &Shop, name: &str, image: &str) -> Result<()> {
    let found: Deployment = shop.complete(name).await?;
    let pod = found.spec.and_then(|s| s.template.spec).context("no pod")?;
    ensure!(pod.containers[0].image.as_deref() == Some(image), "{:?}", pod.containers[0].image);
    ensure!(found.metadata.labels.is_some_and(|l| !l.contains_key(BREAK_GLASS_LABEL)), "the label");
    Ok(())
}

pub async fn ledger_says(client: &Client, ns: &str, name: &str, image: &str) -> Result<String> {
    let api: Api<UpgradeLedger> = Api::namespaced(client.clone(), ns);
    eventually("the ledger", PATIENCE, || async {
        let found = api.get(LEDGER_NAME).await?;
        let entry = found.spec.entries.into_iter().find(|e| e.name == name).context("no entry")?;
        ensure!(entry.images[0].image == image, "{entry:?}");
        Ok(entry.upgrade.unwrap_or_default())
    })
    .await
}

pub fn by_hand(uid: &str, image: &str) -> String {
    json!({"metadata": {"labels": {BREAK_GLASS_LABEL: uid}}, "spec": {"template": {"spec": {
        "containers": [{"name": "web", "image": image}]}}}})
    .to_string()
}
