//! What the judgement comes to.

use crate::api::Verdict;
use serde::Serialize;
use std::fmt;

/// One thing that a matrix says about versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How well it is.
    pub verdict: Verdict,
    /// Components that it is about, with the versions judged.
    pub parts: Vec<Part>,
    /// Why, in one sentence, with what would be right.
    pub why: String,
    /// The rule of the matrix that says so.
    pub rule: Rule,
    /// The rule's note.
    pub note: Option<String>,
    /// Where the rule is published.
    pub source: Option<String>,
    /// When the source was read: a date.
    pub retrieved: Option<String>,
    /// When the subject's version gets no more fixes.
    pub end_of_life: Option<String>,
    /// Index of the plan's stage in which it happens; `None` for what runs before the first, and
    /// where no plan was judged.
    pub stage: Option<usize>,
}

/// A component, and the version of it that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Name of the component.
    pub component: String,
    /// Its version, as it was read; empty where it is not known.
    pub version: String,
    /// What the version was read from.
    pub objects: Vec<String>,
}

/// Which part of a matrix speaks; indices count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `spec.rows[n]`
    Row(usize),
    /// `spec.default`
    Default,
    /// `spec.unlisted`
    Unlisted,
    /// `spec.paths[n]`
    Path(usize),
    /// `spec.skew[n]`
    Skew(usize),
    /// `spec.order[n]`
    Order(usize),
    /// `spec.migrations[n]`
    Migration(usize),
    /// `spec.components[n]`: its version is not known.
    Component(usize),
    /// More versions run at once than can be judged together.
    TooMany,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(n) => write!(f, "spec.rows[{n}]"),
            Self::Default => f.write_str("spec.default"),
            Self::Unlisted => f.write_str("spec.unlisted"),
            Self::Path(n) => write!(f, "spec.paths[{n}]"),
            Self::Skew(n) => write!(f, "spec.skew[{n}]"),
            Self::Order(n) => write!(f, "spec.order[{n}]"),
            Self::Migration(n) => write!(f, "spec.migrations[{n}]"),
            Self::Component(n) => write!(f, "spec.components[{n}]"),
            Self::TooMany => f.write_str("spec.components"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.version.is_empty() {
            return f.write_str(&self.component);
        }
        write!(f, "{} {}", self.component, self.version)
    }
}

impl Finding {
    pub(super) fn new(verdict: Verdict, rule: Rule, parts: Vec<Part>, why: String) -> Self {
        Self {
            verdict,
            parts,
            why,
            rule,
            note: None,
            source: None,
            retrieved: None,
            end_of_life: None,
            stage: None,
        }
    }

    pub(super) fn noted(mut self, note: Option<&String>, source: Option<&String>) -> Self {
        self.note = note.cloned();
        self.source = source.cloned();
        self
    }

    /// Whether both say the same about the same versions, whatever runs them and whenever.
    pub(super) fn same(&self, other: &Self) -> bool {
        let versions = |f: &Self| -> Vec<(String, String)> {
            f.parts.iter().map(|p| (p.component.clone(), p.version.clone())).collect()
        };
        (self.rule, self.verdict) == (other.rule, other.verdict)
            && versions(self) == versions(other)
    }
}

/// Findings in the order in which they were made, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        if !self.has(&finding) {
            self.0.push(finding);
        }
    }

    pub(super) fn extend(&mut self, all: impl IntoIterator<Item = Finding>) {
        for finding in all {
            self.push(finding);
        }
    }

    pub(super) fn has(&self, finding: &Finding) -> bool {
        self.0.iter().any(|f| f.same(finding))
    }

    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0
    }
}

/// The worst verdict; `None` where the matrix has nothing to say.
pub fn worst(findings: &[Finding]) -> Option<Verdict> {
    findings.iter().map(|f| f.verdict).max()
}

/// Whether a verdict passes. What passes is listed one by one: whoever lets Unknown pass has not
/// let Untested pass.
pub fn passes(verdict: Verdict, allowed: &[Verdict]) -> bool {
    allowed.contains(&verdict)
}

/// The findings that do not pass, the worst first.
pub fn refused<'a>(findings: &'a [Finding], allowed: &[Verdict]) -> Vec<&'a Finding> {
    let mut all: Vec<&Finding> = findings.iter().filter(|f| !passes(f.verdict, allowed)).collect();
    all.sort_by_key(|f| std::cmp::Reverse(f.verdict));
    all
}
