//! What the policies, windows and freezes of its targets ask of one Upgrade.

use super::rules::first_violation;
use super::snapshot::{Labels, NamespaceView, PolicyView, Snapshot};
use crate::api::policy::{Notice, WeightRounding};
use crate::api::upgrade::WorkloadTarget;
use crate::api::{Change, StrategyName, Upgrade, WorkloadKind};
use crate::engine::governance::{Announcement, Approvals, Door, Governance};
use crate::engine::plan::duration;
use crate::version::{self, Size, Version};
use crate::windows::{State, Subject, state};
use jiff::{SignedDuration, Timestamp};

/// Everything that is asked of an Upgrade now; `labels` gives a workload's own labels, where it
/// exists. The sum over its targets: each policy is heard, and the strictest word holds.
pub fn governance(
    snapshot: &Snapshot,
    view: &NamespaceView,
    upgrade: &Upgrade,
    labels: impl Fn(WorkloadKind, &str) -> Option<Labels>,
    now: Timestamp,
) -> Governance {
    let mut sum = Governance::default();
    if !view.governed() {
        return sum;
    }
    let change = change(upgrade);
    for (stage, policy) in super::jobs::governing(view, upgrade, &labels) {
        if sum.violation.is_none() {
            sum.violation = super::jobs::violation(policy, upgrade, stage);
        }
        approvals(&mut sum.approvals, stage, policy);
        notice(&mut sum.notice, policy, change);
    }
    for (at, target, strategy) in targets(upgrade) {
        let own = labels(target.kind, &target.name).unwrap_or_default();
        let Some(policy) = view.policy(target.kind, &target.name, &own) else { continue };
        if sum.violation.is_none() {
            sum.violation = violation(policy, upgrade, at, target, strategy);
        }
        approvals(&mut sum.approvals, at.0, policy);
        notice(&mut sum.notice, policy, change);
        if policy.spec.weight_rounding == WeightRounding::Refuse {
            sum.exact_weights.get_or_insert_with(|| policy.name.clone());
        }
        let wanted = policy.spec.notifications.iter();
        let new = wanted.filter(|n| !sum.notifications.contains(n)).cloned().collect::<Vec<_>>();
        sum.notifications.extend(new);
        let subject = Subject {
            namespace_labels: view.labels(),
            workload_labels: &own,
            policy: &policy.name,
            strategy,
            change,
        };
        let door = door(state(snapshot.windows(), &subject, now));
        sum.window = std::mem::take(&mut sum.window).and(door);
    }
    sum
}

/// What windows say, as a gate understands it.
pub fn door(state: State) -> Door {
    match state {
        State::Open { until, by } => {
            let why = (!by.is_empty()).then(|| format!("open by {}", by.join(", ")));
            Door::Open { why, until }
        }
        State::Shut { why, next } => {
            let opens = match next {
                Some(at) => format!("; opens {at:.0}"),
                None => "; it does not open within a year".to_owned(),
            };
            Door::Shut { why: format!("{why}{opens}"), next }
        }
    }
}

/// How large a change is: by `from` and `to`, else by the largest of its image tags' changes.
pub fn change(upgrade: &Upgrade) -> Change {
    let spec = &upgrade.spec;
    if let (Some(from), Some(to)) = (&spec.from, &spec.to) {
        let known = between(from, to);
        if known != Change::Unknown {
            return known;
        }
    }
    let images = super::snapshot::targets(upgrade).flat_map(|t| &t.images);
    largest(images.map(|i| (i.from.as_str(), i.to.as_str())))
}

/// The largest of the changes from one image to another, by their tags.
pub fn largest<'a>(images: impl Iterator<Item = (&'a str, &'a str)>) -> Change {
    let sizes = images.map(|(from, to)| of_images(from, to));
    sizes.min_by_key(|c| size(*c)).unwrap_or(Change::Unknown)
}

/// The unknown is the largest.
fn size(change: Change) -> u8 {
    match change {
        Change::Unknown => 0,
        Change::Major => 1,
        Change::Minor => 2,
        Change::Patch => 3,
    }
}

