//! `uninstall`: the floor and what calls us go first, so that nothing is ever refused by something that is
//! half gone.

use super::manifests::{Item, api_of, kinds, wanted};
use crate::cli::{DryRun, Format, UninstallArgs};
use crate::client::Session;
use crate::errors::explain;
use crate::objects::{list, status};
use crate::output::{Exit, Printer, Refusal};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{CustomResourceExt, ResourceExt};
use serde_json::json;
use std::time::Duration;
use upgrade_core::api::Upgrade;

/// How long the last objects of a CRD may take to go.
const PATIENCE: Duration = Duration::from_mins(1);

/// Removes everything but, without `--crds`, the data.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &UninstallArgs,
) -> anyhow::Result<Exit> {
    let api: Api<Upgrade> = Api::all(session.client.clone());
    let upgrades = match list(session, &api, &ListParams::default()).await {
        Ok(found) => found,
        // Half an installation can be removed as well.
        Err(refusal) if refusal.reason == "NotInstalled" => Vec::new(),
        Err(refusal) => return Err(refusal.into()),
    };
    nothing_in_flight(&upgrades, args.force, printer)?;
    let mut items = wanted(None)?;
    items.reverse();
    // What is in force without us, then what calls us; the data, last of all. A binding goes before
    // its policy and before anything that either reads: what is missing would be a refusal.
    items.sort_by_key(|i| {
        let floor = i.id.kind == "ValidatingAdmissionPolicy";
        (!i.is_binding(), !floor, !i.is_webhook(), i.is_crd())
    });
    let served = kinds(session).await?;
    for item in items.iter().filter(|i| !i.is_crd()) {
        remove(session, printer, args, &served, item).await?;
    }
    if args.crds {
        if args.dry_run == DryRun::None {
            let_go(session, &upgrades).await?;
        }
        for item in items.iter().filter(|i| i.is_crd()) {
            remove(session, printer, args, &served, item).await?;
        }
        if args.dry_run == DryRun::None {
            gone(session, items.iter().filter(|i| i.is_crd())).await?;
        }
    } else if args.output.output.is_none() {
        printer.note(&format!(
            "\n{} and the other CRDs stay, with everything in them; --crds removes them",
            Upgrade::crd_name()
        ))?;
    }
    Ok(Exit::Done)
}

fn nothing_in_flight(
    upgrades: &[Upgrade],
    force: bool,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let flying: Vec<String> = upgrades
        .iter()
        .filter(|u| status(u).phase.is_in_flight())
        .map(|u| {
            format!("{}/{} ({})", u.namespace().unwrap_or_default(), u.name_any(), status(u).phase)
        })
        .collect();
    if flying.is_empty() {
        return Ok(());
    }
    let text = format!("Upgrades are in flight: {}", flying.join(", "));
    if force {
        printer.warn(&format!(
            "{text}; their workloads stay as they stand, with our settings on them"
        ))?;
        return Ok(());
    }
    Err(Refusal::blocked("UpgradesInFlight", text)
        .hint("wait for them, or take all of them back: kubectl upgrade release --all -A")
        .hint("--force goes on, and leaves their workloads as they stand")
        .into())
}

async fn remove(
    session: &Session,
    printer: &mut Printer,
    args: &UninstallArgs,
    served: &kube::discovery::Discovery,
    item: &Item,
) -> Result<(), Refusal> {
    // A kind that is not served has no objects.
    let Ok(api) = api_of(session, served, item) else {
        return Ok(());
    };
    let dry = match args.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    let word = if args.dry_run == DryRun::Client {
        let found = api.get_metadata_opt(&item.id.name).await.map_err(|e| explain(session, &e))?;
        if found.is_some() { "deleted" } else { "not there" }
    } else {
        let mut params = DeleteParams::background();
        params.dry_run = args.dry_run == DryRun::Server;
        match api.delete(&item.id.name, &params).await {
            Ok(_) => "deleted",
            Err(kube::Error::Api(status)) if status.is_not_found() => "not there",
            Err(error) => return Err(explain(session, &error)),
        }
    };
    let said = match args.output.output {
        Some(Format::Json) => {
            json!({"object": item.reference(), "reason": word, "dryRun": !dry.is_empty()})
                .to_string()
        }
        Some(Format::Name) => item.reference(),
        _ => format!("{} {word}{dry}", item.reference()),
    };
    printer.data(&said).map_err(|e| Refusal::new("OutputFailed", e.to_string()))
}

/// A CRD is gone only after its last object; until then an `install` would find half of it.
async fn gone(session: &Session, crds: impl Iterator<Item = &Item>) -> Result<(), Refusal> {
    let api: Api<CustomResourceDefinition> = Api::all(session.watcher.clone());
    for item in crds {
        let name = &item.id.name;
        let absent = |found: Option<&CustomResourceDefinition>| found.is_none();
        match tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, absent)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                return Err(Refusal::new("RequestFailed", format!("CRD {name}: {error}")));
            }
            Err(_) => {
                let text =
                    format!("CRD {name} is being deleted, but some of its objects still hold it");
                let refusal = Refusal { exit: Exit::TimedOut, ..Refusal::new("TimedOut", text) };
                return Err(refusal.hint("look for finalizers: kubectl get upgrades -A -o yaml"));
            }
        }
    }
    Ok(())
}

/// Nobody is left who would take a finalizer off, and a CRD goes only after its objects.
async fn let_go(session: &Session, upgrades: &[Upgrade]) -> Result<(), Refusal> {
    for upgrade in upgrades.iter().filter(|u| !u.finalizers().is_empty()) {
        let api: Api<Upgrade> =
            Api::namespaced(session.client.clone(), &upgrade.namespace().unwrap_or_default());
        let body = json!({"metadata": {"finalizers": null}});
        match api.patch(&upgrade.name_any(), &PatchParams::default(), &Patch::Merge(&body)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(explain(session, &error)),
        }
    }
    Ok(())
}
