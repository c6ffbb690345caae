//! What runs now.

use crate::client::Session;
use crate::errors::explain;
use crate::lower::Reference;
use crate::output::Refusal;
use crate::output::hint::nearest;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use upgrade_core::plan::{Autoscaler, Workload};

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Reads the Deployments; one that is not there is an error that names its neighbours.
pub async fn deployments(
    session: &Session,
    references: &[Reference],
) -> Result<Vec<Deployment>, Refusal> {
    let api: Api<Deployment> = Api::namespaced(session.client.clone(), &session.namespace);
    let one = |reference: Reference| {
        let api = api.clone();
        async move {
            match api.get_opt(&reference.name).await {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Err(missing(session, &api, &reference.name).await),
                Err(error) => Err(explain(session, &error)),
            }
        }
    };
    stream::iter(references.to_vec()).map(one).buffered(AT_ONCE).try_collect().await
}

async fn missing(session: &Session, api: &Api<Deployment>, name: &str) -> Refusal {
    let place = &session.namespace;
    let refusal = Refusal::new("NoSuchWorkload", format!("no deploy/{name} in namespace {place}"));
    let all = api.list_metadata(&ListParams::default().limit(500)).await;
    let names: Vec<String> =
        all.map(|l| l.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default();
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => refusal.hint(format!("did you mean deploy/{near}?")),
        None => refusal
            .hint(format!("kubectl get deploy -n {place}; another namespace is given with -n")),
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
        let name = workload.live.name_any();
        let found = all.items.iter().find(|h| {
            let scaled = &h.spec.scale_target_ref;
            scaled.kind == "Deployment" && scaled.name == name
        });
        if let Some(hpa) = found {
            workload.autoscaler = Autoscaler::Named(hpa.name_any());
        }
    }
}
