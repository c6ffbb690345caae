//! Traffic of a canary through the routers' own kinds (SYSTEMS D4, D9): the order of weights and
//! endpoints, and that everything is afterwards what it was.

use crate::routed::{
    self, Order, apply, by_route, carries, create, face, http_route, in_route, kind, objects,
    only_services, routed, serve, services, version, web_route,
};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use upgrade_core::api::Phase;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary};
use upgrade_sandbox::wait_for;

/// The traffic of the only stage, as its status says.
async fn traffic(shop: &Shop) -> (i32, i32) {
    let status = shop.upgrades().get("up").await.unwrap().status.unwrap();
    let traffic = status.stages[0].traffic.clone().expect("traffic");
    (traffic.requested_weight, traffic.effective_weight)
}

#[tokio::test]
async fn d4_gateway_weights_go_up_in_order_and_the_route_ends_as_it_was() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 5).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let (service, deployment) =
        (version(&shop, "web").await.unwrap(), shop.complete("web").await.unwrap());
    let order = Order::watch(&shop, &http_route(), "web", "web-canary");
    let watch = shop.watch("web").await.unwrap();
    let strategy = routed(&["1", "", "33", "", "60"], &by_route());
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    for (step, weight, pods) in [(1, 1, (5, 1)), (3, 33, (5, 1))] {
        shop.rests_at("up", step).await.unwrap();
        carries(&shop, &http_route(), "web", in_route, Some(weight)).await.unwrap();
        assert_eq!(
            traffic(&shop).await,
            (i32::try_from(weight).unwrap(), i32::try_from(weight).unwrap())
        );
        assert_eq!(shop.split("web", "web:v2").await.unwrap(), pods, "all stable pods stay");
        only_services(&shop, &["web", "web-canary", "web-stable"]).await.unwrap();
        shop.promote("up").await.unwrap();
    }
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(order.check(in_route), [0, 1, 33, 60, 100, 0]);
    assert!(watch.finish().await.unwrap().min_ready >= 5);
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    assert_eq!(
        version(&shop, "web").await.unwrap(),
        service,
        "the user's Service is never written"
    );
    only_services(&shop, &["web"]).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 5));
    shop.assert_untouched("web", &deployment).await.unwrap();
}

#[tokio::test]
async fn d4_gateway_an_abort_and_a_delete_put_the_route_back_first() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 4).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let deployment = shop.complete("web").await.unwrap();
    for (name, delete) in [("up", false), ("again", true)] {
        let order = Order::watch(&shop, &http_route(), "web", "web-canary");
        let strategy = routed(&["50", ""], &by_route());
        shop.upgrade(name, &["web"], "web:v2", &strategy).await.unwrap();
        shop.rests_at(name, 1).await.unwrap();
        carries(&shop, &http_route(), "web", in_route, Some(50)).await.unwrap();
        routed::take_back(&shop, name, delete).await.unwrap();
        assert_eq!(order.check(in_route), [0, 50, 0]);
        assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
        only_services(&shop, &["web"]).await.unwrap();
        assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
        shop.assert_untouched("web", &deployment).await.unwrap();
    }
}

#[tokio::test]
async fn d4_gateway_a_bad_canary_goes_back_and_never_gets_traffic() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 3).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let order = Order::watch(&shop, &http_route(), "web", "web-canary");
    let strategy = routed(&["50"], &by_route());
    shop.upgrade("up", &["web"], "web:v2-crash-loop", &strategy).await.unwrap();
    shop.phase("up", Phase::RolledBack).await.unwrap();
    assert_eq!(order.check(in_route), [0]);
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    only_services(&shop, &["web"]).await.unwrap();
}

#[tokio::test]
async fn d4_gateway_an_abort_while_the_old_pods_go_makes_them_again_first() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 4).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let deployment = shop.complete("web").await.unwrap();
    let order = Order::watch(&shop, &http_route(), "web", "web-canary");
    let stable = Order::watch(&shop, &http_route(), "web", "web-stable");
    let watch = shop.watch("web").await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &routed(&["100"], &by_route())).await.unwrap();
    let promoting = |u: Option<&upgrade_core::api::Upgrade>| {
        u.and_then(|u| u.status.as_ref())
            .and_then(|s| s.stages.first()?.traffic.as_ref())
            .is_some_and(|t| t.phase == upgrade_core::api::traffic::TrafficPhase::Promoting)
    };
    wait_for(shop.upgrades(), "up", promoting, PATIENCE).await.unwrap();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    assert!(order.check(in_route).contains(&100));
    stable.check(|route| {
        let refs = route.pointer("/spec/rules/0/backendRefs")?.as_array()?;
        refs.iter().find(|r| r["name"] == "web-stable")?["weight"].as_i64()
    });
    assert!(watch.finish().await.unwrap().min_ready >= 4);
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    only_services(&shop, &["web"]).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    shop.assert_untouched("web", &deployment).await.unwrap();
}

