//! `explain`, `windows` and `matrix` as people type them, on the real API server.

use std::path::Path;

use serde_json::{Value, json};
use upgrade_core::api::Phase;
use upgrade_sandbox::scenario::{Lab, Said, Shop, canary, lab, say};

fn run(lab: &Lab, user: &Path, shop: &Shop, line: &str) -> Said {
    let mut command = lab.product.plugin(user);
    command.args(line.split_whitespace()).args(["-n", &shop.namespace]).env("LC_ALL", "C.UTF-8");
    say(&mut command, "").expect("the plugin runs")
}

#[track_caller]
fn says(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{}{}", said.out, said.err);
    for part in parts {
        let all = format!("{}{}", said.out, said.err);
        assert!(all.contains(part), "`{part}` is not in:\n{all}");
    }
}

fn document(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}{}", said.out, said.err))
}

fn apply(lab: &Lab, object: &Value) {
    let mut command = lab.cluster.kubectl();
    let said = say(command.args(["apply", "-f", "-"]), &object.to_string()).expect("kubectl");
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[tokio::test]
async fn explain_says_what_holds_an_upgrade_and_what_helps() {
    let lab = lab().await;
    let shop = lab.shop(1).await.unwrap();
    shop.deploy("web", 4, json!({})).await.unwrap();
    let admin = lab.cluster.kubeconfig();
    says(&run(lab, admin, &shop, "explain nothing"), 1, &["no Upgrade `nothing`"]);
    says(
        &run(lab, admin, &shop, "explain web --timezone Europe/Rom"),
        2,
        &["--timezone", "Europe/Rome"],
    );

    shop.upgrade("up", &["web"], "web:v2", &canary(&["25", "", "100"])).await.unwrap();
    shop.phase("up", Phase::AwaitingApproval).await.unwrap();
    let approve = format!("kubectl upgrade approve up -n {}", shop.namespace);
    says(
        &run(lab, admin, &shop, "explain up"),
        4,
        &["it is held by", "Approval", &approve, "you are the requester"],
    );
    let answer = document(&run(lab, admin, &shop, "explain up -o json"));
    assert_eq!((&answer["reason"], &answer["held"]), (&json!("GateShut"), &json!(true)));
    let gate =
        answer["gates"].as_array().unwrap().iter().find(|g| g["gate"] == "Approval").unwrap();
    assert_eq!(gate["open"], json!(false));

    let bob = lab.cluster.kubeconfig_for("bob", &["system:masters"]).unwrap();
    says(&run(lab, &bob, &shop, "approve up --yes"), 0, &["approved"]);
    shop.rests_at("up", 1).await.unwrap();
    let promote = format!("kubectl upgrade promote up -n {}", shop.namespace);
    says(&run(lab, &bob, &shop, "explain up"), 4, &["Paused", &promote]);
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    says(&run(lab, &bob, &shop, "explain up"), 0, &["it has ended"]);
}

#[tokio::test]
async fn windows_are_listed_looked_ahead_in_and_tested_at_a_time() {
    let lab = lab().await;
    let shop = lab.shop(0).await.unwrap();
    shop.deploy("web", 1, json!({})).await.unwrap();
    let (admin, name) = (lab.cluster.kubeconfig(), &shop.namespace);
    let here = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
    let window = |kind: &str, suffix: &str, spec: Value| {
        let mut object = json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "MaintenanceWindow",
            "metadata": {"name": format!("{name}-{suffix}")},
            "spec": {"kind": kind, "timeZone": "Europe/Rome", "namespaceSelector": here}});
        for (key, value) in spec.as_object().expect("an object") {
            object["spec"][key] = value.clone();
        }
        object
    };
    let zone = "--timezone Europe/Rome";
    let test = |at: &str, more: &str| {
        run(lab, admin, &shop, &format!("windows test --at {at} {zone} {more}"))
    };
    says(&test("2030-01-01T12:00", ""), 0, &["open", "no window holds for it"]);

    let nights = json!({"days": ["Sunday"], "start": "01:00", "end": "05:00"});
    apply(lab, &window("Allow", "nights", nights));
    let freeze = json!({"activeFrom": "2029-12-20T00:00:00Z", "activeUntil": "2030-01-02T00:00:00Z",
        "reason": "Christmas; ask ops"});
    apply(lab, &window("Deny", "xmas", freeze));

    // Sunday 2030-01-13, and the freeze before it.
    says(
        &test("2030-01-13T03:00", ""),
        0,
        &["deployment.apps/web   open", "Sun 2030-01-13 05:00 CET", "nights"],
    );
    says(
        &test("2030-01-13T06:00", ""),
        4,
        &["shut", "Sun 2030-01-20 01:00 CET", "outside of MaintenanceWindow"],
    );
    says(
        &test("2029-12-23T02:00", "--workload deploy/web"),
        4,
        &["frozen by", "Christmas; ask ops", "Sun 2030-01-06 01:00 CET"],
    );
    let answer = document(&test("2029-12-23T02:00", "-o json"));
    assert_eq!((&answer["reason"], &answer["exitCode"]), (&json!("Shut"), &json!(4)));
    assert_eq!(answer["workloads"][0]["next"], "2030-01-06T00:00:00Z");
    says(
        &test("2029-12-23T02:00", "--workload deploy/api"),
        1,
        &["no deployment.apps/api in namespace"],
    );
    says(&test("soon", ""), 2, &["--at: `soon` is not a time"]);

    says(&run(lab, admin, &shop, "windows next"), 0, &["deployment.apps/web", "WHY"]);
    let listed = run(lab, admin, &shop, "windows -o wide");
    says(
        &listed,
        0,
        &["nights", "Sun 01:00-05:00", "Europe/Rome", "xmas", "thawed", "Christmas; ask ops"],
    );
    says(
        &run(lab, admin, &shop, "windows --at 2030-01-01"),
        2,
        &["--at belongs to `windows test`"],
    );
}

