//! The command line as clap types, and nothing else. `lower` turns them into something checked.

mod beside;
mod blue_green;
mod break_glass;
mod canary;
mod common;
mod governance;

pub use beside::BesideArgs;
pub use blue_green::BlueGreenArgs;
pub use break_glass::BreakGlassArgs;
pub use canary::CanaryArgs;
pub use common::{Color, Connection, DryRun, Format, OutputArgs};
pub use governance::{
    ChangeSize, DoctorArgs, ExplainArgs, FailOn, MatrixArgs, MatrixWhat, WindowsArgs, WindowsWhat,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Plan, start and steer governed, progressive upgrades of the workloads you have.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-upgrade",
    bin_name = "kubectl upgrade",
    version,
    args_override_self = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    infer_long_args = false,
    max_term_width = 100,
    after_help = "Examples:
  # See what would happen, then ask for it
  kubectl upgrade plan deploy/web --to v2
  kubectl upgrade start deploy/web --to v2 --strategy canary --steps 10,pause,50,pause:5m,100

  # Say yes, as somebody else than the requester; watch it; go on past a pause
  kubectl upgrade approve web-v2
  kubectl upgrade status web-v2 -w
  kubectl upgrade promote web-v2

Exit codes: 0 done, 1 failed or rolled back, 2 bad usage, 4 blocked (approval missing or denied),
124 --timeout expired, 130 interrupted (the upgrade goes on)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to reach the cluster.
    #[command(flatten)]
    pub connection: Connection,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", help_heading = "Global options")]
    pub color: Color,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what an upgrade would do, and change nothing
    Plan(PlanArgs),
    /// Create an Upgrade
    Start(StartArgs),
    /// Say yes to exactly the plan that is shown
    Approve(ApproveArgs),
    /// Say no to an Upgrade; it ends
    Reject(RejectArgs),
    /// Stop an Upgrade where it stands; what runs goes on serving
    Pause(NameArgs),
    /// Let a paused Upgrade go on
    Resume(NameArgs),
    /// Go on past the pause that an Upgrade rests at
    Promote(PromoteArgs),
    /// Take an Upgrade back to where it started
    Abort(NameArgs),
    /// Start an Upgrade over that failed or was taken back
    Retry(NameArgs),
    /// Take Upgrades back, and wait until nothing of ours is left on what they touched
    Release(ReleaseArgs),
    /// Change images without an Upgrade, in an emergency: time-limited, reasoned and recorded
    BreakGlass(BreakGlassArgs),
    /// Show where an Upgrade is, why it waits, and the next command
    Status(StatusArgs),
    /// Say why an Upgrade does not go on, when it can, and what helps
    Explain(ExplainArgs),
    /// Show maintenance windows and freezes, and when changes may be made
    Windows(WindowsArgs),
    /// Show compatibility matrices, and what they say of versions
    Matrix(MatrixArgs),
    /// List Upgrades
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what happened to an Upgrade, or every Upgrade of a workload
    History(HistoryArgs),
    /// Install or update the part that runs in the cluster
    Install(InstallArgs),
    /// Remove the part that runs in the cluster
    Uninstall(UninstallArgs),
    /// Check the installation, and list who could get around it
    Doctor(DoctorArgs),
    /// Print a completion script
    Completion(CompletionArgs),
    /// Print the versions of the plugin and of what is in the cluster
    Version(VersionArgs),
}

/// What is to change.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What changes")]
pub struct ChangeArgs {
    /// Workloads, as deploy/NAME
    #[arg(value_name = "TYPE/NAME")]
    pub workloads: Vec<String>,
    /// New image of a container; may be repeated
    #[arg(long = "image", value_name = "CONTAINER=IMAGE")]
    pub images: Vec<String>,
    /// New tag of the workloads' images
    #[arg(long, value_name = "TAG", conflicts_with = "images")]
    pub to: Option<String>,
    /// Target manifests: a file, a directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with_all = ["workloads", "images", "to"])]
    pub filenames: Vec<String>,
    /// Descend into directories given with -f
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Take only the images from the manifests, though they change more
    #[arg(long)]
    pub images_only: bool,
}

