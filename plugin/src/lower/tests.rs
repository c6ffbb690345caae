use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;

fn cli(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split_whitespace()).map(|c| c.command)
}

fn lowered(line: &str) -> Result<Intent, Refusal> {
    match cli(line).expect("clap takes it") {
        Command::Plan(args) => intent(&args.change, &args.strategy),
        Command::Start(args) => start(&args).map(|s| s.intent),
        other => Err(Refusal::usage(format!("{other:?}"))),
    }
}

fn refused(line: &str) -> String {
    let refusal = lowered(line).expect_err(line);
    assert_eq!(refusal.exit, crate::output::Exit::Usage, "{line}");
    refusal.message
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn global_flags_may_follow_the_verb() {
    assert!(cli("kubectl-upgrade status -n shop --context c").is_ok());
    assert!(cli("kubectl-upgrade list -A -o json --kubeconfig f").is_ok());
}

#[test]
fn steps_have_a_short_form() {
    let got = steps("10,pause, 50% ,pause:5m,pause:30,100", false).expect("valid");
    let text: Vec<String> = got
        .iter()
        .map(|s| match (s.set_weight, &s.pause) {
            (Some(w), _) => w.to_string(),
            (_, Some(p)) => format!("p{}", p.duration.clone().unwrap_or_default()),
            _ => String::new(),
        })
        .collect();
    assert_eq!(text, ["10", "p", "50", "p5m", "p30s", "100"]);
    let got = steps("replicas:1,pause:5m,replicas:3,50,100", false).expect("valid");
    let pods: Vec<_> = got.iter().map(|s| s.set_replicas).collect();
    assert_eq!(pods, [Some(1), None, Some(3), None, None]);
    let got = steps("10,analysis:success-rate", false).expect("valid");
    let asked = got[1].analysis.as_ref().expect("an analysis");
    assert_eq!(asked.templates[0].template_name, "success-rate");
}

#[test]
fn bad_steps_name_the_flag_and_the_step() {
    for (text, part) in [
        ("101", "weight 101 is not a percentage from 1 to 100"),
        ("0", "weight 0 is not"),
        ("-1", "weight -1 is not"),
        ("50,10", "weight 10 comes after 50"),
        ("10,,20", "an empty step"),
        ("", "an empty step"),
        ("replicas:0", "`replicas:0` is not a number of pods, at least 1"),
        ("replicas:x", "`replicas:x` is not a number"),
        ("replicas:3,50,replicas:2", "replicas:2 comes after replicas:3"),
        ("10,rest", "`rest` is neither a weight nor"),
        ("10,pause:soon", "`soon` is not a duration"),
        ("10,pause:0", "rests for no time"),
        ("pause,10", "the first step is a pause"),
        ("1.5", "`1.5` is neither"),
        ("10,analysis:No One", "`No One` is not the name of an AnalysisTemplate"),
    ] {
        let refusal = steps(text, false).expect_err(text);
        assert!(refusal.message.contains(part), "{text}: {}", refusal.message);
        assert!(refusal.message.starts_with("--steps"), "{text}: {}", refusal.message);
    }
    assert!(steps(&vec!["1"; 51].join(","), false).is_err());
}

#[test]
fn what_is_to_change_is_checked_before_any_request() {
    let base = "kubectl-upgrade plan";
    for (line, part) in [
        ("", "nothing to upgrade"),
        ("web --to v2", "`web` is not TYPE/NAME"),
        ("cronjob/db --to v2", "of no cronjob"),
        ("service/web --to v2", "`service` is no kind of workload"),
        ("deploy/Web --to v2", "`Web` is not a valid object name"),
        ("deploy/web", "what should they run?"),
        ("deploy/web deploy/web --to v2", "deploy/web is named twice"),
        ("deploy/web --image web", "`web` is not CONTAINER=IMAGE"),
        ("deploy/web --image web=UPPER:v1:2", "--image web: `UPPER:v1:2` is not an image"),
        ("deploy/web --image a=r/a:1 --image a=r/a:2", "container `a` is given twice"),
        ("deploy/web --to a/b", "--to: `a/b` is not an image tag"),
        (
            "deploy/web --to v2 --strategy rolling --steps 10",
            "--steps belongs to --strategy canary",
        ),
        ("deploy/web --to v2 --on-timeout soon", "--on-timeout: `soon` is not a duration"),
        ("deploy/web --to v2 --on-timeout 0", "--on-timeout 0 would never end"),
        ("deploy/web --to v2 --name Web_1", "--name: `Web_1` is not a valid name"),
        ("deploy/web -R --to v2", "-R belongs to -f"),
        ("deploy/web --images-only --to v2", "--images-only belongs to -f"),
        ("-f - -f -", "-f - is given twice"),
    ] {
        let message = refused(&format!("{base} {line}"));
        assert!(message.contains(part), "{line}: {message}");
    }
    assert!(cli("kubectl-upgrade plan -f x deploy/web").is_err());
}

#[test]
fn the_strategy_follows_from_the_flags() {
    let canary = |line: &str| lowered(line).expect("valid").strategy.canary.map(|c| c.steps.len());
    assert_eq!(canary("kubectl-upgrade plan deploy/web --to v2"), None);
    assert_eq!(canary("kubectl-upgrade plan deploy/web --to v2 --strategy canary"), Some(5));
    assert_eq!(canary("kubectl-upgrade plan deploy/web --to v2 --steps 20"), Some(1));
    let rollback = |line: &str| lowered(line).expect("valid").auto_rollback;
    assert_eq!(rollback("kubectl-upgrade start deploy/web --to v2"), None);
    let set =
        rollback("kubectl-upgrade start deploy/web --to v2 --no-auto-rollback --on-timeout 30m");
    let set = set.expect("set");
    assert!(!set.on_failure.health_check_failure);
    assert_eq!(set.on_timeout.as_deref(), Some("30m"));
}

#[test]
fn when_it_may_go_is_checked() {
    use upgrade_core::api::upgrade::WindowOverrun;
    let plain = lowered("k start deploy/web --to v2").expect("valid");
    assert!(plain.not_before.is_none() && plain.window_overrun.is_none());
    let set = "k start deploy/web --to v2 --not-before 2026-12-24T03:00Z --window-overrun rollback";
    let set = lowered(set).expect("valid");
    assert_eq!(set.not_before.expect("a time").0.to_string(), "2026-12-24T03:00:00Z");
    assert_eq!(set.window_overrun, Some(WindowOverrun::Rollback));
    let wrong = refused("k start deploy/web --to v2 --not-before tomorrow");
    assert!(wrong.contains("--not-before: `tomorrow` is not a time"), "{wrong}");
}

#[test]
fn what_a_canary_takes_besides_steps_is_checked() {
    let base = "k start ds/net --to v2";
    let canary = |more: &str| {
        lowered(&format!("{base} {more}")).expect(more).strategy.canary.expect("a canary")
    };
    let set = canary("--steps 10 --canary-nodes pool=canary,zone= --rollback-window 3");
    let labels: Vec<_> = set.canary_nodes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["pool=canary", "zone="]);
    assert_eq!(set.rollback_window.map(|w| w.revisions), Some(3));
    let set = canary("--strategy canary --analysis success-rate,service=web,min=0.9=x");
    let asked = set.analysis.expect("an analysis");
    assert_eq!(asked.templates[0].template_name, "success-rate");
    let args: Vec<_> = asked.args.iter().map(|a| (a.name.as_str(), a.value.as_deref())).collect();
    assert_eq!(args, [("service", Some("web")), ("min", Some("0.9=x"))]);
    for (more, part) in [
        ("--canary-nodes a=b", "--canary-nodes belongs to --strategy canary"),
        ("--analysis t", "--analysis belongs to --strategy canary"),
        ("--strategy rolling --rollback-window 2", "--rollback-window belongs to"),
        ("--steps 10 --canary-nodes pool", "`pool` is not KEY=VALUE"),
        ("--steps 10 --canary-nodes a=b,a=c", "names a label that is given already"),
        ("--steps 10 --analysis No_One", "`No_One` is not the name of an AnalysisTemplate"),
        ("--steps 10 --analysis t,x", "`x` is not ARG=VALUE"),
        ("--steps 10 --analysis t,x=1,x=2", "argument `x` is given twice"),
    ] {
        let message = refused(&format!("{base} {more}"));
        assert!(message.contains(part), "{more}: {message}");
    }
    let message = refused("k start deploy/web --to v2 --steps 10 --canary-nodes a=b");
    assert!(message.contains("is for DaemonSets"), "{message}");
    assert!(cli("k start ds/net --to v2 --steps 10 --rollback-window 0").is_err());
}

