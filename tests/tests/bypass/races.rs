//! Rows 46 to 49: time, old words, and requests that are meant to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ground::{Ground, People, SOON, User, all, free, governed, refusal};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upgrade_sandbox::{ControlPlane, Options, eventually, product};

/// A way to the API server whose connections can be made to fall silent, as a network can: nothing
/// comes through any more, and nobody is told. Those opened later work.
struct Wire {
    port: u16,
    silent: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Wire {
    async fn to(url: &str) -> Result<Self> {
        let server = url.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let silent: Arc<Mutex<Vec<Arc<AtomicBool>>>> = Arc::default();
        let all = silent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let flag = Arc::new(AtomicBool::new(false));
                all.lock().unwrap_or_else(PoisonError::into_inner).push(flag.clone());
                tokio::spawn(carry(client, server.clone(), flag));
            }
        });
        Ok(Self { port, silent })
    }

    /// Everything that is connected now falls silent.
    fn cut(&self) {
        let all = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
    }
}

async fn carry(client: TcpStream, server: String, silent: Arc<AtomicBool>) -> Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from_server.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if !silent.load(Ordering::SeqCst) {
            to_client.write_all(&buffer[..count]).await?;
        }
    }
}

/// A second replica, which serves admission alone, behind a wire.
struct Replica {
    _process: upgrade_sandbox::Process,
    wire: Wire,
    url: String,
    probes: String,
}

impl Replica {
    async fn start(
        cluster: &ControlPlane,
        product: &product::Product,
        people: &People,
    ) -> Result<Self> {
        let wire = Wire::to(cluster.url()).await?;
        let config = std::fs::read_to_string(people.kubeconfig(User::Us))?;
        let behind = format!("https://127.0.0.1:{}", wire.port);
        ensure!(config.contains(cluster.url()), "the kubeconfig names another server");
        let path = cluster.dir().join("second.kubeconfig");
        std::fs::write(&path, config.replace(cluster.url(), &behind))?;
        let [port, probes] = free_ports()?;
        let argv = [
            product.binaries().webhook.display().to_string(),
            "--no-controller".into(),
            format!("--kubeconfig={}", path.display()),
            format!("--listen=127.0.0.1:{port}"),
            format!("--metrics-listen=127.0.0.1:{probes}"),
            "--namespace=kubectl-upgrade-system".into(),
            "--san=127.0.0.1".into(),
        ];
        let process = cluster.spawn("second", argv, [("RUST_LOG", "info")]).await?;
        let probes = format!("127.0.0.1:{probes}");
        eventually("the second replica", SOON, || product::get(&probes, "/readyz"))
            .await
            .with_context(|| process.log_tail(20))?;
        Ok(Self { _process: process, wire, url: format!("https://127.0.0.1:{port}"), probes })
    }
}

fn free_ports() -> Result<[u16; 2]> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0");
    let (a, b) = (bind()?, bind()?);
    Ok([a.local_addr()?.port(), b.local_addr()?.port()])
}

/// Sends all admission to one replica.
fn ask(g: &Ground, url: &str) {
    for (kind, path) in [("validating", "/validate"), ("mutating", "/mutate")] {
        let kind = format!("{kind}webhookconfiguration");
        let count = g.field(&format!("{kind}/kubectl-upgrade"), ".webhooks[*].name");
        let operations: Vec<_> = (0..count.split(' ').count())
            .map(|n| {
                json!({"op": "replace", "path": format!("/webhooks/{n}/clientConfig/url"),
                    "value": format!("{url}{path}")})
            })
            .collect();
        let patch = json!(operations).to_string();
        g.passes(User::Admin, &["patch", &kind, "kubectl-upgrade", "--type=json", "-p", &patch]);
    }
}

