//! Leader election on a Lease, with a resourceVersion test on every write.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use upgrade_core::lease::{Record, Turn, decide};

/// Name of the Lease in our namespace.
pub const LEASE_NAME: &str = "kubectl-upgrade-controller";

/// How long a lease is good for, and how often it is renewed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long others wait for a renewal before they take over.
    pub duration: Duration,
    /// How long the holder tries to renew before it gives up; less than `duration`.
    pub renew_deadline: Duration,
    /// Time between tries.
    pub retry: Duration,
}

impl Timing {
    /// The proportions of client-go's defaults (15 s, 10 s, 2 s) for another duration.
    pub fn of(duration: Duration) -> Self {
        Self { duration, renew_deadline: duration * 2 / 3, retry: duration * 2 / 15 }
    }
}

/// One candidate for the lease.
pub struct Elector {
    api: Api<Lease>,
    me: String,
    timing: Timing,
    seen: Option<(Record, Lease, Instant)>,
}

impl Elector {
    /// A candidate of this name.
    pub fn new(api: Api<Lease>, me: String, timing: Timing) -> Self {
        Self { api, me, timing, seen: None }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            let limit = self.timing.renew_deadline;
            let Ok(attempt) = tokio::time::timeout(limit, self.attempt()).await else {
                warn!("the lease could not be read in time");
                continue;
            };
            match attempt {
                Ok(true) => {
                    info!(identity = self.me, "leading");
                    return;
                }
                Ok(false) => {}
                Err(error) => {
                    let error = super::terse(&error);
                    warn!(error, "cannot read or write the lease");
                }
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    /// Renews until that fails for the renew deadline; then somebody else may lead already.
    pub async fn keep(&mut self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(self.timing.retry).await;
            // Others count from when they saw our last write, which is no sooner than it began.
            let started = Instant::now();
            let end = last + self.timing.renew_deadline;
            match tokio::time::timeout_at(end, self.attempt()).await {
                Ok(Ok(true)) => last = started,
                Ok(Ok(false)) => {
                    warn!("somebody else holds the lease");
                    return;
                }
                Ok(Err(error)) => debug!(%error, "the lease was not renewed"),
                Err(_) => debug!("the lease was not renewed in time"),
            }
            if last.elapsed() >= self.timing.renew_deadline {
                warn!("the lease could not be renewed within its deadline");
                return;
            }
        }
    }

    /// Lets others take it at once.
    pub async fn release(&mut self) {
        if let Some((_, lease, _)) = self.seen.clone() {
            let mut lease = lease;
            if let Some(spec) = lease.spec.as_mut() {
                spec.holder_identity = Some(String::new());
            }
            if let Err(error) = self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await {
                debug!(%error, "the lease was not released; it expires by itself");
            }
        }
    }

    /// Reads the lease and, if it is our turn, writes it. Whether we hold it then.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(LEASE_NAME).await?;
        let age = self.observe(found);
        let record = self.seen.as_ref().map(|(r, ..)| r);
        let turn = decide(record, age, &self.me);
        if matches!(turn, Turn::Wait(_)) {
            return Ok(false);
        }
        let written = match self.seen.as_ref().map(|(_, l, _)| l.clone()) {
            None => self.api.create(&PostParams::default(), &self.mine(None)).await,
            Some(old) => {
                let lease = self.mine(Some(&old));
                self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.observe(Some(lease));
                Ok(true)
            }
            // Somebody was quicker.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes what was read; returns for how long it has not changed.
    fn observe(&mut self, found: Option<Lease>) -> Duration {
        let Some(lease) = found else {
            self.seen = None;
            return Duration::ZERO;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(15)).unwrap_or(15);
        let record = Record {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: Duration::from_secs(seconds),
            resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
        };
        let since = match &self.seen {
            Some((known, _, at)) if *known == record => *at,
            _ => Instant::now(),
        };
        self.seen = Some((record, lease, since));
        since.elapsed()
    }

    fn mine(&self, old: Option<&Lease>) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let before = old.and_then(|l| l.spec.clone()).unwrap_or_default();
        let holding = before.holder_identity.as_deref() == Some(&self.me);
        let transitions =
            before.lease_transitions.unwrap_or(0) + i32::from(!holding && old.is_some());
        Lease {
            metadata: old.map_or_else(
                || ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
                |l| l.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(self.timing.duration.as_secs().max(1)).ok(),
                acquire_time: if holding { before.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Up to 1.2 times the retry time, as client-go does, so that candidates do not march in step.
    fn pause(&self) -> Duration {
        let noise = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() % 200;
        self.timing.retry + self.timing.retry * noise / 1000
    }
}

/// Why a lead ended.
pub enum Ended {
    /// We were told to stop.
    Stopped,
    /// The lease could not be renewed, or somebody else has it.
    Lost,
    /// The work failed.
    Work(anyhow::Error),
}

/// Runs `work` while we lead, and drops it at once when we do not: what it still has on the wire
/// is tested against resource versions.
pub async fn lead<F>(mut elector: Elector, stop: &CancellationToken, work: F) -> Ended
where
    F: Future<Output = anyhow::Error>,
{
    tokio::select! {
        () = elector.acquire() => {}
        () = stop.cancelled() => return Ended::Stopped,
    }
    let ended = tokio::select! {
        error = work => Ended::Work(error),
        () = elector.keep() => Ended::Lost,
        () = stop.cancelled() => Ended::Stopped,
    };
    if matches!(ended, Ended::Stopped) {
        elector.release().await;
    }
    ended
}
