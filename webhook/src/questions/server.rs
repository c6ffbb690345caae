//! Questions to the API server that no watch answers: would it take an object, and is one there now.

use super::LONGEST;
use crate::controller::objects::api;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use upgrade_core::engine::objects::Resource;

/// `{}`, or `{"refused": WHY}`: a create that stores nothing.
pub async fn would_create(
    client: &Client,
    namespace: &str,
    resource: &Resource,
    object: Value,
) -> Result<Value, String> {
    let object: DynamicObject = match serde_json::from_value(object) {
        Ok(object) => object,
        Err(error) => return Ok(json!({"refused": error.to_string()})),
    };
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let api = api(client, namespace, resource);
    match limited(api.create(&params, &object)).await? {
        Ok(_) => Ok(json!({})),
        // One that is there already is looked at.
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => {
            Ok(json!({}))
        }
        Err(kube::Error::Api(status))
            if (400..500).contains(&status.code) && status.code != 429 =>
        {
            Ok(json!({"refused": status.message}))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The `metadata.uid` of an object as it is now, or null.
pub async fn live(
    client: &Client,
    namespace: &str,
    resource: &Resource,
    name: &str,
) -> Result<Value, String> {
    let api = api(client, namespace, resource);
    let found = limited(api.get_opt(name)).await?.map_err(|e| e.to_string())?;
    Ok(found.map_or(Value::Null, |object| json!(object.uid())))
}

async fn limited<T>(asked: impl Future<Output = T>) -> Result<T, String> {
    let late = |_| "the API server did not answer in time".to_owned();
    tokio::time::timeout(LONGEST, asked).await.map_err(late)
}
