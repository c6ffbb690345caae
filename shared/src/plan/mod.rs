//! What an Upgrade will do: its hash, its risks, what manifests change.

pub mod build;
pub mod diff;
pub mod hash;
pub mod live;
pub mod manifest;
mod quantity;
pub mod risks;
pub mod separate;

pub use build::{Autoscaler, Plan, Request, Row, Workload, plan};
pub use diff::{Comparison, Difference, compare};
pub use hash::plan_hash;
pub use live::Live;
pub use manifest::{ManifestError, ObjectId, flatten};
pub use risks::{Notice, Severity};
