//! Sets of versions: `>=1.29 <2`, `1.30 - 1.34`, `v1.0.x`, `~1.2`, `^1.2`, `4.0.0 || 4.0.1`.

use super::{Numbered, Version};
use std::cmp::Ordering;
use std::fmt;

/// Longest range that is read, in bytes.
pub const MAX_LEN: usize = 512;

/// A set of versions.
///
/// - A version with fewer than three numbers stands for all its patches, on either side: the range
///   `1.34` is all of 1.34, `<=1.34` ends with its last patch, and the version `1.34` (a floating
///   tag) is in a range only where all of 1.34 is.
/// - A vendor's suffix does not matter (`1.29.4-gke.1` is in `<=1.29.4`) unless the range names
///   one: then builds of that vendor are compared, and no other vendor's is in the range.
/// - A pre-release is in a range only where the range names a pre-release of the same numbers:
///   whoever writes `>=1.29` has not tested `1.31.0-rc.1`.
/// - A name (`latest`, `v1beta1`) is in a range that names it, and in `*`.
#[derive(Clone, Debug)]
pub struct Range {
    text: String,
    any: Vec<Part>,
}

/// One alternative.
#[derive(Clone, Debug)]
enum Part {
    Everything,
    Name(Version),
    /// All of them.
    Bounds(Vec<Bound>),
}

#[derive(Clone, Debug)]
struct Bound {
    op: Op,
    at: Numbered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Above,
    From,
    Below,
    UpTo,
}

/// Why a text is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a range of versions: {why}")]
pub struct RangeError {
    /// The whole text.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

type Parsed<T> = Result<T, String>;

impl Range {
    /// Reads a range.
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let text = text.trim();
        alternatives(text)
            .map(|any| Self { text: text.to_owned(), any })
            .map_err(|why| RangeError { text: text.chars().take(MAX_LEN).collect(), why })
    }

    /// Whether a version is in it.
    pub fn contains(&self, version: &Version) -> bool {
        self.any.iter().any(|part| match part {
            Part::Everything => true,
            Part::Name(name) => name == version,
            Part::Bounds(bounds) => version.numbers().is_some_and(|v| within(bounds, v)),
        })
    }

    /// As it was written, without white space around it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn within(bounds: &[Bound], version: &Numbered) -> bool {
    let said = |bound: &Bound| {
        !bound.at.pre.is_empty() && bound.at.plain().cmp_numbers(version) == Ordering::Equal
    };
    (version.pre.is_empty() || bounds.iter().any(said)) && bounds.iter().all(|b| b.admits(version))
}

impl Bound {
    fn admits(&self, version: &Numbered) -> bool {
        let upper = matches!(self.op, Op::Below | Op::UpTo);
        if upper && version.is_partial() && self.at.vendor.is_empty() {
            // The first version that it cannot be.
            return next(version, version.parts.len())
                .is_some_and(|end| end.cmp_numbers(&self.at) != Ordering::Greater);
        }
        let Some(order) = self.compare(version) else {
            return false;
        };
        match self.op {
            Op::Above => order == Ordering::Greater,
            Op::From => order != Ordering::Less,
            Op::Below => order == Ordering::Less,
            Op::UpTo => order != Ordering::Greater,
        }
    }

    /// How a version compares to the bound; `None` where both are builds of one release by two
    /// vendors.
    fn compare(&self, version: &Numbered) -> Option<Ordering> {
        let plain = version.compare_plain(&self.at);
        if plain != Ordering::Equal || self.at.vendor.is_empty() {
            return Some(plain);
        }
        let foreign = |a: &Numbered| a.vendor.first() != self.at.vendor.first();
        if !version.vendor.is_empty() && foreign(version) {
            return None;
        }
        Some(version.vendor.cmp(&self.at.vendor))
    }
}

impl Numbered {
    fn cmp_numbers(&self, other: &Self) -> Ordering {
        let most = self.parts.len().max(other.parts.len());
        (0..most).map(|n| self.part(n)).cmp((0..most).map(|n| other.part(n)))
    }
}

