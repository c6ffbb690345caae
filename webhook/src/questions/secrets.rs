//! Secrets that a question needs: read when it is asked, put into its texts, taken out of whatever
//! comes back.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::Value;
use std::collections::BTreeMap;
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE};
use upgrade_core::engine::questions::SecretUse;

/// What stands for a secret in what is shown.
const HIDDEN: &str = "*****";

/// Placeholders and what they stand for.
#[derive(Default)]
pub struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// Reads them, in one request for each Secret.
    pub async fn read(
        client: &Client,
        namespace: &str,
        wanted: &[SecretUse],
    ) -> Result<Self, String> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let mut read: BTreeMap<&str, Secret> = BTreeMap::new();
        let mut found = Vec::with_capacity(wanted.len());
        for one in wanted {
            let name = one.secret.name.as_str();
            if !read.contains_key(name) {
                let secret = api.get(name).await.map_err(|e| unreadable(namespace, name, &e))?;
                read.insert(name, secret);
            }
            let data = read.get(name).and_then(|s| s.data.as_ref());
            let value = data.and_then(|d| d.get(&one.secret.key));
            let text = match (value, &one.otherwise) {
                (Some(value), _) => std::str::from_utf8(&value.0)
                    .map_err(|_| format!("Secret {name}: key {} is no text", one.secret.key))?
                    .trim_end_matches(['\n', '\r'])
                    .to_owned(),
                (None, Some(otherwise)) => otherwise.clone(),
                (None, None) => {
                    return Err(format!("Secret {name} has no key {}", one.secret.key));
                }
            };
            found.push((one.placeholder.clone(), text));
        }
        Ok(Self(found))
    }

    /// A text with every secret in its place.
    pub fn put(&self, text: &str) -> String {
        let put = |text: String, (from, to): &(String, String)| text.replace(from, to);
        self.0.iter().fold(text.to_owned(), put)
    }

    /// A text without any secret or placeholder, also where JSON or a URL writes it otherwise.
    pub fn take_out(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (placeholder, secret)| {
            let text = text.replace(placeholder, HIDDEN);
            if secret.is_empty() {
                return text;
            }
            let quoted = Value::String(secret.clone()).to_string();
            let in_url: String = reqwest::Url::parse_with_params("http://a", [("", secret)])
                .ok()
                .and_then(|u| u.query().map(|q| q.trim_start_matches('=').to_owned()))
                .unwrap_or_default();
            let mut written = vec![secret.as_str(), quoted.trim_matches('"'), in_url.as_str()];
            // The longest first: a short one may be a part of it.
            written.sort_by_key(|w| std::cmp::Reverse(w.len()));
            written.retain(|w| !w.is_empty());
            written.into_iter().fold(text, |text, one| text.replace(one, HIDDEN))
        })
    }
}

/// Puts secrets into every text of a JSON value.
pub fn put_in_json(value: &Value, secrets: &Secrets) -> Value {
    match value {
        Value::String(text) => Value::String(secrets.put(text)),
        Value::Array(items) => items.iter().map(|v| put_in_json(v, secrets)).collect(),
        Value::Object(map) => {
            map.iter().map(|(k, v)| (secrets.put(k), put_in_json(v, secrets))).collect()
        }
        other => other.clone(),
    }
}

/// Why a Secret could not be read, and what lets it be.
fn unreadable(namespace: &str, name: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "Secret {name} may not be read by the controller; allow it in this namespace: `kubectl \
             create role upgrade-analysis -n {namespace} --verb=get --resource=secrets \
             --resource-name={name} && kubectl create rolebinding upgrade-analysis -n {namespace} \
             --role=upgrade-analysis --serviceaccount={SYSTEM_NAMESPACE}:{SERVICE_ACCOUNT}`"
        ),
        kube::Error::Api(status) if status.code == 404 => {
            format!("Secret {name} does not exist in namespace {namespace}")
        }
        kube::Error::Api(status) => format!("Secret {name}: {} ({})", status.message, status.code),
        _ => format!("Secret {name}: the API server could not be asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_in_and_comes_out_however_it_is_written() {
        let secrets = Secrets(vec![("\u{e000}".to_owned(), "a\"b c".to_owned())]);
        assert_eq!(secrets.put("Bearer \u{e000}"), "Bearer a\"b c");
        for echo in ["x a\"b c y", "{\"k\":\"a\\\"b c\"}", "http://h/?q=a%22b+c", "\u{e000}"] {
            let shown = secrets.take_out(echo);
            assert!(shown.contains(HIDDEN) && !shown.contains("b c"), "{echo}: {shown}");
            assert!(!shown.contains("b+c"), "{echo}: {shown}");
        }
        let body = put_in_json(&serde_json::json!({"k": ["\u{e000}"]}), &secrets);
        assert_eq!(body, serde_json::json!({"k": ["a\"b c"]}));
    }
}
