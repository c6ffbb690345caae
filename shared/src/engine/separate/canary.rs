//! The Deployment of a canary: whose it is, and what it is made of.

use super::{Flight, Next};
use crate::api::IN_FLIGHT_LABEL;
use crate::api::separate::{CANARY_LABEL, canary_of};
use crate::engine::Walk;
use crate::engine::objects::{DEPLOYMENTS, Look, Sight};
use crate::engine::plan::{Plan, PlanTarget};
use crate::image;
use k8s_openapi::api::apps::v1::DeploymentSpec;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is known of the Deployment of a canary.
pub(super) enum Canary<'a> {
    /// Nothing yet, or nothing that can be: these are the words for it.
    Unknown(String),
    /// There is none of this name.
    Missing,
    /// One of this name is not ours, in words.
    Taken(String),
    /// It is going, or an Upgrade that is over left it to be collected.
    Leaving(String),
    /// This is how it is.
    Here(&'a DynamicObject),
}

/// Whether a Deployment was made by this Upgrade for a canary. A label can be written by anybody;
/// a namesake of the Upgrade has another uid.
pub(super) fn is_ours(object: &DynamicObject, plan: &Plan) -> bool {
    let owners = object.metadata.owner_references.iter().flatten();
    object.labels().get(IN_FLIGHT_LABEL) == Some(&plan.name)
        && owners.into_iter().any(|o| o.uid == plan.uid)
}

impl<'a> Walk<'a> {
    /// The canary's Deployment, from now on watched with its ReplicaSets and pods.
    pub(super) fn canary(&mut self, target: &PlanTarget) -> Canary<'a> {
        let name = canary_of(&target.name);
        let seen = super::looks(target).map(|look| self.see(&look));
        for sight in seen {
            match sight {
                None => return Canary::Unknown(format!("looks at Deployment {name}")),
                Some(Sight::Unavailable(why)) => {
                    return Canary::Unknown(format!("Deployment {name} cannot be read: {why}"));
                }
                Some(Sight::Seen(_)) => {}
            }
        }
        let Some(Sight::Seen(objects)) = seen[0] else { return Canary::Missing };
        let Some(object) = objects.first() else { return Canary::Missing };
        let leaving = object.metadata.deletion_timestamp.is_some();
        if leaving {
            return Canary::Leaving(format!("Deployment {name} is being deleted"));
        }
        if is_ours(object, self.plan) {
            return Canary::Here(object);
        }
        match (object.labels().get(CANARY_LABEL), object.labels().get(IN_FLIGHT_LABEL)) {
            (Some(_), Some(other)) => Canary::Leaving(format!(
                "Deployment {name} is the canary of Upgrade {other}; it goes with that, or delete \
                 it"
            )),
            _ => Canary::Taken(format!(
                "there is a Deployment {name} already, which no Upgrade made: a canary of its own \
                 would have that name; rename or delete that one, or leave `separate` out"
            )),
        }
    }

    /// The Deployment of the canary as it is to be made.
    pub(super) fn manifest(&mut self, f: &Flight<'a, '_>, replicas: i32) -> Result<Value, Next> {
        let name = &f.target.name;
        let wait = || Next::Wait(format!("looks at the template of {}", f.target));
        let object = match self.see(&Look::name(DEPLOYMENTS, name.clone())) {
            None => return Err(wait()),
            Some(Sight::Unavailable(why)) => {
                return Err(Next::Wait(format!("{} cannot be read: {why}", f.target)));
            }
            Some(Sight::Seen(objects)) => objects.first().ok_or_else(wait)?,
        };
        // Two watches feed us; once it carries our label its template stays what it is.
        let label = object.labels().get(IN_FLIGHT_LABEL);
        let same = object.metadata.uid.as_ref() == Some(&f.workload.uid);
        if !same || label != f.workload.label.as_ref() {
            return Err(wait());
        }
        let mut spec = object.data.get("spec").cloned().unwrap_or_default();
        let typed: DeploymentSpec = serde_json::from_value(spec.clone())
            .map_err(|e| Next::Broken(format!("its spec cannot be read: {e}")))?;
        let labels = f.settings.pod_labels(name, &typed).map_err(Next::Broken)?;
        if !give_images(&mut spec, f.target) {
            return Err(wait());
        }
        let plan = self.plan;
        Ok(build(plan, name, spec, &labels, replicas))
    }
}

/// Writes the new images of a target into a Deployment's spec; false where it has not the old ones.
fn give_images(spec: &mut Value, target: &PlanTarget) -> bool {
    let Some(pod) = spec.pointer_mut("/template/spec").and_then(Value::as_object_mut) else {
        return false;
    };
    let mut found = 0;
    for field in ["initContainers", "containers"] {
        for container in pod.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container.get("name").and_then(Value::as_str);
            let change = target.images.iter().find(|c| Some(c.container.as_str()) == name);
            let Some(change) = change else { continue };
            let now = container.get("image").and_then(Value::as_str).unwrap_or_default();
            if !image::same(now, &change.from) {
                return false;
            }
            container["image"] = json!(change.to);
            found += 1;
        }
    }
    found == target.images.len()
}

fn build(
    plan: &Plan,
    name: &str,
    mut spec: Value,
    labels: &BTreeMap<String, String>,
    replicas: i32,
) -> Value {
    spec["replicas"] = json!(replicas);
    spec["paused"] = json!(false);
    spec["selector"] = json!({"matchLabels": {CANARY_LABEL: name}});
    spec["template"]["metadata"]["labels"] = json!(labels);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": canary_of(name),
            "labels": {IN_FLIGHT_LABEL: plan.name, CANARY_LABEL: name,
                "app.kubernetes.io/managed-by": "kubectl-upgrade"},
            "ownerReferences": [{"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
                "name": plan.name, "uid": plan.uid}],
        },
        "spec": spec,
    })
}
