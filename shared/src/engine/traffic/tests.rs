//! What a split makes of lists of backends, and that it can be undone.

use super::refs::Style;
use super::routes::{Carrier, Part};
use super::{Names, Traffic, gateway, istio, nginx, smi};
use crate::api::strategy::Canary;
use crate::api::traffic::{DestinationRule, Nginx, RouteOriginal};
use crate::engine::objects::Resource;
use proptest::prelude::*;
use serde_json::{Value, json};

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

fn part() -> Part {
    let resource = Resource { api_version: "g/v1", kind: "HTTPRoute", plural: "httproutes" };
    Part { resource, name: "web".to_owned(), how: Carrier::Lists(Style::Gateway, vec![]) }
}

fn route(lists: &[Value]) -> Value {
    let rules: Vec<Value> = lists.iter().map(|l| json!({ "backendRefs": l })).collect();
    json!({"spec": {"rules": rules}})
}

#[test]
fn a_single_backend_becomes_two_whose_weights_are_percents() {
    let original = json!([{"name": "web", "port": 80, "filters": [1]}]);
    let carried = Style::Gateway.carry(&original, &names(), 30);
    let wanted = json!([{"name": "web-stable", "port": 80, "filters": [1], "weight": 70},
        {"name": "web-canary", "port": 80, "filters": [1], "weight": 30}]);
    assert_eq!(carried, wanted);
    let pinned = Style::Gateway.carry(&original, &names(), 0);
    assert_eq!(pinned, json!([{"name": "web-stable", "port": 80, "filters": [1], "weight": 100}]));
}

#[test]
fn what_others_get_of_a_list_stays_what_they_get() {
    let original = json!([{"name": "web", "weight": 3}, {"name": "api", "weight": 1}]);
    let carried = Style::Gateway.carry(&original, &names(), 50);
    let wanted = json!([{"name": "web-stable", "weight": 3}, {"name": "web-canary", "weight": 3},
        {"name": "api", "weight": 2}]);
    assert_eq!(carried, wanted);
}

#[test]
fn what_is_not_the_services_is_left_alone() {
    for other in [
        json!([{"name": "api"}]),
        json!([{"name": "web", "kind": "Bucket", "group": "example.com"}]),
        json!([{"name": "web", "namespace": "elsewhere"}]),
        json!([{"name": "web", "weight": 0}]),
        json!([]),
    ] {
        assert_eq!(Style::Gateway.carry(&other, &names(), 50), other);
    }
}

#[test]
fn hosts_are_told_by_their_short_and_their_full_names() {
    for (host, ours) in [
        ("web", true),
        ("web.shop", true),
        ("web.shop.svc.cluster.local", true),
        ("web.other.svc.cluster.local", false),
        ("web.example.com", false),
    ] {
        let original = json!([{"destination": {"host": host}}]);
        let carried = Style::Host.carry(&original, &names(), 40);
        assert_eq!(carried != original, ours, "{host}");
    }
}

#[test]
fn subsets_with_both_entries_as_argo_has_them_are_one_share() {
    let style = Style::Subset { stable: "s".to_owned(), canary: "c".to_owned() };
    let original = json!([{"destination": {"host": "web", "subset": "s"}, "weight": 100},
        {"destination": {"host": "web", "subset": "c"}, "weight": 0}]);
    let carried = style.carry(&original, &names(), 25);
    let wanted = json!([{"destination": {"host": "web", "subset": "s"}, "weight": 75},
        {"destination": {"host": "web", "subset": "c"}, "weight": 25}]);
    assert_eq!(carried, wanted);
    assert!(style.made_of(&carried, &original, &names()));
}

#[test]
fn what_somebody_wrote_meanwhile_is_what_is_put_back() {
    let (part, names) = (part(), names());
    let first = json!([{"name": "web", "port": 80}]);
    let known = vec![RouteOriginal {
        object: "httproutes/web".to_owned(),
        path: "/spec/rules/0/backendRefs".to_owned(),
        value: Some(first.to_string()),
    }];
    let ours = Style::Gateway.carry(&first, &names, 30);
    let back = |lists: &[Value]| {
        let fields = part.fields(&route(lists), &names, &known);
        fields.into_iter().map(|(_, v)| v).collect::<Vec<_>>()
    };
    assert_eq!(back(std::slice::from_ref(&ours)), std::slice::from_ref(&first));
    // Applied again with another port: that is what its owner wants now.
    let changed = json!([{"name": "web", "port": 81}]);
    assert_eq!(back(std::slice::from_ref(&changed)), [changed]);
    // Moved behind a new rule.
    let other = json!([{"name": "api"}]);
    assert_eq!(back(&[other, ours.clone()]), std::slice::from_ref(&first));
    // Nothing noted fits: the user's Service, alone.
    let unknown = json!([{"name": "web-stable", "port": 9, "weight": 70}, {"name": "web-canary", "port": 9, "weight": 30}]);
    assert_eq!(back(&[unknown])[0], json!([{"name": "web", "port": 9, "weight": 1}]));
    // Admission has carried a list that nobody noted.
    let shared = json!([{"name": "web", "port": 80, "weight": 7}, {"name": "api", "weight": 3}]);
    let carried = Style::Gateway.carry(&shared, &names, 30);
    assert_eq!(Style::Gateway.share(&carried, &names), Some(30));
    assert_eq!(back(&[carried]), [shared]);
}

