//! The sandbox itself, for real.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use common::{container, deployment, image, ready_pods, rolled_out};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt};
use upgrade_sandbox::{ControlPlane, Exit, MinimumWatch, Options, shared, wait_for};

const MINUTE: Duration = Duration::from_mins(1);

async fn create(
    client: &Client,
    namespace: &str,
    deployment: &Deployment,
) -> Result<Api<Deployment>> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), deployment).await?;
    Ok(api)
}

#[tokio::test]
async fn a_deployment_becomes_ready_and_rolls_without_a_gap() -> Result<()> {
    let cluster = shared().await;
    let client = cluster.client().await?;
    let ns = cluster.namespace("roll").await?;
    let api = create(&client, &ns, &deployment("web", 20, "app:1")).await?;
    wait_for(api.clone(), "web", rolled_out(20), MINUTE).await?;

    let watch = MinimumWatch::start(client.clone(), &ns, "app=web", "web").await?;
    let writes = cluster.count_writes(&ns, "web").await?;
    let alice = cluster.client_for("alice", &["system:masters"]).await?;
    Api::<Deployment>::namespaced(alice, &ns)
        .patch("web", &PatchParams::default(), &Patch::Strategic(image("app:2")))
        .await?;
    let done = |object: Option<&Deployment>| {
        rolled_out(20)(object) && object.is_some_and(|d| d.metadata.generation == Some(2))
    };
    wait_for(api, "web", done, MINUTE).await?;
    let seen = watch.finish().await?;
    // 25 % of 20 either way is what a Deployment does by default.
    assert!(seen.min_ready >= 15, "{:#?}", seen.trace);
    assert!(seen.max_desired <= 25, "{:#?}", seen.trace);
    assert_eq!((seen.max_ready_of("app:1"), seen.max_ready_of("app:2")), (20, 20));
    assert_eq!(seen.min_ready_of("app:1"), 0);
    assert_eq!(seen.trace.last().and_then(|sample| sample.replicas), Some(20));

    let by_user = writes.by_user().await?;
    assert_eq!(by_user.get("alice"), Some(&1), "{by_user:?}");
    let write = writes.writes().await?.into_iter().find(|write| write.user == "alice");
    let write = write.context("no write of alice")?;
    assert_eq!((write.verb.as_str(), write.code), ("patch", 200));
    let body = write.request.context("no body")?;
    assert_eq!(body.pointer("/spec/template/spec/containers/0/image"), Some(&"app:2".into()));
    Ok(())
}

/// What a pod with this image looks like, from one state to the next, until `last` is reached.
async fn life(namespace: &str, name: &str, image: &str, last: &str) -> Result<Vec<String>> {
    let client = shared().await.client().await?;
    let api = Api::<Pod>::namespaced(client, namespace);
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name}, "spec": {"containers": [container(image)]},
    }))?;
    let mut states: Vec<String> = Vec::new();
    let mut events = Box::pin(watch_object(api.clone(), name));
    // It is listed before there is a pod: nothing of its life is missed.
    anyhow::ensure!(events.next().await.context("no watch")??.is_none(), "{name} is there");
    api.create(&PostParams::default(), &pod).await?;
    let watched = async {
        while let Some(event) = events.next().await {
            let Some(state) = event?.as_ref().and_then(state) else {
                continue;
            };
            if states.last() != Some(&state) {
                states.push(state);
            }
            if states.last().is_some_and(|state| state == last) {
                break;
            }
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), watched).await;
    waited.with_context(|| format!("{image} never was {last:?}"))??;
    Ok(states)
}

/// `PHASE ready=STATUS REASON`, once the kubelet has spoken.
fn state(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")?;
    let container = status.container_statuses.as_ref()?.first()?;
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("-");
    Some(format!("{} ready={} {reason}", status.phase.as_deref()?, ready.status))
}

#[tokio::test]
async fn images_decide_how_pods_behave() -> Result<()> {
    let ns = shared().await.namespace("lives").await?;
    let (up, down) = ("Running ready=True -", "Running ready=False -");
    let crashing = "Running ready=False CrashLoopBackOff";
    let pulling = "Pending ready=False ImagePullBackOff";
    let cases = [
        ("plain", "app:1", vec![up]),
        ("never", "app:never-ready", vec![down]),
        ("later", "app:ready-after-2s", vec![down, up]),
        ("loop", "app:crash-loop", vec![crashing]),
        ("crash", "app:crash-after-2s", vec![up, crashing]),
        ("both", "app:ready-after-1s-crash-after-1s", vec![down, up, crashing]),
        ("pull", "app:image-pull", vec![pulling]),
    ];
    let lives = cases.iter().map(|(name, image, states)| {
        let ns = &ns;
        async move { anyhow::Ok((life(ns, name, image, states[states.len() - 1]).await?, states)) }
    });
    for (seen, expected) in futures::future::try_join_all(lives).await? {
        assert_eq!(&seen, expected);
    }
    Ok(())
}

