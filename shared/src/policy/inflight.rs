//! An object in flight: its template and guarded fields belong to the Upgrade.

use super::decide::Place;
use super::images::waiting;
use super::refusal::{Reason, Refusal};
use super::workload::{Workload, deltas, differ, same_json};
use crate::api::{HELD_ANNOTATION, IN_FLIGHT_LABEL};

/// What somebody else's change would do to an object in flight.
#[derive(Debug, PartialEq, Eq)]
pub enum Tampering {
    /// The in-flight label comes to an object that had none.
    LabelAdded(String),
    /// An object in flight changes in these ways.
    Changed {
        /// The Upgrade that its label names.
        upgrade: String,
        /// The fields, and the images where they differ.
        what: String,
    },
}

/// What of an UPDATE by anybody but us is tampering. Scaling, annotations and other labels are
/// none. Allocates nothing for an object that is not in flight.
pub fn tampering(old: &Workload<'_>, new: &Workload<'_>) -> Option<Tampering> {
    let Some(upgrade) = old.in_flight() else {
        return new.in_flight().map(|u| Tampering::LabelAdded(u.to_owned()));
    };
    let mut fields = Vec::new();
    if new.in_flight() != Some(upgrade) {
        fields.push(format!("label {IN_FLIGHT_LABEL}"));
    }
    // It says who asked, and that the template may be changed: nobody writes it but admission.
    if old.held != new.held {
        fields.push(format!("annotation {HELD_ANNOTATION}"));
    }
    if differ(&old.images, &new.images) {
        fields.push(super::images::describe(&deltas(&old.images, &new.images)));
    } else if !same_json(old.template, new.template) {
        fields.push("spec.template".to_owned());
    }
    fields.extend(old.guarded.differences(&new.guarded).into_iter().map(str::to_owned));
    let changed = || Tampering::Changed { upgrade: upgrade.to_owned(), what: fields.join(", ") };
    (!fields.is_empty()).then(changed)
}

/// The refusal for it.
pub fn refuse(place: &Place<'_>, new: &Workload<'_>, tampering: &Tampering) -> Refusal {
    let object = format!("{} {}/{}", new.kind, place.namespace, new.name);
    match tampering {
        Tampering::LabelAdded(upgrade) => Refusal::new(
            Reason::LabelReserved,
            format!("{object} may not be given the label {IN_FLIGHT_LABEL}={upgrade}"),
            "the upgrade controller alone sets that label, while an Upgrade is in flight",
            "leave the label out; an Upgrade of the workload sets it by itself",
        )
        .run(format!("kubectl upgrade status {upgrade} -n {}", place.namespace)),
        Tampering::Changed { upgrade, what } => {
            let state = match place.view.upgrade(upgrade) {
                Some(known) => waiting(known),
                None => format!("Upgrade {upgrade}"),
            };
            Refusal::new(
                Reason::InFlight,
                format!("{object} is in flight: {what} may not change"),
                format!("{state} is rolling it out, and its pods are placed by these fields"),
                format!(
                    "scaling, annotations and other labels may change now, the rest when the \
                     Upgrade ends; to see where it is: kubectl upgrade status {upgrade} -n {}; to \
                     take it back",
                    place.namespace
                ),
            )
            .run(format!("kubectl upgrade abort {upgrade} -n {}", place.namespace))
        }
    }
}
