//! A clock that the test sets: what the webhook and controller take for now.
//!
//! Debug builds of them read the time from a file and go on from there. The API server knows
//! nothing of it; what it stamps is the time that it really is.

use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::ControlPlane;
use crate::product::{self, Product};
use crate::scenario::Shop;

/// The one control plane of a test binary whose product goes by a clock of the test's own.
pub struct ClockLab {
    /// The control plane.
    pub cluster: &'static ControlPlane,
    /// The product on it.
    pub product: Product,
    file: PathBuf,
    /// There is one clock: tests that set it take turns.
    turn: Mutex<()>,
}

/// The clock, for as long as it is one's turn.
pub struct Clock {
    lab: &'static ClockLab,
    _turn: MutexGuard<'static, ()>,
}

/// Waits for one's turn at the clock; the first test that asks starts it all.
///
/// # Panics
/// When it cannot be started: no test can go on from there.
pub async fn clock() -> Clock {
    static LAB: OnceCell<ClockLab> = OnceCell::const_new();
    let started = LAB.get_or_try_init(|| async {
        let cluster = crate::shared().await;
        let file = cluster.dir().join("clock");
        let path = file.to_string_lossy().into_owned();
        let product = product::install_with(cluster, &["--clock-file", &path]).await?;
        anyhow::Ok(ClockLab { cluster, product, file, turn: Mutex::new(()) })
    });
    match started.await {
        Ok(lab) => Clock { lab, _turn: lab.turn.lock().await },
        Err(error) => panic!("no product: {error:#}"),
    }
}

impl Clock {
    /// Sets it to an instant, for instance `2027-03-02T02:30+01:00`.
    pub fn set(&self, to: &str) -> Result<Timestamp> {
        let at: Timestamp = to.parse().with_context(|| format!("`{to}` is no instant"))?;
        // Renamed, so that nobody reads half of it.
        let new = self.lab.file.with_extension("new");
        std::fs::write(&new, at.to_string())?;
        std::fs::rename(&new, &self.lab.file)?;
        Ok(at)
    }

    /// The product and its cluster.
    pub fn lab(&self) -> &'static ClockLab {
        self.lab
    }

    /// A governed namespace whose policy asks for this many approvals.
    pub async fn shop(&self, approvals: i32) -> Result<Shop> {
        Shop::open(self.lab.cluster, approvals).await
    }
}