#[tokio::test]
async fn readiness_has_its_time_and_stays_in_time_when_the_pod_is_written() -> Result<()> {
    let cluster = shared().await;
    let ns = cluster.namespace("times").await?;
    let api = Api::<Pod>::namespaced(cluster.client().await?, &ns);
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "late"}, "spec": {"containers": [container("app:ready-after-8s")]},
    }))?;
    api.create(&PostParams::default(), &pod).await?;
    let running = |pod: Option<&Pod>| pod.and_then(state).is_some_and(|s| s.starts_with("Running"));
    let started = wait_for(api.clone(), "late", running, MINUTE).await?;
    for n in 0..6 {
        let label = serde_json::json!({"metadata": {"labels": {"touched": n.to_string()}}});
        api.patch("late", &PatchParams::default(), &Patch::Merge(label)).await?;
        if n < 5 {
            // Writes spread over the time it takes to become ready: that is what is tested.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let last = jiff::Timestamp::now();
    let ready = wait_for(api, "late", |pod: Option<&Pod>| ready_pods(pod) == 1, MINUTE).await?;
    let ready = transition(&ready)?;
    let moved = ready.duration_since(transition(&started)?).as_secs();
    assert!(moved >= 7, "{moved}");
    // Started over by the last write it would take 8 s from there, and not about 3.
    let after = ready.duration_since(last).as_secs();
    assert!(after < 7, "the timer was started over: {after}");
    Ok(())
}

fn transition(pod: &Pod) -> Result<jiff::Timestamp> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    Ok(ready.and_then(|ready| ready.last_transition_time.as_ref()).context("no time")?.0)
}

#[tokio::test]
async fn a_deleted_pod_goes_and_a_job_completes() -> Result<()> {
    let cluster = shared().await;
    let ns = cluster.namespace("ends").await?;
    let client = cluster.client().await?;
    let jobs = Api::<k8s_openapi::api::batch::v1::Job>::namespaced(client.clone(), &ns);
    let job = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "once"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [container("app:1")],
        }}},
    }))?;
    jobs.create(&PostParams::default(), &job).await?;
    wait_for(jobs, "once", kube::runtime::conditions::is_job_completed(), MINUTE).await?;

    let pods = Api::<Pod>::namespaced(client, &ns);
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "slow"}, "spec": {"containers": [container("app:slow-stop-1s")]},
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    wait_for(pods.clone(), "slow", |pod: Option<&Pod>| ready_pods(pod) == 1, MINUTE).await?;
    let before = std::time::Instant::now();
    pods.delete("slow", &DeleteParams::default()).await?;
    upgrade_sandbox::wait::gone(pods, "slow", MINUTE).await?;
    assert!(before.elapsed() >= Duration::from_secs(1));
    Ok(())
}

#[tokio::test]
async fn users_are_who_their_certificates_say() -> Result<()> {
    let cluster = shared().await;
    let whoami = |kubeconfig: &std::path::Path| -> Result<serde_json::Value> {
        let output =
            cluster.kubectl_with(kubeconfig).args(["auth", "whoami", "-o", "json"]).output()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(answer.pointer("/status/userInfo").cloned().unwrap_or_default())
    };
    let alice = whoami(&cluster.kubeconfig_for("alice", &["dev", "release"])?)?;
    let bob = whoami(&cluster.kubeconfig_for("bob", &[])?)?;
    assert_eq!(alice["username"], "alice");
    let groups: BTreeSet<_> = serde_json::from_value(alice["groups"].clone())?;
    let expected = ["dev", "release", "system:authenticated"].map(String::from);
    assert_eq!(groups, BTreeSet::from(expected));
    assert_eq!(bob["username"], "bob");
    assert!(cluster.kubeconfig_for("eve", &["a", "b", "c"]).is_err());
    Ok(())
}

#[tokio::test]
async fn a_process_can_be_killed_and_started_again() -> Result<()> {
    let cluster = shared().await;
    let spawn = |argv| cluster.spawn("probe", argv, [("GREETING", "hello")]);
    let first = spawn(["sh", "-c", "echo $GREETING; exec tail -f /dev/null"]).await?;
    assert!(first.pid().is_some());
    first.kill()?;
    assert_eq!(first.wait_exit().await, Exit::Signal(9));
    assert_eq!(first.pid(), None);
    let second =
        spawn(["sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"])
            .await?;
    let says = |word: &'static str| {
        let second = second.clone();
        move || {
            let log = second.log_tail(9);
            async move { log.contains(word).then_some(()).context(log) }
        }
    };
    upgrade_sandbox::eventually("up", MINUTE, says("up")).await?;
    second.term()?;
    assert_eq!(second.wait_exit().await, Exit::Code(7));
    assert_eq!(second.log_tail(9).lines().next_back(), Some("bye"));
    let none = cluster.spawn("none", ["/no/such/program"], [("A", "b")]).await;
    assert!(none.is_err_and(|error| error.to_string().contains("does not exist")));
    Ok(())
}

#[tokio::test]
async fn two_control_planes_do_not_meet() -> Result<()> {
    let start = || ControlPlane::start(Options { nodes: 1, ..Options::default() });
    let (one, two) = tokio::try_join!(start(), start())?;
    assert_ne!(one.url(), two.url());
    let name = one.namespace("mine").await?;
    let other = Api::<k8s_openapi::api::core::v1::Namespace>::all(two.client().await?);
    assert!(other.get_opt(&name).await?.is_none());
    let (dir, pids) = (one.dir().to_owned(), common::pids(&one));
    drop(one);
    assert!(!dir.exists());
    common::assert_dead(&pids).await?;
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(two.client().await?);
    let names: Vec<_> =
        nodes.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["node-0"]);
    Ok(())
}

#[tokio::test]
async fn a_wait_in_vain_shows_what_was_there() -> Result<()> {
    let cluster = shared().await;
    let client = cluster.client().await?;
    let ns = cluster.namespace("vain").await?;
    let api = create(&client, &ns, &deployment("stuck", 1, "app:never-ready")).await?;
    let error = wait_for(api, "stuck", rolled_out(1), Duration::from_secs(5)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("stuck") && text.contains("app:never-ready"), "{text}");
    assert!(!text.contains("managedFields"), "{text}");
    Ok(())
}
