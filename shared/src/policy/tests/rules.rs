use crate::api::policy::{ApprovalScope, UpgradePolicySpec};
use crate::api::upgrade::{StrategyName, WorkloadTarget};
use crate::api::{Identity, Upgrade, WorkloadKind};
use crate::policy::review::{Change, Operation, Subject};
use crate::policy::rules::{Field, first_violation, scope};
use crate::policy::testing::{labels, policy, review, shop, shop_with, upgrade};
use crate::policy::{
    Answers, Granted, Labelled, LabelsOf, Seen, Snapshot, Verdict, confirm, decide,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn spec(more: &Value) -> UpgradePolicySpec {
    let mut spec = json!({"workloads": {"all": true}});
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
    serde_json::from_value(spec).expect("a policy")
}

/// Rules, new images, strategy, requester, reason and field.
type Row<'a> =
    (Value, Vec<&'a str>, StrategyName, Option<&'a Identity>, Option<(&'a str, &'a str)>);

fn target(to: &[&str]) -> WorkloadTarget {
    let image =
        |(i, to): (usize, &&str)| json!({"container": format!("c{i}"), "from": "a:1", "to": to});
    let images: Vec<_> = to.iter().enumerate().map(image).collect();
    serde_json::from_value(json!({"kind": "Deployment", "name": "web", "images": images}))
        .expect("a target")
}

#[test]
fn each_rule_names_its_field() {
    let alice = Identity { username: "alice".into(), uid: None, groups: vec!["devs".into()] };
    let pinned = format!("registry.example.com/app/web:2@{DIGEST}");
    let evil = "registry.example.com.evil.org/app/web:2";
    let registries =
        json!({"images": {"registries": ["registry.example.com/app", "docker.io/library"]}});
    let digest = json!({"images": {"digest": "Required"}});
    let rows: Vec<Row<'_>> = vec![
        (json!({}), vec!["x"], StrategyName::Rolling, None, None),
        (json!({"strategies": ["canary"]}), vec!["x"], StrategyName::Canary, None, None),
        (
            json!({"strategies": ["canary"]}),
            vec!["x"],
            StrategyName::Rolling,
            None,
            Some(("StrategyNotAllowed", "spec.stages[3].workloads.strategy")),
        ),
        (
            json!({"requesters": {"groups": ["devs"]}}),
            vec!["x"],
            StrategyName::Rolling,
            Some(&alice),
            None,
        ),
        (
            json!({"requesters": {"users": ["alice"]}}),
            vec!["x"],
            StrategyName::Rolling,
            Some(&alice),
            None,
        ),
        (
            json!({"requesters": {"groups": ["sre"], "users": ["bob"]}}),
            vec!["x"],
            StrategyName::Rolling,
            Some(&alice),
            Some(("RequesterNotAllowed", "spec.requester")),
        ),
        (
            json!({"requesters": {"groups": ["devs"]}}),
            vec!["x"],
            StrategyName::Rolling,
            None,
            Some(("RequesterNotAllowed", "spec.requester")),
        ),
        (registries.clone(), vec![&pinned, "nginx:1"], StrategyName::Rolling, None, None),
        (
            registries.clone(),
            vec!["nginx:1", evil],
            StrategyName::Rolling,
            None,
            Some(("RegistryNotAllowed", "spec.stages[3].workloads.targets[7].images[1].to")),
        ),
        (
            registries.clone(),
            vec!["registry.example.com/appevil/web"],
            StrategyName::Rolling,
            None,
            Some(("RegistryNotAllowed", "spec.stages[3].workloads.targets[7].images[0].to")),
        ),
        (
            registries,
            vec!["not an image"],
            StrategyName::Rolling,
            None,
            Some(("RegistryNotAllowed", "spec.stages[3].workloads.targets[7].images[0].to")),
        ),
        (digest.clone(), vec![&pinned], StrategyName::Rolling, None, None),
        (
            digest,
            vec![&pinned, "nginx:1"],
            StrategyName::Rolling,
            None,
            Some(("DigestRequired", "spec.stages[3].workloads.targets[7].images[1].to")),
        ),
    ];
    for (more, to, strategy, requester, expected) in rows {
        let found = first_violation(&spec(&more), &target(&to), strategy, requester);
        let found = found.map(|v| {
            assert!(v.to_string().contains("; ") && !v.help.is_empty(), "{v}");
            (v.reason.as_str(), v.field.path(3, 7))
        });
        let found = found.as_ref().map(|(reason, path)| (*reason, path.as_str()));
        assert_eq!(found, expected, "{more} {to:?}");
    }
    assert_eq!(Field::Requester.path(0, 0), "spec.requester");
}

