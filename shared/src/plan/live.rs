//! A workload as the API server has it, of any kind that an Upgrade may be about.

use crate::api::WorkloadKind;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

/// A live workload.
#[derive(Clone, Debug)]
pub enum Live {
    /// A Deployment.
    Deployment(Box<Deployment>),
    /// A StatefulSet.
    StatefulSet(Box<StatefulSet>),
    /// A DaemonSet.
    DaemonSet(Box<DaemonSet>),
}

impl Default for Live {
    fn default() -> Self {
        Self::Deployment(Box::default())
    }
}

impl From<Deployment> for Live {
    fn from(object: Deployment) -> Self {
        Self::Deployment(Box::new(object))
    }
}

impl From<StatefulSet> for Live {
    fn from(object: StatefulSet) -> Self {
        Self::StatefulSet(Box::new(object))
    }
}

impl From<DaemonSet> for Live {
    fn from(object: DaemonSet) -> Self {
        Self::DaemonSet(Box::new(object))
    }
}

impl Live {
    /// Reads an object of this kind; none where no Upgrade is about such a kind.
    pub fn read(kind: WorkloadKind, object: Value) -> Option<Result<Self, serde_json::Error>> {
        match kind {
            WorkloadKind::Deployment => {
                Some(serde_json::from_value::<Deployment>(object).map(Self::from))
            }
            WorkloadKind::StatefulSet => {
                Some(serde_json::from_value::<StatefulSet>(object).map(Self::from))
            }
            WorkloadKind::DaemonSet => {
                Some(serde_json::from_value::<DaemonSet>(object).map(Self::from))
            }
            _ => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> WorkloadKind {
        match self {
            Self::Deployment(_) => WorkloadKind::Deployment,
            Self::StatefulSet(_) => WorkloadKind::StatefulSet,
            Self::DaemonSet(_) => WorkloadKind::DaemonSet,
        }
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Deployment(o) => &o.metadata,
            Self::StatefulSet(o) => &o.metadata,
            Self::DaemonSet(o) => &o.metadata,
        }
    }

    /// `metadata.name`
    pub fn name_any(&self) -> String {
        self.meta().name.clone().unwrap_or_default()
    }

    /// `deploy/NAME`, `sts/NAME`, `ds/NAME`
    pub fn reference(&self) -> String {
        format!("{}/{}", self.kind().short(), self.name_any())
    }

    /// The spec of its pods.
    pub fn pod(&self) -> Option<&PodSpec> {
        match self {
            Self::Deployment(o) => o.spec.as_ref()?.template.spec.as_ref(),
            Self::StatefulSet(o) => o.spec.as_ref()?.template.spec.as_ref(),
            Self::DaemonSet(o) => o.spec.as_ref()?.template.spec.as_ref(),
        }
    }

    /// Pods wanted now: `spec.replicas`, or the nodes of a DaemonSet.
    pub fn replicas(&self) -> i32 {
        match self {
            Self::Deployment(o) => o.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
            Self::StatefulSet(o) => o.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
            Self::DaemonSet(o) => o.status.as_ref().map_or(0, |s| s.desired_number_scheduled),
        }
    }

    /// Whether its last rollout is complete.
    pub fn is_settled(&self) -> bool {
        let (generation, wanted) = (self.meta().generation, self.replicas());
        match self {
            Self::Deployment(o) => o.status.as_ref().is_some_and(|s| {
                s.observed_generation >= generation
                    && s.updated_replicas.unwrap_or(0) == wanted
                    && s.replicas.unwrap_or(0) == wanted
            }),
            Self::StatefulSet(o) => o.status.as_ref().is_some_and(|s| {
                s.observed_generation >= generation
                    && s.current_revision == s.update_revision
                    && s.replicas == wanted
            }),
            Self::DaemonSet(o) => o.status.as_ref().is_some_and(|s| {
                s.observed_generation >= generation
                    && s.updated_number_scheduled.unwrap_or(0) == wanted
            }),
        }
    }

    /// Whether all pods are replaced at once.
    pub fn is_recreate(&self) -> bool {
        let Self::Deployment(o) = self else { return false };
        let strategy = o.spec.as_ref().and_then(|s| s.strategy.as_ref());
        strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    /// Whether pods are replaced when somebody deletes them.
    pub fn is_on_delete(&self) -> bool {
        let type_ = match self {
            Self::Deployment(_) => None,
            Self::StatefulSet(o) => o
                .spec
                .as_ref()
                .and_then(|s| s.update_strategy.as_ref())
                .and_then(|s| s.type_.as_deref()),
            Self::DaemonSet(o) => o
                .spec
                .as_ref()
                .and_then(|s| s.update_strategy.as_ref())
                .and_then(|s| s.type_.as_deref()),
        };
        type_ == Some("OnDelete")
    }

    /// `maxSurge`, where the kind has it.
    pub fn max_surge(&self) -> Option<&IntOrString> {
        match self {
            Self::Deployment(o) => {
                let strategy = o.spec.as_ref()?.strategy.as_ref()?;
                strategy.rolling_update.as_ref()?.max_surge.as_ref()
            }
            Self::StatefulSet(_) => None,
            Self::DaemonSet(o) => {
                let strategy = o.spec.as_ref()?.update_strategy.as_ref()?;
                strategy.rolling_update.as_ref()?.max_surge.as_ref()
            }
        }
    }

    /// `spec.paused` of a Deployment.
    pub fn is_paused(&self) -> bool {
        let Self::Deployment(o) = self else { return false };
        o.spec.as_ref().and_then(|s| s.paused) == Some(true)
    }
}
