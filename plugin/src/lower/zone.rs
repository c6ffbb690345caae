//! Time zones by name, and times as people type them.

use crate::output::Refusal;
use crate::output::hint::nearest;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, db};

/// The zone that a flag names, or this machine's.
pub fn zone(name: Option<&str>) -> Result<TimeZone, Refusal> {
    let Some(name) = name else {
        return Ok(TimeZone::system());
    };
    TimeZone::get(name).map_err(|_| {
        let refusal = Refusal::usage(format!("--timezone: there is no time zone `{name}`"));
        let all: Vec<String> = db().available().map(|n| n.to_string()).collect();
        match nearest(name, all.iter().map(String::as_str)) {
            Some(near) => refusal.hint(format!("did you mean {near}?")),
            None => {
                refusal.hint("zones have the names of the IANA, for instance Europe/Rome or UTC")
            }
        }
    })
}

/// A time as people type it: with an offset or `Z`, or by the clock of a zone. A time that comes
/// twice on that day is its first coming, one that is skipped the instant after the gap.
pub fn instant(text: &str, zone: &TimeZone, flag: &str) -> Result<Timestamp, Refusal> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let clock = text.parse::<DateTime>().ok();
    let at = clock.and_then(|clock| zone.to_ambiguous_timestamp(clock).compatible().ok());
    at.ok_or_else(|| {
        Refusal::usage(format!("{flag}: `{text}` is not a time"))
            .hint("for instance 2026-12-24T03:00, by the clock of --timezone, or 2026-12-24T02:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::{instant, zone};

    #[test]
    fn a_time_is_by_the_clock_of_the_zone_or_says_its_offset() {
        let rome = zone(Some("Europe/Rome")).expect("a zone");
        for (text, utc) in [
            ("2026-12-24T03:00", "2026-12-24T02:00:00Z"),
            ("2026-12-24 03:00:30", "2026-12-24T02:00:30Z"),
            ("2026-12-24T03:00Z", "2026-12-24T03:00:00Z"),
            ("2026-12-24T03:00+09:00", "2026-12-23T18:00:00Z"),
            ("2026-12-24", "2026-12-23T23:00:00Z"),
            ("2026-03-29T02:30", "2026-03-29T01:30:00Z"),
            ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),
        ] {
            let at = instant(text, &rome, "--at").expect(text);
            assert_eq!(at.to_string(), utc, "{text}");
        }
        assert!(instant("tomorrow", &rome, "--at").is_err());
    }

    #[test]
    fn a_zone_is_found_by_name_and_a_near_miss_is_named() {
        assert!(zone(Some("Europe/Rome")).is_ok() && zone(None).is_ok());
        let refusal = zone(Some("Europe/Rom")).expect_err("no zone");
        assert_eq!(refusal.hints, ["did you mean Europe/Rome?"]);
        assert!(zone(Some("somewhere")).is_err());
    }
}
