//! The guardian: a process of its own that owns every process of a sandbox, so that none of them
//! outlives it. It ends them when its standard input closes, which the kernel sees to however its
//! parent ended: Ctrl-C, panic or `kill -9`.

mod cgroups;
mod client;
mod server;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use client::executable;
pub use client::{Exit, Guardian, Launch, Process, call};
pub use server::{exec_bound, serve};

/// A guardian and a library from different builds must not guess at each other.
const PROTOCOL: u32 = 1;

/// What a guardian is asked, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a process; `Started` or `Failed` answers, `Exited` follows.
    Start {
        /// Chosen by the asker; names the process from then on.
        id: u64,
        /// For people.
        name: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Added to the guardian's own environment.
        env: Vec<(String, String)>,
        /// Working directory.
        cwd: Option<PathBuf>,
        /// Where stdout and stderr are appended.
        log: PathBuf,
    },
    /// SIGKILL to the process and its group.
    Kill {
        /// Which.
        id: u64,
    },
    /// SIGTERM to the process.
    Term {
        /// Which.
        id: u64,
    },
    /// Live on when stdin closes.
    Detach,
    /// What runs?
    Status,
    /// End everything, then answer `Stopped`.
    Stop,
}

/// What a guardian says, one JSON object a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The first line.
    Ready {
        /// See [`PROTOCOL`].
        protocol: u32,
        /// The guardian's own pid.
        pid: u32,
        /// The directory that goes when the guardian goes.
        scratch: PathBuf,
    },
    /// The process runs.
    Started {
        /// As asked.
        id: u64,
        /// Its pid.
        pid: u32,
    },
    /// The process could not be started.
    Failed {
        /// As asked.
        id: u64,
        /// Why.
        error: String,
    },
    /// The process ended.
    Exited {
        /// As asked.
        id: u64,
        /// How.
        exit: Exit,
    },
    /// The guardian no longer depends on its parent.
    Detached,
    /// Answers `Status`.
    Status(Status),
    /// Everything is gone.
    Stopped,
}

/// What a guardian owns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The guardian's own pid.
    pub pid: u32,
    /// Seconds since the guardian started.
    pub uptime_seconds: u64,
    /// Whether it lives on without its parent.
    pub detached: bool,
    /// The processes, in the order of their start.
    pub processes: Vec<Running>,
}

/// A process that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// For people.
    pub name: String,
    /// Its pid.
    pub pid: u32,
}

/// The guardian's socket for whoever has no pipe to it.
pub fn socket(scratch: &std::path::Path) -> PathBuf {
    scratch.join("guard.sock")
}
