//! The ledger: what every governed workload is approved to run.
//!
//! Entries are made from what runs when a workload is first seen under a policy, and changed only
//! by an Upgrade that ends well. One object for a namespace, written by server-side apply, and
//! only when something is missing from it.

use super::watches::Context;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{info, warn};
use upgrade_core::api::ledger::ContainerImage;
use upgrade_core::api::{
    FIELD_MANAGER, LEDGER_NAME, LedgerEntry, Selector, SelectorOperator, UpgradeLedger, WorkloadKind,
};

/// Namespaces whose ledgers are written at once.
const CONCURRENCY: usize = 8;

/// Keeps the ledgers complete.
pub async fn run(context: Arc<Context>) {
    context.ledger_ready().await;
    let mut policies = context.snapshot.subscribe();
    loop {
        let missing = missing(&context);
        stream::iter(missing)
            .for_each_concurrent(CONCURRENCY, |(namespace, entries)| {
                let context = context.clone();
                async move {
                    let count = entries.len();
                    match append(&context, &namespace, entries).await {
                        Ok(()) => info!(namespace, count, "ledger seeded from what runs"),
                        Err(error) => {
                            warn!(namespace, %error, "the ledger was not written");
                            context.ledger.notify_one();
                        }
                    }
                }
            })
            .await;
        tokio::select! {
            () = context.ledger.notified() => {}
            changed = policies.changed() => if changed.is_err() { return },
        }
    }
}

/// Governed workloads without an entry, by namespace.
fn missing(context: &Context) -> BTreeMap<String, Vec<LedgerEntry>> {
    let snapshot = context.snapshot.load();
    let mut all: BTreeMap<String, Vec<LedgerEntry>> = BTreeMap::new();
    if !snapshot.synced() {
        return all;
    }
    let mut check = |namespace: &str, kind, name: &str, labels: &BTreeMap<String, String>, pod: Option<&PodSpec>, selector: Option<&LabelSelector>| {
        let Some(view) = snapshot.namespace(namespace).filter(|v| v.governed()) else { return };
        if view.entry(kind, name).is_some() || !view.policies().any(|p| p.selects(kind, labels)) {
            return;
        }
        let entry = entry(kind, name, pod, selector, None);
        all.entry(namespace.to_owned()).or_default().push(entry);
    };
    for d in context.deployments.state() {
        let spec = d.spec.as_ref();
        let pod = spec.and_then(|s| s.template.spec.as_ref());
        check(&ns(d.as_ref()), WorkloadKind::Deployment, &d.name_any(), d.labels(), pod, spec.map(|s| &s.selector));
    }
    for d in context.stateful_sets.state() {
        let spec = d.spec.as_ref();
        let pod = spec.and_then(|s| s.template.spec.as_ref());
        check(&ns(d.as_ref()), WorkloadKind::StatefulSet, &d.name_any(), d.labels(), pod, spec.map(|s| &s.selector));
    }
    for d in context.daemon_sets.state() {
        let spec = d.spec.as_ref();
        let pod = spec.and_then(|s| s.template.spec.as_ref());
        check(&ns(d.as_ref()), WorkloadKind::DaemonSet, &d.name_any(), d.labels(), pod, spec.map(|s| &s.selector));
    }
    for d in context.cron_jobs.state() {
        let job = d.spec.job_template.spec.as_ref();
        let pod = job.and_then(|s| s.template.spec.as_ref());
        check(&ns(d.as_ref()), WorkloadKind::CronJob, &d.name_any(), d.labels(), pod, None);
    }
    all
}

fn ns<K: Resource>(object: &K) -> String {
    object.meta().namespace.clone().unwrap_or_default()
}

/// Notes what an Upgrade brought a workload to.
pub async fn record(context: &Context, namespace: &str, kind: WorkloadKind, name: &str, upgrade: &str) -> Result<(), kube::Error> {
    let Some(found) = context.deployments.get(&ObjectRef::new(name).within(namespace)) else { return Ok(()) };
    let governed = {
        let snapshot = context.snapshot.load();
        snapshot
            .namespace(namespace)
            .is_some_and(|v| v.governed() && (v.entry(kind, name).is_some() || v.policies().any(|p| p.selects(kind, found.labels()))))
    };
    if !governed {
        return Ok(());
    }
    let spec = found.spec.as_ref();
    let pod = spec.and_then(|s| s.template.spec.as_ref());
    let new = entry(kind, name, pod, spec.map(|s| &s.selector), Some(upgrade.to_owned()));
    append(context, namespace, vec![new]).await
}

/// Adds or replaces entries. The list is read live: what we apply is all that we own.
async fn append(context: &Context, namespace: &str, new: Vec<LedgerEntry>) -> Result<(), kube::Error> {
    let api: Api<UpgradeLedger> = Api::namespaced(context.client.clone(), namespace);
    let found = api.get_opt(LEDGER_NAME).await?;
    let version = found.as_ref().and_then(ResourceExt::resource_version);
    let mut entries = found.map(|l| l.spec.entries).unwrap_or_default();
    let before = entries.clone();
    for entry in new {
        match entries.iter_mut().find(|e| e.kind == entry.kind && e.name == entry.name) {
            // Seeding never changes what was approved; only an Upgrade does.
            Some(_) if entry.upgrade.is_none() => {}
            Some(old) if old.images == entry.images && old.upgrade == entry.upgrade => {}
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    if entries == before {
        return Ok(());
    }
    let mut metadata = json!({"name": LEDGER_NAME, "namespace": namespace});
    if let (Some(version), Some(map)) = (version, metadata.as_object_mut()) {
        map.insert("resourceVersion".to_owned(), json!(version));
    }
    let body = json!({
        "apiVersion": UpgradeLedger::api_version(&()),
        "kind": UpgradeLedger::kind(&()),
        "metadata": metadata,
        "spec": {"entries": entries},
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(LEDGER_NAME, &params, &Patch::Apply(&body)).await.map(drop)
}

fn entry(kind: WorkloadKind, name: &str, pod: Option<&PodSpec>, selector: Option<&LabelSelector>, upgrade: Option<String>) -> LedgerEntry {
    LedgerEntry {
        kind,
        name: name.to_owned(),
        images: pod.map(images).unwrap_or_default(),
        selector: selector.map(convert),
        upgrade,
        since: Time(jiff::Timestamp::now()),
    }
}

fn images(pod: &PodSpec) -> Vec<ContainerImage> {
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    let mut all: Vec<_> = containers
        .map(|c| ContainerImage { container: c.name.clone(), image: c.image.clone().unwrap_or_default() })
        .collect();
    let volumes = pod.volumes.iter().flatten();
    all.extend(volumes.filter_map(|v| {
        let image = v.image.as_ref()?.reference.clone()?;
        Some(ContainerImage { container: format!("volume:{}", v.name), image })
    }));
    all
}

fn convert(selector: &LabelSelector) -> Selector {
    let requirements = selector.match_expressions.iter().flatten().filter_map(|r| {
        let operator = match r.operator.as_str() {
            "In" => SelectorOperator::In,
            "NotIn" => SelectorOperator::NotIn,
            "Exists" => SelectorOperator::Exists,
            "DoesNotExist" => SelectorOperator::DoesNotExist,
            _ => return None,
        };
        let values = r.values.clone().unwrap_or_default();
        Some(upgrade_core::api::SelectorRequirement { key: r.key.clone(), operator, values })
    });
    Selector {
        match_labels: selector.match_labels.clone().unwrap_or_default(),
        match_expressions: requirements.collect(),
    }
}
