//! Mode Hold on the real API server: a changed template waits, paused, and an Upgrade carries it
//! out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use upgrade_core::api::{
    FIELD_MANAGER, HELD_ANNOTATION, Held, IN_FLIGHT_LABEL, LEDGER_NAME, Phase, Upgrade,
    UpgradeLedger, UpgradePolicy,
};
use upgrade_sandbox::scenario::{Lab, PATIENCE, Said, Shop, canary, lab, say};
use upgrade_sandbox::{eventually, wait_for};

/// A shop whose policy holds, with people in it: alice changes things, bob approves.
struct Stage {
    lab: &'static Lab,
    shop: Shop,
    alice: PathBuf,
    bob: PathBuf,
}

impl Stage {
    async fn open(approvals: i32, strategy: &Value) -> Result<Self> {
        let lab = lab().await;
        let shop = lab.shop(approvals).await?;
        let policies: Api<UpgradePolicy> = Api::all(shop.client.clone());
        let hold = json!({"spec": {"mode": "Hold", "hold": {"strategy": strategy}}});
        policies.patch(&shop.namespace, &PatchParams::default(), &Patch::Merge(&hold)).await?;
        let user = |name: &str| lab.cluster.kubeconfig_for(name, &["people"]);
        let stage = Self { lab, alice: user("alice")?, bob: user("bob")?, shop };
        for user in ["alice", "bob"] {
            for role in ["admin", "kubectl-upgrade-approver"] {
                stage.bind(user, &format!("--clusterrole={role}"), role)?;
            }
        }
        Ok(stage)
    }

    fn bind(&self, user: &str, role: &str, name: &str) -> Result<()> {
        let (name, user) = (format!("{user}-{name}"), format!("--user={user}"));
        self.admin(&["create", "rolebinding", &name, role, &user])
    }

    fn admin(&self, args: &[&str]) -> Result<()> {
        let mut command = self.lab.cluster.kubectl();
        let said = say(command.args(args).args(["-n", &self.shop.namespace]), "")?;
        anyhow::ensure!(said.code == Some(0), "{}", said.err);
        Ok(())
    }

    /// A Deployment that the ledger knows, under a policy that the webhook knows.
    async fn web(&self, replicas: i32) -> Result<Deployment> {
        self.shop.deploy("web", replicas, json!({})).await?;
        self.known().await?;
        self.shop.deployments().get("web").await.map_err(Into::into)
    }

    async fn known(&self) -> Result<()> {
        eventually("hold to hold", PATIENCE, || async {
            let said = self.by(&self.alice, "set image deploy/web web=web:probe --dry-run=server");
            anyhow::ensure!(said.code == Some(0) && said.err.contains("held:"), "{said:?}");
            Ok(())
        })
        .await
    }

    fn by(&self, who: &Path, line: &str) -> Said {
        self.fed(who, line, &Value::Null)
    }

    /// kubectl with an object on its standard input.
    fn fed(&self, who: &Path, line: &str, object: &Value) -> Said {
        let mut command = self.lab.cluster.kubectl_with(who);
        command.args(line.split_whitespace()).args(["-n", &self.shop.namespace]);
        say(&mut command, &object.to_string()).expect("kubectl runs")
    }

    /// The same; it must succeed.
    #[track_caller]
    fn ok(&self, who: &Path, line: &str, object: &Value) -> Said {
        let said = self.fed(who, line, object);
        assert_eq!(said.code, Some(0), "{line}: {}{}", said.out, said.err);
        said
    }

    /// What is applied is what is there, in the end: a status that is written between the two reads
    /// of kubectl is a difference to it, one of ours would stay.
    async fn no_drift(&self, who: &Path, object: &Value) {
        let seen = |d: Option<&Deployment>| {
            d.is_some_and(|d| {
                let observed = d.status.as_ref().and_then(|s| s.observed_generation);
                observed >= d.metadata.generation
            })
        };
        wait_for(self.shop.deployments(), "web", seen, PATIENCE).await.expect("it is observed");
        eventually("no drift", PATIENCE, || async {
            let said = self.fed(who, DIFF, object);
            anyhow::ensure!(said.code == Some(0), "{}{}", said.out, said.err);
            Ok(())
        })
        .await
        .expect("no drift");
    }

    /// The plugin, as somebody.
    async fn plugin(&self, who: &Path, line: &str) -> Result<Said> {
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(["-n", &self.shop.namespace]);
        let output = self.lab.plugin(who.to_owned(), &args).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }

