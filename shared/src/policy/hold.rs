//! Mode `Hold`: a changed template of a Deployment is taken, but paused, and an Upgrade carries it
//! out once it is approved.
//!
//! What is to become of a change is one pure function of the object before, the object after and
//! who asks. The mutating webhook writes what it says, the validating one lets nothing else pass:
//! a stamp that anybody else wrote says something else.

use super::decide::{Place, Verdict};
use super::images::{question, waiting};
use super::refusal::{Reason, Refusal};
use super::review::{Review, Subject, User};
use super::snapshot::{NamespaceView, PolicyView, Snapshot, stricter};
use super::workload::{Image, Workload, deltas, differ, same_json};
use crate::api::upgrade::{ImageChange, Rolling, Stage, Strategy, WorkloadTarget, WorkloadsStage};
use crate::api::{Held, IN_FLIGHT_LABEL, LedgerEntry, Mode, Upgrade, UpgradeSpec, WorkloadKind};
use crate::image::Image as Reference;
use crate::plan::hash::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Digits of the hash in the name of an Upgrade that Hold opens.
const DIGITS: usize = 10;
/// Longest value of a label.
const LABEL: usize = 63;

/// What is to be written for a change of a governed Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The template is taken, paused, under the name of this Upgrade.
    Hold {
        /// Name of the Upgrade that carries it out.
        upgrade: String,
        /// What is stamped.
        held: Held,
    },
    /// The change is taken back: our marks go, and `paused` is what it was before.
    Release {
        /// The Upgrade that it waited for.
        upgrade: String,
        /// `spec.paused` as it was.
        paused: bool,
    },
    /// It is held and its template stays: so do `paused` and our marks.
    Stay {
        /// The Upgrade that it waits for.
        upgrade: String,
    },
}

/// What mode Hold says to a change.
#[derive(Clone, Debug, PartialEq)]
enum Judgement<'s> {
    /// Nothing: other rules decide.
    Nothing,
    /// This is to be written.
    Wanted(Wanted),
    /// It cannot be held: why, and what would help.
    Refused(&'s PolicyView, String, &'static str),
}

/// What is to be written for a request by anybody but us, where Hold has a word in it.
pub fn wanted(snapshot: &Snapshot, review: &Review<'_>) -> Option<Wanted> {
    let Subject::Workload(change) = &review.subject else { return None };
    let (old, new) = (change.old.as_ref()?, change.new.as_ref()?);
    let view = snapshot.namespace(&review.namespace).filter(|_| snapshot.synced())?;
    match judge(view, &review.user, old, new) {
        Judgement::Wanted(wanted) if view.governed() => Some(wanted),
        _ => None,
    }
}

/// Whether Git, or whoever else, tries to bring a Deployment back to the template that its Upgrade
/// is being taken back from: it is held again in a moment, and until then kept as it is.
pub fn comes_back<'s>(snapshot: &'s Snapshot, review: &Review<'_>) -> Option<&'s str> {
    let Subject::Workload(change) = &review.subject else { return None };
    let (old, new) = (change.old.as_ref()?, change.new.as_ref()?);
    let view = snapshot.namespace(&review.namespace)?;
    let upgrade = view.upgrade(old.in_flight().filter(|_| old.held().is_none())?)?;
    let target = upgrade.targets.iter().find(|t| t.kind == new.kind && t.name == *new.name)?;
    let goes_to = |c: &ImageChange| {
        let image = new.images.iter().find(|i| i.container == c.container.as_str());
        image.is_some_and(|i| crate::image::same(&i.image, &c.to))
    };
    let back = upgrade.held && upgrade.phase == crate::api::Phase::RollingBack;
    (back && target.images.iter().all(goes_to)).then_some(upgrade.name.as_str())
}

fn judge<'s>(
    view: &'s NamespaceView,
    user: &User<'_>,
    old: &Workload<'_>,
    new: &Workload<'_>,
) -> Judgement<'s> {
    if new.kind != WorkloadKind::Deployment {
        return Judgement::Nothing;
    }
    let entry = view.entry(new.kind, &new.name);
    let approved = entry.is_some_and(|e| new.runs(e));
    let held = match (old.held(), old.in_flight()) {
        (Some(held), Some(upgrade)) => Some((held, upgrade.to_owned())),
        (_, Some(_)) => return Judgement::Nothing,
        _ => None,
    };
    match &held {
        Some((_, upgrade)) if same_json(old.template, new.template) => {
            return Judgement::Wanted(Wanted::Stay { upgrade: upgrade.clone() });
        }
        Some((held, upgrade)) if approved => {
            let (upgrade, paused) = (upgrade.clone(), held.paused);
            return Judgement::Wanted(Wanted::Release { upgrade, paused });
        }
        None if approved || !differ(&old.images, &new.images) => return Judgement::Nothing,
        _ => {}
    }
    let now = view.policy(new.kind, &new.name, &new.labels);
    let before = view.policy(old.kind, &old.name, &old.labels);
    let Some(policy) = stricter(now, before).filter(|p| p.spec.mode == Mode::Hold) else {
        return Judgement::Nothing;
    };
    let upgrade = name(old, new);
    let waits_for = held.as_ref().map(|(_, upgrade)| upgrade.as_str());
    if let Err((why, help)) = holdable(view, old, new, entry, waits_for, &upgrade) {
        return Judgement::Refused(policy, why, help);
    }
    let paused = held.map_or(old.guarded.paused.unwrap_or(false), |(held, _)| held.paused);
    Judgement::Wanted(Wanted::Hold { upgrade, held: Held { requester: user.identity(), paused } })
}

