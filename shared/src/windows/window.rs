//! One window, compiled: what it matches, and when it is active.

use super::Subject;
use crate::api::{
    Change, Exclusion, MaintenanceWindow, MaintenanceWindowSpec, Selector, StrategyName, Weekday,
    WindowKind,
};
use crate::schedule::{self, Schedule, ScheduleError};
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

const TICK: SignedDuration = SignedDuration::from_nanos(1);
const SHORTEST: SignedDuration = SignedDuration::from_mins(1);
const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);
/// Longer than any window from one time of day to another: a day and a change of the clock.
const DAY_AND_MORE: SignedDuration = SignedDuration::from_hours(50);

/// Why a MaintenanceWindow can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The cron expression.
    #[error("spec.schedule: {0}")]
    Schedule(#[from] ScheduleError),
    /// The time zone.
    #[error(
        "spec.timeZone `{0}` is not known: give the name of an IANA time zone, for instance \
         Europe/Rome or UTC"
    )]
    Zone(String),
    /// The duration.
    #[error(
        "spec.duration `{0}` is not valid: give a number with a unit (s, m, h) from 1m to 8784h, for instance 1h30m"
    )]
    Duration(String),
    /// A time of day.
    #[error(
        "{field} `{value}` is not valid: give a time of day from 00:00 to 23:59, for instance 02:00"
    )]
    TimeOfDay {
        /// Its path.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// A date.
    #[error("{field} `{value}` is not valid: give a date that exists, for instance 2026-12-24")]
    Date {
        /// Its path.
        field: String,
        /// What was given.
        value: String,
    },
    /// Two fields in the wrong order.
    #[error("{later} `{value}` is not valid: it must not be before {earlier}")]
    Order {
        /// Path of the field that comes too early.
        later: String,
        /// What was given.
        value: String,
        /// Path of the field that it belongs after.
        earlier: String,
    },
    /// Fields that don't go together.
    #[error("spec needs {0}")]
    Shape(&'static str),
}

/// A continuous time in which a window is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First instant of it.
    pub start: Timestamp,
    /// First instant after it. None: not within a year of its start.
    pub end: Option<Timestamp>,
}

/// A [`MaintenanceWindow`], compiled once.
#[derive(Clone, Debug)]
pub struct Window {
    name: String,
    kind: WindowKind,
    reason: Option<String>,
    namespaces: Option<Selector>,
    workloads: Option<Selector>,
    policies: Vec<String>,
    strategies: Vec<StrategyName>,
    changes: Vec<Change>,
    valid: Result<Validity, WindowError>,
}

/// When a window is active.
#[derive(Clone, Debug)]
struct Validity {
    from: Timestamp,
    until: Timestamp,
    /// None: throughout.
    rhythm: Option<Rhythm>,
}

#[derive(Clone, Debug)]
struct Rhythm {
    schedule: Schedule,
    length: Length,
    /// The occurrences of a day follow on each other without a pause.
    unbroken: bool,
    /// First and last day of each, in no order.
    exclusions: Vec<(Date, Date)>,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    For(SignedDuration),
    /// To a time of day.
    To {
        end: Time,
        next_day: bool,
        /// Which of two instants an end that comes twice is: the shorter permission, the longer
        /// freeze.
        second_pass: bool,
    },
}

impl Window {
    /// Compiles it; an error where something in it can't be read.
    pub fn parse(object: &MaintenanceWindow) -> Result<Self, WindowError> {
        let window = Self::compile(object);
        window.valid.clone().map(|_| window)
    }

    /// Compiles it, whatever is wrong with it: a Deny with a [`problem`](Self::problem) is always
    /// active, an Allow with one never, each for what its selectors match.
    pub fn compile(object: &MaintenanceWindow) -> Self {
        let spec = &object.spec;
        Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            kind: spec.kind,
            reason: spec.reason.clone(),
            namespaces: spec.namespace_selector.clone(),
            workloads: spec.workloads.clone(),
            policies: spec.policies.clone(),
            strategies: spec.strategies.clone(),
            changes: spec.changes.clone(),
            valid: validity(spec),
        }
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it allows or freezes.
    pub fn kind(&self) -> WindowKind {
        self.kind
    }

