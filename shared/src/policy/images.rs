//! An image of a workload changes.

use super::decide::{Place, Verdict};
use super::question::{ImagesTopic, LabelsOf, Question, Topic, UpgradeRef};
use super::refusal::{Reason, Refusal};
use super::snapshot::{PolicyView, UpgradeView};
use super::workload::{ImageDelta, Workload, deltas};
use super::{create, governance, jobs, separate};
use crate::api::status::Phase;
use crate::api::upgrade::{CanaryStep, ImageChange, WorkloadTarget};
use crate::api::{Mode, StrategyName, Upgrade, WorkloadKind};
use crate::engine::governance::Door;
use crate::image::same;
use crate::windows::{Subject, state, why_shut};
use std::fmt::Write;

/// An UPDATE in a governed namespace that changes images, and is no tampering with an object in
/// flight.
pub fn decide(place: &Place<'_>, old: &Workload<'_>, new: &Workload<'_>) -> Verdict {
    let Some(policy) = place.policy(Some(old), new) else {
        return create::intrusion(place, new).map_or(Verdict::Allow, Verdict::from);
    };
    if place.own
        && let Some(upgrade) = new.in_flight()
    {
        if let Some(other) = old.in_flight().filter(|other| *other != upgrade) {
            return taken_over(place, new, other, upgrade).into();
        }
        return question(place, new, upgrade, deltas(&old.images, &new.images)).into();
    }
    let in_flight = old.in_flight().or(new.in_flight());
    let approved = place.view.entry(new.kind, &new.name).is_some_and(|e| new.runs(e));
    if in_flight.is_none() && approved {
        return Verdict::Allow;
    }
    let refusal = refuse(place, policy, new, &deltas(&old.images, &new.images));
    refusal.into()
}

/// Nothing of ours goes from one Upgrade to another without being let go in between.
fn taken_over(place: &Place<'_>, new: &Workload<'_>, other: &str, upgrade: &str) -> Refusal {
    Refusal::new(
        Reason::NotCovered,
        format!(
            "{} {}/{}: Upgrade {upgrade} may not take it over",
            new.kind, place.namespace, new.name
        ),
        format!("it is in flight under Upgrade {other}"),
        "that one ends first, and puts its fields back",
    )
    .run(format!("kubectl upgrade status {other} -n {}", place.namespace))
}

/// Our own controller changes these images: whether the Upgrade covers it is read live.
pub fn question(
    place: &Place<'_>,
    new: &Workload<'_>,
    upgrade: &str,
    deltas: Vec<ImageDelta>,
) -> Question {
    Question {
        upgrade: Some(UpgradeRef { namespace: place.namespace.into(), name: upgrade.to_owned() }),
        access: Vec::new(),
        labels: LabelsOf::Nothing,
        templates: Vec::new(),
        on_behalf_of: None,
        topic: Topic::Images(ImagesTopic {
            kind: new.kind,
            namespace: place.namespace.to_owned(),
            name: new.name.to_string(),
            upgrade: upgrade.to_owned(),
            deltas,
            may_go_forward: new.is_held_back() || new.recreates(),
            held: new.held().is_some() && new.guarded.paused == Some(true),
            canary: false,
        }),
    }
}

/// Nobody but an Upgrade changes images; this says how to get one.
fn refuse(
    place: &Place<'_>,
    policy: &PolicyView,
    new: &Workload<'_>,
    deltas: &[ImageDelta],
) -> Refusal {
    let what = format!(
        "{} {}/{}: no approved Upgrade covers {}",
        new.kind,
        place.namespace,
        new.name,
        describe(deltas)
    );
    let governed = format!("policy `{}` governs this workload", policy.name);
    if let Some(open) = place.view.open_upgrade(new.kind, &new.name) {
        return Refusal::new(
            Reason::UpgradeRequired,
            what,
            format!("{governed}, and {} has it", waiting(open)),
            "its images change when that Upgrade moves; for other images end it first and start \
             another",
        )
        .run(format!("kubectl upgrade status {} -n {}", open.name, place.namespace));
    }
    if !is_upgraded(new.kind) {
        return other_kind(what, &governed, policy, new.kind);
    }
    if deltas.iter().any(|d| d.from.is_none() || d.to.is_none()) {
        let help = "an Upgrade of this version changes images and neither adds nor removes \
                    containers: make that change while no policy selects the workload";
        return Refusal::new(Reason::UpgradeRequired, what, governed, help)
            .run(format!("kubectl edit upgradepolicy {}", policy.name));
    }
    let governed = if policy.spec.mode == Mode::Hold && new.kind != WorkloadKind::Deployment {
        format!("{governed}, and mode Hold holds Deployments only, no {}", new.kind)
    } else {
        governed
    };
    // An Upgrade may be asked for at any time, and says itself when it can go.
    let why = match window(place, policy, new, deltas) {
        Some(shut) => format!("{governed}; {shut}"),
        None => governed,
    };
    Refusal::new(
        Reason::UpgradeRequired,
        what,
        why,
        "start an Upgrade; it makes this change once it is approved",
    )
    .run(start_command(place.namespace, new.kind, &new.name, deltas))
}

