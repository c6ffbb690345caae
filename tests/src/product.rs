//! HOOK: what `sandbox up` installs into a fresh control plane.

use anyhow::Result;

use crate::ControlPlane;

/// Installs the product: CRDs, webhook and controller. Empty for now.
#[expect(
    clippy::unused_async,
    reason = "a hook that will wait for what it installs"
)]
pub async fn install(_cluster: &ControlPlane) -> Result<()> {
    Ok(())
}
