//! The controller: observe → validate → step → apply → status, for one Upgrade at a time, on the
//! replica that holds the Lease.
//!
//! | file | stop |
//! |---|---|
//! | [`watches`] | what wakes a round up |
//! | [`observe`] | what runs |
//! | [`reconcile`] | the five steps in order |
//! | [`apply`] | effects performed, each safe to repeat |
//! | [`status`] | the write-ahead log |
//! | [`ledger`] | what governed workloads are approved to run |
//! | [`lease`] | who leads |

mod apply;
mod lease;
mod ledger;
mod observe;
mod reconcile;
mod status;
mod watches;

pub use lease::Timing;

use crate::snapshot::Handle;
use kube::{Api, Client};
use std::sync::Arc;
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
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// How long the lease is good for.
    pub timing: Timing,
}

/// Runs until told to stop; an error means that this process must not go on leading.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let leases = Api::namespaced(options.client.clone(), &options.namespace);
    let elector = lease::Elector::new(leases, options.identity.clone(), options.timing);
    let work = async {
        let (context, queue) = watches::start(&options);
        let context = Arc::new(context);
        tokio::select! {
            () = reconcile::run(context.clone(), queue) => {}
            () = reconcile::follow_policies(context.clone()) => {}
            () = ledger::run(context) => {}
        }
        anyhow::bail!("the controller's watches ended")
    };
    lease::lead(elector, stop, work).await
}
