use super::*;
use serde_json::json;

fn workload(name: &str, replicas: i32, changes: &[(&str, &str, &str)]) -> Workload {
    let live: k8s_openapi::api::apps::v1::Deployment = serde_json::from_value(json!({
        "metadata": {"name": name, "generation": 1},
        "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {
            "containers": [{"name": "app"}], "initContainers": [{"name": "init"}]}}},
        "status": {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas}
    }))
    .expect("a Deployment");
    let images = changes
        .iter()
        .map(|(container, from, to)| ImageChange {
            container: (*container).to_owned(),
            from: (*from).to_owned(),
            to: (*to).to_owned(),
        })
        .collect();
    Workload { live: live.into(), images, autoscaler: Autoscaler::None }
}

fn request(strategy: serde_json::Value, workloads: Vec<Workload>) -> Request {
    Request {
        before: None,
        health_checks: vec![],
        namespace: "shop".to_owned(),
        name: None,
        strategy: serde_json::from_value(strategy).expect("a strategy"),
        auto_rollback: None,
        not_before: None,
        window_overrun: None,
        on_conflict: None,
        workloads,
    }
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.notices.iter().map(|n| n.reason).collect()
}

#[test]
fn the_order_of_the_input_does_not_change_the_plan() {
    let rolling = || json!({"rolling": {}});
    let a = || workload("a", 3, &[("app", "r/a:v1", "r/a:v2")]);
    let b = || workload("b", 3, &[("app", "r/b:v1", "r/b:v2"), ("init", "r/i:v1", "r/i:v2")]);
    let same = || workload("c", 3, &[]);
    let one = plan(request(rolling(), vec![a(), b(), same()]));
    let two = plan(request(rolling(), vec![same(), b(), a()]));
    assert_eq!(one, two);
    assert_eq!((one.name.as_str(), one.changes.len()), ("upgrade-v2", 3));
    assert_eq!((one.spec.from.as_deref(), one.spec.to.as_deref()), (Some("v1"), Some("v2")));
}

#[test]
fn versions_are_those_that_all_agree_on_init_containers_aside() {
    let rolling = json!({"rolling": {}});
    let web = workload("web", 3, &[("app", "r/a:v1", "r/a:v2"), ("init", "busybox", "busybox:1")]);
    let p = plan(request(rolling.clone(), vec![web.clone()]));
    assert_eq!((p.spec.from.as_deref(), p.spec.to.as_deref()), (Some("v1"), Some("v2")));
    assert_eq!(p.name, "web-v2");
    assert!(p.changes[1].init && !p.changes[0].init);
    let other = workload("other", 3, &[("app", "r/o:3", "r/o:4")]);
    let p = plan(request(rolling, vec![web, other]));
    assert_eq!((p.spec.from, p.spec.to), (None, None));
    assert_eq!(p.name, "upgrade-images");
}

