//! A real Kubernetes control plane on loopback, for people and for tests: etcd, kube-apiserver,
//! kube-controller-manager and kube-scheduler from their own sources, and kwok for the nodes. No
//! Docker, no root. Where there is root, a real node can be had, too ([`Options::node`]).
//!
//! ```no_run
//! # async fn demo() -> anyhow::Result<()> {
//! let cluster = upgrade_sandbox::shared().await;
//! let namespace = cluster.namespace("demo").await?;
//! let client = cluster.client().await?;
//! # Ok(()) }
//! ```
//!
//! How a pod behaves is decided by the image strings of its containers: `never-ready`,
//! `ready-after-5s`, `crash-loop`, `crash-after-5s`, `image-pull`, `slow-stop-5s`; see
//! `controlplane/stages/pod.yaml`.

pub mod answers;
pub mod audit;
pub mod boot;
pub mod build;
pub mod cache;
pub mod clock;
pub mod cluster;
mod components;
pub mod demo;
pub mod guard;
pub mod image;
pub mod kinds;
pub mod logs;
pub mod minimum;
pub mod node;
mod nodes;
pub mod pki;
mod ports;
pub mod product;
pub mod progress;
pub mod proxy;
pub mod routers;
pub mod scenario;
pub mod state;
pub mod wait;

pub use audit::{AuditEvent, WriteCounter};
pub use boot::Options;
pub use cluster::{ControlPlane, shared};
pub use guard::{Exit, Process};
pub use minimum::{MinimumWatch, Observed, Sample};
pub use node::Node;
pub use progress::Progress;
pub use wait::{eventually, wait_for};
