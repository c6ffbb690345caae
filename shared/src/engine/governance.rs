//! What the policies, windows and matrices ask of one Upgrade, made ready for the gates.

use crate::api::notification::Notification;
use crate::api::policy::{ApprovalScope, People};
use jiff::{SignedDuration, Timestamp};

/// Everything that others than its author ask of an Upgrade. The default asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Governance {
    /// Why a policy does not let it run as it is written.
    pub violation: Option<String>,
    /// Whose word it needs.
    pub approvals: Approvals,
    /// How long before its start it is announced.
    pub notice: Option<Announcement>,
    /// Who is told when it comes into a phase.
    pub notifications: Vec<Notification>,
    /// Maintenance windows and freezes.
    pub window: Door,
    /// The policy that lets no weight be rounded, where one does.
    pub exact_weights: Option<String>,
    /// Compatibility matrices, for the stages that are still to come.
    pub compatibility: Door,
    /// The matrices were not asked this time: no stage begins on what is observed here.
    pub unjudged: bool,
}

/// Whose word an Upgrade needs: the sum of what the policies of its targets ask for.
#[derive(Clone, Debug, Default)]
pub struct Approvals {
    /// How many people; 0 where no policy governs any target.
    pub required: i32,
    /// What one approval covers.
    pub per: ApprovalScope,
    /// Whose approvals count: those who are in every one of these, each with the index of the
    /// stage that asks for it.
    pub approvers: Vec<(usize, People)>,
    /// How long an approval counts.
    pub expires_after: Option<SignedDuration>,
    /// A retry needs new ones.
    pub single_use: bool,
}

/// An announcement and the time that has to pass after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// How long before the start.
    pub length: SignedDuration,
    /// What asks for it, for people: "policy `prod`: 48h for a new major version".
    pub why: String,
    /// Who is told.
    pub receivers: Vec<String>,
    /// Who has been told of this plan.
    pub told: Vec<String>,
}

/// Something that opens and shuts by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Door {
    /// Nothing is in the way.
    Open {
        /// What opened it, for people; absent where there is nothing that could shut.
        why: Option<String>,
        /// When it shuts.
        until: Option<Timestamp>,
    },
    /// It is shut.
    Shut {
        /// Why, with the evidence.
        why: String,
        /// When it opens.
        next: Option<Timestamp>,
    },
}

impl Default for Door {
    fn default() -> Self {
        Self::Open { why: None, until: None }
    }
}

impl Door {
    /// Whether it is shut.
    pub fn is_shut(&self) -> bool {
        matches!(self, Self::Shut { .. })
    }

    /// Both doors, one behind the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Shut { why, next }, Self::Shut { why: also, next: later }) => {
                let next = next.zip(later).map(|(a, b)| a.max(b));
                let why = if why == also { why } else { format!("{why}; {also}") };
                Self::Shut { why, next }
            }
            (shut @ Self::Shut { .. }, _) | (_, shut @ Self::Shut { .. }) => shut,
            (Self::Open { why, until }, Self::Open { why: also, until: other }) => {
                let until = [until, other].into_iter().flatten().min();
                Self::Open { why: why.or(also), until }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_doors_are_open_only_together_and_only_as_long_as_both() {
        let at = |s: i64| Timestamp::from_second(s).ok();
        let open = |until| Door::Open { why: None, until };
        let shut = |why: &str, next| Door::Shut { why: why.to_owned(), next };
        assert_eq!(open(at(5)).and(open(at(3))), open(at(3)));
        assert_eq!(open(None).and(shut("a", at(9))), shut("a", at(9)));
        assert_eq!(shut("a", at(9)).and(shut("b", at(4))), shut("a; b", at(9)));
        assert_eq!(shut("a", None).and(shut("a", at(4))), shut("a", None));
    }
}
