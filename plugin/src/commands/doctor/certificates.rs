//! The CA by which the API server knows the webhook.

use super::context::{Cluster, Read};
use super::webhooks::Hook;
use crate::output::checks::Check;
use jiff::{Timestamp, Unit};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use std::collections::BTreeSet;
use upgrade_core::api::SYSTEM_NAMESPACE;
use x509_parser::pem::Pem;

/// Secret of our own namespace that holds the CA.
const SECRET: &str = "upgrade-webhook-ca";
/// A CA is renewed a third of its life before its end; with less than this something is wrong.
const SOON: i64 = 14 * 24 * 3600;

/// One certificate of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Certificate {
    der: Vec<u8>,
    from: i64,
    until: i64,
}

/// The bundles themselves, and whether they hold the CA that signs.
pub async fn checks(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Vec<Check> {
    vec![bundle(cluster, hooks), secret(cluster, hooks).await]
}

fn bundle(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Check {
    let id = "ca-bundle";
    let now = cluster.now.as_second();
    let (mut wrong, mut soon, mut last) = (Vec::new(), Vec::new(), i64::MAX);
    for hook in hooks {
        match certificates(hook) {
            Err(why) => wrong.push(format!("{}: {why}", hook.name)),
            Ok(all) => {
                let good = all.iter().filter(|c| c.from <= now && now < c.until);
                match good.map(|c| c.until).max() {
                    None => wrong.push(format!("{}: {}", hook.name, when(&all, now))),
                    Some(until) => {
                        last = last.min(until);
                        if until - now < SOON {
                            soon.push(format!("{}: until {}", hook.name, day(until)));
                        }
                    }
                }
            }
        }
    }
    let help = "a running webhook writes its CA there within 15 s; look at its log";
    let look = format!("kubectl logs deploy/upgrade-webhook -n {SYSTEM_NAMESPACE}");
    if !wrong.is_empty() {
        let check = Check::error(id, "the API server cannot know the webhook by its certificate");
        return check.seen(wrong).hint(help).hint(look);
    }
    if !soon.is_empty() {
        let check = Check::warning(id, "the CA ends soon, and nobody has renewed it");
        return check.seen(soon).hint(help).hint(look);
    }
    Check::passed(id, format!("every webhook has a CA, valid until {}", day(last)))
}

fn when(all: &[Certificate], now: i64) -> String {
    match all.iter().map(|c| c.until).max() {
        Some(until) if until <= now => format!("its CA ended on {}", day(until)),
        _ => "its CA is not valid yet".to_owned(),
    }
}

fn day(second: i64) -> String {
    Timestamp::from_second(second)
        .and_then(|t| t.round(Unit::Second))
        .map_or_else(|_| "<unknown>".to_owned(), |t| t.strftime("%Y-%m-%d").to_string())
}

/// The certificates of a webhook's `caBundle`.
fn certificates(hook: &Hook<'_>) -> Result<Vec<Certificate>, String> {
    let value = hook.live.pointer("/clientConfig/caBundle").cloned();
    let bytes: ByteString = match value {
        Some(value) if !value.is_null() => {
            serde_json::from_value(value).map_err(|_| "its caBundle is no base64".to_owned())?
        }
        _ => ByteString(Vec::new()),
    };
    if bytes.0.is_empty() {
        return Err("it has no caBundle".to_owned());
    }
    parse(&bytes.0)
}

fn parse(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|e| format!("its CA is no PEM: {e}"))?;
        let parsed = block.parse_x509().map_err(|e| format!("its CA is no certificate: {e}"))?;
        let validity = parsed.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        drop(parsed);
        found.push(Certificate { der: block.contents, from, until });
    }
    if found.is_empty() { Err("its caBundle holds no certificate".to_owned()) } else { Ok(found) }
}

async fn secret(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Check {
    let id = "ca-secret";
    let client = cluster.session.client.clone();
    let api: Api<Secret> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let need = format!("get secrets in namespace {SYSTEM_NAMESPACE}");
    let read = Read::of(cluster.session, api.get_opt(SECRET).await, &need);
    let absent = || {
        Check::error(id, format!("there is no Secret {SECRET}: no webhook has run here"))
            .hint(format!("kubectl get pods -n {SYSTEM_NAMESPACE}"))
    };
    let secret = match read.or_check(id, absent) {
        Ok(secret) => secret,
        Err(check) => return check,
    };
    let signs = secret.data.as_ref().and_then(|d| d.get("ca.crt")).map(|b| parse(&b.0));
    let Some(Ok(signs)) = signs else {
        return Check::error(id, format!("ca.crt of Secret {SECRET} is no certificate"))
            .hint("delete the Secret: the webhook makes another");
    };
    let strangers: BTreeSet<&str> = hooks
        .iter()
        // Without any, `ca-bundle` says so.
        .filter_map(|h| certificates(h).ok().map(|all| (h, all)))
        .filter(|(_, all)| !signs.iter().all(|s| all.contains(s)))
        .map(|(h, _)| h.name.as_str())
        .collect();
    if strangers.is_empty() {
        return Check::passed(id, "the CA that signs is the one that is trusted");
    }
    Check::error(id, "some webhooks trust another CA than the one that signs")
        .seen(strangers.into_iter().map(str::to_owned))
        .hint("a running webhook writes its CA there within 15 s; look at its log")
        .hint(format!("kubectl logs deploy/upgrade-webhook -n {SYSTEM_NAMESPACE}"))
}
