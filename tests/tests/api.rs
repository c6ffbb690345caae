//! What the API server itself refuses, in which words, and that nothing of it is stored. A message
//! names the field and says what would be right.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, Resource};
use serde_json::{Value, json};
use upgrade_core::api::{Phase, Upgrade, UpgradeApproval, UpgradeLedger, UpgradePolicy};
use upgrade_sandbox::scenario::{Shop, canary, lab, say};

/// A change that makes a good object a bad one, and what is said about it.
struct Bad {
    /// Where, as a JSON pointer.
    at: &'static str,
    /// What stands there; null takes away what stood there.
    put: Value,
    /// Parts of the message: the field, and what would be right.
    says: &'static [&'static str],
}

fn bad(at: &'static str, put: Value, says: &'static [&'static str]) -> Bad {
    Bad { at, put, says }
}

impl Bad {
    fn object(&self, good: &Value) -> Value {
        let mut object = good.clone();
        let (parent, key) = self.at.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).expect("a parent");
        match (parent, &self.put) {
            (Value::Object(map), Value::Null) => drop(map.remove(key)),
            (Value::Object(map), put) => drop(map.insert(key.to_owned(), put.clone())),
            (Value::Array(list), put) => {
                list[key.parse::<usize>().expect("an index")] = put.clone();
            }
            (other, _) => panic!("{}: {other} has no fields", self.at),
        }
        object
    }
}

async fn shop() -> Shop {
    lab().await.shop(1).await.expect("a shop")
}

fn objects<K: Resource<DynamicType = ()>>(client: Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &ApiResource::erase::<K>(&()))
}

/// Each of the bad objects is refused in these words, and none is stored; the good one would be.
async fn refused(api: &Api<DynamicObject>, good: &Value, all: &[Bad]) {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let object: DynamicObject = serde_json::from_value(good.clone()).unwrap();
    api.create(&dry, &object).await.expect("without the change it is good");
    let mut wrong = vec![];
    for bad in all {
        let object: DynamicObject = serde_json::from_value(bad.object(good)).unwrap();
        let name = object.metadata.name.clone().unwrap();
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => wrong.push(format!("{} = {}: accepted", bad.at, bad.put)),
            Err(error) => wrong.extend(unsaid(&error, bad.at, bad.says)),
        }
        if api.get_opt(&name).await.unwrap().is_some() {
            wrong.push(format!("{} = {}: stored", bad.at, bad.put));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What an error should say and does not.
fn unsaid(error: &kube::Error, what: &str, says: &[&str]) -> Option<String> {
    // What follows is the same once more, as Rust's Debug.
    let message = error.to_string();
    let message = message.split(" (Status {").next().unwrap_or_default();
    if std::env::var_os("SHOW").is_some() {
        println!("{what}\n    {message}");
    }
    let missing: Vec<_> = says.iter().filter(|part| !message.contains(**part)).collect();
    (!missing.is_empty()).then(|| format!("{what}: {missing:?} is not in:\n    {message}"))
}

fn good_upgrade() -> Value {
    let strategy = canary(&["10", "5m", "50", "100"]);
    json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "up"},
        "spec": {"from": "v1", "to": "v2", "stages": [{"name": "web", "workloads": {
            "strategy": strategy,
            "targets": [{"kind": "Deployment", "name": "web", "images": [
                {"container": "web", "from": "web:v1", "to": "web:v2"}]}],
        }}]},
    })
}