#[test]
fn two_that_want_one_workload_are_told_what_to_do() {
    use upgrade_core::api::upgrade::OnConflict;
    let said = |more: &str| lowered(&format!("k start deploy/web --to v2 {more}")).expect(more);
    assert_eq!(said("").on_conflict, None);
    assert_eq!(said("--on-conflict Queue").on_conflict, Some(OnConflict::Queue));
    assert_eq!(said("--on-conflict supersede").on_conflict, Some(OnConflict::Supersede));
    assert!(cli("k start deploy/web --to v2 --on-conflict wait").is_err());
}

#[test]
fn waiting_is_checked() {
    let say = |line: &str| match cli(line).expect("clap takes it") {
        Command::Status(args) => status(&args).map_or_else(|e| e.message, |f| format!("{f:?}")),
        _ => String::new(),
    };
    assert!(say("k status a --timeout 5m").contains("--timeout needs --wait"));
    assert!(say("k status a --for=Done").contains("`Done` is no phase; phases are Pending"));
    assert!(say("k status a --for=paused --timeout 90s").contains("90s"));
    assert!(say("k status shop/a").contains("not the name of an Upgrade"));
    assert!(refused("k start deploy/web --to v2 --wait --dry-run=server").contains("--wait"));
}

#[test]
fn durations_are_those_of_the_api() {
    let read = |t: &str| duration::parse(t).map(|d| d.as_millis());
    for (text, ms) in
        [("30s", 30_000), ("1h30m", 5_400_000), ("250ms", 250), ("7", 7_000), ("0", 0)]
    {
        assert_eq!(read(text), Some(ms), "{text}");
    }
    for text in ["", "s", "5x", "-1s", "1.5h", "5m3", "m5"] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn blue_green_is_checked_before_any_request() {
    let base = "k start deploy/web --to v2";
    let settings = |more: &str| {
        lowered(&format!("{base} {more}")).expect(more).strategy.blue_green.expect("blueGreen")
    };
    let plain = settings("--strategy blueGreen --active-service web");
    assert_eq!((plain.preview().0.as_str(), plain.scale_down_delay_seconds), ("web-preview", 30));
    let set = settings(
        "--active-service web --preview-service next --auto-promotion=false --scale-down-delay 5m \
         --preview-replicas 2",
    );
    assert!(!set.auto_promotion_enabled);
    assert_eq!((set.scale_down_delay_seconds, set.preview_replica_count), (300, Some(2)));
    assert_eq!(
        settings("--active-service web --auto-promotion-delay 90").auto_promotion_seconds,
        Some(90)
    );
    let routed = settings("--active-service web --route shop").traffic_routing.expect("a router");
    assert_eq!(routed.gateway_api.and_then(|g| g.http_route).as_deref(), Some("shop"));
    for (more, part) in [
        ("--strategy blueGreen", "needs --active-service NAME"),
        ("--active-service web --route httproute/shop", "is not the name of an HTTPRoute"),
        ("--strategy rolling --route shop", "--route belongs to --strategy blueGreen"),
        (
            "--strategy blue-green --active-service svc/web",
            "`svc/web` is not the name of a Service",
        ),
        ("--active-service web --preview-service web", "`web` is the active Service"),
        ("--active-service web --steps 10", "--active-service belongs to --strategy blueGreen"),
        (
            "--strategy blueGreen --active-service web --steps 10",
            "--steps belongs to --strategy canary",
        ),
        (
            "--strategy rolling --scale-down-delay 5s",
            "--scale-down-delay belongs to --strategy blueGreen",
        ),
        ("--preview-replicas 2", "--preview-replicas belongs to --strategy blueGreen"),
        ("--active-service web --scale-down-delay 1500ms", "not a number of whole seconds"),
        (
            "--active-service web --scale-down-delay soon",
            "--scale-down-delay: `soon` is not a duration",
        ),
        (
            "--active-service web --auto-promotion=false --auto-promotion-delay 1m",
            "does nothing with --auto-promotion=false",
        ),
        ("deploy/api --active-service web", "blueGreen takes one workload"),
    ] {
        let message = refused(&format!("{base} {more}"));
        assert!(message.contains(part), "{more}: {message}");
    }
}

#[test]
fn a_canary_of_its_own_is_a_flag_with_labels() {
    let base = "kubectl-upgrade start deploy/web --image web=r/web:v2";
    let canary = |more: &str| {
        lowered(&format!("{base} {more}")).expect(more).strategy.canary.expect("a canary")
    };
    let weights = |c: &upgrade_core::api::upgrade::Canary| {
        c.steps.iter().filter_map(|s| s.set_weight).collect::<Vec<_>>()
    };
    let plain = canary("--separate --steps 50,pause,10");
    assert_eq!(weights(&plain), [50, 10]);
    assert!(plain.separate.expect("separate").labels.is_empty());
    let labelled = canary("--separate=track=canary,team=a");
    assert_eq!(weights(&labelled), [10, 50, 100]);
    let labels = labelled.separate.expect("separate").labels;
    assert_eq!(labels.get("track").map(String::as_str), Some("canary"));
    for (more, part) in [
        ("--separate --steps 100,50", "weight 50 comes after 100"),
        ("--separate=x", "`x` is no label"),
        ("--separate --strategy rolling", "--separate belongs to --strategy canary"),
        ("--separate --active-service web", "--separate belongs to --strategy canary"),
    ] {
        let said = refused(&format!("{base} {more}"));
        assert!(said.contains(part), "{more}: {said}");
    }
}
