//! `break-glass`

use super::{DryRun, OutputArgs};
use clap::Args;

/// `break-glass`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # The webhook is down, or nobody can approve, and web must run v3 now
  kubectl upgrade break-glass deploy/web --image web=repo/web:v3 --reason 'checkout is down' --ticket INC-42

  # Which exceptions are open
  kubectl get breakglasses -A

It is loud: an object, Warning events, a metric, and its reason stay. It needs the verbs
`break-glass` and `use` on breakglasses.kubectl-upgrade.dev (ClusterRole kubectl-upgrade-breakglass).")]
pub struct BreakGlassArgs {
    /// The workload, as deploy/NAME, sts/NAME, ds/NAME or cronjob/NAME
    #[arg(value_name = "TYPE/NAME")]
    pub workload: String,
    /// New image of a container; may be repeated
    #[arg(long = "image", value_name = "CONTAINER=IMAGE", required = true)]
    pub images: Vec<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", required = true)]
    pub reason: String,
    /// Number of the incident, for the record
    #[arg(long, value_name = "TEXT")]
    pub ticket: Option<String>,
    /// How long the exception is open, at most 24h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub ttl: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Print what would be opened, without (client) or with (server) asking the server to check it
    #[arg(long, value_enum, default_value_t = DryRun::None, default_missing_value = "client", num_args = 0..=1, require_equals = true, value_name = "WHERE")]
    pub dry_run: DryRun,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}
