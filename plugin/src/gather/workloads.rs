//! The objects of a namespace that carry images, as the API server has them.

use super::read::Read;
use crate::client::Session;
use futures::{StreamExt, stream};
use kube::api::ListParams;
use kube::core::{ListMeta, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use upgrade_core::api::WorkloadKind;

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// An object that carries images.
pub struct Object {
    /// Its kind.
    pub kind: WorkloadKind,
    /// All of it.
    pub raw: Box<RawValue>,
    /// Whether something else controls it and was checked in its place.
    pub owned: bool,
    /// Whether it is on its way out, or has ended.
    pub over: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    owner_references: Option<Vec<Owner>>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    phase: Option<String>,
}

/// Everything of a namespace that carries images; what it needs where some of it cannot be listed.
pub async fn list(session: &Session, namespace: &str) -> Result<Vec<Object>, String> {
    let one = |kind| of_kind(session, namespace, kind);
    let all: Vec<_> =
        stream::iter(WorkloadKind::ALL).map(one).buffered(AT_ONCE).collect::<Vec<_>>().await;
    let mut objects = Vec::new();
    for part in all {
        objects.extend(part?);
    }
    Ok(objects)
}

async fn of_kind(
    session: &Session,
    namespace: &str,
    kind: WorkloadKind,
) -> Result<Vec<Object>, String> {
    let resource = format!("{}s", kind.as_str().to_lowercase());
    let path = match kind.resource().split_once('.') {
        Some((_, group)) => format!("/apis/{group}/v1/namespaces/{namespace}/{resource}"),
        None => format!("/api/v1/namespaces/{namespace}/{resource}"),
    };
    let need = format!("list {resource} in namespace {namespace}");
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let request = Request::new(&path).list(&params).map_err(|e| e.to_string())?;
        let page = session.client.request::<Page>(request).await;
        let page = match Read::of(session, page.map(Some), &need) {
            Read::There(page) => page,
            Read::Absent => return Ok(objects),
            Read::Unknown(needs) => return Err(needs),
        };
        for raw in page.items.unwrap_or_default() {
            let head: Head = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
            let owners = head.metadata.owner_references.unwrap_or_default();
            let phase = head.status.and_then(|s| s.phase).unwrap_or_default();
            objects.push(Object {
                kind,
                raw,
                owned: owners.iter().any(|o| o.controller == Some(true)),
                over: head.metadata.deletion_timestamp.is_some()
                    || matches!(phase.as_str(), "Succeeded" | "Failed"),
            });
        }
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
