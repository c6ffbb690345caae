//! Tells people that an Upgrade is going to start: a POST of JSON to each receiver.

use super::watches::Context;
use crate::questions::post;
use anyhow::Result;
use kube::ResourceExt;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use upgrade_core::api::{GROUP, Upgrade};

/// Time before a second try; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest time between two tries.
const LAST_RETRY: Duration = Duration::from_mins(5);

/// Who was told of which plan of which Upgrade.
#[derive(Default)]
pub struct Told(Mutex<HashMap<(String, String), Vec<Try>>>);

#[derive(Clone, Debug)]
struct Try {
    receiver: String,
    told: bool,
    failures: u32,
    next: jiff::Timestamp,
}

impl Told {
    /// Receivers that were told of this plan.
    pub fn of(&self, upgrade: &Upgrade, plan_hash: &str) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = all.get(&(upgrade.uid().unwrap_or_default(), plan_hash.to_owned()));
        let told = tries.into_iter().flatten().filter(|t| t.told);
        told.map(|t| t.receiver.clone()).collect()
    }

    /// Forgets Upgrades that are over.
    pub fn forget(&self, upgrade: &Upgrade) {
        let uid = upgrade.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != uid);
    }

    fn last(&self, key: &(String, String), receiver: &str) -> Option<Try> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key)?.iter().find(|t| t.receiver == receiver).cloned()
    }

    fn note(&self, key: &(String, String), attempt: Try) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = all.entry(key.clone()).or_default();
        tries.retain(|t| t.receiver != attempt.receiver);
        tries.push(attempt);
    }
}

/// Tells each of them, and says when to look again. What failed is tried again, later each time.
pub async fn announce(
    context: &Context,
    upgrade: &Upgrade,
    receivers: &[String],
) -> Option<(jiff::Timestamp, Vec<String>)> {
    let hash = upgrade.status.as_ref().map(|s| s.plan_hash.clone()).unwrap_or_default();
    let key = (upgrade.uid().unwrap_or_default(), hash);
    let now = crate::clock::now();
    let (mut again, mut failed) = (None::<jiff::Timestamp>, Vec::new());
    for receiver in receivers {
        let last = context.told.last(&key, receiver);
        let failures = last.as_ref().map_or(0, |t| t.failures);
        let next = match last {
            Some(t) if t.told => now,
            Some(t) if t.next > now => t.next,
            _ => {
                let sent = send(context, upgrade, receiver).await;
                let wait = FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY);
                let next = if sent.is_ok() { now } else { now + wait };
                if let Err(error) = &sent {
                    let error = format!("{error:#}");
                    tracing::warn!(receiver, error, "a receiver was not told");
                    failed.push(format!("{receiver}: {error}"));
                }
                let failures = failures + u32::from(sent.is_err());
                let told = sent.is_ok();
                context.told.note(&key, Try { receiver: receiver.clone(), told, failures, next });
                next
            }
        };
        again = Some(again.map_or(next, |a| a.min(next)));
    }
    again.map(|at| (at, failed))
}

async fn send(context: &Context, upgrade: &Upgrade, receiver: &str) -> Result<()> {
    let spec = &upgrade.spec;
    let body = json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": "UpgradeNotice",
        "namespace": upgrade.namespace(),
        "name": upgrade.name_any(),
        "from": spec.from,
        "to": spec.to,
        "requester": spec.requester.as_ref().map(|r| &r.username),
        "planHash": upgrade.status.as_ref().map(|s| &s.plan_hash),
        "notBefore": spec.not_before,
        "text": text(upgrade),
    });
    post(&context.client, &context.namespace, receiver, &body).await
}

/// One sentence; chat systems show the field `text`.
fn text(upgrade: &Upgrade) -> String {
    let namespace = upgrade.namespace().unwrap_or_default();
    let spec = &upgrade.spec;
    let versions = match (&spec.from, &spec.to) {
        (Some(from), Some(to)) => format!(" from {from} to {to}"),
        (None, Some(to)) => format!(" to {to}"),
        _ => String::new(),
    };
    let by = spec.requester.as_ref().map(|r| format!(", asked for by {}", r.username));
    format!(
        "Upgrade {namespace}/{}{versions} is going to start{}",
        upgrade.name_any(),
        by.unwrap_or_default()
    )
}
