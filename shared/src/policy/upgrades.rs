//! Upgrades: who starts, steers and deletes them.

use super::decide::{Verdict, not_ready};
use super::images::waiting;
use super::orders;
use super::question::{Access, AccessNeed, LabelsOf, Question, StartTopic, Topic};
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review};
use super::snapshot::{Snapshot, UpgradeView, targets};
use super::{analysis, identities, jobs, jump};
use crate::api::upgrade::{Control, OnConflict, WorkloadTarget};
use crate::api::{FINALIZER, Identity, Upgrade, WorkloadKind};
use crate::image::same;

/// A write to an Upgrade or its status.
pub fn decide(snapshot: &Snapshot, review: &Review<'_>, change: &Change<Upgrade>) -> Verdict {
    if snapshot.is_own(&review.user.username) {
        return match (review.operation, &change.new) {
            (Operation::Create, Some(new)) if review.subresource.is_empty() => {
                create_for(snapshot, review, new)
            }
            _ => Verdict::Allow,
        };
    }
    if review.subresource == "status" {
        return status(review).into();
    }
    match (review.operation, &change.old, &change.new) {
        (Operation::Create, _, Some(new)) => create(snapshot, review, new),
        (Operation::Update, Some(old), Some(new)) => update(snapshot, review, old, new),
        (Operation::Delete, Some(old), _) => delete(review, old),
        (Operation::Delete, None, _) => unread(review).into(),
        _ => Verdict::Allow,
    }
}

fn status(review: &Review<'_>) -> Refusal {
    Refusal::new(
        Reason::ControllerOnly,
        format!(
            "the status of Upgrade {} is written by the upgrade controller alone",
            review.named()
        ),
        format!("`{}` asked, and the status says what was approved and done", review.user.username),
        "an Upgrade is steered by its verbs: pause, resume, promote, abort, retry, approve, reject",
    )
    .run(format!("kubectl upgrade status {} -n {}", review.name, review.namespace))
}

fn create(snapshot: &Snapshot, review: &Review<'_>, new: &Upgrade) -> Verdict {
    let object = format!("Upgrade {}/{}", review.namespace, name(review, new));
    if let Err(refusal) = identity(review, new.spec.requester.as_ref(), &object, "spec.requester") {
        return refusal.into();
    }
    if let Some(refusal) = preset(review, new, &object).or_else(|| opened(review, new, &object)) {
        return refusal.into();
    }
    if let Some(refusal) = idle(review, new, &object) {
        return refusal.into();
    }
    if let Some(verdict) = orders::decide(snapshot, review, None, new, false) {
        return verdict;
    }
    if !snapshot.synced() {
        return not_ready(&format!("{object} cannot be created now")).into();
    }
    if let Some(refusal) = busy(snapshot, review, new, &object) {
        return refusal.into();
    }
    may_change(snapshot, review, new, None)
}

/// Our own controller opens an Upgrade in somebody's name: it is nobody's deputy, so the rights
/// must be theirs. That one of another name has the workload is for the engine to see: what is
/// held carries this one's label already.
fn create_for(snapshot: &Snapshot, review: &Review<'_>, new: &Upgrade) -> Verdict {
    let object = format!("Upgrade {}/{}", review.namespace, name(review, new));
    if !snapshot.synced() {
        return not_ready(&format!("{object} cannot be created now")).into();
    }
    if let Some(refusal) = preset(review, new, &object).or_else(|| idle(review, new, &object)) {
        return refusal.into();
    }
    match &new.spec.requester {
        Some(requester) => may_change(snapshot, review, new, Some(requester.clone())),
        None => Refusal::new(
            Reason::IdentityMismatch,
            format!("{object} does not say who asks for it"),
            "the controller opens Upgrades in the name of a person only, and spec.requester is absent",
            "a defect of the controller: report it, please",
        )
        .run(format!("kubectl upgrade status -n {}", review.namespace))
        .into(),
    }
}

