//! Versions as they are found in clusters, put in one order.
//!
//! Not semantic versions, though those are read as what they are: Kubernetes minors have two parts
//! (`1.30`), schemas one (`v2`), some products four, and what a vendor appends after a dash
//! (`1.29.4-gke.1`, `1.29.4-eks-a1b2c3`) is a later build of the release and not a pre-release of
//! it. The crate `semver` reads the first three not at all and the last the wrong way round, so
//! that this is a reader of its own.

mod range;
#[cfg(test)]
mod tests;

pub use range::{Range, RangeError};

use crate::image::Image;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Longest version that is read as numbers, in bytes; the OCI grammar allows a tag 128.
pub const MAX_LEN: usize = 256;
/// Most numbers that a version has.
const MAX_PARTS: usize = 6;
/// Words that announce a release, compared without digits and in lower case. Every other suffix is
/// a vendor's.
const PRE_RELEASE: [&str; 20] = [
    "alpha",
    "beta",
    "canary",
    "cr",
    "dev",
    "devel",
    "ea",
    "edge",
    "experimental",
    "m",
    "milestone",
    "next",
    "nightly",
    "pre",
    "prerelease",
    "preview",
    "rc",
    "snapshot",
    "test",
    "unstable",
];

/// A version: numbers with what follows them, or a name that only equals itself.
///
/// The order is total, so that versions can be sorted; it means something only between numbered
/// ones. `v1.2.3` and `1.2.3` are equal; `1.2` comes right before `1.2.0`, for it could be any
/// patch.
#[derive(Clone, Debug)]
pub struct Version {
    text: String,
    kind: Kind,
}

/// The variants' order is the order of versions: names come last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Numbered(Numbered),
    Opaque(String),
}

/// Numbers, and what a dash, plus, underscore or dot appends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Numbered {
    /// At least one.
    parts: Vec<u64>,
    /// `-rc.1`: before the release. Empty for a release.
    pre: Vec<Token>,
    /// `-gke.1`, `+k3s1`: the release or later.
    vendor: Vec<Token>,
}

/// A run of digits or of letters. Digits come first, as in semantic versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Token {
    Number(u64),
    Word(String),
}

/// How far apart two versions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    /// They are equal.
    None,
    /// The third number or a later one, or a suffix.
    Patch,
    /// The second number.
    Minor,
    /// The first number.
    Major,
    /// One of them is a name (`latest`), and they are not equal.
    Unknown,
}

/// What a move from one version to another is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Most significant number that differs.
    pub size: Size,
    /// The target comes before the source. Never set where the size is unknown.
    pub downgrade: bool,
}

impl Version {
    /// Reads a version. Never fails: what has no numbers at its start is a name, equal to itself
    /// alone.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let kind = match numbered(text) {
            Some(n) => Kind::Numbered(n),
            None => Kind::Opaque(text.to_owned()),
        };
        Self { text: text.to_owned(), kind }
    }

    /// The version that an image's tag says, `latest` where none is written.
    ///
    /// `None` where the reference cannot be read or has a digest and no tag: there is then nothing
    /// that says a version.
    pub fn of_image(reference: &str) -> Option<Self> {
        let image = Image::parse(reference).ok()?;
        image.tag().map(Self::parse)
    }

    /// As it was written, without white space around it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no numbers and can be compared for equality only.
    pub fn is_opaque(&self) -> bool {
        matches!(self.kind, Kind::Opaque(_))
    }

    /// Whether it comes before a release: `1.30.0-rc.1`.
    pub fn is_prerelease(&self) -> bool {
        self.numbers().is_some_and(|n| !n.pre.is_empty())
    }

    /// First number.
    pub fn major(&self) -> Option<u64> {
        self.numbers().map(|n| n.part(0))
    }

    /// Second number; 0 where it has only one.
    pub fn minor(&self) -> Option<u64> {
        self.numbers().map(|n| n.part(1))
    }

    pub(crate) fn numbers(&self) -> Option<&Numbered> {
        match &self.kind {
            Kind::Numbered(n) => Some(n),
            Kind::Opaque(_) => None,
        }
    }
}

