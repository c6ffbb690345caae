//! System D, StormService rollout orchestration: what its users do, row by row, on the real API
//! server, with kubectl where they use it. D2, D4 and D7 have files of their own: `blue_green` and
//! `by_route`, `traffic`, `analysis`.

mod analysis;
mod blue_green;
mod by_route;
mod meters;
#[path = "../routed/mod.rs"]
mod routed;
#[path = "../services/mod.rs"]
mod services;
mod some_requests;
mod traffic;

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use upgrade_core::api::status::Gate;
use upgrade_core::api::{Phase, Upgrade};
use upgrade_sandbox::eventually;
use upgrade_sandbox::kinds::STATEFUL;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};

/// kubectl as one of these people: `ana` and `bob` may edit, `sue` may also approve.
struct People {
    shop: Shop,
}

impl People {
    async fn open() -> Result<Self> {
        let lab = lab().await;
        let shop = lab.shop(0).await?;
        for (user, role) in [
            ("ana", "admin"),
            ("sue", "admin"),
            ("sue", "kubectl-upgrade-approver"),
            ("eve", "view"),
        ] {
            let (name, role) = (format!("{user}-{role}"), format!("--clusterrole={role}"));
            let user = format!("--user={user}");
            let args = ["create", "rolebinding", &name, &role, &user, "-n", &shop.namespace];
            let made = lab.cluster.kubectl().args(args).output()?;
            ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(Self { shop })
    }

    /// An Upgrade that `ana` asks for.
    async fn start(&self, to: &str, steps: &serde_json::Value) -> Result<()> {
        let ana = self.shop.cluster.client_for("ana", &[]).await?;
        let ours = Shop {
            client: ana,
            cluster: self.shop.cluster,
            namespace: self.shop.namespace.clone(),
        };
        ours.upgrade("up", &["web"], to, steps).await.map(drop)
    }

    /// What kubectl says, and whether it went well.
    fn kubectl(&self, user: &str, args: &[&str]) -> Result<(bool, String)> {
        let config = self.shop.cluster.kubeconfig_for(user, &[])?;
        let output = self
            .shop
            .cluster
            .kubectl()
            .env("KUBECONFIG", config)
            .args(["-n", &self.shop.namespace])
            .args(args)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    }

    /// An order by annotation that is taken.
    fn order(&self, user: &str, order: &str) -> Result<()> {
        let annotation = format!("kubectl-upgrade.dev/{order}");
        let (ok, said) =
            self.kubectl(user, &["annotate", "--overwrite", "upgrade", "up", &annotation])?;
        ensure!(ok, "{said}");
        Ok(())
    }

    /// An order by annotation that is refused; what is said.
    fn refused(&self, user: &str, orders: &[&str]) -> Result<String> {
        let orders: Vec<_> = orders.iter().map(|o| format!("kubectl-upgrade.dev/{o}")).collect();
        let mut args = vec!["annotate", "--overwrite", "upgrade", "up"];
        args.extend(orders.iter().map(String::as_str));
        let (ok, said) = self.kubectl(user, &args)?;
        ensure!(!ok, "taken: {said}");
        Ok(said)
    }

    async fn live(&self) -> Result<Upgrade> {
        Ok(self.shop.upgrades().get("up").await?)
    }
}

#[tokio::test]
async fn d1_steps_rest_for_a_while_and_until_approval() -> Result<()> {
    let people = People::open().await?;
    let shop = &people.shop;
    shop.deploy("web", 10, json!({})).await?;
    let steps = json!({"canary": {"steps": [
        {"setWeight": 10}, {"pause": {"duration": "1s"}},
        {"setWeight": 50}, {"pause": {"untilApproval": true}},
    ]}});
    people.start("web:v2", &steps).await?;
    let rests = shop.rests_at("up", 3).await?;
    shop.split_is("web", "web:v2", (5, 5)).await?;
    let status = rests.status.context("no status")?;
    assert!(status.message.contains("--stage web --step 3"), "{}", status.message);
    assert!(status.gates.iter().any(|g| g.gate == Gate::Approval && !g.open));
    // A promotion is no approval, and neither is the requester's own word.
    shop.promote("up").await?;
    let said = people.refused("ana", &["approve=web/3"])?;
    assert!(said.contains("may not"), "{said}");
    assert_eq!(shop.split("web", "web:v2").await?, (5, 5));
    let (ok, said) =
        people.kubectl("sue", &["get", "upgrade", "up", "-o", "jsonpath={.status.phase}"])?;
    assert!(ok && said == "Paused", "{said}");
    let config = shop.cluster.kubeconfig_for("sue", &[])?;
    let args = ["approve", "up", "--stage", "web", "--step", "3", "--yes", "-n", &shop.namespace];
    let approved = lab().await.plugin(config, &args).await?;
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    shop.phase("up", Phase::Completed).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (0, 10));
    Ok(())
}