/// What the Upgrade will do, its requester could have done by hand: patch every target.
fn may_change(
    snapshot: &Snapshot,
    review: &Review<'_>,
    new: &Upgrade,
    of: Option<Identity>,
) -> Verdict {
    let object = format!("Upgrade {}/{}", review.namespace, name(review, new));
    let Some(view) = snapshot.shared_namespace(&review.namespace) else {
        return not_ready(&format!("{object} cannot be created now")).into();
    };
    let username =
        of.as_ref().map_or_else(|| review.user.username.to_string(), |i| i.username.clone());
    let mut workloads: Vec<_> = targets(new).map(|t| (t.kind, t.name.clone())).collect();
    workloads.sort_unstable();
    workloads.dedup();
    let mut access = needs(&review.namespace, &workloads);
    access.extend(superseded(snapshot, review, new).map(AccessNeed::One));
    access.extend(services(&review.namespace, new));
    access.extend(super::traffic::needs(new, &review.namespace));
    access.extend(jobs::rights(new, &review.namespace));
    access.extend(super::separate::rights(new, &review.namespace));
    let labels = if view.governed() {
        LabelsOf::Named { namespace: review.namespace.to_string(), workloads }
    } else {
        LabelsOf::Nothing
    };
    Question {
        upgrade: None,
        access,
        labels,
        templates: analysis::uses(new, &review.namespace),
        on_behalf_of: of,
        topic: Topic::Start(StartTopic { object, username, spec: new.spec.clone(), view }),
    }
    .into()
}

/// The right to end each Upgrade that a new one supersedes.
fn superseded<'a>(
    snapshot: &'a Snapshot,
    review: &'a Review<'_>,
    new: &'a Upgrade,
) -> impl Iterator<Item = Access> + 'a {
    let supersedes = new.spec.on_conflict == Some(OnConflict::Supersede);
    let mine = name(review, new);
    let taken = move |u: &&UpgradeView| {
        u.is_open() && u.name != mine && targets(new).any(|t| u.has(t.kind, &t.name))
    };
    let others = supersedes.then(|| snapshot.upgrades(&review.namespace).filter(taken));
    others.into_iter().flatten().map(|u| Access::upgrade("abort", &review.namespace, &u.name))
}

/// Rights to patch workloads, and to delete pods where their replacement is not left to the native
/// controller alone.
fn needs(namespace: &str, workloads: &[(WorkloadKind, String)]) -> Vec<AccessNeed> {
    let access = |verb, group, resource, name| Access {
        verb,
        group,
        resource,
        namespace: namespace.to_owned(),
        name,
    };
    let mut kinds: Vec<_> = workloads.iter().map(|(kind, _)| *kind).collect();
    kinds.dedup();
    let mut needs: Vec<AccessNeed> = kinds
        .iter()
        .map(|kind| {
            let patch = |name| access("patch", "apps", kind.plural(), name);
            let mine = workloads.iter().filter(|(k, _)| k == kind);
            let each = mine.map(|(_, name)| patch(Some(name.clone()))).collect();
            AccessNeed::WholeOrEach { whole: patch(None), each }
        })
        .collect();
    if kinds.iter().any(|k| *k != WorkloadKind::Deployment) {
        needs.push(AccessNeed::One(access("delete", "", "pods", None)));
    }
    needs
}

/// The rights to the Services that blue-green stages switch, and make for a preview.
fn services(namespace: &str, new: &Upgrade) -> Vec<AccessNeed> {
    let stages = new.spec.stages.iter().filter_map(|s| s.workloads.as_ref());
    let settings: Vec<_> = stages.filter_map(|w| w.strategy.blue_green.as_ref()).collect();
    let right = |verb: &'static str, name: Option<String>| Access {
        verb,
        group: "",
        resource: "services",
        namespace: namespace.to_owned(),
        name,
    };
    // With a router the active Service is not written.
    let named = settings.iter().flat_map(|s| {
        let active = s.traffic_routing.is_none().then_some(&s.active_service);
        [active, s.preview_service.as_ref()].into_iter().flatten()
    });
    let mut each: Vec<_> = named.map(|name| right("patch", Some(name.clone()))).collect();
    each.dedup();
    let mut needs = Vec::new();
    if !each.is_empty() {
        needs.push(AccessNeed::WholeOrEach { whole: right("patch", None), each });
    }
    let made: Vec<String> =
        settings.iter().map(|s| s.preview()).filter(|p| p.1).map(|p| p.0).collect();
    if !made.is_empty() {
        // A create cannot be limited by name.
        needs.push(AccessNeed::One(right("create", None)));
        for verb in ["patch", "delete"] {
            let each = made.iter().map(|name| right(verb, Some(name.clone()))).collect();
            needs.push(AccessNeed::WholeOrEach { whole: right(verb, None), each });
        }
    }
    needs
}

