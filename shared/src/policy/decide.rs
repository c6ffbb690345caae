//! The table of contents: from request to rule, from question to answer.

use super::modes::{self, Note};
use super::question::{Answers, Granted, Labelled, LabelsOf, Live, Question, Seen, Topic};
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review, Subject};
use super::snapshot::{NamespaceView, PolicyView, Snapshot, stricter};
use super::workload::{Workload, differ};
use super::{
    analysis, approvals, create, declared, ephemeral, hold, identities, images, inflight, rules,
    upgrades,
};
use crate::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE};
use crate::windows::Window;
use jiff::Timestamp;

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It passes, and somebody is told that a rule is against it.
    Noted(Box<Note>),
    /// It is refused.
    Deny(Box<Refusal>),
    /// It passes if what the question asks for, read live, says so; see [`confirm`].
    Confirm(Box<Question>),
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::Deny(Box::new(refusal))
    }
}

impl From<Note> for Verdict {
    fn from(note: Note) -> Self {
        Self::Noted(Box::new(note))
    }
}

impl From<Question> for Verdict {
    fn from(question: Question) -> Self {
        Self::Confirm(Box::new(question))
    }
}

/// Decides one request.
///
/// What is not known is refused where it concerns an image or one of our own objects, and allowed
/// where it does not: no state of the snapshot ever stops scaling, status writes or pods being
/// replaced by their controllers. `now` is what windows are asked about.
pub fn decide(snapshot: &Snapshot, review: &Review<'_>, now: Timestamp) -> Verdict {
    match &review.subject {
        Subject::Workload(change) => workload(snapshot, review, change, now),
        Subject::Upgrade(change) => upgrades::decide(snapshot, review, change),
        Subject::Approval(change) => approvals::decide(snapshot, review, change),
        Subject::Schedule(change) => declared::schedule(snapshot, review, change),
        Subject::Window(change) => declared::window(review, change),
        Subject::Matrix(change) => declared::matrix(review, change),
        Subject::Analysis(change) => analysis::decide(review, change),
        Subject::Ledger => ledger(snapshot, review),
        Subject::Other => Verdict::Allow,
    }
}

/// Ends a question: `Ok` lets the request pass.
///
/// An answer that is missing or failed is a refusal, never a pass.
pub fn confirm(question: &Question, answers: &Answers) -> Result<(), Box<Refusal>> {
    rights(question, question.access.len(), &answers.access)?;
    rights(question, question.templates.len(), &answers.templates)?;
    let live = match (&question.upgrade, &answers.upgrade) {
        (None, _) => None,
        (Some(_), Live::Found(upgrade)) => Some(upgrade.as_ref()),
        (Some(r), Live::Missing) => return Err(upgrades::missing(&r.namespace, &r.name).into()),
        (Some(r), Live::Failed(why)) => {
            return Err(
                unconfirmed(&format!("reading Upgrade {}/{}", r.namespace, r.name), why).into()
            );
        }
        (Some(r), Live::NotAsked) => {
            let what = format!("reading Upgrade {}/{}", r.namespace, r.name);
            return Err(unconfirmed(&what, "it was never read").into());
        }
    };
    let nothing = Labelled::new();
    let labels = match (&question.labels, &answers.labels) {
        (LabelsOf::Nothing, _) => &nothing,
        (_, Seen::Found(labels)) => labels,
        (_, Seen::Failed(why)) => return Err(unconfirmed("reading the workloads", why).into()),
        (_, Seen::NotAsked) => {
            return Err(unconfirmed("reading the workloads", "they were never read").into());
        }
    };
    match (&question.topic, live) {
        (Topic::Rights { .. }, _) => Ok(()),
        (Topic::Start(topic), _) => rules::confirm(topic, labels),
        (Topic::Images(topic), Some(live)) => images::confirm(topic, live),
        (Topic::Approval(topic), Some(live)) => approvals::confirm(topic, live, labels),
        (_, None) => Err(unconfirmed("confirming the request", "the Upgrade was not read").into()),
    }
}

fn rights(question: &Question, asked: usize, answers: &[Granted]) -> Result<(), Box<Refusal>> {
    if answers.len() != asked {
        return Err(unconfirmed("checking your rights", "an access review is missing").into());
    }
    for answer in answers {
        match answer {
            Granted::Yes => {}
            Granted::No(missing) => return Err(question.topic.lacks(missing).into()),
            Granted::Failed(why) => return Err(unconfirmed("checking your rights", why).into()),
        }
    }
    Ok(())
}

