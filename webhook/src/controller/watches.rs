//! What wakes a round up: one watch for each kind, each with its own backoff, feeding one queue.
//!
//! Deployments, Upgrades and approvals are watched everywhere; ReplicaSets and pods only in
//! namespaces where an Upgrade is under way, and only the parts that the engine reads are kept.

use super::Options;
use super::index::Index;
use super::ledger::of_driver;
use super::notify::Told;
use crate::snapshot::Handle;
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use upgrade_core::api::{
    FIELD_MANAGER, FINALIZER, HELD_ANNOTATION, IN_FLIGHT_LABEL, Upgrade, UpgradeApproval,
};

/// The queue of Upgrades to look at.
pub type Queue = mpsc::UnboundedReceiver<ObjectRef<Upgrade>>;

/// Everything a round reads from.
pub struct Context {
    pub client: Client,
    pub recorder: Recorder,
    pub snapshot: Handle,
    pub upgrades: Store<Upgrade>,
    pub approvals: Store<UpgradeApproval>,
    pub deployments: Store<Deployment>,
    pub stateful_sets: Store<StatefulSet>,
    pub daemon_sets: Store<DaemonSet>,
    pub cron_jobs: Store<CronJob>,
    /// Wakes the ledger up.
    pub ledger: Arc<Notify>,
    /// Wakes up who looks after held Deployments.
    pub held: Arc<Notify>,
    /// Latest version of our own writes, for the watches may lag behind them.
    pub written: Mutex<HashMap<String, u64>>,
    /// Latest Upgrade as we wrote it.
    pub latest: Mutex<HashMap<String, Arc<Upgrade>>>,
    /// Our own namespace.
    pub namespace: String,
    /// Who was told of what is going to start.
    pub told: Told,
    /// Tells schedules to look again: one of them changed, or an Upgrade of one ended.
    pub schedules: Notify,
    local: Mutex<HashMap<String, Arc<Local>>>,
    wake: Wake,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// ReplicaSets and pods of one namespace.
pub struct Local {
    pub sets: Store<ReplicaSet>,
    pub pods: Store<Pod>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Puts Upgrades into the queue.
#[derive(Clone)]
struct Wake {
    queue: mpsc::UnboundedSender<ObjectRef<Upgrade>>,
    upgrades: Store<Upgrade>,
    deployments: Store<Deployment>,
    index: Index,
}

impl Wake {
    fn one(&self, namespace: &str, name: &str) {
        // The queue ends with the process.
        let _ = self.queue.send(ObjectRef::new(name).within(namespace));
    }

    /// Every Upgrade that is not over, of one namespace or of all.
    fn open(&self, namespace: Option<&str>) {
        for upgrade in self.upgrades.state() {
            let here = upgrade.namespace().unwrap_or_default();
            let over = upgrade.status.as_ref().is_some_and(|s| s.phase.is_terminal());
            // One that ended while nobody was here may still have our finalizer.
            let over = over && !upgrade.finalizers().iter().any(|f| f == FINALIZER);
            if !over && namespace.is_none_or(|n| n == here) {
                self.one(&here, &upgrade.name_any());
            }
        }
    }

    /// Upgrades that a Deployment is a target of.
    fn deployment(&self, namespace: &str, name: &str) {
        for upgrade in self.index.of(namespace, name) {
            self.one(namespace, &upgrade);
        }
    }

    /// The Upgrade in flight on the Deployment that controls a ReplicaSet.
    fn replica_set(&self, set: &ReplicaSet) {
        let namespace = set.namespace().unwrap_or_default();
        let owner = set.owner_references().iter().find(|o| o.controller == Some(true));
        let Some(owner) = owner else { return };
        let reference = ObjectRef::new(&owner.name).within(&namespace);
        let label =
            self.deployments.get(&reference).and_then(|d| d.labels().get(IN_FLIGHT_LABEL).cloned());
        match label {
            Some(upgrade) => self.one(&namespace, &upgrade),
            None => self.deployment(&namespace, &owner.name),
        }
    }