/// The write of a leader that does not know yet that it no longer is one, or that somebody said no.
fn forward(image: &str) -> String {
    let held = image == "web:v2";
    let mut patch = json!({"metadata": {"labels": {"kubectl-upgrade.dev/upgrade": "web-v2"}},
        "spec": {"paused": false,
            "template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
    if held {
        patch["spec"]["minReadySeconds"] = json!(2_147_483_646);
        patch["spec"]["progressDeadlineSeconds"] = json!(2_147_483_647);
    }
    patch.to_string()
}

/// One replica is told of the abort, another judges with what it knew before it: the write still
/// has to be refused, because it is the Upgrade as it is now that decides.
pub async fn row_46_abort_and_apply_through_two_replicas() -> Result<()> {
    // A control plane of its own: where admission goes is the whole cluster's.
    let cluster: &'static ControlPlane =
        Box::leak(Box::new(ControlPlane::start(Options::default()).await?));
    let mut first = product::install_with(cluster, &["--lease-duration", "2"]).await?;
    let g = Ground::open(cluster, People::of(cluster)?).await?;
    g.creates(User::Admin, &g.workload("Deployment", "web", "web:v1"))?;
    g.govern(&json!({"workloads": {"all": true}, "approvals": {"required": 0}})).await?;
    g.noted("Deployment", "web", "web:v1").await?;
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "Paused").await?;
    let second = Replica::start(cluster, &first, &g.people).await?;
    ask(&g, &second.url);
    // What it says shows what it knows.
    let stale = async |what: &str| {
        eventually(what, SOON, || async {
            let args = ["set", "image", "deploy/web", "app=web:v3", "--dry-run=server"];
            let text = g.run(User::Alice, &args).err().context("passed")?.to_string();
            text.contains("Upgrade web-v2 (Paused").then_some(()).context(text)
        })
        .await
    };
    stale("the second replica to answer").await?;
    // A watch lasts 15 s: from its beginning on there is the most time until the next one.
    eventually("a watch that has just begun", SOON, || async {
        let text = product::get(&second.probes, "/metrics").await?;
        let line =
            r#"kubectl_upgrade_watch_silence_seconds{resource="upgrades.kubectl-upgrade.dev"} 0"#;
        text.lines().any(|l| l == line).then_some(()).context("not just now")
    })
    .await?;
    // The process alone: the second replica answers, so nobody says that nobody does.
    first.webhook().kill()?;
    first.webhook().wait_exit().await;
    second.wire.cut();

    // Asked for, seen by nobody: the controller is gone, the other replica hears nothing.
    eventually("the abort", SOON, || async {
        g.steer("web-v2", json!({"control": {"abort": true}})).await
    })
    .await?;
    stale("the second replica to know nothing").await?;
    let ours = |image: &str| g.run(User::Us, &["patch", "deploy", "web", "-p", &forward(image)]);
    // Its old images it may write still; once it has, there is no way forward.
    eventually("the way back", SOON, || async { ours("web:v1") }).await?;
    refused_live(&ours, "taken back").await?;
    assert_eq!(g.image(), "web:v1");

    // Over, and the second replica still believes that it is under way.
    first.restart(cluster).await?;
    g.phase("web-v2", "Aborted").await?;
    stale("the second replica to be behind").await?;
    refused_live(&ours, "it is Aborted").await?;
    // Nor does a name that is gone cover anything.
    g.passes(User::Alice, &["delete", "upgrade", "web-v2"]);
    refused_live(&ours, "there is no Upgrade").await?;
    assert_eq!(g.image(), "web:v1");
    first.kill().await?;
    Ok(())
}

/// A refusal by what is read live; one because nothing could be read is a refusal, too, and not
/// the one that is to be shown.
async fn refused_live(write: &impl Fn(&str) -> Result<String>, says: &str) -> Result<()> {
    eventually("the refusal", SOON, || async {
        let text = refusal(write("web:v2"), &[]);
        text.contains(says).then_some(()).context(text)
    })
    .await
}

pub async fn row_47_an_old_approval() -> Result<()> {
    let g = governed().await?;
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "AwaitingApproval").await?;
    let old = g.approval("web-v2").await?;
    g.creates(User::Bob, &old)?;
    g.phase("web-v2", "Paused").await?;
    g.not_created(User::Bob, &old, &["WrongPhase"]);
    g.steer("web-v2", json!({"control": {"abort": true}})).await?;
    g.phase("web-v2", "Aborted").await?;
    g.passes(User::Alice, &["delete", "upgrade", "web-v2"]);
    // The same plan under the same name is another Upgrade.
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "AwaitingApproval").await?;
    g.not_created(User::Bob, &old, &["StalePlan", "uid"]);
    let mut other = g.approval("web-v2").await?;
    other["spec"]["planHash"] = json!(format!("sha256:{}", "0".repeat(64)));
    g.not_created(User::Bob, &other, &["StalePlan"]);
    assert_eq!(
        (g.image().as_str(), g.field("upgrade/web-v2", ".status.phase").as_str()),
        ("web:v1", "AwaitingApproval")
    );
    Ok(())
}

