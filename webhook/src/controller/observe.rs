//! Observe: everything a round is decided on, from the stores.

use super::live::Wishes;
use super::watches::{Context, Local};
use kube::core::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use upgrade_core::api::{FINALIZER, Phase, Upgrade, WorkloadKind};
use upgrade_core::engine::governance::Door;
use upgrade_core::engine::objects::Sight;
use upgrade_core::engine::observed::{Observed, Rival, Workload};
use upgrade_core::engine::plan::Plan;
use upgrade_core::policy::Snapshot;
use upgrade_core::policy::governance::governance;
use upgrade_core::policy::snapshot::{Labels, targets};

/// Why a round cannot be decided yet; the watch that is missing wakes it up again.
#[derive(Debug, thiserror::Error)]
pub enum NotYet {
    /// The store is older than our own last write.
    #[error("the watch of {0} is behind our last write")]
    Behind(String),
    /// Policies or namespaces have not been listed.
    #[error("policies and namespaces have not been listed yet")]
    Unsynced,
}

/// What a round is decided on.
pub async fn observe(
    context: &Context,
    wishes: &Wishes,
    upgrade: &Upgrade,
    plan: &Plan,
) -> Result<Observed, NotYet> {
    let snapshot = wishes.snapshot.as_ref();
    let namespace = upgrade.namespace().unwrap_or_default();
    let local = context.local(&namespace).await;
    let view =
        snapshot.namespace(&namespace).filter(|_| snapshot.synced()).ok_or(NotYet::Unsynced)?;
    let workloads = workloads(context, &namespace, &local, plan).await?;
    let labels = |kind: WorkloadKind, name: &str| labels(context, &namespace, kind, name);
    let mut governance = governance(snapshot, view, upgrade, labels, crate::clock::now());
    if let Some(notice) = &mut governance.notice {
        notice.told = context.told.of(upgrade, &plan.hash);
    }
    // Only before it starts do rivals matter; looking at all others is dear.
    let before = upgrade.status.as_ref();
    let gated = before.is_none_or(|s| {
        let waits = matches!(s.phase, Phase::Pending | Phase::AwaitingApproval);
        waits || plan.retry > s.attempt
    });
    let stage = before.map_or(0, |s| usize::try_from(s.current_stage_index).unwrap_or(0));
    let begun = before.and_then(|s| s.stages.get(stage));
    let at_stage = begun.is_none_or(|s| s.targets.iter().all(|t| t.requested_weight == 0));
    governance.unjudged = !(gated || at_stage);
    if !governance.unjudged {
        let first = if gated { 0 } else { stage };
        governance.compatibility = compatibility(context, snapshot, upgrade, first).await;
    }
    let look_again = governance.compatibility.is_shut().then(|| crate::clock::now() + LOOK_AGAIN);
    let finalizers = upgrade.finalizers();
    let uid = upgrade.uid().unwrap_or_default();
    let objects = context.watched.of(&uid);
    for object in objects.values().flat_map(seen) {
        check_fresh(context, object)?;
    }
    Ok(Observed {
        generation: upgrade.metadata.generation.unwrap_or(0),
        created: upgrade.creation_timestamp().map(|t| t.0),
        deleting: upgrade.metadata.deletion_timestamp.is_some(),
        held: finalizers.iter().any(|f| f == FINALIZER),
        approvals: wishes.approvals.clone(),
        governance,
        objects,
        answers: context.asked.answers(&uid),
        look_again,
        workloads,
        rival: if gated { rival(context, upgrade) } else { None },
    })
}

/// The workloads of a plan as they are now.
async fn workloads(
    context: &Context,
    namespace: &str,
    local: &Local,
    plan: &Plan,
) -> Result<Vec<Vec<Option<Workload>>>, NotYet> {
    let (sets, revisions, pods) = (local.sets.state(), local.revisions.state(), local.pods.state());
    for pod in &pods {
        check_fresh(context, pod.as_ref())?;
    }
    let sets: Vec<_> = sets.iter().map(AsRef::as_ref).collect();
    let revisions: Vec<_> = revisions.iter().map(AsRef::as_ref).collect();
    let pods: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    let mut workloads = Vec::with_capacity(plan.stages.len());
    for stage in &plan.stages {
        let mut row = Vec::with_capacity(stage.targets().len());
        for target in stage.targets() {
            let name = &target.name;
            let mut found = match target.kind {
                WorkloadKind::StatefulSet => {
                    fresh(context, &context.stateful_sets, namespace, name)?
                        .map(|s| Workload::stateful_set(&s, &revisions, &pods))
                }
                WorkloadKind::DaemonSet => fresh(context, &context.daemon_sets, namespace, name)?
                    .map(|s| Workload::daemon_set(&s, &revisions, &pods)),
                _ => fresh(context, &context.deployments, namespace, name)?
                    .map(|d| Workload::new(&d, &sets, &pods)),
            };
            let first = stage.workloads().map(|w| &w.canary_nodes).filter(|n| !n.is_empty());
            if let (Some(labels), Some(workload)) = (first, &mut found) {
                prefer(context, labels, workload).await;
            }
            row.push(found);
        }
        workloads.push(row);
    }
    Ok(workloads)
}

