//! Rules of windows, one a test.

use super::testing::{Asks, at, e10, labels, object, window};
use super::{State, Transition, Why, Window, state, transitions, why_shut};
use crate::api::{Change, StrategyName};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Spans of a window from an instant on, as `from..until` in its zone.
fn spans(window: &Window, zone: &str, from: &str, count: usize) -> Vec<String> {
    let zone = crate::schedule::zone(zone).expect("a known zone");
    let text = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%a %m-%d %H:%M %:z").to_string();
    let end = |end: Option<Timestamp>| end.map_or_else(|| "ever".to_owned(), text);
    let line = |s: super::Span| format!("{}..{}", text(s.start), end(s.end));
    window.spans(at(from)).take(count).map(line).collect()
}

fn ask(windows: &[Window], now: &str) -> State {
    state(windows, &Asks::default().subject(), at(now))
}

fn open(until: Option<&str>, by: &[&str]) -> State {
    State::Open { until: until.map(at), by: by.iter().map(|s| (*s).to_owned()).collect() }
}

fn none_open(windows: &[&str], next: Option<&str>) -> State {
    let windows = windows.iter().map(|s| (*s).to_owned()).collect();
    State::Shut { why: Why::NoneOpen { windows }, next: next.map(at) }
}

fn frozen(window: &str, reason: Option<&str>, next: Option<&str>) -> State {
    let why = Why::Freeze { window: window.to_owned(), reason: reason.map(str::to_owned) };
    State::Shut { why, next: next.map(at) }
}

fn daily(start: &str, end: &str) -> Value {
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    json!({"kind": "Allow", "days": days, "start": start, "end": end, "timeZone": "Europe/Berlin"})
}

#[test]
fn e10_tuesday_to_thursday_from_two_to_six_and_never_on_monday_or_friday() {
    let windows = [e10()];
    assert_eq!(
        spans(&windows[0], "Europe/Rome", "2026-11-20T12:00:00Z", 4),
        [
            "Tue 11-24 02:00 +01:00..Tue 11-24 06:00 +01:00",
            "Wed 11-25 02:00 +01:00..Wed 11-25 06:00 +01:00",
            "Thu 11-26 02:00 +01:00..Thu 11-26 06:00 +01:00",
            "Tue 12-01 02:00 +01:00..Tue 12-01 06:00 +01:00",
        ]
    );
    // Monday and Friday at 03:00 in Rome; Tuesday at 02:00, 05:59:59 and 06:00.
    for (now, says) in [
        ("2026-11-23T02:00:00Z", none_open(&["e10"], Some("2026-11-24T01:00:00Z"))),
        ("2026-11-27T02:00:00Z", none_open(&["e10"], Some("2026-12-01T01:00:00Z"))),
        ("2026-11-24T01:00:00Z", open(Some("2026-11-24T05:00:00Z"), &["e10"])),
        ("2026-11-24T04:59:59Z", open(Some("2026-11-24T05:00:00Z"), &["e10"])),
        ("2026-11-24T05:00:00Z", none_open(&["e10"], Some("2026-11-25T01:00:00Z"))),
        // In summer, two hours from UTC.
        ("2026-07-14T00:00:00Z", open(Some("2026-07-14T04:00:00Z"), &["e10"])),
    ] {
        assert_eq!(ask(&windows, now), says, "{now}");
    }
}

#[test]
fn c8_sunday_at_one_for_two_hours() {
    let weekly = window("c8", &json!({"kind": "Allow", "schedule": "0 1 * * 0", "duration": "2h"}));
    assert_eq!(
        spans(&weekly, "UTC", "2026-11-22T02:00:00Z", 2),
        [
            "Sun 11-22 02:00 +00:00..Sun 11-22 03:00 +00:00",
            "Sun 11-29 01:00 +00:00..Sun 11-29 03:00 +00:00",
        ]
    );
}

#[test]
fn a_window_over_midnight_ends_on_the_next_day() {
    let late = window(
        "late",
        &json!({"kind": "Allow", "days": ["Saturday"], "start": "22:30", "end": "01:15"}),
    );
    assert_eq!(
        spans(&late, "UTC", "2026-11-21T00:00:00Z", 1),
        ["Sat 11-21 22:30 +00:00..Sun 11-22 01:15 +00:00"]
    );
    assert!(late.is_active(at("2026-11-22T01:14:59Z")));
    assert!(!late.is_active(at("2026-11-22T01:15:00Z")));
}

