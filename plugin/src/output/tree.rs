//! An Upgrade as a header and a tree.

use super::describe;
use super::printer::Marks;
use super::stage;
use super::table::{Table, cut};
use jiff::Timestamp;
use kube::ResourceExt;
use owo_colors::OwoColorize;
use std::fmt::Write;
use upgrade_core::api::status::TargetStatus;
use upgrade_core::api::traffic::TrafficStatus;
use upgrade_core::api::upgrade::{Stage, WorkloadTarget};
use upgrade_core::api::{
    AnalysisPhase, AnalysisRunStatus, MetricStatus, Phase, TargetPhase, Upgrade,
};
use upgrade_core::engine::plan::Step;

/// What the tree is drawn for.
pub struct View<'a> {
    /// Marks that can be shown.
    pub marks: Marks,
    /// Columns of the terminal, if it is one.
    pub width: Option<usize>,
    /// Now.
    pub now: Timestamp,
    /// Who looks.
    pub me: Option<&'a str>,
}

/// Header, tree, why it waits, until when, and the next command.
pub fn render(upgrade: &Upgrade, view: &View<'_>) -> String {
    let mut text = header(upgrade, view);
    text.push_str(&tree(upgrade, view));
    if let Some(why) = describe::why(upgrade, view.now) {
        let _ = writeln!(text, "Why:   {why}");
    }
    if let Some(until) = describe::until(upgrade, view.now) {
        let _ = writeln!(text, "Until: {until}");
    }
    if let Some(next) = describe::next(upgrade, view.me) {
        let _ = writeln!(text, "Next:  {next}");
    }
    text
}

fn header(upgrade: &Upgrade, view: &View<'_>) -> String {
    let status = crate::objects::status(upgrade);
    let place = format!("{}/{}", upgrade.namespace().unwrap_or_default(), upgrade.name_any());
    let count = match (status.phase, describe::approval_count(upgrade)) {
        (Phase::AwaitingApproval, Some(count)) => format!(" ({count})"),
        _ => status.activity.map(|a| format!(" ({a})")).unwrap_or_default(),
    };
    let versions = format!(
        "{} {} {}",
        upgrade.spec.from.as_deref().unwrap_or("<several>"),
        view.marks.pick("→", "->"),
        upgrade.spec.to.as_deref().unwrap_or("<several>")
    );
    let requester = crate::objects::requester(upgrade);
    format!(
        "Upgrade:  {place}   Phase: {} {}{count}   Age: {}   Requested-by: {}\nVersions: {versions}   Plan: {}\n",
        mark(status.phase, view.marks),
        paint(status.phase),
        describe::object_age(upgrade, view.now),
        requester.as_deref().unwrap_or("<unknown>"),
        describe::short_hash(&describe::shown_hash(upgrade)),
    )
}

/// A mark for a phase.
pub fn mark(phase: Phase, marks: Marks) -> &'static str {
    match phase {
        Phase::Completed => marks.pick("✔", "ok"),
        Phase::Progressing => marks.pick("⟳", ">"),
        Phase::AwaitingApproval | Phase::Paused => marks.pick("॥", "||"),
        Phase::RollingBack => marks.pick("↩", "<"),
        Phase::RolledBack | Phase::Aborted | Phase::Rejected | Phase::Failed => {
            marks.pick("✖", "x")
        }
        Phase::Degraded => marks.pick("⚠", "!"),
        Phase::Pending => marks.pick("•", "."),
    }
}

fn paint(phase: Phase) -> String {
    match phase {
        Phase::Completed => phase.green().to_string(),
        Phase::Progressing => phase.cyan().to_string(),
        Phase::AwaitingApproval | Phase::Paused | Phase::Pending => phase.yellow().to_string(),
        Phase::Degraded | Phase::RollingBack => phase.magenta().to_string(),
        _ => phase.red().to_string(),
    }
}

