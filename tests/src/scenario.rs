//! A shop to upgrade: what the tests and the demo set up and look at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use upgrade_core::api::{
    GOVERNED_LABEL, GROUP, MaintenanceWindow, Phase, Upgrade, UpgradeApproval, UpgradePolicy,
};

use crate::product::{self, Product};
use crate::wait::{eventually, wait_for};
use crate::{ControlPlane, MinimumWatch};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The one control plane of a test binary with the product on it.
pub struct Lab {
    /// The control plane.
    pub cluster: &'static ControlPlane,
    /// The product on it.
    pub product: Product,
}

/// Started by the first test that asks.
///
/// # Panics
/// When it cannot be started: no test can go on from there.
pub async fn lab() -> &'static Lab {
    static LAB: OnceCell<Lab> = OnceCell::const_new();
    let started = LAB.get_or_try_init(|| async {
        let cluster = crate::shared().await;
        anyhow::Ok(Lab { cluster, product: product::install(cluster).await? })
    });
    match started.await {
        Ok(lab) => lab,
        Err(error) => panic!("no product: {error:#}"),
    }
}

/// A namespace under a policy of its own, and clients for it.
pub struct Shop {
    /// Client of an administrator.
    pub client: Client,
    /// The control plane it is on.
    pub cluster: &'static ControlPlane,
    /// The namespace.
    pub namespace: String,
}

impl Lab {
    /// A governed namespace whose policy asks for this many approvals.
    pub async fn shop(&self, approvals: i32) -> Result<Shop> {
        Shop::open(self.cluster, approvals).await
    }

    /// Runs the plugin as this kubeconfig's user.
    pub async fn plugin(&self, kubeconfig: PathBuf, arguments: &[&str]) -> Result<Output> {
        let mut command = self.product.plugin(&kubeconfig);
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output()).await?.context("kubectl-upgrade")
    }
}

