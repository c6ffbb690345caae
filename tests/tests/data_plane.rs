//! Real requests through a real router to real pods: what `docs/traffic.md` says of lost requests
//! and of shares is what this test prints.

mod routed;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use upgrade_core::api::{BlueGreenPhase, Phase, Upgrade};
use upgrade_sandbox::image::Recipe;
use upgrade_sandbox::scenario::{Shop, canary};
use upgrade_sandbox::{ControlPlane, Node, Options, Process, eventually, product, routers};

/// Requests a second; `RATE` asks for others, where a machine has no room for these.
const RATE: u64 = 200;
/// How far the share of answers may be from the weight, in points.
const POINTS: f64 = 1.5;
/// Requests a second with the header that a header route is about.
const BETA_RATE: u64 = 20;
const BETA: &str = "X-Beta: yes-and-more";
/// How long a share is measured.
const MEASURE: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_mins(3);

fn rate() -> u64 {
    std::env::var("RATE").ok().and_then(|r| r.parse().ok()).filter(|r| *r > 0).unwrap_or(RATE)
}

/// A request: when it was sent, and the version that answered, or what came instead.
type Sent = (Instant, Result<String, String>);

/// Requests at an even rate, whatever becomes of those before.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Sent>>,
}

impl Load {
    fn start(address: String, rate: u64, header: Option<&'static str>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut calls = JoinSet::new();
            let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let address = address.clone();
                calls.spawn(async move {
                    let begun = Instant::now();
                    let call = product::get_with(&address, "/", header);
                    let answer = tokio::time::timeout(Duration::from_secs(10), call).await;
                    let answer = answer.unwrap_or_else(|_| bail!("no answer within 10 s"));
                    (begun, answer.map_err(|e| format!("{e:#}")))
                });
            }
            calls.join_all().await
        });
        Self { stop, task }
    }

    async fn finish(self) -> Result<Vec<Sent>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

/// A real node with the product, a router, and the versions of a server.
struct World {
    cluster: &'static ControlPlane,
    /// Goes with the cluster.
    _router: Process,
    port: u16,
}

impl World {
    async fn start() -> Result<Self> {
        let options = Options { nodes: 0, node: true, ..Options::default() };
        // The test is the process: it goes when that ends.
        let cluster: &'static ControlPlane =
            Box::leak(Box::new(ControlPlane::start(options).await?));
        let node = cluster.node().context("a node")?;
        for version in ["v1", "v2", "v3", "v4", "v5"] {
            let program = server(cluster.dir(), version)?;
            let reference = format!("docker.io/library/web:{version}");
            let recipe = Recipe { reference, program, annotations: BTreeMap::new() };
            node.import(&recipe.write(&cluster.dir().join(format!("{version}.tar")))?)?;
        }
        routers::gateway_api(cluster)?;
        let traefik = tokio::task::spawn_blocking(routers::traefik).await??;
        // Taken by nobody a moment ago, which is as good as it gets.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let argv = [
            traefik.display().to_string(),
            "--providers.kubernetesgateway".to_owned(),
            format!("--entrypoints.web.address=127.0.0.1:{port}"),
            "--global.checknewversion=false".to_owned(),
            "--global.sendanonymoususage=false".to_owned(),
        ];
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let router = cluster.spawn("traefik", argv, [("KUBECONFIG", kubeconfig)]).await?;
        Ok(Self { cluster, _router: router, port })
    }

    /// A Deployment of the server behind a Service, a Gateway and the HTTPRoute `web`.
    async fn serve(&self, shop: &Shop) -> Result<()> {
        let port = self.port;
        let mut command = self.cluster.kubectl();
        command.args(["apply", "-n", &shop.namespace, "-f", "-"]);
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "traefik"},
             "spec": {"controllerName": "traefik.io/gateway-controller"}},
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gate"},
             "spec": {"gatewayClassName": "traefik", "listeners": [{"name": "web", "protocol": "HTTP", "port": port}]}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
             "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}},
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
             "spec": {"parentRefs": [{"name": "gate"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}},
        ]});
        let said = upgrade_sandbox::scenario::say(&mut command, &objects.to_string())?;
        ensure!(said.code == Some(0), "{}", said.err);
        let container = json!([{"name": "web", "image": "web:v1",
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1,
                "timeoutSeconds": 10, "failureThreshold": 6}}]);
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": container}});
        shop.deploy("web", 4, json!({"template": template})).await?;
        let address = format!("127.0.0.1:{port}");
        eventually("an answer", PATIENCE, || async { product::get(&address, "/").await }).await?;
        Ok(())
    }
}

/// The server under the name of a version, linked statically.
fn server(dir: &Path, version: &str) -> Result<std::path::PathBuf> {
    let source = dir.join("server.go");
    std::fs::write(&source, include_str!("data_plane/server.go"))?;
    let program = dir.join(version);
    let built = Command::new("go")
        .args(["build", "-trimpath", "-o"])
        .args([&program, &source])
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .output()
        .context("cannot run go")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(program)
}

