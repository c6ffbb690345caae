//! `kubectl upgrade`: plan, start and steer governed, progressive upgrades.
//!
//! The way of a command: `cli` (clap types) → `lower` (every flag checked) → `commands/VERB` →
//! `gather` (what runs now) → `upgrade_core::plan` → `output` (the one printer). The plugin writes
//! objects and reads them; it never drives an upgrade from here.

mod cli;
mod client;
mod commands;
mod errors;
mod follow;
mod gather;
mod lower;
mod objects;
mod output;

use clap::Parser;
use cli::{Cli, Command, Format};
use output::hint::{is_broken_pipe, refusal_of};
use output::{Exit, Printer};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.len() < 2 {
        // Like kubectl: no word at all is a question, not a mistake.
        words.push("-h".into());
    }
    let cli = Cli::parse_from(words);
    let mut printer = Printer::new(cli.color);
    let json = matches!(format(&cli.command), Some(Format::Json));
    let exit = match run(&cli, &mut printer) {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Done,
        Err(error) => {
            let refusal = refusal_of(&error);
            // Nothing can be done about a stderr that is gone.
            let _ = printer.refusal(&refusal, json);
            refusal.exit
        }
    };
    exit.into()
}

fn run(cli: &Cli, printer: &mut Printer) -> anyhow::Result<Exit> {
    // First of all: rustls asks for a provider as soon as a client is built. An error says that
    // there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(cli, printer))
}

/// The format that was asked for.
fn format(command: &Command) -> Option<Format> {
    match command {
        Command::Plan(a) => a.output.output,
        Command::Start(a) => a.output.output,
        Command::BreakGlass(a) => a.output.output,
        Command::Approve(a) => a.base.output.output,
        Command::Reject(a) => a.base.output.output,
        Command::Pause(a) | Command::Resume(a) | Command::Abort(a) | Command::Retry(a) => {
            a.output.output
        }
        Command::Promote(a) => a.base.output.output,
        Command::Release(a) => a.output.output,
        Command::Status(a) => a.output.output,
        Command::Explain(a) => a.output.output,
        Command::Windows(a) => a.output.output,
        Command::Matrix(a) => a.output.output,
        Command::Doctor(a) => a.output.output,
        Command::List(a) => a.output.output,
        Command::History(a) => a.output.output,
        Command::Install(a) => a.output.output,
        Command::Uninstall(a) => a.output.output,
        Command::Completion(_) => None,
        Command::Version(a) => a.output.output,
    }
}
