//! What a schedule's fields match, in civil time: no zone, no instant.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};

/// How many months are looked at: 8 years to the next 29 February at most, and the one it is in.
const MONTHS: usize = 8 * 12 + 1;
/// The longest any month has in it; bit 0 stands for no day.
const DAYS_OF: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Sets of numbers: bit n is set where n is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// 0 to 59
    pub minutes: u64,
    /// 0 to 23
    pub hours: u64,
    /// 1 to 31
    pub days: u64,
    /// 1 to 12
    pub months: u64,
    /// 0 (Sunday) to 6
    pub weekdays: u64,
    /// Day of month and day of week are both restricted: either is enough.
    pub either: bool,
    /// One minute and one hour, neither by `*` nor by a step.
    pub fixed: bool,
}

impl Fields {
    pub(super) fn weekly(weekdays: u64, at: Time) -> Self {
        Self {
            minutes: 1 << at.minute(),
            hours: 1 << at.hour(),
            days: u64::MAX,
            months: u64::MAX,
            weekdays,
            either: false,
            fixed: true,
        }
    }

    /// Whether no calendar has a day that matches.
    pub(super) fn never(&self) -> bool {
        let some_day = |month: usize| {
            let in_month = (2_u64 << DAYS_OF[month - 1]) - 1;
            self.months & (1 << month) != 0 && self.days & in_month != 0
        };
        !self.either && !(1..=12).any(some_day)
    }

    /// Whether the date matches.
    pub(super) fn names(&self, date: Date) -> bool {
        self.dates(date.first_of_month()) & (1 << date.day()) != 0
    }

    /// The dates that match in the month that starts with this day.
    fn dates(&self, first: Date) -> u64 {
        if self.months & (1 << first.month()) == 0 {
            return 0;
        }
        let in_month = (2 << first.days_in_month()) - 2;
        // The set of weekdays, repeated, and turned to where the month starts.
        let week = self.weekdays & 0x7f;
        let weeks = week | week << 7 | week << 14 | week << 21 | week << 28 | week << 35;
        let start = first.weekday().to_sunday_zero_offset();
        let weekdays = (weeks >> start) << 1;
        let matching = if self.either { self.days | weekdays } else { self.days & weekdays };
        matching & in_month
    }

    /// The first match at or after a civil time.
    pub(super) fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let mut minute = whole_minute(from);
        if minute < from {
            minute = minute.checked_add(SignedDuration::from_mins(1)).ok()?;
        }
        let date = minute.date();
        if self.names(date)
            && let Some(time) = self.time_from(minute.time())
        {
            return Some(date.to_datetime(time));
        }
        let mut month = date.first_of_month();
        let mut rest = self.dates(month) & (u64::MAX << (date.day() + 1));
        for _ in 0..MONTHS {
            if rest != 0 {
                let day = i8::try_from(rest.trailing_zeros()).ok()?;
                let date = Date::new(month.year(), month.month(), day).ok()?;
                return Some(date.to_datetime(self.first_time()));
            }
            month = month.last_of_month().tomorrow().ok()?;
            rest = self.dates(month);
        }
        None
    }

    /// The last match at or before a civil time.
    pub(super) fn last_until(&self, to: DateTime) -> Option<DateTime> {
        let minute = whole_minute(to);
        let date = minute.date();
        if self.names(date)
            && let Some(time) = self.time_until(minute.time())
        {
            return Some(date.to_datetime(time));
        }
        let mut month = date.first_of_month();
        let mut rest = self.dates(month) & ((1 << date.day()) - 1);
        for _ in 0..MONTHS {
            if rest != 0 {
                let day = i8::try_from(rest.ilog2()).ok()?;
                let date = Date::new(month.year(), month.month(), day).ok()?;
                return Some(date.to_datetime(self.last_time()));
            }
            month = month.yesterday().ok()?.first_of_month();
            rest = self.dates(month);
        }
        None
    }

    fn time_from(&self, from: Time) -> Option<Time> {
        let minutes = self.minutes & (u64::MAX << from.minute());
        if self.hours & (1 << from.hour()) != 0 && minutes != 0 {
            return Some(time(u32::try_from(from.hour()).ok()?, minutes.trailing_zeros()));
        }
        let hours = self.hours & !((2 << from.hour()) - 1);
        (hours != 0).then(|| time(hours.trailing_zeros(), self.minutes.trailing_zeros()))
    }

    fn time_until(&self, to: Time) -> Option<Time> {
        let minutes = self.minutes & ((2 << to.minute()) - 1);
        if self.hours & (1 << to.hour()) != 0 && minutes != 0 {
            return Some(time(u32::try_from(to.hour()).ok()?, minutes.ilog2()));
        }
        let hours = self.hours & ((1 << to.hour()) - 1);
        (hours != 0).then(|| time(hours.ilog2(), last(self.minutes)))
    }

    fn first_time(&self) -> Time {
        time(self.hours.trailing_zeros(), self.minutes.trailing_zeros())
    }

    /// The latest time of day that is named.
    pub(super) fn last_time(&self) -> Time {
        time(last(self.hours), last(self.minutes))
    }

    /// The longest time between two matches of one day.
    pub(super) fn longest_pause(&self) -> SignedDuration {
        let (mut longest, mut last) = (0, None);
        for hour in (0..24_i64).filter(|h| self.hours & (1 << h) != 0) {
            for minute in (0..60_i64).filter(|m| self.minutes & (1 << m) != 0) {
                let now = hour * 60 + minute;
                longest = longest.max(last.map_or(0, |last| now - last));
                last = Some(now);
            }
        }
        SignedDuration::from_mins(longest)
    }
}

fn last(set: u64) -> u32 {
    set.checked_ilog2().unwrap_or_default()
}

fn whole_minute(at: DateTime) -> DateTime {
    at.date().at(at.hour(), at.minute(), 0, 0)
}

/// Of numbers that are in range: they come out of a set of hours and one of minutes.
fn time(hour: u32, minute: u32) -> Time {
    let part = |n: u32| i8::try_from(n).unwrap_or_default();
    Time::new(part(hour), part(minute), 0, 0).unwrap_or_default()
}
