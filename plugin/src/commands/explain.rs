//! `explain`: why an Upgrade can't go on now, when it can, and what helps.

use crate::cli::{ExplainArgs, Format};
use crate::client::Session;
use crate::lower;
use crate::objects::{reference, requester, status, upgrade, whoami};
use crate::output::checks::{Check, Outcome, Style, render};
use crate::output::describe::{self, Rest};
use crate::output::{Exit, Printer, Refusal, when};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::ResourceExt;
use owo_colors::OwoColorize;
use serde::Serialize;
use std::fmt::Write;
use upgrade_core::api::status::{Gate, GateStatus};
use upgrade_core::api::{Phase, Upgrade};

/// Checks the flags.
pub fn lower(args: &ExplainArgs) -> Result<TimeZone, Refusal> {
    lower::upgrade_name(&args.name, "NAME")?;
    lower::zone(args.timezone.as_deref())
}

/// Who looks, when and where.
struct View<'a> {
    me: Option<&'a str>,
    now: Timestamp,
    zone: &'a TimeZone,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    kind: &'static str,
    name: String,
    namespace: String,
    phase: Phase,
    reason: &'static str,
    held: bool,
    message: String,
    gates: Vec<GateView>,
    /// When something changes by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<When>,
    /// What helps, beside what the gates say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
}

#[derive(Debug, Serialize)]
struct GateView {
    gate: Gate,
    open: bool,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<When>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct When {
    time: Timestamp,
    local: String,
    relative: String,
}

impl When {
    fn of(time: Timestamp, view: &View<'_>) -> Self {
        let (local, relative) = (when::local(time, view.zone), when::relative(time, view.now));
        Self { time, local, relative }
    }
}

/// Explains one Upgrade.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &ExplainArgs,
    zone: &TimeZone,
) -> anyhow::Result<Exit> {
    let (found, me) = tokio::join!(upgrade(session, &args.name), whoami(session));
    let found = found?;
    let answer = explanation(&found, &View { me: me.as_deref(), now: Timestamp::now(), zone });
    match args.output.output {
        Some(format @ (Format::Json | Format::Yaml)) => printer.document(format, &answer)?,
        Some(Format::Name) => printer.data(&reference(&answer.name))?,
        None | Some(Format::Wide) => {
            let style = Style { marks: printer.marks, width: Printer::width(), most: None };
            printer.data(&text(&answer, style))?;
        }
    }
    Ok(if answer.held { Exit::Blocked } else { Exit::Done })
}

fn explanation(upgrade: &Upgrade, view: &View<'_>) -> Explanation {
    let status = status(upgrade);
    let gates: Vec<GateView> =
        gates(upgrade, view.now).into_iter().map(|gate| gate_view(upgrade, gate, view)).collect();
    let shut = gates.iter().any(|g| !g.open);
    let (reason, own, commands) = standing(upgrade, view);
    let over = status.phase.is_terminal();
    let reason = if shut && !over && reason != "Paused" { "GateShut" } else { reason };
    Explanation {
        kind: "Explanation",
        name: upgrade.name_any(),
        namespace: upgrade.namespace().unwrap_or_default(),
        phase: status.phase,
        reason,
        held: own || (shut && !over),
        message: describe::why(upgrade, view.now).unwrap_or_default(),
        next: when_next(upgrade, &gates, view),
        // What has ended waits for no gate.
        gates: if over { Vec::new() } else { gates },
        commands,
    }
}

