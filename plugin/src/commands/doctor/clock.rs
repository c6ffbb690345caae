//! Clocks, and whether anybody leads: windows and notices are only as good as the time.

use super::context::{Cluster, Read, dated};
use crate::output::checks::{Check, Outcome};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Resource;
use std::time::Duration;
use upgrade_core::api::SYSTEM_NAMESPACE;

/// Name of the controller's Lease.
const LEASE: &str = "kubectl-upgrade-controller";
/// Clocks that differ by more than this are warned of, in milliseconds.
const WARN: i64 = 5_000;
/// Clocks that differ by more than this are an error, in milliseconds.
const TOO_FAR: i64 = 30_000;
/// Longest time to wait for a renewal; a Lease of ours lasts 15 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Lease, this machine's clock, the controller's clock.
pub async fn checks(cluster: &Cluster<'_>) -> Vec<Check> {
    let here = match cluster.ahead {
        Some(ahead) => compared("clock-here", "this machine", ahead),
        None => Check::not_checked("clock-here", "the API server sends no Date"),
    };
    let (lease, controller) = lease(cluster).await;
    vec![lease, here, controller]
}

fn compared(id: &'static str, who: &str, ahead: i64) -> Check {
    let seconds = SignedDuration::from_millis(ahead).as_secs_f64();
    let away = ahead.abs();
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    if away <= WARN {
        return Check::passed(id, format!("the clock of {who} is that of the API server"));
    }
    let message = format!("the clock of {who} is {:.0} s {side} the API server's", seconds.abs());
    let outcome = if away > TOO_FAR { Outcome::Error } else { Outcome::Warning };
    Check::new(id, outcome, message).hint("set the clock by NTP: windows and notices go by it")
}

/// A Lease as it was at a time of the API server's clock.
struct Seen {
    lease: Lease,
    at: Timestamp,
}

impl Seen {
    /// For how long it has not been renewed, by the two clocks, in milliseconds.
    fn age(&self) -> Option<i64> {
        let renewed = self.lease.spec.as_ref()?.renew_time.as_ref()?;
        Some(self.at.as_millisecond() - renewed.0.as_millisecond())
    }

    fn holder(&self) -> &str {
        let spec = self.lease.spec.as_ref();
        spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default()
    }

    /// How long it lasts, in milliseconds.
    fn lasts(&self) -> i64 {
        let spec = self.lease.spec.as_ref();
        i64::from(spec.and_then(|s| s.lease_duration_seconds).unwrap_or(15)) * 1000
    }
}

async fn look(cluster: &Cluster<'_>) -> Read<Seen> {
    let path = format!("{}/{LEASE}", Lease::url_path(&(), Some(SYSTEM_NAMESPACE)));
    let found = dated::<Lease>(cluster.session, &path).await;
    let found =
        found.map(|(at, _, lease)| Some(Seen { lease, at: at.unwrap_or_else(Timestamp::now) }));
    let need = format!("get leases.coordination.k8s.io in namespace {SYSTEM_NAMESPACE}");
    Read::of(cluster.session, found, &need)
}

async fn lease(cluster: &Cluster<'_>) -> (Check, Check) {
    let (id, clock) = ("lease", "clock-controller");
    let nobody = |message: String| {
        let check = Check::error(id, message)
            .hint(format!("kubectl get pods -n {SYSTEM_NAMESPACE} -o wide"));
        (check, Check::not_checked(clock, "needs a controller that renews its Lease"))
    };
    let first = match look(cluster).await {
        Read::There(seen) => seen,
        Read::Absent => return nobody("no controller has ever led: no Upgrade moves".to_owned()),
        Read::Unknown(needs) => {
            return (Check::not_checked(id, &needs), Check::not_checked(clock, &needs));
        }
    };
    if first.holder().is_empty() {
        return nobody("no controller leads: no Upgrade moves".to_owned());
    }
    let Some(age) = first.age() else {
        return nobody("the Lease does not say when it was renewed".to_owned());
    };
    // client-go's proportions: a holder writes every 2/15 of the duration.
    let often = first.lasts() * 2 / 15;
    if (-1_000..=often + 1_500).contains(&age) {
        let message = format!("{} leads", first.holder());
        return (Check::passed(id, message), compared(clock, "the controller", 0));
    }
    // Late or from the future: either nobody renews it, or by another clock.
    match renewed(cluster, &first).await {
        None => {
            nobody(format!("{} has not renewed its Lease for {} s", first.holder(), age / 1000))
        }
        Some(next) => {
            let ahead = -next.age().unwrap_or(0);
            // Seen a little after it was written, and to the second: what is left is the clock.
            let ahead = if ahead.abs() <= 2_000 { 0 } else { ahead };
            let message = format!("{} leads", next.holder());
            (Check::passed(id, message), compared(clock, "the controller", ahead))
        }
    }
}

/// The Lease when it has changed, if it does within its duration.
async fn renewed(cluster: &Cluster<'_>, first: &Seen) -> Option<Seen> {
    let lasts = Duration::from_millis(first.lasts().unsigned_abs()).min(PATIENCE);
    let changed = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if let Read::There(seen) = look(cluster).await
                && seen.lease.metadata.resource_version != first.lease.metadata.resource_version
            {
                return seen;
            }
        }
    };
    tokio::time::timeout(lasts, changed).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_seconds_are_warned_of_and_thirty_are_too_many() {
        for (ahead, outcome) in [
            (0, Outcome::Passed),
            (-4_900, Outcome::Passed),
            (5_100, Outcome::Warning),
            (-29_000, Outcome::Warning),
            (31_000, Outcome::Error),
        ] {
            assert_eq!(compared("clock-here", "x", ahead).outcome, outcome, "{ahead}");
        }
        let check = compared("clock-here", "this machine", -40_000);
        assert_eq!(check.message, "the clock of this machine is 40 s behind the API server's");
    }
}