#[test]
fn what_the_number_of_pods_cannot_express_is_said() {
    let canary =
        json!({"canary": {"steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]}});
    let p = plan(request(canary.clone(), vec![workload("web", 3, &[("app", "r/a:v1", "r/a:v2")])]));
    let rounded = p.notices.iter().find(|n| n.reason == "WeightRounded").expect("a notice");
    assert!(
        rounded.message.contains("10 % is 1 of 3 (33 %), 50 % is 1 of 3 (33 %)"),
        "{}",
        rounded.message
    );
    let p =
        plan(request(canary.clone(), vec![workload("web", 10, &[("app", "r/a:v1", "r/a:v2")])]));
    assert_eq!(reasons(&p), ["TagWithoutDigest", "NativeAlerts", "ForeignWait"]);
    let p = plan(request(canary, vec![workload("web", 1, &[("app", "r/a:v1", "r/a:v2")])]));
    assert_eq!(reasons(&p).first(), Some(&"OneReplica"));
}

#[test]
fn a_number_of_pods_that_is_all_of_them_or_fewer_than_before_is_said() {
    let say = |steps: serde_json::Value, n: i32| {
        let web = workload("web", n, &[("app", "r/a:v1", "r/a:v2")]);
        let p = plan(request(json!({"canary": {"steps": steps}}), vec![web]));
        let notice = p.notices.iter().find(|n| n.reason.ends_with("Replicas"));
        notice.map(|n| n.message.clone()).unwrap_or_default()
    };
    let steps = json!([{"setReplicas": 3}, {"pause": {}}]);
    assert_eq!(say(steps.clone(), 4), "");
    assert_eq!(say(steps, 3), "deploy/web has 3 replicas: a step of 3 pods takes all of them");
    let down = say(json!([{"setWeight": 50}, {"setReplicas": 2}]), 10);
    assert_eq!(
        down,
        "deploy/web has 10 replicas: a step of 2 pods is fewer than before and changes nothing"
    );
}

#[test]
fn moves_downgrades_and_latest_are_risks() {
    let rolling = json!({"rolling": {}});
    let say = |from: &str, to: &str| {
        let p = plan(request(rolling.clone(), vec![workload("web", 3, &[("app", from, to)])]));
        p.notices.iter().map(|n| n.message.clone()).collect::<Vec<_>>().join("\n")
    };
    let digest = format!("@sha256:{}", "a".repeat(64));
    assert!(
        say("quay.io/a/web:v1", "quay.io/b/web:v2")
            .contains("registry path moves from quay.io/a to quay.io/b (1 image)")
    );
    assert!(say("r/web:v2", "r/web:v1").contains("looks like a downgrade"));
    assert!(say("r/web:v2", "r/web").contains("`latest` names no version"));
    assert_eq!(say("r/web:v1", &format!("r/web:v2{digest}")), "");
    let mut recreate = workload("web", 3, &[("app", "r/web:v1", "r/web:v2")]);
    let Live::Deployment(live) = &mut recreate.live else { panic!("a Deployment") };
    live.spec.as_mut().expect("a spec").strategy =
        Some(serde_json::from_value(json!({"type": "Recreate"})).expect("a strategy"));
    assert!(reasons(&plan(request(rolling, vec![recreate]))).contains(&"Recreate"));
}

#[test]
fn a_name_is_a_valid_object_name_and_label_value() {
    assert_eq!(name_of("web", "v2"), "web-v2");
    assert_eq!(name_of("web", "V2_beta+1"), "web-v2-beta-1");
    assert_eq!(name_of("web", "sha256:0123456789ab"), "web-sha256-0123456789ab");
    assert_eq!(name_of("web", "-2..3-.x"), "web-2.3.x");
    let long = name_of(&"w".repeat(100), &"1".repeat(100));
    assert!(long.len() <= MAX_NAME, "{long}");
}

#[test]
fn blue_green_says_what_twice_the_pods_mean() {
    let strategy = json!({"blueGreen": {"activeService": "web"}});
    let mut web = workload("web", 3, &[("app", "r/web:v1", "r/web:v2")]);
    web.autoscaler = Autoscaler::Named("web".to_owned());
    let p = plan(request(strategy, vec![web]));
    for reason in ["DoubleCapacity", "BudgetCountsBoth", "AutoscalerSeesBoth", "NativeAlerts"] {
        assert!(reasons(&p).contains(&reason), "{:?}", reasons(&p));
    }
    assert!(!reasons(&p).contains(&"PastTheRoute"));
    let routing = json!({"gatewayAPI": {"httpRoute": "web"}});
    let strategy = json!({"blueGreen": {"activeService": "web", "trafficRouting": routing}});
    let web = workload("web", 3, &[("app", "r/web:v1", "r/web:v2")]);
    assert!(reasons(&plan(request(strategy, vec![web]))).contains(&"PastTheRoute"));
}

#[test]
fn a_canary_of_its_own_says_who_reaches_it() {
    use super::super::separate::{Neighbours, notices};
    let spec = json!({"selector": {"matchLabels": {"app": "web", "track": "stable"}},
        "template": {"metadata": {"labels": {"app": "web", "track": "stable"}}}});
    let service = |name: &str, selector: serde_json::Value| {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"selector": selector}}))
            .expect("a Service")
    };
    let services = vec![
        service("all", json!({"app": "web"})),
        service("old", json!({"app": "web", "track": "stable"})),
        service("other", json!({"app": "db"})),
    ];
    let said = |separate: serde_json::Value, beside: &Neighbours| {
        let strategy = json!({"canary": {"separate": separate, "steps": [{"setWeight": 50}]}});
        let mut web = workload("web", 4, &[("app", "r/web:v1", "r/web:v2")]);
        let Live::Deployment(live) = &mut web.live else { panic!("a Deployment") };
        let own = live.spec.as_mut().expect("a spec");
        let more: k8s_openapi::api::apps::v1::DeploymentSpec =
            serde_json::from_value(spec.clone()).expect("a spec");
        (own.selector, own.template.metadata) = (more.selector, more.template.metadata);
        let found = notices(&request(strategy, vec![web]), beside);
        found.into_iter().map(|n| format!("{} {}", n.reason, n.message)).collect::<Vec<_>>()
    };
    let beside = Neighbours { services: Some(services), deployments: vec!["web".to_owned()] };
    let track = json!({"labels": {"track": "canary"}});
    let all = said(track.clone(), &beside);
    assert!(all[0].contains("Deployment web-canary has up to 2"), "{all:?}");
    assert!(all[1].contains("Services all send clients to the canary of deploy/web"), "{all:?}");
    assert!(all[1].contains("old do not, for its pods are"), "{all:?}");
    let none = said(json!({}), &beside);
    assert!(none[1].contains("no client reaches the canary") && none[1].contains("all, old"));
    let refused = said(json!({"labels": {"team": "a"}}), &beside);
    assert!(refused[0].starts_with("NoCanaryLabels"), "{refused:?}");
    let beside = Neighbours { services: None, deployments: vec!["web-canary".to_owned()] };
    let taken = said(track, &beside);
    assert!(taken[0].starts_with("NameTaken") && taken[2].contains("is not known"), "{taken:?}");
}