impl Shop {
    /// A governed namespace whose policy asks for this many approvals.
    pub async fn open(cluster: &'static ControlPlane, approvals: i32) -> Result<Self> {
        let client = cluster.client().await?;
        let namespace = cluster.namespace("shop").await?;
        let policy: UpgradePolicy = serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1",
            "kind": "UpgradePolicy",
            "metadata": {"name": namespace},
            "spec": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "workloads": {"all": true},
                "approvals": {"required": approvals},
            }
        }))?;
        Api::all(client.clone()).create(&PostParams::default(), &policy).await.context("policy")?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let label = json!({"metadata": {"labels": {GOVERNED_LABEL: "true"}}});
        namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(&label)).await?;
        Ok(Self { client, cluster, namespace })
    }

    /// Changes the spec of the shop's policy, as a merge patch.
    pub async fn policy(&self, spec: Value) -> Result<UpgradePolicy> {
        let policies: Api<UpgradePolicy> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "spec": spec }));
        Ok(policies.patch(&self.namespace, &PatchParams::default(), &patch).await?)
    }

    /// A MaintenanceWindow for this namespace only; its name begins with the namespace's.
    pub async fn window(&self, name: &str, spec: Value) -> Result<MaintenanceWindow> {
        let mut object = json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "MaintenanceWindow",
            "metadata": {"name": format!("{}-{name}", self.namespace)},
            "spec": {"namespaceSelector":
                {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}},
        });
        merge(&mut object["spec"], spec);
        let object: MaintenanceWindow = serde_json::from_value(object)?;
        Ok(Api::all(self.client.clone()).create(&PostParams::default(), &object).await?)
    }

    /// An approval of an Upgrade's present plan by somebody, of all of it or of one stage or step.
    pub async fn approve(
        &self,
        upgrade: &str,
        who: &str,
        groups: &[&str],
        of: Value,
    ) -> Result<()> {
        let client = self.cluster.client_for(who, groups).await?;
        let live = self.upgrades().get(upgrade).await?;
        let hash = upgrade_core::plan::plan_hash(&self.namespace, upgrade, &live.spec);
        let mut object = json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
            "metadata": {"generateName": format!("{upgrade}-")},
            "spec": {"upgrade": upgrade, "planHash": hash, "decision": "Approved"},
        });
        merge(&mut object["spec"], of);
        let object: UpgradeApproval = serde_json::from_value(object)?;
        let api: Api<UpgradeApproval> = Api::namespaced(client, &self.namespace);
        api.create(&PostParams::default(), &object).await.context("approval")?;
        Ok(())
    }

    /// Lets groups of people do everything in the shop, and approve.
    pub async fn employ(&self, group: &str) -> Result<()> {
        for role in ["edit", "kubectl-upgrade-approver"] {
            let binding: RoleBinding = serde_json::from_value(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": format!("{group}-{role}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "Group", "name": group,
                    "apiGroup": "rbac.authorization.k8s.io"}],
            }))?;
            let api: Api<RoleBinding> = Api::namespaced(self.client.clone(), &self.namespace);
            api.create(&PostParams::default(), &binding).await.context("binding")?;
        }
        for resource in ["upgrades", "upgradeapprovals"] {
            self.may("anybody", &[group], "create", resource).await?;
        }
        Ok(())
    }

    /// Waits until somebody has a right in the shop to a kind of ours: the API server hears of roles
    /// and bindings by watches of its own.
    pub async fn may(&self, user: &str, groups: &[&str], verb: &str, resource: &str) -> Result<()> {
        let review: SubjectAccessReview = serde_json::from_value(json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {"user": user, "groups": groups, "resourceAttributes": {
                "namespace": self.namespace, "verb": verb, "group": GROUP, "resource": resource}}}))?;
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        eventually("the right to count", PATIENCE, || async {
            let answer = api.create(&PostParams::default(), &review).await?;
            ensure!(answer.status.is_some_and(|s| s.allowed), "{user} may not {verb} {resource}");
            Ok(())
        })
        .await
    }

    /// Waits until an Upgrade's message says something.
    pub async fn says(&self, name: &str, text: &str) -> Result<Upgrade> {
        let says = |u: Option<&Upgrade>| {
            u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.message.contains(text))
        };
        wait_for(self.upgrades(), name, says, PATIENCE)
            .await
            .with_context(|| format!("{name} never said `{text}`"))
    }

    /// Deployments of the shop.
    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Upgrades of the shop.
    pub fn upgrades(&self) -> Api<Upgrade> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A Deployment of `web:v1` with one container `web`, every pod of it available. `spec` is
    /// merged into its spec.
    pub async fn deploy(&self, name: &str, replicas: i32, spec: Value) -> Result<Deployment> {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "web", "image": "web:v1"}]},
                },
            },
        });
        merge(&mut object["spec"], spec);
        let object: Deployment = serde_json::from_value(object)?;
        self.deployments().create(&PostParams::default(), &object).await?;
        self.complete(name).await
    }

    /// Waits until a Deployment's rollout is complete.
    pub async fn complete(&self, name: &str) -> Result<Deployment> {
        wait_for(self.deployments(), name, is_complete, PATIENCE).await
    }

    /// An Upgrade of the container `web` of Deployments from `web:v1` to another image.
    pub async fn upgrade(
        &self,
        name: &str,
        targets: &[&str],
        to: &str,
        strategy: &Value,
    ) -> Result<Upgrade> {
        self.upgrade_with(name, targets, to, strategy, json!({})).await
    }

    /// The same, with more in its spec.
    pub async fn upgrade_with(
        &self,
        name: &str,
        targets: &[&str],
        to: &str,
        strategy: &Value,
        more: Value,
    ) -> Result<Upgrade> {
        let targets: Vec<_> = targets
            .iter()
            .map(|t| {
                json!({"kind": "Deployment", "name": t,
                "images": [{"container": "web", "from": "web:v1", "to": to}]})
            })
            .collect();
        let mut object = json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": name},
            "spec": {"from": "v1", "to": to.trim_start_matches("web:"),
                "stages": [{"name": "web", "workloads": {"strategy": strategy, "targets": targets}}]},
        });
        merge(&mut object["spec"], more);
        self.create_next(&serde_json::from_value(object)?).await
    }

    /// Creates an Upgrade, perhaps on a workload whose last one has just ended: admission hears of
    /// that end by a watch, as tests do, and perhaps after them.
    pub async fn create_next(&self, object: &Upgrade) -> Result<Upgrade> {
        let answer = eventually("the end of the last one to be heard of", PATIENCE, || async {
            match self.upgrades().create(&PostParams::default(), object).await {
                Err(kube::Error::Api(status)) if status.message.contains("WorkloadBusy") => {
                    bail!("{}", status.message)
                }
                answer => Ok(answer),
            }
        });
        Ok(answer.await??)
    }

    /// Waits until an Upgrade is in a phase.
    pub async fn phase(&self, name: &str, phase: Phase) -> Result<Upgrade> {
        let there = move |u: Option<&Upgrade>| {
            u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase == phase)
        };
        wait_for(self.upgrades(), name, there, PATIENCE)
            .await
            .with_context(|| format!("phase {phase}"))
    }

    /// Waits until an Upgrade rests at a step.
    pub async fn rests_at(&self, name: &str, step: i32) -> Result<Upgrade> {
        let there = move |u: Option<&Upgrade>| {
            u.and_then(|u| u.status.as_ref())
                .is_some_and(|s| s.phase == Phase::Paused && s.current_step_index == step)
        };
        wait_for(self.upgrades(), name, there, PATIENCE)
            .await
            .with_context(|| format!("rest at step {step}"))
    }

    /// Merges a patch into an Upgrade.
    pub async fn steer(&self, name: &str, spec: Value) -> Result<Upgrade> {
        let body = json!({ "spec": spec });
        Ok(self.upgrades().patch(name, &PatchParams::default(), &Patch::Merge(&body)).await?)
    }

    /// Goes on past the pause an Upgrade rests at.
    pub async fn promote(&self, name: &str) -> Result<()> {
        let status = self.upgrades().get(name).await?.status.unwrap_or_default();
        let promote = json!({"attempt": status.attempt, "stage": status.current_stage_index, "step": status.current_step_index});
        self.steer(name, json!({"control": {"promote": promote}})).await.map(drop)
    }

    /// Sets a Deployment's replicas through the scale subresource, as an autoscaler does.
    pub async fn scale(&self, name: &str, replicas: i32) -> Result<()> {
        let body = json!({"spec": {"replicas": replicas}});
        self.deployments().patch_scale(name, &PatchParams::default(), &Patch::Merge(&body)).await?;
        Ok(())
    }

    /// Pods wanted, by the image of the first container: what the ReplicaSets say.
    pub async fn pods(&self, name: &str) -> Result<BTreeMap<String, i32>> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = sets.list(&ListParams::default().labels(&format!("app={name}"))).await?;
        let mut counts = BTreeMap::new();
        for set in list {
            let spec = set.spec.unwrap_or_default();
            let image = spec
                .template
                .and_then(|t| t.spec)
                .and_then(|s| s.containers.into_iter().next())
                .and_then(|c| c.image)
                .unwrap_or_default();
            *counts.entry(image).or_insert(0) += spec.replicas.unwrap_or(0);
        }
        Ok(counts)
    }

    /// Pods of `web:v1` and of another image.
    pub async fn split(&self, name: &str, to: &str) -> Result<(i32, i32)> {
        let counts = self.pods(name).await?;
        let of = |image: &str| counts.get(image).copied().unwrap_or(0);
        Ok((of("web:v1"), of(to)))
    }

    /// Waits until the ReplicaSets hold exactly so many pods of `web:v1` and of another image.
    pub async fn split_is(&self, name: &str, to: &str, wanted: (i32, i32)) -> Result<()> {
        crate::wait::eventually("the split", PATIENCE, || async {
            let now = self.split(name, to).await?;
            if now == wanted { Ok(()) } else { bail!("{name} is at {now:?}, wanted {wanted:?}") }
        })
        .await
    }

    /// Records the pods of a Deployment from the watch.
    pub async fn watch(&self, name: &str) -> Result<MinimumWatch> {
        MinimumWatch::start(self.client.clone(), &self.namespace, &format!("app={name}"), name)
            .await
    }

    /// Asserts that a Deployment carries no mark of ours and its owner's fields.
    ///
    /// # Panics
    /// When it does not.
    pub async fn assert_untouched(&self, name: &str, before: &Deployment) -> Result<()> {
        let now = self.deployments().get(name).await?;
        let guarded = |d: &Deployment| {
            let spec = d.spec.clone().unwrap_or_default();
            (spec.paused, spec.strategy, spec.min_ready_seconds, spec.progress_deadline_seconds)
        };
        let unpaused = |mut g: (Option<bool>, _, Option<i32>, Option<i32>)| {
            g.0 = g.0.filter(|p| *p);
            g.2 = g.2.filter(|s| *s != 0);
            g
        };
        assert_eq!(unpaused(guarded(&now)), unpaused(guarded(before)), "guarded fields of {name}");
        assert_eq!(now.labels(), before.labels(), "labels of {name}");
        let without = |d: &Deployment| {
            let mut a = d.annotations().clone();
            a.remove("deployment.kubernetes.io/revision");
            a
        };
        assert_eq!(without(&now), without(before), "annotations of {name}");
        let ours: Vec<_> = now
            .managed_fields()
            .iter()
            .filter(|f| f.manager.as_deref() == Some(upgrade_core::api::FIELD_MANAGER))
            .collect();
        assert!(ours.is_empty(), "managedFields of {name}: {ours:?}");
        Ok(())
    }
}

