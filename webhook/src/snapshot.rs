//! The watches that feed the decisions: events in, an immutable [`Snapshot`] out.

use crate::hearing;
use crate::metrics::Metrics;
use anyhow::{Result, anyhow};
use arc_swap::ArcSwap;
use futures::stream::{BoxStream, StreamExt, select_all};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use upgrade_core::api::{
    CompatibilityMatrix, MaintenanceWindow, Upgrade, UpgradeLedger, UpgradePolicy,
};
use upgrade_core::policy::Snapshot;

/// What is watched, by name.
pub const RESOURCES: [&str; 6] = [
    "namespaces",
    "upgradepolicies.kubectl-upgrade.dev",
    "upgrades.kubectl-upgrade.dev",
    "upgradeledgers.kubectl-upgrade.dev",
    "maintenancewindows.kubectl-upgrade.dev",
    "compatibilitymatrices.kubectl-upgrade.dev",
];
/// Events taken together before a new snapshot is published.
const BATCH: usize = 512;

/// Access to the newest snapshot.
#[derive(Clone)]
pub struct Handle {
    current: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<()>,
}

impl Handle {
    /// The newest snapshot; never blocks.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Tells of every newer snapshot.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    /// Waits until a snapshot satisfies `enough`, at most `limit`, and gives the newest either way.
    pub async fn load_when(
        &self,
        limit: Duration,
        enough: impl Fn(&Snapshot) -> bool,
    ) -> Arc<Snapshot> {
        let mut changed = self.changed.clone();
        let wait = async {
            while !enough(&self.load()) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
        self.load()
    }
}

/// Starts the watches and the task that follows them.
pub fn start(
    tasks: &mut JoinSet<Result<()>>,
    config: &Config,
    own: &str,
    metrics: &Arc<Metrics>,
    stop: CancellationToken,
) -> Result<Handle> {
    let (follower, handle) = Follower::new(own, Arc::clone(metrics));
    let mut streams = Vec::new();
    for source in Source::ALL {
        // A client of its own: what is heard on its connections is this watch.
        let (metrics, resource) = (Arc::clone(metrics), source.resource());
        let client = hearing::client(config.clone(), move || metrics.heard(resource))?;
        streams.push(stream(source, client));
    }
    tasks.spawn(follower.run(streams, stop));
    Ok(handle)
}

/// What is watched.
#[derive(Clone, Copy, Debug)]
enum Source {
    Namespaces,
    Policies,
    Upgrades,
    Ledgers,
    Windows,
    Matrices,
}

impl Source {
    const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::Policies,
        Self::Upgrades,
        Self::Ledgers,
        Self::Windows,
        Self::Matrices,
    ];

    fn resource(self) -> &'static str {
        RESOURCES[self as usize]
    }
}

/// One object of one source.
enum Object {
    Namespace(PartialObjectMeta<Namespace>),
    Policy(Box<UpgradePolicy>),
    Upgrade(Box<Upgrade>),
    Ledger(UpgradeLedger),
    Window(Box<MaintenanceWindow>),
    Matrix(CompatibilityMatrix),
}

/// Namespace and name; the namespace is empty for cluster-scoped objects.
type Key = (String, String);
type Item = (Source, watcher::Result<Event<Object>>);

#[derive(Default)]
struct Progress {
    listed: bool,
    /// Objects seen so far in the list under way; what is not in it at its end is gone.
    listing: Option<BTreeSet<Key>>,
    known: BTreeSet<Key>,
}

struct Follower {
    state: Snapshot,
    current: Arc<ArcSwap<Snapshot>>,
    sender: watch::Sender<()>,
    sources: [Progress; 6],
    metrics: Arc<Metrics>,
}

impl Follower {
    /// A follower that knows nothing yet, and access to what it will know.
    fn new(own: &str, metrics: Arc<Metrics>) -> (Self, Handle) {
        let state = Snapshot::new(own);
        let current = Arc::new(ArcSwap::from_pointee(state.clone()));
        let (sender, changed) = watch::channel(());
        let follower = Self {
            state,
            current: Arc::clone(&current),
            sender,
            sources: Default::default(),
            metrics,
        };
        (follower, Handle { current, changed })
    }