    /// The held Deployment and the name of its Upgrade.
    async fn held(&self) -> Result<(Deployment, String)> {
        let web = self.shop.deployments().get("web").await?;
        let name = web.labels().get(IN_FLIGHT_LABEL).context("no label")?.clone();
        anyhow::ensure!(web.annotations().contains_key(HELD_ANNOTATION), "not held: {web:?}");
        anyhow::ensure!(web.spec.as_ref().and_then(|s| s.paused) == Some(true), "not paused");
        Ok((web, name))
    }

    /// Waits until nothing of ours is on it.
    async fn free(&self) -> Result<Deployment> {
        let free = |d: Option<&Deployment>| {
            d.is_some_and(|d| {
                !d.labels().contains_key(IN_FLIGHT_LABEL)
                    && !d.annotations().contains_key(HELD_ANNOTATION)
            })
        };
        wait_for(self.shop.deployments(), "web", free, PATIENCE).await
    }
}

fn requester(web: &Deployment) -> String {
    let held = web.annotations().get(HELD_ANNOTATION).and_then(|text| Held::read(text));
    held.expect("a stamp").requester.username
}

fn image(web: &Deployment) -> String {
    let pod = web.spec.clone().and_then(|s| s.template.spec).expect("a template");
    pod.containers[0].image.clone().expect("an image")
}

fn rolling() -> Value {
    json!({"rolling": {}})
}

/// What Git has: without `paused`, with something in the template beside the image.
fn git(tag: &str, note: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": format!("web:{tag}"),
                    "env": [{"name": "NOTE", "value": note}]}]}}},
    });
    if let (Some(spec), Some(more)) = (object["spec"].as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    object
}

const APPLY: &str = "apply --server-side --field-manager=git -f -";
const DIFF: &str = "diff --server-side --field-manager=git -f -";

#[tokio::test]
async fn a_changed_image_waits_and_its_upgrade_carries_it_out_once_somebody_else_approved() {
    let stage = Stage::open(1, &canary(&["50", "", "100"])).await.unwrap();
    let (shop, alice) = (&stage.shop, &stage.alice);
    let before = stage.web(4).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    let said = stage.ok(alice, "set image deploy/web web=web:v2", &Value::Null);
    for part in ["held:", "kubectl upgrade approve web-", "succeeded does not mean upgraded"] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    let (web, name) = stage.held().await.unwrap();
    assert_eq!((requester(&web), image(&web)), ("alice".to_owned(), "web:v2".to_owned()));
    let upgrade = shop.phase(&name, Phase::AwaitingApproval).await.unwrap();
    assert_eq!(upgrade.spec.requester.as_ref().expect("a requester").username, "alice");
    assert!(said.err.contains(&name), "{}", said.err);
    // Helm takes what is paused for done; kubectl does not.
    let status = stage.by(alice, "rollout status deploy/web --timeout=5s");
    assert!(status.code != Some(0) && status.out.contains("0 out of 4"), "{status:?}");
    let own = stage.plugin(alice, &format!("approve {name}")).await.unwrap();
    assert!(own.code != Some(0) && own.err.contains("somebody else has to approve"), "{own:?}");
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    let other = stage.plugin(&stage.bob, &format!("approve {name} --yes")).await.unwrap();
    assert_eq!(other.code, Some(0), "{other:?}");
    shop.rests_at(&name, 1).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (2, 2));
    let flying = shop.deployments().get("web").await.unwrap();
    assert!(!flying.annotations().contains_key(HELD_ANNOTATION), "it is in flight now");
    shop.promote(&name).await.unwrap();
    shop.phase(&name, Phase::Completed).await.unwrap();
    shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 4));
    assert!(watch.finish().await.unwrap().min_ready >= 4);
    shop.assert_untouched("web", &before).await.unwrap();
    let ledger: Api<UpgradeLedger> = Api::namespaced(shop.client.clone(), &shop.namespace);
    let entry = ledger.get(LEDGER_NAME).await.unwrap().spec.entries.remove(0);
    assert_eq!((entry.images[0].image.as_str(), entry.upgrade), ("web:v2", Some(name)));
}

