//! What a person should know before saying yes.

use super::build::{Autoscaler, Request, Workload};
use crate::api::WorkloadKind;
use crate::api::upgrade::{BlueGreen, Canary, ImageChange};
use crate::engine::law::canary_count;
use crate::engine::plan::{Share, Step};
use crate::engine::steps;
use crate::image::Image;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Could hurt: look before approving.
    Risk,
    /// Good to know.
    Note,
}

/// One thing to know about a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// Stable word for scripts.
    pub reason: &'static str,
    /// What it is, in one sentence.
    pub message: String,
}

/// Everything to know about a request, the risks first.
pub fn notices(request: &Request) -> Vec<Notice> {
    let mut found = Vec::new();
    let changes: Vec<&ImageChange> = request.workloads.iter().flat_map(|w| &w.images).collect();
    repository_moves(&changes, &mut found);
    versions(&changes, &mut found);
    for workload in &request.workloads {
        state(workload, request, &mut found);
    }
    if let Some(canary) = &request.strategy.canary {
        let weights: Vec<i32> = canary.steps.iter().filter_map(|s| s.set_weight).collect();
        if canary.traffic_routing.is_some() {
            let room = "with trafficRouting all stable pods stay while the canary's come on top: at \
                        the last weight there are twice as many";
            push(&mut found, Severity::Note, "RoomForTwice", room.to_owned());
        } else {
            inexact_weights(&request.workloads, &weights, &mut found);
            by_number(&request.workloads, canary, &mut found);
        }
        let in_place = canary.separate.is_none();
        let deployment = |w: &Workload| in_place && w.live.kind() == WorkloadKind::Deployment;
        if request.workloads.iter().any(deployment) {
            in_flight_side_effects(&mut found);
        }
    }
    if let Some(settings) = &request.strategy.blue_green {
        for workload in &request.workloads {
            beside(workload, settings, &mut found);
        }
        if !request.workloads.is_empty() {
            in_flight_side_effects(&mut found);
        }
    }
    found.sort_by_key(|n| n.severity);
    found
}

fn push(found: &mut Vec<Notice>, severity: Severity, reason: &'static str, message: String) {
    found.push(Notice { severity, reason, message });
}

/// `deploy/a, deploy/b and 3 more`
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => {
            format!(
                "{} and {more} more",
                names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ")
            )
        }
    }
}

fn repository_moves(changes: &[&ImageChange], found: &mut Vec<Notice>) {
    let mut moves: BTreeMap<(String, String), usize> = BTreeMap::new();
    for change in changes {
        let (Ok(from), Ok(to)) = (Image::parse(&change.from), Image::parse(&change.to)) else {
            continue;
        };
        // Docker Hub under the name that people write.
        let shown = |i: &Image| i.repository().replacen("index.docker.io/", "docker.io/", 1);
        let (from, to) = (shown(&from), shown(&to));
        if from == to {
            continue;
        }
        let pair = match (from.rsplit_once('/'), to.rsplit_once('/')) {
            // The same repository elsewhere: what moved is the path before it.
            (Some((a, name)), Some((b, same))) if name == same => (a.to_owned(), b.to_owned()),
            _ => (from, to),
        };
        *moves.entry(pair).or_default() += 1;
    }
    for ((from, to), count) in moves {
        let images = if count == 1 { "1 image".to_owned() } else { format!("{count} images") };
        let message = format!(
            "registry path moves from {from} to {to} ({images}): pull secrets, mirrors and \
             signature rules may name the old path"
        );
        push(found, Severity::Risk, "RegistryPathMoves", message);
    }
}

fn versions(changes: &[&ImageChange], found: &mut Vec<Notice>) {
    let (mut no_digest, mut latest) = (Vec::new(), Vec::new());
    for change in changes {
        let Ok(to) = Image::parse(&change.to) else {
            continue;
        };
        if to.digest().is_none() {
            let list =
                if to.tag().is_none_or(|t| t == "latest") { &mut latest } else { &mut no_digest };
            // The last part says which; the whole reference is in the plan.
            list.push(change.to.rsplit('/').next().unwrap_or(&change.to).to_owned());
        }
        if let Ok(from) = Image::parse(&change.from)
            && from.repository().rsplit('/').next() == to.repository().rsplit('/').next()
            && compare_versions(&from.version(), &to.version()) == Some(Ordering::Greater)
        {
            let message = format!(
                "{} goes from {} back to {}, which looks like a downgrade",
                change.container,
                from.version(),
                to.version()
            );
            push(found, Severity::Risk, "LooksLikeDowngrade", message);
        }
    }
    if !latest.is_empty() {
        let message = format!(
            "`latest` names no version ({}): what is approved and what is pulled can differ",
            listed(&latest)
        );
        push(found, Severity::Risk, "LatestTag", message);
    }
    if !no_digest.is_empty() {
        let message = format!(
            "a tag without digest can be moved after the approval ({}); `IMAGE:TAG@sha256:…` cannot",
            listed(&no_digest)
        );
        push(found, Severity::Note, "TagWithoutDigest", message);
    }
}

