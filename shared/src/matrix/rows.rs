//! What goes together: every combination of the versions that run, row by row.

use super::Matrix;
use super::compiled::{Row, hold};
use super::facts::{Facts, Known, Reading};
use super::finding::{Finding, Findings, Part, Rule};
use crate::api::Verdict;
use crate::api::matrix::Condition;
use crate::version::Version;
use std::collections::{BTreeMap, BTreeSet};

/// Most combinations that are judged, so that admission stays within milliseconds.
const MOST: usize = 4096;

/// A row that could hold here.
struct Live<'a> {
    index: usize,
    row: &'a Row,
    /// A setting that it depends on and that was not read.
    unread: Option<&'a Condition>,
    /// It names a component that is not known: it lists the others, and its verdict says nothing.
    partial: bool,
}

/// One version of a component, with all that runs it.
struct Choice {
    version: Version,
    readings: Vec<Reading>,
}

/// Versions that run, for each component that rows name and that is known.
type Running = BTreeMap<String, Vec<Choice>>;
/// One version of each.
type State<'a> = BTreeMap<&'a str, &'a Choice>;

pub(super) fn judge(matrix: &Matrix, facts: &Facts, all: &mut Findings) {
    if matrix.rows.is_empty() {
        return;
    }
    let named: BTreeSet<&String> = matrix.rows.iter().flat_map(|r| r.versions.keys()).collect();
    let (mut running, mut absent) = (Running::new(), BTreeSet::new());
    for name in named.into_iter().chain([&matrix.subject]) {
        let known = matrix.known(facts, name);
        missing(matrix, name, &known, all);
        match known {
            Known::Runs(readings) => drop(running.insert(name.clone(), choices(readings))),
            Known::Absent => drop(absent.insert(name.clone())),
            Known::Unread(_) => {}
        }
    }
    if !running.contains_key(&matrix.subject) {
        return;
    }
    let live = live(matrix, facts, &running, &absent);
    let product = running.values().try_fold(1_usize, |n, v| n.checked_mul(v.len()));
    if product.is_none_or(|n| n > MOST) {
        let why = format!(
            "more than {MOST} combinations of versions run at once; finish what is under way first"
        );
        all.push(Finding::new(Verdict::Unknown, Rule::TooMany, vec![], why));
        return;
    }
    for n in 0..product.unwrap_or(0) {
        combination(matrix, &live, &nth(&running, n), all);
    }
}

/// A finding where the version of a component is not known, and it should be.
pub(super) fn missing(matrix: &Matrix, name: &str, known: &Known, all: &mut Findings) {
    let Some((n, component)) = matrix.component(name) else {
        return;
    };
    let reason = match known {
        Known::Runs(_) => return,
        Known::Absent if component.optional => return,
        Known::Absent => "it is not there; set `optional: true` if it need not be",
        Known::Unread(why) => why,
    };
    let source = component.version.sources().join(", ");
    let why = format!("the version of {name} is not known ({source}): {reason}");
    let part = Part { component: name.to_owned(), version: String::new(), objects: vec![] };
    all.push(Finding::new(Verdict::Unknown, Rule::Component(n), vec![part], why));
}

pub(super) fn part<'a>(name: &str, readings: impl IntoIterator<Item = &'a Reading>) -> Part {
    let mut part = Part { component: name.to_owned(), version: String::new(), objects: vec![] };
    for reading in readings {
        if part.version.is_empty() {
            part.version = reading.version.to_string();
        }
        part.objects.push(reading.object.clone());
    }
    part
}

fn choices(readings: Vec<Reading>) -> Vec<Choice> {
    let mut all: Vec<Choice> = vec![];
    for reading in readings {
        match all.iter_mut().find(|c| c.version == reading.version) {
            Some(choice) => choice.readings.push(reading),
            None => {
                all.push(Choice { version: reading.version.clone(), readings: vec![reading] });
            }
        }
    }
    all
}

fn live<'a>(
    matrix: &'a Matrix,
    facts: &Facts,
    running: &Running,
    absent: &BTreeSet<String>,
) -> Vec<Live<'a>> {
    let mut live = vec![];
    for (index, row) in matrix.rows.iter().enumerate() {
        let held = hold(&row.of.when, facts);
        let gone = |name: &String| {
            absent.contains(name) && matrix.component(name).is_some_and(|(_, c)| c.optional)
        };
        if held == Ok(false) || row.versions.keys().any(gone) {
            continue;
        }
        let partial = row.versions.keys().any(|name| !running.contains_key(name));
        live.push(Live { index, row, unread: held.err(), partial });
    }
    live
}

/// The nth combination, the first component's versions turning fastest.
fn nth(running: &Running, mut n: usize) -> State<'_> {
    let mut state = State::new();
    for (name, choices) in running {
        if let Some(choice) = choices.get(n % choices.len().max(1)) {
            state.insert(name, choice);
        }
        n /= choices.len().max(1);
    }
    state
}

impl Live<'_> {
    fn names(&self, component: &str) -> bool {
        self.row.versions.contains_key(component)
    }

    /// Whether it lists this component's version. What is not known it may list.
    fn lists(&self, state: &State<'_>, component: &str) -> bool {
        let range = self.row.versions.get(component);
        let choice = state.get(component);
        range.zip(choice).is_none_or(|(range, choice)| range.contains(&choice.version))
    }

    /// Whether it lists all versions, one component left out.
    fn matches(&self, state: &State<'_>, but: Option<&str>) -> bool {
        let mut names = self.row.versions.keys();
        names.all(|name| Some(name.as_str()) == but || self.lists(state, name))
    }
}

