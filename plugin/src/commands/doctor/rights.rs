//! Holes in RBAC: rights by which somebody gets around governance, and who has them.
//!
//! Admission sees only whom somebody acts as, and cannot guard what calls it. So these are listed,
//! for a person to judge; whoever may do everything is listed once and not again in each.

use super::context::Cluster;
use super::grants::{self, Grant, Who};
use crate::output::checks::{Check, Outcome};
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::collections::BTreeMap;
use upgrade_core::api::SYSTEM_NAMESPACE;

/// One hole.
struct Hole {
    id: &'static str,
    /// What somebody may do.
    what: &'static str,
    /// What comes of it.
    so: &'static str,
    needs: &'static [Need],
}

/// Rights of which any one is enough.
struct Need {
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    /// Names that matter, where a rule is limited to names; empty: any.
    names: &'static [&'static str],
    /// Namespaces in which a RoleBinding gives it, too.
    places: &'static [&'static str],
}

const CHANGE: &[&str] = &["update", "patch", "delete", "deletecollection"];
const OURS: &[&str] = &[SYSTEM_NAMESPACE];
/// Where service accounts are whose word the webhook takes.
const TRUSTED: &[&str] = &[SYSTEM_NAMESPACE, "kube-system"];
const ADMISSION: &str = "admissionregistration.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const NONE: Need = Need { group: "", resources: &[], verbs: &[], names: &[], places: &[] };

