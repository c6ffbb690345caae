use crate::api::{Decision, Identity, Upgrade, UpgradeApproval, UpgradeApprovalSpec};
use crate::plan::plan_hash;
use crate::policy::review::{Change, Operation, Subject};
use crate::policy::testing::{outcome, policy, review, shop, shop_with, upgrade, user};
use crate::policy::{Answers, Granted, Labelled, Live, Seen, Snapshot, Verdict, confirm, decide};
use jiff::Timestamp;
use serde_json::json;

fn approval(by: &str, edit: impl FnOnce(&mut UpgradeApprovalSpec)) -> UpgradeApproval {
    let live = upgrade("shop", "web-v2", "AwaitingApproval");
    let mut spec = UpgradeApprovalSpec {
        stage: None,
        step: None,
        upgrade: "web-v2".into(),
        upgrade_uid: Some("uid-web-v2".into()),
        plan_hash: plan_hash("shop", "web-v2", &live.spec),
        decision: Decision::Approved,
        reason: None,
        approver: Some(user(by).identity()),
    };
    edit(&mut spec);
    UpgradeApproval::new("a", spec)
}

fn ask(by: &str, approval: UpgradeApproval, operation: Operation) -> Verdict {
    ask_in(&shop(), by, approval, operation)
}

fn ask_in(s: &Snapshot, by: &str, approval: UpgradeApproval, operation: Operation) -> Verdict {
    let subject = Subject::Approval(Box::new(Change { old: None, new: Some(approval) }));
    decide(s, &review(by, operation, "", subject), Timestamp::UNIX_EPOCH)
}

fn end(by: &str, approval: UpgradeApproval, live: &Upgrade, granted: Granted) -> String {
    end_in(&shop(), by, approval, live, granted)
}

fn end_in(
    s: &Snapshot,
    by: &str,
    approval: UpgradeApproval,
    live: &Upgrade,
    granted: Granted,
) -> String {
    let verdict = ask_in(s, by, approval, Operation::Create);
    let Verdict::Confirm(question) = &verdict else {
        return outcome(&verdict).to_owned();
    };
    let answers = Answers {
        templates: vec![],
        upgrade: Live::Found(Box::new(live.clone())),
        access: vec![granted],
        labels: Seen::Found(Labelled::new()),
    };
    confirm(question, &answers).map_or_else(|r| r.reason.to_string(), |()| "Allow".to_owned())
}

#[test]
fn an_approval_is_somebody_elses_word_on_this_plan() {
    let wait = upgrade("shop", "web-v2", "AwaitingApproval");
    let at = |phase: &str| upgrade("shop", "web-v2", phase);
    let reject = |s: &mut UpgradeApprovalSpec| s.decision = Decision::Rejected;
    let mut other_plan = wait.clone();
    other_plan.spec.to = Some("v3".into());
    let mut namesake = wait.clone();
    namesake.metadata.uid = Some("uid-later".into());
    let mut nobodys = wait.clone();
    nobodys.spec.requester = None;
    let bob = |edit: fn(&mut UpgradeApprovalSpec)| approval("bob", edit);
    let rows = [
        ("bob", bob(|_| ()), &wait, "Allow"),
        ("bob", bob(|_| ()), &at("Pending"), "Allow"),
        ("bob", bob(reject), &wait, "Allow"),
        ("alice", approval("alice", |_| ()), &wait, "OwnUpgrade"),
        ("alice", approval("alice", reject), &wait, "Allow"),
        ("bob", bob(|_| ()), &nobodys, "OwnUpgrade"),
        ("bob", bob(|_| ()), &other_plan, "StalePlan"),
        ("bob", bob(|_| ()), &namesake, "StalePlan"),
        ("bob", bob(|s| s.upgrade_uid = None), &wait, "StalePlan"),
        ("bob", bob(|s| s.plan_hash = String::new()), &wait, "StalePlan"),
        ("bob", bob(|_| ()), &at("Progressing"), "WrongPhase"),
        ("bob", bob(reject), &at("Completed"), "WrongPhase"),
        ("bob", bob(|s| s.approver = None), &wait, "IdentityMismatch"),
        (
            "bob",
            bob(|s| {
                s.approver = Some(Identity {
                    username: "carol".into(),
                    uid: None,
                    groups: vec!["devs".into()],
                });
            }),
            &wait,
            "IdentityMismatch",
        ),
    ];
    for (n, (by, approval, live, expected)) in rows.into_iter().enumerate() {
        assert_eq!(end(by, approval, live, Granted::Yes), expected, "row {n}");
    }
}

