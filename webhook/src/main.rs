//! `upgrade-webhook`: the admission server (every replica) and the controller (one at a time).
//!
//! | file | what happens there |
//! |---|---|
//! | `cli` | flags and environment |
//! | `clock` | the time of day, and its jumps |
//! | `identity` | who we are, as the API server sees us |
//! | `snapshot` | the watches that feed the decisions |
//! | `hearing` | how a quiet watch is told from a deaf one |
//! | `admission` | a review comes in, a verdict goes out |
//! | `controller` | an Upgrade moves |
//! | `facts` | what runs, for compatibility matrices |
//! | `metrics` | what is counted, and the port for probes |

mod admission;
mod cli;
mod clock;
mod controller;
mod facts;
mod hearing;
mod identity;
mod metrics;
mod questions;
mod snapshot;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use cli::Cli;
use metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long requests are still accepted after readiness went, at the least: endpoints follow it
/// late.
const DRAIN: Duration = Duration::from_secs(5);
/// On a busy cluster they follow it later; they have when nobody has asked for this long.
const QUIET: Duration = Duration::from_secs(2);
/// For how much longer than [`DRAIN`] that, and the end of every connection, is waited for: the API
/// server closes a connection that it did not use for 90 s. One that we close while it is idle may
/// be taken into use at that very moment, and that call fails (seen: broken pipes at the end of a
/// rolling restart under 100 image changes a second); one that is used is closed with its answer.
const DRAIN_MORE: Duration = Duration::from_secs(90);

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    cli.log_format.start();
    match start(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "upgrade-webhook stops");
            std::process::ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?
        .block_on(run(cli))
}

async fn run(cli: Cli) -> Result<()> {
    // `stop` starts the draining, `gone` ends what serves during it.
    let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
    let signals = signals(stop.clone())?;
    let config = cli.config().await?;
    let client =
        kube::Client::try_from(config.clone()).context("building the client of the API server")?;
    let metrics = Arc::new(Metrics::new(snapshot::RESOURCES));
    let clock = clock::follow(cli.clock_file(), gone.clone());
    if !cli.no_admission {
        // Before the probes are answered: a replica that does not serve yet is not ready.
        metrics.admission_starts();
    }
    let mut tasks = JoinSet::new();
    let probes = metrics::bind(cli.metrics_listen).await?;
    tasks.spawn(metrics::serve(probes, Arc::clone(&metrics), gone.clone()));

    let Some(own) = identity::find(&client, &stop).await else {
        return Ok(());
    };
    tracing::info!(username = own.username, instance = own.instance, "authenticated");
    let snapshots = snapshot::start(&mut tasks, &config, &own.username, &metrics, gone.clone())?;
    if !cli.no_admission {
        let settings =
            admission::Settings::new(&cli, client.clone(), snapshots.clone(), Arc::clone(&metrics));
        let server = admission::bind(cli.listen).await?;
        tasks.spawn(admission::serve(server, settings, gone.clone()));
    }
    if !cli.no_controller {
        let options = controller::Options {
            client,
            snapshot: snapshots,
            metrics: Arc::clone(&metrics),
            namespace: cli.namespace(),
            identity: own.instance,
            timing: controller::Timing::of(Duration::from_secs(cli.lease_duration)),
            clock,
        };
        tasks.spawn(controller::run(options, stop.clone()));
    }
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = first_end(&mut tasks) => ended,
    };
    metrics.draining();
    stop.cancel();
    if result.is_ok() && !cli.no_admission {
        drain(&metrics).await;
    }
    gone.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(20), all).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    signals.abort();
    result
}

/// Goes on answering until nobody asks any more, and nobody can on a connection that is open.
async fn drain(metrics: &Metrics) {
    tracing::info!(seconds = DRAIN.as_secs(), "draining");
    tokio::time::sleep(DRAIN).await;
    let rest = async {
        while metrics.is_connected() || metrics.quiet() < QUIET {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN_MORE, rest).await;
}

/// No task ends before it is told to; one that does takes the process with it, so that a dead
/// watch or Lease is never unnoticed.
async fn first_end(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    match tasks.join_next().await {
        Some(Ok(Ok(()))) => Err(anyhow!("a task ended before it was told to")),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(panic)) => Err(anyhow!("a task died: {panic}")),
        None => std::future::pending().await,
    }
}

/// SIGTERM and SIGINT start the draining; a second one ends the process at once.
fn signals(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stop.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::warn!("second signal: stopping at once");
        std::process::exit(1);
    }))
}
