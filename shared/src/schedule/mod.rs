//! Schedules: five-field cron as Kubernetes' CronJobs read it, on the clock of a time zone.
//!
//! The fields are parsed by the `cron` crate after a translation ([`Schedule::parse`]); when they
//! match is decided here, on civil time, as the `croner` crate decides it. A property test compares
//! the two.
//!
//! ## When the clock changes
//!
//! A schedule with exactly one minute and one hour (`30 2 * * *`) names a *fixed time*:
//!
//! - a time that is skipped happens at the first instant after the gap, unless that belongs to a
//!   day which the schedule does not name;
//! - a time that comes twice happens once, the first time.
//!
//! Any other (`*/15 * * * *`, `0 2,14 * * *`) is an *interval*:
//!
//! - what is skipped does not happen;
//! - what comes twice happens twice.
//!
//! ## Which days
//!
//! Where day of month and day of week are both restricted, either is enough; where one of them is
//! `*` (or `?`, or `*/1`), both must match, that is, the other decides. `*/2` restricts.

mod fields;
mod parse;

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;

use fields::Fields;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use std::sync::LazyLock;

pub use parse::ScheduleError;

/// The smallest step of time there is.
const TICK: SignedDuration = SignedDuration::from_nanos(1);
/// Further than any two clocks are apart (26 h), and than any transition moves one (24 h).
const FAR: SignedDuration = SignedDuration::from_hours(72);

/// A zone by its IANA name, from the tables built into the program: plugin, webhook and controller
/// of one version agree, whatever is installed where they run.
pub fn zone(name: &str) -> Option<TimeZone> {
    static TABLES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);
    TABLES.get(name).ok()
}

/// A cron expression on the clock of a time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    fields: Fields,
    zone: TimeZone,
}

impl Schedule {
    /// Reads five-field cron, or one of `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`,
    /// `@yearly` and `@annually`. An expression that never matches is an error.
    pub fn parse(expression: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        Ok(Self { fields: parse::fields(expression)?, zone })
    }

    /// One time of day on some days of the week, of which bit 0 is Sunday.
    pub(crate) fn weekly(weekdays: u64, at: jiff::civil::Time, zone: TimeZone) -> Self {
        Self { fields: Fields::weekly(weekdays, at), zone }
    }

    /// The zone by whose clock it goes.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first occurrence later than `after`. None only at the end of representable time: what
    /// was parsed occurs at least once in 8 years (29 February, around 1900 and 2100).
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if self.fields.fixed { self.fixed_after(after) } else { self.interval_after(after) }
    }

    /// The last occurrence not later than `at`. None only at the start of representable time.
    pub fn previous_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        if self.fields.fixed { self.fixed_until(at) } else { self.interval_until(at) }
    }

    /// The latest time of day that it names.
    pub(crate) fn last_of_day(&self) -> jiff::civil::Time {
        self.fields.last_time()
    }

    /// The longest time between two occurrences of one day, by the clock.
    pub(crate) fn longest_pause_in_a_day(&self) -> SignedDuration {
        self.fields.longest_pause()
    }

    fn civil(&self, at: Timestamp) -> DateTime {
        self.zone.to_offset(at).to_datetime(at)
    }

    fn fixed_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = self.civil(after);
        loop {
            let hit = self.fields.first_from(from)?;
            if let Some(at) = self.fixed_instant(hit).filter(|at| *at > after) {
                return Some(at);
            }
            from = hit.checked_add(SignedDuration::from_mins(1)).ok()?;
        }
    }

    fn fixed_until(&self, at: Timestamp) -> Option<Timestamp> {
        let mut to = self.civil(at);
        if let AmbiguousOffset::Fold { before, after } =
            self.zone.to_ambiguous_timestamp(to).offset()
            && self.zone.to_offset(at) == after
        {
            // In the second pass: the whole first one lies behind, times later on the clock too.
            to = before.to_datetime(at);
        }
        loop {
            let hit = self.fields.last_until(to)?;
            if let Some(found) = self.fixed_instant(hit).filter(|found| *found <= at) {
                return Some(found);
            }
            to = hit.checked_sub(SignedDuration::from_mins(1)).ok()?;
        }
    }

    /// The one instant at which a fixed time happens; None where it is skipped with its day.
    fn fixed_instant(&self, civil: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                let past = before.to_timestamp(civil).ok()?.checked_add(TICK).ok()?;
                let edge = self.zone.preceding(past).next()?.timestamp();
                self.fields.names(self.civil(edge).date()).then_some(edge)
            }
        }
    }

    /// Between two transitions of the zone its clock runs evenly, so one look at the fields is
    /// enough for each such stretch.
    fn interval_after(&self, after: Timestamp) -> Option<Timestamp> {
        let (mut at, mut first) = (after, true);
        let mut from = self.civil(after).checked_add(TICK).ok()?;
        loop {
            let offset = self.zone.to_offset(at);
            let hit = offset.to_timestamp(self.fields.first_from(from)?).ok()?;
            let Some(edge) = self.zone.following(at).next().map(|t| t.timestamp()) else {
                return Some(hit);
            };
            if hit < edge {
                return Some(hit);
            }
            at = edge;
            // Only the first transition can bring back times that were passed already.
            if !first && hit.duration_since(edge) > FAR {
                at = hit.checked_sub(FAR).ok()?;
            }
            (from, first) = (self.civil(at), false);
        }
    }

    fn interval_until(&self, until: Timestamp) -> Option<Timestamp> {
        let (mut at, mut first) = (until, true);
        let mut to = self.civil(until);
        loop {
            let offset = self.zone.to_offset(at);
            let hit = offset.to_timestamp(self.fields.last_until(to)?).ok()?;
            let past = at.checked_add(TICK).ok()?;
            let Some(edge) = self.zone.preceding(past).next().map(|t| t.timestamp()) else {
                return Some(hit);
            };
            if hit >= edge {
                return Some(hit);
            }
            at = edge.checked_sub(TICK).ok()?;
            if !first && edge.duration_since(hit) > FAR {
                at = hit.checked_add(FAR).ok()?;
            }
            (to, first) = (self.civil(at), false);
        }
    }
}
