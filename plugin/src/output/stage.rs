//! A stage in a few words, and what its Job and its health checks came to.

use super::describe::strategy_text;
use upgrade_core::api::status::{JobPhase, StageStatus};
use upgrade_core::api::upgrade::{HealthCheck, JobStage, Stage};

/// What a stage does: `canary 10, pause, 100, then health`, `job web-migrations:v2 migrate up`.
pub fn text(stage: &Stage) -> String {
    if let Some(workloads) = &stage.workloads {
        let strategy = strategy_text(&workloads.strategy);
        if workloads.health_checks.is_empty() {
            return strategy;
        }
        return format!("{strategy}; checks {}", names(&workloads.health_checks));
    }
    if let Some(job) = &stage.job {
        return job_text(job);
    }
    match &stage.checks {
        Some(checks) => format!("checks {}", names(&checks.health_checks)),
        None => String::new(),
    }
}

fn names(checks: &[HealthCheck]) -> String {
    checks.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn job_text(job: &JobStage) -> String {
    let images = upgrade_core::engine::stages::job::images(job).unwrap_or_default();
    let images: Vec<_> = images.into_iter().map(|(_, image)| image).collect();
    let words = [images.join(", "), job.command.join(" "), job.args.join(" ")];
    let said: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
    let account = job.service_account_name.as_ref();
    let account = account.map(|a| format!(", as service account {a}")).unwrap_or_default();
    format!("job {}{account}", said.join(" "))
}

/// A line of the tree below a stage: name, kind, state, what there is to say.
pub type Line = [String; 4];

/// The Job and the health checks of a stage.
pub fn lines(stage: &Stage, status: Option<&StageStatus>) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(job) = &stage.job {
        let seen = status.and_then(|s| s.job.as_ref());
        let name = seen.map_or_else(|| "job".to_owned(), |j| format!("job/{}", j.name));
        let phase = seen.map(|j| j.phase).unwrap_or_default();
        let said = seen.map(|j| j.message.clone()).filter(|m| !m.is_empty());
        let said = said.unwrap_or_else(|| job_text(job));
        lines.push([name, "Job".to_owned(), job_word(phase).to_owned(), said]);
    }
    let health = status.and_then(|s| s.health.as_ref());
    for check in health.iter().flat_map(|h| &h.checks) {
        let word = match (check.passed, check.failures) {
            (true, _) => "Passed",
            (false, 0) => "Asking",
            (false, _) => "Failing",
        };
        let said = match (check.passes, check.failures) {
            (0, 0) => check.message.clone(),
            (n, 0) => format!("passed {n} in a row"),
            (_, n) => format!("failed {n} in a row: {}", check.message),
        };
        lines.push([check.name.clone(), "HealthCheck".to_owned(), word.to_owned(), said]);
    }
    lines
}

fn job_word(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Pending => "Pending",
        JobPhase::Running => "Running",
        JobPhase::Succeeded => "Succeeded",
        JobPhase::Failed => "Failed",
        JobPhase::Deleted => "Deleted",
    }
}
