use crate::api::upgrade::{Control, Promote};
use crate::api::{Identity, Upgrade};
use crate::policy::review::{Change, Operation, Subject};
use crate::policy::testing::{US, outcome, review, shop, upgrade};
use crate::policy::{
    Access, AccessNeed, Answers, Granted, Labelled, Seen, Snapshot, Verdict, confirm, decide,
};
use jiff::Timestamp;
use serde_json::json;

fn ask(
    s: &Snapshot,
    user: &str,
    operation: Operation,
    old: Option<&Upgrade>,
    new: Option<&Upgrade>,
) -> Verdict {
    let change = Change { old: old.cloned(), new: new.cloned() };
    let subject = Subject::Upgrade(Box::new(change));
    decide(s, &review(user, operation, "", subject), Timestamp::UNIX_EPOCH)
}

fn verbs(verdict: &Verdict) -> Vec<&'static str> {
    let Verdict::Confirm(question) = verdict else {
        return Vec::new();
    };
    let verb = |need: &AccessNeed| match need {
        AccessNeed::One(a) | AccessNeed::WholeOrEach { whole: a, .. } => a.verb,
    };
    question.access.iter().map(verb).collect()
}

fn edited(phase: &str, edit: impl FnOnce(&mut Upgrade)) -> Upgrade {
    let mut upgrade = upgrade("shop", "web-v2", phase);
    edit(&mut upgrade);
    upgrade
}

#[test]
fn creation_names_its_requester_and_needs_the_targets_rights() {
    let mut s = shop();
    let new = upgrade("shop", "web-v2", "Pending");
    let verdict = ask(&s, "alice", Operation::Create, None, Some(&new));
    let Verdict::Confirm(question) = &verdict else { panic!("{verdict:?}") };
    assert_eq!(question.upgrade, None);
    let [AccessNeed::WholeOrEach { whole, each }] = question.access.as_slice() else {
        panic!("{question:?}")
    };
    assert_eq!((whole.verb, whole.resource, &whole.name), ("patch", "deployments", &None));
    assert_eq!(each.iter().map(|a| a.name.as_deref()).collect::<Vec<_>>(), [Some("web")]);
    let seen = || Seen::Found(Labelled::new());
    let answer = |granted| Answers { access: vec![granted], labels: seen(), ..Answers::default() };
    assert!(confirm(question, &answer(Granted::Yes)).is_ok());
    let refusal = confirm(question, &answer(Granted::No(each.clone()))).expect_err("refused");
    assert_eq!(refusal.reason.as_str(), "AccessDenied");
    assert!(refusal.why.contains("`patch` on deployments.apps/web in namespace shop"), "{refusal}");
    assert_eq!(
        refusal.command.as_deref(),
        Some("kubectl auth can-i patch deployments.apps/web -n shop")
    );
    assert!(confirm(question, &answer(Granted::Failed("down".into()))).is_err());
    assert!(confirm(question, &Answers { labels: seen(), ..Answers::default() }).is_err());

    let outcome_of =
        |s: &Snapshot, u: &Upgrade| outcome(&ask(s, "alice", Operation::Create, None, Some(u)));
    let another = |r: Option<Identity>| edited("Pending", |u| u.spec.requester = r);
    assert_eq!(outcome_of(&s, &another(None)), "IdentityMismatch");
    let bob = Identity { username: "bob".into(), uid: None, groups: vec!["devs".into()] };
    assert_eq!(outcome_of(&s, &another(Some(bob))), "IdentityMismatch");
    let admins = Identity { username: "alice".into(), uid: None, groups: vec!["admins".into()] };
    assert_eq!(outcome_of(&s, &another(Some(admins))), "IdentityMismatch", "groups count");
    let idle = edited("Pending", |u| {
        let stage = u.spec.stages[0].workloads.as_mut().expect("a stage");
        stage.targets[0].images[0].to = "docker.io/library/web:v1".into();
    });
    assert_eq!(outcome_of(&s, &idle), "NothingChanges");
    let preset = edited("Pending", |u| {
        let promote = Promote { full: true, ..Promote::default() };
        u.spec.control = Some(Control { promote: Some(promote), ..Control::default() });
    });
    assert_eq!(outcome_of(&s, &preset), "OrdersPreset");
    for (phase, expected) in
        [("Paused", "WorkloadBusy"), ("Pending", "WorkloadBusy"), ("RolledBack", "Confirm")]
    {
        s.set_upgrade(&upgrade("shop", "earlier", phase));
        assert_eq!(outcome_of(&s, &new), expected, "{phase}");
    }
    s.set_synced(false);
    assert_eq!(outcome_of(&s, &new), "NotReady");
    assert_eq!(outcome(&ask(&s, US, Operation::Create, None, Some(&new))), "NotReady");
}

