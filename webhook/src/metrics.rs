//! What is counted, and the port for probes.

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A snapshot older than this is stale, and a replica with one is not ready.
const STALE_SECONDS: i64 = 60;

/// Everything that is counted, and what readiness depends on.
pub struct Metrics {
    registry: Registry,
    admission: Family<AdmissionLabels, Counter>,
    duration: Family<PathLabel, Histogram>,
    snapshot_age: Gauge,
    certificate_expiry: Gauge,
    /// Every store has been listed.
    pub synced: AtomicBool,
    /// The serving certificate is there.
    pub tls: AtomicBool,
    /// Our webhook configurations carry our CA.
    pub injected: AtomicBool,
    admission_on: AtomicBool,
    draining: AtomicBool,
    /// Unix second of the last word from the API server.
    heard: AtomicI64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AdmissionLabels {
    path: &'static str,
    verdict: &'static str,
    reason: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabel {
    path: &'static str,
}

impl Metrics {
    /// Metrics with nothing counted yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kubectl_upgrade");
        // From 50 µs: a decision takes microseconds, a confirmed one a few milliseconds.
        let buckets = || {
            Histogram::new([
                0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                0.25, 0.5, 1.0, 2.5,
            ])
        };
        let admission = Family::default();
        let duration = Family::new_with_constructor(buckets as fn() -> Histogram);
        let (snapshot_age, certificate_expiry) = (Gauge::default(), Gauge::default());
        registry.register("admission_requests", "Admission requests answered", admission.clone());
        registry.register(
            "admission_duration_seconds",
            "Time from a request's last byte to its answer",
            duration.clone(),
        );
        registry.register(
            "snapshot_age_seconds",
            "Time since the API server was last heard from",
            snapshot_age.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the serving certificate ends, in Unix time",
            certificate_expiry.clone(),
        );
        Self {
            registry,
            admission,
            duration,
            snapshot_age,
            certificate_expiry,
            synced: AtomicBool::new(false),
            tls: AtomicBool::new(false),
            injected: AtomicBool::new(false),
            admission_on: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            heard: AtomicI64::new(0),
        }
    }

    /// One admission request was answered after `seconds`.
    pub fn answered(
        &self,
        path: &'static str,
        verdict: &'static str,
        reason: &'static str,
        kind: &'static str,
        seconds: f64,
    ) {
        self.admission.get_or_create(&AdmissionLabels { path, verdict, reason, kind }).inc();
        self.duration.get_or_create(&PathLabel { path }).observe(seconds);
    }

    /// The API server was heard from just now.
    pub fn heard(&self) {
        self.heard.store(now(), Ordering::Relaxed);
    }

    /// The serving certificate ends at this Unix second.
    pub fn certificate_until(&self, unix: i64) {
        self.certificate_expiry.set(unix);
        self.tls.store(true, Ordering::Relaxed);
    }

    /// Readiness depends on admission from now on.
    pub fn admission_starts(&self) {
        self.admission_on.store(true, Ordering::Relaxed);
    }

    /// This replica is about to go.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn age(&self) -> i64 {
        now() - self.heard.load(Ordering::Relaxed)
    }

    /// What keeps this replica from being ready, in words; empty when it is.
    pub fn missing(&self) -> Vec<&'static str> {
        let on = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if on(&self.draining) {
            return vec!["this replica is stopping"];
        }
        if !on(&self.admission_on) {
            return Vec::new();
        }
        let checks = [
            (on(&self.synced), "namespaces, policies, ledgers and Upgrades are not all listed yet"),
            (on(&self.tls), "there is no serving certificate yet"),
            (on(&self.injected), "our webhook configurations do not carry our CA yet"),
            (self.age() <= STALE_SECONDS, "the API server has not been heard from for a minute"),
        ];
        checks.into_iter().filter(|(fine, _)| !fine).map(|(_, what)| what).collect()
    }

    fn encode(&self) -> Result<String, std::fmt::Error> {
        self.snapshot_age.set(self.age());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Binds the port for probes and metrics.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("--metrics-listen {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "probes and metrics");
    Ok(listener)
}

/// Serves /healthz, /readyz and /metrics until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(metrics);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serving probes and metrics")
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> (StatusCode, String) {
    match metrics.missing() {
        missing if missing.is_empty() => (StatusCode::OK, "ok".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n")),
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}
