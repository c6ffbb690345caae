//! What `install` applied is there and says what it said.

use super::compare::{Extra, differences};
use super::context::{Cluster, Read};
use crate::commands::manifests::Item;
use crate::output::checks::{Check, Outcome};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ListParams};
use serde_json::Value;
use std::collections::BTreeSet;
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE, VERSION};

/// Kinds of the floor: what the API server itself refuses when nobody of ours answers.
const FLOOR: [&str; 4] = [
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];
/// Kinds that checks of their own look at.
const ELSEWHERE: [&str; 6] = [
    "CustomResourceDefinition",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "Deployment",
    "PodDisruptionBudget",
    // Whoever runs the webhook outside keeps it.
    "EndpointSlice",
];
/// A label of this beginning gives a role's rights to everybody who has another role.
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// CRDs, the other objects, the floor.
pub fn objects(cluster: &Cluster<'_>) -> Vec<Check> {
    let others: Vec<&(Item, Read<Value>)> = cluster
        .pairs
        .iter()
        .filter(|(item, _)| {
            let kind = item.id.kind.as_str();
            !FLOOR.contains(&kind) && !ELSEWHERE.contains(&kind)
        })
        .collect();
    let floor: Vec<_> = cluster.of_kinds(&FLOOR).collect();
    let floor = if floor.is_empty() {
        Check::not_applicable("floor", "this build of the plugin embeds no admission policies")
    } else {
        same(cluster, "floor", "admission policies and bindings", &floor)
    };
    let crds: Vec<_> = cluster.of_kinds(&["CustomResourceDefinition"]).collect();
    vec![
        crd_check(cluster, &crds),
        same(cluster, "objects", "objects (namespace, rights and so on)", &others),
        floor,
    ]
}

/// CRDs are the same, established, and serve our version.
fn crd_check(cluster: &Cluster<'_>, crds: &[&(Item, Read<Value>)]) -> Check {
    let mut check = same(cluster, "crds", &format!("CRDs, served at {VERSION},"), crds);
    let not_served = crds.iter().filter_map(|(item, read)| match read {
        Read::There(live) if !is_served(live) => {
            Some(format!("{} does not serve {VERSION}", item.id.name))
        }
        _ => None,
    });
    let not_served: Vec<String> = not_served.collect();
    if !not_served.is_empty() {
        let message = format!("{} of {} CRDs are not served", not_served.len(), crds.len());
        check = Check::error("crds", message).seen(not_served).hint(cluster.install());
    }
    check
}

fn is_served(crd: &Value) -> bool {
    let list = |pointer: &str| crd.pointer(pointer).and_then(Value::as_array).cloned();
    let served = list("/spec/versions").unwrap_or_default().iter().any(|v| {
        v.get("name").and_then(Value::as_str) == Some(VERSION)
            && v.get("served").and_then(Value::as_bool) == Some(true)
    });
    let established = list("/status/conditions").unwrap_or_default().iter().any(|c| {
        c.get("type").and_then(Value::as_str) == Some("Established")
            && c.get("status").and_then(Value::as_str) == Some("True")
    });
    served && established
}

/// Each object is there and says what the embedded one says.
fn same(
    cluster: &Cluster<'_>,
    id: &'static str,
    what: &str,
    pairs: &[&(Item, Read<Value>)],
) -> Check {
    let (mut wrong, mut unknown) = (Vec::new(), BTreeSet::new());
    for (item, read) in pairs {
        match read {
            Read::Absent => wrong.push(format!("{} is not there", item.reference())),
            Read::Unknown(needs) => {
                unknown.insert(needs.clone());
            }
            Read::There(live) => {
                let found = deviations(item, live);
                wrong.extend(found.into_iter().map(|d| format!("{}: {d}", item.reference())));
            }
        }
    }
    if !wrong.is_empty() {
        let message = format!("{what} are not all as this plugin installs them");
        let added = wrong.iter().any(|w| w.ends_with("was added") || w.contains("was added:"));
        let check = Check::error(id, message).seen(wrong).hint(cluster.install());
        // An install takes nothing away that others added.
        return if added {
            check.hint("what was added stays through an install, take it out: kubectl edit")
        } else {
            check
        };
    }
    if !unknown.is_empty() {
        let needs = unknown.into_iter().collect::<Vec<_>>().join("; ");
        return Check::not_checked(id, &needs);
    }
    Check::passed(id, format!("all {} {what} are as this plugin installs them", pairs.len()))
}

/// Where a live object says something else, by the parts that matter of its kind.
fn deviations(item: &Item, live: &Value) -> Vec<String> {
    let kind = item.id.kind.as_str();
    let (parts, extra): (&[&str], Extra) = match kind {
        "Namespace" | "ServiceAccount" => (&[], Extra::Allowed),
        "ClusterRole" | "Role" => (&["rules", "aggregationRule"], Extra::DefaultsOnly),
        "ClusterRoleBinding" | "RoleBinding" => (&["roleRef", "subjects"], Extra::DefaultsOnly),
        "Service" => (&["spec"], Extra::Allowed),
        "ConfigMap" | "Secret" => (&["data"], Extra::Allowed),
        _ => (&["spec"], Extra::DefaultsOnly),
    };
    let null = Value::Null;
    let of = |object: &Value, part: &str| object.get(part).cloned().unwrap_or(Value::Null);
    let mut found: Vec<String> = parts
        .iter()
        .flat_map(|part| differences(&of(&item.object, part), &of(live, part), part, extra))
        .collect();
    let labels = |object: &Value| object.pointer("/metadata/labels").cloned();
    let (wanted, has) = (labels(&item.object), labels(live));
    found.extend(differences(
        wanted.as_ref().unwrap_or(&null),
        has.as_ref().unwrap_or(&null),
        "metadata.labels",
        Extra::Allowed,
    ));
    let has = has.as_ref().and_then(Value::as_object).into_iter().flatten();
    let added = has.filter(|(key, _)| {
        key.starts_with(AGGREGATE) && wanted.as_ref().is_none_or(|w| w.get(*key).is_none())
    });
    found.extend(added.map(|(key, _)| format!("metadata.labels.{key} was added")));
    found
}

