//! Flags and environment.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;
use upgrade_core::api::SYSTEM_NAMESPACE;

const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Admission webhook and controller of kubectl-upgrade.
#[derive(Clone, Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// Address of the admission server (HTTPS).
    #[arg(long, env = "UPGRADE_LISTEN", default_value = "0.0.0.0:8443", value_name = "IP:PORT")]
    pub listen: SocketAddr,

    /// Address of /healthz, /readyz and /metrics (HTTP).
    #[arg(
        long,
        env = "UPGRADE_METRICS_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "IP:PORT"
    )]
    pub metrics_listen: SocketAddr,

    /// Namespace of our own Secret and Lease [default: that of the service account, else
    /// kubectl-upgrade-system].
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,

    /// Path of a kubeconfig [default: the service account in a pod, else the usual one].
    #[arg(long, env = "UPGRADE_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig.
    #[arg(long, env = "UPGRADE_CONTEXT")]
    context: Option<String>,

    /// Further name or IP address for the serving certificate, besides those of the Service;
    /// repeatable.
    #[arg(long = "san", env = "UPGRADE_SANS", value_delimiter = ',', value_name = "NAME")]
    pub sans: Vec<String>,

    /// Answer only clients with a certificate of these CAs (PEM) and a name of --client-name. The API
    /// server has one when its --admission-control-config-file says so.
    #[arg(long, env = "UPGRADE_CLIENT_CA_FILE", value_name = "FILE", requires = "client_names")]
    pub client_ca_file: Option<PathBuf>,

    /// Common name or DNS name of a client that may ask; repeatable.
    #[arg(
        long = "client-name",
        env = "UPGRADE_CLIENT_NAMES",
        value_delimiter = ',',
        value_name = "NAME",
        requires = "client_ca_file"
    )]
    pub client_names: Vec<String>,

    /// Name of our ValidatingWebhookConfiguration.
    #[arg(long, env = "UPGRADE_VALIDATING_WEBHOOK_NAME", default_value = "kubectl-upgrade")]
    pub validating_webhook_name: String,

    /// Name of our MutatingWebhookConfiguration.
    #[arg(long, env = "UPGRADE_MUTATING_WEBHOOK_NAME", default_value = "kubectl-upgrade")]
    pub mutating_webhook_name: String,

    /// Format of the log on standard error; RUST_LOG chooses what is in it.
    #[arg(long, env = "UPGRADE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// How long the controller's Lease is good for, in seconds, 1 to 300; others take over after it.
    #[arg(long, env = "UPGRADE_LEASE_DURATION", default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=300))]
    pub lease_duration: u64,

    /// File whose time is taken for now: for tests.
    #[cfg(debug_assertions)]
    #[arg(long, env = "UPGRADE_CLOCK_FILE", value_name = "FILE", hide = true)]
    clock_file: Option<PathBuf>,

    /// Serve admission only.
    #[arg(long, env = "UPGRADE_NO_CONTROLLER", conflicts_with = "no_admission")]
    pub no_controller: bool,

    /// Run the controller only.
    #[arg(long, env = "UPGRADE_NO_ADMISSION")]
    pub no_admission: bool,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Starts logging to standard error.
    pub fn start(self) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self {
            Self::Text => {
                log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
            }
            Self::Json => log.json().flatten_event(true).init(),
        }
    }
}

impl Cli {
    /// File that tests set the clock with. What is shipped knows no such thing.
    #[cfg(debug_assertions)]
    pub fn clock_file(&self) -> Option<PathBuf> {
        self.clock_file.clone()
    }

    /// File that tests set the clock with. What is shipped knows no such thing.
    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_self, reason = "the same call in every build")]
    pub fn clock_file(&self) -> Option<PathBuf> {
        None
    }

    /// Our own namespace.
    pub fn namespace(&self) -> String {
        let mounted = || std::fs::read_to_string(NAMESPACE_FILE).ok();
        let named = self.namespace.clone().or_else(mounted).map(|n| n.trim().to_owned());
        named.filter(|n| !n.is_empty()).unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned())
    }

    /// How the API server that the flags name is reached.
    pub async fn config(&self) -> Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("--kubeconfig: reading {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .with_context(|| format!("--kubeconfig: using {}", path.display()))?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options)
                .await
                .context("--context: reading the kubeconfig")?,
            None => Config::infer().await.context(
                "finding the API server: neither in a pod nor is there a kubeconfig (--kubeconfig)",
            )?,
        };
        if config.cluster_url.scheme_str() != Some("https") {
            bail!("the API server's address must be https, not {}", config.cluster_url);
        }
        // Every caller has a deadline or a backoff of its own; 15 silent tries would outlast both.
        config.default_retry = false;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
        let cli =
            Cli::parse_from(["w", "--san", "127.0.0.1", "--san", "host", "--namespace", "ours"]);
        assert_eq!((cli.sans.len(), cli.namespace().as_str()), (2, "ours"));
        for wrong in [
            &["w", "--no-controller", "--no-admission"][..],
            &["w", "--client-ca-file", "ca.crt"],
            &["w", "--client-name", "kube-apiserver"],
        ] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
