//! `status`: where an Upgrade is, why it waits, and the next command.

use crate::cli::{Format, StatusArgs};
use crate::client::Session;
use crate::follow::{Goal, follow};
use crate::lower::Follow;
use crate::objects::{document, documents, list, reference, status, upgrade, upgrades, whoami};
use crate::output::tree::{View, render};
use crate::output::{Exit, Printer, Refusal};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use upgrade_core::api::Upgrade;

/// Shows, follows or waits.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &StatusArgs,
    wanted: &Follow,
) -> anyhow::Result<Exit> {
    let (found, me) = tokio::join!(find(session, args.name.as_deref()), whoami(session));
    let (found, me) = (found?, me.as_deref());
    let format = args.output.output;
    if !wanted.watch && !wanted.wait {
        show(printer, session, &found, args, me)?;
        return Ok(Exit::Done);
    }
    let [one] = found.as_slice() else {
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        let text = match names.len() {
            0 => format!("no Upgrade is under way in namespace {}", session.namespace),
            n => {
                format!("{n} Upgrades are under way: name the one to follow: {}", names.join(", "))
            }
        };
        return Err(Refusal::usage(text).into());
    };
    let goal = Goal {
        name: one.name_any(),
        phase: wanted.phase,
        limit: wanted.limit,
        watch: wanted.watch,
        format,
    };
    follow(session, printer, &goal, me).await
}

/// The named one, or those that have not ended.
async fn find(session: &Session, name: Option<&str>) -> Result<Vec<Upgrade>, Refusal> {
    if let Some(name) = name {
        return Ok(vec![upgrade(session, name).await?]);
    }
    let mut all = list(session, &upgrades(session), &ListParams::default()).await?;
    all.retain(|u| !status(u).phase.is_terminal());
    all.sort_by_key(|u| u.creation_timestamp().map(|t| t.0));
    Ok(all)
}

fn show(
    printer: &mut Printer,
    session: &Session,
    found: &[Upgrade],
    args: &StatusArgs,
    me: Option<&str>,
) -> anyhow::Result<()> {
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => match (found, &args.name) {
            ([one], Some(_)) => printer.document(format, &document(one)?)?,
            (some, _) => printer.document(format, &documents(some)?)?,
        },
        Some(Format::Name) => {
            for one in found {
                printer.data(&reference(&one.name_any()))?;
            }
        }
        None | Some(Format::Wide) => {
            if found.is_empty() {
                printer.note(&format!(
                    "no Upgrade is under way in namespace {}; `kubectl upgrade list` shows those that ended",
                    session.namespace
                ))?;
            }
            let view =
                View { marks: printer.marks, width: Printer::width(), now: Timestamp::now(), me };
            let texts: Vec<String> = found.iter().map(|one| render(one, &view)).collect();
            printer.data(&texts.join("\n"))?;
        }
    }
    Ok(())
}
