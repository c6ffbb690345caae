//! Rows 1 to 5, 14 to 16 and 20 to 24: what a workload's own object says.

use crate::ground::{User, all, free, governed, refusal, to};
use anyhow::Result;
use serde_json::json;

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

pub async fn row_01_set_image_edit_and_patch() -> Result<()> {
    let g = governed().await?;
    let help = format!("kubectl upgrade start deploy/web --image app=web:v2 -n {}", g.ns);
    let says = ["(UpgradeRequired)", "`app` web:v1 -> web:v2", &help];
    g.refused(User::Alice, &["set", "image", "deploy/web", "app=web:v2"], &says);
    let json =
        r#"[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"web:v2"}]"#;
    for (kind, patch) in
        [("strategic", to("web:v2")), ("merge", to("web:v2")), ("json", json.to_owned())]
    {
        g.refused(User::Alice, &["patch", "deploy", "web", "--type", kind, "-p", &patch], &says);
    }
    let editor = [("KUBE_EDITOR", "sed -i s/web:v1/web:v2/")];
    refusal(g.run_with(User::Alice, &["edit", "deploy", "web"], "", &editor), &says[..2]);
    g.refused(User::Admin, &["set", "image", "deploy/web", "app=web:v2"], &says);
    assert_eq!(g.image(), "web:v1");
    Ok(())
}

pub async fn row_02_apply_and_server_side_apply_with_force() -> Result<()> {
    let g = governed().await?;
    let object = g.workload("Deployment", "web", "web:v2").to_string();
    let manager = |name: &'static str| vec!["--server-side", "--force-conflicts", name];
    for more in [
        vec![],
        manager("--field-manager=kubectl-upgrade"),
        manager("--field-manager=kube-controller-manager"),
        manager("--field-manager=before-first-apply"),
    ] {
        let args = [vec!["apply", "-f", "-"], more].concat();
        refusal(g.run_with(User::Alice, &args, &object, &[]), &["UpgradeRequired"]);
    }
    assert_eq!(g.image(), "web:v1");
    Ok(())
}

pub async fn row_03_replace_and_replace_with_force() -> Result<()> {
    let g = governed().await?;
    let object = g.workload("Deployment", "web", "web:v2").to_string();
    let replace = |more: &[&str]| {
        g.run_with(User::Alice, &[&["replace", "-f", "-"], more].concat(), &object, &[])
    };
    refusal(replace(&[]), &["UpgradeRequired"]);
    // By force it is deleted, and then it can only come back as it was.
    refusal(replace(&["--force"]), &["LedgerMismatch", "`app` web:v1"]);
    g.creates(User::Alice, &g.workload("Deployment", "web", "web:v1"))?;
    Ok(())
}

pub async fn row_04_rollout_undo() -> Result<()> {
    let g = free().await?;
    g.creates(User::Alice, &g.workload("Deployment", "web", "web:v0"))?;
    g.set_of("web:v0").await?;
    g.passes(User::Alice, &["set", "image", "deploy/web", "app=web:v1"]);
    g.set_of("web:v1").await?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", "web:v1").await?;
    let says = ["UpgradeRequired", "web:v1 -> web:v0"];
    g.refused(User::Alice, &["rollout", "undo", "deploy/web"], &says);
    g.refused(User::Alice, &["rollout", "undo", "deploy/web", "--to-revision=1"], &says);
    assert_eq!(g.image(), "web:v1");
    Ok(())
}

/// Pods that start over pull their images again. A digest cannot come to mean another image.
pub async fn row_05_rollout_restart_keeps_a_digest() -> Result<()> {
    let g = free().await?;
    let pinned = format!("web:v1@{DIGEST}");
    g.creates(User::Alice, &g.workload("Deployment", "web", &pinned))?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", DIGEST).await?;
    g.passes(User::Alice, &["rollout", "restart", "deploy/web"]);
    assert_eq!(g.image(), pinned);
    g.refused(User::Alice, &["set", "image", "deploy/web", "app=web:v1"], &["UpgradeRequired"]);
    Ok(())
}

