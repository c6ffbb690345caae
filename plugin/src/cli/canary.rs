//! Flags for how a canary goes, besides its steps.

use clap::Args;

/// Nodes, analysis, and the way back.
#[derive(Clone, Debug, Default, Args)]
pub struct CanaryArgs {
    /// Labels of the nodes that a DaemonSet's canary takes first, for instance pool=canary
    #[arg(long, value_name = "K=V,...", help_heading = "How a canary goes")]
    pub canary_nodes: Option<String>,
    /// Measure beside the steps what this AnalysisTemplate says, with values for its arguments
    #[arg(long, value_name = "TEMPLATE[,ARG=VALUE...]", help_heading = "How a canary goes")]
    pub analysis: Option<String>,
    /// Back to one of so many last revisions it goes without pauses and analyses
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(i32).range(1..=100),
        help_heading = "How a canary goes"
    )]
    pub rollback_window: Option<i32>,
}