#[test]
fn a_start_in_a_gap_is_right_after_it_and_an_end_stays_on_the_clock() {
    assert_eq!(
        spans(&window("gap", &daily("02:30", "06:00")), "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
        [
            "Sun 03-29 03:00 +02:00..Sun 03-29 06:00 +02:00",
            "Mon 03-30 02:30 +02:00..Mon 03-30 06:00 +02:00",
        ]
    );
    // All of it in the gap: there is no such time, so nothing is open.
    assert_eq!(
        spans(&window("in", &daily("02:10", "02:50")), "Europe/Berlin", "2026-03-28T12:00:00Z", 1),
        ["Mon 03-30 02:10 +02:00..Mon 03-30 02:50 +02:00"]
    );
    // A duration is time that passes, whatever the clock does.
    let four = json!({
        "kind": "Allow", "schedule": "0 1 * * *", "duration": "4h", "timeZone": "Europe/Berlin"
    });
    assert_eq!(
        spans(&window("four", &four), "Europe/Berlin", "2026-03-28T12:00:00Z", 1),
        ["Sun 03-29 01:00 +01:00..Sun 03-29 06:00 +02:00"]
    );
}

#[test]
fn in_an_overlap_an_allow_is_the_shorter_and_a_freeze_the_longer() {
    let mut spec = daily("01:00", "02:30");
    assert_eq!(
        spans(&window("allow", &spec), "Europe/Berlin", "2026-10-24T12:00:00Z", 1),
        ["Sun 10-25 01:00 +02:00..Sun 10-25 02:30 +02:00"]
    );
    spec["kind"] = json!("Deny");
    assert_eq!(
        spans(&window("deny", &spec), "Europe/Berlin", "2026-10-24T12:00:00Z", 1),
        ["Sun 10-25 01:00 +02:00..Sun 10-25 02:30 +01:00"]
    );
}

#[test]
fn a_leap_day_opens_once_in_four_years() {
    let leap =
        window("leap", &json!({"kind": "Allow", "schedule": "0 3 29 2 *", "duration": "1h"}));
    let next: Vec<_> = leap.spans(at("2026-11-21T00:00:00Z")).take(2).map(|s| s.start).collect();
    assert_eq!(next, [at("2028-02-29T03:00:00Z"), at("2032-02-29T03:00:00Z")]);
    // Further than a state looks.
    assert_eq!(ask(&[leap], "2026-11-21T00:00:00Z"), none_open(&["leap"], None));
}

#[test]
fn occurrences_that_overlap_or_touch_are_one() {
    let every = |schedule: &str, duration: &str| {
        window("w", &json!({"kind": "Allow", "schedule": schedule, "duration": duration}))
    };
    assert_eq!(
        spans(&every("*/10 8-9 * * 1", "15m"), "UTC", "2026-11-21T00:00:00Z", 2),
        [
            "Mon 11-23 08:00 +00:00..Mon 11-23 10:05 +00:00",
            "Mon 11-30 08:00 +00:00..Mon 11-30 10:05 +00:00",
        ]
    );
    assert_eq!(
        spans(&every("0 0 * * 1-3", "24h"), "UTC", "2026-11-21T00:00:00Z", 1),
        ["Mon 11-23 00:00 +00:00..Thu 11-26 00:00 +00:00"]
    );
    // Longer than its period: always.
    for forever in [every("* * * * *", "1m"), every("0 0 * * *", "36h"), every("0 0 * * 1", "169h")]
    {
        let windows = [forever];
        assert_eq!(ask(&windows, "2026-11-21T10:00:30Z"), open(None, &["w"]));
    }
}

#[test]
fn a_window_by_the_day_misses_the_25th_hour_and_says_so() {
    let mut spec = json!({
        "kind": "Allow", "schedule": "0 0 * * *", "duration": "24h", "timeZone": "Europe/Berlin"
    });
    let fall_back = ["Sat 10-24 00:00 +02:00..Sun 10-25 23:00 +01:00"];
    let daily = window("daily", &spec);
    assert_eq!(spans(&daily, "Europe/Berlin", "2026-10-23T22:00:00Z", 1), fall_back);
    spec["schedule"] = json!("0,30 * * * *");
    spec["duration"] = json!("30m");
    assert_eq!(ask(&[window("w", &spec)], "2026-06-01T00:00:00Z"), open(None, &["w"]));
}

#[test]
fn a_freeze_added_to_an_open_window_shuts_it_until_it_ends() {
    let freeze = window(
        "black-friday",
        &json!({
            "kind": "Deny", "activeFrom": "2026-11-24T02:00:00Z",
            "activeUntil": "2026-11-25T03:00:00Z", "reason": "shop@example.org decides",
        }),
    );
    let windows = [e10(), freeze];
    for (now, says) in [
        // Open, until the freeze begins in the middle of the window.
        ("2026-11-24T01:30:00Z", open(Some("2026-11-24T02:00:00Z"), &["e10"])),
        (
            "2026-11-24T02:00:00Z",
            frozen("black-friday", Some("shop@example.org decides"), Some("2026-11-25T03:00:00Z")),
        ),
        // Frozen outranks shut; the next opening is behind both.
        (
            "2026-11-24T20:00:00Z",
            frozen("black-friday", Some("shop@example.org decides"), Some("2026-11-25T03:00:00Z")),
        ),
        ("2026-11-25T03:00:00Z", open(Some("2026-11-25T05:00:00Z"), &["e10"])),
        // Shut by the hour, with the freeze in the way of nothing.
        ("2026-11-23T20:00:00Z", none_open(&["e10"], Some("2026-11-24T01:00:00Z"))),
    ] {
        assert_eq!(ask(&windows, now), says, "{now}");
    }
    let changes: Vec<_> =
        transitions(&windows, &Asks::default().subject(), at("2026-11-24T00:00:00Z"))
            .take(4)
            .collect();
    let turn = |text, open| Transition { at: at(text), open };
    assert_eq!(
        changes,
        [
            turn("2026-11-24T01:00:00Z", true),
            turn("2026-11-24T02:00:00Z", false),
            turn("2026-11-25T03:00:00Z", true),
            turn("2026-11-25T05:00:00Z", false),
        ]
    );
}

#[test]
fn a_freeze_without_a_time_holds_until_it_is_taken_away() {
    let freeze = window("stop", &json!({"kind": "Deny"}));
    assert_eq!(ask(&[freeze], "2026-11-24T02:00:00Z"), frozen("stop", None, None));
}

#[test]
fn nothing_that_starts_on_an_excluded_day_counts() {
    let nightly = |exclusions: Value| {
        let mut spec = json!({
            "kind": "Allow", "schedule": "0 22 * * *", "duration": "4h", "timeZone": "Europe/Rome"
        });
        spec["exclusions"] = exclusions;
        window("nightly", &spec)
    };
    let holidays = nightly(json!([
        {"from": "2026-12-24", "until": "2026-12-26", "reason": "holidays"},
        {"from": "2026-12-26", "until": "2026-12-27"},
    ]));
    // The night to the 24th started on the 23rd; the 28th is free again.
    assert_eq!(
        spans(&holidays, "Europe/Rome", "2026-12-23T20:00:00Z", 2),
        [
            "Wed 12-23 22:00 +01:00..Thu 12-24 02:00 +01:00",
            "Mon 12-28 22:00 +01:00..Tue 12-29 02:00 +01:00",
        ]
    );
    // By the clock of its zone: at 22:00 in Rome it is the 24th there, at 21:00 in UTC as well.
    assert!(!holidays.is_active(at("2026-12-24T21:30:00Z")));
    // Of what overlaps, only what starts there is gone.
    let long = window(
        "long",
        &json!({
            "kind": "Deny", "schedule": "0 * * * *", "duration": "30h",
            "exclusions": [{"from": "2026-12-24", "until": "2026-12-26"}],
        }),
    );
    assert_eq!(
        spans(&long, "UTC", "2026-12-24T12:00:00Z", 2),
        ["Thu 12-24 12:00 +00:00..Fri 12-25 05:00 +00:00", "Sun 12-27 00:00 +00:00..ever"]
    );
}

#[test]
fn a_window_counts_only_between_active_from_and_active_until() {
    let weekly = window(
        "w",
        &json!({
            "kind": "Allow", "schedule": "0 0 * * 1", "duration": "48h",
            "activeFrom": "2026-11-24T06:00:00Z", "activeUntil": "2026-12-07T12:00:00Z",
        }),
    );
    assert_eq!(
        spans(&weekly, "UTC", "2026-11-01T00:00:00Z", 9),
        [
            "Tue 11-24 06:00 +00:00..Wed 11-25 00:00 +00:00",
            "Mon 11-30 00:00 +00:00..Wed 12-02 00:00 +00:00",
            "Mon 12-07 00:00 +00:00..Mon 12-07 12:00 +00:00",
        ]
    );
}

#[test]
fn where_no_window_matches_it_is_open() {
    assert_eq!(ask(&[], "2026-11-24T02:00:00Z"), open(None, &[]));
    let mut other = json!({"kind": "Deny", "policies": ["staging"]});
    assert_eq!(ask(&[window("w", &other)], "2026-11-24T02:00:00Z"), open(None, &[]));
    other["policies"] = json!(["staging", "prod"]);
    assert_eq!(ask(&[window("w", &other)], "2026-11-24T02:00:00Z"), frozen("w", None, None));
}

#[test]
fn one_open_allow_is_enough_and_they_follow_on_each_other() {
    let first = json!({"kind": "Allow", "schedule": "0 1 * * *", "duration": "2h"});
    let second = json!({"kind": "Allow", "schedule": "0 3 * * 2", "duration": "1h"});
    let windows = [window("first", &first), window("second", &second)];
    assert_eq!(
        ask(&windows, "2026-11-24T01:30:00Z"),
        open(Some("2026-11-24T04:00:00Z"), &["first"])
    );
    assert_eq!(
        ask(&windows, "2026-11-25T03:00:00Z"),
        none_open(&["first", "second"], Some("2026-11-26T01:00:00Z"))
    );
}

#[test]
fn every_selector_must_match() {
    let spec = json!({
        "kind": "Deny",
        "namespaceSelector": {"matchLabels": {"tier": "prod"}},
        "workloads": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]},
        "policies": ["prod"],
        "strategies": ["rolling"],
        "changes": ["Major", "Minor"],
    });
    let windows = [window("w", &spec)];
    let asks = || Asks {
        namespace: labels(&[("tier", "prod")]),
        workload: labels(&[("app", "db")]),
        strategy: StrategyName::Rolling,
        ..Asks::default()
    };
    let shut =
        |asks: Asks| why_shut(&windows, &asks.subject(), at("2026-11-24T02:00:00Z")).is_some();
    assert!(shut(asks()));
    assert!(!shut(Asks { namespace: labels(&[("tier", "test")]), ..asks() }));
    assert!(!shut(Asks { workload: labels(&[]), ..asks() }));
    assert!(!shut(Asks { policy: "staging", ..asks() }));
    assert!(!shut(Asks { strategy: StrategyName::Canary, ..asks() }));
    assert!(!shut(Asks { change: Change::Patch, ..asks() }));
}

