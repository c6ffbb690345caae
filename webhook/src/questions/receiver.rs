//! A POST of JSON to a receiver.
//!
//! A receiver is a Secret of our own namespace: `url`, and optionally `ca.crt`. The URL is a secret
//! (chat systems put their token there) and is never logged.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::Value;
use std::time::Duration;

/// How long a receiver may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Posts to a receiver, a Secret of this namespace of ours.
pub async fn post(client: &Client, namespace: &str, receiver: &str, body: &Value) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets
        .get_opt(receiver)
        .await
        .with_context(|| format!("reading Secret {receiver} of our namespace"))?
        .with_context(|| format!("there is no Secret {receiver} in our namespace"))?;
    let data = secret.data.unwrap_or_default();
    let url = data.get("url").context("the Secret has no key `url`")?;
    let url = std::str::from_utf8(&url.0).context("`url` is no text")?;
    let url: reqwest::Url = url.trim().parse().ok().context("`url` is no URL")?;
    if !matches!(url.scheme(), "https" | "http") {
        bail!("`url` must be https or http");
    }
    let mut builder =
        reqwest::Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none());
    if let Some(ca) = data.get("ca.crt") {
        let ca = reqwest::Certificate::from_pem_bundle(&ca.0).ok().context("reading `ca.crt`")?;
        builder = builder.tls_certs_only(ca);
    }
    let client = builder.build().context("building a client")?;
    // The error of a request names its URL, which is a secret.
    let answer = client.post(url).json(body).send().await.map_err(reqwest::Error::without_url)?;
    if !answer.status().is_success() {
        bail!("it answered {}", answer.status());
    }
    Ok(())
}
