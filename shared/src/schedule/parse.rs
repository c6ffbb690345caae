//! From the five fields that Kubernetes reads to the form that the `cron` crate reads.
//!
//! The crate wants seconds, counts Sunday as 1, and knows `?` in two fields only. Names become
//! numbers here, days of the week are written out in its counting, and each field is given to it
//! alone, so that an error names the field.

use super::fields::Fields;
use cron::TimeUnitSpec;
use std::fmt::Write;

/// Why an expression is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields, and no macro.
    #[error(
        "`{expression}` has {found} fields, cron has five: minute, hour, day of month, month, day \
         of week; for instance `0 1 * * 0`, Sundays at 01:00"
    )]
    Fields {
        /// What was given.
        expression: String,
        /// How many fields it has.
        found: usize,
    },
    /// An unknown macro.
    #[error(
        "`{0}` is not known: give @hourly, @daily, @weekly, @monthly or @yearly, or five fields \
         such as `0 1 * * 0`"
    )]
    Macro(String),
    /// A zone in front of the fields.
    #[error("`{0}` brings a time zone of its own: give it in `timeZone`")]
    Zone(String),
    /// One of the fields.
    #[error(
        "{field} `{value}` is not valid: give {right}, `*`, a range `a-b`, a list `a,b` or a step `*/n`"
    )]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// No calendar has such a day.
    #[error("`{0}` never happens: no month it names has a day it names")]
    Never(String),
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The field of an expression that a piece of text stands in.
struct Field {
    name: &'static str,
    right: &'static str,
    /// Names of the numbers, the first of which stands for `least`.
    names: &'static [&'static str],
    least: usize,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", right: "0 to 59", names: &[], least: 0 },
    Field { name: "hour", right: "0 to 23", names: &[], least: 0 },
    Field { name: "day of month", right: "1 to 31", names: &[], least: 1 },
    Field { name: "month", right: "1 to 12 or JAN to DEC", names: &MONTHS, least: 1 },
    Field {
        name: "day of week",
        right: "0 to 7 (Sunday is 0 and 7) or SUN to SAT",
        names: &WEEKDAYS,
        least: 0,
    },
];

pub(super) fn fields(expression: &str) -> Result<Fields, ScheduleError> {
    let expression = expression.trim();
    if expression.starts_with("TZ=") || expression.starts_with("CRON_TZ=") {
        return Err(ScheduleError::Zone(expression.to_owned()));
    }
    let texts: Vec<&str> = written_out(expression)?.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = texts[..] else {
        let found = texts.len();
        return Err(ScheduleError::Fields { expression: expression.to_owned(), found });
    };
    let [of_minute, of_hour, of_day, of_month, of_weekday] = &FIELDS;
    let minutes = of_minute.items(minute)?;
    let hours = of_hour.items(hour)?;
    let days = of_day.items(day)?;
    let weekdays = of_weekday.items(weekday)?;
    let mut fields = Fields {
        minutes: of_minute.set(minute, &minutes)?,
        hours: of_hour.set(hour, &hours)?,
        days: of_day.set(day, &days)?,
        months: of_month.set(month, &of_month.items(month)?)?,
        // In the crate's counting Sunday is 1.
        weekdays: of_weekday.set(weekday, &of_weekday.weekdays(weekday, &weekdays)?)? >> 1,
        either: !is_star(&days) && !is_star(&weekdays),
        fixed: false,
    };
    fields.fixed = fields.minutes.is_power_of_two()
        && fields.hours.is_power_of_two()
        && !repeats(&minutes)
        && !repeats(&hours);
    if fields.never() {
        return Err(ScheduleError::Never(expression.to_owned()));
    }
    Ok(fields)
}

/// Macros in five fields, anything else as it is.
fn written_out(expression: &str) -> Result<&str, ScheduleError> {
    Ok(match expression {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other if other.starts_with('@') => return Err(ScheduleError::Macro(other.to_owned())),
        other => other,
    })
}

/// An item of a field's list.
struct Item {
    /// `*` where there is no first number.
    first: Option<u32>,
    last: Option<u32>,
    step: Option<u32>,
}

impl Field {
    fn wrong(&self, value: &str) -> ScheduleError {
        ScheduleError::Field { field: self.name, value: value.to_owned(), right: self.right }
    }

    fn items(&self, text: &str) -> Result<Vec<Item>, ScheduleError> {
        let item = |item: &str| self.item(item).ok_or_else(|| self.wrong(text));
        text.split(',').map(item).collect()
    }

    fn item(&self, text: &str) -> Option<Item> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
            None => (text, None),
        };
        if matches!(range, "*" | "?") {
            return Some(Item { first: None, last: None, step });
        }
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (self.value(first)?, Some(self.value(last)?)),
            None => (self.value(range)?, None),
        };
        Some(Item { first: Some(first), last, step })
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.and_then(|n| u32::try_from(n + self.least).ok()).or_else(|| number(text))
    }

    /// Days of the week one by one, in the crate's counting.
    fn weekdays(&self, text: &str, items: &[Item]) -> Result<Vec<Item>, ScheduleError> {
        let mut all = vec![];
        for item in items {
            let first = item.first.unwrap_or(0);
            // 7 is Sunday where somebody writes it; `1/2` ends on Saturday, as in Kubernetes.
            let last = match (item.first, item.last, item.step) {
                (_, Some(last), _) => last,
                (Some(only), None, None) => only,
                (_, None, _) => 6,
            };
            let step = item.step.unwrap_or(1);
            if first > last || last > 7 || step > 7 {
                return Err(self.wrong(text));
            }
            let step = usize::try_from(step).unwrap_or(1);
            let day = |day| Item { first: Some(day % 7 + 1), last: None, step: None };
            all.extend((first..=last).step_by(step).map(day));
        }
        Ok(all)
    }

    /// The numbers that the crate finds in the field, as bits.
    fn set(&self, text: &str, items: &[Item]) -> Result<u64, ScheduleError> {
        let mut alone = ["0", "*", "*", "*", "*", "*"].map(str::to_owned);
        let place = FIELDS.iter().position(|field| field.name == self.name).unwrap_or_default();
        alone[place + 1] = written(items);
        let parsed: cron::Schedule = alone.join(" ").parse().map_err(|_| self.wrong(text))?;
        Ok(match place {
            0 => bits(parsed.minutes()),
            1 => bits(parsed.hours()),
            2 => bits(parsed.days_of_month()),
            3 => bits(parsed.months()),
            _ => bits(parsed.days_of_week()),
        })
    }
}

fn bits(set: &impl TimeUnitSpec) -> u64 {
    set.iter().fold(0, |bits, n| bits | 1 << n)
}

fn written(items: &[Item]) -> String {
    let mut text = String::new();
    for item in items {
        text.push_str(if text.is_empty() { "" } else { "," });
        // Writing to a String can't fail.
        let _ = match (item.first, item.last) {
            (None, _) => write!(text, "*"),
            (Some(first), None) => write!(text, "{first}"),
            (Some(first), Some(last)) => write!(text, "{first}-{last}"),
        };
        if let Some(step) = item.step {
            let _ = write!(text, "/{step}");
        }
    }
    text
}

/// Digits only: `+5` is a number to Rust, none to cron.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_star(items: &[Item]) -> bool {
    items.iter().any(|item| item.first.is_none() && item.step.is_none_or(|step| step == 1))
}

/// Whether a field goes by `*` or by steps, even where only one number comes out of it.
fn repeats(items: &[Item]) -> bool {
    items.iter().any(|item| item.first.is_none() || item.step.is_some_and(|step| step > 1))
}
