//! The proof that schedules occur when `croner` says: random expressions, zones and instants, most
//! of them within two days of a change of the clock.
//!
//! Left out, because Kubernetes reads it otherwise than croner (see `super::tests`): `*/1` as a
//! day, which is `*` to Kubernetes, and `a/n` as a day of week, which ends on Saturday there.

use super::{Schedule, zone};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::CronParser;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Change it to look elsewhere; a failure prints the seed of its triple.
const SEED: u64 = 0x6b75_6265_6374_6c00;
const TRIPLES: u64 = 100_000;
const ZONES: [&str; 15] = [
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/Nuuk",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "Atlantic/Azores",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Pacific/Apia",
    "UTC",
];

/// SplitMix64: small, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Both ends included.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = u64::try_from(high - low).expect("low is not above high") + 1;
        low + i64::try_from(self.roll() % width).expect("less than the width")
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.roll() % all.len() as u64).expect("an index")]
    }
}

fn value(dice: &mut Dice, low: i64, high: i64, names: &[&str]) -> String {
    let n = dice.between(low, high);
    let name = usize::try_from(n - low).ok().and_then(|i| names.get(i));
    name.filter(|_| n % 2 == 0).map_or_else(|| n.to_string(), |name| (*name).to_owned())
}

fn item(dice: &mut Dice, low: i64, high: i64, day: bool) -> String {
    let (a, b) = (dice.between(low, high), dice.between(low, high));
    let (a, b) = (a.min(b), a.max(b));
    let step = dice.between(if day { 2 } else { 1 }, high.min(7));
    match dice.between(0, 5) {
        0 => format!("{a}-{b}"),
        1 => format!("{a}-{b}/{step}"),
        2 => format!("*/{step}"),
        3 if high > 7 => format!("{a}/{step}"),
        _ => a.to_string(),
    }
}

fn field(dice: &mut Dice, stars: i64, low: i64, high: i64, names: &[&str]) -> String {
    let day = high == 31 || high == 7;
    match dice.between(0, 9) {
        n if n < stars => if day && n == 0 { "?" } else { "*" }.to_owned(),
        n if n < 8 => value(dice, low, high, names),
        8 => item(dice, low, high, day),
        _ => format!("{},{}", item(dice, low, high, day), item(dice, low, high, day)),
    }
}

fn expression(dice: &mut Dice) -> String {
    const MONTHS: [&str; 12] =
        ["JAN", "feb", "Mar", "APR", "may", "JUN", "jul", "AUG", "sep", "OCT", "nov", "DEC"];
    const DAYS: [&str; 7] = ["SUN", "mon", "Tue", "WED", "thu", "FRI", "sat"];
    let minute = field(dice, 2, 0, 59, &[]);
    // Clocks change at night.
    let latest = if dice.between(0, 2) == 0 { 23 } else { 3 };
    let hour = match field(dice, 2, 0, 23, &[]) {
        only if only.parse::<i64>().is_ok_and(|hour| hour > latest) => {
            dice.between(0, latest).to_string()
        }
        other => other,
    };
    let day = field(dice, 6, 1, 31, &[]);
    let month = field(dice, 7, 1, 12, &MONTHS);
    let weekday = field(dice, 6, 0, 7, &DAYS);
    format!("{minute} {hour} {day} {month} {weekday}")
}

/// Changes of the clock from 1975 to 2045.
fn changes(zone: &TimeZone) -> Vec<Timestamp> {
    let (from, until) =
        (Timestamp::from_second(157_766_400), Timestamp::from_second(2_366_841_600));
    let (from, until) = (from.expect("1975"), until.expect("2045"));
    zone.following(from).map(|t| t.timestamp()).take_while(|t| *t < until).collect()
}

