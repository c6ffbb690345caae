//! The admission server in trouble: bodies that cannot be read, a CA that changes, nobody there.
#![expect(clippy::too_many_lines, reason = "each test is one story, told in order")]

mod rig;

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::Api;
use rig::{Rig, User, all, approval, deployment, governed, pod, refused, shared, upgrade};
use serde_json::{Value, json};
use upgrade_sandbox::product::get;
use upgrade_sandbox::proxy::Proxy;
use upgrade_sandbox::{eventually, wait_for};

/// A client of the webhook itself, which trusts the CA of its Secret and nothing else.
async fn direct(rig: &Rig) -> Result<kube::Client> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let secret: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(rig.cluster.client().await?, "kubectl-upgrade-system");
    let data = secret.get("upgrade-webhook-ca").await?.data.context("no data")?;
    let ca = CertificateDer::from_pem_slice(&data["ca.crt"].0)?;
    let url = format!("https://127.0.0.1:{}", rig.port).parse()?;
    let mut config = kube::Config::new(url);
    config.root_cert = Some(vec![ca.to_vec()]);
    Ok(kube::Client::try_from(config)?)
}

async fn post(client: &kube::Client, path: &str, body: Vec<u8>) -> Result<(u16, String)> {
    use kube::client::Body;
    let request = http::Request::post(path).body(Body::from(body))?;
    let response = client.send(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect_bytes().await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_and_refused() -> Result<()> {
    let rig = shared().await;
    let client = direct(rig).await?;
    let head =
        r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"a-b-c","#;
    for path in ["/validate", "/mutate"] {
        let bad: [&[u8]; 6] =
            [b"", b"not json", b"{}", b"[1,2]", b"\xff\xfe", br#"{"kind":"AdmissionReview"}"#];
        for body in bad {
            let (status, text) = post(&client, path, body.to_vec()).await?;
            assert_eq!(status, 400, "{text}");
            assert!(text.contains("not an AdmissionReview"), "{text}");
        }
        // Where the uid can be found, the API server gets an answer it takes.
        let broken = [
            format!("{head}\"kind\":"),
            format!("{head}\"operation\":\"NOPE\"}}}}"),
            format!(
                "{head}{}",
                r#""kind":{"group":"apps","version":"v1","kind":"Deployment"},"operation":"UPDATE","userInfo":{},"object":{"metadata":7}}}"#
            ),
        ];
        for (i, body) in broken.into_iter().enumerate() {
            let (status, text) = post(&client, path, body.into_bytes()).await?;
            // An object that cannot be read is not stamped: the schema says more of it, and
            // validation has the last word.
            let passes = path == "/mutate" && i == 2;
            let verdict = format!(r#""uid":"a-b-c","allowed":{passes}"#);
            assert!(status == 200 && text.contains(&verdict), "{status} {text}");
            assert!(!text.contains("patch"), "{text}");
        }
        let mut large = format!("{head}\"object\":\"").into_bytes();
        large.resize(10 * 1024 * 1024, b'x');
        let (status, text) = post(&client, path, large).await?;
        assert!(
            status == 200 && text.contains("larger than 7 MiB") && text.contains("\"a-b-c\""),
            "{status} {text}"
        );
        let (status, text) = post(&client, path, vec![b' '; 10 * 1024 * 1024]).await?;
        assert!(status == 413 && text.contains("larger than 7 MiB"), "{status} {text}");
    }
    assert_eq!(post(&client, "/elsewhere", Vec::new()).await?.0, 404);
    // Deep JSON ends in an error, not in a stack overflow.
    let deep = format!("{head}\"object\":{}1", "[".repeat(200_000));
    assert_eq!(post(&client, "/validate", deep.into_bytes()).await?.0, 200);
    // And the largest object that the API server takes still gets its verdict.
    let ns = governed(rig, &all()).await?;
    let mut big = deployment(&ns, "big", "big:1");
    big["metadata"]["annotations"] = json!({"fill": "x".repeat(250_000)});
    let env: Vec<Value> =
        (0..2).map(|i| json!({"name": format!("V{i}"), "value": "y".repeat(600_000)})).collect();
    big["spec"]["template"]["spec"]["containers"][0]["env"] = json!(env);
    rig.creates(User::Alice, &big)?;
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/big", "app=big:2", "-n", &ns],
        &["UpgradeRequired"],
    );
    Ok(())
}

#[tokio::test]
async fn a_new_ca_is_taken_into_use_without_a_failed_request() -> Result<()> {
    let rig = shared().await;
    let ns = governed(rig, &all()).await?;
    let secret: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(rig.cluster.client().await?, "kubectl-upgrade-system");
    let first = secret.get("upgrade-webhook-ca").await?.data.context("no data")?;
    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
        Api::namespaced(rig.cluster.client_for("alice", &["people"]).await?, &ns);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let load = async {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "web:v2"}]}}}});
        let dry = kube::api::PatchParams { dry_run: true, ..kube::api::PatchParams::default() };
        let mut refused = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let error = deployments
                .patch("web", &dry, &kube::api::Patch::Strategic(&patch))
                .await
                .expect_err("refused");
            assert!(error.to_string().contains("UpgradeRequired"), "{error}");
            refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        refused
    };
    let ago = |seconds: i64| (jiff::Timestamp::now().as_second() - seconds).to_string();
    let age = async |key: &str, seconds: i64| {
        let patch = json!({"stringData": {key: ago(seconds)}});
        secret
            .patch(
                "upgrade-webhook-ca",
                &kube::api::PatchParams::default(),
                &kube::api::Patch::Merge(patch),
            )
            .await
    };
    let rotation = async {
        age("ca.since", 300 * 24 * 3600).await?;
        let has = async |key: &str| {
            eventually(key, Duration::from_secs(40), || async {
                let data = secret.get("upgrade-webhook-ca").await?.data.context("no data")?;
                data.contains_key(key).then_some(data).context("not yet")
            })
            .await
        };
        has("next.crt").await?;
        // Its caBundle is there before it signs; the hour between is shortened here.
        let two = |c: Option<&ValidatingWebhookConfiguration>| {
            let bundle = c
                .and_then(|c| c.webhooks.as_ref())
                .and_then(|w| w.first())
                .and_then(|w| w.client_config.ca_bundle.as_ref());
            bundle.is_some_and(|b| {
                String::from_utf8_lossy(&b.0).matches("BEGIN CERTIFICATE").count() == 2
            })
        };
        let configurations: Api<ValidatingWebhookConfiguration> =
            Api::all(rig.cluster.client().await?);
        wait_for(configurations, "kubectl-upgrade", two, Duration::from_secs(40)).await?;
        age("next.since", 2 * 3600).await?;
        let data = has("old.crt").await?;
        assert_eq!(data["old.crt"], first["ca.crt"]);
        assert_ne!(data["ca.crt"], first["ca.crt"]);
        // The load goes on for a while over the new certificate: that is what is tested.
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (refused, rotated) = tokio::join!(load, rotation);
    rotated?;
    println!("{refused} requests, none failed");
    let metrics = rig.metrics().await?;
    let spent = metrics.lines().filter(|l| l.contains("admission_duration_seconds"));
    spent.filter(|l| l.contains("validate")).for_each(|l| println!("{l}"));
    // The new certificate is really what is served.
    let (status, _) = post(&direct(rig).await?, "/validate", b"{}".to_vec()).await?;
    assert_eq!(status, 400);
    Ok(())
}

