//! Tells a quiet watch from a deaf one.
//!
//! A watch says nothing while nothing changes, and a connection that died without a word says
//! nothing either. So the API server is asked to end each watch after a few seconds, at which the
//! next begins: whatever a healthy watch is about, it is heard from in that time. What is heard
//! (the head of an answer, and each piece of its body) is noted below the parsing, where nothing
//! is hidden.

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Frame;
use kube::client::{ClientBuilder, DynBody};
use kube::{Client, Config};
use tower::util::MapResponseLayer;

/// When the API server ends a watch, in seconds. kube gives up on one that has not ended five
/// seconds later, and begins another on a new connection.
pub const WATCH_SECONDS: u32 = 15;

/// A client that calls `heard` on every sign of life of the API server. An error that it answers
/// is none: a watch that is refused is as deaf as one that is cut.
pub fn client(config: Config, heard: impl Fn() + Clone + Send + 'static) -> Result<Client> {
    let hear = move |response: Response<Box<DynBody>>| {
        let heard = heard.clone();
        let fine = response.status().is_success();
        if fine {
            heard();
        }
        response.map(move |body| {
            body.map_frame(move |frame: Frame<_>| {
                if fine {
                    heard();
                }
                frame
            })
        })
    };
    let builder = ClientBuilder::try_from(config).context("building a client for a watch")?;
    Ok(builder.with_layer(&MapResponseLayer::new(hear)).build())
}
