//! The binaries of the control plane, built from their own sources on first use.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache;
use crate::guard::{Guardian, Launch};
use crate::progress::{Progress, Ticker};

/// Sources that are built together, in a Go module of their own.
struct Module {
    /// For people, and the directory in the cache.
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    /// What stands in the module itself, by path.
    files: &'static [(&'static str, &'static str)],
    /// How long it takes, for people.
    takes: &'static str,
}

const CONTROL_PLANE: Module = Module {
    name: "controlplane",
    go_mod: include_str!("../controlplane/go.mod"),
    go_sum: include_str!("../controlplane/go.sum"),
    files: &[],
    takes: "7 min on 2 cores the first time; seconds when Go's cache is warm",
};
const NODE: Module = Module {
    name: "node",
    go_mod: include_str!("../controlplane/node/go.mod"),
    go_sum: include_str!("../controlplane/node/go.sum"),
    files: &[("pause/main.go", include_str!("../controlplane/node/pause/main.go"))],
    takes: "4 min on 2 cores the first time; seconds when Go's cache is warm",
};
const VERSION: &str = "k8s.io/component-base/version";

/// Go is not there, or cannot build the control plane. Its own type, because it asks something of
/// the user that nothing else does.
#[derive(Debug)]
pub struct GoMissing(String);

impl std::fmt::Display for GoMissing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GoMissing {}

/// Where the binaries are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kube-scheduler.
    pub scheduler: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// kwok.
    pub kwok: PathBuf,
}

/// Where the binaries of a real node are.
#[derive(Debug, Clone)]
pub(crate) struct NodeBinaries {
    pub(crate) kubelet: PathBuf,
    pub(crate) kube_proxy: PathBuf,
    /// Holds a pod's namespaces open.
    pub(crate) pause: PathBuf,
}

/// A binary: its name, its Go package, and the name `go build` gives it.
struct Tool {
    name: &'static str,
    package: &'static str,
    built: &'static str,
}

const fn kubernetes(name: &'static str, package: &'static str) -> Tool {
    Tool { name, package, built: name }
}

const TOOLS: [Tool; 6] = [
    Tool { name: "etcd", package: "go.etcd.io/etcd/server/v3", built: "server" },
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
];

const NODE_TOOLS: [Tool; 3] = [
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    Tool { name: "pause", package: "./pause", built: "pause" },
];

/// The binaries: those in `KUBEBUILDER_ASSETS` as they are, the others from the cache, built into
/// it where they are missing.
pub async fn ensure(guardian: &Guardian, progress: &Progress) -> Result<Binaries> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let given =
        |tool: &Tool| assets.as_ref().map(|dir| dir.join(tool.name)).filter(|path| path.is_file());
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| given(tool).is_none()).collect();
    let built = if missing.is_empty() {
        PathBuf::new()
    } else {
        built(guardian, &CONTROL_PLANE, &missing, progress).await?
    };
    let [etcd, apiserver, controller_manager, scheduler, kubectl, kwok] =
        TOOLS.map(|tool| given(&tool).unwrap_or_else(|| built.join(tool.built)));
    Ok(Binaries { etcd, apiserver, controller_manager, scheduler, kubectl, kwok })
}

/// The binaries of a real node, from the cache or built into it.
pub(crate) async fn ensure_node(guardian: &Guardian, progress: &Progress) -> Result<NodeBinaries> {
    let bin = built(guardian, &NODE, &NODE_TOOLS.each_ref(), progress).await?;
    let [kubelet, kube_proxy, pause] = NODE_TOOLS.map(|tool| bin.join(tool.built));
    Ok(NodeBinaries { kubelet, kube_proxy, pause })
}

/// The directory with these tools, from the cache or built into it.
async fn built(
    guardian: &Guardian,
    module: &Module,
    tools: &[&Tool],
    progress: &Progress,
) -> Result<PathBuf> {
    let cache = cache::dir()?;
    let flags = module.flags()?;
    let go = go_version(module.word_after("go ")?)?;
    let name = format!("{}-{}", module.name, module.fingerprint(tools, &flags, &go));
    let done = cache.join(&name);
    if done.is_dir() {
        return Ok(done);
    }
    std::fs::create_dir_all(&cache)
        .with_context(|| format!("cannot create the cache {}", cache.display()))?;
    let _lock = only_one(&cache.join(format!("{name}.lock")), module, progress).await?;
    if done.is_dir() {
        return Ok(done);
    }
    // Whoever left this behind was killed: the lock says that nobody is at it now.
    let work = cache.join(format!("{name}.building"));
    let _ = std::fs::remove_dir_all(&work);
    build(guardian, module, tools, &flags, &work).await?;
    std::fs::rename(work.join("bin"), &done)
        .with_context(|| format!("cannot create {}", done.display()))?;
    let _ = std::fs::remove_dir_all(&work);
    Ok(done)
}

/// Holds the lock file; processes that come meanwhile wait for the one that builds.
async fn only_one(path: &Path, module: &Module, progress: &Progress) -> Result<File> {
    let lock = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => return Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let what = module.what();
            progress.step(&format!("another process builds {what}; waiting for it"));
        }
        Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the cache"),
    }
    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await?
        .context("cannot lock the cache")
}

