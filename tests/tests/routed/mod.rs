//! What tests of traffic share: a shop with a Service and a route, and who watches both.
#![allow(dead_code, reason = "each area of tests uses a part")]

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use upgrade_core::api::Phase;
use upgrade_sandbox::ControlPlane;
use upgrade_sandbox::scenario::{Lab, PATIENCE, Shop, canary, lab};
use upgrade_sandbox::wait::gone;
use upgrade_sandbox::{eventually, routers};

/// The CRDs of all routers, once for a control plane.
pub async fn install(cluster: &ControlPlane) -> Result<()> {
    static DONE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let all = || async {
        routers::gateway_api(cluster)?;
        routers::istio(cluster)?;
        routers::smi(cluster)
    };
    DONE.get_or_try_init(all).await.map(drop)
}

/// A shop beside routers.
///
/// # Panics
/// When there can be none.
pub async fn shop() -> (&'static Lab, Shop) {
    let lab = lab().await;
    install(lab.cluster).await.expect("CRDs");
    (lab, lab.shop(0).await.expect("a shop"))
}

/// A kind by its apiVersion.
pub fn kind(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

pub fn http_route() -> ApiResource {
    kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
}

/// A canary of these steps through a router.
pub fn routed(steps: &[&str], routing: &Value) -> Value {
    let mut strategy = canary(steps);
    strategy["canary"]["trafficRouting"] = routing.clone();
    strategy["canary"]["trafficRouting"]["graceSeconds"] = json!(1);
    strategy
}

/// The route `web` that sends to the Service `web`, and to nothing else.
pub fn web_route() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web"},
        "spec": {
            "hostnames": ["shop.example.com"],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                 "backendRefs": [{"name": "web", "port": 80}]},
                {"matches": [{"path": {"type": "PathPrefix", "value": "/static"}}],
                 "backendRefs": [{"name": "assets", "port": 80}]},
            ],
        },
    })
}

/// Gateway API, by the route `web`.
pub fn by_route() -> Value {
    json!({"gatewayAPI": {"httpRoute": "web"}})
}

/// A Gateway that the route has as a parent, of a class that lists these features, as a router of the
/// shop's own would.
pub async fn gate(shop: &Shop, route: &mut Value, features: &[&str]) -> Result<()> {
    let version = "gateway.networking.k8s.io/v1";
    let class = json!({"apiVersion": version, "kind": "GatewayClass",
        "metadata": {"name": shop.namespace}, "spec": {"controllerName": "example.com/router"}});
    let classes: Api<DynamicObject> =
        Api::all_with(shop.client.clone(), &kind(version, "GatewayClass", "gatewayclasses"));
    classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    let features: Vec<Value> = features.iter().map(|f| json!({ "name": f })).collect();
    let status = json!({"status": {"supportedFeatures": features}});
    let name = &shop.namespace;
    classes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    create(
        shop,
        json!({"apiVersion": version, "kind": "Gateway", "metadata": {"name": "gate"},
        "spec": {"gatewayClassName": name,
            "listeners": [{"name": "web", "protocol": "HTTP", "port": 80}]}}),
    )
    .await?;
    route["spec"]["parentRefs"] = json!([{"name": "gate"}]);
    Ok(())
}

pub fn objects(shop: &Shop, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(shop.client.clone(), &shop.namespace, resource)
}

pub async fn create(shop: &Shop, object: Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.clone().context("types")?;
    let gvk: GroupVersionKind = GroupVersionKind::try_from(&types)?;
    let api: Api<DynamicObject> =
        Api::namespaced_with(shop.client.clone(), &shop.namespace, &ApiResource::from_gvk(&gvk));
    Ok(api.create(&PostParams::default(), &object).await?)
}

/// Applies an object as a GitOps agent does: whole, by server-side apply, with force.
pub async fn apply(shop: &Shop, resource: &ApiResource, object: &Value) -> Result<DynamicObject> {
    let name = object["metadata"]["name"].as_str().context("a name")?;
    let parameters = PatchParams::apply("git").force();
    Ok(objects(shop, resource).patch(name, &parameters, &Patch::Apply(object)).await?)
}

/// A Deployment with `n` pods and the Service of its name.
pub async fn serve(shop: &Shop, name: &str, n: i32) -> Result<()> {
    create(shop, json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }))
    .await?;
    shop.deploy(name, n, json!({})).await.map(drop)
}

pub fn services(shop: &Shop) -> Api<Service> {
    Api::namespaced(shop.client.clone(), &shop.namespace)
}

