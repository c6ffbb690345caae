//! What a rollout did to availability, from the watch's own events: nothing between two polls is
//! missed, because nothing is polled.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event, watch_object, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long the watch may lag behind a list.
const PATIENCE: Duration = Duration::from_mins(1);

/// The pods after one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When the event arrived.
    pub at: jiff::Timestamp,
    /// The Deployment's `spec.replicas` as last seen.
    pub replicas: Option<i32>,
    /// Pods that are Ready and not being deleted.
    pub ready: usize,
    /// Pods that are neither being deleted nor finished.
    pub live: usize,
    /// Pods that the ReplicaSets ask for together: what maxSurge limits.
    pub desired: i32,
    /// Ready pods by the image of their first container.
    pub ready_by_image: BTreeMap<String, usize>,
    /// Live pods by the image of their first container.
    pub live_by_image: BTreeMap<String, usize>,
}

/// What was seen, from the start of the watch to its end.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The fewest Ready pods at any moment.
    pub min_ready: usize,
    /// The most pods that the ReplicaSets asked for at any moment: what maxSurge limits.
    ///
    /// Not a count of pods: two ReplicaSets are worked on at once, so natively, too, a pod of one
    /// may come before a pod of the other goes (seen on 1.36.3 on a busy machine).
    pub max_desired: i32,
    /// Every distinct state, oldest first.
    pub trace: Vec<Sample>,
}

impl Observed {
    /// The fewest Ready pods with this image at any moment.
    pub fn min_ready_of(&self, image: &str) -> usize {
        self.ready_of(image).min().unwrap_or(0)
    }

    /// The most Ready pods with this image at any moment.
    pub fn max_ready_of(&self, image: &str) -> usize {
        self.ready_of(image).max().unwrap_or(0)
    }

    fn ready_of(&self, image: &str) -> impl Iterator<Item = usize> {
        self.trace.iter().map(move |sample| sample.ready_by_image.get(image).copied().unwrap_or(0))
    }
}

#[derive(Clone)]
struct Seen {
    version: String,
    image: String,
    ready: bool,
    live: bool,
}

#[derive(Default)]
struct Recorder {
    pods: HashMap<String, Seen>,
    relisted: HashMap<String, Seen>,
    sets: HashMap<String, i32>,
    relisted_sets: HashMap<String, i32>,
    replicas: Option<i32>,
    listed: bool,
    listed_sets: bool,
    trace: Vec<Sample>,
}

type Shared = Arc<Mutex<Recorder>>;

/// Records until [`MinimumWatch::finish`].
pub struct MinimumWatch {
    recorder: Shared,
    changed: watch::Receiver<()>,
    pods: Api<Pod>,
    selector: String,
    tasks: [AbortHandle; 3],
}

fn lock(shared: &Shared) -> MutexGuard<'_, Recorder> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MinimumWatch {
    /// Starts to watch the pods with these labels, and the Deployment; returns once both have been
    /// listed.
    pub async fn start(
        client: Client,
        namespace: &str,
        selector: &str,
        deployment: &str,
    ) -> Result<Self> {
        let recorder = Shared::default();
        let (sender, mut changed) = watch::channel(());
        let sender = Arc::new(sender);
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let sets = Api::<ReplicaSet>::namespaced(client.clone(), namespace);
        let deployments = Api::<Deployment>::namespaced(client, namespace);
        let config = watcher::Config::default().labels(selector);

        let (shared, notify, mut events) = (
            Arc::clone(&recorder),
            Arc::clone(&sender),
            Box::pin(watcher(pods.clone(), config.clone())),
        );
        let pod_task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Ok(event) = event {
                    lock(&shared).pod(event);
                    notify.send_replace(());
                }
            }
        });
        let (shared, notify, mut events) =
            (Arc::clone(&recorder), Arc::clone(&sender), Box::pin(watcher(sets, config)));
        let set_task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Ok(event) = event {
                    lock(&shared).set(event);
                    notify.send_replace(());
                }
            }
        });
        let (shared, mut objects) =
            (Arc::clone(&recorder), Box::pin(watch_object(deployments, deployment)));
        let deployment_task = tokio::spawn(async move {
            while let Some(object) = objects.next().await {
                if let Ok(object) = object {
                    let spec = object.and_then(|object| object.spec);
                    lock(&shared).replicas(spec.and_then(|spec| spec.replicas));
                    sender.send_replace(());
                }
            }
        });
        let tasks =
            [pod_task.abort_handle(), set_task.abort_handle(), deployment_task.abort_handle()];
        let started = async {
            while !lock(&recorder).started() {
                changed.changed().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, started)
            .await
            .with_context(|| format!("no list of pods {selector} and Deployment {deployment}"))??;
        let selector = selector.to_owned();
        Ok(Self { recorder, changed, pods, selector, tasks })
    }

    /// Waits until the watch has caught up with a list made now, and returns what was seen.
    pub async fn finish(mut self) -> Result<Observed> {
        let params = ListParams::default().labels(&self.selector);
        let caught_up = async {
            loop {
                self.changed.mark_unchanged();
                let list = self.pods.list(&params).await?;
                if lock(&self.recorder).equals(&list.items) {
                    return anyhow::Ok(());
                }
                self.changed.changed().await?;
            }
        };
        tokio::time::timeout(PATIENCE, caught_up)
            .await
            .context("the pods do not come to rest, or the watch does not keep up")??;
        let trace = std::mem::take(&mut lock(&self.recorder).trace);
        Ok(Observed {
            min_ready: trace.iter().map(|sample| sample.ready).min().unwrap_or(0),
            max_desired: trace.iter().map(|sample| sample.desired).max().unwrap_or(0),
            trace,
        })
    }
}