fn instant(dice: &mut Dice, changes: &[Timestamp]) -> Timestamp {
    let seconds = if changes.is_empty() || dice.between(0, 4) == 0 {
        dice.between(157_766_400, 2_366_841_600)
    } else {
        let around = *dice.of(&[0, 1, 1800, 7200, 7200, 172_800, 172_800]);
        dice.of(changes).as_second() + dice.between(-around, around)
    };
    let whole = if dice.between(0, 2) == 0 { seconds } else { seconds - seconds.rem_euclid(60) };
    Timestamp::from_second(whole).expect("of this age")
}

/// croner gives up where a gap is longer than two hours: Apia's day that never was.
fn agrees(croner: &Result<jiff::Zoned, CronError>, ours: Option<Timestamp>) -> Option<bool> {
    match croner {
        Ok(at) => Some(ours == Some(at.timestamp())),
        Err(CronError::TimeSearchLimitExceeded) => None,
        Err(_) => Some(false),
    }
}

#[derive(Default)]
struct Count {
    compared: u64,
    near: u64,
    given_up: u64,
    never: u64,
}

fn compare(seed: u64, zones: &[(&str, TimeZone, Vec<Timestamp>)], count: &mut Count) {
    let dice = &mut Dice(seed);
    let (name, zone, changes) = dice.of(zones);
    let text = expression(dice);
    let at = instant(dice, changes);
    let Ok(ours) = Schedule::parse(&text, zone.clone()) else {
        // Its own test is `what_never_happens_is_refused`; croner looks until the year 5000.
        count.never += 1;
        return;
    };
    let croner: Cron = CronParser::builder()
        .sloppy_ranges(true)
        .build()
        .parse(&text.to_uppercase())
        .unwrap_or_else(|e| panic!("croner refuses `{text}`: {e}"));
    let local = at.to_zoned(zone.clone());
    let case = format!("seed {seed:#x}: `{text}` in {name} at {at} ({local})");
    let (next, previous) = (ours.next_after(at), ours.previous_at_or_before(at));
    for (what, theirs, ours) in [
        ("next", croner.find_next_occurrence(&local, false), next),
        ("previous", croner.find_previous_occurrence(&local, true), previous),
    ] {
        if let Some(agreed) = agrees(&theirs, ours) {
            assert!(agreed, "{case}: {what}: croner {theirs:?}, ours {ours:?}");
            count.compared += 1;
        } else {
            assert_eq!(*name, "Pacific/Apia", "{case}: {what}: {theirs:?}");
            count.given_up += 1;
        }
    }
    let two_days = SignedDuration::from_hours(48);
    let near = |change: &Timestamp| at.duration_since(*change).abs() <= two_days;
    count.near += u64::from(changes.iter().any(near));
}

#[test]
fn schedules_occur_when_croner_says() {
    let zones = ZONES.map(|name| {
        let zone = zone(name).expect("a known zone");
        let changes = changes(&zone);
        (name, zone, changes)
    });
    let half = |first: u64| {
        let mut count = Count::default();
        let mut dice = Dice(SEED + first);
        // Two answers a triple, half of the triples; what has no answer is drawn again.
        while count.compared < TRIPLES {
            compare(dice.roll(), &zones, &mut count);
        }
        count
    };
    let counts = std::thread::scope(|threads| {
        let other = threads.spawn(|| half(1));
        [half(0), other.join().expect("no difference in the other half")]
    });
    let sum = |of: fn(&Count) -> u64| counts.iter().map(of).sum::<u64>();
    println!(
        "seed {SEED:#x}: {} answers compared for {TRIPLES} triples, {} of them near a change of \
         the clock; croner gave up {} times, {} expressions never occur",
        sum(|c| c.compared),
        sum(|c| c.near),
        sum(|c| c.given_up),
        sum(|c| c.never),
    );
    assert!(sum(|c| c.near) > TRIPLES / 2, "most are near a change of the clock");
    assert!(sum(|c| c.given_up) < TRIPLES / 500, "croner gave up too often to prove anything");
}
