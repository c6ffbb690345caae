//! BreakGlasses: announced when they come, put on record when they are used, ended when their time
//! is over, and taken away a day later.
//!
//! What a BreakGlass permits is decided by the floor, in the API server; nothing here has to be
//! alive for it. So everything here is made up for after an outage.

use super::ledger::{self, Exception};
use super::observe::version;
use super::watches::Context;
use crate::metrics::Metrics;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::{reflector, store};
use kube::runtime::watcher::Event as Seen;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;
use upgrade_core::api::{
    BREAK_GLASS_NAME, BreakGlass, BreakGlassPhase, BreakGlassStatus, BreakGlassUse, FIELD_MANAGER,
};

/// Time between looks at what the objects of an open BreakGlass run. It is read from memory, and
/// exceptions are rare and short.
const LOOK: Duration = Duration::from_secs(1);
/// Time between looks while none is open.
const REST: Duration = Duration::from_mins(1);
/// How long one that is over stays, for people to read.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// How long after the end a change is still put on record: its watch may lag.
const LATE: SignedDuration = SignedDuration::from_mins(1);

/// Attends to every BreakGlass.
pub async fn run(context: Arc<Context>, metrics: Arc<Metrics>) {
    context.ledger_ready().await;
    let (glasses, writer) = store::<BreakGlass>();
    let api: Api<BreakGlass> = Api::all(context.client.clone());
    let watch = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(reflector(writer, watch));
    let mut keeper = Keeper { context, metrics, written: HashMap::new() };
    let mut wait = REST;
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Ok(Seen::Init | Seen::InitApply(_))) => continue,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    warn!(%error, "the watch of BreakGlasses failed; trying again");
                    continue;
                }
            },
            () = tokio::time::sleep(wait) => {}
        }
        wait = keeper.round(&glasses.state()).await;
    }
}

struct Keeper {
    context: Arc<Context>,
    metrics: Arc<Metrics>,
    /// Version of our last write, by uid: the watch may lag behind it.
    written: HashMap<String, u64>,
}

impl Drop for Keeper {
    /// Who does not lead knows of none.
    fn drop(&mut self) {
        self.metrics.break_glass_active(0);
    }
}

impl Keeper {
    /// Looks at all of them; says when to look again.
    async fn round(&mut self, glasses: &[Arc<BreakGlass>]) -> Duration {
        let now = Timestamp::now();
        let open = glasses.iter().filter(|g| !g.is_expired()).count();
        self.metrics.break_glass_active(i64::try_from(open).unwrap_or(i64::MAX));
        self.written.retain(|uid, _| glasses.iter().any(|g| g.uid().as_deref() == Some(uid)));
        let mut wait = if open > 0 { LOOK } else { REST };
        for glass in glasses {
            let known = glass.uid().and_then(|uid| self.written.get(&uid).copied()).unwrap_or(0);
            if glass.metadata.deletion_timestamp.is_some() || version(glass.as_ref()) < known {
                continue;
            }
            if let Err(error) = self.attend(glass, now).await {
                let (namespace, error) = (glass.namespace(), super::terse(&error));
                warn!(?namespace, error, "a BreakGlass could not be attended to; trying again");
                wait = LOOK;
            }
        }
        wait
    }

    async fn attend(&mut self, glass: &BreakGlass, now: Timestamp) -> Result<(), kube::Error> {
        let before = glass.status.clone().unwrap_or_default();
        let mut status = before.clone();
        let ends = glass.expires_at().unwrap_or(now);
        let mut said = Vec::new();
        if status.expires_at.is_none() {
            status.expires_at = Some(Time(ends));
            said.push((glass.object_ref(&()), "BreakGlassOpened", opened(glass, ends)));
        }
        let late = now.duration_since(ends) < LATE;
        if before.phase == BreakGlassPhase::Active || late {
            self.record(glass, &mut status, now, &mut said).await?;
        }
        if status.phase == BreakGlassPhase::Active && now >= ends {
            status.phase = BreakGlassPhase::Expired;
            status.expired_at = Some(Time(now));
            let note = format!("its {} are over; images change by Upgrades again", glass.spec.ttl);
            said.push((glass.object_ref(&()), "BreakGlassExpired", note));
        }
        if status != before {
            self.write(glass, &status).await?;
            if before.expires_at.is_none() {
                self.metrics.break_glass_opened();
            }
            for (about, reason, note) in said {
                self.warn(about, reason, note).await;
            }
            return Ok(());
        }
        self.clear_away(glass, &status, now).await
    }

