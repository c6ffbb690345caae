use crate::api::{Decision, Identity, Upgrade, UpgradeApproval, UpgradeApprovalSpec};
use crate::plan::plan_hash;
use crate::policy::review::{Change, Operation, Subject};
use crate::policy::testing::{outcome, review, shop, upgrade, user};
use crate::policy::{Answers, Granted, Live, Verdict, confirm, decide};
use jiff::Timestamp;

fn approval(by: &str, edit: impl FnOnce(&mut UpgradeApprovalSpec)) -> UpgradeApproval {
    let live = upgrade("shop", "web-v2", "AwaitingApproval");
    let mut spec = UpgradeApprovalSpec {
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
    let subject = Subject::Approval(Box::new(Change { old: None, new: Some(approval) }));
    decide(&shop(), &review(by, operation, "", subject), Timestamp::UNIX_EPOCH)
}

fn end(by: &str, approval: UpgradeApproval, live: &Upgrade, granted: Granted) -> String {
    let verdict = ask(by, approval, Operation::Create);
    let Verdict::Confirm(question) = &verdict else {
        return outcome(&verdict).to_owned();
    };
    let answers = Answers { upgrade: Live::Found(Box::new(live.clone())), access: vec![granted] };
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
