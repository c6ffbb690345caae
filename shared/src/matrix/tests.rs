use super::*;
use crate::api::matrix::ConfigMapKey;
use crate::api::upgrade::Stage;
use crate::api::{CompatibilityMatrix, Verdict, WorkloadKind};
use crate::version::Version;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Components `web` (subject), `api` and `db`, all literal-free, with more in the spec.
fn object(more: Value) -> CompatibilityMatrix {
    let deployment = |name: &str| {
        json!({"name": name, "version": {"workload":
            {"namespace": "shop", "kind": "Deployment", "name": name, "container": "app"}}})
    };
    let mut spec = json!({
        "subject": {"component": "web"},
        "components": [deployment("web"), deployment("api"), deployment("db")],
    });
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "CompatibilityMatrix",
        "metadata": {"name": "shop"}, "spec": spec,
    }))
    .expect("a matrix")
}

fn matrix(more: Value) -> Matrix {
    Matrix::parse(&object(more)).expect("valid")
}

fn wrong(more: Value) -> String {
    Matrix::parse(&object(more)).expect_err("invalid").to_string()
}

fn app(name: &str) -> String {
    workload_object(WorkloadKind::Deployment, "shop", name, Some("app"))
}

fn facts(all: &[(&str, &str)]) -> Facts {
    let mut facts = Facts::default();
    for (component, version) in all {
        facts.read(component, &app(component), version);
    }
    facts
}

fn verdicts(findings: &[Finding]) -> Vec<(Verdict, Rule)> {
    findings.iter().map(|f| (f.verdict, f.rule)).collect()
}

fn judged(matrix: &Matrix, facts: &Facts) -> Vec<(Verdict, Rule)> {
    verdicts(&evaluate(matrix, facts, facts))
}

#[test]
fn an_error_names_the_field_and_what_would_be_right() {
    let row = |range: &str| json!({"rows": [{"versions": {"web": range}, "verdict": "Supported"}]});
    let error = wrong(row("1.27+"));
    assert_eq!(
        error,
        "CompatibilityMatrix shop: spec.rows[0].versions.web: `1.27+` is not a range of versions: \
         `1.27+` is no version; write `>=1.27`"
    );
    let error = wrong(json!({"rows": [{"versions": {"agent": "1"}, "verdict": "Supported"}]}));
    assert!(error.contains("`agent` is no component; there are api, db, web"), "{error}");
    let error = wrong(json!({"subject": {"component": "agent"}}));
    assert!(error.contains("spec.subject.component"), "{error}");
    let error = wrong(json!({"components": [{"name": "web", "version": {}}]}));
    assert!(error.contains("spec.components[0].version: it has 0 sources"), "{error}");
    let error = wrong(json!({"order": [
        {"first": "web", "then": "api"}, {"first": "api", "then": "db"}, {"first": "db", "then": "web"},
    ]}));
    assert!(error.contains("api -> db -> web -> api is a circle"), "{error}");
    let error = wrong(json!({"paths": [{"minimumSource": ">=2 <1"}]}));
    assert!(error.contains("spec.paths[0].minimumSource"), "{error}");
}

#[test]
fn the_worst_of_all_rows_decides() {
    let m = matrix(json!({"rows": [
        {"versions": {"web": "1.x", "api": ">=1.0"}, "verdict": "Supported"},
        {"versions": {"web": "1.x", "api": "1.2.3"}, "verdict": "NotRecommended"},
        {"versions": {"db": "<9"}, "verdict": "Unsupported", "note": "of any web"},
    ]}));
    let of = |web, api, db| {
        worst(&evaluate(&m, &Facts::default(), &facts(&[("web", web), ("api", api), ("db", db)])))
    };
    assert_eq!(of("1.0.0", "1.2.4", "9.0.0"), Some(Verdict::Supported));
    assert_eq!(of("1.0.0", "1.2.3", "9.0.0"), Some(Verdict::NotRecommended));
    assert_eq!(of("1.0.0", "1.2.4", "8.0.0"), Some(Verdict::Unsupported));
    assert_eq!(of("2.0.0", "1.2.4", "9.0.0"), Some(Verdict::Unknown));
}