/// A refusal because a live read failed.
fn unconfirmed(what: &str, why: &str) -> Refusal {
    Refusal::new(
        Reason::Unconfirmed,
        format!("the request could not be confirmed: {what} failed"),
        why,
        "nothing was changed; try again, and look at the upgrade-webhook's log if it stays so",
    )
}

/// A refusal because the stores are not filled yet.
pub(super) fn not_ready(what: &str) -> Refusal {
    Refusal::new(
        Reason::NotReady,
        format!("{what}: the upgrade-webhook does not know the cluster's policies yet"),
        "it was started moments ago or cannot watch the API server, and what it does not know \
         it does not allow",
        "try again in a few seconds; if it stays so, its log says what it waits for",
    )
    .run(format!("kubectl logs -n {SYSTEM_NAMESPACE} deploy/{SERVICE_ACCOUNT}"))
}

/// What the rules for workloads look at.
pub(super) struct Place<'s> {
    pub view: &'s NamespaceView,
    pub namespace: &'s str,
    /// The requester is our own service account.
    pub own: bool,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Every maintenance window.
    pub windows: &'s [Window],
    /// The time of the request.
    pub now: Timestamp,
}

fn workload(
    snapshot: &Snapshot,
    review: &Review<'_>,
    change: &Change<Workload<'_>>,
    now: Timestamp,
) -> Verdict {
    // Status and scale cannot carry an image; ephemeral containers can.
    if !matches!(&*review.subresource, "" | "ephemeralcontainers") {
        return Verdict::Allow;
    }
    let own = snapshot.is_own(&review.user.username);
    let (old, new) = match (review.operation, &change.old, &change.new) {
        (Operation::Create, _, Some(new)) => (None, new),
        (Operation::Update, Some(old), Some(new)) => (Some(old), new),
        _ => return Verdict::Allow,
    };
    let Some(old) = old else {
        if identities::creates(&review.user.username, new.kind) {
            return Verdict::Allow;
        }
        return match place(snapshot, review, own, now) {
            Some(place) => modes::apply(&place, None, new, create::decide(&place, new)),
            None => {
                not_ready(&format!("{} {} cannot be created now", new.kind, review.named())).into()
            }
        };
    };
    let tampering = if own { None } else { inflight::tampering(old, new) };
    let images = differ(&old.images, &new.images);
    let begins = own && hold::begins(old, new);
    if tampering.is_none() && !images && !begins {
        return Verdict::Allow;
    }
    let Some(place) = place(snapshot, review, own, now) else {
        return not_ready(&format!("{} {} cannot be changed now", new.kind, review.named())).into();
    };
    if !place.view.governed() {
        return Verdict::Allow;
    }
    if let Some(verdict) = hold::decide(&place, &review.user, old, new) {
        return verdict;
    }
    match tampering {
        Some(tampering) => inflight::refuse(&place, new, &tampering).into(),
        None if review.subresource == "ephemeralcontainers" => ephemeral::decide(&place, old, new),
        None => modes::apply(&place, Some(old), new, images::decide(&place, old, new)),
    }
}

fn place<'s>(
    snapshot: &'s Snapshot,
    review: &'s Review<'_>,
    own: bool,
    now: Timestamp,
) -> Option<Place<'s>> {
    let namespace = &*review.namespace;
    let view = snapshot.namespace(namespace).filter(|_| snapshot.synced())?;
    Some(Place { view, namespace, own, dry_run: review.dry_run, windows: snapshot.windows(), now })
}

impl<'s> Place<'s> {
    /// The policy that governs a workload.
    ///
    /// The labels before the change count as well as those after it, and the stricter answer holds.
    pub fn policy(&self, old: Option<&Workload<'_>>, new: &Workload<'_>) -> Option<&'s PolicyView> {
        let now = self.view.policy(new.kind, &new.name, &new.labels);
        let before = old.and_then(|o| self.view.policy(o.kind, &o.name, &o.labels));
        stricter(now, before)
    }
}

fn ledger(snapshot: &Snapshot, review: &Review<'_>) -> Verdict {
    let user = &*review.user.username;
    let collects = review.operation == Operation::Delete && identities::collects_garbage(user);
    if snapshot.is_own(user) || collects {
        return Verdict::Allow;
    }
    Refusal::new(
        Reason::ControllerOnly,
        format!("UpgradeLedger {} is written by the upgrade controller alone", review.named()),
        format!("`{user}` asked, and the ledger is what a deleted and created workload is checked against"),
        "an entry changes when an Upgrade of its workload completes",
    )
    .run(format!("kubectl upgrade status -n {}", review.namespace))
    .into()
}
