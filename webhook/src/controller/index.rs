//! Which open Upgrades want a workload: asked for every event of every
//! workload. Kinds are not told apart: a round too many costs less than the difference.

use kube::ResourceExt;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use upgrade_core::api::Upgrade;
use upgrade_core::policy::snapshot::targets;

/// Namespace and name of a workload, and the Upgrades that are not over and list it.
type Wanted = HashMap<(String, String), BTreeSet<String>>;

/// The index; clones share it.
#[derive(Clone, Default)]
pub struct Index(Arc<Mutex<Wanted>>);

impl Index {
    /// Takes an Upgrade in, or out once it is over or gone.
    pub fn note(&self, upgrade: &Upgrade, gone: bool) {
        let over = upgrade.status.as_ref().is_some_and(|s| s.phase.is_terminal());
        let namespace = upgrade.namespace().unwrap_or_default();
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for target in targets(upgrade) {
            let key = (namespace.clone(), target.name.clone());
            if !gone && !over {
                wanted.entry(key).or_default().insert(upgrade.name_any());
            } else if let Some(names) = wanted.get_mut(&key) {
                names.remove(&upgrade.name_any());
                if names.is_empty() {
                    wanted.remove(&key);
                }
            }
        }
    }

    /// Names of the open Upgrades that list a workload.
    pub fn of(&self, namespace: &str, name: &str) -> Vec<String> {
        let wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = wanted.get(&(namespace.to_owned(), name.to_owned()));
        found.into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn upgrade(phase: &str) -> Upgrade {
        serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": "up", "namespace": "shop"},
            "spec": {"stages": [{"name": "s", "workloads": {"strategy": {"rolling": {}}, "targets": [
                {"kind": "Deployment", "name": "web",
                 "images": [{"container": "web", "from": "a", "to": "b"}]}]}}]},
            "status": {"phase": phase},
        }))
        .expect("an Upgrade")
    }

    #[test]
    fn an_upgrade_is_in_it_from_first_sight_to_its_end() {
        let index = Index::default();
        index.note(&upgrade("Pending"), false);
        assert_eq!(index.of("shop", "web"), ["up"]);
        assert!(index.of("other", "web").is_empty());
        index.note(&upgrade("Completed"), false);
        assert!(index.of("shop", "web").is_empty());
        index.note(&upgrade("Paused"), false);
        index.note(&upgrade("Paused"), true);
        assert!(index.of("shop", "web").is_empty(), "deleted");
    }
}
