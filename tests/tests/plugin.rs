//! The plugin on the real API server, as people type it: what it says, what it refuses, and with
//! which exit code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use serde_json::{Value, json};
use upgrade_sandbox::scenario::{Lab, Shop, lab};
use upgrade_sandbox::{ControlPlane, product};

/// What a run of the plugin came to.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// The exit code, and stderr that says each of these.
    #[track_caller]
    fn no(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in:\n{}", self.err);
        }
        self
    }

    #[track_caller]
    fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

fn run(plugin: &Path, kubeconfig: &Path, args: &[&str], stdin: &str) -> Said {
    let mut child = Command::new(plugin)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the plugin runs");
    // A plugin that does not read is no failure of the test.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A shop with people in it: ana asks, bob approves, eve may do nothing.
struct Stage {
    shop: Shop,
    plugin: PathBuf,
    ana: PathBuf,
    bob: PathBuf,
    eve: PathBuf,
}

impl Stage {
    async fn open(lab: &'static Lab, approvals: i32) -> Result<Self> {
        let shop = lab.shop(approvals).await?;
        let user = |name: &str| lab.cluster.kubeconfig_for(name, &["people"]);
        let stage = Self {
            plugin: lab.product.binaries().plugin.clone(),
            ana: user("ana")?,
            bob: user("bob")?,
            eve: user("eve")?,
            shop,
        };
        for (user, role) in
            [("ana", "admin"), ("bob", "admin"), ("bob", "kubectl-upgrade-approver")]
        {
            let binding = [
                "create",
                "rolebinding",
                &format!("{user}-{role}"),
                &format!("--clusterrole={role}"),
                &format!("--user={user}"),
                "-n",
                &stage.shop.namespace,
            ]
            .map(str::to_owned);
            assert!(lab.cluster.kubectl().args(binding).output()?.status.success());
        }
        Ok(stage)
    }

    fn by(&self, kubeconfig: &Path, line: &str) -> Said {
        self.fed(kubeconfig, line, "")
    }

    fn fed(&self, kubeconfig: &Path, line: &str, stdin: &str) -> Said {
        let mut args: Vec<&str> = line.split_whitespace().collect();
        args.extend(["-n", &self.shop.namespace]);
        run(&self.plugin, kubeconfig, &args, stdin)
    }

    fn ana(&self, line: &str) -> Said {
        self.by(&self.ana, line)
    }

    fn bob(&self, line: &str) -> Said {
        self.by(&self.bob, line)
    }
}

#[tokio::test]
async fn a_canary_as_people_run_it() {
    let stage = Stage::open(lab().await, 1).await.unwrap();
    stage.shop.deploy("web", 10, json!({})).await.unwrap();

    let plan = stage.ana("plan deploy/web --to v2 --steps 10,pause,50,pause,100").ok();
    assert!(plan.contains("COMPONENT    CONTAINER   CURRENT   TARGET   REPLICAS"), "{plan}");
    assert!(plan.contains("deploy/web   web         v1        v2       10"), "{plan}");
    let planned = stage.ana("plan deploy/web --to v2 --steps 10,pause,50,pause,100 -o json").json();

    let started = stage.ana("start deploy/web --to v2 --steps 10,pause,50,pause,100 --reason sale");
    assert!(started.err.contains("kubectl upgrade approve web-v2"), "{}", started.err);
    assert!(started.ok().ends_with("upgrade.kubectl-upgrade.dev/web-v2 created\n"));
    stage.ana("status web-v2 --for=AwaitingApproval --timeout 30s").ok();
    let live = stage.ana("status web-v2 -o json").json();
    assert_eq!(
        live["status"]["planHash"], planned["planHash"],
        "the hash shown is the hash approved"
    );

    stage.ana("approve web-v2 --yes").no(4, &["you (ana) asked for Upgrade web-v2: somebody else"]);
    stage.bob("approve web-v2").no(2, &["sha256:", "web:v2", "give --yes"]);
    stage.bob("promote web-v2").no(4, &["AwaitingApproval", "kubectl upgrade approve web-v2"]);
    let hash = format!("sha256:{}", "0".repeat(64));
    stage
        .bob(&format!("approve web-v2 --yes --plan-hash {hash}"))
        .no(1, &["--plan-hash", "not sha256:000"]);
    let approved = stage.bob("approve web-v2 --yes --reason fine").ok();
    assert_eq!(approved, "upgrade.kubectl-upgrade.dev/web-v2 approved (1/1)\n");

    stage.ana("status web-v2 --for=Paused --timeout 60s").ok();
    let tree = stage.ana("status").ok();
    for part in [
        "Phase: ॥ Paused",
        "Requested-by: ana",
        "v1 → v2",
        "step 2/5",
        "1 new (1 ready) + 9 old of 10",
        "└─deploy/web",
        "Next:  kubectl upgrade promote web-v2",
    ] {
        assert!(tree.contains(part), "`{part}` is not in:\n{tree}");
    }
    stage.ana("resume web-v2").no(1, &["`promote` ends", "kubectl upgrade promote web-v2"]);
    assert_eq!(stage.ana("pause web-v2").ok(), "upgrade.kubectl-upgrade.dev/web-v2 paused\n");
    stage.ana("promote web-v2").no(1, &["`resume` comes first"]);
    stage.ana("resume web-v2").ok();
    stage.ana("status web-v2 --for=Paused --timeout 60s").ok();
    stage.ana("promote web-v2 --full").ok();
    let end = stage.ana("status web-v2 --wait --timeout 60s -o json").json();
    assert_eq!(end["status"]["phase"], "Completed");

    stage.ana("abort web-v2").no(1, &["Completed", "nothing to take back"]);
    stage.ana("start deploy/web --to v2").no(1, &["nothing to upgrade"]);
    let history = stage.ana("history web-v2").ok();
    for part in ["Requested   ana", "sale", "Approved    bob", "fine", "Completed"] {
        assert!(history.contains(part), "`{part}` is not in:\n{history}");
    }
    let history = stage.ana("history deploy/web -o json").json();
    assert_eq!(history["items"].as_array().map(Vec::len), Some(1));
    let list = stage.ana("list").ok();
    assert!(
        list.lines().nth(1).is_some_and(|l| l.starts_with("web-v2   v2        v2       Completed")),
        "{list}"
    );
}

#[tokio::test]
async fn following_prints_one_line_a_change_or_one_object_a_line() {
    let stage = Stage::open(lab().await, 0).await.unwrap();
    stage.shop.deploy("web", 4, json!({})).await.unwrap();
    stage.ana("start deploy/web --to v2-ready-after-2s --name up --steps 25,50,pause:1s,100").ok();
    let (lines, objects) = std::thread::scope(|scope| {
        let lines = scope.spawn(|| stage.ana("status up -w --timeout 90s").ok());
        let objects = scope.spawn(|| stage.ana("status up -w -o json --timeout 90s").ok());
        (lines.join().unwrap(), objects.join().unwrap())
    });
    let first_words: Vec<&str> =
        lines.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    assert_eq!(first_words.last(), Some(&"Completed"), "{lines}");
    assert!(first_words.contains(&"Paused") && lines.lines().count() < 12, "{lines}");
    assert!(!lines.contains('\u{1b}'), "no colour and no cursor where nobody looks: {lines}");
    let phases: Vec<Value> = objects
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["status"]["phase"].clone())
        .collect();
    assert_eq!(phases.last(), Some(&json!("Completed")), "{phases:?}");
}

