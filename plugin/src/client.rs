//! How the cluster is reached: flags over `KUBECONFIG` over the default file over the pod's own
//! service account.

use crate::cli::Connection;
use crate::lower::duration;
use crate::output::Refusal;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster,
    NamedContext,
};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Session {
    /// For requests that end.
    pub client: Client,
    /// For watches: without a limit on how long nothing comes.
    pub watcher: Client,
    /// Where things are looked for.
    pub namespace: String,
    /// Whether somebody said so with a flag.
    pub namespace_given: bool,
    /// Address of the API server.
    pub server: String,
    /// Where that address is from.
    pub source: String,
}

/// Where a configuration was found.
struct Found {
    config: Kubeconfig,
    source: String,
}

/// Finds the cluster; makes no request.
pub async fn connect(args: &Connection) -> anyhow::Result<Session> {
    let timeout = duration(&args.request_timeout, "--request-timeout")?.limit;
    let (mut config, source) = match find(args)? {
        Some(found) => from_file(args, found).await?,
        None => in_cluster(args)?,
    };
    // A plugin that retries for minutes looks hung; a person can press the key again.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10).min(timeout.unwrap_or(Duration::MAX)));
    config.read_timeout = timeout;
    if let Some(namespace) = &args.namespace {
        check_namespace(namespace)?;
        config.default_namespace.clone_from(namespace);
    }
    let mut quiet = config.clone();
    quiet.read_timeout = None;
    let (namespace, server) = (config.default_namespace.clone(), config.cluster_url.to_string());
    let build = |config: Config| {
        Client::try_from(config)
            .map_err(|e| Refusal::new("BadKubeconfig", format!("{source} cannot be used: {e}")))
    };
    Ok(Session {
        client: build(config)?,
        watcher: build(quiet)?,
        namespace,
        namespace_given: args.namespace.is_some(),
        server: server.trim_end_matches('/').to_owned(),
        source: source.clone(),
    })
}

fn check_namespace(name: &str) -> Result<(), Refusal> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(inner) {
        return Err(Refusal::usage(format!(
            "--namespace: `{name}` is not the name of a namespace"
        )));
    }
    Ok(())
}

/// Reads what the flags, the environment or the default location name.
fn find(args: &Connection) -> Result<Option<Found>, Refusal> {
    if let Some(path) = &args.kubeconfig {
        let config = read(path)?;
        return Ok(Some(Found { config, source: format!("kubeconfig {}", path.display()) }));
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
        let all: Vec<PathBuf> =
            std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
        return from_list(&all).map(Some);
    }
    let default = home().map(|h| h.join(".kube").join("config"));
    match default.filter(|p| p.exists()) {
        Some(path) => {
            let config = read(&path)?;
            Ok(Some(Found { config, source: format!("kubeconfig {}", path.display()) }))
        }
        // `--server` alone is enough to try.
        None if args.server.is_some() => {
            Ok(Some(Found { config: Kubeconfig::default(), source: "--server".to_owned() }))
        }
        None => Ok(None),
    }
}

fn home() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("HOME").or_else(|| set("USERPROFILE"))
}

/// Merges the files of `KUBECONFIG`; like kubectl, leaves out those that are not there.
fn from_list(all: &[PathBuf]) -> Result<Found, Refusal> {
    let shown = all.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    let present: Vec<&PathBuf> = all.iter().filter(|p| p.exists()).collect();
    if present.is_empty() {
        return Err(Refusal::new(
            "NoKubeconfig",
            format!("KUBECONFIG names no file that exists: {shown}"),
        )
        .hint("set KUBECONFIG to a kubeconfig file, or give --kubeconfig FILE"));
    }
    let mut config = Kubeconfig::default();
    for path in &present {
        config = config.merge(read(path)?).map_err(|e| {
            Refusal::new("BadKubeconfig", format!("KUBECONFIG ({shown}) cannot be merged: {e}"))
        })?;
    }
    Ok(Found { config, source: format!("KUBECONFIG {shown}") })
}

fn read(path: &Path) -> Result<Kubeconfig, Refusal> {
    // The library's message shows the path in quotes of its own and not the cause alone.
    if let Err(error) = std::fs::File::open(path) {
        return Err(Refusal::new(
            "NoKubeconfig",
            format!("kubeconfig {}: {error}", path.display()),
        )
        .hint("set KUBECONFIG to a kubeconfig file, or give --kubeconfig FILE"));
    }
    Kubeconfig::read_from(path).map_err(|e| {
        Refusal::new("BadKubeconfig", format!("kubeconfig {} cannot be read: {e}", path.display()))
    })
}

fn in_cluster(args: &Connection) -> Result<(Config, String), Refusal> {
    let mut config = Config::incluster().map_err(|_| {
        Refusal::new("NoKubeconfig", "no kubeconfig, and this is no pod of a cluster")
            .hint("set KUBECONFIG to a kubeconfig file, or give --kubeconfig FILE")
    })?;
    config.auth_info.impersonate.clone_from(&args.as_user);
    config.auth_info.impersonate_groups = groups(args);
    if let Some(token) = &args.token {
        config.auth_info.token = Some(token.clone().into());
    }
    Ok((config, "the pod's service account".to_owned()))
}

