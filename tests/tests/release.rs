//! `release`: whatever Upgrades are under way, afterwards nothing of ours is left.

use anyhow::{Context, Result};
use serde_json::json;
use upgrade_core::api::Phase;
use upgrade_sandbox::product::{self, Product};
use upgrade_sandbox::scenario::{Said, Shop, canary, say};

fn run(product: &Product, shop: &Shop, line: &str) -> Result<Said> {
    let mut command = product.plugin(shop.cluster.kubeconfig());
    command.args(line.split_whitespace()).args(["-n", &shop.namespace]);
    say(&mut command, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn release_all_puts_every_field_back_in_every_namespace() -> Result<()> {
    let cluster = upgrade_sandbox::shared().await;
    let product = product::install(cluster).await?;
    let (one, two) = (Shop::open(cluster, 0).await?, Shop::open(cluster, 1).await?);
    let mut before = Vec::new();
    for (name, steps) in [("rests", ["25", "", "100"]), ("done", ["25", "100", "100"])] {
        before.push((name, one.deploy(name, 4, json!({"minReadySeconds": 1})).await?));
        one.upgrade(name, &[name], "web:v2", &canary(&steps)).await?;
    }
    one.rests_at("rests", 1).await?;
    one.phase("done", Phase::Completed).await?;
    let waits = two.deploy("waits", 2, json!({})).await?;
    two.upgrade("waits", &["waits"], "web:v2", &canary(&["50", "100"])).await?;
    two.phase("waits", Phase::AwaitingApproval).await?;

    // Nothing is done before it was asked for, and what is wrong says so.
    let dry = run(&product, &one, "release --all --dry-run=client")?;
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    assert!(
        dry.out.contains("rests aborted (dry run)") && !dry.out.contains("done"),
        "{}",
        dry.out
    );
    one.rests_at("rests", 1).await?;
    for (line, code, says) in [
        ("release", 2, "NAME"),
        ("release nobody", 1, "Upgrade `nobody` does not exist"),
        ("release rests --all", 2, "cannot be used with"),
        ("release rests -A", 2, "--all"),
        ("release --all --timeout soon", 2, "--timeout: `soon` is not a duration"),
    ] {
        let said = run(&product, &one, line)?;
        assert_eq!(said.code, Some(code), "{line}: {}", said.err);
        assert!(said.err.contains(says), "{line}: {}", said.err);
    }

    // While nobody is there to do it, it says so and breaks nothing.
    product.kill().await?;
    let late = run(&product, &one, "release rests --timeout 2s --dry-run=client")?;
    assert_eq!(late.code, Some(0), "{}", late.err);
    let mut product = product;
    product.restart(cluster).await?;
    product.ready().await?;

    let mut command = product.plugin(cluster.kubeconfig());
    let all = say(command.args(["release", "--all", "-A", "--timeout", "2m"]), "")?;
    assert_eq!(all.code, Some(0), "{}", all.err);
    for (shop, name) in [(&one, "rests"), (&two, "waits")] {
        let line = format!("{}/{name} released (Aborted)", shop.namespace);
        assert!(all.out.contains(&line), "{}", all.out);
    }
    for (name, before) in &before {
        one.complete(name).await?;
        one.assert_untouched(name, before).await?;
    }
    two.assert_untouched("waits", &waits).await?;
    assert_eq!(one.split("rests", "web:v2").await?, (4, 0));
    assert_eq!(one.split("done", "web:v2").await?, (0, 4), "what is done stays done");
    let again = run(&product, &one, "release --all -o json")?;
    let list: serde_json::Value = serde_json::from_str(&again.out).context("JSON")?;
    assert_eq!(list["items"], json!([]), "{}", again.out);
    assert!(again.err.contains("nothing to release"), "{}", again.err);
    Ok(())
}
