//! The ledger: what every governed workload is approved to run.
//!
//! Entries are made from what runs when a workload is first seen under a policy, and changed only
//! by an Upgrade that ends well or by a BreakGlass. One object for a namespace, written by server-side apply, and
//! only when something is missing from it.

use super::watches::Context;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ObjectReference, PodSpec, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{info, warn};
use upgrade_core::api::ledger::{ContainerImage, volume};
use upgrade_core::api::separate::CANARY_LABEL;
use upgrade_core::api::{
    BREAK_GLASS_LABEL, BreakGlassObject, FIELD_MANAGER, IN_FLIGHT_LABEL, LEDGER_NAME, LedgerEntry,
    Selector, SelectorOperator, UpgradeLedger, WorkloadKind,
};
use upgrade_core::policy::snapshot::NamespaceView;

/// Namespaces whose ledgers are written at once.
const CONCURRENCY: usize = 8;

/// A pass looks at every workload; events that come together share one.
const PAUSE: Duration = Duration::from_millis(200);

/// Time between tries of a write that was refused.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the ledgers complete.
pub async fn run(context: Arc<Context>) {
    context.ledger_ready().await;
    let mut policies = context.snapshot.subscribe();
    loop {
        let failed = Arc::new(AtomicBool::new(false));
        let missing = missing(&context);
        stream::iter(missing)
            .for_each_concurrent(CONCURRENCY, |(namespace, entries)| {
                let (context, failed) = (context.clone(), failed.clone());
                async move {
                    let count = entries.len();
                    match append(&context, &namespace, entries).await {
                        Ok(()) => info!(namespace, count, "ledger seeded from what runs"),
                        Err(error) => {
                            let error = super::terse(&error);
                            warn!(namespace, error, "the ledger was not written");
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                }
            })
            .await;
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            // Refused, for instance in a namespace that is being deleted: not again at once.
            () = tokio::time::sleep(RETRY), if failed.load(Ordering::Relaxed) => {}
            () = context.ledger.notified(), if !failed.load(Ordering::Relaxed) => {}
            changed = policies.changed(), if !failed.load(Ordering::Relaxed) => {
                if changed.is_err() {
                    return;
                }
            }
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
    let mut check = |seen: &Seen<'_>| {
        let namespace = seen.meta.namespace.as_deref().unwrap_or_default();
        if seen.meta.deletion_timestamp.is_some() {
            return;
        }
        let Some(view) = snapshot.namespace(namespace).filter(|v| v.governed()) else { return };
        let known = view.entry(seen.kind, seen.name()).is_some();
        if !known && seen.governed_by(view) {
            all.entry(namespace.to_owned()).or_default().push(seen.entry(None));
        }
    };
    // A canary is there for the time of its Upgrade, which says what it runs; our label is guarded,
    // so that nobody else's Deployment passes for one.
    let canary = |d: &Deployment| {
        let is = |label: &str| d.labels().contains_key(label);
        is(CANARY_LABEL) && is(IN_FLIGHT_LABEL)
    };
    for d in context.deployments.state().iter().filter(|d| !canary(d)) {
        check(&Seen::deployment(d));
    }
    for d in context.stateful_sets.state() {
        let (template, selector) = d.spec.as_ref().map(|s| (&s.template, &s.selector)).unzip();
        check(&Seen { kind: WorkloadKind::StatefulSet, meta: &d.metadata, template, selector });
    }
    for d in context.daemon_sets.state() {
        let (template, selector) = d.spec.as_ref().map(|s| (&s.template, &s.selector)).unzip();
        check(&Seen { kind: WorkloadKind::DaemonSet, meta: &d.metadata, template, selector });
    }
    for d in context.cron_jobs.state() {
        let template = d.spec.job_template.spec.as_ref().map(|s| &s.template);
        let kind = WorkloadKind::CronJob;
        check(&Seen { kind, meta: &d.metadata, template, selector: None });
    }
    all
}

/// What an entry is made from.
struct Seen<'a> {
    kind: WorkloadKind,
    meta: &'a ObjectMeta,
    template: Option<&'a PodTemplateSpec>,
    selector: Option<&'a LabelSelector>,
}

impl<'a> Seen<'a> {
    fn deployment(d: &'a Deployment) -> Self {
        let (template, selector) = d.spec.as_ref().map(|s| (&s.template, &s.selector)).unzip();
        Self { kind: WorkloadKind::Deployment, meta: &d.metadata, template, selector }
    }

    fn name(&self) -> &'a str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    fn labels(&self) -> &'a BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.meta.labels.as_ref().unwrap_or(&NONE)
    }

    fn reference(&self) -> ObjectReference {
        let group = if self.kind == WorkloadKind::CronJob { "batch/v1" } else { "apps/v1" };
        ObjectReference {
            api_version: Some(group.to_owned()),
            kind: Some(self.kind.as_str().to_owned()),
            name: self.meta.name.clone(),
            namespace: self.meta.namespace.clone(),
            uid: self.meta.uid.clone(),
            ..ObjectReference::default()
        }
    }

    fn governed_by(&self, view: &NamespaceView) -> bool {
        view.policy(self.kind, self.name(), self.labels()).is_some()
    }

    fn entry(&self, upgrade: Option<String>) -> LedgerEntry {
        let mut labels = self.labels().clone();
        labels.remove(IN_FLIGHT_LABEL);
        labels.remove(BREAK_GLASS_LABEL);
        let pod = self.template.and_then(|t| t.spec.as_ref());
        LedgerEntry {
            kind: self.kind,
            name: self.name().to_owned(),
            images: pod.map(images).unwrap_or_default(),
            selector: self.selector.map(convert),
            labels,
            upgrade,
            since: Time(jiff::Timestamp::now()),
        }
    }
}

