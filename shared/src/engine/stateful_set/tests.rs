//! The engine against the model of the native StatefulSet controller.

use super::model::{Native, rolling};
use crate::api::Phase;
use crate::api::status::UpdateStrategy;
use crate::engine::bench::{Behaviour, Bench, NEW, OLD, numbers, rests};
use crate::engine::plan::Share;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn a_canary_rests_at_whole_pods_from_the_top_and_ends_all_new() {
    let mut bench = Bench::new(Native::new(10), &rests(&[10, 50]));
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (9, 1));
    assert_eq!(bench.model.pods[&9].image, NEW, "the top ordinal first");
    assert_eq!(bench.model.object.strategy.partition(), 9);
    assert_eq!(bench.model.object.spec_writes, 1, "the template and the partition are one write");
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (5, 5));
    bench.promote();
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.model.split(), (0, 10));
    bench.untouched(&rolling(0));
}

#[test]
fn a_partition_of_its_owner_comes_back() {
    let mut native = Native::new(6);
    native.object.strategy = rolling(3);
    let mut bench = Bench::new(native, &json!({"rolling": {}}));
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.model.split(), (0, 6));
    bench.untouched(&rolling(3));
}

#[test]
fn on_delete_is_refused_and_nothing_is_written() {
    let mut native = Native::new(3);
    native.object.strategy = UpdateStrategy::on_delete();
    let mut bench = Bench::new(native, &rests(&[50]));
    assert_eq!(bench.run(), Phase::RolledBack);
    assert!(bench.status.message.contains("OnDelete"), "{}", bench.status.message);
    assert_eq!(bench.model.object.spec_writes, 0);
}

#[test]
fn the_only_pod_is_replaced_at_100_and_not_before() {
    let mut bench = Bench::new(Native::new(1), &rests(&[50]));
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.model.split(), bench.model.object.spec_writes), ((1, 0), 0));
    bench.promote();
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.model.split(), (0, 1));
    bench.untouched(&rolling(0));
}

#[test]
fn a_broken_pod_of_the_bad_revision_is_deleted_on_the_way_back() {
    let mut bench = Bench::new(Native::new(5), &rests(&[40]));
    bench.model.behaviour = Behaviour::Never;
    assert_eq!(bench.run(), Phase::Progressing);
    assert_eq!(bench.model.split(), (4, 1), "the native controller waits for the first");
    bench.wait(601);
    assert_eq!(bench.run(), Phase::RolledBack);
    assert_eq!(bench.model.split(), (5, 0));
    bench.untouched(&rolling(0));
}

#[test]
fn scaled_up_the_drift_is_counted_and_given_back() {
    let mut bench = Bench::new(Native::new(4), &rests(&[25]));
    assert_eq!(bench.run(), Phase::Paused);
    bench.model.scale(12);
    // The native controller is faster than we are.
    while crate::engine::bench::Model::tick(&mut bench.model) {}
    assert_eq!(bench.model.split(), (3, 9));
    bench.round(usize::MAX);
    assert_eq!(bench.status.stages[0].targets[0].drift, 6);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (9, 3));
    assert_eq!(bench.status.stages[0].targets[0].drift, 0);
    bench.plan.abort = true;
    assert_eq!(bench.run(), Phase::Aborted);
    assert_eq!(bench.model.split(), (12, 0));
    bench.untouched(&rolling(0));
}

#[test]
fn scaled_to_nothing_and_back_keeps_the_old_revision() {
    for slow in [false, true] {
        let mut bench = Bench::new(Native::new(6), &rests(&[50]));
        assert_eq!(bench.run(), Phase::Paused);
        bench.model.scale(0);
        while crate::engine::bench::Model::tick(&mut bench.model) {}
        if !slow {
            bench.run();
            assert_eq!(bench.model.object.image, OLD);
        }
        bench.model.scale(6);
        assert_eq!(bench.run(), Phase::Paused);
        assert_eq!(bench.model.split(), (3, 3), "slow: {slow}");
        assert_eq!(bench.finish(), Phase::Completed);
        bench.untouched(&rolling(0));
    }
}