    fn pod(&self, pod: &Pod, sets: &Store<ReplicaSet>) {
        let namespace = pod.namespace().unwrap_or_default();
        let owner = pod.owner_references().iter().find(|o| o.controller == Some(true));
        let set = owner.and_then(|o| sets.get(&ObjectRef::new(&o.name).within(&namespace)));
        if let Some(set) = set {
            self.replica_set(&set);
        }
    }
}

/// The writing ends of the stores.
struct Writers {
    upgrades: Writer<Upgrade>,
    approvals: Writer<UpgradeApproval>,
    deployments: Writer<Deployment>,
    stateful_sets: Writer<StatefulSet>,
    daemon_sets: Writer<DaemonSet>,
    cron_jobs: Writer<CronJob>,
}

/// Starts the watches.
pub fn start(options: &Options) -> (Context, Queue) {
    let client = options.client.clone();
    let (sender, queue) = mpsc::unbounded_channel();
    let (upgrades, upgrade_writer) = store();
    let (deployments, deployment_writer) = store();
    let (approvals, approval_writer) = store();
    let (stateful_sets, stateful_set_writer) = store();
    let (daemon_sets, daemon_set_writer) = store();
    let (cron_jobs, cron_job_writer) = store();
    let wake = Wake {
        queue: sender,
        upgrades: upgrades.clone(),
        deployments: deployments.clone(),
        index: Index::default(),
    };
    let ledger = Arc::new(Notify::new());
    let held = Arc::new(Notify::new());
    let writers = Writers {
        upgrades: upgrade_writer,
        approvals: approval_writer,
        deployments: deployment_writer,
        stateful_sets: stateful_set_writer,
        daemon_sets: daemon_set_writer,
        cron_jobs: cron_job_writer,
    };
    let reporter = Reporter {
        controller: "kubectl-upgrade".to_owned(),
        instance: Some(options.identity.clone()),
    };
    let context = Context {
        tasks: watch_everywhere(&client, writers, &wake, [&ledger, &held]),
        recorder: Recorder::new(client.clone(), reporter),
        client,
        snapshot: options.snapshot.clone(),
        upgrades,
        approvals,
        deployments,
        stateful_sets,
        daemon_sets,
        cron_jobs,
        ledger,
        held,
        written: Mutex::default(),
        latest: Mutex::default(),
        namespace: options.namespace.clone(),
        told: Told::default(),
        schedules: Notify::new(),
        local: Mutex::default(),
        wake,
    };
    (context, queue)
}

fn watch_everywhere(
    client: &Client,
    writers: Writers,
    wake: &Wake,
    [ledger, held]: [&Arc<Notify>; 2],
) -> Vec<AbortOnDropHandle<()>> {
    let here = || (wake.clone(), ledger.clone());
    let (wakes, seeds) = here();
    let holds = held.clone();
    // A workload becomes approved when an Upgrade ends: that is news for the ledger, too.
    let upgrade = move |u: &Upgrade, gone: bool| {
        wakes.index.note(u, gone);
        wakes.one(&u.namespace().unwrap_or_default(), &u.name_any());
        seeds.notify_one();
        if u.spec.held {
            holds.notify_one();
        }
    };
    let wakes = wake.clone();
    let approval = move |a: &UpgradeApproval, _: bool| {
        wakes.one(&a.namespace().unwrap_or_default(), &a.spec.upgrade);
    };
    let (wakes, seeds) = here();
    let holds = held.clone();
    let deployment = move |d: &Deployment, _: bool| {
        wakes.deployment(&d.namespace().unwrap_or_default(), &d.name_any());
        seeds.notify_one();
        if d.annotations().contains_key(HELD_ANNOTATION) {
            holds.notify_one();
        }
    };
    let everything = || {
        let (wakes, seeds) = here();
        let holds = held.clone();
        move || {
            wakes.open(None);
            seeds.notify_one();
            holds.notify_one();
        }
    };
    vec![
        watch(Api::all(client.clone()), writers.upgrades, drop_noise, upgrade, everything()),
        watch(Api::all(client.clone()), writers.approvals, drop_noise, approval, everything()),
        watch(
            Api::all(client.clone()),
            writers.deployments,
            prune_deployment,
            deployment,
            everything(),
        ),
        seed(client, writers.stateful_sets, ledger),
        seed(client, writers.daemon_sets, ledger),
        seed(client, writers.cron_jobs, ledger),
    ]
}

/// A watch that only the ledger is interested in.
fn seed<K>(client: &Client, writer: Writer<K>, ledger: &Arc<Notify>) -> AbortOnDropHandle<()>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Watched,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (seen, listed) = (ledger.clone(), ledger.clone());
    let changed = move |_: &K, _: bool| seen.notify_one();
    watch(Api::all(client.clone()), writer, drop_noise, changed, move || listed.notify_one())
}

/// What a kind needs for a watch of ours.
trait Watched: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Watched for K {}

impl Context {
    /// Waits until everything that is watched everywhere has been listed.
    pub async fn ready(&self) {
        debug!(watches = self.tasks.len(), "waiting for the first lists");
        let _ = tokio::join!(
            self.upgrades.wait_until_ready(),
            self.approvals.wait_until_ready(),
            self.deployments.wait_until_ready(),
        );
    }

    /// Waits until everything that the ledger reads has been listed.
    pub async fn ledger_ready(&self) {
        let _ = tokio::join!(
            self.deployments.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
            self.cron_jobs.wait_until_ready(),
        );
    }

