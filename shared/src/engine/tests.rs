//! The engine against the model of the native controller.

use super::effect::Effect;
use super::governance::Governance;
use super::model::{Behaviour, NEW, Native, OLD};
use super::objects::{Look, Objects};
use super::observed::Observed;
use super::plan::Plan;
use super::questions::{Answers, Key, Question};
use super::{law, step};
use crate::api::status::{Phase, UpgradeStatus};
use crate::api::upgrade::Promote;
use crate::api::{Upgrade, UpgradeApproval, UpgradeSpec};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

mod analysis;
mod arithmetic;
mod exact;
mod hold;
mod jobs;
mod jump;
mod replicas;
mod rollback_window;

/// An Upgrade, the Deployment under the model, and a clock.
struct Bench {
    plan: Plan,
    native: Native,
    status: UpgradeStatus,
    now: Timestamp,
    held: bool,
    /// The API server refuses every write to the workload.
    refuse: bool,
    /// Other objects that are seen.
    objects: Objects,
    /// What others ask for, and what they have said.
    governance: Governance,
    approvals: Vec<UpgradeApproval>,
    /// Answers to what was asked.
    answers: Answers,
    /// What the last round asked and has no answer to.
    asked: Vec<(Key, Question)>,
    /// What the last round looked at.
    looks: Vec<Look>,
    /// Writes to other objects, of the last round that had any.
    writes: Vec<Effect>,
}

fn steps(weights: &[i32]) -> Value {
    json!(weights.iter().map(|w| json!({"setWeight": w})).collect::<Vec<_>>())
}

impl Bench {
    fn new(native: Native, steps: &Value) -> Self {
        Self::with(native, &json!({"canary": {"steps": steps}}))
    }

    fn with(native: Native, strategy: &Value) -> Self {
        let spec: UpgradeSpec = serde_json::from_value(json!({
            "from": "v1", "to": "v2",
            "stages": [{"name": "web", "workloads": {"strategy": strategy, "targets": [
                {"kind": "Deployment", "name": "web",
                 "images": [{"container": "web", "from": OLD, "to": NEW}]}]}}]
        }))
        .expect("a valid spec");
        let plan = Plan::new(&Upgrade::new("up", spec)).expect("a valid plan");
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        Self {
            plan,
            native,
            status: UpgradeStatus::default(),
            now,
            held: false,
            refuse: false,
            objects: Objects::new(),
            governance: Governance::default(),
            approvals: vec![],
            answers: Answers::new(),
            asked: vec![],
            looks: vec![],
            writes: vec![],
        }
    }

    fn round(&mut self) -> bool {
        let observed = Observed {
            held: self.held,
            workloads: vec![vec![Some(self.native.observe(self.now))]],
            objects: self.objects.clone(),
            governance: self.governance.clone(),
            approvals: self.approvals.clone(),
            answers: self.answers.clone(),
            ..Observed::default()
        };
        let outcome = step(&self.plan, &observed, &self.status, self.now);
        if !self.refuse {
            self.native.perform(&outcome.effects);
        }
        let moved = outcome.effects.iter().any(|e| {
            matches!(e, super::effect::Effect::Patch(_) | super::effect::Effect::Release { .. })
        });
        for effect in &outcome.effects {
            match effect {
                super::effect::Effect::Hold => self.held = true,
                super::effect::Effect::LetGo => self.held = false,
                _ => {}
            }
        }
        self.note_effects(&outcome.effects);
        let changed = outcome.status != self.status;
        self.status = outcome.status;
        moved || changed
    }

    fn note_effects(&mut self, effects: &[Effect]) {
        let asked = |e: &Effect| match e {
            Effect::Ask { key, question } => Some((key.clone(), question.clone())),
            _ => None,
        };
        let all: Vec<_> = effects.iter().filter_map(asked).collect();
        self.answers.retain(|key, _| all.iter().any(|(k, _)| k == key));
        self.asked = all.into_iter().filter(|(k, _)| !self.answers.contains_key(k)).collect();
        let look = |e: &Effect| if let Effect::Watch(look) = e { Some(look.clone()) } else { None };
        self.looks = effects.iter().filter_map(look).collect();
        let writes = effects.iter().filter(|e| matches!(e, Effect::Write(_))).cloned();
        let writes: Vec<_> = writes.collect();
        if !writes.is_empty() {
            self.writes = writes;
        }
    }