    async fn run(
        mut self,
        streams: Vec<BoxStream<'static, Item>>,
        stop: CancellationToken,
    ) -> Result<()> {
        let mut events = select_all(streams).ready_chunks(BATCH);
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                batch = events.next() => batch,
            };
            let batch = batch.ok_or_else(|| anyhow!("the watches ended"))?;
            for (source, event) in batch {
                match event {
                    Ok(event) => self.take(source, event),
                    Err(error) => complain(source, &error),
                }
            }
            self.publish();
        }
    }

    fn publish(&mut self) {
        let synced = self.sources.iter().all(|s| s.listed);
        if synced && !self.state.synced() {
            tracing::info!(namespaces = self.state.len(), "every store is synced");
        }
        self.state.set_synced(synced);
        self.metrics.synced.store(synced, Ordering::Relaxed);
        self.current.store(Arc::new(self.state.clone()));
        let _ = self.sender.send(());
    }

    fn take(&mut self, source: Source, event: Event<Object>) {
        match event {
            Event::Init => self.sources[source as usize].listing = Some(BTreeSet::new()),
            Event::InitApply(object) | Event::Apply(object) => self.apply(source, &object),
            Event::Delete(object) => {
                let key = key(&object);
                self.sources[source as usize].known.remove(&key);
                self.remove(source, &key);
            }
            Event::InitDone => {
                let progress = &mut self.sources[source as usize];
                progress.listed = true;
                let listed = progress.listing.take().unwrap_or_default();
                let known = std::mem::replace(&mut progress.known, listed);
                let gone: Vec<_> =
                    known.difference(&self.sources[source as usize].known).cloned().collect();
                for key in gone {
                    self.remove(source, &key);
                }
            }
        }
    }

    fn apply(&mut self, source: Source, object: &Object) {
        let progress = &mut self.sources[source as usize];
        let key = key(object);
        if let Some(listing) = &mut progress.listing {
            listing.insert(key.clone());
        }
        progress.known.insert(key);
        match object {
            Object::Namespace(n) => {
                self.state.set_namespace(&n.name_any(), n.labels().clone());
            }
            Object::Policy(p) => self.state.set_policy(p),
            Object::Upgrade(u) => self.state.set_upgrade(u),
            Object::Ledger(l) => self.state.set_ledger(l),
            Object::Window(w) => self.state.set_window(w),
            Object::Matrix(m) => self.state.set_matrix(m),
        }
    }

    fn remove(&mut self, source: Source, (namespace, name): &Key) {
        match source {
            Source::Namespaces => self.state.remove_namespace(name),
            Source::Policies => self.state.remove_policy(name),
            Source::Upgrades => self.state.remove_upgrade(namespace, name),
            Source::Ledgers => self.state.remove_ledger(namespace),
            Source::Windows => self.state.remove_window(name),
            Source::Matrices => self.state.remove_matrix(name),
        }
    }
}

fn key(object: &Object) -> Key {
    match object {
        Object::Namespace(o) => (String::new(), o.name_any()),
        Object::Policy(o) => (String::new(), o.name_any()),
        Object::Window(o) => (String::new(), o.name_any()),
        Object::Matrix(o) => (String::new(), o.name_any()),
        Object::Upgrade(o) => (o.namespace().unwrap_or_default(), o.name_any()),
        Object::Ledger(o) => (o.namespace().unwrap_or_default(), o.name_any()),
    }
}

fn stream(source: Source, client: Client) -> BoxStream<'static, Item> {
    let all = || watcher::Config::default().timeout(hearing::WATCH_SECONDS);
    // Each watch has a backoff of its own: one that fails must not slow the others down.
    match source {
        Source::Namespaces => tagged(
            source,
            watcher(Api::<PartialObjectMeta<Namespace>>::all(client), all()),
            Object::Namespace,
        ),
        Source::Policies => {
            tagged(source, watcher(Api::<UpgradePolicy>::all(client), all()), |p| {
                Object::Policy(Box::new(p))
            })
        }
        Source::Upgrades => tagged(source, watcher(Api::<Upgrade>::all(client), all()), |u| {
            Object::Upgrade(Box::new(u))
        }),
        Source::Ledgers => {
            tagged(source, watcher(Api::<UpgradeLedger>::all(client), all()), Object::Ledger)
        }
        Source::Windows => {
            tagged(source, watcher(Api::<MaintenanceWindow>::all(client), all()), |w| {
                Object::Window(Box::new(w))
            })
        }
        Source::Matrices => {
            tagged(source, watcher(Api::<CompatibilityMatrix>::all(client), all()), Object::Matrix)
        }
    }
}