/// The refusal of an Upgrade that says that mode Hold opened it.
fn opened(review: &Review<'_>, new: &Upgrade, object: &str) -> Option<Refusal> {
    if !new.spec.held {
        return None;
    }
    let refusal = Refusal::new(
        Reason::ControllerOnly,
        format!("{object} may not be created with spec.held"),
        "the upgrade controller alone sets it, on Upgrades that it opens for held Deployments",
        "create it without spec.held; a Deployment that is held gets its Upgrade by itself",
    );
    Some(refusal.run(format!("kubectl upgrade status -n {}", review.namespace)))
}

/// The refusal of an Upgrade that brings its orders along: they are no part of what is approved,
/// and each is a right of its own.
fn preset(review: &Review<'_>, new: &Upgrade, object: &str) -> Option<Refusal> {
    let none = Control::default();
    if new.spec.control.as_ref().is_none_or(|c| *c == none) {
        return None;
    }
    let refusal = Refusal::new(
        Reason::OrdersPreset,
        format!("{object} may not be created with spec.control"),
        "orders are given to an Upgrade under way, by those who have the right to",
        "create it without spec.control; then promote, abort or retry it",
    );
    Some(refusal.run(format!(
        "kubectl upgrade promote {} -n {}",
        name(review, new),
        review.namespace
    )))
}

/// The refusal of an Upgrade from an image to itself.
fn idle(review: &Review<'_>, new: &Upgrade, object: &str) -> Option<Refusal> {
    let idle = |t: &&WorkloadTarget| t.images.iter().any(|i| same(&i.from, &i.to));
    let target = targets(new).find(idle)?;
    let (kind, name) = (target.kind, &target.name);
    let refusal = Refusal::new(
        Reason::NothingChanges,
        format!("{object} may not be created: it would not change {kind} {name}"),
        "`from` and `to` of one of its images name the same image",
        "leave that image out, or give the image to run in `to`",
    );
    let resource = kind.resource();
    Some(refusal.run(format!("kubectl get {resource} {name} -n {} -o wide", review.namespace)))
}

/// The refusal of an Upgrade of a workload that is in another one.
fn busy(snapshot: &Snapshot, review: &Review<'_>, new: &Upgrade, object: &str) -> Option<Refusal> {
    let mine = name(review, new);
    let taken = |u: &&UpgradeView| {
        u.is_open() && u.name != mine && targets(new).any(|t| u.has(t.kind, &t.name))
    };
    if new.spec.on_conflict.unwrap_or_default() != OnConflict::Reject {
        return None;
    }
    let other = snapshot.upgrades(&review.namespace).find(taken)?;
    let target = targets(new).find(|t| other.has(t.kind, &t.name))?;
    let refusal = Refusal::new(
        Reason::WorkloadBusy,
        format!(
            "{object} may not be created: {} {} has an Upgrade already",
            target.kind, target.name
        ),
        format!("{} is not over", waiting(other)),
        "a workload is in one Upgrade at a time: wait for it to end, or abort it",
    );
    let command = format!("kubectl upgrade status {} -n {}", other.name, review.namespace);
    Some(refusal.run(command))
}

fn update(snapshot: &Snapshot, review: &Review<'_>, old: &Upgrade, new: &Upgrade) -> Verdict {
    if let Some(refusal) = finalizer(review, old, new) {
        return refusal.into();
    }
    let none = Control::default();
    let (was, is) =
        (old.spec.control.as_ref().unwrap_or(&none), new.spec.control.as_ref().unwrap_or(&none));
    let verbs = [
        ("pause", old.spec.paused != new.spec.paused),
        ("abort", was.abort != is.abort),
        ("promote", was.promote != is.promote),
        ("retry", was.retry != is.retry),
    ];
    let wanted: Vec<_> =
        verbs.into_iter().filter(|(_, changed)| *changed).map(|(v, _)| v).collect();
    if let Some(verdict) = orders::decide(snapshot, review, Some(old), new, !wanted.is_empty()) {
        return verdict;
    }
    if wanted.is_empty() {
        return Verdict::Allow;
    }
    if let Some(refusal) = jump::astray(review, old, new, name(review, new)) {
        return refusal.into();
    }
    verbs_on(review, name(review, new), &wanted).into()
}

fn delete(review: &Review<'_>, old: &Upgrade) -> Verdict {
    let in_flight = old.status.as_ref().is_some_and(|s| s.phase.is_in_flight());
    if !in_flight || identities::collects_garbage(&review.user.username) {
        return Verdict::Allow;
    }
    verbs_on(review, name(review, old), &["abort"]).into()
}