#[tokio::test]
async fn d4_gateway_a_manifest_applied_again_is_carried_again_and_is_what_is_put_back() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 3).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &routed(&["30", ""], &by_route())).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &http_route(), "web", in_route, Some(30)).await.unwrap();
    // Git has moved on: another rule before the others, and a weight of its own.
    let mut changed = web_route();
    let rule = json!({"matches": [{"path": {"type": "Exact", "value": "/health"}}],
        "backendRefs": [{"name": "web", "port": 80, "weight": 7}, {"name": "assets", "port": 80, "weight": 3}]});
    changed["spec"]["rules"].as_array_mut().unwrap().insert(0, rule);
    apply(&shop, &http_route(), &changed).await.unwrap();
    let second = |route: &Value| {
        let refs = route.pointer("/spec/rules/1/backendRefs")?.as_array()?;
        refs.iter().find(|r| r["name"] == "web-canary")?["weight"].as_i64()
    };
    carries(&shop, &http_route(), "web", second, Some(30)).await.unwrap();
    let live = objects(&shop, &http_route()).get("web").await.unwrap();
    let refs = &live.data["spec"]["rules"][0]["backendRefs"];
    let weights: Vec<i64> =
        refs.as_array().unwrap().iter().map(|r| r["weight"].as_i64().unwrap()).collect();
    assert_eq!(weights, [49, 21, 30], "7 parts of 10, split at 30 %: {refs}");
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    let live = objects(&shop, &http_route()).get("web").await.unwrap();
    let refs = &live.data["spec"]["rules"][0]["backendRefs"];
    assert_eq!((&refs[0]["name"], &refs[0]["weight"]), (&json!("web"), &json!(7)));
    assert_eq!(live.data["spec"]["rules"][1]["backendRefs"][0]["name"], "web");
    // Git's next apply meets no other owner.
    let parameters = PatchParams::apply("git");
    objects(&shop, &http_route())
        .patch("web", &parameters, &Patch::Apply(&web_route()))
        .await
        .unwrap();
}

#[tokio::test]
async fn d4_gateway_a_route_that_its_controller_refuses_is_not_relied_on() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 2).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let condition = json!({"type": "Accepted", "status": "False", "reason": "NoMatchingParent",
        "message": "no such listener", "lastTransitionTime": "2026-11-21T12:00:00Z", "observedGeneration": 9});
    let status = json!({"status": {"parents": [{"controllerName": "example.com/router",
        "parentRef": {"name": "gate"}, "conditions": [condition]}]}});
    objects(&shop, &http_route())
        .patch_status("web", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    shop.upgrade("up", &["web"], "web:v2", &routed(&["30", ""], &by_route())).await.unwrap();
    shop.says("up", "no such listener").await.unwrap();
    assert_eq!(
        shop.split("web", "web:v2").await.unwrap(),
        (2, 0),
        "no pod before the pin is in force"
    );
    let better = json!({"status": {"parents": []}});
    objects(&shop, &http_route())
        .patch_status("web", &PatchParams::default(), &Patch::Merge(&better))
        .await
        .unwrap();
    shop.rests_at("up", 1).await.unwrap();
}

#[tokio::test]
async fn d4_nginx_a_canary_ingress_carries_the_weight_and_goes_again() {
    let (_, shop) = routed::shop().await;
    let ingresses = kind("networking.k8s.io/v1", "Ingress", "ingresses");
    serve(&shop, "web", 3).await.unwrap();
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop"},
        "spec": {"ingressClassName": "nginx", "rules": [{"host": "shop.example.com", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
            {"path": "/static", "pathType": "Prefix", "backend": {"service": {"name": "assets", "port": {"number": 80}}}},
        ]}}]},
    });
    apply(&shop, &ingresses, &ingress).await.unwrap();
    let before = face(&shop, &ingresses, "shop").await.unwrap();
    let weight = |i: &Value| {
        i["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"]
            .as_str()?
            .parse()
            .ok()
    };
    let order = Order::watch(&shop, &ingresses, "web-shop-canary", "web-canary");
    let routing = json!({"nginx": {"stableIngress": "shop",
        "additionalIngressAnnotations": {"canary-by-header": "X-Canary"}}});
    shop.upgrade("up", &["web"], "web:v2", &routed(&["25", "", "100"], &routing)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &ingresses, "web-shop-canary", weight, Some(25)).await.unwrap();
    let beside = objects(&shop, &ingresses).get("web-shop-canary").await.unwrap();
    let annotations = beside.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["nginx.ingress.kubernetes.io/canary"], "true");
    assert_eq!(annotations["nginx.ingress.kubernetes.io/canary-by-header"], "X-Canary");
    let paths = beside.data["spec"]["rules"][0]["http"]["paths"].as_array().unwrap().clone();
    assert_eq!(paths.len(), 1, "only what goes to the workload");
    assert_eq!(paths[0]["backend"]["service"]["name"], "web-canary");
    let stable = objects(&shop, &ingresses).get("shop").await.unwrap();
    assert_eq!(
        stable.data["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"],
        "web-stable"
    );
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(order.check(weight), [25, 100, 0]);
    assert_eq!(face(&shop, &ingresses, "shop").await.unwrap(), before);
    assert!(objects(&shop, &ingresses).get_opt("web-shop-canary").await.unwrap().is_none());
    only_services(&shop, &["web"]).await.unwrap();
}

