//! Deployments that mode `Hold` holds: each gets the Upgrade that its label names, and at 0
//! replicas its old template back.
//!
//! A held Deployment always has an Upgrade: one that is deleted is opened anew, and needs approvals
//! of its own. One that ended stays ended; `kubectl upgrade retry` goes on with it.

use super::apply::{params, template};
use super::watches::Context;
use json_patch::Patch as JsonPatch;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::{Api, ListParams, Patch, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};
use upgrade_core::api::{
    FIELD_MANAGER, HELD_ANNOTATION, Held, IN_FLIGHT_LABEL, LedgerEntry, Upgrade, WorkloadKind,
};
use upgrade_core::engine::observed::Workload;
use upgrade_core::policy::hold;
use upgrade_core::policy::snapshot::targets;

/// Events that come together share one pass.
const PAUSE: Duration = Duration::from_millis(50);
/// Time before a refused try is made again; it doubles up to [`LONGEST`].
const RETRY: Duration = Duration::from_secs(2);
/// Longest time between tries.
const LONGEST: Duration = Duration::from_mins(5);

/// Tries that failed, by uid and name of the Upgrade.
type Failures = HashMap<(String, String), (Instant, Duration)>;

/// Why a held Deployment is not as it should be.
#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error("{}", super::terse(.0))]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Cannot(String),
    #[error("malformed patch: {0}")]
    Patch(#[from] serde_json::Error),
}

