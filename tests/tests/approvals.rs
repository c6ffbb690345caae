//! Approvals against people who would like to do without: each attack on the real API server, with
//! the controller that counts them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use upgrade_core::api::approval::{Decision, UpgradeApproval, UpgradeApprovalSpec};
use upgrade_core::api::{Identity, Phase, Upgrade, UpgradePolicy};
use upgrade_core::plan::plan_hash;
use upgrade_sandbox::eventually;
use upgrade_sandbox::scenario::{PATIENCE, Shop, canary, lab};

const WEB: &str = "up";

/// A shop in which ana asks, and everybody else of these has the verb `approve`: bob, who is in no
/// group that matters, and sue, who is in `sre`.
struct Stage {
    shop: Shop,
    ana: Client,
    bob: Client,
    sue: Client,
}

impl Stage {
    /// A shop with this for `spec.approvals` of its policy, and an Upgrade of ana that waits.
    async fn open(approvals: Value) -> Result<Self> {
        let lab = lab().await;
        let shop = lab.shop(1).await?;
        let policies: Api<UpgradePolicy> = Api::all(shop.client.clone());
        let spec = json!({"spec": {"approvals": approvals}});
        policies.patch(&shop.namespace, &PatchParams::default(), &Patch::Merge(&spec)).await?;
        for (user, role) in [
            ("ana", "admin"),
            ("ana", "kubectl-upgrade-approver"),
            ("bob", "admin"),
            ("bob", "kubectl-upgrade-approver"),
            ("sue", "kubectl-upgrade-approver"),
        ] {
            let (name, role) = (format!("{user}-{role}"), format!("--clusterrole={role}"));
            let user = format!("--user={user}");
            let args = ["create", "rolebinding", &name, &role, &user, "-n", &shop.namespace];
            let made = lab.cluster.kubectl().args(args).output()?;
            ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let stage = Self {
            ana: lab.cluster.client_for("ana", &["people"]).await?,
            bob: lab.cluster.client_for("bob", &["people"]).await?,
            sue: lab.cluster.client_for("sue", &["sre"]).await?,
            shop,
        };
        stage.shop.deploy("web", 2, json!({})).await?;
        stage.start().await?;
        Ok(stage)
    }

    /// An Upgrade of ana, which waits for people.
    async fn start(&self) -> Result<Upgrade> {
        let object: Upgrade = serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": WEB},
            "spec": {"stages": [{"name": "web", "workloads": {
                "strategy": canary(&["50", "", "100"]),
                "targets": [{"kind": "Deployment", "name": "web",
                    "images": [{"container": "web", "from": "web:v1", "to": "web:v2"}]}]}}]},
        }))?;
        self.upgrades(&self.ana).create(&PostParams::default(), &object).await?;
        self.shop.phase(WEB, Phase::AwaitingApproval).await
    }

    fn upgrades(&self, by: &Client) -> Api<Upgrade> {
        Api::namespaced(by.clone(), &self.shop.namespace)
    }

    fn approvals(&self, by: &Client) -> Api<UpgradeApproval> {
        Api::namespaced(by.clone(), &self.shop.namespace)
    }

    /// An approval of the plan as it is now.
    async fn word(&self) -> Result<UpgradeApproval> {
        let live = self.shop.upgrades().get(WEB).await?;
        Ok(UpgradeApproval {
            metadata: ObjectMeta { generate_name: Some("word-".into()), ..ObjectMeta::default() },
            spec: UpgradeApprovalSpec {
                upgrade: WEB.into(),
                upgrade_uid: live.uid(),
                plan_hash: plan_hash(&self.shop.namespace, WEB, &live.spec),
                stage: None,
                step: None,
                decision: Decision::Approved,
                reason: None,
                approver: None,
            },
        })
    }

    async fn approves(&self, by: &Client, word: &UpgradeApproval) -> Result<UpgradeApproval> {
        Ok(self.approvals(by).create(&PostParams::default(), word).await?)
    }

    /// Expects that somebody's word is refused, in these words; nothing is stored even if not.
    async fn refuses(&self, by: &Client, word: &UpgradeApproval, says: &[&str]) {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        // A policy reaches the webhook by a watch.
        eventually("the refusal", Duration::from_secs(10), || async {
            says_no(self.approvals(by).create(&dry, word).await, says)
        })
        .await
        .expect("refused");
    }

    /// Expects that nobody's word counts yet and that nothing runs but what ran.
    async fn untouched(&self) -> Result<()> {
        let status = self.shop.upgrades().get(WEB).await?.status.unwrap_or_default();
        ensure!(status.phase == Phase::AwaitingApproval, "it is {}", status.phase);
        let by = status.approvals.unwrap_or_default().approved_by;
        ensure!(by.is_empty(), "approved by {by:?}");
        ensure!(self.shop.split("web", "web:v2").await?.1 == 0, "pods of web:v2");
        Ok(())
    }
}

