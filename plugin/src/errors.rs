//! What the API server says, in words that help.

use crate::client::Session;
use crate::output::Refusal;
use kube::core::Status;
use upgrade_core::api::GROUP;

/// Turns an error of a request into an answer.
pub fn explain(session: &Session, error: &kube::Error) -> Refusal {
    match error {
        kube::Error::Api(status) => api(session, status),
        kube::Error::Service(_) | kube::Error::HyperError(_) => unreachable_server(session, error),
        kube::Error::Auth(cause) => Refusal::new(
            "NoCredentials",
            format!("the credentials of {} cannot be had: {cause}", session.source),
        ),
        other => Refusal::new("RequestFailed", format!("{}: {other}", session.server)),
    }
}

fn unreachable_server(session: &Session, error: &kube::Error) -> Refusal {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    let message = format!("no connection to {} (from {}): {text}", session.server, session.source);
    let refusal = Refusal::new("NoConnection", message);
    if text.to_ascii_lowercase().contains("certificate") {
        return refusal
            .hint("the server's certificate is not trusted: check certificate-authority");
    }
    refusal.hint("`kubectl cluster-info` shows whether kubectl reaches it")
}

fn api(session: &Session, status: &Status) -> Refusal {
    let details = status.details.as_ref();
    let named = details.is_some_and(|d| !d.name.is_empty());
    if is_denial(&status.message) {
        return Refusal::blocked("Denied", status.message.clone());
    }
    if is_absent(status) && !named {
        return no_crds();
    }
    if status.is_forbidden() {
        return forbidden(session, status);
    }
    if status.code == 401 {
        return Refusal::new(
            "Unauthorized",
            format!(
                "{} does not know who you are (credentials from {})",
                session.server, session.source
            ),
        )
        .hint("the token or certificate may have expired: `kubectl auth whoami`");
    }
    if status.is_conflict() || status.is_already_exists() {
        let reason = if status.is_conflict() { "Conflict" } else { "AlreadyExists" };
        return Refusal::new(reason, status.message.clone())
            .hint("somebody else changed it at the same time: look at it and try again");
    }
    if is_absent(status) {
        return Refusal::new("NotFound", status.message.clone());
    }
    if status.is_invalid() || status.code == 400 {
        return Refusal::new("Invalid", status.message.clone());
    }
    let text =
        if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
    Refusal::new("ServerError", format!("{} answered {}: {text}", session.server, status.code))
}

/// A webhook or a validating admission policy said no; its own words are the best there are.
fn is_denial(message: &str) -> bool {
    message.contains("denied the request") || message.contains("denied request:")
}

/// 404. A path that is not served at all is answered in plain text, without a reason.
pub fn is_absent(status: &Status) -> bool {
    status.is_not_found() || status.code == 404
}

/// The group is not served.
pub fn no_crds() -> Refusal {
    Refusal::new("NotInstalled", format!("the cluster does not serve {GROUP}: it is not installed"))
        .hint("kubectl upgrade install")
}

fn forbidden(session: &Session, status: &Status) -> Refusal {
    let refusal = Refusal::new("Forbidden", status.message.clone());
    let words = |after: &str| {
        let rest = status.message.split_once(after)?.1;
        rest.split('"').next().map(str::to_owned)
    };
    let verb = status.message.split_once("cannot ").and_then(|(_, rest)| rest.split(' ').next());
    match (verb, words("resource \""), words("API group \"")) {
        (Some(verb), Some(resource), group) => {
            let group =
                group.filter(|g| !g.is_empty()).map(|g| format!(".{g}")).unwrap_or_default();
            refusal.hint(format!(
                "ask for the right: kubectl auth can-i {verb} {resource}{group} -n {}",
                session.namespace
            ))
        }
        _ => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_told_from_a_missing_right() {
        assert!(is_denial("admission webhook \"w\" denied the request: no approved Upgrade"));
        assert!(is_denial("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"));
        assert!(!is_denial("upgrades is forbidden: User \"a\" cannot list resource \"upgrades\""));
    }
}
