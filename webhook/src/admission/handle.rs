//! From the bytes of one request to the bytes of its answer.

use super::respond::Answer;
use super::review::{Request, ReviewError, envelope, uid_of};
use super::{Settings, confirm, mutate};
use futures::FutureExt;
use hyper::StatusCode;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use upgrade_core::engine::governance::Door;
use upgrade_core::policy::{
    Operation, Reason, Refusal, Review, Seen, Snapshot, Subject, Verdict, decide,
};

/// A namespace may be newer than our watch: it is waited for this long before a workload in it
/// is refused.
const NAMESPACE_WAIT: Duration = Duration::from_secs(1);

/// Which of the two webhooks is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/validate`
    Validate,
    /// `/mutate`
    Mutate,
}

impl Path {
    /// The path of a URL.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/validate" => Some(Self::Validate),
            "/mutate" => Some(Self::Mutate),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Mutate => "mutate",
        }
    }
}

/// What goes back over the wire.
pub type Reply = (StatusCode, Vec<u8>);

/// Answers one body. A panic inside is a refusal of this request and of nothing else.
pub async fn handle(settings: &Settings, path: Path, body: &[u8]) -> Reply {
    let started = Instant::now();
    let (uid, kind, answer) = match envelope(body) {
        Ok(request) => {
            let (uid, kind) = (request.uid.to_string(), request.label());
            let asked = AssertUnwindSafe(ask(settings, path, request)).catch_unwind();
            let answer = asked.await.unwrap_or_else(|_| Answer::Denied(Box::new(panicked())));
            (uid, kind, answer)
        }
        Err(error) => match uid_of(body) {
            Some(uid) => (uid, "other", malformed(&error)),
            None => return (StatusCode::BAD_REQUEST, format!("{error}\n").into_bytes()),
        },
    };
    let (verdict, reason) = answer.labels();
    settings.metrics.answered(
        path.as_str(),
        verdict,
        reason,
        kind,
        started.elapsed().as_secs_f64(),
    );
    reply(&uid, &answer)
}

/// Refuses a body over the limit, properly where its head still says what to answer to.
pub fn too_large(head: &[u8], limit: usize) -> Reply {
    let text = format!("the request is larger than {} MiB", limit / (1024 * 1024));
    let Some(uid) = uid_of(head) else {
        return (StatusCode::PAYLOAD_TOO_LARGE, format!("{text}\n").into_bytes());
    };
    let refusal = Refusal::new(
        Reason::Malformed,
        text,
        "a review holds the old and the new object, and the API server takes 3 MiB for each",
        "make the object smaller: managed fields and large annotations count",
    );
    reply(&uid, &Answer::Denied(Box::new(refusal)))
}

fn reply(uid: &str, answer: &Answer) -> Reply {
    match answer.encode(uid) {
        Ok(bytes) => (StatusCode::OK, bytes),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n").into_bytes()),
    }
}

async fn ask(settings: &Settings, path: Path, request: Request<'_>) -> Answer {
    let answer = match path {
        Path::Mutate => {
            let snapshot = settings.snapshots.load();
            // What cannot be read is not stamped: the schema comes next and says it better, with
            // the path of the field, and validation refuses whatever it lets through.
            Ok(mutate::answer(&settings.client, &snapshot, request)
                .await
                .unwrap_or(Answer::Allowed))
        }
        Path::Validate => match request.read() {
            Ok(review) => Ok(validate(settings, &review).await),
            Err(error) => Err(error),
        },
    };
    answer.unwrap_or_else(|error| malformed(&error))
}

async fn validate(settings: &Settings, review: &Review<'_>) -> Answer {
    let snapshot = snapshot_for(settings, review).await;
    let answer = match decide(&snapshot, review, crate::clock::now()) {
        Verdict::Allow => Answer::Allowed,
        Verdict::Noted(note) => Answer::Noted(note),
        Verdict::Deny(refusal) => Answer::Denied(refusal),
        Verdict::Confirm(question) => {
            let answers = confirm::answer(&settings.client, &question, &review.user).await;
            let confirmed = match upgrade_core::policy::confirm(&question, &answers) {
                Ok(()) => compatible(settings, &snapshot, review, &answers.labels).await,
                refused => refused,
            };
            match confirmed {
                Ok(()) => Answer::Allowed,
                Err(refusal) => Answer::Denied(refusal),
            }
        }
    };
    if let Answer::Noted(note) = &answer {
        tracing::info!(
            reason = note.refusal.reason.as_str(), policy = note.policy, mode = note.manner.as_str(),
            namespace = %review.namespace, name = %review.name, user = %review.user.username,
            dry_run = review.dry_run, "let pass: {}", note.refusal.what
        );
    }
    if let Answer::Denied(refusal) = &answer {
        tracing::info!(
            reason = refusal.reason.as_str(), namespace = %review.namespace, name = %review.name,
            user = %review.user.username, dry_run = review.dry_run, "refused: {}", refusal.what
        );
    }
    answer
}

/// Whether matrices let the versions pass that a new Upgrade brings together, against what runs.
async fn compatible(
    settings: &Settings,
    snapshot: &Snapshot,
    review: &Review<'_>,
    seen: &Seen,
) -> Result<(), Box<Refusal>> {
    let (Subject::Upgrade(change), Operation::Create) = (&review.subject, review.operation) else {
        return Ok(());
    };
    let Some(upgrade) = &change.new else { return Ok(()) };
    let labels = |kind, name: &str| match seen {
        Seen::Found(labels) => labels.get(&(kind, name.to_owned())).cloned(),
        _ => None,
    };
    let stages = &upgrade.spec.stages;
    let judged = crate::facts::judge(&settings.client, snapshot, &review.namespace, stages, labels);
    // The API server waits for five seconds.
    let why = match tokio::time::timeout(Duration::from_secs(3), judged).await {
        Ok(Door::Open { .. }) => return Ok(()),
        Ok(Door::Shut { why, .. }) => why,
        Err(_) => "what runs could not be read within 3 s".to_owned(),
    };
    let object = format!("Upgrade {}/{}", review.namespace, review.name);
    let refusal = Refusal::new(
        Reason::Incompatible,
        format!("{object} may not be created: its versions do not go together"),
        why,
        "take versions that do, or upgrade what is in the way first; the policy's \
         `spec.compatibility.pass` says which verdicts pass",
    );
    Err(Box::new(refusal.run("kubectl upgrade matrix list")))
}

async fn snapshot_for(settings: &Settings, review: &Review<'_>) -> Arc<Snapshot> {
    let snapshot = settings.snapshots.load();
    let known = |s: &Snapshot| !s.synced() || s.namespace(&review.namespace).is_some();
    let needed = match review.subject {
        Subject::Workload(_) => true,
        Subject::Upgrade(_) | Subject::Approval(_) => review.operation == Operation::Create,
        _ => false,
    };
    if !needed || known(&snapshot) {
        return snapshot;
    }
    settings.snapshots.load_when(NAMESPACE_WAIT, known).await
}

fn malformed(error: &ReviewError) -> Answer {
    Answer::Denied(Box::new(Refusal::new(
        Reason::Malformed,
        "the request could not be read",
        error.to_string(),
        "what cannot be read is refused; is the webhook as new as the cluster's CRDs?",
    )))
}

fn panicked() -> Refusal {
    tracing::error!("the decision panicked; the request is refused");
    Refusal::new(
        Reason::InternalError,
        "the upgrade-webhook failed on this request",
        "a defect in it; its log says where",
        "nothing was changed; report the lines of the log, please",
    )
}
