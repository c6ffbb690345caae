//! `pause`, `resume`, `promote`, `abort`, `retry`: orders to an Upgrade under way.

mod jump;

use crate::cli::{DryRun, Format, NameArgs};
use crate::client::Session;
use crate::objects::{document, is_current, patch, reference, status, upgrade};
use crate::output::describe::{Rest, next, resting};
use crate::output::{Exit, Printer, Refusal};
use kube::ResourceExt;
use serde_json::{Value, json};
use upgrade_core::api::{Phase, Upgrade};

/// The orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Stop where it stands.
    Pause,
    /// Go on.
    Resume,
    /// Go on past a pause step.
    Promote {
        /// Past every pause step of the stage.
        full: bool,
    },
    /// Go on to a later step.
    GoTo {
        /// Its index in the stage, from 0.
        step: i32,
    },
    /// Take it back.
    Abort,
    /// Start it over.
    Retry,
}

/// What an order comes to.
#[derive(Debug, PartialEq)]
enum Order {
    /// This patch, and what to call it.
    Patch(Value, &'static str, String),
    /// It is so already.
    Already(&'static str),
}

/// Gives an order.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    verb: Verb,
    args: &NameArgs,
) -> anyhow::Result<Exit> {
    let found = upgrade(session, &args.name).await?;
    let given = match verb {
        Verb::GoTo { step } => jump::order(&found, step, &jump::approvals(session, &found).await),
        _ => order(verb, &found),
    };
    let (after, word, left) = match given? {
        Order::Already(word) => (found, word.to_owned(), String::new()),
        Order::Patch(body, word, left) => match args.dry_run {
            DryRun::Client => (found, format!("{word} (dry run)"), left),
            DryRun::Server => {
                let after = patch(session, &args.name, &body, args.dry_run).await?;
                (after, format!("{word} (server dry run)"), left)
            }
            DryRun::None => {
                (patch(session, &args.name, &body, args.dry_run).await?, word.to_owned(), left)
            }
        },
    };
    said(printer, args.output.output, &after, &word, &left)?;
    Ok(Exit::Done)
}

/// One line for a mutation, or the object.
pub fn said(
    printer: &mut Printer,
    format: Option<Format>,
    upgrade: &Upgrade,
    word: &str,
    left: &str,
) -> anyhow::Result<()> {
    match format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &document(upgrade)?)?;
        }
        Some(Format::Name) => printer.data(&reference(&upgrade.name_any()))?,
        None | Some(Format::Wide) => {
            printer.data(&format!("{} {word}", reference(&upgrade.name_any())))?;
            if !left.is_empty() {
                printer.note(left)?;
            }
        }
    }
    Ok(())
}

fn order(verb: Verb, upgrade: &Upgrade) -> Result<Order, Refusal> {
    match verb {
        Verb::Pause => pause(upgrade),
        Verb::Resume => resume(upgrade),
        Verb::Promote { full } => promote(upgrade, full),
        Verb::GoTo { step } => jump::order(upgrade, step, &[]),
        Verb::Abort => abort(upgrade),
        Verb::Retry => retry(upgrade),
    }
}

/// A verb that makes no sense in this phase, with the command that does.
fn senseless(upgrade: &Upgrade, what: &str) -> Refusal {
    let phase = status(upgrade).phase;
    let message = format!("Upgrade {} is {phase}: {what}", upgrade.name_any());
    let refusal = match phase {
        Phase::AwaitingApproval => Refusal::blocked("AwaitingApproval", message),
        Phase::Rejected => Refusal::blocked("Rejected", message),
        _ => Refusal::new("WrongPhase", message),
    };
    if !is_current(upgrade) {
        return refusal
            .hint("the controller has not seen the last order yet: try again in a moment");
    }
    match next(upgrade, None) {
        Some(command) => refusal.hint(command),
        None => refusal,
    }
}

