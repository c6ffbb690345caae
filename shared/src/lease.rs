//! Who leads: the decision of leader election, without clock and client.
//!
//! The rules are those of client-go's `leaderelection`: a lease counts as expired when *we* have
//! not seen its record change for its duration, by our own monotonic clock. The times written in
//! the record are never compared with ours, for clocks differ between nodes.

use std::time::Duration;

/// The record of a Lease, as last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`; empty when it was released.
    pub holder: String,
    /// `spec.leaseDurationSeconds` of the holder.
    pub duration: Duration,
    /// Changes with every renewal.
    pub resource_version: String,
}

/// What to do about the lease now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Write it with our name; nobody leads, or nobody renews.
    Take,
    /// We lead: renew it.
    Renew,
    /// Somebody leads; look again after this long.
    Wait(Duration),
}

/// Decides on what was read and how long ago (by our own clock) it last changed.
pub fn decide(record: Option<&Record>, unchanged_for: Duration, me: &str) -> Turn {
    match record {
        None => Turn::Take,
        Some(r) if r.holder == me => Turn::Renew,
        Some(r) if r.holder.is_empty() || unchanged_for >= r.duration => Turn::Take,
        Some(r) => Turn::Wait(r.duration.saturating_sub(unchanged_for)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_counts_from_when_we_saw_it_change() {
        let second = Duration::from_secs;
        let record = |holder: &str| Record {
            holder: holder.to_owned(),
            duration: second(15),
            resource_version: "7".to_owned(),
        };
        let table = [
            (None, 0, Turn::Take),
            (Some(record("")), 0, Turn::Take),
            (Some(record("me")), 100, Turn::Renew),
            (Some(record("other")), 14, Turn::Wait(second(1))),
            (Some(record("other")), 15, Turn::Take),
        ];
        for (record, age, turn) in table {
            assert_eq!(decide(record.as_ref(), second(age), "me"), turn, "{record:?} {age}");
        }
    }
}