fn says_no<T>(answer: kube::Result<T>, says: &[&str]) -> Result<()> {
    let text = answer.err().context("accepted")?.to_string();
    for part in says {
        ensure!(text.contains(part), "does not say `{part}`: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_approves_their_own_upgrade() -> Result<()> {
    let stage = Stage::open(json!({"required": 1})).await?;
    let word = stage.word().await?;
    stage.refuses(&stage.ana, &word, &["(OwnUpgrade)", "somebody else's word"]).await;
    // Nor in another's name: who asks is stamped.
    let mut forged = word.clone();
    forged.spec.approver = Some(Identity { username: "bob".into(), uid: None, groups: vec![] });
    stage.refuses(&stage.ana, &forged, &["(OwnUpgrade)"]).await;
    stage.untouched().await?;
    let made = stage.approves(&stage.bob, &word).await?;
    assert_eq!(made.spec.approver.map(|a| a.username).as_deref(), Some("bob"));
    stage.shop.phase(WEB, Phase::Paused).await?;
    Ok(())
}

#[tokio::test]
async fn groups_are_what_the_api_server_says_at_the_request() -> Result<()> {
    let stage = Stage::open(json!({"required": 1, "approvers": {"groups": ["sre"]}})).await?;
    let word = stage.word().await?;
    let says = ["(ApproverNotAllowed)", "group `sre`", "people, system:authenticated"];
    stage.refuses(&stage.bob, &word, &says).await;
    // A group that is written down is no group that one is in.
    let mut escalated = word.clone();
    escalated.spec.approver = Some(Identity {
        username: "bob".into(),
        uid: None,
        groups: vec!["sre".into(), "system:masters".into()],
    });
    stage.refuses(&stage.bob, &escalated, &["(ApproverNotAllowed)"]).await;
    let mut sues = escalated.clone();
    sues.spec.approver =
        Some(Identity { username: "sue".into(), uid: None, groups: vec!["sre".into()] });
    stage.refuses(&stage.bob, &sues, &["(ApproverNotAllowed)", "`bob` may not"]).await;
    stage.untouched().await?;
    let made = stage.approves(&stage.sue, &word).await?;
    let approver = made.spec.approver.context("stamped")?;
    assert!(approver.username == "sue" && approver.groups.contains(&"sre".to_owned()));
    stage.shop.phase(WEB, Phase::Paused).await?;
    Ok(())
}

#[tokio::test]
async fn an_approval_covers_no_edited_plan() -> Result<()> {
    let stage = Stage::open(json!({"required": 2})).await?;
    stage.approves(&stage.bob, &stage.word().await?).await?;
    let images = json!([{"op": "replace", "path": "/spec/stages/0/workloads/targets/0/images/0/to",
        "value": "web:evil"}]);
    let patch = Patch::<()>::Json(serde_json::from_value(images)?);
    let edited = stage.upgrades(&stage.ana).patch(WEB, &PatchParams::default(), &patch).await;
    says_no(edited, &["spec.stages is immutable"])?;
    // An approval of another plan, whoever signs it.
    let mut other = stage.word().await?;
    let mut spec = stage.shop.upgrades().get(WEB).await?.spec;
    spec.stages[0].workloads.as_mut().context("a stage")?.targets[0].images[0].to = "web:v3".into();
    other.spec.plan_hash = plan_hash(&stage.shop.namespace, WEB, &spec);
    stage.refuses(&stage.sue, &other, &["(StalePlan)", "not this one"]).await;
    Ok(())
}

#[tokio::test]
async fn an_approval_is_no_good_for_a_namesake_nor_in_other_hands() -> Result<()> {
    let stage = Stage::open(json!({"required": 2})).await?;
    let made = stage.approves(&stage.bob, &stage.word().await?).await?;
    // Copied by somebody else it is that one's word: ana's own Upgrade, and eve may not at all.
    let copy = UpgradeApproval {
        metadata: ObjectMeta { generate_name: Some("copy-".into()), ..ObjectMeta::default() },
        spec: made.spec.clone(),
    };
    stage.refuses(&stage.ana, &copy, &["(OwnUpgrade)"]).await;
    let eve = stage.shop.cluster.client_for("eve", &["sre"]).await?;
    stage.refuses(&eve, &copy, &["forbidden"]).await;
    // The same plan once more, under the same name: another Upgrade, that nobody has looked at.
    let upgrades = stage.upgrades(&stage.ana);
    upgrades.delete(WEB, &DeleteParams::default()).await?;
    eventually("the end of the first", PATIENCE, || async {
        ensure!(upgrades.get_opt(WEB).await?.is_none(), "still there");
        Ok(())
    })
    .await?;
    stage.start().await?;
    stage.refuses(&stage.bob, &copy, &["(StalePlan)", "its uid is"]).await;
    stage.untouched().await
}

#[tokio::test]
async fn marks_that_pretend_an_approval_have_no_effect() -> Result<()> {
    let stage = Stage::open(json!({"required": 1})).await?;
    let hash = plan_hash(&stage.shop.namespace, WEB, &stage.shop.upgrades().get(WEB).await?.spec);
    let marks = json!({
        "kubectl-upgrade.dev/approved": "true", "kubectl-upgrade.dev/approved-by": "bob",
        "kubectl-upgrade.dev/plan-hash": hash, "kubectl-upgrade.dev/approver": "bob",
    });
    let plain = json!({"kubectl-upgrade.dev/approved": "true"});
    let patch = Patch::Merge(json!({"metadata": {"annotations": marks, "labels": plain}}));
    stage.upgrades(&stage.ana).patch(WEB, &PatchParams::default(), &patch).await?;
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
        Api::namespaced(stage.ana.clone(), &stage.shop.namespace);
    deployments.patch("web", &PatchParams::default(), &patch).await?;
    // Any word of ours on the workload that means something is the controller's.
    let label = json!({"metadata": {"labels": {"kubectl-upgrade.dev/upgrade": WEB}}});
    let labelled = deployments.patch("web", &PatchParams::default(), &Patch::Merge(label)).await;
    says_no(labelled, &["(LabelReserved)"])?;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "web:v2"}]}}}});
    let image = Patch::Strategic(image);
    // How far the Upgrade is, admission hears by a watch; that it refuses, it knows without.
    let trial = PatchParams { dry_run: true, ..PatchParams::default() };
    eventually("the phase to be heard of", PATIENCE, || async {
        let changed = deployments.patch("web", &trial, &image).await;
        says_no(changed, &["AwaitingApproval"])
    })
    .await?;
    let changed = deployments.patch("web", &PatchParams::default(), &image).await;
    says_no(changed, &["(UpgradeRequired)", "AwaitingApproval"])?;
    stage.untouched().await
}

