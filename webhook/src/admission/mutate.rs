//! What admission writes: who asked, and the guarded fields of objects in flight as they were.

use super::respond::Answer;
use super::review::{Request, ReviewError};
use super::{confirm, hold, orders, routes, services};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use kube::Client;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use upgrade_core::api::{HELD_ANNOTATION, IN_FLIGHT_LABEL};
use upgrade_core::policy::declared::author;
use upgrade_core::policy::hold::{comes_back, wanted};
use upgrade_core::policy::review::Change;
use upgrade_core::policy::{Live, Operation, Review, Snapshot, Subject, UpgradeRef, Workload};

/// Guarded fields below `/spec`.
const GUARDED: [&str; 4] = ["paused", "minReadySeconds", "progressDeadlineSeconds", "strategy"];

/// The patch for one request; most need none.
pub async fn answer(
    client: &Client,
    snapshot: &Snapshot,
    request: Request<'_>,
) -> Result<Answer, ReviewError> {
    let (old, new) = request.objects();
    let (service, route) = (request.is_service(), request.route());
    let review = request.read()?;
    let (operations, warnings) = match (&review.subject, review.operation) {
        (Subject::Upgrade(_), Operation::Create) => {
            (vec![add(&["spec", "requester"], json!(review.user.identity()))], Vec::new())
        }
        (Subject::Upgrade(change), Operation::Update) if review.subresource.is_empty() => {
            (orders::write(&review, change), Vec::new())
        }
        (Subject::Schedule(change), Operation::Create | Operation::Update)
            if review.subresource.is_empty() =>
        {
            let stamp = |new| author(change.old.as_ref(), new, &review.user.identity());
            let requester = change.new.as_ref().map(stamp);
            (vec![add(&["spec", "requester"], json!(requester))], Vec::new())
        }
        (Subject::Approval(_), Operation::Create) => (approval(client, &review).await, Vec::new()),
        (Subject::Workload(change), Operation::Update)
            if review.subresource.is_empty() && !snapshot.is_own(&review.user.username) =>
        {
            workload(snapshot, &review, change, old, new)
        }
        (_, Operation::Update) if service => {
            services::keep(snapshot, &review, &value(old), &value(new))
        }
        (_, Operation::Update) if let Some(kind) = route => {
            let (old, new) = (value(old), value(new));
            routes::keep(client, snapshot, &review, kind, (&old, &new)).await
        }
        _ => (Vec::new(), Vec::new()),
    };
    if operations.is_empty() && warnings.is_empty() {
        return Ok(Answer::Allowed);
    }
    Ok(Answer::Patched(Patch(operations), warnings))
}

/// Mode Hold first; what is in flight stays as it is; everything else passes unread.
fn workload(
    snapshot: &Snapshot,
    review: &Review<'_>,
    change: &Change<Workload<'_>>,
    old: Option<&RawValue>,
    new: Option<&RawValue>,
) -> (Vec<PatchOperation>, Vec<String>) {
    if let Some(wanted) = wanted(snapshot, review) {
        return hold::write(review, &wanted, &value(old), &value(new));
    }
    let Some(upgrade) = flying(change) else { return (Vec::new(), Vec::new()) };
    let (old, new) = (value(old), value(new));
    let (mut operations, mut warnings) = put_back(&old, &new);
    if comes_back(snapshot, review).is_some() && old["spec"]["template"] != new["spec"]["template"]
    {
        operations.push(add(&["spec", "template"], old["spec"]["template"].clone()));
        warnings.push(format!(
            "in flight: Upgrade {upgrade} is being taken back; until it is, the old template stays, \
             and then yours is held again"
        ));
    }
    (operations, warnings)
}

fn value(raw: Option<&RawValue>) -> Value {
    raw.and_then(|r| serde_json::from_str(r.get()).ok()).unwrap_or_default()
}

fn flying<'a>(change: &'a Change<Workload<'_>>) -> Option<&'a str> {
    change.old.as_ref().and_then(Workload::in_flight)
}

