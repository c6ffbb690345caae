//! Who may do what by RBAC: every subject with the rules that a binding gives it.

use super::context::{Cluster, Read};
use crate::gather::list_all;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::ResourceExt;
use kube::api::Api;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE};

/// Label of what the API server itself keeps.
const BOOTSTRAP: &str = "kubernetes.io/bootstrapping";

/// One subject of one binding.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who.
    pub subject: Who,
    /// The binding, as people name it.
    pub via: String,
    /// Where the binding holds; `None` everywhere.
    pub namespace: Option<String>,
    /// What it gives.
    pub rules: Arc<Vec<PolicyRule>>,
    /// Whether the cluster itself, or this product, needs it.
    pub expected: bool,
}

/// A subject of RBAC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A username.
    User(String),
    /// A group.
    Group(String),
    /// A service account: namespace and name.
    Account(String, String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "User {name}"),
            Self::Group(name) => write!(f, "Group {name}"),
            Self::Account(namespace, name) => write!(f, "ServiceAccount {namespace}/{name}"),
        }
    }
}

impl Who {
    fn of(subject: &Subject, namespace: Option<&str>) -> Self {
        match subject.kind.as_str() {
            "Group" => Self::Group(subject.name.clone()),
            "ServiceAccount" => {
                let place = subject.namespace.as_deref().or(namespace).unwrap_or_default();
                Self::Account(place.to_owned(), subject.name.clone())
            }
            _ => Self::User(subject.name.clone()),
        }
    }

    /// Whether this is more or less everybody.
    pub fn is_everybody(&self) -> bool {
        match self {
            Self::Group(name) => {
                matches!(name.as_str(), "system:authenticated" | "system:unauthenticated")
                    || name.starts_with("system:serviceaccounts")
            }
            Self::User(name) => name == "system:anonymous",
            Self::Account(..) => false,
        }
    }

    /// Whether the control plane runs as this subject.
    fn is_control_plane(&self) -> bool {
        match self {
            Self::Group(name) => {
                matches!(name.as_str(), "system:masters" | "system:nodes" | "system:monitoring")
            }
            Self::User(name) => name.starts_with("system:kube-"),
            Self::Account(namespace, _) => namespace == "kube-system",
        }
    }
}

/// Everything RBAC gives.
pub async fn all(cluster: &Cluster<'_>) -> Result<Vec<Grant>, String> {
    let client = || cluster.session.client.clone();
    let need = |kind: &str| format!("list {kind}.rbac.authorization.k8s.io in every namespace");
    let needs = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"].map(need);
    let [a, b, c, d] = &needs;
    let apis = (
        Api::<ClusterRole>::all(client()),
        Api::<Role>::all(client()),
        Api::<ClusterRoleBinding>::all(client()),
        Api::<RoleBinding>::all(client()),
    );
    let (cluster_roles, roles, cluster_bindings, bindings) = tokio::join!(
        list_all(cluster.session, &apis.0, a),
        list_all(cluster.session, &apis.1, b),
        list_all(cluster.session, &apis.2, c),
        list_all(cluster.session, &apis.3, d),
    );
    let mut known = Roles::default();
    for role in listed(cluster_roles)? {
        known.put("", &role.name_any(), role.rules.clone());
    }
    for role in listed(roles)? {
        known.put(&role.namespace().unwrap_or_default(), &role.name_any(), role.rules.clone());
    }
    let mut grants = Vec::new();
    for binding in listed(cluster_bindings)? {
        let subjects = binding.subjects.clone().unwrap_or_default();
        let name = binding.name_any();
        let named = ("ClusterRoleBinding", name.as_str(), None);
        let own = binding.labels().contains_key(BOOTSTRAP);
        known.grant(&mut grants, named, &binding.role_ref, &subjects, own);
    }
    for binding in listed(bindings)? {
        let subjects = binding.subjects.clone().unwrap_or_default();
        let namespace = binding.namespace().unwrap_or_default();
        let name = format!("{namespace}/{}", binding.name_any());
        let named = ("RoleBinding", name.as_str(), Some(namespace));
        let own = binding.labels().contains_key(BOOTSTRAP);
        known.grant(&mut grants, named, &binding.role_ref, &subjects, own);
    }
    Ok(grants)
}

fn listed<T>(read: Read<Vec<T>>) -> Result<Vec<T>, String> {
    match read {
        Read::There(all) => Ok(all),
        Read::Absent => Err("needs RBAC; this cluster serves none".to_owned()),
        Read::Unknown(needs) => Err(needs),
    }
}

/// Rules by namespace and name; cluster roles have no namespace.
#[derive(Default)]
struct Roles(HashMap<(String, String), Arc<Vec<PolicyRule>>>);

impl Roles {
    fn put(&mut self, namespace: &str, name: &str, rules: Option<Vec<PolicyRule>>) {
        let rules = Arc::new(rules.unwrap_or_default());
        self.0.insert((namespace.to_owned(), name.to_owned()), rules);
    }

    fn grant(
        &self,
        grants: &mut Vec<Grant>,
        (kind, name, namespace): (&str, &str, Option<String>),
        role: &RoleRef,
        subjects: &[Subject],
        bootstrap: bool,
    ) {
        let place =
            if role.kind == "Role" { namespace.clone().unwrap_or_default() } else { String::new() };
        // A role that is not there gives nothing.
        let Some(rules) = self.0.get(&(place, role.name.clone())) else {
            return;
        };
        let ours = ["kubectl-upgrade-webhook", SERVICE_ACCOUNT];
        for subject in subjects {
            let subject = Who::of(subject, namespace.as_deref());
            let is_us =
                subject == Who::Account(SYSTEM_NAMESPACE.to_owned(), SERVICE_ACCOUNT.to_owned());
            grants.push(Grant {
                expected: (bootstrap && subject.is_control_plane())
                    || subject == Who::Group("system:masters".to_owned())
                    // That these roles say what they said is for `objects` to see.
                    || (is_us && ours.contains(&role.name.as_str())),
                via: format!("{kind} {name}"),
                namespace: namespace.clone(),
                rules: rules.clone(),
                subject,
            });
        }
    }
}
