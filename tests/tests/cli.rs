//! `sandbox` as a person uses it, and as it is killed.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result};
use common::assert_dead;
use serde_json::Value;
use upgrade_sandbox::guard::Guardian;

const NAME: &str = "test";

/// Its own cache for what runs; the binaries come from the real one, for they take minutes.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let own = dir.path().join("kubectl-upgrade");
        std::fs::create_dir_all(&own)?;
        for entry in std::fs::read_dir(upgrade_sandbox::cache::dir()?)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("controlplane-")
                && entry.path().is_dir()
            {
                std::os::unix::fs::symlink(entry.path(), own.join(entry.file_name()))?;
            }
        }
        Ok(Self { dir })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        command.args(arguments).env("XDG_CACHE_HOME", self.dir.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    fn status(&self) -> Result<Value> {
        let output = self.run(&["status", "--name", NAME, "-o", "json"])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// `up --foreground`, once it has printed its line.
    fn foreground(&self) -> Result<Child> {
        let mut child = self
            .command(&["up", "--name", NAME, "--bare", "--foreground"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
        assert!(line.starts_with("export KUBECONFIG="), "{line}");
        Ok(child)
    }
}

/// A failed test must not leave a sandbox behind.
impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--name", NAME]);
    }
}

fn pids(status: &Value) -> Vec<u32> {
    let pid = |value: &Value| value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let guardian = &status["guardian"];
    let owned = guardian["processes"].as_array().into_iter().flatten().filter_map(pid);
    owned.chain(pid(guardian)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn up_status_kubectl_down() -> Result<()> {
    // The library builds the binaries where nobody has yet.
    upgrade_sandbox::shared().await;
    let home = Home::new()?;
    assert_eq!(home.run(&["status", "--name", NAME])?.status.code(), Some(3));
    assert_eq!(home.run(&["kubectl", "--name", NAME, "--", "version"])?.status.code(), Some(3));

    let up = home.run(&["up", "--name", NAME, "--bare"])?;
    assert!(up.status.success(), "{}", text(&up.stderr));
    assert!(text(&up.stdout).starts_with("export KUBECONFIG='"), "{}", text(&up.stdout));
    let again = home.run(&["up", "--name", NAME, "--bare"])?;
    assert_eq!((again.status.code(), &again.stdout), (Some(0), &up.stdout));
    assert!(text(&again.stderr).contains("runs already"), "{}", text(&again.stderr));

    let status = home.status()?;
    let pids = pids(&status);
    assert_eq!(pids.len(), 6, "{status}");
    let nodes = home.run(&["kubectl", "--name", NAME, "--", "get", "nodes", "-o", "name"])?;
    assert_eq!(text(&nodes.stdout).lines().count(), 3, "{}", text(&nodes.stderr));
    let failing = home.run(&["kubectl", "--name", NAME, "--", "get", "pod", "none"])?;
    assert_eq!(failing.status.code(), Some(1));

    let down = home.run(&["down", "--name", NAME])?;
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_dead(&pids).await?;
    assert!(!Path::new(status["scratch"].as_str().context("no scratch")?).exists());
    let again = home.run(&["down", "--name", NAME])?;
    assert!(again.status.success() && text(&again.stderr).contains("no sandbox"), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_survives_a_killed_parent() -> Result<()> {
    upgrade_sandbox::shared().await;
    let home = Home::new()?;
    let mut child = home.foreground()?;
    let pids = pids(&home.status()?);
    assert_eq!(pids.len(), 6);
    // SIGKILL: the parent can do nothing about its processes any more.
    child.kill()?;
    child.wait()?;
    assert_dead(&pids).await?;
    assert_eq!(home.status()?["running"], false);
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_survives_a_killed_guardian() -> Result<()> {
    upgrade_sandbox::shared().await;
    let home = Home::new()?;
    let mut child = home.foreground()?;
    let status = home.status()?;
    let pids = pids(&status);
    let guardian = pids.last().context("no guardian")?.to_string();
    assert!(Command::new("kill").args(["-KILL", &guardian]).status()?.success());
    assert_dead(&pids).await?;
    assert!(child.wait()?.success());
    // Its directory is left to the next guardian.
    drop(Guardian::launch()?);
    assert!(!Path::new(status["scratch"].as_str().context("no scratch")?).exists());
    Ok(())
}

/// The pids of a process's children, as the kernel knows them.
#[cfg(target_os = "linux")]
fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ctrl_c_during_the_boot_leaves_nothing() -> Result<()> {
    upgrade_sandbox::shared().await;
    let home = Home::new()?;
    let mut child =
        home.command(&["up", "--name", NAME, "--bare"]).stderr(Stdio::piped()).spawn()?;
    let said = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    let reached = said.map_while(Result::ok).find(|line| line.contains("starting kube-apiserver"));
    reached.context("the boot did not come that far")?;
    let guardian = children(child.id());
    let owned = guardian.iter().flat_map(|pid| children(*pid));
    let pids: Vec<_> = owned.chain(guardian.iter().copied()).collect();
    assert!(pids.len() >= 2, "{pids:?}");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status()?.success());
    assert!(!child.wait()?.success());
    assert_dead(&pids).await?;
    assert_eq!(home.status()?["running"], false);
    Ok(())
}

#[tokio::test]
async fn ctrl_c_takes_a_foreground_sandbox_down() -> Result<()> {
    upgrade_sandbox::shared().await;
    let home = Home::new()?;
    let mut child = home.foreground()?;
    let pids = pids(&home.status()?);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status()?.success());
    assert!(child.wait()?.success());
    assert_dead(&pids).await
}

#[test]
fn without_go_it_says_what_to_do() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_sandbox"))
        .arg("up")
        .env("PATH", empty.path())
        .env("XDG_CACHE_HOME", empty.path())
        .env_remove("KUBEBUILDER_ASSETS")
        .output()?;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("Go is not installed") && said.contains("hint: install Go 1."), "{said}");
    Ok(())
}

#[test]
fn a_name_is_not_a_path() -> Result<()> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sandbox")).args(["down", "--name", "../x"]).output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("hint:"), "{}", text(&output.stderr));
    Ok(())
}
