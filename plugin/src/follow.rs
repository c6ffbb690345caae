//! Following an Upgrade by a watch: for `-w`, `--wait` and `--for`.

use crate::cli::Format;
use crate::client::Session;
use crate::errors::{explain, is_absent};
use crate::objects::{document, is_current, status};
use crate::output::tree::{View, line, render};
use crate::output::{Exit, Printer, Refusal, describe};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object};
use std::pin::pin;
use std::time::Duration;
use upgrade_core::api::{Phase, Upgrade};

/// What is waited for, and how it is shown.
pub struct Goal {
    /// Name of the Upgrade.
    pub name: String,
    /// The phase to wait for; otherwise the end.
    pub phase: Option<Phase>,
    /// How long.
    pub limit: Option<Duration>,
    /// Whether every change is printed to stdout.
    pub watch: bool,
    /// How to print.
    pub format: Option<Format>,
}

/// What ended the wait for the next thing.
enum Heard {
    Changed(Box<Upgrade>),
    Gone,
    Failed(Refusal),
    Tick,
    TooLate,
    Interrupted,
}

/// Follows an Upgrade until the goal is reached, time is up, or Ctrl-C.
pub async fn follow(
    session: &Session,
    printer: &mut Printer,
    goal: &Goal,
    me: Option<&str>,
) -> anyhow::Result<Exit> {
    let api: Api<Upgrade> = Api::namespaced(session.watcher.clone(), &session.namespace);
    let mut stream = pin!(watch_object(api, &goal.name).default_backoff());
    let end = goal.limit.map(|l| tokio::time::Instant::now() + l);
    let mut show = Show { goal, me, last: String::new() };
    let mut present: Option<Upgrade> = None;
    loop {
        match listen(session, &mut stream, end).await {
            Heard::Changed(upgrade) => {
                show.change(printer, &upgrade)?;
                let phase = status(&upgrade).phase;
                if reached(goal, &upgrade) {
                    return finish(printer, goal, &upgrade);
                }
                if phase.is_terminal() && goal.phase.is_some() && is_current(&upgrade) {
                    return Err(missed(goal, &upgrade).into());
                }
                present = Some(*upgrade);
            }
            Heard::Tick => {
                if let Some(upgrade) = &present {
                    show.tick(printer, upgrade)?;
                }
            }
            Heard::Gone => {
                let text = format!("Upgrade `{}` does not exist (any more)", goal.name);
                return Err(Refusal::new("NotFound", text).into());
            }
            Heard::Failed(refusal) => return Err(refusal.into()),
            Heard::TooLate => return Err(too_late(goal, present.as_ref()).into()),
            Heard::Interrupted => {
                printer
                    .note(&format!("interrupted; Upgrade {} goes on in the cluster", goal.name))?;
                return Ok(Exit::Interrupted);
            }
        }
    }
}

async fn listen(
    session: &Session,
    stream: &mut (impl Stream<Item = Result<Option<Upgrade>, watcher::Error>> + Unpin),
    end: Option<tokio::time::Instant>,
) -> Heard {
    let too_late = async {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // A change that has come counts, even if time is up as well.
        biased;
        heard = stream.next() => match heard {
            Some(Ok(Some(upgrade))) => Heard::Changed(Box::new(upgrade)),
            Some(Ok(None)) | None => Heard::Gone,
            Some(Err(error)) => failed(session, &error),
        },
        _ = tokio::signal::ctrl_c() => Heard::Interrupted,
        () = too_late => Heard::TooLate,
        () = tokio::time::sleep(Duration::from_secs(1)) => Heard::Tick,
    }
}

/// What a person can mend ends the wait; what passes by itself is retried by the watch.
fn failed(session: &Session, error: &watcher::Error) -> Heard {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return Heard::Tick;
    };
    match cause {
        kube::Error::Api(s) if s.is_forbidden() || is_absent(s) || s.code == 401 => {
            Heard::Failed(explain(session, cause))
        }
        _ => Heard::Tick,
    }
}

fn reached(goal: &Goal, upgrade: &Upgrade) -> bool {
    let phase = status(upgrade).phase;
    is_current(upgrade) && goal.phase.map_or(phase.is_terminal(), |wanted| phase == wanted)
}

