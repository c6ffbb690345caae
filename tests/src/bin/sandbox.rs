//! `cargo sandbox`: a real control plane on this machine, up in seconds.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use upgrade_sandbox::build::GoMissing;
use upgrade_sandbox::guard;
use upgrade_sandbox::image::Recipe;
use upgrade_sandbox::state::{Named, Record};
use upgrade_sandbox::{ControlPlane, Options, Progress, demo, node, product, proxy};

/// A real Kubernetes control plane on this machine: no Docker, no root.
///
/// etcd, kube-apiserver, kube-controller-manager and kube-scheduler from source, and fake nodes.
#[derive(Parser)]
#[command(name = "sandbox", bin_name = "cargo sandbox", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such sandbox runs, 4 Go is missing or too old.

  eval \"$(cargo sandbox up)\"   starts a sandbox and points kubectl at it";

const FAILED: u8 = 1;
const NOT_RUNNING: u8 = 3;
const NO_GO: u8 = 4;

#[derive(Args)]
struct Which {
    /// Which sandbox, where there are several
    #[arg(long, default_value = "default", global = true)]
    name: String,
}

#[derive(Subcommand)]
enum Cmd {
    /// Start a sandbox, unless it runs already, and print the line that points kubectl at it
    Up {
        #[command(flatten)]
        which: Which,
        /// Fake nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=500))]
        nodes: u16,
        /// A real node instead of fake ones: containerd and kubelet, which need root
        #[arg(long, conflicts_with = "nodes")]
        node: bool,
        /// Stay until Ctrl-C, and take the sandbox down then
        #[arg(long)]
        foreground: bool,
        /// The control plane alone, without the product in it
        #[arg(long)]
        bare: bool,
    },
    /// Stop a sandbox and remove everything it had
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// What runs, and where
    Status {
        #[command(flatten)]
        which: Which,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Run kubectl against a sandbox
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// Arguments for kubectl
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// The main job on a control plane of its own, narrated
    Demo,
    /// Write a container image of the webhook and controller, as an OCI archive
    Image {
        /// The archive; `ctr images import`, `skopeo copy oci-archive:FILE` and others take it
        #[arg(short, long, value_name = "FILE")]
        output: std::path::PathBuf,
        /// Which build: `release` is linked statically, `dev` takes the libraries it needs along
        #[arg(long, value_enum, default_value_t = Profile::Release)]
        profile: Profile,
        /// The name under which it will be run
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// The process that owns a sandbox's processes
    #[command(hide = true)]
    Guard,
    /// The first process of a real node
    #[command(hide = true)]
    Reap,
    /// Pass TCP connections on
    #[command(hide = true)]
    Forward { listen: std::net::SocketAddr, to: std::net::SocketAddr },
    /// Become a program that dies with the guardian
    #[command(hide = true)]
    GuardExec {
        parent: u32,
        #[arg(last = true)]
        argv: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Dev,
    Release,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Cmd::Up { which, nodes, node, foreground, bare } => {
            up(&which.name, if node { None } else { Some(nodes) }, foreground, bare)
        }
        Cmd::Down { which } => down(&which.name),
        Cmd::Status { which, output } => status(&which.name, output),
        Cmd::Kubectl { which, arguments } => kubectl(&which.name, &arguments),
        Cmd::Demo => runtime().map(|runtime| runtime.block_on(demo::main())),
        Cmd::Image { output, profile, name } => image(&output, profile, name),
        Cmd::Reap => node::reap(),
        Cmd::Forward { listen, to } => runtime().and_then(|runtime| {
            runtime.block_on(proxy::forward(listen, to)).map(|()| ExitCode::SUCCESS)
        }),
        Cmd::Guard => guard::serve().map(|()| ExitCode::SUCCESS),
        Cmd::GuardExec { parent, argv } => {
            guard::exec_bound(parent, &argv).map(|()| ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let code = if error.is::<GoMissing>() { NO_GO } else { FAILED };
        ExitCode::from(code)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("no runtime")
}

/// Without fake nodes there is a real one.
fn up(name: &str, nodes: Option<u16>, foreground: bool, bare: bool) -> Result<ExitCode> {
    let named = Named::new(name)?;
    let lock = named.lock()?;
    if let Some((record, _)) = named.running()? {
        eprintln!("sandbox {name} runs already at {}", record.url);
        print_export(&record);
        return Ok(ExitCode::SUCCESS);
    }
    runtime()?.block_on(async {
        let started = std::time::Instant::now();
        let (nodes, node) = (nodes.unwrap_or(0), nodes.is_none());
        let options = Options { nodes, node, progress: Progress::stderr(), ..Options::default() };
        let cluster = ControlPlane::start(options).await?;
        if !bare {
            product::install(&cluster).await?;
        }
        let record = named.record(&cluster)?;
        eprintln!(
            "sandbox {name} is up at {} after {:.1} s",
            record.url,
            started.elapsed().as_secs_f32()
        );
        if !foreground {
            cluster.detach().await?;
            eprintln!("stop it with: cargo sandbox down{}", name_flag(name));
            print_export(&record);
            return Ok(ExitCode::SUCCESS);
        }
        print_export(&record);
        drop(lock);
        tokio::select! {
            signal = tokio::signal::ctrl_c() => signal.context("cannot wait for Ctrl-C")?,
            () = cluster.gone() => {}
        }
        drop(cluster);
        named.stop()?;
        eprintln!("sandbox {name} is down");
        Ok(ExitCode::SUCCESS)
    })
}

fn image(output: &std::path::Path, profile: Profile, name: Option<String>) -> Result<ExitCode> {
    let program = match profile {
        Profile::Dev => runtime()?.block_on(product::build())?.webhook,
        Profile::Release => product::build_static()?,
    };
    let mut recipe = Recipe::webhook(&program);
    recipe.reference = name.unwrap_or(recipe.reference);
    let image = recipe.write(output)?;
    eprintln!("{} is {}", image.file.display(), image.reference);
    println!("{}", image.digest);
    Ok(ExitCode::SUCCESS)
}

fn down(name: &str) -> Result<ExitCode> {
    if Named::new(name)?.stop()? {
        eprintln!("sandbox {name} is down");
    } else {
        eprintln!("no sandbox {name} runs");
    }
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str, format: Format) -> Result<ExitCode> {
    let running = Named::new(name)?.running()?;
    match (format, &running) {
        (Format::Json, None) => {
            println!("{}", serde_json::json!({"name": name, "running": false}));
        }
        (Format::Json, Some((record, status))) => {
            let all = serde_json::json!({
                "name": name, "running": true, "url": record.url, "kubeconfig": record.kubeconfig,
                "ports": record.ports, "scratch": record.scratch, "guardian": status,
            });
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        (Format::Text, None) => not_running(name),
        (Format::Text, Some((record, status))) => {
            println!("sandbox     {name}, up for {} s", status.uptime_seconds);
            println!("API server  {}", record.url);
            println!("kubeconfig  {}", record.kubeconfig.display());
            println!("logs        {}", record.scratch.join("logs").display());
            println!("{:<26}{:>9}", "process", "pid");
            println!("{:<26}{:>9}", "guardian", status.pid);
            for process in &status.processes {
                println!("{:<26}{:>9}", process.name, process.pid);
            }
        }
    }
    Ok(if running.is_some() { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) })
}

fn kubectl(name: &str, arguments: &[String]) -> Result<ExitCode> {
    let Some((record, _)) = Named::new(name)?.running()? else {
        not_running(name);
        return Ok(ExitCode::from(NOT_RUNNING));
    };
    let error =
        Command::new(&record.kubectl).args(arguments).env("KUBECONFIG", &record.kubeconfig).exec();
    Err(error).context("cannot run kubectl")
}

fn not_running(name: &str) {
    eprintln!("no sandbox {name} runs\nhint: cargo sandbox up{}", name_flag(name));
}

fn name_flag(name: &str) -> String {
    if name == "default" { String::new() } else { format!(" --name {name}") }
}

/// In single quotes, so that the line is right whatever the path has in it.
fn print_export(record: &Record) {
    let path = record.kubeconfig.display().to_string().replace('\'', r"'\''");
    println!("export KUBECONFIG='{path}'");
}
