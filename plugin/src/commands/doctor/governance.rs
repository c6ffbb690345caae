//! What is governed, by what, and whether what runs is what was approved.

use super::context::{AT_ONCE, Cluster, Read};
use crate::gather::list_all;
use crate::gather::workloads::{self, Object};
use crate::output::checks::{Check, Outcome};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::Api;
use std::collections::BTreeSet;
use upgrade_core::api::{
    GOVERNED_LABEL, LEDGER_NAME, LedgerEntry, Mode, Upgrade, UpgradeLedger, UpgradePolicy,
    WorkloadKind,
};
use upgrade_core::image::same;
use upgrade_core::policy::Workload;
use upgrade_core::policy::snapshot::{NamespaceView, Snapshot};

/// What one governed namespace holds.
struct Contents {
    namespace: String,
    objects: Result<Vec<Object>, String>,
    ledger: Read<UpgradeLedger>,
    upgrades: Read<Vec<Upgrade>>,
}

/// Namespaces, policies, ledgers and drift.
pub async fn checks(cluster: &Cluster<'_>) -> Vec<Check> {
    let client = || cluster.session.client.clone();
    let (namespaces, policies) =
        (Api::<Namespace>::all(client()), Api::<UpgradePolicy>::all(client()));
    let (namespaces, policies) = tokio::join!(
        list_all(cluster.session, &namespaces, "list namespaces"),
        list_all(cluster.session, &policies, "list upgradepolicies.kubectl-upgrade.dev"),
    );
    let ids = ["namespaces", "policies", "idle-policies", "ledger", "drift"];
    let all_blind = |needs: &str| ids.into_iter().map(|id| Check::not_checked(id, needs)).collect();
    let namespaces = match namespaces {
        Read::There(all) => all,
        Read::Absent => return all_blind("needs namespaces to look at"),
        Read::Unknown(needs) => return all_blind(&needs),
    };
    let mut snapshot = Snapshot::new("");
    for namespace in &namespaces {
        snapshot.set_namespace(&namespace.name_any(), namespace.labels().clone());
    }
    let view = |snapshot: &Snapshot, name: &str| {
        snapshot.namespace(name).is_some_and(NamespaceView::governed)
    };
    let governed: Vec<String> =
        namespaces.iter().map(ResourceExt::name_any).filter(|n| view(&snapshot, n)).collect();
    let mut checks = vec![namespace_check(&governed, namespaces.len())];
    let policies = match policies {
        Read::There(all) => all,
        Read::Absent => Vec::new(),
        Read::Unknown(needs) => {
            checks.extend(ids.iter().skip(1).map(|id| Check::not_checked(id, &needs)));
            return checks;
        }
    };
    for policy in &policies {
        snapshot.set_policy(policy);
    }
    let contents: Vec<Contents> = stream::iter(governed.clone())
        .map(|namespace| contents(cluster, namespace))
        .buffered(AT_ONCE)
        .collect()
        .await;
    for one in &contents {
        if let Read::There(ledger) = &one.ledger {
            snapshot.set_ledger(ledger);
        }
        if let Read::There(upgrades) = &one.upgrades {
            for upgrade in upgrades {
                snapshot.set_upgrade(upgrade);
            }
        }
    }
    checks.push(policy_check(&snapshot, &governed));
    checks.push(idle_check(&snapshot, &policies, &contents));
    checks.extend(ledger_checks(&snapshot, &contents));
    checks
}

async fn contents(cluster: &Cluster<'_>, namespace: String) -> Contents {
    let client = || cluster.session.client.clone();
    let ledgers: Api<UpgradeLedger> = Api::namespaced(client(), &namespace);
    let upgrades: Api<Upgrade> = Api::namespaced(client(), &namespace);
    let needs = |verb: &str, kind: &str| {
        format!("{verb} {kind}.kubectl-upgrade.dev in namespace {namespace}")
    };
    let (get, list) = (needs("get", "upgradeledgers"), needs("list", "upgrades"));
    let (objects, ledger, upgrades) = tokio::join!(
        workloads::list(cluster.session, &namespace),
        ledgers.get_opt(LEDGER_NAME),
        list_all(cluster.session, &upgrades, &list),
    );
    Contents { ledger: Read::of(cluster.session, ledger, &get), objects, upgrades, namespace }
}

