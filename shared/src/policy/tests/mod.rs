//! Decisions as tables.
#![expect(clippy::too_many_lines, reason = "a table is as long as its rows")]

mod approvals;
mod create;
mod in_flight;
mod ledger;
mod parsing;
mod upgrades;
mod workloads;