#[test]
fn our_own_controller_opens_upgrades_only_in_the_name_of_somebody_who_could() {
    let s = shop();
    let mut new = upgrade("shop", "web-1", "Pending");
    new.spec.held = true;
    let Verdict::Confirm(question) = ask(&s, US, Operation::Create, None, Some(&new)) else {
        panic!("no question");
    };
    let name = question.on_behalf_of.as_ref().map(|i| i.username.as_str());
    assert_eq!((name, question.access.len()), (Some("alice"), 1));
    assert_eq!(outcome(&ask(&s, "alice", Operation::Create, None, Some(&new))), "ControllerOnly");
    new.spec.requester = None;
    assert_eq!(outcome(&ask(&s, US, Operation::Create, None, Some(&new))), "IdentityMismatch");
}

#[test]
fn an_order_to_go_on_goes_forward_to_a_step_that_is_there() {
    let s = shop();
    let old = edited("Paused", |u| {
        u.status.get_or_insert_default().current_step_index = 1;
    });
    // Weight 10, a pause, and the last weight.
    for (to, expected) in [(0, "WrongPhase"), (1, "WrongPhase"), (2, "Confirm"), (3, "WrongPhase")]
    {
        let mut new = old.clone();
        let promote = Promote { to_step: Some(to), ..Promote::default() };
        new.spec.control = Some(Control { promote: Some(promote), ..Control::default() });
        let verdict = ask(&s, "bob", Operation::Update, Some(&old), Some(&new));
        assert_eq!(outcome(&verdict), expected, "to step {to}");
        if let Verdict::Deny(refusal) = &verdict {
            assert!(refusal.why.contains("the steps of that stage are 0 to 2"), "{refusal}");
        }
        let mut later = new.clone();
        later.spec.paused = true;
        let verdict = ask(&s, "bob", Operation::Update, Some(&new), Some(&later));
        assert_eq!(outcome(&verdict), "Confirm", "an order that stands is in nobody's way");
    }
}

#[test]
fn each_order_is_a_verb_of_its_own() {
    let s = shop();
    let old = upgrade("shop", "web-v2", "Progressing");
    let control = |c: serde_json::Value| {
        edited("Progressing", |u| {
            u.spec.control = serde_json::from_value(c).ok();
        })
    };
    let rows = [
        (old.clone(), vec![]),
        (
            edited("Progressing", |u| {
                u.metadata.labels = Some([("a".into(), "b".into())].into());
            }),
            vec![],
        ),
        (edited("Progressing", |u| u.spec.paused = true), vec!["pause"]),
        (control(json!({})), vec![]),
        (control(json!({"abort": true})), vec!["abort"]),
        (control(json!({"retry": 1})), vec!["retry"]),
        (control(json!({"promote": {"step": 1}})), vec!["promote"]),
        (control(json!({"abort": true, "promote": {}})), vec!["abort", "promote"]),
    ];
    for (new, expected) in rows {
        let verdict = ask(&s, "bob", Operation::Update, Some(&old), Some(&new));
        assert_eq!(verbs(&verdict), expected, "{:?}", new.spec.control);
        // Taking an order back needs the same right.
        let back = ask(&s, "bob", Operation::Update, Some(&new), Some(&old));
        assert_eq!(verbs(&back), expected);
        if let Verdict::Confirm(q) = verdict {
            let AccessNeed::One(a) = &q.access[0] else { panic!("{q:?}") };
            let right = Access {
                verb: expected[0],
                group: "kubectl-upgrade.dev",
                resource: "upgrades",
                namespace: "shop".into(),
                name: Some("web-v2".into()),
            };
            assert_eq!(*a, right);
        }
        assert_eq!(outcome(&ask(&s, US, Operation::Update, Some(&old), Some(&new))), "Allow");
    }
}

#[test]
fn the_finalizer_and_the_object_stay_while_it_is_in_flight() {
    let s = shop();
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    for (phase, in_flight) in
        [("Progressing", true), ("Paused", true), ("Pending", false), ("Aborted", false)]
    {
        let old = upgrade("shop", "web-v2", phase);
        let bare = edited(phase, |u| u.metadata.finalizers = None);
        let verdict = ask(&s, "alice", Operation::Update, Some(&old), Some(&bare));
        assert_eq!(
            outcome(&verdict),
            if in_flight { "FinalizerGuarded" } else { "Allow" },
            "{phase}"
        );
        let verdict = ask(&s, "alice", Operation::Delete, Some(&old), None);
        assert_eq!(verbs(&verdict), if in_flight { vec!["abort"] } else { vec![] }, "{phase}");
        assert_eq!(outcome(&ask(&s, collector, Operation::Delete, Some(&old), None)), "Allow");
        assert_eq!(outcome(&ask(&s, US, Operation::Update, Some(&old), Some(&bare))), "Allow");
    }
}

