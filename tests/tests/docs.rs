//! What the README tells people to type, typed on the real API server.

use std::path::Path;
use std::process::Command;

use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use upgrade_core::api::{Phase, UpgradePolicy};
use upgrade_sandbox::scenario::{Lab, Said, Shop, lab, say};

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(path).expect("README.md")
}

/// Every command of the console blocks, without prompt and comment.
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```console\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|line| line.split(" # ").next().unwrap_or(line).trim().to_owned())
        .collect()
}

/// The README's command that starts with this.
fn command(readme: &str, start: &str) -> String {
    let all = commands(readme);
    let found = all.iter().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("`{start}` is not in {all:#?}")).clone()
}

/// kubectl that finds the plugin as it does on a person's machine: in PATH.
fn kubectl(lab: &Lab, kubeconfig: &Path) -> Command {
    let plugin = lab.product.binaries().plugin.parent().expect("a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(plugin.to_owned()).chain(std::env::split_paths(&path));
    let mut command = lab.cluster.kubectl_with(kubeconfig);
    command.env("PATH", std::env::join_paths(path).expect("a PATH"));
    command
}

/// A line of the README in a namespace, with these words more.
fn typed(lab: &Lab, user: &Path, line: &str, namespace: &str, more: &[&str]) -> Said {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("kubectl"), "{line}");
    let mut command = kubectl(lab, user);
    command.args(words).args(more);
    // Empty where the line is about the whole cluster.
    if !namespace.is_empty() {
        command.args(["-n", namespace]);
    }
    say(&mut command, "").expect("kubectl runs")
}

#[track_caller]
fn ok(said: Said) -> String {
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    said.out
}

/// A shop with the README's Deployment: `web`, its container `web` at shop/web:v1.
async fn shop(lab: &Lab) -> Shop {
    let shop = lab.shop(1).await.expect("a shop");
    let template = json!({"spec": {"containers": [{"name": "web", "image": "shop/web:v1"}]}});
    shop.deploy("web", 10, json!({"template": template})).await.expect("web");
    shop
}

#[tokio::test]
async fn the_policy_of_the_install_section_is_what_the_server_takes() {
    let (lab, readme) = (lab().await, readme());
    let (_, rest) = readme.split_once("$ kubectl apply -f - <<EOF\n").expect("the heredoc");
    let (yaml, _) = rest.split_once("\nEOF\n").expect("its end");
    // It is about every governed namespace, and so about those of the other tests: checked to the
    // letter, and not kept.
    let mut command = lab.cluster.kubectl();
    command.args(["apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"]);
    let text = ok(say(&mut command, yaml).unwrap());
    let stored: Value = serde_json::from_str(&text).unwrap();
    let written: Value = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(stored["kind"], "UpgradePolicy");
    assert_eq!(stored["spec"]["workloads"], written["spec"]["workloads"]);
    let required = |policy: &Value| policy["spec"]["approvals"]["required"].clone();
    assert_eq!(required(&stored), required(&written));
    let policies: Api<UpgradePolicy> = Api::all(lab.cluster.client().await.unwrap());
    assert!(policies.get_opt("default").await.unwrap().is_none());
}

#[tokio::test]
async fn the_label_of_the_install_section_is_what_governs() {
    let (lab, readme) = (lab().await, readme());
    let line = command(&readme, "kubectl label namespace ");
    let label = line.rsplit(' ').next().expect("a label");
    assert_eq!(label.split_once('='), Some((upgrade_core::api::GOVERNED_LABEL, "true")));
    let namespace = lab.cluster.namespace("shop").await.unwrap();
    let line = line.replace(" shop ", &format!(" {namespace} "));
    let out = ok(typed(lab, lab.cluster.kubeconfig(), &line, &namespace, &[]));
    assert!(out.contains("labeled"), "{out}");
}

#[tokio::test]
async fn every_command_line_parses() {
    let (lab, readme) = (lab().await, readme());
    // Nobody listens on port 1: what is wrong with a line shows before the first request.
    let nowhere = ["--server", "https://127.0.0.1:1", "--request-timeout", "5s"];
    let mut lines = commands(&readme);
    // Prose has some, too.
    let prose = readme.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    lines.extend(prose.filter(|name| name.starts_with("kubectl upgrade ")).map(str::to_owned));
    lines.retain(|line| line.starts_with("kubectl upgrade "));
    assert!(lines.len() >= 5, "{lines:#?}");
    for line in lines {
        let help = ok(typed(lab, lab.cluster.kubeconfig(), &line, "", &["--help"]));
        let verb = line.split(' ').nth(2).expect("a verb");
        assert!(help.contains(&format!("Usage: kubectl upgrade {verb}")), "{line}: {help}");
        let safe: &[&str] = match verb {
            "start" | "install" | "uninstall" => &["--dry-run=client"],
            "approve" => &["--dry-run=client", "--yes"],
            "status" => &["--timeout=5s"],
            "doctor" | "explain" | "windows" | "matrix" => &[],
            other => panic!("say here how `{other}` is run without doing anything: {line}"),
        };
        let more = [safe, nowhere.as_slice()].concat();
        let said = typed(lab, lab.cluster.kubeconfig(), &line, "", &more);
        assert_ne!(said.code, Some(2), "bad usage: {line}\n{}", said.err);
        assert!(!said.err.contains("panicked"), "{line}\n{}", said.err);
    }
}

#[tokio::test]
async fn the_refusal_at_the_top_is_what_people_see() {
    let (lab, readme) = (lab().await, readme());
    let shop = shop(lab).await;
    let line = command(&readme, "kubectl set image ");
    let said = typed(lab, lab.cluster.kubeconfig(), &line, &shop.namespace, &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let (_, rest) = readme.split_once(&line).expect("the line");
    let promise = rest.lines().nth(1).expect("the answer");
    for part in promise.split('…').map(str::trim).filter(|part| !part.is_empty()) {
        assert!(said.err.contains(part), "`{part}` is not in:\n{}", said.err);
    }
    let helps = "kubectl upgrade start deploy/web --image web=shop/web:v2";
    assert!(said.err.contains(helps), "{}", said.err);
    let now = shop.deployments().get("web").await.unwrap();
    assert_eq!(now.spec, shop.complete("web").await.unwrap().spec);
    assert_eq!(shop.pods("web").await.unwrap(), [("shop/web:v1".to_owned(), 10)].into());
}

#[tokio::test]
async fn start_approve_and_status_at_the_top_are_a_story_that_works() {
    let (lab, readme) = (lab().await, readme());
    let shop = shop(lab).await;
    let line = command(&readme, "kubectl upgrade start ");
    let user = lab.cluster.kubeconfig();
    let checked = ok(typed(lab, user, &line, &shop.namespace, &["--dry-run=server"]));
    assert!(checked.contains("web"), "{checked}");
    assert!(shop.upgrades().list(&ListParams::default()).await.unwrap().items.is_empty());

    // The next lines call the Upgrade by name: this one has to get that name by itself.
    ok(typed(lab, user, &line, &shop.namespace, &[]));
    let approve = command(&readme, "kubectl upgrade approve ");
    let name = approve.split(' ').nth(3).expect("a name");
    shop.phase(name, Phase::AwaitingApproval).await.unwrap();
    let own = typed(lab, user, &approve, &shop.namespace, &["--yes"]);
    assert_eq!(own.code, Some(4), "`# somebody else` is meant: {own:?}");
    let other = lab.cluster.kubeconfig_for("bob", &["system:masters"]).unwrap();
    ok(typed(lab, &other, &approve, &shop.namespace, &["--yes"]));

    // Its first pause: 10 % of the pods, exactly.
    shop.rests_at(name, 1).await.unwrap();
    let count = |image: &str, n| (image.to_owned(), n);
    let split = [count("shop/web:v1", 9), count("shop/web:v2", 1)].into();
    assert_eq!(shop.pods("web").await.unwrap(), split);
    let status = command(&readme, "kubectl upgrade status ");
    let seen = typed(lab, user, &status, &shop.namespace, &["--timeout=10s"]);
    assert_eq!(seen.code, Some(124), "it is followed until it ends: {seen:?}");
    assert!(seen.out.contains(name) && seen.out.contains("Paused"), "{seen:?}");
}

#[tokio::test]
async fn what_the_other_pages_show_is_what_the_server_takes() {
    let lab = lab().await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut objects = 0;
    for entry in std::fs::read_dir(&docs).expect("docs") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a page");
        for block in text.split("```yaml\n").skip(1) {
            let yaml = block.split("```").next().expect("its end");
            // Policies and windows of an example are about more than it: checked, not kept.
            let mut command = lab.cluster.kubectl();
            command.args([
                "create",
                "--dry-run=server",
                "--validate=strict",
                "-o",
                "name",
                "-f",
                "-",
            ]);
            let said = say(&mut command, yaml).unwrap();
            assert_eq!(said.code, Some(0), "{}:\n{yaml}\n{}", path.display(), said.err);
            objects += said.out.lines().count();
        }
    }
    assert!(objects >= 5, "{objects} objects");
}

#[test]
fn the_cargo_commands_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let aliases = std::fs::read_to_string(root.join(".cargo/config.toml")).expect("aliases");
    for line in commands(&readme()) {
        let Some((_, rest)) = line.split_once("cargo ") else { continue };
        let alias = rest.split([' ', ')']).next().expect("a word");
        assert!(aliases.contains(&format!("\n{alias} = ")), "no alias for `{line}`");
    }
}
