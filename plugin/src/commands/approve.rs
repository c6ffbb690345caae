//! `approve` and `reject`: one person's word on exactly one plan.

use super::steer::said;
use crate::cli::{ApproveArgs, DryRun, Format, RejectArgs};
use crate::client::Session;
use crate::objects::{REASON_ANNOTATION, create, hash, requester, status, upgrade, whoami};
use crate::output::table::Table;
use crate::output::{Exit, Printer, Refusal, describe, plan};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use std::fmt::Write;
use upgrade_core::api::status::Gate;
use upgrade_core::api::{Decision, Phase, Upgrade, UpgradeApproval, UpgradeApprovalSpec};
use upgrade_core::plan::build::version;

/// Says yes.
pub async fn approve(
    session: &Session,
    printer: &mut Printer,
    args: &ApproveArgs,
) -> anyhow::Result<Exit> {
    let base = &args.base;
    let (found, me) = tokio::join!(upgrade(session, &base.name), whoami(session));
    let found = found?;
    let plan_hash = agreed_hash(&found)?;
    if let Some(seen) = args.plan_hash.as_ref().filter(|h| **h != plan_hash) {
        let text =
            format!("--plan-hash: the plan of Upgrade {} is {plan_hash}, not {seen}", base.name);
        return Err(Refusal::new("OtherPlan", text).into());
    }
    can_approve(&found, me.as_deref(), args)?;
    if matches!(base.output.output, None | Some(Format::Wide)) {
        printer.note(&summary(&found, &plan_hash))?;
    }
    confirm(printer, args.yes, base.dry_run, "Approve exactly this?", "approve")?;
    let mut approval = object(&found, plan_hash, Decision::Approved, args.reason.clone());
    (approval.spec.stage, approval.spec.step) = (args.stage.clone(), args.step);
    let word = format!("approved{}{}", part(args), count(&found, args));
    decide(session, printer, base, &found, (&approval, &word, "")).await
}

/// Says no.
pub async fn reject(
    session: &Session,
    printer: &mut Printer,
    args: &RejectArgs,
    reason: String,
) -> anyhow::Result<Exit> {
    let base = &args.base;
    let found = upgrade(session, &base.name).await?;
    let plan_hash = agreed_hash(&found)?;
    let phase = status(&found).phase;
    if phase.is_terminal() {
        let text = format!("Upgrade {} is {phase}: there is nothing left to reject", base.name);
        return Err(Refusal::new("WrongPhase", text).into());
    }
    if phase.is_in_flight() {
        let text = format!("Upgrade {} is {phase} already: a rejection comes too late", base.name);
        return Err(Refusal::new("WrongPhase", text)
            .hint(format!(
                "take it back: kubectl upgrade abort {} -n {}",
                base.name, session.namespace
            ))
            .into());
    }
    if matches!(base.output.output, None | Some(Format::Wide)) {
        printer.note(&summary(&found, &plan_hash))?;
    }
    confirm(printer, args.yes, base.dry_run, "Reject it? That is final.", "reject")?;
    let approval = object(&found, plan_hash, Decision::Rejected, Some(reason));
    decide(session, printer, base, &found, (&approval, "rejected", "it ends; nothing was touched"))
        .await
}

async fn decide(
    session: &Session,
    printer: &mut Printer,
    base: &crate::cli::NameArgs,
    found: &Upgrade,
    (approval, word, left): (&UpgradeApproval, &str, &str),
) -> anyhow::Result<Exit> {
    let word = match base.dry_run {
        DryRun::Client => format!("{word} (dry run)"),
        DryRun::Server => {
            create(session, approval, base.dry_run).await?;
            format!("{word} (server dry run)")
        }
        DryRun::None => {
            let created = create(session, approval, base.dry_run).await?;
            if let Some(format @ (Format::Json | Format::Yaml)) = base.output.output {
                printer.document(format, &crate::objects::document(&created)?)?;
                return Ok(Exit::Done);
            }
            word.to_owned()
        }
    };
    said(printer, base.output.output, found, &word, left)?;
    Ok(Exit::Done)
}

/// The hash that the controller announced and the one of the spec just read: they must agree, or
/// something else than what is shown would be approved.
fn agreed_hash(upgrade: &Upgrade) -> Result<String, Refusal> {
    let computed = hash(upgrade);
    let announced = status(upgrade).plan_hash;
    if announced.is_empty() || announced == computed {
        return Ok(computed);
    }
    let name = upgrade.name_any();
    Err(Refusal::new(
        "OtherPlan",
        format!(
            "Upgrade {name}: its status announces plan {announced}, but its spec is {computed}; this \
             plugin and the controller may be of different versions"
        ),
    )
    .hint("kubectl upgrade version"))
}

/// Which part is approved, for people.
fn part(args: &ApproveArgs) -> String {
    match (&args.stage, args.step) {
        (Some(stage), Some(step)) => format!(", step {step} of stage {stage}"),
        (Some(stage), None) => format!(", stage {stage}"),
        (None, _) => String::new(),
    }
}

