//! Routes of our own: what they say, that they are there only while both versions serve, and that
//! nothing is left of them.

use super::managed::{attached, parts, spec};
use super::refs::Style;
use super::routes::{Carrier, Part, ROUTE};
use super::world::World;
use super::{Names, keep};
use crate::api::status::Phase;
use crate::api::strategy::CanaryStep;
use crate::api::{IN_FLIGHT_LABEL, Upgrade};
use crate::engine::managed::{RouteStep, read};
use crate::engine::model::{Behaviour, NEW, OLD};
use serde_json::{Value, json};

fn header() -> Value {
    json!({"setHeaderRoute": {"name": "beta",
        "match": [{"headerName": "X-Beta", "headerValue": {"prefix": "a.b"}}]}})
}

fn mirror() -> Value {
    json!({"setMirrorRoute": {"name": "copy", "percentage": 10,
        "match": [{"headers": {"X-Copy": {"exact": "1"}}}]}})
}

fn step(value: Value) -> RouteStep {
    let step: CanaryStep = serde_json::from_value(value).expect("a step");
    read(&step).expect("about a route").expect("fine")
}

fn names() -> Names {
    let name = str::to_owned;
    Names {
        root: name("web"),
        aliases: vec![],
        stable: name("web-stable"),
        canary: name("web-canary"),
        namespace: name("shop"),
    }
}

fn made(rules: &Value, of: Value) -> Option<Value> {
    let how = Carrier::Lists(Style::Gateway, vec![]);
    let user = Part { resource: ROUTE, name: "web".to_owned(), how };
    let route =
        json!({"spec": {"parentRefs": [{"name": "gate"}], "hostnames": ["a"], "rules": rules}});
    spec(&user, &route, &names(), &[], &step(of))
}

fn prefix(value: &str) -> Value {
    json!({"type": "PathPrefix", "value": value})
}

#[test]
fn a_header_route_has_the_rules_of_the_workload_with_more_to_each_match() {
    let web = json!([{"name": "web-stable", "port": 80, "weight": 90},
        {"name": "web-canary", "port": 80, "weight": 10}]);
    let timeouts = json!({"request": "5s"});
    let debug = json!([{"name": "X-Debug", "value": "1"}]);
    let rules = json!([
        {"matches": [{"path": prefix("/"), "headers": debug}], "backendRefs": [{"name": "debug"}]},
        {"backendRefs": web, "timeouts": timeouts},
        {"matches": [{"path": prefix("/static")}], "backendRefs": [{"name": "assets"}]},
    ]);
    let made = made(&rules, header()).expect("a route");
    let beta = json!({"type": "RegularExpression", "name": "X-Beta", "value": r"^a\.b.*$"});
    assert_eq!(
        (&made["parentRefs"][0]["name"], &made["hostnames"]),
        (&json!("gate"), &json!(["a"]))
    );
    assert_eq!(
        made["rules"],
        json!([
            // Without it the debug requests with the header would go to the canary.
            {"matches": [{"path": prefix("/"), "headers": [debug[0], beta]}],
             "backendRefs": [{"name": "debug"}]},
            {"matches": [{"path": prefix("/"), "headers": [beta]}], "timeouts": timeouts,
             "backendRefs": [{"name": "web-canary", "port": 80, "weight": 100}]},
        ])
    );
}

#[test]
fn a_mirror_answers_from_the_stable_pods_and_copies_its_share() {
    let rules = json!([{"matches": [{"path": prefix("/")}],
        "filters": [{"type": "X"}], "backendRefs": [{"name": "web", "port": 80}]}]);
    let rule = made(&rules, mirror()).expect("a route")["rules"][0].clone();
    assert_eq!(rule["backendRefs"], json!([{"name": "web-stable", "port": 80, "weight": 100}]));
    let backend = json!({"group": "", "kind": "Service", "name": "web-canary", "port": 80});
    let copy =
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": 10}});
    assert_eq!(rule["filters"], json!([{"type": "X"}, copy]));
    assert_eq!(
        rule["matches"][0]["headers"],
        json!([{"type": "Exact", "name": "X-Copy", "value": "1"}])
    );
}

