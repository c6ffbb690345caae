//! The guardian's own side.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Event, Exit, PROTOCOL, Request, Running, Status, cgroups, socket};

/// Set to keep the scratch directory, with its logs, when the guardian ends.
const KEEP: &str = "UPGRADE_SANDBOX_KEEP";

/// How the scratch directories are called.
const PREFIX: &str = "kubectl-upgrade-";

/// What reaches the guardian, from wherever.
enum Message {
    FromParent(Request),
    ParentGone,
    FromSocket(Request, oneshot::Sender<Event>),
    Exited(u64),
}

struct Minded {
    name: String,
    pid: u32,
    orders: mpsc::UnboundedSender<Signal>,
    task: JoinHandle<()>,
}

struct Server {
    children: BTreeMap<u64, Minded>,
    messages: mpsc::UnboundedSender<Message>,
    started: Instant,
    detached: bool,
}

/// Runs the guardian until it is told to stop, or its parent is gone.
pub fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the guardian has no runtime")?;
    let outcome = runtime.block_on(run());
    // The thread that reads stdin may sit in a read for ever.
    runtime.shutdown_background();
    outcome
}

/// Removes what guardians that were killed themselves left behind. Each has a socket that nobody
/// listens on any more; one that has just begun has no socket yet, and is let be.
fn sweep() -> std::io::Result<()> {
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let refused = std::os::unix::net::UnixStream::connect(socket(&entry.path()))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused {
            // Another guardian may be at it as well.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    cgroups::sweep(PREFIX);
    Ok(())
}

async fn run() -> Result<()> {
    // Nothing that is left lying there keeps a sandbox from starting.
    let _ = sweep();
    let keep = std::env::var_os(KEEP).is_some();
    let scratch = tempfile::Builder::new()
        .prefix(PREFIX)
        .disable_cleanup(keep)
        .tempdir()
        .context("no scratch directory")?;
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    listen(scratch.path(), messages.clone())?;
    read_parent(messages.clone());
    say(&Event::Ready {
        protocol: PROTOCOL,
        pid: std::process::id(),
        scratch: scratch.path().to_owned(),
    });
    let mut server =
        Server { children: BTreeMap::new(), messages, started: Instant::now(), detached: false };
    let farewell = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv(), if !server.detached => break None,
            message = inbox.recv() => match message {
                Some(Message::ParentGone) if server.detached => {}
                None | Some(Message::ParentGone | Message::FromParent(Request::Stop)) => break None,
                Some(Message::FromSocket(Request::Stop, reply)) => break Some(reply),
                Some(message) => server.handle(message),
            },
        }
    };
    server.end_all().await;
    if let Some(name) = scratch.path().file_name().and_then(|name| name.to_str()) {
        cgroups::remove(name).await;
    }
    let removed = scratch.close().context("the scratch directory could not be removed");
    if let Some(reply) = farewell {
        let _ = reply.send(Event::Stopped);
        // The connection's task writes the answer; let it before the runtime ends.
        tokio::task::yield_now().await;
    }
    removed
}

impl Server {
    fn handle(&mut self, message: Message) {
        match message {
            Message::FromParent(Request::Start { id, name, argv, env, cwd, log }) => {
                match start(&argv, env, cwd, &log) {
                    Ok((child, pid)) => {
                        let minded = self.mind(id, name, child, pid);
                        self.children.insert(id, minded);
                        say(&Event::Started { id, pid });
                    }
                    Err(error) => say(&Event::Failed { id, error: format!("{error:#}") }),
                }
            }
            Message::FromParent(Request::Kill { id }) => self.order(id, Signal::KILL),
            Message::FromParent(Request::Term { id }) => self.order(id, Signal::TERM),
            Message::FromParent(Request::Detach) => {
                self.detached = true;
                say(&Event::Detached);
            }
            Message::FromParent(Request::Status) => say(&Event::Status(self.status())),
            Message::FromSocket(Request::Status, reply) => {
                let _ = reply.send(Event::Status(self.status()));
            }
            Message::Exited(id) => {
                self.children.remove(&id);
            }
            // Only the parent starts and signals; a dropped reply closes the stranger's connection.
            Message::FromSocket(..) | Message::FromParent(Request::Stop) | Message::ParentGone => {}
        }
    }

    fn order(&self, id: u64, signal: Signal) {
        if let Some(child) = self.children.get(&id) {
            // A closed channel is a process that has just ended.
            let _ = child.orders.send(signal);
        }
    }

    fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            detached: self.detached,
            processes: self
                .children
                .values()
                .map(|child| Running { name: child.name.clone(), pid: child.pid })
                .collect(),
        }
    }

    fn mind(&self, id: u64, name: String, child: Child, pid: u32) -> Minded {
        let (orders, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(mind(id, child, inbox, self.messages.clone()));
        Minded { name, pid, orders, task }
    }

    /// The last one started depends on those before it, so it goes first.
    async fn end_all(&mut self) {
        while let Some((_, child)) = self.children.pop_last() {
            let _ = child.orders.send(Signal::KILL);
            let _ = child.task.await;
        }
    }
}

/// The only place that reaps a child, and hence the only one that may signal it: as long as
/// `id()` answers, the pid cannot have become a stranger's.
async fn mind(
    id: u64,
    mut child: Child,
    mut orders: mpsc::UnboundedReceiver<Signal>,
    messages: mpsc::UnboundedSender<Message>,
) {
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(order) = orders.recv() => send(&child, order),
        }
    };
    let exit = status.map_or(Exit::Lost, Exit::from);
    say(&Event::Exited { id, exit });
    let _ = messages.send(Message::Exited(id));
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    // What fails here is a process that is gone, which `wait` reports.
    let _ = if signal == Signal::KILL {
        kill_process_group(pid, signal)
    } else {
        kill_process(pid, signal)
    };
}

fn start(
    argv: &[String],
    env: Vec<(String, String)>,
    cwd: Option<std::path::PathBuf>,
    log: &std::path::Path,
) -> Result<(Child, u32)> {
    let program = argv.first().context("no program to start")?;
    // The program is only executed later, by `exec_bound`, whose failure would look like an exit.
    if program.contains('/') && !std::path::Path::new(program).exists() {
        bail!("{program} does not exist");
    }
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
    let mut command = Command::new(own_program()?);
    command
        .arg("guard-exec")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(argv)
        .envs(env)
        .stdin(Stdio::null())
        .stdout(open().with_context(|| format!("cannot write {}", log.display()))?)
        .stderr(open().with_context(|| format!("cannot write {}", log.display()))?)
        .process_group(0);
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let pid = child.id().context("a fresh process has no pid")?;
    Ok((child, pid))
}

/// This very program, even when a rebuild has put another one at its path meanwhile.
fn own_program() -> Result<std::path::PathBuf> {
    let link = std::path::PathBuf::from("/proc/self/exe");
    if link.exists() { Ok(link) } else { std::env::current_exe().context("where is this program?") }
}

/// Becomes `argv`, bound to the life of the guardian `parent` even where that is killed itself.
/// A program of its own, because Rust can ask this safely only for the process it runs in.
pub fn exec_bound(parent: u32, argv: &[String]) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .context("cannot bind to the guardian")?;
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        if now != i32::try_from(parent).ok() {
            bail!("the guardian is gone");
        }
    }
    let (program, arguments) = argv.split_first().context("no program to start")?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot execute {program}"))
}

fn say(event: &Event) {
    let Ok(mut line) = serde_json::to_string(event) else {
        return;
    };
    line.push('\n');
    let mut out = std::io::stdout().lock();
    // After a detach nobody listens, and that is fine.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn read_parent(messages: mpsc::UnboundedSender<Message>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Ok(request) = serde_json::from_str(&line) {
                let _ = messages.send(Message::FromParent(request));
            }
        }
        let _ = messages.send(Message::ParentGone);
    });
}

fn listen(scratch: &std::path::Path, messages: mpsc::UnboundedSender<Message>) -> Result<()> {
    // Only the owner can enter the directory, so only the owner can connect.
    let listener = UnixListener::bind(socket(scratch)).context("no control socket")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, messages.clone()));
        }
    });
    Ok(())
}

async fn answer(mut stream: UnixStream, messages: mpsc::UnboundedSender<Message>) {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    if BufReader::new(read).read_line(&mut line).await.is_err() {
        return;
    }
    let Ok(request) = serde_json::from_str(&line) else {
        return;
    };
    let (reply, answer) = oneshot::channel();
    let _ = messages.send(Message::FromSocket(request, reply));
    if let Ok(event) = answer.await
        && let Ok(mut line) = serde_json::to_vec(&event)
    {
        line.push(b'\n');
        let _ = write.write_all(&line).await;
    }
}
