//! Who may write what: `decide(snapshot, review, now)`.
//!
//! Pure: a decision reads the immutable [`Snapshot`] and the request, takes no lock and never
//! waits. Where the answer depends on what is true this very moment, the verdict is
//! [`Verdict::Confirm`] with a [`Question`]; whoever asked reads it live and calls [`confirm`].
//!
//! | file | what it answers |
//! |---|---|
//! | [`snapshot`] | what is known of the cluster, one shared view for each namespace |
//! | [`review`], [`workload`] | what a request asks, borrowed from its bytes |
//! | [`decide`] | the table of contents: request to rule, question to answer |
//! | `images`, `create`, `inflight`, `ephemeral`, [`hold`] | rules for workloads |
//! | [`modes`] | which refusals a policy's mode turns into words |
//! | `upgrades`, `approvals`, [`declared`] | rules for our own kinds |
//! | [`governance`], [`compatibility`] | what is asked of one Upgrade |
//! | [`rules`] | what a policy says of an Upgrade; asked again before it starts |
//! | [`refusal`] | what a refusal says |

pub mod analysis;
mod approvals;
pub mod compatibility;
mod create;
pub mod decide;
pub mod declared;
mod ephemeral;
pub mod governance;
pub mod hold;
pub mod identities;
mod images;
mod inflight;
mod jobs;
mod jump;
pub mod modes;
mod orders;
pub mod question;
pub mod refusal;
pub mod review;
pub mod rules;
mod separate;
pub mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod traffic;
mod upgrades;
pub mod workload;

pub use decide::{Verdict, confirm, decide};
pub use modes::{Manner, Note};
pub use question::{
    Access, AccessNeed, Answers, Granted, Labelled, LabelsOf, Live, Question, Seen, TemplateUse,
    UpgradeRef,
};
pub use refusal::{Reason, Refusal};
pub use review::{Operation, Review, Subject, User};
pub use snapshot::Snapshot;
pub use workload::{Guarded, Workload};
