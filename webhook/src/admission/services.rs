//! A Service that an Upgrade switches keeps its selector, whoever applies a manifest again: to an
//! apply a selector is one value, so ours would go with it, and its clients with that.

use super::hold::mark;
use super::mutate::{add, remove};
use json_patch::PatchOperation;
use serde_json::Value;
use upgrade_core::api::IN_FLIGHT_LABEL;
use upgrade_core::policy::{Review, Snapshot};

/// The selector and our label as they were, with a word about them. Nothing of a Service whose
/// Upgrade is known to be gone or over: a mark that was left behind binds nobody.
pub fn keep(
    snapshot: &Snapshot,
    review: &Review<'_>,
    old: &Value,
    new: &Value,
) -> (Vec<PatchOperation>, Vec<String>) {
    let nothing = (Vec::new(), Vec::new());
    let Some(upgrade) = old["metadata"]["labels"][IN_FLIGHT_LABEL].as_str() else {
        return nothing;
    };
    let view = snapshot.namespace(&review.namespace).filter(|_| snapshot.synced());
    let over = view.is_some_and(|v| v.upgrade(upgrade).is_none_or(|u| u.phase.is_terminal()));
    if over || snapshot.is_own(&review.user.username) {
        return nothing;
    }
    put_back(upgrade, old, new)
}

fn put_back(upgrade: &str, old: &Value, new: &Value) -> (Vec<PatchOperation>, Vec<String>) {
    let mut operations = mark(new, "labels", IN_FLIGHT_LABEL, Some(upgrade));
    let (was, is) = (&old["spec"]["selector"], &new["spec"]["selector"]);
    if was != is {
        operations.push(match was {
            Value::Null => remove(&["spec", "selector"]),
            was => add(&["spec", "selector"], was.clone()),
        });
    }
    if operations.is_empty() {
        return (operations, Vec::new());
    }
    let warning = format!(
        "in flight: spec.selector is kept as Upgrade {upgrade} has it, so that no client is lost; \
         it follows your manifest again when the Upgrade ends"
    );
    (operations, vec![warning])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_selector_and_the_label_come_back_and_nothing_else() {
        let old = json!({"metadata": {"labels": {IN_FLIGHT_LABEL: "u", "a": "1"}},
            "spec": {"ports": [], "selector": {"app": "web", "pod-template-hash": "x"}}});
        for labels in [json!({"a": "2"}), json!({IN_FLIGHT_LABEL: "u", "a": "2"})] {
            let new = json!({"metadata": {"labels": labels},
                "spec": {"ports": [{"port": 1}], "selector": {"app": "web"}}});
            let (operations, warnings) = put_back("u", &old, &new);
            let mut result = new.clone();
            json_patch::patch(&mut result, &operations).expect("applies");
            assert_eq!(result["spec"]["selector"], old["spec"]["selector"]);
            assert_eq!(result["spec"]["ports"], new["spec"]["ports"]);
            assert_eq!(result["metadata"]["labels"], json!({IN_FLIGHT_LABEL: "u", "a": "2"}));
            assert!(warnings[0].len() <= 256 && warnings[0].contains("Upgrade u"), "{warnings:?}");
            assert_eq!(put_back("u", &old, &result), (vec![], vec![]), "twice is once");
        }
    }
}