fn combination(matrix: &Matrix, live: &[Live<'_>], state: &State<'_>, all: &mut Findings) {
    let subject = matrix.subject.as_str();
    let matching: Vec<&Live<'_>> = live.iter().filter(|l| l.matches(state, None)).collect();
    for row in matching.iter().filter(|row| !row.partial) {
        all.push(of_row(row, state));
    }
    let about: Vec<&Live<'_>> =
        live.iter().filter(|l| l.names(subject) && l.lists(state, subject)).collect();
    if about.is_empty() {
        let part = parts(state, [subject]);
        let why = format!("no row is about {}", said(&part));
        all.push(Finding::new(matrix.default, Rule::Default, part, why));
        return;
    }
    let left = uncovered(subject, &about, state, None);
    if left.is_empty() {
        return;
    }
    if let Some(finding) = meanwhile(matrix, &about, state) {
        all.push(finding);
        return;
    }
    all.push(unlisted(matrix, &about, state, &left));
}

/// Components that rows about the subject's version name, and of whose version none speaks.
fn uncovered<'a>(
    subject: &str,
    about: &[&Live<'a>],
    state: &State<'_>,
    but: Option<&str>,
) -> BTreeSet<&'a str> {
    let names = |rows: &mut dyn Iterator<Item = &&Live<'a>>| -> BTreeSet<&'a str> {
        rows.flat_map(|l| l.row.versions.keys()).map(String::as_str).collect()
    };
    let mut left = names(&mut about.iter());
    let covered = names(&mut about.iter().filter(|l| l.matches(state, but)));
    left.retain(|name| *name != subject && state.contains_key(name) && !covered.contains(name));
    left
}

fn of_row(live: &Live<'_>, state: &State<'_>) -> Finding {
    let row = &live.row.of;
    let parts = parts(state, live.row.versions.keys().map(String::as_str));
    let (verdict, why) = match live.unread {
        None => (row.verdict, format!("{} is {}", said(&parts), row.verdict)),
        Some(condition) => (
            Verdict::Unknown.max(row.verdict),
            format!(
                "{} is {} where {} is `{}`, which could not be read",
                said(&parts),
                row.verdict,
                condition.config_map,
                condition.equals
            ),
        ),
    };
    let mut finding = Finding::new(verdict, Rule::Row(live.index), parts, why)
        .noted(row.note.as_ref(), row.source.as_ref());
    finding.retrieved = row.retrieved.clone();
    finding.end_of_life = row.end_of_life.clone();
    finding
}

/// A migration is done and the subject has not moved yet: rows need not list what it left behind.
fn meanwhile(matrix: &Matrix, about: &[&Live<'_>], state: &State<'_>) -> Option<Finding> {
    let subject = state.get(matrix.subject.as_str())?;
    for (n, migration) in matrix.migrations.iter().enumerate() {
        let changed = migration.of.requires.component.as_str();
        let done = state.get(changed).is_some_and(|c| migration.requires.contains(&c.version));
        let Some(verdict) = migration.of.meanwhile else {
            continue;
        };
        if done
            && migration.from.contains(&subject.version)
            && uncovered(&matrix.subject, about, state, Some(changed)).is_empty()
        {
            let parts = parts(state, [matrix.subject.as_str(), changed]);
            let why = format!("{}: migrated, and the upgrade is to follow", said(&parts));
            let of = &migration.of;
            let finding = Finding::new(verdict, Rule::Migration(n), parts, why);
            return Some(finding.noted(of.note.as_ref(), of.source.as_ref()));
        }
    }
    None
}

fn unlisted(
    matrix: &Matrix,
    about: &[&Live<'_>],
    state: &State<'_>,
    left: &BTreeSet<&str>,
) -> Finding {
    // A version that no row lists at all is the reason; without one it is that they do not go
    // together.
    let nowhere = |name: &&&str| !about.iter().any(|l| l.names(name) && l.lists(state, name));
    let alone: Vec<&str> = left.iter().filter(nowhere).copied().collect();
    let subject = parts(state, [matrix.subject.as_str()]);
    let blamed = if alone.is_empty() { left.iter().copied().collect() } else { alone };
    let others = parts(state, blamed.iter().copied());
    let listed = |name: &&str| {
        let ranges: BTreeSet<&str> = about
            .iter()
            .filter_map(|l| l.row.versions.get(*name))
            .map(crate::version::Range::as_str)
            .collect();
        format!("{name} {}", ranges.into_iter().collect::<Vec<_>>().join(" or "))
    };
    let listed: Vec<String> = blamed.iter().map(listed).collect();
    let why = format!(
        "no row for {} lists {}; rows list {}",
        said(&subject),
        said(&others),
        listed.join(", ")
    );
    let parts = subject.into_iter().chain(others).collect();
    let sources: Vec<&String> = about.iter().filter_map(|l| l.row.of.source.as_ref()).collect();
    Finding::new(matrix.unlisted, Rule::Unlisted, parts, why).noted(None, sources.first().copied())
}

fn parts<'a>(state: &State<'_>, names: impl IntoIterator<Item = &'a str>) -> Vec<Part> {
    let of = |name: &'a str| state.get(name).map(|choice| part(name, &choice.readings));
    names.into_iter().filter_map(of).collect()
}

/// `operator v2.0.0 with agent v1.0.3`.
pub(super) fn said(parts: &[Part]) -> String {
    let all: Vec<String> = parts.iter().map(ToString::to_string).collect();
    all.join(" with ")
}
