//! Who we are, as the API server sees us.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Our own identity.
#[derive(Clone, Debug)]
pub struct Own {
    /// The username that admission sees on our writes.
    pub username: String,
    /// Name of this replica: the pod's, else the host's and the process'.
    pub instance: String,
}

/// Asks the API server who we are, until it answers or `stop` is cancelled (then `None`).
///
/// It must be asked and never assumed: everything that only we may write hangs on the name.
pub async fn find(client: &Client, stop: &CancellationToken) -> Option<Own> {
    let mut wait = Duration::from_millis(250);
    loop {
        match ask(client).await {
            Ok(username) => {
                return Some(Own { username, instance: instance() });
            }
            Err(error) => tracing::warn!(
                error,
                retry_seconds = wait.as_secs_f32(),
                "the API server does not say who we are yet"
            ),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(10)),
        }
    }
}

async fn ask(client: &Client) -> Result<String, String> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let (options, review) = (PostParams::default(), SelfSubjectReview::default());
    let asked = api.create(&options, &review);
    let answer = tokio::time::timeout(Duration::from_secs(10), asked)
        .await
        .map_err(|_| "no answer within 10 s".to_owned())?
        .map_err(|e| e.to_string())?;
    answer
        .status
        .and_then(|s| s.user_info)
        .and_then(|u| u.username)
        .filter(|u| !u.is_empty() && u != "system:anonymous")
        .ok_or_else(|| "the answer names nobody: the credentials are not accepted".to_owned())
}

fn instance() -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
    set("POD_NAME").unwrap_or_else(|| {
        let host = set("HOSTNAME").or_else(host).unwrap_or_default();
        format!("{}-{}", host.trim(), std::process::id())
    })
}
