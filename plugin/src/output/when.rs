//! Times for people: in a zone of theirs, and how far away they are.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `Thu 2026-12-24 03:00 CET`, with seconds where they are not 0.
pub fn local(at: Timestamp, zone: &TimeZone) -> String {
    let zoned = at.to_zoned(zone.clone());
    let format =
        if zoned.second() == 0 { "%a %Y-%m-%d %H:%M %Z" } else { "%a %Y-%m-%d %H:%M:%S %Z" };
    zoned.strftime(format).to_string()
}

/// `in 2d 3h`, `4m ago`, `now`: the two greatest units that say something.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_until(at).as_secs();
    let span = span(seconds.unsigned_abs());
    match seconds {
        0 => "now".to_owned(),
        s if s > 0 => format!("in {span}"),
        _ => format!("{span} ago"),
    }
}

/// Both, in one.
pub fn shown(at: Timestamp, zone: &TimeZone, now: Timestamp) -> String {
    format!("{} ({})", local(at, zone), relative(at, now))
}

fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in UNITS.iter().skip(first).take(2) {
        if rest / size > 0 {
            parts.push(format!("{}{unit}", rest / size));
        }
        rest %= size;
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_zone_and_their_distance_has_two_units() {
        let rome = TimeZone::get("Europe/Rome").expect("a zone");
        let now: Timestamp = "2026-12-22T00:00:00Z".parse().expect("a time");
        let at: Timestamp = "2026-12-24T02:00:00Z".parse().expect("a time");
        assert_eq!(shown(at, &rome, now), "Thu 2026-12-24 03:00 CET (in 2d 2h)");
        for (seconds, text) in [
            (0, "now"),
            (59, "in 59s"),
            (60, "in 1m"),
            (3_661, "in 1h 1m"),
            (90_000, "in 1d 1h"),
            (86_460, "in 1d"),
            (-7_200, "2h ago"),
        ] {
            let at = now + jiff::SignedDuration::from_secs(seconds);
            assert_eq!(relative(at, now), text);
        }
    }
}