/// A second replica, which reaches the API server through a proxy that can go deaf.
async fn behind_a_proxy(rig: &Rig) -> Result<(Proxy, upgrade_sandbox::Process, String)> {
    let cluster = &rig.cluster;
    let to = cluster.url().trim_start_matches("https://").parse()?;
    let proxy = Proxy::start("127.0.0.1:0".parse()?, to).await?;
    let config = cluster.kubeconfig_for(rig::US, &["system:serviceaccounts"])?;
    let text = std::fs::read_to_string(&config)?;
    let through = format!("https://{}", proxy.address());
    std::fs::write(&config, text.replace(cluster.url(), &through))?;
    let [listen, probes] = rig::free_ports()?.map(|port| format!("127.0.0.1:{port}"));
    let argv = [
        upgrade_sandbox::product::build().await?.webhook.display().to_string(),
        "--no-controller".into(),
        format!("--kubeconfig={}", config.display()),
        format!("--listen={listen}"),
        format!("--metrics-listen={probes}"),
        "--namespace=kubectl-upgrade-system".into(),
        "--san=127.0.0.1".into(),
    ];
    let process = cluster.spawn("webhook-behind-a-proxy", argv, [("RUST_LOG", "info")]).await?;
    Ok((proxy, process, probes))
}

#[tokio::test]
async fn a_replica_with_one_deaf_watch_is_not_ready_until_it_hears_again() -> Result<()> {
    // Its own: a second replica takes part in rotating the CA, which another test tells of one.
    let rig = &Rig::start().await?;
    let (proxy, process, probes) = behind_a_proxy(rig).await?;
    let ready = async || get(&probes, "/readyz").await;
    let becomes_ready = async || eventually("readiness", Duration::from_mins(1), &ready).await;
    becomes_ready().await.with_context(|| process.log_tail(20))?;
    let made = proxy.connections();
    assert!(made > 4, "{made} connections: it was ready before it had its watches");
    let mut told = None;
    // Which connection is a watch's is not to be seen from outside. The first is not: it asked who
    // we are before there was any.
    for number in 1..made {
        proxy.freeze(number);
        proxy.freeze_new();
        let unready = async || match ready().await {
            Err(error) if error.to_string().contains("503") => Ok(error.to_string()),
            other => anyhow::bail!("{other:?}"),
        };
        let said = eventually("unreadiness", Duration::from_secs(45), unready).await;
        println!("connection {number}: {said:?}");
        if let Ok(said) = said
            && said.contains("the watch of")
        {
            told = Some(said);
            break;
        }
        proxy.thaw();
        becomes_ready().await?;
    }
    let told = told.context("no connection was a watch")?;
    println!("{told}");
    assert_eq!(told.matches("the watch of").count(), 1, "one watch is deaf: {told}");
    let silence = get(&probes, "/metrics").await?;
    let line = silence.lines().find(|l| l.contains("watch_silence_seconds{"));
    assert!(line.is_some(), "{silence}");
    proxy.thaw();
    becomes_ready().await.with_context(|| process.log_tail(20))?;
    process.kill()?;
    process.wait_exit().await;
    Ok(())
}

