//! The command lines of the control plane.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::boot::Options;
use crate::build::Binaries;
use crate::guard::Launch;
use crate::node::Space;
use crate::nodes;
use crate::pki::{self, Authority};

const STAGES: [(&str, &str); 2] = [
    ("node.yaml", include_str!("../controlplane/stages/node.yaml")),
    ("pod.yaml", include_str!("../controlplane/stages/pod.yaml")),
];
const AUDIT_POLICY: &str = include_str!("../controlplane/audit-policy.yaml");

/// Inside the range below, so that the API server's certificate names its own Service.
const SERVICE_RANGE: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";

/// The ports of one boot.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Ports {
    /// etcd's for clients.
    pub etcd: u16,
    /// etcd's for peers, of which there are none.
    pub etcd_peer: u16,
    /// The API server's.
    pub apiserver: u16,
}

/// The files and ports of one boot, from which the command lines follow.
pub(crate) struct Plan<'a> {
    pub(crate) binaries: &'a Binaries,
    pub(crate) options: &'a Options,
    /// Of the real node, where there is to be one.
    pub(crate) space: Option<&'a Space>,
    pub(crate) dir: PathBuf,
    pub(crate) ports: Ports,
}

impl Plan<'_> {
    /// Writes every file that a command line names, except the kubeconfigs.
    pub(crate) fn write(&self, authority: &Authority) -> Result<()> {
        std::fs::create_dir_all(&self.dir).context("no directory for the control plane")?;
        authority.pair().write(&self.dir, "ca")?;
        let own =
            self.space.map(|space| [space.host(), space.api_service()].map(|ip| ip.to_string()));
        let mut names = vec!["localhost", "127.0.0.1", API_SERVICE, "kubernetes.default.svc"];
        names.extend(own.iter().flatten().map(String::as_str));
        authority.server(&names)?.write(&self.dir, "apiserver")?;
        authority.server(&["localhost", "127.0.0.1"])?.write(&self.dir, "etcd")?;
        authority.client("kube-apiserver", &[])?.write(&self.dir, "etcd-client")?;
        let (private, public) = pki::signing_key()?;
        pki::write_private(&self.dir.join("accounts.key"), &private)?;
        pki::write_private(&self.dir.join("accounts.pub"), &public)?;
        pki::write_private(&self.dir.join("audit-policy.yaml"), AUDIT_POLICY)?;
        for (name, text) in STAGES {
            pki::write_private(&self.dir.join(name), text)?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn launch(name: &str, binary: &Path, flags: Vec<String>) -> Launch {
        let mut argv = vec![binary.display().to_string()];
        argv.extend(flags);
        Launch { name: name.to_owned(), argv, ..Launch::default() }
    }

    pub(crate) fn etcd(&self) -> Launch {
        let Ports { etcd, etcd_peer, .. } = self.ports;
        let flags = vec![
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls=https://127.0.0.1:{etcd}"),
            format!("--advertise-client-urls=https://127.0.0.1:{etcd}"),
            format!("--listen-peer-urls=https://127.0.0.1:{etcd_peer}"),
            format!("--initial-advertise-peer-urls=https://127.0.0.1:{etcd_peer}"),
            format!("--initial-cluster=default=https://127.0.0.1:{etcd_peer}"),
            // Other users of the machine reach loopback too.
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={}", self.file("ca.crt")),
            format!("--cert-file={}", self.file("etcd.crt")),
            format!("--key-file={}", self.file("etcd.key")),
            "--peer-client-cert-auth".to_owned(),
            format!("--peer-trusted-ca-file={}", self.file("ca.crt")),
            format!("--peer-cert-file={}", self.file("etcd.crt")),
            format!("--peer-key-file={}", self.file("etcd.key")),
            "--unsafe-no-fsync".to_owned(),
            // A member without peers has nobody to wait for before it leads.
            "--heartbeat-interval=10".to_owned(),
            "--election-timeout=100".to_owned(),
        ];
        Self::launch("etcd", &self.binaries.etcd, flags)
    }

    pub(crate) fn apiserver(&self) -> Launch {
        let Ports { etcd, apiserver, .. } = self.ports;
        let mut flags = vec![
            format!("--etcd-servers=https://127.0.0.1:{etcd}"),
            format!("--etcd-cafile={}", self.file("ca.crt")),
            format!("--etcd-certfile={}", self.file("etcd-client.crt")),
            format!("--etcd-keyfile={}", self.file("etcd-client.key")),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={apiserver}"),
            format!("--tls-cert-file={}", self.file("apiserver.crt")),
            format!("--tls-private-key-file={}", self.file("apiserver.key")),
            format!("--client-ca-file={}", self.file("ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", self.file("accounts.pub")),
            format!("--service-account-signing-key-file={}", self.file("accounts.key")),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--max-requests-inflight=4000".to_owned(),
            "--max-mutating-requests-inflight=2000".to_owned(),
            format!("--audit-policy-file={}", self.file("audit-policy.yaml")),
            format!("--audit-log-path={}", self.file("audit.log")),
            // Written before the answer is sent, so that who has the answer can read the event.
            "--audit-log-mode=blocking".to_owned(),
        ];
        if let Some(space) = self.space {
            // The last of two equal flags counts.
            flags.extend([
                format!("--service-cluster-ip-range={}", space.services()),
                format!("--advertise-address={}", space.host()),
                "--endpoint-reconciler-type=lease".to_owned(),
                format!("--kubelet-client-certificate={}", self.file("apiserver.crt")),
                format!("--kubelet-client-key={}", self.file("apiserver.key")),
            ]);
        }
        flags.extend(self.options.apiserver_flags.iter().cloned());
        let mut launch = Self::launch("kube-apiserver", &self.binaries.apiserver, flags);
        // Webhooks and kubelets of a sandbox are never behind a proxy of the environment.
        let mut env: Vec<_> = ["NO_PROXY", "no_proxy"].map(|key| (key, "*")).into();
        // A heap of this size is collected several times a second under load, and the cores are
        // shared with everything that is tested: memory is what there is enough of.
        env.push(("GOGC", "400"));
        launch.env =
            env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        launch
    }

    pub(crate) fn controller_manager(&self, kubeconfig: &Path) -> Launch {
        let mut flags = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            // Controllers then have the names they have in real clusters.
            "--use-service-account-credentials".to_owned(),
            format!("--service-account-private-key-file={}", self.file("accounts.key")),
            format!("--root-ca-file={}", self.file("ca.crt")),
            format!("--cluster-signing-cert-file={}", self.file("ca.crt")),
            format!("--cluster-signing-key-file={}", self.file("ca.key")),
            "--secure-port=0".to_owned(),
            "--concurrent-deployment-syncs=20".to_owned(),
            "--concurrent-replicaset-syncs=20".to_owned(),
            "--concurrent-statefulset-syncs=20".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        flags.extend(self.options.controller_manager_flags.iter().cloned());
        Self::launch("kube-controller-manager", &self.binaries.controller_manager, flags)
    }

    pub(crate) fn scheduler(&self, kubeconfig: &Path) -> Launch {
        let flags = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        Self::launch("kube-scheduler", &self.binaries.scheduler, flags)
    }

    pub(crate) fn kwok(&self, kubeconfig: &Path) -> Launch {
        let (key, value) = nodes::ANNOTATION;
        let mut flags = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--manage-nodes-with-annotation-selector={key}={value}"),
            "--node-lease-duration-seconds=40".to_owned(),
            "--node-ip=127.0.0.1".to_owned(),
            "--cidr=10.128.0.1/9".to_owned(),
        ];
        flags.extend(STAGES.map(|(name, _)| format!("--config={}", self.file(name))));
        let mut launch = Self::launch("kwok", &self.binaries.kwok, flags);
        // kwok reads a configuration in the user's home where there is one.
        launch.env.push(("HOME".to_owned(), self.dir.display().to_string()));
        launch
    }
}