fn tree(upgrade: &Upgrade, view: &View<'_>) -> String {
    let mut table = Table::new(&["NAME", "KIND", "STATUS", "INFO"]);
    let stages = &upgrade.spec.stages;
    for (index, stage) in stages.iter().enumerate() {
        let last = index + 1 == stages.len();
        stage_rows(&mut table, upgrade, (index, stage), last, view.marks);
    }
    let drawn = table.render(None);
    let cut_to_width = |line: &str| view.width.map_or(line, |w| cut(line, w)).to_owned() + "\n";
    drawn.lines().map(cut_to_width).collect()
}

fn stage_rows(
    table: &mut Table,
    upgrade: &Upgrade,
    (index, stage): (usize, &Stage),
    last: bool,
    marks: Marks,
) {
    let branch = if last { marks.pick("└─", "`-") } else { marks.pick("├─", "|-") };
    let (word, info) = stage_state(upgrade, index);
    table.row([format!("{branch}{} {}", index + 1, stage.name), "Stage".to_owned(), word, info]);
    let status = upgrade.status.as_ref();
    let status = status.and_then(|s| s.stages.iter().find(|s| s.name == stage.name));
    let seen = status.map(|s| s.targets.as_slice()).unwrap_or_default();
    let targets = stage.workloads.iter().flat_map(|w| &w.targets);
    let mut rows: Vec<stage::Line> = targets
        .map(|target| {
            let status = seen.iter().find(|t| t.kind == target.kind && t.name == target.name);
            let (word, info) = target_state(target, status, marks);
            let name = format!("{}/{}", target.kind.short(), target.name);
            [name, target.kind.to_string(), word, info]
        })
        .collect();
    rows.extend(stage::lines(stage, status));
    rows.extend(analyses(upgrade, &stage.name).into_iter().map(|(name, run)| {
        let word = if run.overruled { "Overruled".to_owned() } else { run.phase.to_string() };
        [name.to_owned(), "Analysis".to_owned(), word, measured(run)]
    }));
    let count = rows.len();
    for (i, [name, kind, word, info]) in rows.into_iter().enumerate() {
        let stem = if last { "   " } else { marks.pick("│  ", "|  ") };
        let leaf =
            if i + 1 == count { marks.pick("└─", "`-") } else { marks.pick("├─", "|-") };
        table.row([format!("{stem}{leaf}{name}"), kind, word, info]);
    }
}

/// The analyses of a stage, each by its name in it.
fn analyses<'a>(upgrade: &'a Upgrade, stage: &str) -> Vec<(&'a str, &'a AnalysisRunStatus)> {
    let runs = upgrade.status.iter().flat_map(|s| &s.analysis_runs);
    let own = |r: &'a AnalysisRunStatus| Some((r.name.strip_prefix(stage)?.strip_prefix('/')?, r));
    runs.filter_map(own).collect()
}

/// What each metric has come to: `success-rate 3 of 3 (last 0.99)`.
fn measured(run: &AnalysisRunStatus) -> String {
    let metric = |m: &MetricStatus| {
        let last = m.measurements.last().map(|l| format!(" (last {})", l.value));
        let dry = if m.dry_run { ", dry run" } else { "" };
        let errors = if m.error > 0 { format!(", {} errors", m.error) } else { String::new() };
        let good = format!("{} {} of {}", m.name, m.successful, m.count);
        format!("{good}{}{errors}{dry}", last.filter(|l| l.len() < 40).unwrap_or_default())
    };
    let all = run.metrics.iter().map(metric).collect::<Vec<_>>().join("; ");
    match (run.message.as_str(), run.phase) {
        ("", _) | (_, AnalysisPhase::Running) => all,
        (why, _) => format!("{all}: {why}"),
    }
}

