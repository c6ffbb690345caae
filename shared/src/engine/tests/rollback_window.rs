//! Back to a version that ran not long ago.

use super::Bench;
use crate::api::status::Phase;
use crate::engine::governance::Door;
use crate::engine::model::{NEW, Native, OLD};
use serde_json::{Value, json};

fn strategy(revisions: i32) -> Value {
    json!({"canary": {"rollbackWindow": {"revisions": revisions}, "steps": [
        {"setWeight": 10}, {"pause": {}},
        {"analysis": {"templates": [{"templateName": "t"}]}}, {"setWeight": 50}, {"pause": {}},
        {"setWeight": 100}, {"pause": {}},
    ]}})
}

/// Ran these images, the oldest first, before the present one, which is old to the Upgrade.
fn ran(images: &[&str]) -> Native {
    let mut native = Native::new(10, "25%", "25%");
    let earlier = images.iter().map(|i| ((*i).to_owned(), 0, 0));
    native.sets = earlier.chain([(OLD.to_owned(), 10, 0)]).collect();
    native
}

/// The template of the analysis is there, and nobody answers it.
fn bench(native: Native, revisions: i32) -> Bench {
    let mut bench = Bench::with(native, &strategy(revisions));
    let template = json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "AnalysisTemplate",
        "metadata": {"name": "t"},
        "spec": {"metrics": [{"name": "m", "successCondition": "result[0] > 0", "provider":
            {"prometheus": {"address": "http://prometheus:9090", "query": "up"}}}]}});
    bench.show(&template);
    bench
}

#[test]
fn it_goes_straight_to_the_end() {
    let mut bench = bench(ran(&[NEW, "web:v0"]), 2);
    bench.round();
    let said = "back within the rollback window of 2 revision(s)";
    assert!(bench.status.message.contains(said), "{}", bench.status.message);
    assert_eq!(bench.status.current_step_index, 5);
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.pods(), bench.native.least), ((0, 10), 10));
    assert!(bench.status.analysis_runs.is_empty());
    bench.untouched();
}

#[test]
fn what_is_older_or_came_later_walks_its_steps() {
    // Too old; never ran; came after the present one, as what was taken back did.
    let mut later = Native::new(10, "25%", "25%");
    later.sets.push((NEW.to_owned(), 0, 0));
    for native in [ran(&[NEW, "web:v0"]), ran(&["web:v0"]), later] {
        let mut bench = bench(native, 1);
        assert_eq!(bench.run(), Phase::Paused);
        assert_eq!((bench.status.current_step_index, bench.pods()), (1, (9, 1)));
        assert_eq!(bench.status.stages[0].rollback_window, None);
    }
}

#[test]
fn its_gates_stay() {
    let mut bench = bench(ran(&[NEW]), 1);
    bench.governance.window = Door::Shut { why: "it is Christmas".to_owned(), next: None };
    assert_eq!(bench.run(), Phase::Pending);
    assert_eq!(bench.native.spec_writes, 0);
    bench.governance.window = Door::default();
    assert_eq!(bench.run(), Phase::Completed);
}
