//! Upgrades that are made by themselves: at each time of an UpgradeSchedule, from its template and
//! from what runs then.

use super::watches::Context;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};
use upgrade_core::api::schedule::{TargetTemplate, UpgradeScheduleStatus};
use upgrade_core::api::upgrade::{ImageChange, Stage, WorkloadTarget, WorkloadsStage};
use upgrade_core::api::{FIELD_MANAGER, Upgrade, UpgradeSchedule, UpgradeSpec};
use upgrade_core::policy::declared::parse;

/// Label of an Upgrade that names the schedule it comes from.
pub const LABEL: &str = "kubectl-upgrade.dev/schedule";
/// How late an Upgrade may be made, in seconds, where the schedule does not say.
const DEADLINE: i64 = 3600;
/// How many ended Upgrades are kept where the schedule does not say.
const HISTORY: i32 = 10;
/// Time between tries of what failed for no reason of the schedule's own.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps every schedule until the process ends.
pub async fn run(context: Arc<Context>, mut jumps: watch::Receiver<()>) {
    let (schedules, mut writer) = store::<UpgradeSchedule>();
    let api = Api::<UpgradeSchedule>::all(context.client.clone());
    let watching = async {
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    writer.apply_watcher_event(&event);
                    context.schedules.notify_one();
                }
                Err(error) => warn!(%error, "the watch of schedules failed; trying again"),
            }
        }
    };
    let working = async {
        if schedules.wait_until_ready().await.is_err() {
            return;
        }
        context.ready().await;
        loop {
            let next = pass(&context, &schedules).await;
            let alarm = async {
                match next {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = context.schedules.notified() => {}
                () = alarm => {}
                jump = jumps.changed() => if jump.is_err() { return },
            }
        }
    };
    tokio::join!(watching, working);
}

/// Looks at every schedule once; the time until the next one is due.
async fn pass(context: &Context, schedules: &Store<UpgradeSchedule>) -> Option<Duration> {
    let mut soonest: Option<Duration> = None;
    for schedule in schedules.state() {
        let wait = match look(context, &schedule).await {
            Ok(next) => next.map(|at| crate::clock::until(at) + Duration::from_millis(1)),
            Err(error) => {
                let (namespace, name) = (schedule.namespace(), schedule.name_any());
                warn!(?namespace, name, error = super::terse(&error), "a schedule: trying again");
                Some(RETRY)
            }
        };
        soonest = [soonest, wait].into_iter().flatten().min();
    }
    soonest
}

/// Makes the Upgrade that is due, if one is; the next time.
async fn look(
    context: &Context,
    schedule: &UpgradeSchedule,
) -> Result<Option<jiff::Timestamp>, kube::Error> {
    let now = crate::clock::now();
    let spec = &schedule.spec;
    let before = schedule.status.clone().unwrap_or_default();
    let mut status = UpgradeScheduleStatus {
        observed_generation: schedule.metadata.generation.unwrap_or(0),
        ..before.clone()
    };
    let parsed = match parse(&schedule.spec) {
        Ok(parsed) => parsed,
        Err(why) => {
            status.message.clone_from(&why);
            status.next_schedule_time = None;
            ready(&mut status, false, "Invalid", &why, now);
            write(context, schedule, &before, status).await?;
            return Ok(None);
        }
    };
    let since =
        status.last_schedule_time.as_ref().or(schedule.metadata.creation_timestamp.as_ref());
    let due = parsed.previous_at_or_before(now).filter(|t| since.is_none_or(|s| *t > s.0));
    if let Some(at) = due.filter(|_| !spec.suspend) {
        let late = now.duration_since(at).as_secs();
        let deadline = spec.starting_deadline_seconds.unwrap_or(DEADLINE);
        status.message = if late > deadline {
            format!("{at:.0} was missed: {late} s late, and startingDeadlineSeconds is {deadline}")
        } else {
            make(context, schedule, at, &mut status).await?
        };
        status.last_schedule_time = Some(Time(at));
    }
    let next = parsed.next_after(now).filter(|_| !spec.suspend);
    status.next_schedule_time = next.map(Time);
    let reason = if spec.suspend { "Suspended" } else { "Scheduled" };
    ready(&mut status, !spec.suspend, reason, "", now);
    write(context, schedule, &before, status).await?;
    clear(context, schedule).await?;
    Ok(next)
}

/// Makes the Upgrade of one time, and says what came of it.
///
/// Its name holds the time, so that doing it again makes no second one.
async fn make(
    context: &Context,
    schedule: &UpgradeSchedule,
    at: jiff::Timestamp,
    status: &mut UpgradeScheduleStatus,
) -> Result<String, kube::Error> {
    let namespace = schedule.namespace().unwrap_or_default();
    let busy = status.last_upgrade.as_ref().and_then(|name| {
        let last = context.upgrades.get(&ObjectRef::new(name).within(&namespace))?;
        let over = last.status.as_ref().is_some_and(|s| s.phase.is_terminal());
        (!over).then(|| format!("{at:.0} was left out: Upgrade {name} is not over yet"))
    });
    if let Some(busy) = busy {
        return Ok(busy);
    }
    let spec = match upgrade(context, schedule) {
        Ok(Some(spec)) => spec,
        Ok(None) => return Ok(format!("{at:.0}: everything runs the wanted images already")),
        Err(why) => return Ok(format!("{at:.0}: {why}")),
    };
    let name = format!("{}-{}", schedule.name_any(), at.strftime("%y%m%d%H%M"));
    let mut upgrade = Upgrade::new(&name, spec);
    upgrade.metadata.namespace = Some(namespace.clone());
    upgrade.labels_mut().insert(LABEL.to_owned(), schedule.name_any());
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    let options = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false };
    match api.create(&options, &upgrade).await {
        Ok(_) => info!(namespace, name, "a schedule made an Upgrade"),
        Err(kube::Error::Api(s)) if s.is_already_exists() => {}
        // A refusal is an answer: it is told, and the next time is the next try.
        Err(kube::Error::Api(s)) if s.code < 500 && !s.is_conflict() && s.code != 429 => {
            return Ok(format!("{at:.0}: Upgrade {name} was refused: {}", s.message));
        }
        Err(error) => return Err(error),
    }
    status.last_upgrade = Some(name.clone());
    Ok(format!("{at:.0}: made Upgrade {name}"))
}

