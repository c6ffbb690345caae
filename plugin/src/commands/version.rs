//! `version`: the plugin's, the API server's, and that of what is installed.

use crate::cli::{Format, VersionArgs};
use crate::client::Session;
use crate::errors::explain;
use crate::output::{Exit, Printer};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use kube::{Client, CustomResourceExt};
use serde::Serialize;
use std::fmt::Write;
use upgrade_core::api::{SERVICE_ACCOUNT, SYSTEM_NAMESPACE, Upgrade};

/// What is where.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    served: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Prints the versions. A cluster that cannot be asked is not an error: the plugin's version is
/// known all the same.
pub async fn run(
    session: Option<&Session>,
    printer: &mut Printer,
    args: &VersionArgs,
) -> anyhow::Result<Exit> {
    let mut versions = Versions {
        client: format!("v{}", env!("CARGO_PKG_VERSION")),
        kubernetes: None,
        served: Vec::new(),
        controller: None,
        reason: None,
        message: None,
    };
    if let Some(session) = session {
        ask(session, &mut versions).await;
    } else if !args.client {
        versions.reason = Some("NoKubeconfig");
        versions.message = Some("no cluster to ask".to_owned());
    }
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => printer.document(format, &versions)?,
        _ => printer.data(&text(&versions, args.client))?,
    }
    Ok(Exit::Done)
}

async fn ask(session: &Session, versions: &mut Versions) {
    match session.client.apiserver_version().await {
        Ok(info) => versions.kubernetes = Some(info.git_version),
        Err(error) => {
            let refusal = explain(session, &error);
            versions.reason = Some(refusal.reason);
            versions.message = Some(refusal.message);
            return;
        }
    }
    let (served, controller) = tokio::join!(served(&session.client), controller(&session.client));
    versions.served = served;
    versions.controller = controller;
}

async fn served(client: &Client) -> Vec<String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let Ok(Some(crd)) = api.get_opt(Upgrade::crd_name()).await else {
        return Vec::new();
    };
    let group = crd.spec.group;
    let versions = crd.spec.versions.into_iter().filter(|v| v.served);
    versions.map(|v| format!("{group}/{}", v.name)).collect()
}

async fn controller(client: &Client) -> Option<String> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let found = api.get_opt(SERVICE_ACCOUNT).await.ok()??;
    let pod = found.spec?.template.spec?;
    let image = pod.containers.into_iter().next()?.image?;
    Some(image)
}

fn text(versions: &Versions, client_only: bool) -> String {
    let mut text = format!("Client:     {}\n", versions.client);
    if client_only {
        return text;
    }
    if let Some(message) = &versions.message {
        return text + &format!("Server:     <unknown> ({message})\n");
    }
    let or_none = |v: &Option<String>| v.clone().unwrap_or_else(|| "<none>".to_owned());
    let served = if versions.served.is_empty() {
        "<none> (not installed: kubectl upgrade install)".to_owned()
    } else {
        versions.served.join(", ")
    };
    let _ = write!(
        text,
        "Kubernetes: {}\nServed:     {served}\nController: {}\n",
        or_none(&versions.kubernetes),
        or_none(&versions.controller)
    );
    text
}
