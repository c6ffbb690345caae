//! What an Upgrade will do: its hash, its risks, what manifests change.

pub mod hash;

pub use hash::plan_hash;
