//! Notifications: who is told that an Upgrade came into a phase.
//!
//! They stand in the status until they have arrived or were given up, so a controller that dies
//! takes none with it: a receiver may be told twice, and is not told never without an event.

use super::Walk;
use super::effect::Effect;
use super::questions::{NotifyQuestion, Question};
use crate::api::GROUP;
use crate::api::notification::{Notification, NotificationFormat, PendingNotification};
use crate::api::status::Phase;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::{Value, json};

/// How often a notification is tried before it is given up: for about five minutes.
const TRIES: i32 = 7;
/// Time before the second try; it doubles with each.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(5);
/// The most that may wait; the oldest is given up for the newest.
const MOST: usize = 32;

impl Walk<'_> {
    /// Notes whom a new phase concerns, and goes on with what has not arrived.
    pub(crate) fn notify(&mut self, before: Phase) {
        if self.status.phase != before {
            let wanted = &self.observed.governance.notifications;
            for one in wanted
                .iter()
                .filter(|n| n.phases.is_empty() || n.phases.contains(&self.status.phase))
            {
                let pending = PendingNotification {
                    receiver: one.receiver.clone(),
                    phase: self.status.phase,
                    time: MicroTime(self.now),
                    format: one.format,
                    text: self.text(one, before),
                    failures: 0,
                    next: None,
                };
                self.status.notifications.push(pending);
            }
        }
        while self.status.notifications.len() > MOST {
            let oldest = self.status.notifications.remove(0);
            self.given_up(&oldest, "too many wait");
        }
        let pending = std::mem::take(&mut self.status.notifications);
        for one in pending {
            let left = self.go_on_with(one);
            self.status.notifications.extend(left);
        }
        // What was not even tried does not go with its Upgrade.
        if self.status.notifications.iter().any(|n| n.failures == 0) {
            self.effects.retain(|e| *e != Effect::LetGo);
        }
    }

    /// One more round of a notification; none where it has arrived or is given up.
    fn go_on_with(&mut self, mut one: PendingNotification) -> Option<PendingNotification> {
        if let Some(next) = one.next.as_ref().map(|t| t.0).filter(|t| *t > self.now) {
            self.effects.push(Effect::RequeueAt(next));
            return Some(one);
        }
        // Microseconds are what the API server keeps of a time.
        let time = one.time.0.as_microsecond();
        let key = format!("notify/{}/{}/{time}/{}", one.receiver, one.phase, one.failures);
        let body = self.body(&one);
        let question = Question::Notify(NotifyQuestion { receiver: one.receiver.clone(), body });
        let Some(answer) = self.ask(&key, question) else { return Some(one) };
        let Err(why) = &answer.result else { return None };
        one.failures += 1;
        if one.failures >= TRIES {
            self.given_up(&one, why);
            return None;
        }
        if one.failures == 1 {
            let note =
                format!("{} was not told of phase {}: {why}; tried again", one.receiver, one.phase);
            self.event(true, "NotToldYet", note);
        }
        let wait = FIRST_RETRY.checked_mul(1 << (one.failures - 1).min(6)).unwrap_or(FIRST_RETRY);
        let next = self.now.saturating_add(wait).unwrap_or(Timestamp::MAX);
        one.next = Some(MicroTime(next));
        self.effects.push(Effect::RequeueAt(next));
        Some(one)
    }

    /// The dead letter: the event has the whole of it.
    fn given_up(&mut self, one: &PendingNotification, why: &str) {
        let note = format!("{} was never told: {} ({why})", one.receiver, one.text);
        self.event(true, "NotificationLost", note);
    }

    fn body(&self, one: &PendingNotification) -> Value {
        match one.format {
            NotificationFormat::Slack => json!({"text": one.text}),
            NotificationFormat::Json => json!({
                "apiVersion": format!("{GROUP}/v1alpha1"),
                "kind": "UpgradeNotification",
                "namespace": self.plan.namespace,
                "name": self.plan.name,
                "phase": one.phase,
                "time": one.time,
                "from": self.plan.from,
                "to": self.plan.to,
                "requester": self.plan.requester.as_ref().map(|r| &r.username),
                "planHash": self.plan.hash,
                "text": one.text,
            }),
        }
    }

    /// The text of a notification; what is unknown is left out.
    fn text(&self, one: &Notification, before: Phase) -> String {
        let status = &self.status;
        let versions = match (&self.plan.from, &self.plan.to) {
            (Some(from), Some(to)) => format!(" from {from} to {to}"),
            (None, Some(to)) => format!(" to {to}"),
            _ => String::new(),
        };
        let requester = self.plan.requester.as_ref().map_or("", |r| &r.username);
        let Some(template) = &one.template else {
            let why = if status.message.is_empty() {
                String::new()
            } else {
                format!(": {}", status.message)
            };
            return format!(
                "Upgrade {}/{}{versions} is {}{why}",
                self.plan.namespace, self.plan.name, status.phase
            );
        };
        let parts = [
            ("{namespace}", self.plan.namespace.as_str()),
            ("{name}", &self.plan.name),
            ("{phase}", status.phase.as_str()),
            ("{previous}", before.as_str()),
            ("{stage}", status.stage.as_deref().unwrap_or_default()),
            ("{from}", self.plan.from.as_deref().unwrap_or_default()),
            ("{to}", self.plan.to.as_deref().unwrap_or_default()),
            ("{requester}", requester),
            ("{message}", &status.message),
        ];
        fill(template, &parts)
    }
}

/// The template with its parts in place: in one pass, so that a part that looks like a placeholder
/// stays as it is.
fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let (mut text, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let part = parts.iter().find(|(name, _)| from.starts_with(name));
        let (value, length) = part.map_or(("{", 1), |(name, value)| (*value, name.len()));
        text.push_str(value);
        rest = from.get(length..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_once_and_unknown_parts_stay() {
        let parts = [("{name}", "{phase}"), ("{phase}", "Paused")];
        assert_eq!(fill("{name} is {phase} {or} {", &parts), "{phase} is Paused {or} {");
    }
}
