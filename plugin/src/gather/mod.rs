//! What runs now, what is wanted, and the plan that lies between. Reads only.

pub mod facts;
mod files;
mod images;
mod live;
mod manifests;
pub mod preflight;
mod read;
pub mod workloads;

pub use files::parse;
pub use read::{Read, list_all};

use crate::client::Session;
use crate::lower::{Change, Intent};
use crate::output::Refusal;
use serde::Serialize;
use std::fmt::Write;
use upgrade_core::api::upgrade::OnConflict;
use upgrade_core::plan::{Difference, Plan, Request, Workload, plan, separate};

/// A plan, and what the manifests say besides.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepared {
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// Objects of the manifests that are as they should be.
    #[serde(skip_serializing_if = "is_zero")]
    pub unchanged: usize,
    /// What the manifests change that is not part of this upgrade.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_carried: Vec<NotCarried>,
}

/// Something that the manifests change and the Upgrade leaves alone.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotCarried {
    /// The object.
    pub object: String,
    /// Why it is not part.
    pub why: String,
    /// What differs, where the object is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

impl NotCarried {
    /// Nothing but the number of replicas: autoscalers and people set that, and an upgrade leaves
    /// it alone, so it is no reason to stop.
    pub fn is_scale(&self) -> bool {
        !self.differences.is_empty() && self.differences.iter().all(|d| d.path == "spec.replicas")
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Reads what runs and makes the plan. The session's namespace may come from the manifests.
pub async fn prepare(session: &mut Session, intent: &Intent) -> anyhow::Result<Prepared> {
    let (workloads, unchanged, not_carried) = match &intent.change {
        Change::Images { workloads, images } => {
            (images::by_container(session, workloads, images).await?, 0, Vec::new())
        }
        Change::Tag { workloads, tag } => {
            (images::by_tag(session, workloads, tag).await?, 0, Vec::new())
        }
        Change::Manifests { sources, recursive, images_only } => {
            let objects = files::read(sources, *recursive)?;
            let found = manifests::compare(session, objects).await?;
            if !images_only && found.not_carried.iter().any(|n| !n.is_scale()) {
                return Err(more_than_images(&found).into());
            }
            (found.workloads, found.unchanged, found.not_carried)
        }
    };
    let prepared = finish(session, intent, workloads).await?;
    Ok(Prepared { plan: prepared, unchanged, not_carried })
}

async fn finish(
    session: &Session,
    intent: &Intent,
    mut workloads: Vec<Workload>,
) -> Result<Plan, Refusal> {
    if workloads.iter().all(|w| w.images.is_empty()) {
        return Err(Refusal::new(
            "NothingToDo",
            "nothing to upgrade: the images are what runs already",
        ));
    }
    let on_conflict = intent.on_conflict.unwrap_or_default();
    if on_conflict != OnConflict::Reject {
        // Where they cannot be read, the server says what does not fit.
        let others = preflight::existing(session).await.unwrap_or_default();
        preflight::start_from(&mut workloads, on_conflict, &others)?;
    }
    live::autoscalers(session, &mut workloads).await;
    let request = Request {
        namespace: session.namespace.clone(),
        name: intent.name.clone(),
        strategy: intent.strategy.clone(),
        auto_rollback: intent.auto_rollback.clone(),
        not_before: intent.not_before.clone(),
        window_overrun: intent.window_overrun,
        on_conflict: intent.on_conflict,
        before: intent.before.clone(),
        health_checks: intent.health_checks.clone(),
        workloads,
    };
    let beside = match separate::settings(&request) {
        Some(_) => live::neighbours(session).await,
        None => separate::Neighbours::default(),
    };
    let more = separate::notices(&request, &beside);
    let mut plan = plan(request);
    plan.notices.extend(more);
    plan.notices.sort_by_key(|n| n.severity);
    Ok(plan)
}

fn more_than_images(found: &manifests::Found) -> Refusal {
    const SHOWN: usize = 20;
    let mut text = String::from(
        "the manifests change more than images, and this version carries images only. Not part of \
         the upgrade:",
    );
    let lines = not_carried_lines(&found.not_carried);
    for line in lines.iter().take(SHOWN) {
        let _ = write!(text, "\n  {line}");
    }
    if let Some(more) = lines.len().checked_sub(SHOWN).filter(|n| *n > 0) {
        let _ = write!(text, "\n  and {more} more");
    }
    Refusal::new("MoreThanImages", text)
        .hint("apply the rest separately (`kubectl diff` and `kubectl apply`), then upgrade the images")
        .hint("--images-only takes the images and leaves the rest as it is")
}

/// A line for everything that is left alone; objects on which nothing but the labels of a release
/// differ share one, for there are many of them and they are the least of it.
pub fn not_carried_lines(items: &[NotCarried]) -> Vec<String> {
    let label = |d: &Difference| {
        d.path.ends_with("labels[app.kubernetes.io/version]")
            || d.path.ends_with("labels[helm.sh/chart]")
    };
    let (labels, rest): (Vec<_>, Vec<_>) =
        items.iter().partition(|i| !i.differences.is_empty() && i.differences.iter().all(label));
    let mut lines: Vec<String> = rest.into_iter().map(not_carried_line).collect();
    match labels.as_slice() {
        [] => {}
        [one] => lines.push(not_carried_line(one)),
        many => lines.push(format!("{} objects: version and chart labels only", many.len())),
    }
    lines
}

/// One line for something that is left alone.
fn not_carried_line(item: &NotCarried) -> String {
    const SHOWN: usize = 4;
    let paths: Vec<&str> = item.differences.iter().map(|d| d.path.as_str()).collect();
    match paths.len() {
        0 => format!("{}: {}", item.object, item.why),
        n if n <= SHOWN => format!("{}: {}: {}", item.object, item.why, paths.join(", ")),
        n => {
            let some = paths.get(..SHOWN).unwrap_or(&paths).join(", ");
            format!("{}: {}: {some} and {} more", item.object, item.why, n - SHOWN)
        }
    }
}
