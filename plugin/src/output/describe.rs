//! Why an Upgrade waits, until when, and what the next command is.

use crate::objects::{hash, requester, status};
use jiff::{Timestamp, Unit};
use kube::ResourceExt;
use upgrade_core::api::status::TargetStatus;
use upgrade_core::api::upgrade::{BlueGreen, CanaryStep, Strategy};
use upgrade_core::api::{
    AnalysisPhase, AnalysisRef, AnalysisRunStatus, BlueGreenPhase, Phase, Upgrade,
};
use upgrade_core::engine::managed;
use upgrade_core::engine::plan::Step;

/// Seconds as kubectl prints an age: `45s`, `12m`, `3h5m`, `2d4h`.
pub fn span(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..=119 => format!("{s}s"),
        120..=599 => match (s / 60, s % 60) {
            (m, 0) => format!("{m}m"),
            (m, s) => format!("{m}m{s}s"),
        },
        600..=10_799 => format!("{}m", s / 60),
        10_800..=172_799 => match (s / 3600, s % 3600 / 60) {
            (h, 0) => format!("{h}h"),
            (h, m) if h < 8 => format!("{h}h{m}m"),
            (h, _) => format!("{h}h"),
        },
        _ => format!("{}d", s / 86_400),
    }
}

/// How long ago.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(|| "<unknown>".to_owned(), |t| span(now.duration_since(t).as_secs()))
}

/// Age of an object.
pub fn object_age(upgrade: &Upgrade, now: Timestamp) -> String {
    age(upgrade.creation_timestamp().map(|t| t.0), now)
}

/// When something changes by itself: a time of day and how far away that is.
pub fn until(upgrade: &Upgrade, now: Timestamp) -> Option<String> {
    let at = upgrade.status.as_ref()?.next_transition_time.as_ref()?.0;
    let left = at.duration_since(now).as_secs();
    let local = at.to_zoned(jiff::tz::TimeZone::system()).round(Unit::Second).ok()?;
    let shown = local.strftime("%H:%M:%S %Z");
    Some(if left > 0 { format!("{shown} (in {})", span(left)) } else { format!("{shown} (now)") })
}

/// The steps of the strategy of the stage it is in.
pub fn steps(upgrade: &Upgrade) -> &[CanaryStep] {
    let index = usize::try_from(status(upgrade).current_stage_index).unwrap_or(0);
    strategy(upgrade, index).and_then(|s| s.canary.as_ref()).map_or(&[], |c| c.steps.as_slice())
}

/// The strategy of a stage.
pub fn strategy(upgrade: &Upgrade, stage: usize) -> Option<&Strategy> {
    upgrade.spec.stages.get(stage)?.workloads.as_ref().map(|w| &w.strategy)
}

/// The strategy in a few words: `canary 10, pause, 50, pause 5m, 100`.
pub fn strategy_text(strategy: &Strategy) -> String {
    match (&strategy.canary, &strategy.blue_green) {
        (Some(canary), _) => {
            let steps = canary.steps.iter().map(step_text).collect::<Vec<_>>().join(", ");
            let nodes: Vec<_> =
                canary.canary_nodes.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let first = if nodes.is_empty() {
                String::new()
            } else {
                format!(", nodes {} first", nodes.join(","))
            };
            let beside = canary.analysis.as_ref();
            let beside = beside.map(|a| format!(", beside it analysis {}", templates(a)));
            let through = canary.traffic_routing.as_ref();
            let through = through.map(|r| format!(" through {}", r.router())).unwrap_or_default();
            let window = canary.rollback_window.as_ref();
            let window = window.map(|w| format!(", rollback window {}", w.revisions));
            let window = window.unwrap_or_default();
            let own = if canary.separate.is_some() { " of its own" } else { "" };
            format!("canary{own} {steps}{through}{first}{}{window}", beside.unwrap_or_default())
        }
        (None, Some(settings)) => blue_green_text(settings),
        (None, None) => "rolling".to_owned(),
    }
}

