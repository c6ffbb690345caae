//! The verbs, one file each.

mod approve;
mod break_glass;
mod completion;
mod doctor;
mod explain;
mod history;
mod install;
mod list;
mod manifests;
mod matrix;
mod plan;
mod release;
mod start;
mod status;
mod steer;
mod uninstall;
mod version;
mod windows;

use crate::cli::{Cli, Command};
use crate::client::{Session, connect};
use crate::lower;
use crate::output::{Exit, Printer};

/// Checks the flags, finds the cluster, does what the verb says.
pub async fn run(cli: &Cli, printer: &mut Printer) -> anyhow::Result<Exit> {
    let session = || connect(&cli.connection);
    match &cli.command {
        Command::Plan(args) => {
            let intent = lower::intent(&args.change, &args.strategy)?;
            plan::run(session().await?, printer, &intent, args.output.output).await
        }
        Command::Start(args) => {
            let start = lower::start(args)?;
            start::run(session().await?, printer, &start).await
        }
        Command::Approve(args) => {
            lower::approve(args)?;
            approve::approve(&session().await?, printer, args).await
        }
        Command::Reject(args) => {
            let reason = lower::reject(args)?;
            approve::reject(&session().await?, printer, args, reason).await
        }
        Command::Pause(_)
        | Command::Resume(_)
        | Command::Abort(_)
        | Command::Retry(_)
        | Command::Release(_)
        | Command::Promote(_) => Box::pin(steering(cli, printer)).await,
        Command::BreakGlass(args) => {
            let asked = lower::break_glass(args)?;
            break_glass::run(&session().await?, printer, args, &asked).await
        }
        Command::Status(args) => {
            let follow = lower::status(args)?;
            status::run(&session().await?, printer, args, &follow).await
        }
        Command::Explain(_) | Command::Doctor(_) | Command::Windows(_) | Command::Matrix(_) => {
            Box::pin(look(cli, printer)).await
        }
        Command::List(args) => list::run(&session().await?, printer, args).await,
        Command::History(args) => {
            let subject = lower::history(args)?;
            history::run(&session().await?, printer, &subject, args.output.output).await
        }
        Command::Install(_) | Command::Uninstall(_) => administer(cli, printer).await,
        Command::Completion(args) => completion::run(printer, args),
        Command::Version(args) => {
            let session: Option<Session> = if args.client { None } else { session().await.ok() };
            version::run(session.as_ref(), printer, args).await
        }
    }
}

/// Verbs that give orders to an Upgrade.
async fn steering(cli: &Cli, printer: &mut Printer) -> anyhow::Result<Exit> {
    let session = || connect(&cli.connection);
    match &cli.command {
        Command::Pause(args)
        | Command::Resume(args)
        | Command::Abort(args)
        | Command::Retry(args) => {
            lower::named(args)?;
            let verb = match &cli.command {
                Command::Pause(_) => steer::Verb::Pause,
                Command::Resume(_) => steer::Verb::Resume,
                Command::Abort(_) => steer::Verb::Abort,
                _ => steer::Verb::Retry,
            };
            steer::run(&session().await?, printer, verb, args).await
        }
        Command::Promote(args) => {
            lower::named(&args.base)?;
            let verb = match args.to_step {
                Some(step) => steer::Verb::GoTo { step },
                None => steer::Verb::Promote { full: args.full },
            };
            steer::run(&session().await?, printer, verb, &args.base).await
        }
        Command::Release(args) => {
            let timeout = release::lower(args)?;
            release::run(&session().await?, printer, args, &timeout).await
        }
        _ => Ok(Exit::Done),
    }
}

/// Verbs that look at governance and write nothing.
async fn look(cli: &Cli, printer: &mut Printer) -> anyhow::Result<Exit> {
    let session = || connect(&cli.connection);
    match &cli.command {
        Command::Explain(args) => {
            let zone = explain::lower(args)?;
            explain::run(&session().await?, printer, args, &zone).await
        }
        Command::Windows(args) => {
            let asked = windows::lower(args)?;
            windows::run(&session().await?, printer, &asked, args.output.output).await
        }
        Command::Matrix(args) => {
            let given = matrix::lower(args)?;
            matrix::run(&session().await?, printer, args, &given).await
        }
        Command::Doctor(args) => {
            doctor::lower(args)?;
            doctor::run(&session().await?, printer, args).await
        }
        _ => Ok(Exit::Done),
    }
}

async fn administer(cli: &Cli, printer: &mut Printer) -> anyhow::Result<Exit> {
    manifests::own_namespace(&cli.connection)?;
    match &cli.command {
        Command::Install(args) => {
            let limit = lower::install(args)?;
            let wanted = manifests::wanted(args.webhook_url.as_deref())?;
            if args.dry_run == crate::cli::DryRun::Client {
                return install::show(printer, args, &wanted);
            }
            install::run(&connect(&cli.connection).await?, printer, args, wanted, limit).await
        }
        Command::Uninstall(args) => {
            uninstall::run(&connect(&cli.connection).await?, printer, args).await
        }
        _ => Ok(Exit::Done),
    }
}
