//! What runs: the versions that a CompatibilityMatrix asks for, read from the API server.
//!
//! What cannot be read is not known, and what is not known does not pass.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, PodSpec};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::core::SelectorExt;
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use upgrade_core::api::WorkloadKind;
use upgrade_core::api::matrix::{ConfigMapKey, VersionSource, WorkloadSource, WorkloadsSource};
use upgrade_core::api::upgrade::Stage;
use upgrade_core::engine::governance::Door;
use upgrade_core::matrix::{Facts, Matrix, workload_object};
use upgrade_core::policy::compatibility;
use upgrade_core::policy::snapshot::{Labels, Snapshot};

/// What the matrices say of stages of an Upgrade, against what runs at this moment.
pub async fn judge(
    client: &Client,
    snapshot: &Snapshot,
    namespace: &str,
    stages: &[Stage],
    labels: impl Fn(WorkloadKind, &str) -> Option<Labels>,
) -> Door {
    let Some(view) = snapshot.namespace(namespace) else { return Door::default() };
    let Some(pass) = compatibility::passing(view, stages, labels) else {
        return Door::default();
    };
    let mut wrong = Vec::new();
    for matrix in compatibility::about(snapshot, namespace, stages) {
        let matrix = match matrix {
            Ok(matrix) => matrix,
            Err(broken) => {
                let why = format!("{broken}; nothing is known to be compatible until it is mended");
                return Door::Shut { why, next: None };
            }
        };
        let facts = gather(client, matrix).await;
        let found = compatibility::wrong(matrix, &facts, namespace, stages, &pass);
        wrong.push((matrix.name().to_owned(), found));
    }
    compatibility::door(&wrong)
}

/// Everything that a matrix asks for.
async fn gather(client: &Client, matrix: &Matrix) -> Facts {
    let mut facts = Facts::default();
    for (component, source) in matrix.components() {
        if let Err(error) = component_of(client, component, source, &mut facts).await {
            facts.unread(component, &format!("reading it failed: {error}"));
        }
    }
    for key in matrix.settings() {
        // One that cannot be read stays unsaid, which is Unknown.
        if let Ok(value) = value(client, key).await {
            facts.setting(key.clone(), value.as_deref());
        }
    }
    facts
}

async fn component_of(
    client: &Client,
    component: &str,
    source: &VersionSource,
    facts: &mut Facts,
) -> kube::Result<()> {
    if source.kubernetes.is_some() {
        let version = client.apiserver_version().await?.git_version;
        facts.read(component, "the API server", &version);
    }
    if source.kubelets.is_some() {
        facts.absent(component);
        for node in Api::<Node>::all(client.clone()).list(&ListParams::default()).await? {
            let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
            let object = format!("node/{}", node.name_any());
            match info {
                Some(info) => facts.read(component, &object, &info.kubelet_version),
                None => facts.unread(component, &format!("{object} does not say its version")),
            };
        }
    }
    if let Some(workload) = &source.workload {
        one(client, component, workload, facts).await?;
    }
    if let Some(workloads) = &source.workloads {
        many(client, component, workloads, facts).await?;
    }
    if let Some(crd) = &source.crd {
        facts.absent(component);
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let found = api.get_opt(&crd.name).await?;
        let stored = found.and_then(|c| c.status).and_then(|s| s.stored_versions);
        for version in stored.into_iter().flatten() {
            facts.read(component, &format!("customresourcedefinition/{}", crd.name), &version);
        }
    }
    for key in [&source.config_map, &source.schema].into_iter().flatten() {
        match value(client, key).await? {
            Some(value) => facts.read(component, &key.to_string(), value.trim()),
            None => facts.absent(component),
        };
    }
    Ok(())
}

async fn value(client: &Client, key: &ConfigMapKey) -> kube::Result<Option<String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await?;
    Ok(found.and_then(|c| c.data).and_then(|mut d| d.remove(&key.key)))
}

/// A workload as far as its version goes.
struct Runs {
    kind: WorkloadKind,
    name: String,
    labels: BTreeMap<String, String>,
    selector: Option<LabelSelector>,
    template: Option<PodSpec>,
    template_labels: BTreeMap<String, String>,
}

macro_rules! runs {
    ($object:expr, $kind:expr, $selector:expr, $template:expr) => {{
        let template = $template;
        let meta = template.as_ref().and_then(|t| t.metadata.as_ref());
        Runs {
            kind: $kind,
            name: $object.name_any(),
            labels: $object.labels().clone(),
            selector: $selector,
            template_labels: meta.and_then(|m| m.labels.clone()).unwrap_or_default(),
            template: template.and_then(|t| t.spec),
        }
    }};
}

fn deployment(d: &Deployment) -> Runs {
    let (selector, template) = d.spec.clone().map(|s| (s.selector, s.template)).unzip();
    runs!(d, WorkloadKind::Deployment, selector, template)
}

fn stateful_set(d: &StatefulSet) -> Runs {
    let (selector, template) = d.spec.clone().map(|s| (s.selector, s.template)).unzip();
    runs!(d, WorkloadKind::StatefulSet, selector, template)
}

