//! The controller: observe → validate → step → apply → status, for one Upgrade at a time, on the
//! replica that holds the Lease.
//!
//! | file | stop |
//! |---|---|
//! | [`watches`] | what wakes a round up |
//! | [`observe`], [`prune`] | what runs; what is kept of it |
//! | [`reconcile`] | the five steps in order |
//! | [`apply`] | effects performed, each safe to repeat |
//! | [`status`] | the write-ahead log |
//! | [`objects`] | other objects that an Upgrade looks at and writes |
//! | [`orders`] | approvals by annotation become objects |
//! | [`questions`] | what only the world outside can answer |
//! | [`hold`] | Deployments that mode `Hold` holds: their Upgrades, and their way out at 0 replicas |
//! | [`ledger`] | what governed workloads are approved to run |
//! | [`breakglass`] | exceptions: announced, put on record, ended |
//! | [`lease`] | who leads |
//! | [`index`] | which open Upgrades want a workload |
//! | [`notify`] | who is told that one is going to start |
//! | [`schedule`] | Upgrades that are made by themselves |

mod apply;
mod breakglass;
mod hold;
mod index;
mod lease;
mod ledger;
mod live;
mod notify;
pub mod objects;
mod observe;
mod orders;
mod prune;
mod questions;
mod reconcile;
mod schedule;
mod status;
mod watches;

pub use lease::Timing;

use crate::metrics::Metrics;
use crate::snapshot::Handle;
use kube::{Api, Client};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the API server said, without the whole of its answer: for logs.
fn terse(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// What the controller runs on.
pub struct Options {
    /// Client with our own identity.
    pub client: Client,
    /// What is known of policies, ledgers and namespaces.
    pub snapshot: Handle,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// How long the lease is good for.
    pub timing: Timing,
    /// Tells of jumps of the wall clock.
    pub clock: watch::Receiver<()>,
}

/// Runs until told to stop; an error means that this process must not go on leading.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let leases = || Api::namespaced(options.client.clone(), &options.namespace);
    loop {
        let elector = lease::Elector::new(leases(), options.identity.clone(), options.timing);
        match lease::lead(elector, &stop, drive(&options)).await {
            // Everything that the lead knew went with it; admission goes on, and so may we later.
            lease::Ended::Lost => tracing::warn!("the lease is lost: waiting for it again"),
            lease::Ended::Stopped => return Ok(()),
            lease::Ended::Work(error) => return Err(error),
        }
    }
}

/// The controller itself; it ends only by failing.
async fn drive(options: &Options) -> anyhow::Error {
    let (context, queue) = watches::start(options);
    let context = Arc::new(context);
    tokio::select! {
        () = reconcile::run(context.clone(), queue) => {}
        () = reconcile::follow_policies(context.clone()) => {}
        () = reconcile::follow_clock(context.clone(), options.clock.clone()) => {}
        () = Box::pin(schedule::run(context.clone(), options.clock.clone())) => {}
        () = Box::pin(hold::run(context.clone())) => {}
        () = Box::pin(breakglass::run(context.clone(), options.metrics.clone())) => {}
        () = ledger::run(context) => {}
    }
    anyhow::anyhow!("the controller's watches ended")
}
