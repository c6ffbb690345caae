//! Identities of the control plane that own what they write.

use crate::api::WorkloadKind;

/// kube-controller-manager without `--use-service-account-credentials`: all its controllers.
pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const KUBE_SYSTEM: &str = "system:serviceaccount:kube-system:";

/// Whether the user is the controller of kube-system that creates objects of this kind from a
/// parent that was itself checked.
///
/// Only the identity counts: an `ownerReference` can be written by anybody. The list is that of
/// the `matchConditions` in `manifests/base/webhooks.yaml`; it is repeated here so that pods go on
/// being replaced under a configuration that lost them.
pub fn creates(username: &str, kind: WorkloadKind) -> bool {
    if username == CONTROLLER_MANAGER {
        return matches!(kind, WorkloadKind::ReplicaSet | WorkloadKind::Job | WorkloadKind::Pod);
    }
    let Some(account) = username.strip_prefix(KUBE_SYSTEM) else {
        return false;
    };
    match kind {
        WorkloadKind::ReplicaSet => account == "deployment-controller",
        WorkloadKind::Job => account == "cronjob-controller",
        WorkloadKind::Pod => matches!(
            account,
            "replicaset-controller"
                | "replication-controller"
                | "statefulset-controller"
                | "daemon-set-controller"
                | "job-controller"
        ),
        _ => false,
    }
}

/// Whether the user is one of the controllers that delete what has lost its namespace or owner.
pub fn collects_garbage(username: &str) -> bool {
    username == CONTROLLER_MANAGER
        || username
            .strip_prefix(KUBE_SYSTEM)
            .is_some_and(|a| matches!(a, "namespace-controller" | "generic-garbage-collector"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_creates_its_own_kind_only() {
        let sa = |name: &str| format!("system:serviceaccount:kube-system:{name}");
        let rows = [
            (sa("deployment-controller"), WorkloadKind::ReplicaSet, true),
            (sa("deployment-controller"), WorkloadKind::Pod, false),
            (sa("replicaset-controller"), WorkloadKind::Pod, true),
            (sa("replicaset-controller"), WorkloadKind::ReplicaSet, false),
            (sa("replication-controller"), WorkloadKind::Pod, true),
            (sa("cronjob-controller"), WorkloadKind::Job, true),
            (sa("job-controller"), WorkloadKind::Pod, true),
            (sa("default"), WorkloadKind::Pod, false),
            ("system:serviceaccount:shop:job-controller".to_owned(), WorkloadKind::Pod, false),
            (CONTROLLER_MANAGER.to_owned(), WorkloadKind::Pod, true),
            (CONTROLLER_MANAGER.to_owned(), WorkloadKind::Deployment, false),
        ];
        for (user, kind, expected) in rows {
            assert_eq!(creates(&user, kind), expected, "{user} creates {kind}");
        }
        assert!(collects_garbage(&sa("namespace-controller")));
        assert!(!collects_garbage(&sa("deployment-controller")));
    }
}
