//! Ephemeral containers: `kubectl debug` in a pod of a governed workload.

use super::decide::{Place, Verdict};
use super::images;
use super::modes::{self, Manner, Note};
use super::refusal::{Reason, Refusal};
use super::snapshot::PolicyView;
use super::workload::{ImageDelta, Workload, deltas};
use crate::image::Image;

/// An UPDATE of `pods/ephemeralcontainers` that changes images.
///
/// The API server lets nothing else through that subresource than containers that are added, and
/// where it does, it is an image change like any other.
pub fn decide(place: &Place<'_>, old: &Workload<'_>, new: &Workload<'_>) -> Verdict {
    let deltas = deltas(&old.images, &new.images);
    // Image volumes are listed with a colon in their names.
    if deltas.iter().any(|d| d.from.is_some() || d.container.contains(':')) {
        return modes::apply(place, Some(old), new, images::decide(place, old, new));
    }
    let mut note: Option<Note> = None;
    for policy in governing(place, old, new) {
        let Some(delta) = deltas.iter().find(|d| !allowed(policy, d)) else { continue };
        let refusal = refuse(place, new, policy, delta);
        let Some(manner) = Manner::of(policy, place.dry_run) else { return refusal.into() };
        if note.as_ref().is_none_or(|n| manner > n.manner) {
            note = Some(Note { manner, policy: policy.name.clone(), refusal });
        }
    }
    note.map_or(Verdict::Allow, Verdict::from)
}

/// Policies that govern the pod itself, and those of the workloads whose selectors it falls into:
/// no reference to an owner is believed. The container has to pass every one of them.
fn governing<'s>(place: &Place<'s>, old: &Workload<'_>, new: &Workload<'_>) -> Vec<&'s PolicyView> {
    let view = place.view;
    let owners = view.selecting(&old.pod_labels).chain(view.selecting(&new.pod_labels));
    let owners = owners.filter_map(|e| view.policy_of(e.kind, &e.name));
    let mut all: Vec<_> = place.policy(Some(old), new).into_iter().chain(owners).collect();
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    all
}

fn allowed(policy: &PolicyView, delta: &ImageDelta) -> bool {
    let Some(list) = &policy.spec.ephemeral_containers else {
        return false;
    };
    let image = delta.to.as_deref().and_then(|to| Image::parse(to).ok());
    image.is_some_and(|image| list.images.iter().any(|entry| image.is_covered_by(entry)))
}

fn refuse(
    place: &Place<'_>,
    new: &Workload<'_>,
    policy: &PolicyView,
    delta: &ImageDelta,
) -> Refusal {
    let image = images::plain(delta.to.as_deref().unwrap_or_default());
    let name = &policy.name;
    let listed = policy.spec.ephemeral_containers.as_ref().map_or(0, |list| list.images.len());
    let why = match listed {
        0 => format!(
            "policy `{name}` governs the pod, and its `spec.ephemeralContainers` allows no image"
        ),
        _ => format!(
            "policy `{name}` governs the pod, and no entry of its `spec.ephemeralContainers.images` covers that image"
        ),
    };
    Refusal::new(
        Reason::EphemeralContainerNotAllowed,
        format!(
            "Pod {}/{}: ephemeral container `{}` may not run {image}",
            place.namespace,
            new.name,
            images::plain(&delta.container)
        ),
        why,
        format!(
            "an administrator adds the image to `spec.ephemeralContainers.images` of policy `{name}`; \
             an entry without tag and digest covers every one of its repository"
        ),
    )
    .run(format!("kubectl edit upgradepolicy {name}"))
}
