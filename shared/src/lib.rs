//! API types, upgrade engine and policy decisions of kubectl-upgrade.
//!
//! This crate is pure: it reads no clock, no network, no environment and no file. Time arrives as
//! an argument, effects leave as data. `tests/tests/tidy.rs` enforces it.
//!
//! | room | what happens there |
//! |---|---|
//! | [`analysis`] | what metrics say: conditions, templates, when an analysis passes |
//! | [`api`] | the kinds of the API group, one file each |
//! | [`image`] | image references, compared by meaning |
//! | [`lease`] | who leads |
//! | [`matrix`] | which versions go together, and on which paths: `evaluate_plan(matrix, facts, steps)` |
//! | [`plan`] | what an Upgrade will do: its hash, its risks, what manifests change |
//! | [`engine`] | how a workload gets there: `step(plan, observed, state, now)` |
//! | [`schedule`] | five-field cron on the clock of a time zone |
//! | [`windows`] | when changes may be made: `state(windows, subject, now)` |
//! | [`policy`] | who may write what: `decide(snapshot, review)` |
//! | [`version`] | versions as clusters have them, and ranges of them |

pub mod analysis;
pub mod api;
pub mod engine;
pub mod image;
pub mod lease;
pub mod matrix;
pub mod plan;
pub mod policy;
pub mod schedule;
pub mod version;
pub mod windows;
