//! The hash that an approval is bound to.

use crate::api::UpgradeSpec;
use crate::api::upgrade::{AutoRollback, OnConflict, Stage, WindowOverrun};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Everything that is approved, in the order in which it is hashed. `paused`, `control` and
/// `requester` stay out: they say when and who, not what.
#[derive(Serialize)]
struct Content<'a> {
    format: &'static str,
    namespace: &'a str,
    name: &'a str,
    from: &'a Option<String>,
    to: &'a Option<String>,
    stages: &'a [Stage],
    auto_rollback: &'a Option<AutoRollback>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_overrun: &'a Option<WindowOverrun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_conflict: &'a Option<OnConflict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: &'a Option<Time>,
}

/// The plan hash of an Upgrade: `sha256:` and 64 hexadecimal digits.
///
/// Serialization skips what is absent and keeps the order of fields, so that a field added to the
/// API later leaves the hash of every older plan as it was.
pub fn plan_hash(namespace: &str, name: &str, spec: &UpgradeSpec) -> String {
    let content = Content {
        format: "kubectl-upgrade.dev/plan/1",
        namespace,
        name,
        from: &spec.from,
        to: &spec.to,
        stages: &spec.stages,
        auto_rollback: &spec.auto_rollback,
        window_overrun: &spec.window_overrun,
        on_conflict: &spec.on_conflict,
        not_before: &spec.not_before,
    };
    // Strings, numbers and lists under string keys always serialize; were that ever to change, an
    // empty hash covers nothing, for no approval can name it.
    let Ok(bytes) = serde_json::to_vec(&content) else {
        return String::new();
    };
    format!("sha256:{}", hex(Sha256::digest(&bytes).iter()))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes.fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A short name for a text, the same for the same text: ten hexadecimal digits.
pub fn short_hash(text: &str) -> String {
    hex(Sha256::digest(text.as_bytes()).iter().take(5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::upgrade::Control;

    fn spec(to: &str) -> UpgradeSpec {
        serde_json::from_value(serde_json::json!({
            "to": to,
            "stages": [{"name": "web", "workloads": {
                "strategy": {"rolling": {}},
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "web", "from": "web:v1", "to": "web:v2"}]}]}}]
        }))
        .expect("a valid spec")
    }

    #[test]
    fn the_hash_covers_the_plan_and_nothing_else() {
        let base = plan_hash("shop", "web", &spec("v2"));
        assert_eq!(base.len(), 71);
        assert_ne!(base, plan_hash("shop", "web", &spec("v3")));
        assert_ne!(base, plan_hash("shop", "other", &spec("v2")));
        assert_ne!(base, plan_hash("other", "web", &spec("v2")));
        let mut steered = spec("v2");
        steered.paused = true;
        steered.control = Some(Control { abort: true, ..Control::default() });
        assert_eq!(base, plan_hash("shop", "web", &steered));
    }
}