#[test]
fn a_change_whose_size_cannot_be_told_counts_as_major() {
    let asked = |changes: Value, change: Change| {
        let windows = [window("w", &json!({"kind": "Deny", "changes": changes}))];
        let asks = Asks { change, ..Asks::default() };
        why_shut(&windows, &asks.subject(), at("2026-11-24T02:00:00Z")).is_some()
    };
    assert!(asked(json!(["Major"]), Change::Unknown));
    assert!(asked(json!(["Unknown"]), Change::Unknown));
    assert!(!asked(json!(["Unknown"]), Change::Major));
    assert!(!asked(json!(["Minor", "Patch"]), Change::Unknown));
}

#[test]
fn what_cannot_be_read_counts_against_the_change() {
    let now = "2026-11-24T02:00:00Z";
    let broken = |kind: &str| {
        let spec = json!({
            "kind": kind, "schedule": "0 25 * * *", "duration": "1h", "policies": ["prod"]
        });
        Window::compile(&object("broken", &spec))
    };
    let State::Shut { why: Why::Freeze { window, reason: Some(reason) }, next: None } =
        ask(&[broken("Deny"), e10()], now)
    else {
        panic!("a freeze that can't be read is active")
    };
    assert_eq!(window, "broken");
    assert!(reason.starts_with("spec.schedule: hour `25` is not valid"), "{reason}");

    assert_eq!(ask(&[broken("Allow")], now), none_open(&["broken"], None));
    // Another window may still open, and who it does not match is not concerned.
    assert_eq!(ask(&[broken("Allow"), e10()], now), open(Some("2026-11-24T05:00:00Z"), &["e10"]));
    let asks = Asks { policy: "staging", ..Asks::default() };
    assert_eq!(why_shut(&[broken("Deny")], &asks.subject(), at(now)), None);
    assert_eq!(broken("Deny").spans(at(now)).count(), 0);
}

