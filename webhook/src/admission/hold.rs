//! What mode `Hold` writes into a change of a Deployment, and what it says to whoever made it.

use super::mutate::{add, remove};
use json_patch::PatchOperation;
use serde_json::{Value, json};
use upgrade_core::api::{HELD_ANNOTATION, IN_FLIGHT_LABEL};
use upgrade_core::policy::Review;
use upgrade_core::policy::hold::Wanted;

/// The operations and warnings for what is wanted; none where the object is so already.
pub fn write(
    review: &Review<'_>,
    wanted: &Wanted,
    old: &Value,
    new: &Value,
) -> (Vec<PatchOperation>, Vec<String>) {
    let name = &review.name;
    match wanted {
        Wanted::Hold { upgrade, held } => {
            let mut operations = mark(new, "labels", IN_FLIGHT_LABEL, Some(upgrade));
            operations.extend(mark(new, "annotations", HELD_ANNOTATION, Some(&held.text())));
            operations.extend(paused(new, true));
            (operations, announce(review, upgrade))
        }
        Wanted::Release { upgrade, paused: was } => {
            let mut operations = mark(new, "labels", IN_FLIGHT_LABEL, None);
            operations.extend(mark(new, "annotations", HELD_ANNOTATION, None));
            operations.extend(paused(new, *was));
            let word = format!(
                "Deployment {name} runs these images already: the change that Upgrade {upgrade} \
                 was to carry out is taken back"
            );
            (operations, vec![word])
        }
        Wanted::Stay { upgrade } => {
            let text = |map: &str, key: &str| old["metadata"][map][key].as_str().map(str::to_owned);
            let (label, stamp) =
                (text("labels", IN_FLIGHT_LABEL), text("annotations", HELD_ANNOTATION));
            let mut operations = mark(new, "labels", IN_FLIGHT_LABEL, label.as_deref());
            operations.extend(mark(new, "annotations", HELD_ANNOTATION, stamp.as_deref()));
            operations.extend(paused(new, true));
            let word = format!(
                "Deployment {name} is held and stays paused until Upgrade {upgrade} begins: \
                 `kubectl upgrade approve {upgrade} -n {}`; to take the change back, write the \
                 old images",
                review.namespace
            );
            let words = if operations.is_empty() { Vec::new() } else { vec![word] };
            (operations, words)
        }
    }
}

/// Each is short: the API server cuts warnings that are long.
fn announce(review: &Review<'_>, upgrade: &str) -> Vec<String> {
    let (name, namespace) = (&review.name, &review.namespace);
    vec![
        format!(
            "held: Deployment {name} goes on serving what it runs; Upgrade {upgrade} carries the \
             change out once it is approved"
        ),
        format!(
            "to look at it: `kubectl upgrade status {upgrade} -n {namespace}`; somebody else \
             approves it: `kubectl upgrade approve {upgrade} -n {namespace}`"
        ),
        "a held Deployment is paused, and Helm's --wait passes at once: succeeded does not mean \
         upgraded"
            .to_owned(),
    ]
}

fn paused(new: &Value, wanted: bool) -> Option<PatchOperation> {
    let is = new["spec"]["paused"].as_bool().unwrap_or(false);
    (is != wanted).then(|| add(&["spec", "paused"], json!(wanted)))
}

/// Brings one label or annotation to a value, or away.
pub fn mark(new: &Value, map: &str, key: &str, wanted: Option<&str>) -> Vec<PatchOperation> {
    let all = &new["metadata"][map];
    match (all[key].as_str(), wanted) {
        (is, wanted) if is == wanted => Vec::new(),
        (_, None) => vec![remove(&["metadata", map, key])],
        (_, Some(value)) if all.is_object() => vec![add(&["metadata", map, key], json!(value))],
        (_, Some(value)) => vec![add(&["metadata", map], json!({ key: value }))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upgrade_core::api::{Held, Identity};
    use upgrade_core::policy::{Operation, Subject, User};

    fn review() -> Review<'static> {
        Review {
            uid: "u".into(),
            operation: Operation::Update,
            subresource: "".into(),
            namespace: "shop".into(),
            name: "web".into(),
            dry_run: false,
            user: User { username: "alice".into(), uid: "".into(), groups: None, extra: None },
            subject: Subject::Other,
        }
    }

    fn check(wanted: &Wanted, old: &Value, new: &Value) -> (Value, Vec<String>) {
        let (operations, warnings) = write(&review(), wanted, old, new);
        let mut result = new.clone();
        json_patch::patch(&mut result, &operations).expect("applies");
        let (again, _) = write(&review(), wanted, old, &result);
        assert!(again.is_empty(), "twice is once: {again:?}");
        (result, warnings)
    }

    #[test]
    fn a_forged_stamp_is_written_over_and_a_release_leaves_nothing() {
        let requester = Identity { username: "alice".to_owned(), ..Identity::default() };
        let held = Held { requester, paused: false };
        let taken = Wanted::Hold { upgrade: "web-1".to_owned(), held: held.clone() };
        let forged = json!({"metadata": {"annotations": {"a": "b",
            HELD_ANNOTATION: "{\"requester\":{\"username\":\"bob\"}}"}}, "spec": {}});
        let (result, warnings) = check(&taken, &json!({}), &forged);
        assert_eq!(result["metadata"]["annotations"][HELD_ANNOTATION], json!(held.text()));
        assert_eq!(result["metadata"]["labels"], json!({IN_FLIGHT_LABEL: "web-1"}));
        assert_eq!(result["spec"]["paused"], json!(true));
        assert!(warnings.iter().all(|w| w.len() <= 256), "{warnings:?}");
        let stay = Wanted::Stay { upgrade: "web-1".to_owned() };
        let bare = json!({"metadata": {}, "spec": {"paused": false}});
        let (back, warnings) = check(&stay, &result, &bare);
        assert_eq!((&back["spec"]["paused"], warnings.len()), (&json!(true), 1));
        assert_eq!(back["metadata"]["labels"], result["metadata"]["labels"]);
        assert_eq!(check(&stay, &result, &result).1, Vec::<String>::new(), "nothing to say");
        let release = Wanted::Release { upgrade: "web-1".to_owned(), paused: false };
        let (free, _) = check(&release, &result, &result);
        assert_eq!(free["metadata"], json!({"annotations": {"a": "b"}, "labels": {}}));
        assert_eq!(free["spec"]["paused"], json!(false));
    }
}
