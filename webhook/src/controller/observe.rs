//! Observe: everything a round is decided on, from the stores.

use super::watches::Context;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::sync::PoisonError;
use std::time::Duration;
use upgrade_core::api::{FINALIZER, Phase, Upgrade, UpgradeApproval, WorkloadKind};
use upgrade_core::engine::governance::Door;
use upgrade_core::engine::observed::{Observed, Rival, Workload};
use upgrade_core::engine::plan::Plan;
use upgrade_core::policy::Snapshot;
use upgrade_core::policy::governance::governance;
use upgrade_core::policy::snapshot::targets;

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
    for stage in &plan.stages {
        let mut row = Vec::with_capacity(stage.targets.len());
        for target in &stage.targets {
            let found = context.deployments.get(&ObjectRef::new(&target.name).within(&namespace));
            if let Some(deployment) = &found {
                check_fresh(context, deployment.as_ref())?;
            }
            row.push(found.map(|d| Workload::new(&d, &sets, &pods)));
        }
        workloads.push(row);
    }
    let labels = |_: WorkloadKind, name: &str| {
        let found = context.deployments.get(&ObjectRef::new(name).within(&namespace));
        found.map(|d| d.labels().clone())
    };
    let mut governance = governance(&snapshot, view, upgrade, labels, crate::clock::now());
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
        governance.compatibility = compatibility(context, &snapshot, upgrade, first).await;
    }
    let look_again = governance.compatibility.is_shut().then(|| crate::clock::now() + LOOK_AGAIN);
    let finalizers = upgrade.finalizers();
    Ok(Observed {
        generation: upgrade.metadata.generation.unwrap_or(0),
        created: upgrade.creation_timestamp().map(|t| t.0),
        deleting: upgrade.metadata.deletion_timestamp.is_some(),
        held: finalizers.iter().any(|f| f == FINALIZER),
        approvals: approvals(context, upgrade),
        governance,
        look_again,
        workloads,
        rival: if gated { rival(context, upgrade) } else { None },
    })
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
    let labels = |_: WorkloadKind, name: &str| {
        let found = context.deployments.get(&ObjectRef::new(name).within(&namespace));
        found.map(|d| d.labels().clone())
    };
    crate::facts::judge(&context.client, snapshot, &namespace, stages, labels).await
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
