//! The axes of the matrix: the strategies with their steps, and what happens there.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use upgrade_sandbox::kinds::{DAEMON, STATEFUL};
use upgrade_sandbox::scenario::{PATIENCE, canary};

use crate::routed;

/// Pods of each workload.
pub const N: i32 = 4;

/// A way from old to new, and the steps at which it can be met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// The Deployment's own rolling update, met while it moves.
    Rolling,
    /// Weight by weight in place.
    Canary,
    /// Weight by weight where no pod may be made on top.
    NoSurge,
    /// One gated write.
    Recreate,
    /// New pods beside the old ones, and a Service that is switched.
    BlueGreen,
    /// Weight by weight through an HTTPRoute, all stable pods beside.
    Routed,
    /// New pods beside the old ones, and an HTTPRoute that is switched.
    Switched,
    /// A canary that is a Deployment of its own, with weights that go down before the last.
    Separate,
    /// A StatefulSet, by partition.
    StatefulSet,
    /// A DaemonSet, node by node.
    DaemonSet,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Incident {
    Abort,
    ScaleUp,
    ScaleDown,
    Undo,
    Restart,
    SetImage,
    Reapply,
    DeleteUpgrade,
    DeletePod,
    Quota,
    Killed,
}

pub const INCIDENTS: [Incident; 11] = [
    Incident::Abort,
    Incident::ScaleUp,
    Incident::ScaleDown,
    Incident::Undo,
    Incident::Restart,
    Incident::SetImage,
    Incident::Reapply,
    Incident::DeleteUpgrade,
    Incident::DeletePod,
    Incident::Quota,
    Incident::Killed,
];

impl Incident {
    /// How long the way to the next rest or the end may take. After each pod that a quota refused the
    /// native controller waits twice as long before it tries again: a minute of refusals is followed
    /// by more than a minute of waiting.
    pub fn patience(self) -> Duration {
        if self == Self::Quota { 6 * PATIENCE } else { 2 * PATIENCE }
    }
}

impl Strategy {
    pub const ALL: [Self; 10] = [
        Self::Rolling,
        Self::Canary,
        Self::NoSurge,
        Self::Recreate,
        Self::BlueGreen,
        Self::Routed,
        Self::Switched,
        Self::Separate,
        Self::StatefulSet,
        Self::DaemonSet,
    ];

    /// A router carries it.
    pub fn is_routed(self) -> bool {
        matches!(self, Self::Routed | Self::Switched)
    }

    pub fn kind(self) -> &'static str {
        match self {
            Self::StatefulSet => STATEFUL,
            Self::DaemonSet => DAEMON,
            _ => "Deployment",
        }
    }

    /// What can happen to it.
    pub fn meets(self, incident: Incident) -> bool {
        // A DaemonSet is scaled by its nodes; that one leaves is a lost pod.
        (self, incident) != (Self::DaemonSet, Incident::ScaleDown)
    }

    /// Indices of the steps at which it rests; none is a place on the way.
    pub fn steps(self) -> &'static [Option<i32>] {
        match self {
            Self::Rolling => &[None],
            Self::Recreate => &[Some(1)],
            Self::BlueGreen | Self::Switched => &[None, Some(0)],
            _ => &[None, Some(1), Some(3)],
        }
    }

    pub fn spec(self) -> Value {
        match self {
            Self::Rolling => json!({"rolling": {}}),
            Self::BlueGreen => json!({"blueGreen": {"activeService": "web",
                "autoPromotionEnabled": false, "scaleDownDelaySeconds": 0}}),
            Self::Switched => json!({"blueGreen": {"activeService": "web",
                "autoPromotionEnabled": false, "scaleDownDelaySeconds": 0,
                "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}, "graceSeconds": 1}}}),
            Self::Routed => routed::routed(&["25", "", "50", "", "100"], &routed::by_route()),
            Self::Separate => {
                let mut strategy = canary(&["50", "", "25", "", "100"]);
                strategy["canary"]["separate"] = json!({});
                strategy
            }
            _ => canary(&["25", "", "50", "", "100"]),
        }
    }

    /// What the workload's owner wrote.
    pub fn knobs(self) -> Value {
        match self {
            Self::StatefulSet => json!({"podManagementPolicy": "Parallel"}),
            Self::DaemonSet => json!({}),
            Self::NoSurge => json!({"progressDeadlineSeconds": 20,
                "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
            Self::Recreate => json!({"progressDeadlineSeconds": 20,
                "strategy": {"type": "Recreate", "rollingUpdate": null}}),
            _ => json!({"progressDeadlineSeconds": 20}),
        }
    }

    /// Ready pods that are promised of so many at every instant.
    pub fn promised(self, n: i32) -> i32 {
        match self {
            Self::Canary | Self::BlueGreen | Self::Routed | Self::Switched => n,
            Self::Recreate => 0,
            // 25 % of 4 unavailable is what its owner allows.
            _ => n - 1,
        }
    }
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub strategy: Strategy,
    pub step: Option<i32>,
    pub incident: Incident,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step.map_or_else(|| "moving".to_owned(), |s| format!("step {s}"));
        write!(f, "{:?} × {step} × {:?}", self.strategy, self.incident)
    }
}
