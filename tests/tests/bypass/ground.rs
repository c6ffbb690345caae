//! A governed namespace, and people who try things in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use upgrade_core::api::{Upgrade, UpgradeApproval};
use upgrade_core::plan::plan_hash;
use upgrade_sandbox::scenario::lab;
use upgrade_sandbox::{ControlPlane, eventually};

/// Username of our own service account.
pub const US: &str = "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook";
/// How long the control plane and the product may take to notice something.
pub const SOON: Duration = Duration::from_secs(30);

/// Who tries.
#[derive(Clone, Copy, Debug)]
pub enum User {
    /// `system:masters`: for setting the stage, and to show that nobody is special.
    Admin,
    /// ClusterRole `edit` in the namespace.
    Alice,
    /// The same, and `kubectl-upgrade-approver`.
    Bob,
    /// Our own service account.
    Us,
}

/// Kubeconfigs of the users.
#[derive(Clone)]
pub struct People {
    admin: PathBuf,
    alice: PathBuf,
    bob: PathBuf,
    us: PathBuf,
}

impl People {
    /// Makes them.
    pub fn of(cluster: &ControlPlane) -> Result<Self> {
        let us = ["system:serviceaccounts", "system:authenticated"];
        Ok(Self {
            admin: cluster.kubeconfig().to_owned(),
            alice: cluster.kubeconfig_for("alice", &["people"])?,
            bob: cluster.kubeconfig_for("bob", &["people"])?,
            us: cluster.kubeconfig_for(US, &us)?,
        })
    }

    pub fn kubeconfig(&self, user: User) -> &Path {
        match user {
            User::Admin => &self.admin,
            User::Alice => &self.alice,
            User::Bob => &self.bob,
            User::Us => &self.us,
        }
    }
}

/// A namespace of the shared control plane.
pub struct Ground {
    pub cluster: &'static ControlPlane,
    pub people: People,
    pub ns: String,
}

/// A governed namespace with the Deployment `web` at web:v1, its container `app`, in the ledger.
pub async fn governed() -> Result<Ground> {
    let ground = free().await?;
    ground.creates(User::Admin, &ground.workload("Deployment", "web", "web:v1"))?;
    ground.govern(&all()).await?;
    ground.noted("Deployment", "web", "web:v1").await?;
    Ok(ground)
}

/// A namespace that is not governed yet, with people in it.
pub async fn free() -> Result<Ground> {
    static PEOPLE: OnceCell<People> = OnceCell::const_new();
    let cluster = lab().await.cluster;
    let people = PEOPLE.get_or_try_init(|| async { People::of(cluster) }).await?.clone();
    Ground::open(cluster, people).await
}

impl Ground {
    /// A namespace with people in it.
    pub async fn open(cluster: &'static ControlPlane, people: People) -> Result<Self> {
        let ns = cluster.namespace("bypass").await?;
        let ground = Self { cluster, people, ns };
        for (user, role) in
            [("alice", "edit"), ("bob", "edit"), ("bob", "kubectl-upgrade-approver")]
        {
            let (name, role) = (format!("{user}-{role}"), format!("--clusterrole={role}"));
            let user = format!("--user={user}");
            ground.passes(User::Admin, &["create", "rolebinding", &name, &role, &user]);
        }
        // Aggregated roles are filled by a controller.
        eventually("alice's rights", SOON, || async {
            ground.run(User::Alice, &["auth", "can-i", "create", "upgrades.kubectl-upgrade.dev"])
        })
        .await?;
        Ok(ground)
    }

    /// Makes the namespace governed by a policy of its own, and waits until it holds.
    pub async fn govern(&self, spec: &Value) -> Result<()> {
        self.creates(User::Admin, &self.workload("ReplicaSet", "probe", "probe:1"))?;
        self.policy(&self.ns, spec)?;
        self.passes(User::Admin, &["label", "ns", &self.ns, "kubectl-upgrade.dev/governed=true"]);
        // The namespace and the policy reach the webhook by watches.
        eventually("the policy to hold", SOON, || async {
            let args = ["set", "image", "rs/probe", "app=probe:2", "--dry-run=server"];
            match self.run(User::Alice, &args) {
                Ok(_) => bail!("not yet"),
                Err(_) => Ok(()),
            }
        })
        .await?;
        self.passes(User::Admin, &["delete", "rs", "probe", "--wait=false"]);
        Ok(())
    }

