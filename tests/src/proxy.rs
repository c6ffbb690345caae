//! TCP passed on from one address to another, as it is, until a test stops some of it: a network
//! that goes deaf without a word.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

#[derive(Default)]
struct State {
    /// One per connection ever made, in the order of their start; `true` is frozen.
    connections: Vec<watch::Sender<bool>>,
    freeze_new: bool,
}

/// A proxy of this process. It ends, with its connections, when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

/// A panic leaves a list of flags whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens at `listen` and passes everything on to `to`.
    pub async fn start(listen: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen at {listen}"))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn(accept(listener, to, Arc::clone(&state))).abort_handle();
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections made so far, ended ones included.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections.len()
    }

    /// From now on nothing passes the connection of this number, counted from 0; it stays open.
    pub fn freeze(&self, number: usize) {
        if let Some(connection) = lock(&self.state).connections.get(number) {
            connection.send_replace(true);
        }
    }

    /// Connections that are yet to come are accepted and nothing passes them.
    pub fn freeze_new(&self) {
        lock(&self.state).freeze_new = true;
    }

    /// What was held back flows again, and everything after it.
    pub fn thaw(&self) {
        let mut state = lock(&self.state);
        state.freeze_new = false;
        for connection in &state.connections {
            connection.send_replace(false);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes everything on until the process ends.
pub async fn forward(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen at {listen}"))?;
    accept(listener, to, Arc::default()).await;
    Ok(())
}

async fn accept(listener: TcpListener, to: SocketAddr, state: Arc<Mutex<State>>) {
    // The connections end with this task.
    let mut tasks = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while tasks.try_join_next().is_some() {}
        let frozen = {
            let mut state = lock(&state);
            let (sender, frozen) = watch::channel(state.freeze_new);
            state.connections.push(sender);
            frozen
        };
        tasks.spawn(pass(stream, to, frozen));
    }
}

/// How a connection ends is seen by its two ends, which see each other's end here.
async fn pass(stream: TcpStream, to: SocketAddr, frozen: watch::Receiver<bool>) {
    let Ok(other) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (stream.set_nodelay(true), other.set_nodelay(true));
    let ((read, write), (other_read, other_write)) = (stream.into_split(), other.into_split());
    tokio::join!(pump(read, other_write, frozen.clone()), pump(other_read, write, frozen));
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return;
        };
        if frozen.wait_for(|frozen| !frozen).await.is_err() {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
