//! The handle of a running control plane.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use tokio::sync::OnceCell;

use crate::audit::{self, AuditEvent, WriteCounter};
use crate::boot::{self, Booted, Options};
use crate::build::Binaries;
use crate::components::Ports;
use crate::guard::{Guardian, Launch, Process};
use crate::node::Node;
use crate::pki::{Authority, Pair};
use crate::wait::wait_for;

/// A control plane that runs on this machine's loopback until this is dropped.
pub struct ControlPlane {
    guardian: Guardian,
    binaries: Binaries,
    dir: PathBuf,
    ports: Ports,
    url: String,
    authority: Authority,
    admin: PathBuf,
    processes: Vec<Process>,
    node: Option<Node>,
    counter: AtomicU64,
}

/// The one control plane that all tests of a test binary share, started by the first that asks. It
/// goes when the process ends. Clients belong to the runtime that made them, so each test makes
/// its own.
///
/// # Panics
/// When the control plane cannot be started: no test can go on from there.
pub async fn shared() -> &'static ControlPlane {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    match SHARED.get_or_try_init(|| ControlPlane::start(Options::default())).await {
        Ok(cluster) => cluster,
        Err(error) => panic!("no control plane: {error:#}"),
    }
}

impl ControlPlane {
    /// Starts a control plane. The first time ever, its binaries are built.
    pub async fn start(options: Options) -> Result<Self> {
        boot::start(options).await
    }

    pub(crate) fn new(guardian: Guardian, binaries: Binaries, booted: Booted) -> Self {
        let Booted { dir, ports, authority, processes, node } = booted;
        Self {
            url: format!("https://127.0.0.1:{}", ports.apiserver),
            admin: dir.join("admin.kubeconfig"),
            counter: AtomicU64::new(1),
            guardian,
            binaries,
            dir,
            ports,
            authority,
            processes,
            node,
        }
    }

    /// The kubeconfig of an administrator (`admin`, `system:masters`).
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// A kubeconfig for this user: a client certificate of the cluster's authority. It holds two
    /// groups at the most.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("user-{n}.kubeconfig"));
        boot::kubeconfig(&path, &self.url, &self.authority, user, groups)
    }

    /// A client of the administrator, bound to the runtime that calls.
    pub async fn client(&self) -> Result<Client> {
        boot::client(&self.admin).await
    }

    /// A client of this user, bound to the runtime that calls.
    pub async fn client_for(&self, user: &str, groups: &[&str]) -> Result<Client> {
        boot::client(&self.kubeconfig_for(user, groups)?).await
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        self.kubectl_with(&self.admin)
    }

    /// kubectl with this kubeconfig.
    pub fn kubectl_with(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(&self.binaries.kubectl);
        command.env("KUBECONFIG", kubeconfig);
        command
    }

    /// The binaries that run, and kubectl.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The scratch directory, with the logs in `logs/`. It goes with the cluster.
    pub fn dir(&self) -> &Path {
        self.guardian.scratch()
    }

    /// The API server's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The ports in use.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The cluster's certificate authority, PEM.
    pub fn ca(&self) -> &str {
        self.authority.cert()
    }

    /// A certificate of the cluster's authority for a server with these names and addresses.
    pub fn serving_certificate(&self, names: &[&str]) -> Result<Pair> {
        self.authority.server(names)
    }

    /// The processes of the control plane, in the order of their start.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The real node, where one was asked for.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The guardian's pid.
    pub fn guardian_pid(&self) -> u32 {
        self.guardian.pid()
    }

    /// Starts a process that goes with the cluster. A program without a slash is looked up in
    /// PATH; output is appended to a log named after `name`.
    pub async fn spawn(
        &self,
        name: &str,
        argv: impl IntoIterator<Item = impl Into<String>>,
        env: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Result<Process> {
        let launch = Launch {
            name: name.to_owned(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: env.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            cwd: None,
        };
        self.guardian.spawn(launch).await
    }

    /// Creates a namespace with a name of its own, in which pods can run, and returns the name.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let client = self.client().await?;
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let created = Api::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .context("cannot create a namespace")?;
        let name = created.metadata.name.context("a namespace without a name")?;
        // Pods are refused until their service account is there.
        let accounts = Api::<ServiceAccount>::namespaced(client, &name);
        let there = |account: Option<&ServiceAccount>| account.is_some();
        wait_for(accounts, "default", there, Duration::from_secs(30)).await?;
        Ok(name)
    }

    /// Every write the API server has answered so far, but those of events and leases.
    pub async fn audit(&self) -> Result<Vec<AuditEvent>> {
        let mark = self.counter.fetch_add(1, Ordering::Relaxed);
        audit::read(&self.dir.join("audit.log"), &self.client().await?, mark).await
    }

    /// Counts the writes to a Deployment from now on.
    pub async fn count_writes(
        &self,
        namespace: &str,
        deployment: &str,
    ) -> Result<WriteCounter<'_>> {
        WriteCounter::start(self, namespace, deployment).await
    }

    /// Waits until the cluster has been shut down from outside.
    pub async fn gone(&self) {
        self.guardian.gone().await;
    }

    /// Lets the cluster live on without this process, until its guardian is told to stop.
    pub async fn detach(self) -> Result<()> {
        self.guardian.detach().await
    }
}
