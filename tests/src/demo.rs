//! `cargo demo`: the main job on a real API server, narrated.
//!
//! Each check is one that anybody could make by hand with the commands shown. Minima come from a
//! watch, never from polling. The last line counts.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::product::{self, Product};
use crate::scenario::Shop;
use crate::{ControlPlane, Options, Progress};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use upgrade_core::api::{MaintenanceWindow, Phase};

struct Demo {
    shop: Shop,
    product: Product,
    kubectl: PathBuf,
    ana: PathBuf,
    bob: PathBuf,
    passed: u32,
    failed: u32,
}

/// Runs the demo; the exit code says whether every check passed.
pub async fn main() -> ExitCode {
    let started = Instant::now();
    match Box::pin(run()).await {
        Ok((passed, failed)) => {
            println!("\ntook {:.1} s", started.elapsed().as_secs_f32());
            println!("{passed} passed, {failed} failed");
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the demo cannot go on: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(u32, u32)> {
    title("A real control plane, with the product on it");
    let options = Options { progress: Progress::stderr(), ..Options::default() };
    let cluster: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).await?));
    let product = product::install(cluster).await?;
    let shop = Shop::open(cluster, 1).await?;
    println!("namespace {} is governed: one approval by somebody else is needed", shop.namespace);
    let mut demo = Demo {
        kubectl: cluster.binaries().kubectl.clone(),
        ana: cluster.kubeconfig_for("ana", &["developers"])?,
        bob: cluster.kubeconfig_for("bob", &["release-managers"])?,
        shop,
        product,
        passed: 0,
        failed: 0,
    };
    for user in ["ana", "bob"] {
        for role in ["edit", "kubectl-upgrade-approver"] {
            demo.grant(user, role).await?;
        }
    }
    let ended = Box::pin(demo.story()).await;
    let counts = (demo.passed, demo.failed);
    demo.product.webhook().term()?;
    demo.product.webhook().wait_exit().await;
    // The guardian ends the rest when this process does.
    ended.map(|()| counts)
}

impl Demo {
    async fn story(&mut self) -> Result<()> {
        let before = self.shop.deploy("web", 10, json!({})).await?;
        self.nobody_changes_an_image_directly()?;
        Box::pin(self.a_canary_with_approval()).await?;
        self.shop.complete("web").await?;
        self.check(
            "afterwards nothing of ours is left on the Deployment",
            self.clean("web", &before).await,
        );
        Box::pin(self.a_bad_version_is_taken_back()).await?;
        Box::pin(self.abort_and_retry()).await?;
        Box::pin(self.a_freeze_holds_it()).await
    }

    fn nobody_changes_an_image_directly(&mut self) -> Result<()> {
        title("Nobody changes an image directly");
        let (ok, text) = self.kubectl("ana", &["set", "image", "deployment/web", "web=web:v2"])?;
        let refused = !ok && text.contains("web:v2") && text.contains("kubectl upgrade start");
        self.check(
            "`kubectl set image` is refused, with the reason and the command that helps",
            refused,
        );
        let (ok, _) = self.kubectl("ana", &["scale", "deployment/web", "--replicas=11"])?;
        let (back, _) = self.kubectl("ana", &["scale", "deployment/web", "--replicas=10"])?;
        self.check("scaling passes", ok && back);
        Ok(())
    }