/// What the controller says of gates; where it does not, what the rest of the status comes to.
fn gates(upgrade: &Upgrade, now: Timestamp) -> Vec<GateStatus> {
    let status = status(upgrade);
    if !status.gates.is_empty() {
        return status.gates;
    }
    let mut gates = Vec::new();
    if let Some(at) = upgrade.spec.not_before.clone().filter(|at| at.0 > now) {
        let message = "it was asked to start no sooner".to_owned();
        gates.push(GateStatus { gate: Gate::NotBefore, open: false, message, next: Some(at) });
    }
    if let Some(count) = status.approvals.filter(|c| c.required > 0) {
        let open = status.phase != Phase::AwaitingApproval;
        let mut message = format!("{} of {} approvals", count.approved_by.len(), count.required);
        if !count.approved_by.is_empty() {
            let _ = write!(message, ", by {}", count.approved_by.join(", "));
        }
        gates.push(GateStatus { gate: Gate::Approval, open, message, next: None });
    }
    gates
}

fn gate_view(upgrade: &Upgrade, gate: GateStatus, view: &View<'_>) -> GateView {
    let command = (!gate.open).then(|| command(upgrade, gate.gate, view.me));
    let next = gate.next.map(|t| When::of(t.0, view));
    GateView { gate: gate.gate, open: gate.open, message: gate.message, next, command }
}

/// The command that helps with a shut gate, or shows when it opens.
fn command(upgrade: &Upgrade, gate: Gate, me: Option<&str>) -> String {
    let (name, namespace) = (upgrade.name_any(), upgrade.namespace().unwrap_or_default());
    match gate {
        Gate::Approval => {
            let mine = me.is_some() && requester(upgrade).as_deref() == me;
            let note = if mine { "   (you cannot: you are the requester)" } else { "" };
            format!("kubectl upgrade approve {name} -n {namespace}{note}")
        }
        Gate::Policy => "kubectl get upgradepolicies -o yaml   (what it allows)".to_owned(),
        Gate::NotBefore | Gate::Notice => {
            format!("kubectl upgrade status {name} -n {namespace} -w   (it goes on by itself)")
        }
        Gate::Window => format!("kubectl upgrade windows next -n {namespace}"),
        Gate::Matrix => "kubectl upgrade matrix list   (which versions go together)".to_owned(),
    }
}

/// What holds it beside the gates: a reason, whether it is held, and what helps.
fn standing(upgrade: &Upgrade, view: &View<'_>) -> (&'static str, bool, Vec<String>) {
    let (name, namespace) = (upgrade.name_any(), upgrade.namespace().unwrap_or_default());
    let line = |verb: &str| format!("kubectl upgrade {verb} {name} -n {namespace}");
    match status(upgrade).phase {
        Phase::Completed => ("Completed", false, vec![]),
        Phase::RollingBack => ("RollingBack", false, vec![line("status") + " -w"]),
        Phase::RolledBack | Phase::Aborted => ("Ended", true, vec![line("retry")]),
        Phase::Failed => ("Ended", true, vec![line("history"), line("retry")]),
        Phase::Rejected => ("Rejected", true, vec![line("history")]),
        _ if upgrade.spec.paused => ("Paused", true, vec![line("resume")]),
        Phase::Paused => match describe::resting(upgrade) {
            // It goes on by itself; nobody holds it any more than its own steps do.
            Some(Rest::Timed) => ("Resting", true, vec![line("promote")]),
            Some(Rest::UntilApproved) => ("AwaitingApproval", true, vec![approve(upgrade)]),
            _ => ("Paused", true, vec![line("promote")]),
        },
        Phase::Degraded => ("Degraded", true, vec![line("abort"), line("retry")]),
        Phase::AwaitingApproval => ("AwaitingApproval", true, vec![]),
        Phase::Pending if upgrade.status.is_none() => {
            let old =
                describe::why(upgrade, view.now).is_some_and(|w| w.starts_with("no controller"));
            ("NotSeen", old, if old { vec!["kubectl upgrade doctor".to_owned()] } else { vec![] })
        }
        Phase::Pending | Phase::Progressing => ("NotHeld", false, vec![]),
    }
}

