//! The container image on a real node: what `install` installs runs, and goes on answering whatever
//! happens to its pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::task::JoinSet;
use upgrade_core::api::{Phase, SYSTEM_NAMESPACE};
use upgrade_sandbox::image::Recipe;
use upgrade_sandbox::scenario::{Shop, canary, is_complete};
use upgrade_sandbox::{ControlPlane, Node, Options, eventually, product, wait_for};

const MINUTE: Duration = Duration::from_mins(1);
/// A replica serves for up to 95 s after SIGTERM.
const DRAINED: Duration = Duration::from_secs(150);

/// A cluster whose only node is a real one, with the product on it.
struct Real {
    cluster: ControlPlane,
    /// What happens to the product in one test must not happen in another.
    turn: Mutex<()>,
}

impl Real {
    async fn start() -> Result<Self> {
        let cluster =
            ControlPlane::start(Options { nodes: 0, node: true, ..Options::default() }).await?;
        let node = cluster.node().context("a node")?;
        let binaries = product::build().await?;
        // A rate that is asked for is one of the binary that is shipped.
        let webhook = if std::env::var_os("RATE").is_some() {
            product::build_static()?
        } else {
            binaries.webhook.clone()
        };
        let image = Recipe::webhook(&webhook).write(&cluster.dir().join("image.tar"))?;
        node.import(&image)?;
        for image in ["web:v1", "web:v2"] {
            node.provide(image)?;
        }
        let installed = std::process::Command::new(&binaries.plugin)
            .env("KUBECONFIG", cluster.kubeconfig())
            .arg("install")
            .output()?;
        let said = String::from_utf8_lossy(&installed.stderr).into_owned();
        anyhow::ensure!(installed.status.success(), "{said}");
        let real = Self { cluster, turn: Mutex::default() };
        real.ready().await?;
        Ok(real)
    }

    async fn ready(&self) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        let outcome = wait_for(api, "upgrade-webhook", is_complete, MINUTE * 3).await;
        outcome.map(drop).with_context(|| self.what_pods_say())
    }

    /// Pods on their way out have left: each serves until nobody holds a connection to it.
    async fn drained(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        let ours = ListParams::default().labels("app.kubernetes.io/name=upgrade-webhook");
        eventually("the pods on their way out to be gone", DRAINED, || async {
            let all = pods.list(&ours).await?.items;
            let going = all.iter().filter(|p| p.metadata.deletion_timestamp.is_some()).count();
            anyhow::ensure!(all.len() == 3 && going == 0, "{} pods, {going} going", all.len());
            Ok(())
        })
        .await
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.cluster.kubectl().args(["-n", SYSTEM_NAMESPACE]).args(args).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A new CA comes, signs every leaf, and the old one stays trusted; time is what is shortened.
    async fn rotate(&self) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.cluster.client().await?, SYSTEM_NAMESPACE);
        let name = "upgrade-webhook-ca";
        let age = async |key: &str, seconds: i64| {
            let then = jiff::Timestamp::now().as_second() - seconds;
            let patch = json!({"stringData": {key: then.to_string()}});
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
        };
        let has = |key: &'static str| {
            move |secret: Option<&Secret>| {
                let data = secret.and_then(|secret| secret.data.as_ref());
                data.is_some_and(|data| data.contains_key(key))
            }
        };
        age("ca.since", 300 * 24 * 3600).await?;
        wait_for(api.clone(), name, has("next.crt"), MINUTE).await?;
        let two = |c: Option<&ValidatingWebhookConfiguration>| {
            let bundle = c
                .and_then(|c| c.webhooks.as_ref())
                .and_then(|w| w.first())
                .and_then(|w| w.client_config.ca_bundle.as_ref());
            bundle.is_some_and(|b| {
                String::from_utf8_lossy(&b.0).matches("BEGIN CERTIFICATE").count() == 2
            })
        };
        let configurations = Api::all(self.cluster.client().await?);
        wait_for(configurations, "kubectl-upgrade", two, MINUTE).await?;
        age("next.since", 2 * 3600).await?;
        wait_for(api.clone(), name, has("old.crt"), MINUTE).await?;
        // Each replica looks every fifteen seconds; all of them are to sign anew under the load.
        tokio::time::sleep(Duration::from_secs(17)).await;
        Ok(())
    }

    fn what_pods_say(&self) -> String {
        let say = |args: &[&str]| {
            let output = self.cluster.kubectl().args(["-n", SYSTEM_NAMESPACE]).args(args).output();
            output
                .map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
        };
        let events = say(&["get", "events", "--sort-by=.lastTimestamp"]);
        let pods = say(&["get", "pods", "-o", "wide"]);
        let logs =
            say(&["logs", "-lapp.kubernetes.io/name=upgrade-webhook", "--tail=15", "--prefix"]);
        format!("{pods}\n{events}\n{logs}")
    }
}