    /// ReplicaSets and pods of a namespace, once they have been listed.
    pub async fn local(&self, namespace: &str) -> Arc<Local> {
        let local = {
            let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(namespace.to_owned())
                .or_insert_with(|| Arc::new(self.watch_local(namespace)))
                .clone()
        };
        let _ = tokio::join!(local.sets.wait_until_ready(), local.pods.wait_until_ready());
        local
    }

    /// Wakes every Upgrade that is not over: policies or namespaces changed.
    pub fn wake_all(&self) {
        self.wake.open(None);
    }

    /// Ends the watches of namespaces where nothing is under way any more.
    pub fn forget_local(&self, namespace: &str) {
        let busy = self.upgrades.state().iter().any(|u| {
            u.namespace().as_deref() == Some(namespace)
                && u.status.as_ref().is_some_and(|s| s.phase.is_in_flight())
        });
        if !busy {
            self.local.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace);
        }
    }

    fn watch_local(&self, namespace: &str) -> Local {
        let (sets, set_writer) = store();
        let (pods, pod_writer) = store();
        let listed = || {
            let (wake, namespace) = (self.wake.clone(), namespace.to_owned());
            move || wake.open(Some(&namespace))
        };
        let wake = self.wake.clone();
        let set = move |s: &ReplicaSet, _: bool| wake.replica_set(s);
        let (wake, known) = (self.wake.clone(), sets.clone());
        let pod = move |p: &Pod, _: bool| wake.pod(p, &known);
        let api = Api::namespaced(self.client.clone(), namespace);
        let first = watch(api, set_writer, prune_set, set, listed());
        let api = Api::namespaced(self.client.clone(), namespace);
        let second = watch(api, pod_writer, prune_pod, pod, listed());
        Local { sets, pods, _tasks: [first, second] }
    }
}

/// One watch: keeps the store, and tells of every object that came, changed or went, and of lists.
fn watch<K>(
    api: Api<K>,
    mut writer: Writer<K>,
    prune: fn(&mut K),
    changed: impl Fn(&K, bool) + Send + 'static,
    listed: impl Fn() + Send + 'static,
) -> AbortOnDropHandle<()>
where
    K: Watched,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut stream = std::pin::pin!(events(api, prune));
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    writer.apply_watcher_event(&event);
                    match &event {
                        watcher::Event::Apply(o) | watcher::Event::InitApply(o) => {
                            changed(o, false);
                        }
                        watcher::Event::Delete(o) => changed(o, true),
                        // After a list, everything may have changed; the store is complete now.
                        watcher::Event::InitDone => listed(),
                        watcher::Event::Init => {}
                    }
                }
                Err(error) => {
                    warn!(kind = %K::kind(&K::DynamicType::default()), %error, "watch failed; trying again");
                }
            }
        }
    }))
}

fn events<K>(
    api: Api<K>,
    prune: fn(&mut K),
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Watched,
    K::DynamicType: Default,
{
    watcher(api, watcher::Config::default()).default_backoff().modify(prune)
}

fn drop_noise<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}

/// Of a Deployment's template only the images and labels matter.
fn prune_deployment(deployment: &mut Deployment) {
    // Of the owners of its fields only whether we are one.
    let mut ours = std::mem::take(deployment.managed_fields_mut());
    ours.retain(|f| f.manager.as_deref() == Some(FIELD_MANAGER));
    for entry in &mut ours {
        entry.fields_v1 = None;
    }
    drop_noise(deployment);
    *deployment.managed_fields_mut() = ours;
    let pod = deployment.spec.as_mut().and_then(|s| s.template.spec.as_mut());
    if let Some(pod) = pod {
        prune_containers(pod);
        pod.volumes
            .iter_mut()
            .for_each(|v| v.retain(|v| v.image.is_some() || of_driver(v).is_some()));
    }
}

/// Of a ReplicaSet's pods only the images matter.
fn prune_set(set: &mut ReplicaSet) {
    drop_noise(set);
    let pod = set.spec.as_mut().and_then(|s| s.template.as_mut()).and_then(|t| t.spec.as_mut());
    if let Some(pod) = pod {
        prune_containers(pod);
        pod.volumes = None;
    }
}

/// Of a pod only its readiness and its containers' troubles matter.
fn prune_pod(pod: &mut Pod) {
    drop_noise(pod);
    pod.spec = None;
}

fn prune_containers(pod: &mut k8s_openapi::api::core::v1::PodSpec) {
    let all = pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten());
    for container in all {
        *container = k8s_openapi::api::core::v1::Container {
            name: std::mem::take(&mut container.name),
            image: container.image.take(),
            ..k8s_openapi::api::core::v1::Container::default()
        };
    }
}