/// The command that approves the step it rests at.
fn approve(upgrade: &Upgrade) -> String {
    let now = status(upgrade);
    let at = usize::try_from(now.current_stage_index).unwrap_or(0);
    let stage = upgrade.spec.stages.get(at).map(|s| s.name.as_str()).unwrap_or_default();
    let (name, namespace) = (upgrade.name_any(), upgrade.namespace().unwrap_or_default());
    let step = now.current_step_index;
    format!("kubectl upgrade approve {name} --stage {stage} --step {step} -n {namespace}")
}

/// The time at which the last of the gates that open by themselves has opened; where one waits for
/// people, what the status says of a next change.
fn when_next(upgrade: &Upgrade, gates: &[GateView], view: &View<'_>) -> Option<When> {
    let shut: Vec<&GateView> = gates.iter().filter(|g| !g.open).collect();
    let last = shut.iter().filter_map(|g| g.next.as_ref()).max_by_key(|w| w.time);
    let noted = || Some(When::of(status(upgrade).next_transition_time?.0, view));
    last.cloned().or_else(noted).filter(|_| !status(upgrade).phase.is_terminal())
}

fn text(answer: &Explanation, style: Style) -> String {
    let place = format!("{}/{}", answer.namespace, answer.name);
    let phase = answer.phase.to_string();
    let word = if answer.held { phase.yellow().to_string() } else { phase.green().to_string() };
    let mut text = format!("Upgrade:  {place}   Phase: {word}\n");
    let verdict = match (answer.held, answer.phase) {
        (_, phase) if phase.is_terminal() => "it has ended".to_owned(),
        (false, _) => "nothing holds it".to_owned(),
        (true, _) => {
            let shut = answer.gates.iter().filter(|g| !g.open).map(|g| g.gate.to_string());
            let shut: Vec<String> = shut.collect();
            if shut.is_empty() {
                "it is held".to_owned()
            } else {
                format!("it is held by {}", shut.join(", "))
            }
        }
    };
    let why =
        if answer.message.is_empty() { verdict } else { format!("{verdict}: {}", answer.message) };
    lines(&mut text, "Why:      ", &why, style);
    if let Some(next) = &answer.next {
        let people = answer.gates.iter().any(|g| !g.open && g.next.is_none());
        let note = if people { ", once people have done their part" } else { "" };
        lines(&mut text, "When:     ", &format!("{} ({}){note}", next.local, next.relative), style);
    }
    for command in &answer.commands {
        let _ = writeln!(text, "Next:     {command}");
    }
    if !answer.gates.is_empty() {
        text.push('\n');
        text.push_str(&render(&answer.gates.iter().map(row).collect::<Vec<_>>(), style));
    }
    text
}

fn lines(text: &mut String, label: &str, value: &str, style: Style) {
    for (n, line) in crate::output::checks::wrap(value, style.width, label.len()).iter().enumerate()
    {
        let lead = if n == 0 { label.to_owned() } else { " ".repeat(label.len()) };
        let _ = writeln!(text, "{lead}{line}");
    }
}

