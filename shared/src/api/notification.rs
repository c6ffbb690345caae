//! Who is told when an Upgrade moves, and how.

use super::status::Phase;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A receiver that is told when an Upgrade comes into a phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Name of a Secret in our own namespace, whose key `url` is told by a POST of JSON.
    #[schemars(length(min = 1, max = 253))]
    pub receiver: String,
    /// Phases it is told of. Absent or empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub phases: Vec<Phase>,
    /// The shape of what is posted. Absent: `Json`.
    #[serde(default, skip_serializing_if = "is_json")]
    pub format: NotificationFormat,
    /// The text, with `{namespace}`, `{name}`, `{phase}`, `{previous}`, `{stage}`, `{message}`,
    /// `{from}`, `{to}` and `{requester}` in it. Absent: one sentence with all that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub template: Option<String>,
}

/// The shape of a notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NotificationFormat {
    /// Every part as a field of its own, and the text.
    #[default]
    Json,
    /// The text only, as Slack's incoming webhooks take it: `{"text": "..."}`.
    Slack,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_json(format: &NotificationFormat) -> bool {
    *format == NotificationFormat::Json
}

/// A notification that is under way: in the status, so that none is lost with a controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingNotification {
    /// Who is told.
    pub receiver: String,
    /// The phase that it tells of.
    pub phase: Phase,
    /// When the Upgrade came into it.
    pub time: MicroTime,
    /// The shape.
    #[serde(default, skip_serializing_if = "is_json")]
    pub format: NotificationFormat,
    /// The text.
    pub text: String,
    /// How often it was tried in vain.
    #[serde(default)]
    pub failures: i32,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<MicroTime>,
}