#[tokio::test]
async fn a_matrix_judges_given_versions_and_those_that_run() {
    let lab = lab().await;
    let shop = lab.shop(0).await.unwrap();
    let (admin, name) = (lab.cluster.kubeconfig(), &shop.namespace);
    let template = json!({"spec": {"containers": [{"name": "web", "image": "web:2.1.0"}]}});
    shop.deploy("web", 1, json!({"template": template})).await.unwrap();
    apply(
        lab,
        &json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "CompatibilityMatrix",
        "metadata": {"name": name},
        "spec": {
            "subject": {"component": "web"},
            "components": [
                {"name": "web", "version": {"workload": {"namespace": name, "kind": "Deployment", "name": "web"}}},
                {"name": "kubernetes", "version": {"kubernetes": {}}},
            ],
            "unlisted": "Untested",
            "rows": [
                {"versions": {"web": "2.0 - 2.9", "kubernetes": ">=1.20"}, "verdict": "Supported",
                    "source": "https://web.example/support", "retrieved": "2026-11-21"},
                {"versions": {"web": "3.0 - 3.9", "kubernetes": ">=1.20"}, "verdict": "Unsupported",
                    "note": "web 3 needs another database"},
            ],
        }}),
    );
    let test = |more: &str| run(lab, admin, &shop, &format!("matrix test {name} {more}"));
    let given = "--set web=2.4.1 --set kubernetes=1.30.2-gke.1";
    says(
        &test(given),
        0,
        &["Supported", "web 2.4.1", "https://web.example/support (read on 2026-11-21)"],
    );
    says(
        &test("--set web=3.0.0 --set kubernetes=1.30.2"),
        4,
        &["Unsupported", "web 3 needs another database"],
    );
    says(&test("--live"), 0, &["Supported", "web 2.1.0"]);
    says(&test("--live --set web=3.1.0"), 4, &["Unsupported"]);
    // What is not known is never fine.
    says(&test("--set web=2.4.1"), 4, &["Unknown", "add --set or --live"]);
    let answer = document(&test("--live --set web=9.0.0 -o json"));
    assert_eq!((&answer["reason"], &answer["exitCode"]), (&json!("Unknown"), &json!(4)));
    says(&test("--set wbe=1"), 2, &["no component `wbe`", "did you mean web?"]);
    says(&test(""), 2, &["which versions?"]);
    says(&run(lab, admin, &shop, "matrix"), 0, &[name, "web,kubernetes", "valid"]);
    says(
        &run(lab, admin, &shop, "matrix test no-such --live"),
        1,
        &["no CompatibilityMatrix `no-such`"],
    );
}
