//! From flags to something that can be done: every flag is checked here, before the first request.

mod beside;
mod blue_green;
mod break_glass;
mod canary;
mod change;
mod duration;
mod steps;
mod zone;

pub use break_glass::{Exception, break_glass};
pub use change::{Change, Container, Reference, reference};
pub use duration::{Span, duration};
pub use steps::steps;
pub use zone::{instant, zone};

use crate::cli::{
    ApproveArgs, ChangeArgs, Conflict, DryRun, Format, HistoryArgs, InstallArgs, NameArgs, Overrun,
    StartArgs, StatusArgs, StrategyArgs, StrategyName,
};
use crate::output::Refusal;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::time::Duration;
use upgrade_core::api::Phase;
use upgrade_core::api::separate::Separate;
use upgrade_core::api::upgrade::{
    AutoRollback, Canary, HealthCheck, JobStage, OnConflict, OnFailure, Rolling, Strategy,
    WindowOverrun,
};

/// What is asked for when no steps are given.
const DEFAULT_STEPS: &str = "10,pause,50,pause,100";

/// An upgrade that is wanted.
#[derive(Clone, Debug)]
pub struct Intent {
    /// What is to change.
    pub change: Change,
    /// How the workloads get there.
    pub strategy: Strategy,
    /// When it is taken back by itself.
    pub auto_rollback: Option<AutoRollback>,
    /// The Job that runs before anything changes.
    pub before: Option<JobStage>,
    /// What the new pods are asked after each step.
    pub health_checks: Vec<HealthCheck>,
    /// When it may start at the earliest.
    pub not_before: Option<Time>,
    /// What becomes of it when its window shuts.
    pub window_overrun: Option<WindowOverrun>,
    /// What becomes of it where another Upgrade has one of its workloads.
    pub on_conflict: Option<OnConflict>,
    /// Name of the Upgrade.
    pub name: Option<String>,
}

/// `start`, checked.
#[derive(Clone, Debug)]
pub struct Start {
    /// What is wanted.
    pub intent: Intent,
    /// Why.
    pub reason: Option<String>,
    /// Whether to keep it.
    pub dry_run: DryRun,
    /// Whether to wait for the end, and how long.
    pub wait: Option<Span>,
    /// How to print.
    pub format: Option<Format>,
}

/// Checks what is to change and how.
pub fn intent(change: &ChangeArgs, args: &StrategyArgs) -> Result<Intent, Refusal> {
    if let Some(name) = &args.name {
        upgrade_name(name, "--name")?;
    }
    let (change, strategy) = (change::lower(change)?, strategy(args)?);
    if let (Change::Images { workloads, .. } | Change::Tag { workloads, .. }, Some(settings)) =
        (&change, &strategy.blue_green)
        && workloads.len() > 1
    {
        return Err(Refusal::usage(format!(
            "blueGreen takes one workload: Service {} has the pods of one; start an Upgrade for each",
            settings.active_service
        )));
    }
    if let Some(settings) = &strategy.canary {
        canary::fits(&change, settings)?;
    }
    Ok(Intent {
        change,
        strategy,
        auto_rollback: auto_rollback(args)?,
        before: beside::before(&args.beside)?,
        health_checks: beside::health_checks(&args.beside)?,
        not_before: not_before(args.not_before.as_deref())?,
        window_overrun: args.window_overrun.map(|o| match o {
            Overrun::FinishStep => WindowOverrun::FinishStep,
            Overrun::Pause => WindowOverrun::Pause,
            Overrun::Rollback => WindowOverrun::Rollback,
        }),
        on_conflict: args.on_conflict.map(|c| match c {
            Conflict::Reject => OnConflict::Reject,
            Conflict::Queue => OnConflict::Queue,
            Conflict::Supersede => OnConflict::Supersede,
        }),
        name: args.name.clone(),
    })
}

/// Checks `start`.
pub fn start(args: &StartArgs) -> Result<Start, Refusal> {
    if args.wait && args.dry_run != DryRun::None {
        return Err(Refusal::usage("--wait has nothing to wait for with --dry-run"));
    }
    text(args.reason.as_deref(), "--reason")?;
    let timeout = duration(&args.timeout, "--timeout")?;
    Ok(Start {
        intent: intent(&args.change, &args.strategy)?,
        reason: args.reason.clone(),
        dry_run: args.dry_run,
        wait: args.wait.then_some(timeout),
        format: args.output.output,
    })
}