#[test]
fn a_pause_stops_it_and_resuming_goes_on() {
    let mut bench = Bench::new(Native::new(10), &json!({"rolling": {}}));
    for _ in 0..9 {
        bench.round(usize::MAX);
        crate::engine::bench::Model::tick(&mut bench.model);
    }
    bench.plan.paused = true;
    assert_eq!(bench.run(), Phase::Paused);
    let (old, new) = bench.model.split();
    assert!(old > 0 && new > 0, "{old} {new}");
    bench.plan.paused = false;
    assert_eq!(bench.run(), Phase::Completed);
    bench.untouched(&rolling(0));
}

/// What happens next.
#[derive(Clone, Debug)]
enum Turn {
    Tick,
    Round,
    Dies(usize),
    Promote,
    Scale(i32),
    Lose(i32),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        8 => Just(Turn::Tick),
        4 => Just(Turn::Round),
        2 => (0..4usize).prop_map(Turn::Dies),
        1 => Just(Turn::Promote),
        1 => (0..=20i32).prop_map(Turn::Scale),
        1 => (0..20i32).prop_map(Turn::Lose),
    ];
    prop::collection::vec(turn, 0..120)
}

fn play(bench: &mut Bench<Native>, turns: &[Turn]) {
    for turn in turns {
        match turn {
            Turn::Tick => {
                crate::engine::bench::Model::tick(&mut bench.model);
            }
            Turn::Round => {
                bench.round(usize::MAX);
            }
            Turn::Dies(after) => {
                bench.round(*after);
            }
            Turn::Promote => bench.promote(),
            Turn::Scale(n) => bench.model.scale(*n),
            Turn::Lose(ordinal) => bench.model.lose(*ordinal),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens on the way, the end is exactly N new with the owner's strategy.
    #[test]
    fn any_canary_ends_all_new(
        n in 0..=20i32,
        parallel in any::<bool>(),
        mut weights in prop::collection::vec(1..=100i32, 1..4),
        turns in turns(),
        by_number in any::<bool>(),
    ) {
        weights.sort_unstable();
        let steps = if by_number { numbers(&weights) } else { rests(&weights) };
        let mut native = Native::new(n);
        native.parallel = parallel;
        let mut bench = Bench::new(native, &steps);
        play(&mut bench, &turns);
        bench.model.scale(n.max(1));
        prop_assert_eq!(bench.finish(), Phase::Completed);
        prop_assert_eq!(bench.model.split(), (0, n.max(1)));
        bench.untouched(&rolling(0));
    }

    /// At every rest the canary is exactly its weight, however it was scaled; an abort leaves no trace.
    #[test]
    fn an_abort_at_any_point_leaves_no_trace(
        n in 1..=20i32,
        weight in 1..=99i32,
        turns in turns(),
        bad in any::<bool>(),
        by_number in any::<bool>(),
    ) {
        let pods = 1 + weight % 24;
        let steps = if by_number { numbers(&[pods]) } else { rests(&[weight]) };
        let share = if by_number { Share { weight: 0, pods } } else { Share { weight, pods: 0 } };
        let mut native = Native::new(n);
        if bad { native.behaviour = Behaviour::Never; }
        let mut bench = Bench::new(native, &steps);
        play(&mut bench, &turns);
        if !bad && bench.run() == Phase::Paused && bench.status.current_step_index == 1 {
            let size = bench.model.n;
            let k = share.count_without_surge(size);
            prop_assert_eq!(bench.model.split(), (size - k, k));
        }
        bench.plan.abort = true;
        let end = bench.run();
        prop_assert!(matches!(end, Phase::Aborted | Phase::RolledBack | Phase::Completed), "{}", end);
        if end != Phase::Completed {
            prop_assert_eq!(bench.model.split(), (bench.model.n, 0));
        }
        bench.untouched(&rolling(0));
    }
}
