//! The admission server: accept, TLS, limits, drain.
//!
//! The API server speaks HTTP/1.1 over up to 25 idle connections that it keeps for 90 s. Closing
//! one under it shows up as "failed calling webhook: EOF", so ours stay open for longer.

use super::handle::{Path, Reply, handle, too_large};
use super::{Settings, tls};
use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Largest body; the limit that controller-runtime has too.
const BODY_LIMIT: usize = 7 * 1024 * 1024;
/// How much of a body over the limit is read and dropped, so that the client gets to see why.
const DISCARD_LIMIT: usize = 32 * 1024 * 1024;
/// Time for a body to arrive; the API server gives up after five seconds.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// hyper counts idle time in this one; it must be more than the API server's 90 s.
const IDLE: Duration = Duration::from_secs(150);
/// Connections at once; the API server opens a few dozen.
const CONNECTIONS: usize = 512;
/// Time for requests under way when the server stops.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// Binds the admission port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("--listen {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "admission");
    Ok(listener)
}

/// Serves admission until `stop` is cancelled; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    stop: CancellationToken,
) -> Result<()> {
    let settings = Arc::new(settings);
    let certificates = tls::Certificates::default();
    let acceptor =
        TlsAcceptor::from(Arc::new(tls::config(&certificates, settings.clients.as_ref())?));
    let mut keeper = tokio::spawn(tls::keep(Arc::clone(&settings), certificates, stop.clone()));
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, slot) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = &mut keeper => bail!("the keeper of certificates died"),
            next = accept(&listener, &slots) => next,
        };
        let (acceptor, settings) = (acceptor.clone(), Arc::clone(&settings));
        let watcher = graceful.watcher();
        let connected = settings.metrics.connected();
        tokio::spawn(async move {
            let _open = (slot, connected);
            let shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = shaken else {
                tracing::debug!("a TLS handshake failed");
                return;
            };
            let service = service_fn(move |request| answer(Arc::clone(&settings), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    // Whoever comes now is told at once, and does not wait in a queue that nobody serves.
    drop(listener);
    if tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy after {} s", LAST_REQUESTS.as_secs());
    }
    keeper.abort();
    Ok(())
}

/// The next connection. Errors of `accept` are those of one connection or of a lack of file
/// descriptors, and neither is a reason to stop.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return (stream, slot);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer(
    settings: Arc<Settings>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = respond(&settings, request).await;
    if settings.metrics.is_draining() {
        // Whoever keeps this connection would meet its end in the middle of a request.
        response
            .headers_mut()
            .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn respond(settings: &Settings, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(path) = Path::of(request.uri().path()) else {
        return response((StatusCode::NOT_FOUND, b"/validate and /mutate are here\n".to_vec()));
    };
    if request.method() != Method::POST {
        return response((StatusCode::METHOD_NOT_ALLOWED, b"POST an AdmissionReview\n".to_vec()));
    }
    let reply = match tokio::time::timeout(BODY_TIME, collect(request.into_body())).await {
        Ok(Ok(Collected::Whole(body))) => handle(settings, path, &body).await,
        Ok(Ok(Collected::TooLarge(head))) => too_large(&head, BODY_LIMIT),
        Ok(Err(error)) => {
            (StatusCode::BAD_REQUEST, format!("reading the body: {error}\n").into_bytes())
        }
        Err(_) => (StatusCode::REQUEST_TIMEOUT, b"the body did not arrive in time\n".to_vec()),
    };
    response(reply)
}

enum Collected {
    Whole(Bytes),
    /// Over the limit; the first bytes say what to answer to.
    TooLarge(Bytes),
}

async fn collect(mut body: Incoming) -> Result<Collected, hyper::Error> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(BODY_LIMIT);
    let mut bytes = Vec::with_capacity(expected);
    let mut dropped = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if dropped == 0 && bytes.len() + data.len() <= BODY_LIMIT {
            bytes.extend_from_slice(&data);
            continue;
        }
        dropped += data.len();
        if dropped > DISCARD_LIMIT {
            break;
        }
    }
    let bytes = Bytes::from(bytes);
    Ok(if dropped == 0 { Collected::Whole(bytes) } else { Collected::TooLarge(bytes) })
}

fn response((status, body): Reply) -> Response<Full<Bytes>> {
    let kind = if status == StatusCode::OK { "application/json" } else { "text/plain" };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