/// A workload of a store, if the store is not behind our own last write to it.
fn fresh<K>(
    context: &Context,
    store: &Store<K>,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<K>>, NotYet>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let found = store.get(&ObjectRef::new(name).within(namespace));
    if let Some(object) = &found {
        check_fresh(context, object.as_ref())?;
    }
    Ok(found)
}

/// Marks the pods on nodes that the canary takes first.
async fn prefer(context: &Context, wanted: &BTreeMap<String, String>, workload: &mut Workload) {
    let nodes = context.nodes().await;
    for pod in &mut workload.pods {
        let node = pod.node.as_ref().and_then(|n| nodes.get(&ObjectRef::new(n)));
        pod.preferred =
            node.is_some_and(|n| wanted.iter().all(|(k, v)| n.labels().get(k) == Some(v)));
    }
}

/// Labels of a workload that an Upgrade may be about.
fn labels(context: &Context, namespace: &str, kind: WorkloadKind, name: &str) -> Option<Labels> {
    match kind {
        WorkloadKind::StatefulSet => labels_in(&context.stateful_sets, namespace, name),
        WorkloadKind::DaemonSet => labels_in(&context.daemon_sets, namespace, name),
        _ => labels_in(&context.deployments, namespace, name),
    }
}

fn labels_in<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Labels>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(namespace)).map(|o| o.labels().clone())
}

/// What a sight shows.
fn seen(sight: &Sight) -> impl Iterator<Item = &DynamicObject> {
    let objects = if let Sight::Seen(objects) = sight { objects.as_slice() } else { &[] };
    objects.iter().map(AsRef::as_ref)
}

/// How long until what runs is read again for a matrix that is in the way: no watch tells of
/// everything that a matrix can name.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What matrices say of the stages from `first` on, against what runs now.
async fn compatibility(
    context: &Context,
    snapshot: &Snapshot,
    upgrade: &Upgrade,
    first: usize,
) -> Door {
    let namespace = upgrade.namespace().unwrap_or_default();
    let stages = upgrade.spec.stages.get(first..).unwrap_or_default();
    let labels = |kind: WorkloadKind, name: &str| labels(context, &namespace, kind, name);
    crate::facts::judge(&context.client, snapshot, &namespace, stages, labels).await
}

/// An object that is older than what we wrote ourselves is no ground for a decision.
///
/// Resource versions of one resource can be compared as numbers (KEP-5504).
fn check_fresh<K: Resource>(context: &Context, object: &K) -> Result<(), NotYet> {
    let written = context.written.lock().unwrap_or_else(PoisonError::into_inner);
    let known = object.uid().and_then(|uid| written.get(&uid).copied()).unwrap_or(0);
    if version(object) < known {
        return Err(NotYet::Behind(object.name_any()));
    }
    Ok(())
}

/// The resource version as a number.
pub fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// An older Upgrade, or one already in flight, that wants one of the same workloads.
fn rival(context: &Context, upgrade: &Upgrade) -> Option<Rival> {
    let mine: Vec<_> = targets(upgrade).map(|t| (t.kind, t.name.as_str())).collect();
    let all = context.upgrades.state();
    let mut others = all.iter().filter(|o| {
        o.namespace() == upgrade.namespace() && o.uid() != upgrade.uid() && comes_first(o, upgrade)
    });
    others.find_map(|other| {
        let shared = targets(other).find(|t| mine.contains(&(t.kind, t.name.as_str())))?;
        let workload = format!("{}/{}", shared.kind.resource(), shared.name);
        Some(Rival { name: other.name_any(), workload })
    })
}

fn comes_first(other: &Upgrade, upgrade: &Upgrade) -> bool {
    let phase = |u: &Upgrade| u.status.as_ref().map_or(Phase::Pending, |s| s.phase);
    if phase(other).is_terminal() {
        return false;
    }
    let age = |u: &Upgrade| (u.creation_timestamp().map(|t| t.0), u.uid());
    phase(other).is_in_flight() || age(other) < age(upgrade)
}
