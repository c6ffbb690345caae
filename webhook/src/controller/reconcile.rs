//! The five steps of a round.

use super::apply::{ApplyError, perform};
use super::live::Wishes;
use super::observe::{NotYet, observe};
use super::orders;
use super::status::{newest, write};
use super::watches::{Context, Queue};
use crate::clock;
use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::controller::{Action, Config, applier};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, warn};
use upgrade_core::api::{FINALIZER, Phase, Upgrade, UpgradeStatus};
use upgrade_core::engine::plan::{Plan, PlanError};
use upgrade_core::engine::step;

/// Rounds under way at once. Each is a few reads from memory and at most a few writes.
const CONCURRENCY: u16 = 32;

/// Policies decide how many approvals an Upgrade needs: a change of theirs is a reason to look.
pub async fn follow_policies(context: Arc<Context>) {
    let mut changed = context.snapshot.subscribe();
    let mut seen = context.snapshot.load().governance();
    while changed.changed().await.is_ok() {
        let now = context.snapshot.load().governance();
        if now != seen {
            seen = now;
            context.wake_all();
        }
    }
}

/// Whatever waits for a time of day looks again when the clock was set.
pub async fn follow_clock(context: Arc<Context>, mut jumps: watch::Receiver<()>) {
    while jumps.changed().await.is_ok() {
        context.wake_all();
    }
    // The clock is followed until the process ends.
    std::future::pending::<()>().await;
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    NotYet(#[from] NotYet),
    #[error("policies, windows, matrices and approvals cannot be read: {}", super::terse(.0))]
    Live(Box<kube::Error>),
    #[error("status: {}", super::terse(.0))]
    Status(Box<kube::Error>),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl RoundError {
    fn is_conflict(&self) -> bool {
        match self {
            Self::NotYet(_) => true,
            Self::Live(_) => false,
            Self::Status(error) => {
                matches!(error.as_ref(), kube::Error::Api(s) if s.is_conflict() || s.is_not_found())
            }
            Self::Apply(error) => error.is_conflict(),
        }
    }
}

/// Works the queue until it ends.
pub async fn run(context: Arc<Context>, queue: Queue) {
    context.ready().await;
    let queue = stream::unfold(queue, |mut queue| async {
        let next = queue.recv().await?;
        Some((Ok::<_, Infallible>(next), queue))
    });
    let config = Config::default().concurrency(CONCURRENCY);
    let round = |upgrade, context| Box::pin(reconcile(upgrade, context));
    applier(round, on_error, context.clone(), context.upgrades.clone(), Box::pin(queue), config)
        .for_each(async |ended| {
            if let Err(error) = ended {
                debug!(%error, "round");
            }
        })
        .await;
}

async fn reconcile(seen: Arc<Upgrade>, context: Arc<Context>) -> Result<Action, RoundError> {
    let upgrade = newest(&context, seen);
    let upgrade =
        orders::carry_out(&context, upgrade).await.map_err(|e| RoundError::Status(Box::new(e)))?;
    // validate
    let plan = match Plan::new(&upgrade) {
        Ok(plan) => plan,
        Err(error) => return refuse(&context, upgrade, &error).await,
    };
    // observe
    let before = upgrade.status.clone().unwrap_or_default();
    if before.phase.is_terminal() && settled(&upgrade, &plan, &before) {
        context.told.forget(&upgrade);
        let uid = upgrade.uid().unwrap_or_default();
        context.watched.forget(&uid);
        context.asked.forget(&uid);
        if upgrade.labels().contains_key(super::schedule::LABEL) {
            context.schedules.notify_one();
        }
        context.forget_local(&kube::ResourceExt::namespace(upgrade.as_ref()).unwrap_or_default());
        return Ok(Action::await_change());
    }
    let known = Wishes::known(&context, &upgrade);
    let observed = observe(&context, &known, &upgrade, &plan).await?;
    // step
    let mut outcome = step(&plan, &observed, &before, clock::now());
    if outcome.passes {
        let live = known.live(&context, &upgrade).await;
        let live = live.map_err(|e| RoundError::Live(Box::new(e)))?;
        let observed = observe(&context, &live, &upgrade, &plan).await?;
        outcome = step(&plan, &observed, &before, clock::now());
    }
    // status first: it is the write-ahead log of what is applied next
    let upgrade = write(&context, upgrade, outcome.status)
        .await
        .map_err(|e| RoundError::Status(Box::new(e)))?;
    // apply
    let again = perform(&context, &upgrade, outcome.effects).await?;
    Ok(again.map_or_else(Action::await_change, |at| Action::requeue(until(at))))
}

/// A terminal Upgrade with nothing left to do is not worth a round.
fn settled(upgrade: &Upgrade, plan: &Plan, before: &UpgradeStatus) -> bool {
    let held =
        upgrade.metadata.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == FINALIZER));
    let retry = plan.retry > before.attempt && before.phase != Phase::Completed && !plan.abort;
    !held && !retry && before.notifications.is_empty()
}

/// A spec that cannot run says so in its status; nothing was touched.
async fn refuse(
    context: &Context,
    upgrade: Arc<Upgrade>,
    error: &PlanError,
) -> Result<Action, RoundError> {
    let mut status = upgrade.status.clone().unwrap_or_default();
    if status.phase != Phase::Failed {
        status.phase = Phase::Failed;
        status.message = error.to_string();
        status.observed_generation = upgrade.metadata.generation.unwrap_or(0);
        status.completion_time = Some(Time(clock::now()));
        write(context, upgrade, status).await.map_err(|e| RoundError::Status(Box::new(e)))?;
    }
    Ok(Action::await_change())
}

fn until(at: jiff::Timestamp) -> Duration {
    clock::until(at) + Duration::from_millis(1)
}

#[expect(clippy::needless_pass_by_value, reason = "the runtime's signature")]
fn on_error(upgrade: Arc<Upgrade>, error: &RoundError, _: Arc<Context>) -> Action {
    if error.is_conflict() {
        // The watch that was behind wakes us up; the time is for one that was ahead of us.
        debug!(upgrade = ?upgrade.metadata.name, %error, "looking again");
        return Action::requeue(Duration::from_millis(200));
    }
    warn!(upgrade = ?upgrade.metadata.name, namespace = ?upgrade.metadata.namespace, %error, "round failed; trying again");
    Action::requeue(Duration::from_secs(2))
}