/// The first version after all that share this many numbers.
fn next(version: &Numbered, keep: usize) -> Option<Numbered> {
    let mut parts: Vec<u64> = (0..keep).map(|n| version.part(n)).collect();
    let last = parts.last_mut()?;
    *last = last.checked_add(1)?;
    Some(Numbered { parts, pre: vec![], vendor: vec![] })
}

fn alternatives(text: &str) -> Parsed<Vec<Part>> {
    if text.is_empty() {
        return Err("it is empty; write `*` for any version".into());
    }
    if text.len() > MAX_LEN {
        return Err(format!("it is longer than {MAX_LEN} bytes; write several rows"));
    }
    let mut parts = vec![];
    for alternative in text.split("||").map(str::trim) {
        if alternative.is_empty() {
            return Err("a side of `||` is empty".into());
        }
        parts.extend(alternative_parts(alternative)?);
    }
    Ok(parts)
}

/// A comma between comparators means "and" (`>=1.2, <2`), between versions "or" (`4.0.0, 4.0.1`).
fn alternative_parts(text: &str) -> Parsed<Vec<Part>> {
    if let Some((from, to)) = text.split_once(" - ") {
        return Ok(vec![hyphen(from.trim(), to.trim())?]);
    }
    let comparator = |word: &str| word.starts_with(['<', '>']);
    let spaced = space_after_operators(text);
    let words: Vec<Vec<&str>> =
        spaced.split(',').map(|item| item.split_whitespace().collect()).collect();
    if words.iter().any(Vec::is_empty) {
        return Err("a side of a comma is empty".into());
    }
    let flat: Vec<&str> = words.iter().flatten().copied().collect();
    if flat.iter().all(|w| comparator(w)) {
        return Ok(vec![bounds(&flat)?]);
    }
    if flat.iter().any(|w| comparator(w)) {
        return Err("comparators and versions are mixed; part them with `||`".into());
    }
    if words.iter().any(|item| item.len() > 1) {
        let set = flat.join(" || ");
        return Err(format!("versions stand side by side; for any one of them write `{set}`"));
    }
    flat.into_iter().map(single).collect()
}

/// `>= 1.2` is `>=1.2`.
fn space_after_operators(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(' ') {
        let operator = word.trim_end();
        let dangling = !operator.is_empty() && operator.chars().all(|c| "<>=~^".contains(c));
        out.push_str(if dangling { operator } else { word });
    }
    out
}

fn hyphen(from: &str, to: &str) -> Parsed<Part> {
    let (low, _) = partial(from)?;
    let (high, given) = partial(to)?;
    let Some(low) = low else {
        return Err(format!("`{from}` has no numbers to start at; write `<={to}`"));
    };
    let Some(high) = high else {
        return Err(format!("`{to}` has no numbers to end at; write `>={from}`"));
    };
    let start = Bound { op: Op::From, at: low };
    checked(vec![start, upper(Op::UpTo, high, given)?])
}

/// The end of a range as given: inclusive of all patches where it names none.
fn upper(op: Op, at: Numbered, given: usize) -> Parsed<Bound> {
    if op == Op::UpTo && given < 3 && at.pre.is_empty() {
        let at = next(&at, given).ok_or("a number is too large")?;
        return Ok(Bound { op: Op::Below, at });
    }
    Ok(Bound { op, at })
}

fn bounds(words: &[&str]) -> Parsed<Part> {
    let mut all = vec![];
    for word in words {
        let (op, rest) = [(">=", Op::From), ("<=", Op::UpTo), (">", Op::Above), ("<", Op::Below)]
            .into_iter()
            .find_map(|(sign, op)| word.strip_prefix(sign).map(|rest| (op, rest)))
            .ok_or_else(|| format!("`{word}` starts with no comparator"))?;
        if rest.contains(['<', '>', '=']) {
            return Err(format!("`{word}`: leave a space between comparators"));
        }
        let (at, given) = partial(rest)?;
        let at = at.ok_or_else(|| format!("`{word}` compares with no number; write `*`"))?;
        all.push(if op == Op::Above && given < 3 && at.pre.is_empty() {
            Bound { op: Op::From, at: next(&at, given).ok_or("a number is too large")? }
        } else {
            upper(op, at, given)?
        });
    }
    checked(all)
}

