//! What of a DaemonSet the engine reasons on.

use crate::api::status::{Originals, RollingUpdate, UpdateStrategy};
use crate::engine::observed::{Workload, containers};
use crate::engine::revised;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetUpdateStrategy};
use k8s_openapi::api::core::v1::Pod;

impl Workload {
    /// Reads a DaemonSet. `revisions` and `pods` may hold those of others.
    pub fn daemon_set(
        object: &DaemonSet,
        revisions: &[&ControllerRevision],
        pods: &[&Pod],
    ) -> Self {
        let meta = &object.metadata;
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let (sets, pods) = revised::read(meta.uid.as_deref().unwrap_or_default(), revisions, pods);
        Self {
            observed: status.observed_generation.unwrap_or(0) >= meta.generation.unwrap_or(0),
            replicas: status.desired_number_scheduled,
            fields: Originals {
                min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
                update_strategy: spec.update_strategy.as_ref().map(strategy),
                ..Originals::default()
            },
            containers: spec.template.spec.as_ref().map(containers).unwrap_or_default(),
            replica_sets: sets,
            pods,
            status_replicas: status.current_number_scheduled,
            updated: status.updated_number_scheduled.unwrap_or(0),
            available: status.number_available.unwrap_or(0),
            ..Self::of(meta)
        }
    }
}

fn strategy(of: &DaemonSetUpdateStrategy) -> UpdateStrategy {
    UpdateStrategy {
        type_: of.type_.clone(),
        rolling_update: of.rolling_update.as_ref().map(|r| RollingUpdate {
            partition: None,
            max_unavailable: r.max_unavailable.clone(),
            max_surge: r.max_surge.clone(),
        }),
    }
}
