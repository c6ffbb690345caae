//! Mode Hold: an Upgrade whose Deployment has the new template already, paused.

use super::{Bench, Value, json, steps};
use crate::api::Identity;
use crate::api::status::Phase;
use crate::engine::model::{Behaviour, NEW, Native, OLD};
use proptest::prelude::*;

fn held(n: i32, strategy: &Value) -> Bench {
    let mut bench = Bench::with(Native::new(n, "25%", "25%"), strategy);
    bench.plan.held = true;
    let crate::engine::plan::StageKind::Workloads(stage) = &mut bench.plan.stages[0].kind else {
        panic!("another kind");
    };
    stage.held = true;
    bench.plan.requester = Some(Identity { username: "alice".to_owned(), ..Identity::default() });
    bench.native.hold();
    bench.native.settle();
    bench
}

fn canary(list: &Value) -> Value {
    json!({"canary": {"steps": list}})
}

fn is_held(bench: &Bench) -> bool {
    let native = &bench.native;
    native.held
        && native.paused
        && native.image == NEW
        && native.label.is_some()
        && !bench.held
        && !native.owned
}

#[test]
fn a_held_canary_costs_what_any_canary_costs_and_gives_up_no_pod() {
    let mut bench = held(20, &canary(&steps(&[10, 30, 50, 75, 100])));
    assert_eq!(bench.pods(), (20, 0));
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.native.spec_writes, bench.native.releases), (6, 1));
    assert_eq!((bench.pods(), bench.native.least), ((0, 20), 20));
    bench.untouched();
}

#[test]
fn a_held_rolling_upgrade_is_one_write_and_one_of_metadata() {
    let mut bench = held(10, &json!({"rolling": {}}));
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.native.spec_writes, bench.native.releases), (1, 1));
    assert_eq!(bench.pods(), (0, 10));
    bench.untouched();
}

#[test]
fn aborted_in_flight_it_is_held_again_and_a_retry_goes_on_from_there() {
    let list = json!([{"setWeight": 30}, {"pause": {}}]);
    let mut bench = held(10, &canary(&list));
    for attempt in 1..=3 {
        assert_eq!(bench.run(), Phase::Paused);
        assert_eq!((bench.pods(), bench.native.held), ((7, 3), false));
        bench.plan.abort = true;
        assert_eq!(bench.run(), Phase::Aborted);
        assert_eq!(bench.pods(), (10, 0));
        assert!(is_held(&bench), "{:?}", bench.native);
        assert_eq!(bench.native.fields, Native::new(10, "25%", "25%").fields);
        (bench.plan.abort, bench.plan.retry) = (false, attempt);
    }
    assert_eq!(bench.run(), Phase::Paused);
    bench.promote();
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.pods(), (0, 10));
    bench.untouched();
}

#[test]
fn aborted_before_it_began_nothing_is_written() {
    let mut bench = held(10, &canary(&steps(&[50])));
    bench.plan.abort = true;
    assert_eq!(bench.run(), Phase::Aborted);
    assert!(is_held(&bench));
    assert_eq!(bench.native.spec_writes, 0);
}

#[test]
fn what_crashes_is_held_again_and_a_refused_first_write_leaves_it_held() {
    for strategy in [json!({"rolling": {}}), canary(&steps(&[20]))] {
        let mut bench = held(10, &strategy);
        bench.native.behaviour = Behaviour::Crash;
        assert_eq!(bench.run(), Phase::RolledBack);
        assert_eq!(bench.pods(), (10, 0));
        assert!(is_held(&bench), "{:?}", bench.native);
        let mut refused = held(10, &strategy);
        refused.refuse = true;
        for _ in 0..5 {
            refused.round();
        }
        refused.plan.abort = true;
        refused.refuse = false;
        assert_eq!(refused.run(), Phase::Aborted);
        assert!(is_held(&refused), "{:?}", refused.native);
    }
}

#[test]
fn a_change_that_is_taken_back_or_made_another_ends_its_upgrade() {
    let rows = [
        (OLD, None, 10, "taken back"),
        (OLD, None, 0, "scaled to 0"),
        ("web:v3", Some("other"), 10, "superseded"),
        (NEW, Some("other"), 10, "Upgrade other"),
    ];
    for (image, label, n, says) in rows {
        let mut bench = held(n, &canary(&steps(&[50])));
        bench.native.image = image.to_owned();
        bench.native.label = label.map(str::to_owned);
        (bench.native.held, bench.native.paused) = (label.is_some(), label.is_some());
        assert_eq!(bench.run(), Phase::Aborted);
        assert!(bench.status.message.contains(says), "{}", bench.status.message);
        assert_eq!(bench.native.spec_writes, 0);
    }
}

#[test]
fn at_0_replicas_a_held_one_does_not_begin_and_in_flight_it_is_let_go_of() {
    let mut bench = held(10, &canary(&steps(&[50])));
    bench.native.scale(0);
    assert_eq!(bench.run(), Phase::Progressing);
    assert_eq!(bench.native.spec_writes, 0);
    let mut bench = held(10, &canary(&json!([{"setWeight": 50}, {"pause": {}}])));
    assert_eq!(bench.run(), Phase::Paused);
    bench.native.scale(0);
    bench.plan.abort = true;
    assert_eq!(bench.run(), Phase::Aborted);
    bench.native.scale(10);
    assert_eq!(bench.pods(), (10, 0));
    bench.untouched();
}

#[test]
fn an_upgrade_of_somebody_with_the_name_of_a_held_one_does_not_begin_it() {
    let mut bench = held(10, &canary(&steps(&[50])));
    bench.plan.held = false;
    assert_eq!(bench.run(), Phase::Failed);
    assert_eq!((bench.native.spec_writes, bench.native.held), (0, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_held_start_keeps_every_promise(
        n in 1i32..=60,
        mut weights in proptest::collection::vec(1i32..=100, 1..5),
        crash in proptest::bool::ANY,
        abort in 0usize..12,
        scales in proptest::collection::vec(1i32..=40, 0..3),
    ) {
        weights.sort_unstable();
        let mut bench = held(n, &canary(&steps(&weights)));
        for size in &scales {
            bench.native.scale(*size);
        }
        (bench.native.least, bench.native.most) = (bench.native.n, bench.native.n);
        if crash {
            bench.native.behaviour = Behaviour::Crash;
        }
        for round in 0..500 {
            bench.plan.abort |= round == abort;
            if !bench.round() && round > abort {
                break;
            }
        }
        let n = bench.native.n;
        prop_assert!(bench.status.phase.is_terminal(), "{:?}", bench.status);
        prop_assert!(bench.native.least >= n, "{:?}", bench.native);
        if bench.status.phase == Phase::Completed {
            prop_assert_eq!(bench.pods(), (0, n));
            bench.untouched();
        } else {
            prop_assert_eq!(bench.pods(), (n, 0));
            prop_assert!(is_held(&bench), "{:?}", bench.native);
        }
    }
}