    async fn a_canary_with_approval(&mut self) -> Result<()> {
        title("An approved Upgrade does, step by step");
        self.shop.complete("web").await?;
        let (ok, _) = self.upgrade(
            "ana",
            &[
                "start",
                "deploy/web",
                "--image",
                "web=web:v2",
                "--name",
                "web-v2",
                "--steps",
                "10,pause,50,pause,100",
            ],
        )?;
        self.check("ana starts an Upgrade", ok);
        self.shop.phase("web-v2", Phase::AwaitingApproval).await?;
        self.check("it awaits approval", true);
        let (ok, text) = self.upgrade("ana", &["approve", "web-v2", "--yes"])?;
        self.check("ana's own approval is refused", !ok && text.contains("somebody else"));
        let (ok, text) = self.approve_by_hand("ana").await?;
        self.check(
            "also without the plugin, by the API server",
            !ok && text.contains("denied the request"),
        );
        let watch = self.shop.watch("web").await?;
        let (ok, _) = self.upgrade("bob", &["approve", "web-v2", "--yes"])?;
        self.check("bob's is accepted", ok);
        self.shop.rests_at("web-v2", 1).await?;
        self.split("10 %", "web:v2", (9, 1)).await?;
        let (ok, _) = self.upgrade("ana", &["pause", "web-v2"])?;
        let paused = self.shop.phase("web-v2", Phase::Paused).await?.spec.paused;
        self.check("ana pauses it", ok && paused);
        let (ok, _) = self.upgrade("ana", &["resume", "web-v2"])?;
        self.check("and resumes it", ok);
        self.shop.rests_at("web-v2", 1).await?;
        let (ok, _) = self.upgrade("ana", &["promote", "web-v2"])?;
        self.check("ana promotes it past the pause", ok);
        self.shop.rests_at("web-v2", 3).await?;
        self.split("50 %", "web:v2", (5, 5)).await?;
        self.upgrade("ana", &["status", "web-v2"])?;
        let (ok, _) = self.upgrade("ana", &["promote", "web-v2"])?;
        self.check("and past the next", ok);
        self.shop.phase("web-v2", Phase::Completed).await?;
        self.split("100 %", "web:v2", (0, 10)).await?;
        let seen = watch.finish().await?;
        println!(
            "   fewest ready pods at any moment: {} of 10, most asked for: {}",
            seen.min_ready, seen.max_desired
        );
        self.check("never fewer than 10 ready pods", seen.min_ready >= 10);
        Ok(())
    }

    async fn a_bad_version_is_taken_back(&mut self) -> Result<()> {
        title("A version whose pods never become ready is taken back by itself");
        let before = self.shop.deploy("api", 10, json!({"progressDeadlineSeconds": 5})).await?;
        let watch = self.shop.watch("api").await?;
        self.upgrade(
            "ana",
            &[
                "start",
                "deploy/api",
                "--image",
                "web=web:v2-never-ready",
                "--name",
                "api-v2",
                "--steps",
                "10,50,100",
            ],
        )?;
        self.shop.phase("api-v2", Phase::AwaitingApproval).await?;
        self.upgrade("bob", &["approve", "api-v2", "--yes"])?;
        let done = self.shop.phase("api-v2", Phase::RolledBack).await?;
        println!("   {}", done.status.unwrap_or_default().message);
        self.check("it is rolled back without anybody asking", true);
        let seen = watch.finish().await?;
        let least = seen.min_ready_of("web:v1");
        println!("   fewest ready pods of web:v1 at any moment: {least} of 10");
        self.check("the stable pods were never under 10", least >= 10);
        self.check("nothing of ours is left on the Deployment", self.clean("api", &before).await);
        Ok(())
    }

    async fn abort_and_retry(&mut self) -> Result<()> {
        title("Abort and retry");
        let before = self.shop.deploy("cart", 4, json!({})).await?;
        self.upgrade(
            "ana",
            &["start", "deploy/cart", "--to", "v2", "--name", "cart-v2", "--steps", "50,pause,100"],
        )?;
        self.shop.phase("cart-v2", Phase::AwaitingApproval).await?;
        self.upgrade("bob", &["approve", "cart-v2", "--yes"])?;
        self.shop.rests_at("cart-v2", 1).await?;
        let (ok, _) = self.upgrade("ana", &["abort", "cart-v2"])?;
        self.shop.phase("cart-v2", Phase::Aborted).await?;
        let back = self.shop.split("cart", "web:v2").await? == (4, 0);
        self.check("ana aborts it: all pods are web:v1 again", ok && back);
        self.check("nothing of ours is left on the Deployment", self.clean("cart", &before).await);
        let (ok, _) = self.upgrade("ana", &["retry", "cart-v2"])?;
        self.shop.phase("cart-v2", Phase::AwaitingApproval).await?;
        self.check("a word is good for one attempt: the retry waits for bob", ok);
        self.upgrade("bob", &["approve", "cart-v2", "--yes"])?;
        self.shop.rests_at("cart-v2", 1).await?;
        let (on, _) = self.upgrade("ana", &["promote", "cart-v2", "--full"])?;
        self.shop.phase("cart-v2", Phase::Completed).await?;
        self.check("ana retries and promotes it to the end", ok && on);
        self.upgrade("ana", &["list"])?;
        self.upgrade("ana", &["history"])?;
        Ok(())
    }

