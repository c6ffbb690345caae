//! Verbs that look at governance: what holds an upgrade, and whether anything gets around it.

use super::OutputArgs;
use clap::{Args, ValueEnum};

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Is everything as it was installed, and who could get around it?
  kubectl upgrade doctor

  # In a pipeline: warnings fail it, too; one is known and accepted
  kubectl upgrade doctor --fail-on=warning --ignore=administrators -o json

Exit codes: 0 everything was looked at and is fine, 1 something is wrong, 4 nothing is wrong, but not
everything could be looked at.")]
pub struct DoctorArgs {
    /// What makes the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Error, value_name = "LEVEL")]
    pub fail_on: FailOn,
    /// Leave this check out; may be repeated
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub ignore: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which findings make a run fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Errors only
    Error,
    /// Warnings, too
    Warning,
}

/// `explain`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Why does it not go on, and when will it?
  kubectl upgrade explain web-v2

  # The same by the clock of another place
  kubectl upgrade explain web-v2 --timezone Asia/Tokyo

Exit codes: 0 nothing holds it, 4 something does.")]
pub struct ExplainArgs {
    /// Name of the Upgrade
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Time zone to show times in, for instance Europe/Rome [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `windows`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Every window: its state now, and when that changes
  kubectl upgrade windows

  # When may the workloads of this namespace be upgraded next?
  kubectl upgrade windows next -n shop

  # May this one be, at that time?
  kubectl upgrade windows test --at 2026-12-24T03:00 --timezone Europe/Rome --workload deploy/web

Exit codes: 0 done, or open; 4 `test` found it shut.")]
pub struct WindowsArgs {
    /// What to show
    #[arg(value_enum, default_value_t = WindowsWhat::List, value_name = "list|next|test")]
    pub what: WindowsWhat,
    /// For `test`: a time as 2026-12-24T03:00, by the clock of --timezone unless it has an offset [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// For `next` and `test`: this workload only
    #[arg(long, value_name = "TYPE/NAME")]
    pub workload: Option<String>,
    /// For `next` and `test`: how large the change would be [default: unknown, which counts as major]
    #[arg(long, value_enum, value_name = "SIZE")]
    pub change: Option<ChangeSize>,
    /// For `next` and `test`: how it would be rolled out [default: rolling]
    #[arg(long, value_enum, value_name = "STRATEGY")]
    pub strategy: Option<super::StrategyName>,
    /// Time zone to read and show times in, for instance Europe/Rome [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `windows` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WindowsWhat {
    /// Every window
    List,
    /// When workloads may be upgraded next
    Next,
    /// Whether they may be at a time
    Test,
}

/// How large a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChangeSize {
    /// The first number differs
    Major,
    /// The second number differs
    Minor,
    /// Anything after it differs
    Patch,
}

/// `matrix`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Every matrix
  kubectl upgrade matrix

  # Do these versions go together?
  kubectl upgrade matrix test istio --set istiod=1.30.1 --set kubernetes=1.34.2

  # Would this version go with what runs?
  kubectl upgrade matrix test istio --live --set istiod=1.30.1

Exit codes: 0 done, or Supported or Tested throughout; 4 `test` found anything else.")]
pub struct MatrixArgs {
    /// What to show
    #[arg(value_enum, default_value_t = MatrixWhat::List, value_name = "list|test")]
    pub what: MatrixWhat,
    /// For `test`: name of the CompatibilityMatrix
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// A component's version; empty where the component is not there; may be repeated
    #[arg(long = "set", value_name = "COMPONENT=VERSION")]
    pub set: Vec<String>,
    /// Read the versions that are not given from the cluster
    #[arg(long)]
    pub live: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `matrix` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MatrixWhat {
    /// Every matrix
    List,
    /// What one says of versions
    Test,
}
