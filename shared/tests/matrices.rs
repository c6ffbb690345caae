//! The matrices in `examples/matrices`: each is read, and asked what its source says.
#![expect(clippy::expect_used, reason = "a test ends where something is missing")]

use std::path::Path;

use upgrade_core::api::Verdict::{
    self, NotRecommended, Supported, Tested, Unknown, Unsupported, Untested,
};
use upgrade_core::api::{CompatibilityMatrix, WorkloadKind};
use upgrade_core::matrix::{
    Facts, Finding, Matrix, Move, Rule, evaluate, evaluate_plan, order, passes, refused,
    workload_object, worst,
};

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/matrices")
}

fn matrix(name: &str) -> Matrix {
    let text = std::fs::read_to_string(directory().join(format!("{name}.yaml"))).expect(name);
    let object: CompatibilityMatrix = serde_saphyr::from_str(&text).expect(name);
    assert_eq!(object.metadata.name.as_deref(), Some(name), "the file is named like the object");
    Matrix::parse(&object).expect(name)
}

/// Facts in which each of these runs; what has no version is not there.
fn facts(all: &[(&str, &str)]) -> Facts {
    let mut facts = Facts::default();
    for (n, (component, version)) in all.iter().enumerate() {
        if version.is_empty() {
            facts.absent(component);
        } else {
            facts.read(component, &format!("object {n}"), version);
        }
    }
    facts
}

/// What a matrix says of a state.
fn state(matrix: &Matrix, all: &[(&str, &str)]) -> Vec<Finding> {
    let facts = facts(all);
    evaluate(matrix, &facts, &facts)
}

#[track_caller]
fn says(matrix: &Matrix, all: &[(&str, &str)], verdict: Verdict) {
    let findings = state(matrix, all);
    assert_eq!(worst(&findings), Some(verdict), "{all:?}: {findings:#?}");
}

/// What a matrix says of a change of one component, the others standing still.
fn change(
    matrix: &Matrix,
    component: &str,
    from: &str,
    to: &str,
    others: &[(&str, &str)],
) -> Vec<Finding> {
    let (mut before, mut after) = (facts(others), facts(others));
    before.read(component, "it", from);
    after.read(component, "it", to);
    evaluate(matrix, &before, &after)
}

fn rules(findings: &[Finding], verdict: Verdict) -> Vec<Rule> {
    findings.iter().filter(|f| f.verdict == verdict).map(|f| f.rule).collect()
}

