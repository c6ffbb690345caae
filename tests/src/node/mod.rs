//! A real node: containerd, kubelet and kube-proxy in namespaces of their own, so that real pods
//! run real images and the API server reaches them through real Services. It takes Linux, root and
//! a few packages, and no Docker.

mod files;
mod space;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as Object;
use kube::Client;
use kube::api::Api;

use crate::build::NodeBinaries;
use crate::guard::{Guardian, Launch, Process};
use crate::image::{Image, Recipe};
use crate::nodes;
use crate::pki::Authority;
use crate::progress::Progress;
use crate::wait::{eventually, wait_for};

pub(crate) use space::Space;
pub use space::reap;

/// The name of the one real node of a cluster that has one.
pub const NAME: &str = "real-0";

/// The Debian packages that it takes, besides what every Debian has.
const PACKAGES: &str = "containerd runc containernetworking-plugins iptables iproute2";

/// How long a node may take to be ready; it takes three seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where CNI plugins are looked for: Debian's place, and that of the plugins' own releases.
const CNI: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// A running node. Its processes, mounts, addresses and cgroups go with the cluster's guardian,
/// however that ends.
pub struct Node {
    space: Space,
    containerd: Process,
    kubelet: Process,
    kube_proxy: Process,
}

/// What of the machine it uses.
struct Host {
    cni: PathBuf,
    runc: PathBuf,
}

impl Node {
    /// Why no real node can run here, in one line; `None` where it can.
    pub fn unavailable() -> Option<String> {
        match Host::find() {
            Ok(_) => None,
            Err(error) => Some(format!("no real node: {error:#}")),
        }
    }

    /// Brings the node up and waits until pods can run on it.
    pub(crate) async fn start(up: Up<'_>) -> Result<Self> {
        let host = Host::find()?;
        up.progress.step("starting containerd, kubelet and kube-proxy");
        let listen = format!("{}:{}", up.space.host(), up.port);
        let to = format!("127.0.0.1:{}", up.port);
        let sandbox = crate::guard::executable()?.display().to_string();
        let argv = vec![sandbox, "forward".to_owned(), listen.clone(), to];
        let launch = |name: &str, argv| Launch { name: name.to_owned(), argv, ..Launch::default() };
        // Pods and kubelet come from another network, and the API server listens on loopback.
        up.guardian.spawn(launch("forward", argv)).await?;

        let url = format!("https://{listen}");
        let config = |user: &str, groups: &[&str]| {
            let path = up.dir.join(format!("{user}.kubeconfig"));
            crate::boot::kubeconfig(&path, &url, up.authority, user, groups)
        };
        let kubelet = config(&format!("system:node:{NAME}"), &["system:nodes", "system:masters"])?;
        let proxy = config("system:kube-proxy", &[])?;
        let written = files::write(&up.space, &host.cni, &host.runc, up.authority.cert(), &proxy)?;

        let inside = |name: &str, argv: &[&str]| {
            let mut launch = launch(name, up.space.inside(argv));
            // What is talked to here is never behind a proxy of the environment.
            launch.env =
                ["NO_PROXY", "no_proxy"].map(|key| (key.to_owned(), "*".to_owned())).into();
            launch
        };
        let containerd = inside("containerd", &["containerd", "--config", &written.containerd]);
        let containerd = up.guardian.spawn(containerd).await?;
        // First: a kubelet that comes up while an image is unpacked meets a mount that is gone a
        // moment later, and ends.
        pause(&up).await.with_context(|| containerd.log_tail(12))?;
        let argv = files::kubelet(&up.binaries.kubelet, &kubelet, &written, up.space.node());
        let kubelet = inside("kubelet", &argv.each_ref().map(String::as_str));
        let proxy = up.binaries.kube_proxy.display().to_string();
        let flag = format!("--config={}", written.kube_proxy);
        let proxy = inside("kube-proxy", &[&proxy, &flag]);
        let node = Self {
            containerd,
            kubelet: up.guardian.spawn(kubelet).await?,
            kube_proxy: up.guardian.spawn(proxy).await?,
            space: up.space,
        };
        let nodes = Api::<Object>::all(up.client.clone());
        let ready = wait_for(nodes, NAME, nodes::schedulable, PATIENCE).await;
        ready.with_context(|| node.last_words())?;
        Ok(node)
    }

    /// Makes an image known to the node under its reference.
    pub fn import(&self, image: &Image) -> Result<()> {
        let file = image.file.display().to_string();
        self.ctr(&["images", "import", &file]).map(drop)
    }

    /// Makes an image available under this name that is ready at once and does nothing: it waits for
    /// SIGTERM. A name without a registry is that of the default one, as for a pod.
    pub fn provide(&self, name: &str) -> Result<()> {
        let full =
            if name.contains('/') { name.to_owned() } else { format!("docker.io/library/{name}") };
        self.ctr(&["images", "tag", "--force", files::PAUSE, &full]).map(drop)
    }

