//! The matrix: every strategy, at every step, whatever happens there. One cell is one workload with
//! an Upgrade of its own that is brought to the step, meets the incident and is walked to its end;
//! the invariants hold in every cell, and the number of cells is printed.

mod cells;
#[path = "../routed/mod.rs"]
mod routed;

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use cells::{Cell, INCIDENTS, Incident, N, Strategy};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use upgrade_core::api::{IN_FLIGHT_LABEL, Phase, Upgrade};
use upgrade_sandbox::kinds::ReadyWatch;
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{PATIENCE, Shop};
use upgrade_sandbox::{ControlPlane, eventually, wait_for};

/// Cells under way at once.
const AT_ONCE: usize = 6;

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
        let watch = shop.watch_ready("web").await?;
        // On the way: pods take their time, so that it is met before they are all ready. Most come
        // to a rest then, a rolling update is over.
        let to = match (cell.step, cell.strategy) {
            (None, Strategy::Rolling) => "web:v2-ready-after-8s",
            (None, _) => "web:v2-ready-after-2s",
            _ => "web:v2",
        };
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

    async fn kubectl(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut command = self.shop.cluster.kubectl();
        command.args(["-n", &self.shop.namespace]).args(args);
        // All cells are one task: none may stop the others.
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    }

    /// Something that nobody may do to what is in flight.
    async fn refused(&self, args: &[&str]) -> Result<()> {
        let (ok, said) = self.kubectl(args).await?;
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
            Incident::Undo => self.undo().await?,
            // Before its one write a Deployment with Recreate is not in flight: it is its owner's.
            Incident::Restart if self.cell.strategy == Strategy::Recreate => {
                let (ok, said) = self.kubectl(&["rollout", "restart", &self.reference()]).await?;
                ensure!(ok, "{said}");
            }
            Incident::Restart => self.refused(&["rollout", "restart", &self.reference()]).await?,
            Incident::SetImage => {
                self.refused(&["set", "image", &self.reference(), "web=web:v9"]).await?;
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

    /// It is refused. kubectl reads the workload before its revisions: where the new template comes
    /// between the two it finds nothing to undo, and writes nothing.
    async fn undo(&self) -> Result<()> {
        let (ok, said) = self.kubectl(&["rollout", "undo", &self.reference()]).await?;
        ensure!(!ok || said.contains("skipped rollback"), "an undo was taken: {said}");
        Ok(())
    }

    /// What Git says, by server-side apply: the old template. It is refused or changes nothing that
    /// the Upgrade has.
    async fn reapply(&self) -> Result<()> {
        let (kind, spec) = (self.cell.strategy.kind(), &self.before.data["spec"]);
        if self.cell.strategy.is_routed() {
            routed::apply(&self.shop, &routed::http_route(), &routed::web_route()).await?;
        }
        let api = self.shop.of_kind(kind);
        let held = api.get("web").await?;
        // Of the version that was read: what the controller writes between the two is not Git's doing.
        let git = json!({"apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": "web", "resourceVersion": held.resource_version()},
            "spec": {"selector": spec["selector"], "template": spec["template"]}});
        let apply = PatchParams::apply("git").force();
        match api.patch("web", &apply, &Patch::Apply(&git)).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => Box::pin(self.reapply()).await,
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
        for pod in list.items.iter().rev() {
            match pods.delete(&pod.name_any(), &DeleteParams::default()).await {
                // The native controller was first with this one.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                other => return Ok(other.map(drop)?),
            }
        }
        bail!("no pod to delete")
    }

    /// A quota of just what runs: no further pod is made on top. What its owner asks for may be: a
    /// hole that can never be filled would be no Upgrade's doing.
    async fn fill_quota(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.shop.client.clone(), &self.shop.namespace);
        let live = pods.list(&ListParams::default().labels("app=web")).await?.items.len();
        let full = live.max(usize::try_from(N)?);
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": {"name": "full"}, "spec": {"hard": {"pods": full.to_string()}}}))?;
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
    // Nobody can be promoted while nobody answers for it.
    product.ready().await?;
    for run in runs {
        let run = run?;
        let cell = run.cell;
        run.end(N).await.with_context(|| cell.to_string())?;
    }
    Ok(())
}

/// The cells that failed, and nothing after them: what CI shows of a failure is a screen at its end.
struct Failed(String);

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_strategy_at_every_step_outlives_every_incident() -> Result<(), Failed> {
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
    if failed.is_empty() { Ok(()) } else { Err(Failed(failed.join("\n"))) }
}
