//! From bytes to a borrowed [`Review`]: first the envelope, then only what a decision reads.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::borrow::Cow;
use upgrade_core::api::{GROUP, WorkloadKind};
use upgrade_core::policy::review::Change;
use upgrade_core::policy::{Operation, Review, Subject, User, Workload};

/// The only version of AdmissionReview there is, and that our configurations name.
pub const API_VERSION: &str = "admission.k8s.io/v1";

/// What is wrong with a body.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not an AdmissionReview at all, so there is no `uid` to answer to.
    #[error("the body is not an AdmissionReview of {API_VERSION}: {0}")]
    NotReview(String),
    /// A review whose object cannot be read.
    #[error("{what}: {error}")]
    Object {
        /// Which part.
        what: &'static str,
        /// Why not.
        error: serde_json::Error,
    },
}

/// The envelope; no `flatten` anywhere, it would buffer everything.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    request: Request<'a>,
}

/// `request` of an AdmissionReview, with the objects still unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// To be repeated in the answer.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    #[serde(borrow)]
    kind: Kind<'a>,
    #[serde(borrow, default)]
    sub_resource: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    operation: Operation,
    #[serde(borrow)]
    user_info: User<'a>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    old_object: Option<&'a RawValue>,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, default)]
    group: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// The envelope of a body.
pub fn envelope(body: &[u8]) -> Result<Request<'_>, ReviewError> {
    let envelope: Envelope<'_> =
        serde_json::from_slice(body).map_err(|e| ReviewError::NotReview(e.to_string()))?;
    if envelope.api_version != API_VERSION {
        let version: String = envelope.api_version.chars().take(64).collect();
        return Err(ReviewError::NotReview(format!("its apiVersion is `{version}`")));
    }
    if envelope.request.uid.is_empty() {
        return Err(ReviewError::NotReview("request.uid is empty".to_owned()));
    }
    Ok(envelope.request)
}

/// The `uid` of a body that fails the full parse, from its first bytes: the API server takes no
/// answer without it.
pub fn uid_of(body: &[u8]) -> Option<String> {
    const HEAD: usize = 4096;
    // A prefix may end inside a character; what is before it still counts.
    let head = String::from_utf8_lossy(body.get(..HEAD).unwrap_or(body));
    let request = head.split_once("\"request\"")?.1;
    let value = request.split_once("\"uid\"")?.1.trim_start().strip_prefix(':')?.trim_start();
    let uid = value.strip_prefix('"')?.split_once('"')?.0;
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!uid.is_empty() && uid.len() <= 64 && uid.chars().all(fine)).then(|| uid.to_owned())
}

impl<'a> Request<'a> {
    /// Kind of the object, for metrics: bounded whatever a client sends.
    pub fn label(&self) -> &'static str {
        match WorkloadKind::from_kind(&self.kind.kind) {
            Some(kind) => kind.as_str(),
            None => match &*self.kind.kind {
                "Upgrade" => "Upgrade",
                "UpgradeApproval" => "UpgradeApproval",
                "UpgradeLedger" => "UpgradeLedger",
                "UpgradeSchedule" => "UpgradeSchedule",
                "MaintenanceWindow" => "MaintenanceWindow",
                "CompatibilityMatrix" => "CompatibilityMatrix",
                "Service" => "Service",
                "AnalysisTemplate" => "AnalysisTemplate",
                _ => "other",
            },
        }
    }

    /// Whether it is about a Service itself, of the core group.
    pub fn is_service(&self) -> bool {
        self.kind.group.is_empty() && self.kind.kind == "Service" && self.sub_resource.is_empty()
    }

    /// The kind of a route itself, where it is about one.
    pub fn route(&self) -> Option<&'static str> {
        let known = [
            ("gateway.networking.k8s.io", "HTTPRoute"),
            ("networking.istio.io", "VirtualService"),
            ("networking.istio.io", "DestinationRule"),
            ("networking.k8s.io", "Ingress"),
            ("split.smi-spec.io", "TrafficSplit"),
        ];
        let mine =
            |(group, kind): &(&str, &str)| *group == self.kind.group && *kind == self.kind.kind;
        known.into_iter().find(mine).map(|k| k.1).filter(|_| self.sub_resource.is_empty())
    }

    /// The objects, unread: for patches.
    pub fn objects(&self) -> (Option<&'a RawValue>, Option<&'a RawValue>) {
        (self.old_object, self.object)
    }

    /// Reads what a decision needs.
    pub fn read(self) -> Result<Review<'a>, ReviewError> {
        let (old, new) = (present(self.old_object), present(self.object));
        let subject = subject(&self.kind, old, new)?;
        // Some requests name nothing: `generateName`, or deletecollection on older servers.
        let name = if self.name.is_empty() { named(new.or(old)) } else { self.name };
        Ok(Review {
            uid: self.uid,
            operation: self.operation,
            subresource: self.sub_resource,
            namespace: self.namespace,
            name,
            dry_run: self.dry_run.unwrap_or(false),
            user: self.user_info,
            subject,
        })
    }
}

