//! How far apart two components may be, at any time.

use super::Matrix;
use super::facts::{Facts, Known, Reading};
use super::finding::{Finding, Findings, Rule};
use super::rows::{missing, part};
use crate::api::Verdict;
use crate::api::matrix::Skew;
use crate::version::Version;

pub(super) fn judge(matrix: &Matrix, facts: &Facts, all: &mut Findings) {
    for (n, skew) in matrix.skew.iter().enumerate() {
        let follows = matrix.known(facts, &skew.component);
        let leads = matrix.known(facts, &skew.not_ahead_of);
        missing(matrix, &skew.component, &follows, all);
        missing(matrix, &skew.not_ahead_of, &leads, all);
        let (Known::Runs(follows), Known::Runs(leads)) = (follows, leads) else {
            continue;
        };
        for (i, behind) in follows.iter().enumerate() {
            for (j, ahead) in leads.iter().enumerate() {
                let parts = || {
                    vec![
                        part(&skew.component, versions(&follows, i)),
                        part(&skew.not_ahead_of, versions(&leads, j)),
                    ]
                };
                if let Some((verdict, why)) = apart(skew, &behind.version, &ahead.version) {
                    let finding = Finding::new(verdict, Rule::Skew(n), parts(), why);
                    all.push(finding.noted(skew.note.as_ref(), skew.source.as_ref()));
                }
            }
        }
    }
}

/// Readings of the same version as this one.
fn versions(readings: &[Reading], n: usize) -> Vec<&Reading> {
    let this = readings.get(n);
    readings.iter().filter(|r| this.is_some_and(|t| t.version == r.version)).collect()
}

/// What is wrong with two versions.
fn apart(skew: &Skew, behind: &Version, ahead: &Version) -> Option<(Verdict, String)> {
    let (a, b) = (&skew.component, &skew.not_ahead_of);
    let (Some(x), Some(y)) = (behind.major().zip(behind.minor()), ahead.major().zip(ahead.minor()))
    else {
        let why = format!("{a} {behind} and {b} {ahead} have no minors to compare");
        return Some((Verdict::Unknown, why));
    };
    if x > y {
        return Some((
            skew.verdict,
            format!("{a} {behind} is ahead of {b} {ahead}; upgrade {b} first"),
        ));
    }
    let most = u64::try_from(skew.max_minor_behind?).unwrap_or(0);
    if x.0 == y.0 && y.1 - x.1 <= most {
        return None;
    }
    let why =
        format!("{a} {behind} is more than {most} minors behind {b} {ahead}; upgrade {a} first");
    Some((skew.verdict, why))
}
