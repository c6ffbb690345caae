//! The canary as a Deployment of its own, for what in place cannot do: weights that go down, other
//! labels, a workload that stays as it is until the last step, and replicas that may reach 0.

use k8s_openapi::api::apps::v1::DeploymentSpec;
use kube::core::{Selector, SelectorExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The label of a canary's Deployment, and of its pods, whose selector it is; its value is the name
/// of the workload.
pub const CANARY_LABEL: &str = "kubectl-upgrade.dev/canary";
/// What the name of a canary's Deployment ends with.
pub const CANARY_SUFFIX: &str = "-canary";
/// Longest name of a workload that may have one, in bytes: the canary's name is a label value.
pub const MAX_CANARY_OF: usize = 63 - CANARY_SUFFIX.len();

/// Settings of a canary that is a Deployment of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Separate {
    /// Labels of the canary's pods, over those of the workload's pod template. With them the pods
    /// must not match the selector of the workload any more. Absent: the first label of that
    /// selector, in the order of the alphabet, gets the name of the canary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), inner(length(max = 63)))]
    pub labels: BTreeMap<String, String>,
}

/// Name of the canary's Deployment of a workload.
pub fn canary_of(workload: &str) -> String {
    format!("{workload}{CANARY_SUFFIX}")
}

impl Separate {
    /// Labels of the canary's pods of a Deployment; or why there are none that fit, in words that
    /// follow its name.
    pub fn pod_labels(
        &self,
        name: &str,
        spec: &DeploymentSpec,
    ) -> Result<BTreeMap<String, String>, String> {
        let template = spec.template.metadata.as_ref().and_then(|m| m.labels.clone());
        let mut labels = template.unwrap_or_default();
        if labels.contains_key(CANARY_LABEL) {
            return Err(format!(
                "its pods carry the label {CANARY_LABEL}, which only a canary's may; take it out"
            ));
        }
        if self.labels.is_empty() {
            let own = spec.selector.match_labels.iter().flatten().next();
            let Some((key, _)) = own else {
                return Err(
                    "its selector has no matchLabels; name in `separate.labels` what keeps \
                            the canary's pods out of it"
                        .to_owned(),
                );
            };
            labels.insert(key.clone(), canary_of(name));
        } else {
            labels.extend(self.labels.clone());
        }
        labels.insert(CANARY_LABEL.to_owned(), name.to_owned());
        let selector = Selector::try_from(spec.selector.clone())
            .map_err(|_| "its selector cannot be read".to_owned())?;
        if selector.matches(&labels) {
            return Err(format!(
                "with `separate.labels` the canary's pods would still match its selector, \
                 {selector}: its HPA and its ReplicaSets would count them; give one of these keys \
                 another value, or leave `labels` out"
            ));
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(selector: &Value, pods: &Value, settings: &Value) -> Result<Value, String> {
        let spec = json!({"selector": selector, "template": {"metadata": {"labels": pods}}});
        let spec: DeploymentSpec = serde_json::from_value(spec).expect("a spec");
        let settings: Separate = serde_json::from_value(settings.clone()).expect("settings");
        settings.pod_labels("web", &spec).map(|labels| json!(labels))
    }

    #[test]
    fn the_pods_of_a_canary_are_never_those_of_its_workload() {
        let app = json!({"matchLabels": {"app": "web"}});
        let both = json!({"matchLabels": {"app": "web", "track": "stable"}});
        let pods = json!({"app": "web", "track": "stable", "team": "a"});
        let only = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
        let mine = |labels: Value| {
            let mut all = json!({"team": "a", CANARY_LABEL: "web"});
            let more: serde_json::Map<String, Value> = serde_json::from_value(labels).expect("map");
            all.as_object_mut().expect("a map").extend(more);
            Ok(all)
        };
        let named = mine(json!({"app": "web-canary", "track": "stable"}));
        assert_eq!(of(&app, &pods, &json!({})), named);
        assert_eq!(of(&both, &pods, &json!({})), named);
        let track = json!({"labels": {"track": "canary"}});
        assert_eq!(of(&both, &pods, &track), mine(json!({"app": "web", "track": "canary"})));
        for (selector, pods, settings, why) in [
            (&app, &pods, &track, "would still match its selector"),
            (&only, &pods, &json!({}), "has no matchLabels"),
            (&only, &pods, &track, "would still match its selector"),
            (&app, &json!({"app": "web", CANARY_LABEL: "x"}), &json!({}), "carry the label"),
        ] {
            let said = of(selector, pods, settings).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }
}