async fn real() -> Option<&'static Real> {
    static REAL: OnceCell<Real> = OnceCell::const_new();
    if let Some(why) = Node::unavailable() {
        println!("skipped: {why}");
        return None;
    }
    match REAL.get_or_try_init(Real::start).await {
        Ok(real) => Some(real),
        Err(error) => panic!("no product on a real node: {error:#}"),
    }
}

/// An image change of `web`, tried without doing it; the API server's answer.
async fn change(deployments: &Api<Deployment>) -> String {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:v9"}]}}}});
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    match deployments.patch("web", &dry, &Patch::Strategic(&patch)).await {
        Ok(_) => "allowed".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn is_ours(answer: &str) -> bool {
    answer.contains("UpgradeRequired")
}

#[tokio::test]
async fn the_image_runs_as_three_replicas() -> Result<()> {
    let started = Instant::now();
    let Some(real) = real().await else { return Ok(()) };
    println!("three replicas ready after {:.1} s", started.elapsed().as_secs_f32());
    let _turn = real.turn.lock().await;
    real.ready().await?;
    let pods: Api<Pod> = Api::namespaced(real.cluster.client().await?, SYSTEM_NAMESPACE);
    let mut pods = pods.list(&ListParams::default()).await?.items;
    // Those of before a restart drain for a while.
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    assert_eq!(pods.len(), 3);
    for spec in pods.into_iter().filter_map(|pod| pod.spec) {
        assert_eq!(spec.node_name.as_deref(), Some(upgrade_sandbox::node::NAME));
        assert_eq!(spec.priority_class_name.as_deref(), Some("system-cluster-critical"));
        let security = spec.containers[0].security_context.clone().context("a context")?;
        assert_eq!(security.read_only_root_filesystem, Some(true));
    }
    let namespaces: Api<Namespace> = Api::all(real.cluster.client().await?);
    let labels = namespaces.get(SYSTEM_NAMESPACE).await?.metadata.labels.unwrap_or_default();
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");

    let shop = Shop::open(&real.cluster, 0).await?;
    shop.deploy("web", 2, json!({})).await?;
    let answer = change(&shop.deployments()).await;
    assert!(is_ours(&answer), "{answer}");
    shop.upgrade("web-v2", &["web"], "web:v2", &canary(&["50", "100"])).await?;
    shop.phase("web-v2", Phase::Completed).await?;
    shop.split_is("web", "web:v2", (0, 2)).await?;
    Ok(())
}

/// Calls that are out at once at the most, as of a client with a limit of its own.
const OUTSTANDING: usize = 32;

/// Image changes at an even rate.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<(Duration, Duration, String)>>,
}

impl Load {
    fn start(deployments: Api<Deployment>, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (started, mut calls) = (Instant::now(), JoinSet::new());
            let turns = Arc::new(Semaphore::new(OUTSTANDING));
            // What is missed while all are out is made up for: the rate is that of the whole.
            let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { break };
                let deployments = deployments.clone();
                calls.spawn(async move {
                    let begun = Instant::now();
                    let answer = change(&deployments).await;
                    drop(turn);
                    (begun - started, begun.elapsed(), answer)
                });
            }
            calls.join_all().await
        });
        Self { stop, task }
    }

    /// Every call: when it began, how long it took, and the answer.
    async fn finish(self) -> Result<Vec<(Duration, Duration, String)>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_fails_while_replicas_and_certificates_come_and_go() -> Result<()> {
    let Some(real) = real().await else { return Ok(()) };
    let _turn = real.turn.lock().await;
    real.ready().await?;
    let shop = Shop::open(&real.cluster, 0).await?;
    shop.deploy("web", 1, json!({})).await?;
    eventually("the policy to hold", MINUTE, || async {
        let answer = change(&shop.deployments()).await;
        anyhow::ensure!(is_ours(&answer), "{answer}");
        Ok(())
    })
    .await?;
    let user = real.cluster.client_for("alice", &["system:masters"]).await?;
    let rate = sustained(&Api::namespaced(user.clone(), &shop.namespace)).await;
    println!("{rate} calls a second");
    let load = Load::start(Api::namespaced(user, &shop.namespace), rate);
    let begun = Instant::now();
    let mut marks = Vec::new();
    let story = async {
        let mut mark =
            |what: &str| marks.push(format!("{:6.1} s {what}", begun.elapsed().as_secs_f32()));
        mark("rolling restart");
        real.kubectl(&["rollout", "restart", "deployment/upgrade-webhook"])?;
        real.ready().await?;
        real.drained().await?;
        mark("rotation of the CA, and of every leaf");
        real.rotate().await?;
        mark("a pod is deleted");
        let pods = real.kubectl(&["get", "pods", "-o", "name"])?;
        let pod = pods.lines().next().context("no pod")?;
        real.kubectl(&["delete", pod, "--wait=false"])?;
        real.ready().await?;
        real.drained().await?;
        mark("SIGTERM to a container");
        let node = real.cluster.node().context("a node")?;
        let container = node.containers("upgrade-webhook")?.swap_remove(0);
        node.signal(&container, "SIGTERM")?;
        eventually("the container to be gone", DRAINED, || async {
            anyhow::ensure!(!node.containers("upgrade-webhook")?.contains(&container));
            Ok(())
        })
        .await?;
        real.ready().await?;
        mark("end");
        anyhow::Ok(())
    };
    // The load has threads of its own: a burst after a pause would be another test.
    let told = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(story));
    let calls = load.finish().await?;
    println!("{}", marks.join("\n"));
    report(&calls);
    told?;
    let failed = calls.iter().filter(|(_, _, answer)| !is_ours(answer)).count();
    assert_eq!(failed, 0, "failed calls");
    let enough = usize::try_from(rate * 30)?;
    assert!(calls.len() >= enough, "{} calls", calls.len());
    Ok(())
}