/// Spec and labels of an object, and who owns fields of it: what has to be as it was.
pub async fn face(shop: &Shop, resource: &ApiResource, name: &str) -> Result<Value> {
    let object = objects(shop, resource).get(name).await?;
    let ours =
        object.managed_fields().iter().any(|f| f.manager.as_deref() == Some("kubectl-upgrade"));
    Ok(json!({"spec": object.data["spec"], "labels": object.labels(), "ours": ours}))
}

/// The user's Service as it was: not a write to it.
pub async fn version(shop: &Shop, service: &str) -> Result<Option<String>> {
    Ok(services(shop).get(service).await?.resource_version())
}

/// Only these Services are there.
pub async fn only_services(shop: &Shop, names: &[&str]) -> Result<()> {
    let list = services(shop).list(&ListParams::default()).await?;
    let found: Vec<String> = list.into_iter().map(|s| s.name_any()).collect();
    ensure!(found == names, "Services {found:?}, wanted {names:?}");
    Ok(())
}

/// Waits until a route gives the canary this share, by what `share` reads of it.
pub async fn carries(
    shop: &Shop,
    resource: &ApiResource,
    name: &str,
    share: fn(&Value) -> Option<i64>,
    wanted: Option<i64>,
) -> Result<()> {
    eventually("the weight", PATIENCE, || async {
        let object = objects(shop, resource).get_opt(name).await?;
        let now = object.as_ref().and_then(|o| share(&serde_json::to_value(o).unwrap_or_default()));
        ensure!(now == wanted, "{name} carries {now:?}, wanted {wanted:?}");
        Ok(())
    })
    .await
}

/// The weight of the canary in a list of backends: none where the list does not name it.
pub fn in_route(route: &Value) -> Option<i64> {
    let refs = route.pointer("/spec/rules/0/backendRefs")?.as_array()?;
    refs.iter().find(|r| r["name"] == "web-canary")?["weight"].as_i64()
}

/// Takes an Upgrade back, by an abort or by deleting it, and waits for its end.
pub async fn take_back(shop: &Shop, name: &str, delete: bool) -> Result<()> {
    if delete {
        shop.upgrades().delete(name, &DeleteParams::default()).await?;
        return gone(shop.upgrades(), name, PATIENCE).await;
    }
    shop.steer(name, json!({"control": {"abort": true}})).await?;
    shop.phase(name, Phase::Aborted).await.map(drop)
}

type Events = Arc<Mutex<Vec<(u64, &'static str, Option<Value>)>>>;

/// Records a route and the canary's endpoints, from the watch.
pub struct Order {
    events: Events,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Order {
    pub fn watch(shop: &Shop, resource: &ApiResource, route: &str, service: &str) -> Self {
        let events = Events::default();
        let slices = kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices");
        let by_name = watcher::Config::default().fields(&format!("metadata.name={route}"));
        let by_service =
            watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
        let tasks = vec![
            record(
                shop.client.clone(),
                &shop.namespace,
                resource,
                by_name,
                "route",
                events.clone(),
            ),
            record(
                shop.client.clone(),
                &shop.namespace,
                &slices,
                by_service,
                "slice",
                events.clone(),
            ),
        ];
        Self { events, tasks }
    }

    /// Asserts that at no moment the canary had a weight without a ready endpoint. Versions of
    /// objects tell what came before what (KEP-5504).
    pub fn check(self, share: fn(&Value) -> Option<i64>) -> Vec<i64> {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let mut events = self.events.lock().expect("events").clone();
        events.sort_by_key(|e| e.0);
        let (mut ready, mut weight, mut weights) = (0, 0, vec![]);
        for (version, what, object) in events {
            if what == "slice" {
                let endpoints = object.as_ref().and_then(|o| o["endpoints"].as_array()).cloned();
                let is_ready = |e: &&Value| e["conditions"]["ready"] == true;
                ready = endpoints.iter().flatten().filter(is_ready).count();
            } else {
                weight = object.as_ref().and_then(share).unwrap_or(0);
                if weights.last() != Some(&weight) {
                    weights.push(weight);
                }
            }
            assert!(
                weight == 0 || ready > 0 || what == "slice",
                "at version {version} the canary was given {weight} without a ready endpoint"
            );
        }
        weights
    }
}

fn record(
    client: Client,
    namespace: &str,
    resource: &ApiResource,
    config: watcher::Config,
    what: &'static str,
    events: Events,
) -> tokio::task::JoinHandle<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, resource);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(event) = stream.next().await {
            let (object, there) = match event {
                Ok(watcher::Event::Apply(o) | watcher::Event::InitApply(o)) => (o, true),
                Ok(watcher::Event::Delete(o)) => (o, false),
                _ => continue,
            };
            let version = object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0);
            let value = there.then(|| serde_json::to_value(&object).unwrap_or_default());
            events.lock().expect("events").push((version, what, value));
        }
    })
}
