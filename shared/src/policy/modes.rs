//! What a policy's mode makes of a refusal: some pass, with words to whom they concern.

use super::create;
use super::decide::{Place, Verdict};
use super::refusal::{Reason, Refusal};
use super::snapshot::PolicyView;
use super::workload::Workload;
use crate::api::policy::DryRun;
use crate::api::{LedgerEntry, Mode};

/// Longest warning in bytes; API servers cut what is longer.
pub const LONGEST_WARNING: usize = 256;

/// A request that passes although a rule is against it, because its policy says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Who is told.
    pub manner: Manner,
    /// The policy that lets it pass.
    pub policy: String,
    /// What it would else be refused with.
    pub refusal: Refusal,
}

/// Who is told of a request that passes although a rule is against it. The order is that of
/// loudness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// The audit log and the metrics.
    Audit,
    /// Whoever made the request, too.
    Warn,
}

impl Manner {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }

    /// What a policy says of a request that a rule is against; `None` is a refusal.
    pub(super) fn of(policy: &PolicyView, dry_run: bool) -> Option<Self> {
        match policy.spec.mode {
            Mode::Audit => Some(Self::Audit),
            Mode::Warn => Some(Self::Warn),
            Mode::Deny if dry_run && policy.spec.dry_run == DryRun::Warn => Some(Self::Warn),
            Mode::Deny | Mode::Hold => None,
        }
    }
}

impl Note {
    /// The warning to whoever asked: what the refusal would say, its command whole where it fits,
    /// [`LONGEST_WARNING`] bytes at most and without control characters.
    pub fn warning(&self) -> String {
        let Refusal { reason, what, command, .. } = &self.refusal;
        let text = |s: &str| s.chars().filter(|c| !c.is_control()).collect::<String>();
        let head = text(&format!("policy `{}` is against this ({reason}): {what}", self.policy));
        let tail = command.as_ref().map(|c| text(&format!("; run: {c}"))).unwrap_or_default();
        if head.len() + tail.len() <= LONGEST_WARNING {
            return head + &tail;
        }
        match LONGEST_WARNING.checked_sub(tail.len() + "…".len()) {
            Some(left) if left > LONGEST_WARNING / 4 => format!("{}…{tail}", cut(&head, left)),
            _ => format!("{}…", cut(&(head + &tail), LONGEST_WARNING - "…".len())),
        }
    }
}

/// The longest start of a text with at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let mut ends = (0..=most.min(text.len())).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or_default()
}

/// Whether a policy's mode may let pass what is refused for this reason. Objects in flight and our
/// own kinds are refused in every mode, and so is what is not known.
fn is_for_the_mode(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UpgradeRequired
            | Reason::LedgerMismatch
            | Reason::FirstInstall
            | Reason::SelectorTaken
            | Reason::EphemeralContainerNotAllowed
    )
}

/// The verdict on a workload that a rule is against.
pub(super) fn apply(
    place: &Place<'_>,
    old: Option<&Workload<'_>>,
    new: &Workload<'_>,
    verdict: Verdict,
) -> Verdict {
    let Verdict::Deny(refusal) = verdict else { return verdict };
    if place.own || !is_for_the_mode(refusal.reason) {
        return Verdict::Deny(refusal);
    }
    if refusal.reason == Reason::SelectorTaken {
        return intrusion(place, new, *refusal);
    }
    let Some((policy, manner)) = lenient(place, place.policy(old, new)) else {
        return Verdict::Deny(refusal);
    };
    // One policy's leniency is no permission to take the pods of a workload under another.
    if let Some(taken) = create::intrusion(place, new)
        && let Verdict::Deny(taken) = intrusion(place, new, taken)
    {
        return Verdict::Deny(taken);
    }
    Note { manner, policy: policy.name.clone(), refusal: *refusal }.into()
}

/// Pods in others' selectors pass where the policy of every one of these workloads lets them.
fn intrusion(place: &Place<'_>, new: &Workload<'_>, refusal: Refusal) -> Verdict {
    let mut loudest: Option<(&PolicyView, Manner)> = None;
    let taken = place.view.selecting(&new.pod_labels);
    let other = |e: &&LedgerEntry| e.kind != new.kind || *e.name != *new.name;
    let taken = taken.filter(|e| other(e) && !new.runs(e));
    for entry in taken {
        match lenient(place, place.view.policy_of(entry.kind, &entry.name)) {
            Some(this) if loudest.is_none_or(|(_, manner)| this.1 > manner) => loudest = Some(this),
            Some(_) => {}
            None => return refusal.into(),
        }
    }
    match loudest {
        Some((policy, manner)) => Note { manner, policy: policy.name.clone(), refusal }.into(),
        None => refusal.into(),
    }
}

fn lenient<'s>(
    place: &Place<'s>,
    policy: Option<&'s PolicyView>,
) -> Option<(&'s PolicyView, Manner)> {
    policy.and_then(|p| Manner::of(p, place.dry_run).map(|manner| (p, manner)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(what: &str, command: Option<&str>) -> Note {
        let refusal = Refusal::new(Reason::UpgradeRequired, what, "why", "help");
        let refusal = Refusal { command: command.map(str::to_owned), ..refusal };
        Note { manner: Manner::Warn, policy: "all".into(), refusal }
    }

    #[test]
    fn a_warning_says_what_the_refusal_would_say() {
        assert_eq!(
            note("web: no", Some("kubectl upgrade start deploy/web")).warning(),
            "policy `all` is against this (UpgradeRequired): web: no; run: kubectl upgrade start deploy/web"
        );
        let long = note(&"w\n".repeat(400), Some("kubectl upgrade start deploy/web")).warning();
        assert_eq!(long.len(), LONGEST_WARNING);
        assert!(long.ends_with("w…; run: kubectl upgrade start deploy/web"), "{long}");
        let command = "c".repeat(400);
        let long = note("web: no", Some(&command)).warning();
        assert!(long.len() == LONGEST_WARNING && long.ends_with("c…"), "{long}");
    }

    proptest! {
        #[test]
        fn no_warning_is_too_long(what in ".{0,400}", command in proptest::option::of(".{0,400}")) {
            let warning = note(&what, command.as_deref()).warning();
            prop_assert!(warning.len() <= LONGEST_WARNING, "{} bytes", warning.len());
            prop_assert!(!warning.contains(char::is_control), "{warning:?}");
        }
    }
}
