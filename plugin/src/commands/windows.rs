//! `windows`: maintenance windows and freezes, now and at other times.

use crate::cli::{ChangeSize, Format, StrategyName as Asked, WindowsArgs, WindowsWhat};
use crate::client::Session;
use crate::errors::explain;
use crate::gather::workloads;
use crate::lower;
use crate::objects::{documents, list};
use crate::output::table::Table;
use crate::output::{Exit, Printer, Refusal, when};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use upgrade_core::api::{
    Change, MaintenanceWindow, StrategyName, UpgradePolicy, WindowKind, WorkloadKind,
};
use upgrade_core::policy::Workload;
use upgrade_core::policy::snapshot::Snapshot;
use upgrade_core::windows::{State, Subject, Window, state};

/// What is asked, checked.
pub struct Question {
    what: WindowsWhat,
    at: Timestamp,
    zone: TimeZone,
    workload: Option<(WorkloadKind, String)>,
    change: Change,
    strategy: StrategyName,
}

/// A workload, and what windows say of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    workload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    open: bool,
    message: String,
    /// When it is the other way round; absent where that is not within a year.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Timestamp>,
}

/// Checks the flags.
pub fn lower(args: &WindowsArgs) -> Result<Question, Refusal> {
    let zone = lower::zone(args.timezone.as_deref())?;
    if args.at.is_some() && args.what != WindowsWhat::Test {
        return Err(Refusal::usage("--at belongs to `windows test`")
            .hint("kubectl upgrade windows test --at 2026-12-24T03:00"));
    }
    let of_workload = args.workload.is_some() || args.change.is_some() || args.strategy.is_some();
    if of_workload && args.what == WindowsWhat::List {
        return Err(Refusal::usage(
            "--workload, --change and --strategy belong to `windows next` and `windows test`",
        ));
    }
    let at = args.at.as_deref().map(|text| lower::instant(text, &zone, "--at")).transpose()?;
    Ok(Question {
        what: args.what,
        at: at.unwrap_or_else(Timestamp::now),
        zone,
        workload: args.workload.as_deref().map(workload).transpose()?,
        change: match args.change {
            None => Change::Unknown,
            Some(ChangeSize::Major) => Change::Major,
            Some(ChangeSize::Minor) => Change::Minor,
            Some(ChangeSize::Patch) => Change::Patch,
        },
        strategy: match args.strategy {
            Some(Asked::Canary) => StrategyName::Canary,
            Some(Asked::BlueGreen) => StrategyName::BlueGreen,
            _ => StrategyName::Rolling,
        },
    })
}

fn workload(text: &str) -> Result<(WorkloadKind, String), Refusal> {
    let (kind, name) = text.split_once('/').unwrap_or_default();
    let kind = match kind.split('.').next().unwrap_or_default() {
        "deploy" | "deployment" | "deployments" => WorkloadKind::Deployment,
        "sts" | "statefulset" | "statefulsets" => WorkloadKind::StatefulSet,
        "ds" | "daemonset" | "daemonsets" => WorkloadKind::DaemonSet,
        "cj" | "cronjob" | "cronjobs" => WorkloadKind::CronJob,
        _ => {
            return Err(Refusal::usage(format!("--workload: `{text}` is not TYPE/NAME"))
                .hint("types are deploy, sts, ds and cronjob, for instance deploy/web"));
        }
    };
    Ok((kind, name.to_owned()))
}

/// Answers.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    asked: &Question,
    format: Option<Format>,
) -> anyhow::Result<Exit> {
    let api: Api<MaintenanceWindow> = Api::all(session.client.clone());
    let mut objects = list(session, &api, &ListParams::default()).await?;
    objects.sort_by_key(ResourceExt::name_any);
    if asked.what == WindowsWhat::List {
        show(printer, asked, &objects, format)?;
        return Ok(Exit::Done);
    }
    let windows: Vec<Window> = objects.iter().map(Window::compile).collect();
    let answers = answers(session, asked, &windows).await?;
    let shut = answers.iter().any(|a| !a.open);
    let exit = if shut && asked.what == WindowsWhat::Test { Exit::Blocked } else { Exit::Done };
    if let Some(format @ (Format::Json | Format::Yaml)) = format {
        let body = json!({
            "kind": "Windows",
            "reason": if shut { "Shut" } else { "Open" },
            "exitCode": exit as u8,
            "namespace": session.namespace,
            "at": asked.at,
            "timezone": asked.zone.iana_name(),
            "workloads": answers,
        });
        printer.document(format, &body)?;
    } else {
        let now = Timestamp::now();
        if asked.what == WindowsWhat::Test {
            printer.data(&format!("At {}:", when::shown(asked.at, &asked.zone, now)))?;
        }
        printer.data(&table(asked, &answers, now).render(Printer::width()))?;
    }
    Ok(exit)
}

fn table(asked: &Question, answers: &[Answer], now: Timestamp) -> Table {
    let mut table = Table::new(&["WORKLOAD", "STATE", "UNTIL", "WHY"]);
    for one in answers {
        let until = one
            .next
            .map_or_else(|| "not within a year".to_owned(), |at| when::shown(at, &asked.zone, now));
        let word = if one.open { "open" } else { "shut" };
        table.row([one.workload.as_str(), word, until.as_str(), one.message.as_str()]);
    }
    table
}