fn create(s: &Snapshot, new: &Upgrade, seen: Seen) -> Result<(), String> {
    let change = Change { old: None, new: Some(new.clone()) };
    let subject = Subject::Upgrade(Box::new(change));
    let verdict =
        decide(s, &review("alice", Operation::Create, "", subject), Timestamp::UNIX_EPOCH);
    let Verdict::Confirm(question) = verdict else { return Err(format!("{verdict:?}")) };
    let asked = LabelsOf::Named {
        namespace: "shop".into(),
        workloads: vec![(WorkloadKind::Deployment, "web".into())],
    };
    assert_eq!(question.labels, asked);
    let answers = Answers { access: vec![Granted::Yes], labels: seen, ..Answers::default() };
    confirm(&question, &answers).map_err(|r| r.to_string())
}

#[test]
fn an_upgrade_is_held_to_the_policy_of_each_target() {
    let new = upgrade("shop", "web-v2", "Pending");
    let gone = || Seen::Found(Labelled::new());
    assert_eq!(create(&shop(), &new, gone()), Ok(()));
    let strict = shop_with(json!({"workloads": {"all": true}, "strategies": ["rolling"]}));
    let text = create(&strict, &new, gone()).expect_err("refused");
    assert_eq!(
        text,
        "Upgrade shop/web-v2 may not be created: spec.stages[0].workloads.strategy: strategy `canary` is not \
         allowed (StrategyNotAllowed)\n  why: `spec.strategies` of policy `all`, which governs Deployment web\n  \
         help: use `rolling`\n  run: kubectl get upgradepolicy all -o jsonpath='{.spec.strategies}'"
    );
    for seen in [Seen::NotAsked, Seen::Failed("timeout".into())] {
        let text = create(&shop(), &new, seen).expect_err("refused");
        assert!(text.contains("(Unconfirmed)"), "{text}");
    }
    // The labels that it has now count, and those that the ledger noted: the stricter policy holds.
    let mut s = shop();
    let gold = |mode: &str| {
        let selector = json!({"selector": {"matchLabels": {"tier": "gold"}}});
        policy("gold", json!({"workloads": selector, "mode": mode, "strategies": ["rolling"]}))
    };
    let web = (WorkloadKind::Deployment, "web".to_owned());
    let now = || Seen::Found([(web.clone(), labels(&[("tier", "gold"), ("app", "web")]))].into());
    s.set_policy(&gold("Deny"));
    assert_eq!(create(&s, &new, gone()), Ok(()));
    s.set_policy(&policy(
        "gold",
        json!({"workloads": {"selector": {"matchLabels": {"tier": "gold"}}},
        "approvals": {"required": 2}, "strategies": ["rolling"]}),
    ));
    assert!(create(&s, &new, now()).expect_err("refused").contains("policy `gold`"));
    s.set_policy(&gold("Audit"));
    assert_eq!(create(&s, &new, now()), Ok(()), "a label into a laxer policy changes nothing");
}

#[test]
fn the_finest_scope_holds_of_those_that_ask() {
    let asks =
        |required: i32, per: &str| spec(&json!({"approvals": {"required": required, "per": per}}));
    let of = |all: &[UpgradePolicySpec]| scope(all);
    assert_eq!(of(&[]), ApprovalScope::Upgrade);
    assert_eq!(of(&[asks(1, "Upgrade"), asks(2, "Stage")]), ApprovalScope::Stage);
    assert_eq!(of(&[asks(1, "Step"), asks(2, "Stage")]), ApprovalScope::Step);
    assert_eq!(of(&[asks(0, "Step"), asks(1, "Upgrade")]), ApprovalScope::Upgrade);
}
