//! HTTPRoutes of the Gateway API: `backendRefs` with weights, and a status that says who took them.

use serde_json::Value;

/// Pointers to the lists of backends of an HTTPRoute.
pub(super) fn lists(route: &Value) -> Vec<String> {
    let rules = route.pointer("/spec/rules").and_then(Value::as_array);
    let with =
        rules.into_iter().flatten().enumerate().filter(|(_, r)| r.get("backendRefs").is_some());
    with.map(|(i, _)| format!("/spec/rules/{i}/backendRefs")).collect()
}

/// Why a route is not in force yet, as its Gateways' controllers say; nobody may have said
/// anything. Of a condition only the present generation's word counts.
pub(super) fn refused(route: &Value) -> Option<String> {
    let generation = route.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    let parents = route.pointer("/status/parents").and_then(Value::as_array)?;
    parents.iter().find_map(|parent| {
        let who = parent.get("controllerName").and_then(Value::as_str).unwrap_or("its controller");
        let conditions = parent.get("conditions").and_then(Value::as_array)?;
        conditions.iter().find_map(|c| {
            let text = |key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = text("type");
            if !matches!(kind, "Accepted" | "ResolvedRefs") {
                return None;
            }
            if c.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0) < generation {
                return Some(format!("{who} has not looked at it yet"));
            }
            (text("status") != "True")
                .then(|| format!("{who}: {kind} is {}: {}", text("status"), text("message")))
        })
    })
}
