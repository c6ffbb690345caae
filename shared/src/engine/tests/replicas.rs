//! Steps by number of pods.

use super::Bench;
use crate::api::status::Phase;
use crate::engine::bench::{self, NEW, OLD};
use crate::engine::model::Native;
use crate::engine::{daemon_set, law, stateful_set};
use proptest::prelude::*;
use serde_json::{Value, json};

fn canary(steps: &Value) -> Value {
    json!({"canary": {"steps": steps}})
}

fn rest_at(pods: i32) -> Value {
    json!([{"setReplicas": pods}, {"pause": {}}])
}

#[test]
fn so_many_pods_stay_so_many_at_any_scale() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &rest_at(3));
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.pods(), bench.native.paused), ((7, 3), true));
    let target = &bench.status.stages[0].targets[0];
    assert_eq!((target.requested_weight, target.effective_weight), (30, 30));
    assert_eq!((target.requested_replicas, target.requested_step), (Some(3), Some(0)));
    for (scale, split, requested) in [(20, (17, 3), 15), (4, (1, 3), 75), (60, (57, 3), 5)] {
        bench.native.scale(scale);
        assert_eq!(bench.run(), Phase::Paused);
        assert_eq!(bench.pods(), split);
        assert_eq!(bench.status.stages[0].targets[0].requested_weight, requested);
    }
    bench.promote();
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.pods(), bench.native.least >= 4), ((0, 60), true));
    bench.untouched();
}

#[test]
fn as_many_as_there_are_is_all_of_them_and_fewer_again_once_there_are_more() {
    let mut bench = Bench::new(Native::new(3, "25%", "25%"), &rest_at(5));
    assert_eq!(bench.run(), Phase::Paused);
    let (old, new) = bench.pods();
    assert_eq!(new, 3);
    assert!(old >= 1, "an old pod is left until the last weight: the scale may change");
    assert_eq!(bench.status.stages[0].targets[0].requested_weight, 100);
    bench.native.scale(12);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.pods(), (7, 5), "nobody gets to all of them by scaling down and up");
    bench.plan.abort = true;
    assert_eq!(bench.run(), Phase::Aborted);
    bench.untouched();
}

#[test]
fn fewer_than_there_are_changes_nothing_and_it_is_said() {
    let list = json!([{"setWeight": 50}, {"pause": {}}, {"setReplicas": 3}, {"pause": {}}, {"setReplicas": 8}, {"pause": {}}]);
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list);
    assert_eq!(bench.run(), Phase::Paused);
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.pods(), bench.status.current_step_index), ((5, 5), 3));
    let said = "3 pods of 10 would be fewer new pods than the 5 that an earlier step asked for";
    assert!(bench.status.message.contains(said), "{}", bench.status.message);
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.pods(), (2, 8));
    assert!(!bench.status.message.contains("nothing changes"), "{}", bench.status.message);
    bench.promote();
    assert_eq!(bench.run(), Phase::Completed);
    bench.untouched();
}

#[test]
fn a_weight_after_a_number_is_a_step_of_its_own_behind_its_gates() {
    let list = json!([{"setReplicas": 5}, {"setWeight": 50}]);
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list);
    bench.native.scale(5);
    bench.round();
    let asked = bench.status.stages[0].targets[0].requested_weight;
    assert_eq!(asked, 100, "all five");
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.status.stages[0].targets[0].requested_step, Some(2));
}