/// Name of the Upgrade for this change: what the template is becomes a part of the plan hash, so
/// that an approval covers all of it and not the images alone; and the same change made a second
/// time, after it was taken back, is another Upgrade.
fn name(old: &Workload<'_>, new: &Workload<'_>) -> String {
    let template = new.template.and_then(|t| serde_json::from_str::<Value>(t.get()).ok());
    let template = template.unwrap_or_default().to_string();
    let moment = &old.moment;
    let digest = Sha256::digest(format!("{}\n{}\n{template}", moment.uid, moment.generation));
    let mut hash = hex(digest.iter());
    hash.truncate(DIGITS);
    let mut head = new.name.to_string();
    head.truncate(LABEL - 1 - DIGITS);
    format!("{}-{hash}", head.trim_end_matches(['-', '.']))
}

/// Whether an Upgrade of this name can be one that Hold opened for the workload.
fn is_name(upgrade: &str, workload: &str) -> bool {
    upgrade.rsplit_once('-').is_some_and(|(head, hash)| {
        hash.len() == DIGITS && !head.is_empty() && workload.starts_with(head)
    })
}

/// Why the change cannot be held, and what would help.
fn holdable(
    view: &NamespaceView,
    old: &Workload<'_>,
    new: &Workload<'_>,
    entry: Option<&LedgerEntry>,
    waits_for: Option<&str>,
    upgrade: &str,
) -> Result<(), (String, &'static str)> {
    let Some(entry) = entry else {
        let why = "the ledger does not know yet what it is approved to run".to_owned();
        return Err((why, "try again in a few seconds"));
    };
    if old.moment.replicas < 1 || new.moment.replicas < 1 {
        let why = "it has no replicas, and at 0 nobody can tell which of two templates is the one \
                   that serves"
            .to_owned();
        return Err((why, "scale it up first, in a change of its own, or start an Upgrade"));
    }
    let changes = deltas(&images(entry), &new.images);
    let odd = |d: &&super::workload::ImageDelta| {
        d.from.is_none() || d.to.is_none() || d.container.contains(':')
    };
    if let Some(delta) = changes.iter().find(odd) {
        let why = format!("`{}` comes, goes or is an image volume", delta.container);
        let help = "an Upgrade of this version changes images of containers that stay: make that \
                    change while no policy selects the workload";
        return Err((why, help));
    }
    if waits_for.is_none() && !old.moment.rolled_out {
        let why = "its present rollout is not complete, and paused in the middle it would stay so";
        return Err((why.to_owned(), "try again when `kubectl rollout status` says that it is"));
    }
    if waits_for == Some(upgrade) {
        let why = format!("the name of Upgrade {upgrade} is taken");
        return Err((why, "change anything in the template and try again"));
    }
    let other = |u: &&super::snapshot::UpgradeView| {
        let held_before = u.held && is_name(&u.name, &new.name) && !u.phase.is_in_flight();
        waits_for != Some(u.name.as_str()) && !held_before
    };
    match view.open_upgrades(new.kind, &new.name).find(other) {
        Some(open) => Err((
            format!("{} has it", waiting(open)),
            "wait for that Upgrade or abort it, then make the change again",
        )),
        None => Ok(()),
    }
}

fn images(entry: &LedgerEntry) -> Vec<Image<'_>> {
    let image = |i: &'_ crate::api::ledger::ContainerImage| Image {
        container: i.container.clone().into(),
        image: i.image.clone().into(),
    };
    let mut all: Vec<_> = entry.images.iter().map(image).collect();
    all.sort_unstable();
    all
}

/// Whether our own write lets a held object go on: what it runs then changes, though no image of
/// the object does.
pub(super) fn begins(old: &Workload<'_>, new: &Workload<'_>) -> bool {
    old.held().is_some() && (new.held().is_none() || new.guarded.paused != Some(true))
}

