//! What to know of a canary that is a Deployment of its own: room, names, and who reaches it.

use super::build::{Request, Workload};
use super::live::Live;
use super::risks::{Notice, Severity};
use crate::api::separate::{Separate, canary_of};
use crate::engine::law::canary_count;
use k8s_openapi::api::core::v1::Service;
use std::collections::BTreeMap;

/// What is beside the workloads of a request.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Services of the namespace; none where they could not be read.
    pub services: Option<Vec<Service>>,
    /// Names of Deployments that are there.
    pub deployments: Vec<String>,
}

/// The settings of a request whose canaries are Deployments of their own.
pub fn settings(request: &Request) -> Option<&Separate> {
    request.strategy.canary.as_ref()?.separate.as_ref()
}

/// Everything to know about the canaries of a request; nothing where they are in place.
pub fn notices(request: &Request, beside: &Neighbours) -> Vec<Notice> {
    let Some(settings) = settings(request) else { return Vec::new() };
    let canary = request.strategy.canary.as_ref();
    let weights = canary.into_iter().flat_map(|c| &c.steps).filter_map(|s| s.set_weight);
    let most = weights.filter(|w| *w < 100).max().unwrap_or(0);
    let mut found = Vec::new();
    for workload in &request.workloads {
        of(workload, settings, most, beside, &mut found);
    }
    found
}

fn of(
    workload: &Workload,
    settings: &Separate,
    most: i32,
    beside: &Neighbours,
    found: &mut Vec<Notice>,
) {
    let mut say = |severity, reason, message| found.push(Notice { severity, reason, message });
    let (reference, name) = (workload.reference(), workload.live.name_any());
    let (canary, n) = (canary_of(&name), workload.replicas());
    let Live::Deployment(live) = &workload.live else {
        let message = format!("{reference} is no Deployment, and only those have such a canary");
        return say(Severity::Risk, "NoDeployment", message);
    };
    if beside.deployments.contains(&canary) {
        let message = format!(
            "there is a Deployment {canary} already, and the canary of {reference} would have that \
             name: the Upgrade fails before it touches anything, unless it is gone by then"
        );
        say(Severity::Risk, "NameTaken", message);
    }
    let Some(spec) = &live.spec else { return };
    let labels = match settings.pod_labels(&name, spec) {
        Ok(labels) => labels,
        Err(why) => {
            let message =
                format!("{reference}: {why}; the Upgrade fails before it touches anything");
            return say(Severity::Risk, "NoCanaryLabels", message);
        }
    };
    let pods = canary_count(most, n).max(1);
    let message = format!(
        "{reference} stays as it is until the last weight; beside its {n} pods Deployment {canary} \
         has up to {pods}, and goes at the end"
    );
    say(Severity::Note, "CanaryOfItsOwn", message);
    let own = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    say(
        Severity::Note,
        "CanaryReach",
        reach(&reference, beside.services.as_deref(), &own, &labels),
    );
}

type Labels = BTreeMap<String, String>;

/// Which Services of a workload send clients to its canary.
fn reach(reference: &str, services: Option<&[Service]>, own: &Labels, canary: &Labels) -> String {
    let Some(services) = services else {
        return format!(
            "which Services reach the canary of {reference} is not known: you may not list them"
        );
    };
    let selects = |service: &&Service, pods: &Labels| {
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| pods.get(k) == Some(v)))
    };
    let names = |list: &[&Service]| {
        let names = list.iter().filter_map(|s| s.metadata.name.as_deref());
        names.collect::<Vec<_>>().join(", ")
    };
    let mine: Vec<&Service> =
        services.iter().filter(|s| selects(s, own) || selects(s, canary)).collect();
    let (yes, no): (Vec<&Service>, Vec<&Service>) =
        mine.into_iter().partition(|s| selects(s, canary));
    let differ: Vec<String> = canary
        .iter()
        .filter(|(k, v)| own.get(*k) != Some(v))
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let differ = differ.join(",");
    match (yes.as_slice(), no.as_slice()) {
        ([], []) => format!("no Service sends clients to {reference}, nor to its canary"),
        ([], no) => format!(
            "no client reaches the canary of {reference}: its pods are {differ}, which Services {} \
             do not select; checks and analyses see it. With a label in the selector of {reference} \
             that no Service asks for, --separate=KEY=VALUE lets clients in",
            names(no)
        ),
        (yes, []) => format!(
            "Services {} send clients to the canary of {reference}, too, in proportion to its pods",
            names(yes)
        ),
        (yes, no) => format!(
            "Services {} send clients to the canary of {reference}, too, in proportion to its \
             pods; {} do not, for its pods are {differ}",
            names(yes),
            names(no)
        ),
    }
}
