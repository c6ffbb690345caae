//! The controller killed while traffic is split: the routes stay as they are, and whoever comes next
//! goes on from there.

mod deaths;
mod routed;

use deaths::leads;
use routed::{
    Order, apply, by_route, face, http_route, in_route, only_services, routed, serve, version,
    web_route,
};
use std::time::Duration;
use upgrade_core::api::Phase;
use upgrade_sandbox::product;
use upgrade_sandbox::scenario::Shop;

const KILLS: u64 = 8;

#[tokio::test]
async fn d4_gateway_the_controller_killed_at_any_step_converges_and_the_route_is_put_back() {
    let cluster = upgrade_sandbox::shared().await;
    routed::install(cluster).await.unwrap();
    let mut product = product::install_with(cluster, &["--lease-duration", "2"]).await.unwrap();
    let shop = Shop::open(cluster, 0).await.unwrap();
    serve(&shop, "web", 4).await.unwrap();
    apply(&shop, &http_route(), &web_route()).await.unwrap();
    let before = face(&shop, &http_route(), "web").await.unwrap();
    let (service, deployment) =
        (version(&shop, "web").await.unwrap(), shop.complete("web").await.unwrap());
    let order = Order::watch(&shop, &http_route(), "web", "web-canary");
    let watch = shop.watch("web").await.unwrap();
    let steps = ["10", "1s", "30", "1s", "50", "1s", "70", "1s"];
    let strategy = routed(&steps, &by_route());
    shop.upgrade("up", &["web"], "web:v2-ready-after-2s", &strategy).await.unwrap();
    let mut killed = 0;
    while killed < KILLS {
        leads(&shop, &product).await.unwrap();
        // Not a wait for anything: the moments of death lie evenly over two seconds.
        tokio::time::sleep(Duration::from_millis(killed * 270 % 2000)).await;
        let phase = shop.upgrades().get("up").await.unwrap().status.unwrap_or_default().phase;
        if phase == Phase::Completed {
            break;
        }
        product.kill().await.unwrap();
        killed += 1;
        product.restart(cluster).await.unwrap();
    }
    shop.phase("up", Phase::Completed).await.unwrap();
    assert!(killed >= 4, "killed {killed} times");
    let weights = order.check(in_route);
    assert_eq!(weights, [0, 10, 30, 50, 70, 100, 0], "killed {killed} times");
    assert!(watch.finish().await.unwrap().min_ready >= 4);
    assert_eq!(face(&shop, &http_route(), "web").await.unwrap(), before);
    assert_eq!(version(&shop, "web").await.unwrap(), service);
    only_services(&shop, &["web"]).await.unwrap();
    shop.assert_untouched("web", &deployment).await.unwrap();
    println!("killed {killed} times, the weights were {weights:?}");
}
