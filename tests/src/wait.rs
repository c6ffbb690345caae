//! Waiting without guessing how long.

use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::api::Api;
use kube::runtime::wait::Condition;
use kube::runtime::watcher::watch_object;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Watches the object until `condition` holds and returns it as it was then. When `timeout` passes
/// first, the error shows the object as it was last seen.
///
/// A condition that holds for an absent object cannot be met here; wait for deletion with
/// [`gone`].
pub async fn wait_for<K>(
    api: Api<K>,
    name: &str,
    condition: impl Condition<K>,
    timeout: Duration,
) -> Result<K>
where
    K: kube::Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let mut last = None;
    let watched = async {
        let mut seen = pin!(watch_object(api, name));
        while let Some(object) = seen.next().await {
            // A failing watch is retried by the watcher; the deadline ends it.
            let Ok(object) = object else { continue };
            if condition.matches_object(object.as_ref())
                && let Some(object) = object
            {
                return Ok(object);
            }
            last = object;
        }
        bail!("the watch of {name} ended")
    };
    if let Ok(found) = tokio::time::timeout(timeout, watched).await {
        return found;
    }
    bail!("waited {timeout:?} for {name}; last seen:\n{}", show(last.as_ref()))
}

/// Watches until the object does not exist.
pub async fn gone<K>(api: Api<K>, name: &str, timeout: Duration) -> Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let absent =
        kube::runtime::wait::await_condition(api, name, |object: Option<&K>| object.is_none());
    tokio::time::timeout(timeout, absent)
        .await
        .with_context(|| format!("waited {timeout:?} for {name} to go"))??;
    Ok(())
}

/// Tries until it succeeds, for what nothing can be watched for; the error is that of the last try.
pub async fn eventually<T, F>(
    what: &str,
    timeout: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(10);
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if Instant::now() + pause > deadline {
            return Err(error).with_context(|| format!("waited {timeout:?} for {what}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

fn show(object: Option<&impl Serialize>) -> String {
    let Some(object) = object else {
        return "nothing".to_owned();
    };
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value.pointer_mut("/metadata").and_then(|m| m.as_object_mut()) {
        // Half of an object's text, and of no use to who reads it.
        metadata.remove("managedFields");
    }
    serde_saphyr::to_string(&value).unwrap_or_else(|_| value.to_string())
}
