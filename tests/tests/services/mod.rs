//! Services of a shop, and what their clients reach, from the watch of EndpointSlices.
#![allow(dead_code, reason = "each file of tests uses a part")]

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use upgrade_core::api::FIELD_MANAGER;
use upgrade_sandbox::eventually;
use upgrade_sandbox::scenario::Shop;

/// Ready endpoints by the hash in the names of their pods.
pub type Ends = BTreeMap<String, usize>;

/// What the clients of one Service could reach, at every event.
pub struct Clients {
    samples: Arc<Mutex<Vec<(Instant, Ends)>>>,
    task: JoinHandle<()>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Clients {
    /// Watches from now on, with at least so many endpoints.
    pub async fn watch(shop: &Shop, service: &str, least: usize) -> Result<Self> {
        let api: Api<EndpointSlice> = Api::namespaced(shop.client.clone(), &shop.namespace);
        let selector = format!("kubernetes.io/service-name={service}");
        let samples = Arc::new(Mutex::new(vec![]));
        let seen = samples.clone();
        let task = tokio::spawn(async move {
            let config = watcher::Config::default().labels(&selector);
            let mut events = std::pin::pin!(watcher(api, config));
            let mut slices = HashMap::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(slice) | Event::InitApply(slice)) => {
                        slices.insert(slice.metadata.name.clone(), slice);
                    }
                    Ok(Event::Delete(slice)) => drop(slices.remove(&slice.metadata.name)),
                    _ => continue,
                }
                let ends = ends(slices.values());
                seen.lock().expect("a lock").push((Instant::now(), ends));
            }
        });
        let clients = Self { samples, task };
        eventually("the first endpoints", Duration::from_secs(30), || async {
            let now = clients.now();
            anyhow::ensure!(now.values().sum::<usize>() >= least, "{now:?}");
            Ok(())
        })
        .await?;
        clients.samples.lock().expect("a lock").retain(|(_, e)| e.values().sum::<usize>() >= least);
        Ok(clients)
    }

    /// The endpoints now.
    pub fn now(&self) -> Ends {
        self.samples.lock().expect("a lock").last().map(|s| s.1.clone()).unwrap_or_default()
    }

    /// Fewest endpoints at any moment.
    pub fn least(&self) -> usize {
        let samples = self.samples.lock().expect("a lock");
        samples.iter().map(|s| s.1.values().sum()).min().unwrap_or(0)
    }

    /// How long there were endpoints of two versions, all in all.
    pub fn mixed(&self) -> Duration {
        let samples = self.samples.lock().expect("a lock");
        let ends = samples.iter().skip(1).map(|s| s.0).chain([Instant::now()]);
        let spans = samples.iter().zip(ends).filter(|((_, e), _)| e.len() > 1);
        spans.map(|((from, _), to)| to - *from).sum()
    }

    /// Waits until there are exactly so many, all of the version with this hash.
    pub async fn is(&self, hash: &str, count: usize) -> Result<()> {
        eventually("these endpoints", Duration::from_mins(1), || async {
            let now = self.now();
            anyhow::ensure!(now == Ends::from([(hash.to_owned(), count)]), "{now:?}");
            Ok(())
        })
        .await
    }

    /// Waits until there are exactly so many, all of one version.
    pub async fn one(&self, count: usize) -> Result<String> {
        eventually("one version", Duration::from_mins(1), || async {
            let now = self.now();
            match now.iter().next() {
                Some((hash, n)) if now.len() == 1 && *n == count => Ok(hash.clone()),
                _ => anyhow::bail!("{now:?}"),
            }
        })
        .await
    }
}

fn ends<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Ends {
    let mut ends = Ends::new();
    for endpoint in slices.flat_map(|s| s.endpoints.iter().flatten()) {
        let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        let pod = endpoint.target_ref.as_ref().and_then(|t| t.name.clone()).unwrap_or_default();
        // NAME-HASH-RANDOM
        let hash = pod.rsplit('-').nth(1).unwrap_or_default().to_owned();
        if ready {
            *ends.entry(hash).or_insert(0) += 1;
        }
    }
    ends
}

pub fn services(shop: &Shop) -> Api<Service> {
    Api::namespaced(shop.client.clone(), &shop.namespace)
}

/// The manifest of a Service of the pods `app: web`.
pub fn manifest(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"team": "a"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// A Service of the pods `app: web`.
pub async fn serve(shop: &Shop, name: &str) -> Result<Service> {
    let object: Service = serde_json::from_value(manifest(name))?;
    services(shop).create(&PostParams::default(), &object).await.context("a Service")
}

/// The same manifest, applied by Git as somebody.
pub async fn apply(shop: &Shop, who: &str, name: &str) -> Result<Service> {
    let client = shop.cluster.client_for(who, &["system:masters"]).await?;
    let api: Api<Service> = Api::namespaced(client, &shop.namespace);
    let params = PatchParams::apply("git").force();
    Ok(api.patch(name, &params, &Patch::Apply(manifest(name))).await?)
}

/// The `pod-template-hash` that a Service selects.
pub async fn hash(shop: &Shop, name: &str) -> Result<Option<String>> {
    let service = services(shop).get(name).await?;
    let selector = service.spec.and_then(|s| s.selector).unwrap_or_default();
    Ok(selector.get("pod-template-hash").cloned())
}

/// Asserts that a Service is as its owner wrote it.
pub async fn assert_given_back(shop: &Shop, name: &str) -> Result<()> {
    let service = services(shop).get(name).await?;
    let wanted = manifest(name);
    let is = serde_json::to_value(&service)?;
    assert_eq!(is["spec"]["selector"], wanted["spec"]["selector"], "selector of {name}");
    assert_eq!(is["metadata"]["labels"], wanted["metadata"]["labels"], "labels of {name}");
    let fields = service.metadata.managed_fields.unwrap_or_default();
    let ours: Vec<_> =
        fields.iter().filter(|f| f.manager.as_deref() == Some(FIELD_MANAGER)).collect();
    assert!(ours.is_empty(), "managedFields of {name}: {ours:?}");
    Ok(())
}