/// `blueGreen web through gatewayAPI, preview web-preview, promote, switch, old pods stay 30s`.
fn blue_green_text(settings: &BlueGreen) -> String {
    let promoted = match (settings.auto_promotion_enabled, settings.auto_promotion_seconds) {
        (false, _) => "promote, ".to_owned(),
        (true, Some(s)) if s > 0 => format!("wait {}, ", span(s.into())),
        _ => String::new(),
    };
    let through = settings.traffic_routing.as_ref();
    let through = through.map(|r| format!(" through {}", r.router())).unwrap_or_default();
    format!(
        "blueGreen {}{through}, preview {}, {promoted}switch, old pods stay {}",
        settings.active_service,
        settings.preview().0,
        span(settings.scale_down_delay_seconds.into())
    )
}

/// Where the clients of a blue-green target are: `web: old pods, web-preview: new pods`.
pub fn clients(target: &TargetStatus) -> Option<String> {
    let seen = target.blue_green.as_ref()?;
    let pods = |hash: &Option<String>| match hash {
        None => "as its owner has it",
        hash if *hash == seen.new_hash => "new pods",
        hash if *hash == seen.stable_hash => "old pods",
        _ => "others",
    };
    let preview = seen
        .preview_selector
        .as_ref()
        .map(|_| format!(", {}: {}", seen.preview.name, pods(&seen.preview_selector)));
    Some(format!(
        "{}: {}{} ({})",
        seen.active.name,
        pods(&seen.active_selector),
        preview.unwrap_or_default(),
        seen.phase.as_str()
    ))
}

/// One step in a word.
pub fn step_text(step: &CanaryStep) -> String {
    if let Some(analysis) = &step.analysis {
        return format!("analysis {}", templates(analysis));
    }
    if let Some(route) = managed::read(step) {
        return route.map_or_else(|_| "?".to_owned(), |route| route.to_string());
    }
    if let Some(pods) = step.set_replicas {
        return Step::Replicas(pods).to_string();
    }
    match (step.set_weight, &step.pause) {
        (Some(weight), _) => weight.to_string(),
        (None, Some(pause)) => match &pause.duration {
            Some(duration) => format!("pause {duration}"),
            None if pause.until_approval => "pause until approval".to_owned(),
            None => "pause".to_owned(),
        },
        (None, None) => "?".to_owned(),
    }
}

/// The templates of an analysis.
fn templates(analysis: &AnalysisRef) -> String {
    let names = analysis.templates.iter().map(|t| t.template_name.as_str());
    names.collect::<Vec<_>>().join("+")
}

/// Whether it rests at a pause step; and if so, whether only a person ends that.
pub fn resting(upgrade: &Upgrade) -> Option<Rest> {
    let status = status(upgrade);
    if status.phase != Phase::Paused || upgrade.spec.paused {
        return None;
    }
    let index = usize::try_from(status.current_step_index).ok()?;
    let undecided = |r: &AnalysisRunStatus| r.phase == AnalysisPhase::Inconclusive && !r.overruled;
    if status.analysis_runs.iter().any(undecided) {
        return Some(Rest::UntilPromoted);
    }
    let stage = usize::try_from(status.current_stage_index).ok()?;
    if let Some(settings) = strategy(upgrade, stage).and_then(|s| s.blue_green.as_ref()) {
        let target = status.stages.get(stage)?.targets.first()?;
        let previewed = target.blue_green.as_ref()?.phase == BlueGreenPhase::PrePromotion;
        let rest = if settings.auto_promotion_enabled { Rest::Timed } else { Rest::UntilPromoted };
        return (previewed && index == 0).then_some(rest);
    }
    let step = steps(upgrade).get(index)?;
    if step.analysis.is_some() {
        return Some(Rest::UntilPromoted);
    }
    let pause = step.pause.as_ref()?;
    Some(match pause.duration {
        Some(_) => Rest::Timed,
        None if pause.until_approval => Rest::UntilApproved,
        None => Rest::UntilPromoted,
    })
}

