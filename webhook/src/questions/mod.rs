//! How questions of the engine are answered: one file a kind of question.
//!
//! Whatever comes back is bounded in size and time, and no error names a secret.

mod http;
mod logs;
mod object;
mod receiver;
mod request;
mod secrets;
mod server;

pub use receiver::post;

use kube::Client;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Semaphore;
use upgrade_core::api::SYSTEM_NAMESPACE;
use upgrade_core::engine::questions::{NotifyQuestion, Question};

/// Answers a question that an Upgrade of this namespace asks. The error is for people.
pub async fn answer(client: &Client, namespace: &str, question: Question) -> Result<Value, String> {
    // Five thousand pods are not asked in one moment.
    let Ok(_turn) = TURNS.acquire().await else { return Err("shutting down".to_owned()) };
    match question {
        Question::Logs(question) => logs::count(client, namespace, question).await,
        Question::WouldCreate { resource, object } => {
            server::would_create(client, namespace, &resource, object).await
        }
        Question::Live { resource, name } => {
            server::live(client, namespace, &resource, &name).await
        }
        Question::Http(question) => http::get(question).await,
        Question::Notify(NotifyQuestion { receiver, body }) => {
            let posted = post(client, SYSTEM_NAMESPACE, &receiver, &body).await;
            posted.map(|()| json!(true)).map_err(|e| format!("{e:#}"))
        }
        Question::Request(question) => {
            let secrets = secrets::Secrets::read(client, namespace, &question.secrets).await?;
            request::send(question, &secrets).await
        }
        Question::Object(question) => {
            let asked = object::get(client, namespace, question);
            let late = || format!("the API server has not answered within {LONGEST:?}");
            tokio::time::timeout(LONGEST, asked).await.unwrap_or_else(|_| Err(late()))
        }
        Question::Tcp { address, timeout } => tcp(&address, limit(timeout)).await,
    }
}

/// A time limit that is never without end, whatever was asked for.
fn limit(timeout: jiff::SignedDuration) -> Duration {
    Duration::try_from(timeout).unwrap_or_default().clamp(Duration::from_millis(1), LONGEST)
}

/// Questions that are asked at one time, of all Upgrades together.
static TURNS: Semaphore = Semaphore::const_new(64);

/// The longest that any question may take.
const LONGEST: Duration = Duration::from_mins(1);

async fn tcp(address: &str, limit: Duration) -> Result<Value, String> {
    match tokio::time::timeout(limit, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(json!(true)),
        Ok(Err(error)) => Err(format!("{address}: {error}")),
        Err(_) => Err(format!("{address}: no connection within {limit:?}")),
    }
}
