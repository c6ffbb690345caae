//! `plan`: shows what an upgrade would do, and changes nothing.

use super::start::object;
use crate::cli::{DryRun, Format};
use crate::client::Session;
use crate::gather::{Prepared, preflight, prepare};
use crate::lower::Intent;
use crate::objects::create;
use crate::output::{Exit, Printer, Refusal, plan};

/// Shows the plan.
pub async fn run(
    mut session: Session,
    printer: &mut Printer,
    intent: &Intent,
    format: Option<Format>,
) -> anyhow::Result<Exit> {
    let mut prepared = prepare(&mut session, intent).await?;
    // Without the CRDs a plan can still be looked at; `start` says what is missing.
    match preflight::existing(&session).await {
        Ok(existing) => {
            preflight::settle_name(&mut prepared.plan, intent.name.is_some(), &existing).ok();
            preflight::governance(&session, &mut prepared.plan).await;
            if let Err(refusal) = preflight::rivals(&prepared.plan, &existing) {
                printer.warn(&refusal.message)?;
            } else if let Err(refusal) = asked(&session, &prepared).await {
                printer.warn(&format!("it would be refused: {}", refusal.message))?;
            }
        }
        Err(refusal) => printer.warn(&format!("{}; `start` needs that", refusal.message))?,
    }
    show(printer, &prepared, format)?;
    if matches!(format, None | Some(Format::Wide)) {
        printer.note(
            "\nnothing was changed; `kubectl upgrade start` with the same flags asks for it",
        )?;
    }
    Ok(Exit::Done)
}

/// Asks the server by a dry run: what policies and matrices say of it is for them to say.
async fn asked(session: &Session, prepared: &Prepared) -> Result<(), Refusal> {
    let upgrade = object(prepared, None);
    match create(session, &upgrade, DryRun::Server).await {
        // Whoever may only look sees the plan all the same.
        Err(refusal) if refusal.reason != "Denied" => Ok(()),
        other => other.map(drop),
    }
}

/// The plan in the format that was asked for, its notices on stderr.
pub fn show(
    printer: &mut Printer,
    prepared: &Prepared,
    format: Option<Format>,
) -> anyhow::Result<()> {
    match format {
        Some(Format::Name) => {
            printer.data(&crate::objects::reference(&prepared.plan.name))?;
            return Ok(());
        }
        Some(format @ (Format::Json | Format::Yaml)) => return printer.document(format, prepared),
        None | Some(Format::Wide) => {}
    }
    let width = Printer::width();
    printer.data(&plan::render(prepared, format.is_some(), width))?;
    if !prepared.plan.notices.is_empty() {
        printer.note(&format!("\n{}", plan::notices(&prepared.plan.notices)))?;
    }
    Ok(())
}
