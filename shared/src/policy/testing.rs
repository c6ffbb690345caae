//! Objects for the tests of this module.

use super::snapshot::{Labels, Snapshot};
use crate::api::{GOVERNED_LABEL, Upgrade, UpgradeLedger, UpgradePolicy};
use serde_json::{Value, json};

pub const US: &str = "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook";

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn policy(name: &str, spec: Value) -> UpgradePolicy {
    UpgradePolicy::new(name, serde_json::from_value(spec).expect("a policy's spec"))
}

pub fn ledger(namespace: &str, entries: Value) -> UpgradeLedger {
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
        json!([{"kind": "Deployment", "name": "web", "since": "2026-01-01T00:00:00Z",
            "images": [{"container": "web", "image": "web:v1"}],
            "selector": {"matchLabels": {"app": "web"}}}]),
    ));
    s.set_synced(true);
    s
}