fn namespace_check(governed: &[String], all: usize) -> Check {
    let message = format!("{} of {all} namespaces are governed", governed.len());
    let check = Check::new("namespaces", Outcome::Info, message);
    if governed.is_empty() {
        return check.hint(format!("kubectl label namespace NAME {GOVERNED_LABEL}=true"));
    }
    check.seen([governed.join(", ")])
}

fn policy_check(snapshot: &Snapshot, governed: &[String]) -> Check {
    let id = "policies";
    let has = |name: &str| snapshot.namespace(name).is_some_and(|n| n.policies().next().is_some());
    let without: Vec<String> = governed.iter().filter(|n| !has(n)).cloned().collect();
    if without.is_empty() {
        let message = match governed.len() {
            0 => "no namespace is governed, so none lacks a policy".to_owned(),
            n => format!("each of {n} governed namespaces has a policy"),
        };
        return Check::passed(id, message);
    }
    let message = "governed namespaces have no policy: nothing is refused in them";
    Check::warning(id, message).seen(without).hint("kubectl explain upgradepolicy.spec")
}

fn idle_check(snapshot: &Snapshot, policies: &[UpgradePolicy], contents: &[Contents]) -> Check {
    let id = "idle-policies";
    let (mut idle, mut unknown) = (Vec::new(), BTreeSet::new());
    for policy in policies {
        let name = policy.name_any();
        let mut places = 0;
        let mut selected = false;
        for one in contents {
            let view = snapshot.namespace(&one.namespace);
            let Some(policy) = view.and_then(|v| v.policies().find(|p| p.name == name)) else {
                continue;
            };
            places += 1;
            match &one.objects {
                Err(needs) => {
                    unknown.insert(needs.clone());
                    selected = true;
                }
                Ok(objects) => {
                    selected |= objects.iter().filter(|o| !o.owned).any(|object| {
                        Workload::parse(object.kind, &object.raw)
                            .is_ok_and(|w| policy.selects(object.kind, &w.labels))
                    });
                }
            }
        }
        match (places, selected) {
            (0, _) => idle.push(format!("{name}: it holds in no governed namespace")),
            (_, false) => idle.push(format!("{name}: it selects no workload")),
            _ => {}
        }
    }
    if !idle.is_empty() {
        return Check::warning(id, "policies that hold for nothing").seen(idle).hint(format!(
            "look at their selectors, and at namespaces: kubectl get ns -L {GOVERNED_LABEL}"
        ));
    }
    if !unknown.is_empty() {
        return Check::not_checked(id, &unknown.into_iter().collect::<Vec<_>>().join("; "));
    }
    Check::passed(id, format!("each of {} policies holds for something", policies.len()))
}

/// What a look at the ledgers came to.
#[derive(Default)]
struct Found {
    governed: usize,
    unknown: BTreeSet<String>,
    unlisted: Vec<String>,
    drift: Vec<String>,
    /// Drift where a policy only warns or counts.
    tolerated: Vec<String>,
}

