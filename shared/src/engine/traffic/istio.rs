//! Istio: destinations with weights in a VirtualService, by host or by subsets of a
//! DestinationRule.

use crate::api::traffic::DestinationRule;
use serde_json::{Value, json};

/// Pointers to the lists of destinations of a VirtualService: of the routes with these names, or of
/// all.
pub(super) fn lists(service: &Value, routes: &[String]) -> Vec<String> {
    let http = service.pointer("/spec/http").and_then(Value::as_array);
    let wanted = |route: &Value| {
        let name = route.get("name").and_then(Value::as_str);
        routes.is_empty() || name.is_some_and(|n| routes.iter().any(|r| r == n))
    };
    let found = http.into_iter().flatten().enumerate();
    found
        .filter(|(_, r)| wanted(r) && r.get("route").is_some())
        .map(|(i, _)| format!("/spec/http/{i}/route"))
        .collect()
}

/// `subsets` of a DestinationRule as their owner has them: ours as they were noted, and the others
/// as they are.
pub(super) fn own(now: &Value, noted: Option<&Value>, rule: &DestinationRule) -> Option<Value> {
    let name = |s: &Value| s.get("name").and_then(Value::as_str).map(str::to_owned);
    let ours = [&rule.stable_subset_name, &rule.canary_subset_name];
    let known: Vec<&Value> = noted.and_then(Value::as_array).into_iter().flatten().collect();
    let list = now.as_array().into_iter().flatten().filter_map(|subset| {
        if !name(subset).is_some_and(|n| ours.contains(&&n)) {
            return Some(subset.clone());
        }
        known.iter().find(|k| name(k) == name(subset)).map(|k| (*k).clone())
    });
    let list: Vec<Value> = list.collect();
    (noted.is_some() || !list.is_empty()).then_some(Value::Array(list))
}

/// `subsets` of a DestinationRule with those that tell stable from canary pods. Labels that a
/// subset of the user's has stay.
pub(super) fn subsets(
    original: Option<&Value>,
    rule: &DestinationRule,
    stable: &str,
    canary: Option<&str>,
) -> Value {
    let mut list = original.and_then(Value::as_array).cloned().unwrap_or_default();
    let wanted = [(&rule.stable_subset_name, Some(stable)), (&rule.canary_subset_name, canary)];
    for (name, hash) in wanted {
        let Some(hash) = hash else { continue };
        let at = list.iter().position(|s| s.get("name").and_then(Value::as_str) == Some(name));
        let at = at.unwrap_or_else(|| {
            list.push(json!({ "name": name }));
            list.len() - 1
        });
        let Some(subset) = list.get_mut(at).and_then(Value::as_object_mut) else { continue };
        let labels = subset.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(super::HASH_LABEL.to_owned(), json!(hash));
        }
    }
    Value::Array(list)
}