impl Drop for MinimumWatch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Recorder {
    fn started(&self) -> bool {
        self.listed && self.listed_sets && self.replicas.is_some()
    }

    fn replicas(&mut self, replicas: Option<i32>) {
        self.replicas = replicas;
        self.sample();
    }

    fn pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.relisted.clear(),
            Event::InitApply(pod) => {
                self.relisted.insert(pod.uid().unwrap_or_default(), Seen::from(&pod));
            }
            Event::InitDone => {
                self.pods = std::mem::take(&mut self.relisted);
                self.listed = true;
            }
            Event::Apply(pod) => {
                self.pods.insert(pod.uid().unwrap_or_default(), Seen::from(&pod));
            }
            Event::Delete(pod) => {
                self.pods.remove(&pod.uid().unwrap_or_default());
            }
        }
        self.sample();
    }

    fn set(&mut self, event: Event<ReplicaSet>) {
        let asked = |set: &ReplicaSet| {
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            (set.uid().unwrap_or_default(), wanted)
        };
        match event {
            Event::Init => self.relisted_sets.clear(),
            Event::InitApply(set) => self.relisted_sets.extend([asked(&set)]),
            Event::InitDone => {
                self.sets = std::mem::take(&mut self.relisted_sets);
                self.listed_sets = true;
            }
            Event::Apply(set) => self.sets.extend([asked(&set)]),
            Event::Delete(set) => {
                self.sets.remove(&set.uid().unwrap_or_default());
            }
        }
        self.sample();
    }

    fn sample(&mut self) {
        if !self.started() {
            return;
        }
        let count = |which: fn(&Seen) -> bool| {
            let mut images = BTreeMap::new();
            for pod in self.pods.values().filter(|pod| which(pod)) {
                *images.entry(pod.image.clone()).or_default() += 1;
            }
            images
        };
        let (ready_by_image, live_by_image) = (count(|pod| pod.ready), count(|pod| pod.live));
        let sample = Sample {
            at: jiff::Timestamp::now(),
            replicas: self.replicas,
            ready: ready_by_image.values().sum(),
            live: live_by_image.values().sum(),
            desired: self.sets.values().sum(),
            ready_by_image,
            live_by_image,
        };
        let same = |last: &Sample| Sample { at: sample.at, ..last.clone() } == sample;
        if !self.trace.last().is_some_and(same) {
            self.trace.push(sample);
        }
    }

    fn equals(&self, pods: &[Pod]) -> bool {
        let known = |pod: &Pod| {
            let seen = pod.uid().and_then(|uid| self.pods.get(&uid));
            seen.is_some_and(|seen| Some(&seen.version) == pod.metadata.resource_version.as_ref())
        };
        self.pods.len() == pods.len() && pods.iter().all(known)
    }
}

impl From<&Pod> for Seen {
    fn from(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let live =
            pod.metadata.deletion_timestamp.is_none() && !matches!(phase, "Succeeded" | "Failed");
        let ready = status
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        let first = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        Self {
            version: pod.metadata.resource_version.clone().unwrap_or_default(),
            image: first.and_then(|container| container.image.clone()).unwrap_or_default(),
            ready: live && ready,
            live,
        }
    }
}
