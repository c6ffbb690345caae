//! Stage kinds, one file each.

mod target;
mod workloads;

/// Where a stage is after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StageMove {
    /// Something was written or is waited for.
    Waiting,
    /// It is finished and verified.
    Done,
    /// It has failed, and why.
    Failed(String),
}