    /// `ctr` against the node's containerd, in the namespace of Kubernetes.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        ctr(&self.space, arguments)
    }

    /// The running containers with this name, by their ids.
    pub fn containers(&self, name: &str) -> Result<Vec<String>> {
        let label = format!("labels.\"io.kubernetes.container.name\"=={name}");
        let listed = self.ctr(&["containers", "list", "--quiet", &label])?;
        let tasks = self.ctr(&["tasks", "list"])?;
        let tasks = String::from_utf8_lossy(&tasks.stdout).into_owned();
        let runs = |id: &str| tasks.lines().any(|l| l.starts_with(id) && l.contains("RUNNING"));
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok(listed.lines().filter(|id| runs(id)).map(str::to_owned).collect())
    }

    /// A signal to a container's process, past the kubelet: what a node out of memory does, for one.
    pub fn signal(&self, container: &str, signal: &str) -> Result<()> {
        self.ctr(&["tasks", "kill", "--signal", signal, container]).map(drop)
    }

    /// containerd, kubelet and kube-proxy.
    pub fn processes(&self) -> [&Process; 3] {
        [&self.containerd, &self.kubelet, &self.kube_proxy]
    }

    /// The directory of its files, as seen from outside; it is there while the node runs.
    pub fn dir(&self) -> PathBuf {
        self.space.outside(self.space.dir())
    }

    /// The interface on this machine that leads to the node.
    pub fn interface(&self) -> String {
        self.space.interface()
    }

    /// Whether any process is left in the node's own process namespace.
    pub fn alive(&self) -> bool {
        self.space.alive()
    }

    fn last_words(&self) -> String {
        let words = self.processes().map(|p| format!("{}:\n{}\n", p.name(), p.log_tail(12)));
        format!("the node is not ready; last words of {}", words.concat())
    }
}

fn ctr(space: &Space, arguments: &[&str]) -> Result<Output> {
    let socket = space.dir().join(files::SOCKET).display().to_string();
    let mut argv = vec!["ctr", "--address", &socket, "--namespace", "k8s.io"];
    argv.extend(arguments);
    let argv = space.inside(&argv);
    let (program, arguments) = argv.split_first().context("no command")?;
    let output = Command::new(program).args(arguments).output().context("cannot run ctr")?;
    if !output.status.success() {
        bail!("{}: {}", argv.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Waits for containerd, and gives it the image that every pod needs.
async fn pause(up: &Up<'_>) -> Result<()> {
    eventually("containerd", PATIENCE, || async { ctr(&up.space, &["version"]) }).await?;
    let recipe = Recipe {
        reference: files::PAUSE.to_owned(),
        program: up.binaries.pause.clone(),
        annotations: std::collections::BTreeMap::new(),
    };
    let image = recipe.write(&up.dir.join("pause.tar"))?;
    let file = image.file.display().to_string();
    ctr(&up.space, &["images", "import", &file]).map(drop)
}

/// What a node is started from.
pub(crate) struct Up<'a> {
    pub(crate) guardian: &'a Guardian,
    pub(crate) binaries: &'a NodeBinaries,
    pub(crate) space: Space,
    pub(crate) authority: &'a Authority,
    pub(crate) client: &'a Client,
    /// For kubeconfigs.
    pub(crate) dir: &'a Path,
    /// The API server's.
    pub(crate) port: u16,
    pub(crate) progress: &'a Progress,
}

impl Host {
    fn find() -> Result<Self> {
        if !cfg!(target_os = "linux") {
            bail!("it runs on Linux only");
        }
        if !rustix::process::geteuid().is_root() {
            bail!("containers need root here");
        }
        let programs = ["containerd", "containerd-shim-runc-v2", "ctr", "iptables", "ip", "runc"];
        let missing: Vec<&str> =
            programs.into_iter().filter(|program| in_path(program).is_none()).collect();
        let plugins = ["ptp", "host-local", "portmap", "loopback"];
        let cni =
            CNI.iter().map(PathBuf::from).find(|dir| plugins.iter().all(|p| dir.join(p).exists()));
        let (Some(cni), Some(runc), true) = (cni.clone(), in_path("runc"), missing.is_empty())
        else {
            let plugins = if cni.is_none() { "CNI plugins" } else { "" };
            let all = [missing.join(", "), plugins.to_owned()].join(" ");
            bail!("{} missing (on Debian: apt-get install {PACKAGES})", all.trim());
        };
        space::allowed()?;
        Ok(Self { cni, runc })
    }
}

/// PATH, and where administrators' programs are when it leaves them out.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let all = std::env::split_paths(&path).chain(more);
    all.map(|dir| dir.join(program)).find(|path| path.is_file())
}