#[tokio::test]
async fn nobody_writes_the_count_of_approvals() -> Result<()> {
    let stage = Stage::open(json!({"required": 1})).await?;
    let status = json!({"status": {"phase": "Progressing",
        "approvals": {"required": 1, "approvedBy": ["bob"]}}});
    for by in [&stage.shop.client, &stage.ana] {
        let wrote = stage
            .upgrades(by)
            .patch_status(WEB, &PatchParams::default(), &Patch::Merge(&status))
            .await;
        let text = wrote.err().context("accepted")?.to_string();
        assert!(text.contains("ControllerOnly") || text.contains("forbidden"), "{text}");
    }
    // Through the object itself a status does not go.
    let patch = Patch::Merge(&status);
    stage.upgrades(&stage.ana).patch(WEB, &PatchParams::default(), &patch).await?;
    stage.untouched().await
}

#[tokio::test]
async fn a_word_is_not_edited_and_can_be_taken_back_before_the_start() -> Result<()> {
    let stage = Stage::open(json!({"required": 2})).await?;
    let made = stage.approves(&stage.bob, &stage.word().await?).await?;
    let approved_by = |expected: &'static [&'static str]| {
        let upgrades = stage.shop.upgrades();
        eventually("the count", PATIENCE, move || {
            let upgrades = upgrades.clone();
            async move {
                let status = upgrades.get(WEB).await?.status.unwrap_or_default();
                let by = status.approvals.unwrap_or_default().approved_by;
                ensure!(by == expected, "{by:?}");
                Ok(())
            }
        })
    };
    approved_by(&["bob"]).await?;
    let admin = stage.approvals(&stage.shop.client);
    let name = made.name_any();
    for edit in [
        json!({"spec": {"approver": {"username": "sue", "groups": ["sre"]}}}),
        json!({"spec": {"decision": "Rejected", "reason": "no"}}),
        json!({"spec": {"planHash": format!("sha256:{}", "0".repeat(64))}}),
        json!({"spec": {"stage": "web"}}),
    ] {
        let edited = admin.patch(&name, &PatchParams::default(), &Patch::Merge(&edit)).await;
        says_no(edited, &["never changed"])?;
    }
    admin.delete(&name, &DeleteParams::default()).await?;
    approved_by(&[]).await?;
    stage.approves(&stage.sue, &stage.word().await?).await?;
    approved_by(&["sue"]).await?;
    let status = stage.shop.upgrades().get(WEB).await?.status.unwrap_or_default();
    assert_eq!(status.phase, Phase::AwaitingApproval, "one of two");
    Ok(())
}

