//! Who wrote what, from the API server's own audit log.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::ControlPlane;
use crate::wait::eventually;

/// A write that the API server answered.
#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// When it was answered.
    pub at: jiff::Timestamp,
    /// Who asked; the impersonated one where somebody was.
    pub user: String,
    /// `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// Plural, as in URLs.
    pub resource: String,
    /// `status`, `scale` and so on; empty for the object itself.
    pub subresource: String,
    /// Empty for cluster-wide resources.
    pub namespace: String,
    /// Empty where the server chose it.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// Nothing was to be written.
    pub dry_run: bool,
    /// The client's name for itself.
    pub user_agent: String,
    /// The body, for Deployments: the patch, for a patch.
    pub request: Option<Value>,
}

impl AuditEvent {
    /// Whether it changed this Deployment itself, rather than its status or scale.
    pub fn wrote_deployment(&self, namespace: &str, name: &str) -> bool {
        self.group == "apps"
            && self.resource == "deployments"
            && self.subresource.is_empty()
            && (self.namespace.as_str(), self.name.as_str()) == (namespace, name)
            && matches!(self.verb.as_str(), "patch" | "update")
            && (200..300).contains(&self.code)
            && !self.dry_run
    }
}

/// The lines as they are in the file, as far as they matter.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<Object>,
    response_status: Option<Status>,
    request_object: Option<Value>,
    stage_timestamp: jiff::Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    resource: String,
    namespace: String,
    name: String,
    api_group: String,
    subresource: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

impl From<Line> for AuditEvent {
    fn from(line: Line) -> Self {
        let object = line.object_ref.unwrap_or_default();
        Self {
            at: line.stage_timestamp,
            user: line.impersonated_user.unwrap_or(line.user).username,
            verb: line.verb,
            group: object.api_group,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            code: line.response_status.map_or(0, |status| status.code),
            dry_run: line.request_uri.contains("dryRun="),
            user_agent: line.user_agent,
            request: line.request_object,
        }
    }
}

/// Reads the log up to a write of our own made now: when that is in it, what went before is too.
pub(crate) async fn read(log: &Path, client: &Client, mark: u64) -> Result<Vec<AuditEvent>> {
    let name = format!("audit-mark-{}-{mark}", std::process::id());
    let marker = ConfigMap {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    Api::default_namespaced(client.clone())
        .create(&dry, &marker)
        .await
        .context("cannot mark the audit log")?;
    let events = eventually("the audit log", Duration::from_secs(10), || async {
        let events = parse(log)?;
        if events.iter().any(|event| event.name == name) {
            return Ok(events);
        }
        bail!("{} does not have {name} yet", log.display())
    });
    let is_mark = |event: &AuditEvent| event.name.starts_with("audit-mark-");
    Ok(events.await?.into_iter().filter(|event| !is_mark(event)).collect())
}

fn parse(log: &Path) -> Result<Vec<AuditEvent>> {
    let text =
        std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    // The last line may be half written; it is read whole the next time.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines
        .map(|line| serde_json::from_str::<Line>(line).context("a line of the audit log"))
        .filter(|line| !matches!(line, Ok(line) if line.stage != "ResponseComplete"))
        .map(|line| line.map(AuditEvent::from))
        .collect()
}

/// Counts the writes to one Deployment since it was made.
pub struct WriteCounter<'a> {
    cluster: &'a ControlPlane,
    namespace: String,
    name: String,
    before: usize,
}

impl<'a> WriteCounter<'a> {
    pub(crate) async fn start(
        cluster: &'a ControlPlane,
        namespace: &str,
        name: &str,
    ) -> Result<Self> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let mut counter = Self { cluster, namespace, name, before: 0 };
        counter.before = counter.writes().await?.len();
        Ok(counter)
    }

    /// The writes, in their order.
    pub async fn writes(&self) -> Result<Vec<AuditEvent>> {
        let mut events = self.cluster.audit().await?;
        events.retain(|event| event.wrote_deployment(&self.namespace, &self.name));
        Ok(events.split_off(self.before.min(events.len())))
    }

    /// The number of writes of each user.
    pub async fn by_user(&self) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for event in self.writes().await? {
            *counts.entry(event.user).or_default() += 1;
        }
        Ok(counts)
    }
}
