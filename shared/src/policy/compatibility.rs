//! What CompatibilityMatrices say of an Upgrade, against the verdicts that its policies let pass.

use super::snapshot::{Labels, NamespaceView, Snapshot};
use crate::api::policy::Compatibility;
use crate::api::upgrade::{Stage, WorkloadTarget};
use crate::api::{Verdict, WorkloadKind};
use crate::engine::governance::Door;
use crate::matrix::{Facts, Finding, Matrix, MatrixError, evaluate_plan, moves, refused};

/// Verdicts that pass for every target that a policy governs; `None` where none is governed.
pub fn passing(
    view: &NamespaceView,
    stages: &[Stage],
    labels: impl Fn(WorkloadKind, &str) -> Option<Labels>,
) -> Option<Vec<Verdict>> {
    if !view.governed() {
        return None;
    }
    let mut pass: Option<Vec<Verdict>> = None;
    for target in targets(stages) {
        let own = labels(target.kind, &target.name).unwrap_or_default();
        let Some(policy) = view.policy(target.kind, &target.name, &own) else { continue };
        let said = policy.spec.compatibility.as_ref().map(|c| c.pass.as_slice());
        let said = said.filter(|p| !p.is_empty()).unwrap_or(&Compatibility::DEFAULT);
        pass = Some(match pass {
            None => said.to_vec(),
            Some(pass) => pass.into_iter().filter(|v| said.contains(v)).collect(),
        });
    }
    pass
}

/// Matrices that may be about stages of an Upgrade: those that cannot be read, and those with a
/// component that a target is. The facts of no others need to be gathered.
pub fn about<'s>(
    snapshot: &'s Snapshot,
    namespace: &str,
    stages: &[Stage],
) -> Vec<&'s Result<Matrix, MatrixError>> {
    let concerned = |m: &&Result<Matrix, MatrixError>| match m {
        Ok(matrix) => may_move(matrix, namespace, stages),
        Err(_) => true,
    };
    snapshot.matrices().filter(concerned).collect()
}

fn targets(stages: &[Stage]) -> impl Iterator<Item = &WorkloadTarget> {
    stages.iter().filter_map(|s| s.workloads.as_ref()).flat_map(|w| &w.targets)
}

/// Whether a target may be a component. A set of workloads by their labels is known by its
/// namespace only, until its facts are.
fn may_move(matrix: &Matrix, namespace: &str, stages: &[Stage]) -> bool {
    matrix.components().any(|(_, source)| {
        let one = source.workload.as_ref().is_some_and(|w| {
            w.namespace == namespace
                && targets(stages).any(|t| t.kind == w.kind && t.name == w.name)
        });
        let many = source.workloads.as_ref().is_some_and(|w| w.namespace == namespace);
        one || many
    })
}

/// What one matrix finds wrong with stages: findings that they would bring about and that do not
/// pass.
pub fn wrong(
    matrix: &Matrix,
    facts: &Facts,
    namespace: &str,
    stages: &[Stage],
    pass: &[Verdict],
) -> Vec<Finding> {
    let steps = moves(matrix, facts, stages, namespace);
    if steps.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    let findings = evaluate_plan(matrix, facts, &steps);
    // What runs already is no fault of the Upgrade's, unless it ends with it: then a stage is named.
    let caused: Vec<_> = findings.into_iter().filter(|f| f.stage.is_some()).collect();
    refused(&caused, pass).into_iter().cloned().collect()
}

/// What all of it comes to, as a gate understands it. Nothing but a person or a change of what
/// runs opens it, so there is no time at which it does.
pub fn door(wrong: &[(String, Vec<Finding>)]) -> Door {
    let mut lines = wrong.iter().flat_map(|(matrix, found)| found.iter().map(move |f| (matrix, f)));
    let Some((matrix, finding)) = lines.next() else { return Door::default() };
    let more = lines.count();
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let source = finding.source.as_ref().map(|s| format!(" [{s}]")).unwrap_or_default();
    let why =
        format!("CompatibilityMatrix {matrix}: {}: {}{source}{more}", finding.verdict, finding.why);
    Door::Shut { why, next: None }
}
