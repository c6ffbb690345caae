//! Decisions as tables.

mod approvals;
mod ledger;
mod upgrades;
mod workloads;
