//! An HTTP request for a metric: bounded in time and size, no redirects, and no secret comes out.

use super::limit;
use super::secrets::{Secrets, put_in_json};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use std::sync::OnceLock;
use upgrade_core::api::analysis::Method;
use upgrade_core::engine::questions::RequestQuestion;

/// The longest answer that is read, in bytes.
const BODY: usize = 1 << 20;

/// Where systems keep the CAs that they trust; the image of ours has none of them, a volume may.
const TRUSTED: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
];

/// `{"status": CODE, "body": TEXT}`
pub async fn send(question: RequestQuestion, secrets: &Secrets) -> Result<Value, String> {
    let url = secrets.put(&question.url);
    // What the Upgrade's status shows: the place, and none of what was put in.
    let shown = secrets.take_out(&question.url);
    let told = |why: &str| secrets.take_out(&format!("{shown}: {why}"));
    exchange(question, &url, secrets).await.map_err(|why| told(&why))
}

async fn exchange(
    question: RequestQuestion,
    url: &str,
    secrets: &Secrets,
) -> Result<Value, String> {
    let client = client(question.insecure, question.timeout)?;
    let method = match question.method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
    };
    let mut url: reqwest::Url = url.parse().map_err(|_| "is no URL".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http and https are asked".to_owned());
    }
    let parameters: Vec<_> =
        question.query.iter().map(|(k, v)| (k.as_str(), secrets.put(v))).collect();
    let mut body = question.body.map(|b| filled(&b, secrets));
    if question.form {
        let mut form = url.clone();
        form.query_pairs_mut().clear().extend_pairs(&parameters);
        body = Some(form.query().unwrap_or_default().to_owned());
    } else if !parameters.is_empty() {
        url.query_pairs_mut().extend_pairs(&parameters);
    }
    let mut request = client.request(method, url).header("user-agent", "kubectl-upgrade");
    if question.form {
        request = request.header("content-type", "application/x-www-form-urlencoded");
    }
    for (name, value) in &question.headers {
        let mut value = reqwest::header::HeaderValue::from_str(&secrets.put(value))
            .map_err(|_| format!("header {name} has characters that may not be in one"))?;
        value.set_sensitive(true);
        request = request.header(name.as_str(), value);
    }
    if let Some(body) = body {
        request = request.body(body);
    }
    let mut response = request.send().await.map_err(|e| cause(&e))?;
    let status = response.status().as_u16();
    let mut read = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| cause(&e))? {
        read.extend_from_slice(&chunk);
        if read.len() > BODY {
            return Err(format!("the answer is longer than {} KiB", BODY >> 10));
        }
    }
    // An echo of what was sent is no way out either.
    let text = secrets.take_out(&String::from_utf8_lossy(&read));
    Ok(json!({"status": status, "body": text}))
}

/// A secret in a body of JSON stays one text, whatever characters it has.
fn filled(body: &str, secrets: &Secrets) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(json) => put_in_json(&json, secrets).to_string(),
        Err(_) => secrets.put(body),
    }
}

fn client(insecure: bool, timeout: jiff::SignedDuration) -> Result<Client, String> {
    let builder = Client::builder()
        .timeout(limit(timeout))
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(insecure)
        .tls_certs_only(trusted().iter().cloned());
    builder.build().map_err(|e| format!("building a client: {e}"))
}

/// Every CA that the system has; none is no error, for most metrics come over plain HTTP.
fn trusted() -> &'static [Certificate] {
    static TRUSTED_CAS: OnceLock<Vec<Certificate>> = OnceLock::new();
    TRUSTED_CAS.get_or_init(|| {
        let own = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
        let places = own.into_iter().chain(TRUSTED.iter().map(std::path::PathBuf::from));
        let bundles = places.filter_map(|p| std::fs::read(p).ok());
        bundles.filter_map(|b| Certificate::from_pem_bundle(&b).ok()).flatten().collect()
    })
}

/// The innermost cause: `error sending request` says nothing, and would show the URL.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
