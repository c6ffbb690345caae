//! Rules of schedules, one a test. That they hold everywhere is `super::proof`'s.

use super::{Schedule, ScheduleError, zone};
use jiff::Timestamp;

fn schedule(expression: &str, name: &str) -> Schedule {
    Schedule::parse(expression, zone(name).expect("a known zone"))
        .unwrap_or_else(|e| panic!("{expression}: {e}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// What follows on an instant, on the clock of the zone with its offset.
fn following(expression: &str, name: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = schedule(expression, name);
    let next = |at: &Timestamp| schedule.next_after(*at);
    let all: Vec<Timestamp> = std::iter::successors(next(&at(after)), next).take(count).collect();
    for pair in all.windows(2) {
        assert_eq!(schedule.previous_at_or_before(pair[1]), Some(pair[1]), "{expression}");
        let before = pair[1] - jiff::SignedDuration::from_nanos(1);
        assert_eq!(schedule.previous_at_or_before(before), Some(pair[0]), "{expression}");
    }
    let text = |at: &Timestamp| {
        at.to_zoned(schedule.zone().clone()).strftime("%a %Y-%m-%d %H:%M %:z").to_string()
    };
    all.iter().map(text).collect()
}

fn error(expression: &str) -> String {
    Schedule::parse(expression, jiff::tz::TimeZone::UTC).expect_err(expression).to_string()
}

#[test]
fn c8_a_weekly_schedule_runs_on_sundays_at_one() {
    assert_eq!(
        following("0 1 * * 0", "UTC", "2026-11-21T00:00:00Z", 2),
        ["Sun 2026-11-22 01:00 +00:00", "Sun 2026-11-29 01:00 +00:00"]
    );
    let sunday = schedule("0 1 * * 0", "UTC").fields;
    for same in ["0 1 * * 7", "0 1 * * sun", "00 01 ? * SUN", " 0  1 * JAN-DEC 0,7 "] {
        assert_eq!(schedule(same, "UTC").fields.weekdays, sunday.weekdays, "{same}");
    }
}

#[test]
fn a_fixed_time_in_a_gap_happens_right_after_it() {
    assert_eq!(
        following("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
        ["Sun 2026-03-29 03:00 +02:00", "Mon 2026-03-30 02:30 +02:00"]
    );
    assert_eq!(
        following("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", 1),
        ["Sun 2026-10-04 02:30 +11:00"]
    );
}

#[test]
fn a_fixed_time_in_an_overlap_happens_the_first_time_only() {
    assert_eq!(
        following("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["Sun 2026-10-25 02:30 +02:00", "Mon 2026-10-26 02:30 +01:00"]
    );
}

#[test]
fn an_interval_skips_a_gap_and_repeats_in_an_overlap() {
    assert_eq!(
        following("*/30 1-3 * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", 2),
        ["Sun 2026-03-29 01:30 +01:00", "Sun 2026-03-29 03:00 +02:00"]
    );
    assert_eq!(
        following("30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 3),
        [
            "Sun 2026-10-25 02:30 +02:00",
            "Sun 2026-10-25 02:30 +01:00",
            "Sun 2026-10-25 03:30 +01:00"
        ]
    );
}

#[test]
fn a_day_that_never_was_does_not_hold_an_interval() {
    assert_eq!(
        following("0 */12 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", 3),
        [
            "Thu 2011-12-29 12:00 -10:00",
            "Sat 2011-12-31 00:00 +14:00",
            "Sat 2011-12-31 12:00 +14:00"
        ]
    );
}

#[test]
fn a_leap_day_is_found_across_a_century_without_one() {
    assert_eq!(
        following("0 0 29 2 *", "UTC", "2026-11-21T00:00:00Z", 1),
        ["Tue 2028-02-29 00:00 +00:00"]
    );
    assert_eq!(
        following("0 0 29 2 *", "Europe/Rome", "2096-03-01T00:00:00Z", 1),
        ["Fri 2104-02-29 00:00 +01:00"]
    );
    let previous =
        schedule("*/5 * 29 2 *", "UTC").previous_at_or_before(at("2104-02-01T00:00:00Z"));
    assert_eq!(previous, Some(at("2096-02-29T23:55:00Z")));
}

#[test]
fn restricted_day_of_month_and_day_of_week_are_either_enough() {
    assert_eq!(
        following("0 0 13 * FRI", "UTC", "2026-11-07T00:00:00Z", 3),
        [
            "Fri 2026-11-13 00:00 +00:00",
            "Fri 2026-11-20 00:00 +00:00",
            "Fri 2026-11-27 00:00 +00:00"
        ]
    );
    assert_eq!(
        following("0 0 */10 * MON", "UTC", "2026-11-01T00:00:00Z", 3),
        [
            "Mon 2026-11-02 00:00 +00:00",
            "Mon 2026-11-09 00:00 +00:00",
            "Wed 2026-11-11 00:00 +00:00"
        ]
    );
}

#[test]
fn every_first_day_is_a_star_as_kubernetes_reads_it() {
    let mondays = ["Mon 2026-11-02 00:00 +00:00", "Mon 2026-11-09 00:00 +00:00"];
    for star in ["*", "?", "*/1", "*,3"] {
        let expression = format!("0 0 {star} * 1");
        assert_eq!(following(&expression, "UTC", "2026-11-01T00:00:00Z", 2), mondays);
    }
}

#[test]
fn steps_from_a_day_of_week_end_on_saturday_as_kubernetes_reads_them() {
    assert_eq!(
        following("0 0 * * 2/5", "UTC", "2026-11-01T00:00:00Z", 2),
        ["Tue 2026-11-03 00:00 +00:00", "Tue 2026-11-10 00:00 +00:00"]
    );
    assert_eq!(
        following("0 0 * * 5-7", "UTC", "2026-11-01T12:00:00Z", 3),
        [
            "Fri 2026-11-06 00:00 +00:00",
            "Sat 2026-11-07 00:00 +00:00",
            "Sun 2026-11-08 00:00 +00:00"
        ]
    );
}

#[test]
fn macros_are_what_they_are_in_kubernetes() {
    for (short, long) in [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ] {
        assert_eq!(schedule(short, "UTC").fields, schedule(long, "UTC").fields, "{short}");
    }
}

#[test]
fn what_never_happens_is_refused() {
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 FEB *", "0 0 30-31 2 ?"] {
        assert_eq!(
            error(never),
            format!("`{never}` never happens: no month it names has a day it names")
        );
    }
    // A day of the week is enough.
    schedule("0 0 30 2 1", "UTC");
    schedule("0 0 29 2 *", "UTC");
}

#[test]
fn an_error_names_the_field_the_value_and_what_would_be_right() {
    for (expression, parts) in [
        ("60 * * * *", ["minute `60`", "0 to 59"]),
        ("*/60 * * * *", ["minute `*/60`", "0 to 59"]),
        ("*/0 * * * *", ["minute `*/0`", "0 to 59"]),
        ("0 24 * * *", ["hour `24`", "0 to 23"]),
        ("0 1,,2 * * *", ["hour `1,,2`", "0 to 23"]),
        ("0 5-3 * * *", ["hour `5-3`", "0 to 23"]),
        ("0 0 0 * *", ["day of month `0`", "1 to 31"]),
        ("0 0 L * *", ["day of month `L`", "1 to 31"]),
        ("0 0 1 13 *", ["month `13`", "JAN to DEC"]),
        ("0 0 1 sun *", ["month `sun`", "JAN to DEC"]),
        ("0 0 * * 8", ["day of week `8`", "Sunday is 0 and 7"]),
        ("0 0 * * fri-mon", ["day of week `fri-mon`", "SUN to SAT"]),
        ("0 0 * * 5#2", ["day of week `5#2`", "SUN to SAT"]),
        ("0 0 * * +1", ["day of week `+1`", "SUN to SAT"]),
        ("0 0 * *", ["has 4 fields", "cron has five"]),
        ("0 0 0 * * *", ["has 6 fields", "cron has five"]),
        ("", ["has 0 fields", "cron has five"]),
        ("@every 1h", ["`@every 1h` is not known", "@daily"]),
        ("CRON_TZ=UTC 0 0 * * *", ["brings a time zone", "`timeZone`"]),
    ] {
        let said = error(expression);
        for part in parts {
            assert!(said.contains(part), "{expression}: {part:?} is not in {said}");
        }
    }
    assert!(matches!(
        Schedule::parse("0 0 99999999999 * *", jiff::tz::TimeZone::UTC),
        Err(ScheduleError::Field { field: "day of month", .. })
    ));
}

#[test]
fn a_search_ends_where_time_does() {
    let daily = schedule("0 0 * * *", "Europe/Rome");
    assert_eq!(daily.next_after(Timestamp::MAX), None);
    assert_eq!(daily.previous_at_or_before(Timestamp::MIN), None);
    let often = schedule("*/5 * * * *", "Europe/Rome");
    assert_eq!(often.next_after(Timestamp::MAX), None);
    assert_eq!(often.previous_at_or_before(Timestamp::MIN), None);
}

#[test]
fn zones_come_from_the_tables_that_are_built_in() {
    for known in ["UTC", "Europe/Rome", "America/Argentina/Buenos_Aires", "Etc/GMT+5"] {
        assert!(zone(known).is_some(), "{known}");
    }
    for unknown in ["Europe/Atlantis", "+02:00", "", "../etc/passwd"] {
        assert!(zone(unknown).is_none(), "{unknown}");
    }
}