const HOLES: [Hole; 7] = [
    Hole {
        id: "impersonators",
        what: "act as somebody else",
        so: "admission sees whom they act as, and takes an approval for that person's",
        needs: &[
            Need {
                resources: &["users", "groups", "serviceaccounts"],
                verbs: &["impersonate"],
                places: TRUSTED,
                ..NONE
            },
            Need {
                group: "authentication.k8s.io",
                resources: &["users", "groups", "serviceaccounts"],
                verbs: &["impersonate", "impersonate:user-info", "impersonate:serviceaccount"],
                ..NONE
            },
        ],
    },
    Hole {
        id: "webhook-writers",
        what: "change what calls the webhook, or the floor",
        so: "without it nothing is refused",
        needs: &[
            Need {
                group: ADMISSION,
                resources: &["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
                verbs: CHANGE,
                names: &["kubectl-upgrade"],
                ..NONE
            },
            Need {
                group: ADMISSION,
                resources: &[
                    "validatingadmissionpolicies",
                    "validatingadmissionpolicybindings",
                    "mutatingadmissionpolicies",
                    "mutatingadmissionpolicybindings",
                ],
                verbs: CHANGE,
                ..NONE
            },
            // One that mutates after ours can change what ours has seen.
            Need {
                group: ADMISSION,
                resources: &["mutatingwebhookconfigurations", "mutatingadmissionpolicybindings"],
                verbs: &["create"],
                ..NONE
            },
        ],
    },
    Hole {
        id: "crd-writers",
        what: "change or delete CRDs",
        so: "with a CRD go its objects, and with its rules what makes a plan immutable",
        needs: &[Need {
            group: "apiextensions.k8s.io",
            resources: &["customresourcedefinitions"],
            verbs: CHANGE,
            names: &[
                "upgrades.kubectl-upgrade.dev",
                "upgradeapprovals.kubectl-upgrade.dev",
                "upgradepolicies.kubectl-upgrade.dev",
                "upgradeledgers.kubectl-upgrade.dev",
            ],
            ..NONE
        }],
    },
    Hole {
        id: "account-takers",
        what: "become the controller",
        so: "what its service account does is believed; its Secret holds the CA's key",
        needs: &[
            Need {
                resources: &["serviceaccounts/token"],
                verbs: &["create"],
                places: TRUSTED,
                ..NONE
            },
            Need {
                resources: &["secrets"],
                verbs: &["get", "list", "watch", "update", "patch", "delete"],
                names: &["upgrade-webhook-ca"],
                places: OURS,
                ..NONE
            },
            Need {
                resources: &["pods", "pods/exec", "pods/attach", "pods/ephemeralcontainers"],
                verbs: &["create", "update", "patch"],
                places: OURS,
                ..NONE
            },
        ],
    },
    Hole {
        id: "product-admins",
        what: "administer the installation",
        so: "the floor lets them change it",
        needs: &[Need {
            group: "kubectl-upgrade.dev",
            resources: &["installations"],
            verbs: &["administer"],
            ..NONE
        }],
    },
    Hole {
        id: "status-writers",
        what: "write what only the controller writes",
        so: "a status says what was approved, a ledger what may run; the webhook refuses them \
             while it answers",
        needs: &[
            Need {
                group: "kubectl-upgrade.dev",
                resources: &["upgrades/status"],
                verbs: &["update", "patch"],
                places: &["*"],
                ..NONE
            },
            Need {
                group: "kubectl-upgrade.dev",
                resources: &["upgradeledgers"],
                verbs: &["create", "update", "patch", "delete", "deletecollection"],
                places: &["*"],
                ..NONE
            },
        ],
    },
    Hole {
        id: "escalators",
        what: "give themselves any right",
        so: "RBAC lets them write roles and bindings beyond what they have",
        needs: &[Need {
            group: RBAC,
            resources: &["clusterroles", "roles"],
            verbs: &["bind", "escalate"],
            places: OURS,
            ..NONE
        }],
    },
];

/// Who may do everything, and each hole.
pub async fn checks(cluster: &Cluster<'_>) -> Vec<Check> {
    match grants::all(cluster).await {
        Ok(grants) => judge(&grants),
        Err(needs) => {
            let ids = std::iter::once("administrators").chain(HOLES.iter().map(|h| h.id));
            ids.map(|id| Check::not_checked(id, &needs)).collect()
        }
    }
}

fn judge(grants: &[Grant]) -> Vec<Check> {
    let mut checks = vec![administrators(grants)];
    let rest: Vec<&Grant> = grants.iter().filter(|g| !g.expected && !is_everything(g)).collect();
    for hole in &HOLES {
        let found = rest.iter().filter(|g| hole.needs.iter().any(|need| gives(g, need)));
        let found: Vec<&Grant> = found.copied().collect();
        checks.push(if found.is_empty() {
            Check::passed(hole.id, format!("only those who may do everything may {}", hole.what))
        } else {
            let check = Check::new(
                hole.id,
                severity(&found),
                format!("some may {}: {}", hole.what, hole.so),
            );
            check.seen(by_subject(&found)).hint(
                "take it away where it is not meant: kubectl delete BINDING, or edit its role",
            )
        });
    }
    checks
}

fn administrators(grants: &[Grant]) -> Check {
    let id = "administrators";
    let everything: Vec<&Grant> = grants.iter().filter(|g| is_everything(g)).collect();
    let (expected, others): (Vec<_>, Vec<_>) = everything.into_iter().partition(|g| g.expected);
    if others.is_empty() {
        return Check::new(
            id,
            Outcome::Info,
            "only system:masters and the control plane may do everything",
        )
        .seen(by_subject(&expected));
    }
    Check::new(
        id,
        severity(&others),
        "some may do everything, getting around this product included",
    )
    .seen(by_subject(&others))
    .hint("if that is meant, leave it out: kubectl upgrade doctor --ignore administrators")
}

/// What is open to everybody is open.
fn severity(grants: &[&Grant]) -> Outcome {
    let everybody = grants.iter().any(|g| g.subject.is_everybody());
    if everybody { Outcome::Error } else { Outcome::Warning }
}

/// `User ana (ClusterRoleBinding x, RoleBinding shop/y)`, one a subject.
fn by_subject(grants: &[&Grant]) -> Vec<String> {
    let mut all: BTreeMap<&Who, Vec<&str>> = BTreeMap::new();
    for grant in grants {
        all.entry(&grant.subject).or_default().push(&grant.via);
    }
    let line = |(who, mut via): (&Who, Vec<&str>)| {
        via.sort_unstable();
        via.dedup();
        format!("{who} ({})", via.join(", "))
    };
    all.into_iter().map(line).collect()
}

fn is_everything(grant: &Grant) -> bool {
    let star = |list: &Option<Vec<String>>| list.iter().flatten().any(|v| v == "*");
    grant.namespace.is_none()
        && grant
            .rules
            .iter()
            .any(|r| star(&r.api_groups) && star(&r.resources) && r.verbs.iter().any(|v| v == "*"))
}

fn gives(grant: &Grant, need: &Need) -> bool {
    let here = match &grant.namespace {
        None => true,
        Some(namespace) => need.places.iter().any(|p| *p == "*" || p == namespace),
    };
    here && grant.rules.iter().any(|rule| allows(rule, need))
}

fn allows(rule: &PolicyRule, need: &Need) -> bool {
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let verb = |v: &&str| rule.verbs.iter().any(|r| r == "*" || r == v);
    let resource = |wanted: &&str| {
        resources.iter().any(|r| match (r.strip_prefix("*/"), wanted.split_once('/')) {
            _ if r == "*" || r == wanted => true,
            (Some(sub), Some((_, s))) => sub == s,
            _ => false,
        })
    };
    groups.iter().any(|g| g == "*" || g == need.group)
        && need.verbs.iter().any(verb)
        && need.resources.iter().any(resource)
        && (names.is_empty()
            || need.names.is_empty()
            || names.iter().any(|n| need.names.contains(&n.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn grant(subject: Who, namespace: Option<&str>, rule: serde_json::Value) -> Grant {
        Grant {
            subject,
            via: "ClusterRoleBinding x".to_owned(),
            namespace: namespace.map(str::to_owned),
            rules: Arc::new(vec![serde_json::from_value(rule).expect("a rule")]),
            expected: false,
        }
    }

    /// The ids of holes that the grants open.
    fn open(grants: &[Grant]) -> Vec<&'static str> {
        let open = |c: &&Check| matches!(c.outcome, Outcome::Warning | Outcome::Error);
        judge(grants).iter().filter(open).map(|c| c.id).collect()
    }

    #[test]
    fn each_right_opens_its_hole_and_no_other() {
        let rule = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
        let ana = || Who::User("ana".to_owned());
        let named = |names: serde_json::Value, resource: &str, verb: &str, group: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names});
        for (namespace, rule, ids) in [
            (None, rule("", "users", "impersonate"), vec!["impersonators"]),
            (None, rule("*", "*", "*"), vec!["administrators"]),
            (Some("shop"), rule("", "serviceaccounts", "impersonate"), vec![]),
            (
                Some("kube-system"),
                rule("", "serviceaccounts", "impersonate"),
                vec!["impersonators"],
            ),
            (
                None,
                rule(ADMISSION, "validatingwebhookconfigurations", "patch"),
                vec!["webhook-writers"],
            ),
            (None, rule(ADMISSION, "validatingwebhookconfigurations", "get"), vec![]),
            (
                None,
                named(json!(["other"]), "validatingwebhookconfigurations", "patch", ADMISSION),
                vec![],
            ),
            (
                None,
                named(
                    json!(["kubectl-upgrade"]),
                    "validatingwebhookconfigurations",
                    "patch",
                    ADMISSION,
                ),
                vec!["webhook-writers"],
            ),
            (
                Some("kube-system"),
                rule("", "serviceaccounts/token", "create"),
                vec!["account-takers"],
            ),
            (Some("shop"), rule("", "*/token", "create"), vec![]),
            (None, rule("", "*/token", "create"), vec!["account-takers"]),
            (
                Some("shop"),
                rule("kubectl-upgrade.dev", "upgrades/status", "patch"),
                vec!["status-writers"],
            ),
            (
                None,
                rule("kubectl-upgrade.dev", "installations", "administer"),
                vec!["product-admins"],
            ),
            (None, rule(RBAC, "clusterroles", "escalate"), vec!["escalators"]),
            (
                None,
                rule("apiextensions.k8s.io", "customresourcedefinitions", "delete"),
                vec!["crd-writers"],
            ),
        ] {
            let shown = rule.to_string();
            assert_eq!(open(&[grant(ana(), namespace, rule)]), ids, "{namespace:?} {shown}");
        }
    }

    #[test]
    fn what_everybody_may_is_an_error_and_what_the_cluster_needs_is_none() {
        let rule = json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]});
        let everybody = grant(Who::Group("system:authenticated".to_owned()), None, rule.clone());
        let check = judge(&[everybody]).into_iter().find(|c| c.id == "impersonators");
        assert_eq!(check.map(|c| c.outcome), Some(Outcome::Error));
        let expected =
            Grant { expected: true, ..grant(Who::User("system:kube-x".to_owned()), None, rule) };
        assert!(open(&[expected]).is_empty());
    }
}
