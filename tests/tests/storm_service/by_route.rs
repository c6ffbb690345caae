//! Blue-green by route (SYSTEMS D2, D4): the active Service is never written, the route goes from the
//! old pods to the new and back, and everything is afterwards what it was. And what guards routes in
//! flight, whichever strategy has them.

use crate::routed::{
    self, Order, apply, by_route, carries, face, http_route, in_route, kind, objects,
    only_services, serve, version, web_route,
};
use serde_json::{Value, json};
use upgrade_core::api::{BlueGreenPhase, Phase, Upgrade};
use upgrade_sandbox::scenario::{PATIENCE, Shop, say};
use upgrade_sandbox::wait_for;

/// The strategy with `web` as the active Service, through a router.
fn switched(routing: &Value, more: Value) -> Value {
    let mut settings =
        json!({"activeService": "web", "scaleDownDelaySeconds": 0, "trafficRouting": routing});
    settings["trafficRouting"]["graceSeconds"] = json!(1);
    let more: serde_json::Map<String, Value> = serde_json::from_value(more).expect("an object");
    settings.as_object_mut().expect("an object").extend(more);
    json!({"blueGreen": settings})
}

async fn reaches(shop: &Shop, name: &str, phase: BlueGreenPhase) -> Upgrade {
    let there = move |u: Option<&Upgrade>| {
        let status = u.and_then(|u| u.status.as_ref());
        let target = status.and_then(|s| s.stages.first()?.targets.first());
        target.and_then(|t| t.blue_green.as_ref()).is_some_and(|b| b.phase == phase)
    };
    wait_for(shop.upgrades(), name, there, PATIENCE).await.expect("the phase")
}

#[tokio::test]
async fn d2_by_route_the_route_is_switched_and_the_active_service_is_never_written() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 4).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let (service, deployment) =
        (version(&shop, "web").await.unwrap(), shop.complete("web").await.unwrap());
    let order = Order::watch(&shop, &http_route(), "web", "web-canary");
    let watch = shop.watch("web").await.unwrap();
    let strategy = switched(&by_route(), json!({"autoPromotionEnabled": false}));
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    let rest = shop.phase("up", Phase::Paused).await.unwrap();
    assert_eq!(rest.status.unwrap().canary_weight, 0);
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 4));
    only_services(&shop, &["web", "web-canary", "web-preview", "web-stable"]).await.unwrap();
    let route = objects(&shop, &http_route()).get("web").await.unwrap();
    let refs = &route.data["spec"]["rules"][0]["backendRefs"];
    assert_eq!((refs.as_array().unwrap().len(), &refs[0]["name"]), (1, &json!("web-stable")));
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    assert_eq!(order.check(in_route), [0, 100, 0]);
    assert!(watch.finish().await.unwrap().min_ready >= 4);
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    assert_eq!(version(&shop, "web").await.unwrap(), service);
    only_services(&shop, &["web"]).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 4));
    shop.assert_untouched("web", &deployment).await.unwrap();
}

#[tokio::test]
async fn d2_by_route_an_abort_and_a_delete_after_the_switch_put_the_route_back_first() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 3).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let deployment = shop.complete("web").await.unwrap();
    for (name, delete) in [("up", false), ("again", true)] {
        let order = Order::watch(&shop, &http_route(), "web", "web-canary");
        let watch = shop.watch("web").await.unwrap();
        let strategy = switched(&by_route(), json!({"scaleDownDelaySeconds": 600}));
        shop.upgrade(name, &["web"], "web:v2", &strategy).await.unwrap();
        let seen = reaches(&shop, name, BlueGreenPhase::ScaleDownDelay).await;
        assert_eq!(seen.status.unwrap().canary_weight, 100);
        assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 3));
        routed::take_back(&shop, name, delete).await.unwrap();
        assert_eq!(order.check(in_route), [0, 100, 0]);
        assert!(watch.finish().await.unwrap().min_ready >= 3);
        assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
        only_services(&shop, &["web"]).await.unwrap();
        assert_eq!(shop.split("web", "web:v2").await.unwrap(), (3, 0));
        shop.assert_untouched("web", &deployment).await.unwrap();
    }
}

#[tokio::test]
async fn d2_by_route_bad_pods_never_get_a_client() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 2).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let order = Order::watch(&shop, &http_route(), "web", "web-canary");
    let strategy = switched(&by_route(), json!({}));
    shop.upgrade("up", &["web"], "web:v2-crash-loop", &strategy).await.unwrap();
    shop.phase("up", Phase::RolledBack).await.unwrap();
    assert_eq!(order.check(in_route), [0]);
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    only_services(&shop, &["web"]).await.unwrap();
}

