//! How many lines of a pod's log match: counted as they come, none is kept.

use super::limit;
use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use upgrade_core::engine::checks::pattern;
use upgrade_core::engine::questions::LogsQuestion;

/// The most of one container's log that is read, in bytes.
const LOG: i64 = 16 << 20;
/// Counting ends here: nothing may allow more, by the schema of health checks.
const LINES: u64 = 100_000;

/// `{"lines": COUNT}`
pub async fn count(
    client: &Client,
    namespace: &str,
    question: LogsQuestion,
) -> Result<Value, String> {
    let time = limit(question.timeout);
    let counted = tokio::time::timeout(time, counted(client, namespace, &question));
    match counted.await {
        Ok(lines) => Ok(json!({"lines": lines?})),
        Err(_) => Err(format!("its log was not read within {time:?}")),
    }
}

async fn counted(client: &Client, namespace: &str, question: &LogsQuestion) -> Result<u64, String> {
    let pattern = pattern(&question.pattern)?;
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let containers = if let Some(one) = &question.container {
        vec![one.clone()]
    } else {
        let pod = api.get(&question.pod).await.map_err(|e| terse(&e))?;
        let spec = pod.spec.unwrap_or_default();
        spec.containers.into_iter().map(|c| c.name).collect()
    };
    let mut sum = 0;
    for container in containers {
        let params = LogParams {
            container: Some(container),
            since_time: Some(question.since),
            limit_bytes: Some(LOG),
            ..LogParams::default()
        };
        let log = api.log_stream(&question.pod, &params).await.map_err(|e| terse(&e))?;
        sum += matching(log, &pattern).await.map_err(|e| format!("reading its log: {e}"))?;
    }
    Ok(sum)
}

async fn matching(
    mut log: impl AsyncBufRead + Unpin,
    pattern: &regex::Regex,
) -> std::io::Result<u64> {
    let (mut count, mut line) = (0, Vec::new());
    while count < LINES && log.read_until(b'\n', &mut line).await? > 0 {
        count += u64::from(pattern.is_match(String::from_utf8_lossy(&line).trim_end()));
        line.clear();
    }
    Ok(count)
}

fn terse(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("its log cannot be read: {}", status.message),
        other => format!("its log cannot be read: {other}"),
    }
}
