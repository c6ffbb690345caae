//! What a Deployment carries while mode `Hold` holds a change of its template.

use super::Identity;
use serde::{Deserialize, Serialize};

/// Annotation of a held Deployment: a [`Held`] as JSON, stamped at admission.
///
/// With it and [`super::IN_FLIGHT_LABEL`] an object is held: paused, its new template not begun.
/// The first write of the Upgrade takes it off; without it the label means "in flight".
pub const HELD_ANNOTATION: &str = "kubectl-upgrade.dev/held";

/// Who made the change that is held, and what the object was before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Who changed the template: `userInfo` of that request.
    pub requester: Identity,
    /// `spec.paused` as it was before.
    #[serde(default)]
    pub paused: bool,
}

impl Held {
    /// Reads the annotation; what cannot be read is none.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The annotation's text, always the same for the same value.
    pub fn text(&self) -> String {
        // Strings, lists and a bool always serialize; an empty text would not be read as held.
        serde_json::to_string(self).unwrap_or_default()
    }
}