    async fn a_freeze_holds_it(&mut self) -> Result<()> {
        title("A freeze holds it, and says until when");
        let reason = json!({"kind": "Deny", "reason": "stock-taking, ask the platform team"});
        let freeze = self.shop.window("freeze", reason).await?;
        self.upgrade("ana", &["start", "deploy/cart", "--to", "v3", "--name", "cart-v3"])?;
        self.shop.phase("cart-v3", Phase::AwaitingApproval).await?;
        self.upgrade("bob", &["approve", "cart-v3", "--yes"])?;
        self.shop.says("cart-v3", "stock-taking").await?;
        let (free, text) = self.upgrade("ana", &["explain", "cart-v3"])?;
        let held = !free && text.contains("stock-taking");
        self.check("`explain` says what holds it, and whom to ask", held);
        let windows: Api<MaintenanceWindow> = Api::all(self.shop.client.clone());
        windows.delete(&freeze.name_any(), &DeleteParams::default()).await?;
        self.shop.phase("cart-v3", Phase::Completed).await?;
        self.check("the freeze is over: it goes by itself", true);
        Ok(())
    }

    /// What the plugin does, by `kubectl create`: the plugin is no part of the enforcement.
    async fn approve_by_hand(&self, user: &str) -> Result<(bool, String)> {
        let hash = self.shop.upgrades().get("web-v2").await?.status.unwrap_or_default().plan_hash;
        let approval = json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
            "metadata": {"name": "by-hand"},
            "spec": {"upgrade": "web-v2", "planHash": hash, "decision": "Approved"},
        });
        let file = self.shop.cluster.dir().join("approval.json");
        std::fs::write(&file, approval.to_string())?;
        self.kubectl(user, &["create", "-f", &file.to_string_lossy()])
    }

    async fn split(&mut self, what: &str, to: &str, wanted: (i32, i32)) -> Result<()> {
        let now = self.shop.split("web", to).await?;
        println!("   ReplicaSets: {} of web:v1, {} of {to}", now.0, now.1);
        self.check(&format!("the ReplicaSets are at exactly {what}"), now == wanted);
        Ok(())
    }

    async fn clean(&self, name: &str, before: &k8s_openapi::api::apps::v1::Deployment) -> bool {
        // The assertion panics with what differs; that text is worth more than a false.
        self.shop.assert_untouched(name, before).await.is_ok()
    }

    fn check(&mut self, what: &str, ok: bool) {
        println!(" {} {what}", if ok { "✔" } else { "✖" });
        *(if ok { &mut self.passed } else { &mut self.failed }) += 1;
    }

    async fn grant(&self, user: &str, role: &str) -> Result<()> {
        let binding: RoleBinding = serde_json::from_value(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": format!("{user}-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }))?;
        let api: Api<RoleBinding> = Api::namespaced(self.shop.client.clone(), &self.shop.namespace);
        api.create(&PostParams::default(), &binding).await.context("role binding")?;
        Ok(())
    }

    fn kubectl(&self, user: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig(user)?).args(arguments);
        self.say(user, &format!("kubectl {}", arguments.join(" ")), command)
    }

    fn upgrade(&self, user: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = self.product.plugin(self.kubeconfig(user)?);
        command.args(arguments);
        self.say(user, &format!("kubectl upgrade {}", arguments.join(" ")), command)
    }

    fn kubeconfig(&self, user: &str) -> Result<&Path> {
        match user {
            "ana" => Ok(&self.ana),
            "bob" => Ok(&self.bob),
            other => bail!("nobody knows {other}"),
        }
    }

    fn say(&self, user: &str, shown: &str, mut command: Command) -> Result<(bool, String)> {
        println!(" {user}$ {shown}");
        let output = command
            .args(["-n", &self.shop.namespace])
            .output()
            .with_context(|| shown.to_owned())?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        for line in text.lines() {
            println!("   {line}");
        }
        Ok((output.status.success(), text))
    }
}

fn title(text: &str) {
    println!("\n== {text}");
}