#[test]
fn what_was_not_read_is_unknown() {
    let m = matrix(
        json!({"rows": [{"versions": {"web": "1.x", "api": "1.x"}, "verdict": "Supported"}]}),
    );
    let known = facts(&[("web", "1.0.0"), ("api", "1.0.0")]);
    assert_eq!(judged(&m, &known), [(Verdict::Supported, Rule::Row(0))]);
    assert_eq!(judged(&m, &facts(&[("web", "1.0.0")])), [(Verdict::Unknown, Rule::Component(1))]);
    assert_eq!(judged(&m, &Facts::default()).len(), 2);
    // A part that could not be read outweighs the part that was.
    let mut part = known.clone();
    part.unread("api", "pods is forbidden");
    let findings = evaluate(&m, &part, &part);
    assert_eq!(verdicts(&findings), [(Verdict::Unknown, Rule::Component(1))]);
    let why = &findings[0].why;
    assert!(why.contains("deployment.apps/api[app] in shop") && why.contains("forbidden"), "{why}");
    let mut gone = facts(&[("web", "1.0.0")]);
    gone.absent("api");
    assert_eq!(judged(&m, &gone), [(Verdict::Unknown, Rule::Component(1))]);
}

#[test]
fn a_row_may_depend_on_a_setting() {
    let key =
        ConfigMapKey { namespace: "shop".into(), name: "ceph".into(), key: "readAffinity".into() };
    let when = json!([{"configMap": key, "equals": "true"}]);
    let m = matrix(json!({"rows": [
        {"versions": {"web": "1.x"}, "verdict": "Supported"},
        {"versions": {"web": "1.2.3"}, "verdict": "NotRecommended", "when": when},
    ]}));
    let mut f = facts(&[("web", "1.2.3")]);
    let supported = (Verdict::Supported, Rule::Row(0));
    assert_eq!(judged(&m, &f), [supported, (Verdict::Unknown, Rule::Row(1))]);
    f.setting(key.clone(), None);
    assert_eq!(judged(&m, &f), [supported]);
    f.setting(key.clone(), Some("false"));
    assert_eq!(judged(&m, &f), [supported]);
    f.setting(key.clone(), Some("true"));
    assert_eq!(judged(&m, &f), [supported, (Verdict::NotRecommended, Rule::Row(1))]);
    assert_eq!(m.settings().into_iter().collect::<Vec<_>>(), [&key]);
}

#[test]
fn paths_of_many_kinds() {
    let path = |from: &str, to: &str, rule: Value| {
        let m = matrix(json!({"paths": [rule]}));
        let findings = evaluate(&m, &facts(&[("web", from)]), &facts(&[("web", to)]));
        worst(&findings)
    };
    let one = || json!({"maxMinorStep": 1});
    assert_eq!(path("1.1.0", "1.2.0", one()), None);
    assert_eq!(path("1.1.0", "1.3.0", one()), Some(Verdict::Unsupported));
    assert_eq!(path("1.9.0", "2.0.0", one()), Some(Verdict::Unsupported));
    assert_eq!(path("1.1.0", "latest", one()), Some(Verdict::Unknown));
    assert_eq!(path("1.2.0", "1.1.0", one()), Some(Verdict::Unsupported), "silence is no leave");
    assert_eq!(path("1.2.0", "1.1.0", json!({"maxMinorStep": 1, "downgrade": "Allowed"})), None);
    let far = json!({"maxMinorStep": 1, "downgrade": "Allowed"});
    assert_eq!(path("1.3.0", "1.1.0", far), Some(Verdict::Unsupported));
    assert_eq!(path("1.1.0", "2.0.0", json!({"maxMinorStep": 1, "maxMajorStep": 1})), None);
    assert_eq!(path("1.1.0", "3.0.0", json!({"maxMajorStep": 1})), Some(Verdict::Unsupported));
    let warn = json!({"from": "1.1", "to": "1.2", "verdict": "NotRecommended"});
    assert_eq!(path("1.1.0", "1.2.0", warn.clone()), Some(Verdict::NotRecommended));
    assert_eq!(path("1.2.0", "1.3.0", warn.clone()), None);
    assert_eq!(path("1.3.0", "1.2.0", warn), Some(Verdict::Unsupported), "no path is about it");
}

