//! Shared by the tests of the sandbox. Each test file uses its own part of it.
#![allow(dead_code)]

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use upgrade_sandbox::{ControlPlane, eventually};

pub fn container(image: &str) -> Value {
    json!({"name": "app", "image": image})
}

pub fn deployment(name: &str, replicas: i32, image: &str) -> Deployment {
    let labels = json!({"app": name});
    let object = json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container(image)]}},
        },
    });
    serde_json::from_value(object).expect("a Deployment")
}

pub fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [container(image)]}}}})
}

/// All `replicas` run the newest template, and nothing else runs.
pub fn rolled_out(replicas: i32) -> impl Fn(Option<&Deployment>) -> bool {
    move |object| {
        let Some(object) = object else { return false };
        let Some(status) = &object.status else {
            return false;
        };
        let all = Some(replicas);
        status.observed_generation == object.metadata.generation
            && (status.updated_replicas, status.available_replicas) == (all, all)
            && status.replicas == all
    }
}

pub fn ready_pods(pod: Option<&Pod>) -> usize {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").count()
}

/// The guardian and all it owns.
pub fn pids(cluster: &ControlPlane) -> Vec<u32> {
    let owned = cluster.processes().iter().filter_map(upgrade_sandbox::Process::pid);
    owned.chain([cluster.guardian_pid()]).collect()
}

/// Of a process that died only the kernel's memory of it may be left, until init has reaped it.
pub async fn assert_dead(pids: &[u32]) -> Result<()> {
    assert!(!pids.is_empty());
    eventually("the processes to end", Duration::from_secs(10), || async {
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
            if state.is_some_and(|state| state != 'Z') {
                bail!("{pid} lives: {stat}");
            }
        }
        Ok(())
    })
    .await
}
