//! `break-glass`: opens an exception and makes the change under it. Nothing of ours in the cluster
//! has to be alive for it.

use crate::cli::{BreakGlassArgs, DryRun, Format};
use crate::client::Session;
use crate::errors::{explain, is_absent};
use crate::lower::Exception;
use crate::objects::{create, document, upgrade, whoami};
use crate::output::{Exit, Printer, Refusal};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, ObjectMeta};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::time::Duration;
use upgrade_core::api::status::Originals;
use upgrade_core::api::{
    BREAK_GLASS_LABEL, BREAK_GLASS_NAME, BreakGlass, BreakGlassKind, BreakGlassSpec, FIELD_MANAGER,
    IN_FLIGHT_LABEL, Identity, Upgrade, WorkloadKind,
};

/// How often and how long apart the change is tried: the API server sees a new BreakGlass a moment
/// after it took it.
const TRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(200);

/// One image that changes.
struct Change<'a> {
    /// `containers`, `initContainers` or `volumes` of the pod.
    list: &'static str,
    name: &'a str,
    from: String,
    to: &'a str,
}

/// Opens it and makes the change.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &BreakGlassArgs,
    asked: &Exception,
) -> anyhow::Result<Exit> {
    let kind = asked.object.kind;
    let api = workloads(session, kind);
    let live = match api.get(&asked.object.name).await {
        Ok(live) => live,
        Err(kube::Error::Api(status)) if is_absent(&status) => {
            let text = format!("no {} in namespace {}", reference(asked), session.namespace);
            return Err(Refusal::new("NoSuchWorkload", text)
                .hint("only what is there can be changed; create it under an open BreakGlass by hand: docs/break-glass.md")
                .into());
        }
        Err(error) => return Err(explain(session, &error).into()),
    };
    let changes = changes(asked, &live)?;
    let me = whoami(session).await.ok_or_else(|| {
        Refusal::new("Unauthorized", "the API server does not say who you are")
            .hint("kubectl auth whoami")
    })?;
    let glass = object(session, asked, &me);
    if matches!(args.output.output, None | Some(Format::Wide)) {
        printer.note(&summary(session, asked, &live, &changes, &me))?;
    }
    confirm(printer, args)?;
    if args.dry_run != DryRun::None {
        if args.dry_run == DryRun::Server {
            create(session, &glass, DryRun::Server).await?;
        }
        return print(printer, args, asked, &glass, " (dry run)");
    }
    let opened = open(session, &glass).await?;
    let body = patch(session, &live, kind, &changes, &opened).await;
    change(session, &api, asked, &body).await?;
    // The label did its work; left there, it would hold the object to this BreakGlass.
    let off = json!({"metadata": {"labels": {BREAK_GLASS_LABEL: null}}});
    if let Err(error) = api.patch(&asked.object.name, &params(), &Patch::Merge(&off)).await {
        printer.warn(&format!(
            "the label {BREAK_GLASS_LABEL} is still on {}: {error}; take it off: kubectl label {} {BREAK_GLASS_LABEL}- -n {}",
            reference(asked), reference(asked), session.namespace
        ))?;
    }
    print(printer, args, asked, &opened, "")
}

fn confirm(printer: &mut Printer, args: &BreakGlassArgs) -> anyhow::Result<()> {
    if args.yes || args.dry_run != DryRun::None {
        return Ok(());
    }
    if !Printer::can_ask() {
        let text = "break-glass asks a person, and standard input is no terminal: give --yes";
        return Err(Refusal::usage(text).into());
    }
    if printer.ask("Break the glass?")? {
        return Ok(());
    }
    Err(Refusal::new("NotConfirmed", "nothing was done").into())
}

fn print(
    printer: &mut Printer,
    args: &BreakGlassArgs,
    asked: &Exception,
    glass: &BreakGlass,
    dry: &str,
) -> anyhow::Result<Exit> {
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &document(glass)?)?;
        }
        Some(Format::Name) => printer.data(&reference(asked))?,
        _ => printer.data(&format!("{} changed under break-glass{dry}", reference(asked)))?,
    }
    Ok(Exit::Done)
}

