//! Orders by annotation, as validation sees them: carried out already, or refused.

use super::approvals;
use super::decide::Verdict;
use super::refusal::{Reason, Refusal};
use super::review::Review;
use super::snapshot::Snapshot;
use super::upgrades::identity;
use crate::api::orders::{Order, Stamp, given, read};
use crate::api::{Decision, Upgrade, UpgradeApprovalSpec};

/// The verdict on the orders of a write; none where it brings none.
pub(super) fn decide(
    snapshot: &Snapshot,
    review: &Review<'_>,
    old: Option<&Upgrade>,
    new: &Upgrade,
    others: bool,
) -> Option<Verdict> {
    let mut orders = given(old, new);
    let (key, value) = orders.next()?;
    if others || orders.next().is_some() {
        let why = format!("annotation {key} comes with another order");
        let refusal = refuse(review, Reason::InvalidField, why, "give one order at a time");
        return Some(refusal.into());
    }
    Some(match read(key, value) {
        Err(why) => {
            let help = "each annotation is the verb of that name; `true` carries it out";
            refuse(review, Reason::InvalidField, why, help).into()
        }
        Ok(Order::Approved(stamp)) if old.is_some() => approve(snapshot, review, &stamp),
        Ok(_) if old.is_none() => {
            let why = format!("annotation {key} is on it from the start");
            let help = "orders are given to an Upgrade that is there";
            refuse(review, Reason::OrdersPreset, why, help).into()
        }
        Ok(_) => {
            let why = format!(
                "annotation {key} was not carried out: the mutating webhook did not answer"
            );
            refuse(review, Reason::NotReady, why, "try again, or use the verb of that name").into()
        }
    })
}

/// An approval is the same word by either door.
fn approve(snapshot: &Snapshot, review: &Review<'_>, stamp: &Stamp) -> Verdict {
    let object = format!("the approval of Upgrade {}", review.named());
    let field = format!("annotation {}", crate::api::orders::APPROVE);
    if let Err(refusal) = identity(review, Some(&stamp.approver), &object, &field) {
        return refusal.into();
    }
    approvals::question(snapshot, review, &stamp.approval(&review.name))
}

fn refuse(review: &Review<'_>, reason: Reason, why: String, help: &'static str) -> Refusal {
    let what = format!("Upgrade {} takes no such order", review.named());
    Refusal::new(reason, what, why, help).run("kubectl upgrade --help")
}

impl Stamp {
    /// The approval that it stands for.
    pub fn approval(&self, upgrade: &str) -> UpgradeApprovalSpec {
        UpgradeApprovalSpec {
            upgrade: upgrade.to_owned(),
            upgrade_uid: self.upgrade_uid.clone(),
            plan_hash: self.plan_hash.clone(),
            stage: self.stage.clone(),
            step: self.step,
            decision: Decision::Approved,
            reason: None,
            approver: Some(self.approver.clone()),
        }
    }
}
