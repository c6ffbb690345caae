//! Reading that keeps "it is not there" and "nobody let me look" apart.

use crate::client::Session;
use crate::errors::{explain, is_absent};
use crate::output::checks::Check;
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Most objects that one request lists.
const PAGE: u32 = 500;

/// An answer that keeps "it is not there" and "nobody let me look" apart.
#[derive(Clone, Debug)]
pub enum Read<T> {
    /// It is there.
    There(T),
    /// It is not.
    Absent,
    /// It could not be looked at, and what that would have needed.
    Unknown(String),
}

impl<T> Read<T> {
    /// What a request came to; `need` is the right it takes, as a verb with its object.
    pub fn of(session: &Session, result: Result<Option<T>, kube::Error>, need: &str) -> Self {
        match result {
            Ok(Some(found)) => Self::There(found),
            Ok(None) => Self::Absent,
            Err(kube::Error::Api(status)) if is_absent(&status) => Self::Absent,
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                Self::Unknown(format!("needs the right to {need}"))
            }
            Err(error) => {
                Self::Unknown(format!("to {need} failed: {}", explain(session, &error).message))
            }
        }
    }

    /// What it would have needed, where it could not be looked at.
    pub fn needs(&self) -> Option<&String> {
        match self {
            Self::Unknown(needs) => Some(needs),
            _ => None,
        }
    }

    /// The value, or the check that says why there is none.
    pub fn or_check(&self, id: &'static str, absent: impl FnOnce() -> Check) -> Result<&T, Check> {
        match self {
            Self::There(found) => Ok(found),
            Self::Absent => Err(absent()),
            Self::Unknown(needs) => Err(Check::not_checked(id, needs)),
        }
    }
}

/// Lists everything of a kind, page by page; `need` is the right it takes.
pub async fn list_all<K>(session: &Session, api: &Api<K>, need: &str) -> Read<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut items = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = match Read::of(session, api.list(&params).await.map(Some), need) {
            Read::There(page) => page,
            Read::Absent => return Read::Absent,
            Read::Unknown(why) => return Read::Unknown(why),
        };
        items.extend(page.items);
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Read::There(items),
        }
    }
}
