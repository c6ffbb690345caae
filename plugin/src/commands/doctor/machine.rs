//! This machine: what kubectl would run when somebody types `kubectl upgrade`.
//!
//! kubectl looks for the longest name first: for `kubectl upgrade approve` an executable
//! `kubectl-upgrade-approve` anywhere in PATH is run instead of ours. Dashes in a word become
//! underscores.

use crate::cli::Cli;
use crate::output::checks::{Check, Outcome};
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const NAME: &str = "kubectl-upgrade";

/// What PATH holds.
pub fn check() -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let me = std::env::current_exe().ok();
    let verbs: BTreeSet<String> = Cli::command()
        .get_subcommands()
        .flat_map(|c| c.get_name_and_visible_aliases())
        .map(|verb| verb.replace('-', "_"))
        .collect();
    judge(&path, me.as_deref(), &verbs)
}

fn judge(path: &OsStr, me: Option<&Path>, verbs: &BTreeSet<String>) -> Check {
    let id = "path";
    let (mut hijackers, mut others, mut first) = (Vec::new(), Vec::new(), None);
    for (word, file) in executables(path) {
        match word.as_deref() {
            None if first.is_none() => first = Some(file),
            None => {}
            Some(word) if verbs.contains(word.split('-').next().unwrap_or_default()) => {
                hijackers.push(format!(
                    "{} runs instead of `kubectl upgrade {}`",
                    file.display(),
                    word.replace('-', " ")
                ));
            }
            Some(_) => others.push(file.display().to_string()),
        }
    }
    let stranger = first.as_ref().filter(|found| !same(found, me));
    if !hijackers.is_empty() {
        return Check::error(id, "executables in PATH run instead of commands of this plugin")
            .seen(hijackers)
            .hint(
                "remove them, unless you put them there; `kubectl plugin list` shows all plugins",
            );
    }
    if let Some(found) = stranger {
        let shown = me.map_or_else(|| "this one".to_owned(), |m| m.display().to_string());
        return Check::warning(id, "`kubectl upgrade` runs another executable than this one")
            .seen([format!("{} comes first in PATH", found.display()), format!("this is {shown}")])
            .hint("remove the other one, or put this one's directory first in PATH");
    }
    let message = match (&first, others.len()) {
        (None, _) => format!("no {NAME} is in PATH: `kubectl upgrade` does not find this one"),
        (Some(_), 0) => "`kubectl upgrade` runs this executable".to_owned(),
        (Some(_), n) => {
            format!("`kubectl upgrade` runs this executable; {n} add words of their own")
        }
    };
    let outcome =
        if first.is_none() || !others.is_empty() { Outcome::Info } else { Outcome::Passed };
    Check::new(id, outcome, message).seen(others)
}

/// Every executable called `kubectl-upgrade` or `kubectl-upgrade-WORD`, in the order of PATH.
fn executables(path: &OsStr) -> Vec<(Option<String>, PathBuf)> {
    let mut found = Vec::new();
    for directory in std::env::split_paths(path).filter(|p| !p.as_os_str().is_empty()) {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.sort();
        for file in files {
            let Some(name) = file.file_name().and_then(OsStr::to_str) else { continue };
            let name =
                if cfg!(windows) { name.rsplit_once('.').map_or(name, |(n, _)| n) } else { name };
            let word = match name.strip_prefix(NAME) {
                Some("") => None,
                Some(rest) if rest.starts_with('-') => {
                    Some(rest.trim_start_matches('-').to_owned())
                }
                _ => continue,
            };
            if is_executable(&file) {
                found.push((word, file));
            }
        }
    }
    found
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    let runs =
        |e: &str| ["exe", "bat", "cmd", "com", "ps1"].contains(&e.to_ascii_lowercase().as_str());
    file.is_file() && file.extension().and_then(OsStr::to_str).is_some_and(runs)
}

fn same(found: &Path, me: Option<&Path>) -> bool {
    let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
    me.is_some_and(|me| real(found) == real(me))
}
