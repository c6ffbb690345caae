//! Resource quantities, compared by value: `0.1` is `100m`, `128Mi` is `134217728`.

/// Nano-units: the finest a Kubernetes quantity resolves.
const NANOS: i128 = 1_000_000_000;

/// Reads a quantity as a number of nano-units; `None` if it is not one.
pub fn nanos(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let scale = scale(suffix)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut value = whole.checked_mul(scale)?;
    if !fraction.is_empty() {
        // More than nine places are finer than the API keeps.
        let places = fraction.get(..fraction.len().min(9))?;
        let part: i128 = places.parse().ok()?;
        let unit = 10_i128.checked_pow(u32::try_from(places.len()).ok()?)?;
        value = value.checked_add(part.checked_mul(scale)? / unit)?;
    }
    Some(if negative { -value } else { value })
}

/// What a suffix multiplies by, in nano-units.
fn scale(suffix: &str) -> Option<i128> {
    let factor = match suffix {
        "n" => return Some(1),
        "u" => return Some(1_000),
        "m" => return Some(1_000_000),
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1_i128 << 40,
        "Pi" => 1_i128 << 50,
        "Ei" => 1_i128 << 60,
        other => return exponent(other),
    };
    NANOS.checked_mul(factor)
}

/// `e3` or `E-2`: a power of ten.
fn exponent(suffix: &str) -> Option<i128> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = u32::try_from(power.checked_add(9)?).ok()?;
    10_i128.checked_pow(power)
}

#[cfg(test)]
mod tests {
    use super::nanos;

    #[test]
    fn quantities_are_compared_by_value() {
        for (a, b) in [
            ("0.1", "100m"),
            ("1", "1000m"),
            ("128Mi", "134217728"),
            ("1Gi", "1024Mi"),
            ("1e3", "1k"),
            ("1.5Gi", "1536Mi"),
            ("+1", "1.0"),
            (".5", "500m"),
            ("1E", "1000P"),
        ] {
            assert_eq!(nanos(a), nanos(b), "{a} {b}");
            assert!(nanos(a).is_some(), "{a}");
        }
        assert_ne!(nanos("128M"), nanos("128Mi"));
        for text in ["", "Mi", "1x", "one", "1..2", "--1", "1Mi1"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}