/// Why no Upgrade of these images could go now, where a window is shut, and when one can.
fn window(
    place: &Place<'_>,
    policy: &PolicyView,
    new: &Workload<'_>,
    deltas: &[ImageDelta],
) -> Option<String> {
    let images = deltas.iter().filter_map(|d| d.from.as_deref().zip(d.to.as_deref()));
    let subject = Subject {
        namespace_labels: place.view.labels(),
        workload_labels: &new.labels,
        policy: &policy.name,
        strategy: StrategyName::Rolling,
        change: governance::largest(images),
    };
    why_shut(place.windows, &subject, place.now)?;
    match governance::door(state(place.windows, &subject, place.now)) {
        Door::Shut { why, .. } => Some(why),
        Door::Open { .. } => None,
    }
}

/// Kinds that an Upgrade may be about.
pub(super) fn is_upgraded(kind: WorkloadKind) -> bool {
    matches!(kind, WorkloadKind::Deployment | WorkloadKind::StatefulSet | WorkloadKind::DaemonSet)
}

fn other_kind(what: String, governed: &str, policy: &PolicyView, kind: WorkloadKind) -> Refusal {
    let help = match kind {
        WorkloadKind::ReplicaSet | WorkloadKind::Pod => format!(
            "if a Deployment, StatefulSet or DaemonSet owns it, upgrade that; otherwise leave {kind} \
             out of the policy's `spec.workloads.kinds`, for no Upgrade is about a {kind}"
        ),
        _ => format!(
            "an Upgrade is of Deployments, StatefulSets and DaemonSets; to change a {kind} by other \
             means leave {kind} out of the policy's `spec.workloads.kinds`"
        ),
    };
    Refusal::new(Reason::UpgradeRequired, what, governed, help)
        .run(format!("kubectl edit upgradepolicy {}", policy.name))
}

/// Ends the question of our own controller's image change, with the Upgrade as it is now.
pub fn confirm(topic: &ImagesTopic, live: &Upgrade) -> Result<(), Box<Refusal>> {
    let phase = live.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let object = format!("{} {}/{}", topic.kind, topic.namespace, topic.name);
    let refuse = |reason, why: String, help: &str| {
        let what = format!(
            "{object}: Upgrade {} does not cover {}",
            topic.upgrade,
            describe(&topic.deltas)
        );
        Err(Box::new(
            Refusal::new(reason, what, why, help)
                .run(format!("kubectl upgrade status {} -n {}", topic.upgrade, topic.namespace)),
        ))
    };
    if !phase.is_in_flight() {
        let why = format!("it is {phase}");
        return refuse(Reason::WrongPhase, why, "images change while an Upgrade is in flight only");
    }
    if topic.kind == WorkloadKind::Job {
        return match jobs::uncovered(live, &topic.deltas) {
            Some((reason, why, help)) => refuse(reason, why, help),
            None => Ok(()),
        };
    }
    if topic.canary {
        return match separate::uncovered(live, topic) {
            Some((reason, why, help)) => refuse(reason, why, help),
            None => Ok(()),
        };
    }
    let mut mine = targets_with_strategy(live, topic).peekable();
    if mine.peek().is_none() {
        let why = format!("none of its stages lists {} {}", topic.kind, topic.name);
        return refuse(Reason::NotCovered, why, "an approval covers the listed workloads only");
    }
    let covering = mine.find_map(|(t, held)| direction(t, &topic.deltas).map(|d| (d, held)));
    let Some((direction, held_back)) = covering else {
        let why = "its stages name other images for this workload".to_owned();
        return refuse(Reason::NotCovered, why, "an approval covers the listed images only");
    };
    // Back to where mode Hold had it: paused, nothing of it comes to run.
    if direction == Direction::Back || (topic.held && live.spec.held) {
        return Ok(());
    }
    // An abort counts from when it was asked for, not from when the controller that leads has seen
    // it: one that no longer leads, or lags, must not go on.
    let aborted = live.spec.control.as_ref().is_some_and(|c| c.abort);
    if phase == Phase::RollingBack || aborted || live.metadata.deletion_timestamp.is_some() {
        let why = "it is being taken back".to_owned();
        return refuse(Reason::WrongPhase, why, "only its old images may be written now");
    }
    if let (HeldBack::ByTheCanary, Some(why)) = (held_back, separate::early(live, topic)) {
        let help = "a workload with a canary of its own changes with the last weight only";
        return refuse(Reason::NotHeldBack, why, help);
    }
    if held_back == HeldBack::ByFields && !topic.may_go_forward {
        let lacks = holds(topic.kind);
        let why =
            format!("a canary's template comes with {lacks} in the same write; it is missing");
        let help = "without it the rollout would go to 100 % at once";
        return refuse(Reason::NotHeldBack, why, help);
    }
    Ok(())
}

