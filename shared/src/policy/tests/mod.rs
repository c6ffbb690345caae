//! Decisions as tables.
#![expect(clippy::too_many_lines, reason = "a table is as long as its rows")]

mod approvals;
mod create;
mod hold;
mod in_flight;
mod ledger;
mod modes;
mod parsing;
mod rules;
mod separate;
mod upgrades;
mod workloads;