async fn build(
    guardian: &Guardian,
    module: &Module,
    tools: &[&Tool],
    flags: &[String],
    work: &Path,
) -> Result<()> {
    let bin = work.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    std::fs::write(work.join("go.mod"), module.go_mod)?;
    std::fs::write(work.join("go.sum"), module.go_sum)?;
    for (path, text) in module.files {
        let path = work.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(work))?;
        std::fs::write(path, text)?;
    }
    let mut argv = vec!["go".to_owned(), "build".to_owned()];
    argv.extend(flags.iter().cloned());
    argv.extend(["-o".to_owned(), format!("{}/", bin.display())]);
    argv.extend(tools.iter().map(|tool| tool.package.to_owned()));
    // The guardian runs it, so that a build does not outlive who asked for it either.
    let go = guardian
        .spawn(Launch {
            name: "go-build".to_owned(),
            argv,
            env: go_env().map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            cwd: Some(work.to_owned()),
        })
        .await?;
    let what = module.what();
    let ticker = Ticker::start(format!("building {what} ({})", module.takes));
    let exit = loop {
        tokio::select! {
            exit = go.wait_exit() => break exit,
            () = tokio::time::sleep(ticker.interval()) => ticker.tick(),
        }
    };
    if !exit.success() {
        ticker.done(&format!("building {what} failed"));
        bail!(
            "go build ended with {exit}:\n{}\nhint: Go fetches the sources through GOPROXY, and needs a network the first time",
            go.log_tail(20)
        );
    }
    ticker.done(&format!("built {what}"));
    Ok(())
}

/// What of the user's Go settings must not reach the build: flags meant for their own modules, a
/// workspace, another platform, a toolchain fetched behind their back.
fn go_env() -> [(&'static str, &'static str); 6] {
    [
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-mod=readonly"),
        ("GOWORK", "off"),
        ("GO111MODULE", "on"),
        ("GOOS", ""),
        ("GOARCH", ""),
    ]
}

impl Module {
    fn what(&self) -> String {
        format!("the {}", self.name.replace("controlplane", "control plane"))
    }

    fn flags(&self) -> Result<Vec<String>> {
        let version = self.word_after("k8s.io/kubernetes ")?;
        let (major, minor) = version
            .trim_start_matches('v')
            .rsplit_once('.')
            .and_then(|(release, _)| release.split_once('.'))
            .with_context(|| format!("{version} is no Kubernetes version"))?;
        let link = format!(
            "-s -w -X {VERSION}.gitVersion={version} -X {VERSION}.gitMajor={major} -X {VERSION}.gitMinor={minor}"
        );
        Ok(vec!["-trimpath".to_owned(), "-ldflags".to_owned(), link])
    }

    /// The word after `start` on its line in go.mod; a comment may follow there.
    fn word_after(&self, start: &str) -> Result<&'static str> {
        let word = |line: &'static str| {
            let line = line.trim_start().trim_start_matches("require ");
            line.strip_prefix(start)?.split_whitespace().next()
        };
        let found = self.go_mod.lines().find_map(word);
        found.with_context(|| format!("go.mod of {} has no line {start:?}", self.name))
    }

    fn fingerprint(&self, tools: &[&Tool], flags: &[String], go: &str) -> String {
        let mut hash = Sha256::new();
        let packages = tools.iter().map(|tool| tool.package);
        let parts = [self.go_mod, self.go_sum, go].into_iter().chain(packages);
        let parts = parts.chain(flags.iter().map(String::as_str));
        for part in parts.chain(self.files.iter().map(|(_, text)| *text)) {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// What `go version` prints, once it is known to suffice.
fn go_version(wanted: &str) -> Result<String> {
    let remedy = format!(
        "hint: install Go {wanted} or newer (your package manager, or the downloads at go.dev) and put it on PATH"
    );
    let output = match std::process::Command::new("go").arg("version").envs(go_env()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(GoMissing(format!(
            "Go is not installed, and the control plane is built from source on first use\n{remedy}"
        ))),
        Err(error) => return Err(error).context("cannot run go"),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(GoMissing(format!("`go version` failed: {}\n{remedy}", said.trim())));
    }
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if too_old(&version, wanted) {
        bail!(GoMissing(format!("{version} is too old for the control plane\n{remedy}")));
    }
    Ok(version)
}

/// Whether `go version go1.25.1 linux/amd64` is older than `1.26.0`. A version without numbers is a
/// development build, which gets the benefit of the doubt.
fn too_old(version: &str, wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let text = text.trim_start_matches("go");
        text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect()
    };
    let have = version.split_whitespace().nth(2).map(numbers).unwrap_or_default();
    !have.is_empty() && have < numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(too_old("go version go1.25.9 linux/amd64", "1.26.0"));
        assert!(too_old("go version go1.9 linux/amd64", "1.26.0"));
        assert!(!too_old("go version go1.26.0 linux/amd64", "1.26.0"));
        assert!(!too_old("go version go1.27.1-custom linux/amd64", "1.26.0"));
        assert!(!too_old("go version devel +abc linux/amd64", "1.26.0"));
    }

    #[test]
    fn the_release_comes_from_go_mod() {
        let [control_plane, node] = [CONTROL_PLANE, NODE].map(|module| module.flags().unwrap());
        assert!(node[2].contains("gitVersion=v1."), "{node:?}");
        assert!(node[2].contains("gitMajor=1 "), "{node:?}");
        assert_eq!(control_plane, node, "of one release");
    }
}