#[tokio::test]
async fn a_failed_one_is_taken_back_and_says_so() {
    let stage = Stage::open(lab().await, 0).await.unwrap();
    stage.shop.deploy("web", 4, json!({})).await.unwrap();
    let said = stage
        .ana("start deploy/web --to v2-crash-loop --name up --steps 25,100 --wait --timeout 90s");
    said.no(1, &["RollingBack", "RolledBack", "web"]);
    let left = stage.ana("status up").ok();
    assert!(left.contains("kubectl upgrade retry up"), "{left}");
    assert_eq!(stage.ana("retry up").ok(), "upgrade.kubectl-upgrade.dev/up started over\n");
    stage.ana("status up --wait --timeout 90s").no(1, &["RolledBack"]);

    stage.ana("start deploy/web --to v3-never-ready --name stuck --steps 25,100").ok();
    stage
        .ana("status stuck --wait --timeout 5s")
        .no(124, &["not done after 5s", "it goes on in the cluster"]);
    stage.ana("abort stuck").ok();
    stage
        .ana("status stuck --for=Completed --timeout 90s")
        .no(1, &["is Aborted and will not be Completed"]);
}

#[tokio::test]
async fn a_rejection_is_final() {
    let stage = Stage::open(lab().await, 1).await.unwrap();
    stage.shop.deploy("web", 2, json!({})).await.unwrap();
    stage.ana("start deploy/web --to v2").ok();
    stage.bob("reject web-v2 --yes").no(2, &["give --reason TEXT"]);
    stage.ana("reject web-v2 --yes --reason no").no(1, &["forbidden"]);
    assert_eq!(
        stage.bob("reject web-v2 --yes --reason later").ok(),
        "upgrade.kubectl-upgrade.dev/web-v2 rejected\n"
    );
    stage.ana("status web-v2 --wait --timeout 30s").no(4, &["Rejected"]);
    stage.ana("retry web-v2").no(4, &["a rejection is final"]);
    stage.bob("approve web-v2 --yes").no(1, &["Rejected", "does not wait for approval"]);
    // The name is taken; another is found.
    assert_eq!(
        stage.ana("start deploy/web --to v2 -o name").ok(),
        "upgrade.kubectl-upgrade.dev/web-v2-2\n"
    );
    stage.ana("start deploy/web --to v2 --name web-v2").no(1, &["web-v2-2"]);
}

