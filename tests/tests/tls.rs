//! The admission server that answers only clients that it knows, called by a real API server.

use std::path::Path;

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use upgrade_sandbox::pki::{Authority, Pair};
use upgrade_sandbox::scenario::Shop;
use upgrade_sandbox::{ControlPlane, Options, product};

const NAME: &str = "kube-apiserver.example";

/// What the API server shows to webhooks, as its administrator configures it.
fn admission(dir: &Path, pair: &Pair) -> Result<String> {
    let base64 = |pem: &str| json!(k8s_openapi::ByteString(pem.as_bytes().to_vec()));
    let write = |name: &str, object: &Value| -> Result<String> {
        let path = dir.join(name);
        std::fs::write(&path, object.to_string())?;
        Ok(path.display().to_string())
    };
    let users = write(
        "webhooks.kubeconfig",
        &json!({"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": {
            "client-certificate-data": base64(&pair.cert), "client-key-data": base64(&pair.key)}}]}),
    )?;
    let plugin = |name: &str| {
        json!({"name": name, "configuration": {
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": users}})
    };
    let plugins = ["ValidatingAdmissionWebhook", "MutatingAdmissionWebhook"].map(plugin);
    write(
        "admission.json",
        &json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
            "plugins": plugins}),
    )
}

/// The status of a request to the webhook itself, with this certificate or none.
async fn ask(cluster: &ControlPlane, url: &str, pair: Option<&Pair>) -> Result<u16> {
    let secrets = kube::Api::<k8s_openapi::api::core::v1::Secret>::namespaced(
        cluster.client().await?,
        "kubectl-upgrade-system",
    );
    let data = secrets.get("upgrade-webhook-ca").await?.data.context("no data")?;
    let user = pair.map_or(json!({}), |pair| {
        let base64 = |pem: &str| json!(k8s_openapi::ByteString(pem.as_bytes().to_vec()));
        json!({"client-certificate-data": base64(&pair.cert), "client-key-data": base64(&pair.key)})
    });
    let config: Kubeconfig = serde_json::from_value(json!({
        "clusters": [{"name": "w", "cluster": {"server": url, "certificate-authority-data": data["ca.crt"]}}],
        "users": [{"name": "w", "user": user}],
        "contexts": [{"name": "w", "context": {"cluster": "w", "user": "w"}}],
        "current-context": "w",
    }))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    let client = kube::Client::try_from(config)?;
    let request = http::Request::post("/validate").body(Body::from(b"{}".to_vec()))?;
    Ok(client.send(request).await?.status().as_u16())
}

#[tokio::test]
async fn only_clients_on_the_list_are_answered() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, other) = (Authority::new()?, Authority::new()?);
    let ca = dir.path().join("clients.crt");
    std::fs::write(&ca, ours.cert())?;
    let ca = ca.display().to_string();
    let right = ours.client(NAME, &[])?;
    let flag = format!("--admission-control-config-file={}", admission(dir.path(), &right)?);
    let options = Options { nodes: 1, apiserver_flags: vec![flag], ..Options::default() };
    // A shop asks for a cluster that stays; the guardian ends it with this process.
    let cluster: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).await?));

    let flags = ["--client-ca-file", &ca, "--client-name", "somebody", "--client-name", NAME];
    let product = product::install_with(cluster, &flags).await?;
    let shop = Shop::open(cluster, 0).await?;
    shop.deploy("web", 1, json!({})).await?;
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:v2"}]}}}});
    let deployments = shop.deployments();
    let try_it = async || {
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let outcome = deployments.patch("web", &dry, &Patch::Strategic(&change)).await;
        outcome.map(drop).expect_err("refused").to_string()
    };
    let said = try_it().await;
    assert!(said.contains("UpgradeRequired"), "{said}");

    let url = product.url();
    assert_eq!(ask(cluster, url, Some(&right)).await?, 400, "it is let in, and says nothing");
    let same_name = other.client(NAME, &[])?;
    let other_name = ours.client("kube-apiserver", &[])?;
    for (who, pair) in [
        ("no certificate", None),
        ("another CA", Some(&same_name)),
        ("another name", Some(&other_name)),
    ] {
        let answer = ask(cluster, url, pair).await;
        assert!(answer.is_err(), "{who} was answered: {answer:?}");
    }

    // Where the API server is the one that is not on the list, its image changes are refused.
    product.kill().await?;
    let flags = ["--client-ca-file", &ca, "--client-name", "somebody-else"];
    let product = product::install_with(cluster, &flags).await?;
    let said = try_it().await;
    assert!(said.contains("failed calling webhook"), "{said}");
    assert!(product.webhook().log_tail(50).contains(NAME), "the log says who was refused");
    Ok(())
}
