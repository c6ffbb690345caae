//! An HTTP GET for a probe, as the kubelet makes them: redirects are not followed.

use super::limit;
use serde_json::{Value, json};
use upgrade_core::engine::questions::HttpQuestion;

/// The most of a body that is read, in bytes; what is longer is cut, as kubelets do (10 KiB there).
const BODY: usize = 64 << 10;

/// `{"status": CODE, "body": TEXT}`
pub async fn get(question: HttpQuestion) -> Result<Value, String> {
    let client = reqwest::Client::builder()
        .timeout(limit(question.timeout))
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(question.insecure)
        .build()
        .map_err(|e| format!("building a client: {e}"))?;
    let mut request = client.get(&question.url).header("user-agent", "kubectl-upgrade");
    for (name, value) in question.headers {
        request = request.header(name, value);
    }
    let mut response = request.send().await.map_err(|e| reason(&question.url, &e))?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while body.len() < BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(reason(&question.url, &error)),
        }
    }
    body.truncate(BODY);
    Ok(json!({"status": status, "body": String::from_utf8_lossy(&body)}))
}

/// The innermost cause: `error sending request` says nothing.
fn reason(url: &str, error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    format!("{url}: {cause}")
}
