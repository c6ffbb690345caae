//! By which names the cluster's own controllers write: the webhook lets these replace pods.

use super::context::{Cluster, Read};
use crate::gather::list_all;
use crate::output::checks::{Check, Outcome};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use upgrade_core::policy::identities::CONTROLLER_MANAGER;

/// Service accounts that kube-controller-manager makes for itself, and nobody else does, when it
/// runs with `--use-service-account-credentials`.
const ACCOUNTS: [&str; 6] = [
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "daemon-set-controller",
    "job-controller",
    "cronjob-controller",
];
const FLAG: &str = "--use-service-account-credentials";
const NAMESPACE: &str = "kube-system";

/// Which identities the controllers use, as far as it shows.
pub async fn check(cluster: &Cluster<'_>) -> Check {
    let id = "controllers";
    let client = cluster.session.client.clone();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let need = format!("list serviceaccounts in namespace {NAMESPACE}");
    let accounts = match list_all(cluster.session, &accounts, &need).await {
        Read::There(all) => all,
        Read::Absent => Vec::new(),
        Read::Unknown(needs) => return Check::not_checked(id, &needs),
    };
    let flag = argument(&Api::namespaced(client, NAMESPACE)).await;
    let found: Vec<&str> = ACCOUNTS
        .into_iter()
        .filter(|name| accounts.iter().any(|a| a.name_any() == *name))
        .collect();
    let mut evidence = vec![format!(
        "{} of {} service accounts of controllers are in {NAMESPACE}",
        found.len(),
        ACCOUNTS.len()
    )];
    if let Some(flag) = &flag {
        evidence.push(format!("kube-controller-manager's pod says {flag}"));
    }
    let each = match flag.as_deref() {
        Some(flag) => flag.ends_with("=true") || flag == FLAG,
        None => found.len() == ACCOUNTS.len(),
    };
    if each {
        let text = format!("each controller writes as a service account of {NAMESPACE} of its own");
        return Check::new(id, Outcome::Info, text).seen(evidence);
    }
    Check::warning(id, format!("controllers seem to write as one user, {CONTROLLER_MANAGER}"))
        .seen(evidence)
        .hint(format!("run kube-controller-manager with {FLAG}=true"))
}

/// The argument of a kube-controller-manager that runs as a pod; not every cluster shows one.
async fn argument(pods: &Api<Pod>) -> Option<String> {
    let by = ListParams::default().labels("component=kube-controller-manager").limit(1);
    let pod = pods.list(&by).await.ok()?.items.into_iter().next()?;
    let container = pod.spec?.containers.into_iter().next()?;
    let words = container.command.into_iter().chain(container.args).flatten();
    let mut flags = words.filter(|word| word.starts_with(FLAG));
    Some(flags.next().unwrap_or_else(|| format!("nothing of {FLAG}")))
}