fn daemon_set(d: &DaemonSet) -> Runs {
    let (selector, template) = d.spec.clone().map(|s| (s.selector, s.template)).unzip();
    runs!(d, WorkloadKind::DaemonSet, selector, template)
}

fn replica_set(d: &ReplicaSet) -> Runs {
    let spec = d.spec.clone().unwrap_or_default();
    runs!(d, WorkloadKind::ReplicaSet, Some(spec.selector), spec.template)
}

async fn one(
    client: &Client,
    component: &str,
    source: &WorkloadSource,
    facts: &mut Facts,
) -> kube::Result<()> {
    facts.absent(component);
    let (namespace, name) = (&source.namespace, &source.name);
    macro_rules! get {
        ($kind:ty, $convert:expr) => {
            Api::<$kind>::namespaced(client.clone(), namespace)
                .get_opt(name)
                .await?
                .as_ref()
                .map($convert)
        };
    }
    let found = match source.kind {
        WorkloadKind::Deployment => get!(Deployment, deployment),
        WorkloadKind::StatefulSet => get!(StatefulSet, stateful_set),
        WorkloadKind::DaemonSet => get!(DaemonSet, daemon_set),
        WorkloadKind::ReplicaSet => get!(ReplicaSet, replica_set),
        kind => {
            facts.unread(component, &format!("a {kind} has no pods that stay: name another kind"));
            None
        }
    };
    let Some(runs) = found else { return Ok(()) };
    let wanted = Wanted { container: source.container.as_ref(), label: source.label.as_ref() };
    note(client, component, namespace, &runs, &wanted, facts).await
}

async fn many(
    client: &Client,
    component: &str,
    source: &WorkloadsSource,
    facts: &mut Facts,
) -> kube::Result<()> {
    facts.absent(component);
    let namespace = &source.namespace;
    let all = ListParams::default();
    macro_rules! list {
        ($kind:ty, $convert:expr) => {
            Api::<$kind>::namespaced(client.clone(), namespace)
                .list(&all)
                .await?
                .iter()
                .map($convert)
                .collect::<Vec<_>>()
        };
    }
    let mut found = list!(Deployment, deployment);
    found.extend(list!(StatefulSet, stateful_set));
    found.extend(list!(DaemonSet, daemon_set));
    let wanted = Wanted { container: source.container.as_ref(), label: source.label.as_ref() };
    for runs in found.iter().filter(|r| source.selector.matches(&r.labels)) {
        note(client, component, namespace, runs, &wanted, facts).await?;
    }
    Ok(())
}

/// Where in a pod the version is.
struct Wanted<'a> {
    container: Option<&'a String>,
    label: Option<&'a String>,
}

/// What the pods run; what the template says where there are none.
async fn note(
    client: &Client,
    component: &str,
    namespace: &str,
    runs: &Runs,
    wanted: &Wanted<'_>,
    facts: &mut Facts,
) -> kube::Result<()> {
    let pods = match &runs.selector {
        Some(selector) => {
            let selector: kube::core::Selector = match selector.clone().try_into() {
                Ok(selector) => selector,
                Err(error) => {
                    facts.unread(component, &format!("the selector of {}: {error}", runs.name));
                    return Ok(());
                }
            };
            let all = Api::<Pod>::namespaced(client.clone(), namespace)
                .list(&ListParams::default().labels_from(&selector))
                .await?;
            let live =
                |p: &Pod| p.metadata.deletion_timestamp.is_none() && selector.matches(p.labels());
            all.items.into_iter().filter(live).collect()
        }
        None => Vec::new(),
    };
    if pods.is_empty() {
        say(
            component,
            namespace,
            runs,
            &runs.template_labels,
            runs.template.as_ref(),
            wanted,
            facts,
        );
    }
    for pod in &pods {
        say(component, namespace, runs, pod.labels(), pod.spec.as_ref(), wanted, facts);
    }
    Ok(())
}

fn say(
    component: &str,
    namespace: &str,
    runs: &Runs,
    labels: &BTreeMap<String, String>,
    spec: Option<&PodSpec>,
    wanted: &Wanted<'_>,
    facts: &mut Facts,
) {
    if let Some(label) = wanted.label {
        let object = workload_object(runs.kind, namespace, &runs.name, None);
        match labels.get(label) {
            Some(version) => facts.read(component, &object, version),
            None => facts.unread(component, &format!("{object}: a pod has no label {label}")),
        };
        return;
    }
    let containers = spec.into_iter().flat_map(|s| &s.containers);
    for container in containers.filter(|c| wanted.container.is_none_or(|w| *w == c.name)) {
        let object = workload_object(runs.kind, namespace, &runs.name, Some(&container.name));
        let image = container.image.as_deref().unwrap_or_default();
        match upgrade_core::version::Version::of_image(image) {
            Some(version) => facts.read(component, &object, version.as_str()),
            None => facts.unread(component, &format!("{object}: {image} says no version")),
        };
    }
}