    /// What its owner says about it.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// What is wrong with it.
    pub fn problem(&self) -> Option<&WindowError> {
        self.valid.as_ref().err()
    }

    /// Whether it is about the change. A change whose size can't be told counts as major.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let change = subject.change;
        let size = |c: &Change| *c == change || (change, *c) == (Change::Unknown, Change::Major);
        (self.strategies.is_empty() || self.strategies.contains(&subject.strategy))
            && (self.changes.is_empty() || self.changes.iter().any(size))
            && (self.policies.is_empty() || self.policies.iter().any(|p| p == subject.policy))
            && self.namespaces.as_ref().is_none_or(|s| s.matches(subject.namespace_labels))
            && self.workloads.as_ref().is_none_or(|s| s.matches(subject.workload_labels))
    }

    /// Whether it is active: a freeze on, an Allow open.
    pub fn is_active(&self, at: Timestamp) -> bool {
        match &self.valid {
            Ok(valid) => valid.is_active(at),
            Err(_) => self.kind == WindowKind::Deny,
        }
    }

    /// Where it is active: the first later instant at which it is not, occurrences that overlap or
    /// touch being one. Looks no further than `limit`, and answers with that or what is later
    /// where it is active until then.
    pub(super) fn active_until(&self, at: Timestamp, limit: Timestamp) -> Option<Timestamp> {
        match &self.valid {
            Ok(valid) => valid.is_active(at).then(|| valid.ends(at, limit)),
            Err(_) => (self.kind == WindowKind::Deny).then_some(Timestamp::MAX),
        }
    }

    /// Where it is not active: the first later instant at which it is.
    pub(super) fn next_active(&self, at: Timestamp) -> Option<Timestamp> {
        self.valid.as_ref().ok()?.starts(at)
    }

    /// When it is active from `from` on, in order: first what goes on at `from`, if anything.
    /// Occurrences that overlap or touch are one. Empty where it has a problem.
    pub fn spans(&self, from: Timestamp) -> impl Iterator<Item = Span> + '_ {
        let mut at = Some(from);
        std::iter::from_fn(move || {
            let valid = self.valid.as_ref().ok()?;
            let from = at?;
            let start = if valid.is_active(from) { from } else { valid.starts(from)? };
            let limit = super::limit(start);
            let end = Some(valid.ends(start, limit)).filter(|end| *end < limit);
            at = end;
            Some(Span { start, end })
        })
    }
}

impl Validity {
    fn is_active(&self, at: Timestamp) -> bool {
        (self.from..self.until).contains(&at)
            && self.rhythm.as_ref().is_none_or(|r| r.covered_until(at).is_some())
    }

    fn ends(&self, at: Timestamp, limit: Timestamp) -> Timestamp {
        let Some(rhythm) = &self.rhythm else { return self.until };
        let mut end = at;
        while end < limit
            && end < self.until
            && let Some(further) = rhythm.covered_until(end)
        {
            end = rhythm.rest_of_day(further);
        }
        end.min(self.until)
    }

    fn starts(&self, at: Timestamp) -> Option<Timestamp> {
        let start = if self.from > at && self.is_active(self.from) {
            self.from
        } else {
            self.rhythm.as_ref()?.next_start(at.max(self.from))?
        };
        Some(start).filter(|start| *start < self.until)
    }
}

impl Rhythm {
    /// Until when the occurrences that hold at an instant reach.
    fn covered_until(&self, at: Timestamp) -> Option<Timestamp> {
        let longest = match self.length {
            Length::For(length) => length,
            Length::To { .. } => DAY_AND_MORE,
        };
        let mut before = at;
        loop {
            let start = self.schedule.previous_at_or_before(before)?;
            if at.duration_since(start) >= longest {
                return None;
            }
            if let Some((first, _)) = self.excluded(start) {
                before = self.first_instant(*first)?.min(start).checked_sub(TICK).ok()?;
                continue;
            }
            // Of two occurrences the one that starts later ends later.
            return self.end(start).filter(|end| *end > at);
        }
    }