#[test]
fn a_share_has_to_be_kept_before_requests_are_copied() {
    let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
    let whole = made(&rules, mirror()).expect("a route");
    let first = attached(None, whole.clone()).expect("a try");
    assert!(first.get("parentRefs").is_none() && first["rules"] == whole["rules"]);
    assert_eq!(attached(Some(&first), whole.clone()), Some(whole.clone()));
    let mut dropped = first.clone();
    let backend = dropped["rules"][0]["filters"][0]["requestMirror"]["backendRef"].take();
    dropped["rules"][0]["filters"][0]["requestMirror"] = json!({ "backendRef": backend });
    assert_eq!(attached(Some(&dropped), whole.clone()), None);
    // One that had no share is taken off its parents first, too.
    dropped["parentRefs"] = whole["parentRefs"].clone();
    assert_eq!(attached(Some(&dropped), whole), Some(first));
}

#[test]
fn what_adds_nothing_or_contradicts_has_no_route() {
    let to = |matches: Value| json!([{"matches": [matches], "backendRefs": [{"name": "web"}]}]);
    let get = |path: Value| json!({"setMirrorRoute": {"name": "copy", "match": [{"method": {"exact": "GET"}, "path": path}]}});
    let (api, all) = (json!({"path": prefix("/api")}), json!({"path": prefix("/")}));
    assert!(made(&to(api.clone()), get(json!({"prefix": "/api/"}))).is_some());
    assert!(made(&to(api.clone()), get(json!({"prefix": "/"}))).is_some());
    assert!(made(&to(api.clone()), get(json!({"prefix": "/ap"}))).is_none(), "whole elements");
    assert!(made(&to(all), get(json!({"prefix": "/api"}))).is_none(), "no path is made longer");
    let exact = json!({"path": {"type": "Exact", "value": "/a"}});
    assert!(made(&to(exact), get(json!({"exact": "/a"}))).is_some());
    for method in ["GET", "POST"] {
        let of = json!({"path": prefix("/api"), "method": method});
        assert!(made(&to(of), get(json!({"prefix": "/"}))).is_none(), "{method}");
    }
    for value in ["^a\\.b.*$", "z"] {
        let header = json!({"type": "RegularExpression", "name": "x-beta", "value": value});
        assert!(
            made(&to(json!({"path": prefix("/"), "headers": [header]})), self::header()).is_none()
        );
    }
    assert!(made(&json!([{"backendRefs": [{"name": "api"}]}]), header()).is_none());
    assert!(made(&json!([{"backendRefs": [{"name": "web", "weight": 0}]}]), header()).is_none());
}

#[test]
fn each_route_of_the_users_has_one_beside_it() {
    let routes = ["a".to_owned(), "b".to_owned()];
    let parts = parts("web", &["x".to_owned(), "y".to_owned()], &routes);
    let ids: Vec<String> = parts.iter().map(Part::id).collect();
    assert_eq!(
        ids,
        ["httproutes/web-x", "httproutes/web-x.2", "httproutes/web-y", "httproutes/web-y.2"]
    );
}

fn steps() -> Value {
    json!([{"setWeight": 20}, header(), mirror(), {"setWeight": 60}, {"setHeaderRoute": {"name": "beta"}}])
}

fn route<'w>(world: &'w World, name: &str) -> Option<&'w Value> {
    world.objects.get(&("httproutes".to_owned(), name.to_owned()))
}

#[test]
fn routes_come_and_go_with_their_steps_and_nothing_is_left() {
    for n in [1, 4] {
        let mut world = World::new(n, &steps());
        assert_eq!(world.ends(), Phase::Completed);
        assert_eq!(world.weights, [0, 20, 60, 100, 0]);
        assert_eq!(world.beside, [0, 1, 2, 1, 0]);
        world.clean();
    }
}

