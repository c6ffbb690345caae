//! Logs of fake pods, served as a kubelet serves them: a kwok of its own answers for the node of
//! [`crate::answers`], with files that a test writes.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use crate::scenario::PATIENCE;
use crate::wait::{eventually, wait_for};
use crate::{ControlPlane, Process, answers, nodes, ports};

/// The kubelet API of the node; it ends with the control plane.
pub struct Logs {
    client: Client,
    dir: PathBuf,
    _kwok: Process,
}

impl Logs {
    /// Starts it.
    pub async fn start(cluster: &ControlPlane) -> Result<Self> {
        let client = cluster.client().await?;
        register(&client).await?;
        let [port] = ports::free()?;
        let argv = [
            cluster.binaries().kwok.display().to_string(),
            format!("--kubeconfig={}", cluster.kubeconfig().display()),
            // It manages no node: the first kwok does.
            format!("--manage-nodes-with-annotation-selector={}=nobody", nodes::ANNOTATION.0),
            "--enable-crds=Logs".to_owned(),
            // It goes nowhere without stages.
            format!("--config={}", cluster.kubeconfig().with_file_name("node.yaml").display()),
            format!("--server-address=127.0.0.1:{port}"),
        ];
        let home = cluster.dir().display().to_string();
        let kwok = cluster.spawn("kwok-logs", argv, [("HOME", home)]).await?;
        let there = eventually("kwok to listen", PATIENCE, || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(anyhow::Error::from)
        });
        there.await.with_context(|| format!("its log ends with:\n{}", kwok.log_tail(20)))?;
        answers::kubelet_at(&client, port).await?;
        Ok(Self { client, dir: cluster.dir().to_owned(), _kwok: kwok })
    }

    /// What a pod has written: lines with the times at which it did.
    pub async fn write(
        &self,
        namespace: &str,
        pod: &str,
        lines: &[(Timestamp, &str)],
    ) -> Result<()> {
        let path = self.dir.join(format!("log-{namespace}-{pod}"));
        let mut text = String::new();
        for (at, line) in lines {
            writeln!(text, "{at:.9} stdout F {line}")?;
        }
        std::fs::write(&path, text)?;
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Logs", "metadata": {"name": pod},
            "spec": {"logs": [{"logsFile": path}]}}))?;
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource());
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error).context("Logs"),
        }
    }
}

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("kwok.x-k8s.io", "v1alpha1", "Logs");
    ApiResource::from_gvk_with_plural(&kind, "logs")
}

/// kwok's own CRD of Logs, as far as it matters here.
async fn register(client: &Client) -> Result<()> {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let crd: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "logs.kwok.x-k8s.io", "annotations":
            {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {"group": "kwok.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "Logs", "listKind": "LogsList", "plural": "logs", "singular": "logs"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties":
                    {"spec": any, "status": any}}},
                "subresources": {"status": {}}}]}}))?;
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    match api.create(&PostParams::default(), &crd).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error).context("CRD of Logs"),
    }
    let served = |c: Option<&CustomResourceDefinition>| {
        let conditions = c.and_then(|c| c.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Established" && c.status == "True"))
    };
    wait_for(api, "logs.kwok.x-k8s.io", served, PATIENCE).await.context("CRD of Logs").map(drop)
}
