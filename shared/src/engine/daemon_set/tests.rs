//! The engine against the model of the native DaemonSet controller.

use super::model::{Native, rolling};
use crate::api::Phase;
use crate::api::status::UpdateStrategy;
use crate::engine::bench::{Behaviour, Bench, Model, NEW, OLD, numbers, rests};
use crate::engine::plan::Share;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn a_canary_goes_by_batches_of_nodes_and_the_native_controller_finds_nothing_to_do() {
    let mut bench = Bench::new(Native::new(10, 2), &rests(&[20, 50]));
    bench.model.preferred = vec![7, 4];
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (8, 2));
    for node in [4, 7] {
        assert_eq!(bench.model.nodes[&node].as_ref().expect("a pod").image, NEW, "node {node}");
    }
    assert!(bench.model.object.strategy.is_on_delete());
    assert_eq!(bench.model.object.spec_writes, 1, "the template and OnDelete are one write");
    assert_eq!(bench.finish(), Phase::Completed);
    assert_eq!((bench.model.split(), bench.model.replaced), ((0, 10), 0));
    bench.untouched(&rolling(2));
}

#[test]
fn a_rolling_upgrade_is_the_native_one_and_its_pause_is_on_delete() {
    let mut bench = Bench::new(Native::new(6, 1), &json!({"rolling": {}}));
    for _ in 0..8 {
        bench.round(usize::MAX);
        bench.model.tick();
    }
    assert!(!bench.model.object.strategy.is_on_delete());
    bench.plan.paused = true;
    assert_eq!(bench.run(), Phase::Paused);
    let (old, new) = bench.model.split();
    assert!(old > 0 && new > 0, "{old} {new}");
    bench.plan.paused = false;
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.model.split(), (0, 6));
    bench.untouched(&rolling(1));
}

#[test]
fn on_delete_of_its_owner_stays_and_a_rolling_upgrade_deletes_for_them() {
    let mut native = Native::new(5, 1);
    native.object.strategy = UpdateStrategy::on_delete();
    let mut bench = Bench::new(native, &json!({"rolling": {}}));
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.model.split(), bench.model.replaced), ((0, 5), 0));
    bench.untouched(&UpdateStrategy::on_delete());
}

#[test]
fn a_bad_version_costs_max_unavailable_nodes_and_is_taken_back() {
    let mut bench = Bench::new(Native::new(10, 2), &rests(&[50]));
    bench.model.behaviour = Behaviour::Never;
    assert_eq!(bench.run(), Phase::Progressing);
    assert_eq!((bench.model.split(), bench.model.ready()), ((8, 2), 8));
    bench.wait(601);
    assert_eq!(bench.run(), Phase::RolledBack);
    assert_eq!((bench.model.split(), bench.model.ready()), ((10, 0), 10));
    assert_eq!(bench.model.replaced, 0);
    bench.untouched(&rolling(2));
}

#[test]
fn lost_pods_and_new_nodes_come_up_new_and_it_is_said() {
    let mut bench = Bench::new(Native::new(10, 1), &rests(&[10]));
    assert_eq!(bench.run(), Phase::Paused);
    bench.model.lose(9);
    bench.model.join(20);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (8, 3));
    assert_eq!(bench.status.stages[0].targets[0].drift, 2);
    assert!(
        bench.status.message.contains("pods beyond the weight that run the new images: 2"),
        "{}",
        bench.status.message
    );
    assert_eq!(bench.finish(), Phase::Completed);
    bench.untouched(&rolling(1));
}

#[test]
fn max_surge_is_no_canary() {
    let mut native = Native::new(3, 1);
    let mut strategy = rolling(0);
    strategy.rolling_update.as_mut().expect("rolling").max_surge = Some(IntOrString::Int(1));
    native.object.strategy = strategy.clone();
    let mut bench = Bench::new(native.clone(), &rests(&[50]));
    assert_eq!(bench.run(), Phase::RolledBack);
    assert!(bench.status.message.contains("maxSurge"), "{}", bench.status.message);
    assert_eq!(bench.model.object.spec_writes, 0);
    let mut bench = Bench::new(native, &json!({"rolling": {}}));
    assert_eq!(bench.run(), Phase::Completed);
    bench.untouched(&strategy);
}

/// What happens next.
#[derive(Clone, Debug)]
enum Turn {
    Tick,
    Round,
    Dies(usize),
    Promote,
    Join(i32),
    Leave(i32),
    Lose(i32),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        8 => Just(Turn::Tick),
        4 => Just(Turn::Round),
        2 => (0..5usize).prop_map(Turn::Dies),
        1 => Just(Turn::Promote),
        1 => (0..24i32).prop_map(Turn::Join),
        1 => (0..24i32).prop_map(Turn::Leave),
        1 => (0..24i32).prop_map(Turn::Lose),
    ];
    prop::collection::vec(turn, 0..120)
}

fn play(bench: &mut Bench<Native>, turns: &[Turn]) {
    for turn in turns {
        match turn {
            Turn::Tick => {
                bench.model.tick();
            }
            Turn::Round => {
                bench.round(usize::MAX);
            }
            Turn::Dies(after) => {
                bench.round(*after);
            }
            Turn::Promote => bench.promote(),
            Turn::Join(node) => bench.model.join(*node),
            Turn::Leave(node) => bench.model.leave(*node),
            Turn::Lose(node) => bench.model.lose(*node),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens on the way, the end is all new with the owner's strategy, and the native
    /// controller never replaced a pod.
    #[test]
    fn any_canary_ends_all_new(
        n in 0..=20i32,
        most in 1..=4i32,
        mut weights in prop::collection::vec(1..=100i32, 1..4),
        turns in turns(),
        by_number in any::<bool>(),
    ) {
        weights.sort_unstable();
        let steps = if by_number { numbers(&weights) } else { rests(&weights) };
        let mut bench = Bench::new(Native::new(n, most), &steps);
        play(&mut bench, &turns);
        bench.model.join(0);
        prop_assert_eq!(bench.finish(), Phase::Completed);
        prop_assert_eq!(bench.model.split(), (0, bench.model.n()));
        prop_assert_eq!(bench.model.replaced, 0);
        bench.untouched(&rolling(most));
    }

    /// At a rest without losses the canary is exactly its weight; an abort leaves no trace.
    #[test]
    fn an_abort_at_any_point_leaves_no_trace(
        n in 1..=20i32,
        most in 1..=4i32,
        weight in 1..=99i32,
        turns in turns(),
        bad in any::<bool>(),
        by_number in any::<bool>(),
    ) {
        let pods = 1 + weight % 24;
        let steps = if by_number { numbers(&[pods]) } else { rests(&[weight]) };
        let share = if by_number { Share { weight: 0, pods } } else { Share { weight, pods: 0 } };
        let mut native = Native::new(n, most);
        if bad { native.behaviour = Behaviour::Never; }
        let mut bench = Bench::new(native, &steps);
        play(&mut bench, &turns);
        if !bad && bench.run() == Phase::Paused && bench.status.current_step_index == 1 {
            let drift = bench.status.stages[0].targets[0].drift;
            let k = share.count_without_surge(bench.model.n());
            prop_assert_eq!(bench.model.count(NEW), k + drift);
        }
        bench.plan.abort = true;
        let end = bench.run();
        prop_assert!(matches!(end, Phase::Aborted | Phase::RolledBack | Phase::Completed), "{}", end);
        if end != Phase::Completed {
            prop_assert_eq!(bench.model.count(OLD), bench.model.n());
        }
        prop_assert_eq!(bench.model.replaced, 0);
        bench.untouched(&rolling(most));
    }
}