#[tokio::test]
async fn aborted_in_flight_gits_template_waits_again_without_drift_and_a_retry_completes() {
    let stage = Stage::open(0, &canary(&["50", "", "100"])).await.unwrap();
    let (shop, alice) = (&stage.shop, &stage.alice);
    stage.ok(alice, APPLY, &git("v1", "one", &json!({})));
    let before = shop.complete("web").await.unwrap();
    stage.known().await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    let wanted = git("v2", "two", &json!({}));
    stage.ok(alice, APPLY, &wanted);
    let held = |d: Option<&Deployment>| d.is_some_and(|d| d.labels().contains_key(IN_FLIGHT_LABEL));
    let web = wait_for(shop.deployments(), "web", held, PATIENCE).await.unwrap();
    let name = web.labels()[IN_FLIGHT_LABEL].clone();
    shop.rests_at(&name, 1).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (2, 2));
    stage.no_drift(alice, &wanted).await;
    shop.steer(&name, json!({"control": {"abort": true}})).await.unwrap();
    shop.phase(&name, Phase::Aborted).await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (4, 0));
    let (web, again) = stage.held().await.unwrap();
    assert_eq!(
        (again.as_str(), requester(&web), image(&web)),
        (name.as_str(), "alice".into(), "web:v2".into())
    );
    stage.no_drift(alice, &wanted).await;
    let generation = web.metadata.generation;
    stage.ok(alice, APPLY, &wanted);
    let (web, _) = stage.held().await.unwrap();
    assert_eq!(web.metadata.generation, generation, "applying it again changes nothing");
    let undone = stage.by(alice, "rollout undo deploy/web");
    assert!(undone.code != Some(0) && undone.err.contains("paused"), "{undone:?}");
    let ours = |d: &Deployment| {
        d.managed_fields().iter().any(|f| f.manager.as_deref() == Some(FIELD_MANAGER))
    };
    let clean = move |d: Option<&Deployment>| d.is_some_and(|d| !ours(d));
    wait_for(shop.deployments(), "web", clean, PATIENCE).await.unwrap();
    assert!(watch.finish().await.unwrap().min_ready_of("web:v1") >= 2);
    // The abort brought the old ReplicaSet back, not one with the old image and the new text.
    assert_eq!(shop.pods("web").await.unwrap().values().sum::<i32>(), 4);
    let retry = json!({"abort": null, "retry": 1, "promote": {"attempt": 1, "full": true}});
    shop.steer(&name, json!({ "control": retry })).await.unwrap();
    shop.phase(&name, Phase::Completed).await.unwrap();
    let done = shop.complete("web").await.unwrap();
    assert_eq!(shop.split("web", "web:v2").await.unwrap(), (0, 4));
    let env = done.spec.unwrap().template.spec.unwrap().containers[0].env.clone().unwrap();
    assert_eq!(env[0].value.as_deref(), Some("two"));
    shop.assert_untouched("web", &before).await.unwrap();
    stage.no_drift(alice, &wanted).await;
}

#[tokio::test]
async fn what_is_held_shows_no_drift_to_whoever_applies_it() {
    let stage = Stage::open(1, &rolling()).await.unwrap();
    let (shop, alice) = (&stage.shop, &stage.alice);
    stage.ok(alice, APPLY, &git("v1", "one", &json!({})));
    shop.complete("web").await.unwrap();
    stage.known().await.unwrap();
    let wanted = git("v2", "two", &json!({}));
    assert_eq!(stage.fed(alice, DIFF, &wanted).code, Some(1), "before: a difference");
    stage.ok(alice, APPLY, &wanted);
    let (web, name) = stage.held().await.unwrap();
    stage.no_drift(alice, &wanted).await;
    stage.ok(alice, APPLY, &wanted);
    let (again, _) = stage.held().await.unwrap();
    assert_eq!(again.metadata.generation, web.metadata.generation);
    // Git that says `paused: false` itself is told, and changes nothing.
    let explicit = git("v2", "two", &json!({"paused": false}));
    let said = stage.ok(alice, &format!("{APPLY} --force-conflicts"), &explicit);
    assert!(said.err.contains("stays paused"), "{}", said.err);
    stage.held().await.unwrap();
    stage.ok(alice, &format!("{DIFF} --force-conflicts"), &explicit);
    // The same for whoever applies from the client, by another person.
    let said = stage.by(&stage.bob, "rollout resume deploy/web");
    assert!(said.err.contains("stays paused"), "{said:?}");
    assert_eq!(stage.held().await.unwrap().1, name);
}