    /// The first occurrence later than an instant that counts and lasts.
    fn next_start(&self, at: Timestamp) -> Option<Timestamp> {
        let mut after = at;
        loop {
            let start = self.schedule.next_after(after)?;
            if let Some((_, last)) = self.excluded(start) {
                let over = self.first_instant(last.tomorrow().ok()?)?;
                after = over.checked_sub(TICK).ok()?.max(start);
                continue;
            }
            if self.end(start)? > start {
                return Some(start);
            }
            after = start;
        }
    }

    /// From an instant that an occurrence of its day reaches, to where the last of that day does,
    /// in one stride: a schedule may occur every minute.
    fn rest_of_day(&self, at: Timestamp) -> Timestamp {
        self.stride(at).unwrap_or(at).max(at)
    }

    fn stride(&self, at: Timestamp) -> Option<Timestamp> {
        let Length::For(length) = self.length else { return None };
        let start = self.schedule.previous_at_or_before(at)?;
        let date = self.date(start);
        if !self.unbroken || date != self.date(at) || self.excluded(start).is_some() {
            return None;
        }
        // On a day on which the clock changes from here on, each step counts.
        let offset = self.schedule.zone().to_offset(start);
        let last = offset.to_timestamp(date.to_datetime(self.schedule.last_of_day())).ok()?;
        let even = self.schedule.zone().to_offset(last) == offset;
        if even { last.checked_add(length).ok() } else { None }
    }

    fn end(&self, start: Timestamp) -> Option<Timestamp> {
        match self.length {
            Length::For(length) => start.checked_add(length).ok(),
            Length::To { end, next_day, second_pass } => {
                let date = self.date(start);
                let date = if next_day { date.tomorrow().ok()? } else { date };
                instant(self.schedule.zone(), date, end, second_pass)
            }
        }
    }

    fn date(&self, at: Timestamp) -> Date {
        self.schedule.zone().to_offset(at).to_datetime(at).date()
    }

    fn excluded(&self, start: Timestamp) -> Option<&(Date, Date)> {
        if self.exclusions.is_empty() {
            return None;
        }
        let date = self.date(start);
        self.exclusions.iter().find(|(first, last)| (*first..=*last).contains(&date))
    }

    fn first_instant(&self, date: Date) -> Option<Timestamp> {
        instant(self.schedule.zone(), date, Time::midnight(), false)
    }
}

/// When a clock shows a time: where it is skipped, the first instant after the gap.
fn instant(zone: &TimeZone, date: Date, time: Time, second_pass: bool) -> Option<Timestamp> {
    let civil = date.to_datetime(time);
    let offset = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Fold { after, .. } if second_pass => after,
        AmbiguousOffset::Fold { before, .. } => before,
        AmbiguousOffset::Gap { before, .. } => {
            let past = before.to_timestamp(civil).ok()?.checked_add(TICK).ok()?;
            return zone.preceding(past).next().map(|t| t.timestamp());
        }
    };
    offset.to_timestamp(civil).ok()
}

