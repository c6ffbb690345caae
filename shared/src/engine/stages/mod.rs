//! Stage kinds, one file each.

mod checks;
pub mod job;
mod jump;
mod rollback_window;
mod target;
pub(crate) mod workloads;

pub(crate) use target::drift;

pub(crate) use target::Position;
pub(crate) use workloads::Round;

/// Where a stage is after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StageMove {
    /// Something was written or is waited for.
    Waiting,
    /// It is finished and verified.
    Done,
    /// It has failed, and why.
    Failed(String),
    /// An analysis has said no, and why.
    AnalysisFailed(String),
}
