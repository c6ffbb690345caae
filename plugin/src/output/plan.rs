//! A plan for people.

use super::describe::short_hash;
use super::stage;
use super::table::Table;
use crate::gather::{Prepared, not_carried_lines};
use owo_colors::OwoColorize;
use std::fmt::Write;
use upgrade_core::api::UpgradeSpec;
use upgrade_core::plan::{Notice, Plan, Severity};

/// The plan as a header and a table.
pub fn render(prepared: &Prepared, wide: bool, width: Option<usize>) -> String {
    let plan = &prepared.plan;
    let mut text = header(plan);
    text.push_str(&table(plan, wide).render(width));
    if prepared.unchanged > 0 {
        let _ = writeln!(
            text,
            "\n{} other objects of the manifests are as they should be.",
            prepared.unchanged
        );
    }
    if !prepared.not_carried.is_empty() {
        text.push_str("\nNot part of this upgrade (apply it separately):\n");
        for line in not_carried_lines(&prepared.not_carried) {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn header(plan: &Plan) -> String {
    let strategies: Vec<String> = plan.spec.stages.iter().map(stage::text).collect();
    format!(
        "Upgrade:  {}/{}   {}\nStrategy: {}   Plan: {}\n\n",
        plan.namespace,
        plan.name,
        versions(&plan.spec),
        strategies.join("; "),
        short_hash(&plan.plan_hash)
    )
}

/// `v1 → v2`, or nothing where the images do not agree.
pub fn versions(spec: &UpgradeSpec) -> String {
    match (&spec.from, &spec.to) {
        (None, None) => String::new(),
        (from, to) => {
            let word = |v: &Option<String>| v.clone().unwrap_or_else(|| "<several>".to_owned());
            format!("{} to {}", word(from), word(to))
        }
    }
}

fn table(plan: &Plan, wide: bool) -> Table {
    let headings: &[&str] = if wide {
        &["COMPONENT", "CONTAINER", "CURRENT", "TARGET", "REPLICAS", "FROM", "TO"]
    } else {
        &["COMPONENT", "CONTAINER", "CURRENT", "TARGET", "REPLICAS"]
    };
    let mut table = Table::new(headings);
    for row in &plan.changes {
        let container =
            if row.init { format!("{} (init)", row.container) } else { row.container.clone() };
        // Two images of one version differ in something else, which is then what counts.
        let (current, target) = if row.current == row.target {
            (row.from.clone(), row.to.clone())
        } else {
            (row.current.clone(), row.target.clone())
        };
        let mut cells =
            vec![row.component.clone(), container, current, target, row.replicas.to_string()];
        if wide {
            cells.extend([row.from.clone(), row.to.clone()]);
        }
        table.row(cells);
    }
    table
}

/// The notices, for stderr.
pub fn notices(notices: &[Notice]) -> String {
    let mut text = String::new();
    for notice in notices {
        let word = match notice.severity {
            Severity::Risk => "risk:".yellow().bold().to_string(),
            Severity::Note => "note:".dimmed().to_string(),
        };
        let _ = writeln!(text, "{word} {}", notice.message);
    }
    text
}