/// How many calls a second this machine has room for: 100, or a quarter of what it does at the most. API
/// server, node, replicas and the caller share its processors, and a machine that is full fails
/// calls whatever the replicas do. `RATE` sets it.
async fn sustained(deployments: &Api<Deployment>) -> u64 {
    let asked = std::env::var("RATE").ok().and_then(|rate| rate.parse().ok());
    if let Some(rate) = asked {
        return rate;
    }
    let begun = Instant::now();
    let (mut calls, mut done) = (JoinSet::new(), 0_u64);
    while begun.elapsed() < Duration::from_secs(5) {
        while calls.len() < 8 {
            let deployments = deployments.clone();
            calls.spawn(async move { change(&deployments).await });
        }
        done += u64::from(calls.join_next().await.is_some());
    }
    println!("{} calls a second at the most", done / 5);
    (done / 5 / 4).clamp(5, 100)
}

/// Figures, and what failed when.
fn report(calls: &[(Duration, Duration, String)]) {
    let failed: Vec<_> = calls.iter().filter(|(_, _, answer)| !is_ours(answer)).collect();
    let mut took: Vec<Duration> = calls.iter().map(|(_, took, _)| *took).collect();
    took.sort();
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    let last = calls.iter().map(|(begun, ..)| *begun).max().unwrap_or_default();
    println!(
        "{} failed calls of {}, {:.1} a second",
        failed.len(),
        calls.len(),
        f64::from(u32::try_from(calls.len()).unwrap_or(u32::MAX)) / last.as_secs_f64()
    );
    println!("median {:?}, p99 {:?}, slowest {:?}", at(50), at(99), took.last());
    let mut slow = BTreeMap::<u64, usize>::new();
    for (begun, ..) in calls.iter().filter(|(_, took, _)| took.as_secs() >= 1) {
        *slow.entry(begun.as_secs()).or_default() += 1;
    }
    println!("took a second or more, by the second in which they began: {slow:?}");
    let mut seconds = BTreeMap::<u64, (usize, &str)>::new();
    for (begun, _, answer) in failed {
        seconds.entry(begun.as_secs()).or_insert((0, answer)).0 += 1;
    }
    for (second, (count, answer)) in seconds {
        println!("{count} begun in second {second} failed, for instance with: {answer:.300}");
    }
}

