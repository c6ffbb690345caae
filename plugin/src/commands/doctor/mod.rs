//! `doctor`: is everything as it was installed, does somebody answer, who could get around it.

mod answers;
mod certificates;
mod clock;
mod compare;
mod context;
mod controllers;
mod governance;
mod grants;
mod installation;
mod machine;
mod rights;
mod webhooks;

use crate::cli::{DoctorArgs, FailOn, Format};
use crate::client::Session;
use crate::output::checks::{Check, Outcome, Style, render};
use crate::output::hint::nearest;
use crate::output::{Exit, Printer, Refusal};
use context::Cluster;
use owo_colors::OwoColorize;
use serde_json::json;

/// Lines of evidence that a check shows where nobody asked for all.
const MOST: usize = 5;

/// Every check by group, in the order in which they are shown.
const GROUPS: [(&str, &[&str]); 8] = [
    ("installation", &["crds", "objects", "floor", "replicas", "budget", "spread", "version"]),
    (
        "webhooks",
        &[
            "webhooks",
            "webhook-rules",
            "webhook-policy",
            "webhook-match",
            "webhook-effects",
            "webhook-timeout",
            "webhook-conditions",
            "webhook-selectors",
            "webhook-address",
            "ca-bundle",
            "ca-secret",
        ],
    ),
    ("answers", &["endpoints", "answers"]),
    ("clocks", &["lease", "clock-here", "clock-controller"]),
    ("governance", &["namespaces", "policies", "idle-policies", "ledger", "drift"]),
    (
        "rights",
        &[
            "administrators",
            "impersonators",
            "webhook-writers",
            "crd-writers",
            "account-takers",
            "product-admins",
            "status-writers",
            "escalators",
        ],
    ),
    ("controllers", &["controllers"]),
    ("this machine", &["path"]),
];

/// Checks `--ignore`.
pub fn lower(args: &DoctorArgs) -> Result<(), Refusal> {
    let known = || GROUPS.iter().flat_map(|(_, ids)| ids.iter().copied());
    let Some(wrong) = args.ignore.iter().find(|id| !known().any(|k| k == id.as_str())) else {
        return Ok(());
    };
    let refusal = Refusal::usage(format!("--ignore: there is no check `{wrong}`"));
    Err(match nearest(wrong, known()) {
        Some(near) => refusal.hint(format!("did you mean {near}?")),
        None => refusal.hint(format!("checks are {}", known().collect::<Vec<_>>().join(", "))),
    })
}

/// Looks at everything, and says what it found.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &DoctorArgs,
) -> anyhow::Result<Exit> {
    let cluster = Cluster::look(session).await?;
    let mut checks = in_order(Box::pin(examine(&cluster)).await);
    for check in checks.iter_mut().filter(|c| args.ignore.iter().any(|id| id == c.id)) {
        *check = Check {
            group: check.group,
            ..Check::new(check.id, Outcome::Ignored, "left out by --ignore")
        };
    }
    let (exit, reason) = verdict(&checks, args.fail_on);
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            let body = json!({
                "kind": "Doctor",
                "reason": reason,
                "exitCode": exit as u8,
                "server": session.server,
                "checks": checks,
            });
            printer.document(format, &body)?;
        }
        Some(Format::Name) => {
            let found = |c: &&Check| {
                matches!(c.outcome, Outcome::Error | Outcome::Warning | Outcome::NotChecked)
            };
            for check in checks.iter().filter(found) {
                printer.data(check.id)?;
            }
        }
        format => {
            let most = if format.is_some() { None } else { Some(MOST) };
            let style = Style { marks: printer.marks, width: Printer::width(), most };
            printer.data(&render(&checks, style))?;
            printer.data(&format!("\n{}", summary(&checks)))?;
        }
    }
    Ok(exit)
}