fn ledger_checks(snapshot: &Snapshot, contents: &[Contents]) -> [Check; 2] {
    let mut found = Found::default();
    for one in contents {
        let Some(view) = snapshot.namespace(&one.namespace) else { continue };
        if view.policies().next().is_none() {
            continue;
        }
        for read in [one.ledger.needs(), one.upgrades.needs(), one.objects.as_ref().err()] {
            found.unknown.extend(read.cloned());
        }
        if let Ok(objects) = &one.objects {
            objects
                .iter()
                .filter(|o| !o.over)
                .for_each(|o| look(view, &one.namespace, o, &mut found));
        }
    }
    let needs = found.unknown.iter().cloned().collect::<Vec<_>>().join("; ");
    let ledger = if !found.unlisted.is_empty() {
        Check::warning(
            "ledger",
            "governed workloads are in no ledger: the controller has not seen them",
        )
        .seen(found.unlisted)
        .hint("it writes them within a second; `lease` shows whether one is at work")
    } else if needs.is_empty() {
        let message = format!("all of {} governed workloads are in their ledgers", found.governed);
        Check::passed("ledger", message)
    } else {
        Check::not_checked("ledger", &needs)
    };
    let hint =
        "go back to what was approved, or ask for it: kubectl upgrade start deploy/NAME --to TAG";
    let drift = if !found.drift.is_empty() {
        Check::error("drift", "images run that nobody approved")
            .seen(found.drift.into_iter().chain(found.tolerated))
            .hint(hint)
    } else if !found.tolerated.is_empty() {
        Check::warning("drift", "images run that nobody approved, where policies let them")
            .seen(found.tolerated)
            .hint(hint)
    } else if needs.is_empty() {
        Check::passed("drift", "governed workloads run what their ledgers say")
    } else {
        Check::not_checked("drift", &needs)
    };
    [ledger, drift]
}

/// Compares one object with the ledger.
fn look(view: &NamespaceView, namespace: &str, object: &Object, found: &mut Found) {
    let Ok(workload) = Workload::parse(object.kind, &object.raw) else {
        return;
    };
    let (entry, exact) = if object.owned {
        // A pod of a workload: what matters is that it runs what the workload may run.
        let entry = (object.kind == WorkloadKind::Pod)
            .then(|| view.entries().find(|e| selects(e, &workload)))
            .flatten();
        (entry, false)
    } else {
        (view.entry(object.kind, &workload.name), true)
    };
    let (kind, name) = entry.map_or((object.kind, &*workload.name), |e| (e.kind, e.name.as_str()));
    let Some(policy) = view.policy(kind, name, &workload.labels) else {
        return;
    };
    found.governed += usize::from(exact);
    if workload.in_flight().is_some() || view.open_upgrade(kind, name).is_some() {
        return;
    }
    let place = format!("{namespace}/{}/{}", object.kind.resource(), workload.name);
    let Some(entry) = entry else {
        if exact {
            found.unlisted.push(place);
        }
        return;
    };
    let differing = differing(&workload, entry, exact);
    if differing.is_empty() {
        return;
    }
    let line = format!("{place} runs {}", differing.join(", "));
    if policy.spec.mode <= Mode::Warn {
        found.tolerated.push(format!("{line} (policy {} lets it pass)", policy.name));
    } else {
        found.drift.push(line);
    }
}

fn selects(entry: &LedgerEntry, pod: &Workload<'_>) -> bool {
    entry.selector.as_ref().is_some_and(|s| !s.is_empty() && s.matches(&pod.labels))
}

/// Images that are not those of the ledger; with `exact`, containers that came or went, too.
fn differing(workload: &Workload<'_>, entry: &LedgerEntry, exact: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for image in &workload.images {
        match entry.images.iter().find(|e| e.container == image.container) {
            Some(e) if same(&e.image, &image.image) => {}
            Some(e) => {
                lines.push(format!(
                    "{} in {}, approved is {}",
                    image.image, image.container, e.image
                ));
            }
            None if exact => {
                lines
                    .push(format!("{} in {}, which nobody approved", image.image, image.container));
            }
            None => {}
        }
    }
    if exact {
        let gone = entry
            .images
            .iter()
            .filter(|e| !workload.images.iter().any(|i| i.container == e.container));
        lines
            .extend(gone.map(|e| format!("no container {}, approved is {}", e.container, e.image)));
    }
    lines
}