fn validity(spec: &MaintenanceWindowSpec) -> Result<Validity, WindowError> {
    let from = spec.active_from.as_ref().map_or(Timestamp::MIN, |t| t.0);
    let until = spec.active_until.as_ref().map_or(Timestamp::MAX, |t| t.0);
    if from >= until {
        return Err(WindowError::Order {
            later: "spec.activeUntil".into(),
            value: until.to_string(),
            earlier: "spec.activeFrom".into(),
        });
    }
    let zone =
        schedule::zone(&spec.time_zone).ok_or_else(|| WindowError::Zone(spec.time_zone.clone()))?;
    let rhythm = match (&spec.schedule, &spec.duration, &spec.days, &spec.start, &spec.end) {
        (Some(cron), Some(duration), None, None, None) => {
            let schedule = Schedule::parse(cron, zone)?;
            let length = length(duration)?;
            let unbroken = schedule.longest_pause_in_a_day() <= length;
            Some((schedule, Length::For(length), unbroken))
        }
        (None, None, Some(days), Some(start), Some(end)) if !days.is_empty() => {
            let start = time_of_day("spec.start", start)?;
            let end = time_of_day("spec.end", end)?;
            let second_pass = spec.kind == WindowKind::Deny;
            let length = Length::To { end, next_day: end <= start, second_pass };
            Some((Schedule::weekly(weekdays(days), start, zone), length, false))
        }
        (None, None, None, None, None) => {
            throughout(spec)?;
            None
        }
        _ => {
            return Err(WindowError::Shape(
                "either `schedule` and `duration`, or `days`, `start` and `end`, or none of them",
            ));
        }
    };
    let exclusions = spec.exclusions.iter().enumerate().map(|(n, e)| exclusion(n, e));
    let exclusions = exclusions.collect::<Result<Vec<_>, _>>()?;
    let rhythm = rhythm.map(|(schedule, length, unbroken)| Rhythm {
        schedule,
        length,
        unbroken,
        exclusions,
    });
    Ok(Validity { from, until, rhythm })
}

/// A window without a rhythm: a freeze, or between two instants. An Allow that is always open would
/// make every other one void.
fn throughout(spec: &MaintenanceWindowSpec) -> Result<(), WindowError> {
    let bounded = spec.active_from.is_some() || spec.active_until.is_some();
    if spec.kind == WindowKind::Allow && !bounded {
        return Err(WindowError::Shape(
            "a time where it is an Allow: `schedule` and `duration`, or `days`, `start` and `end`, \
             or `activeFrom` or `activeUntil`",
        ));
    }
    if spec.exclusions.is_empty() {
        Ok(())
    } else {
        Err(WindowError::Shape("`schedule` or `days` where it has `exclusions`"))
    }
}

fn length(text: &str) -> Result<SignedDuration, WindowError> {
    text.parse::<kube::core::Duration>()
        .ok()
        .filter(|parsed| !parsed.is_negative())
        .and_then(|parsed| SignedDuration::try_from(std::time::Duration::from(parsed)).ok())
        .filter(|length| (SHORTEST..=LONGEST).contains(length))
        .ok_or_else(|| WindowError::Duration(text.to_owned()))
}

fn time_of_day(field: &'static str, text: &str) -> Result<Time, WindowError> {
    let parsed = match text.as_bytes() {
        [_, _, b':', _, _] => Time::strptime("%H:%M", text).ok(),
        _ => None,
    };
    parsed.ok_or_else(|| WindowError::TimeOfDay { field, value: text.to_owned() })
}

fn exclusion(n: usize, exclusion: &Exclusion) -> Result<(Date, Date), WindowError> {
    let date = |field: &str, text: &str| {
        let parsed = (text.len() == 10).then(|| text.parse().ok()).flatten();
        parsed.ok_or_else(|| WindowError::Date {
            field: format!("spec.exclusions[{n}].{field}"),
            value: text.to_owned(),
        })
    };
    let (from, until): (Date, Date) =
        (date("from", &exclusion.from)?, date("until", &exclusion.until)?);
    if until < from {
        return Err(WindowError::Order {
            later: format!("spec.exclusions[{n}].until"),
            value: exclusion.until.clone(),
            earlier: format!("spec.exclusions[{n}].from"),
        });
    }
    Ok((from, until))
}

/// As bits, of which the lowest is Sunday.
fn weekdays(days: &[Weekday]) -> u64 {
    let bit = |day: &Weekday| match day {
        Weekday::Sunday => 1,
        Weekday::Monday => 1 << 1,
        Weekday::Tuesday => 1 << 2,
        Weekday::Wednesday => 1 << 3,
        Weekday::Thursday => 1 << 4,
        Weekday::Friday => 1 << 5,
        Weekday::Saturday => 1 << 6,
    };
    days.iter().fold(0, |bits, day| bits | bit(day))
}