/// Notes what an Upgrade brought its workloads to, or back to. Our label is still on them, so
/// nobody else can have changed their images meanwhile.
pub async fn record(
    context: &Context,
    namespace: &str,
    workloads: &[(WorkloadKind, String)],
    upgrade: &str,
) -> Result<(), kube::Error> {
    let snapshot = context.snapshot.load();
    let view = snapshot.namespace(namespace).filter(|v| v.governed());
    let entry = |(kind, name): &(WorkloadKind, String)| {
        look(context, namespace, *kind, name, |seen| {
            let governed = view.is_some_and(|view| seen.governed_by(view));
            governed.then(|| seen.entry(Some(upgrade.to_owned())))
        })
    };
    let entries: Vec<LedgerEntry> = workloads.iter().filter_map(entry).collect();
    if entries.is_empty() { Ok(()) } else { append(context, namespace, entries).await }
}

/// One object of a BreakGlass.
pub struct Exception<'a> {
    /// Namespace of both.
    pub namespace: &'a str,
    /// The object and the images it may be given.
    pub object: &'a BreakGlassObject,
    /// `metadata.uid` of the BreakGlass.
    pub uid: &'a str,
}

/// Notes what a workload runs by exception: of its images those that the BreakGlass lists, and no
/// others. Returns the workload where it runs any that the ledger did not know before, or that
/// this BreakGlass brought.
pub async fn except(
    context: &Context,
    exception: &Exception<'_>,
) -> Result<Option<ObjectReference>, kube::Error> {
    let Some(update) = excepted(context, exception) else { return Ok(None) };
    if let Some(entry) = update.entry {
        append(context, exception.namespace, vec![entry]).await?;
    }
    Ok(Some(update.about))
}

struct Update {
    about: ObjectReference,
    /// Absent where the ledger says so already, or will be seeded from what runs.
    entry: Option<LedgerEntry>,
}

fn excepted(context: &Context, exception: &Exception<'_>) -> Option<Update> {
    let (object, namespace) = (exception.object, exception.namespace);
    let snapshot = context.snapshot.load();
    let view = snapshot.namespace(namespace).filter(|v| v.governed())?;
    look(context, namespace, object.kind.into(), &object.name, |seen| {
        let runs = seen.entry(None).images;
        let listed: Vec<ContainerImage> = object.images.iter().map(Into::into).collect();
        let given: Vec<_> = listed.iter().filter(|l| runs.contains(l)).collect();
        if given.is_empty() || !seen.governed_by(view) {
            return None;
        }
        let about = seen.reference();
        let Some(known) = view.entry(seen.kind, seen.name()) else {
            return Some(Update { about, entry: None });
        };
        let approved = format!("breakglass/{}", exception.uid);
        let mut images = known.images.clone();
        images.retain(|k| !given.iter().any(|g| g.container == k.container));
        images.extend(given.into_iter().cloned());
        // In the order in which the workload has them, as every other entry is.
        images.sort_by_key(|i| runs.iter().position(|r| r.container == i.container));
        if images == known.images {
            let ours = known.upgrade.as_deref() == Some(&approved);
            return ours.then_some(Update { about, entry: None });
        }
        let since = Time(jiff::Timestamp::now());
        let entry = LedgerEntry { images, upgrade: Some(approved), since, ..known.clone() };
        Some(Update { about, entry: Some(entry) })
    })
}