#[tokio::test]
async fn bad_input_is_refused_with_the_field_and_what_would_help() {
    let stage = Stage::open(lab().await, 1).await.unwrap();
    stage.shop.deploy("web", 2, json!({})).await.unwrap();
    for (line, code, parts) in [
        ("start deploy/wbe --to v2", 1, ["no deploy/wbe in namespace", "did you mean deploy/web?"]),
        (
            "start deploy/web --image wbe=web:v2",
            1,
            ["--image: deploy/web has no container `wbe`", "did you mean `web`?"],
        ),
        ("start deploy/web --to v2 --steps 50,101", 2, ["--steps: weight 101", "from 1 to 100"]),
        (
            "start deploy/web --to v2 --steps 50,10",
            2,
            ["--steps: weight 10 comes after 50", "only grow"],
        ),
        ("start cronjob/web --to v2", 2, ["cronjob/web", "of no cronjob"]),
        ("start deploy/web --to v1", 1, ["nothing to upgrade", "runs already"]),
        ("start -f no-such-file.yaml", 1, ["-f no-such-file.yaml", "No such file"]),
        ("status nothing", 1, ["no Upgrade `nothing` in namespace", "kubectl upgrade list"]),
        ("start deploy/web", 2, ["what should they run?", "--to TAG"]),
    ] {
        stage.ana(line).no(code, &parts);
    }
    stage
        .by(&stage.eve, "list")
        .no(1, &["User \"eve\" cannot list", "kubectl auth can-i list upgrades"]);
    stage
        .by(&stage.eve, "start deploy/web --to v2")
        .no(1, &["cannot get resource \"deployments\""]);

    stage.ana("start deploy/web --to v2").ok();
    assert!(
        stage.ana("start deploy/web --to v2").ok().ends_with("unchanged\n"),
        "asked for twice, made once"
    );
    let said = stage.ana("start deploy/web --to v3 -o json").no(1, &["UpgradeInFlight"]);
    let error: Value =
        serde_json::from_str(said.err.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!(
        (error["reason"].as_str(), error["exitCode"].as_i64()),
        (Some("UpgradeInFlight"), Some(1))
    );
    let said = stage.ana("statsu web");
    assert_eq!(said.code, 2, "{}", said.err);
}

#[tokio::test]
async fn a_cluster_that_cannot_be_reached_is_named_with_the_file() {
    let stage = Stage::open(lab().await, 1).await.unwrap();
    let nowhere = Path::new("/nonexistent/kubeconfig");
    stage
        .by(nowhere, "list")
        .no(1, &["KUBECONFIG names no file that exists: /nonexistent/kubeconfig"]);
    stage
        .ana("list --kubeconfig /nonexistent/other")
        .no(1, &["kubeconfig /nonexistent/other: No such file"]);
    stage.ana("list --context nope").no(1, &["has no context `nope`", "its contexts are"]);
    stage
        .ana("list --server https://127.0.0.1:1")
        .no(1, &["no connection to https://127.0.0.1:1", "refused"]);
    stage.ana("list --token wrong").no(1, &["does not know who you are"]);
    let version = stage.by(nowhere, "version -o json").json();
    assert!(version["client"].as_str().is_some_and(|v| v.starts_with('v')), "{version}");
}

#[tokio::test]
async fn manifests_are_compared_by_what_they_mean() {
    let stage = Stage::open(lab().await, 0).await.unwrap();
    stage.shop.deploy("web", 3, json!({"template": {"spec": {"initContainers": [{"name": "init", "image": "init:v1"}]}}})).await.unwrap();
    let manifest = |replicas: i32| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {{name: web}}\n  \
             spec:\n    replicas: {replicas}\n    selector: {{matchLabels: {{app: web}}}}\n    template:\n      metadata: {{labels: {{app: web}}}}\n      \
             spec:\n        initContainers: [{{image: init:v2, name: init}}]\n        containers:\n        - {{name: web, image: web:v2, resources: {{}}}}\n\
             ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{a: b}}\n"
        )
    };
    let said = stage.fed(&stage.ana, "start -f - --dry-run=client", &manifest(5));
    said.no(
        1,
        &[
            "configmap/settings: is not there yet",
            "spec.replicas",
            "apply the rest separately",
            "--images-only",
        ],
    );
    let plan = stage.fed(&stage.ana, "plan -f - --images-only -o json", &manifest(5)).json();
    let changes: Vec<&str> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["container"].as_str())
        .collect();
    assert_eq!(changes, ["init", "web"], "{plan}");
    assert_eq!(plan["notCarried"].as_array().map(Vec::len), Some(2), "{plan}");
    let wait = "start -f - --images-only --wait --timeout 60s";
    stage.fed(&stage.ana, wait, &manifest(5)).no(0, &["Completed"]);
    let said = stage.fed(&stage.ana, "start -f -", "a: [");
    said.no(1, &["-f standard input"]);
}