/// How an Upgrade that has ended ends us.
pub fn exit_of(phase: Phase) -> Exit {
    match phase {
        Phase::RolledBack | Phase::Aborted | Phase::Failed | Phase::Degraded => Exit::Failed,
        Phase::Rejected => Exit::Blocked,
        _ => Exit::Done,
    }
}

fn finish(printer: &mut Printer, goal: &Goal, upgrade: &Upgrade) -> anyhow::Result<Exit> {
    if !goal.watch {
        match goal.format {
            Some(Format::Json | Format::Yaml) => {
                printer.document(goal.format.unwrap_or(Format::Json), &document(upgrade)?)?;
            }
            Some(Format::Name) => printer.data(&crate::objects::reference(&goal.name))?,
            _ => {}
        }
    }
    if goal.phase.is_some() {
        return Ok(Exit::Done);
    }
    Ok(exit_of(status(upgrade).phase))
}

fn missed(goal: &Goal, upgrade: &Upgrade) -> Refusal {
    let status = status(upgrade);
    let wanted = goal.phase.map(|p| p.to_string()).unwrap_or_default();
    let text = format!(
        "Upgrade `{}` is {} and will not be {wanted}: {}",
        goal.name, status.phase, status.message
    );
    let refusal = Refusal::new("PhaseMissed", text);
    if status.phase == Phase::Rejected {
        Refusal { exit: Exit::Blocked, ..refusal }
    } else {
        refusal
    }
}

fn too_late(goal: &Goal, upgrade: Option<&Upgrade>) -> Refusal {
    let waited = goal.limit.map(|l| describe::span(i64::try_from(l.as_secs()).unwrap_or(i64::MAX)));
    let waited = waited.unwrap_or_default();
    let mut refusal = match upgrade {
        Some(upgrade) => {
            let why = describe::why(upgrade, Timestamp::now()).unwrap_or_default();
            let text = format!(
                "not done after {waited}: Upgrade `{}` is {}: {why}",
                goal.name,
                status(upgrade).phase
            );
            let refusal = Refusal::new("TimedOut", text);
            match describe::next(upgrade, None) {
                Some(next) => refusal.hint(format!("it goes on in the cluster; next: {next}")),
                None => refusal,
            }
        }
        None => Refusal::new(
            "TimedOut",
            format!("nothing heard of Upgrade `{}` in {waited}", goal.name),
        ),
    };
    refusal.exit = Exit::TimedOut;
    refusal
}

/// What has to differ for a line of its own.
fn transition(upgrade: &Upgrade) -> String {
    let status = status(upgrade);
    let approved = status.approvals.map(|a| a.approved_by.len());
    format!(
        "{} {} {} {} {} {approved:?}",
        status.phase,
        status.attempt,
        status.current_stage_index,
        status.current_step_index,
        upgrade.spec.paused
    )
}

/// How changes are shown.
struct Show<'a> {
    goal: &'a Goal,
    me: Option<&'a str>,
    last: String,
}

impl Show<'_> {
    fn view(&self, printer: &Printer) -> View<'_> {
        View { marks: printer.marks, width: Printer::width(), now: Timestamp::now(), me: self.me }
    }

    fn redraws(&self) -> bool {
        self.goal.watch
            && Printer::is_live()
            && matches!(self.goal.format, None | Some(Format::Wide))
    }

    fn change(&mut self, printer: &mut Printer, upgrade: &Upgrade) -> anyhow::Result<()> {
        if self.redraws() {
            let text = render(upgrade, &self.view(printer));
            printer.redraw(&text)?;
            return Ok(());
        }
        if self.goal.watch && matches!(self.goal.format, Some(Format::Json | Format::Yaml)) {
            return printer.json_line(&document(upgrade)?);
        }
        // Counts of pods change often and nobody reads them in a log: a line is a new phase, step
        // or number of approvals.
        let transition = transition(upgrade);
        if transition == self.last {
            return Ok(());
        }
        self.last = transition;
        let text = line(upgrade, &self.view(printer));
        if self.goal.watch {
            printer.data(&text)?;
        } else {
            printer.note(&text)?;
        }
        Ok(())
    }

    /// Ages and times to go move on a terminal though nothing was heard.
    fn tick(&mut self, printer: &mut Printer, upgrade: &Upgrade) -> anyhow::Result<()> {
        if self.redraws() {
            let text = render(upgrade, &self.view(printer));
            printer.redraw(&text)?;
        }
        Ok(())
    }
}
