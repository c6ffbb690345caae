//! The matrix: every strategy, at every step, whatever happens there. One cell is one workload with
//! an Upgrade of its own that is brought to the step, meets the incident and is walked to its end;
//! the invariants hold in every cell, and the number of cells is printed.

mod routed;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use upgrade_core::api::{IN_FLIGHT_LABEL, Phase, Upgrade};
use upgrade_sandbox::kinds::{DAEMON, ReadyWatch, STATEFUL};
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary};
use upgrade_sandbox::{ControlPlane, eventually, wait_for};

/// Pods of each workload.
const N: i32 = 4;
/// Cells under way at once.
const AT_ONCE: usize = 6;

/// A way from old to new, and the steps at which it can be met.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Strategy {
    /// The Deployment's own rolling update, met while it moves.
    Rolling,
    /// Weight by weight in place.
    Canary,
    /// Weight by weight where no pod may be made on top.
    NoSurge,
    /// One gated write.
    Recreate,
    /// New pods beside the old ones, and a Service that is switched.
    BlueGreen,
    /// Weight by weight through an HTTPRoute, all stable pods beside.
    Routed,
    /// New pods beside the old ones, and an HTTPRoute that is switched.
    Switched,
    /// A canary that is a Deployment of its own, with weights that go down before the last.
    Separate,
    /// A StatefulSet, by partition.
    StatefulSet,
    /// A DaemonSet, node by node.
    DaemonSet,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Incident {
    Abort,
    ScaleUp,
    ScaleDown,
    Undo,
    Restart,
    SetImage,
    Reapply,
    DeleteUpgrade,
    DeletePod,
    Quota,
    Killed,
}

const INCIDENTS: [Incident; 11] = [
    Incident::Abort,
    Incident::ScaleUp,
    Incident::ScaleDown,
    Incident::Undo,
    Incident::Restart,
    Incident::SetImage,
    Incident::Reapply,
    Incident::DeleteUpgrade,
    Incident::DeletePod,
    Incident::Quota,
    Incident::Killed,
];

impl Incident {
    /// How long the way to the next rest or the end may take. After each pod that a quota refused the
    /// native controller waits twice as long before it tries again: a minute of refusals is followed
    /// by more than a minute of waiting.
    fn patience(self) -> Duration {
        if self == Self::Quota { 6 * PATIENCE } else { 2 * PATIENCE }
    }
}

impl Strategy {
    const ALL: [Self; 10] = [
        Self::Rolling,
        Self::Canary,
        Self::NoSurge,
        Self::Recreate,
        Self::BlueGreen,
        Self::Routed,
        Self::Switched,
        Self::Separate,
        Self::StatefulSet,
        Self::DaemonSet,
    ];

    /// A router carries it.
    fn is_routed(self) -> bool {
        matches!(self, Self::Routed | Self::Switched)
    }