/// Orders two tags by their numbers, where both are versions of one form.
pub fn compare_versions(a: &str, b: &str) -> Option<Ordering> {
    let (a_numbers, a_rest) = numbers(a)?;
    let (b_numbers, b_rest) = numbers(b)?;
    if a_rest != b_rest {
        return None;
    }
    let width = a_numbers.len().max(b_numbers.len());
    let at = |list: &[u64], i: usize| list.get(i).copied().unwrap_or(0);
    (0..width)
        .map(|i| at(&a_numbers, i).cmp(&at(&b_numbers, i)))
        .find(|o| o.is_ne())
        .or(Some(Ordering::Equal))
}

/// `v1.2.3-alpine` as `[1, 2, 3]` and `-alpine`.
fn numbers(tag: &str) -> Option<(Vec<u64>, &str)> {
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    let end = tag.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(tag.len());
    let (version, rest) = tag.split_at(end);
    let numbers = version.split('.').map(|n| n.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some((numbers, rest))
}

fn state(workload: &Workload, request: &Request, found: &mut Vec<Notice>) {
    let name = workload.reference();
    let canary = request.strategy.canary.is_some();
    if workload.is_recreate() {
        let message = format!(
            "{name} has the strategy Recreate: one gated write replaces all pods at once, with a \
             gap in service and no canary"
        );
        push(found, Severity::Risk, "Recreate", message);
    } else if workload.live.kind() == WorkloadKind::Deployment
        && workload.live.max_surge().is_some_and(is_zero)
    {
        let message = format!(
            "{name} has maxSurge 0: every step takes a running pod away before a new one is up"
        );
        push(found, Severity::Note, "NoSurge", message);
    }
    kind(workload, canary, found);
    match workload.replicas() {
        0 => {
            let message =
                format!("{name} has 0 replicas: nothing runs, so nothing can be verified");
            push(found, Severity::Risk, "NoReplicas", message);
        }
        1 if canary => {
            let what = if workload.live.kind() == WorkloadKind::Deployment {
                "its canary is one pod beside it, half of all pods whatever the weight says"
            } else {
                "nothing of it moves before weight 100"
            };
            let message = format!("{name} has 1 replica: {what}");
            push(found, Severity::Risk, "OneReplica", message);
        }
        _ => {}
    }
    if workload.live.is_paused() {
        let message = format!("{name} is paused (spec.paused): the Upgrade waits until it is not");
        push(found, Severity::Risk, "WorkloadPaused", message);
    }
    if !workload.is_settled() {
        let message = format!(
            "the present rollout of {name} is not complete: the Upgrade starts only after it is"
        );
        push(found, Severity::Risk, "RolloutUnderWay", message);
    }
    if let (Autoscaler::Unknown, true) = (&workload.autoscaler, canary) {
        let message = format!(
            "whether an autoscaler scales {name} is not known: weights are computed again when the \
             number of replicas changes"
        );
        push(found, Severity::Note, "AutoscalerUnknown", message);
    }
}

/// What StatefulSets and DaemonSets do that Deployments do not.
fn kind(workload: &Workload, canary: bool, found: &mut Vec<Notice>) {
    let (name, live) = (workload.reference(), &workload.live);
    match live.kind() {
        WorkloadKind::StatefulSet if live.is_on_delete() => {
            let message = format!(
                "{name} has the updateStrategy OnDelete: the Upgrade is refused until it is \
                 RollingUpdate"
            );
            push(found, Severity::Risk, "OnDelete", message);
        }
        WorkloadKind::StatefulSet if canary => {
            let message = format!(
                "{name}: pods that scaling up adds come up new, until they are given back one by one"
            );
            push(found, Severity::Note, "Drift", message);
        }
        WorkloadKind::DaemonSet if canary && live.max_surge().is_some_and(|s| !is_zero(s)) => {
            let message = format!(
                "{name} has maxSurge: a canary of it is refused, for it would take a node's pod \
                 away before the new one is there; use the strategy rolling"
            );
            push(found, Severity::Risk, "SurgeOfDaemonSet", message);
        }
        WorkloadKind::DaemonSet if canary => {
            let message = format!("{name}: lost pods and new nodes come up new while it rests");
            push(found, Severity::Note, "Drift", message);
        }
        _ => {}
    }
}

/// What twice the pods mean.
fn beside(workload: &Workload, settings: &BlueGreen, found: &mut Vec<Notice>) {
    let (name, n) = (workload.reference(), workload.replicas());
    let until = settings.scale_down_delay_seconds;
    let message = format!(
        "{name} has {n} new pods beside its {n} old ones until {until} s after the switch: nodes, \
         quota and what they connect to need room for twice as many"
    );
    push(found, Severity::Risk, "DoubleCapacity", message);
    let message = format!(
        "a PodDisruptionBudget of {name} counts old and new pods together: a drain may take every \
         old pod at once while the new ones are up, so drain no node before it ends"
    );
    push(found, Severity::Risk, "BudgetCountsBoth", message);
    if let Some(routing) = &settings.traffic_routing {
        let message = format!(
            "Service {} selects old and new pods until it ends: who reaches it past {} meets both \
             versions",
            settings.active_service,
            routing.router()
        );
        push(found, Severity::Risk, "PastTheRoute", message);
    }
    if workload.autoscaler != Autoscaler::None {
        let message = format!(
            "an autoscaler of {name} sees averages over old and new pods, and as many more pods: \
             by metrics of pods it comes to the same number, by a value of an object it may scale \
             up; old and new pods follow alike"
        );
        push(found, Severity::Note, "AutoscalerSeesBoth", message);
    }
}

fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(n) => *n == 0,
        IntOrString::String(s) => matches!(s.trim_end_matches('%').parse::<i32>(), Ok(0)),
    }
}