fn stage_state(upgrade: &Upgrade, index: usize) -> (String, String) {
    let status = crate::objects::status(upgrade);
    let at = usize::try_from(status.current_stage_index).unwrap_or(0);
    let strategy = upgrade.spec.stages.get(index).map(stage::text).unwrap_or_default();
    let started = status.phase.is_in_flight() || status.phase == Phase::Completed;
    if index < at || status.phase == Phase::Completed {
        return ("Done".to_owned(), strategy);
    }
    if index > at || !started {
        return ("Pending".to_owned(), strategy);
    }
    let steps = describe::steps(upgrade).len();
    let step = usize::try_from(status.current_step_index).unwrap_or(0);
    let info = if steps > 0 {
        format!("step {}/{steps} of {strategy}", (step + 1).min(steps))
    } else {
        strategy
    };
    let info = match status.stages.get(index).and_then(|s| s.traffic.as_ref()) {
        Some(traffic) if !traffic.service.is_empty() => format!("{info}  {}", routed(traffic)),
        _ => info,
    };
    let word = match status.activity {
        Some(activity) => activity.to_string(),
        None => status.phase.to_string(),
    };
    (word, info)
}

/// `traffic 25 %`, and what was asked for where it is another.
fn routed(traffic: &TrafficStatus) -> String {
    let (is, asked) = (traffic.effective_weight, traffic.requested_weight);
    if is == asked {
        format!("traffic {is} %")
    } else {
        format!("traffic {is} % of {asked} % asked")
    }
}

fn target_state(
    target: &WorkloadTarget,
    seen: Option<&TargetStatus>,
    marks: Marks,
) -> (String, String) {
    let arrow = marks.pick("→", "->");
    let images = || {
        let changes = target.images.iter().map(|c| {
            let (from, to) = (
                upgrade_core::plan::build::version(&c.from),
                upgrade_core::plan::build::version(&c.to),
            );
            format!("{} {from} {arrow} {to}", c.container)
        });
        changes.collect::<Vec<_>>().join(", ")
    };
    let Some(seen) = seen else {
        return ("Pending".to_owned(), images());
    };
    let info = match seen.phase {
        TargetPhase::Pending | TargetPhase::Completed | TargetPhase::RolledBack => images(),
        _ => {
            let bar = bar(seen.effective_weight, marks);
            let asked = seen.requested_replicas.map(|k| format!(" ({})", Step::Replicas(k)));
            let asked = asked.unwrap_or_default();
            let counts = format!(
                "{bar} {} %{asked}  {} new ({} ready) + {} old of {}",
                seen.effective_weight, seen.canary, seen.canary_ready, seen.stable, seen.replicas
            );
            let parts = [Some(counts), describe::clients(seen), Some(seen.message.clone())];
            let parts: Vec<_> = parts.into_iter().flatten().filter(|p| !p.is_empty()).collect();
            parts.join("  ")
        }
    };
    (format!("{:?}", seen.phase), info)
}

fn bar(percent: i32, marks: Marks) -> String {
    let filled = usize::try_from(percent.clamp(0, 100) / 10).unwrap_or(0);
    let (on, off) = (marks.pick("█", "#"), marks.pick("░", "."));
    format!("[{}{}]", on.repeat(filled), off.repeat(10 - filled))
}

/// One line for a change, where nobody looks at a terminal.
pub fn line(upgrade: &Upgrade, view: &View<'_>) -> String {
    let status = crate::objects::status(upgrade);
    let mut text = format!("{} {}", crate::objects::reference(&upgrade.name_any()), status.phase);
    if let (Phase::AwaitingApproval, Some(count)) =
        (status.phase, describe::approval_count(upgrade))
    {
        let _ = write!(text, " ({count})");
    }
    if status.phase.is_in_flight() {
        let steps = describe::steps(upgrade).len();
        if steps > 0 {
            let step = usize::try_from(status.current_step_index).unwrap_or(0);
            let _ = write!(text, " step {}/{steps}", (step + 1).min(steps));
        }
        let _ = write!(text, " {} %", status.canary_weight);
    }
    if let Some(why) = describe::why(upgrade, view.now) {
        let _ = write!(text, " - {why}");
    }
    text
}
