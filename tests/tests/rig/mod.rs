//! The webhook beside a real API server, for `admission.rs`: manifests as they are, but for the
//! address, and no controller, so that the tests say what an Upgrade's status is.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use upgrade_core::api::Upgrade;
use upgrade_sandbox::{ControlPlane, Process, eventually, product};

/// Username of our own service account.
pub const US: &str = "system:serviceaccount:kubectl-upgrade-system:upgrade-webhook";

/// A control plane with the product's manifests and one running webhook.
pub struct Rig {
    pub cluster: ControlPlane,
    pub webhook: Process,
    pub port: u16,
    probes: u16,
    admin: PathBuf,
    us: PathBuf,
    alice: PathBuf,
    bob: PathBuf,
    mallory: PathBuf,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum User {
    /// `system:masters`
    Admin,
    /// Our own service account.
    Us,
    /// ClusterRole `edit`.
    Alice,
    /// ClusterRoles `edit` and `kubectl-upgrade-approver`.
    Bob,
    /// May create Upgrades and approvals, and nothing that these need.
    Mallory,
}

impl Rig {
    pub async fn start() -> Result<Self> {
        let cluster = ControlPlane::start(upgrade_sandbox::Options::default()).await?;
        let binary = product::build().await?.webhook;
        let [port, probes] = free_ports()?;
        let us = cluster.kubeconfig_for(US, &["system:serviceaccounts", "system:authenticated"])?;
        let argv = [
            binary.display().to_string(),
            "--no-controller".into(),
            format!("--kubeconfig={}", us.display()),
            format!("--listen=127.0.0.1:{port}"),
            format!("--metrics-listen=127.0.0.1:{probes}"),
            "--namespace=kubectl-upgrade-system".into(),
            "--san=127.0.0.1".into(),
        ];
        // Started first: it has to wait for its CRDs, rights and configurations without dying.
        let webhook = cluster.spawn("webhook", argv, [("RUST_LOG", "info")]).await?;
        let admin = cluster.kubeconfig().to_owned();
        let user = |name: &str| cluster.kubeconfig_for(name, &["people"]);
        let (alice, bob, mallory) = (user("alice")?, user("bob")?, user("mallory")?);
        let rig = Self { cluster, webhook, port, probes, admin, us, alice, bob, mallory };
        rig.install()?;
        rig.ready().await?;
        Ok(rig)
    }

    fn install(&self) -> Result<()> {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
        let crds = manifests.join("crds").display().to_string();
        self.run(User::Admin, &["apply", "-f", &crds], None)?;
        let base = manifests.join("base");
        for file in
            ["namespace.yaml", "rbac.yaml", "roles.yaml", "deployment.yaml", "webhooks.yaml"]
        {
            let mut text = std::fs::read_to_string(base.join(file))?;
            for path in ["/validate", "/mutate"] {
                let service = format!(
                    "service: {{name: upgrade-webhook, namespace: kubectl-upgrade-system, path: {path}, port: 443}}"
                );
                text =
                    text.replace(&service, &format!("url: https://127.0.0.1:{}{path}", self.port));
            }
            self.run(User::Admin, &["apply", "-f", "-"], Some(&text))?;
        }
        for (user, role) in [
            ("alice", "edit"),
            ("bob", "edit"),
            ("bob", "kubectl-upgrade-approver"),
            ("mallory", "kubectl-upgrade-edit"),
            ("mallory", "make-approvals"),
        ] {
            let name = format!("{user}-{role}");
            let (role, user) = (format!("--clusterrole={role}"), format!("--user={user}"));
            self.run(User::Admin, &["create", "clusterrolebinding", &name, &role, &user], None)?;
        }
        let role = [
            "create",
            "clusterrole",
            "make-approvals",
            "--verb=create",
            "--resource=upgradeapprovals.kubectl-upgrade.dev",
        ];
        self.run(User::Admin, &role, None)?;
        Ok(())
    }

    pub async fn ready(&self) -> Result<()> {
        let probes = format!("127.0.0.1:{}", self.probes);
        let ready =
            eventually("readiness", Duration::from_secs(45), || product::get(&probes, "/readyz"));
        ready.await.with_context(|| self.webhook.log_tail(30))?;
        // The Deployment of the manifests is admitted under Pod Security `restricted`.
        eventually("our own pods", Duration::from_secs(30), || async {
            let args = ["get", "pods", "-n", "kubectl-upgrade-system", "-o", "name"];
            let pods = self.run(User::Admin, &args, None)?;
            anyhow::ensure!(pods.lines().count() == 3, "{pods}");
            Ok(())
        })
        .await?;
        // Aggregated roles are filled by a controller.
        eventually("alice's rights", Duration::from_secs(20), || async {
            self.run(
                User::Alice,
                &["auth", "can-i", "create", "upgrades.kubectl-upgrade.dev"],
                None,
            )
        })
        .await?;
        Ok(())
    }

    pub async fn readyz(&self) -> Result<String> {
        product::get(&format!("127.0.0.1:{}", self.probes), "/readyz").await
    }

    pub async fn metrics(&self) -> Result<String> {
        product::get(&format!("127.0.0.1:{}", self.probes), "/metrics").await
    }

