//! Answers that the API server accepts: the `uid` repeated, patch and patchType together.

use k8s_openapi::ByteString;
use serde::Serialize;
use std::collections::BTreeMap;
use upgrade_core::policy::{Manner, Note, Reason, Refusal};

/// An answer to one review.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// It passes.
    Allowed,
    /// It passes, changed, with words for the person who asked.
    Patched(json_patch::Patch, Vec<String>),
    /// It passes although a rule is against it, and somebody is told.
    Noted(Box<Note>),
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
    /// The API server puts the name of our webhook before each key.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_annotations: Option<BTreeMap<&'static str, &'a str>>,
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
            Self::Noted(note) => (note.manner.as_str(), note.refusal.reason.as_str()),
            Self::Denied(refusal) => ("deny", refusal.reason.as_str()),
        }
    }

    /// The AdmissionReview that answers `uid`.
    pub fn encode(&self, uid: &str) -> Result<Vec<u8>, serde_json::Error> {
        let warning: Vec<String> = match self {
            Self::Noted(note) if note.manner == Manner::Warn => vec![note.warning()],
            _ => Vec::new(),
        };
        let mut response = Response {
            uid,
            allowed: true,
            status: None,
            warnings: &[],
            patch: None,
            patch_type: None,
            audit_annotations: None,
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
            Self::Noted(note) => {
                response.warnings = &warning;
                response.audit_annotations = Some(BTreeMap::from([
                    ("would-deny", note.refusal.reason.as_str()),
                    ("policy", note.policy.as_str()),
                ]));
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

        let noted = |manner| {
            let refusal =
                Refusal::new(Reason::UpgradeRequired, "what", "why", "help").run("kubectl");
            read(&Answer::Noted(Box::new(Note { manner, policy: "all".into(), refusal })))
        };
        let annotations = json!({"would-deny": "UpgradeRequired", "policy": "all"});
        let audited = json!({"uid": "u-1", "allowed": true, "auditAnnotations": annotations});
        assert_eq!(noted(Manner::Audit)["response"], audited);
        let warned = noted(Manner::Warn);
        assert_eq!(
            warned["response"]["warnings"],
            json!(["policy `all` is against this (UpgradeRequired): what; run: kubectl"])
        );
        assert_eq!(warned["response"]["auditAnnotations"], annotations);

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