#[test]
fn order_is_obeyed_through_what_does_not_move() {
    let m =
        matrix(json!({"order": [{"first": "db", "then": "api"}, {"first": "api", "then": "web"}]}));
    let none = Facts::default();
    assert_eq!(order::sort(&m, &none, &["web", "db"]).expect("an order"), ["db", "web"]);
    assert_eq!(
        order::sort(&m, &none, &["web", "api", "db"]).expect("an order"),
        ["db", "api", "web"]
    );
    let violations = |steps: &[Vec<Move>]| {
        let found = order::order_violations(&m, &none, steps);
        found.into_iter().map(|f| (f.rule, f.stage)).collect::<Vec<_>>()
    };
    let (web, db) = (|| Move::of("web", "2"), || Move::of("db", "2"));
    assert_eq!(violations(&[vec![db()], vec![web()]]), []);
    assert_eq!(violations(&[vec![web()], vec![db()]]), [(Rule::Order(0), Some(0))]);
    assert_eq!(violations(&[vec![web(), db()]]), [(Rule::Order(0), Some(0))]);
    assert_eq!(violations(&[vec![db()], vec![web()], vec![db()]]), [(Rule::Order(0), Some(1))]);
    // A setting that was not read does not lift an edge.
    let key = ConfigMapKey { namespace: "shop".into(), name: "c".into(), key: "k".into() };
    let m = matrix(json!({"order": [
        {"first": "db", "then": "api", "when": [{"configMap": key, "equals": "x"}]},
        {"first": "api", "then": "db"},
    ]}));
    let circle = order::sort(&m, &none, &["db"]).expect_err("a circle");
    assert_eq!(circle.components, ["api", "db"]);
    let mut off = Facts::default();
    off.setting(key, Some("y"));
    assert_eq!(order::sort(&m, &off, &["db", "api"]).expect("an order"), ["api", "db"]);
}

#[test]
fn stages_of_an_upgrade_are_moves() {
    let mut more = json!({"components": [
        {"name": "web", "version": {"workload":
            {"namespace": "shop", "kind": "Deployment", "name": "web"}}},
        {"name": "agent", "version": {"workloads": {"namespace": "shop",
            "selector": {"matchLabels": {"app": "agent"}}, "container": "app"}}},
    ]});
    more["rows"] = json!([{"versions": {"web": "1.x", "agent": "1.x"}, "verdict": "Supported"}]);
    let m = matrix(more);
    let target = |name: &str, container: &str, to: &str| {
        json!({"kind": "Deployment", "name": name,
            "images": [{"container": container, "from": "x:1", "to": to}]})
    };
    let stages: Vec<Stage> = serde_json::from_value(json!([
        {"name": "a", "workloads": {"strategy": {"rolling": {}},
            "targets": [target("agent-a", "app", "repo/agent:v2.0.1-alpine"), target("other", "app", "o:3")]}},
        {"name": "b", "workloads": {"strategy": {"rolling": {}},
            "targets": [target("web", "app", "repo/web:1.4"), target("agent-b", "sidecar", "s:9")]}},
    ]))
    .expect("stages");
    let mut f = Facts::default();
    f.read("web", &app("web"), "1.0.0");
    f.read("agent", &app("agent-a"), "1.0.0").read("agent", &app("agent-b"), "1.0.0");
    let steps = moves(&m, &f, &stages, "shop");
    let moved = |component: &str, object: &str, to: &str| Move {
        component: component.into(),
        object: Some(app(object)),
        to: Version::parse(to),
    };
    assert_eq!(
        steps,
        [vec![moved("agent", "agent-a", "2.0.1-alpine")], vec![moved("web", "web", "1.4")]]
    );
    assert!(moves(&m, &f, &stages, "elsewhere").iter().all(Vec::is_empty));
    let plan = evaluate_plan(&m, &f, &steps);
    // One agent at v2 is one too many, and the other stands for nothing.
    let bad: Vec<_> = plan.iter().filter(|f| f.verdict == Verdict::Untested).collect();
    assert_eq!(bad[0].stage, Some(0), "{plan:#?}");
    assert_eq!(bad[0].parts[1].objects, [app("agent-a")]);
    // A digest says no version, and no range contains it.
    let digest = format!("repo/web@sha256:{}", "a".repeat(64));
    let stages: Vec<Stage> = serde_json::from_value(json!([{"name": "a", "workloads":
        {"strategy": {"rolling": {}}, "targets": [target("web", "app", &digest)]}}]))
    .expect("stages");
    let plan = evaluate_plan(&m, &f, &moves(&m, &f, &stages, "shop"));
    assert_eq!(worst(&plan), Some(Verdict::Unknown), "{plan:#?}");
}

