//! Going on to a later step.

use super::Bench;
use crate::api::UpgradeApproval;
use crate::api::policy::ApprovalScope;
use crate::api::status::Phase;
use crate::api::upgrade::Promote;
use crate::engine::effect::Effect;
use crate::engine::governance::{Approvals, Door};
use crate::engine::model::Native;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Steps 0 to 8, the last one implied.
fn list() -> Value {
    json!([
        {"setWeight": 10}, {"pause": {}}, {"setWeight": 30}, {"pause": {}}, {"setReplicas": 5},
        {"pause": {"untilApproval": true}}, {"setWeight": 70}, {"pause": {}},
    ])
}

fn bench() -> Bench {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list());
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.pods(), bench.status.current_step_index), ((9, 1), 1));
    bench
}

impl Bench {
    fn go_to(&mut self, step: i32) {
        self.plan.promote = Some(Promote {
            attempt: self.status.attempt,
            stage: self.status.current_stage_index,
            step: self.status.current_step_index,
            full: false,
            to_step: Some(step),
        });
    }

    fn approve(&mut self, step: i32) {
        let approval: UpgradeApproval = serde_json::from_value(json!({
            "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "UpgradeApproval",
            "metadata": {"name": format!("up-{step}"), "uid": format!("up-{step}")},
            "spec": {"upgrade": "up", "planHash": self.plan.hash, "decision": "Approved",
                "stage": "web", "step": step, "approver": {"username": "sue"}},
        }))
        .expect("an approval");
        self.approvals.push(approval);
    }

    fn at(&self) -> (i32, (i32, i32)) {
        (self.status.current_step_index, self.pods())
    }
}

#[test]
fn pauses_and_weights_on_the_way_are_left_out() {
    let mut bench = bench();
    let before = bench.native.spec_writes;
    bench.go_to(4);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (5, (5, 5)), "at the pause after step 4, and step 2 was never walked");
    assert!(bench.native.spec_writes - before <= 5, "{}", bench.native.spec_writes - before);
    assert!(bench.status.message.contains("--stage web --step 5"), "{}", bench.status.message);
    let written = bench.status.clone();
    bench.run();
    assert_eq!(bench.status, written, "the same order again changes nothing");
}

#[test]
fn a_rest_is_gone_to_through_the_pods_before_it() {
    let mut bench = bench();
    bench.go_to(3);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (3, (7, 3)));
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (5, (5, 5)), "an order of one step is one of one step");
}

#[test]
fn nobodys_word_is_left_out() {
    let mut bench = bench();
    bench.go_to(8);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (5, (5, 5)), "it stops where approval is missing");
    bench.approve(5);
    assert_eq!(bench.run(), Phase::Completed, "and the order goes on from there");
    bench.untouched();
}

#[test]
fn a_policy_by_steps_is_asked_at_each_and_the_gate_of_the_last_is_looked_at() {
    let mut bench = bench();
    bench.governance.approvals =
        Approvals { required: 1, per: ApprovalScope::Step, ..Approvals::default() };
    bench.go_to(6);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (2, (9, 1)), "step 2 asks for a word");
    assert!(bench.status.message.contains("--stage web --step 2"), "{}", bench.status.message);
    bench.approve(4);
    bench.run();
    assert_eq!(bench.at(), (2, (9, 1)), "not past it, though a later one is approved");
    bench.approve(2);
    bench.approve(5);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (6, (9, 1)), "at the ordered step, whose own gates are looked at");
    bench.approve(6);
    bench.governance.window = Door::Shut { why: "it is Christmas".to_owned(), next: None };
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (6, (9, 1)));
    assert!(bench.status.message.contains("Christmas"), "{}", bench.status.message);
    bench.governance.window = Door::default();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (7, (3, 7)));
}

#[test]
fn behind_a_shut_gate_nothing_of_what_was_left_out_moves() {
    let mut bench = bench();
    bench.governance.window = Door::Shut { why: "it is Christmas".to_owned(), next: None };
    bench.go_to(4);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (4, (9, 1)), "neither step 4 nor step 2, which it left out");
}

#[test]
fn back_and_out_of_range_go_nowhere() {
    for step in [-1, 0, 1, 9, 100] {
        let mut bench = bench();
        bench.go_to(step);
        // The pause itself is released, as by any promotion; what is further is not.
        bench.plan.promote.as_mut().expect("an order").step = 0;
        assert_eq!(bench.run(), Phase::Paused);
        assert_eq!(bench.at(), (1, (9, 1)), "to step {step}");
    }
}

#[test]
fn another_attempt_is_not_bound_by_it_and_the_jump_is_an_event() {
    let mut bench = bench();
    bench.go_to(3);
    let observed = crate::engine::observed::Observed {
        held: true,
        workloads: vec![vec![Some(bench.native.observe(bench.now))]],
        ..crate::engine::observed::Observed::default()
    };
    let outcome = crate::engine::step(&bench.plan, &observed, &bench.status, bench.now);
    let told = |e: &Effect| matches!(e, Effect::Event(e) if e.reason == "Jumped");
    assert!(outcome.effects.iter().any(told), "{:?}", outcome.effects);
    bench.run();
    bench.plan.abort = true;
    assert_eq!(bench.run(), Phase::Aborted);
    (bench.plan.abort, bench.plan.retry) = (false, 1);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.at(), (1, (9, 1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Orders at any rest: only ever forward, never past a word that is missing, and all new in the
    /// end with every promise kept.
    #[test]
    fn any_jumps_end_all_new(orders in prop::collection::vec(0..=9i32, 1..12), n in 1..=40i32) {
        let mut bench = Bench::new(Native::new(n, "25%", "25%"), &list());
        bench.run();
        let mut before = 0;
        for order in orders {
            if bench.status.phase != Phase::Paused { break; }
            prop_assert!(bench.status.current_step_index >= before);
            prop_assert!(bench.status.current_step_index <= 5, "past step 5 without a word");
            before = bench.status.current_step_index;
            bench.go_to(order);
            bench.run();
        }
        bench.approve(5);
        for _ in 0..9 {
            if bench.run() != Phase::Paused { break; }
            bench.go_to(8);
        }
        prop_assert_eq!(bench.status.phase, Phase::Completed);
        prop_assert_eq!(bench.pods(), (0, n));
        prop_assert!(bench.native.least >= n && bench.native.monotone);
        bench.untouched();
    }
}
