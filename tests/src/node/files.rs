//! The configuration files of a node, and the kubelet's command line.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::{NAME, Space};

/// The image that holds a pod's namespaces open.
pub(super) const PAUSE: &str = "localhost/pause:1";
/// containerd's socket, in the node's directory.
pub(super) const SOCKET: &str = "containerd.sock";

/// Where the files are, as the node sees them.
pub(super) struct Written {
    pub(super) containerd: String,
    pub(super) kubelet: String,
    pub(super) kube_proxy: String,
    kubelet_root: String,
}

/// Writes them.
pub(super) fn write(
    space: &Space,
    cni: &Path,
    runc: &Path,
    ca: &str,
    proxy: &Path,
) -> Result<Written> {
    let put = |name: &str, text: &str| -> Result<String> {
        let path = space.dir().join(name);
        let outside = space.outside(&path);
        std::fs::create_dir_all(outside.parent().context("a place")?)?;
        std::fs::write(&outside, text).with_context(|| format!("cannot write {name}"))?;
        Ok(path.display().to_string())
    };
    let dir = space.dir().display().to_string();
    put("cni/10-pods.conflist", &network(space).to_string())?;
    let runtime = put("runc", &runc_script(space, runc))?;
    executable(&space.outside(Path::new(&runtime)))?;
    share(&sandbox(space));
    let ca = put("ca.crt", ca)?;
    Ok(Written {
        containerd: put("containerd.toml", &containerd(&dir, &runtime, cni))?,
        kubelet: put("kubelet.json", &kubelet_config(space, &ca).to_string())?,
        kube_proxy: put("kube-proxy.json", &proxy_config(space, proxy).to_string())?,
        kubelet_root: format!("{dir}/kubelet"),
    })
}

fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).context("runc")
}

/// The name under which the sandbox is known: that of its scratch directory.
fn sandbox(space: &Space) -> String {
    let name = space.dir().parent().and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// All containers together would get as much of a busy machine as one process does. A node of its
/// own would not share at all; this is as good as ten. Only a matter of speed, so that a machine
/// where it cannot be said is fine, too.
fn share(sandbox: &str) {
    let root = Path::new("/sys/fs/cgroup");
    for (place, file, share) in [
        ("cpu", "cpu.shares", "10240"),
        ("cpu,cpuacct", "cpu.shares", "10240"),
        ("", "cpu.weight", "1000"),
    ] {
        let place = root.join(place);
        // The hierarchies of version 1 have a directory each, and version 2 has this file.
        let there =
            if place == root { root.join("cgroup.controllers").exists() } else { place.exists() };
        let ours = place.join(sandbox);
        if there && std::fs::create_dir_all(&ours).is_ok() {
            let _ = std::fs::write(ours.join(file), share);
        }
    }
}

/// Containers' cgroups outlive the namespaces. Under the sandbox's own name its guardian, or the
/// next one, finds them.
fn runc_script(space: &Space, runc: &Path) -> String {
    let (name, runc) = (sandbox(space), runc.display());
    format!(
        r#"#!/bin/sh
bundle=
for word; do
  [ "$bundle" = next ] && bundle=$word
  [ "$word" = --bundle ] && bundle=next
done
[ -z "$bundle" ] || sed -i 's#"cgroupsPath":"/k8s.io/#"cgroupsPath":"/{name}/#' "$bundle/config.json"
exec {runc} "$@"
"#
    )
}

fn containerd(dir: &str, runc: &str, cni: &Path) -> String {
    let cni = cni.display();
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/state"
[grpc]
  address = "{dir}/{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
"#
    )
}

/// Routed, not bridged: nothing of the kernel's bridge filter has to be as Services need it.
fn network(space: &Space) -> serde_json::Value {
    let state = space.dir().join("ipam");
    json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "ptp", "ipMasq": false, "ipam": {
            "type": "host-local", "dataDir": state,
            "ranges": [[{"subnet": space.pods()}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn kubelet_config(space: &Space, ca: &str) -> serde_json::Value {
    let dir = space.dir().display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{dir}/{SOCKET}"),
        // Both hierarchies of cgroups, and whatever a container that runs us has of them.
        "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [], "failSwapOn": false, "evictionHard": {}, "oomScoreAdj": 0,
        "address": space.node(), "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": ca}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [], "resolvConf": "", "syncFrequency": "1s",
        "podLogsDir": format!("{dir}/pods"),
    })
}

fn proxy_config(space: &Space, kubeconfig: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": NAME, "mode": "iptables", "clusterCIDR": space.pods(),
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        // Those of the machine stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

/// The kubelet's command line.
pub(super) fn kubelet(
    binary: &Path,
    kubeconfig: &Path,
    written: &Written,
    address: Ipv4Addr,
) -> [String; 7] {
    [
        binary.display().to_string(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--config={}", written.kubelet),
        format!("--root-dir={}", written.kubelet_root),
        format!("--hostname-override={NAME}"),
        format!("--node-ip={address}"),
        "--node-labels=topology.kubernetes.io/zone=a".to_owned(),
    ]
}
