//! What the tests of windows set up.

use super::{Subject, Window};
use crate::api::{Change, MaintenanceWindow, StrategyName};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A window of this name and spec, as the API server would hand it out.
pub(super) fn object(name: &str, spec: &Value) -> MaintenanceWindow {
    serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1",
        "kind": "MaintenanceWindow",
        "metadata": {"name": name},
        "spec": spec,
    }))
    .unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub(super) fn window(name: &str, spec: &Value) -> Window {
    Window::parse(&object(name, spec)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// E10: Tuesday to Thursday, 02:00 to 06:00 on the clock in Rome.
pub(super) fn e10() -> Window {
    window(
        "e10",
        &json!({
            "kind": "Allow", "days": ["Tuesday", "Wednesday", "Thursday"],
            "start": "02:00", "end": "06:00", "timeZone": "Europe/Rome",
        }),
    )
}

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A change to ask about, of a workload with no labels unless they are given.
pub(super) struct Asks {
    pub(super) namespace: BTreeMap<String, String>,
    pub(super) workload: BTreeMap<String, String>,
    pub(super) policy: &'static str,
    pub(super) strategy: StrategyName,
    pub(super) change: Change,
}

impl Default for Asks {
    fn default() -> Self {
        Self {
            namespace: BTreeMap::new(),
            workload: BTreeMap::new(),
            policy: "prod",
            strategy: StrategyName::Canary,
            change: Change::Minor,
        }
    }
}

impl Asks {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            namespace_labels: &self.namespace,
            workload_labels: &self.workload,
            policy: self.policy,
            strategy: self.strategy,
            change: self.change,
        }
    }
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
