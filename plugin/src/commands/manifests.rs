//! The manifests that are embedded, in the order in which they are applied.

use crate::cli::Connection;
use crate::client::Session;
use crate::errors::explain;
use crate::gather::parse;
use crate::output::Refusal;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope};
use serde_json::Value;
use upgrade_core::api::SYSTEM_NAMESPACE;
use upgrade_core::plan::{ObjectId, flatten};

include!(concat!(env!("OUT_DIR"), "/manifests.rs"));

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
        items.retain(|i| {
            !matches!(i.id.kind.as_str(), "Deployment" | "Service" | "PodDisruptionBudget")
        });
        for item in items.iter_mut().filter(|i| i.is_webhook()) {
            point_to(&mut item.object, url);
        }
    }
    items.sort_by_key(|i| rank(&i.id.kind));
    Ok(items)
}

fn rank(kind: &str) -> u8 {
    match kind {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => 2,
        "Deployment" => 4,
        "Service" | "PodDisruptionBudget" => 5,
        "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" => 8,
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
    use serde_json::json;

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
            "ValidatingAdmissionPolicy",
            "ValidatingWebhookConfiguration",
        ];
        assert!(kinds.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
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