#[test]
fn with_a_router_it_is_refused() {
    let strategy = json!({"canary": {"steps": [{"setReplicas": 2}],
        "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}}});
    let spec = json!({"stages": [{"name": "web", "workloads": {"strategy": strategy, "targets": [
        {"kind": "Deployment", "name": "web",
         "images": [{"container": "web", "from": "a:1", "to": "a:2"}]}]}}]});
    let spec = serde_json::from_value(spec).expect("a spec");
    let upgrade = crate::api::Upgrade::new("up", spec);
    let error = crate::engine::plan::Plan::new(&upgrade).expect_err("refused").to_string();
    assert!(error.contains("steps[0].setReplicas does not go with trafficRouting"), "{error}");
}

#[test]
fn a_stateful_set_has_exactly_so_many_and_follows_its_scale() {
    let native = stateful_set::model::Native::new(10);
    let mut bench = bench::Bench::new(native, &canary(&rest_at(3)));
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (7, 3));
    for (scale, split) in [(150, (147, 3)), (3, (0, 3)), (6, (3, 3)), (2, (0, 2)), (9, (6, 3))] {
        bench.model.scale(scale);
        assert_eq!(bench.run(), Phase::Paused, "{}", bench.status.message);
        assert_eq!(bench.model.split(), split, "at {scale}");
    }
    assert_eq!(bench.finish(), Phase::Completed);
    assert_eq!(bench.model.split(), (0, 9));
    bench.untouched(&stateful_set::model::rolling(0));
}

#[test]
fn a_daemon_set_counts_its_nodes() {
    let native = daemon_set::model::Native::new(5, 2);
    let steps = json!([{"setReplicas": 2}, {"pause": {}}, {"setReplicas": 9}, {"pause": {}}]);
    let mut bench = bench::Bench::new(native, &canary(&steps));
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.model.count(OLD), bench.model.count(NEW)), (3, 2));
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.model.split(), (0, 5));
    assert_eq!(bench.status.stages[0].targets[0].requested_weight, 100);
    bench.model.join(20);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.finish(), Phase::Completed);
    assert_eq!((bench.model.split(), bench.model.replaced), ((0, 6), 0));
    bench.untouched(&daemon_set::model::rolling(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the scale does, the canary has as many pods as were asked for, or as there are; no
    /// pod less is ready than at the smallest scale; and an abort leaves no trace.
    #[test]
    fn a_number_holds_at_every_scale(
        n in 1..=60i32,
        pods in 1..=60i32,
        scales in prop::collection::vec(1..=150i32, 0..5),
        surge in prop::sample::select(vec!["25%", "1", "0"]),
        back in any::<bool>(),
    ) {
        let mut bench = Bench::new(Native::new(n, surge, "25%"), &rest_at(pods));
        prop_assert_eq!(bench.run(), Phase::Paused);
        let mut size = n;
        for next in [n].into_iter().chain(scales) {
            size = next;
            bench.native.scale(size);
            prop_assert_eq!(bench.run(), Phase::Paused);
            let (_, canary) = bench.pods();
            let wanted = pods.min(size);
            prop_assert!(canary >= wanted && canary <= wanted + law::tolerance(size),
                "{} of {} where {} were asked for", canary, size, pods);
            prop_assert!(bench.native.paused);
        }
        if back {
            bench.plan.abort = true;
            prop_assert_eq!(bench.run(), Phase::Aborted);
            prop_assert_eq!(bench.pods(), (size, 0));
        } else {
            bench.promote();
            prop_assert_eq!(bench.run(), Phase::Completed);
            prop_assert_eq!(bench.pods(), (0, size));
        }
        if surge == "25%" {
            bench.untouched();
        }
    }

    /// Any mixed list: every promise is kept and the end is all new.
    #[test]
    fn a_mixed_list_only_grows(
        n in 1..=120i32,
        mut weights in prop::collection::vec(1..=100i32, 1..4),
        mut numbers in prop::collection::vec(1..=120i32, 1..4),
        rests in any::<u8>(),
    ) {
        weights.sort_unstable();
        numbers.sort_unstable();
        let mut list = vec![];
        for i in 0..4 {
            list.extend(weights.get(i).map(|w| json!({"setWeight": w})));
            list.extend(numbers.get(i).map(|k| json!({"setReplicas": k})));
            if rests & (1 << i) != 0 { list.push(json!({"pause": {"duration": "1s"}})); }
        }
        let mut bench = Bench::new(Native::new(n, "25%", "25%"), &json!(list));
        for _ in 0..6 {
            if bench.run() != Phase::Paused { break; }
            bench.now += jiff::SignedDuration::from_secs(2);
        }
        prop_assert_eq!(bench.status.phase, Phase::Completed);
        prop_assert_eq!(bench.pods(), (0, n));
        prop_assert!(bench.native.least >= n, "{} ready of {}", bench.native.least, n);
        prop_assert!(bench.native.monotone, "the canary shrank on the way up");
        bench.untouched();
    }
}