pub async fn row_48_two_exceptions() -> Result<()> {
    let g = free().await?;
    let mut web = g.workload("Deployment", "web", "web:v1");
    web["metadata"]["labels"] = json!({"team": "a", "tier": "front"});
    g.creates(User::Alice, &web)?;
    let exception = |label: &str, value: &str, required: i32| {
        json!({"workloads": {"selector": {"matchLabels": {label: value}}},
            "approvals": {"required": required}})
    };
    let (first, second) = (format!("a-{}", g.ns), format!("b-{}", g.ns));
    g.policy(&first, &exception("team", "a", 0))?;
    g.policy(&second, &exception("tier", "front", 2))?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", "web:v1").await?;
    // Both are about it, neither adds to the other: the stricter one holds.
    let set = ["set", "image", "deploy/web", "app=web:v2"];
    g.refused(User::Alice, &set, &["UpgradeRequired", &format!("policy `{second}`")]);
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "AwaitingApproval").await?;
    g.approve("web-v2").await?;
    eventually("the first approval to be counted", SOON, || async {
        let approvals = g.field("upgrade/web-v2", ".status.approvals");
        ensure!(approvals == r#"{"approvedBy":["bob"],"required":2}"#, "{approvals}");
        Ok(())
    })
    .await?;
    assert_eq!(g.field("upgrade/web-v2", ".status.phase"), "AwaitingApproval");
    // A label that only one of them asks for does not make it that one's by taking another off.
    g.passes(User::Alice, &["label", "deploy", "web", "tier-"]);
    g.refused(User::Alice, &set, &["UpgradeRequired", &format!("policy `{second}`")]);
    Ok(())
}

pub async fn row_49_a_request_that_is_too_large() -> Result<()> {
    let g = governed().await?;
    let args = ["patch", "deploy", "web", "--type=merge", "--patch-file=/dev/stdin"];
    // As much as the API server takes, twice over in the review: old and new.
    for kib in [64, 256, 1024, 1400, 2900] {
        let large = "x".repeat(kib * 1024 / 4);
        let env: Vec<_> =
            (0..4).map(|n| json!({"name": format!("V{n}"), "value": large})).collect();
        let patch = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "app", "image": "web:v2", "env": env}]}}}});
        let start = Instant::now();
        refusal(g.run_with(User::Alice, &args, &patch.to_string(), &[]), &[]);
        ensure!(start.elapsed() < Duration::from_mins(1), "{kib} KiB took {:?}", start.elapsed());
        assert_eq!(g.image(), "web:v1", "{kib} KiB");
    }
    // Thousands of containers, all with the name of another image.
    let containers: Vec<_> =
        (0..2000).map(|n| json!({"name": format!("c{n}"), "image": "evil:1"})).collect();
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}}).to_string();
    refusal(g.run_with(User::Alice, &args, &patch, &[]), &["UpgradeRequired"]);
    assert_eq!(g.image(), "web:v1");
    // And the next request is answered as ever.
    let set = ["set", "image", "deploy/web", "app=web:v2"];
    g.refused(User::Alice, &set, &["UpgradeRequired"]);
    Ok(())
}
