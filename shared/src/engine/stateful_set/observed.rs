//! What of a StatefulSet the engine reasons on.

use crate::api::status::{Originals, RollingUpdate, UpdateStrategy};
use crate::engine::observed::{Revisions, Workload, containers};
use crate::engine::revised;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::Pod;

impl Workload {
    /// Reads a StatefulSet. `revisions` and `pods` may hold those of others.
    pub fn stateful_set(
        object: &StatefulSet,
        revisions: &[&ControllerRevision],
        pods: &[&Pod],
    ) -> Self {
        let meta = &object.metadata;
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let (sets, pods) = revised::read(meta.uid.as_deref().unwrap_or_default(), revisions, pods);
        Self {
            observed: status.observed_generation.unwrap_or(0) >= meta.generation.unwrap_or(0),
            replicas: spec.replicas.unwrap_or(1),
            fields: Originals {
                min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
                update_strategy: spec.update_strategy.as_ref().map(strategy),
                ..Originals::default()
            },
            containers: spec.template.spec.as_ref().map(containers).unwrap_or_default(),
            replica_sets: sets,
            pods,
            revisions: Revisions {
                current: status.current_revision,
                update: status.update_revision,
                first: spec.ordinals.and_then(|o| o.start).unwrap_or(0),
            },
            status_replicas: status.replicas,
            updated: status.updated_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            ..Self::of(meta)
        }
    }
}

fn strategy(of: &StatefulSetUpdateStrategy) -> UpdateStrategy {
    UpdateStrategy {
        type_: of.type_.clone(),
        rolling_update: of.rolling_update.as_ref().map(|r| RollingUpdate {
            partition: r.partition,
            max_unavailable: r.max_unavailable.clone(),
            max_surge: None,
        }),
    }
}
