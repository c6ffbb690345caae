//! What is there beside what was installed, field by field.

use serde_json::Value;

/// Whether a live object may say more than the installed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// It may: the API server or a person fills in what does not matter here.
    Allowed,
    /// Only what the API server fills in by itself: a field that somebody added can switch off
    /// what the others say.
    DefaultsOnly,
}

/// What the API server writes where a manifest leaves it out.
const DEFAULTS: [(&str, &str); 8] = [
    ("matchPolicy", "\"Equivalent\""),
    ("scope", "\"*\""),
    ("failurePolicy", "\"Fail\""),
    ("reinvocationPolicy", "\"Never\""),
    ("timeoutSeconds", "10"),
    ("port", "443"),
    ("conversion", "{\"strategy\":\"None\"}"),
    ("preserveUnknownFields", "false"),
];

/// Each place where the live value differs, in words.
pub fn differences(wanted: &Value, live: &Value, path: &str, extra: Extra) -> Vec<String> {
    let mut found = Vec::new();
    walk(wanted, live, path, extra, &mut found);
    found
}

fn walk(wanted: &Value, live: &Value, path: &str, extra: Extra, found: &mut Vec<String>) {
    match (wanted, live) {
        (Value::Object(w), Value::Object(l)) => {
            for (key, value) in w {
                let path = join(path, key);
                match l.get(key) {
                    Some(live) => walk(value, live, &path, extra, found),
                    None if is_empty(value) || is_default(key, value) => {}
                    None => found.push(format!("{path} is missing, should be {}", short(value))),
                }
            }
            if extra == Extra::DefaultsOnly {
                let added = l.iter().filter(|(k, v)| {
                    !w.contains_key(*k) && !is_empty(v) && !is_default(k, v) && !is_name(k, w)
                });
                found.extend(
                    added.map(|(k, v)| format!("{} was added: {}", join(path, k), short(v))),
                );
            }
        }
        (Value::Array(w), Value::Array(l)) if w.len() == l.len() => {
            for (n, (wanted, live)) in w.iter().zip(l).enumerate() {
                walk(wanted, live, &format!("{path}[{n}]"), extra, found);
            }
        }
        (Value::Array(w), Value::Array(l)) => {
            found.push(format!("{path} has {} entries, should have {}", l.len(), w.len()));
        }
        (Value::Number(w), Value::Number(l)) if w.as_f64() == l.as_f64() => {}
        (w, l) if w == l || (is_empty(w) && is_empty(l)) => {}
        (w, l) => found.push(format!("{path} is {}, should be {}", short(l), short(w))),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

fn is_default(key: &str, value: &Value) -> bool {
    DEFAULTS
        .iter()
        .any(|(k, v)| *k == key && serde_json::from_str(v).is_ok_and(|v: Value| v == *value))
}

/// `singular` and `listKind` of a CRD's names are derived from its kind.
fn is_name(key: &str, names: &serde_json::Map<String, Value>) -> bool {
    matches!(key, "singular" | "listKind") && names.contains_key("plural")
}

/// A value, short enough for a line.
pub fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = match value {
        Value::String(s) => s.split_whitespace().collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    if text.is_empty() {
        return "empty".to_owned();
    }
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_fills_in_is_no_difference_and_what_somebody_added_is() {
        let wanted = json!({"failurePolicy": "Fail", "rules": [{"a": 1}], "x": {}});
        let live = json!({"failurePolicy": "Fail", "matchPolicy": "Equivalent", "rules": [
            {"a": 1.0, "scope": "*"}], "namespaceSelector": {}});
        assert!(differences(&wanted, &live, "spec", Extra::DefaultsOnly).is_empty());
        let live = json!({"failurePolicy": "Ignore", "matchConditions": [{"expression": "false"}],
            "rules": [{"a": 1, "scope": "Cluster"}, {"a": 2}]});
        assert_eq!(
            differences(&wanted, &live, "spec", Extra::DefaultsOnly),
            [
                "spec.failurePolicy is Ignore, should be Fail",
                "spec.rules has 2 entries, should have 1",
                "spec.matchConditions was added: [{\"expression\":\"false\"}]",
            ]
        );
        let live = json!({"rules": [{"a": 1}], "more": 1});
        assert_eq!(differences(&wanted, &live, "", Extra::Allowed), Vec::<String>::new());
    }
}
