//! Apply: performs effects in order. Each is safe to repeat; the first failure ends the round, and
//! the next round decides anew on what runs then.

use super::watches::Context;
use super::{ledger, notify, objects, questions, status};
use jiff::Timestamp;
use json_patch::Patch as JsonPatch;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::events::{Event as KubeEvent, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::{info, warn};
use upgrade_core::api::{FIELD_MANAGER, FINALIZER, IN_FLIGHT_LABEL, Upgrade, WorkloadKind};
use upgrade_core::engine::effect::{Effect, Event, PodDelete, WorkloadPatch};

/// Why an effect could not be performed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or could not be reached.
    #[error("{what}: {}", super::terse(source))]
    Api {
        /// What was tried.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// An operation of ours is no JSON patch: a bug.
    #[error("malformed patch: {0}")]
    Patch(#[from] serde_json::Error),
}

impl ApplyError {
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// Somebody else wrote in between: not a failure, only a reason to look again.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(s) => {
                    s.is_conflict()
                        || s.is_already_exists()
                        || s.is_not_found()
                        || is_failed_test(s)
                }
                _ => false,
            },
            Self::Patch(_) => false,
        }
    }
}

/// A JSON patch whose `test` failed is answered with 422 and nothing more; an object that would be
/// invalid is named in the details (seen on 1.36.3).
fn is_failed_test(status: &kube::core::Status) -> bool {
    let named = status.details.as_ref().is_some_and(|d| !d.kind.is_empty() || !d.causes.is_empty());
    status.code == 422 && !named
}

/// Performs the effects; returns when to look again.
pub async fn perform(
    context: &Context,
    upgrade: &Arc<Upgrade>,
    effects: Vec<Effect>,
) -> Result<Option<Timestamp>, ApplyError> {
    let namespace = upgrade.namespace().unwrap_or_default();
    let (mut again, mut asks) = (None, Vec::new());
    let mut records: Vec<_> = effects.iter().filter_map(Effect::recorded).collect();
    for effect in effects {
        match effect {
            Effect::Patch(patch) => patch_workload(context, &namespace, patch).await?,
            Effect::DeletePod(pod) => delete_pod(context, &namespace, pod).await?,
            Effect::Release { kind, name, uid, held } => {
                release(context, upgrade, kind, &name, &uid, held).await?;
            }
            Effect::Record { .. } => {
                // One write for all of them, at the first.
                let names = std::mem::take(&mut records);
                if !names.is_empty() {
                    ledger::record(context, &namespace, &names, &upgrade.name_any())
                        .await
                        .map_err(ApplyError::api("ledger"))?;
                }
            }
            Effect::Event(event) => publish(context, upgrade, event).await,
            Effect::Announce { receivers } => {
                let next = notify::announce(context, upgrade, &receivers).await;
                if let Some((at, failed)) = next {
                    again = Some(again.map_or(at, |a: Timestamp| a.min(at)));
                    for note in failed {
                        let event = Event { warning: true, reason: "NotToldYet", note };
                        publish(context, upgrade, event).await;
                    }
                }
            }
            Effect::Abort { name } => abort(context, upgrade, &name).await?,
            Effect::Hold => set_finalizer(context, upgrade, true).await?,
            Effect::LetGo => set_finalizer(context, upgrade, false).await?,
            Effect::Watch(look) => objects::watch(context, upgrade, look),
            Effect::Ask { key, question } => asks.push((key, question)),
            Effect::Write(write) => objects::write(context, &namespace, write).await?,
            Effect::RequeueAt(at) => again = Some(again.map_or(at, |a: Timestamp| a.min(at))),
        }
    }
    questions::ask(context, upgrade, asks);
    Ok(again)
}

async fn patch_workload(
    context: &Context,
    namespace: &str,
    patch: WorkloadPatch,
) -> Result<(), ApplyError> {
    let api = workloads(&context.client, namespace, patch.kind);
    let what = format!("{}/{}: {}", patch.kind.resource(), patch.name, patch.why);
    let mut operations = patch.operations;
    if let Some(set) = &patch.template {
        let template =
            template(context, namespace, set).await.map_err(ApplyError::api(what.clone()))?;
        // The test of the resource version stays the first.
        operations.push(json!({"op": "add", "path": "/spec/template", "value": template}));
    }
    let body: JsonPatch = serde_json::from_value(Value::Array(operations))?;
    let written = api
        .patch(&patch.name, &params(), &Patch::<()>::Json(body))
        .await
        .map_err(ApplyError::api(what.clone()))?;
    context.note(&written);
    info!(namespace, "{what}");
    Ok(())
}