/// What windows say of the workload that was named, or of those of the namespace.
async fn answers(
    session: &Session,
    asked: &Question,
    windows: &[Window],
) -> Result<Vec<Answer>, Refusal> {
    let name = &session.namespace;
    let namespaces: Api<Namespace> = Api::all(session.client.clone());
    let policies: Api<UpgradePolicy> = Api::all(session.client.clone());
    let all = ListParams::default();
    let (namespace, policies, objects) = tokio::join!(
        namespaces.get_opt(name),
        list(session, &policies, &all),
        workloads::list(session, name),
    );
    let namespace = namespace.map_err(|e| explain(session, &e))?.ok_or_else(|| {
        Refusal::new("NotFound", format!("there is no namespace {name}"))
            .hint("another one is given with -n")
    })?;
    let objects = objects.map_err(|needs| Refusal::new("Forbidden", needs))?;
    let mut snapshot = Snapshot::new("");
    snapshot.set_namespace(name, namespace.labels().clone());
    policies?.iter().for_each(|p| snapshot.set_policy(p));
    let view = snapshot.namespace(name);
    let mut found = Vec::new();
    for object in objects.iter().filter(|o| !o.owned && !o.over) {
        let Ok(workload) = Workload::parse(object.kind, &object.raw) else { continue };
        let other =
            |(kind, name): &(WorkloadKind, String)| *kind != object.kind || *name != *workload.name;
        if asked.workload.as_ref().is_some_and(other) {
            continue;
        }
        let policy = view.and_then(|v| v.policy(object.kind, &workload.name, &workload.labels));
        let policy = policy.map(|p| p.name.clone());
        let shown = format!("{}/{}", object.kind.resource(), workload.name);
        let labels = (namespace.labels(), &workload.labels);
        found.push(answer(asked, windows, shown, policy, labels));
    }
    match &asked.workload {
        Some((kind, missing)) if found.is_empty() => {
            let text = format!("no {}/{missing} in namespace {name}", kind.resource());
            Err(Refusal::new("NoSuchWorkload", text).hint(format!("kubectl get all -n {name}")))
        }
        // Windows hold for what will be there, too.
        None if found.is_empty() => {
            let none = BTreeMap::new();
            let shown = "<any>".to_owned();
            Ok(vec![answer(asked, windows, shown, None, (namespace.labels(), &none))])
        }
        _ => Ok(found),
    }
}

fn answer(
    asked: &Question,
    windows: &[Window],
    workload: String,
    policy: Option<String>,
    (namespace_labels, workload_labels): (&BTreeMap<String, String>, &BTreeMap<String, String>),
) -> Answer {
    let subject = Subject {
        namespace_labels,
        workload_labels,
        policy: policy.as_deref().unwrap_or_default(),
        strategy: asked.strategy,
        change: asked.change,
    };
    let (open, message, next) = match state(windows, &subject, asked.at) {
        State::Open { until, by } if by.is_empty() => {
            (true, "no window holds for it".to_owned(), until)
        }
        State::Open { until, by } => (true, format!("MaintenanceWindow {}", by.join(", ")), until),
        State::Shut { why, next } => (false, why.to_string(), next),
    };
    Answer { workload, policy, open, message, next }
}

fn show(
    printer: &mut Printer,
    asked: &Question,
    objects: &[MaintenanceWindow],
    format: Option<Format>,
) -> anyhow::Result<()> {
    match format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &documents(objects)?)?;
        }
        Some(Format::Name) => {
            for one in objects {
                printer
                    .data(&format!("maintenancewindow.kubectl-upgrade.dev/{}", one.name_any()))?;
            }
        }
        _ if objects.is_empty() => {
            printer.note("no maintenance windows: changes may be made at any time")?;
        }
        format => {
            let table = listed(objects, &asked.zone, asked.at, format.is_some());
            printer.data(&table.render(Printer::width()))?;
        }
    }
    Ok(())
}

/// One line a window, with its own state: which changes it is about, its selectors say.
fn listed(objects: &[MaintenanceWindow], zone: &TimeZone, now: Timestamp, wide: bool) -> Table {
    let mut headings = vec!["NAME", "KIND", "STATE", "UNTIL"];
    if wide {
        headings.extend(["SCHEDULE", "ZONE"]);
    }
    headings.push("REASON");
    let mut table = Table::new(&headings);
    for object in objects {
        let window = Window::compile(object);
        let active = window.is_active(now);
        let word = match (window.problem().is_some(), object.spec.kind, active) {
            (true, ..) => "invalid",
            (_, WindowKind::Allow, true) => "open",
            (_, WindowKind::Allow, false) => "shut",
            (_, WindowKind::Deny, true) => "frozen",
            (_, WindowKind::Deny, false) => "thawed",
        };
        let span = window.spans(now).next();
        let next = span.and_then(|s| if active { s.end } else { Some(s.start) });
        let until =
            next.map_or_else(|| "not within a year".to_owned(), |at| when::shown(at, zone, now));
        let spec = &object.spec;
        let kind = format!("{:?}", spec.kind);
        let mut cells = vec![object.name_any(), kind, word.to_owned(), until];
        if wide {
            cells.extend([schedule(object), spec.time_zone.clone()]);
        }
        let problem = window.problem().map(ToString::to_string);
        cells.push(problem.or_else(|| spec.reason.clone()).unwrap_or_default());
        table.row(cells);
    }
    table
}

fn schedule(object: &MaintenanceWindow) -> String {
    let spec = &object.spec;
    match (&spec.schedule, &spec.days, &spec.start, &spec.end) {
        (Some(cron), ..) => format!("{cron} for {}", spec.duration.as_deref().unwrap_or("?")),
        (_, Some(days), Some(start), Some(end)) => {
            let days: Vec<String> =
                days.iter().map(|d| format!("{d:?}").chars().take(3).collect()).collect();
            format!("{} {start}-{end}", days.join(","))
        }
        _ => "always".to_owned(),
    }
}
