//! StatefulSets and DaemonSets of a shop: what tests of them set up and look at.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use upgrade_core::api::{FIELD_MANAGER, Upgrade};

use crate::nodes;
use crate::scenario::{PATIENCE, Shop, merge};
use crate::wait::{eventually, wait_for};

/// `StatefulSet`
pub const STATEFUL: &str = "StatefulSet";
/// `DaemonSet`
pub const DAEMON: &str = "DaemonSet";

impl Shop {
    /// Workloads of a kind of the group `apps`.
    pub fn of_kind(&self, kind: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("apps", "v1", kind);
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::from_gvk(&gvk))
    }

    /// A StatefulSet of `web:v1` with one container `web`, every pod available. `spec` is merged
    /// into its spec.
    pub async fn stateful(&self, name: &str, replicas: i32, spec: Value) -> Result<DynamicObject> {
        let mut all = json!({"replicas": replicas, "serviceName": name});
        merge(&mut all, spec);
        self.create_kind(STATEFUL, name, all).await?;
        self.settled(STATEFUL, name, replicas).await
    }

    /// A DaemonSet of `web:v1` on the nodes of this shop, every pod available.
    pub async fn daemon(&self, name: &str, nodes: i32, spec: Value) -> Result<DynamicObject> {
        let place = json!({"nodeSelector": {"shop": self.namespace}});
        let mut all = json!({"template": {"spec": place}});
        merge(&mut all, spec);
        self.create_kind(DAEMON, name, all).await?;
        self.settled(DAEMON, name, nodes).await
    }

    async fn create_kind(&self, kind: &str, name: &str, spec: Value) -> Result<()> {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "web", "image": "web:v1"}]},
                },
            },
        });
        merge(&mut object["spec"], spec);
        let object: DynamicObject = serde_json::from_value(object)?;
        self.of_kind(kind).create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Waits until a workload's own rollout is complete.
    pub async fn settled(&self, kind: &str, name: &str, pods: i32) -> Result<DynamicObject> {
        let there = move |o: Option<&DynamicObject>| o.is_some_and(|o| is_settled(o, pods));
        wait_for(self.of_kind(kind), name, there, PATIENCE)
            .await
            .with_context(|| format!("{kind} {name} with {pods} pods"))
    }

    /// Fake nodes of this shop, with these labels besides.
    pub async fn nodes(&self, names: &[&str], labels: &[(&str, &str)]) -> Result<()> {
        for name in names {
            let name = format!("{}-{name}", self.namespace);
            let mut all = vec![("shop", self.namespace.as_str())];
            all.extend(labels);
            nodes::add(&self.client, &name, &all).await?;
            let nodes: Api<Node> = Api::all(self.client.clone());
            wait_for(nodes, &name, nodes::schedulable, PATIENCE).await?;
        }
        Ok(())
    }

    /// An Upgrade of the container `web` of one workload from `web:v1` to another image.
    pub async fn upgrade_of(
        &self,
        name: &str,
        (kind, target): (&str, &str),
        to: &str,
        strategy: &Value,
        more: Value,
    ) -> Result<Upgrade> {
        let stages = json!({"stages": [{"name": "web", "workloads": {"strategy": strategy, "targets": [
            {"kind": kind, "name": target,
             "images": [{"container": "web", "from": "web:v1", "to": to}]}]}}]});
        let mut all = more;
        merge(&mut all, stages);
        self.upgrade_with(name, &[], to, strategy, all).await
    }

    /// Images of the pods that are not going, by pod, and by node for a DaemonSet.
    pub async fn runs(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = pods.list(&ListParams::default().labels(&format!("app={name}"))).await?;
        let staying = list.items.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none());
        Ok(staying
            .map(|p| {
                let daemon = p.owner_references().iter().any(|o| o.kind == DAEMON);
                let spec = p.spec.clone().unwrap_or_default();
                let image = spec.containers.first().and_then(|c| c.image.clone());
                let node = spec.node_name.unwrap_or_default();
                let key = if daemon {
                    node.trim_start_matches(&format!("{}-", self.namespace)).to_owned()
                } else {
                    p.name_any()
                };
                (key, image.unwrap_or_default())
            })
            .collect())
    }

    /// Waits until so many pods run `web:v1` and so many another image.
    pub async fn runs_are(&self, name: &str, to: &str, wanted: (usize, usize)) -> Result<()> {
        eventually("the pods", PATIENCE, || async {
            let pods = self.runs(name).await?;
            let count = |image: &str| pods.values().filter(|i| *i == image).count();
            let now = (count("web:v1"), count(to));
            if now == wanted { Ok(()) } else { bail!("{name} is at {now:?}, wanted {wanted:?}") }
        })
        .await
    }

    /// Deletes a pod, as a drain or a person does.
    pub async fn lose(&self, pod: &str) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        pods.delete(pod, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Sets a StatefulSet's replicas.
    pub async fn scale_stateful(&self, name: &str, replicas: i32) -> Result<()> {
        let body = json!({"spec": {"replicas": replicas}});
        let api = self.of_kind(STATEFUL);
        api.patch_scale(name, &PatchParams::default(), &Patch::Merge(&body)).await?;
        Ok(())
    }

    /// Records the ready pods of a workload, from those that are there now on.
    pub async fn watch_ready(&self, name: &str) -> Result<ReadyWatch> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        ReadyWatch::start(pods, &format!("app={name}")).await
    }

    /// Asserts that a workload of any kind carries no mark of ours and its owner's fields.
    ///
    /// # Panics
    /// When it does not.
    pub async fn assert_untouched_kind(&self, kind: &str, before: &DynamicObject) -> Result<()> {
        let name = before.name_any();
        let now = self.of_kind(kind).get(&name).await?;
        let own = |o: &DynamicObject| {
            let mut spec = o.data["spec"].clone();
            if let Some(spec) = spec.as_object_mut() {
                spec.remove("replicas");
            }
            spec["template"]["spec"]["containers"][0]["image"] = Value::Null;
            spec
        };
        assert_eq!(own(&now), own(before), "spec of {kind} {name}");
        assert_eq!(now.labels(), before.labels(), "labels of {name}");
        let without = |o: &DynamicObject| {
            let mut a = o.annotations().clone();
            a.remove("deprecated.daemonset.template.generation");
            a
        };
        assert_eq!(without(&now), without(before), "annotations of {name}");
        let ours = |f: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
            f.manager.as_deref() == Some(FIELD_MANAGER)
        };
        let ours: Vec<_> = now.managed_fields().iter().filter(ours).collect();
        assert!(ours.is_empty(), "managedFields of {name}: {ours:?}");
        Ok(())
    }
}

