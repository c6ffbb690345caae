//! Flags of the strategy blueGreen.

use clap::Args;

/// How a Service is switched.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Blue-green")]
pub struct BlueGreenArgs {
    /// The Service whose clients are switched from the old pods to the new; implies blueGreen
    #[arg(long, value_name = "NAME")]
    pub active_service: Option<String>,
    /// A Service that selects the new pods before the switch [default: one is made, named after the active one]
    #[arg(long, value_name = "NAME")]
    pub preview_service: Option<String>,
    /// Switch by itself once every new pod is available [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub auto_promotion: Option<bool>,
    /// How long the preview stands before it is switched to by itself, for instance 5m
    #[arg(long, value_name = "DURATION")]
    pub auto_promotion_delay: Option<String>,
    /// How long the old pods stay after the switch, so that an abort is instant [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub scale_down_delay: Option<String>,
    /// New pods until it is promoted, where fewer than all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub preview_replicas: Option<i32>,
    /// An HTTPRoute that is switched in place of the active Service, to which it sends
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
}
