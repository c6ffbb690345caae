//! Reading and writing our own kinds.

use crate::cli::DryRun;
use crate::client::Session;
use crate::errors::{explain, is_absent, no_crds};
use crate::output::Refusal;
use crate::output::hint::nearest;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use upgrade_core::api::{FIELD_MANAGER, Upgrade, UpgradeApproval, UpgradeStatus};
use upgrade_core::plan::plan_hash;

/// Annotation that says why an Upgrade was asked for.
pub const REASON_ANNOTATION: &str = "kubectl-upgrade.dev/reason";

/// Most Upgrades that one request lists.
const PAGE: u32 = 500;

/// Upgrades of the session's namespace.
pub fn upgrades(session: &Session) -> Api<Upgrade> {
    Api::namespaced(session.client.clone(), &session.namespace)
}

/// Reads one Upgrade; a near miss is named.
pub async fn upgrade(session: &Session, name: &str) -> Result<Upgrade, Refusal> {
    let api = upgrades(session);
    match api.get(name).await {
        Ok(found) => return Ok(found),
        // A missing object and a missing kind look alike here; listing tells them apart.
        Err(kube::Error::Api(status)) if is_absent(&status) => {}
        Err(error) => return Err(explain(session, &error)),
    }
    let all = list(session, &api, &ListParams::default()).await?;
    let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
    let place = &session.namespace;
    let refusal = Refusal::new("NotFound", format!("no Upgrade `{name}` in namespace {place}"));
    Err(match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => refusal.hint(format!("did you mean `{near}`?")),
        None => refusal.hint(format!("kubectl upgrade list -n {place}")),
    })
}

/// Lists everything, page by page.
pub async fn list<K>(session: &Session, api: &Api<K>, by: &ListParams) -> Result<Vec<K>, Refusal>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut items = Vec::new();
    let mut params = by.clone().limit(PAGE);
    loop {
        let page = api.list(&params).await.map_err(|e| match &e {
            kube::Error::Api(status) if is_absent(status) => no_crds(),
            _ => explain(session, &e),
        })?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}

/// Creates an object; a field that the server does not know is an error and not dropped.
pub async fn create<K>(session: &Session, object: &K, dry: DryRun) -> Result<K, Refusal>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let failed = |e: String| Refusal::new("InternalError", e);
    let body = serde_json::to_vec(object).map_err(|e| failed(e.to_string()))?;
    let params = PostParams {
        dry_run: dry == DryRun::Server,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    let url = K::url_path(&(), object.meta().namespace.as_deref());
    let mut request = Request::new(url).create(&params, body).map_err(|e| failed(e.to_string()))?;
    let uri = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = uri.parse().map_err(|_| failed(format!("bad address {uri}")))?;
    session.client.request::<K>(request).await.map_err(|e| explain(session, &e))
}

/// Merges a patch into an Upgrade.
pub async fn patch(
    session: &Session,
    name: &str,
    body: &Value,
    dry: DryRun,
) -> Result<Upgrade, Refusal> {
    let mut params =
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    params.dry_run = dry == DryRun::Server;
    let params = params.validation_strict();
    upgrades(session)
        .patch(name, &params, &Patch::Merge(body))
        .await
        .map_err(|e| explain(session, &e))
}

/// Approvals and rejections of one Upgrade, oldest first.
pub async fn approvals(
    session: &Session,
    upgrade: &Upgrade,
) -> Result<Vec<UpgradeApproval>, Refusal> {
    let api: Api<UpgradeApproval> = Api::namespaced(session.client.clone(), &session.namespace);
    let mut all = list(session, &api, &ListParams::default()).await?;
    let (name, uid) = (upgrade.name_any(), upgrade.uid());
    all.retain(|a| {
        a.spec.upgrade == name && (a.spec.upgrade_uid.is_none() || a.spec.upgrade_uid == uid)
    });
    all.sort_by_key(|a| a.creation_timestamp().map(|t| t.0));
    Ok(all)
}

/// Who the API server takes us for; `None` where it does not say.
pub async fn whoami(session: &Session) -> Option<String> {
    let api: Api<SelfSubjectReview> = Api::all(session.client.clone());
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await.ok()?;
    review.status?.user_info?.username
}

/// The status, or what an Upgrade has before the controller has seen it.
pub fn status(upgrade: &Upgrade) -> UpgradeStatus {
    upgrade.status.clone().unwrap_or_default()
}

/// Whether the controller has seen the present spec. A status that is about an older one says
/// nothing of what was ordered last.
pub fn is_current(upgrade: &Upgrade) -> bool {
    let seen = upgrade.status.as_ref().map(|s| s.observed_generation);
    seen.is_some_and(|seen| upgrade.metadata.generation.is_none_or(|g| seen >= g))
}

/// The hash of what the Upgrade's spec says, computed here.
pub fn hash(upgrade: &Upgrade) -> String {
    plan_hash(&upgrade.namespace().unwrap_or_default(), &upgrade.name_any(), &upgrade.spec)
}

/// Who asked for it, as far as it is known.
pub fn requester(upgrade: &Upgrade) -> Option<String> {
    let seen = upgrade.status.as_ref().and_then(|s| s.requester.as_ref());
    seen.or(upgrade.spec.requester.as_ref()).map(|i| i.username.clone())
}

/// `TYPE/NAME`, as kubectl prints it.
pub fn reference(name: &str) -> String {
    format!("upgrade.{}/{name}", upgrade_core::api::GROUP)
}

/// An object as a document for people: without the API server's bookkeeping.
pub fn document<K: Serialize + Resource<DynamicType = ()>>(object: &K) -> Result<Value, Refusal> {
    let mut value =
        serde_json::to_value(object).map_err(|e| Refusal::new("InternalError", e.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), K::api_version(&()).into());
        map.insert("kind".to_owned(), K::kind(&()).into());
        if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
            metadata.remove("managedFields");
        }
    }
    Ok(value)
}

/// Several objects as one `List`.
pub fn documents<K: Serialize + Resource<DynamicType = ()>>(items: &[K]) -> Result<Value, Refusal> {
    let items = items.iter().map(document).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}))
}