/// Workloads of a kind that an Upgrade may be about.
fn workloads(client: &Client, namespace: &str, kind: WorkloadKind) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("apps", "v1", kind.as_str());
    let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural());
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Deletes a pod that is as it was looked at; the controller that owns it makes another. Deleted
/// and not evicted, as the native controllers of these kinds do it: their own budgets count.
async fn delete_pod(context: &Context, namespace: &str, pod: PodDelete) -> Result<(), ApplyError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let what = format!("pod/{}: {}", pod.name, pod.why);
    let preconditions =
        Preconditions { uid: Some(pod.uid.clone()), resource_version: Some(pod.resource_version) };
    let params = DeleteParams::default().preconditions(preconditions);
    let deleted = api.delete(&pod.name, &params).await.map_err(ApplyError::api(what.clone()))?;
    // One that takes its time to go is seen going; another one is gone.
    match deleted.left().filter(|going| going.metadata.deletion_timestamp.is_some()) {
        Some(going) => context.note(&going),
        None => context.note_gone(&pod.uid),
    }
    info!(namespace, "{what}");
    Ok(())
}

/// The pod template of a ReplicaSet as its Deployment had it. The API server leaves all but the
/// hash label as it was, so that the Deployment controller finds the same ReplicaSet again.
pub async fn template(
    context: &Context,
    namespace: &str,
    set: &str,
) -> Result<PodTemplateSpec, kube::Error> {
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), namespace);
    let found = api.get(set).await?;
    let mut template = found.spec.and_then(|s| s.template).unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove("pod-template-hash");
    }
    Ok(template)
}

/// The one metadata write at the end: our label and our managedFields entries go, whatever else
/// there is stays. Read live, for entries of others must not be lost.
async fn release(
    context: &Context,
    upgrade: &Upgrade,
    kind: WorkloadKind,
    name: &str,
    uid: &str,
    held: bool,
) -> Result<(), ApplyError> {
    let namespace = upgrade.namespace().unwrap_or_default();
    let api = workloads(&context.client, &namespace, kind);
    let what = format!("{}/{name}: take our marks off", kind.resource());
    let Some(found) = api.get_opt(name).await.map_err(ApplyError::api(what.clone()))? else {
        return Ok(());
    };
    let label = found.labels().get(IN_FLIGHT_LABEL);
    // Another object by now, or another Upgrade's already: a leader of yesterday takes nothing off.
    let others_now = label.is_some_and(|l| *l != upgrade.name_any());
    if found.uid().as_deref() != Some(uid) || others_now {
        return Ok(());
    }
    let others: Vec<_> = found
        .managed_fields()
        .iter()
        .filter(|f| f.manager.as_deref() != Some(FIELD_MANAGER))
        .cloned()
        .collect();
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": found.resource_version()}),
        json!({"op": "add", "path": "/metadata/managedFields", "value": others}),
    ];
    if label.is_some() && !held {
        let path = if found.labels().len() == 1 {
            "/metadata/labels".to_owned()
        } else {
            format!("/metadata/labels/{}", IN_FLIGHT_LABEL.replace('/', "~1"))
        };
        operations.push(json!({"op": "remove", "path": path}));
    }
    let body: JsonPatch = serde_json::from_value(Value::Array(operations))?;
    let written = api
        .patch(name, &params(), &Patch::<()>::Json(body))
        .await
        .map_err(ApplyError::api(what))?;
    context.note(&written);
    Ok(())
}

pub fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

async fn set_finalizer(
    context: &Context,
    upgrade: &Arc<Upgrade>,
    on: bool,
) -> Result<(), ApplyError> {
    let namespace = upgrade.namespace().unwrap_or_default();
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    let mut finalizers: Vec<String> =
        upgrade.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    if on {
        finalizers.push(FINALIZER.to_owned());
    }
    let body = json!({"metadata": {"resourceVersion": upgrade.resource_version(), "finalizers": finalizers}});
    let written = api
        .patch(&upgrade.name_any(), &params(), &Patch::Merge(&body))
        .await
        .map_err(ApplyError::api("finalizer"))?;
    status::remember(context, &Arc::new(written));
    Ok(())
}

/// Orders another Upgrade to be taken back; one that is gone needs no order.
async fn abort(context: &Context, upgrade: &Upgrade, other: &str) -> Result<(), ApplyError> {
    let namespace = upgrade.namespace().unwrap_or_default();
    let reference = ObjectRef::new(other).within(&namespace);
    let Some(live) = context.upgrades.get(&reference) else { return Ok(()) };
    if live.spec.control.as_ref().is_some_and(|c| c.abort) {
        return Ok(());
    }
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({"spec": {"control": {"abort": true}}});
    let written = api.patch(other, &params(), &Patch::Merge(&body)).await;
    written.map_err(ApplyError::api(format!("abort Upgrade {other}")))?;
    let note = format!("Upgrade {} supersedes it", upgrade.name_any());
    let event = Event { warning: true, reason: "Superseded", note };
    publish(context, &live, event).await;
    Ok(())
}

/// Events are for people; that one was lost is no reason to stop an upgrade.
async fn publish(context: &Context, upgrade: &Upgrade, event: Event) {
    let type_ = if event.warning { EventType::Warning } else { EventType::Normal };
    let note: String = event.note.chars().take(1000).collect();
    let event = KubeEvent {
        type_,
        reason: event.reason.to_owned(),
        // The recorder folds events that differ only in their note into one.
        action: note.chars().take(128).collect(),
        note: Some(note),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &upgrade.object_ref(&())).await {
        warn!(%error, "an event was lost");
    }
}