#[test]
fn what_already_runs_does_not_count_against_leaving_it() {
    let m = matrix(json!({"default": "Unsupported", "rows": [
        {"versions": {"web": "2.x", "api": "*"}, "verdict": "Supported"},
    ]}));
    let start = facts(&[("web", "1.0.0"), ("api", "1.0.0")]);
    let unsupported = |steps: &[Vec<Move>]| -> Vec<Option<usize>> {
        let plan = evaluate_plan(&m, &start, steps);
        plan.iter().filter(|f| f.verdict == Verdict::Unsupported).map(|f| f.stage).collect()
    };
    assert_eq!(unsupported(&[vec![Move::of("web", "2.0.0")]]), [None]);
    // The plan ends with it.
    assert_eq!(unsupported(&[vec![Move::of("api", "2.0.0")]]), [None, Some(0)]);
    assert_eq!(unsupported(&[]), [None]);
}

#[test]
fn too_many_versions_at_once_are_unknown() {
    let m = matrix(
        json!({"rows": [{"versions": {"web": "*", "api": "*", "db": "*"}, "verdict": "Supported"}]}),
    );
    let mut f = Facts::default();
    for n in 0..20 {
        for name in ["web", "api", "db"] {
            f.read(name, &format!("{name}-{n}"), &format!("1.0.{n}"));
        }
    }
    assert_eq!(judged(&m, &f), [(Verdict::Unknown, Rule::TooMany)]);
}

proptest! {
    /// Knowing less is never better: what is taken from the facts does not lift a refusal of what
    /// is left to a pass.
    #[test]
    fn less_knowledge_is_never_permission(
        web in 0_u8..4, api in 0_u8..4, db in 0_u8..4, hidden in 0_usize..3,
        rows in prop::collection::vec((0_u8..4, prop::option::of(0_u8..4), prop::option::of(0_u8..4), 0_usize..5), 0..6),
    ) {
        let verdicts = ["Supported", "Tested", "Untested", "NotRecommended", "Unsupported"];
        let rows: Vec<Value> = rows.iter().map(|(web, api, db, verdict)| {
            let mut versions = json!({"web": format!("1.{web}")});
            if let Some(api) = api { versions["api"] = json!(format!("1.{api}")); }
            if let Some(db) = db { versions["db"] = json!(format!("1.{db}")); }
            json!({"versions": versions, "verdict": verdicts[*verdict]})
        }).collect();
        let m = matrix(json!({"rows": rows}));
        let all = [("web", format!("1.{web}.0")), ("api", format!("1.{api}.0")), ("db", format!("1.{db}.0"))];
        let full = facts(&all.each_ref().map(|(c, v)| (*c, v.as_str())));
        let mut less = full.clone();
        less.unread(all[hidden].0, "hidden");
        let allowed = [Verdict::Supported, Verdict::Tested];
        let refuses = |f: &Facts| !refused(&evaluate(&m, f, f), &allowed).is_empty();
        prop_assert!(!refuses(&full) || refuses(&less));
    }
}