    /// Rounds until nothing moves.
    fn run(&mut self) -> Phase {
        for _ in 0..500 {
            if !self.round() {
                return self.status.phase;
            }
        }
        panic!("no fixpoint: {:#?} {:?}", self.status, self.native);
    }

    fn pods(&self) -> (i32, i32) {
        (self.native.count(OLD), self.native.count(NEW))
    }

    fn promote(&mut self) {
        self.plan.promote = Some(Promote {
            attempt: self.status.attempt,
            stage: self.status.current_stage_index,
            step: self.status.current_step_index,
            full: false,
            to_step: None,
        });
    }

    fn untouched(&self) {
        let fresh = Native::new(self.native.n, "25%", "25%");
        assert_eq!(self.native.fields, fresh.fields, "guarded fields are what they were");
        assert!(!self.native.paused && self.native.label.is_none(), "{:?}", self.native);
        assert!(!self.held, "the finalizer is off");
    }
}

#[test]
fn a_canary_of_s_steps_costs_s_plus_1_writes_and_one_of_metadata() {
    for (n, weights) in
        [(20, vec![10, 30, 50, 75, 100]), (100, vec![20, 40, 60, 80, 100]), (12, vec![25, 50, 75])]
    {
        let mut bench = Bench::new(Native::new(n, "25%", "25%"), &steps(&weights));
        let count = bench.plan.stages[0].steps().len();
        assert_eq!(bench.run(), Phase::Completed);
        assert_eq!(bench.pods(), (0, n));
        assert_eq!(bench.native.spec_writes, count + 1, "{n} {weights:?}");
        assert_eq!(bench.native.releases, 1);
        assert!(bench.native.least >= n, "{n} {weights:?}: {} ready", bench.native.least);
        bench.untouched();
    }
}

#[test]
fn a_rest_costs_two_more_and_holds_the_exact_share() {
    let list = json!([{"setWeight": 10}, {"pause": {}}, {"setWeight": 30}, {"pause": {"duration": "60s"}}]);
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.pods(), bench.native.paused), ((9, 1), true));
    assert_eq!(bench.native.spec_writes, 3);
    bench.promote();
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!((bench.pods(), bench.native.paused), ((7, 3), true));
    assert_eq!(bench.native.spec_writes, 6);
    bench.now += SignedDuration::from_secs(61);
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.native.spec_writes, 8, "S = 3 weights cost S + 1, two rests two more each");
    bench.untouched();
}

#[test]
fn never_ready_pods_are_taken_back_after_the_deadline_and_cost_nothing() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.native.behaviour = Behaviour::Never;
    assert_eq!(bench.run(), Phase::Progressing);
    assert_eq!(bench.pods(), (10, 1));
    bench.now += SignedDuration::from_secs(599);
    assert_eq!(bench.run(), Phase::Progressing);
    bench.now += SignedDuration::from_secs(2);
    assert_eq!(bench.run(), Phase::RolledBack);
    assert_eq!((bench.pods(), bench.native.least), ((10, 0), 10));
    assert!(bench.status.message.contains("no progress for 600 s"), "{}", bench.status.message);
    bench.untouched();
}

