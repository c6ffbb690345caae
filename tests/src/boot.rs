//! Bringing a control plane up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::build::{self, Binaries};
use crate::cluster::ControlPlane;
use crate::components::{Plan, Ports};
use crate::guard::{Guardian, Launch, Process};
use crate::node::{Node, Space, Up};
use crate::pki::{self, Authority};
use crate::progress::Progress;
use crate::{nodes, ports};

/// How a control plane is to be.
#[derive(Clone)]
pub struct Options {
    /// Fake nodes.
    pub nodes: u16,
    /// A real node besides, which takes what [`Node::unavailable`] says. Pods go wherever they fit,
    /// so with 0 fake nodes they all go there.
    pub node: bool,
    /// Where the start reports its steps.
    pub progress: Progress,
    /// More flags for kube-apiserver.
    pub apiserver_flags: Vec<String>,
    /// More flags for kube-controller-manager.
    pub controller_manager_flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            node: false,
            progress: Progress::silent(),
            apiserver_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
        }
    }
}

/// A slow machine under load; a fast one needs four seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often an endpoint that does not listen yet is tried.
const TRY: Duration = Duration::from_millis(25);

/// A port was taken between its choice and its use.
#[derive(Debug)]
struct PortTaken;

impl std::fmt::Display for PortTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another process took a port that was free")
    }
}

impl std::error::Error for PortTaken {}

/// What a boot leaves behind for the cluster's handle.
pub(crate) struct Booted {
    pub(crate) dir: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) authority: Authority,
    pub(crate) processes: Vec<Process>,
    pub(crate) node: Option<Node>,
}

pub(crate) async fn start(options: Options) -> Result<ControlPlane> {
    // Only the first call in a process can set it, and any set before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(why) = options.node.then(Node::unavailable).flatten() {
        bail!("{why}");
    }
    let guardian = Guardian::launch()?;
    let binaries = build::ensure(&guardian, &options.progress).await?;
    // Its addresses are part of the API server's flags and certificate.
    let space = if options.node { Some(Space::open(&guardian).await?) } else { None };
    let start = Start { guardian: &guardian, binaries: &binaries, options: &options };
    let mut attempt = Attempt::new(&start, space.as_ref(), 1);
    let mut booted = match attempt.run().await {
        Err(error) if error.is::<PortTaken>() => {
            attempt.abandon().await?;
            Attempt::new(&start, space.as_ref(), 2).run().await
        }
        outcome => outcome,
    }?;
    if let Some(space) = space {
        booted.node = Some(start.node(space, &booted).await?);
    }
    Ok(ControlPlane::new(guardian, binaries, booted))
}

/// What every attempt starts from.
struct Start<'a> {
    guardian: &'a Guardian,
    binaries: &'a Binaries,
    options: &'a Options,
}

impl Start<'_> {
    async fn node(&self, space: Space, booted: &Booted) -> Result<Node> {
        let binaries = build::ensure_node(self.guardian, &self.options.progress).await?;
        let client = client(&booted.dir.join("admin.kubeconfig")).await?;
        Node::start(Up {
            guardian: self.guardian,
            binaries: &binaries,
            space,
            authority: &booted.authority,
            client: &client,
            dir: &booted.dir,
            port: booted.ports.apiserver,
            progress: &self.options.progress,
        })
        .await
    }
}

struct Attempt<'a> {
    guardian: &'a Guardian,
    binaries: &'a Binaries,
    options: &'a Options,
    space: Option<&'a Space>,
    dir: PathBuf,
    processes: Vec<Process>,
}

impl<'a> Attempt<'a> {
    fn new(start: &Start<'a>, space: Option<&'a Space>, n: u8) -> Self {
        let Start { guardian, binaries, options } = *start;
        let dir = guardian.scratch().join(format!("boot-{n}"));
        Self { guardian, binaries, options, space, dir, processes: Vec::new() }
    }