    fn kind(self) -> &'static str {
        match self {
            Self::StatefulSet => STATEFUL,
            Self::DaemonSet => DAEMON,
            _ => "Deployment",
        }
    }

    /// What can happen to it.
    fn meets(self, incident: Incident) -> bool {
        // A DaemonSet is scaled by its nodes; that one leaves is a lost pod.
        (self, incident) != (Self::DaemonSet, Incident::ScaleDown)
    }

    /// Indices of the steps at which it rests; none is a place on the way.
    fn steps(self) -> &'static [Option<i32>] {
        match self {
            Self::Rolling => &[None],
            Self::Recreate => &[Some(1)],
            Self::BlueGreen | Self::Switched => &[None, Some(0)],
            _ => &[None, Some(1), Some(3)],
        }
    }

    fn spec(self) -> Value {
        match self {
            Self::Rolling => json!({"rolling": {}}),
            Self::BlueGreen => json!({"blueGreen": {"activeService": "web",
                "autoPromotionEnabled": false, "scaleDownDelaySeconds": 0}}),
            Self::Switched => json!({"blueGreen": {"activeService": "web",
                "autoPromotionEnabled": false, "scaleDownDelaySeconds": 0,
                "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}, "graceSeconds": 1}}}),
            Self::Routed => routed::routed(&["25", "", "50", "", "100"], &routed::by_route()),
            Self::Separate => {
                let mut strategy = canary(&["50", "", "25", "", "100"]);
                strategy["canary"]["separate"] = json!({});
                strategy
            }
            _ => canary(&["25", "", "50", "", "100"]),
        }
    }

    /// What the workload's owner wrote.
    fn knobs(self) -> Value {
        match self {
            Self::StatefulSet => json!({"podManagementPolicy": "Parallel"}),
            Self::DaemonSet => json!({}),
            Self::NoSurge => json!({"progressDeadlineSeconds": 20,
                "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
            Self::Recreate => json!({"progressDeadlineSeconds": 20,
                "strategy": {"type": "Recreate", "rollingUpdate": null}}),
            _ => json!({"progressDeadlineSeconds": 20}),
        }
    }

    /// Ready pods that are promised of so many at every instant.
    fn promised(self, n: i32) -> i32 {
        match self {
            Self::Canary | Self::BlueGreen | Self::Routed | Self::Switched => n,
            Self::Recreate => 0,
            // 25 % of 4 unavailable is what its owner allows.
            _ => n - 1,
        }
    }
}

/// One cell.
#[derive(Clone, Copy, Debug)]
struct Cell {
    strategy: Strategy,
    step: Option<i32>,
    incident: Incident,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step.map_or_else(|| "moving".to_owned(), |s| format!("step {s}"));
        write!(f, "{:?} × {step} × {:?}", self.strategy, self.incident)
    }
}

/// A cell on the real API server.
struct Run {
    cell: Cell,
    shop: Shop,
    before: DynamicObject,
    /// The Service and the route, where there are any.
    faces: Vec<Value>,
    watch: ReadyWatch,
}

impl Run {
    /// Brings a fresh workload to the cell's step.
    async fn start(cell: Cell, cluster: &'static ControlPlane) -> Result<Self> {
        let shop = Shop::open(cluster, 0).await?;
        let (kind, knobs) = (cell.strategy.kind(), cell.strategy.knobs());
        let before = match cell.strategy {
            Strategy::StatefulSet => shop.stateful("web", N, knobs).await?,
            Strategy::DaemonSet => {
                shop.nodes(&["a", "b", "c", "d"], &[]).await?;
                shop.daemon("web", N, knobs).await?
            }
            _ => {
                shop.deploy("web", N, knobs).await?;
                shop.of_kind(kind).get("web").await?
            }
        };
        if cell.strategy == Strategy::BlueGreen || cell.strategy.is_routed() {
            let service: Service = serde_json::from_value(json!({"metadata": {"name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))?;
            routed::services(&shop).create(&PostParams::default(), &service).await?;
        }
        if cell.strategy.is_routed() {
            routed::apply(&shop, &routed::http_route(), &routed::web_route()).await?;
        }
        let faces = faces(&shop, cell.strategy).await?;
        let watch = shop.watch_ready("web");
        // On the way: pods take their time, so that it is met before they are all ready.
        let to = if cell.step.is_none() { "web:v2-ready-after-2s" } else { "web:v2" };
        shop.upgrade_of("up", (kind, "web"), to, &cell.strategy.spec(), json!({})).await?;
        if let Some(step) = cell.step {
            Self::rest(&shop, step).await?;
        } else {
            // The status says so before the first write lands; the mark comes with it.
            let begun = |o: Option<&DynamicObject>| {
                o.is_some_and(|o| o.labels().contains_key(IN_FLIGHT_LABEL))
            };
            wait_for(shop.of_kind(kind), "web", begun, PATIENCE).await?;
        }
        Ok(Self { cell, shop, before, faces, watch })
    }

    /// Rests at a step, past those before it.
    async fn rest(shop: &Shop, step: i32) -> Result<Upgrade> {
        for before in (step % 2..step).step_by(2) {
            shop.rests_at("up", before).await?;
            shop.promote("up").await?;
        }
        shop.rests_at("up", step).await
    }

    fn reference(&self) -> String {
        format!("{}/web", self.cell.strategy.kind().to_lowercase())
    }

    fn kubectl(&self, args: &[&str]) -> Result<(bool, String)> {
        let output =
            self.shop.cluster.kubectl().args(["-n", &self.shop.namespace]).args(args).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    }

    /// Something that nobody may do to what is in flight.
    fn refused(&self, args: &[&str]) -> Result<()> {
        let (ok, said) = self.kubectl(args)?;
        ensure!(!ok, "{args:?} was taken: {said}");
        Ok(())
    }

    /// The incident; the replicas there are then.
    async fn strike(&self) -> Result<i32> {
        let shop = &self.shop;
        let abort = json!({"control": {"abort": true}});
        match self.cell.incident {
            Incident::Abort => drop(shop.steer("up", abort).await?),
            Incident::ScaleUp if self.cell.strategy == Strategy::DaemonSet => {
                shop.nodes(&["e"], &[]).await?;
                return Ok(N + 1);
            }
            Incident::ScaleUp | Incident::ScaleDown => {
                let n = if self.cell.incident == Incident::ScaleUp { 2 * N } else { N / 2 };
                let body = json!({"spec": {"replicas": n}});
                let api = shop.of_kind(self.cell.strategy.kind());
                api.patch_scale("web", &PatchParams::default(), &Patch::Merge(&body)).await?;
                return Ok(n);
            }
            Incident::Undo => self.refused(&["rollout", "undo", &self.reference()])?,
            // Before its one write a Deployment with Recreate is not in flight: it is its owner's.
            Incident::Restart if self.cell.strategy == Strategy::Recreate => {
                let (ok, said) = self.kubectl(&["rollout", "restart", &self.reference()])?;
                ensure!(ok, "{said}");
            }
            Incident::Restart => self.refused(&["rollout", "restart", &self.reference()])?,
            Incident::SetImage => {
                self.refused(&["set", "image", &self.reference(), "web=web:v9"])?;
            }
            Incident::Reapply => self.reapply().await?,
            Incident::DeleteUpgrade => {
                shop.upgrades().delete("up", &DeleteParams::default()).await?;
            }
            Incident::DeletePod => self.delete_pod().await?,
            Incident::Quota => self.fill_quota().await?,
            Incident::Killed => {}
        }
        Ok(N)
    }

    /// What Git says, by server-side apply: the old template. It is refused or changes nothing that
    /// the Upgrade has.
    async fn reapply(&self) -> Result<()> {
        let (kind, spec) = (self.cell.strategy.kind(), &self.before.data["spec"]);
        if self.cell.strategy.is_routed() {
            routed::apply(&self.shop, &routed::http_route(), &routed::web_route()).await?;
        }
        let git = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"},
            "spec": {"selector": spec["selector"], "template": spec["template"]}});
        let api = self.shop.of_kind(kind);
        let held = api.get("web").await?;
        let apply = PatchParams::apply("git").force();
        match api.patch("web", &apply, &Patch::Apply(&git)).await {
            Ok(now) => {
                let now = &now.data["spec"];
                let template = &now["template"];
                let known =
                    *template == held.data["spec"]["template"] || *template == spec["template"];
                ensure!(known, "a third template: {template}");
                let guarded = ["minReadySeconds", "updateStrategy", "strategy", "paused"];
                for field in guarded {
                    ensure!(now[field] == held.data["spec"][field], "{field} went");
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.message.contains("up") => Ok(()),
            Err(error) => bail!("{error}"),
        }
    }

    async fn delete_pod(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.shop.client.clone(), &self.shop.namespace);
        let list = pods.list(&ListParams::default().labels("app=web")).await?;
        let pod = list.items.last().context("a pod")?.name_any();
        pods.delete(&pod, &DeleteParams::default()).await?;
        Ok(())
    }

    /// A quota of just what runs: no further pod is made.
    async fn fill_quota(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.shop.client.clone(), &self.shop.namespace);
        let live = pods.list(&ListParams::default().labels("app=web")).await?.items.len();
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": {"name": "full"}, "spec": {"hard": {"pods": live.to_string()}}}))?;
        let quotas: Api<ResourceQuota> =
            Api::namespaced(self.shop.client.clone(), &self.shop.namespace);
        quotas.create(&PostParams::default(), &quota).await?;
        let used = |q: Option<&ResourceQuota>| {
            q.and_then(|q| q.status.as_ref()).is_some_and(|s| s.used.is_some())
        };
        wait_for(quotas, "full", used, PATIENCE).await.map(drop)
    }

    /// Walks it to its end; promotes every rest on the way.
    async fn end(self, n: i32) -> Result<()> {
        let shop = &self.shop;
        let taken_back = matches!(self.cell.incident, Incident::Abort | Incident::DeleteUpgrade);
        let phase = loop {
            let ended = |u: Option<&Upgrade>| {
                u.is_none_or(|u| {
                    let status = u.status.clone().unwrap_or_default();
                    let released = u.finalizers().is_empty();
                    (status.phase.is_terminal() && released)
                        || (status.phase == Phase::Paused && !taken_back)
                })
            };
            let waiting = await_condition(shop.upgrades(), "up", ended);
            let found = match tokio::time::timeout(self.cell.incident.patience(), waiting).await {
                Ok(found) => found?,
                Err(_) => bail!("no end: {:?}", shop.upgrades().get("up").await?.status),
            };
            match found.map(|u| u.status.unwrap_or_default().phase) {
                Some(Phase::Paused) => shop.promote("up").await?,
                other => break other,
            }
        };
        let wanted = match self.cell.incident {
            Incident::Abort => vec![Some(Phase::Aborted)],
            Incident::DeleteUpgrade => vec![None],
            // Where pods have to be made on top a full quota is a reason to go back.
            Incident::Quota => vec![Some(Phase::Completed), Some(Phase::RolledBack)],
            _ => vec![Some(Phase::Completed)],
        };
        ensure!(wanted.contains(&phase), "ended {phase:?}");
        if self.cell.incident == Incident::Quota {
            let quotas: Api<ResourceQuota> = Api::namespaced(shop.client.clone(), &shop.namespace);
            quotas.delete("full", &DeleteParams::default()).await?;
        }
        let kind = self.cell.strategy.kind();
        if kind == "Deployment" {
            shop.complete("web").await?;
        } else {
            shop.settled(kind, "web", n).await?;
        }
        let pods = shop.runs("web").await?;
        let count = |image: &str| pods.values().filter(|i| i.starts_with(image)).count();
        let now = (i32::try_from(count("web:v1"))?, i32::try_from(count("web:v2"))?);
        let expected = if phase == Some(Phase::Completed) { (0, n) } else { (n, 0) };
        ensure!(now == expected, "{now:?} old and new pods, {expected:?} expected");
        let least = i32::try_from(self.watch.least()?)?;
        // A pod that somebody deletes is one less until the next has come; and under a full quota a
        // stable pod comes back only where one of the canary went.
        let less = match self.cell.incident {
            Incident::DeletePod => 1,
            Incident::Quota => N / 2,
            _ => 0,
        };
        let promised = self.cell.strategy.promised(n.min(N)) - less;
        ensure!(least >= promised, "{least} ready at the least, {promised} promised");
        let faces = faces(shop, self.cell.strategy).await?;
        ensure!(faces == self.faces, "{faces:?}, and it was {:?}", self.faces);
        if self.cell.incident != Incident::Reapply {
            if kind == "Deployment" {
                let before = serde_json::from_value(json!(self.before))?;
                shop.assert_untouched("web", &before).await?;
            } else {
                shop.assert_untouched_kind(kind, &self.before).await?;
            }
        }
        Ok(())
    }
}

/// What clients go through, as its owner has it; and nothing of ours is beside it.
async fn faces(shop: &Shop, strategy: Strategy) -> Result<Vec<Value>> {
    let all = shop.deployments().list(&ListParams::default()).await?;
    let mut faces = vec![json!(all.iter().map(ResourceExt::name_any).collect::<Vec<_>>())];
    if strategy == Strategy::BlueGreen || strategy.is_routed() {
        routed::only_services(shop, &["web"]).await?;
        let service = routed::services(shop).get("web").await?;
        faces.push(json!({"labels": service.labels(), "spec": service.spec}));
        if strategy.is_routed() {
            // Not a write to it.
            faces.push(json!(service.resource_version()));
            faces.push(routed::face(shop, &routed::http_route(), "web").await?);
        }
    }
    Ok(faces)
}

async fn cell(cell: Cell, cluster: &'static ControlPlane) -> Result<()> {
    let run = Run::start(cell, cluster).await?;
    let n = run.strike().await?;
    run.end(n).await
}

/// All cells of one incident that strikes them all at once.
async fn killed(
    cells: &[Cell],
    cluster: &'static ControlPlane,
    product: &mut Product,
) -> Result<()> {
    let starts = futures::stream::iter(cells.iter().map(|c| Run::start(*c, cluster)));
    let runs: Vec<_> = starts.buffer_unordered(AT_ONCE).collect().await;
    product.kill().await?;
    product.restart(cluster).await?;
    for run in runs {
        let run = run?;
        let cell = run.cell;
        run.end(N).await.with_context(|| cell.to_string())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_at_every_step_outlives_every_incident() -> Result<()> {
    let cluster = upgrade_sandbox::shared().await;
    routed::install(cluster).await?;
    let mut product = product::install_with(cluster, &["--lease-duration", "2"]).await?;
    let mut cells = Vec::new();
    for strategy in Strategy::ALL {
        for step in strategy.steps() {
            let all = INCIDENTS.into_iter().filter(|i| strategy.meets(*i));
            cells.extend(all.map(|incident| Cell { strategy, step: *step, incident }));
        }
    }
    let only = std::env::var("CELL").unwrap_or_default();
    cells.retain(|c| c.to_string().contains(&only));
    let (together, alone): (Vec<Cell>, Vec<Cell>) =
        cells.iter().partition(|c| c.incident == Incident::Killed);
    let results = futures::stream::iter(alone.iter().map(|c| async move {
        let ended = cell(*c, cluster).await.with_context(|| c.to_string());
        if let Err(error) = &ended {
            println!("{error:#}");
        }
        ended
    }));
    let results: Vec<Result<()>> = results.buffer_unordered(AT_ONCE).collect().await;
    let mut failed: Vec<String> =
        results.into_iter().filter_map(|r| r.err().map(|e| format!("{e:#}"))).collect();
    failed.extend(killed(&together, cluster, &mut product).await.err().map(|e| format!("{e:#}")));
    eventually("no Upgrade to be under way", PATIENCE, || async {
        let all: Api<Upgrade> = Api::all(cluster.client().await?);
        let open = all.list(&ListParams::default()).await?.items;
        let open =
            open.iter().filter(|u| u.status.as_ref().is_some_and(|s| s.phase.is_in_flight()));
        ensure!(open.count() == 0 || !failed.is_empty());
        Ok(())
    })
    .await?;
    println!("{} cells run, {} failed", cells.len(), failed.len());
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
