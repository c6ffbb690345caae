//! `list`: one line for each Upgrade.

use crate::cli::{Format, ListArgs};
use crate::client::Session;
use crate::objects::{documents, list, reference, requester, status, upgrades};
use crate::output::table::Table;
use crate::output::{Exit, Printer, describe};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use upgrade_core::api::Upgrade;

/// Lists Upgrades.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &ListArgs,
) -> anyhow::Result<Exit> {
    let api: Api<Upgrade> =
        if args.all_namespaces { Api::all(session.client.clone()) } else { upgrades(session) };
    let mut by = ListParams::default();
    if let Some(selector) = &args.selector {
        by = by.labels(selector);
    }
    let mut found = list(session, &api, &by).await?;
    found.sort_by_key(|u| (u.namespace(), u.creation_timestamp().map(|t| t.0), u.name_any()));
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &documents(&found)?)?;
        }
        Some(Format::Name) => {
            for one in &found {
                printer.data(&reference(&one.name_any()))?;
            }
        }
        format if found.is_empty() => {
            let place = if args.all_namespaces {
                String::new()
            } else {
                format!(" in namespace {}", session.namespace)
            };
            let _ = format;
            printer.note(&format!("no Upgrades{place}"))?;
        }
        format => {
            let table = table(&found, args.all_namespaces, format.is_some());
            printer.data(&table.render(Printer::width()))?;
        }
    }
    Ok(Exit::Done)
}

fn table(found: &[Upgrade], namespaces: bool, wide: bool) -> Table {
    let mut headings = vec!["NAME", "CURRENT", "TARGET", "PHASE", "STAGE", "WEIGHT", "AGE"];
    if namespaces {
        headings.insert(0, "NAMESPACE");
    }
    if wide {
        headings.extend(["REQUESTER", "MESSAGE"]);
    }
    let mut table = Table::new(&headings);
    let now = Timestamp::now();
    for one in found {
        let status = status(one);
        let mut cells = vec![
            one.name_any(),
            status.current_version.or(one.spec.from.clone()).unwrap_or_default(),
            status.target_version.or(one.spec.to.clone()).unwrap_or_default(),
            status.phase.to_string(),
            status.stage.unwrap_or_default().replace(' ', ":"),
            status.canary_weight.to_string(),
            describe::object_age(one, now),
        ];
        if namespaces {
            cells.insert(0, one.namespace().unwrap_or_default());
        }
        if wide {
            cells.extend([requester(one).unwrap_or_default(), status.message]);
        }
        table.row(cells);
    }
    table
}