fn is_settled(object: &DynamicObject, pods: i32) -> bool {
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let wanted = i64::from(pods);
    let seen = number("observedGeneration") >= object.metadata.generation.unwrap_or(0);
    let all = if spec["serviceName"].is_string() {
        ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|f| number(f) == wanted)
            && status["currentRevision"] == status["updateRevision"]
    } else {
        ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"]
            .iter()
            .all(|f| number(f) == wanted)
    };
    seen && all
}

/// The fewest ready pods from the first list on.
pub struct ReadyWatch {
    least: watch::Receiver<Option<usize>>,
    task: AbortHandle,
}

impl ReadyWatch {
    async fn start(pods: Api<Pod>, selector: &str) -> Result<Self> {
        let (sender, mut least) = watch::channel(None::<usize>);
        let config = Config::default().labels(selector);
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(pods, config));
            let (mut ready, mut listed) = (HashMap::new(), false);
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                        ready.insert(pod.uid(), is_ready(&pod));
                    }
                    Ok(Event::Delete(pod)) => {
                        ready.remove(&pod.uid());
                    }
                    Ok(Event::Init) => {
                        ready.clear();
                        listed = false;
                    }
                    Ok(Event::InitDone) => listed = true,
                    Err(_) => {}
                }
                if listed {
                    let now = ready.values().filter(|r| **r).count();
                    sender.send_modify(|l| *l = Some(l.map_or(now, |l| l.min(now))));
                }
            }
        });
        let started = Self { least: least.clone(), task: task.abort_handle() };
        let listed = tokio::time::timeout(PATIENCE, least.wait_for(Option::is_some)).await;
        listed.context("the pods were not listed")??;
        Ok(started)
    }

    /// The fewest ready pods that were seen.
    pub fn least(self) -> Result<usize> {
        self.least.borrow().context("no pods were listed")
    }
}

impl Drop for ReadyWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}
