//! `start`: creates an Upgrade.

use super::plan::show;
use crate::cli::{DryRun, Format};
use crate::client::Session;
use crate::follow::{Goal, follow};
use crate::gather::preflight::{self, Naming};
use crate::gather::{Prepared, prepare};
use crate::lower::Start;
use crate::objects::{REASON_ANNOTATION, create, document, reference};
use crate::output::{Exit, Printer, plan};
use kube::core::ObjectMeta;
use std::collections::BTreeMap;
use upgrade_core::api::Upgrade;

/// Plans, checks, creates, and waits where that was asked for.
pub async fn run(
    mut session: Session,
    printer: &mut Printer,
    start: &Start,
) -> anyhow::Result<Exit> {
    let mut prepared = prepare(&mut session, &start.intent).await?;
    let existing = match preflight::existing(&session).await {
        // Nothing is sent, so nothing has to be there to receive it.
        Err(refusal) if refusal.reason == "NotInstalled" && start.dry_run == DryRun::Client => {
            printer.warn(&refusal.message)?;
            Vec::new()
        }
        other => other?,
    };
    preflight::rivals(&prepared.plan, &existing)?;
    let naming =
        preflight::settle_name(&mut prepared.plan, start.intent.name.is_some(), &existing)?;
    preflight::governance(&session, &mut prepared.plan).await;
    let name = prepared.plan.name.clone();
    let upgrade = object(&prepared, start.reason.as_deref());
    if naming == Naming::SameAgain {
        said(printer, start, &upgrade, "unchanged")?;
    } else if start.dry_run == DryRun::Client {
        announce(printer, start, &prepared)?;
        said(printer, start, &upgrade, "created (dry run)")?;
        return Ok(Exit::Done);
    } else {
        announce(printer, start, &prepared)?;
        let created = create(&session, &upgrade, start.dry_run).await?;
        let word =
            if start.dry_run == DryRun::Server { "created (server dry run)" } else { "created" };
        said(printer, start, &created, word)?;
        if start.dry_run == DryRun::Server {
            return Ok(Exit::Done);
        }
    }
    if let Some(span) = &start.wait {
        let goal = Goal {
            name,
            phase: None,
            limit: span.limit,
            watch: false,
            // The object was printed when it was created; one document on stdout is enough.
            format: None,
        };
        return follow(&session, printer, &goal, None).await;
    }
    if matches!(start.format, None | Some(Format::Wide)) {
        printer.note(&next(&name, &session.namespace))?;
    }
    Ok(Exit::Done)
}

fn next(name: &str, namespace: &str) -> String {
    format!(
        "\nNext, by somebody other than you where the policy asks for approval:\n  kubectl upgrade \
         approve {name} -n {namespace}\nThen, to watch it:\n  kubectl upgrade status {name} -n {namespace} -w"
    )
}

/// The Upgrade that a plan asks for.
pub fn object(prepared: &Prepared, reason: Option<&str>) -> Upgrade {
    let plan = &prepared.plan;
    let annotations =
        reason.map(|r| BTreeMap::from([(REASON_ANNOTATION.to_owned(), r.to_owned())]));
    Upgrade {
        metadata: ObjectMeta {
            name: Some(plan.name.clone()),
            namespace: Some(plan.namespace.clone()),
            annotations,
            ..ObjectMeta::default()
        },
        spec: plan.spec.clone(),
        status: None,
    }
}

/// The plan comes before the deed: as data for people, not at all where a document was asked for.
fn announce(printer: &mut Printer, start: &Start, prepared: &Prepared) -> anyhow::Result<()> {
    match start.format {
        None | Some(Format::Wide) => {
            show(printer, prepared, start.format)?;
            printer.note("")?;
        }
        _ => printer.note(&plan::notices(&prepared.plan.notices))?,
    }
    Ok(())
}

fn said(printer: &mut Printer, start: &Start, upgrade: &Upgrade, word: &str) -> anyhow::Result<()> {
    let name = upgrade.metadata.name.as_deref().unwrap_or_default();
    match start.format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            let document: serde_json::Value = document(upgrade)?;
            printer.document(format, &document)?;
        }
        Some(Format::Name) => printer.data(&reference(name))?,
        None | Some(Format::Wide) => printer.data(&format!("{} {word}", reference(name)))?,
    }
    Ok(())
}