fn tagged<K: Send + 'static>(
    source: Source,
    events: impl futures::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    wrap: fn(K) -> Object,
) -> BoxStream<'static, Item> {
    let wrapped = move |event| match event {
        Event::Init => Event::Init,
        Event::InitApply(o) => Event::InitApply(wrap(o)),
        Event::InitDone => Event::InitDone,
        Event::Apply(o) => Event::Apply(wrap(o)),
        Event::Delete(o) => Event::Delete(wrap(o)),
    };
    events.default_backoff().map(move |event| (source, event.map(wrapped))).boxed()
}

fn complain(source: Source, error: &watcher::Error) {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(s))
        | watcher::Error::WatchStartFailed(kube::Error::Api(s)) => Some(s.as_ref()),
        _ => None,
    };
    let resource = source.resource();
    match status {
        Some(s) if s.is_not_found() => tracing::warn!(
            resource,
            "the CustomResourceDefinition is not installed yet: not ready until it is, trying again \
             (kubectl apply -f manifests/crds)"
        ),
        Some(s) if s.is_forbidden() => {
            tracing::warn!(resource, "our service account may not watch this: {}", s.message);
        }
        _ => tracing::warn!(resource, error = %error, "a watch failed, trying again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::api::ObjectMeta;

    fn follower() -> (Follower, Handle) {
        Follower::new("us", Arc::new(Metrics::new(RESOURCES)))
    }

    fn namespace(name: &str) -> Object {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        Object::Namespace(PartialObjectMeta { metadata, ..Default::default() })
    }

    fn list(follower: &mut Follower, source: Source, objects: Vec<Object>) {
        follower.take(source, Event::Init);
        for object in objects {
            follower.take(source, Event::InitApply(object));
        }
        follower.take(source, Event::InitDone);
        follower.publish();
    }

    #[test]
    fn synced_is_every_store_and_a_new_list_forgets_what_is_gone() {
        let (mut follower, handle) = follower();
        list(&mut follower, Source::Namespaces, vec![namespace("a"), namespace("b")]);
        for source in [Source::Policies, Source::Upgrades, Source::Windows, Source::Matrices] {
            list(&mut follower, source, Vec::new());
            assert!(!handle.load().synced());
        }
        list(&mut follower, Source::Ledgers, Vec::new());
        assert!(handle.load().synced());

        // Meanwhile `b` went and `c` came; until the list is through, what was known stays.
        follower.take(Source::Namespaces, Event::Init);
        follower.take(Source::Namespaces, Event::InitApply(namespace("a")));
        follower.publish();
        assert!(handle.load().namespace("b").is_some() && handle.load().synced());
        follower.take(Source::Namespaces, Event::InitApply(namespace("c")));
        follower.take(Source::Namespaces, Event::InitDone);
        follower.publish();
        let has = |name: &str| handle.load().namespace(name).is_some();
        assert_eq!((has("a"), has("b"), has("c")), (true, false, true));
        follower.take(Source::Namespaces, Event::Delete(namespace("a")));
        follower.publish();
        assert!(!has("a"));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_snapshot_that_is_waited_for() {
        let (mut follower, handle) = follower();
        let wanted = handle.load_when(Duration::from_mins(1), |s| s.namespace("a").is_some());
        let arrives = async { list(&mut follower, Source::Namespaces, vec![namespace("a")]) };
        let (snapshot, ()) = tokio::join!(wanted, arrives);
        assert!(snapshot.namespace("a").is_some());
        let late = handle.load_when(Duration::from_millis(5), |s| s.namespace("z").is_some()).await;
        assert!(late.namespace("z").is_none());
    }
}
