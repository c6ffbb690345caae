//! The product on a control plane: built from this checkout, installed by the plugin as a person
//! would, the webhook and controller running as a process beside the API server with the rights of
//! its own service account and no others.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::OnceCell;
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE};

use crate::wait::eventually;
use crate::{ControlPlane, Process};

/// How long the service account's token is good for. A sandbox may stay up for long.
const TOKEN_SECONDS: i64 = 30 * 24 * 3600;
/// The product, running.
pub struct Product {
    webhook: Process,
    binaries: Binaries,
    argv: Vec<String>,
    probes: String,
    admin: PathBuf,
    url: String,
}

/// What `cargo build` made of this checkout.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The plugin.
    pub plugin: PathBuf,
    /// Webhook and controller.
    pub webhook: PathBuf,
}

/// Builds the plugin and the webhook, once in a process. Cargo does nothing where nothing changed.
pub async fn build() -> Result<Binaries> {
    static BUILT: OnceCell<Binaries> = OnceCell::const_new();
    let built = BUILT.get_or_try_init(|| async {
        tokio::task::spawn_blocking(cargo_build).await.context("building the product")?
    });
    built.await.cloned()
}

/// Builds the webhook for a container image: optimised, and linked statically, so that the image
/// holds nothing else.
pub fn build_static() -> Result<PathBuf> {
    let target = match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") => format!("{arch}-unknown-linux-gnu"),
        other => bail!("no static build is made for {other}: x86_64 and aarch64 are known"),
    };
    let built = cargo()
        // With a target the flags leave build scripts and macros alone.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--release", "--package", "upgrade-webhook", "--target", &target])
        .arg("--message-format=json-render-diagnostics")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !built.status.success() {
        bail!("the webhook does not build");
    }
    executable(&built.stdout, "upgrade-webhook")
}

fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What `cargo run` and `cargo test` tell of their own package makes build scripts (ring's, for
    // one) believe that something changed, and half of the dependencies compile again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if of_package.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name.as_ref());
        }
    }
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