fn groups(args: &Connection) -> Option<Vec<String>> {
    (!args.as_group.is_empty()).then(|| args.as_group.clone())
}

/// Chooses context, cluster and user, and lays the flags over them.
async fn from_file(args: &Connection, found: Found) -> anyhow::Result<(Config, String)> {
    let Found { config, source } = found;
    let context = pick_context(args, &config, &source)?;
    let mut cluster = pick_cluster(args, &config, &context, &source)?;
    let mut user = pick_user(args, &config, &context, &source)?;
    lay_over(args, &mut cluster, &mut user);
    if cluster.server.as_deref().is_none_or(str::is_empty) {
        return Err(Refusal::new("BadKubeconfig", format!("{source} names no API server"))
            .hint("give --server URL, or --context NAME of another cluster")
            .into());
    }
    let named = |name: &str| name.to_owned();
    let one = Kubeconfig {
        clusters: vec![NamedCluster {
            name: named("c"),
            cluster: Some(cluster),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: named("u"),
            auth_info: Some(user),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: named("x"),
            context: Some(Context {
                cluster: named("c"),
                user: Some(named("u")),
                namespace: context.namespace.filter(|n| !n.is_empty()),
                ..Context::default()
            }),
            ..NamedContext::default()
        }],
        current_context: Some(named("x")),
        ..Kubeconfig::default()
    };
    let config = Config::from_custom_kubeconfig(one, &KubeConfigOptions::default())
        .await
        .map_err(|e| Refusal::new("BadKubeconfig", format!("{source} cannot be used: {e}")))?;
    Ok((config, source))
}

fn pick_context(args: &Connection, config: &Kubeconfig, source: &str) -> Result<Context, Refusal> {
    let name = args.context.as_ref().or(config.current_context.as_ref()).filter(|n| !n.is_empty());
    let Some(name) = name else {
        if args.cluster.is_some() || args.server.is_some() {
            return Ok(Context::default());
        }
        return Err(Refusal::new("BadKubeconfig", format!("{source} has no current context"))
            .hint("give --context NAME, or choose one: kubectl config use-context NAME"));
    };
    let found = config.contexts.iter().find(|c| &c.name == name).and_then(|c| c.context.clone());
    found.ok_or_else(|| {
        let names: Vec<&str> = config.contexts.iter().map(|c| c.name.as_str()).collect();
        let refusal = Refusal::new("BadKubeconfig", format!("{source} has no context `{name}`"));
        match names.as_slice() {
            [] => refusal,
            some => refusal.hint(format!("its contexts are {}", some.join(", "))),
        }
    })
}

fn pick_cluster(
    args: &Connection,
    config: &Kubeconfig,
    context: &Context,
    source: &str,
) -> Result<Cluster, Refusal> {
    let name = args.cluster.as_deref().unwrap_or(&context.cluster);
    if name.is_empty() {
        return Ok(Cluster::default());
    }
    let found = config.clusters.iter().find(|c| c.name == name).and_then(|c| c.cluster.clone());
    found.ok_or_else(|| Refusal::new("BadKubeconfig", format!("{source} has no cluster `{name}`")))
}

fn pick_user(
    args: &Connection,
    config: &Kubeconfig,
    context: &Context,
    source: &str,
) -> Result<AuthInfo, Refusal> {
    let name = args.user.as_deref().or(context.user.as_deref()).unwrap_or_default();
    let found = config.auth_infos.iter().find(|u| u.name == name).and_then(|u| u.auth_info.clone());
    match found {
        Some(user) => Ok(user),
        // A user that only a flag names must exist; one of the context may be missing, as for kubectl.
        None if args.user.is_some() => {
            Err(Refusal::new("BadKubeconfig", format!("{source} has no user `{name}`")))
        }
        None => Ok(AuthInfo::default()),
    }
}

fn lay_over(args: &Connection, cluster: &mut Cluster, user: &mut AuthInfo) {
    let text = |path: &PathBuf| path.display().to_string();
    if let Some(server) = &args.server {
        cluster.server = Some(server.clone());
    }
    if let Some(path) = &args.certificate_authority {
        cluster.certificate_authority = Some(text(path));
        cluster.certificate_authority_data = None;
    }
    if args.insecure_skip_tls_verify {
        cluster.insecure_skip_tls_verify = Some(true);
        cluster.certificate_authority = None;
        cluster.certificate_authority_data = None;
    }
    if let Some(name) = &args.tls_server_name {
        cluster.tls_server_name = Some(name.clone());
    }
    if let Some(path) = &args.client_certificate {
        user.client_certificate = Some(text(path));
        user.client_certificate_data = None;
    }
    if let Some(path) = &args.client_key {
        user.client_key = Some(text(path));
        user.client_key_data = None;
    }
    if let Some(token) = &args.token {
        // A token from a flag stands alone, as it does for kubectl.
        *user = AuthInfo { token: Some(token.clone().into()), ..AuthInfo::default() };
    }
    if args.as_user.is_some() {
        user.impersonate.clone_from(&args.as_user);
    }
    if let Some(groups) = groups(args) {
        user.impersonate_groups = Some(groups);
    }
}