#[tokio::test]
async fn a_client_side_apply_is_held_and_is_unchanged_the_second_time() {
    let stage = Stage::open(1, &rolling()).await.unwrap();
    stage.ok(&stage.alice, "apply -f -", &git("v1", "one", &json!({})));
    stage.shop.complete("web").await.unwrap();
    stage.known().await.unwrap();
    let wanted = git("v2", "two", &json!({}));
    stage.ok(&stage.alice, "apply -f -", &wanted);
    let (_, name) = stage.held().await.unwrap();
    let said = stage.ok(&stage.alice, "apply -f -", &wanted);
    assert!(said.out.contains("unchanged"), "{said:?}");
    let said = stage.ok(&stage.alice, "diff -f -", &wanted);
    assert_eq!(said.out, "");
    assert_eq!(stage.held().await.unwrap().1, name);
}

#[tokio::test]
async fn a_forged_stamp_is_written_over_and_marks_cannot_be_taken_off() {
    let stage = Stage::open(1, &rolling()).await.unwrap();
    stage.web(2).await.unwrap();
    let alice = stage.lab.cluster.client_for("alice", &["people"]).await.unwrap();
    let api: Api<Deployment> = Api::namespaced(alice, &stage.shop.namespace);
    let forged = json!({"requester": {"username": "bob"}, "paused": false}).to_string();
    let patch = json!({
        "metadata": {"labels": {IN_FLIGHT_LABEL: "mine"}, "annotations": {HELD_ANNOTATION: forged}},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:v2"}]}}}});
    let params = PatchParams::default();
    let web = api.patch("web", &params, &Patch::Strategic(&patch)).await.unwrap();
    assert_eq!(requester(&web), "alice");
    let (_, name) = stage.held().await.unwrap();
    assert_ne!(name, "mine");
    for off in [
        json!({"metadata": {"annotations": {HELD_ANNOTATION: forged}}}),
        json!({"metadata": {"annotations": {HELD_ANNOTATION: null}}}),
        json!({"metadata": {"labels": {IN_FLIGHT_LABEL: null}}}),
        json!({"metadata": {"labels": null, "annotations": null}, "spec": {"paused": null}}),
    ] {
        api.patch("web", &params, &Patch::Merge(&off)).await.unwrap();
        let (web, now) = stage.held().await.unwrap();
        assert_eq!((requester(&web).as_str(), &now), ("alice", &name), "{off}");
    }
    // Nobody takes the Upgrade's name, or says that it was opened by Hold.
    let mut own: Upgrade = stage.shop.upgrades().get(&name).await.unwrap_or_else(|_| {
        Upgrade::new(&name, serde_json::from_value(json!({"stages": []})).expect("a spec"))
    });
    stage.shop.phase(&name, Phase::AwaitingApproval).await.unwrap();
    own = stage.shop.upgrades().get(&name).await.unwrap_or(own);
    own.metadata = kube::api::ObjectMeta { name: Some("other".into()), ..Default::default() };
    own.status = None;
    own.spec.requester = None;
    let refused = stage.shop.upgrades().create(&PostParams::default(), &own).await;
    assert!(refused.expect_err("refused").to_string().contains("spec.held"));
}

#[tokio::test]
async fn at_0_replicas_nothing_is_held_and_what_is_held_gets_its_old_template_back() {
    let stage = Stage::open(1, &rolling()).await.unwrap();
    let (shop, alice) = (&stage.shop, &stage.alice);
    stage.web(3).await.unwrap();
    stage.ok(alice, "set image deploy/web web=web:v2", &Value::Null);
    let (_, name) = stage.held().await.unwrap();
    shop.phase(&name, Phase::AwaitingApproval).await.unwrap();
    let watch = shop.watch("web").await.unwrap();
    shop.scale("web", 0).await.unwrap();
    let web = stage.free().await.unwrap();
    assert_eq!((image(&web), web.spec.unwrap().paused), ("web:v1".to_owned(), None));
    let ended = shop.phase(&name, Phase::Aborted).await.unwrap();
    assert!(ended.status.unwrap().message.contains("scaled to 0"));
    let refused = stage.by(alice, "set image deploy/web web=web:v2");
    assert!(refused.code != Some(0) && refused.err.contains("no replicas"), "{refused:?}");
    shop.scale("web", 3).await.unwrap();
    shop.complete("web").await.unwrap();
    let seen = watch.finish().await.unwrap();
    assert_eq!((seen.max_ready_of("web:v2"), seen.max_ready_of("web:v1")), (0, 3));
    // And the same change again is another Upgrade.
    stage.ok(alice, "set image deploy/web web=web:v2", &Value::Null);
    let (_, next) = stage.held().await.unwrap();
    assert_ne!(next, name);
    shop.phase(&next, Phase::AwaitingApproval).await.unwrap();
}

#[tokio::test]
async fn the_old_images_take_it_back_and_others_are_held_anew() {
    let stage = Stage::open(1, &rolling()).await.unwrap();
    let (shop, alice) = (&stage.shop, &stage.alice);
    let before = stage.web(2).await.unwrap();
    stage.ok(alice, "set image deploy/web web=web:v2", &Value::Null);
    let (_, first) = stage.held().await.unwrap();
    shop.phase(&first, Phase::AwaitingApproval).await.unwrap();
    stage.ok(&stage.bob, "set image deploy/web web=web:v3", &Value::Null);
    let (web, second) = stage.held().await.unwrap();
    assert_eq!((requester(&web).as_str(), first == second), ("bob", false));
    let ended = shop.phase(&first, Phase::Aborted).await.unwrap();
    assert!(ended.status.unwrap().message.contains(&second));
    shop.phase(&second, Phase::AwaitingApproval).await.unwrap();
    // More than images is held, and an approval is of all of it.
    stage.ok(alice, "set env deploy/web NOTE=other", &Value::Null);
    let (_, third) = stage.held().await.unwrap();
    assert_ne!(third, second);
    shop.phase(&third, Phase::AwaitingApproval).await.unwrap();
    // A deleted Upgrade is opened anew; one that was aborted stays so.
    let uid = shop.upgrades().get(&third).await.unwrap().uid();
    shop.upgrades().delete(&third, &DeleteParams::default()).await.unwrap();
    let other = move |u: Option<&Upgrade>| u.is_some_and(|u| u.uid() != uid && u.status.is_some());
    wait_for(shop.upgrades(), &third, other, PATIENCE).await.unwrap();
    shop.steer(&third, json!({"control": {"abort": true}})).await.unwrap();
    shop.phase(&third, Phase::Aborted).await.unwrap();
    stage.held().await.unwrap();
    let said = stage.ok(alice, "set image deploy/web web=web:v1", &Value::Null);
    assert!(said.err.contains("taken back"), "{}", said.err);
    let free = stage.free().await.unwrap();
    assert_eq!(image(&free), "web:v1");
    stage.ok(alice, "set env deploy/web NOTE-", &Value::Null);
    shop.complete("web").await.unwrap();
    shop.assert_untouched("web", &before).await.unwrap();
}

#[tokio::test]
async fn the_controller_is_nobodys_deputy_here_either() {
    let stage = Stage::open(0, &rolling()).await.unwrap();
    stage.web(2).await.unwrap();
    // eve may replace Deployments and not patch them.
    let verbs = "--verb=get,list,update";
    stage.admin(&["create", "role", "replacer", verbs, "--resource=deployments.apps"]).unwrap();
    stage.bind("eve", "--role=replacer", "replacer").unwrap();
    let eve = stage.lab.cluster.client_for("eve", &["people"]).await.unwrap();
    let api: Api<Deployment> = Api::namespaced(eve, &stage.shop.namespace);
    eventually("eve's change", PATIENCE, || async {
        let mut web = api.get("web").await?;
        let pod = web.spec.as_mut().and_then(|s| s.template.spec.as_mut()).context("a pod")?;
        pod.containers[0].image = Some("web:v2".to_owned());
        Ok(api.replace("web", &PostParams::default(), &web).await?)
    })
    .await
    .unwrap();
    let (web, name) = stage.held().await.unwrap();
    assert_eq!(requester(&web), "eve");
    let events: Api<Event> = Api::namespaced(stage.shop.client.clone(), &stage.shop.namespace);
    eventually("the event", PATIENCE, || async {
        let all = events.list(&ListParams::default()).await?;
        let told = |e: &&Event| e.reason.as_deref() == Some("HeldWithoutUpgrade");
        let Some(event) = all.iter().find(told) else { bail!("{all:?}") };
        let note = event.note.clone().unwrap_or_default();
        anyhow::ensure!(note.contains("`eve` may not"), "{note}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(stage.shop.upgrades().get_opt(&name).await.unwrap().is_none());
    stage.held().await.unwrap();
    assert_eq!(stage.shop.split("web", "web:v2").await.unwrap(), (2, 0));
}
