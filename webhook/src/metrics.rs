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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A watch that was silent for longer is deaf, and a replica with one is not ready: twice the time
/// in which a healthy one is heard from, [`crate::hearing::WATCH_SECONDS`].
const SILENT_SECONDS: u64 = 30;

/// Everything that is counted, and what readiness depends on.
pub struct Metrics {
    registry: Registry,
    admission: Family<AdmissionLabels, Counter>,
    duration: Family<PathLabel, Histogram>,
    silence: Family<ResourceLabel, Gauge>,
    certificate_expiry: Gauge,
    connections: Gauge,
    break_glass: Counter,
    break_glass_active: Gauge,
    /// Every store has been listed.
    pub synced: AtomicBool,
    /// The serving certificate is there.
    pub tls: AtomicBool,
    /// Our webhook configurations carry our CA.
    pub injected: AtomicBool,
    admission_on: AtomicBool,
    draining: AtomicBool,
    /// Clocks jump; this one does not.
    started: Instant,
    /// Milliseconds from `started` to the last answer.
    asked: AtomicU64,
    /// Seconds from `started` to the last sign of life of each watch.
    heard: [(&'static str, AtomicU64); 6],
}

/// A connection that is open.
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
}

impl Metrics {
    /// Metrics with nothing counted yet; these are the resources that are watched.
    pub fn new(watched: [&'static str; 6]) -> Self {
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
        let (silence, certificate_expiry) = (Family::default(), Gauge::default());
        registry.register("admission_requests", "Admission requests answered", admission.clone());
        registry.register(
            "admission_duration_seconds",
            "Time from a request's last byte to its answer",
            duration.clone(),
        );
        registry.register(
            "watch_silence_seconds",
            "Time since a watch was last heard from; 15 in a healthy one at the most",
            silence.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the serving certificate ends, in Unix time",
            certificate_expiry.clone(),
        );
        let connections = Gauge::default();
        registry.register(
            "admission_connections",
            "Connections that the API server keeps open, busy or idle",
            connections.clone(),
        );
        let (break_glass, break_glass_active) = (Counter::default(), Gauge::default());
        registry.register("break_glass", "BreakGlasses opened", break_glass.clone());
        registry.register(
            "break_glass_active",
            "BreakGlasses that are open, as the controller sees them",
            break_glass_active.clone(),
        );
        Self {
            registry,
            break_glass,
            break_glass_active,
            admission,
            duration,
            silence,
            certificate_expiry,
            connections,
            synced: AtomicBool::new(false),
            tls: AtomicBool::new(false),
            injected: AtomicBool::new(false),
            admission_on: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            asked: AtomicU64::new(0),
            heard: watched.map(|resource| (resource, AtomicU64::new(0))),
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
        self.asked.store(self.milliseconds(), Ordering::Relaxed);
    }

    /// A BreakGlass was opened.
    pub fn break_glass_opened(&self) {
        self.break_glass.inc();
    }

    /// So many BreakGlasses are open.
    pub fn break_glass_active(&self, count: i64) {
        self.break_glass_active.set(count);
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long nobody has been answered.
    pub fn quiet(&self) -> Duration {
        let asked = self.asked.load(Ordering::Relaxed);
        Duration::from_millis(self.milliseconds().saturating_sub(asked))
    }

    /// A connection was accepted; it is open until what is returned is dropped.
    pub fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// Whether any connection is open, busy or idle.
    pub fn is_connected(&self) -> bool {
        self.connections.get() > 0
    }

    /// The watch of this resource was heard from just now.
    pub fn heard(&self, resource: &'static str) {
        let now = self.started.elapsed().as_secs();
        if let Some((_, at)) = self.heard.iter().find(|(known, _)| *known == resource) {
            at.store(now, Ordering::Relaxed);
        }
    }

    /// For how many seconds each watch has been silent.
    fn silence(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let now = self.started.elapsed().as_secs();
        self.heard
            .iter()
            .map(move |(resource, at)| (*resource, now.saturating_sub(at.load(Ordering::Relaxed))))
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

    /// Whether this replica is about to go.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// What keeps this replica from being ready, in words; empty when it is.
    pub fn missing(&self) -> Vec<String> {
        let on = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if self.is_draining() {
            return vec!["this replica is stopping".to_owned()];
        }
        if !on(&self.admission_on) {
            return Vec::new();
        }
        let checks = [
            (on(&self.synced), "namespaces, policies, ledgers and Upgrades are not all listed yet"),
            (on(&self.tls), "there is no serving certificate yet"),
            (on(&self.injected), "our webhook configurations do not carry our CA yet"),
        ];
        let missing = checks.into_iter().filter(|(fine, _)| !fine).map(|(_, what)| what.to_owned());
        let deaf = self.silence().filter(|(_, seconds)| *seconds > SILENT_SECONDS);
        let deaf = deaf.map(|(resource, seconds)| {
            format!("the watch of {resource} has been silent for {seconds} s")
        });
        missing.chain(deaf).collect()
    }

    fn encode(&self) -> Result<String, std::fmt::Error> {
        for (resource, seconds) in self.silence() {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            self.silence.get_or_create(&ResourceLabel { resource }).set(seconds);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
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
