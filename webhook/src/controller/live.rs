//! What people want: as watches have told of it, or read live before a gate is passed. Watches of
//! different kinds may be ahead of one another, so an Upgrade can be seen before the freeze that was
//! there first.

use super::watches::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::sync::Arc;
use upgrade_core::api::{
    CompatibilityMatrix, MaintenanceWindow, Upgrade, UpgradeApproval, UpgradePolicy,
};
use upgrade_core::policy::Snapshot;
use upgrade_core::policy::snapshot::NamespaceView;

/// Policies, windows, matrices, and what was said of one Upgrade.
pub struct Wishes {
    /// Policies, windows and matrices.
    pub snapshot: Arc<Snapshot>,
    /// Approvals and rejections that name this Upgrade and no namesake.
    pub approvals: Vec<UpgradeApproval>,
}

impl Wishes {
    /// As the watches have told of it.
    pub fn known(context: &Context, upgrade: &Upgrade) -> Self {
        let all = context.approvals.state();
        let ours = all.iter().filter(|a| is_about(a, upgrade));
        Self {
            snapshot: context.snapshot.load(),
            approvals: ours.map(|a| a.as_ref().clone()).collect(),
        }
    }

    /// The same with what the API server knows now laid over it. What is gone by now may stay shut
    /// until its watch says so.
    pub async fn live(self, context: &Context, upgrade: &Upgrade) -> kube::Result<Self> {
        let (client, name) = (&context.client, upgrade.namespace().unwrap_or_default());
        let mut snapshot = Snapshot::clone(&self.snapshot);
        let (namespaces, approvals) = (
            Api::<Namespace>::all(client.clone()),
            Api::<UpgradeApproval>::namespaced(client.clone(), &name),
        );
        let all = ListParams::default();
        let (namespace, mut approvals) =
            futures::try_join!(namespaces.get_metadata(&name), approvals.list(&all))?;
        snapshot.set_namespace(&name, namespace.labels().clone());
        // Where nothing governs there is nothing more to ask for.
        if snapshot.namespace(&name).is_some_and(NamespaceView::governed) {
            let (policies, windows, matrices) = (
                Api::<UpgradePolicy>::all(client.clone()),
                Api::<MaintenanceWindow>::all(client.clone()),
                Api::<CompatibilityMatrix>::all(client.clone()),
            );
            let (policies, windows, matrices) =
                futures::try_join!(policies.list(&all), windows.list(&all), matrices.list(&all))?;
            policies.iter().for_each(|p| snapshot.set_policy(p));
            windows.iter().for_each(|w| snapshot.set_window(w));
            matrices.iter().for_each(|m| snapshot.set_matrix(m));
        }
        approvals.items.retain(|a| is_about(a, upgrade));
        Ok(Self { snapshot: Arc::new(snapshot), approvals: approvals.items })
    }
}

fn is_about(approval: &UpgradeApproval, upgrade: &Upgrade) -> bool {
    let spec = &approval.spec;
    approval.namespace() == upgrade.namespace()
        && spec.upgrade == upgrade.name_any()
        && spec.upgrade_uid == upgrade.uid()
}