/// How it is to change.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "How it changes")]
pub struct StrategyArgs {
    /// How each workload gets there [default: rolling; canary with --steps; blueGreen with --active-service]
    #[arg(long, value_enum, value_name = "STRATEGY")]
    pub strategy: Option<StrategyName>,
    /// Steps of a canary: weights in percent, `replicas:3`, `pause`, `pause:5m`, `pause:approval`, `analysis:TEMPLATE` [default: 10,pause,50,pause,100]
    #[arg(long, value_name = "STEPS")]
    pub steps: Option<String>,
    /// The canary is a Deployment of its own, NAME-canary, beside a workload that is not touched before the last weight; weights may go down. With =KEY=VALUE,... its pods get these labels
    #[arg(long, value_name = "LABELS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub separate: Option<String>,
    /// How a canary goes.
    #[command(flatten)]
    pub canary: CanaryArgs,
    /// How a Service is switched.
    #[command(flatten)]
    pub blue_green: BlueGreenArgs,
    /// Name of the Upgrade [default: from the workload and the version]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Take it back when it has not ended after this long, pauses left out
    #[arg(long, value_name = "DURATION")]
    pub on_timeout: Option<String>,
    /// Do not start before this time, for instance 2026-12-24T03:00 by the local clock, or with Z
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<String>,
    /// What becomes of it when its maintenance window shuts under way [default: finish-step]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub window_overrun: Option<Overrun>,
    /// What becomes of it where another Upgrade has one of its workloads [default: reject]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHAT")]
    pub on_conflict: Option<Conflict>,
    /// Stand still instead of going back when new pods fail
    #[arg(long)]
    pub no_auto_rollback: bool,
    /// What runs before it, and what the new pods are asked.
    #[command(flatten)]
    pub beside: BesideArgs,
}

/// Strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// The workload's own rolling update, watched
    Rolling,
    /// Weight by weight, in place, with pauses
    Canary,
    /// All new pods beside the old ones, then a Service is switched to them
    #[value(name = "blueGreen", alias = "blue-green", alias = "bluegreen")]
    BlueGreen,
}

/// What becomes of an upgrade of a workload that another one has
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Conflict {
    /// It is refused
    Reject,
    /// It waits for the end of the others, and starts from what they leave behind
    Queue,
    /// It aborts the others, and starts from what they started from
    Supersede,
}

/// What becomes of an upgrade whose window shuts
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Overrun {
    /// The step under way is finished, the next one waits
    FinishStep,
    /// Everything stands still until the window opens
    Pause,
    /// It is taken back
    Rollback,
}

/// `plan`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # One container of one Deployment
  kubectl upgrade plan deploy/web --image web=repo/web:v2

  # Several Deployments to one tag
  kubectl upgrade plan deploy/web deploy/api --to v2

  # Whatever differs between the cluster and the manifests of the next release
  kubectl upgrade plan -f release.yaml")]
pub struct PlanArgs {
    /// What is to change.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// How it is to change.
    #[command(flatten)]
    pub strategy: StrategyArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `start`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # A canary: one tenth, until somebody promotes; half, for five minutes; all
  kubectl upgrade start deploy/web --image web=repo/web:v2 --steps 10,pause,50,pause:5m,100

  # Whatever differs between the cluster and the manifests of the next release
  kubectl upgrade start -f release/ -R --reason 'release 42'

  # A migration first; then the new pods are asked after each step
  kubectl upgrade start deploy/web --to v2 --health-port 8080 --health-path /healthz \\
    --migrate-image repo/web-migrations:v2 -- migrate up

  # In a pipeline: wait for the end, at most an hour
  kubectl upgrade start deploy/web --to v2 --wait --timeout 1h")]
pub struct StartArgs {
    /// What is to change.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// How it is to change.
    #[command(flatten)]
    pub strategy: StrategyArgs,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Print what would be created, without (client) or with (server) asking the server to check it
    #[arg(long, value_enum, default_value_t = DryRun::None, default_missing_value = "client", num_args = 0..=1, require_equals = true, value_name = "WHERE")]
    pub dry_run: DryRun,
    /// Wait until the Upgrade has ended
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, for instance 10m; 0 is no limit
    #[arg(long, value_name = "DURATION", default_value = "0", requires = "wait")]
    pub timeout: String,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Verbs that need a name only.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name of the Upgrade
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print what would change, without (client) or with (server) asking the server to check it
    #[arg(long, value_enum, default_value_t = DryRun::None, default_missing_value = "client", num_args = 0..=1, require_equals = true, value_name = "WHERE")]
    pub dry_run: DryRun,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `release`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl upgrade release web-v2
  kubectl upgrade release --all -A && kubectl upgrade uninstall")]
pub struct ReleaseArgs {
    /// Names of Upgrades
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
    /// Every Upgrade that is not over
    #[arg(long)]
    pub all: bool,
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How long to wait for all of them, for instance 10m; 0 is no limit
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub timeout: String,
    /// Print what would be taken back, without (client) or with (server) asking the server to check it
    #[arg(long, value_enum, default_value_t = DryRun::None, default_missing_value = "client", num_args = 0..=1, require_equals = true, value_name = "WHERE")]
    pub dry_run: DryRun,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `promote`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Past the pause that it rests at
  kubectl upgrade promote web-v2