#[test]
fn a_step_is_over_when_routers_had_time_to_follow() {
    let list = json!([{"setWeight": 20}, header(), {"pause": {}}]);
    let mut world = World::new(4, &list);
    world.until(|w| route(w, "web-beta").is_some());
    let since = world.now;
    assert_eq!(world.status.current_step_index, 1);
    world.until(|w| w.status.current_step_index == 2);
    assert!(world.now.duration_since(since).as_secs() >= 4, "the grace is 5 s");
    world.until(|w| w.status.phase == Phase::Paused);
    world.promote();
    assert_eq!(world.ends(), Phase::Completed);
    world.clean();
}

#[test]
fn an_abort_at_any_round_takes_them_away_before_the_pods() {
    for rounds in (0..140).step_by(2) {
        let mut world = World::new(4, &steps());
        (0..rounds).for_each(|_| world.round());
        world.plan.abort = true;
        let phase = world.ends();
        assert!(matches!(phase, Phase::Aborted | Phase::Completed), "{rounds}: {phase}");
        world.clean();
    }
}

#[test]
fn a_delete_and_a_death_at_any_round_leave_nothing() {
    for rounds in (0..140).step_by(5) {
        let mut world = World::new(3, &steps());
        world.deaths = vec![rounds % 3; 4];
        (0..rounds).for_each(|_| world.round());
        world.deaths = vec![0, 1, 0, 2];
        world.deleting = rounds % 2 == 0;
        world.until(|w| w.deaths.is_empty());
        if world.deleting {
            world.until(|w| w.objects.len() == 2 && w.native.label.is_none());
        } else {
            assert_eq!(world.ends(), Phase::Completed);
        }
        world.clean();
    }
}

#[test]
fn a_canary_without_ready_pods_loses_its_routes_until_it_has_some() {
    let list = json!([{"setWeight": 50}, header(), mirror(), {"pause": {}}]);
    let mut world = World::new(4, &list);
    world.until(|w| w.status.phase == Phase::Paused);
    assert_eq!(world.beside, [0, 1, 2]);
    world.native.behaviour = Behaviour::Never;
    world.plan.paused = true;
    world.round();
    assert_eq!(world.beside.last(), Some(&0));
    world.native.behaviour = Behaviour::Ready;
    world.until(|w| w.beside.last() == Some(&2));
    world.plan.abort = true;
    world.plan.paused = false;
    assert_eq!(world.ends(), Phase::Aborted);
    world.clean();
}

#[test]
fn a_jump_sets_what_is_on_the_way() {
    let list = json!([{"setWeight": 10}, {"pause": {}}, header(), {"pause": {}}, {"setWeight": 60},
        {"pause": {}}]);
    let mut world = World::new(4, &list);
    world.until(|w| w.status.phase == Phase::Paused);
    world.promote();
    world.plan.promote.as_mut().expect("an order").to_step = Some(4);
    world.until(|w| w.status.current_step_index == 5 && w.status.phase == Phase::Paused);
    assert!(route(&world, "web-beta").is_some());
    world.plan.abort = true;
    assert_eq!(world.ends(), Phase::Aborted);
    world.clean();
}

#[test]
fn a_name_that_is_taken_is_said_and_stays_whose_it_was() {
    let taken = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web-beta"}, "spec": {}});
    for late in [false, true] {
        let mut world = World::new(4, &steps());
        if late {
            world.until(|w| w.weights.last() == Some(&20));
        }
        world.put("httproutes", taken.clone());
        let phase = world.ends();
        assert!(matches!(phase, Phase::RolledBack | Phase::Failed), "{phase}");
        let said = format!("{:?}", world.status);
        assert!(said.contains("HTTPRoute web-beta is there already"), "{said}");
        assert_eq!(route(&world, "web-beta").expect("it")["spec"], json!({}));
        world.objects.remove(&("httproutes".to_owned(), "web-beta".to_owned()));
        world.clean();
    }
}