/// What holds new pods of a kind back.
fn holds(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::StatefulSet => "updateStrategy.rollingUpdate.partition above 0",
        WorkloadKind::DaemonSet => "updateStrategy OnDelete",
        _ => "minReadySeconds 2147483646 and progressDeadlineSeconds 2147483647",
    }
}

fn targets_with_strategy<'a>(
    live: &'a Upgrade,
    topic: &'a ImagesTopic,
) -> impl Iterator<Item = (&'a WorkloadTarget, HeldBack)> {
    let stages = live.spec.stages.iter().filter_map(|s| s.workloads.as_ref());
    stages.flat_map(move |stage| {
        let mine = |t: &&WorkloadTarget| t.kind == topic.kind && t.name == topic.name;
        // With nothing but 100 there is no position to hold; the native rollout is the step.
        let mut steps = stage.strategy.canary.iter().flat_map(|c| &c.steps);
        let part =
            |s: &CanaryStep| s.set_replicas.is_some() || s.set_weight.is_some_and(|w| w < 100);
        let parts = steps.any(part);
        let separate = stage.strategy.canary.as_ref().is_some_and(|c| c.separate.is_some());
        let held = match (stage.strategy.blue_green.is_some() || parts, separate) {
            (true, true) => HeldBack::ByTheCanary,
            (true, false) => HeldBack::ByFields,
            (false, _) => HeldBack::No,
        };
        stage.targets.iter().filter(mine).map(move |t| (t, held))
    })
}

/// What keeps new images from going to 100 % at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBack {
    /// Nothing: the native rollout is the step.
    No,
    /// Fields that come in the same write.
    ByFields,
    /// The workload is not touched before the last weight.
    ByTheCanary,
}

/// Which way along its plan a workload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Back,
}

/// The one way that all the changes go, if the target names every one of them.
fn direction(target: &WorkloadTarget, deltas: &[ImageDelta]) -> Option<Direction> {
    let all = |way: Direction| {
        deltas.iter().all(|d| target.images.iter().any(|change| goes(change, d, way)))
    };
    if all(Direction::Forward) {
        Some(Direction::Forward)
    } else {
        all(Direction::Back).then_some(Direction::Back)
    }
}

fn goes(change: &ImageChange, delta: &ImageDelta, way: Direction) -> bool {
    let (from, to) = match way {
        Direction::Forward => (&change.from, &change.to),
        Direction::Back => (&change.to, &change.from),
    };
    change.container == delta.container
        && delta.from.as_ref().is_some_and(|i| same(i, from))
        && delta.to.as_ref().is_some_and(|i| same(i, to))
}

/// The changes, for people: "`web` web:v1 -> web:v2, `log` gone".
pub fn describe(deltas: &[ImageDelta]) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for d in deltas.iter().take(SHOWN) {
        let comma = if text.is_empty() { "container" } else { "," };
        let _ = match (&d.from, &d.to) {
            (Some(from), Some(to)) => {
                write!(text, "{comma} `{}` {} -> {}", d.container, plain(from), plain(to))
            }
            (None, Some(to)) => write!(text, "{comma} `{}` added with {}", d.container, plain(to)),
            (Some(from), None) => {
                write!(text, "{comma} `{}` removed (was {})", d.container, plain(from))
            }
            (None, None) => Ok(()),
        };
    }
    if deltas.len() > SHOWN {
        let _ = write!(text, " and {} more", deltas.len() - SHOWN);
    }
    text
}

/// Text of somebody else's choice without control characters: it ends up in terminals.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// The command that starts the Upgrade for these changes.
fn start_command(namespace: &str, kind: WorkloadKind, name: &str, deltas: &[ImageDelta]) -> String {
    let mut command = format!("kubectl upgrade start {}/{name}", kind.short());
    for d in deltas {
        if let Some(to) = &d.to {
            let _ = write!(command, " --image {}={}", d.container, plain(to));
        }
    }
    let _ = write!(command, " -n {namespace}");
    command
}

/// "Upgrade web-v2 (Paused: waits for promote)".
pub fn waiting(upgrade: &UpgradeView) -> String {
    match upgrade.message.as_str() {
        "" => format!("Upgrade {} ({})", upgrade.name, upgrade.phase),
        message => format!("Upgrade {} ({}: {message})", upgrade.name, upgrade.phase),
    }
}