#[tokio::test]
async fn d1_canary_steps_by_weight_or_by_replicas() -> Result<()> {
    let people = People::open().await?;
    let shop = &people.shop;
    let before = shop.deploy("web", 6, json!({})).await?;
    let watch = shop.watch("web").await?;
    let steps = json!({"canary": {"steps": [
        {"setReplicas": 1}, {"pause": {}}, {"setWeight": 50}, {"pause": {}},
        {"setReplicas": 2}, {"pause": {}}, {"setReplicas": 5}, {"pause": {}},
    ]}});
    people.start("web:v2", &steps).await?;
    let rests = shop.rests_at("up", 1).await?;
    let target = rests.status.context("no status")?.stages[0].targets[0].clone();
    assert_eq!((target.requested_replicas, target.requested_weight), (Some(1), 17));
    assert_eq!((target.effective_weight, target.canary, target.stable), (17, 1, 5));
    // One is one at any scale.
    shop.scale("web", 12).await?;
    shop.split_is("web", "web:v2", (11, 1)).await?;
    shop.scale("web", 6).await?;
    shop.split_is("web", "web:v2", (5, 1)).await?;
    shop.promote("up").await?;
    shop.rests_at("up", 3).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (3, 3));
    shop.promote("up").await?;
    shop.rests_at("up", 5).await?;
    let fewer = "2 pods of 6 would be fewer new pods than the 3 that an earlier step asked for";
    shop.says("up", fewer).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (3, 3), "it never goes down");
    shop.promote("up").await?;
    shop.rests_at("up", 7).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (1, 5));
    let config = shop.cluster.kubeconfig_for("ana", &[])?;
    let told = lab().await.plugin(config, &["status", "up", "-n", &shop.namespace]).await?;
    let told = String::from_utf8(told.stdout)?;
    assert!(told.contains("canary 1 pod, pause, 50, pause, 2 pods"), "{told}");
    assert!(told.contains("83 % (5 pods)"), "{told}");
    shop.promote("up").await?;
    shop.phase("up", Phase::Completed).await?;
    assert!(watch.finish().await?.min_ready >= 6);
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn d1_steps_by_replicas_of_a_stateful_set_and_of_more_than_there_are() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let before = shop.stateful("web", 3, json!({})).await?;
    let steps = json!({"canary": {"steps": [
        {"setReplicas": 2}, {"pause": {}}, {"setReplicas": 4}, {"pause": {}},
    ]}});
    shop.upgrade_of("up", (STATEFUL, "web"), "web:v2", &steps, json!({})).await?;
    shop.rests_at("up", 1).await?;
    shop.runs_are("web", "web:v2", (1, 2)).await?;
    shop.promote("up").await?;
    let all = shop.rests_at("up", 3).await?;
    shop.runs_are("web", "web:v2", (0, 3)).await?;
    let target = all.status.context("no status")?.stages[0].targets[0].clone();
    assert_eq!((target.requested_replicas, target.requested_weight), (Some(4), 100));
    // Four of six: two come back old, for the last weight was not promoted.
    shop.scale_stateful("web", 6).await?;
    shop.runs_are("web", "web:v2", (2, 4)).await?;
    shop.rests_at("up", 3).await?;
    shop.steer("up", json!({"control": {"abort": true}})).await?;
    shop.phase("up", Phase::Aborted).await?;
    shop.runs_are("web", "web:v2", (6, 0)).await?;
    shop.assert_untouched_kind(STATEFUL, &before).await?;
    Ok(())
}