/// From the old pods to the new through other routers; what each of them has is as it was.
#[tokio::test]
async fn d2_by_route_of_nginx_istio_and_smi() {
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop"},
        "spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}});
    let virtual_service = |route: Value| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "shop"}, "spec": {"hosts": ["web"], "http": [{"route": route}]}})
    };
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "web"}, "spec": {"host": "web"}});
    let hosts = virtual_service(json!([{"destination": {"host": "web"}}]));
    let subsets = virtual_service(json!([{"destination": {"host": "web", "subset": "stable"}}]));
    let mut named = rule.clone();
    named["spec"]["subsets"] = json!([{"name": "stable", "labels": {"app": "web"}}]);
    let by_rule = json!({"istio": {"virtualService": {"name": "shop"}, "destinationRule": {
        "name": "web", "canarySubsetName": "canary", "stableSubsetName": "stable"}}});
    let cases = [
        (json!({"nginx": {"stableIngress": "shop"}}), vec![ingress]),
        (json!({"istio": {"virtualService": {"name": "shop"}}}), vec![hosts]),
        (by_rule, vec![subsets, named]),
        (json!({"smi": {}}), vec![]),
    ];
    let runs = cases.into_iter().map(|(routing, manifests)| async move {
        let (_, shop) = routed::shop().await;
        serve(&shop, "web", 2).await.unwrap();
        let mut faces = vec![];
        for manifest in &manifests {
            let text = |field: &str| manifest[field].as_str().unwrap().to_owned();
            let plural = match text("kind").as_str() {
                "Ingress" => "ingresses",
                "VirtualService" => "virtualservices",
                _ => "destinationrules",
            };
            let resource = kind(&text("apiVersion"), &text("kind"), plural);
            apply(&shop, &resource, manifest).await.unwrap();
            let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
            faces.push((face(&shop, &resource, &name).await.unwrap(), resource, name));
        }
        let service = version(&shop, "web").await.unwrap();
        let strategy = switched(&routing, json!({"autoPromotionEnabled": false}));
        shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
        shop.phase("up", Phase::Paused).await.unwrap();
        for (manifest, (_, resource, name)) in manifests.iter().zip(&faces) {
            let carried = objects(&shop, resource).get(name).await.unwrap().data["spec"].clone();
            let stored = apply(&shop, resource, manifest).await.unwrap();
            assert_eq!(stored.data["spec"], carried, "{manifest}");
        }
        shop.promote("up").await.unwrap();
        reaches(&shop, "up", BlueGreenPhase::Restoring).await;
        shop.phase("up", Phase::Completed).await.unwrap();
        for (before, resource, name) in faces {
            assert_eq!(face(&shop, &resource, &name).await.unwrap(), before, "{routing}");
        }
        assert_eq!(version(&shop, "web").await.unwrap(), service);
        only_services(&shop, &["web"]).await.unwrap();
        let splits = kind("split.smi-spec.io/v1alpha4", "TrafficSplit", "trafficsplits");
        let split = objects(&shop, &splits).get_opt("web").await.unwrap();
        assert!(split.is_none(), "{routing}");
    });
    futures::future::join_all(runs).await;
}

#[tokio::test]
async fn by_route_needs_rights_to_the_route_and_a_route_to_the_service() {
    let (lab, shop) = routed::shop().await;
    serve(&shop, "web", 2).await.unwrap();
    let strategy = switched(&by_route(), json!({}));
    shop.employ("devs").await.unwrap();
    let dev = Shop {
        client: lab.cluster.client_for("dora", &["devs"]).await.unwrap(),
        cluster: shop.cluster,
        namespace: shop.namespace.clone(),
    };
    let refused = dev.upgrade("up", &["web"], "web:v2", &strategy).await;
    let message = format!("{:#}", refused.expect_err("no right to routes"));
    assert!(message.contains("AccessDenied") && message.contains("httproutes"), "{message}");
    let other = json!({"smi": {"rootService": "api"}});
    let refused = shop.upgrade("bad", &["web"], "web:v2", &switched(&other, json!({}))).await;
    let said = format!("{:#}", refused.expect_err("two Services"));
    assert!(said.contains("smi.rootService must be activeService"), "{said}");

    // The route sends elsewhere: nothing is started.
    let mut route = web_route();
    route["spec"]["rules"][0]["backendRefs"] = json!([{"name": "assets", "port": 80}]);
    apply(&shop, &http_route(), &route).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &strategy).await.unwrap();
    shop.says("up", "httproutes/web does not send to Service web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (2, 0));
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    only_services(&shop, &["web"]).await.unwrap();
}