#[test]
fn rights_are_checked_before_anything_is_told() {
    let stale = approval("bob", |s| s.plan_hash = "sha256:0".into());
    let live = upgrade("shop", "web-v2", "AwaitingApproval");
    let verdict = ask("bob", stale.clone(), Operation::Create);
    let Verdict::Confirm(question) = &verdict else { panic!("{verdict:?}") };
    let crate::policy::AccessNeed::One(access) = &question.access[0] else {
        panic!("{question:?}")
    };
    assert_eq!((access.verb, access.name.as_deref()), ("approve", Some("web-v2")));
    assert_eq!(end("bob", stale, &live, Granted::No(vec![access.clone()])), "AccessDenied");
    assert_eq!(
        outcome(&ask("bob", approval("bob", |_| ()), Operation::Update)),
        "Allow",
        "the CRD's rule"
    );
    assert_eq!(
        outcome(&ask("bob", approval("bob", |_| ()), Operation::Delete)),
        "Allow",
        "a word taken back"
    );
}

/// Scope, Upgrade, stage, step, outcome.
type Row<'a> = (&'a str, &'a Upgrade, Option<&'a str>, Option<i32>, &'a str);

/// Upgrade `web-v2` in two stages, `web` (steps: 0 sets 10, 1 rests, 2 sets 100) and `api`.
fn two_stages(phase: &str, at: (i32, i32)) -> Upgrade {
    let mut live = upgrade("shop", "web-v2", phase);
    let mut second = live.spec.stages[0].clone();
    second.name = "api".into();
    second.workloads.as_mut().expect("a stage").targets[0].name = "api".into();
    live.spec.stages.push(second);
    let status = live.status.as_mut().expect("a status");
    (status.current_stage_index, status.current_step_index) = at;
    live
}

#[test]
fn an_approval_covers_what_the_policy_asks_for() {
    let per = |per: &str| {
        shop_with(json!({"workloads": {"all": true}, "approvals": {"required": 1, "per": per}}))
    };
    let waits = two_stages("AwaitingApproval", (0, 0));
    let moves = two_stages("Progressing", (1, 0));
    let rests = two_stages("Paused", (0, 1));
    let broken = two_stages("Degraded", (0, 1));
    let rows: [Row<'_>; 22] = [
        ("Upgrade", &waits, None, None, "Allow"),
        ("Upgrade", &waits, Some("web"), None, "ScopeMismatch"),
        ("Upgrade", &waits, Some("web"), Some(0), "ScopeMismatch"),
        ("Upgrade", &rests, None, None, "WrongPhase"),
        ("Stage", &waits, None, None, "ScopeMismatch"),
        ("Stage", &waits, Some("web"), None, "Allow"),
        ("Stage", &waits, Some("api"), None, "Allow"),
        ("Stage", &waits, Some("db"), None, "ScopeMismatch"),
        ("Stage", &waits, Some("web"), Some(0), "ScopeMismatch"),
        ("Stage", &moves, Some("web"), None, "WrongPhase"),
        ("Stage", &moves, Some("api"), None, "Allow"),
        ("Stage", &rests, Some("api"), None, "Allow"),
        ("Stage", &broken, Some("api"), None, "WrongPhase"),
        ("Stage", &rests, None, None, "ScopeMismatch"),
        ("Step", &waits, Some("web"), None, "ScopeMismatch"),
        ("Step", &waits, Some("web"), Some(0), "Allow"),
        ("Step", &waits, Some("web"), Some(1), "ScopeMismatch"),
        ("Step", &waits, Some("web"), Some(2), "Allow"),
        ("Step", &waits, Some("web"), Some(3), "ScopeMismatch"),
        ("Step", &rests, Some("web"), Some(0), "WrongPhase"),
        ("Step", &rests, Some("web"), Some(2), "Allow"),
        ("Step", &waits, None, Some(0), "ScopeMismatch"),
    ];
    for (scope, live, stage, step, expected) in rows {
        let word = approval("bob", |s| {
            s.plan_hash = plan_hash("shop", "web-v2", &live.spec);
            (s.stage, s.step) = (stage.map(str::to_owned), step);
        });
        let given = end_in(&per(scope), "bob", word, live, Granted::Yes);
        assert_eq!(given, expected, "per {scope}: {stage:?} {step:?}");
    }
    // A rejection ends the whole, so it need not be of a part, but not of one that is not there.
    for (stage, expected) in
        [(None, "Allow"), (Some("web"), "Allow"), (Some("db"), "ScopeMismatch")]
    {
        let word = approval("bob", |s| {
            s.plan_hash = plan_hash("shop", "web-v2", &waits.spec);
            (s.stage, s.decision) = (stage.map(str::to_owned), Decision::Rejected);
        });
        assert_eq!(end_in(&per("Step"), "bob", word, &waits, Granted::Yes), expected, "{stage:?}");
    }
}