/// How a pause step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// By itself.
    Timed,
    /// When somebody promotes.
    UntilPromoted,
    /// When somebody else approves the step.
    UntilApproved,
}

/// `1/2` where approvals are needed.
pub fn approval_count(upgrade: &Upgrade) -> Option<String> {
    let count = status(upgrade).approvals?;
    (count.required > 0).then(|| format!("{}/{}", count.approved_by.len(), count.required))
}

/// Why it is where it is.
pub fn why(upgrade: &Upgrade, now: Timestamp) -> Option<String> {
    let Some(status) = &upgrade.status else {
        let old =
            upgrade.creation_timestamp().is_some_and(|t| now.duration_since(t.0).as_secs() > 15);
        return Some(if old {
            "no controller has looked at it: is it running? `kubectl get deploy -n \
             kubectl-upgrade-system`"
                .to_owned()
        } else {
            "the controller has not looked at it yet".to_owned()
        });
    };
    (!status.message.is_empty()).then(|| status.message.clone())
}

/// The next command, and who can give it.
pub fn next(upgrade: &Upgrade, me: Option<&str>) -> Option<String> {
    let name = upgrade.name_any();
    let namespace = upgrade.namespace().unwrap_or_default();
    let line =
        |verb: &str, rest: &str| format!("kubectl upgrade {verb} {name} -n {namespace}{rest}");
    match status(upgrade).phase {
        Phase::AwaitingApproval => {
            let mine = me.is_some() && requester(upgrade).as_deref() == me;
            let note = if mine { "   (you cannot: you are the requester)" } else { "" };
            Some(line("approve", note))
        }
        Phase::Paused if upgrade.spec.paused => Some(line("resume", "")),
        Phase::Paused => Some(line("promote", "")),
        Phase::Degraded => Some(format!("{}   (or retry)", line("abort", ""))),
        Phase::RolledBack | Phase::Aborted => Some(line("retry", "")),
        Phase::Progressing | Phase::RollingBack | Phase::Pending => Some(line("status", " -w")),
        Phase::Completed | Phase::Rejected | Phase::Failed => None,
    }
}

/// The plan hash, short enough for a line.
pub fn short_hash(hash: &str) -> String {
    hash.get(..19).map_or_else(|| hash.to_owned(), |h| format!("{h}…"))
}

/// The hash that the status names, else the one computed here.
pub fn shown_hash(upgrade: &Upgrade) -> String {
    let seen = status(upgrade).plan_hash;
    if seen.is_empty() { hash(upgrade) } else { seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_is_told_in_the_words_of_its_steps() {
        let strategy: Strategy = serde_json::from_value(serde_json::json!({"canary": {"steps": [
            {"setReplicas": 1}, {"pause": {}}, {"setReplicas": 3}, {"pause": {"duration": "5m"}},
            {"setWeight": 50}]}}))
        .expect("a strategy");
        assert_eq!(strategy_text(&strategy), "canary 1 pod, pause, 3 pods, pause 5m, 50");
        let header = serde_json::json!([{"headerName": "X", "headerValue": {"exact": "1"}}]);
        let copied = serde_json::json!([{"method": {"exact": "GET"}}]);
        let strategy: Strategy = serde_json::from_value(serde_json::json!({"canary": {"steps": [
            {"setWeight": 1}, {"setHeaderRoute": {"name": "beta", "match": header}},
            {"setHeaderRoute": {"name": "beta"}},
            {"setMirrorRoute": {"name": "copy", "percentage": 10, "match": copied}}]}}))
        .expect("a strategy");
        let text = "canary 1, header route beta, no route beta, mirror route copy 10 %";
        assert_eq!(strategy_text(&strategy), text);
    }

    #[test]
    fn ages_are_those_of_kubectl() {
        for (seconds, text) in [
            (-5, "0s"),
            (45, "45s"),
            (119, "119s"),
            (125, "2m5s"),
            (180, "3m"),
            (3599, "59m"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (200_000, "2d"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }
}
