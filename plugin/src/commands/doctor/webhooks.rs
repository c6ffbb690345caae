//! The webhook configurations: a hole in them is a way around everything.

use super::compare::{Extra, differences, short};
use super::context::{Cluster, Read};
use crate::output::checks::Check;
use serde_json::{Value, json};

/// A webhook as it is installed, and as it is in the cluster.
pub struct Hook<'a> {
    /// `validatingwebhookconfiguration/NAME` is what `get` is asked for; this is the hook's own.
    pub name: String,
    /// As it should be.
    pub wanted: &'a Value,
    /// As it is.
    pub live: &'a Value,
}

const CONFIGURATIONS: [&str; 2] =
    ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"];

/// A field that has to say what it said when it was installed.
struct Field {
    id: &'static str,
    name: &'static str,
    default: &'static str,
    good: &'static str,
    bad: &'static str,
}

const FIELDS: [Field; 4] = [
    Field {
        id: "webhook-policy",
        name: "failurePolicy",
        default: "\"Fail\"",
        good: "nothing passes unseen when nobody answers",
        bad: "what becomes of a request that nobody answers is not what it should be",
    },
    Field {
        id: "webhook-match",
        name: "matchPolicy",
        default: "\"Equivalent\"",
        good: "requests in every version of a kind are seen",
        bad: "requests in another version of a kind are not seen",
    },
    Field {
        id: "webhook-effects",
        name: "sideEffects",
        default: "null",
        good: "dry runs are seen, too",
        bad: "dry runs are refused or not seen",
    },
    Field {
        id: "webhook-timeout",
        name: "timeoutSeconds",
        default: "10",
        good: "timeouts are those of the installation",
        bad: "timeouts are not those of the installation",
    },
];

/// Pairs of webhooks, or the check that says why there are none.
pub fn hooks<'a>(cluster: &'a Cluster<'_>) -> Result<Vec<Hook<'a>>, Check> {
    let id = "webhooks";
    let (mut hooks, mut missing) = (Vec::new(), Vec::new());
    for (item, read) in cluster.of_kinds(&CONFIGURATIONS) {
        let absent = || {
            Check::error(id, format!("{} is not there: nothing is governed", item.reference()))
                .hint(cluster.install())
        };
        let live = read.or_check(id, absent)?;
        for wanted in list(&item.object) {
            match list(live).find(|w| name(w) == name(wanted)) {
                Some(live) => hooks.push(Hook { name: name(wanted).to_owned(), wanted, live }),
                None => missing.push(format!("{} is not in {}", name(wanted), item.reference())),
            }
        }
    }
    if !missing.is_empty() {
        let check = Check::error(id, "webhooks are missing: what they look at is not governed");
        return Err(check.seen(missing).hint(cluster.install()));
    }
    Ok(hooks)
}

fn list(configuration: &Value) -> impl Iterator<Item = &Value> {
    configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten()
}