pub async fn row_14_scale_and_status_carry_no_image() -> Result<()> {
    let g = governed().await?;
    let with_image = |mut o: serde_json::Value| {
        o["spec"]["template"] =
            json!({"spec": {"containers": [{"name": "app", "image": "evil:1"}]}});
        o.to_string()
    };
    let scale = with_image(json!({"spec": {"replicas": 3}}));
    let status = with_image(json!({"status": {"collisionCount": 1}}));
    for user in [User::Alice, User::Admin] {
        for (subresource, patch) in [("scale", &scale), ("status", &status)] {
            let subresource = format!("--subresource={subresource}");
            let args = ["patch", "deploy", "web", &subresource, "--type=merge", "-p", patch];
            // Whatever it answers: what is stored counts.
            g.run(user, &args).ok();
            assert_eq!(g.image(), "web:v1", "{user:?} {subresource}");
        }
    }
    // And neither of them waits for anybody.
    g.passes(User::Alice, &["scale", "deploy/web", "--replicas=3"]);
    assert_eq!(g.field("deploy/web", ".spec.replicas"), "3");
    Ok(())
}

pub async fn row_15_resize_carries_no_image() -> Result<()> {
    let g = governed().await?;
    let pod = g.one("pods", "app=web").await?;
    let patch = json!({"spec": {"containers": [{"name": "app", "image": "evil:1"}]}}).to_string();
    for user in [User::Alice, User::Admin] {
        g.run(user, &["patch", &pod, "--subresource=resize", "-p", &patch]).ok();
        assert_eq!(g.field(&pod, ".spec.containers[0].image"), "web:v1");
    }
    Ok(())
}

pub async fn row_16_delete_and_create() -> Result<()> {
    let g = governed().await?;
    let next = g.workload("Deployment", "web", "web:v2");
    for delete in [&["delete", "deploy", "web"][..], &["delete", "deploy", "--all"]] {
        g.passes(User::Alice, delete);
        g.not_created(User::Alice, &next, &["LedgerMismatch", "`app` web:v1"]);
        g.creates(User::Alice, &g.workload("Deployment", "web", "web:v1"))?;
    }
    // What remembers it cannot be deleted either.
    g.refused(User::Alice, &["delete", "upgradeledger", "ledger"], &["forbidden"]);
    g.refused(User::Admin, &["delete", "upgradeledger", "ledger"], &["ControllerOnly"]);
    g.refused(User::Admin, &["delete", "upgradeledger", "--all"], &["ControllerOnly"]);
    let empty = r#"{"spec":{"entries":[]}}"#;
    let patch = ["patch", "upgradeledger", "ledger", "--type=merge", "-p", empty];
    g.refused(User::Admin, &patch, &["ControllerOnly"]);
    Ok(())
}

pub async fn row_20_init_containers_sidecars_and_added_containers() -> Result<()> {
    let g = governed().await?;
    let extra = json!({"name": "extra", "image": "evil:1"});
    let sidecar = json!({"name": "extra", "image": "evil:1", "restartPolicy": "Always"});
    for (list, container) in
        [("containers", &extra), ("initContainers", &extra), ("initContainers", &sidecar)]
    {
        let patch = json!({"spec": {"template": {"spec": {list: [container]}}}}).to_string();
        let args = ["patch", "deploy", "web", "-p", &patch];
        g.refused(User::Alice, &args, &["UpgradeRequired", "`extra` added with evil:1"]);
    }
    // The same image under another name is another container.
    let renamed = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/name", "value": "other"}]);
    let args = ["patch", "deploy", "web", "--type=json", "-p", &renamed.to_string()];
    g.refused(User::Alice, &args, &["UpgradeRequired", "`app` removed"]);
    Ok(())
}

