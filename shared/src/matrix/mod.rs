//! Whether versions go together, whether a path leads from one to another, and what moves first.
//!
//! [`Matrix::parse`] reads a CompatibilityMatrix once; [`evaluate`] judges what will run against
//! it, [`evaluate_plan`] every state on the way there, [`refused`] picks what may not pass.
//!
//! | rule | where |
//! |---|---|
//! | rows: what goes together | `rows.rs` |
//! | how far apart two components may be | `skew.rs` |
//! | paths, migrations: what a change needs | `paths.rs` |
//! | what moves first | [`order`] |
//! | a plan's stages as moves, and the states between them | `stages.rs` |
//!
//! Nothing here takes what it does not know for good: a version that was not read is a finding
//! with the verdict Unknown.

mod compiled;
mod facts;
mod finding;
pub mod order;
mod paths;
mod rows;
mod skew;
mod stages;
#[cfg(test)]
mod tests;

pub use compiled::{Matrix, MatrixError};
pub use facts::{Facts, Known, Reading, workload_object};
pub use finding::{Finding, Part, Rule, passes, refused, worst};
pub use stages::{Move, evaluate_plan, moves};

/// Judges the state `after`, and the changes that lead there from `before`.
///
/// A migration counts as done where `after` says so: that it is done in time is judged by
/// [`evaluate_plan`].
pub fn evaluate(matrix: &Matrix, before: &Facts, after: &Facts) -> Vec<Finding> {
    let mut all = finding::Findings::default();
    state(matrix, after, &mut all);
    paths::judge(matrix, before, after, &mut all);
    paths::migrations(matrix, before, after, after, &mut all);
    all.into_vec()
}

/// Judges what runs, without a word about how it came there.
pub(crate) fn state(matrix: &Matrix, facts: &Facts, all: &mut finding::Findings) {
    rows::judge(matrix, facts, all);
    skew::judge(matrix, facts, all);
}
