//! Row D4 of the storm service, some requests only: header and mirror routes beside the user's.

use crate::routed::{
    self, Order, apply, by_route, carries, face, http_route, in_route, objects, only_services,
    serve, web_route,
};
use serde_json::{Value, json};
use upgrade_core::api::Phase;

/// What a router lists that can copy a share of requests.
const MIRRORS: [&str; 2] = ["HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror"];

fn copy() -> Value {
    json!({"setMirrorRoute": {"name": "copy", "percentage": 10,
        "match": [{"headers": {"X-Copy": {"exact": "1"}}}]}})
}

#[tokio::test]
async fn d4_gateway_header_and_mirror_routes_stand_beside_the_users_and_nothing_is_left() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 3).await.unwrap();
    let mut route = web_route();
    routed::gate(&shop, &mut route, &MIRRORS).await.unwrap();
    apply(&shop, &http_route(), &route).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let order = Order::watch(&shop, &http_route(), "web-beta", "web-canary");
    let mut strategy = routed::routed(&["20"], &by_route());
    strategy["canary"]["trafficRouting"]["managedRoutes"] =
        json!([{"name": "beta"}, {"name": "copy"}]);
    strategy["canary"]["steps"] = json!([
        {"setWeight": 20},
        {"setHeaderRoute": {"name": "beta",
            "match": [{"headerName": "X-Beta", "headerValue": {"prefix": "a.b"}}]}},
        copy(),
        {"pause": {}},
        {"setHeaderRoute": {"name": "beta"}},
        {"pause": {}},
    ]);
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    shop.rests_at("up", 3).await.unwrap();
    carries(&shop, &http_route(), "web", in_route, Some(20)).await.unwrap();
    let path = json!({"type": "PathPrefix", "value": "/"});
    let found = async |name: &str| objects(&shop, &http_route()).get_opt(name).await.unwrap();
    let beta = found("web-beta").await.expect("the header's").data["spec"].take();
    let header = json!({"type": "RegularExpression", "name": "X-Beta", "value": r"^a\.b.*$"});
    assert_eq!(beta["hostnames"], json!(["shop.example.com"]));
    assert_eq!(beta["parentRefs"][0]["name"], "gate");
    let to = |name: &str| json!({"group": "", "kind": "Service", "name": name, "port": 80, "weight": 100});
    let rules = json!([{"matches": [{"path": path, "headers": [header]}],
        "backendRefs": [to("web-canary")]}]);
    assert_eq!(beta["rules"], rules, "only the rule that sends to the workload");
    let copy = found("web-copy").await.expect("the mirror's").data["spec"].take();
    assert_eq!(copy["parentRefs"][0]["name"], "gate");
    assert_eq!(copy["rules"][0]["backendRefs"], json!([to("web-stable")]));
    let backend = json!({"group": "", "kind": "Service", "name": "web-canary", "port": 80});
    let filter = json!({"type": "RequestMirror",
        "requestMirror": {"backendRef": backend, "percent": 10}});
    assert_eq!(copy["rules"][0]["filters"], json!([filter]));
    shop.promote("up").await.unwrap();
    shop.rests_at("up", 5).await.unwrap();
    assert!(found("web-beta").await.is_none() && found("web-copy").await.is_some());
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(order.check(|_| Some(1)), [1, 0]);
    assert!(found("web-copy").await.is_none());
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    only_services(&shop, &["web"]).await.unwrap();
}

#[tokio::test]
async fn d4_gateway_no_mirror_is_made_where_the_router_does_not_say_that_it_can() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 3).await.unwrap();
    let mut route = web_route();
    // As Traefik 3.6, which answers such requests with an error.
    routed::gate(&shop, &mut route, &["HTTPRouteMethodMatching"]).await.unwrap();
    apply(&shop, &http_route(), &route).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let mut strategy = routed::routed(&["20"], &by_route());
    strategy["canary"]["steps"] = json!([{"setWeight": 20}, copy(), {"pause": {}}]);
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    let ended = shop.phase("up", Phase::RolledBack).await.unwrap();
    let said = ended.status.unwrap().message;
    let wanted = format!("GatewayClass {} does not list {}", shop.namespace, MIRRORS[0]);
    assert!(said.contains(&wanted), "{said}");
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 0));
    only_services(&shop, &["web"]).await.unwrap();
}
