//! A review comes in, a verdict goes out.
//!
//! bytes → `server` (accept, TLS, limits) → `review` (borrow what matters) →
//! `upgrade_core::policy::decide` → `confirm` (the one live read, where the verdict asks for it) →
//! `respond`. `mutate` is the other path: it stamps identities and puts guarded fields back.

mod authority;
mod clients;
mod confirm;
mod handle;
mod hold;
mod mutate;
mod orders;
mod respond;
mod review;
mod routes;
mod server;
mod services;
mod tls;

use crate::cli::Cli;
use crate::metrics::Metrics;
use crate::snapshot;
use kube::Client;
use std::sync::Arc;

pub use server::{bind, serve};

/// What the admission server needs.
pub struct Settings {
    /// Namespace of the CA's Secret.
    namespace: String,
    sans: Vec<String>,
    clients: Option<clients::Clients>,
    validating: String,
    mutating: String,
    client: Client,
    snapshots: snapshot::Handle,
    metrics: Arc<Metrics>,
}

impl Settings {
    /// Settings from the flags.
    pub fn new(
        cli: &Cli,
        client: Client,
        snapshots: snapshot::Handle,
        metrics: Arc<Metrics>,
    ) -> Self {
        let namespace = cli.namespace();
        let service = upgrade_core::api::SERVICE_ACCOUNT;
        let mut sans = vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ];
        sans.extend(cli.sans.iter().cloned());
        Self {
            namespace,
            sans,
            clients: cli
                .client_ca_file
                .clone()
                .map(|ca| clients::Clients { ca, names: cli.client_names.clone() }),
            validating: cli.validating_webhook_name.clone(),
            mutating: cli.mutating_webhook_name.clone(),
            client,
            snapshots,
            metrics,
        }
    }
}
