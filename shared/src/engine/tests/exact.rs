//! A policy that lets no weight be rounded, against the model of the native controller.

use super::Bench;
use crate::api::status::{Gate, Phase};
use crate::engine::model::Native;
use serde_json::json;

fn bench(n: i32) -> Bench {
    let list = json!([{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"setReplicas": 6}]);
    let mut bench = Bench::new(Native::new(n, "25%", "25%"), &list);
    bench.governance.exact_weights = Some("prod".to_owned());
    bench
}

#[test]
fn it_waits_until_its_pods_can_express_every_weight() {
    let mut bench = bench(3);
    assert_eq!(bench.run(), Phase::Pending);
    let gate = bench.status.gates.iter().find(|g| !g.open).expect("a shut gate");
    assert_eq!(gate.gate, Gate::Policy);
    let says = "policy prod lets no weight be rounded: stages[0] steps[0] is 10 % of \
                deployment.apps/web, which would be 33 %; with 3 pods it can be 33 % or 67 %";
    assert!(gate.message.starts_with(says), "{}", gate.message);
    assert_eq!(bench.native.spec_writes, 0);
    bench.native.scale(10);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.pods(), (9, 1));
}

#[test]
fn scaled_meanwhile_it_rests_before_the_step_and_goes_on_by_itself() {
    let mut bench = bench(10);
    assert_eq!(bench.run(), Phase::Paused);
    bench.native.scale(7);
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert!(bench.status.message.contains("steps[2] is 50 %"), "{}", bench.status.message);
    bench.native.scale(8);
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.pods(), (0, 8));
    bench.untouched();
}

#[test]
fn without_such_a_policy_it_is_rounded() {
    let mut bench = bench(3);
    bench.governance.exact_weights = None;
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.pods(), (2, 1));
}
