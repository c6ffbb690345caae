//! The fake nodes.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use std::time::Duration;

use crate::wait::wait_for;

/// kwok manages the nodes that carry this.
pub(crate) const ANNOTATION: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

/// How long nodes may take; they take well under a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Registers the nodes.
pub(crate) async fn register(client: &kube::Client, count: u16) -> Result<()> {
    let api = Api::<Node>::all(client.clone());
    let create = (0..count).map(|n| {
        let api = api.clone();
        async move { api.create(&PostParams::default(), &node(n)).await }
    });
    futures::future::try_join_all(create).await.context("cannot register the nodes")?;
    Ok(())
}

/// Waits until pods can run: every node is ready and the default service account is there.
pub(crate) async fn ready(client: &kube::Client, count: u16) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let names: Vec<_> = (0..count).map(name).collect();
    let ready = names.iter().map(|name| wait_for(nodes.clone(), name, schedulable, PATIENCE));
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    let account = wait_for(
        accounts,
        "default",
        |account: Option<&ServiceAccount>| account.is_some(),
        PATIENCE,
    );
    futures::future::try_join(futures::future::try_join_all(ready), account).await?;
    Ok(())
}

/// Registers one more node, with these labels besides its own.
pub(crate) async fn add(client: &kube::Client, name: &str, labels: &[(&str, &str)]) -> Result<()> {
    let mut node = named(name, "a");
    let more = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    node.metadata.labels.get_or_insert_default().extend(more);
    let api = Api::<Node>::all(client.clone());
    api.create(&PostParams::default(), &node).await.context("cannot register a node")?;
    Ok(())
}

fn name(n: u16) -> String {
    format!("node-{n}")
}

fn node(n: u16) -> Node {
    named(&name(n), ["a", "b", "c"][usize::from(n) % 3])
}

fn named(name: &str, zone: &str) -> Node {
    let labels = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("topology.kubernetes.io/zone", zone),
    ];
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some([owned(ANNOTATION)].into()),
            labels: Some(labels.map(owned).into()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

/// Whether pods go there.
pub(crate) fn schedulable(node: Option<&Node>) -> bool {
    let Some(node) = node else { return false };
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).next().is_some();
    ready && !tainted
}
