//! What holds for any windows at any instant.

use super::testing::{Asks, window};
use super::{State, Window, state, why_shut};
use crate::api::WindowKind;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

const ZONES: [&str; 5] =
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo"];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

fn time() -> impl Strategy<Value = String> {
    (0..24, prop::sample::select(vec![0, 15, 30, 59])).prop_map(|(h, m)| format!("{h:02}:{m:02}"))
}

fn rhythm() -> impl Strategy<Value = Value> {
    let crons = [
        "0 1 * * 0",
        "30 2 * * *",
        "*/20 * * * *",
        "0 */3 * * *",
        "0 0 1,15 * *",
        "45 23 * * 1-5",
        "15 2 29 2 *",
        "0 22 * 3,10 *",
    ];
    let cron = (prop::sample::select(crons.to_vec()), 1_u32..2000)
        .prop_map(|(cron, minutes)| json!({"schedule": cron, "duration": format!("{minutes}m")}));
    let days = (prop::sample::subsequence(DAYS.to_vec(), 1..=7), time(), time())
        .prop_map(|(days, start, end)| json!({"days": days, "start": start, "end": end}));
    prop_oneof![cron, days]
}

/// A day of 2026 or of the months around it.
fn day() -> impl Strategy<Value = Timestamp> {
    (1_764_547_200_i64..1_804_000_000)
        .prop_map(|seconds| Timestamp::from_second(seconds).expect("an instant"))
}

prop_compose! {
    fn any_window()(
        name in "[a-z]{3}",
        deny in prop::bool::weighted(0.4),
        mut spec in rhythm(),
        zone in prop::sample::select(ZONES.to_vec()),
        valid in prop::option::weighted(0.3, (day(), 1_i64..8_000)),
        excluded in prop::option::weighted(0.4, (day(), 0_i64..20)),
        elsewhere in prop::bool::weighted(0.2),
    ) -> Window {
        spec["kind"] = json!(if deny { "Deny" } else { "Allow" });
        spec["timeZone"] = json!(zone);
        if let Some((from, hours)) = valid {
            spec["activeFrom"] = json!(from);
            spec["activeUntil"] = json!(from + SignedDuration::from_hours(hours));
        }
        if let Some((from, days)) = excluded {
            let until = from + SignedDuration::from_hours(24 * days);
            let date = |at: Timestamp| at.strftime("%F").to_string();
            spec["exclusions"] = json!([{"from": date(from), "until": date(until)}]);
        }
        if elsewhere {
            spec["policies"] = json!(["elsewhere"]);
        }
        window(&name, &spec)
    }
}

/// Open by the words of the rule, window by window.
fn may_go(windows: &[Window], asks: &Asks, at: Timestamp) -> bool {
    let of = |kind| -> Vec<&Window> {
        windows.iter().filter(|w| w.kind() == kind && w.matches(&asks.subject())).collect()
    };
    let allows = of(WindowKind::Allow);
    !of(WindowKind::Deny).iter().any(|w| w.is_active(at))
        && (allows.is_empty() || allows.iter().any(|w| w.is_active(at)))
}

/// Instants between two, the edges and what lies right beside them among them.
fn samples(from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let step = until.duration_since(from) / 200;
    let mut all: Vec<_> = (0..200).map(|n| from + step * n).collect();
    all.push(until - SignedDuration::from_secs(1));
    all.retain(|at| (from..until).contains(at));
    all
}

/// The minutes of two days from an instant on: what changes, changes at one of them.
fn minutes(from: Timestamp, until: Timestamp) -> impl Iterator<Item = Timestamp> {
    let whole = from.as_second() - from.as_second().rem_euclid(60);
    (1..2880)
        .map(move |n| Timestamp::from_second(whole + n * 60).expect("an instant"))
        .take_while(move |at| *at < until)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_never_open_while_a_matching_freeze_is_active(
        windows in prop::collection::vec(any_window(), 0..5),
        now in day(),
    ) {
        let asks = Asks::default();
        let open = matches!(state(&windows, &asks.subject(), now), State::Open { .. });
        prop_assert_eq!(open, may_go(&windows, &asks, now));
        prop_assert_eq!(open, why_shut(&windows, &asks.subject(), now).is_none());
    }

    #[test]
    fn what_is_said_of_the_next_change_is_so_and_nothing_changes_before(
        windows in prop::collection::vec(any_window(), 1..5),
        now in day(),
    ) {
        let asks = Asks::default();
        let (open, change) = match state(&windows, &asks.subject(), now) {
            State::Open { until, .. } => (true, until),
            State::Shut { next, .. } => (false, next),
        };
        if let Some(change) = change {
            prop_assert!(change > now);
            prop_assert_eq!(may_go(&windows, &asks, change), !open, "at {}", change);
        }
        let end = change.unwrap_or(now + super::HORIZON);
        for at in samples(now, end).into_iter().chain(minutes(now, end)) {
            prop_assert_eq!(may_go(&windows, &asks, at), open, "at {}, before {:?}", at, change);
        }
    }

    #[test]
    fn spans_are_exactly_when_a_window_is_active(window in any_window(), now in day()) {
        let mut after = now;
        for (n, span) in window.spans(now).take(5).enumerate() {
            let end = span.end.unwrap_or(span.start + super::HORIZON);
            prop_assert!(span.start < end);
            prop_assert!(n == 0 || span.start > after);
            for at in samples(span.start, end) {
                prop_assert!(window.is_active(at), "{} in {:?}", at, span);
            }
            for at in samples(after, span.start).into_iter().chain(minutes(after, span.start)) {
                prop_assert!(!window.is_active(at), "{} before {:?}", at, span);
            }
            after = end;
        }
    }
}