#[tokio::test]
async fn steps_and_strategies_of_an_upgrade() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let api = objects::<Upgrade>(shop.client.clone(), &shop.namespace);
    let all = [
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/2/setWeight",
            json!(101),
            &[
                "spec.stages[0].workloads.strategy.canary.steps[2].setWeight",
                "setWeight is a percentage from 1 to 100",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/0/setWeight",
            json!(0),
            &[
                "spec.stages[0].workloads.strategy.canary.steps[0].setWeight",
                "setWeight is a percentage from 1 to 100",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/2/setWeight",
            json!(5),
            &[
                "spec.stages[0].workloads.strategy.canary",
                "setWeight must not go down",
                "can only grow",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps",
            json!([]),
            &["spec.stages[0].workloads.strategy.canary.steps", "at least 1 item"],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/rolling",
            json!({}),
            &[
                "spec.stages[0].workloads.strategy",
                "exactly one of `rolling`, `canary` and `blueGreen`",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary",
            Value::Null,
            &[
                "spec.stages[0].workloads.strategy",
                "exactly one of `rolling`, `canary` and `blueGreen`",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/0/pause",
            json!({}),
            &[
                "spec.stages[0].workloads.strategy.canary.steps[0]",
                "exactly one of `setWeight`, `setReplicas`, `pause`, `analysis`, `setHeaderRoute`",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/0",
            json!({}),
            &[
                "spec.stages[0].workloads.strategy.canary.steps[0]",
                "exactly one of `setWeight`, `setReplicas`, `pause`, `analysis`, `setHeaderRoute`",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/0",
            json!({"setReplicas": 0}),
            &[
                "spec.stages[0].workloads.strategy.canary.steps[0].setReplicas",
                "setReplicas is a number of pods, at least 1",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps",
            json!([{"setReplicas": 3}, {"setWeight": 10}, {"setReplicas": 2}]),
            &["setReplicas must not go down", "can only grow"],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary",
            json!({"steps": [{"setReplicas": 3}],
                "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}}),
            &["setReplicas does not go with trafficRouting", "use setWeight"],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary",
            json!({"steps": [{"setWeight": 10}, {"setMirrorRoute": {"name": "copy"}}],
                "trafficRouting": {"nginx": {"stableIngress": "web"}}}),
            &["setMirrorRoute need trafficRouting.gatewayAPI", "canary-by-header"],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary",
            json!({"steps": [{"setWeight": 10}, {"setHeaderRoute": {"name": "beta", "match": [
                    {"headerName": "X", "headerValue": {"exact": "1", "prefix": "1"}}]}}],
                "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}}),
            &["steps[1].setHeaderRoute.match[0].headerValue", "at most 1"],
        ),
        bad(
            "/spec/stages/0/workloads/strategy/canary/steps/1/pause/duration",
            json!("5 minutes"),
            &[
                "spec.stages[0].workloads.strategy.canary.steps[1].pause.duration",
                "for instance 30s, 5m or 1h30m",
            ],
        ),
        bad(
            "/spec/autoRollback",
            json!({"onTimeout": "soon"}),
            &["spec.autoRollback.onTimeout", "for instance 30m"],
        ),
    ];
    refused(&api, &good_upgrade(), &all).await;
}

#[tokio::test]
async fn stages_and_targets_of_an_upgrade() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let api = objects::<Upgrade>(shop.client.clone(), &shop.namespace);
    let good = good_upgrade();
    let stage = good["spec"]["stages"][0].clone();
    let target = stage["workloads"]["targets"][0].clone();
    let image = target["images"][0].clone();
    let all = [
        bad("/spec/stages", json!([]), &["spec.stages", "at least 1 item"]),
        bad("/spec/stages", Value::Null, &["spec.stages", "Required value"]),
        bad(
            "/spec/stages/0/workloads",
            Value::Null,
            &["spec.stages[0]", "exactly one kind; this version knows `workloads`"],
        ),
        bad(
            "/spec/stages",
            json!([stage, stage]),
            &["spec.stages[1]", "Duplicate value", "\"name\":\"web\""],
        ),
        bad("/spec/stages/0/name", json!("Web!"), &["spec.stages[0].name", "[a-z0-9]"]),
        bad(
            "/spec/stages/0/workloads/targets",
            json!([target, target]),
            &["spec.stages[0].workloads.targets[1]", "Duplicate value", "\"name\":\"web\""],
        ),
        bad(
            "/spec/stages/0/workloads/targets",
            json!([]),
            &["spec.stages[0].workloads.targets", "at least 1 item"],
        ),
        bad(
            "/spec/stages/0/workloads/targets/0/images",
            json!([image, image]),
            &[
                "spec.stages[0].workloads.targets[0].images[1]",
                "Duplicate value",
                "\"container\":\"web\"",
            ],
        ),
        bad(
            "/spec/stages/0/workloads/targets/0/images",
            json!([]),
            &["spec.stages[0].workloads.targets[0].images", "at least 1 item"],
        ),
        bad(
            "/spec/stages/0/workloads/targets/0/images/0/to",
            json!(""),
            &["spec.stages[0].workloads.targets[0].images[0].to", "at least 1 char"],
        ),
        bad(
            "/spec/stages/0/workloads/targets/0/kind",
            json!("CronJob"),
            &["spec.stages[0].workloads.targets[0]", "kind must be Deployment, StatefulSet"],
        ),
        bad(
            "/spec/stages/0/workloads/targets/0/kind",
            json!("Deploy"),
            &["spec.stages[0].workloads.targets[0].kind", "Unsupported value", "\"Deployment\""],
        ),
        bad("/spec/control", json!({"retry": -1}), &["spec.control.retry", "counts up from 0"]),
        bad(
            "/metadata/name",
            json!("u".repeat(64)),
            &["metadata.name must be at most 63 characters", "label value"],
        ),
    ];
    refused(&api, &good, &all).await;
}

#[tokio::test]
async fn an_unknown_field_is_named_by_kubectl_as_it_is_by_default() {
    let shop = shop().await;
    let object = bad("/spec/stages/0/workloads/strategy/canary/steps/0/setweight", json!(10), &[])
        .object(&good_upgrade());
    let mut kubectl = shop.cluster.kubectl();
    kubectl.args(["create", "-n", &shop.namespace, "-f", "-"]);
    let said = say(&mut kubectl, &object.to_string()).unwrap();
    assert_eq!(said.code, Some(1), "{said:?}");
    let path = "unknown field \"spec.stages[0].workloads.strategy.canary.steps[0].setweight\"";
    assert!(said.err.contains(path), "{}", said.err);
    assert!(shop.upgrades().get_opt("up").await.unwrap().is_none());
}

#[tokio::test]
async fn a_plan_is_never_changed_after_it_was_made() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let good: Upgrade = serde_json::from_value(good_upgrade()).unwrap();
    shop.upgrades().create(&PostParams::default(), &good).await.unwrap();
    let before = shop.phase("up", Phase::AwaitingApproval).await.unwrap();
    let mut stages = good_upgrade()["spec"]["stages"].clone();
    stages[0]["workloads"]["strategy"]["canary"]["steps"][0]["setWeight"] = json!(50);
    let other = json!({"username": "somebody else"});
    let all = [
        bad(
            "/stages",
            stages,
            &[
                "spec.stages is immutable",
                "an approval covers exactly one plan; make another Upgrade",
            ],
        ),
        bad("/from", json!("v0"), &["spec.from is immutable: make another Upgrade"]),
        bad("/from", Value::Null, &["spec.from is immutable: make another Upgrade"]),
        bad("/to", json!("v3"), &["spec.to is immutable: make another Upgrade"]),
        bad("/to", Value::Null, &["spec.to is immutable: make another Upgrade"]),
        bad(
            "/autoRollback",
            json!({"onTimeout": "5m"}),
            &["spec.autoRollback is immutable: make another Upgrade"],
        ),
        bad("/requester", other, &["spec.requester is immutable: it is stamped at admission"]),
        bad(
            "/requester",
            Value::Null,
            &["spec.requester is immutable: it is stamped at admission"],
        ),
    ];
    let mut wrong = vec![];
    for bad in &all {
        // A merge patch: null takes the field away.
        let change = json!({bad.at.trim_start_matches('/'): bad.put});
        match shop.steer("up", change).await {
            Ok(_) => wrong.push(format!("{} = {}: accepted", bad.at, bad.put)),
            Err(error) => {
                let error = error.downcast::<kube::Error>().expect("an answer of the server");
                wrong.extend(unsaid(&error, bad.at, bad.says));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    let now = shop.upgrades().get("up").await.unwrap();
    assert_eq!(now.spec, before.spec);
    assert_eq!(now.metadata.generation, before.metadata.generation);
}

#[tokio::test]
async fn policies() {
    let shop = shop().await;
    let api: Api<DynamicObject> =
        Api::all_with(shop.client.clone(), &ApiResource::erase::<UpgradePolicy>(&()));
    // It would be about a namespace that does not exist, were it stored.
    let good = json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradePolicy",
        "metadata": {"name": format!("{}-refused", shop.namespace)},
        "spec": {
            "namespaceSelector": {"matchLabels": {"nobody": "has"}},
            "workloads": {"selector": {"matchLabels": {"app": "web"}}},
            "approvals": {"required": 1},
        },
    });
    let all = [
        bad(
            "/spec/workloads/selector",
            json!({}),
            &["spec.workloads.selector", "give at least one label, or write `all: true`"],
        ),
        bad(
            "/spec/workloads/selector",
            json!({"matchLabels": {}, "matchExpressions": []}),
            &["spec.workloads.selector", "give at least one label, or write `all: true`"],
        ),
        bad(
            "/spec/workloads/all",
            json!(true),
            &["spec.workloads", "exactly one of `all: true` and `selector`"],
        ),
        bad(
            "/spec/workloads/selector",
            Value::Null,
            &["spec.workloads", "exactly one of `all: true` and `selector`"],
        ),
        bad("/spec/workloads", Value::Null, &["spec.workloads", "Required value"]),
        bad(
            "/spec/workloads",
            json!({"all": false}),
            &["spec.workloads", "exactly one of `all: true` and `selector`"],
        ),
        bad(
            "/spec/workloads/kinds",
            json!(["Gateway"]),
            &["spec.workloads.kinds[0]", "Unsupported value", "\"Deployment\""],
        ),
        bad(
            "/spec/workloads/selector",
            json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
            &["spec.workloads.selector.matchExpressions[0]", "operators In and NotIn need values"],
        ),
        bad(
            "/spec/namespaceSelector",
            json!({}),
            &["spec.namespaceSelector", "or leave it out to mean every governed namespace"],
        ),
        bad(
            "/spec/approvals/required",
            json!(11),
            &["spec.approvals.required", "a number from 0 to 10"],
        ),
        bad(
            "/spec/approvals/required",
            json!(-1),
            &["spec.approvals.required", "a number from 0 to 10"],
        ),
        bad(
            "/spec/firstInstall",
            json!("Deny"),
            &["spec.firstInstall", "Unsupported value", "\"Allow\", \"Upgrade\""],
        ),
    ];
    refused(&api, &good, &all).await;
}

#[tokio::test]
async fn approvals() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let upgrade: Upgrade = serde_json::from_value(good_upgrade()).unwrap();
    shop.upgrades().create(&PostParams::default(), &upgrade).await.unwrap();
    let waits = shop.phase("up", Phase::AwaitingApproval).await.unwrap();
    let hash = waits.status.unwrap().plan_hash;
    // An approval is somebody else's word.
    let bob = shop.cluster.client_for("bob", &["system:masters"]).await.unwrap();
    let api = objects::<UpgradeApproval>(bob, &shop.namespace);
    let good = json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
        "metadata": {"name": "up-bob"},
        "spec": {"upgrade": "up", "planHash": hash, "decision": "Approved"},
    });
    let all = [
        bad("/spec/decision", json!("Rejected"), &["spec.reason", "a rejection says why"]),
        bad(
            "/spec/decision",
            json!("Maybe"),
            &["spec.decision", "Unsupported value", "\"Approved\", \"Rejected\""],
        ),
        bad(
            "/spec/planHash",
            json!("sha256:abc"),
            &["spec.planHash", "`sha256:` and 64 hexadecimal digits"],
        ),
        bad("/spec/planHash", json!(""), &["spec.planHash", "`sha256:` and 64 hexadecimal digits"]),
        bad("/spec/planHash", Value::Null, &["spec.planHash", "Required value"]),
        bad("/spec/upgrade", json!(""), &["spec.upgrade", "at least 1 char"]),
    ];
    refused(&api, &good, &all).await;

    let object: DynamicObject = serde_json::from_value(good).unwrap();
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    let changes = [
        json!({"reason": "on second thought"}),
        json!({"decision": "Rejected", "reason": "on second thought"}),
        json!({"approver": {"username": "ana"}}),
        json!({"planHash": format!("sha256:{}", "0".repeat(64))}),
    ];
    for spec in changes {
        let body = Patch::Merge(json!({ "spec": spec }));
        let refusal = api.patch("up-bob", &PatchParams::default(), &body).await;
        let refusal = refusal.expect_err("it is never changed").to_string();
        let right = "an UpgradeApproval is never changed: create another";
        assert!(refusal.contains(right), "{spec}: {refusal}");
    }
    assert_eq!(api.get("up-bob").await.unwrap().data, made.data);
}

/// The ledger, once the controller has written it.
async fn ledger(shop: &Shop) -> UpgradeLedger {
    let ledgers = Api::<UpgradeLedger>::namespaced(shop.client.clone(), &shop.namespace);
    let written = |l: Option<&UpgradeLedger>| l.is_some_and(|l| !l.spec.entries.is_empty());
    let patience = upgrade_sandbox::scenario::PATIENCE;
    upgrade_sandbox::wait_for(ledgers, "ledger", written, patience).await.unwrap()
}

#[tokio::test]
async fn the_ledger_is_written_by_the_controller_alone() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let api = objects::<UpgradeLedger>(shop.client.clone(), &shop.namespace);
    let before = ledger(&shop).await;
    let says = ["is written by the upgrade controller alone", "admin"];
    let told = |what: &str, error: kube::Error| {
        let unsaid = unsaid(&error, what, &says);
        assert!(unsaid.is_none(), "{}", unsaid.unwrap_or_default());
    };
    let mine: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeLedger",
        "metadata": {"name": "mine"}, "spec": {"entries": []},
    }))
    .unwrap();
    told("create", api.create(&PostParams::default(), &mine).await.expect_err("create"));
    let none = Patch::Merge(json!({"spec": {"entries": []}}));
    told("patch", api.patch("ledger", &PatchParams::default(), &none).await.expect_err("patch"));
    told("delete", api.delete("ledger", &DeleteParams::default()).await.expect_err("delete"));
    assert!(api.get_opt("mine").await.unwrap().is_none());
    let now: Api<UpgradeLedger> = Api::namespaced(shop.client.clone(), &shop.namespace);
    assert_eq!(now.get("ledger").await.unwrap().spec, before.spec);
}

#[tokio::test]
async fn kubectl_shows_columns_and_knows_short_names() {
    let shop = shop().await;
    shop.deploy("web", 1, json!({})).await.unwrap();
    let good: Upgrade = serde_json::from_value(good_upgrade()).unwrap();
    shop.upgrades().create(&PostParams::default(), &good).await.unwrap();
    shop.phase("up", Phase::AwaitingApproval).await.unwrap();
    let get = |args: &[&str]| {
        let mut kubectl = shop.cluster.kubectl();
        kubectl.arg("get").args(args).args(["-n", &shop.namespace]);
        let said = say(&mut kubectl, "").unwrap();
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    let heads = |table: &str| -> Vec<String> {
        let head = table.lines().next().unwrap_or_default();
        head.split_whitespace().map(str::to_owned).collect()
    };
    let table = get(&["upgrades"]);
    assert_eq!(
        heads(&table),
        ["NAME", "CURRENT", "TARGET", "PHASE", "STAGE", "WEIGHT", "AGE"],
        "{table}"
    );
    let row = table.lines().nth(1).expect("a row");
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row[..4], ["up", "v1", "v2", "AwaitingApproval"], "{table}");
    let wide = get(&["upgrades", "-o", "wide"]);
    assert!(heads(&wide).ends_with(&["MESSAGE".to_owned()]), "{wide}");

    ledger(&shop).await;
    let kinds = [
        ("upg", "upgrade.kubectl-upgrade.dev/up"),
        ("upa", ""),
        ("upp", &format!("upgradepolicy.kubectl-upgrade.dev/{}", shop.namespace)),
        ("upl", "upgradeledger.kubectl-upgrade.dev/ledger"),
    ];
    for (short, name) in kinds {
        let names = get(&[short, "-o", "name"]);
        assert!(
            name.is_empty() && names.is_empty() || names.lines().any(|n| n == name),
            "{short}: {names}"
        );
    }
}