#[tokio::test]
async fn d3_it_is_taken_back_on_a_failed_health_check_and_on_timeout() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    let before = shop.deploy("web", 4, json!({})).await?;
    let auto =
        json!({"autoRollback": {"onFailure": {"healthCheckFailure": true}, "onTimeout": "30m"}});
    shop.upgrade_with(
        "crash",
        &["web"],
        "web:v2-crash-after-1s",
        &canary(&["50", "", "100"]),
        auto,
    )
    .await?;
    let done = shop.phase("crash", Phase::RolledBack).await?;
    assert!(done.status.context("no status")?.message.contains("crashes"));
    shop.assert_untouched("web", &before).await?;
    let auto = json!({"autoRollback": {"onTimeout": "3s"}});
    shop.upgrade_with("slow", &["web"], "web:v2-never-ready", &canary(&["50", "100"]), auto)
        .await?;
    let done = shop.phase("slow", Phase::RolledBack).await?;
    let message = done.status.context("no status")?.message;
    assert!(message.contains("onTimeout of 3s"), "{message}");
    shop.assert_untouched("web", &before).await?;
    Ok(())
}

#[tokio::test]
async fn d5_annotations_pause_resume_approve_abort_and_retry() -> Result<()> {
    let people = People::open().await?;
    let shop = &people.shop;
    shop.deploy("web", 4, json!({})).await?;
    let steps = json!({"canary": {"steps": [
        {"setWeight": 25}, {"pause": {}}, {"setWeight": 50}, {"pause": {"untilApproval": true}},
    ]}});
    people.start("web:v2", &steps).await?;
    shop.rests_at("up", 1).await?;

    people.order("ana", "pause=true")?;
    let now = people.live().await?;
    assert!(now.spec.paused, "the annotation is carried out at once");
    assert!(now.metadata.annotations.unwrap_or_default().keys().all(|k| !k.contains("/pause")));
    people.order("ana", "resume=true")?;
    shop.rests_at("up", 1).await?;
    people.order("ana", "promote=true")?;
    shop.rests_at("up", 3).await?;

    people.order("sue", "approve=web/3")?;
    shop.phase("up", Phase::Completed).await?;
    let approvals: kube::Api<upgrade_core::api::UpgradeApproval> =
        kube::Api::namespaced(shop.client.clone(), &shop.namespace);
    let made = approvals.list(&kube::api::ListParams::default()).await?.items;
    let by: Vec<_> = made.iter().filter_map(|a| a.spec.approver.as_ref()).collect();
    assert_eq!(by.len(), 1);
    assert_eq!(by[0].username, "sue", "whose word it is, and not the controller's");
    assert!(people.live().await?.metadata.annotations.unwrap_or_default().is_empty());
    shop.upgrades().delete("up", &kube::api::DeleteParams::default()).await?;

    let reverse: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade", "metadata": {"name": "up"},
        "spec": {"stages": [{"name": "web", "workloads": {"strategy": steps, "targets": [
            {"kind": "Deployment", "name": "web",
             "images": [{"container": "web", "from": "web:v2", "to": "web:v1"}]}]}}]},
    }))?;
    eventually("the name to be free", PATIENCE, || async {
        Ok(shop.upgrades().create(&kube::api::PostParams::default(), &reverse).await.map(drop)?)
    })
    .await?;
    shop.rests_at("up", 1).await?;
    people.order("ana", "abort=true")?;
    shop.phase("up", Phase::Aborted).await?;
    people.order("ana", "retry=true")?;
    let again = shop.rests_at("up", 1).await?;
    assert_eq!(again.status.context("no status")?.attempt, 1);
    Ok(())
}

