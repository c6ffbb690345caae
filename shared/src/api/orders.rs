//! Orders by annotation: a second door for pipelines, with the same checks as the first.
//!
//! `kubectl annotate upgrade web-v2 kubectl-upgrade.dev/abort=true` is carried out at admission: the
//! annotation is taken off and the field of the spec that the verb would have written is written in
//! its place, so that whoever may not write that field may not annotate either. An approval is an
//! object of its own: the annotation is stamped with who approved which plan, and the controller
//! makes the UpgradeApproval of it.

use super::upgrade::{Control, Promote};
use super::{Identity, Upgrade};
use serde::{Deserialize, Serialize};

/// Everything stands still.
pub const PAUSE: &str = "kubectl-upgrade.dev/pause";
/// It goes on after a pause of the whole.
pub const RESUME: &str = "kubectl-upgrade.dev/resume";
/// It goes on past the pause step it rests at, or past all of them: `full`.
pub const PROMOTE: &str = "kubectl-upgrade.dev/promote";
/// It is approved: all of it, or `STAGE`, or `STAGE/STEP`.
pub const APPROVE: &str = "kubectl-upgrade.dev/approve";
/// It is taken back.
pub const ABORT: &str = "kubectl-upgrade.dev/abort";
/// It is started over.
pub const RETRY: &str = "kubectl-upgrade.dev/retry";
/// All of them.
pub const ANNOTATIONS: [&str; 6] = [PAUSE, RESUME, PROMOTE, APPROVE, ABORT, RETRY];

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `spec.paused: true`
    Pause,
    /// `spec.paused: false`
    Resume,
    /// `spec.control.promote`, of every pause of the stage where it says so.
    Promote {
        /// Every pause from here to the end of the stage.
        full: bool,
    },
    /// `spec.control.abort`
    Abort,
    /// `spec.control.retry`
    Retry,
    /// An UpgradeApproval.
    Approve {
        /// The stage, where one is named.
        stage: Option<String>,
        /// The step of it.
        step: Option<i32>,
    },
    /// An approval that was stamped already.
    Approved(Box<Stamp>),
}

/// What admission makes of an approval by annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stamp {
    /// Who approved, from `userInfo`.
    pub approver: Identity,
    /// The plan that is approved.
    pub plan_hash: String,
    /// `metadata.uid` of the Upgrade.
    #[serde(rename = "upgradeUID")]
    pub upgrade_uid: Option<String>,
    /// The one stage that is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The one step of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
}

/// Orders that a write brings: annotations that are new or have another value.
pub fn given<'a>(
    old: Option<&Upgrade>,
    new: &'a Upgrade,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    let before = old.and_then(|o| o.metadata.annotations.clone()).unwrap_or_default();
    let now = new.metadata.annotations.as_ref();
    ANNOTATIONS.into_iter().filter_map(move |key| {
        let value = now?.get(key)?;
        (before.get(key) != Some(value)).then_some((key, value.as_str()))
    })
}

/// Reads an annotation; the error says what would be right.
pub fn read(key: &str, value: &str) -> Result<Order, String> {
    let order = match (key, value) {
        (PAUSE, "true") => Order::Pause,
        (RESUME, "true") => Order::Resume,
        (PROMOTE, "true" | "full") => Order::Promote { full: value == "full" },
        (ABORT, "true") => Order::Abort,
        (RETRY, "true") => Order::Retry,
        (APPROVE, "true") => Order::Approve { stage: None, step: None },
        (APPROVE, text) if text.starts_with('{') => match serde_json::from_str(text) {
            Ok(stamp) => Order::Approved(Box::new(stamp)),
            Err(error) => return Err(format!("annotation {key}: {error}; write `true`")),
        },
        (APPROVE, text) => {
            let (stage, step) = match text.split_once('/') {
                Some((stage, step)) => (stage, Some(step)),
                None => (text, None),
            };
            let step = step.map(str::parse::<i32>).transpose();
            match step {
                Ok(step) if !stage.is_empty() => {
                    Order::Approve { stage: Some(stage.to_owned()), step }
                }
                _ => {
                    return Err(format!(
                        "annotation {key}: `{value}` is neither `true` nor STAGE nor STAGE/STEP"
                    ));
                }
            }
        }
        (PROMOTE, _) => {
            return Err(format!("annotation {key}: `{value}` is neither `true` nor `full`"));
        }
        _ => return Err(format!("annotation {key}: `{value}` is not `true`")),
    };
    Ok(order)
}

/// The fields of the spec that an order writes: `paused`, and `control`. None for approvals.
pub fn carried_out(order: &Order, upgrade: &Upgrade) -> Option<(bool, Control)> {
    let spec = &upgrade.spec;
    let status = upgrade.status.clone().unwrap_or_default();
    let mut control = spec.control.clone().unwrap_or_default();
    let mut paused = spec.paused;
    match order {
        Order::Pause => paused = true,
        Order::Resume => paused = false,
        Order::Promote { full } => {
            control.promote = Some(Promote {
                attempt: status.attempt,
                stage: status.current_stage_index,
                step: status.current_step_index,
                full: *full,
                to_step: None,
            });
        }
        Order::Abort => control.abort = true,
        Order::Retry => {
            control.abort = false;
            control.retry = status.attempt.saturating_add(1);
        }
        Order::Approve { .. } | Order::Approved(_) => return None,
    }
    Some((paused, control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_what_is_none_says_what_would_be_right() {
        assert_eq!(read(ABORT, "true"), Ok(Order::Abort));
        assert_eq!(read(PROMOTE, "full"), Ok(Order::Promote { full: true }));
        let part = Order::Approve { stage: Some("web".to_owned()), step: Some(2) };
        assert_eq!(read(APPROVE, "web/2"), Ok(part));
        for (key, value, word) in [
            (PAUSE, "yes", "is not `true`"),
            (PROMOTE, "false", "neither `true` nor `full`"),
            (APPROVE, "web/two", "STAGE/STEP"),
            (APPROVE, "/1", "STAGE/STEP"),
            (APPROVE, "{}", "missing field"),
        ] {
            let error = read(key, value).expect_err(value);
            assert!(error.contains(word) && error.contains(key), "{error}");
        }
    }
}