fn not_before(text: Option<&str>) -> Result<Option<Time>, Refusal> {
    let zone = jiff::tz::TimeZone::system();
    text.map(|t| instant(t, &zone, "--not-before").map(Time)).transpose()
}

fn strategy(args: &StrategyArgs) -> Result<Strategy, Refusal> {
    let flag = blue_green::given(&args.blue_green);
    let of_canary = canary::given(&args.canary);
    let separate = args.separate.as_deref().map(separate).transpose()?;
    let other = matches!(args.strategy, Some(StrategyName::Rolling | StrategyName::BlueGreen));
    if separate.is_some() && (other || flag.is_some()) {
        return Err(Refusal::usage(
            "--separate belongs to --strategy canary; rolling and blueGreen have no canary",
        ));
    }
    let implied = args.blue_green.active_service.is_some() && args.steps.is_none();
    let named = args.strategy.or_else(|| implied.then_some(StrategyName::BlueGreen));
    if let (Some(flag), false) =
        (of_canary, named == Some(StrategyName::Canary) || args.steps.is_some())
    {
        return Err(Refusal::usage(format!("{flag} belongs to --strategy canary"))
            .hint("give --strategy canary, or --steps"));
    }
    match (named, &args.steps) {
        (Some(StrategyName::Rolling), Some(_)) => Err(Refusal::usage(
            "--steps belongs to --strategy canary; the rolling strategy has no steps",
        )),
        (Some(StrategyName::BlueGreen), Some(_)) => Err(Refusal::usage(
            "--steps belongs to --strategy canary; blueGreen switches all clients at once",
        )),
        (Some(StrategyName::BlueGreen), None) => {
            let settings = blue_green::lower(&args.blue_green)?;
            Ok(Strategy { blue_green: Some(settings), ..Strategy::default() })
        }
        _ if flag.is_some() => Err(Refusal::usage(format!(
            "{} belongs to --strategy blueGreen",
            flag.unwrap_or_default()
        ))),
        (Some(StrategyName::Rolling) | None, None) if separate.is_none() => {
            Ok(Strategy { rolling: Some(Rolling::default()), ..Strategy::default() })
        }
        (_, text) => {
            let steps = steps(text.as_deref().unwrap_or(DEFAULT_STEPS), separate.is_some())?;
            let settings = Canary { separate, ..canary::lower(&args.canary, steps)? };
            Ok(Strategy { canary: Some(settings), ..Strategy::default() })
        }
    }
}

/// Labels of the pods of a canary of its own: `KEY=VALUE,...`, or nothing.
fn separate(text: &str) -> Result<Separate, Refusal> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                labels.insert(key.to_owned(), value.to_owned())
            }
            _ => {
                return Err(Refusal::usage(format!("--separate: `{pair}` is no label"))
                    .hint("labels are KEY=VALUE, for instance --separate=track=canary"));
            }
        };
    }
    Ok(Separate { labels })
}

fn auto_rollback(args: &StrategyArgs) -> Result<Option<AutoRollback>, Refusal> {
    if let Some(text) = &args.on_timeout
        && duration(text, "--on-timeout")?.limit.is_none()
    {
        return Err(Refusal::usage("--on-timeout 0 would never end; leave the flag out instead"));
    }
    // Absent is the default of the API; what says nothing is not written into the plan.
    if args.on_timeout.is_none() && !args.no_auto_rollback {
        return Ok(None);
    }
    Ok(Some(AutoRollback {
        on_failure: OnFailure {
            health_check_failure: !args.no_auto_rollback,
            analysis_failure: !args.no_auto_rollback,
            error_threshold: None,
        },
        on_timeout: args.on_timeout.clone(),
    }))
}

/// Checks the name of an Upgrade: an object name that is a label value too.
pub fn upgrade_name(name: &str, what: &str) -> Result<(), Refusal> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let parts_ok = name.split('.').all(|p| edge(p.chars().next()) && edge(p.chars().last()));
    if name.contains('/') {
        return Err(Refusal::usage(format!("{what}: `{name}` is not the name of an Upgrade"))
            .hint("`kubectl upgrade list` shows the names"));
    }
    if name.len() > 63 || !name.chars().all(inner) || !parts_ok {
        return Err(Refusal::usage(format!(
            "{what}: `{name}` is not a valid name: at most 63 of a-z, 0-9, `-` and `.`, with a \
             letter or digit at both ends"
        )));
    }
    Ok(())
}