async fn examine(cluster: &Cluster<'_>) -> Vec<Check> {
    let hooks = webhooks::hooks(cluster);
    let certificates = async {
        match &hooks {
            Ok(hooks) => certificates::checks(cluster, hooks).await,
            Err(_) => Vec::new(),
        }
    };
    let (replicas, certificates, answers, clocks, governance, rights, controllers) = tokio::join!(
        installation::replicas(cluster),
        certificates,
        answers::checks(cluster),
        clock::checks(cluster),
        governance::checks(cluster),
        rights::checks(cluster),
        controllers::check(cluster),
    );
    let mut all = installation::objects(cluster);
    all.extend(replicas);
    match &hooks {
        Ok(hooks) => all.extend(webhooks::checks(cluster, hooks)),
        Err(check) => all.push(check.clone()),
    }
    for part in [certificates, answers, clocks, governance, rights] {
        all.extend(part);
    }
    all.extend([controllers, machine::check()]);
    all
}

/// The checks as they are listed; one that nobody made was not made for a reason above it.
fn in_order(mut made: Vec<Check>) -> Vec<Check> {
    let mut all = Vec::new();
    for (group, ids) in GROUPS {
        for id in ids {
            let at = made.iter().position(|c| c.id == *id);
            let check = at.map_or_else(
                || Check::not_checked(id, "needs both webhook configurations; see `webhooks`"),
                |at| made.swap_remove(at),
            );
            all.push(Check { group, ..check });
        }
    }
    all
}

fn count(checks: &[Check], outcome: Outcome) -> usize {
    checks.iter().filter(|c| c.outcome == outcome).count()
}

fn verdict(checks: &[Check], fail_on: FailOn) -> (Exit, &'static str) {
    let any = |outcome| count(checks, outcome) > 0;
    if any(Outcome::Error) {
        (Exit::Failed, "ErrorsFound")
    } else if any(Outcome::Warning) && fail_on == FailOn::Warning {
        (Exit::Failed, "WarningsFound")
    } else if any(Outcome::NotChecked) {
        (Exit::Blocked, "NotEverythingChecked")
    } else {
        (Exit::Done, if any(Outcome::Warning) { "WarningsFound" } else { "Fine" })
    }
}

fn summary(checks: &[Check]) -> String {
    let some = |outcome, one: &str, more: &str| match count(checks, outcome) {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {more}")),
    };
    let error = some(Outcome::Error, "error", "errors").map(|t| t.red().to_string());
    let warning = some(Outcome::Warning, "warning", "warnings").map(|t| t.yellow().to_string());
    let rest = [
        some(Outcome::NotChecked, "not checked", "not checked").map(|t| t.magenta().to_string()),
        some(Outcome::Passed, "passed", "passed").map(|t| t.green().to_string()),
        some(Outcome::Info, "noted", "noted"),
        some(Outcome::NotApplicable, "not applicable", "not applicable"),
        some(Outcome::Ignored, "ignored", "ignored"),
    ];
    let parts: Vec<String> = [error, warning].into_iter().chain(rest).flatten().collect();
    format!("{} checks: {}", checks.len(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_looked_at_is_never_fine() {
        let fine = Check::passed("crds", "");
        let blind = Check::not_checked("drift", "needs a right");
        let warned = Check::warning("policies", "");
        for (checks, fail_on, exit) in [
            (vec![fine.clone()], FailOn::Warning, Exit::Done),
            (vec![fine.clone(), blind.clone()], FailOn::Error, Exit::Blocked),
            (vec![warned.clone()], FailOn::Error, Exit::Done),
            (vec![warned.clone(), blind.clone()], FailOn::Warning, Exit::Failed),
            (vec![Check::error("lease", ""), blind], FailOn::Error, Exit::Failed),
        ] {
            assert_eq!(verdict(&checks, fail_on).0, exit, "{checks:?}");
        }
        let all = in_order(vec![fine]);
        assert_eq!(count(&all, Outcome::Passed), 1);
        assert_eq!(count(&all, Outcome::NotChecked), all.len() - 1);
    }
}
