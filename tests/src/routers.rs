//! The custom resources of routers, from the routers' own Go modules: read from Go's module cache,
//! and never copied.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::ControlPlane;
use crate::scenario::say;

/// Module and version of the Gateway API, the one that Traefik is built against.
pub const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.4.0";
/// The last of which all modules are to be had.
const TRAEFIK: &str = "github.com/traefik/traefik/v3@v3.6.12";
const ISTIO: &str = "istio.io/api@v1.28.0";
const SMI: &str = "github.com/servicemeshinterface/smi-sdk-go@v0.5.0";

/// The directory of a Go module, fetched through the module proxy where it is missing.
pub fn module(name: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", name])
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .current_dir(std::env::temp_dir())
        .output()
        .context("cannot run go")?;
    let said: Value = serde_json::from_slice(&output.stdout).context("go mod download")?;
    match said.get("Dir").and_then(Value::as_str) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => bail!("{name}: {}", said.get("Error").and_then(Value::as_str).unwrap_or("no dir")),
    }
}

/// HTTPRoutes and what belongs to them.
pub fn gateway_api(cluster: &ControlPlane) -> Result<()> {
    let dir = module(GATEWAY_API)?.join("config/crd/standard");
    let mut text = String::new();
    for entry in std::fs::read_dir(&dir).context("the Gateway API's CRDs")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("gateway.networking.k8s.io_") {
            text.push_str(&read(&path)?);
            text.push_str("\n---\n");
        }
    }
    apply(cluster, &text)
}

/// VirtualServices and DestinationRules.
pub fn istio(cluster: &ControlPlane) -> Result<()> {
    let text = read(&module(ISTIO)?.join("kubernetes/customresourcedefinitions.gen.yaml"))?;
    let wanted = |doc: &&str| {
        ["virtualservices", "destinationrules"]
            .iter()
            .any(|name| doc.contains(&format!("name: {name}.networking.istio.io")))
    };
    let docs: Vec<&str> = text.split("\n---\n").filter(wanted).collect();
    apply(cluster, &docs.join("\n---\n"))
}

/// TrafficSplits. Their CRD was last written for an API that is not served any more: its schema
/// goes into each version, as the API server's own conversion did.
pub fn smi(cluster: &ControlPlane) -> Result<()> {
    let text = read(&module(SMI)?.join("crds/split.yaml"))?;
    let mut crd: Value = serde_saphyr::from_str(text.trim_start_matches("---\n"))?;
    crd["apiVersion"] = json!("apiextensions.k8s.io/v1");
    let spec = crd.get_mut("spec").and_then(Value::as_object_mut).context("no spec")?;
    let mut schema = spec.remove("validation").context("no schema")?;
    schema["openAPIV3Schema"]["type"] = json!("object");
    for gone in ["version", "additionalPrinterColumns"] {
        spec.remove(gone);
    }
    for version in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten() {
        version["schema"] = schema.clone();
    }
    apply(cluster, &crd.to_string())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn apply(cluster: &ControlPlane, text: &str) -> Result<()> {
    let mut command = cluster.kubectl();
    command.args(["apply", "--server-side", "-f", "-"]);
    let said = say(&mut command, text)?;
    if said.code != Some(0) {
        bail!("{}", said.err);
    }
    let mut command = cluster.kubectl();
    command.args(["wait", "--for=condition=Established", "--timeout=60s", "-f", "-"]);
    let said = say(&mut command, text)?;
    if said.code != Some(0) {
        bail!("{}", said.err);
    }
    Ok(())
}

/// Traefik as a router of the Gateway API, built from its own module into the cache.
pub fn traefik() -> Result<PathBuf> {
    let (_, version) = TRAEFIK.rsplit_once('@').context("a version")?;
    let cache = crate::cache::dir()?;
    let done = cache.join(format!("traefik-{version}"));
    if done.is_file() {
        return Ok(done);
    }
    std::fs::create_dir_all(&cache).context("cannot create the cache")?;
    let work = cache.join(format!("traefik-{version}.{}", std::process::id()));
    let built = Command::new("go")
        .args(["build", "-trimpath", "-o"])
        .arg(&work)
        .arg("./cmd/traefik")
        .current_dir(module(TRAEFIK)?)
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .output()
        .context("cannot run go")?;
    if !built.status.success() {
        bail!("Traefik does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    std::fs::rename(&work, &done).context("cannot keep Traefik")?;
    Ok(done)
}