#[test]
fn every_example_can_be_read_and_gives_its_sources() {
    let mut count = 0;
    for entry in std::fs::read_dir(directory()).expect("examples/matrices") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        matrix(&name);
        let text = std::fs::read_to_string(&path).expect("a file");
        let object: CompatibilityMatrix = serde_saphyr::from_str(&text).expect("a matrix");
        for row in &object.spec.rows {
            assert!(row.source.is_some() && row.retrieved.is_some(), "{name}: {row:?}");
        }
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn m1_istio() {
    let istio = matrix("istio");
    let with = |istiod, kubernetes, gateways| {
        [("istiod", istiod), ("kubernetes", kubernetes), ("gateways", gateways)]
    };
    says(&istio, &with("1.30.1", "v1.34.2-eks-a1b2c3", "1.30.1"), Supported);
    says(&istio, &with("1.30.1", "v1.29.4-gke.1", "1.30.1"), Tested);
    says(&istio, &with("1.30.1", "v1.37.0", ""), Untested);
    says(&istio, &with("1.12.0", "v1.34.2", ""), Unknown);
    says(&istio, &with("1.30.1", "v1.34.2", "1.29.3"), Supported);
    says(&istio, &with("1.30.1", "v1.34.2", "1.28.3"), Unsupported);
    // The data plane is never ahead.
    says(&istio, &with("1.29.1", "v1.34.2", "1.30.0"), Unsupported);
    let findings = state(&istio, &with("1.28.1", "v1.33.0", ""));
    assert_eq!(findings[0].end_of_life.as_deref(), Some("2026-07-01"));
    assert!(findings[0].source.is_some() && findings[0].retrieved.is_some());

    let others = [("kubernetes", "1.33.0"), ("gateways", "")];
    let skipped = change(&istio, "istiod", "1.28.1", "1.30.1", &others);
    assert_eq!(rules(&skipped, Unsupported), [Rule::Path(0)], "{skipped:#?}");
    assert!(rules(&change(&istio, "istiod", "1.29.1", "1.30.1", &others), Unsupported).is_empty());

    let sorted = order::sort(&istio, &Facts::default(), &["gateways", "istiod", "base"]);
    assert_eq!(sorted.expect("no circle"), ["base", "istiod", "gateways"]);
}

#[test]
fn m2_cert_manager() {
    let cm = matrix("cert-manager");
    let with = |version, kubernetes, openshift| {
        [("cert-manager", version), ("kubernetes", kubernetes), ("openshift", openshift)]
    };
    says(&cm, &with("v1.21.0", "1.36.0", ""), Supported);
    says(&cm, &with("v1.21.0", "1.33.0", "4.20.3"), Supported);
    says(&cm, &with("v1.21.0", "1.33.0", "4.19.3"), Unsupported);
    says(&cm, &with("v1.20.2", "1.36.0", ""), Unsupported);
    says(&cm, &with("v1.19.2", "1.33.0", ""), Unknown);
    // Whether it is OpenShift was not read: not the same as that it is none.
    says(&cm, &[("cert-manager", "v1.21.0"), ("kubernetes", "1.36.0")], Unknown);
    let down = change(
        &cm,
        "cert-manager",
        "v1.21.0",
        "v1.20.2",
        &[("kubernetes", "1.34.0"), ("openshift", "")],
    );
    assert_eq!(rules(&down, Unsupported), [Rule::Path(0)], "{down:#?}");
}

#[test]
fn m3_argo_cd() {
    let argo = matrix("argo-cd");
    let with = |version, kubernetes| [("argo-cd", version), ("kubernetes", kubernetes)];
    says(&argo, &with("v3.5.0", "1.36.1"), Tested);
    says(&argo, &with("v3.4.7", "1.32.1"), Tested);
    says(&argo, &with("v3.2.1", "1.35.0"), Untested);
    says(&argo, &with("v3.5.0-rc1", "1.35.0"), Unknown);
    says(&argo, &with("latest", "1.35.0"), Unknown);
    let untested = state(&argo, &with("v3.2.1", "1.35.0"));
    assert!(untested[0].why.contains("rows list kubernetes 1.31 - 1.34"), "{untested:#?}");
    assert!(!passes(Untested, &[Supported, Tested]) && passes(Tested, &[Supported, Tested]));
    assert_eq!(refused(&untested, &[Supported, Tested]).len(), 1);
}

#[test]
fn m4_strimzi() {
    let strimzi = matrix("strimzi");
    let with = |version, kafka, kubernetes| {
        [
            ("strimzi", version),
            ("kafka", kafka),
            ("kubernetes", kubernetes),
            ("bridge", ""),
            ("oauth", ""),
        ]
    };
    says(&strimzi, &with("0.50.0", "4.1.1", "1.34.0"), Supported);
    says(&strimzi, &with("0.49.3", "4.0.1", "1.27.0"), Supported);
    // A set and no range: 4.0.1 is newer than 4.0.0, and not in it.
    says(&strimzi, &with("0.48.0", "4.0.1", "1.34.0"), Unsupported);
    says(&strimzi, &with("0.47.0", "3.9.1", "1.25.0"), Supported);
    says(&strimzi, &with("0.50.0", "4.1.1", "1.26.9"), Unsupported);
    says(&strimzi, &with("0.50.1", "4.1.1", "1.34.0"), Unknown);
    let mut bridge = facts(&with("0.50.0", "4.1.1", "1.34.0"));
    bridge.read("bridge", "it", "0.32.0");
    assert_eq!(worst(&evaluate(&strimzi, &bridge, &bridge)), Some(Unsupported));

    // Minors may be skipped, up and down, where Kafka's version allows it.
    let others =
        |kafka| [("kafka", kafka), ("kubernetes", "1.30.0"), ("bridge", ""), ("oauth", "")];
    let down = change(&strimzi, "strimzi", "0.50.0", "0.47.0", &others("4.0.0"));
    assert_eq!(worst(&down), Some(Supported), "{down:#?}");
    let down = change(&strimzi, "strimzi", "0.50.0", "0.45.1", &others("4.0.0"));
    assert_eq!(rules(&down, Unsupported), [Rule::Unlisted], "{down:#?}");
}

#[test]
fn m5_rook() {
    let rook = matrix("rook");
    let with =
        |version, ceph, kubernetes| [("rook", version), ("ceph", ceph), ("kubernetes", kubernetes)];
    says(&rook, &with("v1.20.6", "v19.2.3", "1.36.0"), Supported);
    says(&rook, &with("v1.20.6", "v20.2.1", "1.36.0"), Supported);
    says(&rook, &with("v1.20.6", "v20.2.0", "1.36.0"), NotRecommended);
    says(&rook, &with("v1.18.2", "v20.2.0", "1.34.0"), Supported);
    says(&rook, &with("v1.20.6", "v19.1.1", "1.36.0"), Unsupported);
    says(&rook, &with("v1.20.6", "v18.2.7", "1.36.0"), Unsupported);
    says(&rook, &with("v1.19.1", "v19.2.3", "1.36.0"), Unsupported);

    let others = [("ceph", "v19.2.3"), ("kubernetes", "1.33.0")];
    let floor = change(&rook, "rook", "v1.19.4", "v1.20.6", &others);
    assert_eq!(rules(&floor, Unsupported), [Rule::Path(1)], "{floor:#?}");
    assert!(floor.iter().any(|f| f.why.contains("must come from >=1.19.5")), "{floor:#?}");
    assert_eq!(worst(&change(&rook, "rook", "v1.19.5", "v1.20.6", &others)), Some(Supported));
    let skipped = change(&rook, "rook", "v1.18.9", "v1.20.6", &others);
    assert_eq!(rules(&skipped, Unsupported), [Rule::Path(0), Rule::Path(1)], "{skipped:#?}");
}

#[test]
fn kubernetes_skew() {
    let kubernetes = matrix("kubernetes");
    let of = |kubelets: &[&str]| {
        let mut all = vec![("kubernetes", "v1.36.1-gke.7")];
        all.extend(kubelets.iter().map(|k| ("kubelets", *k)));
        worst(&state(&kubernetes, &all))
    };
    assert_eq!(of(&["v1.36.3", "v1.35.0", "v1.33.9-eks-a1"]), None, "patches are not compared");
    assert_eq!(of(&["v1.36.0", "v1.32.9"]), Some(Unsupported));
    assert_eq!(of(&["v1.36.0", "v1.37.0"]), Some(Unsupported));
    assert_eq!(of(&[]), Some(Unknown));
    let skipped = change(&kubernetes, "kubernetes", "1.34.2", "1.36.0", &[("kubelets", "1.34.0")]);
    assert_eq!(rules(&skipped, Unsupported), [Rule::Path(0)]);

    // Nodes at n-3 block the next step of the control plane.
    let start = facts(&[("kubernetes", "1.36.1"), ("kubelets", "1.33.2")]);
    let plan = evaluate_plan(&kubernetes, &start, &[vec![Move::of("kubernetes", "1.37.0")]]);
    assert_eq!(rules(&plan, Unsupported), [Rule::Skew(0)]);
    let nodes_first = [
        vec![Move::of("kubelets", "1.36.2")],
        vec![Move::of("kubernetes", "1.37.0")],
        vec![Move::of("kubelets", "1.37.0")],
    ];
    let plan = evaluate_plan(&kubernetes, &start, &nodes_first);
    assert_eq!(rules(&plan, Unsupported), [Rule::Order(0)], "{plan:#?}");
    let together = [vec![Move::of("kubernetes", "1.37.0"), Move::of("kubelets", "1.37.0")]];
    let plan = evaluate_plan(
        &kubernetes,
        &facts(&[("kubernetes", "1.36.1"), ("kubelets", "1.36.2")]),
        &together,
    );
    assert_eq!(rules(&plan, Unsupported), [Rule::Skew(0), Rule::Order(0)], "{plan:#?}");
}

/// SYSTEMS E9.
#[test]
fn e9_operator_agents_and_schema() {
    let e9 = matrix("operator-and-agents");
    let with =
        |operator, agent, schema| [("operator", operator), ("agent", agent), ("schema", schema)];
    says(&e9, &with("v1.0.3", "v1.0.9", "v1"), Supported);
    says(&e9, &with("v1.0.3", "v1.1.0", "v1"), Unsupported);
    says(&e9, &with("v1.1.0", "v1.0.9", "v1"), Supported);
    says(&e9, &with("v2.0.0", "v1.1.0", "v2"), Supported);
    says(&e9, &with("v2.0.0", "v1.1.0", "v1"), Unsupported);
    says(&e9, &with("v2.0.0", "v1.0.9", "v2"), Unsupported);
    says(&e9, &with("v1.1.0", "v1.1.0", "v2"), Tested);
    says(&e9, &with("v3.0.0", "v1.1.0", "v2"), Unknown);
    // Every agent must fit.
    let mut many = with("v2.0.0", "v1.1.0", "v2").to_vec();
    many.push(("agent", "v1.0.9"));
    says(&e9, &many, Unsupported);
}

fn cluster(operator: &str, agents: &[&str], schema: &str) -> Facts {
    let mut facts = Facts::default();
    let object = |name: &str, container: &str| {
        workload_object(WorkloadKind::Deployment, "shop", name, Some(container))
    };
    facts.read("operator", &object("operator", "operator"), operator);
    facts.read("schema", "key schema of configmap/migrations in shop", schema);
    for (n, agent) in agents.iter().enumerate() {
        facts.read("agent", &object(&format!("agent-{n}"), "agent"), agent);
    }
    facts
}

#[test]
fn e9_every_state_on_the_way_counts() {
    let e9 = matrix("operator-and-agents");
    let start = cluster("v1.1.0", &["v1.0.2", "v1.0.2"], "v1");
    // The end is fine; on the way operator v2.0 meets agents v1.0.
    let end = cluster("v2.0.0", &["v2.0.0", "v2.0.0"], "v2");
    assert_eq!(worst(&evaluate(&e9, &start, &end)), Some(Supported));
    let operator_first = [
        vec![Move::of("schema", "v2")],
        vec![Move::of("operator", "v2.0.0")],
        vec![Move::of("agent", "v2.0.0")],
    ];
    let plan = evaluate_plan(&e9, &start, &operator_first);
    let broken: Vec<_> = plan.iter().filter(|f| f.verdict == Unsupported).collect();
    assert!(!broken.is_empty() && broken.iter().all(|f| f.stage == Some(1) || f.stage == Some(2)));
    assert!(broken[0].why.contains("operator v2.0.0 lists agent v1.0.2"), "{broken:#?}");
    assert_eq!(broken[0].stage, Some(1), "{broken:#?}");

    // All in one stage is no better: a canary runs both.
    let at_once: Vec<Move> = operator_first.concat();
    assert_eq!(worst(&evaluate_plan(&e9, &start, &[at_once])), Some(Unsupported));

    let agents_first = [
        vec![Move::of("agent", "v1.1.4")],
        vec![Move::of("schema", "v2")],
        vec![Move::of("operator", "v2.0.0")],
        vec![Move::of("agent", "v2.0.0")],
    ];
    let plan = evaluate_plan(&e9, &start, &agents_first);
    assert_eq!(worst(&plan), Some(Tested), "{plan:#?}");
    let tested: Vec<_> = plan.iter().filter(|f| f.verdict == Tested).map(|f| f.stage).collect();
    assert_eq!(tested, [Some(1)], "only the time between migration and upgrade: {plan:#?}");
}

#[test]
fn e9_the_migration_comes_first() {
    let e9 = matrix("operator-and-agents");
    let start = cluster("v1.1.0", &["v1.1.4"], "v1");
    let plan = evaluate_plan(&e9, &start, &[vec![Move::of("operator", "v2.0.0")]]);
    assert!(rules(&plan, Unsupported).contains(&Rule::Migration(0)), "{plan:#?}");
    let migration = plan.iter().find(|f| f.rule == Rule::Migration(0)).expect("a finding");
    assert!(migration.why.contains("needs schema v2 before, and it is v1"), "{migration:?}");
    let after = cluster("v2.0.0", &["v1.1.4"], "v1");
    let found = evaluate(&e9, &start, &after);
    assert!(rules(&found, Unsupported).contains(&Rule::Migration(0)), "{found:#?}");
    let late = [vec![Move::of("operator", "v2.0.0")], vec![Move::of("schema", "v2")]];
    let plan = evaluate_plan(&e9, &start, &late);
    assert!(rules(&plan, Unsupported).contains(&Rule::Migration(0)), "{plan:#?}");
    // v1.0 has to stop at v1.1.
    let start = cluster("v1.0.3", &["v1.0.9"], "v1");
    let plan = evaluate_plan(&e9, &start, &[vec![Move::of("operator", "v2.0.0")]]);
    assert!(rules(&plan, Unsupported).contains(&Rule::Path(1)), "{plan:#?}");
}