/// Refuses a range in which nothing is.
fn checked(bounds: Vec<Bound>) -> Parsed<Part> {
    let lower = |b: &&Bound| matches!(b.op, Op::Above | Op::From);
    for low in bounds.iter().filter(lower) {
        for high in bounds.iter().filter(|b| !lower(b)) {
            let order = low.at.compare_plain(&high.at);
            let open = low.op == Op::Above || high.op == Op::Below;
            if order == Ordering::Greater || order == Ordering::Equal && open {
                return Err("nothing is in it: it ends before it starts".into());
            }
        }
    }
    Ok(Part::Bounds(bounds))
}

/// One version, `1.29.x`, `~1.2`, `^1.2`, `*` or a name.
fn single(word: &str) -> Parsed<Part> {
    if let Some(rest) = word.strip_prefix(['~', '^']) {
        let (at, given) = partial(rest)?;
        let at = at.ok_or_else(|| format!("`{word}` has no number"))?;
        let keep = if word.starts_with('~') { given.min(2) } else { caret(&at, given) };
        let end = next(&at, keep).ok_or("a number is too large")?;
        return checked(vec![Bound { op: Op::From, at }, Bound { op: Op::Below, at: end }]);
    }
    let word = word.trim_start_matches('=');
    if word.starts_with(|c: char| c.is_ascii_alphabetic()) && !wildcard(word) {
        let version = Version::parse(word);
        if version.is_opaque() && !word.contains(|c: char| !is_name(c)) {
            return Ok(Part::Name(version));
        }
    }
    let (at, given) = partial(word)?;
    let Some(at) = at else {
        return Ok(Part::Everything);
    };
    let end = upper(Op::UpTo, at.clone(), given)?;
    Ok(Part::Bounds(vec![Bound { op: Op::From, at }, end]))
}

/// How many numbers stay: all up to the first that is not 0.
fn caret(at: &Numbered, given: usize) -> usize {
    (0..given).find(|n| at.part(*n) != 0).map_or(given, |n| n + 1)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._".contains(c)
}

fn wildcard(word: &str) -> bool {
    matches!(word, "x" | "X" | "*")
}

/// The numbers of a bound, and how many were given; none for `*`.
fn partial(word: &str) -> Parsed<(Option<Numbered>, usize)> {
    let digits = word.strip_prefix(['v', 'V']).unwrap_or(word);
    let fixed: Vec<&str> = digits.split('.').take_while(|part| !wildcard(part)).collect();
    let rest = digits.split('.').skip(fixed.len());
    if rest.clone().next().is_some() {
        if !rest.clone().all(wildcard) {
            return Err(format!("`{word}` has a number after a wildcard; write it as `1.2.x`"));
        }
        if fixed.is_empty() {
            return Ok((None, 0));
        }
    }
    let version = Version::parse(&fixed.join("."));
    let Some(numbers) = version.numbers() else {
        let hint = if let Some(floor) = word.strip_suffix('+') {
            format!("write `>={floor}`")
        } else {
            "write it as `1.29.4`, `1.29`, `1.29.x`, `>=1.29 <2`, `1.30 - 1.34`, `~1.2`, `^1.2` or \
             `*`"
            .to_owned()
        };
        return Err(format!("`{word}` is no version; {hint}"));
    };
    if fixed.len() < digits.split('.').count()
        && !(numbers.pre.is_empty() && numbers.vendor.is_empty())
    {
        return Err(format!("`{word}` has a wildcard after a suffix"));
    }
    Ok((Some(numbers.clone()), numbers.parts.len()))
}
