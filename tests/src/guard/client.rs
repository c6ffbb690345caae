//! The library's side of the guardian.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Event, PROTOCOL, Request};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Its guardian is gone, and the process with it.
    Lost,
}

impl Exit {
    /// Whether the process ended with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl From<std::process::ExitStatus> for Exit {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Lost,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Lost => write!(f, "lost with its guardian"),
        }
    }
}

/// A process to start.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// For people, and the log file's name.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment of the process that started the guardian.
    pub env: Vec<(String, String)>,
    /// Working directory; the guardian's where absent.
    pub cwd: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum State {
    Starting,
    Running(u32),
    Failed(String),
    Exited(Exit),
}

struct Inner {
    stdin: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
    states: Mutex<HashMap<u64, watch::Sender<State>>>,
    detached: watch::Sender<bool>,
    gone: watch::Sender<bool>,
    next: AtomicU64,
    pid: u32,
    scratch: PathBuf,
}

/// A running guardian. It and everything it owns ends when this is dropped, or when this process
/// ends in whatever way.
pub struct Guardian(Arc<Inner>);

/// A process that the guardian owns.
#[derive(Clone)]
pub struct Process {
    id: u64,
    name: String,
    log: PathBuf,
    state: watch::Receiver<State>,
    guardian: Arc<Inner>,
}

/// The poisoned data is a map or a handle that any panic leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guardian {
    /// Starts a guardian.
    pub fn launch() -> Result<Self> {
        let program = executable()?;
        let mut child = Command::new(&program)
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Its own group: Ctrl-C at the terminal must reach it through its parent only.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the guardian {}", program.display()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the guardian has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next().context("the guardian ended at once")??;
        let Ok(Event::Ready { protocol: PROTOCOL, pid, scratch }) = serde_json::from_str(&first)
        else {
            bail!(
                "{} is from another build\nhint: cargo build -p upgrade-sandbox",
                program.display()
            );
        };
        std::fs::create_dir_all(scratch.join("logs")).context("no directory for logs")?;
        let inner = Arc::new(Inner {
            stdin: Mutex::new(stdin),
            child: Mutex::new(child),
            states: Mutex::default(),
            detached: watch::Sender::new(false),
            gone: watch::Sender::new(false),
            next: AtomicU64::new(1),
            pid,
            scratch,
        });
        let reader = Arc::clone(&inner);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    reader.heard(event);
                }
            }
            reader.end();
        });
        Ok(Self(inner))
    }

    /// The directory that goes when the guardian goes.
    pub fn scratch(&self) -> &Path {
        &self.0.scratch
    }

    /// The guardian's pid.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Starts a process and waits until it runs.
    pub async fn spawn(&self, launch: Launch) -> Result<Process> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let log = self.0.scratch.join("logs").join(format!("{}.log", launch.name));
        let (sender, mut state) = watch::channel(State::Starting);
        lock(&self.0.states).insert(id, sender);
        self.0.ask(&Request::Start {
            id,
            name: launch.name.clone(),
            argv: launch.argv,
            env: launch.env,
            cwd: launch.cwd,
            log: log.clone(),
        })?;
        let started = state
            .wait_for(|state| !matches!(state, State::Starting))
            .await
            .map(|state| state.clone());
        match started {
            Ok(State::Failed(error)) => bail!("{}: {error}", launch.name),
            Err(_) => bail!("{}: the guardian is gone", launch.name),
            Ok(_) => {
                Ok(Process { id, name: launch.name, log, state, guardian: Arc::clone(&self.0) })
            }
        }
    }

    /// Lets the guardian live on without this process.
    pub async fn detach(self) -> Result<()> {
        let mut detached = self.0.detached.subscribe();
        self.0.ask(&Request::Detach)?;
        tokio::time::timeout(Duration::from_secs(5), detached.wait_for(|detached| *detached))
            .await
            .context("the guardian does not answer")??;
        Ok(())
    }

    /// Waits until the guardian has ended.
    pub async fn gone(&self) {
        // The sender lives in `self`, so the channel cannot close first.
        let _ = self.0.gone.subscribe().wait_for(|gone| *gone).await;
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let detached = *self.0.detached.borrow();
        drop(lock(&self.0.stdin).take());
        if !detached {
            // Waiting makes "dropped" mean "gone"; kills and one directory take some milliseconds.
            let _ = lock(&self.0.child).wait();
        }
    }
}

impl Inner {
    fn ask(&self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut stdin = lock(&self.stdin);
        let stdin = stdin.as_mut().context("the sandbox has been shut down")?;
        stdin.write_all(&line).context("the guardian is gone")
    }

    fn heard(&self, event: Event) {
        let (id, state) = match event {
            Event::Started { id, pid } => (id, State::Running(pid)),
            Event::Failed { id, error } => (id, State::Failed(error)),
            Event::Exited { id, exit } => (id, State::Exited(exit)),
            Event::Detached => {
                self.detached.send_replace(true);
                return;
            }
            Event::Ready { .. } | Event::Status(_) | Event::Stopped => return,
        };
        let mut states = lock(&self.states);
        if let Some(sender) = states.get(&id) {
            let last = matches!(state, State::Exited(_) | State::Failed(_));
            sender.send_replace(state);
            if last {
                states.remove(&id);
            }
        }
    }

    fn end(&self) {
        for (_, sender) in lock(&self.states).drain() {
            sender.send_replace(State::Exited(Exit::Lost));
        }
        self.gone.send_replace(true);
    }
}

impl Process {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Running(pid) => Some(pid),
            _ => None,
        }
    }

    /// SIGKILL, to it and to what it started. Returns at once; see [`Process::wait_exit`].
    pub fn kill(&self) -> Result<()> {
        self.guardian.ask(&Request::Kill { id: self.id })
    }

    /// SIGTERM. Returns at once; see [`Process::wait_exit`].
    pub fn term(&self) -> Result<()> {
        self.guardian.ask(&Request::Term { id: self.id })
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self) -> Exit {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| matches!(state, State::Exited(_))).await;
        match ended.as_deref() {
            Ok(State::Exited(exit)) => *exit,
            _ => Exit::Lost,
        }
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Asks a guardian through its socket. `None` where none listens there any more.
pub fn call(socket: &Path, request: &Request) -> Result<Option<Event>> {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("the guardian does not listen")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the guardian does not answer")?;
    if answer.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&answer).map(Some).context("the guardian is from another build")
}

/// The `sandbox` program: tests run in `target/<profile>/deps`, other programs beside it.
pub(crate) fn executable() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("UPGRADE_SANDBOX_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("where is this program?")?;
    if own.file_name().is_some_and(|name| name == "sandbox") {
        return Ok(own);
    }
    own.ancestors().skip(1).take(2).map(|dir| dir.join("sandbox")).find(|path| path.is_file()).with_context(|| {
        format!(
            "the program `sandbox` is not beside {}\nhint: cargo build -p upgrade-sandbox, or name it in UPGRADE_SANDBOX_BIN",
            own.display()
        )
    })
}
