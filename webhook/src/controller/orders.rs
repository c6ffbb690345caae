//! Approvals by annotation become objects: admission has checked whose they are.

use super::apply::params;
use super::status;
use super::watches::Context;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PostParams};
use serde_json::json;
use std::sync::Arc;
use upgrade_core::api::orders::{APPROVE, Order, read};
use upgrade_core::api::{Upgrade, UpgradeApproval};
use upgrade_core::plan::hash::short_hash;

/// Makes the UpgradeApproval, and takes the annotation off; the Upgrade as it is then.
pub async fn carry_out(
    context: &Context,
    upgrade: Arc<Upgrade>,
) -> Result<Arc<Upgrade>, kube::Error> {
    let Some(value) = upgrade.annotations().get(APPROVE) else { return Ok(upgrade) };
    let (namespace, name) = (upgrade.namespace().unwrap_or_default(), upgrade.name_any());
    // What is no stamp was put there while nobody checked: it says nothing, and goes.
    if let Ok(Order::Approved(stamp)) = read(APPROVE, value)
        && stamp.upgrade_uid == upgrade.uid()
    {
        // The same word gets the same name, so that it is one object however often it is tried.
        let short = short_hash(value);
        let approval = UpgradeApproval {
            metadata: ObjectMeta { name: Some(format!("{name}-{short}")), ..ObjectMeta::default() },
            spec: stamp.approval(&name),
        };
        let api: Api<UpgradeApproval> = Api::namespaced(context.client.clone(), &namespace);
        match api.create(&PostParams::default(), &approval).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(error),
        }
    }
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({"metadata": {
        "resourceVersion": upgrade.resource_version(), "annotations": {APPROVE: null}}});
    let written = Arc::new(api.patch(&name, &params(), &Patch::Merge(&body)).await?);
    status::remember(context, &written);
    Ok(written)
}