    fn kubeconfig(&self, user: User) -> &Path {
        match user {
            User::Admin => &self.admin,
            User::Us => &self.us,
            User::Alice => &self.alice,
            User::Bob => &self.bob,
            User::Mallory => &self.mallory,
        }
    }

    /// kubectl; what it printed, or an error with what it complained about.
    pub fn run(&self, user: User, args: &[&str], stdin: Option<&str>) -> Result<String> {
        let output = self.kubectl(user, args, stdin)?;
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

    fn kubectl(&self, user: User, args: &[&str], stdin: Option<&str>) -> Result<Output> {
        let mut command = self.cluster.kubectl_with(self.kubeconfig(user));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("no stdin")?;
        pipe.write_all(stdin.unwrap_or_default().as_bytes())?;
        drop(pipe);
        Ok(child.wait_with_output()?)
    }

    /// Expects success.
    pub fn accepts(&self, user: User, args: &[&str]) -> String {
        self.run(user, args, None).expect("accepted")
    }

    /// Expects a refusal that says each of these.
    pub fn rejects(&self, user: User, args: &[&str], says: &[&str]) -> String {
        refused(self.run(user, args, None), says)
    }

    pub fn creates(&self, user: User, object: &Value) -> Result<String> {
        self.run(user, &["create", "-f", "-"], Some(&object.to_string()))
    }

    /// A namespace that opted in, with `web` at web:v1 in the ledger, as the controller would
    /// have written it.
    pub async fn governed(&self) -> Result<String> {
        let ns = self.cluster.namespace("shop").await?;
        self.creates(User::Us, &ledger(&ns))?;
        self.accepts(User::Admin, &["label", "ns", &ns, "kubectl-upgrade.dev/governed=true"]);
        self.creates(User::Admin, &deployment(&ns, "web", "web:v1"))?;
        Ok(ns)
    }

    /// Writes the phase as the controller would.
    pub async fn phase(&self, ns: &str, upgrade: &str, phase: &str) -> Result<()> {
        let client = self.cluster.client_for(US, &["system:serviceaccounts"]).await?;
        let patch = json!({"status": {"phase": phase, "message": "waits for promote"}});
        let api: Api<Upgrade> = Api::namespaced(client, ns);
        api.patch_status(upgrade, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// The one rig of a test file.
pub async fn shared() -> &'static Rig {
    static RIG: OnceCell<Rig> = OnceCell::const_new();
    match RIG.get_or_try_init(Rig::start).await {
        Ok(rig) => rig,
        Err(error) => panic!("no webhook: {error:#}"),
    }
}

/// A governed namespace whose policy the webhook has seen.
pub async fn governed(rig: &Rig, spec: &Value) -> Result<String> {
    let ns = rig.governed().await?;
    rig.creates(User::Admin, &policy(&ns, spec))?;
    // The policy reaches the webhook by a watch.
    eventually("the policy to hold", Duration::from_secs(10), || async {
        let args = ["set", "image", "deploy/web", "app=web:probe", "-n", &ns, "--dry-run=server"];
        match rig.run(User::Alice, &args, None) {
            Ok(_) => anyhow::bail!("not yet"),
            Err(_) => Ok(()),
        }
    })
    .await?;
    Ok(ns)
}

/// A policy for every workload.
pub fn all() -> Value {
    json!({"workloads": {"all": true}})
}

pub fn refused(result: Result<String>, says: &[&str]) -> String {
    let text = match result {
        Ok(text) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    };
    for part in says {
        assert!(text.contains(part), "does not say `{part}`:\n{text}");
    }
    text
}

pub fn free_ports() -> Result<[u16; 2]> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0");
    let (a, b) = (bind()?, bind()?);
    Ok([a.local_addr()?.port(), b.local_addr()?.port()])
}

pub fn policy(ns: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": ns}});
    json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradePolicy",
        "metadata": {"name": format!("all-{ns}")}, "spec": spec})
}

pub fn ledger(ns: &str) -> Value {
    json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeLedger",
        "metadata": {"name": "ledger", "namespace": ns}, "spec": {"entries": [
            {"kind": "Deployment", "name": "web", "since": "2026-01-01T00:00:00Z",
             "images": [{"container": "app", "image": "web:v1"}],
             "selector": {"matchLabels": {"app": "web"}}}]}})
}

pub fn deployment(ns: &str, name: &str, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": ns},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": image}]}}}})
}

pub fn pod(ns: &str, name: &str, app: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": ns, "labels": {"app": app}},
        "spec": {"containers": [{"name": "app", "image": image}]}})
}

/// An Upgrade of `web` from web:v1 to web:v2.
pub fn upgrade(ns: &str, name: &str) -> Value {
    json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": name, "namespace": ns, "finalizers": ["kubectl-upgrade.dev/restore"]},
        "spec": {"stages": [{"name": "web", "workloads": {
            "strategy": {"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}},
            "targets": [{"kind": "Deployment", "name": "web",
                "images": [{"container": "app", "from": "web:v1", "to": "web:v2"}]}]}}]}})
}

pub fn approval(ns: &str, upgrade: &str, hash: &str) -> Value {
    json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
        "metadata": {"generateName": format!("{upgrade}-"), "namespace": ns},
        "spec": {"upgrade": upgrade, "planHash": hash, "decision": "Approved"}})
}
