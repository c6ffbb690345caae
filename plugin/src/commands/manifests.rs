//! The manifests that are embedded, in the order in which they are applied.

use crate::cli::Connection;
use crate::client::Session;
use crate::errors::explain;
use crate::gather::parse;
use crate::output::Refusal;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope};
use serde_json::{Value, json};
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE};
use upgrade_core::plan::{ObjectId, flatten};

include!(concat!(env!("OUT_DIR"), "/manifests.rs"));

/// EndpointSlice that says whether a webhook outside the cluster answers.
const OUTSIDE_SLICE: &str = "upgrade-webhook-outside";

/// An object to apply or to remove.
#[derive(Clone, Debug)]
pub struct Item {
    /// Which.
    pub id: ObjectId,
    /// As it should be.
    pub object: Value,
}

impl Item {
    /// `deployment.apps/upgrade-webhook`, as kubectl prints it.
    pub fn reference(&self) -> String {
        let kind = self.id.kind.to_lowercase();
        match self.id.group_version().0 {
            "" => format!("{kind}/{}", self.id.name),
            group => format!("{kind}.{group}/{}", self.id.name),
        }
    }

    /// Whether it makes the API server call us.
    pub fn is_webhook(&self) -> bool {
        matches!(
            self.id.kind.as_str(),
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration"
        )
    }

    /// Whether it puts a policy of the floor into force.
    pub fn is_binding(&self) -> bool {
        self.id.kind == "ValidatingAdmissionPolicyBinding"
    }

    /// Whether it is a CustomResourceDefinition.
    pub fn is_crd(&self) -> bool {
        self.id.kind == "CustomResourceDefinition"
    }
}

/// Our namespace is part of RBAC and webhook configurations, so it is not a choice.
pub fn own_namespace(connection: &Connection) -> Result<(), Refusal> {
    match &connection.namespace {
        Some(other) if other != SYSTEM_NAMESPACE => Err(Refusal::usage(format!(
            "--namespace: the product lives in {SYSTEM_NAMESPACE} and nowhere else, not in {other}"
        ))),
        _ => Ok(()),
    }
}

/// What is to be there, in order: what others need comes first, what calls us comes last.
pub fn wanted(webhook_url: Option<&str>) -> Result<Vec<Item>, Refusal> {
    let mut documents = Vec::new();
    for (name, text) in MANIFESTS {
        documents.extend(parse(text, name)?);
    }
    // kustomize reads these; the API server does not.
    documents.retain(|d| {
        let version = d.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        !version.starts_with("kustomize.config.k8s.io/")
    });
    let objects = flatten(documents).map_err(|e| Refusal::new("InternalError", e.to_string()))?;
    if objects.is_empty() {
        return Err(Refusal::new("InternalError", "this build of the plugin embeds no manifests"));
    }
    let mut items: Vec<Item> =
        objects.into_iter().map(|(id, object)| Item { id, object }).collect();
    if let Some(url) = webhook_url {
        items.retain(|i| !is_of_the_pods(&i.id.kind));
        for item in items.iter_mut().filter(|i| i.is_webhook()) {
            point_to(&mut item.object, url);
        }
        outside(&mut items)?;
    }
    items.sort_by_key(|i| rank(&i.id.kind));
    Ok(items)
}

/// The floor asks the Service's EndpointSlices whether the webhook answers. With the webhook outside
/// the cluster nobody keeps any: one stands there, ready, for whoever runs it outside to keep. Its
/// address is one that is set aside for documentation; nothing is ever sent there.
fn outside(items: &mut Vec<Item>) -> Result<(), Refusal> {
    for item in items.iter_mut().filter(|i| i.id.kind == "Service") {
        if let Some(spec) = item.object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("selector");
        }
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": OUTSIDE_SLICE, "namespace": SYSTEM_NAMESPACE,
            "labels": {"kubernetes.io/service-name": SERVICE_ACCOUNT,
                "endpointslice.kubernetes.io/managed-by": "kubectl-upgrade",
                "app.kubernetes.io/part-of": "kubectl-upgrade"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}],
    });
    let more = flatten(vec![slice]).map_err(|e| Refusal::new("InternalError", e.to_string()))?;
    items.extend(more.into_iter().map(|(id, object)| Item { id, object }));
    Ok(())
}

/// What only makes sense where the webhook runs in the cluster.
fn is_of_the_pods(kind: &str) -> bool {
    let kinds = ["Deployment", "PodDisruptionBudget", "NetworkPolicy", "ResourceQuota"];
    kinds.contains(&kind)
}

fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => 2,
        "Deployment" => 4,
        "Service" | "PodDisruptionBudget" => 5,
        "EndpointSlice" => 6,
        "ValidatingAdmissionPolicy" => 7,
        "ValidatingAdmissionPolicyBinding" => 8,
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => 9,
        _ => 3,
    }
}

/// The webhook is at an address, not behind a Service.
fn point_to(object: &mut Value, url: &str) {
    let Some(Value::Array(webhooks)) = object.get_mut("webhooks") else {
        return;
    };
    for config in webhooks.iter_mut().filter_map(|w| w.get_mut("clientConfig")) {
        let path = config.pointer("/service/path").and_then(Value::as_str).unwrap_or_default();
        let address = format!("{}{path}", url.trim_end_matches('/'));
        if let Some(map) = config.as_object_mut() {
            map.remove("service");
            map.insert("url".to_owned(), address.into());
        }
    }
}

/// How an object is reached.
pub fn api_of(
    session: &Session,
    kinds: &Discovery,
    item: &Item,
) -> Result<Api<DynamicObject>, Refusal> {
    let (group, version) = item.id.group_version();
    let gvk = GroupVersionKind::gvk(group, version, &item.id.kind);
    let Some((resource, capabilities)) = kinds.resolve_gvk(&gvk) else {
        return Err(Refusal::new(
            "NotServed",
            format!(
                "the cluster serves no {} of {}: it is too old",
                item.id.kind, item.id.api_version
            ),
        ));
    };
    Ok(scoped(session, &resource, &capabilities.scope, item))
}

fn scoped(
    session: &Session,
    resource: &ApiResource,
    scope: &Scope,
    item: &Item,
) -> Api<DynamicObject> {
    match scope {
        Scope::Cluster => Api::all_with(session.client.clone(), resource),
        Scope::Namespaced => {
            let namespace = item.id.namespace.as_deref().unwrap_or(SYSTEM_NAMESPACE);
            Api::namespaced_with(session.client.clone(), namespace, resource)
        }
    }
}

/// What the cluster serves.
pub async fn kinds(session: &Session) -> Result<Discovery, Refusal> {
    let discovery = Discovery::new(session.client.clone());
    discovery.run_aggregated().await.map_err(|e| explain(session, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_replaces_the_service_and_keeps_the_path() {
        let mut object = json!({"webhooks": [{"name": "a", "clientConfig": {
            "caBundle": "x", "service": {"name": "s", "namespace": "n", "path": "/validate"}}}]});
        point_to(&mut object, "https://127.0.0.1:9443/");
        assert_eq!(
            object["webhooks"][0]["clientConfig"],
            json!({"caBundle": "x", "url": "https://127.0.0.1:9443/validate"})
        );
    }

    #[test]
    fn what_calls_us_is_applied_last_and_what_others_need_first() {
        let kinds = [
            "Namespace",
            "CustomResourceDefinition",
            "ClusterRole",
            "Deployment",
            "Service",
            "EndpointSlice",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
            "ValidatingWebhookConfiguration",
        ];
        assert!(kinds.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
    }

    #[test]
    fn outside_the_cluster_a_slice_stands_for_the_webhook() {
        let Ok(items) = wanted(Some("https://127.0.0.1:9443")) else { return };
        let of = |kind: &str| items.iter().find(|i| i.id.kind == kind);
        assert!(items.iter().all(|i| !is_of_the_pods(&i.id.kind)), "{items:?}");
        let service = of("Service").expect("a Service");
        assert!(service.object["spec"]["selector"].is_null());
        let slice = of("EndpointSlice").expect("a slice");
        let named = &slice.object["metadata"]["labels"]["kubernetes.io/service-name"];
        assert_eq!(named, service.object["metadata"]["name"].as_str().expect("a name"));
        assert_eq!(slice.object["endpoints"][0]["conditions"]["ready"], true);
    }

    #[test]
    fn the_embedded_manifests_are_whole() {
        // Without them there is nothing to check; `install` says so.
        let Ok(items) = wanted(None) else { return };
        assert_eq!(items.first().map(|i| i.id.kind.as_str()), Some("Namespace"));
        assert!(items.last().is_some_and(Item::is_webhook));
        let crds: Vec<&str> =
            items.iter().filter(|i| i.is_crd()).map(|i| i.id.name.as_str()).collect();
        for crd in upgrade_core::api::crds() {
            let name = crd.metadata.name.unwrap_or_default();
            assert!(crds.contains(&name.as_str()), "{name} is not embedded");
        }
    }
}