fn virtual_service(route: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "shop"},
        "spec": {"hosts": ["web"], "http": [
            {"name": "primary", "route": route},
            {"name": "other", "route": [{"destination": {"host": "assets"}}]},
        ]},
    })
}

#[tokio::test]
async fn d4_istio_two_hosts_in_a_virtual_service() {
    let (_, shop) = routed::shop().await;
    let services = kind("networking.istio.io/v1", "VirtualService", "virtualservices");
    serve(&shop, "web", 3).await.unwrap();
    let host = format!("web.{}.svc.cluster.local", shop.namespace);
    apply(&shop, &services, &virtual_service(&json!([{"destination": {"host": host}}])))
        .await
        .unwrap();
    let before = face(&shop, &services, "shop").await.unwrap();
    let weight = |v: &Value| {
        let list = v.pointer("/spec/http/0/route")?.as_array()?;
        list.iter().find(|r| r["destination"]["host"] == "web-canary")?["weight"].as_i64()
    };
    let order = Order::watch(&shop, &services, "shop", "web-canary");
    let routing = json!({"istio": {"virtualService": {"name": "shop", "routes": ["primary"]}}});
    shop.upgrade("up", &["web"], "web:v2", &routed(&["40", ""], &routing)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &services, "shop", weight, Some(40)).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(order.check(weight), [0, 40, 100, 0]);
    assert_eq!(face(&shop, &services, "shop").await.unwrap(), before);
    only_services(&shop, &["web"]).await.unwrap();
}

#[tokio::test]
async fn d4_istio_subsets_of_a_destination_rule() {
    let (_, shop) = routed::shop().await;
    let services = kind("networking.istio.io/v1", "VirtualService", "virtualservices");
    let rules = kind("networking.istio.io/v1", "DestinationRule", "destinationrules");
    serve(&shop, "web", 3).await.unwrap();
    // As users of Argo Rollouts have it: both subsets are there, the canary's without a share.
    let route = json!([{"destination": {"host": "web", "subset": "stable"}, "weight": 100},
        {"destination": {"host": "web", "subset": "canary"}, "weight": 0}]);
    apply(&shop, &services, &virtual_service(&route)).await.unwrap();
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "web"},
        "spec": {"host": "web", "subsets": [{"name": "stable", "labels": {"app": "web"}},
            {"name": "canary", "labels": {"app": "web"}}]},
    });
    apply(&shop, &rules, &rule).await.unwrap();
    let before =
        (face(&shop, &services, "shop").await.unwrap(), face(&shop, &rules, "web").await.unwrap());
    let weight = |v: &Value| {
        let list = v.pointer("/spec/http/0/route")?.as_array()?;
        list.iter().find(|r| r["destination"]["subset"] == "canary")?["weight"].as_i64()
    };
    let order = Order::watch(&shop, &services, "shop", "web");
    let routing = json!({"istio": {"virtualService": {"name": "shop", "routes": ["primary"]},
        "destinationRule": {"name": "web", "canarySubsetName": "canary", "stableSubsetName": "stable"}}});
    shop.upgrade("up", &["web"], "web:v2", &routed(&["40", ""], &routing)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &services, "shop", weight, Some(40)).await.unwrap();
    let live = objects(&shop, &rules).get("web").await.unwrap();
    let hashes: Vec<_> = live.data["spec"]["subsets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["labels"]["pod-template-hash"].as_str().unwrap().to_owned())
        .collect();
    let status =
        shop.upgrades().get("up").await.unwrap().status.unwrap().stages[0].traffic.clone().unwrap();
    assert_eq!(hashes, [status.stable_hash.unwrap(), status.canary_hash.unwrap()]);
    only_services(&shop, &["web"]).await.unwrap();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    assert_eq!(order.check(weight), [0, 40, 0]);
    let after =
        (face(&shop, &services, "shop").await.unwrap(), face(&shop, &rules, "web").await.unwrap());
    assert_eq!(after, before);
}