async fn canary_of(shop: &Shop, name: &str, from: &str, to: &str, steps: &[&str]) -> Result<()> {
    let steps = canary(steps)["canary"]["steps"].take();
    by_steps(shop, name, (from, to), &steps).await
}

async fn by_steps(shop: &Shop, name: &str, versions: (&str, &str), steps: &Value) -> Result<()> {
    let routing = json!({"gatewayAPI": {"httpRoute": "web"}});
    let strategy = json!({"canary": {"steps": steps, "trafficRouting": routing}});
    upgrade(shop, name, versions.0, versions.1, strategy).await
}

/// A mirror route, which Traefik does not know: it would answer these requests with an error.
async fn cannot_mirror(shop: &Shop) -> Result<()> {
    let mirror = json!({"setMirrorRoute": {"name": "copy",
        "match": [{"headers": {"X-Beta": {"prefix": "yes"}}}]}});
    let steps = json!([{"setWeight": 50}, mirror, {"pause": {}}]);
    by_steps(shop, "mirror", ("v2", "v3"), &steps).await?;
    ends(shop, "mirror", Phase::RolledBack).await?;
    let said = shop.upgrades().get("mirror").await?.status.unwrap_or_default().message;
    ensure!(said.contains("GatewayClass traefik does not list HTTPRouteRequestMirror"), "{said}");
    Ok(())
}

/// Blue-green by the route.
async fn switch(shop: &Shop, name: &str, from: &str, to: &str, auto: bool) -> Result<()> {
    let strategy = json!({"blueGreen": {"activeService": "web", "autoPromotionEnabled": auto,
        "scaleDownDelaySeconds": if auto { 120 } else { 5 },
        "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}}});
    upgrade(shop, name, from, to, strategy).await
}

async fn upgrade(shop: &Shop, name: &str, from: &str, to: &str, strategy: Value) -> Result<()> {
    let object: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade", "metadata": {"name": name},
        "spec": {"from": from, "to": to, "stages": [{"name": "web", "workloads": {"strategy": strategy,
            "targets": [{"kind": "Deployment", "name": "web", "images": [{"container": "web",
                "from": format!("web:{from}"), "to": format!("web:{to}")}]}]}}]},
    }))?;
    shop.create_next(&object).await.map(drop)
}

/// Waits as [`Shop::rests_at`], with the patience that a real node takes.
async fn rests(shop: &Shop, name: &str, step: i32) -> Result<()> {
    eventually("the rest", PATIENCE, || shop.rests_at(name, step)).await.map(drop)
}

/// Waits until clients are with the new pods, and the old ones stay for an abort.
async fn serves_new(shop: &Shop, name: &str) -> Result<()> {
    eventually("the switch", PATIENCE, || async {
        let status = shop.upgrades().get(name).await?.status.unwrap_or_default();
        let target = status.stages.first().and_then(|s| s.targets.first());
        let phase = target.and_then(|t| t.blue_green.as_ref()).map(|b| b.phase);
        ensure!(phase == Some(BlueGreenPhase::ScaleDownDelay), "{phase:?}: {}", status.message);
        Ok(())
    })
    .await
}

/// When a version answered first and last, and how often, in seconds since the beginning.
fn answers(sent: &[Sent], begun: Instant, version: &str) -> (f32, f32, usize) {
    let mut times: Vec<f32> = sent
        .iter()
        .filter(|(_, a)| a.as_deref() == Ok(version))
        .map(|(at, _)| (*at - begun).as_secs_f32())
        .collect();
    times.sort_by(f32::total_cmp);
    let end = |at: Option<&f32>| at.copied().unwrap_or_default();
    (end(times.first()), end(times.last()), times.len())
}

async fn ends(shop: &Shop, name: &str, phase: Phase) -> Result<()> {
    eventually("the end", PATIENCE, || shop.phase(name, phase)).await.map(drop)
}

/// Times in which answers are looked at.
struct Measured {
    /// The canary's weight, and from when its share is measured.
    shares: Vec<(i32, Instant)>,
    /// From when to when requests with the header go to v3 alone.
    header: (Instant, Instant),
}