    /// Makes a policy of this name for the namespace.
    pub fn policy(&self, name: &str, spec: &Value) -> Result<()> {
        let mut spec = spec.clone();
        spec["namespaceSelector"] =
            json!({"matchLabels": {"kubernetes.io/metadata.name": self.ns}});
        let policy = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradePolicy",
            "metadata": {"name": name}, "spec": spec});
        self.creates(User::Admin, &policy).map(drop)
    }

    /// Waits until the ledger says that a workload was approved with an image.
    pub async fn noted(&self, kind: &str, name: &str, image: &str) -> Result<()> {
        eventually("the ledger", SOON, || async {
            let text = self.run(User::Admin, &["get", "upgradeledger", "ledger", "-o", "json"])?;
            let ledger: Value = serde_json::from_str(&text)?;
            let entries = ledger["spec"]["entries"].as_array().cloned().unwrap_or_default();
            let there = entries.iter().any(|e| {
                e["kind"] == kind && e["name"] == name && e["images"].to_string().contains(image)
            });
            ensure!(there, "{text}");
            Ok(())
        })
        .await
    }

    /// kubectl in the namespace; what it printed, or an error with what it complained about.
    pub fn run(&self, user: User, args: &[&str]) -> Result<String> {
        self.run_with(user, args, "", &[])
    }

    /// The same with a standard input and environment.
    pub fn run_with(
        &self,
        user: User,
        args: &[&str],
        stdin: &str,
        env: &[(&str, &str)],
    ) -> Result<String> {
        let mut command = self.cluster.kubectl_with(self.people.kubeconfig(user));
        command.args(["-n", &self.ns]).args(args).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("no stdin")?;
        pipe.write_all(stdin.as_bytes())?;
        drop(pipe);
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout) + &text(&output.stderr));
        }
        bail!(
            "{user:?} kubectl {}: {}",
            args.join(" "),
            text(&output.stderr) + &text(&output.stdout)
        )
    }

    /// Expects success.
    #[track_caller]
    pub fn passes(&self, user: User, args: &[&str]) -> String {
        match self.run(user, args) {
            Ok(text) => text,
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// Expects a refusal that says each of these.
    #[track_caller]
    pub fn refused(&self, user: User, args: &[&str], says: &[&str]) -> String {
        refusal(self.run(user, args), says)
    }

    /// The same, of what the API server itself decides: it learns of policies and ledgers by
    /// watches, so the first tries are dry.
    pub async fn shut(&self, user: User, args: &[&str], says: &[&str]) -> Result<()> {
        let mut dry = args.to_vec();
        dry.push("--dry-run=server");
        eventually("the door to shut", SOON, || async {
            match self.run(user, &dry) {
                Ok(text) => bail!("passed: {text}"),
                Err(_) => Ok(()),
            }
        })
        .await
        .with_context(|| format!("{args:?}"))?;
        self.refused(user, args, says);
        Ok(())
    }

    /// Creates an object.
    pub fn creates(&self, user: User, object: &Value) -> Result<String> {
        self.run_with(user, &["create", "-f", "-"], &object.to_string(), &[])
    }

    /// Expects that an object may not be created.
    #[track_caller]
    pub fn not_created(&self, user: User, object: &Value, says: &[&str]) -> String {
        refusal(self.creates(user, object), says)
    }

    /// A field of an object.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        let output = format!("jsonpath={{{path}}}");
        self.passes(User::Admin, &["get", object, "-o", &output])
    }

    /// The image that the Deployment `web` has in its template.
    #[track_caller]
    pub fn image(&self) -> String {
        self.field("deploy/web", ".spec.template.spec.containers[0].image")
    }

    /// The first object of a kind with a label, as `kind/name`, once there is one.
    pub async fn one(&self, kind: &str, label: &str) -> Result<String> {
        eventually("an object", SOON, || async {
            let args = ["get", kind, "-l", label, "-o", "name"];
            let text = self.run(User::Admin, &args)?;
            text.lines().next().map(str::to_owned).with_context(|| format!("no {kind} yet"))
        })
        .await
    }

    /// The ReplicaSet of an image.
    pub async fn set_of(&self, image: &str) -> Result<String> {
        eventually("the ReplicaSet", SOON, || async {
            let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.template.spec.containers[0].image}{\"\\n\"}{end}";
            let text = self.run(User::Admin, &["get", "rs", "-o", path])?;
            let found = text.lines().find_map(|l| l.strip_suffix(&format!(" {image}")));
            found.map(|n| format!("rs/{n}")).with_context(|| format!("none of {image}:\n{text}"))
        })
        .await
    }

    /// A workload whose pods carry the label `app=NAME` and run one container `app`.
    pub fn workload(&self, kind: &str, name: &str, image: &str) -> Value {
        let template = json!({"metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "app", "image": image}]}});
        let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template});
        let group = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
        match kind {
            "ReplicationController" => spec["selector"] = json!({"app": name}),
            "DaemonSet" => {}
            _ => spec["replicas"] = json!(2),
        }
        json!({"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": self.ns},
            "spec": spec})
    }

    /// A bare Pod with the label `app=APP`.
    pub fn pod(&self, name: &str, app: &str, image: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.ns, "labels": {"app": app}},
            "spec": {"containers": [{"name": "app", "image": image}]}})
    }

    /// A CronJob or, with an owner, a Job.
    pub fn job(&self, kind: &str, name: &str, image: &str) -> Value {
        let template = json!({"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "app", "image": image}]}}});
        let spec = match kind {
            "CronJob" => json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": template}}),
            _ => template,
        };
        json!({"apiVersion": "batch/v1", "kind": kind,
            "metadata": {"name": name, "namespace": self.ns}, "spec": spec})
    }

    /// An Upgrade of `web` from web:v1 to web:v2 that rests at half of it.
    pub fn upgrade(&self, name: &str) -> Value {
        json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": name, "namespace": self.ns},
            "spec": {"stages": [{"name": "web", "workloads": {
                "strategy": {"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}},
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "app", "from": "web:v1", "to": "web:v2"}]}]}}]}})
    }

    /// Upgrades, as an administrator reads them.
    pub async fn upgrades(&self) -> Result<Api<Upgrade>> {
        Ok(Api::namespaced(self.cluster.client().await?, &self.ns))
    }

    /// Waits until an Upgrade is in a phase.
    pub async fn phase(&self, name: &str, phase: &str) -> Result<Upgrade> {
        let api = self.upgrades().await?;
        let there = |u: Option<&Upgrade>| {
            u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase.as_str() == phase)
        };
        upgrade_sandbox::wait_for(api, name, there, Duration::from_mins(1)).await
    }

    /// Somebody's word on an Upgrade as it is now.
    pub async fn approval(&self, upgrade: &str) -> Result<Value> {
        let found = self.upgrades().await?.get(upgrade).await?;
        let hash = plan_hash(&self.ns, upgrade, &found.spec);
        Ok(json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
            "metadata": {"generateName": format!("{upgrade}-"), "namespace": self.ns},
            "spec": {"upgrade": upgrade, "upgradeUID": found.metadata.uid, "planHash": hash,
                "decision": "Approved"}}))
    }

    /// Bob says yes to an Upgrade as it is now.
    pub async fn approve(&self, upgrade: &str) -> Result<UpgradeApproval> {
        let client = self.cluster.client_for("bob", &["people"]).await?;
        let approval = serde_json::from_value(self.approval(upgrade).await?)?;
        let api: Api<UpgradeApproval> = Api::namespaced(client, &self.ns);
        Ok(api.create(&PostParams::default(), &approval).await?)
    }

    /// Merges a patch into an Upgrade's spec, as Alice.
    pub async fn steer(&self, upgrade: &str, spec: Value) -> Result<()> {
        let client = self.cluster.client_for("alice", &["people"]).await?;
        let api: Api<Upgrade> = Api::namespaced(client, &self.ns);
        let body = json!({ "spec": spec });
        api.patch(upgrade, &PatchParams::default(), &Patch::Merge(&body)).await?;
        Ok(())
    }
}

/// A policy for every workload.
pub fn all() -> Value {
    json!({"workloads": {"all": true}})
}

/// The words of a refusal, which must say each of these.
#[track_caller]
pub fn refusal(result: Result<String>, says: &[&str]) -> String {
    let text = match result {
        Ok(text) => panic!("passed: {text}"),
        Err(error) => error.to_string(),
    };
    for part in says {
        assert!(text.contains(part), "does not say `{part}`:\n{text}");
    }
    text
}

/// A patch that gives the container `app` of a template this image.
pub fn to(image: &str) -> String {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}})
        .to_string()
}