/// The one of the namespace, made now; one that is over makes room.
async fn open(session: &Session, glass: &BreakGlass) -> Result<BreakGlass, Refusal> {
    let api: Api<BreakGlass> = Api::namespaced(session.client.clone(), &session.namespace);
    let found = match api.get_opt(BREAK_GLASS_NAME).await {
        Ok(found) => found,
        // Whoever may open one may not always read it; creating it says whether it is there.
        Err(kube::Error::Api(status)) if status.is_forbidden() => None,
        Err(error) => return Err(explain(session, &error)),
    };
    if let Some(found) = found {
        // The controller may be down: then nobody has said so, but it is over all the same.
        let over = found.is_expired() || found.expires_at().is_some_and(|t| t <= Timestamp::now());
        if !over && found.spec.objects == glass.spec.objects {
            return Ok(found);
        }
        if !over {
            return Err(still_open(session, &found));
        }
        let params = DeleteParams::default()
            .preconditions(kube::api::Preconditions { uid: found.uid(), resource_version: None });
        api.delete(BREAK_GLASS_NAME, &params).await.map_err(|e| explain(session, &e))?;
    }
    create(session, glass, DryRun::None).await.map_err(|mut refusal| {
        if refusal.reason == "Forbidden" || refusal.reason == "Denied" {
            refusal.hints.push("the right comes with ClusterRole kubectl-upgrade-breakglass, bound in this namespace".to_owned());
        }
        refusal
    })
}

fn still_open(session: &Session, found: &BreakGlass) -> Refusal {
    let until = found.expires_at().map(|t| format!(" until {t}")).unwrap_or_default();
    let objects: Vec<String> =
        found.spec.objects.iter().map(|o| format!("{:?} {}", o.kind, o.name)).collect();
    Refusal::blocked(
        "AlreadyOpen",
        format!(
            "a BreakGlass is open{until}, by {} for {}: {}; there is one to a namespace, so that two \
             exceptions never add up",
            found.spec.requester.username,
            objects.join(", "),
            found.spec.reason
        ),
    )
    .hint(format!(
        "end it, if it did its work: kubectl delete breakglass {BREAK_GLASS_NAME} -n {}",
        session.namespace
    ))
}