/// kubectl, with an object on its input; what it complains about.
fn kubectl(shop: &Shop, args: &[&str], object: &Value) -> String {
    let mut command = shop.cluster.kubectl();
    command.args(["-n", &shop.namespace]).args(args);
    let said = say(&mut command, &object.to_string()).expect("kubectl");
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.err
}

#[tokio::test]
async fn d4_routes_are_guarded_against_reapply_while_in_use() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 3).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    shop.upgrade("up", &["web"], "web:v2", &routed::routed(&["30", ""], &by_route()))
        .await
        .unwrap();
    shop.rests_at("up", 1).await.unwrap();
    carries(&shop, &http_route(), "web", in_route, Some(30)).await.unwrap();
    // What the API server answers is what it stored: there is no moment without the weights.
    let stored = apply(&shop, &http_route(), &web_route()).await.unwrap();
    assert_eq!(in_route(&serde_json::to_value(&stored).unwrap()), Some(30));
    let mut git = web_route();
    git["spec"]["hostnames"] = json!(["other.example.com"]);
    git["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(81);
    let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=git", "-f", "-"];
    let warning = kubectl(&shop, &args, &git);
    assert!(warning.contains("Upgrade up carries traffic by this HTTPRoute"), "{warning}");
    let label = "kubectl-upgrade.dev/upgrade";
    kubectl(&shop, &["label", "httproute/web", &format!("{label}-")], &json!({}));
    let stored = objects(&shop, &http_route()).get("web").await.unwrap();
    assert_eq!(stored.metadata.labels.as_ref().unwrap()[label], "up");
    assert_eq!(stored.data["spec"]["hostnames"][0], "other.example.com", "all else is free");
    let stored = serde_json::to_value(&stored).unwrap();
    assert_eq!(in_route(&stored), Some(30));
    assert_eq!(stored["spec"]["rules"][0]["backendRefs"][1]["port"], 81);
    shop.steer("up", json!({"control": {"abort": true}})).await.unwrap();
    shop.phase("up", Phase::Aborted).await.unwrap();
    // What was applied meanwhile is what it goes back to.
    let own = objects(&shop, &http_route()).get("web").await.unwrap();
    let refs = &own.data["spec"]["rules"][0]["backendRefs"];
    assert_eq!((refs.as_array().unwrap().len(), &refs[0]["name"]), (1, &json!("web")));
    assert_eq!(refs[0]["port"], 81);
    // A mark that was left behind binds nobody.
    kubectl(&shop, &["label", "httproute/web", &format!("{label}=gone")], &json!({}));
    let warning = kubectl(&shop, &args, &web_route());
    assert!(!warning.contains("carries traffic"), "{warning}");
}

#[tokio::test]
async fn d4_routes_of_istio_are_guarded_with_their_subsets() {
    let (_, shop) = routed::shop().await;
    serve(&shop, "web", 2).await.unwrap();
    let group = "networking.istio.io/v1";
    let services = kind(group, "VirtualService", "virtualservices");
    let rules = kind(group, "DestinationRule", "destinationrules");
    let service = json!({"apiVersion": group, "kind": "VirtualService", "metadata": {"name": "shop"},
        "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web", "subset": "stable"}}]}]}});
    let rule = json!({"apiVersion": group, "kind": "DestinationRule", "metadata": {"name": "web"},
        "spec": {"host": "web", "subsets": [{"name": "stable", "labels": {"app": "web"}}]}});
    apply(&shop, &services, &service).await.unwrap();
    apply(&shop, &rules, &rule).await.unwrap();
    let before =
        (face(&shop, &services, "shop").await.unwrap(), face(&shop, &rules, "web").await.unwrap());
    let routing = json!({"istio": {"virtualService": {"name": "shop"}, "destinationRule": {
        "name": "web", "canarySubsetName": "canary", "stableSubsetName": "stable"}}});
    shop.upgrade("up", &["web"], "web:v2", &routed::routed(&["50", ""], &routing)).await.unwrap();
    shop.rests_at("up", 1).await.unwrap();
    let held = objects(&shop, &rules).get("web").await.unwrap().data["spec"].clone();
    let carried = objects(&shop, &services).get("shop").await.unwrap().data["spec"].clone();
    assert_eq!(held["subsets"].as_array().unwrap().len(), 2, "{held}");
    assert_eq!(apply(&shop, &rules, &rule).await.unwrap().data["spec"], held);
    assert_eq!(apply(&shop, &services, &service).await.unwrap().data["spec"], carried);
    shop.promote("up").await.unwrap();
    shop.phase("up", Phase::Completed).await.unwrap();
    let after =
        (face(&shop, &services, "shop").await.unwrap(), face(&shop, &rules, "web").await.unwrap());
    assert_eq!(after, before);
}
