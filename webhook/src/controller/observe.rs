//! Observe: everything a round is decided on, from the stores.

use super::watches::Context;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use upgrade_core::api::{FINALIZER, Phase, Upgrade, UpgradeApproval, WorkloadKind};
use upgrade_core::engine::observed::{Observed, Rival, Workload};
use upgrade_core::engine::plan::Plan;
use upgrade_core::policy::snapshot::{NamespaceView, targets};

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
    upgrade: &Upgrade,
    plan: &Plan,
) -> Result<Observed, NotYet> {
    let namespace = upgrade.namespace().unwrap_or_default();
    let local = context.local(&namespace).await;
    let (sets, pods) = (local.sets.state(), local.pods.state());
    let sets: Vec<_> = sets.iter().map(AsRef::as_ref).collect();
    let pods: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    let snapshot = context.snapshot.load();
    let view =
        snapshot.namespace(&namespace).filter(|_| snapshot.synced()).ok_or(NotYet::Unsynced)?;
    let mut workloads = Vec::with_capacity(plan.stages.len());
    let mut required = 0;
    for stage in &plan.stages {
        let mut row = Vec::with_capacity(stage.targets.len());
        for target in &stage.targets {
            let found = context.deployments.get(&ObjectRef::new(&target.name).within(&namespace));
            let empty = BTreeMap::new();
            let labels = found.as_ref().map_or(&empty, |d| d.labels());
            required = required.max(required_approvals(view, target.kind, &target.name, labels));
            if let Some(deployment) = &found {
                check_fresh(context, deployment.as_ref())?;
            }
            row.push(found.map(|d| Workload::new(&d, &sets, &pods)));
        }
        workloads.push(row);
    }
    // Only before it starts do approvals and rivals matter; looking at all others is dear.
    let before = upgrade.status.as_ref();
    let gated = before.is_none_or(|s| {
        let waits = matches!(s.phase, Phase::Pending | Phase::AwaitingApproval);
        waits || plan.retry > s.attempt
    });
    let finalizers = upgrade.finalizers();
    Ok(Observed {
        generation: upgrade.metadata.generation.unwrap_or(0),
        created: upgrade.creation_timestamp().map(|t| t.0),
        deleting: upgrade.metadata.deletion_timestamp.is_some(),
        held: finalizers.iter().any(|f| f == FINALIZER),
        approvals: if gated { approvals(context, upgrade) } else { vec![] },
        required_approvals: required,
        workloads,
        rival: if gated { rival(context, upgrade) } else { None },
    })
}

/// How many approvals the policies that govern a workload ask for, the strictest of them.
fn required_approvals(
    view: &NamespaceView,
    kind: WorkloadKind,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> i32 {
    if !view.governed() {
        return 0;
    }
    view.governing(kind, name, labels).map(|p| p.spec.approvals.required).max().unwrap_or(0)
}

/// Approvals and rejections that name this Upgrade and no namesake.
fn approvals(context: &Context, upgrade: &Upgrade) -> Vec<UpgradeApproval> {
    let (namespace, name, uid) = (upgrade.namespace(), upgrade.name_any(), upgrade.uid());
    let all = context.approvals.state();
    let ours = all.iter().filter(|a| {
        a.namespace() == namespace && a.spec.upgrade == name && a.spec.upgrade_uid == uid
    });
    ours.map(|a| a.as_ref().clone()).collect()
}

/// An object that is older than what we wrote ourselves is no ground for a decision.
///
/// Resource versions of one resource can be compared as numbers (KEP-5504).
fn check_fresh<K: Resource<DynamicType = ()>>(context: &Context, object: &K) -> Result<(), NotYet> {
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