/// What happens.
async fn story(shop: &Shop, marks: &mut Vec<(String, Instant)>) -> Result<Measured> {
    let mut mark = |what: &str| marks.push((what.to_owned(), Instant::now()));
    let mut shares = vec![];
    mark("canary of v2");
    canary_of(shop, "one", "v1", "v2", &["10", "", "25", "", "50", ""]).await?;
    for (step, weight) in [(1, 10), (3, 25), (5, 50)] {
        rests(shop, "one", step).await?;
        mark(&format!("{weight} %"));
        shares.push((weight, Instant::now()));
        // What is tested is the time in which requests are answered so.
        tokio::time::sleep(MEASURE).await;
        shop.promote("one").await?;
    }
    ends(shop, "one", Phase::Completed).await?;
    mark("promoted; a mirror that cannot be");
    cannot_mirror(shop).await?;
    mark("canary of v3, and a header route");
    let header = json!({"setHeaderRoute": {"name": "beta",
        "match": [{"headerName": "X-Beta", "headerValue": {"prefix": "yes"}}]}});
    let steps = json!([{"setWeight": 50}, header, {"pause": {}}]);
    by_steps(shop, "two", ("v2", "v3"), &steps).await?;
    rests(shop, "two", 2).await?;
    let since = Instant::now();
    mark("50 %, with the header all");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let header = (since, Instant::now());
    mark("aborted at 50 %");
    shop.steer("two", json!({"control": {"abort": true}})).await?;
    ends(shop, "two", Phase::Aborted).await?;
    mark("taken back; all of v3 at once");
    canary_of(shop, "three", "v2", "v3", &["100"]).await?;
    ends(shop, "three", Phase::Completed).await?;
    mark("promoted; blue-green of v4");
    switch(shop, "four", "v3", "v4", false).await?;
    rests(shop, "four", 0).await?;
    mark("previewed");
    tokio::time::sleep(Duration::from_secs(3)).await;
    mark("switches");
    shop.promote("four").await?;
    ends(shop, "four", Phase::Completed).await?;
    mark("switched; blue-green of v5");
    switch(shop, "five", "v4", "v5", true).await?;
    serves_new(shop, "five").await?;
    mark("switched");
    tokio::time::sleep(Duration::from_secs(3)).await;
    mark("aborted after the switch");
    shop.steer("five", json!({"control": {"abort": true}})).await?;
    ends(shop, "five", Phase::Aborted).await?;
    mark("taken back");
    Ok(Measured { shares, header })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_and_the_share_of_answers_is_the_weight() -> Result<()> {
    if let Some(why) = Node::unavailable() {
        println!("skipped: {why}");
        return Ok(());
    }
    let world = World::start().await?;
    let _product = product::install(world.cluster).await?;
    let shop = Shop::open(world.cluster, 0).await?;
    world.serve(&shop).await?;
    let address = format!("127.0.0.1:{}", world.port);
    let load = Load::start(address.clone(), rate(), None);
    let beta = Load::start(address, BETA_RATE.min(rate()), Some(BETA));
    let (begun, mut marks) = (Instant::now(), vec![]);
    let told = story(&shop, &mut marks).await;
    // The rest of the 20,000: what ended may still have an aftermath.
    let whole = Duration::from_secs(20_400 / RATE.max(rate()));
    tokio::time::sleep(whole.saturating_sub(begun.elapsed()).max(Duration::from_secs(5))).await;
    let (sent, beta) = (load.finish().await?, beta.finish().await?);
    for (what, at) in &marks {
        println!("{:6.1} s {what}", (*at - begun).as_secs_f32());
    }
    let lost: Vec<_> = sent.iter().filter(|(_, answer)| answer.is_err()).collect();
    println!("{} lost of {} requests at {} a second", lost.len(), sent.len(), rate());
    for version in ["v1", "v2", "v3", "v4", "v5"] {
        let (since, until, count) = answers(&sent, begun, version);
        println!("{version}: {count} answers from {since:.2} s to {until:.2} s");
    }
    let mut reasons = BTreeMap::<(u64, &str), usize>::new();
    for (at, answer) in &lost {
        let why = answer.as_ref().err().map_or("", String::as_str);
        *reasons.entry(((*at - begun).as_secs(), why)).or_default() += 1;
    }
    for ((second, why), count) in reasons.iter().take(60) {
        println!("{count} lost in second {second}: {why:.150}");
    }
    let told = told?;
    let (from, until) = told.header;
    let during = beta.iter().filter(|(at, _)| *at >= from && *at < until);
    let (new, old): (Vec<_>, Vec<_>) = during.partition(|(_, a)| a.as_deref() == Ok("v3"));
    println!("with the header: {} answers from v3, {} others", new.len(), old.len());
    ensure!(old.is_empty() && !new.is_empty(), "{old:?}");
    for (weight, from) in told.shares {
        let during = |s: &&Sent| s.0 >= from && s.0 < from + MEASURE;
        let of: Vec<&Sent> = sent.iter().filter(during).collect();
        let new = of.iter().filter(|(_, a)| a.as_deref() == Ok("v2")).count();
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let share = 100.0 * new as f64 / of.len() as f64;
        println!("at {weight} %: {new} of {} answers from v2, {share:.2} %", of.len());
        ensure!((share - f64::from(weight)).abs() <= POINTS, "{share:.2} % at {weight} %");
    }
    ensure!(lost.is_empty(), "{} of {} requests were lost", lost.len(), sent.len());
    let lost: Vec<_> = beta.iter().filter(|(_, answer)| answer.is_err()).collect();
    println!("{} lost of {} requests with the header", lost.len(), beta.len());
    ensure!(lost.is_empty(), "{lost:?}");
    ensure!(rate() < RATE || sent.len() >= 20_000, "{} requests", sent.len());
    let (_, _, fifth) = answers(&sent, begun, "v5");
    ensure!(fifth > 0, "v5 never served");
    Ok(())
}