/// Whether a Deployment's rollout is complete.
pub fn is_complete(deployment: Option<&Deployment>) -> bool {
    let Some(d) = deployment else { return false };
    let (spec, status) = (d.spec.clone().unwrap_or_default(), d.status.clone().unwrap_or_default());
    let n = spec.replicas.unwrap_or(1);
    status.observed_generation >= d.metadata.generation
        && status.replicas.unwrap_or(0) == n
        && status.updated_replicas.unwrap_or(0) == n
        && status.available_replicas.unwrap_or(0) == n
}

/// A canary strategy: numbers are weights, strings the lengths of pauses, "" an indefinite one.
pub fn canary(steps: &[&str]) -> Value {
    let step = |s: &&str| match s.parse::<i32>() {
        Ok(weight) => json!({ "setWeight": weight }),
        Err(_) if s.is_empty() => json!({"pause": {}}),
        Err(_) => json!({"pause": {"duration": s}}),
    };
    json!({"canary": {"steps": steps.iter().map(step).collect::<Vec<_>>()}})
}

/// Deep merge of objects; everything else is replaced.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// What a command came to.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs a command to its end, with this on its standard input.
pub fn say(command: &mut std::process::Command, stdin: &str) -> Result<Said> {
    use std::io::Write;
    use std::process::Stdio;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read is no failure.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}
