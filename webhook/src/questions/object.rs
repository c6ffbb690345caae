//! One object of the namespace, as it is now.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::{self, Scope};
use kube::{Api, Client};
use serde_json::Value;
use upgrade_core::engine::questions::ObjectQuestion;

/// The object, or null where there is none.
pub async fn get(
    client: &Client,
    namespace: &str,
    question: ObjectQuestion,
) -> Result<Value, String> {
    let ObjectQuestion { api_version, kind, name } = question;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let gvk = GroupVersionKind::gvk(group, version, &kind);
    let found = discovery::pinned_kind(client, &gvk).await;
    let (resource, capabilities): (ApiResource, _) =
        found.map_err(|e| format!("{api_version} {kind} is not served: {}", terse(&e)))?;
    if capabilities.scope != Scope::Namespaced {
        return Err(format!("{api_version} {kind} is not in a namespace"));
    }
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object = match api.get_opt(&name).await {
        Ok(object) => object,
        Err(error) => return Err(format!("{}/{name}: {}", resource.plural, terse(&error))),
    };
    serde_json::to_value(object).map_err(|e| e.to_string())
}

fn terse(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        kube::Error::Discovery(_) => "the API server does not know it".to_owned(),
        _ => "the API server could not be asked".to_owned(),
    }
}