fn between(from: &str, to: &str) -> Change {
    of_versions(&Version::parse(from), &Version::parse(to))
}

fn of_images(from: &str, to: &str) -> Change {
    match (Version::of_image(from), Version::of_image(to)) {
        (Some(from), Some(to)) => of_versions(&from, &to),
        _ => Change::Unknown,
    }
}

/// A change that changes no version is as small as they come.
fn of_versions(from: &Version, to: &Version) -> Change {
    match version::change(from, to).size {
        Size::Major => Change::Major,
        Size::Minor => Change::Minor,
        Size::Patch | Size::None => Change::Patch,
        Size::Unknown => Change::Unknown,
    }
}

/// Every target, with the indices of its stage and of itself, and how it gets there.
fn targets(
    upgrade: &Upgrade,
) -> impl Iterator<Item = ((usize, usize), &WorkloadTarget, StrategyName)> {
    let stages = upgrade.spec.stages.iter().enumerate();
    stages.flat_map(|(i, stage)| {
        let targets = stage.workloads.iter().flat_map(move |w| {
            let strategy = w.strategy.name();
            w.targets.iter().enumerate().map(move |(j, t)| ((i, j), t, strategy))
        });
        targets.collect::<Vec<_>>()
    })
}

/// What a policy says of a target now; it may have changed since the Upgrade was admitted.
fn violation(
    policy: &PolicyView,
    upgrade: &Upgrade,
    (stage, index): (usize, usize),
    target: &WorkloadTarget,
    strategy: StrategyName,
) -> Option<String> {
    let requester = upgrade.spec.requester.as_ref();
    let found = first_violation(&policy.spec, target, strategy, requester)?;
    let field = found.field.path(stage, index);
    Some(format!("policy `{}` ({}): {field}: {found}", policy.name, found.rule))
}

fn approvals(sum: &mut Approvals, stage: usize, policy: &PolicyView) {
    let wanted = &policy.spec.approvals;
    if wanted.required <= 0 {
        return;
    }
    sum.required = sum.required.max(wanted.required);
    sum.single_use |= wanted.single_use;
    sum.per = sum.per.max(wanted.per);
    if let Some(people) = &wanted.approvers {
        let wanted = (stage, people.clone());
        if !sum.approvers.contains(&wanted) {
            sum.approvers.push(wanted);
        }
    }
    // The API server lets no other text pass; what cannot be read has expired at once.
    let life = wanted
        .expires_after
        .as_ref()
        .map(|text| duration("spec.approvals.expiresAfter", text).unwrap_or(SignedDuration::ZERO));
    sum.expires_after = match (sum.expires_after, life) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

fn notice(sum: &mut Option<Announcement>, policy: &PolicyView, change: Change) {
    let Some(wanted) = &policy.spec.notice else { return };
    let Some((text, size)) = wanted_notice(wanted, change) else { return };
    let Ok(length) = duration("spec.notice", text) else { return };
    let mut receivers = sum.as_ref().map(|s| s.receivers.clone()).unwrap_or_default();
    receivers.extend(
        wanted.receivers.iter().filter(|r| !receivers.contains(r)).cloned().collect::<Vec<_>>(),
    );
    let longest = sum.as_ref().is_none_or(|s| length > s.length);
    let why = format!("policy `{}` asks for {text} of notice before {size}", policy.name);
    match sum {
        Some(sum) if !longest => sum.receivers = receivers,
        _ => *sum = Some(Announcement { length, why, receivers, told: Vec::new() }),
    }
}

fn wanted_notice(notice: &Notice, change: Change) -> Option<(&str, &'static str)> {
    let (text, size) = match change {
        Change::Major => (&notice.major, "a major version"),
        Change::Minor => (&notice.minor, "a minor version"),
        Change::Patch => (&notice.patch, "a patch version"),
        Change::Unknown => (&notice.major, "a version whose size cannot be told"),
    };
    text.as_deref().map(|t| (t, size))
}
