//! `completion`: a script for the shell.

use crate::cli::{Cli, CompletionArgs};
use crate::output::{Exit, Printer};
use clap::CommandFactory;

/// Prints the script.
pub fn run(printer: &mut Printer, args: &CompletionArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    // The script is for the executable; kubectl asks `kubectl_complete-upgrade` instead.
    let mut command = Cli::command().bin_name("kubectl-upgrade");
    clap_complete::generate(args.shell, &mut command, "kubectl-upgrade", &mut script);
    printer.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