#[tokio::test]
async fn d4_smi_a_traffic_split_is_made_and_goes_again() {
    let (_, shop) = routed::shop().await;
    let splits = kind("split.smi-spec.io/v1alpha4", "TrafficSplit", "trafficsplits");
    serve(&shop, "web", 3).await.unwrap();
    let weight = |s: &Value| {
        let list = s.pointer("/spec/backends")?.as_array()?;
        list.iter().find(|r| r["service"] == "web-canary")?["weight"].as_i64()
    };
    let order = Order::watch(&shop, &splits, "web", "web-canary");
    let routing = json!({"smi": {"rootService": "web"}});
    shop.upgrade("up", &["web"], "web:v2", &routed(&["10", ""], &routing)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &splits, "web", weight, Some(10)).await.unwrap();
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(order.check(weight), [0, 10, 100, 0]);
    assert!(objects(&shop, &splits).get_opt("web").await.unwrap().is_none());
    only_services(&shop, &["web"]).await.unwrap();
}

#[tokio::test]
async fn d4_plain_services_follow_the_replicas_and_d9_service_names_are_the_users_choice() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 5).await.unwrap();
    let before = version(&shop, "web").await.unwrap();
    let mut strategy = canary(&["40", ""]);
    strategy["canary"]["stableService"] = json!("web-old");
    strategy["canary"]["canaryService"] = json!("web-new");
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 2), "the ratio of replicas");
    let names = ["web", "web-new", "web-old"];
    upgrade_sandbox::eventually("Services", PATIENCE, || only_services(&shop, &names))
        .await
        .unwrap();
    let new = services(&shop).get("web-new").await.unwrap().spec.unwrap();
    let hash =
        shop.upgrades().get("up").await.unwrap().status.unwrap().stages[0].traffic.clone().unwrap();
    assert_eq!(new.selector.unwrap().get("pod-template-hash"), hash.canary_hash.as_ref());
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    only_services(&shop, &["web"]).await.unwrap();
    assert_eq!(version(&shop, "web").await.unwrap(), before);
}

#[tokio::test]
async fn d9_service_names_with_a_router_and_one_that_is_taken_stays_the_users() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 2).await.unwrap();
    // As users of Argo Rollouts have it: two Services of the same pods, and a route that names both.
    let taken = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "preview"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    create(&shop, taken).await.unwrap();
    let mut route = web_route();
    route["spec"]["rules"][0]["backendRefs"] = json!([
        {"name": "web", "port": 80, "weight": 100}, {"name": "preview", "port": 80, "weight": 0}]);
    apply(&shop, &http_route(), &route).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let versions = (version(&shop, "web").await.unwrap(), version(&shop, "preview").await.unwrap());
    let mut strategy = routed(&["50", ""], &by_route());
    strategy["canary"]["stableService"] = json!("web");
    strategy["canary"]["canaryService"] = json!("preview");
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &http_route(), "web", in_route, Some(50)).await.unwrap();
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    assert_eq!(
        (version(&shop, "web").await.unwrap(), version(&shop, "preview").await.unwrap()),
        versions
    );
    only_services(&shop, &["preview", "web"]).await.unwrap();
}

#[tokio::test]
async fn a_router_needs_one_target_room_for_pods_and_rights_of_its_requester() {
    let (lab, shop) = routed::shop().await;
    let strategy = routed(&["50"], &by_route());
    let refused = shop.upgrade("up", &["web", "api"], "web:v2", &strategy).await;
    let message = format!("{:#}", refused.expect_err("two targets"));
    assert!(message.contains("exactly one target"), "{message}");
    let both = json!({"gatewayAPI": {"httpRoute": "web"}, "smi": {}});
    let refused = shop.upgrade("up", &["web"], "web:v2", &routed(&["50"], &both)).await;
    assert!(format!("{:#}", refused.expect_err("two routers")).contains("exactly one of"));

    serve(&shop, "web", 2).await.unwrap();
    shop.employ("devs").await.unwrap();
    let dev = Shop {
        client: lab.cluster.client_for("dora", &["devs"]).await.unwrap(),
        cluster: shop.cluster,
        namespace: shop.namespace.clone(),
    };
    let refused = dev.upgrade("up", &["web"], "web:v2", &strategy).await;
    let message = format!("{:#}", refused.expect_err("no right to routes"));
    assert!(message.contains("AccessDenied") && message.contains("httproutes"), "{message}");

    let knobs =
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}});
    shop.deployments().patch("web", &PatchParams::default(), &Patch::Merge(&knobs)).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    let done = shop.phase("up", Phase::RolledBack).await.unwrap();
    let message = done.status.unwrap().message;
    assert!(message.contains("maxSurge"), "{message}");
}
