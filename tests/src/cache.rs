//! Where things that outlive a process are kept.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/kubectl-upgrade` or `~/.cache/kubectl-upgrade`.
pub fn dir() -> Result<PathBuf> {
    // The XDG specification has relative paths ignored.
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = match xdg {
        Some(dir) => dir,
        None => std::env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .context("no cache directory: neither XDG_CACHE_HOME nor HOME is set")?
            .join(".cache"),
    };
    Ok(base.join("kubectl-upgrade"))
}