/// The approver always; the Upgrade's uid only where the client gave none, because a uid says
/// which Upgrade the client looked at.
async fn approval(client: &Client, review: &Review<'_>) -> Vec<PatchOperation> {
    let mut operations = vec![add(&["spec", "approver"], json!(review.user.identity()))];
    let Subject::Approval(change) = &review.subject else {
        return operations;
    };
    let Some(spec) = change.new.as_ref().map(|a| &a.spec) else {
        return operations;
    };
    if spec.upgrade_uid.is_some() {
        return operations;
    }
    let reference =
        UpgradeRef { namespace: review.namespace.to_string(), name: spec.upgrade.clone() };
    // Where there is no such Upgrade, validation says so; nothing is stamped then.
    if let Live::Found(upgrade) = confirm::read(client, &reference).await
        && let Some(uid) = upgrade.metadata.uid
    {
        operations.push(add(&["spec", "upgradeUID"], json!(uid)));
    }
    operations
}

/// Guarded fields and the in-flight label as they were, with a word about each.
fn put_back(old: &Value, new: &Value) -> (Vec<PatchOperation>, Vec<String>) {
    let (mut operations, mut fields) = (Vec::new(), Vec::new());
    for field in GUARDED {
        let (was, is) = (&old["spec"][field], &new["spec"][field]);
        if was == is {
            continue;
        }
        fields.push(format!("spec.{field}"));
        operations.push(match was {
            Value::Null => remove(&["spec", field]),
            was => add(&["spec", field], was.clone()),
        });
    }
    let was = &old["metadata"]["labels"][IN_FLIGHT_LABEL];
    for (map, word, key) in
        [("labels", "label", IN_FLIGHT_LABEL), ("annotations", "annotation", HELD_ANNOTATION)]
    {
        let marks = hold::mark(new, map, key, old["metadata"][map][key].as_str());
        if !marks.is_empty() {
            fields.push(format!("{word} {key}"));
        }
        operations.extend(marks);
    }
    if fields.is_empty() {
        return (operations, Vec::new());
    }
    let upgrade = was.as_str().unwrap_or_default();
    let warning = format!(
        "in flight: {} kept as Upgrade {upgrade} has it; they follow your manifest again when it ends",
        fields.join(", ")
    );
    (operations, vec![warning])
}

pub(super) fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

pub(super) fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path.iter().copied()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &Value, new: &Value) -> (Value, Vec<String>) {
        let (operations, warnings) = put_back(old, new);
        let mut result = new.clone();
        json_patch::patch(&mut result, &operations).expect("applies");
        (result, warnings)
    }

    #[test]
    fn guarded_fields_and_the_label_come_back_and_nothing_else() {
        let old = json!({"metadata": {"labels": {IN_FLIGHT_LABEL: "u", "a": "1"}},
            "spec": {"replicas": 3, "paused": true, "minReadySeconds": 2_147_483_646,
                "strategy": {"rollingUpdate": {"maxSurge": "10%"}}}});
        let new = json!({"metadata": {"labels": {"a": "2"}},
            "spec": {"replicas": 9, "minReadySeconds": 5, "progressDeadlineSeconds": 60}});
        let (result, warnings) = check(&old, &new);
        let mut expected = old.clone();
        expected["spec"]["replicas"] = json!(9);
        expected["metadata"]["labels"]["a"] = json!("2");
        assert_eq!(result, expected);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("spec.paused") && warnings[0].contains("Upgrade u"),
            "{warnings:?}"
        );
        assert!(warnings[0].len() <= 256);
        assert_eq!(check(&old, &result), (result, Vec::new()), "twice is once");
    }

    #[test]
    fn labels_that_are_all_gone_come_back_with_ours() {
        let old = json!({"metadata": {"labels": {IN_FLIGHT_LABEL: "u"}}, "spec": {}});
        let (result, _) = check(&old, &json!({"metadata": {}, "spec": {}}));
        assert_eq!(result["metadata"]["labels"], json!({IN_FLIGHT_LABEL: "u"}));
    }
}
