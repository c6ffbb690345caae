//! A plan's stages as moves of components, and the states on the way.

use super::facts::{Facts, workload_object};
use super::finding::{Finding, Findings};
use super::{Matrix, order, paths, state};
use crate::api::matrix::VersionSource;
use crate::api::upgrade::{ImageChange, Stage, WorkloadTarget};
use crate::version::Version;

/// A component, or one object of it, gets another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Name of the component.
    pub component: String,
    /// The object that moves, as in [`super::Reading`]; `None` for all of them.
    pub object: Option<String>,
    /// The version it gets.
    pub to: Version,
}

impl Move {
    /// All of a component gets this version.
    pub fn of(component: &str, to: &str) -> Self {
        Self { component: component.to_owned(), object: None, to: Version::parse(to) }
    }
}

/// Judges every state that a plan goes through, each stage in order.
///
/// Within a stage old and new run at once: a canary runs both. What already runs does not count
/// against leaving it: it is reported without a stage, and again with the last one where the plan
/// ends with it. Everything else is reported with the first stage in which it happens.
pub fn evaluate_plan(matrix: &Matrix, facts: &Facts, steps: &[Vec<Move>]) -> Vec<Finding> {
    let mut start = Findings::default();
    state(matrix, facts, &mut start);
    let mut all = Findings::default();
    let mut before = facts.clone();
    for (stage, moves) in steps.iter().enumerate() {
        let after = applied(&before, moves);
        let mut found = Findings::default();
        state(matrix, &before.with(&after), &mut found);
        paths::judge(matrix, &before, &after, &mut found);
        // A migration in the same stage may come too late.
        paths::migrations(matrix, &before, &after, &before, &mut found);
        let new = found.into_vec().into_iter().filter(|f| !start.has(f));
        all.extend(new.map(|f| Finding { stage: Some(stage), ..f }));
        before = after;
    }
    if let Some(last) = steps.len().checked_sub(1) {
        let mut end = Findings::default();
        state(matrix, &before, &mut end);
        all.extend(end.into_vec().into_iter().map(|f| Finding { stage: Some(last), ..f }));
    }
    all.extend(order::order_violations(matrix, facts, steps));
    let mut every = start.into_vec();
    every.extend(all.into_vec());
    every
}

/// What runs after moves. An object that two moves are about runs both versions.
fn applied(facts: &Facts, moves: &[Move]) -> Facts {
    let mut after = facts.clone();
    for m in moves {
        after.forget(&m.component, m.object.as_deref());
    }
    for m in moves {
        let objects: Vec<String> = match &m.object {
            Some(object) => vec![object.clone()],
            None => facts.readings(&m.component).iter().map(|r| r.object.clone()).collect(),
        };
        if objects.is_empty() {
            after.put(&m.component, "the plan", m.to.clone());
        }
        for object in objects {
            after.put(&m.component, &object, m.to.clone());
        }
    }
    after
}

/// What the stages of an Upgrade in this namespace move, stage by stage.
///
/// A target gives a component whose source names it, or has a reading of it in `facts`, the
/// version that the tag of its new image says; where a label says the version, too, for an Upgrade
/// changes images alone. An image that is named by digest only has itself as its version, which no
/// range contains.
pub fn moves(matrix: &Matrix, facts: &Facts, stages: &[Stage], namespace: &str) -> Vec<Vec<Move>> {
    let of_stage = |stage: &Stage| {
        let targets = stage.workloads.iter().flat_map(|w| &w.targets);
        let mut moves: Vec<Move> = vec![];
        for target in targets {
            for (name, source) in matrix.components() {
                for image in &target.images {
                    let object = object(name, source, facts, target, image, namespace);
                    moves.extend(object.map(|object| Move {
                        component: name.to_owned(),
                        object: Some(object),
                        to: version(&image.to),
                    }));
                }
            }
        }
        moves
    };
    stages.iter().map(of_stage).collect()
}

fn version(image: &str) -> Version {
    Version::of_image(image).unwrap_or_else(|| Version::parse(image))
}

/// The object of a component that an image change is about.
fn object(
    component: &str,
    source: &VersionSource,
    facts: &Facts,
    target: &WorkloadTarget,
    image: &ImageChange,
    namespace: &str,
) -> Option<String> {
    let readings = facts.readings(component);
    let (container, label, named) = if let Some(w) = &source.workload {
        let same = (w.kind, w.name.as_str(), w.namespace.as_str())
            == (target.kind, target.name.as_str(), namespace);
        (same.then_some(&w.container)?, w.label.is_some(), true)
    } else {
        let w = source.workloads.as_ref().filter(|w| w.namespace == namespace)?;
        (&w.container, w.label.is_some(), false)
    };
    if container.as_ref().is_some_and(|c| *c != image.container) {
        return None;
    }
    let of = (!label).then_some(image.container.as_str());
    let object = workload_object(target.kind, namespace, &target.name, of);
    // Of a container that nobody read it is not known whether it counts, unless it is named.
    let read = readings.iter().any(|r| r.object == object);
    let first = named && (container.is_some() || label || readings.is_empty());
    (read || first).then_some(object)
}