#[tokio::test]
async fn d5_an_annotation_is_never_a_weaker_door() -> Result<()> {
    let people = People::open().await?;
    let shop = &people.shop;
    shop.deploy("web", 2, json!({})).await?;
    let steps =
        json!({"canary": {"steps": [{"setWeight": 50}, {"pause": {"untilApproval": true}}]}});
    people.start("web:v2", &steps).await?;
    shop.rests_at("up", 1).await?;
    // Who may not write the Upgrade at all, and who may write it but lacks the verb.
    let said = people.refused("eve", &["abort=true"])?;
    assert!(said.contains("forbidden"), "{said}");
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "writer"},
        "rules": [{"apiGroups": ["kubectl-upgrade.dev"], "resources": ["upgrades"], "verbs": ["get", "patch"]}]});
    let roles: kube::Api<k8s_openapi::api::rbac::v1::Role> =
        kube::Api::namespaced(shop.client.clone(), &shop.namespace);
    roles.create(&kube::api::PostParams::default(), &serde_json::from_value(role)?).await?;
    let bound = shop
        .cluster
        .kubectl()
        .args([
            "-n",
            &shop.namespace,
            "create",
            "rolebinding",
            "eve-writer",
            "--role=writer",
            "--user=eve",
        ])
        .output()?;
    ensure!(bound.status.success());
    for order in ["abort=true", "pause=true", "promote=full", "approve=web/1"] {
        let said = eventually("the refusal in our words", PATIENCE, || async {
            let said = people.refused("eve", &[order])?;
            ensure!(said.contains("SubjectAccessReview says no"), "{said}");
            Ok(said)
        })
        .await?;
        assert!(said.contains("kubectl auth can-i"), "{said}");
    }
    // Two at once, nonsense, a stamp of somebody else's, and one that is there from the start.
    for (user, orders, says) in [
        ("ana", &["pause=true", "abort=true"][..], "one order at a time"),
        ("ana", &["promote=false"][..], "neither `true` nor `full`"),
        ("ana", &["approve=web/x"][..], "STAGE/STEP"),
    ] {
        let said = people.refused(user, orders)?;
        assert!(said.contains(says), "{said}");
    }
    let live = people.live().await?;
    let stamp = json!({"approver": {"username": "sue"}, "stage": "web", "step": 1,
        "planHash": live.status.context("no status")?.plan_hash, "upgradeUID": live.metadata.uid});
    let forged = format!("approve={stamp}");
    let said = people.refused("ana", &[&forged])?;
    assert!(said.contains("says `sue`, and `ana` asked"), "{said}");
    let mut object: serde_json::Value = json!(live.spec);
    object["stages"][0]["workloads"]["targets"][0]["name"] = json!("other");
    object.as_object_mut().context("a spec")?.remove("requester");
    let preset: Upgrade = serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "preset", "annotations": {"kubectl-upgrade.dev/approve": "true"}},
        "spec": object,
    }))?;
    let said = shop
        .upgrades()
        .create(&kube::api::PostParams::default(), &preset)
        .await
        .expect_err("preset")
        .to_string();
    assert!(said.contains("from the start"), "{said}");
    assert_eq!(shop.split("web", "web:v2").await?, (1, 1), "nothing moved");
    Ok(())
}

