//! Orders by annotation, carried out: the field that the verb would have written is written.

use super::mutate::{add, remove};
use json_patch::PatchOperation;
use serde_json::json;
use upgrade_core::api::Upgrade;
use upgrade_core::api::orders::{Order, Stamp, carried_out, given, read};
use upgrade_core::plan::plan_hash;
use upgrade_core::policy::Review;
use upgrade_core::policy::review::Change;

/// What is written for the order of a change; what is no order, or more than one, validation refuses.
pub fn write(review: &Review<'_>, change: &Change<Upgrade>) -> Vec<PatchOperation> {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return Vec::new() };
    let mut orders = given(Some(old), new);
    let (Some((key, value)), None) = (orders.next(), orders.next()) else { return Vec::new() };
    let Ok(order) = read(key, value) else { return Vec::new() };
    if let Order::Approve { stage, step } = order {
        let stamp = Stamp {
            approver: review.user.identity(),
            plan_hash: plan_hash(&review.namespace, &review.name, &new.spec),
            upgrade_uid: old.metadata.uid.clone(),
            stage,
            step,
        };
        return vec![add(&["metadata", "annotations", key], json!(json!(stamp).to_string()))];
    }
    let Some((paused, control)) = carried_out(&order, new) else { return Vec::new() };
    vec![
        remove(&["metadata", "annotations", key]),
        add(&["spec", "paused"], json!(paused)),
        add(&["spec", "control"], json!(control)),
    ]
}