fn inexact_weights(workloads: &[Workload], weights: &[i32], found: &mut Vec<Notice>) {
    // Workloads of the same size round the same way: one line for all of them.
    let mut by_size: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for workload in workloads.iter().filter(|w| w.replicas() > 1 && !w.is_recreate()) {
        by_size.entry(workload.replicas()).or_default().push(workload.reference());
    }
    for (replicas, names) in by_size {
        let off: Vec<String> = weights
            .iter()
            .filter(|w| i64::from(replicas) * i64::from(**w) % 100 != 0)
            .map(|weight| {
                let pods = canary_count(*weight, replicas);
                format!("{weight} % is {pods} of {replicas} ({} %)", pods * 100 / replicas)
            })
            .collect();
        if !off.is_empty() {
            let message =
                format!("weights come in whole pods; for {}: {}", listed(&names), off.join(", "));
            push(found, Severity::Note, "WeightRounded", message);
        }
    }
}

/// Steps by number of pods that, at the present size, are all of them or fewer than before.
fn by_number(workloads: &[Workload], canary: &Canary, found: &mut Vec<Notice>) {
    let Ok(steps) = steps::read(0, &canary.steps, canary.separate.is_some()) else { return };
    for workload in workloads.iter().filter(|w| !w.is_recreate()) {
        let (name, n) = (workload.reference(), workload.replicas());
        let asked = |(at, step): &(usize, &Step)| matches!(step, Step::Replicas(k) if *k >= n || *k < Share::up_to(&steps, *at).count(n));
        let Some((_, step)) = steps.iter().enumerate().find(asked).filter(|_| n > 0) else {
            continue;
        };
        if step.share().is_all_of(n) {
            let message = format!("{name} has {n} replicas: a step of {step} takes all of them");
            push(found, Severity::Risk, "AllReplicas", message);
        } else {
            let message = format!(
                "{name} has {n} replicas: a step of {step} is fewer than before and changes nothing"
            );
            push(found, Severity::Note, "FewerReplicas", message);
        }
    }
}

fn in_flight_side_effects(found: &mut Vec<Notice>) {
    let alerts = "while in flight a Deployment shows fewer available replicas than wanted and makes \
                  no `Progressing` condition: alerts on these fire";
    push(found, Severity::Note, "NativeAlerts", alerts.to_owned());
    let waits = "`--wait` of Helm and Flux waits by its own rules and may give up before the \
                 Upgrade is done";
    push(found, Severity::Note, "ForeignWait", waits.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_only_where_they_have_one_form() {
        assert_eq!(compare_versions("v1.10", "v1.9"), Some(Ordering::Greater));
        assert_eq!(compare_versions("1.2", "v1.2.0"), Some(Ordering::Equal));
        assert_eq!(compare_versions("1.2-alpine", "1.3-alpine"), Some(Ordering::Less));
        assert_eq!(compare_versions("1.2-alpine", "1.3"), None);
        assert_eq!(compare_versions("latest", "1.3"), None);
    }
}
