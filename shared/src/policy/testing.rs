//! Objects for the tests of this module.

use super::decide::{Verdict, decide};
use super::review::{Change, Operation, Review, Subject, User};
use super::snapshot::{Labels, Snapshot};
use super::workload::Workload;
use crate::api::{GOVERNED_LABEL, Upgrade, UpgradeLedger, UpgradePolicy, WorkloadKind};
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub const US: &str = "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook";

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn policy(name: &str, spec: Value) -> UpgradePolicy {
    UpgradePolicy::new(name, serde_json::from_value(spec).expect("a policy's spec"))
}

pub fn ledger(namespace: &str, entries: &Value) -> UpgradeLedger {
    let spec = serde_json::from_value(json!({"entries": entries})).expect("a ledger's spec");
    let mut ledger = UpgradeLedger::new("ledger", spec);
    ledger.metadata.namespace = Some(namespace.into());
    ledger
}

/// An Upgrade of Deployment `web`, container `web`, from web:v1 to web:v2, as a canary.
pub fn upgrade(namespace: &str, name: &str, phase: &str) -> Upgrade {
    serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"),
            "finalizers": ["kubectl-upgrade.dev/restore"]},
        "spec": {"requester": {"username": "alice", "groups": ["devs"]}, "stages": [{
            "name": "web", "workloads": {
                "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {}}]}},
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "web", "from": "web:v1", "to": "web:v2"}]}]}}]},
        "status": {"phase": phase, "message": "waits for promote"}
    }))
    .expect("an Upgrade")
}

/// Namespace `shop`, governed by policy `all`, with `web` at web:v1 in the ledger.
pub fn shop() -> Snapshot {
    shop_with(json!({"workloads": {"all": true}}))
}

pub fn shop_with(spec: Value) -> Snapshot {
    let mut s = Snapshot::new(US);
    s.set_namespace("shop", labels(&[(GOVERNED_LABEL, "true")]));
    s.set_namespace("free", labels(&[]));
    s.set_policy(&policy("all", spec));
    s.set_ledger(&ledger(
        "shop",
        &json!([{"kind": "Deployment", "name": "web", "since": "2026-01-01T00:00:00Z",
            "images": [{"container": "web", "image": "web:v1"}],
            "selector": {"matchLabels": {"app": "web"}}, "labels": {"app": "web"}}]),
    ));
    s.set_synced(true);
    s
}

/// A Deployment `web` as JSON; `change` edits it.
pub fn web(image: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]}}}});
    change(&mut object);
    object
}

pub fn user(name: &str) -> User<'_> {
    User { username: name.into(), uid: "".into(), groups: Some(vec!["devs".into()]), extra: None }
}

pub fn review<'a>(
    name: &'a str,
    operation: Operation,
    subresource: &'a str,
    subject: Subject<'a>,
) -> Review<'a> {
    Review {
        uid: "u".into(),
        operation,
        subresource: subresource.into(),
        namespace: "shop".into(),
        name: "web".into(),
        dry_run: false,
        user: user(name),
        subject,
    }
}

/// The verdict on a workload; without `old` it is a CREATE.
pub fn workload(
    snapshot: &Snapshot,
    name: &str,
    kind: WorkloadKind,
    old: Option<&Value>,
    new: &Value,
) -> Verdict {
    let raw = |v: &Value| RawValue::from_string(v.to_string()).expect("valid JSON");
    let (old, new) = (old.map(raw), raw(new));
    let operation = if old.is_some() { Operation::Update } else { Operation::Create };
    let parse = |r| Workload::parse(kind, r).expect("parses");
    let change = Change { old: old.as_deref().map(parse), new: Some(parse(&new)) };
    let subject = Subject::Workload(Box::new(change));
    decide(snapshot, &review(name, operation, "", subject), Timestamp::UNIX_EPOCH)
}

/// "Allow", "Confirm" or the reason of the refusal; a refusal must be complete.
pub fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "Allow",
        Verdict::Confirm(_) => "Confirm",
        Verdict::Noted(note) => note.manner.as_str(),
        Verdict::Deny(refusal) => {
            for text in [&refusal.what, &refusal.why, &refusal.help] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{refusal}");
            }
            assert!(
                refusal.command.as_ref().is_some_and(|c| c.starts_with("kubectl ")),
                "{refusal}"
            );
            refusal.reason.as_str()
        }
    }
}
