//! Break-glass on the real API server: in an outage, beside a webhook that is up, and as an attack.
#![expect(clippy::too_many_lines, reason = "each test is one story, told in order")]

mod ground;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ground::{
    ADMIN, EDNA, SYSTEM, alone, by_hand, fed, kubectl, ledger_says, manifest, no, ok,
    own_deployment, plugin, refused_by, runs,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use upgrade_core::api::{BREAK_GLASS_LABEL, BREAK_GLASS_NAME, BreakGlass, IN_FLIGHT_LABEL, Phase};
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};
use upgrade_sandbox::{ControlPlane, eventually, wait_for};

#[tokio::test]
async fn an_outage_stops_image_changes_only_and_break_glass_works() -> Result<()> {
    let (cluster, mut product) = alone().await?;
    let shop = Shop::open(cluster, 1).await?;
    let ns = shop.namespace.as_str();
    shop.deploy("web", 3, json!({})).await?;
    ledger_says(&shop.client, ns, "web", "web:v1").await?;
    for (who, role) in [(EDNA, "edit"), (EDNA, "kubectl-upgrade-breakglass"), ("fay", "edit")] {
        let line =
            format!("create rolebinding {who}-{role} --clusterrole={role} --user={who} -n {ns}");
        ok(cluster, ADMIN, &line);
    }
    product.kill().await?;

    let text = refused_by(
        cluster,
        "fay",
        &format!("set image deploy/web web=web:v3 -n {ns}"),
        "kubectl-upgrade-outage",
    )
    .await;
    println!("{text}");
    for part in [
        "does not answer",
        "`web` -> web:v3",
        "kubectl upgrade break-glass deploy/web --image web=web:v3",
    ] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    no(cluster, ADMIN, &format!("run bare --image=evil:1 -n {ns}"), &["kubectl-upgrade-outage"]);
    // Everything else goes on: people, autoscalers, the kubelet and our own redeploy.
    ok(cluster, "fay", &format!("scale deploy/web --replicas=4 -n {ns}"));
    let hpa = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": "web", "namespace": ns}, "spec": {"replicas": 5}});
    let url = format!("/apis/apps/v1/namespaces/{ns}/deployments/web/scale");
    fed(cluster, hpa, &format!("replace --raw {url} -f -"), &scale.to_string());
    ok(cluster, "fay", &format!("rollout restart deploy/web -n {ns}"));
    ok(cluster, "fay", &format!("annotate deploy/web a=b -n {ns}"));
    let pod = settled_pod(&shop, 5).await?;
    ok(cluster, "fay", &format!("delete {pod} -n {ns} --wait=false"));
    shop.complete("web").await?;
    ok(
        cluster,
        ADMIN,
        &format!(
            "patch deploy web -n {ns} --subresource=status --type=merge -p {{\"status\":{{\"collisionCount\":1}}}}"
        ),
    );
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "joins"}});
    fed(cluster, ADMIN, "create -f -", &node.to_string());
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "joins", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "joins"}});
    fed(cluster, ADMIN, "create -f -", &lease.to_string());
    fed(cluster, ADMIN, "apply -f -", &own_deployment());
    fed(cluster, ADMIN, "apply -f -", &manifest("floor.yaml"));
    ok(cluster, ADMIN, &format!("rollout restart -n {SYSTEM} deploy/upgrade-webhook"));
    ok(cluster, ADMIN, &format!("rollout status -n {SYSTEM} deploy/upgrade-webhook --timeout=60s"));

    // Break-glass, with nothing of ours alive.
    let (edna, fay) = (cluster.kubeconfig_for(EDNA, &[])?, cluster.kubeconfig_for("fay", &[])?);
    let line = "break-glass deploy/web --image web=web:v3 --reason down --yes";
    let said = plugin(&product, &fay, ns, line);
    assert!(said.code == Some(1) && said.err.contains("kubectl-upgrade-breakglass"), "{said:?}");
    let dry = plugin(&product, &edna, ns, &format!("{line} --dry-run=server -o json"));
    assert!(dry.code == Some(0) && dry.out.contains("\"username\": \"edna\""), "{dry:?}");
    let said = plugin(&product, &edna, ns, line);
    assert!(said.code == Some(0) && said.out.contains("changed under break-glass"), "{said:?}");
    assert!(said.err.contains("web web:v1 -> web:v3"), "what it is was shown: {said:?}");
    runs(&shop, "web", "web:v3").await?;
    // It opens what it names, and nothing beside.
    let other =
        plugin(&product, &edna, ns, "break-glass deploy/web --image web=web:v4 --reason r --yes");
    assert!(other.code == Some(4) && other.err.contains("one to a namespace"), "{other:?}");
    let glasses: Api<BreakGlass> = Api::namespaced(shop.client.clone(), ns);
    let uid = glasses.get(BREAK_GLASS_NAME).await?.uid().context("no uid")?;
    let patch =
        |uid: &str, image: &str| format!("patch deploy web -n {ns} -p {}", by_hand(uid, image));
    no(cluster, EDNA, &patch(&uid, "web:v4"), &["does not list `web` -> web:v4"]);
    no(cluster, "fay", &patch(&uid, "web:v3-other"), &["kubectl-upgrade-"]);

    // Back again: the first verdict is the right one, and the exception is on record.
    product.restart(cluster).await?;
    product.ready().await?;
    no(
        cluster,
        "fay",
        &format!("set image deploy/web web=web:v4 -n {ns}"),
        &["UpgradeRequired", "web:v3 -> web:v4"],
    );
    let approved = ledger_says(&shop.client, ns, "web", "web:v3").await?;
    assert_eq!(approved, format!("breakglass/{uid}"));
    eventually("events and metrics", PATIENCE, || async {
        let events = ok(cluster, ADMIN, &format!("get events.events.k8s.io -n {ns}"));
        for part in ["BreakGlassOpened", "BreakGlassUsed", "deployment/web"] {
            ensure!(events.to_lowercase().contains(&part.to_lowercase()), "`{part}`: {events}");
        }
        let metrics = product::get(product.probes(), "/metrics").await?;
        ensure!(metrics.contains("kubectl_upgrade_break_glass_total 1"), "{metrics}");
        ensure!(metrics.contains("kubectl_upgrade_break_glass_active 1"), "{metrics}");
        Ok(())
    })
    .await?;

    // Its time over, the label opens nothing more; another one may be opened then.
    ok(cluster, EDNA, &format!("delete breakglass {BREAK_GLASS_NAME} -n {ns}"));
    let said = plugin(
        &product,
        &edna,
        ns,
        "break-glass deploy/web --image web=web:v4 --reason again --ttl 15s --yes",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    let expired = |g: Option<&BreakGlass>| g.is_some_and(BreakGlass::is_expired);
    let glass = wait_for(glasses.clone(), BREAK_GLASS_NAME, expired, PATIENCE).await?;
    assert_eq!(glass.status.context("a status")?.uses.len(), 1);
    let uid = glass.metadata.uid.context("no uid")?;
    ledger_says(&shop.client, ns, "web", "web:v4").await?;
    refused_by(cluster, EDNA, &patch(&uid, "web:v4"), "has expired").await;
    let said = plugin(
        &product,
        &edna,
        ns,
        "break-glass deploy/web --image web=web:v5 --reason third --yes",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    runs(&shop, "web", "web:v5").await?;

    configuration_gone(cluster, &product, &shop).await
}

/// Without our configuration, or with a weakened one, images do not change either.
async fn configuration_gone(cluster: &ControlPlane, product: &Product, shop: &Shop) -> Result<()> {
    let ns = shop.namespace.as_str();
    let set = format!("set image deploy/web web=web:v9 -n {ns}");
    let get = "get validatingwebhookconfigurations kubectl-upgrade -o json";
    let mut kept: Value = serde_json::from_str(&ok(cluster, ADMIN, get))?;
    ok(cluster, ADMIN, "delete validatingwebhookconfigurations kubectl-upgrade");
    refused_by(cluster, ADMIN, &set, "run-kubectl-upgrade-install").await;
    ok(cluster, ADMIN, &format!("scale deploy/web --replicas=2 -n {ns}"));
    let pod = settled_pod(shop, 2).await?;
    ok(cluster, ADMIN, &format!("delete {pod} -n {ns} --wait=false"));
    shop.complete("web").await?;
    if let Some(metadata) = kept["metadata"].as_object_mut() {
        metadata.retain(|key, _| key == "name" || key == "labels");
    }
    for (path, value) in [
        ("/webhooks/0/failurePolicy", json!("Ignore")),
        ("/webhooks/0/rules/0/resources", json!(["statefulsets"])),
        ("/webhooks/0/objectSelector", json!({"matchLabels": {"a": "b"}})),
        ("/webhooks/0/namespaceSelector", json!({"matchLabels": {"a": "b"}})),
        ("/webhooks/0/matchConditions/0/name", json!("mine")),
    ] {
        let mut weak = kept.clone();
        *weak.pointer_mut(path).context("a field")? = value;
        fed(cluster, ADMIN, "replace --force -f -", &weak.to_string());
        let text = refused_by(cluster, ADMIN, &set, "is not what").await;
        assert!(text.contains("kubectl upgrade install"), "{path}: {text}");
    }
    fed(cluster, ADMIN, "replace --force -f -", &kept.to_string());
    refused_by(cluster, ADMIN, &set, "UpgradeRequired").await;
    ok(cluster, ADMIN, &format!("annotate deploy/web a=b --overwrite -n {ns}"));
    let left = Command::new(&product.binaries().plugin)
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(["uninstall", "--force"])
        .output()?;
    ensure!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
    let policies = ok(
        cluster,
        ADMIN,
        "get validatingadmissionpolicies,validatingadmissionpolicybindings -o name",
    );
    assert!(!policies.contains("kubectl-upgrade"), "{policies}");
    eventually("nothing of ours to be in force", PATIENCE, || async {
        let said = kubectl(cluster, ADMIN, &set, "");
        ensure!(said.code == Some(0), "{}", said.err);
        Ok(())
    })
    .await
}

/// A pod of `web` that stays: its rollout is over, and there are no others, those that go included.
async fn settled_pod(shop: &Shop, count: usize) -> Result<String> {
    shop.complete("web").await?;
    let pods: Api<Pod> = Api::namespaced(shop.client.clone(), &shop.namespace);
    eventually("only the pods that stay", PATIENCE, || async {
        let all = pods.list(&ListParams::default().labels("app=web")).await?.items;
        ensure!(all.len() == count, "{} pods", all.len());
        Ok(format!("pod/{}", all.first().context("no pod")?.name_any()))
    })
    .await
}

/// edna may break the glass in the namespace, fay may edit.
fn people(cluster: &ControlPlane, ns: &str) {
    for (who, role) in [(EDNA, "edit"), (EDNA, "kubectl-upgrade-breakglass"), ("fay", "edit")] {
        let line =
            format!("create rolebinding {who}-{role} --clusterrole={role} --user={who} -n {ns}");
        ok(cluster, ADMIN, &line);
    }
}

fn glass(ns: &str, name: &str, requester: &str, objects: &Value) -> String {
    json!({"apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "BreakGlass",
        "metadata": {"name": name, "namespace": ns},
        "spec": {"reason": "a test", "objects": objects, "requester": {"username": requester}}})
    .to_string()
}

#[tokio::test]
async fn the_label_opens_what_a_breakglass_names_and_nothing_else() -> Result<()> {
    let lab = lab().await;
    let (cluster, shop) = (lab.cluster, lab.shop(1).await?);
    let ns = shop.namespace.as_str();
    people(cluster, ns);
    shop.deploy("web", 2, json!({})).await?;
    ledger_says(&shop.client, ns, "web", "web:v1").await?;
    let patch = |body: &Value| format!("patch deploy web -n {ns} -p {body}");
    let image =
        |uid: &str, image: &str| format!("patch deploy web -n {ns} -p {}", by_hand(uid, image));

    // Nobody opened one.
    for who in [EDNA, "fay", ADMIN] {
        no(cluster, who, &image("x", "web:v2"), &["open-a-breakglass-first"]);
        no(
            cluster,
            who,
            &format!("label deploy web {BREAK_GLASS_LABEL}=x -n {ns}"),
            &["open-a-breakglass-first"],
        );
    }
    // Who may not, in another's name, with another name, or without a reason.
    let objects = json!([{"kind": "Deployment", "name": "web", "images": [{"container": "web", "image": "web:v2"}]},
        {"kind": "StatefulSet", "name": "db", "images": [{"container": "db", "image": "db:1"}]}]);
    let opens = |who: &str, text: &str| kubectl(cluster, who, "create -f -", text);
    for (who, text, says) in [
        ("fay", glass(ns, BREAK_GLASS_NAME, "fay", &objects), "cannot create"),
        (EDNA, glass(ns, BREAK_GLASS_NAME, "fay", &objects), "spec.requester.username"),
        (EDNA, glass(ns, "another", EDNA, &objects), "two never add up"),
        (EDNA, glass(ns, BREAK_GLASS_NAME, EDNA, &json!([])), "spec.objects"),
        (EDNA, glass(ns, BREAK_GLASS_NAME, EDNA, &objects).replace("a test", " "), "say why"),
        (
            EDNA,
            glass(ns, BREAK_GLASS_NAME, EDNA, &objects)
                .replace("\"reason\"", "\"ttl\":\"25h\",\"reason\""),
            "at most 24h",
        ),
        (
            EDNA,
            glass(ns, BREAK_GLASS_NAME, EDNA, &objects).replace("Deployment", "Pod"),
            "Unsupported value",
        ),
    ] {
        let said = opens(who, &text);
        assert!(said.code != Some(0) && said.err.contains(says), "`{says}`: {said:?}");
    }
    fed(cluster, EDNA, "create -f -", &glass(ns, BREAK_GLASS_NAME, EDNA, &objects));
    let api: Api<BreakGlass> = Api::namespaced(shop.client.clone(), ns);
    let uid = api.get(BREAK_GLASS_NAME).await?.uid().context("no uid")?;
    let label = json!({BREAK_GLASS_LABEL: uid});
    no(
        cluster,
        EDNA,
        &format!(
            r#"patch breakglass {BREAK_GLASS_NAME} -n {ns} --type=merge -p {{"spec":{{"reason":"other"}}}}"#
        ),
        &["forbidden"],
    );
    no(
        cluster,
        ADMIN,
        &format!(
            r#"patch breakglass {BREAK_GLASS_NAME} -n {ns} --type=merge -p {{"spec":{{"reason":"other"}}}}"#
        ),
        &["never changed"],
    );
    no(
        cluster,
        ADMIN,
        &format!(
            r#"patch breakglass {BREAK_GLASS_NAME} -n {ns} --subresource=status --type=merge -p {{"status":{{"phase":"Active"}}}}"#
        ),
        &["controller's to write"],
    );
    no(
        cluster,
        "fay",
        &format!("delete breakglass {BREAK_GLASS_NAME} -n {ns}"),
        &["cannot delete"],
    );

    // With one open.
    refused_by(cluster, "fay", &image(&uid, "web:v2"), "may not use break-glass").await;
    no(cluster, EDNA, &image("true", "web:v2"), &["has to be the uid"]);
    no(cluster, EDNA, &image(&uid, "web:v3"), &["does not list `web` -> web:v3"]);
    let pod = |containers: Value| json!({"metadata": {"labels": label}, "spec": {"template": {"spec": containers}}});
    no(
        cluster,
        EDNA,
        &patch(&pod(json!({"containers": [{"name": "more", "image": "evil:1"}]}))),
        &["`more` -> evil:1"],
    );
    no(
        cluster,
        EDNA,
        &patch(&pod(json!({"initContainers": [{"name": "web-2", "image": "web:v2"}]}))),
        &["does not list"],
    );
    no(
        cluster,
        EDNA,
        &patch(&pod(json!({"volumes": [{"name": "v", "image": {"reference": "evil:1"}}]}))),
        &["`volume:v` -> evil:1"],
    );
    no(
        cluster,
        EDNA,
        &patch(&pod(json!({"$setElementOrder/containers": [], "containers": [
        {"name": "web", "$patch": "delete"}, {"name": "other", "image": "web:v2"}]}))),
        &["forbidden"],
    );
    let flight = json!({"metadata": {"labels": {BREAK_GLASS_LABEL: uid, IN_FLIGHT_LABEL: "up"}}});
    no(cluster, EDNA, &patch(&flight), &["and not put it on"]);
    let set = |name: &str, image: &str| {
        let labels = json!({"app": name});
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": name, "namespace": ns, "labels": label},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "db", "image": image}]}}}})
        .to_string()
    };
    for (text, says) in [
        (set("other", "db:1"), "does not list StatefulSet other"),
        (set("db", "db:2"), "`db` -> db:2"),
    ] {
        let said = opens(EDNA, &text);
        assert!(said.code != Some(0) && said.err.contains(says), "`{says}`: {said:?}");
    }
    fed(cluster, EDNA, "create -f -", &set("db", "db:1"));
    // Kinds that it is not about, and a label that was there before: the webhook decides.
    let rs = ok(cluster, ADMIN, &format!("get rs -n {ns} -o name"));
    let rs = rs.lines().next().context("no ReplicaSet")?;
    no(
        cluster,
        EDNA,
        &format!("patch {rs} -n {ns} -p {}", by_hand(&uid, "web:v2")),
        &["UpgradeRequired"],
    );
    let live = ok(cluster, ADMIN, &format!("get pods -l app=web -n {ns} -o name"));
    let live = live.lines().next().context("no pod")?;
    let body = json!({"metadata": {"labels": label}, "spec": {"containers": [{"name": "web", "image": "web:v2"}]}});
    no(cluster, EDNA, &format!("patch {live} -n {ns} -p {body}"), &["UpgradeRequired"]);
    ok(cluster, EDNA, &format!("label deploy web {BREAK_GLASS_LABEL}={uid} -n {ns}"));
    no(cluster, EDNA, &image(&uid, "web:v2"), &["UpgradeRequired"]);
    no(cluster, EDNA, &format!("set image deploy/web web=web:v2 -n {ns}"), &["UpgradeRequired"]);
    ok(cluster, EDNA, &format!("label deploy web {BREAK_GLASS_LABEL}- -n {ns}"));
    // And what it is for.
    ok(cluster, EDNA, &image(&uid, "web:v2"));
    assert_eq!(ledger_says(&shop.client, ns, "web", "web:v2").await?, format!("breakglass/{uid}"));
    // Closed under a label that is still there, only that object waits, and only for its spec.
    ok(cluster, EDNA, &format!("delete breakglass {BREAK_GLASS_NAME} -n {ns}"));
    refused_by(
        cluster,
        EDNA,
        &format!("annotate deploy web a=b --overwrite -n {ns}"),
        "open-a-breakglass-first",
    )
    .await;
    ok(cluster, EDNA, &format!("scale deploy/web --replicas=3 -n {ns}"));
    shop.complete("web").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_in_flight_can_be_changed_and_is_left_alone_then() -> Result<()> {
    let lab = lab().await;
    let (cluster, shop) = (lab.cluster, lab.shop(0).await?);
    let ns = shop.namespace.as_str();
    people(cluster, ns);
    let before = shop.deploy("web", 4, json!({"minReadySeconds": 1})).await?;
    shop.upgrade("up", &["web"], "web:v2", &canary(&["25", "", "100"])).await?;
    shop.rests_at("up", 1).await?;
    let edna = cluster.kubeconfig_for(EDNA, &[])?;
    let line = "break-glass deploy/web --image web=web:v3 --reason now --yes";
    let said = plugin(&lab.product, &edna, ns, line);
    assert!(said.code == Some(0) && said.err.contains("Upgrade up loses it"), "{said:?}");
    runs(&shop, "web", "web:v3").await?;
    let over = shop.upgrades();
    let ended = |u: Option<&upgrade_core::api::Upgrade>| {
        u.and_then(|u| u.status.as_ref()).is_some_and(|s| s.phase.is_terminal())
    };
    let up = wait_for(over, "up", ended, PATIENCE).await?;
    println!(
        "the Upgrade ends {:?}: {}",
        up.status.as_ref().map(|s| s.phase),
        up.status.clone().unwrap_or_default().message
    );
    assert_ne!(up.status.context("a status")?.phase, Phase::Completed);
    runs(&shop, "web", "web:v3").await?;
    let now = shop.deployments().get("web").await?;
    assert!(!now.labels().contains_key(IN_FLIGHT_LABEL));
    let guarded = |d: &k8s_openapi::api::apps::v1::Deployment| {
        let s = d.spec.clone().unwrap_or_default();
        (s.min_ready_seconds, s.progress_deadline_seconds, s.strategy, s.paused.unwrap_or(false))
    };
    assert_eq!(guarded(&now), guarded(&before));
    Ok(())
}