/// Replicas, their budget and their spread, and what version they are.
pub async fn replicas(cluster: &Cluster<'_>) -> Vec<Check> {
    const IDS: [&str; 4] = ["replicas", "budget", "spread", "version"];
    if let Some(url) = &cluster.outside {
        let why = format!("the webhook runs outside the cluster, at {url}");
        return IDS.into_iter().map(|id| Check::not_applicable(id, &why)).collect();
    }
    let client = cluster.session.client.clone();
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let found = api.get_opt(SERVICE_ACCOUNT).await;
    let need = format!("get deployments.apps in namespace {SYSTEM_NAMESPACE}");
    let deployment = Read::of(cluster.session, found, &need);
    let absent = |id| {
        let message = format!("there is no deploy/{SERVICE_ACCOUNT} in {SYSTEM_NAMESPACE}");
        Check::error(id, message).hint(cluster.install())
    };
    let pass = |result: Result<Check, Check>| result.unwrap_or_else(|check| check);
    let [replicas, budget, spread, version] = IDS;
    vec![
        pass(
            deployment.or_check(replicas, || absent(replicas)).map(|d| replica_check(replicas, d)),
        ),
        budget_check(cluster, budget).await,
        spread_check(cluster, spread).await,
        pass(deployment.or_check(version, || absent(version)).map(|d| version_check(version, d))),
    ]
}

fn replica_check(id: &'static str, deployment: &Deployment) -> Check {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let message = format!("{ready} of {wanted} replicas of the webhook are ready");
    let look = format!("kubectl get pods -n {SYSTEM_NAMESPACE} -o wide");
    match (ready, wanted) {
        (0, _) => Check::error(id, message).hint(look),
        (r, w) if r < 2 && w < 2 => {
            Check::warning(id, format!("{message}; nobody takes over from one")).hint(format!(
                "kubectl scale deploy/{SERVICE_ACCOUNT} -n {SYSTEM_NAMESPACE} --replicas 2"
            ))
        }
        (r, w) if r < w => Check::warning(id, message).hint(look),
        _ => Check::passed(id, message),
    }
}

async fn budget_check(cluster: &Cluster<'_>, id: &'static str) -> Check {
    let client = cluster.session.client.clone();
    let api: Api<PodDisruptionBudget> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let need = format!("get poddisruptionbudgets.policy in namespace {SYSTEM_NAMESPACE}");
    let read = Read::of(cluster.session, api.get_opt(SERVICE_ACCOUNT).await, &need);
    let absent = || {
        Check::warning(id, "no PodDisruptionBudget: a drain may take every replica at once")
            .hint(cluster.install())
    };
    let embedded = cluster.of_kinds(&["PodDisruptionBudget"]).next();
    match (read.or_check(id, absent), embedded) {
        (Err(check), _) => check,
        (Ok(_), Some((item, Read::There(live)))) if !deviations(item, live).is_empty() => {
            Check::warning(id, "the PodDisruptionBudget is another than this plugin installs")
                .seen(deviations(item, live))
                .hint(cluster.install())
        }
        _ => Check::passed(id, "a drain leaves a replica of the webhook"),
    }
}

async fn spread_check(cluster: &Cluster<'_>, id: &'static str) -> Check {
    let client = cluster.session.client.clone();
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let by = ListParams::default().labels(&format!("app.kubernetes.io/name={SERVICE_ACCOUNT}"));
    let need = format!("list pods in namespace {SYSTEM_NAMESPACE}");
    let pods = Read::of(cluster.session, pods.list(&by).await.map(Some), &need);
    let nodes = Api::<Node>::all(client).list_metadata(&ListParams::default()).await;
    let nodes = Read::of(cluster.session, nodes.map(|n| Some(n.items.len())), "list nodes");
    let (pods, nodes) = match (pods, nodes) {
        (Read::There(pods), Read::There(nodes)) => (pods, nodes),
        (Read::Unknown(needs), _) | (_, Read::Unknown(needs)) => {
            return Check::not_checked(id, &needs);
        }
        _ => return Check::not_checked(id, "needs pods and nodes to look at"),
    };
    let placed: BTreeSet<String> =
        pods.items.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()).collect();
    let count = pods.items.len();
    if count >= 2 && placed.len() < 2 && nodes >= 2 {
        return Check::warning(id, format!("all {count} replicas are on one node"))
            .seen(placed)
            .hint(format!(
                "kubectl rollout restart deploy/{SERVICE_ACCOUNT} -n {SYSTEM_NAMESPACE}"
            ));
    }
    let nodes = placed.len();
    Check::new(
        id,
        if count == 0 { Outcome::Info } else { Outcome::Passed },
        format!("{count} replicas on {nodes} node{}", if nodes == 1 { "" } else { "s" }),
    )
}

fn version_check(id: &'static str, deployment: &Deployment) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    let pod = deployment.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    let image = pod.and_then(|p| p.containers.first()).and_then(|c| c.image.as_deref());
    let image = image.unwrap_or_default();
    let tag = upgrade_core::plan::build::version(image);
    if tag.trim_start_matches('v') == ours {
        return Check::passed(id, format!("plugin and webhook are both {ours}"));
    }
    Check::warning(id, format!("this plugin is {ours}, the webhook runs {image}"))
        .hint("kubectl upgrade install   (or use the plugin of that version)")
}
