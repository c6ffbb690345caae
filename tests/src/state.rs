//! Sandboxes that outlive the command that started them, by name.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cluster::ControlPlane;
use crate::components::Ports;
use crate::guard::{self, Event, Request, Status};
use crate::{cache, pki};

/// What is known of a sandbox that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The API server's URL.
    pub url: String,
    /// The ports in use.
    pub ports: Ports,
    /// kubectl of the same release.
    pub kubectl: PathBuf,
    /// The scratch directory with the logs.
    pub scratch: PathBuf,
}

/// A named sandbox, running or not.
pub struct Named {
    name: String,
    dir: PathBuf,
}

impl Named {
    /// The sandbox of this name.
    pub fn new(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            bail!("{name:?} is no name for a sandbox\nhint: use letters, digits, - and _");
        }
        Ok(Self { name: name.to_owned(), dir: cache::dir()?.join("sandboxes") })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.json", self.name))
    }

    /// Held by whoever starts it, so that two starts at once make one sandbox.
    pub fn lock(&self) -> Result<File> {
        std::fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot create {}", self.dir.display()))?;
        let path = self.dir.join(format!("{}.lock", self.name));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.lock().context("cannot lock the sandbox's name")?;
        Ok(file)
    }

    /// Notes that this cluster has the name.
    pub fn record(&self, cluster: &ControlPlane) -> Result<Record> {
        let record = Record {
            name: self.name.clone(),
            kubeconfig: cluster.kubeconfig().to_owned(),
            url: cluster.url().to_owned(),
            ports: cluster.ports(),
            kubectl: cluster.binaries().kubectl.clone(),
            scratch: cluster.dir().to_owned(),
        };
        pki::write_private(&self.path(), &serde_json::to_string_pretty(&record)?)?;
        Ok(record)
    }

    /// The sandbox, if its guardian answers. Its socket decides, never a pid: that could be a
    /// stranger's by now.
    pub fn running(&self) -> Result<Option<(Record, Status)>> {
        let Some(record) = read(&self.path())? else {
            return Ok(None);
        };
        let status = match guard::call(&guard::socket(&record.scratch), &Request::Status)? {
            Some(Event::Status(status)) => status,
            Some(other) => bail!("the guardian answered {other:?}"),
            None => return Ok(None),
        };
        Ok(Some((record, status)))
    }

    /// Stops the sandbox and waits until everything is gone. `false` where none runs.
    pub fn stop(&self) -> Result<bool> {
        let Some(record) = read(&self.path())? else {
            return Ok(false);
        };
        let answer = guard::call(&guard::socket(&record.scratch), &Request::Stop)?;
        std::fs::remove_file(self.path()).context("cannot forget the sandbox")?;
        Ok(answer.is_some())
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    match std::fs::read(path) {
        // A file that another version wrote says nothing that this one could use.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
