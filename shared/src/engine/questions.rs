//! Questions that only the world outside the API server can answer: probes, metrics, logs.
//!
//! The engine asks by key ([`Effect::Ask`](super::effect::Effect)) in every round that still needs
//! the answer; the controller asks once for each key and forgets a key that a round no longer asks
//! for. So a key names one single asking: whoever wants a second measurement counts it in the key,
//! and writes the first one into the status before it lets go of its key.

use super::objects::Resource;
use crate::api::analysis::{Method, SecretKey};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// Names one asking, unique in its Upgrade: `STAGE/STEP/CHECK/POD/COUNT`.
pub type Key = String;

/// What is asked. It may hold names of Secrets, never what is in them.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Whether a receiver has taken a notification.
    Notify(NotifyQuestion),
    /// An HTTP GET.
    Http(HttpQuestion),
    /// Whether a TCP connection can be made.
    Tcp {
        /// `HOST:PORT`
        address: String,
        /// How long it may take.
        timeout: SignedDuration,
    },
    /// How many lines of a pod's log match.
    Logs(LogsQuestion),
    /// Whether the API server would take a new object: a create that stores nothing. The answer is
    /// `{}`, or `{"refused": WHY}`.
    WouldCreate {
        /// Its kind.
        resource: Resource,
        /// The object.
        object: Value,
    },
    /// Whether an object is there, read live: a watch may be behind our own last write. The answer
    /// is its `metadata.uid`, or null.
    Live {
        /// Its kind.
        resource: Resource,
        /// Its name.
        name: String,
    },
    /// Any HTTP request, for a metric.
    Request(RequestQuestion),
    /// An object of the namespace, as it is now. The answer is the object, or null.
    Object(ObjectQuestion),
}

/// How many lines of a pod's log match. The answer is `{"lines": COUNT}`: no line leaves the
/// controller, for logs hold what statuses must not.
#[derive(Clone, Debug, PartialEq)]
pub struct LogsQuestion {
    /// The pod, in the Upgrade's namespace.
    pub pod: String,
    /// The container; all of them together, init containers left out, where absent.
    pub container: Option<String>,
    /// Lines from then on count.
    pub since: Timestamp,
    /// What a line has to match; see [`super::checks::pattern`].
    pub pattern: String,
    /// How long it may take.
    pub timeout: SignedDuration,
}

/// A POST of JSON to a receiver. The answer is `true`.
#[derive(Clone, Debug, PartialEq)]
pub struct NotifyQuestion {
    /// Name of the Secret in our own namespace that knows where.
    pub receiver: String,
    /// What is posted.
    pub body: Value,
}

/// Any HTTP request. The answer is `{"status": CODE, "body": TEXT}`, whatever the code; a body over
/// 1 MiB is an error. Redirects are not followed.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestQuestion {
    /// Its method.
    pub method: Method,
    /// Where, without query.
    pub url: String,
    /// Parameters of the query.
    pub query: Vec<(String, String)>,
    /// The parameters are the body, as of a form.
    pub form: bool,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Option<String>,
    /// Certificates are not verified.
    pub insecure: bool,
    /// How long it may take.
    pub timeout: SignedDuration,
    /// What is put into all these texts when it is asked, and taken out of what comes back.
    pub secrets: Vec<SecretUse>,
}

/// A secret that a question needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretUse {
    /// What stands for it in the question's texts.
    pub placeholder: String,
    /// Where it is.
    pub secret: SecretKey,
    /// What is taken where the Secret has no such key. Absent: that is an error.
    pub otherwise: Option<String>,
}

/// An object of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectQuestion {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// An HTTP GET of a probe. The answer is `{"status": CODE, "body": TEXT}`, whatever the code.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpQuestion {
    /// Where.
    pub url: String,
    /// Headers without secrets in them.
    pub headers: Vec<(String, String)>,
    /// Certificates are not verified, as the kubelet does for probes (`scheme: HTTPS`).
    pub insecure: bool,
    /// How long it may take.
    pub timeout: SignedDuration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// When it came.
    pub at: Timestamp,
    /// What was answered; the shape is the question's. Or why there is none, without secrets.
    pub result: Result<Value, String>,
}

/// Answers to what the last round asked.
pub type Answers = BTreeMap<Key, Answer>;