/// A control plane of its own: without CRDs first, then installed, in flight, and removed.
#[tokio::test]
async fn install_and_uninstall_in_the_right_order() {
    let cluster = ControlPlane::start(upgrade_sandbox::Options::default()).await.unwrap();
    let plugin = product::build().await.unwrap().plugin;
    let say = |line: &str| {
        run(&plugin, cluster.kubeconfig(), &line.split_whitespace().collect::<Vec<_>>(), "")
    };
    say("list").no(1, &["not installed", "kubectl upgrade install"]);
    say("status up").no(1, &["kubectl upgrade install"]);
    say("install --namespace elsewhere").no(2, &["--namespace", "kubectl-upgrade-system"]);
    say("install --webhook-url http://x").no(2, &["--webhook-url", "https"]);
    let shown = say("install --dry-run=client -o json").json();
    let kinds: Vec<&str> =
        shown["items"].as_array().unwrap().iter().filter_map(|i| i["kind"].as_str()).collect();
    assert_eq!(kinds.first(), Some(&"Namespace"));
    assert!(kinds.last().is_some_and(|k| k.ends_with("WebhookConfiguration")), "{kinds:?}");

    // An Upgrade in flight, made before there is a webhook that would have to agree.
    let kubectl = |args: &[&str], stdin: &Value| {
        let mut command = cluster.kubectl();
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("kubectl");
        child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(stdin.to_string().as_bytes())
            .expect("it reads");
        assert!(child.wait().expect("it ends").success(), "{args:?}");
    };
    for item in shown["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|i| i["kind"] == "CustomResourceDefinition")
    {
        kubectl(&["apply", "--server-side", "-f", "-"], item);
    }
    kubectl(&["wait", "--for=condition=Established", "crd", "--all"], &Value::Null);
    kubectl(
        &["create", "-f", "-"],
        &json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
        "metadata": {"name": "up", "namespace": "default", "finalizers": ["kubectl-upgrade.dev/restore"]},
        "spec": {"stages": [{"name": "s", "workloads": {"strategy": {"rolling": {}}, "targets": [
            {"kind": "Deployment", "name": "web", "images": [{"container": "a", "from": "a:1", "to": "a:2"}]}]}}]}}),
    );
    let phase = r#"{"status":{"phase":"Paused"}}"#;
    kubectl(
        &["patch", "upgrade", "up", "--subresource=status", "--type=merge", "-p", phase],
        &Value::Null,
    );

    let first = run(&plugin, cluster.kubeconfig(), &["install", "--force-conflicts"], "");
    assert_eq!(first.code, 2, "unknown flags are bad usage");
    let first = say("install --webhook-url https://127.0.0.1:1").ok();
    assert!(
        first.contains(
            "validatingwebhookconfiguration.admissionregistration.k8s.io/kubectl-upgrade created"
        ),
        "{first}"
    );
    let ca = r#"[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K"}]"#;
    let patched = cluster
        .kubectl()
        .args(["patch", "mutatingwebhookconfiguration", "kubectl-upgrade", "--type=json", "-p", ca])
        .output();
    let kept = patched.is_ok_and(|o| o.status.success());
    let again = say("install --webhook-url https://127.0.0.1:1").ok();
    assert!(again.lines().all(|l| l.ends_with("unchanged")), "{again}");
    if kept {
        let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
        let ca = cluster
            .kubectl()
            .args(["get", "mutatingwebhookconfiguration", "kubectl-upgrade", "-o", path])
            .output()
            .unwrap();
        assert!(!ca.stdout.is_empty(), "the CA that the webhook filled in is kept");
    }

    say("uninstall").no(4, &["default/up (Paused)", "kubectl upgrade release --all -A"]);
    let tried = say("uninstall --force --dry-run=client").ok();
    assert!(tried.contains("deleted (dry run)"), "{tried}");
    let gone = say("uninstall --force --crds");
    assert!(gone.err.contains("stay as they stand"), "{}", gone.err);
    let gone = gone.ok();
    let order: Vec<&str> = gone.lines().collect();
    let what = |line: &&str| match *line {
        l if l.starts_with("validatingadmissionpolicybinding") => 0,
        l if l.starts_with("validatingadmissionpolicy") => 1,
        l if l.contains("webhookconfiguration") => 2,
        _ => 3,
    };
    assert!(order.is_sorted_by_key(what), "what is in force goes first: {gone}");
    assert_eq!(order.iter().map(what).filter(|w| *w == 2).count(), 2, "{gone}");
    assert!(order.last().is_some_and(|l| l.starts_with("customresourcedefinition")), "{gone}");
    say("list").no(1, &["kubectl upgrade install"]);
    say("uninstall").ok();
}