fn cargo_build() -> Result<Binaries> {
    // All of the workspace: building a part would choose other features of shared dependencies
    // and compile them again.
    let built = cargo()
        .args(["build", "--workspace", "--bins", "--message-format=json-render-diagnostics"])
        .output()
        .context("cannot run cargo")?;
    if !built.status.success() {
        bail!("the product does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    let find = |name: &str| executable(&built.stdout, name);
    Ok(Binaries { plugin: find("kubectl-upgrade")?, webhook: find("upgrade-webhook")? })
}

/// The path of an executable in what `cargo build` tells in JSON.
fn executable(told: &[u8], name: &str) -> Result<PathBuf> {
    String::from_utf8_lossy(told)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .find(|path| path.file_stem().is_some_and(|stem| stem == name))
        .with_context(|| format!("cargo built no {name}"))
}

/// Installs the product: CRDs, rights, webhook configurations; then starts webhook and controller.
pub async fn install(cluster: &ControlPlane) -> Result<Product> {
    install_with(cluster, &[]).await
}

/// The same, with more arguments for the webhook and controller.
pub async fn install_with(cluster: &ControlPlane, more: &[&str]) -> Result<Product> {
    let binaries = build().await?;
    let [port, probes] = crate::ports::free()?;
    let url = format!("https://127.0.0.1:{port}");
    let installed = Command::new(&binaries.plugin)
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(["install", "--webhook-url", &url])
        .output()
        .context("cannot run kubectl-upgrade install")?;
    if !installed.status.success() {
        bail!("kubectl upgrade install failed:\n{}", String::from_utf8_lossy(&installed.stderr));
    }
    let kubeconfig = service_account(cluster).await?;
    let mut argv = vec![
        binaries.webhook.to_string_lossy().into_owned(),
        "--kubeconfig".to_owned(),
        kubeconfig.to_string_lossy().into_owned(),
        "--listen".to_owned(),
        format!("127.0.0.1:{port}"),
        "--metrics-listen".to_owned(),
        format!("127.0.0.1:{probes}"),
        "--san".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    argv.extend(more.iter().map(|s| (*s).to_owned()));
    let webhook = spawn(cluster, &argv).await?;
    let admin = cluster.kubeconfig().to_owned();
    let probes = format!("127.0.0.1:{probes}");
    let product = Product { webhook, binaries, argv, probes, admin, url };
    product.ready().await?;
    Ok(product)
}

async fn spawn(cluster: &ControlPlane, argv: &[String]) -> Result<Process> {
    let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    cluster.spawn("upgrade-webhook", argv.to_vec(), [("RUST_LOG", log)]).await
}

impl Product {
    /// The process of webhook and controller.
    pub fn webhook(&self) -> &Process {
        &self.webhook
    }

    /// What was built.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The plugin with this kubeconfig.
    pub fn plugin(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(&self.binaries.plugin);
        command.env("KUBECONFIG", kubeconfig).env_remove("NO_COLOR");
        command
    }

    /// Where the API server calls the webhook.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Address of the probes and metrics.
    pub fn probes(&self) -> &str {
        &self.probes
    }

    /// Waits until the webhook says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let failed = |error| {
            anyhow::Error::context(
                error,
                format!("the webhook's log ends with:\n{}", self.webhook.log_tail(20)),
            )
        };
        eventually("the webhook to be ready", Duration::from_secs(30), || {
            get(&self.probes, "/readyz")
        })
        .await
        .map(drop)
        .map_err(failed)
    }

    /// Kills the webhook and controller as a node failure would, and says in the EndpointSlice of
    /// its Service that it is not ready: as the webhook runs outside the cluster, no endpoint
    /// controller does.
    pub async fn kill(&self) -> Result<()> {
        self.webhook.kill()?;
        self.webhook.wait_exit().await;
        self.endpoint(false).await
    }

    /// Starts it again, and says so in the EndpointSlice: see [`kill`](Self::kill).
    pub async fn restart(&mut self, cluster: &ControlPlane) -> Result<()> {
        self.webhook = spawn(cluster, &self.argv).await?;
        self.endpoint(true).await
    }

    async fn endpoint(&self, ready: bool) -> Result<()> {
        let client = crate::boot::client(&self.admin).await?;
        let api: Api<EndpointSlice> = Api::namespaced(client, SYSTEM_NAMESPACE);
        let body = serde_json::json!({"endpoints": [
            {"addresses": ["192.0.2.1"], "conditions": {"ready": ready}}]});
        api.patch("upgrade-webhook-outside", &PatchParams::default(), &Patch::Merge(&body))
            .await
            .context("cannot say whether the webhook is ready")?;
        Ok(())
    }
}

/// One GET of plain HTTP; the body where the answer is 200.
pub async fn get(address: &str, path: &str) -> Result<String> {
    get_with(address, path, None).await
}

/// As [`get`], with a header more, `name: value`.
pub async fn get_with(address: &str, path: &str, header: Option<&str>) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let header = header.map(|h| format!("{h}\r\n")).unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}: {body}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// A kubeconfig of our service account, with a token as a pod would have one.
async fn service_account(cluster: &ControlPlane) -> Result<PathBuf> {
    let api: Api<ServiceAccount> = Api::namespaced(cluster.client().await?, SYSTEM_NAMESPACE);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let token = api
        .create_token_request(SERVICE_ACCOUNT, &PostParams::default(), &request)
        .await
        .context("cannot make a token for the service account")?
        .status
        .context("no token")?
        .token;
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "sandbox",
        "clusters": [{"name": "sandbox", "cluster": {
            "server": cluster.url(),
            "certificate-authority-data": base64(cluster.ca().as_bytes()),
        }}],
        "users": [{"name": SERVICE_ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": "sandbox", "context": {
            "cluster": "sandbox", "user": SERVICE_ACCOUNT, "namespace": SYSTEM_NAMESPACE}}],
    });
    let path = cluster.dir().join("webhook.kubeconfig");
    std::fs::write(&path, config.to_string()).context("cannot write the webhook's kubeconfig")?;
    Ok(path)
}

/// `k8s_openapi::ByteString` serializes as base64, which is what a kubeconfig wants.
fn base64(bytes: &[u8]) -> serde_json::Value {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap_or_default()
}
