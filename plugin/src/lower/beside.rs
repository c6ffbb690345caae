//! A Job before, and health checks, from flags.

use crate::cli::BesideArgs;
use crate::output::Refusal;
use upgrade_core::api::upgrade::{HealthCheck, JobStage};

/// The Job that runs before anything changes.
pub fn before(args: &BesideArgs) -> Result<Option<JobStage>, Refusal> {
    let Some(image) = &args.migrate_image else { return Ok(None) };
    if image.is_empty() || image.len() > 512 || image.contains(char::is_whitespace) {
        return Err(Refusal::usage(format!("--migrate-image: `{image}` is no image")));
    }
    let mut job: JobStage = defaults(serde_json::json!({ "image": image }))?;
    job.command = args.migrate_command.clone();
    job.service_account_name = args.migrate_service_account.clone();
    Ok(Some(job))
}

/// What the new pods are asked after each step.
pub fn health_checks(args: &BesideArgs) -> Result<Vec<HealthCheck>, Refusal> {
    let Some(port) = args.health_port else { return Ok(Vec::new()) };
    let path = args.health_path.as_deref().unwrap_or("/");
    if !path.starts_with('/') || path.len() > 1024 || path.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(Refusal::usage(format!(
            "--health-path: `{path}` is no path; it begins with `/`, for instance /healthz"
        )));
    }
    let check = serde_json::json!({"name": "health", "httpGet": {"path": path, "port": port}});
    Ok(vec![defaults(check)?])
}

/// What is not given is what the API has by default.
fn defaults<T: serde::de::DeserializeOwned>(given: serde_json::Value) -> Result<T, Refusal> {
    serde_json::from_value(given).map_err(|e| Refusal::usage(e.to_string()))
}