  # Straight to step 4; pauses, analyses and weights before it are left out, approvals are not
  kubectl upgrade promote web-v2 --to-step 4")]
pub struct PromoteArgs {
    /// Name and output.
    #[command(flatten)]
    pub base: NameArgs,
    /// Go on past every pause to the end of the stage
    #[arg(long, conflicts_with = "to_step")]
    pub full: bool,
    /// Go on to this later step of the stage, counted from 0, and leave out what lies between
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub to_step: Option<i32>,
}

/// `approve`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Read the plan, then answer the question
  kubectl upgrade approve web-v2

  # One stage, where the policy asks for approvals by stage
  kubectl upgrade approve web-v2 --stage canary

  # Where there is no terminal
  kubectl upgrade approve web-v2 --yes --reason 'CAB 1234'")]
pub struct ApproveArgs {
    /// Name and output.
    #[command(flatten)]
    pub base: NameArgs,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Approve this stage and no other, where the policy asks for approvals by stage or step
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Approve this one step of the stage, counted from 0, where the policy asks for it
    #[arg(long, value_name = "N", requires = "stage", value_parser = clap::value_parser!(i32).range(0..))]
    pub step: Option<i32>,
    /// The plan that was looked at; refused if the Upgrade's is another
    #[arg(long, value_name = "HASH")]
    pub plan_hash: Option<String>,
}

/// `reject`
#[derive(Debug, Args)]
pub struct RejectArgs {
    /// Name and output.
    #[command(flatten)]
    pub base: NameArgs,
    /// Why, for the record and for the requester
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `status`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # Whatever is under way in the namespace
  kubectl upgrade status

  # Follow one; piped, this prints one line a change
  kubectl upgrade status web-v2 -w

  # In a pipeline
  kubectl upgrade status web-v2 --wait --timeout 30m
  kubectl upgrade status web-v2 --for=Paused --timeout 10m")]
pub struct StatusArgs {
    /// Name of the Upgrade [default: those under way]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Follow it until it has ended
    #[arg(short, long)]
    pub watch: bool,
    /// Wait until it has ended; the exit code says how
    #[arg(long)]
    pub wait: bool,
    /// Wait until it is in this phase
    #[arg(long = "for", value_name = "PHASE")]
    pub phase: Option<String>,
    /// How long to wait or follow, for instance 10m; 0 is no limit
    #[arg(long, value_name = "DURATION", default_value = "0")]
    pub timeout: String,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Label selector
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// An Upgrade, or a workload as deploy/NAME [default: every Upgrade of the namespace]
    #[arg(value_name = "NAME|TYPE/NAME")]
    pub subject: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `install`
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Print what would be applied, without (client) or with (server) asking the server to check it
    #[arg(long, value_enum, default_value_t = DryRun::None, default_missing_value = "client", num_args = 0..=1, require_equals = true, value_name = "WHERE")]
    pub dry_run: DryRun,
    /// The webhook runs outside the cluster, at this https address
    #[arg(long, value_name = "URL")]
    pub webhook_url: Option<String>,
    /// How long to wait for the CRDs to be served, for instance 1m
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub timeout: String,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `uninstall`
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Print what would be removed, without (client) or with (server) asking the server to check it
    #[arg(long, value_enum, default_value_t = DryRun::None, default_missing_value = "client", num_args = 0..=1, require_equals = true, value_name = "WHERE")]
    pub dry_run: DryRun,
    /// Remove the CRDs too, and with them every Upgrade, approval, policy and ledger
    #[arg(long)]
    pub crds: bool,
    /// Go on though Upgrades are in flight; their workloads stay as they stand
    #[arg(long)]
    pub force: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `completion`
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `version`
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// The plugin's version only; asks no server
    #[arg(long)]
    pub client: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}