#[test]
fn an_error_names_the_field_the_value_and_what_would_be_right() {
    let good = json!({"kind": "Allow", "schedule": "0 1 * * 0", "duration": "1h"});
    let days = json!({"kind": "Allow", "days": ["Monday"], "start": "01:00", "end": "02:00"});
    let from = json!([{"from": "2026-02-30", "until": "2026-03-01"}]);
    let until = json!([{"from": "2026-03-02", "until": "2026-03-01"}]);
    for (base, field, value, parts) in [
        (&good, "schedule", json!("0 1 * *"), ["spec.schedule", "cron has five"]),
        (&good, "timeZone", json!("Europe/Atlantis"), ["spec.timeZone `Europe/Atlantis`", "IANA"]),
        (&good, "duration", json!("5x"), ["spec.duration `5x`", "for instance 1h30m"]),
        (&good, "duration", json!("59s"), ["spec.duration `59s`", "from 1m to 8784h"]),
        (&good, "duration", json!("-1h"), ["spec.duration `-1h`", "from 1m to 8784h"]),
        (&good, "duration", json!("9000h"), ["spec.duration `9000h`", "from 1m to 8784h"]),
        (&good, "duration", Value::Null, ["spec needs", "`duration`"]),
        (&days, "start", json!("24:00"), ["spec.start `24:00`", "00:00 to 23:59"]),
        (&days, "end", json!("6:00"), ["spec.end `6:00`", "00:00 to 23:59"]),
        (&days, "days", json!([]), ["spec needs", "`days`"]),
        (&good, "exclusions", from, ["spec.exclusions[0].from `2026-02-30`", "a date that exists"]),
        (
            &good,
            "exclusions",
            until,
            ["spec.exclusions[0].until", "before spec.exclusions[0].from"],
        ),
        (&json!({"kind": "Allow"}), "reason", json!("x"), ["spec needs a time", "activeFrom"]),
    ] {
        let mut spec = base.clone();
        spec[field] = value.clone();
        let error = Window::parse(&object("w", &spec)).expect_err(field).to_string();
        for part in parts {
            assert!(error.contains(part), "{field} = {value}: {part:?} is not in {error}");
        }
    }
    let mut order = json!({"kind": "Deny", "activeFrom": "2026-11-24T00:00:00Z"});
    order["activeUntil"] = order["activeFrom"].clone();
    let error = Window::parse(&object("w", &order)).expect_err("no time between");
    assert!(error.to_string().contains("spec.activeUntil"), "{error}");
}

#[test]
fn what_is_in_the_way_reads_as_a_sentence() {
    let freeze = |reason: Option<&str>| Why::Freeze {
        window: "q4".into(),
        reason: reason.map(str::to_owned),
    };
    let shut = |windows: &[&str]| Why::NoneOpen {
        windows: windows.iter().map(|s| (*s).to_owned()).collect(),
    };
    assert_eq!(freeze(Some("ask ops")).to_string(), "frozen by MaintenanceWindow q4: ask ops");
    assert_eq!(freeze(None).to_string(), "frozen by MaintenanceWindow q4");
    assert_eq!(shut(&["a"]).to_string(), "outside of MaintenanceWindow a");
    assert_eq!(shut(&["a", "b"]).to_string(), "outside of MaintenanceWindows a, b");
}
