//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// `N` different ports that were free a moment ago. Another process can take one before its new
/// owner binds it; whoever starts that owner has to be ready to try again.
pub(crate) fn free<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
        *port = listener.local_addr().context("a bound socket has no address")?.port();
        // Held until all are chosen, so that none is handed out twice.
        held.push(listener);
    }
    Ok(ports)
}
