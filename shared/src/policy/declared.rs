//! Windows, matrices and schedules: what the schema cannot check, and in whose name a schedule is.

use super::decide::Verdict;
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review};
use super::snapshot::Snapshot;
use crate::api::{
    CompatibilityMatrix, Identity, MaintenanceWindow, UpgradeSchedule, UpgradeScheduleSpec,
};
use crate::matrix::Matrix;
use crate::schedule::{Schedule, zone};
use crate::windows::Window;

/// A write to a MaintenanceWindow.
pub fn window(review: &Review<'_>, change: &Change<MaintenanceWindow>) -> Verdict {
    let wrong = change.new.as_ref().and_then(|w| Window::parse(w).err());
    let kind = "MaintenanceWindow";
    wrong.map_or(Verdict::Allow, |e| invalid(review, kind, &e.to_string()).into())
}

/// A write to a CompatibilityMatrix.
pub fn matrix(review: &Review<'_>, change: &Change<CompatibilityMatrix>) -> Verdict {
    let wrong = change.new.as_ref().and_then(|m| Matrix::parse(m).err());
    let kind = "CompatibilityMatrix";
    wrong.map_or(Verdict::Allow, |e| {
        invalid(review, kind, &format!("{}: {}", e.field, e.why)).into()
    })
}

/// A write to an UpgradeSchedule.
pub fn schedule(
    snapshot: &Snapshot,
    review: &Review<'_>,
    change: &Change<UpgradeSchedule>,
) -> Verdict {
    let own = snapshot.is_own(&review.user.username);
    let Some(new) = change.new.as_ref().filter(|_| review.operation != Operation::Delete) else {
        return Verdict::Allow;
    };
    if review.subresource == "status" {
        return if own { Verdict::Allow } else { controller_only(review).into() };
    }
    if let Err(why) = parse(&new.spec) {
        return invalid(review, "UpgradeSchedule", &why).into();
    }
    let author = author(change.old.as_ref(), new, &review.user.identity());
    if new.spec.requester.as_ref() == Some(&author) {
        return Verdict::Allow;
    }
    Refusal::new(
        Reason::IdentityMismatch,
        format!("UpgradeSchedule {} does not say who asks for it", review.named()),
        "spec.requester is stamped at admission, and says something else: its Upgrades are made \
         with the rights of whoever is named there",
        "leave the field out and try again",
    )
    .run("kubectl get mutatingwebhookconfiguration kubectl-upgrade")
    .into()
}

/// Reads the time of a schedule; the error names the field.
pub fn parse(spec: &UpgradeScheduleSpec) -> Result<Schedule, String> {
    let name = spec.time_zone.as_deref().unwrap_or("UTC");
    let zone = zone(name).ok_or_else(|| {
        format!("spec.timeZone: `{name}` is no IANA time zone; write for instance Europe/Berlin")
    })?;
    Schedule::parse(&spec.schedule, zone).map_err(|e| format!("spec.schedule: {e}"))
}

/// In whose name a schedule is: whoever made it or last changed what it does. Writing the same
/// again changes nothing, and neither does suspending it.
pub fn author(old: Option<&UpgradeSchedule>, new: &UpgradeSchedule, user: &Identity) -> Identity {
    let plain = |spec: &UpgradeScheduleSpec| UpgradeScheduleSpec {
        requester: None,
        suspend: false,
        ..spec.clone()
    };
    let same = old.filter(|o| plain(&o.spec) == plain(&new.spec));
    same.and_then(|o| o.spec.requester.clone()).unwrap_or_else(|| user.clone())
}

fn controller_only(review: &Review<'_>) -> Refusal {
    Refusal::new(
        Reason::ControllerOnly,
        format!("the status of UpgradeSchedule {} is written by the controller", review.named()),
        format!("`{}` asked", review.user.username),
        "change its spec instead; `spec.suspend: true` stops it",
    )
    .run(format!("kubectl get upgradeschedule {} -n {}", review.name, review.namespace))
}

fn invalid(review: &Review<'_>, kind: &str, why: &str) -> Refusal {
    let named = if review.namespace.is_empty() { review.name.to_string() } else { review.named() };
    Refusal::new(
        Reason::InvalidField,
        format!("{kind} {named} cannot be read"),
        why,
        "correct that field; nothing was stored",
    )
    .run(format!("kubectl explain {}.spec", kind.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(to: &str, suspend: bool, by: Option<&str>) -> UpgradeSchedule {
        let mut spec = json!({"schedule": "0 1 * * 0", "suspend": suspend, "template": {
            "to": to, "stages": [{"name": "web"}]}});
        if let Some(by) = by {
            spec["requester"] = json!({ "username": by });
        }
        serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeSchedule",
            "metadata": {"name": "weekly", "namespace": "shop"}, "spec": spec,
        }))
        .expect("a schedule")
    }

    #[test]
    fn a_schedule_is_in_the_name_of_whoever_changed_what_it_does() {
        let bob = Identity { username: "bob".into(), ..Identity::default() };
        let by =
            |old: Option<&UpgradeSchedule>, new: &UpgradeSchedule| author(old, new, &bob).username;
        let alices = made("v1", false, Some("alice"));
        assert_eq!(by(None, &made("v1", false, Some("alice"))), "bob");
        assert_eq!(by(Some(&alices), &made("v1", false, None)), "alice", "applied again");
        assert_eq!(by(Some(&alices), &made("v1", true, None)), "alice", "suspended");
        assert_eq!(by(Some(&alices), &made("v2", false, Some("alice"))), "bob");
    }

    #[test]
    fn what_cannot_be_read_names_its_field() {
        let mut bad = made("v1", false, None);
        bad.spec.schedule = "61 * * * *".into();
        assert!(parse(&bad.spec).is_err_and(|e| e.starts_with("spec.schedule: ")));
        bad.spec.time_zone = Some("Mars/Base".into());
        assert!(parse(&bad.spec).is_err_and(|e| e.starts_with("spec.timeZone: `Mars/Base`")));
    }
}