#[tokio::test]
async fn an_approval_by_stage_or_step_names_it() -> Result<()> {
    let stage = Stage::open(json!({"required": 1, "per": "Step"})).await?;
    let word = |stage: Option<&str>, step: Option<i32>, mut word: UpgradeApproval| {
        (word.spec.stage, word.spec.step) = (stage.map(str::to_owned), step);
        word
    };
    let plain = stage.word().await?;
    let command =
        format!("kubectl upgrade approve up --stage web --step 0 -n {}", stage.shop.namespace);
    stage.refuses(&stage.bob, &plain, &["(ScopeMismatch)", "one step at a time", &command]).await;
    let whole = word(Some("web"), None, plain.clone());
    stage.refuses(&stage.bob, &whole, &["(ScopeMismatch)", "`spec.approvals.per` is Step"]).await;
    let pause = word(Some("web"), Some(1), plain.clone());
    stage.refuses(&stage.bob, &pause, &["step 1 of that stage sets no weight", "0, 2"]).await;
    let other = word(Some("db"), Some(0), plain.clone());
    stage.refuses(&stage.bob, &other, &["the plan has no stage db", "its stages are web"]).await;
    // The plugin says it with flags.
    let lab = lab().await;
    let bob = || lab.cluster.kubeconfig_for("bob", &["people"]);
    let namespace = stage.shop.namespace.as_str();
    let without = lab.plugin(bob()?, &["approve", WEB, "--yes", "-n", namespace]).await?;
    let text = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && text.contains(&command), "{text}");
    let nowhere = ["approve", WEB, "--yes", "--stage", "db", "-n", namespace];
    let nowhere = lab.plugin(bob()?, &nowhere).await?;
    let text = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(text.contains("--stage: Upgrade up has no stage db; it has web"), "{text}");
    let with = ["approve", WEB, "--yes", "--stage", "web", "--step", "0", "-n", namespace];
    let with = lab.plugin(bob()?, &with).await?;
    let (out, err) = (String::from_utf8_lossy(&with.stdout), String::from_utf8_lossy(&with.stderr));
    assert!(out.contains("up approved, step 0 of stage web"), "{out}{err}");
    let made = stage.approvals(&stage.shop.client).list(&ListParams::default()).await?.items;
    let parts: Vec<_> = made.iter().map(|a| (a.spec.stage.as_deref(), a.spec.step)).collect();
    assert_eq!(parts, [(Some("web"), Some(0))]);
    Ok(())
}
