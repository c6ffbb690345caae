//! `release`: takes Upgrades back and waits until nothing of ours is left on what they touched.

use crate::cli::{DryRun, Format, ReleaseArgs};
use crate::client::Session;
use crate::errors::explain;
use crate::lower::{Span, duration};
use crate::objects::{documents, list, reference, status};
use crate::output::{Exit, Printer, Refusal};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::time::Instant;
use upgrade_core::api::{FIELD_MANAGER, FINALIZER, Upgrade};

/// Checks the flags before the first request.
pub fn lower(args: &ReleaseArgs) -> Result<Span, Refusal> {
    // Not left to clap: a requirement that a conflict makes impossible is not looked at.
    if args.all_namespaces && !args.all {
        return Err(Refusal::usage("-A goes with --all: names are of one namespace"));
    }
    duration(&args.timeout, "--timeout")
}

/// Aborts every Upgrade that is asked for, and waits for the end of each.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &ReleaseArgs,
    timeout: &Span,
) -> anyhow::Result<Exit> {
    let api: Api<Upgrade> = if args.all_namespaces {
        Api::all(session.client.clone())
    } else {
        Api::namespaced(session.client.clone(), &session.namespace)
    };
    let mut open = list(session, &api, &ListParams::default()).await?;
    if !args.all {
        named(&open, &args.names)?;
        open.retain(|u| args.names.contains(&u.name_any()));
    }
    open.retain(touches);
    open.sort_by_key(|u| (u.namespace(), u.name_any()));
    if open.is_empty() {
        printer.note("nothing to release: no Upgrade has anything of ours on a workload")?;
    }
    let text = args.output.output.is_none();
    for upgrade in &open {
        abort(session, upgrade, args.dry_run).await?;
        if text {
            let dry = match args.dry_run {
                DryRun::None => "",
                DryRun::Client => " (dry run)",
                DryRun::Server => " (server dry run)",
            };
            printer.data(&format!("{} aborted{dry}", called(upgrade)))?;
        }
    }
    if args.dry_run != DryRun::None {
        return shown(printer, args, &open);
    }
    let end = timeout.limit.map(|l| Instant::now() + l);
    let mut ended = Vec::with_capacity(open.len());
    for upgrade in &open {
        let released = wait(session, upgrade, end, &timeout.text).await?;
        if text {
            let phase =
                released.as_ref().map_or("gone".to_owned(), |u| status(u).phase.to_string());
            printer.data(&format!("{} released ({phase})", called(upgrade)))?;
        }
        ended.extend(released);
    }
    shown(printer, args, &ended)
}

/// Something of it is on a workload, or will be.
fn touches(upgrade: &Upgrade) -> bool {
    !status(upgrade).phase.is_terminal() || upgrade.finalizers().iter().any(|f| f == FINALIZER)
}

fn named(found: &[Upgrade], names: &[String]) -> Result<(), Refusal> {
    match names.iter().find(|n| found.iter().all(|u| u.name_any() != **n)) {
        Some(name) => Err(Refusal::new("NotFound", format!("Upgrade `{name}` does not exist"))
            .hint("kubectl upgrade list -A shows all of them")),
        None => Ok(()),
    }
}

fn called(upgrade: &Upgrade) -> String {
    format!("{}/{}", upgrade.namespace().unwrap_or_default(), upgrade.name_any())
}

async fn abort(session: &Session, upgrade: &Upgrade, dry: DryRun) -> Result<(), Refusal> {
    let ordered = upgrade.spec.control.as_ref().is_some_and(|c| c.abort);
    if ordered || dry == DryRun::Client {
        return Ok(());
    }
    let mut params =
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    params.dry_run = dry == DryRun::Server;
    let body = json!({"spec": {"control": {"abort": true}}});
    let namespace = upgrade.namespace().unwrap_or_default();
    let api: Api<Upgrade> = Api::namespaced(session.client.clone(), &namespace);
    match api.patch(&upgrade.name_any(), &params, &Patch::Merge(&body)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(explain(session, &error)),
    }
}

/// The Upgrade at its end; none where it is gone altogether.
async fn wait(
    session: &Session,
    upgrade: &Upgrade,
    end: Option<Instant>,
    limit: &str,
) -> Result<Option<Upgrade>, Refusal> {
    let namespace = upgrade.namespace().unwrap_or_default();
    let api: Api<Upgrade> = Api::namespaced(session.watcher.clone(), &namespace);
    let over = |found: Option<&Upgrade>| found.is_none_or(|u| !touches(u));
    let name = upgrade.name_any();
    let waiting = await_condition(api.clone(), &name, over);
    let found = match end {
        None => waiting.await,
        Some(end) => match tokio::time::timeout_at(end, waiting).await {
            Ok(found) => found,
            Err(_) => return Err(late(&api, upgrade, limit).await),
        },
    };
    found.map_err(|e| Refusal::new("RequestFailed", format!("Upgrade {}: {e}", called(upgrade))))
}

/// What it still waits for.
async fn late(api: &Api<Upgrade>, upgrade: &Upgrade, limit: &str) -> Refusal {
    let now = api.get_opt(&upgrade.name_any()).await.ok().flatten();
    let said = now.map(|u| status(&u)).map(|s| format!("{}: {}", s.phase, s.message));
    let text = format!(
        "Upgrade {} is not released after {limit} ({})",
        called(upgrade),
        said.unwrap_or_default()
    );
    Refusal { exit: Exit::TimedOut, ..Refusal::new("TimedOut", text) }
        .hint("what runs goes on serving, and the controller goes on taking it back")
        .hint("kubectl upgrade doctor says whether a controller is there")
}

fn shown(printer: &mut Printer, args: &ReleaseArgs, all: &[Upgrade]) -> anyhow::Result<Exit> {
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &documents(all)?)?;
        }
        Some(Format::Name) => {
            for one in all {
                printer.data(&reference(&one.name_any()))?;
            }
        }
        None | Some(Format::Wide) => {}
    }
    Ok(Exit::Done)
}
