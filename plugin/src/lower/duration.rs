//! Durations as Kubernetes writes them: `30s`, `5m`, `1h30m`.

use crate::output::Refusal;
use std::time::Duration;

/// A length of time, as written and as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// As it was written.
    pub text: String,
    /// As a limit; `None` for 0, which is no limit.
    pub limit: Option<Duration>,
}

/// Reads a duration; a bare number is seconds, as it is for kubectl.
pub fn duration(text: &str, flag: &str) -> Result<Span, Refusal> {
    let Some(read) = parse(text) else {
        return Err(Refusal::usage(format!(
            "{flag}: `{text}` is not a duration: numbers with a unit (ms, s, m, h), for instance \
             30s, 5m or 1h30m"
        )));
    };
    Ok(Span { text: text.to_owned(), limit: (!read.is_zero()).then_some(read) })
}

/// Reads a duration; `None` if it is none.
pub fn parse(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().ok()?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = tail;
    }
    Some(total)
}