#[tokio::test]
async fn d6_status_says_where_it_is() -> Result<()> {
    let shop = lab().await.shop(0).await?;
    shop.deploy("web", 4, json!({})).await?;
    shop.upgrade("up", &["web"], "web:v2", &canary(&["25", "", "100"])).await?;
    let rests = shop.rests_at("up", 1).await?;
    let status = rests.status.context("no status")?;
    assert_eq!(
        (status.phase, status.current_step_index, status.canary_weight),
        (Phase::Paused, 1, 25)
    );
    assert!(status.current_step_hash.is_some() && status.pause_start_time.is_some());
    assert!(status.message.contains("kubectl upgrade promote up"), "{}", status.message);
    let conditions: Vec<_> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert!(
        conditions.contains(&"Progressing") && conditions.contains(&"Completed"),
        "{conditions:?}"
    );
    let target = &status.stages[0].targets[0];
    let sets = (target.stable_replica_set.as_deref(), target.canary_replica_set.as_deref());
    let (stable, new) = (sets.0.context("stable")?, sets.1.context("canary")?);
    assert!(stable.starts_with("web-") && new.starts_with("web-") && stable != new);
    shop.steer("up", json!({"control": {"abort": true}})).await?;
    shop.phase("up", Phase::Aborted).await?;
    Ok(())
}

#[tokio::test]
async fn d8_a_pipeline_sets_the_image_waits_and_resumes_or_aborts() -> Result<()> {
    let lab = lab().await;
    let people = People::open().await?;
    let shop = &people.shop;
    shop.deploy("web", 4, json!({})).await?;
    let ci = |args: &'static [&'static str]| async move {
        let config = shop.cluster.kubeconfig_for("ana", &[])?;
        let mut all = args.to_vec();
        all.extend(["-n", &shop.namespace]);
        lab.plugin(config, &all).await
    };
    let started = ci(&[
        "start",
        "deploy/web",
        "--image",
        "web=web:v2",
        "--steps",
        "25,pause,100",
        "--name",
        "release",
    ])
    .await?;
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let waited = people.kubectl(
        "ana",
        &["wait", "upgrade/release", "--for=jsonpath={.status.phase}=Paused", "--timeout=60s"],
    )?;
    assert!(waited.0, "{}", waited.1);
    let annotate = ["annotate", "upgrade", "release", "kubectl-upgrade.dev/promote=true"];
    let (ok, said) = people.kubectl("ana", &annotate)?;
    assert!(ok, "{said}");
    let waited = people.kubectl(
        "ana",
        &["wait", "upgrade/release", "--for=condition=Completed", "--timeout=60s"],
    )?;
    assert!(waited.0, "{}", waited.1);
    assert_eq!(shop.split("web", "web:v2").await?, (0, 4));
    Ok(())
}

#[tokio::test]
async fn d9_a_plain_deployment_is_adopted_without_a_restart_and_a_rollback_can_be_rehearsed()
-> Result<()> {
    let shop = lab().await.shop(0).await?;
    let before = shop.deploy("web", 4, json!({})).await?;
    let watch = shop.watch("web").await?;
    // The rehearsal: up to a half, and back on purpose; the same, once more, is kept.
    shop.upgrade("up", &["web"], "web:v2", &canary(&["50", "", "100"])).await?;
    shop.rests_at("up", 1).await?;
    shop.steer("up", json!({"control": {"abort": true}})).await?;
    shop.phase("up", Phase::Aborted).await?;
    shop.assert_untouched("web", &before).await?;
    assert_eq!(shop.split("web", "web:v2").await?, (4, 0));
    let seen = watch.finish().await?;
    assert!(seen.min_ready >= 4, "{}", seen.min_ready);
    let retry = json!({"spec": {"control": {"abort": false, "retry": 1}}});
    shop.upgrades().patch("up", &PatchParams::default(), &Patch::Merge(&retry)).await?;
    shop.rests_at("up", 1).await?;
    shop.promote("up").await?;
    shop.phase("up", Phase::Completed).await?;
    shop.assert_untouched("web", &before).await?;
    Ok(())
}
