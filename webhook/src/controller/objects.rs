//! Objects other than workloads: watched for as long as an Upgrade wants to see them, and written.

use super::apply::{ApplyError, params};
use super::watches::Context;
use futures::StreamExt;
use json_patch::Patch as JsonPatch;
use kube::api::{Api, DeleteParams, Patch, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;
use upgrade_core::api::Upgrade;
use upgrade_core::engine::effect::{How, ObjectWrite};
use upgrade_core::engine::objects::{Look, Objects, Resource, Sight, Which};

/// What is watched, by the Upgrade's `metadata.uid`.
#[derive(Default)]
pub struct Watches(Mutex<HashMap<String, BTreeMap<Look, Watch>>>);

struct Watch {
    store: Store<DynamicObject>,
    state: Arc<Mutex<State>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Listing,
    Listed,
    Unavailable(String),
}

impl Watches {
    /// Everything that is watched for an Upgrade, as far as it has been listed.
    pub fn of(&self, uid: &str) -> Objects {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watches = all.get(uid).into_iter().flatten();
        watches
            .filter_map(|(look, watch)| {
                let state = watch.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let sight = match state {
                    State::Listing => return None,
                    State::Listed => Sight::Seen(watch.store.state()),
                    State::Unavailable(why) => Sight::Unavailable(why),
                };
                Some((look.clone(), sight))
            })
            .collect()
    }

    /// Ends the watches of an Upgrade.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

pub fn api(client: &Client, namespace: &str, resource: &Resource) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &address(resource))
}

fn address(resource: &Resource) -> ApiResource {
    let (group, version) =
        resource.api_version.rsplit_once('/').unwrap_or(("", resource.api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: resource.api_version.to_owned(),
        kind: resource.kind.to_owned(),
        plural: resource.plural.to_owned(),
    }
}

/// Watches from now on what an Upgrade wants to see; each event is a reason for a round.
pub fn watch(context: &Context, upgrade: &Upgrade, look: Look) {
    let uid = upgrade.uid().unwrap_or_default();
    let mut all = context.watched.0.lock().unwrap_or_else(PoisonError::into_inner);
    let watches = all.entry(uid).or_default();
    if watches.contains_key(&look) {
        return;
    }
    let namespace = upgrade.namespace().unwrap_or_default();
    let wake = context.waker(&namespace, &upgrade.name_any());
    let mut writer = Writer::<DynamicObject>::new(address(&look.resource));
    let store = writer.as_reader();
    let within = |namespace: &str| api(&context.client, namespace, &look.resource);
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (api, config) = match &look.which {
        Which::Name(name) => (within(&namespace), named(name)),
        Which::Labels(selector) => {
            (within(&namespace), watcher::Config::default().labels(selector))
        }
        Which::Elsewhere { namespace: Some(other), name } => (within(other), named(name)),
        Which::Elsewhere { namespace: None, name } => {
            (Api::all_with(context.client.clone(), &address(&look.resource)), named(name))
        }
    };
    let stream = watcher(api, config);
    let state = Arc::new(Mutex::new(State::default()));
    let known = state.clone();
    let set = move |state: State| {
        *known.lock().unwrap_or_else(PoisonError::into_inner) = state;
    };
    let task = tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream.default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    writer.apply_watcher_event(&event);
                    if matches!(event, watcher::Event::InitDone) {
                        set(State::Listed);
                    }
                    if matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                        continue;
                    }
                }
                Err(error) => match unavailable(&error) {
                    Some(why) => set(State::Unavailable(why)),
                    None => continue,
                },
            }
            wake();
        }
    });
    watches.insert(look, Watch { store, state, _task: AbortOnDropHandle::new(task) });
}

/// Why a list will not come by itself; anything else is tried again.
fn unavailable(error: &watcher::Error) -> Option<String> {
    let source = match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => e,
        watcher::Error::WatchError(status) => {
            return matches!(status.code, 403..=405).then(|| status.message.clone());
        }
        watcher::Error::NoResourceVersion => return None,
    };
    match source {
        kube::Error::Api(status) if matches!(status.code, 403..=405) => {
            Some(status.message.clone())
        }
        _ => None,
    }
}

/// Writes one object.
pub async fn write(
    context: &Context,
    namespace: &str,
    write: ObjectWrite,
) -> Result<(), ApplyError> {
    let api = api(&context.client, namespace, &write.resource);
    let what = format!("{}/{}: {}", write.resource.plural, write.name, write.why);
    let written = match write.how {
        How::Create(object) => {
            let object: DynamicObject = serde_json::from_value(object)?;
            let params =
                PostParams { field_manager: params().field_manager, ..PostParams::default() };
            api.create(&params, &object).await.map(Some)
        }
        How::Patch(operations) => {
            let body: JsonPatch = serde_json::from_value(Value::Array(operations))?;
            api.patch(&write.name, &params(), &Patch::<()>::Json(body)).await.map(Some)
        }
        How::Delete(uid) => {
            let preconditions = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams::background().preconditions(preconditions);
            api.delete(&write.name, &params).await.map(|_| None)
        }
    };
    let written = written.map_err(ApplyError::api(what.clone()))?;
    if let Some(object) = written {
        context.note(&object);
    }
    info!(namespace, "{what}");
    Ok(())
}