fn verbs_on(review: &Review<'_>, name: &str, verbs: &[&'static str]) -> Question {
    let access = |verb| AccessNeed::One(Access::upgrade(verb, &review.namespace, name));
    Question {
        upgrade: None,
        access: verbs.iter().copied().map(access).collect(),
        labels: LabelsOf::Nothing,
        templates: Vec::new(),
        on_behalf_of: None,
        topic: rights(
            review,
            format!("{} Upgrade {}/{name}", verbs.join(" and "), review.namespace),
        ),
    }
}

fn finalizer(review: &Review<'_>, old: &Upgrade, new: &Upgrade) -> Option<Refusal> {
    let has = |u: &Upgrade| {
        u.metadata.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == FINALIZER))
    };
    let phase = old.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if !phase.is_in_flight() || !has(old) || has(new) {
        return None;
    }
    let name = name(review, old);
    let refusal = Refusal::new(
        Reason::FinalizerGuarded,
        format!(
            "the finalizer {FINALIZER} of Upgrade {}/{name} may not be removed",
            review.namespace
        ),
        format!(
            "it is {phase}: without the finalizer its workloads would keep the guarded fields for good"
        ),
        "abort it; the controller removes the finalizer when everything is put back",
    );
    Some(refusal.run(format!("kubectl upgrade abort {name} -n {}", review.namespace)))
}

/// Whether an identity field says who asks; admission stamps it, so it differs only when the
/// stamping webhook did not answer.
pub fn identity(
    review: &Review<'_>,
    written: Option<&Identity>,
    object: &str,
    field: &str,
) -> Result<(), Refusal> {
    let user = &review.user;
    let why = match written {
        Some(identity) if user.is(identity) => return Ok(()),
        Some(identity) => {
            format!("{field} says `{}`, and `{}` asked", identity.username, user.username)
        }
        None => format!("{field} was not stamped: the mutating webhook did not answer"),
    };
    let what = format!("{object} does not say who asks for it");
    let help = "leave the field out and try again: it is stamped at admission";
    let run = "kubectl get mutatingwebhookconfiguration kubectl-upgrade";
    Err(Refusal::new(Reason::IdentityMismatch, what, why, help).run(run))
}

/// An Upgrade that a request names does not exist.
pub fn missing(namespace: &str, name: &str) -> Refusal {
    Refusal::new(
        Reason::UpgradeNotFound,
        format!("there is no Upgrade {namespace}/{name}"),
        "the API server was asked just now",
        "check the name and the namespace; what a deleted Upgrade covered is covered no more",
    )
    .run(format!("kubectl upgrade status -n {namespace}"))
}

fn unread(review: &Review<'_>) -> Refusal {
    let what = format!("Upgrade {} may not be deleted", review.named());
    let why = "the request does not say what it is";
    Refusal::new(Reason::Malformed, what, why, "try again; the API server sends the old object")
}

fn rights(review: &Review<'_>, what: String) -> Topic {
    Topic::Rights { what, username: review.user.username.to_string() }
}

/// The name, also of an object that the request does not name (`generateName`).
fn name<'a>(review: &'a Review<'_>, object: &'a Upgrade) -> &'a str {
    match object.metadata.name.as_deref() {
        Some(name) if !name.is_empty() => name,
        _ => &review.name,
    }
}

impl Topic {
    /// The refusal for rights that the user lacks.
    pub(super) fn lacks(&self, missing: &[Access]) -> Refusal {
        let (what, username) = match self {
            Self::Rights { what, username } => (what.clone(), username.as_str()),
            Self::Start(s) => (format!("create {}", s.object), s.username.as_str()),
            Self::Approval(a) => (
                format!("say {:?} to Upgrade {}/{}", a.decision, a.namespace, a.upgrade),
                a.approver.username.as_str(),
            ),
            Self::Images(i) => (format!("change {} {}/{}", i.kind, i.namespace, i.name), ""),
        };
        let list: Vec<_> = missing.iter().take(5).map(ToString::to_string).collect();
        let more = if missing.len() > 5 { ", and more" } else { "" };
        let refusal = Refusal::new(
            Reason::AccessDenied,
            format!("`{username}` may not {what}"),
            format!("a SubjectAccessReview says no to {}{more}", list.join(", ")),
            "an administrator grants it by a Role and RoleBinding; it counts from the next request",
        );
        match missing.first() {
            Some(a) => refusal.run(format!(
                "kubectl auth can-i {} {}{} -n {}",
                a.verb,
                a.kind(),
                a.name.as_ref().map(|n| format!("/{n}")).unwrap_or_default(),
                a.namespace
            )),
            None => refusal,
        }
    }
}