fn name(webhook: &Value) -> &str {
    webhook.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Every check of the configurations but those of the CA.
pub fn checks(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Vec<Check> {
    let extra: Vec<String> = cluster
        .of_kinds(&CONFIGURATIONS)
        .filter_map(|(item, read)| match read {
            Read::There(live) => Some((item, live)),
            _ => None,
        })
        .flat_map(|(item, live)| {
            let known = |w: &&Value| !list(&item.object).any(|o| name(o) == name(w));
            list(live).filter(known).map(|w| format!("{} in {}", name(w), item.reference()))
        })
        .collect();
    let first = if extra.is_empty() {
        Check::passed("webhooks", format!("{} webhooks are registered", hooks.len()))
    } else {
        Check::warning("webhooks", "our configurations hold webhooks that are not ours")
            .seen(extra)
            .hint("kubectl edit validatingwebhookconfiguration,mutatingwebhookconfiguration kubectl-upgrade")
    };
    let mut checks = vec![first, rules(cluster, hooks)];
    checks.extend(FIELDS.iter().map(|field| field_check(cluster, field, hooks)));
    checks.push(conditions(cluster, hooks));
    checks.push(selectors(cluster, hooks));
    checks.push(addresses(cluster, hooks));
    checks
}

/// `id` with what was found, or passed.
fn verdict(
    cluster: &Cluster<'_>,
    id: &'static str,
    found: Vec<String>,
    good: &str,
    bad: &str,
) -> Check {
    if found.is_empty() {
        return Check::passed(id, good);
    }
    mend(Check::error(id, bad).seen(found), cluster)
}

/// What helps. An install writes what it knows of and takes nothing away that others added.
fn mend(check: Check, cluster: &Cluster<'_>) -> Check {
    let added = check.evidence.iter().any(|e| e.contains("was added"));
    let check = check.hint(cluster.install());
    if added {
        return check.hint(
            "what was added stays through an install, take it out: \
             kubectl edit validatingwebhookconfiguration,mutatingwebhookconfiguration kubectl-upgrade",
        );
    }
    check
}

fn field_check(cluster: &Cluster<'_>, field: &Field, hooks: &[Hook<'_>]) -> Check {
    let default: Value = serde_json::from_str(field.default).unwrap_or_default();
    let found = hooks.iter().filter_map(|hook| {
        let wanted = hook.wanted.get(field.name).unwrap_or(&default);
        let live = hook.live.get(field.name).unwrap_or(&default);
        let text = || {
            format!("{}: {} is {}, should be {}", hook.name, field.name, short(live), short(wanted))
        };
        (wanted != live).then(text)
    });
    let found: Vec<String> = found.collect();
    if field.id == "webhook-timeout" && !found.is_empty() {
        return Check::warning(field.id, field.bad).seen(found).hint(cluster.install());
    }
    verdict(cluster, field.id, found, field.good, field.bad)
}

fn rules(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Check {
    let found = hooks.iter().flat_map(|hook| {
        let live = hook.live.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
        let wanted =
            hook.wanted.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
        let missing =
            wanted.iter().flat_map(each).filter(move |one| !live.iter().any(|r| one.in_rule(r)));
        let name = hook.name.clone();
        missing.map(move |one| format!("{name}: no rule for {}", one.text())).collect::<Vec<_>>()
    });
    let found: Vec<String> = found.collect();
    let (good, bad) = (
        "rules cover every resource that they should",
        "requests that should be seen match no rule",
    );
    verdict(cluster, "webhook-rules", found, good, bad)
}

/// One operation on one resource.
struct Call {
    operation: String,
    group: String,
    version: String,
    resource: String,
    scope: String,
}

fn strings(rule: &Value, field: &str) -> Vec<String> {
    let all = rule.get(field).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn scope(rule: &Value) -> &str {
    rule.get("scope").and_then(Value::as_str).unwrap_or("*")
}

/// Every call that a rule names.
fn each(rule: &Value) -> Vec<Call> {
    let mut calls = Vec::new();
    for resource in strings(rule, "resources") {
        for operation in strings(rule, "operations") {
            for group in strings(rule, "apiGroups") {
                for version in strings(rule, "apiVersions") {
                    calls.push(Call {
                        operation: operation.clone(),
                        group: group.clone(),
                        version,
                        resource: resource.clone(),
                        scope: scope(rule).to_owned(),
                    });
                }
            }
        }
    }
    calls
}

impl Call {
    fn in_rule(&self, rule: &Value) -> bool {
        let has =
            |field: &str, value: &str| strings(rule, field).iter().any(|v| v == "*" || v == value);
        let resource = strings(rule, "resources").iter().any(|r| {
            let (main, sub) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
            match r.split_once('/') {
                // `*` alone is every resource, but no subresource.
                None => sub.is_empty() && (r == "*" || r == main),
                Some((m, s)) => {
                    (r == "*/*")
                        || (!sub.is_empty() && (m == "*" || m == main) && (s == "*" || s == sub))
                }
            }
        });
        has("operations", &self.operation)
            && has("apiGroups", &self.group)
            && has("apiVersions", &self.version)
            && resource
            && matches!(scope(rule), s if s == "*" || s == self.scope)
    }

    fn text(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        format!("{} of {}{group}", self.operation, self.resource)
    }
}

fn conditions(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Check {
    let mut found = Vec::new();
    for hook in hooks {
        let (wanted, live) = (expressions(hook.wanted), expressions(hook.live));
        for (name, expression) in &wanted {
            match live.iter().find(|(n, _)| n == name) {
                None => found.push(format!("{}: {name} is missing", hook.name)),
                Some((_, e)) if e != expression => {
                    found.push(format!(
                        "{}: {name} says something else: {}",
                        hook.name,
                        short(&json!(e))
                    ));
                }
                _ => {}
            }
        }
        let added = live.iter().filter(|(n, _)| !wanted.iter().any(|(w, _)| w == n));
        found.extend(
            added.map(|(name, e)| format!("{}: {name} was added: {}", hook.name, short(&json!(e)))),
        );
    }
    let good = "matchConditions are those of the installation";
    let bad = "matchConditions decide what is seen, and they were changed";
    verdict(cluster, "webhook-conditions", found, good, bad)
}

fn expressions(webhook: &Value) -> Vec<(String, String)> {
    let all = webhook.get("matchConditions").and_then(Value::as_array).into_iter().flatten();
    let text = |c: &Value, field: &str| {
        c.get(field).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
    };
    all.map(|c| (text(c, "name"), text(c, "expression"))).collect()
}

fn selectors(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Check {
    let mut found = Vec::new();
    for hook in hooks {
        for field in ["namespaceSelector", "objectSelector"] {
            let of =
                |w: &Value| w.get(field).filter(|v| !v.is_null()).cloned().unwrap_or(json!({}));
            let (wanted, live) = (of(hook.wanted), of(hook.live));
            let differing = differences(&wanted, &live, field, Extra::DefaultsOnly);
            found.extend(differing.into_iter().map(|d| format!("{}: {d}", hook.name)));
        }
    }
    let good = "selectors leave out no governed namespace and no object";
    let bad = "selectors decide what is seen, and they were changed";
    verdict(cluster, "webhook-selectors", found, good, bad)
}

/// All of them call our Service, or all of them one address.
fn addresses(cluster: &Cluster<'_>, hooks: &[Hook<'_>]) -> Check {
    let wrong = hooks.iter().filter_map(|hook| {
        let service = hook.wanted.pointer("/clientConfig/service");
        let path = service?.get("path").and_then(Value::as_str).unwrap_or_default();
        let config = hook.live.get("clientConfig")?;
        let good = match &cluster.outside {
            Some(url) => config.get("url").and_then(Value::as_str) == Some(&format!("{url}{path}")),
            None => config.get("service") == service,
        };
        let shown = config.get("url").or(config.get("service")).cloned().unwrap_or_default();
        (!good).then(|| format!("{} calls {}", hook.name, short(&shown)))
    });
    let wrong: Vec<String> = wrong.collect();
    let good = match &cluster.outside {
        Some(url) => format!("all call {url}, which is outside the cluster"),
        None => "all call the Service of the installation".to_owned(),
    };
    verdict(cluster, "webhook-address", wrong, &good, "some webhooks call somebody else")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_what_it_names_and_no_subresource_by_accident() {
        let call = |resource: &str| Call {
            operation: "UPDATE".to_owned(),
            group: String::new(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            scope: "Namespaced".to_owned(),
        };
        let rule = |resources: Value| {
            json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                "resources": resources, "scope": "*"})
        };
        for (resources, resource, covered) in [
            (json!(["pods"]), "pods", true),
            (json!(["pods"]), "pods/ephemeralcontainers", false),
            (json!(["*"]), "pods/ephemeralcontainers", false),
            (json!(["*"]), "pods", true),
            (json!(["pods/*"]), "pods/ephemeralcontainers", true),
            (json!(["*/ephemeralcontainers"]), "pods/ephemeralcontainers", true),
            (json!(["*/*"]), "pods", true),
            (json!(["jobs"]), "pods", false),
        ] {
            assert_eq!(call(resource).in_rule(&rule(resources.clone())), covered, "{resources}");
        }
        let mut cluster_scoped = rule(json!(["pods"]));
        cluster_scoped["scope"] = json!("Cluster");
        assert!(!call("pods").in_rule(&cluster_scoped));
    }
}