#[test]
fn the_canarys_ingress_has_only_the_paths_of_the_workload() {
    let path = |name: &str| json!({"path": "/", "backend": {"service": {"name": name}}});
    let stable = json!({"spec": {"ingressClassName": "nginx", "rules": [
        {"host": "a", "http": {"paths": [path("web-stable"), path("assets")]}},
        {"host": "b", "http": {"paths": [path("assets")]}}]}});
    let settings = Nginx { annotation_prefix: Some("x.io".to_owned()), ..Nginx::default() };
    let (annotations, spec) = nginx::canary(&stable, &settings, &names(), 20);
    assert_eq!(annotations, json!({"x.io/canary": "true", "x.io/canary-weight": "20"}));
    let wanted = json!({"ingressClassName": "nginx",
        "rules": [{"host": "a", "http": {"paths": [path("web-canary")]}}]});
    assert_eq!(spec, wanted);
}

#[test]
fn subsets_keep_their_labels_and_are_added_where_missing() {
    let rule = DestinationRule {
        name: "web".to_owned(),
        canary_subset_name: "c".to_owned(),
        stable_subset_name: "s".to_owned(),
    };
    let original = json!([{"name": "s", "labels": {"app": "web"}, "trafficPolicy": {}}]);
    let pinned = istio::subsets(Some(&original), &rule, "h1", None);
    let s = json!({"name": "s", "labels": {"app": "web", "pod-template-hash": "h1"}, "trafficPolicy": {}});
    assert_eq!(pinned, json!([s]));
    let both = istio::subsets(Some(&original), &rule, "h1", Some("h2"));
    assert_eq!(both, json!([s, {"name": "c", "labels": {"pod-template-hash": "h2"}}]));
}

#[test]
fn a_route_counts_once_its_controllers_have_looked_at_it() {
    let at = |observed: i64, status: &str| {
        json!({"metadata": {"generation": 3}, "status": {"parents": [{"controllerName": "x.io/y",
            "conditions": [{"type": "Accepted", "status": status, "observedGeneration": observed}]}]}})
    };
    assert!(gateway::refused(&json!({"metadata": {"generation": 3}})).is_none(), "nobody reports");
    assert!(gateway::refused(&at(2, "True")).is_some_and(|w| w.contains("not looked")));
    assert!(gateway::refused(&at(3, "False")).is_some_and(|w| w.contains("Accepted is False")));
    assert!(gateway::refused(&at(3, "True")).is_none());
}

#[test]
fn what_cannot_be_is_said_with_the_field() {
    let read = |canary: Value, targets| {
        let canary: Canary = serde_json::from_value(canary).expect("a canary");
        Traffic::read(&canary, "shop", targets).map(|t| t.is_some())
    };
    let route = json!({"steps": [], "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}});
    assert_eq!(read(json!({"steps": []}), 3), Ok(false));
    assert_eq!(read(route.clone(), 1), Ok(true));
    assert!(read(route, 2).is_err_and(|e| e.contains("one target")));
    let both =
        json!({"steps": [], "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}, "smi": {}}});
    assert!(read(both, 1).is_err_and(|e| e.contains("exactly one of")));
    let away = json!({"steps": [], "trafficRouting": {"gatewayAPI": {"httpRoute": "web", "namespace": "a"}}});
    assert!(read(away, 1).is_err_and(|e| e.contains("gatewayAPI.namespace is a")));
    let same = json!({"steps": [], "stableService": "a", "canaryService": "a"});
    assert!(read(same, 1).is_err_and(|e| e.contains("must differ")));
}

#[test]
fn a_split_of_our_own_has_no_backend_without_weight() {
    assert_eq!(
        smi::spec(&names(), 0)["backends"],
        json!([{"service": "web-stable", "weight": 100}])
    );
    assert_eq!(smi::spec(&names(), 30)["backends"].as_array().map(Vec::len), Some(2));
}

proptest! {
    /// Whatever else is in the list: the canary gets exactly its share of what the Service had, and
    /// the list can be told from every other.
    #[test]
    fn the_share_is_exact(weight in 0..=100i32, own in 1..=100i64, others in proptest::collection::vec(1..=100i64, 0..4)) {
        let mut list = vec![json!({"name": "web", "weight": own})];
        list.extend(others.iter().enumerate().map(|(i, w)| json!({"name": format!("o{i}"), "weight": w})));
        let original = Value::Array(list);
        let carried = Style::Gateway.carry(&original, &names(), weight);
        let weights = |of: &dyn Fn(&str) -> bool| -> i64 {
            let all = carried.as_array().into_iter().flatten();
            all.filter(|e| of(e["name"].as_str().unwrap_or_default())).filter_map(|e| e["weight"].as_i64()).sum()
        };
        let (canary, ours) = (weights(&|n| n == "web-canary"), weights(&|n| n.starts_with("web-")));
        let total = weights(&|_| true);
        prop_assert_eq!(canary * 100, ours * i64::from(weight));
        let before: i64 = own + others.iter().sum::<i64>();
        prop_assert_eq!(ours * before, own * total);
        prop_assert!(Style::Gateway.made_of(&carried, &original, &names()));
    }
}
