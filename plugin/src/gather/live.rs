//! What runs now.

use crate::client::Session;
use crate::errors::explain;
use crate::lower::Reference;
use crate::output::Refusal;
use crate::output::hint::nearest;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use upgrade_core::api::WorkloadKind;
use upgrade_core::plan::separate::Neighbours;
use upgrade_core::plan::{Autoscaler, Live, Workload};

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Reads the workloads; one that is not there is an error that names its neighbours.
pub async fn workloads(session: &Session, references: &[Reference]) -> Result<Vec<Live>, Refusal> {
    let one = |reference: Reference| async move {
        let name = &reference.name;
        match reference.kind {
            WorkloadKind::StatefulSet => get::<StatefulSet>(session, reference.kind, name).await,
            WorkloadKind::DaemonSet => get::<DaemonSet>(session, reference.kind, name).await,
            _ => get::<Deployment>(session, reference.kind, name).await,
        }
    };
    stream::iter(references.to_vec()).map(one).buffered(AT_ONCE).try_collect().await
}

async fn get<K>(session: &Session, kind: WorkloadKind, name: &str) -> Result<Live, Refusal>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Into<Live>,
{
    let api: Api<K> = Api::namespaced(session.client.clone(), &session.namespace);
    match api.get_opt(name).await {
        Ok(Some(found)) => Ok(found.into()),
        Ok(None) => Err(missing(session, &api, kind, name).await),
        Err(error) => Err(explain(session, &error)),
    }
}

async fn missing<K>(session: &Session, api: &Api<K>, kind: WorkloadKind, name: &str) -> Refusal
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let (place, short) = (&session.namespace, kind.short());
    let refusal = Refusal::new("NoSuchWorkload", format!("no {short}/{name} in namespace {place}"));
    let all = api.list_metadata(&ListParams::default().limit(500)).await;
    let names: Vec<String> = all
        .map(|l| l.items.into_iter().filter_map(|o| o.metadata.name).collect())
        .unwrap_or_default();
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => refusal.hint(format!("did you mean {short}/{near}?")),
        None => refusal
            .hint(format!("kubectl get {short} -n {place}; another namespace is given with -n")),
    }
}

/// Notes which workloads something scales. Not being allowed to see it is no reason to stop.
pub async fn autoscalers(session: &Session, workloads: &mut [Workload]) {
    let api: Api<HorizontalPodAutoscaler> =
        Api::namespaced(session.client.clone(), &session.namespace);
    let Ok(all) = api.list(&ListParams::default()).await else {
        for workload in workloads {
            workload.autoscaler = Autoscaler::Unknown;
        }
        return;
    };
    for workload in workloads {
        let (kind, name) = (workload.live.kind(), workload.live.name_any());
        let found = all.items.iter().find(|h| {
            let scaled = &h.spec.scale_target_ref;
            scaled.kind == kind.as_str() && scaled.name == name
        });
        if let Some(hpa) = found {
            workload.autoscaler = Autoscaler::Named(hpa.name_any());
        }
    }
}

/// What is beside the workloads. Not being allowed to see it is no reason to stop.
pub async fn neighbours(session: &Session) -> Neighbours {
    let (client, place) = (&session.client, &session.namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), place);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), place);
    let all = ListParams::default();
    let (services, deployments) =
        futures::join!(services.list(&all), deployments.list_metadata(&all));
    Neighbours {
        services: services.ok().map(|l| l.items),
        deployments: deployments
            .map(|l| l.items.iter().map(ResourceExt::name_any).collect())
            .unwrap_or_default(),
    }
}
