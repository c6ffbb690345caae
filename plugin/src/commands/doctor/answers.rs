//! Whether somebody answers: the endpoints, and a question that has one right answer.

use super::context::{Cluster, Read};
use crate::output::checks::Check;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE, Upgrade};

/// Webhook that refuses the question.
const HOOK: &str = "upgrades.kubectl-upgrade.dev";

/// The Service's endpoints, and the answer.
pub async fn checks(cluster: &Cluster<'_>) -> Vec<Check> {
    let (endpoints, answer) = tokio::join!(endpoints(cluster), answer(cluster));
    vec![endpoints, answer]
}

async fn endpoints(cluster: &Cluster<'_>) -> Check {
    let id = "endpoints";
    if let Some(url) = &cluster.outside {
        return Check::not_applicable(
            id,
            &format!("the webhook runs outside the cluster, at {url}"),
        );
    }
    let client = cluster.session.client.clone();
    let api: Api<EndpointSlice> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let by = ListParams::default().labels(&format!("kubernetes.io/service-name={SERVICE_ACCOUNT}"));
    let need = format!("list endpointslices.discovery.k8s.io in namespace {SYSTEM_NAMESPACE}");
    let slices = match Read::of(cluster.session, api.list(&by).await.map(Some), &need) {
        Read::There(slices) => slices.items,
        Read::Absent => Vec::new(),
        Read::Unknown(needs) => return Check::not_checked(id, &needs),
    };
    let all = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
    let ready = all.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready.unwrap_or(true)));
    let ready = ready.count();
    let message = format!("{ready} endpoints of the webhook's Service are ready");
    if ready > 0 {
        return Check::passed(id, message);
    }
    Check::error(id, message).hint(format!("kubectl get pods -n {SYSTEM_NAMESPACE} -o wide"))
}

/// Dry-runs the creation of an Upgrade from an image to itself, which is refused before anything
/// else is looked at. It is stored nowhere, and no policy has a say in it.
async fn answer(cluster: &Cluster<'_>) -> Check {
    let id = "answers";
    let namespace = &cluster.session.namespace;
    let image = json!({"container": "none", "from": "none:v1", "to": "none:v1"});
    let target = json!({"kind": "Deployment", "name": "none", "images": [image]});
    let stage =
        json!({"name": "none", "workloads": {"strategy": {"rolling": {}}, "targets": [target]}});
    let question = serde_json::from_value::<Upgrade>(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "doctor-asks"}, "spec": {"stages": [stage]},
    }));
    let Ok(question) = question else {
        return Check::not_checked(id, "this plugin cannot write its own question");
    };
    let api: Api<Upgrade> = Api::namespaced(cluster.session.client.clone(), namespace);
    let options = PostParams { dry_run: true, field_manager: None };
    let look = format!("kubectl get pods -n {SYSTEM_NAMESPACE} -o wide");
    let message = match api.create(&options, &question).await {
        Ok(_) => {
            return Check::error(
                id,
                "the API server did not ask the webhook: a request passed that it refuses",
            )
            .hint(cluster.install());
        }
        Err(kube::Error::Api(status)) => status.message.clone(),
        Err(error) => error.to_string(),
    };
    // RBAC names the resource, and it has the name of the webhook.
    if message.contains("is forbidden: User") {
        let need = format!(
            "needs the right to create upgrades.kubectl-upgrade.dev in namespace {namespace}"
        );
        return Check::not_checked(id, &need);
    }
    if message.contains("denied the request") && message.contains(HOOK) {
        if message.contains("was not stamped") {
            return Check::error(
                id,
                "the mutating webhook does not answer: nobody can ask for an Upgrade",
            )
            .seen([message])
            .hint(look);
        }
        return Check::passed(id, "a request that must be refused is refused");
    }
    if message.contains("failed calling webhook") {
        return Check::error(id, "the API server does not reach the webhook")
            .seen([message])
            .hint(look);
    }
    Check::not_checked(id, &format!("the question came to: {message}"))
}