/// Looks after held Deployments.
pub async fn run(context: Arc<Context>) {
    context.ready().await;
    let mut policies = context.snapshot.subscribe();
    let mut failures = Failures::new();
    loop {
        let again = pass(&context, &mut failures).await;
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = context.held.notified() => {}
            () = tokio::time::sleep(again.unwrap_or(LONGEST)) => {}
            changed = policies.changed(), if again.is_some() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// One look at all of them; returns when to look again where one failed.
async fn pass(context: &Context, failures: &mut Failures) -> Option<Duration> {
    let mut again: Option<Duration> = None;
    let mut failed = Failures::new();
    for deployment in context.deployments.state() {
        let Some((upgrade, held)) = held(&deployment) else { continue };
        let key = (deployment.uid().unwrap_or_default(), upgrade.to_owned());
        let before = failures.get(&key).copied();
        if let Some((next, wait)) = before
            && let Some(left) = next.checked_duration_since(Instant::now())
        {
            failed.insert(key, (next, wait));
            again = Some(again.map_or(left, |a| a.min(left)));
            continue;
        }
        let Err(error) = look_after(context, &deployment, upgrade, &held).await else { continue };
        let wait = before.map_or(RETRY, |(_, wait)| (wait * 2).min(LONGEST));
        failed.insert(key, (Instant::now() + wait, wait));
        again = Some(again.map_or(wait, |a| a.min(wait)));
        tell(context, &deployment, upgrade, &error).await;
    }
    *failures = failed;
    again
}

/// The Upgrade's name and the stamp of a held Deployment.
fn held(deployment: &Deployment) -> Option<(&str, Held)> {
    let upgrade = deployment.labels().get(IN_FLIGHT_LABEL)?;
    let held = Held::read(deployment.annotations().get(HELD_ANNOTATION)?)?;
    deployment.metadata.deletion_timestamp.is_none().then_some((upgrade, held))
}

async fn look_after(
    context: &Context,
    deployment: &Deployment,
    upgrade: &str,
    held: &Held,
) -> Result<(), HoldError> {
    let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
    let snapshot = context.snapshot.load();
    let view = snapshot.namespace(&namespace).filter(|_| snapshot.synced());
    let view = view.ok_or_else(|| HoldError::Cannot("policies are not listed yet".to_owned()))?;
    let entry = view.entry(WorkloadKind::Deployment, &name);
    let entry = entry.ok_or_else(|| {
        HoldError::Cannot("the ledger does not know what it is approved to run".to_owned())
    })?;
    let workload = Workload::new(deployment, &[], &[]);
    let images: Vec<_> =
        workload.containers.iter().map(|c| (c.name.clone(), c.image.clone())).collect();
    let policy = view.policy(WorkloadKind::Deployment, &name, deployment.labels());
    let opened = policy.and_then(|p| hold::upgrade(p, entry, upgrade, held, &images));
    // At 0 replicas nobody can tell which template serves: the approved one comes back at once.
    if workload.replicas == 0 || runs(&images, entry) {
        return put_back(context, deployment, entry, held).await;
    }
    let reference = ObjectRef::new(upgrade).within(&namespace);
    if let Some(found) = context.upgrades.get(&reference) {
        let ours = found.spec.held && targets(&found).any(|t| t.name == name);
        let why = || format!("there is another Upgrade of the name {upgrade}: delete it");
        return if ours { Ok(()) } else { Err(HoldError::Cannot(why())) };
    }
    if superseded(context, &namespace, &name, upgrade) {
        debug!(namespace, name, "waits for the Upgrade of an earlier change to end");
        return Ok(());
    }
    let opened = opened.ok_or_else(|| HoldError::Cannot("no policy governs it now".to_owned()))?;
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    match api.create(&PostParams::default(), &opened).await {
        Ok(_) => info!(namespace, name, upgrade, "opened for a held Deployment"),
        // The watch is behind.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn runs(images: &[(String, String)], entry: &LedgerEntry) -> bool {
    images.iter().all(|(container, image)| {
        let approved = entry.images.iter().find(|e| e.container == *container);
        approved.is_some_and(|e| upgrade_core::image::same(&e.image, image))
    })
}

/// An Upgrade that Hold opened for an earlier change is not over yet; its end wakes us up.
fn superseded(context: &Context, namespace: &str, name: &str, upgrade: &str) -> bool {
    context.upgrades.state().iter().any(|u| {
        u.namespace().as_deref() == Some(namespace)
            && u.name_any() != upgrade
            && u.spec.held
            && u.status.as_ref().is_none_or(|s| !s.phase.is_terminal())
            && targets(u).any(|t| t.name == name)
    })
}

/// The approved template again, and our marks off: one write of the spec, one of metadata.
async fn put_back(
    context: &Context,
    deployment: &Deployment,
    entry: &LedgerEntry,
    held: &Held,
) -> Result<(), HoldError> {
    let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &namespace);
    let mut live = api.get(&name).await?;
    if live.uid() != deployment.uid() || self::held(&live).is_none() {
        return Ok(());
    }
    let now = Workload::new(&live, &[], &[]);
    let images: Vec<_> = now.containers.iter().map(|c| (c.name.clone(), c.image.clone())).collect();
    if now.replicas > 0 && !runs(&images, entry) {
        return Ok(());
    }
    let mut operations = vec![test(&live)];
    if !runs(&images, entry) {
        match approved_template(context, &live, entry).await? {
            Some(template) => operations.push(add("/spec/template", &json!(template))),
            None => operations.extend(now.containers.iter().filter_map(|c| {
                let image = &entry.images.iter().find(|e| e.container == c.name)?.image;
                Some(add(&format!("{}/image", c.pointer), &json!(image)))
            })),
        }
    }
    operations.push(add("/spec/paused", &json!(held.paused)));
    live = patch(context, &api, &name, operations).await?;
    info!(namespace, name, "held and scaled to 0: the approved template is back");
    let others: Vec<_> = live
        .managed_fields()
        .iter()
        .filter(|f| f.manager.as_deref() != Some(FIELD_MANAGER))
        .collect();
    let operations = vec![
        test(&live),
        add("/metadata/managedFields", &json!(others)),
        gone("labels", IN_FLIGHT_LABEL),
        gone("annotations", HELD_ANNOTATION),
    ];
    patch(context, &api, &name, operations).await.map(drop)
}

/// The latest template of the approved images, where a ReplicaSet of it is left.
async fn approved_template(
    context: &Context,
    live: &Deployment,
    entry: &LedgerEntry,
) -> Result<Option<PodTemplateSpec>, HoldError> {
    let namespace = live.namespace().unwrap_or_default();
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &namespace);
    let all = api.list(&ListParams::default()).await?.items;
    let all: Vec<_> = all.iter().collect();
    let sets = Workload::new(live, &all, &[]).replica_sets;
    let best = sets.iter().filter(|s| runs(&s.images, entry)).max_by_key(|s| s.revision);
    Ok(match best {
        Some(set) => Some(template(context, &namespace, &set.name).await?),
        None => None,
    })
}

async fn patch(
    context: &Context,
    api: &Api<Deployment>,
    name: &str,
    operations: Vec<Value>,
) -> Result<Deployment, HoldError> {
    let body: JsonPatch = serde_json::from_value(Value::Array(operations))?;
    let written = api.patch(name, &params(), &Patch::<()>::Json(body)).await?;
    context.note(&written);
    Ok(written)
}

fn test(live: &Deployment) -> Value {
    json!({"op": "test", "path": "/metadata/resourceVersion", "value": live.resource_version()})
}

fn add(path: &str, value: &Value) -> Value {
    upgrade_core::engine::effect::set(path, value)
}

fn gone(map: &str, key: &str) -> Value {
    json!({"op": "remove", "path": format!("/metadata/{map}/{}", key.replace('/', "~1"))})
}

/// Says on the Deployment why it is held without an Upgrade.
async fn tell(context: &Context, deployment: &Deployment, upgrade: &str, error: &HoldError) {
    let namespace = deployment.namespace().unwrap_or_default();
    let name = deployment.name_any();
    warn!(namespace, name, upgrade, %error, "a held Deployment waits");
    let note: String = format!(
        "held, and Upgrade {upgrade} is not opened: {error}; write the old images to take the \
         change back"
    );
    let event = Event {
        type_: EventType::Warning,
        reason: "HeldWithoutUpgrade".to_owned(),
        action: note.chars().take(128).collect(),
        note: Some(note.chars().take(1000).collect()),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &deployment.object_ref(&())).await {
        warn!(%error, "an event was lost");
    }
}
