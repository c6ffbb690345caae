//! The live read before a gate is passed: watches of different kinds may be ahead of one another, so
//! an Upgrade can be seen before the freeze that was there first.

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use upgrade_core::api::{CompatibilityMatrix, MaintenanceWindow, Upgrade, UpgradePolicy};
use upgrade_core::policy::Snapshot;

use k8s_openapi::api::core::v1::Namespace;

/// What is known, with what the API server knows now laid over it. What is gone by now may stay shut
/// until its watch says so.
pub async fn snapshot(
    client: &Client,
    known: &Snapshot,
    upgrade: &Upgrade,
) -> kube::Result<Snapshot> {
    let name = upgrade.namespace().unwrap_or_default();
    let mut live = known.clone();
    let namespace = Api::<Namespace>::all(client.clone()).get_metadata(&name).await?;
    live.set_namespace(&name, namespace.labels().clone());
    // Where nothing governs there is nothing to ask for.
    if live.namespace(&name).is_none_or(|view| !view.governed()) {
        return Ok(live);
    }
    let all = ListParams::default();
    let (policies, windows, matrices) = (
        Api::<UpgradePolicy>::all(client.clone()),
        Api::<MaintenanceWindow>::all(client.clone()),
        Api::<CompatibilityMatrix>::all(client.clone()),
    );
    let (policies, windows, matrices) =
        futures::try_join!(policies.list(&all), windows.list(&all), matrices.list(&all))?;
    policies.iter().for_each(|p| live.set_policy(p));
    windows.iter().for_each(|w| live.set_window(w));
    matrices.iter().for_each(|m| live.set_matrix(m));
    Ok(live)
}