    /// What of its objects runs what it lists, and is news.
    async fn record(
        &self,
        glass: &BreakGlass,
        status: &mut BreakGlassStatus,
        now: Timestamp,
        said: &mut Vec<(ObjectReference, &'static str, String)>,
    ) -> Result<(), kube::Error> {
        let namespace = glass.namespace().unwrap_or_default();
        let uid = glass.uid().unwrap_or_default();
        for object in &glass.spec.objects {
            let exception = Exception { namespace: &namespace, object, uid: &uid };
            let Some(about) = ledger::except(&self.context, &exception).await? else { continue };
            if status.uses.iter().any(|u| u.kind == object.kind && u.name == object.name) {
                continue;
            }
            let (kind, name) = (object.kind, object.name.clone());
            status.uses.push(BreakGlassUse { kind, name, seen: Time(now) });
            let images = object.images.iter().map(|i| format!("`{}` -> {}", i.container, i.image));
            let note = format!(
                "changed under a BreakGlass of {} and not by an Upgrade: {}; reason: {}",
                glass.spec.requester.username,
                images.collect::<Vec<_>>().join(", "),
                glass.spec.reason
            );
            said.push((about, "BreakGlassUsed", note.clone()));
            said.push((glass.object_ref(&()), "BreakGlassUsed", format!("{kind:?} {note}")));
        }
        Ok(())
    }

    async fn write(
        &mut self,
        glass: &BreakGlass,
        status: &BreakGlassStatus,
    ) -> Result<(), kube::Error> {
        let api = self.api(glass);
        let body = json!({
            "apiVersion": BreakGlass::api_version(&()),
            "kind": BreakGlass::kind(&()),
            "metadata": {"resourceVersion": glass.resource_version(), "uid": glass.uid()},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = api.patch_status(BREAK_GLASS_NAME, &params, &Patch::Apply(&body)).await?;
        if let Some(uid) = written.uid() {
            self.written.insert(uid, version(&written));
        }
        Ok(())
    }

    /// Gone a day after its end, but not from under an object that still carries its label: every
    /// write to that one asks for it.
    async fn clear_away(
        &self,
        glass: &BreakGlass,
        status: &BreakGlassStatus,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let old = status.expired_at.as_ref().is_some_and(|t| now.duration_since(t.0) >= KEPT);
        let namespace = glass.namespace().unwrap_or_default();
        if !old || ledger::carries_break_glass(&self.context, &namespace) {
            return Ok(());
        }
        let only = Preconditions { uid: glass.uid(), resource_version: None };
        let params = DeleteParams::default().preconditions(only);
        match self.api(glass).delete(BREAK_GLASS_NAME, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    fn api(&self, glass: &BreakGlass) -> Api<BreakGlass> {
        Api::namespaced(self.context.client.clone(), &glass.namespace().unwrap_or_default())
    }

    /// As loud as an event can be; that one was lost is no reason to stop.
    async fn warn(&self, about: ObjectReference, reason: &str, note: String) {
        warn!(namespace = ?about.namespace, name = ?about.name, reason, "{note}");
        let note: String = note.chars().take(1000).collect();
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            // The recorder folds events that differ only in their note into one.
            action: note.chars().take(128).collect(),
            note: Some(note),
            secondary: None,
        };
        if let Err(error) = self.context.recorder.publish(&event, &about).await {
            warn!(%error, "an event was lost");
        }
    }
}

fn opened(glass: &BreakGlass, ends: Timestamp) -> String {
    let spec = &glass.spec;
    let objects = spec.objects.iter().map(|o| format!("{:?} {}", o.kind, o.name));
    let ticket = spec.ticket.as_ref().map(|t| format!(" ({t})")).unwrap_or_default();
    format!(
        "{} may change {} without an Upgrade until {ends}; reason: {}{ticket}",
        spec.requester.username,
        objects.collect::<Vec<_>>().join(", "),
        spec.reason
    )
}
