//! What moves first.

use super::compiled::hold;
use super::finding::{Finding, Part, Rule};
use super::{Facts, Matrix, Move};
use crate::api::Verdict;
use crate::api::matrix::Order;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Components that each wait for the next, and the last for the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Cycle {
    /// Names, in the order in which they should move.
    pub components: Vec<String>,
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.components.first().map_or("", String::as_str);
        write!(
            f,
            "{} -> {first} is a circle; take one of these edges out",
            self.components.join(" -> ")
        )
    }
}

/// Edges that hold here, with their indices. One whose settings could not be read holds.
fn edges<'a>(matrix: &'a Matrix, facts: &Facts) -> Vec<(usize, &'a Order)> {
    let all = matrix.order.iter().enumerate();
    all.filter(|(_, edge)| hold(&edge.when, facts) != Ok(false)).collect()
}

/// Components in an order that obeys every edge; those that no edge orders go by name. An edge
/// through a component that is not among them orders its neighbours all the same.
pub fn sort(matrix: &Matrix, facts: &Facts, components: &[&str]) -> Result<Vec<String>, Cycle> {
    let edges: Vec<&Order> = edges(matrix, facts).into_iter().map(|(_, e)| e).collect();
    let names = matrix.components().map(|(name, _)| name).chain(components.iter().copied());
    let mut sorted = topological(&names.collect(), &edges)?;
    sorted.retain(|name| components.contains(&name.as_str()));
    Ok(sorted)
}

/// Kahn's algorithm, always taking the first name that waits for nothing.
pub(super) fn topological(names: &BTreeSet<&str>, edges: &[&Order]) -> Result<Vec<String>, Cycle> {
    let mut left: BTreeSet<&str> = names.clone();
    let mut sorted = vec![];
    while !left.is_empty() {
        let waits =
            |name: &str| edges.iter().find(|e| e.then == name && left.contains(e.first.as_str()));
        let Some(free) = left.iter().copied().find(|name| waits(name).is_none()) else {
            return Err(cycle(&left, edges));
        };
        left.remove(free);
        sorted.push(free.to_owned());
    }
    Ok(sorted)
}

/// A circle among names each of which waits for another of them.
fn cycle(left: &BTreeSet<&str>, edges: &[&Order]) -> Cycle {
    let mut walk: Vec<&str> = left.iter().take(1).copied().collect();
    while let Some(at) = walk.last().copied() {
        let before = edges.iter().find(|e| e.then == at && left.contains(e.first.as_str()));
        let Some(edge) = before else { break };
        if let Some(start) = walk.iter().position(|name| *name == edge.first) {
            walk.drain(..start);
            break;
        }
        walk.push(&edge.first);
    }
    walk.reverse();
    // A circle has no start; the first name makes it the same each time.
    let start = walk.iter().enumerate().min_by_key(|(_, name)| **name).map_or(0, |(n, _)| n);
    walk.rotate_left(start);
    Cycle { components: walk.into_iter().map(str::to_owned).collect() }
}

/// Edges that a plan breaks: a component moves in the stage of one that should be finished before,
/// or earlier. Both in one stage is a break too, for a stage's targets move in step.
pub fn order_violations(matrix: &Matrix, facts: &Facts, steps: &[Vec<Move>]) -> Vec<Finding> {
    let mut when: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (stage, moves) in steps.iter().enumerate() {
        for m in moves {
            when.entry(&m.component).or_insert((stage, stage)).1 = stage;
        }
    }
    let edges = edges(matrix, facts);
    let mut found = vec![];
    for (first, (_, finished)) in &when {
        for (then, via) in after(first, &edges) {
            let Some((started, _)) = when.get(then) else {
                continue;
            };
            if started > finished {
                continue;
            }
            found.push(violation(first, then, (*started, *finished), via));
        }
    }
    found
}

/// Everything that moves after a component, with the first edge of the way there.
fn after<'a>(first: &str, edges: &[(usize, &'a Order)]) -> BTreeMap<&'a str, (usize, &'a Order)> {
    let mut found: BTreeMap<&str, (usize, &Order)> = BTreeMap::new();
    let mut next: Vec<(&str, Option<(usize, &Order)>)> = vec![(first, None)];
    while let Some((at, via)) = next.pop() {
        for edge in edges.iter().filter(|(_, e)| e.first == at) {
            let via = via.unwrap_or(*edge);
            if found.insert(&edge.1.then, via).is_none() {
                next.push((&edge.1.then, Some(via)));
            }
        }
    }
    found
}

fn violation(
    first: &str,
    then: &str,
    (started, finished): (usize, usize),
    (n, edge): (usize, &Order),
) -> Finding {
    let part =
        |name: &str| Part { component: name.to_owned(), version: String::new(), objects: vec![] };
    let why = if started == finished {
        format!("{first} moves before {then}, and both move in one stage: part them")
    } else {
        format!(
            "{first} moves before {then}, which starts in stage {} of the plan and {first} is \
             finished in stage {} only",
            started + 1,
            finished + 1
        )
    };
    let parts = vec![part(first), part(then)];
    let mut finding = Finding::new(Verdict::Unsupported, Rule::Order(n), parts, why)
        .noted(edge.note.as_ref(), edge.source.as_ref());
    finding.stage = Some(started);
    finding
}
