//! What manifests change of what runs.

use super::NotCarried;
use crate::client::Session;
use crate::errors::explain;
use crate::output::Refusal;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::{Discovery, Scope};
use serde_json::Value;
use std::collections::BTreeSet;
use upgrade_core::plan::{Autoscaler, Comparison, ObjectId, Workload, compare as differences};

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// What the manifests come to.
pub struct Found {
    /// Workloads with image changes.
    pub workloads: Vec<Workload>,
    /// Objects that are as they should be.
    pub unchanged: usize,
    /// What else differs.
    pub not_carried: Vec<NotCarried>,
}

/// An object of the manifests and what is live of it.
enum Live {
    /// It was looked for.
    Looked(Option<Value>),
    /// It could not be looked at.
    Unseen(String),
}

/// Compares every object with the live one.
pub async fn compare(
    session: &mut Session,
    objects: Vec<(ObjectId, Value)>,
) -> Result<Found, Refusal> {
    choose_namespace(session, &objects);
    let discovery = Discovery::new(session.client.clone());
    let kinds = discovery.run_aggregated().await.map_err(|e| explain(session, &e))?;
    let session = &*session;
    let look = |(id, target): (ObjectId, Value)| {
        let kind = resolve(&kinds, &id);
        async move {
            let live = read(session, kind, &id).await?;
            Ok::<_, Refusal>((id, target, live))
        }
    };
    let all: Vec<(ObjectId, Value, Live)> =
        stream::iter(objects).map(look).buffered(AT_ONCE).try_collect().await?;
    let mut found = Found { workloads: Vec::new(), unchanged: 0, not_carried: Vec::new() };
    for (id, target, live) in all {
        match live {
            Live::Unseen(why) => {
                found.not_carried.push(NotCarried {
                    object: id.to_string(),
                    why,
                    differences: Vec::new(),
                });
            }
            Live::Looked(live) => sort_in(session, &mut found, &id, &target, live)?,
        }
    }
    Ok(found)
}

/// Without a flag, the one namespace that all workloads of the manifests name is meant.
fn choose_namespace(session: &mut Session, objects: &[(ObjectId, Value)]) {
    if session.namespace_given {
        return;
    }
    let carried = objects.iter().filter(|(id, _)| id.is_carried());
    let mut named: BTreeSet<Option<&str>> =
        carried.map(|(id, _)| id.namespace.as_deref()).collect();
    if let (1, Some(Some(one))) = (named.len(), named.pop_first()) {
        one.clone_into(&mut session.namespace);
    }
}

fn resolve(kinds: &Discovery, id: &ObjectId) -> Option<(ApiResource, Scope)> {
    let (group, version) = id.group_version();
    let gvk = GroupVersionKind::gvk(group, version, &id.kind);
    kinds.resolve_gvk(&gvk).map(|(resource, capabilities)| (resource, capabilities.scope))
}

async fn read(
    session: &Session,
    kind: Option<(ApiResource, Scope)>,
    id: &ObjectId,
) -> Result<Live, Refusal> {
    let Some((resource, scope)) = kind else {
        return Ok(Live::Unseen(format!(
            "the cluster serves no {} of {}",
            id.kind, id.api_version
        )));
    };
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(session.client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = id.namespace.as_deref().unwrap_or(&session.namespace);
            Api::namespaced_with(session.client.clone(), namespace, &resource)
        }
    };
    match api.get_opt(&id.name).await {
        Ok(None) => Ok(Live::Looked(None)),
        Ok(Some(found)) => {
            let mut value = serde_json::to_value(found)
                .map_err(|e| Refusal::new("InternalError", e.to_string()))?;
            // Dynamic objects of a list have no type of their own; ours is known.
            if let Some(map) = value.as_object_mut() {
                map.insert("kind".to_owned(), id.kind.clone().into());
                map.insert("apiVersion".to_owned(), id.api_version.clone().into());
            }
            Ok(Live::Looked(Some(value)))
        }
        // Not being allowed to see a Role is no reason not to upgrade a Deployment.
        Err(kube::Error::Api(status)) if status.is_forbidden() && !id.is_carried() => {
            Ok(Live::Unseen("you may not read it, so what would change is not known".to_owned()))
        }
        Err(error) => Err(explain(session, &error)),
    }
}

fn sort_in(
    session: &Session,
    found: &mut Found,
    id: &ObjectId,
    target: &Value,
    live: Option<Value>,
) -> Result<(), Refusal> {
    let comparison = differences(id, target, live.as_ref());
    if comparison.is_same() {
        found.unchanged += 1;
        return Ok(());
    }
    let mut leave = |why: &str, differences| {
        found.not_carried.push(NotCarried {
            object: id.to_string(),
            why: why.to_owned(),
            differences,
        });
    };
    let Comparison::Live { images, other } = comparison else {
        leave("is not there yet", Vec::new());
        return Ok(());
    };
    let Some(kind) = id.carried_kind() else {
        let mut paths = other;
        paths.extend(images.into_iter().map(|c| upgrade_core::plan::Difference {
            path: format!("image of {}", c.container),
            current: Some(c.from.into()),
            target: Some(c.to.into()),
        }));
        leave("differs", paths);
        return Ok(());
    };
    // On their own line, for they are never in the way.
    let (scale, other): (Vec<_>, Vec<_>) =
        other.into_iter().partition(|d| d.path == "spec.replicas");
    if !scale.is_empty() {
        leave("is scaled otherwise, and stays so", scale);
    }
    if !other.is_empty() {
        leave("differs in more than images", other);
    }
    if images.is_empty() {
        return Ok(());
    }
    if let Some(elsewhere) = id.namespace.as_ref().filter(|n| **n != session.namespace) {
        let message = format!(
            "-f: {id} is in namespace {elsewhere}, but an Upgrade is for one namespace, here {}",
            session.namespace
        );
        return Err(Refusal::new("OtherNamespace", message)
            .hint(format!("make one Upgrade for each namespace: -n {elsewhere}")));
    }
    if let Some(live) = upgrade_core::plan::Live::read(kind, live.unwrap_or_default()) {
        let live = live.map_err(|e| Refusal::new("InternalError", format!("{id}: {e}")))?;
        found.workloads.push(Workload { live, images, autoscaler: Autoscaler::None });
    }
    Ok(())
}