/// The Upgrade from what runs to what the template wants; none where nothing would change.
fn upgrade(context: &Context, schedule: &UpgradeSchedule) -> Result<Option<UpgradeSpec>, String> {
    let namespace = schedule.namespace().unwrap_or_default();
    let template = &schedule.spec.template;
    let mut stages = Vec::new();
    for stage in &template.stages {
        let Some(workloads) = &stage.workloads else { continue };
        let mut targets = Vec::new();
        for wanted in &workloads.targets {
            targets.extend(target(context, &namespace, wanted)?);
        }
        if !targets.is_empty() {
            let strategy = workloads.strategy.clone();
            let workloads = Some(WorkloadsStage { strategy, targets, ..WorkloadsStage::default() });
            stages.push(Stage { name: stage.name.clone(), workloads, ..Stage::default() });
        }
    }
    if stages.is_empty() {
        return Ok(None);
    }
    Ok(Some(UpgradeSpec {
        to: template.to.clone(),
        stages,
        auto_rollback: template.auto_rollback.clone(),
        window_overrun: template.window_overrun,
        requester: schedule.spec.requester.clone(),
        ..UpgradeSpec::default()
    }))
}

fn target(
    context: &Context,
    namespace: &str,
    wanted: &TargetTemplate,
) -> Result<Option<WorkloadTarget>, String> {
    let name = &wanted.name;
    let Some(found) = context.deployments.get(&ObjectRef::new(name).within(namespace)) else {
        return Err(format!("deployment.apps/{name} does not exist"));
    };
    let pod = found.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    let containers = || {
        pod.into_iter().flat_map(|p| p.containers.iter().chain(p.init_containers.iter().flatten()))
    };
    let mut images = Vec::new();
    for image in &wanted.images {
        let Some(runs) = containers().find(|c| c.name == image.container) else {
            return Err(format!("deployment.apps/{name} has no container {}", image.container));
        };
        let from = runs.image.clone().unwrap_or_default();
        if !upgrade_core::image::same(&from, &image.to) {
            let (container, to) = (image.container.clone(), image.to.clone());
            images.push(ImageChange { container, from, to });
        }
    }
    let target = WorkloadTarget { kind: wanted.kind, name: name.clone(), images };
    Ok((!target.images.is_empty()).then_some(target))
}

fn ready(
    status: &mut UpgradeScheduleStatus,
    is: bool,
    reason: &str,
    message: &str,
    now: jiff::Timestamp,
) {
    let state = if is { "True" } else { "False" };
    let old = status.conditions.iter().find(|c| c.type_ == "Ready" && c.status == state);
    let since = old.map_or(Time(now), |c| c.last_transition_time.clone());
    status.conditions = vec![Condition {
        type_: "Ready".to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(status.observed_generation),
        last_transition_time: since,
    }];
}

async fn write(
    context: &Context,
    schedule: &UpgradeSchedule,
    before: &UpgradeScheduleStatus,
    status: UpgradeScheduleStatus,
) -> Result<(), kube::Error> {
    if *before == status {
        return Ok(());
    }
    let namespace = schedule.namespace().unwrap_or_default();
    let api: Api<UpgradeSchedule> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": UpgradeSchedule::api_version(&()),
        "kind": UpgradeSchedule::kind(&()),
        "metadata": {"uid": schedule.uid()},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&schedule.name_any(), &params, &Patch::Apply(&body)).await.map(drop)
}

/// Clears the oldest ended Upgrades of a schedule away.
async fn clear(context: &Context, schedule: &UpgradeSchedule) -> Result<(), kube::Error> {
    let (namespace, name) = (schedule.namespace().unwrap_or_default(), schedule.name_any());
    let keep = usize::try_from(schedule.spec.history_limit.unwrap_or(HISTORY)).unwrap_or(0);
    let all = context.upgrades.state();
    let mut ended: Vec<_> = all
        .iter()
        .filter(|u| u.namespace().as_deref() == Some(namespace.as_str()))
        .filter(|u| u.labels().get(LABEL) == Some(&name))
        .filter(|u| u.status.as_ref().is_some_and(|s| s.phase.is_terminal()))
        .collect();
    ended.sort_by_key(|u| std::cmp::Reverse(u.name_any()));
    let api: Api<Upgrade> = Api::namespaced(context.client.clone(), &namespace);
    for upgrade in ended.into_iter().skip(keep) {
        match api.delete(&upgrade.name_any(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(s)) if s.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