#[test]
fn a_mismatch_names_the_command_for_what_comes_next() {
    let s = shop_with(json!({"workloads": {"all": true}, "approvals": {"per": "Step"}}));
    let live = two_stages("Paused", (0, 1));
    let word = approval("bob", |s| s.plan_hash = plan_hash("shop", "web-v2", &live.spec));
    let Verdict::Confirm(question) = ask_in(&s, "bob", word, Operation::Create) else {
        panic!("no question")
    };
    let answers = Answers {
        templates: vec![],
        upgrade: Live::Found(Box::new(live)),
        access: vec![Granted::Yes],
        labels: Seen::Found(Labelled::new()),
    };
    let refusal = confirm(&question, &answers).expect_err("refused");
    assert_eq!(
        refusal.command.as_deref(),
        Some("kubectl upgrade approve web-v2 --stage web --step 2 -n shop"),
        "{refusal}"
    );
}

#[test]
fn only_the_approvers_of_every_policy_approve() {
    let spec = |people: serde_json::Value| json!({"workloads": {"all": true}, "approvals": {"approvers": people}});
    let live = upgrade("shop", "web-v2", "AwaitingApproval");
    let rows = [
        (json!({"groups": ["devs"]}), "Allow"),
        (json!({"users": ["bob"]}), "Allow"),
        (json!({"users": ["carol"], "groups": ["sre"]}), "ApproverNotAllowed"),
        (json!({}), "ApproverNotAllowed"),
    ];
    for (people, expected) in rows {
        let s = shop_with(spec(people.clone()));
        let word = approval("bob", |_| ());
        assert_eq!(end_in(&s, "bob", word, &live, Granted::Yes), expected, "{people}");
        let no = approval("bob", |s| s.decision = Decision::Rejected);
        assert_eq!(end_in(&s, "bob", no, &live, Granted::Yes), "Allow", "a no always counts");
    }
    // Two stages, two policies: what is approved decides whose word it needs.
    let mut s = shop_with(spec(json!({"groups": ["devs"]})));
    s.set_policy(&policy(
        "api",
        json!({"workloads": {"selector": {"matchLabels": {"app": "api"}}},
            "approvals": {"per": "Stage", "approvers": {"groups": ["sre"]}}}),
    ));
    let live = two_stages("AwaitingApproval", (0, 0));
    let api = [(
        (crate::api::WorkloadKind::Deployment, "api".to_owned()),
        crate::policy::testing::labels(&[("app", "api")]),
    )];
    for (stage, expected) in [("web", "Allow"), ("api", "ApproverNotAllowed")] {
        let word = approval("bob", |s| {
            s.plan_hash = plan_hash("shop", "web-v2", &live.spec);
            s.stage = Some(stage.to_owned());
        });
        let Verdict::Confirm(question) = ask_in(&s, "bob", word, Operation::Create) else {
            panic!("no question")
        };
        let answers = |labels| Answers {
            templates: vec![],
            upgrade: Live::Found(Box::new(live.clone())),
            access: vec![Granted::Yes],
            labels,
        };
        let said = |labels| {
            confirm(&question, &answers(labels)).map_or_else(|r| r.reason.as_str(), |()| "Allow")
        };
        assert_eq!(said(Seen::Found(api.clone().into())), expected, "{stage}");
        assert_eq!(said(Seen::NotAsked), "Unconfirmed");
        assert_eq!(said(Seen::Failed("timeout".into())), "Unconfirmed");
    }
}

#[test]
fn what_is_not_known_lets_nobody_approve() {
    let mut s = shop();
    s.set_synced(false);
    let word = || approval("bob", |_| ());
    assert_eq!(outcome(&ask_in(&s, "bob", word(), Operation::Create)), "NotReady");
    let mut s = Snapshot::new("us");
    s.set_synced(true);
    assert_eq!(outcome(&ask_in(&s, "bob", word(), Operation::Create)), "NotReady");
}