fn can_approve(upgrade: &Upgrade, me: Option<&str>, args: &ApproveArgs) -> Result<(), Refusal> {
    let (name, status) = (upgrade.name_any(), status(upgrade));
    // A part may be approved while others are under way; which one fits, admission knows.
    let in_parts = args.stage.is_some()
        || status.gates.iter().any(|gate| gate.gate == Gate::Approval && !gate.open);
    let waits = matches!(status.phase, Phase::AwaitingApproval | Phase::Pending)
        || in_parts && matches!(status.phase, Phase::Progressing | Phase::Paused);
    if !waits {
        let text = format!("Upgrade {name} is {}: it does not wait for approval", status.phase);
        return Err(Refusal::new("WrongPhase", text));
    }
    let stages = &upgrade.spec.stages;
    if let Some(stage) = args.stage.as_ref().filter(|s| stages.iter().all(|x| x.name != **s)) {
        let names: Vec<_> = stages.iter().map(|s| s.name.as_str()).collect();
        let text =
            format!("--stage: Upgrade {name} has no stage {stage}; it has {}", names.join(", "));
        return Err(Refusal::usage(text));
    }
    let approved = status.approvals.map(|a| a.approved_by).unwrap_or_default();
    let again = |me: &&str| !in_parts && approved.iter().any(|a| a == me);
    if let Some(me) = me.filter(again) {
        return Err(Refusal::new(
            "AlreadyApproved",
            format!("you ({me}) have approved Upgrade {name} already"),
        ));
    }
    match (requester(upgrade), me) {
        (Some(requester), Some(me)) if requester == me => Err(Refusal::blocked(
            "OwnRequest",
            format!("you ({me}) asked for Upgrade {name}: somebody else has to approve it"),
        )
        .hint(format!(
            "tell them: kubectl upgrade approve {name} -n {}",
            upgrade.namespace().unwrap_or_default()
        ))),
        _ => Ok(()),
    }
}

fn count(upgrade: &Upgrade, args: &ApproveArgs) -> String {
    match status(upgrade).approvals.filter(|_| args.stage.is_none()) {
        Some(a) if a.required > 0 => format!(" ({}/{})", a.approved_by.len() + 1, a.required),
        _ => String::new(),
    }
}

fn confirm(
    printer: &mut Printer,
    yes: bool,
    dry: DryRun,
    question: &str,
    verb: &str,
) -> anyhow::Result<()> {
    if yes || dry != DryRun::None {
        return Ok(());
    }
    if !Printer::can_ask() {
        let text = format!("{verb} asks a person, and standard input is no terminal: give --yes");
        return Err(Refusal::usage(text).into());
    }
    if printer.ask(question)? {
        return Ok(());
    }
    Err(Refusal::new("NotConfirmed", "nothing was done").into())
}

fn object(
    upgrade: &Upgrade,
    plan_hash: String,
    decision: Decision,
    reason: Option<String>,
) -> UpgradeApproval {
    let name = upgrade.name_any();
    UpgradeApproval {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: upgrade.namespace(),
            ..ObjectMeta::default()
        },
        spec: UpgradeApprovalSpec {
            upgrade: name,
            upgrade_uid: upgrade.uid(),
            plan_hash,
            stage: None,
            step: None,
            decision,
            reason: reason.filter(|r| !r.is_empty()),
            approver: None,
        },
    }
}

/// What is decided about.
fn summary(upgrade: &Upgrade, plan_hash: &str) -> String {
    let now = Timestamp::now();
    let mut text = format!(
        "Upgrade:      {}/{}   {}\nRequested by: {}, {} ago\n",
        upgrade.namespace().unwrap_or_default(),
        upgrade.name_any(),
        plan::versions(&upgrade.spec),
        requester(upgrade).as_deref().unwrap_or("<unknown>"),
        describe::object_age(upgrade, now),
    );
    if let Some(reason) = upgrade.annotations().get(REASON_ANNOTATION) {
        let _ = writeln!(text, "Reason:       {reason}");
    }
    for (index, stage) in upgrade.spec.stages.iter().enumerate() {
        let does = crate::output::stage::text(stage);
        let _ = writeln!(text, "Stage {}:      {}, {does}", index + 1, stage.name);
    }
    let rollback = upgrade.spec.auto_rollback.clone().unwrap_or_default();
    let _ = writeln!(
        text,
        "On failure:   {}{}",
        if rollback.on_failure.health_check_failure { "taken back" } else { "stands still" },
        rollback.on_timeout.map(|t| format!("; at the latest after {t}")).unwrap_or_default()
    );
    let _ = write!(text, "Plan:         {plan_hash}\n\n");
    let mut table = Table::new(&["COMPONENT", "CONTAINER", "CURRENT", "TARGET", "IMAGE"]);
    for workloads in upgrade.spec.stages.iter().filter_map(|s| s.workloads.as_ref()) {
        for target in &workloads.targets {
            for change in &target.images {
                table.row([
                    format!("deploy/{}", target.name),
                    change.container.clone(),
                    version(&change.from),
                    version(&change.to),
                    change.to.clone(),
                ]);
            }
        }
    }
    text.push_str(&table.render(None));
    text
}
