//! What would make the server refuse the Upgrade later, found out now.

use crate::client::Session;
use crate::objects::{list, status, upgrades};
use crate::output::Refusal;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use upgrade_core::api::upgrade::OnConflict;
use upgrade_core::api::{GOVERNED_LABEL, Upgrade, WorkloadKind};
use upgrade_core::plan::{Notice, Plan, Severity, Workload, build};

/// Upgrades of the namespace; also tells whether the product is installed.
pub async fn existing(session: &Session) -> Result<Vec<Upgrade>, Refusal> {
    list(session, &upgrades(session), &ListParams::default()).await
}

/// Refuses a workload that another Upgrade has or waits for.
pub fn rivals(plan: &Plan, existing: &[Upgrade]) -> Result<(), Refusal> {
    if plan.spec.on_conflict.unwrap_or_default() != OnConflict::Reject {
        return Ok(());
    }
    for other in existing.iter().filter(|u| !status(u).phase.is_terminal()) {
        let theirs = targets(&other.spec);
        let Some(shared) = targets(&plan.spec).into_iter().find(|t| theirs.contains(t)) else {
            continue;
        };
        let (name, place) = (other.name_any(), &plan.namespace);
        if name == plan.name && crate::objects::hash(other) == plan.plan_hash {
            // The very same thing, asked for twice: the caller says so.
            continue;
        }
        let phase = status(other).phase;
        let refusal = Refusal::new(
            "UpgradeInFlight",
            format!("{}/{} is in Upgrade {name} already ({phase})", shared.0.short(), shared.1),
        );
        return Err(refusal
            .hint(format!("see where it is: kubectl upgrade status {name} -n {place}"))
            .hint(format!("or end it first: kubectl upgrade abort {name} -n {place}"))
            .hint("or say what is to become of the two: --on-conflict queue or supersede"));
    }
    Ok(())
}

/// Lets workloads that others have start from what these leave behind, or from what they started
/// from: what runs meanwhile is neither.
pub fn start_from(
    workloads: &mut [Workload],
    on_conflict: OnConflict,
    existing: &[Upgrade],
) -> Result<(), Refusal> {
    let mut open: Vec<_> = existing.iter().filter(|u| !status(u).phase.is_terminal()).collect();
    open.sort_by_key(|u| u.creation_timestamp().map(|t| t.0));
    if on_conflict == OnConflict::Supersede {
        open.reverse();
    }
    for workload in workloads.iter_mut() {
        let (kind, name) = (workload.live.kind(), workload.live.name_any());
        let stages = open.iter().flat_map(|u| &u.spec.stages).filter_map(|s| s.workloads.as_ref());
        let same = stages.flat_map(|w| &w.targets).filter(|t| t.kind == kind && t.name == name);
        // The last word is that of the last in the queue, or of the first of all.
        for theirs in same.flat_map(|t| &t.images) {
            let mine = workload.images.iter_mut().find(|c| c.container == theirs.container);
            let from = if on_conflict == OnConflict::Queue { &theirs.to } else { &theirs.from };
            if let Some(mine) = mine {
                mine.from.clone_from(from);
            }
        }
        workload.images.retain(|c| !upgrade_core::image::same(&c.from, &c.to));
    }
    if workloads.iter().all(|w| w.images.is_empty()) {
        let text = "nothing to upgrade: with --on-conflict it would start from the very images that \
                    it is to end with";
        return Err(Refusal::new("NothingToDo", text)
            .hint("to go back to what ran before: kubectl upgrade abort NAME"));
    }
    Ok(())
}

fn targets(spec: &upgrade_core::api::UpgradeSpec) -> Vec<(WorkloadKind, &str)> {
    let stages = spec.stages.iter().filter_map(|s| s.workloads.as_ref());
    stages.flat_map(|w| &w.targets).map(|t| (t.kind, t.name.as_str())).collect()
}

/// What to do about the name of the plan.
#[derive(Debug, PartialEq, Eq)]
pub enum Naming {
    /// It is free.
    Free,
    /// The same Upgrade is there already and has not ended.
    SameAgain,
}

/// Finds a free name, or says that the very Upgrade is there already.
pub fn settle_name(plan: &mut Plan, given: bool, existing: &[Upgrade]) -> Result<Naming, Refusal> {
    let find = |name: &str| existing.iter().find(|u| u.name_any() == name);
    let Some(other) = find(&plan.name) else {
        return Ok(Naming::Free);
    };
    let phase = status(other).phase;
    let same = crate::objects::hash(other) == plan.plan_hash;
    if same && !phase.is_terminal() {
        return Ok(Naming::SameAgain);
    }
    if given || !phase.is_terminal() {
        let (name, place) = (&plan.name, &plan.namespace);
        let refusal = Refusal::new(
            "AlreadyExists",
            format!("Upgrade {name} exists in namespace {place} already ({phase})"),
        );
        let refusal = if same {
            refusal.hint(format!("start it over: kubectl upgrade retry {name} -n {place}"))
        } else {
            refusal
        };
        return Err(refusal.hint("give another name with --name"));
    }
    let base = plan.name.clone();
    let free = (2..1000).map(|n| {
        let end = format!("-{n}");
        let room = build::MAX_NAME - end.len();
        let start: String = base.chars().take(room).collect();
        format!("{}{end}", start.trim_end_matches(['-', '.']))
    });
    let free = free.into_iter().find(|name| find(name).is_none()).unwrap_or(base);
    build::rename(plan, free);
    Ok(Naming::Free)
}

/// Says so where the namespace is not governed: nothing then keeps others from changing images.
pub async fn governance(session: &Session, plan: &mut Plan) {
    let api: Api<Namespace> = Api::all(session.client.clone());
    // Not being allowed to read the namespace is no reason to stop, nor to guess.
    let Ok(Some(namespace)) = api.get_opt(&plan.namespace).await else {
        return;
    };
    let governed = namespace.labels().get(GOVERNED_LABEL).is_some_and(|v| v != "false");
    if governed {
        return;
    }
    let message = format!(
        "namespace {0} is not governed: images can be changed past the Upgrade; \
         `kubectl label namespace {0} {GOVERNED_LABEL}=true` closes that",
        plan.namespace
    );
    plan.notices.insert(0, Notice { severity: Severity::Risk, reason: "NotGoverned", message });
}
