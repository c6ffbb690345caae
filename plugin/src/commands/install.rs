//! `install`: server-side apply of everything, in order, as often as one likes.

use super::manifests::{Item, api_of, kinds};
use crate::cli::{DryRun, Format, InstallArgs};
use crate::client::Session;
use crate::errors::explain;
use crate::output::{Exit, Printer, Refusal};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery::Discovery;
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use std::time::Duration;

/// Field manager of what is installed. Another than the controller's: applying without a field
/// takes away only what this manager wrote, so that the caBundle it fills in stays.
const MANAGER: &str = "kubectl-upgrade-install";

/// Prints what would be applied.
pub fn show(printer: &mut Printer, args: &InstallArgs, wanted: &[Item]) -> anyhow::Result<Exit> {
    match args.output.output {
        Some(Format::Json) => {
            let items: Vec<_> = wanted.iter().map(|i| &i.object).collect();
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
            printer.document(Format::Json, &list)?;
        }
        Some(Format::Yaml) => {
            for item in wanted {
                printer.data("---")?;
                printer.document(Format::Yaml, &item.object)?;
            }
        }
        _ => {
            for item in wanted {
                printer.data(&format!("{} applied (dry run)", item.reference()))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Applies everything.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &InstallArgs,
    wanted: Vec<Item>,
    limit: Duration,
) -> anyhow::Result<Exit> {
    let dry = args.dry_run == DryRun::Server;
    let served = kinds(session).await?;
    let (first, rest): (Vec<Item>, Vec<Item>) =
        wanted.into_iter().partition(|i| i.is_crd() || i.id.kind == "Namespace");
    // A server dry run keeps no namespace, so what would go into it cannot be tried on a bare cluster.
    for item in &first {
        apply(session, printer, args, &served, item).await?;
    }
    if !dry {
        let crds = first.iter().filter(|i| i.is_crd());
        tokio::time::timeout(limit, established(session, crds)).await.map_err(|_| {
            let text = format!("the CRDs are not served after {}s", limit.as_secs());
            Refusal { exit: Exit::TimedOut, ..Refusal::new("TimedOut", text) }
        })??;
    }
    for item in &rest {
        match apply(session, printer, args, &served, item).await {
            Err(refusal) if dry && refusal.reason == "NotFound" => {
                printer.warn(&format!(
                    "{} cannot be tried before its namespace is there",
                    item.reference()
                ))?;
            }
            other => other?,
        }
    }
    if args.output.output.is_none() && !dry {
        printer.note(
            "\nNext: choose what is governed, and open a namespace to it:\n  kubectl label namespace \
             NAME kubectl-upgrade.dev/governed=true\n  kubectl explain upgradepolicy.spec",
        )?;
    }
    Ok(Exit::Done)
}

async fn established(session: &Session, crds: impl Iterator<Item = &Item>) -> Result<(), Refusal> {
    let api: Api<CustomResourceDefinition> = Api::all(session.watcher.clone());
    for item in crds {
        let name = &item.id.name;
        await_condition(api.clone(), name, conditions::is_crd_established()).await.map_err(
            |e| Refusal::new("NotEstablished", format!("CRD {name} does not become served: {e}")),
        )?;
    }
    Ok(())
}

async fn apply(
    session: &Session,
    printer: &mut Printer,
    args: &InstallArgs,
    served: &Discovery,
    item: &Item,
) -> Result<(), Refusal> {
    let api = api_of(session, served, item)?;
    let name = &item.id.name;
    let before = api.get_opt(name).await.map_err(|e| explain(session, &e))?;
    let mut params = PatchParams::apply(MANAGER).force().validation_strict();
    params.dry_run = args.dry_run == DryRun::Server;
    let after: DynamicObject = api
        .patch(name, &params, &Patch::Apply(&item.object))
        .await
        .map_err(|e| explain_apply(session, item, &e))?;
    let word = match before.map(meaning) {
        None => "created",
        Some(before) if before == meaning(after) => "unchanged",
        Some(_) => "configured",
    };
    let dry = if params.dry_run { " (server dry run)" } else { "" };
    let said = match args.output.output {
        Some(Format::Json) => {
            json!({"object": item.reference(), "reason": word, "dryRun": params.dry_run})
                .to_string()
        }
        Some(Format::Name) => item.reference(),
        _ => format!("{} {word}{dry}", item.reference()),
    };
    printer.data(&said).map_err(|e| Refusal::new("OutputFailed", e.to_string()))
}

/// An object without its bookkeeping; a dry run keeps the resourceVersion, so that says nothing.
fn meaning(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    object.metadata.generation = None;
    object
}

fn explain_apply(session: &Session, item: &Item, error: &kube::Error) -> Refusal {
    let mut refusal = explain(session, error);
    if refusal.reason == "NotInstalled" {
        refusal = Refusal::new("NotFound", "its namespace is not there".to_owned());
    }
    refusal.message = format!("{}: {}", item.reference(), refusal.message);
    refusal
}
