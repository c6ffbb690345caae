//! Flags for what an Upgrade does besides changing images.

use clap::Args;

/// A Job before, and health checks.
#[derive(Clone, Debug, Default, Args)]
pub struct BesideArgs {
    /// Run this image to its end before anything changes; its command comes after `--`
    #[arg(long, value_name = "IMAGE", help_heading = "What runs beside it")]
    pub migrate_image: Option<String>,
    /// Service account that the migration runs as [default: default]
    #[arg(
        long,
        value_name = "NAME",
        requires = "migrate_image",
        help_heading = "What runs beside it"
    )]
    pub migrate_service_account: Option<String>,
    /// Ask every new pod at this port after each step, by HTTP
    #[arg(
        long,
        value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "What runs beside it"
    )]
    pub health_port: Option<u16>,
    /// Path that the new pods are asked for [default: /]
    #[arg(
        long,
        value_name = "PATH",
        requires = "health_port",
        help_heading = "What runs beside it"
    )]
    pub health_path: Option<String>,
    /// Command of the migration, in place of the image's
    #[arg(
        last = true,
        value_name = "COMMAND",
        requires = "migrate_image",
        help_heading = "What runs beside it"
    )]
    pub migrate_command: Vec<String>,
}