pub async fn row_21_image_volumes_and_image_drivers() -> Result<()> {
    let g = governed().await?;
    let volume = json!({"name": "data", "image": {"reference": "evil:1"}});
    let driver = json!({"name": "data", "csi": {"driver": "csi-image.warm-metal.tech",
        "volumeAttributes": {"image": "evil:1"}}});
    for volume in [volume, driver] {
        let patch = json!({"spec": {"template": {"spec": {"volumes": [volume]}}}}).to_string();
        let args = ["patch", "deploy", "web", "-p", &patch];
        let says = ["UpgradeRequired", "`volume:data` added with evil:1"];
        g.refused(User::Alice, &args, &says);
    }
    // A volume without an image is nobody's business.
    let plain = r#"{"spec":{"template":{"spec":{"volumes":[{"name":"tmp","emptyDir":{}}]}}}}"#;
    g.passes(User::Alice, &["patch", "deploy", "web", "-p", plain]);
    Ok(())
}

/// A tag may come to mean another image without any write to the API: only a digest may not.
pub async fn row_22_a_digest_cannot_be_dropped() -> Result<()> {
    let g = free().await?;
    g.creates(User::Alice, &g.workload("Deployment", "web", &format!("web:v1@{DIGEST}")))?;
    g.govern(&all()).await?;
    g.noted("Deployment", "web", DIGEST).await?;
    let always = r#"{"spec":{"template":{"spec":{"containers":[{"name":"app","imagePullPolicy":"Always"}]}}}}"#;
    g.passes(User::Alice, &["patch", "deploy", "web", "-p", always]);
    let other = format!("web:v1@{}", DIGEST.replace('1', "2"));
    for image in ["web:v1", "web", &other] {
        let image = format!("app={image}");
        g.refused(User::Alice, &["set", "image", "deploy/web", &image], &["UpgradeRequired"]);
    }
    Ok(())
}

pub async fn row_23_other_spellings() -> Result<()> {
    let g = governed().await?;
    let others = [
        "web".to_owned(),
        "web:V1".to_owned(),
        "WEB:v1".to_owned(),
        "docker.io/web/web:v1".to_owned(),
        "docker.io:443/library/web:v1".to_owned(),
        "Docker.io/library/web:v1".to_owned(),
        "example.com/library/web:v1".to_owned(),
        "localhost/web:v1".to_owned(),
        "docker.io/library/web:v1.".to_owned(),
        format!("web@{DIGEST}"),
        format!("web:v1@{DIGEST}"),
    ];
    for image in others {
        // What is no image at all the API server may refuse by itself.
        let text = g.refused(User::Alice, &["patch", "deploy", "web", "-p", &to(&image)], &[]);
        assert!(text.contains("UpgradeRequired") || text.contains("Invalid"), "{image}: {text}");
        assert_eq!(g.image(), "web:v1", "{image}");
    }
    // Written otherwise it is the same image.
    for image in ["docker.io/library/web:v1", "index.docker.io/library/web:v1", "docker.io/web:v1"]
    {
        g.passes(User::Alice, &["patch", "deploy", "web", "-p", &to(image)]);
    }
    Ok(())
}

/// Out of reach, and shown to be: nothing here looks at what a process does. In flight the whole
/// template is the Upgrade's.
pub async fn row_24_what_a_container_downloads() -> Result<()> {
    let g = governed().await?;
    g.passes(User::Alice, &["set", "env", "deploy/web", "APP_VERSION=2"]);
    g.creates(User::Alice, &g.upgrade("web-v2"))?;
    g.phase("web-v2", "AwaitingApproval").await?;
    g.approve("web-v2").await?;
    g.phase("web-v2", "Paused").await?;
    let env = ["set", "env", "deploy/web", "APP_VERSION=3"];
    g.refused(User::Alice, &env, &["InFlight", "spec.template"]);
    Ok(())
}