fn subject<'a>(
    kind: &Kind<'a>,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
) -> Result<Subject<'a>, ReviewError> {
    let kind_of = match &*kind.group {
        GROUP => None,
        // It is to its pods what a ReplicaSet is, and no policy names it.
        "" if kind.kind == "ReplicationController" => {
            return workload(WorkloadKind::ReplicaSet, old, new);
        }
        "" => Some(WorkloadKind::Pod),
        "batch" | "apps" => WorkloadKind::from_kind(&kind.kind),
        _ => return Ok(Subject::Other),
    };
    if let Some(found) = kind_of.filter(|w| w.as_str() == kind.kind) {
        return workload(found, old, new);
    }
    if kind.group != GROUP {
        return Ok(Subject::Other);
    }
    Ok(match &*kind.kind {
        "Upgrade" => Subject::Upgrade(Box::new(change(old, new)?)),
        "UpgradeApproval" => Subject::Approval(Box::new(change(old, new)?)),
        "UpgradeSchedule" => Subject::Schedule(Box::new(change(old, new)?)),
        "MaintenanceWindow" => Subject::Window(Box::new(change(old, new)?)),
        "CompatibilityMatrix" => Subject::Matrix(Box::new(change(old, new)?)),
        "AnalysisTemplate" => Subject::Analysis(Box::new(change(old, new)?)),
        "UpgradeLedger" => Subject::Ledger,
        _ => Subject::Other,
    })
}

fn workload<'a>(
    kind: WorkloadKind,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
) -> Result<Subject<'a>, ReviewError> {
    let read = |what, raw: Option<&'a RawValue>| {
        raw.map(|r| Workload::parse(kind, r))
            .transpose()
            .map_err(|error| ReviewError::Object { what, error })
    };
    let change = Change { old: read("oldObject", old)?, new: read("object", new)? };
    Ok(Subject::Workload(Box::new(change)))
}

fn change<T: DeserializeOwned>(
    old: Option<&RawValue>,
    new: Option<&RawValue>,
) -> Result<Change<T>, ReviewError> {
    let read = |what, raw: Option<&RawValue>| {
        raw.map(|r| serde_json::from_str(r.get()))
            .transpose()
            .map_err(|error| ReviewError::Object { what, error })
    };
    Ok(Change { old: read("oldObject", old)?, new: read("object", new)? })
}

/// The API server writes an absent object as `null`.
fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|r| r.get() != "null")
}

fn named<'a>(object: Option<&'a RawValue>) -> Cow<'a, str> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Meta<'a>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default)]
        name: Cow<'a, str>,
    }
    let read = |r: &'a RawValue| serde_json::from_str::<Object<'a>>(r.get()).ok();
    object.and_then(read).map(|o| o.metadata.name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(kind: &str, group: &str, object: &serde_json::Value) -> Vec<u8> {
        let rest = json!({
            "kind": {"group": group, "version": "v1", "kind": kind},
            "resource": {"group": group, "version": "v1", "resource": "x"},
            "name": "web", "namespace": "shop", "operation": "UPDATE",
            "userInfo": {"username": "al\u{00e9}x \"q\"", "groups": ["devs"], "extra": {"k": ["v"]}},
            "object": object, "oldObject": object, "dryRun": true})
        .to_string();
        // The API server writes the uid first.
        format!(
            r#"{{"kind":"AdmissionReview","apiVersion":"{API_VERSION}","request":{{"uid":"705ab4f5-6393-11e8-b7cc-42010a800002",{}}}"#,
            &rest[1..]
        )
        .into_bytes()
    }

    #[test]
    fn a_review_is_borrowed_and_escapes_are_read() {
        let object = json!({"metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i\"1"}]}}}});
        let bytes = body("Deployment", "apps", &object);
        let review = envelope(&bytes).expect("an envelope").read().expect("a review");
        assert_eq!(review.user.username, "al\u{00e9}x \"q\"");
        assert!(review.dry_run);
        let Subject::Workload(change) = review.subject else { panic!("not a workload") };
        assert_eq!(change.new.expect("new").images[0].image, "i\"1");
    }

    #[test]
    fn kinds_are_told_apart_by_group_too() {
        let rows = [
            ("Deployment", "apps", true),
            ("Deployment", "example.com", false),
            ("Pod", "", true),
            ("Job", "batch", true),
            ("ReplicationController", "", true),
            ("Scale", "autoscaling", false),
            ("Service", "", false),
        ];
        for (kind, group, workload) in rows {
            let bytes = body(kind, group, &json!({"metadata": {"name": "x"}}));
            let review = envelope(&bytes).expect("an envelope").read().expect("a review");
            assert_eq!(matches!(review.subject, Subject::Workload(_)), workload, "{group}/{kind}");
        }
    }

    #[test]
    fn the_uid_is_found_in_what_cannot_be_read() {
        let bytes = body("Deployment", "apps", &json!({"spec": 7}));
        let uid = Some("705ab4f5-6393-11e8-b7cc-42010a800002".to_owned());
        assert!(envelope(&bytes).expect("an envelope").read().is_err());
        assert_eq!(uid_of(&bytes), uid);
        assert_eq!(uid_of(&bytes[..160]), uid, "cut off in the middle");
        for bad in [
            "",
            "{}",
            "null",
            "{\"request\":{\"uid\":\"\"",
            "{\"request\":{\"uid\":\"a\\\"b\"}}",
            "\u{ff}",
        ] {
            assert_eq!(uid_of(bad.as_bytes()), None, "{bad}");
            assert!(envelope(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
