//! What a change needs: steps, sources, directions, migrations.

use super::Matrix;
use super::compiled::Path;
use super::facts::{Facts, Known, Reading};
use super::finding::{Finding, Findings, Part, Rule};
use super::rows::missing;
use crate::api::Verdict;
use crate::version::{Change, Size, Version, change};

/// One object goes from one version of a component to another.
struct Moved<'a> {
    object: &'a str,
    from: &'a Version,
    to: &'a Version,
    change: Change,
}

impl Moved<'_> {
    fn part(&self, component: &str) -> Part {
        Part {
            component: component.to_owned(),
            version: format!("{} -> {}", self.from, self.to),
            objects: vec![self.object.to_owned()],
        }
    }
}

/// What changes of a component: for each object, from each version that ran to each that is new.
fn moved<'a>(before: &'a [Reading], after: &'a [Reading]) -> Vec<Moved<'a>> {
    let mut all = vec![];
    for new in after {
        let of_object = || before.iter().filter(|old| old.object == new.object);
        if of_object().any(|old| old.version == new.version) {
            continue;
        }
        all.extend(of_object().map(|old| Moved {
            object: &new.object,
            from: &old.version,
            to: &new.version,
            change: change(&old.version, &new.version),
        }));
    }
    all
}

pub(super) fn judge(matrix: &Matrix, before: &Facts, after: &Facts, all: &mut Findings) {
    for (component, _) in matrix.components() {
        let of_component =
            || matrix.paths.iter().enumerate().filter(|(_, p)| p.component == component);
        if of_component().next().is_none() {
            continue;
        }
        for change in moved(before.readings(component), after.readings(component)) {
            let rules: Vec<(usize, &Path)> =
                of_component().filter(|(_, p)| p.about(&change)).collect();
            for (n, rule) in &rules {
                if let Some((verdict, why)) = broken(component, rule, &change) {
                    let finding =
                        Finding::new(verdict, Rule::Path(*n), vec![change.part(component)], why);
                    all.push(finding.noted(rule.of.note.as_ref(), rule.of.source.as_ref()));
                }
            }
            if change.change.downgrade {
                down(component, &rules, of_component().next(), &change, all);
            }
        }
    }
}

impl Path {
    /// Whether it is about this change. A name it may be about, where it names no range.
    fn about(&self, change: &Moved<'_>) -> bool {
        self.from.as_ref().is_none_or(|r| r.contains(change.from))
            && self.to.as_ref().is_none_or(|r| r.contains(change.to))
    }
}

/// What is wrong with a change, its direction aside.
fn broken(component: &str, rule: &Path, moved: &Moved<'_>) -> Option<(Verdict, String)> {
    let said = format!("{component} {} -> {}", moved.from, moved.to);
    if !rule.limits() {
        return Some((rule.verdict(), format!("{said} is {}", rule.verdict())));
    }
    if let Some(range) = &rule.minimum_source
        && !moved.change.downgrade
        && !range.contains(moved.from)
    {
        return Some((rule.verdict(), format!("{said} must come from {range}; go there first")));
    }
    let (minors, majors) = (rule.of.max_minor_step, rule.of.max_major_step);
    if minors.is_none() && majors.is_none() {
        return None;
    }
    if moved.change.size == Size::Unknown {
        return Some((
            Verdict::Unknown,
            format!("{said}: these have no numbers to count steps by"),
        ));
    }
    let apart = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).abs_diff(b.unwrap_or(0));
    let most = |n: Option<i32>| n.and_then(|n| u64::try_from(n).ok());
    let major = apart(moved.from.major(), moved.to.major());
    if major > 0 {
        // Steps are counted in minors alone where nothing is said of majors.
        let most = most(majors).unwrap_or(0);
        return (major > most)
            .then(|| (rule.verdict(), format!("{said} is another major; at most {most} at once")));
    }
    let minor = apart(moved.from.minor(), moved.to.minor());
    let most = most(minors)?;
    (minor > most).then(|| {
        let why =
            format!("{said} is {minor} minors at once; at most {most}: go by the one between");
        (rule.verdict(), why)
    })
}

/// A downgrade passes where a rule allows it and none refuses it.
fn down(
    component: &str,
    rules: &[(usize, &Path)],
    any: Option<(usize, &Path)>,
    moved: &Moved<'_>,
    all: &mut Findings,
) {
    let refuses = |(_, p): &&(usize, &Path)| p.refuses_downgrade() == Some(true);
    let allowed = rules.iter().any(|(_, p)| p.refuses_downgrade() == Some(false));
    let refusing = rules.iter().find(refuses).or_else(|| {
        // Nothing said is a refusal.
        if allowed { None } else { rules.first() }
    });
    let rule = match refusing {
        Some(rule) => *rule,
        None if allowed => return,
        None => match any {
            Some(rule) => rule,
            None => return,
        },
    };
    let verdict = if rule.1.limits() { rule.1.verdict() } else { Verdict::Unsupported };
    let why =
        format!("{component} {} -> {} is a downgrade, and no path allows it", moved.from, moved.to);
    let finding = Finding::new(verdict, Rule::Path(rule.0), vec![moved.part(component)], why);
    all.push(finding.noted(rule.1.of.note.as_ref(), rule.1.of.source.as_ref()));
}

/// Changes of the subject whose migration is not done in `done`.
pub(super) fn migrations(
    matrix: &Matrix,
    before: &Facts,
    after: &Facts,
    done: &Facts,
    all: &mut Findings,
) {
    let subject = matrix.subject();
    for change in moved(before.readings(subject), after.readings(subject)) {
        for (n, migration) in matrix.migrations.iter().enumerate() {
            if !migration.from.contains(change.from) || !migration.to.contains(change.to) {
                continue;
            }
            let name = migration.of.requires.component.as_str();
            let known = matrix.known(done, name);
            missing(matrix, name, &known, all);
            let Known::Runs(readings) = known else {
                continue;
            };
            let Some(old) = readings.iter().find(|r| !migration.requires.contains(&r.version))
            else {
                continue;
            };
            let why = format!(
                "{subject} {} -> {} needs {name} {} before, and it is {}: migrate first",
                change.from, change.to, migration.requires, old.version
            );
            let parts = vec![change.part(subject), super::rows::part(name, [old])];
            let of = &migration.of;
            let finding = Finding::new(of.verdict, Rule::Migration(n), parts, why);
            all.push(finding.noted(of.note.as_ref(), of.source.as_ref()));
        }
    }
}