/// Checks a verb that needs a name only.
pub fn named(args: &NameArgs) -> Result<(), Refusal> {
    upgrade_name(&args.name, "NAME")
}

/// Checks `approve`.
pub fn approve(args: &ApproveArgs) -> Result<(), Refusal> {
    named(&args.base)?;
    text(args.reason.as_deref(), "--reason")?;
    let Some(hash) = &args.plan_hash else {
        return Ok(());
    };
    let digits = hash.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() != 64 || !digits.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
        return Err(Refusal::usage(format!(
            "--plan-hash: `{hash}` is not `sha256:` and 64 hexadecimal digits"
        )));
    }
    Ok(())
}

/// Checks `reject`.
pub fn reject(args: &crate::cli::RejectArgs) -> Result<String, Refusal> {
    named(&args.base)?;
    text(args.reason.as_deref(), "--reason")?;
    let reason = args.reason.clone().filter(|r| !r.trim().is_empty());
    reason.ok_or_else(|| {
        Refusal::usage("a rejection says why: give --reason TEXT").hint(format!(
            "kubectl upgrade reject {} --reason 'not before the sale'",
            args.base.name
        ))
    })
}

fn text(value: Option<&str>, flag: &str) -> Result<(), Refusal> {
    if value.is_some_and(|v| v.len() > 1024) {
        return Err(Refusal::usage(format!("{flag} takes at most 1024 bytes")));
    }
    Ok(())
}

/// How `status` is to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Print every change.
    pub watch: bool,
    /// Wait for the end or for a phase.
    pub wait: bool,
    /// The phase to wait for.
    pub phase: Option<Phase>,
    /// How long.
    pub limit: Option<Duration>,
}

/// Checks `status`.
pub fn status(args: &StatusArgs) -> Result<Follow, Refusal> {
    if let Some(name) = &args.name {
        upgrade_name(name, "NAME")?;
    }
    let phase = args.phase.as_deref().map(phase).transpose()?;
    let limit = duration(&args.timeout, "--timeout")?.limit;
    let wait = args.wait || phase.is_some();
    if limit.is_some() && !wait && !args.watch {
        return Err(Refusal::usage("--timeout needs --wait, --for or -w"));
    }
    Ok(Follow { watch: args.watch, wait, phase, limit })
}

/// Every phase, in the order in which an Upgrade goes through them.
const PHASES: [Phase; 11] = [
    Phase::Pending,
    Phase::AwaitingApproval,
    Phase::Progressing,
    Phase::Paused,
    Phase::Degraded,
    Phase::RollingBack,
    Phase::Completed,
    Phase::RolledBack,
    Phase::Aborted,
    Phase::Rejected,
    Phase::Failed,
];

fn phase(text: &str) -> Result<Phase, Refusal> {
    let name = text.strip_prefix("phase=").unwrap_or(text);
    PHASES.into_iter().find(|p| p.to_string().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let all: Vec<String> = PHASES.iter().map(ToString::to_string).collect();
        Refusal::usage(format!("--for: `{text}` is no phase; phases are {}", all.join(", ")))
    })
}

/// What `history` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Every Upgrade of the namespace.
    All,
    /// One Upgrade.
    Upgrade(String),
    /// One workload.
    Workload(Reference),
}

/// Checks `history`.
pub fn history(args: &HistoryArgs) -> Result<Subject, Refusal> {
    match &args.subject {
        None => Ok(Subject::All),
        Some(text) if text.contains('/') => Ok(Subject::Workload(reference(text)?)),
        Some(name) => {
            upgrade_name(name, "NAME")?;
            Ok(Subject::Upgrade(name.clone()))
        }
    }
}

/// Checks `install`.
pub fn install(args: &InstallArgs) -> Result<Duration, Refusal> {
    if let Some(url) = &args.webhook_url {
        let rest = url.strip_prefix("https://").unwrap_or_default();
        if rest.is_empty() || rest.starts_with('/') || url.contains(['?', '#', '@', ' ']) {
            return Err(Refusal::usage(format!(
                "--webhook-url: `{url}` is not an https address without user, query and fragment"
            ))
            .hint("for instance --webhook-url https://127.0.0.1:9443"));
        }
    }
    let span = duration(&args.timeout, "--timeout")?;
    Ok(span.limit.unwrap_or(Duration::from_hours(1)))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
