//! Status: the write-ahead log, written before any effect, by server-side apply with a test of the
//! resource version.

use super::watches::Context;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::{Arc, PoisonError};
use upgrade_core::api::{FIELD_MANAGER, Upgrade, UpgradeStatus};

/// Writes the status, if it differs; returns the Upgrade as it is then.
pub async fn write(
    context: &Context,
    upgrade: Arc<Upgrade>,
    status: UpgradeStatus,
) -> Result<Arc<Upgrade>, kube::Error> {
    if upgrade.status.as_ref() == Some(&status) {
        return Ok(upgrade);
    }
    let namespace = upgrade.namespace().unwrap_or_default();
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": Upgrade::api_version(&()),
        "kind": Upgrade::kind(&()),
        "metadata": {"resourceVersion": upgrade.resource_version(), "uid": upgrade.uid()},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written =
        Arc::new(api.patch_status(&upgrade.name_any(), &params, &Patch::Apply(&body)).await?);
    remember(context, &written);
    Ok(written)
}

/// Keeps what we wrote until the watch has caught up.
pub fn remember(context: &Context, upgrade: &Arc<Upgrade>) {
    if let Some(uid) = upgrade.uid() {
        context.latest.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, upgrade.clone());
    }
}

/// The newer of what the watch says and what we wrote.
pub fn newest(context: &Context, seen: Arc<Upgrade>) -> Arc<Upgrade> {
    let mut latest = context.latest.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(uid) = seen.uid() else { return seen };
    match latest.get(&uid) {
        Some(ours)
            if super::observe::version(ours.as_ref()) > super::observe::version(seen.as_ref()) =>
        {
            ours.clone()
        }
        Some(_) => {
            latest.remove(&uid);
            seen
        }
        None => seen,
    }
}