/// What a move from one version to another is. Missing numbers count as 0.
pub fn change(from: &Version, to: &Version) -> Change {
    if from == to {
        return Change { size: Size::None, downgrade: false };
    }
    let (Some(a), Some(b)) = (from.numbers(), to.numbers()) else {
        return Change { size: Size::Unknown, downgrade: false };
    };
    let size = if a.part(0) != b.part(0) {
        Size::Major
    } else if a.part(1) != b.part(1) {
        Size::Minor
    } else {
        Size::Patch
    };
    Change { size, downgrade: to < from }
}

impl Numbered {
    pub(crate) fn part(&self, n: usize) -> u64 {
        self.parts.get(n).copied().unwrap_or(0)
    }

    /// It names no patch, so that it could be any.
    pub(crate) fn is_partial(&self) -> bool {
        self.parts.len() < 3 && self.pre.is_empty()
    }

    /// The numbers alone.
    pub(crate) fn plain(&self) -> Self {
        Self { parts: self.parts.clone(), pre: vec![], vendor: vec![] }
    }

    /// Numbers, and what comes before the release; the vendor's build left out.
    fn compare_plain(&self, other: &Self) -> Ordering {
        let most = self.parts.len().max(other.parts.len());
        let numbers = (0..most).map(|n| self.part(n)).cmp((0..most).map(|n| other.part(n)));
        numbers.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        })
    }
}

impl Ord for Numbered {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare_plain(other)
            .then_with(|| self.vendor.cmp(&other.vendor))
            .then_with(|| self.parts.len().cmp(&other.parts.len()))
    }
}

impl PartialOrd for Numbered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Reads numbers with what follows them.
fn numbered(text: &str) -> Option<Numbered> {
    if text.len() > MAX_LEN {
        return None;
    }
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let core = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (mut core, mut suffix) = text.split_at(core);
    // `4.0.0.Final`: the last dot belongs to the suffix.
    if let Some(shorter) = core.strip_suffix('.')
        && !suffix.is_empty()
    {
        (core, suffix) = (shorter, text.get(shorter.len()..)?);
    }
    let parts: Vec<u64> = core.split('.').map(number).collect::<Option<_>>()?;
    if parts.len() > MAX_PARTS || suffix.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let (pre, vendor) = suffixes(suffix)?;
    Some(Numbered { parts, pre, vendor })
}

/// The largest number has a next one, so that the end of a range can be said.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| *n < u64::MAX)
}

/// Tokens of a pre-release and of a vendor. A word that announces a release takes the numbers that
/// follow it along; after a plus everything is a vendor's.
fn suffixes(suffix: &str) -> Option<(Vec<Token>, Vec<Token>)> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
    if suffix == "." || !suffix.chars().all(well_formed) || suffix.ends_with(['-', '+', '_', '.']) {
        return None;
    }
    let (before, build) = suffix.split_once('+').unwrap_or((suffix, ""));
    let (mut pre, mut vendor, mut in_pre) = (vec![], vec![], false);
    for word in before.split(['-', '_', '.']).filter(|w| !w.is_empty()) {
        let tokens = tokens(word);
        in_pre = match tokens.as_slice() {
            [Token::Word(w)] | [Token::Word(w), Token::Number(_)] => announces(w, tokens.len()),
            [Token::Number(_)] => in_pre,
            _ => false,
        };
        if in_pre { &mut pre } else { &mut vendor }.extend(tokens);
    }
    let build = build.split(['-', '_', '.', '+']).filter(|w| !w.is_empty());
    vendor.extend(build.flat_map(tokens));
    Some((pre, vendor))
}

/// A lone `m` is a word like any other; `m3` is a milestone.
fn announces(word: &str, tokens: usize) -> bool {
    PRE_RELEASE.contains(&word) && (word != "m" || tokens == 2)
}

fn tokens(word: &str) -> Vec<Token> {
    let mut tokens = vec![];
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        tokens.push(match run.parse() {
            Ok(n) if digit => Token::Number(n),
            _ => Token::Word(run.to_ascii_lowercase()),
        });
        rest = after;
    }
    tokens
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Version {}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.kind.cmp(&other.kind)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