fn gated(features: &Value) -> World {
    let mut world = World::new(4, &steps());
    let name = |name: &str| json!({"name": name});
    let mut user = route(&world, "web").expect("the user's").clone();
    user["spec"]["parentRefs"] = json!([name("gate"), {"name": "far", "namespace": "infra"}]);
    world.put("httproutes", user);
    for gate in ["gate", "far"] {
        let spec = json!({"gatewayClassName": format!("class-{gate}")});
        world.put(
            "gateways",
            json!({"apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway", "metadata": name(gate), "spec": spec}),
        );
        let listed = json!(["HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"]);
        let listed = if gate == "far" { features.clone() } else { listed };
        world.put(
            "gatewayclasses",
            json!({"apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass", "metadata": name(&format!("class-{gate}")),
            "status": {"supportedFeatures": listed}}),
        );
    }
    world
}

#[test]
fn a_mirror_is_made_only_where_every_router_says_that_it_can() {
    let name = |name: &str| json!({"name": name});
    let mut world =
        gated(&json!([name("HTTPRouteRequestMirror"), name("HTTPRouteRequestPercentageMirror")]));
    assert_eq!(world.ends(), Phase::Completed);
    assert_eq!(world.beside, [0, 1, 2, 1, 0]);
    for (features, missing) in [
        (json!(null), "HTTPRouteRequestMirror"),
        (json!([name("HTTPRouteMethodMatching")]), "HTTPRouteRequestMirror"),
        (json!([name("HTTPRouteRequestMirror")]), "HTTPRouteRequestPercentageMirror"),
    ] {
        let mut world = gated(&features);
        let phase = world.ends();
        assert!(matches!(phase, Phase::RolledBack | Phase::Failed), "{phase}");
        let said = format!("{:?}", world.status);
        let wanted = format!("GatewayClass class-far does not list {missing} in status");
        assert!(said.contains(&wanted), "{said}");
        assert_eq!((world.weights, world.beside), (vec![0], vec![0]), "nothing was written");
    }
}

#[test]
fn a_router_that_nobody_knows_makes_no_mirror() {
    let gone = |plural: &str, name: &str| {
        let mut world = gated(&json!(["HTTPRouteRequestMirror"]));
        world.objects.remove(&(plural.to_owned(), name.to_owned())).expect("it was there");
        (0..30).for_each(|_| world.round());
        assert_eq!(world.beside, [0]);
        format!("{:?}", world.status)
    };
    let said = gone("gateways", "far");
    assert!(said.contains("Gateway infra/far does not exist"), "{said}");
    let said = gone("gatewayclasses", "class-gate");
    assert!(said.contains("GatewayClass class-gate does not exist"), "{said}");
    let mut world = gated(&json!([]));
    let mut user = route(&world, "web").expect("the user's").clone();
    user["spec"]["parentRefs"] = json!([{"kind": "Service", "group": "", "name": "web"}]);
    world.put("httproutes", user);
    world.ends();
    let said = format!("{:?}", world.status);
    assert!(said.contains("has Service web as a parent"), "{said}");
}

#[test]
fn admission_keeps_ours_as_a_whole() {
    let list = json!([{"setWeight": 20}, header(), {"pause": {}}]);
    let mut world = World::new(4, &list);
    world.until(|w| w.status.phase == Phase::Paused);
    let mut upgrade: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade", "metadata": {"name": "up"},
        "spec": {"stages": [{"name": "web", "workloads": {
            "strategy": {"canary": {"steps": list,
                "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}}},
            "targets": [{"kind": "Deployment", "name": "web",
                "images": [{"container": "web", "from": OLD, "to": NEW}]}]}}]}}))
    .expect("an Upgrade");
    upgrade.status = Some(world.status.clone());
    let old = route(&world, "web-beta").expect("it").clone();
    assert_eq!(old["metadata"]["labels"][IN_FLIGHT_LABEL], "up");
    let mut new = old.clone();
    new["spec"]["rules"] = json!([]);
    let kept = keep(&upgrade, "HTTPRoute", &old, &new);
    assert_eq!(kept, [("/spec".to_owned(), old["spec"].clone())]);
}