#[tokio::test]
async fn when_nobody_answers_only_image_changes_wait() -> Result<()> {
    let rig = Rig::start().await?;
    let ns = governed(&rig, &all()).await?;
    rig.creates(User::Alice, &upgrade(&ns, "web-v2"))?;
    let job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "minutely", "namespace": ns},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "app", "image": "job:1"}]}}}}}});
    rig.creates(User::Alice, &job)?;
    let sts = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": ns},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "db"}}, "template": {
            "metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "db", "image": "db:1"}]}}}});
    rig.creates(User::Alice, &sts)?;

    // On SIGTERM it says that it goes, and answers until it is gone.
    rig.webhook.term()?;
    eventually("unreadiness", Duration::from_secs(3), || async {
        let ready = rig.readyz().await.err().context("still ready")?.to_string();
        ready.contains("503").then_some(()).context(ready)
    })
    .await?;
    rig.rejects(
        User::Alice,
        &["set", "image", "deploy/web", "app=web:v2", "-n", &ns],
        &["UpgradeRequired"],
    );
    // The API server keeps idle connections for 90 s; none is closed under it.
    tokio::time::timeout(Duration::from_mins(2), rig.webhook.wait_exit()).await?;

    let n = ns.as_str();
    let pods = |app: &str| -> Result<Vec<String>> {
        let selector = format!("-lapp={app}");
        let text = rig.run(
            User::Admin,
            &[
                "get",
                "pods",
                "-n",
                n,
                &selector,
                "-o",
                "name",
                "--field-selector=status.phase=Running",
            ],
            None,
        )?;
        Ok(text.lines().map(str::to_owned).filter(|l| l.starts_with("pod/")).collect())
    };
    let count = async |app: &str, wanted: usize| {
        eventually("pods", Duration::from_secs(30), || async {
            let found = pods(app)?;
            anyhow::ensure!(found.len() == wanted, "{found:?}");
            Ok(found)
        })
        .await
    };
    for args in [
        &["scale", "deploy/web", "--replicas=4", "-n", n][..],
        &["annotate", "deploy/web", "a=b", "-n", n],
        &["label", "deploy/web", "team=a", "-n", n],
        &["rollout", "restart", "deploy/web", "-n", n],
        &["rollout", "restart", "sts/db", "-n", n],
        &["set", "env", "deploy/web", "A=B", "-n", n],
        &["rollout", "pause", "deploy/web", "-n", n],
        &["rollout", "resume", "deploy/web", "-n", n],
        &["patch", "cronjob", "minutely", "-n", n, "-p", r#"{"spec":{"suspend":false}}"#],
        &[
            "patch",
            "deploy",
            "web",
            "-n",
            n,
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"collisionCount":1}}"#,
        ],
        &["set", "resources", "sts/db", "--requests=cpu=1m", "-n", n],
    ] {
        rig.accepts(User::Admin, args);
    }
    rig.accepts(User::Admin, &["rollout", "status", "deploy/web", "-n", n, "--timeout=60s"]);
    let running = count("web", 4).await?;
    rig.accepts(User::Admin, &["delete", &running[0], "-n", n, "--wait=false"]);
    let again = eventually("the lost pod to be replaced", Duration::from_secs(30), || async {
        let again = pods("web")?;
        anyhow::ensure!(again.len() == 4 && !again.contains(&running[0]), "{again:?}");
        Ok(again)
    })
    .await?;
    count("db", 1).await?;
    rig.phase(n, "web-v2", "AwaitingApproval").await?;

    let down = ["failed calling webhook"];
    rig.rejects(User::Admin, &["set", "image", "deploy/web", "app=web:v2", "-n", n], &down);
    rig.rejects(User::Admin, &["set", "image", "sts/db", "db=db:2", "-n", n], &down);
    rig.rejects(User::Admin, &["set", "image", "cronjob/minutely", "app=job:2", "-n", n], &down);
    rig.rejects(User::Admin, &["set", "image", &again[0], "app=web:v2", "-n", n], &down);
    rig.rejects(User::Admin, &["debug", &again[0], "-n", n, "--image=busybox", "--", "sh"], &down);
    refused(rig.creates(User::Admin, &pod(n, "bare", "web", "evil:1")), &down);
    refused(rig.creates(User::Admin, &deployment(n, "fresh", "fresh:1")), &down);
    refused(
        rig.creates(User::Bob, &approval(n, "web-v2", &format!("sha256:{}", "0".repeat(64)))),
        &down,
    );
    // Where nobody opted in, nothing is missing.
    let free = rig.cluster.namespace("free").await?;
    rig.creates(User::Admin, &deployment(&free, "web", "web:v1"))?;
    rig.accepts(User::Admin, &["set", "image", "deploy/web", "app=web:v2", "-n", &free]);
    // The CronJob controller goes on, and a namespace can go.
    eventually("a Job of the CronJob", Duration::from_secs(80), || async {
        let jobs = rig.run(User::Admin, &["get", "jobs", "-n", n, "-o", "name"], None)?;
        jobs.contains("job.batch/minutely").then_some(()).context(jobs)
    })
    .await?;
    Ok(())
}
