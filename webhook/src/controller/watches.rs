//! What wakes a round up: one watch for each kind, each with its own backoff, feeding one queue.
//!
//! Workloads, Upgrades and approvals are watched everywhere; ReplicaSets, controller revisions and
//! pods only in namespaces where an Upgrade is under way, and only the parts that the engine reads
//! are kept. Nodes are watched from the first time that a canary names some.

use super::Options;
use super::index::Index;
use super::notify::Told;
use super::objects::Watches;
use super::observe::version;
use super::prune::{
    drop_noise, prune_daemon_set, prune_deployment, prune_node, prune_pod, prune_revision,
    prune_set, prune_stateful_set,
};
use super::questions::Asked;
use crate::snapshot::Handle;
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use upgrade_core::api::{FINALIZER, HELD_ANNOTATION, IN_FLIGHT_LABEL, Upgrade, UpgradeApproval};
use upgrade_core::policy::snapshot::targets;

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
    /// Objects that Upgrades under way look at.
    pub watched: Watches,
    /// Questions that Upgrades under way have asked.
    pub asked: Asked,
    local: Mutex<HashMap<String, Arc<Local>>>,
    nodes: OnceLock<(Store<Node>, AbortOnDropHandle<()>)>,
    wake: Wake,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// ReplicaSets, controller revisions and pods of one namespace.
pub struct Local {
    pub sets: Store<ReplicaSet>,
    pub revisions: Store<ControllerRevision>,
    pub pods: Store<Pod>,
    _tasks: [AbortOnDropHandle<()>; 3],
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
            let status = upgrade.status.as_ref();
            let over = status.is_some_and(|s| s.phase.is_terminal() && s.notifications.is_empty());
            // One that ended while nobody was here may still have our finalizer.
            let over = over && !upgrade.finalizers().iter().any(|f| f == FINALIZER);
            if !over && namespace.is_none_or(|n| n == here) {
                self.one(&here, &upgrade.name_any());
            }
        }
    }

    /// Upgrades that a workload is a target of.
    fn workload(&self, namespace: &str, name: &str) {
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
            None => self.workload(&namespace, &owner.name),
        }
    }

    fn pod(&self, pod: &Pod, sets: &Store<ReplicaSet>) {
        let namespace = pod.namespace().unwrap_or_default();
        let owner = pod.owner_references().iter().find(|o| o.controller == Some(true));
        let Some(owner) = owner else { return };
        if owner.kind != "ReplicaSet" {
            return self.workload(&namespace, &owner.name);
        }
        if let Some(set) = sets.get(&ObjectRef::new(&owner.name).within(&namespace)) {
            self.replica_set(&set);
        }
    }

    fn revision(&self, revision: &ControllerRevision) {
        let namespace = revision.namespace().unwrap_or_default();
        let owner = revision.owner_references().iter().find(|o| o.controller == Some(true));
        if let Some(owner) = owner {
            self.workload(&namespace, &owner.name);
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
        watched: Watches::default(),
        asked: Asked::default(),
        schedules: Notify::new(),
        local: Mutex::default(),
        nodes: OnceLock::new(),
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
        let namespace = u.namespace().unwrap_or_default();
        wakes.one(&namespace, &u.name_any());
        // Whoever waits for the workloads of one that ends is next.
        if gone || u.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
            targets(u).for_each(|t| wakes.workload(&namespace, &t.name));
        }
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
        wakes.workload(&d.namespace().unwrap_or_default(), &d.name_any());
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
        driven(client, writers.stateful_sets, prune_stateful_set, wake, ledger),
        driven(client, writers.daemon_sets, prune_daemon_set, wake, ledger),
        seed(client, writers.cron_jobs, ledger),
    ]
}

/// A watch of workloads that Upgrades may be about.
fn driven<K>(
    client: &Client,
    writer: Writer<K>,
    prune: fn(&mut K),
    wake: &Wake,
    ledger: &Arc<Notify>,
) -> AbortOnDropHandle<()>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Watched,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (wakes, seen) = (wake.clone(), ledger.clone());
    let changed = move |object: &K, _: bool| {
        wakes.workload(&object.namespace().unwrap_or_default(), &object.name_any());
        seen.notify_one();
    };
    let (wakes, seen) = (wake.clone(), ledger.clone());
    let listed = move || {
        wakes.open(None);
        seen.notify_one();
    };
    watch(Api::all(client.clone()), writer, prune, changed, listed)
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
            self.stateful_sets.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
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

    /// Nodes, once they have been listed. That one changes is no reason for a round: a pod comes
    /// or goes with it.
    pub async fn nodes(&self) -> &Store<Node> {
        let (nodes, _) = self.nodes.get_or_init(|| {
            let (nodes, writer) = store();
            let wake = self.wake.clone();
            let api = Api::all(self.client.clone());
            (nodes, watch(api, writer, prune_node, |_: &Node, _| {}, move || wake.open(None)))
        });
        // Its end is the end of the process.
        let _ = nodes.wait_until_ready().await;
        nodes
    }

    /// ReplicaSets, revisions and pods of a namespace, once they have been listed.
    pub async fn local(&self, namespace: &str) -> Arc<Local> {
        let local = {
            let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(namespace.to_owned())
                .or_insert_with(|| Arc::new(self.watch_local(namespace)))
                .clone()
        };
        let _ = tokio::join!(
            local.sets.wait_until_ready(),
            local.revisions.wait_until_ready(),
            local.pods.wait_until_ready()
        );
        local
    }

    /// What puts one Upgrade into the queue.
    pub fn waker(&self, namespace: &str, name: &str) -> impl Fn() + Send + 'static {
        let (wake, namespace, name) = (self.wake.clone(), namespace.to_owned(), name.to_owned());
        move || wake.one(&namespace, &name)
    }

    /// Remembers how new our own write is.
    pub fn note<K: Resource>(&self, written: &K) {
        if let Some(uid) = written.uid() {
            let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(uid, version(written));
        }
    }

    /// Remembers that we deleted something: whoever still sees it is behind.
    pub fn note_gone(&self, uid: &str) {
        let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(uid.to_owned(), u64::MAX);
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
        let (revisions, revision_writer) = store();
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
        let wake = self.wake.clone();
        let revision = move |r: &ControllerRevision, _: bool| wake.revision(r);
        let api = Api::namespaced(self.client.clone(), namespace);
        let third = watch(api, revision_writer, prune_revision, revision, listed());
        Local { sets, revisions, pods, _tasks: [first, second, third] }
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