/// A gate as a check: open is passed.
fn row(gate: &GateView) -> Check {
    let id = match gate.gate {
        Gate::Policy => "Policy",
        Gate::Approval => "Approval",
        Gate::NotBefore => "NotBefore",
        Gate::Notice => "Notice",
        Gate::Window => "Window",
        Gate::Matrix => "Matrix",
    };
    let outcome = if gate.open { Outcome::Passed } else { Outcome::Error };
    let next = gate.next.as_ref().map(|n| {
        let word = if gate.open { "until" } else { "opens" };
        format!("{word} {} ({})", n.local, n.relative)
    });
    let check = Check { group: "Gates", ..Check::new(id, outcome, gate.message.clone()) };
    let check = check.seen(next);
    match &gate.command {
        Some(command) => check.hint(command.clone()),
        None => check,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::printer::Marks;
    use serde_json::{Value, json};

    fn with(phase: &str, status: Value, spec: Value) -> Explanation {
        let mut object = json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "Upgrade",
            "metadata": {"name": "web-v2", "namespace": "shop"},
            "spec": {"stages": [], "requester": {"username": "ana"}},
            "status": {"phase": phase},
        });
        for (part, more) in [("status", status), ("spec", spec)] {
            for (key, value) in more.as_object().expect("an object") {
                object[part][key] = value.clone();
            }
        }
        let upgrade: Upgrade = serde_json::from_value(object).expect("an Upgrade");
        let now = "2026-12-22T00:00:00Z".parse().expect("a time");
        let zone = TimeZone::get("Europe/Rome").expect("a zone");
        explanation(&upgrade, &View { me: Some("ana"), now, zone: &zone })
    }

    #[test]
    fn each_shut_gate_says_when_and_what_helps() {
        let answer = with(
            "AwaitingApproval",
            json!({"message": "waits", "gates": [
                {"gate": "Policy", "open": true, "message": "policy shop allows it"},
                {"gate": "Approval", "open": false, "message": "0 of 1 approvals"},
                {"gate": "Window", "open": false, "message": "freeze xmas holds",
                    "next": "2026-12-27T08:00:00Z"},
                {"gate": "Matrix", "open": false, "message": "web v2 wants api v3"},
            ]}),
            json!({}),
        );
        assert!(answer.held && answer.reason == "GateShut");
        let style = Style { marks: Marks { unicode: false }, width: None, most: None };
        let plain = anstream::adapter::strip_str(&text(&answer, style)).to_string();
        assert_eq!(
            plain,
            "Upgrade:  shop/web-v2   Phase: AwaitingApproval\n\
             Why:      it is held by Approval, Window, Matrix: waits\n\
             When:     Sun 2026-12-27 09:00 CET (in 5d 8h), once people have done their part\n\
             \n\
             Gates\n\
             ok Policy    policy shop allows it\n\
             x  Approval  0 of 1 approvals\n\
             \x20    hint: kubectl upgrade approve web-v2 -n shop   (you cannot: you are the requester)\n\
             x  Window    freeze xmas holds\n\
             \x20    opens Sun 2026-12-27 09:00 CET (in 5d 8h)\n\
             \x20    hint: kubectl upgrade windows next -n shop\n\
             x  Matrix    web v2 wants api v3\n\
             \x20    hint: kubectl upgrade matrix list   (which versions go together)\n"
        );
    }

    #[test]
    fn without_gates_the_phase_says_whether_it_is_held() {
        let none = || json!({});
        let weighs = json!({"stages": [{"name": "a", "workloads": {"targets": [], "strategy":
            {"canary": {"steps": [{"setWeight": 10}, {"pause": {}}]}}}}]});
        for (phase, status, spec, reason, held) in [
            ("Progressing", none(), none(), "NotHeld", false),
            ("Completed", none(), none(), "Completed", false),
            ("Rejected", none(), none(), "Rejected", true),
            ("RolledBack", none(), none(), "Ended", true),
            ("Degraded", none(), none(), "Degraded", true),
            ("Paused", json!({"currentStepIndex": 1}), weighs, "Paused", true),
            ("Progressing", none(), json!({"paused": true}), "Paused", true),
            (
                "AwaitingApproval",
                json!({"approvals": {"required": 2, "approvedBy": ["bob"]}}),
                none(),
                "GateShut",
                true,
            ),
            ("Pending", none(), json!({"notBefore": "2026-12-24T00:00:00Z"}), "GateShut", true),
            ("Pending", none(), json!({"notBefore": "2026-12-20T00:00:00Z"}), "NotHeld", false),
            (
                "Progressing",
                json!({"approvals": {"required": 1, "approvedBy": ["bob"]}}),
                none(),
                "NotHeld",
                false,
            ),
        ] {
            let answer = with(phase, status, spec);
            assert_eq!((answer.reason, answer.held), (reason, held), "{phase}");
        }
    }
}