/// The verdict on an UPDATE, where Hold has a word in it.
pub(super) fn decide(
    place: &Place<'_>,
    user: &User<'_>,
    old: &Workload<'_>,
    new: &Workload<'_>,
) -> Option<Verdict> {
    if place.own {
        return own(place, old, new);
    }
    match judge(place.view, user, old, new) {
        Judgement::Refused(policy, why, help) => {
            Some(refuse(place, policy, new, &why, help).into())
        }
        Judgement::Wanted(wanted) if shows(&wanted, old, new) => Some(Verdict::Allow),
        // The rules for objects in flight say it better.
        Judgement::Nothing | Judgement::Wanted(Wanted::Stay { .. }) => None,
        Judgement::Wanted(_) => Some(not_stamped(place, new).into()),
    }
}

/// Whether the object is as it is to be.
fn shows(wanted: &Wanted, old: &Workload<'_>, new: &Workload<'_>) -> bool {
    let paused = new.guarded.paused.unwrap_or(false);
    match wanted {
        Wanted::Hold { upgrade, held } => {
            paused && new.in_flight() == Some(upgrade) && new.held().as_ref() == Some(held)
        }
        Wanted::Release { paused: was, .. } => {
            paused == *was && new.in_flight().is_none() && new.held.is_none()
        }
        Wanted::Stay { upgrade } => {
            paused && new.in_flight() == Some(upgrade) && new.held == old.held
        }
    }
}

/// Our own controller begins what is held, or puts the approved images back.
fn own(place: &Place<'_>, old: &Workload<'_>, new: &Workload<'_>) -> Option<Verdict> {
    let upgrade = old.in_flight().filter(|_| old.held().is_some())?;
    let entry = place.view.entry(new.kind, &new.name);
    if entry.is_some_and(|e| new.runs(e)) || !begins(old, new) {
        return Some(Verdict::Allow);
    }
    let Some(entry) = entry else {
        let refusal = Refusal::new(
            Reason::NotCovered,
            format!("{} {}/{} may not begin what is held", new.kind, place.namespace, new.name),
            "the ledger does not know what it is approved to run",
            "the controller tries again when it does",
        );
        return Some(refusal.run(format!("kubectl upgrade status {upgrade}")).into());
    };
    let changes = deltas(&images(entry), &new.images);
    Some(question(place, new, upgrade, changes).into())
}

fn refuse(
    place: &Place<'_>,
    policy: &PolicyView,
    new: &Workload<'_>,
    why: &str,
    help: &'static str,
) -> Refusal {
    Refusal::new(
        Reason::UpgradeRequired,
        format!("{} {}/{}: the change cannot be held", new.kind, place.namespace, new.name),
        format!("{why}; policy `{}` governs this workload", policy.name),
        help,
    )
    .run(format!("kubectl upgrade status -n {}", place.namespace))
}

fn not_stamped(place: &Place<'_>, new: &Workload<'_>) -> Refusal {
    Refusal::new(
        Reason::NotHeld,
        format!(
            "{} {}/{}: the change passes only paused, with the marks of who made it",
            new.kind, place.namespace, new.name
        ),
        format!(
            "spec.paused, the label {IN_FLIGHT_LABEL} and the annotation {} are written at \
             admission, and they are not what they should be: the mutating webhook did not answer, \
             or another one changed the object after it",
            crate::api::HELD_ANNOTATION
        ),
        "nothing was changed; try again",
    )
    .run("kubectl get mutatingwebhookconfiguration kubectl-upgrade")
}

/// The Upgrade that carries a held change out, from the ledger's images to those of the template.
///
/// `images` are the template's, by container. `None` where the two are the same.
pub fn upgrade(
    policy: &PolicyView,
    entry: &LedgerEntry,
    name: &str,
    held: &Held,
    images: &[(String, String)],
) -> Option<Upgrade> {
    let changes: Vec<ImageChange> = images
        .iter()
        .filter_map(|(container, to)| {
            let from = &entry.images.iter().find(|e| e.container == *container)?.image;
            (!crate::image::same(from, to)).then(|| ImageChange {
                container: container.clone(),
                from: from.clone(),
                to: to.clone(),
            })
        })
        .collect();
    let version = |image: &String| {
        Reference::parse(image).ok().map(|i| i.version()).filter(|v| (1..=128).contains(&v.len()))
    };
    let first = changes.first()?;
    let settings = policy.spec.hold.clone().unwrap_or_default();
    let rolling = || Strategy { rolling: Some(Rolling {}), ..Strategy::default() };
    let spec = UpgradeSpec {
        from: version(&first.from),
        to: version(&first.to),
        stages: vec![Stage {
            name: "held".to_owned(),
            workloads: Some(WorkloadsStage {
                strategy: settings.strategy.unwrap_or_else(rolling),
                targets: vec![WorkloadTarget {
                    kind: WorkloadKind::Deployment,
                    name: entry.name.clone(),
                    images: changes,
                }],
                ..WorkloadsStage::default()
            }),
            ..Stage::default()
        }],
        auto_rollback: settings.auto_rollback,
        held: true,
        requester: Some(held.requester.clone()),
        ..UpgradeSpec::default()
    };
    Some(Upgrade::new(name, spec))
}