/// Writes the change, again while the API server does not see the BreakGlass yet.
async fn change(
    session: &Session,
    api: &Api<DynamicObject>,
    asked: &Exception,
    body: &Value,
) -> Result<(), Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let written = api.patch(&asked.object.name, &params(), &Patch::Strategic(body)).await;
        let Err(error) = written else { return Ok(()) };
        let unseen = error.to_string();
        let unseen = unseen.contains("no params found") || unseen.contains("has to be the uid");
        if !unseen || tries >= TRIES {
            return Err(explain(session, &error).hint(format!(
                "the BreakGlass is open all the same; to end it: kubectl delete breakglass {BREAK_GLASS_NAME} -n {}",
                session.namespace
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn object(session: &Session, asked: &Exception, me: &str) -> BreakGlass {
    BreakGlass {
        metadata: ObjectMeta {
            name: Some(BREAK_GLASS_NAME.to_owned()),
            namespace: Some(session.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: BreakGlassSpec {
            reason: asked.reason.clone(),
            ticket: asked.ticket.clone(),
            ttl: asked.ttl.clone(),
            objects: vec![asked.object.clone()],
            requester: Identity { username: me.to_owned(), ..Identity::default() },
        },
        status: None,
    }
}

fn workloads(session: &Session, kind: BreakGlassKind) -> Api<DynamicObject> {
    let group = if kind == BreakGlassKind::CronJob { "batch" } else { "apps" };
    let gvk = GroupVersionKind::gvk(group, "v1", WorkloadKind::from(kind).as_str());
    Api::namespaced_with(session.client.clone(), &session.namespace, &ApiResource::from_gvk(&gvk))
}

fn reference(asked: &Exception) -> String {
    format!("{}/{}", WorkloadKind::from(asked.object.kind).resource(), asked.object.name)
}

/// Where in a workload its pod is.
fn path(kind: BreakGlassKind) -> &'static [&'static str] {
    match kind {
        BreakGlassKind::CronJob => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => &["spec", "template", "spec"],
    }
}

fn changes<'a>(asked: &'a Exception, live: &DynamicObject) -> Result<Vec<Change<'a>>, Refusal> {
    let pod = path(asked.object.kind).iter().try_fold(&live.data, |at, key| at.get(key));
    let names = |list: &str| {
        let all = pod.and_then(|p| p.get(list)).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|c| c.get("name").and_then(Value::as_str)).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for image in &asked.object.images {
        let volume = image.container.strip_prefix("volume:");
        let lists: &[&'static str] =
            if volume.is_some() { &["volumes"] } else { &["containers", "initContainers"] };
        let name = volume.unwrap_or(&image.container);
        let Some(list) = lists.iter().find(|l| names(l).contains(&name)) else {
            let all: Vec<&str> = lists.iter().flat_map(|l| names(l)).collect();
            return Err(Refusal::new(
                "NoSuchContainer",
                format!(
                    "{} has no container `{name}`; it has {}",
                    reference(asked),
                    all.join(", ")
                ),
            ));
        };
        let entries = pod.and_then(|p| p.get(*list)).and_then(Value::as_array);
        let entry = entries.into_iter().flatten().find(|c| c.get("name") == Some(&json!(name)));
        let at = if volume.is_some() { "/image/reference" } else { "/image" };
        let from = entry.and_then(|c| c.pointer(at)).and_then(Value::as_str).unwrap_or_default();
        found.push(Change { list, name, from: from.to_owned(), to: &image.image });
    }
    if found.iter().all(|c| c.from == c.to) {
        let text = format!("{} runs these images already", reference(asked));
        return Err(Refusal::new("NothingToDo", text));
    }
    Ok(found)
}

fn summary(
    session: &Session,
    asked: &Exception,
    live: &DynamicObject,
    changes: &[Change<'_>],
    me: &str,
) -> String {
    let mut text = format!(
        "BREAK GLASS   {} in namespace {}: past approvals, windows and matrices\nBy:           {me}\nReason:       {}\n",
        reference(asked),
        session.namespace,
        asked.reason
    );
    if let Some(ticket) = &asked.ticket {
        let _ = writeln!(text, "Ticket:       {ticket}");
    }
    let _ =
        writeln!(text, "Open for:     {}, or until the controller is back after that", asked.ttl);
    for change in changes {
        let _ = writeln!(text, "Change:       {} {} -> {}", change.name, change.from, change.to);
    }
    if let Some(upgrade) = live.labels().get(IN_FLIGHT_LABEL) {
        let _ = writeln!(text, "In flight:    Upgrade {upgrade} loses it, and will fail over it");
    }
    text.push_str("It takes effect at once, on every pod, and is recorded.\n");
    text
}

/// The change, under the label. What is in flight gets its own fields back in the same write.
async fn patch(
    session: &Session,
    live: &DynamicObject,
    kind: BreakGlassKind,
    changes: &[Change<'_>],
    glass: &BreakGlass,
) -> Value {
    let mut pod = Map::new();
    for change in changes {
        let entry = match change.list {
            "volumes" => json!({"name": change.name, "image": {"reference": change.to}}),
            _ => json!({"name": change.name, "image": change.to}),
        };
        let list = pod.entry(change.list).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(entry);
        }
    }
    let whole = path(kind).iter().rev().fold(Value::Object(pod), |inner, key| json!({*key: inner}));
    let mut body = json!({"metadata": {"labels": {BREAK_GLASS_LABEL: glass.uid()}}});
    let mut spec = whole.get("spec").cloned().unwrap_or_default();
    if let Some(name) = live.labels().get(IN_FLIGHT_LABEL) {
        let found = upgrade(session, name).await.ok();
        let originals = found.as_ref().and_then(|u| originals(u, &live.name_any()));
        release(&mut spec, &originals.unwrap_or_default());
        if let Some(labels) = body.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.insert(IN_FLIGHT_LABEL.to_owned(), Value::Null);
        }
    }
    if let Some(map) = body.as_object_mut() {
        map.insert("spec".to_owned(), spec);
    }
    body
}

fn originals(upgrade: &Upgrade, name: &str) -> Option<Originals> {
    let stages = upgrade.status.as_ref()?.stages.iter();
    stages.flat_map(|s| &s.targets).find(|t| t.name == name)?.originals.clone()
}

/// The guarded fields as their owner had them; what is not known becomes what Kubernetes defaults.
fn release(spec: &mut Value, originals: &Originals) {
    let Some(spec) = spec.as_object_mut() else { return };
    let mut set = |key: &str, value: Value| spec.insert(key.to_owned(), value);
    set("paused", Value::Null);
    set("minReadySeconds", json!(originals.min_ready_seconds));
    set("progressDeadlineSeconds", json!(originals.progress_deadline_seconds));
    if originals.strategy.as_deref() != Some("Recreate") {
        set(
            "strategy",
            json!({"rollingUpdate": {
                "maxSurge": originals.max_surge, "maxUnavailable": originals.max_unavailable}}),
        );
    }
}
