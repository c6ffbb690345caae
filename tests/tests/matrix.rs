//! CompatibilityMatrices on the real API server: it takes the examples, and what it refuses it
//! refuses by the field's name. A CRD whose rules cost too much would not be installed at all.

use std::path::Path;

use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use upgrade_core::api::CompatibilityMatrix;
use upgrade_core::matrix::Matrix;
use upgrade_sandbox::scenario::{lab, say};

#[tokio::test]
async fn the_examples_are_what_the_server_takes() {
    let lab = lab().await;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/matrices");
    let mut apply = lab.cluster.kubectl();
    apply.args(["apply", "--validate=strict", "-f"]).arg(&examples);
    let said = say(&mut apply, "").unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");

    let api: Api<CompatibilityMatrix> = Api::all(lab.cluster.client().await.unwrap());
    for entry in std::fs::read_dir(&examples).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let written: CompatibilityMatrix = serde_saphyr::from_str(&text).unwrap();
        let stored = api.get(written.metadata.name.as_deref().unwrap()).await.unwrap();
        assert_eq!(stored.spec, written.spec, "{}", path.display());
        Matrix::parse(&stored).unwrap();
    }

    let mut get = lab.cluster.kubectl();
    let said = say(get.args(["get", "cmx"]), "").unwrap();
    let head: Vec<&str> = said.out.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["NAME", "SUBJECT", "AGE"], "{said:?}");
    let row = said.out.lines().find(|line| line.starts_with("rook ")).expect("rook");
    assert_eq!(row.split_whitespace().nth(1), Some("rook"), "{said:?}");
    let mut get = lab.cluster.kubectl();
    let said = say(get.args(["get", "kubectl-upgrade", "-A", "-o", "name"]), "").unwrap();
    assert!(said.out.contains("compatibilitymatrix.kubectl-upgrade.dev/istio"), "{said:?}");
}

/// The largest that the schema allows, so that rules are evaluated at their worst.
fn large() -> Value {
    let name = |n: usize| format!("component-{n:0>50}");
    let components: Vec<Value> =
        (0..16).map(|n| json!({"name": name(n), "version": {"literal": "1.0.0"}})).collect();
    let versions: serde_json::Map<String, Value> =
        (0..16).map(|n| (name(n), json!("1.0.0 || 1.1.0"))).collect();
    let row = json!({"versions": versions, "verdict": "Supported"});
    let path = json!({"component": name(15), "maxMinorStep": 1});
    let edge = json!({"first": name(14), "then": name(15)});
    json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "CompatibilityMatrix",
        "metadata": {"name": "large"},
        "spec": {
            "subject": {"component": name(15)}, "components": components,
            "rows": vec![row; 200], "paths": vec![path; 32], "order": vec![edge; 64],
        },
    })
}

fn good() -> Value {
    json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "CompatibilityMatrix",
        "metadata": {"name": "refused"},
        "spec": {
            "subject": {"component": "web"},
            "components": [
                {"name": "web", "version": {"workloads":
                    {"namespace": "shop", "selector": {"matchLabels": {"app": "web"}}}}},
                {"name": "kubernetes", "version": {"kubernetes": {}}},
                {"name": "schema", "version": {"schema":
                    {"namespace": "shop", "name": "migrations", "key": "schema"}}},
            ],
            "rows": [{"versions": {"web": "1.x", "kubernetes": ">=1.29"}, "verdict": "Supported",
                "source": "https://shop.example/", "retrieved": "2026-11-21"}],
            "paths": [{"maxMinorStep": 1}],
            "skew": [{"component": "web", "notAheadOf": "kubernetes", "maxMinorBehind": 1}],
            "order": [{"first": "kubernetes", "then": "web"}],
            "migrations": [{"from": "1.x", "to": "2.x",
                "requires": {"component": "schema", "range": "v2"}}],
        },
    })
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_the_fields_name() {
    let all: [(&str, Value, &[&str]); 19] = [
        ("/subject/component", json!("db"), &["subject.component is none of spec.components"]),
        (
            "/components/0/version",
            json!({}),
            &["spec.components[0].version", "exactly one of `kubernetes`"],
        ),
        (
            "/components/1/version/literal",
            json!("1.30"),
            &["spec.components[1].version", "exactly one of `kubernetes`"],
        ),
        (
            "/components/0/version/workloads/selector",
            json!({}),
            &["spec.components[0].version.workloads.selector", "give at least one label"],
        ),
        ("/components/1/name", json!("Kubernetes"), &["spec.components[1].name", "should match"]),
        ("/components/1/name", json!("web"), &["spec.components[1]", "Duplicate value"]),
        (
            "/rows/0/versions",
            json!({"agent": "1.x"}),
            &["rows: a key of versions is none of spec.components"],
        ),
        ("/rows/0/versions", json!({}), &["spec.rows[0].versions", "at least 1 propert"]),
        (
            "/rows/0/versions",
            json!({"web": "1.x; rm"}),
            &["spec.rows[0].versions.web", "should match"],
        ),
        (
            "/rows/0/verdict",
            json!("Fine"),
            &["spec.rows[0].verdict", "Unsupported value", "\"NotRecommended\""],
        ),
        ("/rows/0/source", json!("a wiki"), &["spec.rows[0].source", "should match"]),
        ("/rows/0/source", Value::Null, &["spec.rows[0]", "give source too"]),
        ("/rows/0/retrieved", json!("today"), &["spec.rows[0].retrieved", "should match"]),
        ("/paths/0", json!({"from": "1.x"}), &["spec.paths[0]", "at least one of `maxMinorStep`"]),
        ("/paths/0/component", json!("agent"), &["paths: component is none of spec.components"]),
        ("/paths/0/maxMinorStep", json!(-1), &["spec.paths[0].maxMinorStep", "from 0 to 100"]),
        ("/skew/0/notAheadOf", json!("web"), &["spec.skew[0]", "name two components"]),
        (
            "/order/0/then",
            json!("agent"),
            &["order: first and then must be names of spec.components"],
        ),
        (
            "/migrations/0/requires/component",
            json!("db"),
            &["migrations: requires.component is none of spec.components"],
        ),
    ];
    let client = lab().await.cluster.client().await.unwrap();
    let api: Api<DynamicObject> =
        Api::all_with(client, &ApiResource::erase::<CompatibilityMatrix>(&()));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    for fine in [good(), large()] {
        let object: DynamicObject = serde_json::from_value(fine).unwrap();
        api.create(&dry, &object).await.expect("without a change it is good");
    }
    let mut wrong = vec![];
    for (at, put, says) in all {
        let mut object = good();
        let (parent, key) = at.rsplit_once('/').unwrap();
        match object["spec"].pointer_mut(parent).expect(at) {
            Value::Object(map) if put.is_null() => drop(map.remove(key)),
            Value::Object(map) => drop(map.insert(key.to_owned(), put)),
            list => list[key.parse::<usize>().expect("an index")] = put,
        }
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => wrong.push(format!("{at}: accepted")),
            Err(error) => {
                let message = error.to_string();
                let message = message.split(" (Status {").next().unwrap_or_default();
                if !says.iter().all(|part| message.contains(part)) {
                    wrong.push(format!("{at}: {says:?} is not in:\n    {message}"));
                }
            }
        }
        assert!(api.get_opt("refused").await.unwrap().is_none(), "{at}: stored");
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