#[tokio::test]
async fn killed_at_once_they_refuse_image_changes_and_nothing_else() -> Result<()> {
    let Some(real) = real().await else { return Ok(()) };
    let _turn = real.turn.lock().await;
    real.ready().await?;
    let node = real.cluster.node().context("a node")?;
    let shop = Shop::open(&real.cluster, 0).await?;
    shop.deploy("web", 1, json!({})).await?;
    let deployments = shop.deployments();
    let containers = eventually("three containers", MINUTE, || async {
        let all = node.containers("upgrade-webhook")?;
        anyhow::ensure!(all.len() == 3, "{} containers", all.len());
        Ok(all)
    })
    .await?;
    // At once, or the first would serve again before the last is gone.
    std::thread::scope(|scope| {
        let kills: Vec<_> = containers
            .iter()
            .map(|container| scope.spawn(move || node.signal(container, "SIGKILL")))
            .collect();
        kills.into_iter().try_for_each(|k| k.join().expect("a thread"))
    })?;
    let down = change(&deployments).await;
    assert!(without_us(&down), "{down}");
    shop.scale("web", 2).await?;
    let killed = Instant::now();
    // The very first verdict has to be right.
    let first = eventually("a verdict", MINUTE, || async {
        let answer = change(&deployments).await;
        if answer.contains("does not answer") {
            // The floor, once the endpoints are known to be gone: it names the way out.
            anyhow::ensure!(answer.contains("kubectl upgrade break-glass"), "{answer}");
        }
        anyhow::ensure!(!without_us(&answer), "{answer}");
        Ok(answer)
    })
    .await?;
    assert!(is_ours(&first), "{first}");
    println!("the first verdict came {:.1} s after the end of all", killed.elapsed().as_secs_f32());
    shop.complete("web").await?;
    real.ready().await
}

/// What the API server says of an image change while none of us answers: its own words, or those of
/// the floor.
fn without_us(answer: &str) -> bool {
    answer.contains("failed calling webhook") || answer.contains("upgrade-webhook does not answer")
}

#[tokio::test]
async fn nothing_of_a_node_outlives_its_guardian() -> Result<()> {
    if let Some(why) = Node::unavailable() {
        println!("skipped: {why}");
        return Ok(());
    }
    let options = Options { nodes: 0, node: true, ..Options::default() };
    let cluster = ControlPlane::start(options).await?;
    let node = cluster.node().context("a node")?;
    node.provide("web:v1")?;
    let run = ["run", "web", "--image=web:v1", "--restart=Never"];
    assert!(cluster.kubectl().args(run).output()?.status.success());
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, "default");
    let runs = |pod: Option<&Pod>| {
        let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        phase == Some("Running")
    };
    wait_for(pods, "web", runs, MINUTE).await?;
    let name = cluster.dir().file_name().context("a name")?.to_owned();
    let link = std::path::Path::new("/sys/class/net").join(node.interface());
    assert!(link.exists() && node.alive());

    let guardian = cluster.guardian_pid().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &guardian]).status()?.success());
    eventually("the node to end", MINUTE, || async {
        anyhow::ensure!(!node.alive(), "its first process lives");
        anyhow::ensure!(!link.exists(), "its link is there");
        Ok(())
    })
    .await?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&*name.to_string_lossy()), "{mounts}");
    // What no namespace holds goes with the next guardian.
    drop(upgrade_sandbox::guard::Guardian::launch()?);
    let root = std::path::Path::new("/sys/fs/cgroup");
    for hierarchy in std::fs::read_dir(root)?.flatten().map(|entry| entry.path()) {
        assert!(!hierarchy.join(&name).exists(), "{} is left", hierarchy.display());
    }
    assert!(!root.join(&name).exists() && !cluster.dir().exists());
    Ok(())
}