/// Looks at the live workload of this kind and name.
fn look<T>(
    context: &Context,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
    at: impl FnOnce(&Seen<'_>) -> Option<T>,
) -> Option<T> {
    match kind {
        WorkloadKind::Deployment => {
            let d = context.deployments.get(&ObjectRef::new(name).within(namespace))?;
            at(&Seen::deployment(&d))
        }
        WorkloadKind::StatefulSet => {
            let d = context.stateful_sets.get(&ObjectRef::new(name).within(namespace))?;
            let (template, selector) = d.spec.as_ref().map(|s| (&s.template, &s.selector)).unzip();
            at(&Seen { kind, meta: &d.metadata, template, selector })
        }
        WorkloadKind::DaemonSet => {
            let d = context.daemon_sets.get(&ObjectRef::new(name).within(namespace))?;
            let (template, selector) = d.spec.as_ref().map(|s| (&s.template, &s.selector)).unzip();
            at(&Seen { kind, meta: &d.metadata, template, selector })
        }
        WorkloadKind::CronJob => {
            let d = context.cron_jobs.get(&ObjectRef::new(name).within(namespace))?;
            let template = d.spec.job_template.spec.as_ref().map(|s| &s.template);
            at(&Seen { kind, meta: &d.metadata, template, selector: None })
        }
        // What nobody governs by its own name.
        _ => None,
    }
}

/// Whether anything in the namespace still carries the label of a BreakGlass.
pub fn carries_break_glass(context: &Context, namespace: &str) -> bool {
    fn any<K: Resource<DynamicType = ()> + Clone>(objects: &[Arc<K>], namespace: &str) -> bool {
        objects.iter().any(|o| {
            o.namespace().as_deref() == Some(namespace)
                && o.labels().contains_key(BREAK_GLASS_LABEL)
        })
    }
    any(&context.deployments.state(), namespace)
        || any(&context.stateful_sets.state(), namespace)
        || any(&context.daemon_sets.state(), namespace)
        || any(&context.cron_jobs.state(), namespace)
}

/// Adds or replaces entries. The list is read live: what we apply is all that we own.
async fn append(
    context: &Context,
    namespace: &str,
    new: Vec<LedgerEntry>,
) -> Result<(), kube::Error> {
    let api: Api<UpgradeLedger> = Api::namespaced(context.client.clone(), namespace);
    let found = api.get_opt(LEDGER_NAME).await?;
    let version = found.as_ref().and_then(ResourceExt::resource_version);
    let mut entries = found.map(|l| l.spec.entries).unwrap_or_default();
    let before = entries.clone();
    for entry in new {
        match entries.iter_mut().find(|e| e.kind == entry.kind && e.name == entry.name) {
            // Seeding never changes what was approved; only an Upgrade does, or an exception.
            Some(_) if entry.upgrade.is_none() => {}
            Some(old) if old.images == entry.images => {}
            // The labels stay those that it was first seen with.
            Some(old) => {
                let labels = std::mem::take(&mut old.labels);
                *old = LedgerEntry { labels, ..entry };
            }
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

fn images(pod: &PodSpec) -> Vec<ContainerImage> {
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    let mut all: Vec<_> = containers
        .map(|c| ContainerImage {
            container: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
        })
        .collect();
    let volumes = pod.volumes.iter().flatten();
    all.extend(volumes.filter_map(|v| {
        let image = match &v.image {
            Some(image) => image.reference.clone()?,
            None => of_driver(v)?.clone(),
        };
        Some(ContainerImage { container: volume(&v.name), image })
    }));
    all
}

/// The image that a volume's CSI driver is told to mount.
pub(super) fn of_driver(volume: &Volume) -> Option<&String> {
    volume.csi.as_ref()?.volume_attributes.as_ref()?.get("image")
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
