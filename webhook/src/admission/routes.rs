//! A route that an Upgrade carries traffic by keeps it, whoever applies a manifest again: to an apply
//! its rules are one value, so the weights would go with them, and clients to both versions.

use super::confirm;
use super::hold::mark;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation};
use kube::Client;
use serde_json::Value;
use upgrade_core::api::{IN_FLIGHT_LABEL, Upgrade};
use upgrade_core::engine::traffic;
use upgrade_core::policy::{Live, Review, Snapshot, UpgradeRef};

/// What carries traffic as it was, and our label, with a word about them; all else is as it was
/// asked for. Nothing where the Upgrade is over or cannot be read: the controller puts back what
/// passes here.
pub async fn keep(
    client: &Client,
    snapshot: &Snapshot,
    review: &Review<'_>,
    kind: &str,
    (old, new): (&Value, &Value),
) -> (Vec<PatchOperation>, Vec<String>) {
    let nothing = (Vec::new(), Vec::new());
    let Some(name) = old["metadata"]["labels"][IN_FLIGHT_LABEL].as_str() else { return nothing };
    if snapshot.is_own(&review.user.username) {
        return nothing;
    }
    let reference = UpgradeRef { namespace: review.namespace.to_string(), name: name.to_owned() };
    match confirm::read(client, &reference).await {
        Live::Found(upgrade) => carried(&upgrade, name, kind, old, new),
        _ => nothing,
    }
}

fn carried(
    upgrade: &Upgrade,
    name: &str,
    kind: &str,
    old: &Value,
    new: &Value,
) -> (Vec<PatchOperation>, Vec<String>) {
    let status = upgrade.status.as_ref();
    if status.is_none_or(|s| !s.stages.iter().any(|s| s.traffic.is_some()) || s.phase.is_terminal())
    {
        return (Vec::new(), Vec::new());
    }
    let mut operations = mark(new, "labels", IN_FLIGHT_LABEL, Some(name));
    for (pointer, value) in traffic::keep(upgrade, kind, old, new) {
        // It found a value or the place for one, so that it can be read.
        let Ok(path) = PointerBuf::parse(pointer) else { continue };
        operations.push(match value {
            Value::Null => PatchOperation::Remove(RemoveOperation { path }),
            value => PatchOperation::Add(AddOperation { path, value }),
        });
    }
    if operations.is_empty() {
        return (operations, Vec::new());
    }
    let warning = format!(
        "in flight: Upgrade {name} carries traffic by this {kind}; its backends and weights stay \
         until it ends, and then follow your manifest"
    );
    (operations, vec![warning])
}
