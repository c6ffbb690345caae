//! Objects other than workloads that an Upgrade looks at and writes: Jobs, Services, routes.
//!
//! The engine says what it wants to see ([`Effect::Watch`](super::effect::Effect)); from then on
//! the controller watches it until the Upgrade is over, and every round finds it here.

use kube::core::DynamicObject;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kind of object, with all that its address needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// `apps/v1`, or `v1` for the core group.
    pub api_version: &'static str,
    /// `Deployment`
    pub kind: &'static str,
    /// `deployments`, as in the path.
    pub plural: &'static str,
}

/// Services.
pub const SERVICES: Resource = Resource { api_version: "v1", kind: "Service", plural: "services" };
/// What the endpoint controller makes of Services.
pub const ENDPOINT_SLICES: Resource = Resource {
    api_version: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
};
/// Deployments.
pub const DEPLOYMENTS: Resource =
    Resource { api_version: "apps/v1", kind: "Deployment", plural: "deployments" };
/// What Deployments make their pods by.
pub const REPLICA_SETS: Resource =
    Resource { api_version: "apps/v1", kind: "ReplicaSet", plural: "replicasets" };
/// Pods.
pub const PODS: Resource = Resource { api_version: "v1", kind: "Pod", plural: "pods" };
/// Jobs.
pub const JOBS: Resource = Resource { api_version: "batch/v1", kind: "Job", plural: "jobs" };

/// Which objects of a kind: in the Upgrade's own namespace where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Which {
    /// The one of this name.
    Name(String),
    /// Those with these labels: a selector in text form.
    Labels(String),
    /// The one of this name in a namespace, be it another, or in none where its kind has none.
    Elsewhere {
        /// The namespace.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Look {
    /// The kind.
    pub resource: Resource,
    /// Which of it.
    pub which: Which,
}

impl Look {
    /// One object by its name.
    pub fn name(resource: Resource, name: impl Into<String>) -> Self {
        Self { resource, which: Which::Name(name.into()) }
    }

    /// One object by its name, in a namespace, or in none where its kind has none.
    pub fn elsewhere(resource: Resource, namespace: Option<&str>, name: &str) -> Self {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        Self { resource, which: Which::Elsewhere { namespace, name } }
    }

    /// Objects by their labels.
    pub fn labels(resource: Resource, selector: impl Into<String>) -> Self {
        Self { resource, which: Which::Labels(selector.into()) }
    }
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.which {
            Which::Name(name) => write!(f, "{}/{name}", self.resource.plural),
            Which::Labels(selector) => write!(f, "{} with {selector}", self.resource.plural),
            Which::Elsewhere { namespace: Some(namespace), name } => {
                write!(f, "{}/{namespace}/{name}", self.resource.plural)
            }
            Which::Elsewhere { namespace: None, name } => {
                write!(f, "{}/{name}", self.resource.plural)
            }
        }
    }
}

/// What is known of a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// It has been listed; there may be none.
    Seen(Vec<Arc<DynamicObject>>),
    /// It cannot be listed, and why: the kind is not served, or we have no right to it.
    Unavailable(String),
}

/// Everything that is looked at for one Upgrade.
pub type Objects = BTreeMap<Look, Sight>;
