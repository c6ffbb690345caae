//! Answers that the API server accepts: the `uid` repeated, patch and patchType together.

use k8s_openapi::ByteString;
use serde::Serialize;
use upgrade_core::policy::{Reason, Refusal};

/// An answer to one review.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// It passes.
    Allowed,
    /// It passes, changed, with words for the person who asked.
    Patched(json_patch::Patch, Vec<String>),
    /// It is refused.
    Denied(Box<Refusal>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
}

#[derive(Serialize)]
struct Status {
    #[serde(rename = "status")]
    outcome: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    /// Verdict and reason, for metrics.
    pub fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Self::Allowed => ("allow", ""),
            Self::Patched(..) => ("patch", ""),
            Self::Denied(refusal) => ("deny", refusal.reason.as_str()),
        }
    }

    /// The AdmissionReview that answers `uid`.
    pub fn encode(&self, uid: &str) -> Result<Vec<u8>, serde_json::Error> {
        let mut response = Response {
            uid,
            allowed: true,
            status: None,
            warnings: &[],
            patch: None,
            patch_type: None,
        };
        match self {
            Self::Allowed => {}
            Self::Patched(patch, warnings) => {
                response.warnings = warnings;
                if !patch.0.is_empty() {
                    response.patch = Some(ByteString(serde_json::to_vec(patch)?));
                    response.patch_type = Some("JSONPatch");
                }
            }
            Self::Denied(refusal) => {
                response.allowed = false;
                response.status = Some(Status {
                    outcome: "Failure",
                    code: code(refusal.reason),
                    reason: refusal.reason.as_str(),
                    message: refusal.to_string(),
                });
            }
        }
        let envelope =
            Envelope { api_version: super::review::API_VERSION, kind: "AdmissionReview", response };
        serde_json::to_vec(&envelope)
    }
}

/// HTTP code that the client sees: 503 where trying again helps, so that controllers do.
fn code(reason: Reason) -> u16 {
    match reason {
        Reason::NotReady | Reason::Unconfirmed => 503,
        Reason::Malformed => 400,
        Reason::InternalError => 500,
        Reason::UpgradeNotFound => 404,
        Reason::WorkloadBusy | Reason::StalePlan | Reason::WrongPhase => 409,
        _ => 403,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.encode("u-1").expect("encodes")).expect("JSON")
    }

    #[test]
    fn the_api_server_can_read_every_answer() {
        let allowed = read(&Answer::Allowed);
        assert_eq!(allowed["response"], json!({"uid": "u-1", "allowed": true}));
        assert_eq!(allowed["apiVersion"], "admission.k8s.io/v1");

        let refusal = Refusal::new(Reason::InFlight, "what", "why", "help").run("kubectl");
        let denied = read(&Answer::Denied(Box::new(refusal)));
        assert_eq!(denied["response"]["allowed"], false);
        assert_eq!(denied["response"]["status"]["reason"], "InFlight");
        assert_eq!(
            denied["response"]["status"]["message"],
            "what (InFlight)\n  why: why\n  help: help\n  run: kubectl"
        );

        let patch: json_patch::Patch =
            serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}]))
                .expect("a patch");
        let patched = read(&Answer::Patched(patch, vec!["w".into()]));
        assert_eq!(patched["response"]["patchType"], "JSONPatch");
        assert!(patched["response"]["patch"].is_string());
        let empty = read(&Answer::Patched(json_patch::Patch(Vec::new()), Vec::new()));
        assert_eq!(empty["response"], json!({"uid": "u-1", "allowed": true}));
    }
}
