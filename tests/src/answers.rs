//! What answers at the addresses of fake pods, so that health checks really probe: a node whose pods
//! get addresses on loopback, and one HTTP server that listens on all of them.
//!
//! A request is answered for the pod that has the address it came to: with the tag of its image as
//! its version, or with 503 where the tag says `sick`. Every request is kept.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::nodes;
use crate::scenario::PATIENCE;
use crate::wait::wait_for;

/// Name of the node, and of its taint.
const NODE: &str = "loopback";
/// Addresses of its pods.
const RANGE: &str = "127.77.0.0/16";

/// One request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Its image.
    pub image: String,
    /// Path of the request.
    pub path: String,
    /// Status of the answer.
    pub status: u16,
}

/// The server; it ends with this.
pub struct Answers {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    _server: JoinSet<()>,
}

impl Answers {
    /// Starts it, and registers the node where it is not there yet.
    pub async fn start(client: &Client) -> Result<Self> {
        register(client).await?;
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let port = listener.local_addr()?.port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (client, log) = (client.clone(), asked.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut answers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (client, log) = (client.clone(), log.clone());
                answers.spawn(async move {
                    // A client that hangs up is no failure of ours.
                    let _ = answer(&client, stream, &log).await;
                });
            }
        });
        Ok(Self { port, asked, _server: server })
    }

    /// The port that it listens on, at every address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The requests for pods of a namespace so far, in order.
    pub fn asked(&self, namespace: &str) -> Vec<Asked> {
        let all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|a| a.namespace == namespace).cloned().collect()
    }
}

/// What a pod template's spec needs besides its containers for its pods to have such an address.
pub fn pod_spec(image: &str) -> Value {
    json!({
        "containers": [{"name": "web", "image": image}],
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "tolerations": [{"key": NODE, "operator": "Exists"}],
    })
}

async fn register(client: &Client) -> Result<()> {
    let (key, value) = nodes::ANNOTATION;
    let node: Node = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "annotations": {key: value},
            "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": RANGE, "podCIDRs": [RANGE],
            "taints": [{"key": NODE, "effect": "NoSchedule"}]},
    }))?;
    let api: Api<Node> = Api::all(client.clone());
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error).context("node loopback"),
    }
    let up = |n: Option<&Node>| {
        let conditions = n.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    wait_for(api, NODE, up, PATIENCE).await.context("node loopback").map(drop)
}

/// Says where the kubelet API of the node is: there the API server asks for logs.
pub async fn kubelet_at(client: &Client, port: u16) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let body = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"},
            {"type": "Hostname", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let body = Patch::Strategic(body);
    api.patch_status(NODE, &PatchParams::default(), &body).await.context("kubelet endpoint")?;
    Ok(())
}

async fn answer(client: &Client, mut stream: TcpStream, log: &Mutex<Vec<Asked>>) -> Result<()> {
    let ip = stream.local_addr()?.ip();
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(()); // a TCP check
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let (namespace, pod, image) = owner(client, ip).await?;
    let version = image.rsplit(':').next().unwrap_or_default();
    let status = if version.contains("sick") { 503 } else { 200 };
    let body = json!({"status": "up", "build": {"version": version}}).to_string();
    let asked = Asked { namespace, pod, image: image.clone(), path, status };
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let answer = format!(
        "HTTP/1.1 {status} It\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}

/// The pod that has an address: namespace, name, image.
async fn owner(client: &Client, ip: IpAddr) -> Result<(String, String, String)> {
    let api: Api<Pod> = Api::all(client.clone());
    let list = api.list(&ListParams::default().fields(&format!("status.podIP={ip}"))).await?;
    let pod = list.into_iter().next().with_context(|| format!("no pod has {ip}"))?;
    let image = pod.spec.as_ref().and_then(|s| s.containers.first()?.image.clone());
    Ok((pod.namespace().unwrap_or_default(), pod.name_any(), image.unwrap_or_default()))
}