#[test]
fn the_status_is_the_controllers_alone() {
    let s = shop();
    let both = || Change {
        old: Some(upgrade("shop", "u", "Pending")),
        new: Some(upgrade("shop", "u", "Completed")),
    };
    for (user, expected) in
        [("alice", "ControllerOnly"), ("system:admin", "ControllerOnly"), (US, "Allow")]
    {
        let subject = Subject::Upgrade(Box::new(both()));
        let r = review(user, Operation::Update, "status", subject);
        assert_eq!(outcome(&decide(&s, &r, Timestamp::UNIX_EPOCH)), expected, "{user}");
    }
    let nobody = Snapshot::new("");
    let r = review("", Operation::Update, "status", Subject::Upgrade(Box::new(both())));
    assert_eq!(
        outcome(&decide(&nobody, &r, Timestamp::UNIX_EPOCH)),
        "ControllerOnly",
        "no name is nobody's name"
    );
}

#[test]
fn blue_green_needs_the_rights_to_its_services_too() {
    let s = shop();
    let asks = |settings: serde_json::Value| {
        let new = edited("Pending", |u| {
            let stage = u.spec.stages[0].workloads.as_mut().expect("a stage");
            stage.strategy =
                serde_json::from_value(json!({ "blueGreen": settings })).expect("a strategy");
        });
        let verdict = ask(&s, "alice", Operation::Create, None, Some(&new));
        let Verdict::Confirm(question) = verdict else { panic!("{verdict:?}") };
        let words = |need: &AccessNeed| match need {
            AccessNeed::One(whole) => vec![whole.to_string()],
            AccessNeed::WholeOrEach { each, .. } => each.iter().map(ToString::to_string).collect(),
        };
        question.access.iter().skip(1).flat_map(words).collect::<Vec<_>>()
    };
    assert_eq!(
        asks(json!({"activeService": "web", "previewService": "next"})),
        ["`patch` on services/web in namespace shop", "`patch` on services/next in namespace shop"]
    );
    assert_eq!(
        asks(json!({"activeService": "web"})),
        [
            "`patch` on services/web in namespace shop",
            "`create` on services in namespace shop",
            "`patch` on services/web-preview in namespace shop",
            "`delete` on services/web-preview in namespace shop",
        ]
    );
}

#[test]
fn routes_of_our_own_need_the_rights_to_them_by_name() {
    let s = shop();
    let asks = |steps: serde_json::Value| {
        let canary = json!({"steps": steps,
            "trafficRouting": {"gatewayAPI": {"httpRoutes": [{"name": "a"}, {"name": "b"}]}}});
        let new = edited("Pending", |u| {
            let stage = u.spec.stages[0].workloads.as_mut().expect("a stage");
            stage.strategy =
                serde_json::from_value(json!({ "canary": canary })).expect("a strategy");
        });
        let verdict = ask(&s, "alice", Operation::Create, None, Some(&new));
        let Verdict::Confirm(question) = verdict else { panic!("{verdict:?}") };
        let one = |need: &AccessNeed| match need {
            AccessNeed::One(whole) => Some(whole.to_string()),
            AccessNeed::WholeOrEach { .. } => None,
        };
        let all = question.access.iter().filter_map(one);
        all.filter(|n| n.contains("httproutes")).collect::<Vec<_>>()
    };
    let patched =
        |name| format!("`patch` on httproutes.gateway.networking.k8s.io/{name} in namespace shop");
    let deleted =
        |name| format!("`delete` on httproutes.gateway.networking.k8s.io/{name} in namespace shop");
    assert_eq!(asks(json!([{"setWeight": 10}])), ["a", "b"].map(patched));
    let value = json!({"exact": "1"});
    let header = json!([{"headerName": "X", "headerValue": value}]);
    let mut wanted = vec![patched("a"), patched("b")];
    wanted.push("`create` on httproutes.gateway.networking.k8s.io in namespace shop".to_owned());
    wanted.extend(["web-beta", "web-beta.2"].map(|n| [patched(n), deleted(n)]).concat());
    let steps = json!([{"setWeight": 10}, {"setHeaderRoute": {"name": "beta", "match": header}},
        {"setHeaderRoute": {"name": "beta"}}]);
    assert_eq!(asks(steps), wanted);
}