    async fn run(&mut self) -> Result<Booted> {
        let [etcd, etcd_peer, apiserver] = ports::free()?;
        let ports = Ports { etcd, etcd_peer, apiserver };
        let Self { binaries, options, space, .. } = *self;
        let plan = Plan { binaries, options, space, dir: self.dir.clone(), ports };
        let authority = Authority::new()?;
        plan.write(&authority)?;
        let url = format!("https://127.0.0.1:{apiserver}");
        let config = |user: &str, groups: &[&str]| {
            kubeconfig(&self.dir.join(format!("{user}.kubeconfig")), &url, &authority, user, groups)
        };
        let admin = config("admin", &["system:masters"])?;
        let manager = config("system:kube-controller-manager", &[])?;
        let scheduler = config("system:kube-scheduler", &[])?;
        let kwok = config("kwok", &["system:masters"])?;

        self.options.progress.step("starting etcd");
        self.launch(plan.etcd(), listening(etcd)).await?;
        self.options.progress.step("starting kube-apiserver");
        let client = client(&admin).await?;
        self.launch(plan.apiserver(), serving(&client)).await?;
        self.options.progress.step("starting kube-controller-manager, kube-scheduler and kwok");
        for launch in
            [plan.controller_manager(&manager), plan.scheduler(&scheduler), plan.kwok(&kwok)]
        {
            self.processes.push(self.guardian.spawn(launch).await?);
        }
        self.populate(&client).await?;
        let processes = std::mem::take(&mut self.processes);
        Ok(Booted { dir: self.dir.clone(), ports, authority, processes, node: None })
    }

    /// Brings the nodes up, unless one of the processes that it takes ends.
    async fn populate(&self, client: &Client) -> Result<()> {
        let count = self.options.nodes;
        let nodes = async {
            nodes::register(client, count).await?;
            nodes::ready(client, count).await
        };
        let deaths = self.processes.iter().map(|process| Box::pin(died(process)));
        tokio::select! {
            outcome = nodes => outcome,
            (error, ..) = futures::future::select_all(deaths) => Err(error),
        }
    }

    /// Starts a process and waits for its endpoint, for its end, or for too long.
    async fn launch(&mut self, launch: Launch, up: impl Future<Output = ()>) -> Result<()> {
        let process = self.guardian.spawn(launch).await?;
        self.processes.push(process.clone());
        tokio::select! {
            () = up => Ok(()),
            error = died(&process) => Err(error),
            () = sleep(PATIENCE) => bail!(
                "{} is not up after {PATIENCE:?}; its last words:\n{}",
                process.name(), process.log_tail(15)
            ),
        }
    }

    async fn abandon(&self) -> Result<()> {
        for process in self.processes.iter().rev() {
            process.kill()?;
            process.wait_exit().await;
        }
        std::fs::remove_dir_all(&self.dir).context("cannot clear away a failed boot")
    }
}

/// Why the process ended, once it does.
async fn died(process: &Process) -> anyhow::Error {
    let exit = process.wait_exit().await;
    let log = process.log_tail(15);
    if log.contains("address already in use") {
        return PortTaken.into();
    }
    anyhow::anyhow!("{} ended with {exit}; its last words:\n{log}", process.name())
}

/// The API server is patient with an etcd that listens but has no leader yet.
async fn listening(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        sleep(TRY).await;
    }
}

async fn serving(client: &Client) {
    let ready = || async {
        let request = http_get("/readyz")?;
        timeout(Duration::from_secs(2), client.request_text(request)).await??;
        anyhow::Ok(())
    };
    while ready().await.is_err() {
        sleep(TRY).await;
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

/// Writes a kubeconfig with everything inside, so that it works wherever it is copied.
pub(crate) fn kubeconfig(
    path: &Path,
    url: &str,
    authority: &Authority,
    user: &str,
    groups: &[&str],
) -> Result<PathBuf> {
    let pair = authority.client(user, groups)?;
    // ByteString is how the API writes bytes: in base64, as a kubeconfig does.
    let data = |pem: &str| k8s_openapi::ByteString(pem.as_bytes().to_vec());
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": {
            "server": url,
            "certificate-authority-data": data(authority.cert()),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": data(&pair.cert),
            "client-key-data": data(&pair.key),
        }}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user}}],
        "current-context": "sandbox",
    });
    pki::write_private(path, &serde_saphyr::to_string(&config).context("cannot write YAML")?)?;
    Ok(path.to_owned())
}

/// A client for a kubeconfig file.
pub(crate) async fn client(path: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(path).context("cannot read the kubeconfig")?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .context("cannot use the kubeconfig")?;
    // A proxy of the environment does not reach this machine's loopback.
    config.proxy_url = None;
    Client::try_from(config).context("cannot create a client")
}
