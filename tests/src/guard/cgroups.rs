//! The cgroups of containers: all that namespaces leave behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroups below this name; the processes in them are dead or about to be.
pub(super) async fn remove(name: &str) {
    for _ in 0..50 {
        if places(name).iter().all(|place| remove_tree(place)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Removes what sandboxes that are gone have left. A cgroup with a process in it stays, so nothing
/// that lives is touched.
pub(super) fn sweep(prefix: &str) {
    for parent in parents() {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|name| name.starts_with(prefix));
            if ours && !std::env::temp_dir().join(&name).exists() {
                remove_tree(&entry.path());
            }
        }
    }
}

/// The root of version 2, and each hierarchy of version 1.
fn parents() -> Vec<PathBuf> {
    let all = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
    let below = all.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists());
    below.chain([PathBuf::from(ROOT)]).collect()
}

fn places(name: &str) -> Vec<PathBuf> {
    parents().into_iter().map(|parent| parent.join(name)).filter(|path| path.is_dir()).collect()
}

/// The deepest first, as the kernel asks; `false` where something is still in use.
fn remove_tree(path: &Path) -> bool {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    std::fs::remove_dir(path).is_ok() || !path.exists()
}