#[test]
fn crashing_pods_are_taken_back_at_once_unless_told_otherwise() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.native.behaviour = Behaviour::Crash;
    assert_eq!(bench.run(), Phase::RolledBack);
    assert!(bench.status.message.contains("crashes (3 restarts)"), "{}", bench.status.message);
    bench.untouched();

    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.plan.rollback_on_failure = false;
    bench.native.behaviour = Behaviour::Crash;
    assert_eq!(bench.run(), Phase::Degraded);
    assert_eq!((bench.pods(), bench.native.paused), ((10, 1), true), "stands still and serves");
    bench.plan.abort = true;
    assert_eq!(bench.run(), Phase::Aborted);
    bench.untouched();
    bench.plan.abort = false;
    bench.plan.retry = 1;
    bench.native.behaviour = Behaviour::Ready;
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.status.attempt, 1);
}

#[test]
fn a_pause_stops_everything_and_no_clock_runs() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.native.behaviour = Behaviour::Never;
    bench.run();
    bench.plan.paused = true;
    assert_eq!(bench.run(), Phase::Paused);
    assert!(bench.native.paused);
    bench.now += SignedDuration::from_secs(100_000);
    assert_eq!(bench.run(), Phase::Paused);
    bench.plan.paused = false;
    assert_eq!(bench.run(), Phase::Progressing);
    bench.native.behaviour = Behaviour::Ready;
    assert_eq!(bench.run(), Phase::Completed);
    bench.untouched();
}

#[test]
fn scaled_to_nothing_and_back_keeps_the_stable_version() {
    let list = json!([{"setWeight": 50}, {"pause": {}}]);
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list);
    bench.run();
    assert_eq!(bench.pods(), (5, 5));
    bench.native.scale(0);
    bench.run();
    assert_eq!(bench.native.image, OLD, "the stable template is back at once");
    bench.native.scale(10);
    assert_eq!(bench.pods(), (10, 0));
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.pods(), (5, 5), "and the canary at its weight again");
    bench.promote();
    assert_eq!(bench.run(), Phase::Completed);
    bench.untouched();
}

#[test]
fn a_rolling_upgrade_is_one_write_and_one_of_metadata() {
    let mut bench = Bench::with(Native::new(10, "25%", "25%"), &json!({"rolling": {}}));
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.native.spec_writes, bench.native.releases, bench.pods()), (1, 1, (0, 10)));
    bench.untouched();
}

#[test]
fn what_runs_the_new_images_already_is_left_alone() {
    let mut native = Native::new(4, "25%", "25%");
    native.image = NEW.to_owned();
    native.sets = vec![(NEW.to_owned(), 4, 0)];
    let mut bench = Bench::new(native, &steps(&[50]));
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.native.spec_writes, 0);
}

#[test]
fn a_write_that_is_refused_is_no_progress_and_meets_its_deadline() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.refuse = true;
    bench.round();
    let first = bench.status.clone();
    bench.round();
    assert_eq!(
        bench.status, first,
        "the same refused write changes nothing, so nothing is written"
    );
    bench.now += SignedDuration::from_secs(601);
    bench.round();
    assert_eq!(bench.status.phase, Phase::RolledBack);
    assert_eq!(bench.native.spec_writes, 0);
}

#[test]
fn the_finalizer_is_asked_for_until_it_is_there() {
    let mut bench =
        Bench::new(Native::new(10, "25%", "25%"), &json!([{"setWeight": 10}, {"pause": {}}]));
    bench.run();
    assert!(bench.held);
    bench.held = false;
    bench.round();
    assert!(bench.held, "a first try that was lost is made up for");
}

#[test]
fn who_was_away_for_longer_than_the_deadline_blames_nobody() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.native.behaviour = Behaviour::Never;
    bench.run();
    bench.native.behaviour = Behaviour::Ready;
    bench.now += SignedDuration::from_secs(6000);
    assert_eq!(bench.run(), Phase::Completed);
}

#[test]
fn a_canary_of_nothing_but_100_is_a_rolling_update_that_gives_up_no_pod() {
    let mut bench = Bench::new(
        Native::new(10, "25%", "25%"),
        &json!([{"pause": {"duration": "1s"}}, {"setWeight": 100}]),
    );
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.native.spec_writes, 0, "nothing is touched before the pause is over");
    bench.now += SignedDuration::from_secs(2);
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!((bench.pods(), bench.native.least), ((0, 10), 10));
    bench.untouched();
}