fn pause(upgrade: &Upgrade) -> Result<Order, Refusal> {
    let phase = status(upgrade).phase;
    if upgrade.spec.paused {
        return Ok(Order::Already("paused already"));
    }
    if phase.is_terminal() || phase == Phase::RollingBack {
        return Err(senseless(upgrade, "there is nothing to pause"));
    }
    let left = match phase {
        Phase::Pending | Phase::AwaitingApproval => {
            "it will not start before `resume`, approved or not"
        }
        _ => {
            "it stands still where it is, and what runs goes on serving; `resume` goes on from here"
        }
    };
    Ok(Order::Patch(json!({"spec": {"paused": true}}), "paused", left.to_owned()))
}

fn resume(upgrade: &Upgrade) -> Result<Order, Refusal> {
    if upgrade.spec.paused {
        let left = match status(upgrade).phase {
            Phase::AwaitingApproval => "it still waits for approval",
            _ => "",
        };
        return Ok(Order::Patch(json!({"spec": {"paused": null}}), "resumed", left.to_owned()));
    }
    if resting(upgrade).is_some() {
        return Err(senseless(
            upgrade,
            "it rests at a pause step, which `promote` ends, not `resume`",
        ));
    }
    if status(upgrade).phase.is_terminal() {
        return Err(senseless(upgrade, "there is nothing to resume"));
    }
    Ok(Order::Already("not paused"))
}

fn promote(upgrade: &Upgrade, full: bool) -> Result<Order, Refusal> {
    let status = status(upgrade);
    if upgrade.spec.paused && status.phase.is_in_flight() {
        return Err(senseless(upgrade, "all of it is paused; `resume` comes first"));
    }
    let left = match (resting(upgrade), status.phase, full) {
        (Some(_), _, true) | (None, Phase::Progressing, true) => {
            "it goes on past every pause to the end of the stage"
        }
        (Some(Rest::Timed), _, false) => "it goes on now and does not wait for the time to pass",
        (Some(Rest::UntilPromoted), _, false) => "it goes on to the next step",
        (Some(Rest::UntilApproved), _, false) => {
            let what = "this pause waits for an approval, and a promotion is none: \
                        `kubectl upgrade approve NAME --stage STAGE --step STEP`";
            return Err(senseless(upgrade, what));
        }
        (None, Phase::Progressing, false) => {
            let what =
                "it moves, and does not rest at a pause step (`--full` releases those to come)";
            return Err(senseless(upgrade, what));
        }
        (None, Phase::AwaitingApproval, _) => {
            return Err(senseless(upgrade, "it has not begun; it needs approval, not promotion"));
        }
        (None, _, _) => return Err(senseless(upgrade, "it does not rest at a pause step")),
    };
    let mut order = json!({
        "attempt": status.attempt,
        "stage": status.current_stage_index,
        "step": status.current_step_index,
        // A merge patch keeps what it does not name, and an old order may have been a full one.
        "full": null,
        "toStep": null,
    });
    if full && let Some(map) = order.as_object_mut() {
        map.insert("full".to_owned(), true.into());
    }
    Ok(Order::Patch(json!({"spec": {"control": {"promote": order}}}), "promoted", left.to_owned()))
}

fn abort(upgrade: &Upgrade) -> Result<Order, Refusal> {
    let phase = status(upgrade).phase;
    if phase.is_terminal() {
        return Err(senseless(upgrade, "it has ended, so there is nothing to take back"));
    }
    if upgrade.spec.control.as_ref().is_some_and(|c| c.abort) {
        return Ok(Order::Already("aborted already"));
    }
    let left = if phase.is_in_flight() {
        "the old images and the workloads' own settings are put back; `status -w` shows it"
    } else {
        "nothing was touched yet, and nothing will be"
    };
    Ok(Order::Patch(json!({"spec": {"control": {"abort": true}}}), "aborted", left.to_owned()))
}

