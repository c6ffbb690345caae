//! What every check stands on: how to read, what this plugin would install, and what is there.

use crate::client::Session;
use crate::commands::manifests::{Item, api_of, kinds, wanted};
use crate::errors::explain;
pub use crate::gather::Read;
use crate::output::Refusal;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::client::Body;
use kube::core::Request;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Requests under way at once.
pub const AT_ONCE: usize = 8;

/// What is installed beside what this plugin would install.
pub struct Cluster<'a> {
    /// How to ask.
    pub session: &'a Session,
    /// Every embedded object, and its counterpart in the cluster.
    pub pairs: Vec<(Item, Read<Value>)>,
    /// The address of the webhook, where it runs outside the cluster.
    pub outside: Option<String>,
    /// Now, by the API server's clock; by this machine's where it does not say.
    pub now: Timestamp,
    /// How far this machine's clock is ahead of the API server's, in milliseconds.
    pub ahead: Option<i64>,
}

impl<'a> Cluster<'a> {
    /// Reads the counterparts of everything embedded. Fails only where no cluster answers.
    pub async fn look(session: &'a Session) -> Result<Self, Refusal> {
        let answer = dated::<Value>(session, "/version").await;
        let (server, ahead, _) = answer.map_err(|e| explain(session, &e))?;
        let discovery = kinds(session).await?;
        // What is wanted elsewhere depends on where the webhook is.
        let (hooks, _): (Vec<Item>, Vec<Item>) =
            wanted(None)?.into_iter().partition(Item::is_webhook);
        let one = |item: Item| {
            let discovery = &discovery;
            async move {
                let reference = item.reference();
                let kind = reference.split('/').next().unwrap_or_default();
                let need = format!("get {kind}");
                let read = match api_of(session, discovery, &item) {
                    Err(_) => Read::Absent,
                    Ok(api) => {
                        let found = api.get_opt(&item.id.name).await;
                        let value = found.map(|o| o.and_then(|o| serde_json::to_value(o).ok()));
                        Read::of(session, value, &need)
                    }
                };
                (item, read)
            }
        };
        let mut pairs: Vec<_> = stream::iter(hooks).map(one).buffered(AT_ONCE).collect().await;
        let outside = address(&pairs);
        let mut rest = wanted(outside.as_deref())?;
        rest.retain(|item| !item.is_webhook());
        pairs.extend(stream::iter(rest).map(one).buffered(AT_ONCE).collect::<Vec<_>>().await);
        Ok(Self { session, pairs, outside, now: server.unwrap_or_else(Timestamp::now), ahead })
    }

    /// The command that puts back what was installed.
    pub fn install(&self) -> String {
        match &self.outside {
            Some(url) => format!("kubectl upgrade install --webhook-url {url}"),
            None => "kubectl upgrade install".to_owned(),
        }
    }

    /// The pairs of these kinds.
    pub fn of_kinds<'s>(
        &'s self,
        kinds: &'s [&'s str],
    ) -> impl Iterator<Item = &'s (Item, Read<Value>)> {
        self.pairs.iter().filter(move |(item, _)| kinds.contains(&item.id.kind.as_str()))
    }
}

/// The URL that the webhooks name instead of our Service, without its path.
fn address(pairs: &[(Item, Read<Value>)]) -> Option<String> {
    let live =
        pairs.iter().filter(|(item, _)| item.is_webhook()).filter_map(|(_, read)| match read {
            Read::There(value) => value.get("webhooks")?.as_array(),
            _ => None,
        });
    let urls = live.flatten().filter_map(|w| w.pointer("/clientConfig/url")?.as_str());
    let base = |url: &str| {
        let (scheme, rest) = url.split_once("://")?;
        Some(format!("{scheme}://{}", rest.split('/').next()?))
    };
    let mut urls = urls;
    urls.find_map(base)
}

/// One GET: the API server's clock, how far ours is ahead of it in milliseconds, and the answer.
pub async fn dated<T: DeserializeOwned>(
    session: &Session,
    path: &str,
) -> Result<(Option<Timestamp>, Option<i64>, T), kube::Error> {
    let request = Request::new(path).list(&ListParams::default());
    let request = request.map_err(kube::Error::BuildRequest)?.map(Body::from);
    let before = Timestamp::now();
    let response = session.client.send(request).await?;
    let after = Timestamp::now();
    let date = response.headers().get("date").and_then(|d| d.to_str().ok());
    let parsed = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|z| z.timestamp());
    // The header is cut to the second: half a second is the best guess for the rest.
    let server = parsed.map(|t| t + jiff::SignedDuration::from_millis(500));
    let middle = i64::midpoint(before.as_millisecond(), after.as_millisecond());
    let ahead = server.map(|s| middle - s.as_millisecond());
    let (good, code) = (response.status().is_success(), response.status().as_u16());
    let body = response.into_body().collect_bytes().await?;
    if !good {
        let status = serde_json::from_slice::<kube::core::Status>(&body);
        let plain = || kube::core::Status::failure("not answered", "Unknown").with_code(code);
        return Err(kube::Error::Api(Box::new(status.unwrap_or_else(|_| plain()))));
    }
    serde_json::from_slice(&body).map(|v| (server, ahead, v)).map_err(kube::Error::SerdeError)
}