#[test]
fn one_replica_and_back_keeps_the_stable_version() {
    let list = json!([{"setWeight": 50}, {"pause": {}}]);
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list);
    bench.run();
    bench.native.scale(1);
    bench.run();
    assert!(bench.native.count(OLD) >= 1, "a stable pod is left: {:?}", bench.pods());
    bench.native.scale(10);
    bench.run();
    assert_eq!(bench.pods(), (5, 5));
}

#[test]
fn scaled_to_nothing_for_longer_than_the_deadline_is_no_failure() {
    let list = json!([{"setWeight": 50}, {"pause": {}}]);
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &list);
    bench.run();
    bench.native.scale(0);
    bench.run();
    bench.now += SignedDuration::from_secs(100_000);
    assert_eq!(bench.run(), Phase::Progressing);
    bench.native.scale(10);
    assert_eq!(bench.run(), Phase::Paused);
    assert_eq!(bench.pods(), (5, 5));
}

#[test]
fn knobs_changed_before_the_first_write_landed_are_the_ones_put_back() {
    let mut bench = Bench::new(Native::new(10, "25%", "25%"), &steps(&[10, 50]));
    bench.refuse = true;
    bench.round();
    bench.refuse = false;
    bench.native.fields.min_ready_seconds = 7;
    assert_eq!(bench.run(), Phase::Completed);
    assert_eq!(bench.native.fields.min_ready_seconds, 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any canary on any size: never a ready pod less than asked for where the workload may surge,
    /// never more than its surge on top, and all new in the end.
    #[test]
    fn any_canary_keeps_every_promise(
        n in 1..=200i32,
        mut weights in prop::collection::vec(1..=100i32, 1..6),
        rests in prop::collection::vec(any::<bool>(), 6),
        surge in prop::sample::select(vec!["25%", "1", "3", "100%", "10%"]),
    ) {
        weights.sort_unstable();
        let mut list = vec![];
        for (w, rest) in weights.iter().zip(&rests) {
            list.push(json!({"setWeight": w}));
            if *rest { list.push(json!({"pause": {"duration": "1s"}})); }
        }
        let mut bench = Bench::new(Native::new(n, surge, "25%"), &json!(list));
        let most = n + law::resolve_surge(bench.native.fields.max_surge.as_ref(), n) + law::tolerance(n) * 2;
        for _ in 0..20 {
            if bench.run() != Phase::Paused { break; }
            bench.now += SignedDuration::from_secs(2);
        }
        prop_assert_eq!(bench.status.phase, Phase::Completed);
        prop_assert_eq!(bench.pods(), (0, n));
        prop_assert!(bench.native.least >= n, "{} ready of {}", bench.native.least, n);
        prop_assert!(bench.native.most <= most, "{} live of {}", bench.native.most, n);
    }

    /// Scaled at any rest, the canary comes back to its weight, and an abort leaves no trace.
    #[test]
    fn scaling_at_a_rest_never_leaves_the_canary_over_its_weight(
        n in 2..=60i32,
        weight in 1..=99i32,
        scales in prop::collection::vec(1..=60i32, 1..5),
    ) {
        let list = json!([{"setWeight": weight}, {"pause": {}}]);
        let mut bench = Bench::new(Native::new(n, "25%", "25%"), &list);
        prop_assert_eq!(bench.run(), Phase::Paused);
        for size in scales {
            bench.native.scale(size);
            bench.run();
            let k = law::canary_count(weight, size);
            let (_, canary) = bench.pods();
            prop_assert!(canary <= k + law::tolerance(size), "{} of {} at {} %", canary, size, weight);
            prop_assert!(bench.native.paused);
        }
        bench.plan.abort = true;
        prop_assert_eq!(bench.run(), Phase::Aborted);
        prop_assert_eq!(bench.pods(), (bench.native.n, 0));
        bench.untouched();
    }
}