fn retry(upgrade: &Upgrade) -> Result<Order, Refusal> {
    let status = status(upgrade);
    match status.phase {
        Phase::Degraded | Phase::RolledBack | Phase::Aborted | Phase::Failed => {}
        Phase::Rejected => {
            return Err(senseless(upgrade, "a rejection is final; make another Upgrade"));
        }
        _ => {
            return Err(senseless(
                upgrade,
                "only one that failed or was taken back is started over",
            ));
        }
    }
    let attempt = status.attempt + 1;
    // An old promote order stays: it names the attempt it was for, and each order is a right of its own.
    let body = json!({"spec": {"control": {"abort": null, "retry": attempt}}});
    let left = if upgrade.spec.paused {
        "it is paused, so it starts over after `resume`"
    } else {
        "it starts over from the first step, behind the same gates"
    };
    Ok(Order::Patch(body, "started over", left.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Exit;

    fn upgrade(phase: &str, step: i32, spec: Value) -> Upgrade {
        let mut object = json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": "web-v2", "namespace": "shop"},
            "spec": {"stages": [{"name": "s", "workloads": {"targets": [], "strategy": {"canary": {"steps": [
                {"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "5m"}}]}}}}]},
            "status": {"phase": phase, "attempt": 2, "currentStepIndex": step}
        });
        if let (Some(map), Value::Object(spec)) = (object["spec"].as_object_mut(), spec) {
            map.extend(spec);
        }
        serde_json::from_value(object).expect("an Upgrade")
    }

    fn body(verb: Verb, upgrade: &Upgrade) -> Value {
        match order(verb, upgrade).expect("an order") {
            Order::Patch(body, ..) => body,
            Order::Already(word) => json!(word),
        }
    }

    #[test]
    fn promote_names_the_very_pause_it_ends() {
        let promote = |full| Verb::Promote { full };
        let got = body(promote(false), &upgrade("Paused", 1, json!({})));
        assert_eq!(
            got,
            json!({"spec": {"control": {"promote":
            {"attempt": 2, "stage": 0, "step": 1, "full": null, "toStep": null}}}})
        );
        let got = body(promote(true), &upgrade("Progressing", 2, json!({})));
        assert_eq!(got["spec"]["control"]["promote"]["full"], true);
        for (phase, step, spec, part) in [
            ("Progressing", 0, json!({}), "does not rest at a pause step"),
            ("AwaitingApproval", 0, json!({}), "needs approval"),
            ("Completed", 4, json!({}), "does not rest"),
            ("Paused", 1, json!({"paused": true}), "`resume` comes first"),
        ] {
            let refusal = order(promote(false), &upgrade(phase, step, spec)).expect_err(phase);
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
    }

    #[test]
    fn resume_at_a_pause_step_tells_to_promote() {
        let refusal = order(Verb::Resume, &upgrade("Paused", 1, json!({}))).expect_err("refused");
        assert!(refusal.message.contains("`promote`"), "{}", refusal.message);
        assert_eq!(refusal.hints, ["kubectl upgrade promote web-v2 -n shop"]);
        let held = upgrade("Paused", 1, json!({"paused": true}));
        assert_eq!(body(Verb::Resume, &held), json!({"spec": {"paused": null}}));
        assert_eq!(body(Verb::Resume, &upgrade("Progressing", 0, json!({}))), json!("not paused"));
    }

    #[test]
    fn what_has_ended_cannot_be_steered() {
        for phase in ["Completed", "RolledBack", "Aborted", "Rejected", "Failed"] {
            for verb in [Verb::Pause, Verb::Resume, Verb::Abort] {
                let refusal = order(verb, &upgrade(phase, 0, json!({}))).expect_err(phase);
                assert!(refusal.message.contains(phase), "{}", refusal.message);
            }
        }
        let blocked = order(Verb::Retry, &upgrade("Rejected", 0, json!({}))).expect_err("final");
        assert_eq!(blocked.exit, Exit::Blocked);
    }

    #[test]
    fn retry_counts_up_and_takes_the_abort_back() {
        let got = body(Verb::Retry, &upgrade("RolledBack", 0, json!({"control": {"abort": true}})));
        assert_eq!(got, json!({"spec": {"control": {"abort": null, "retry": 3}}}));
        assert!(order(Verb::Retry, &upgrade("Progressing", 0, json!({}))).is_err());
    }
}
