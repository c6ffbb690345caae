//! `history`: what happened to an Upgrade, or every Upgrade of a workload.

use crate::cli::Format;
use crate::client::Session;
use crate::lower::Subject;
use crate::objects::{
    REASON_ANNOTATION, approvals, documents, list, reference, requester, status, upgrade, upgrades,
};
use crate::output::table::Table;
use crate::output::{Exit, Printer, describe};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use serde::Serialize;
use upgrade_core::api::{Decision, Phase, Upgrade, UpgradeApproval};

/// Shows what happened.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    subject: &Subject,
    format: Option<Format>,
) -> anyhow::Result<Exit> {
    if let Subject::Upgrade(name) = subject {
        let found = upgrade(session, name).await?;
        let decisions = approvals(session, &found).await?;
        return one(printer, &found, &decisions, format);
    }
    let mut found = list(session, &upgrades(session), &ListParams::default()).await?;
    if let Subject::Workload(wanted) = subject {
        found.retain(|u| {
            let stages = u.spec.stages.iter().filter_map(|s| s.workloads.as_ref());
            stages.flat_map(|w| &w.targets).any(|t| t.kind == wanted.kind && t.name == wanted.name)
        });
    }
    found.sort_by_key(|u| (u.creation_timestamp().map(|t| t.0), u.name_any()));
    many(printer, session, &found, format)
}

fn many(
    printer: &mut Printer,
    session: &Session,
    found: &[Upgrade],
    format: Option<Format>,
) -> anyhow::Result<Exit> {
    match format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &documents(found)?)?;
        }
        Some(Format::Name) => {
            for one in found {
                printer.data(&reference(&one.name_any()))?;
            }
        }
        None | Some(Format::Wide) if found.is_empty() => {
            printer.note(&format!("no Upgrade of it in namespace {}", session.namespace))?;
        }
        None | Some(Format::Wide) => {
            let mut table = Table::new(&[
                "NAME",
                "FROM",
                "TO",
                "PHASE",
                "REQUESTER",
                "APPROVED-BY",
                "STARTED",
                "DURATION",
                "REASON",
            ]);
            for one in found {
                table.row(row(one));
            }
            printer.data(&table.render(Printer::width()))?;
        }
    }
    Ok(Exit::Done)
}

fn row(upgrade: &Upgrade) -> [String; 9] {
    let status = status(upgrade);
    let started = status.start_time.as_ref().map(|t| t.0);
    let ended = status.completion_time.as_ref().map(|t| t.0);
    let took = match (started, ended) {
        (Some(start), end) => {
            describe::span(end.unwrap_or_else(Timestamp::now).duration_since(start).as_secs())
        }
        _ => String::new(),
    };
    [
        upgrade.name_any(),
        upgrade.spec.from.clone().unwrap_or_default(),
        upgrade.spec.to.clone().unwrap_or_default(),
        status.phase.to_string(),
        requester(upgrade).unwrap_or_default(),
        status.approvals.map(|a| a.approved_by.join(",")).unwrap_or_default(),
        started.map(stamp).unwrap_or_default(),
        took,
        status
            .rollback_reason
            .or_else(|| upgrade.annotations().get(REASON_ANNOTATION).cloned())
            .unwrap_or_default(),
    ]
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Happened {
    time: String,
    what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    who: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
}

fn one(
    printer: &mut Printer,
    upgrade: &Upgrade,
    decisions: &[UpgradeApproval],
    format: Option<Format>,
) -> anyhow::Result<Exit> {
    let happened = happened(upgrade, decisions);
    match format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            let body = serde_json::json!({
                "upgrade": upgrade.name_any(),
                "phase": status(upgrade).phase,
                "history": happened,
            });
            printer.document(format, &body)?;
        }
        Some(Format::Name) => printer.data(&reference(&upgrade.name_any()))?,
        None | Some(Format::Wide) => {
            let mut table = Table::new(&["TIME", "WHAT", "WHO", "WHY"]);
            for h in happened {
                table.row([h.time, h.what, h.who, h.why]);
            }
            printer.data(&table.render(Printer::width()))?;
        }
    }
    Ok(Exit::Done)
}

fn happened(upgrade: &Upgrade, decisions: &[UpgradeApproval]) -> Vec<Happened> {
    let status = status(upgrade);
    let mut all: Vec<(Timestamp, Happened)> = Vec::new();
    let mut add = |time: Option<Timestamp>, what: &str, who: String, why: String| {
        if let Some(time) = time {
            all.push((time, Happened { time: stamp(time), what: what.to_owned(), who, why }));
        }
    };
    let reason = upgrade.annotations().get(REASON_ANNOTATION).cloned().unwrap_or_default();
    add(
        upgrade.creation_timestamp().map(|t| t.0),
        "Requested",
        requester(upgrade).unwrap_or_default(),
        reason,
    );
    for decision in decisions {
        let (time, what, who, why) = word_of(decision);
        add(time, what, who, why);
    }
    let attempt =
        if status.attempt > 0 { format!("attempt {}", status.attempt + 1) } else { String::new() };
    add(status.start_time.as_ref().map(|t| t.0), "Started", String::new(), attempt);
    let said = decisions.iter().any(|d| d.spec.decision == Decision::Rejected);
    if status.phase != Phase::Rejected || !said {
        add(
            status.completion_time.as_ref().map(|t| t.0),
            &status.phase.to_string(),
            String::new(),
            status.rollback_reason.unwrap_or_default(),
        );
    }
    all.sort_by_key(|(time, _)| *time);
    all.into_iter().map(|(_, h)| h).collect()
}

/// When which decision was made, by whom, and why.
fn word_of(decision: &UpgradeApproval) -> (Option<Timestamp>, &'static str, String, String) {
    let what = match decision.spec.decision {
        Decision::Approved => "Approved",
        Decision::Rejected => "Rejected",
    };
    let who = decision.spec.approver.as_ref().map(|i| i.username.clone()).unwrap_or_default();
    let why = decision.spec.reason.clone().unwrap_or_default();
    (decision.creation_timestamp().map(|t| t.0), what, who, why)
}

/// A time in the record: UTC, to the second, so that it means the same to everybody.
fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
