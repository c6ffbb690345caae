//! Blue-green against the model of the native controller and of the endpoint controller.

use crate::api::status::{Phase, UpgradeStatus};
use crate::api::{BlueGreenPhase, Upgrade, UpgradeSpec};
use crate::engine::effect::Effect;
use crate::engine::model::{Behaviour, NEW, Native, OLD};
use crate::engine::objects::Look;
use crate::engine::observed::Observed;
use crate::engine::plan::Plan;
use crate::engine::step;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct Bench {
    plan: Plan,
    native: Native,
    status: UpgradeStatus,
    now: Timestamp,
    held: bool,
    deleting: bool,
    looks: BTreeSet<Look>,
    /// How many of its writes each next round performs before the controller dies; then all.
    deaths: Vec<usize>,
}

/// Changes what is there before an Upgrade begins.
type Spoil<'s> = &'s dyn Fn(&mut Bench);

impl Bench {
    #[expect(clippy::needless_pass_by_value, reason = "a literal reads best")]
    fn new(n: i32, more: Value) -> Self {
        let mut settings = json!({"activeService": "web"});
        for (key, value) in more.as_object().expect("an object") {
            settings[key] = value.clone();
        }
        let spec: UpgradeSpec =
            serde_json::from_value(json!({"stages": [{"name": "web", "workloads": {
            "strategy": {"blueGreen": settings}, "targets": [{"kind": "Deployment", "name": "web",
                "images": [{"container": "web", "from": OLD, "to": NEW}]}]}}]}))
            .expect("a valid spec");
        let plan = Plan::new(&Upgrade::new("up", spec)).expect("a valid plan");
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        let mut native = Native::new(n, "25%", "25%");
        native.serve("web");
        let status = UpgradeStatus::default();
        let (looks, deaths) = (BTreeSet::new(), vec![]);
        Self { plan, native, status, now, held: false, deleting: false, looks, deaths }
    }

    fn round(&mut self) -> bool {
        let observed = Observed {
            held: self.held,
            deleting: self.deleting,
            workloads: vec![vec![Some(self.native.observe(self.now))]],
            objects: self.native.sights(self.looks.iter()),
            ..Observed::default()
        };
        let outcome = step(&self.plan, &observed, &self.status, self.now);
        let changed = outcome.status != self.status;
        self.status = outcome.status;
        let writes =
            |e: &Effect| matches!(e, Effect::Patch(_) | Effect::Write(_) | Effect::Release { .. });
        if let Some(last) = self.deaths.pop() {
            let mut left = last;
            let lives = |e: &Effect| {
                let dies = writes(e) && left == 0;
                left = left.saturating_sub(usize::from(writes(e)));
                !dies
            };
            let done: Vec<Effect> =
                outcome.effects.iter().cloned().take_while(lives_of(lives)).collect();
            self.native.perform(&done);
            self.looks.clear();
            return true;
        }
        self.native.perform(&outcome.effects);
        let mut moved = outcome.effects.iter().any(writes);
        for effect in outcome.effects {
            match effect {
                Effect::Hold => self.held = true,
                Effect::LetGo => self.held = false,
                Effect::Watch(look) => moved |= self.looks.insert(look),
                _ => {}
            }
        }
        moved || changed
    }

    fn run(&mut self) -> Phase {
        for _ in 0..500 {
            if !self.round() {
                return self.status.phase;
            }
        }
        panic!("does not settle: {:#?}", self.status);
    }

    fn at(&self) -> BlueGreenPhase {
        self.status.stages[0].targets[0].blue_green.as_ref().expect("begun").phase
    }

    fn pods(&self) -> (i32, i32) {
        (self.native.count(OLD), self.native.count(NEW))
    }

    fn wait(&mut self, seconds: i64) -> Phase {
        self.now += SignedDuration::from_secs(seconds);
        self.run()
    }

    fn promote(&mut self) {
        self.plan.promote = Some(crate::api::upgrade::Promote {
            attempt: self.status.attempt,
            stage: 0,
            step: self.status.current_step_index,
            full: false,
            to_step: None,
        });
    }

    /// As their owners had them.
    fn untouched(&self) {
        let fresh = Native::new(self.native.n, "25%", "25%");
        assert_eq!(self.native.fields, fresh.fields, "guarded fields are what they were");
        assert!(!self.native.paused && self.native.label.is_none(), "{:?}", self.native);
        assert!(!self.held, "the finalizer is off");
        let left = &self.native.services.all;
        assert_eq!(left.keys().collect::<Vec<_>>(), ["web"], "the preview is gone");
        assert_eq!(left["web"]["spec"]["selector"], json!({"app": "web"}));
        assert!(left["web"]["metadata"].get("labels").is_none(), "{left:?}");
    }

    fn clean(&self) {
        let seen = &self.native.services;
        assert!(!seen.mixed && !seen.empty, "{seen:?}");
        assert!(seen.worst.is_none_or(|w| w >= 0), "{seen:?}");
    }
}

/// `take_while` wants to call it by reference.
fn lives_of(mut lives: impl FnMut(&Effect) -> bool) -> impl FnMut(&Effect) -> bool {
    move |e| lives(e)
}

#[test]
fn promoted_by_itself_the_old_pods_stay_for_the_delay() {
    let mut b = Bench::new(10, json!({}));
    assert_eq!(b.run(), Phase::Progressing);
    assert_eq!((b.at(), b.pods()), (BlueGreenPhase::ScaleDownDelay, (10, 10)));
    assert_eq!(b.native.selects("web"), Some("web-v2"));
    assert_eq!(b.native.selects("web-preview"), Some("web-v2"));
    assert_eq!(b.status.canary_weight, 100);
    assert_eq!(b.wait(29), Phase::Progressing);
    assert_eq!(b.pods(), (10, 10));
    assert_eq!(b.wait(1), Phase::Completed);
    assert_eq!(b.pods(), (0, 10));
    b.untouched();
    b.clean();
}

#[test]
fn without_auto_promotion_it_rests_until_somebody_promotes() {
    let mut b = Bench::new(4, json!({"autoPromotionEnabled": false, "scaleDownDelaySeconds": 0}));
    assert_eq!(b.run(), Phase::Paused);
    assert_eq!((b.at(), b.pods()), (BlueGreenPhase::PrePromotion, (4, 4)));
    assert_eq!((b.native.selects("web"), b.status.canary_weight), (Some("web-v1"), 0));
    assert_eq!(b.wait(100_000), Phase::Paused);
    b.promote();
    assert_eq!(b.run(), Phase::Completed);
    b.untouched();
    b.clean();
}

#[test]
fn auto_promotion_waits_its_seconds() {
    let mut b = Bench::new(4, json!({"autoPromotionSeconds": 60, "scaleDownDelaySeconds": 0}));
    assert_eq!(b.run(), Phase::Paused);
    assert_eq!(b.wait(59), Phase::Paused);
    assert_eq!(b.native.selects("web"), Some("web-v1"));
    assert_eq!(b.wait(1), Phase::Completed);
    b.clean();
}

#[test]
fn a_small_preview_grows_before_the_switch() {
    let mut b = Bench::new(10, json!({"autoPromotionEnabled": false, "previewReplicaCount": 2}));
    assert_eq!(b.run(), Phase::Paused);
    assert_eq!(b.pods(), (10, 2));
    b.promote();
    assert_eq!(b.run(), Phase::Progressing);
    assert_eq!((b.at(), b.pods()), (BlueGreenPhase::ScaleDownDelay, (10, 10)));
    assert_eq!(b.wait(30), Phase::Completed);
    b.untouched();
    b.clean();
}

#[test]
fn an_abort_before_the_switch_gives_everything_back() {
    let mut b = Bench::new(10, json!({"autoPromotionEnabled": false}));
    b.run();
    b.plan.abort = true;
    assert_eq!(b.run(), Phase::Aborted);
    assert_eq!(b.pods(), (10, 0));
    b.untouched();
    b.clean();
}

#[test]
fn an_abort_after_the_switch_goes_back_at_once() {
    let mut b = Bench::new(10, json!({}));
    b.run();
    b.plan.abort = true;
    b.round();
    assert_eq!((b.native.selects("web"), b.pods()), (Some("web-v1"), (10, 10)), "clients first");
    assert_eq!(b.run(), Phase::Aborted);
    b.untouched();
    b.clean();
}

#[test]
fn failing_pods_never_get_a_client() {
    for behaviour in [Behaviour::Never, Behaviour::Crash] {
        let mut b = Bench::new(10, json!({}));
        b.native.behaviour = behaviour;
        b.run();
        b.wait(601);
        assert_eq!(b.status.phase, Phase::RolledBack);
        assert_eq!(b.pods(), (10, 0));
        b.untouched();
        b.clean();
    }
}

#[test]
fn pods_that_crash_after_the_switch_lose_their_clients_first() {
    let mut b = Bench::new(10, json!({}));
    b.run();
    b.native.services.worst = None;
    b.native.behaviour = Behaviour::Crash;
    b.round();
    assert_eq!(b.native.selects("web"), Some("web-v1"));
    assert_eq!(b.run(), Phase::RolledBack);
    b.untouched();
    assert_eq!(b.native.services.worst, Some(0));
}

#[test]
fn a_selector_that_is_applied_again_is_put_back_in_the_next_round() {
    for (settings, hash) in
        [(json!({"autoPromotionEnabled": false}), "web-v1"), (json!({}), "web-v2")]
    {
        let mut b = Bench::new(4, settings);
        b.run();
        b.native.reapply("web");
        b.round();
        assert_eq!(b.native.selects("web"), Some(hash));
        b.native.reapply("web");
        b.plan.paused = true;
        b.round();
        assert_eq!(b.native.selects("web"), Some(hash), "also while it stands still");
    }
}

#[test]
fn scaled_to_nothing_and_back_it_starts_over_from_the_old_pods() {
    for settings in [json!({"autoPromotionEnabled": false}), json!({})] {
        let mut b = Bench::new(10, settings);
        b.run();
        b.native.scale(0);
        b.run();
        b.native.scale(6);
        b.run();
        assert!(!b.native.services.empty && !b.native.services.mixed);
        b.promote();
        b.run();
        assert_eq!(b.wait(30), Phase::Completed);
        assert_eq!(b.pods(), (0, 6));
        b.untouched();
    }
}

#[test]
fn what_cannot_be_switched_is_not_touched() {
    let missing = |b: &mut Bench| drop(b.native.services.all.remove("web"));
    let hashed = |b: &mut Bench| {
        b.native.services.all.get_mut("web").expect("it")["spec"]["selector"] =
            json!({"app": "web", "pod-template-hash": "x"});
    };
    let other = |b: &mut Bench| {
        b.native.services.all.get_mut("web").expect("it")["spec"]["selector"] = json!({"a": "b"});
    };
    let taken = |b: &mut Bench| b.native.serve("web-preview");
    let full = |b: &mut Bench| {
        b.native.fields.max_surge = Some(crate::engine::law::percent(0));
    };
    let rows: [(Spoil<'_>, &str); 5] = [
        (&missing, "there is no Service web (activeService)"),
        (&hashed, "selects a pod-template-hash already"),
        (&other, "does not select its pods"),
        (&taken, "Service web-preview is there already"),
        (&full, "its maxSurge is 0"),
    ];
    for (break_it, says) in rows {
        let mut b = Bench::new(4, json!({}));
        break_it(&mut b);
        assert_eq!(b.run(), Phase::RolledBack, "{says}");
        assert!(b.status.message.contains(says), "{}", b.status.message);
        assert_eq!((b.native.spec_writes, b.native.services.writes), (0, 0), "{says}");
    }
}

#[test]
fn deleting_the_upgrade_puts_everything_back() {
    for seconds in [0, 30] {
        let mut b = Bench::new(4, json!({}));
        b.run();
        b.now += SignedDuration::from_secs(seconds);
        b.round();
        b.deleting = true;
        b.run();
        assert_eq!(b.pods(), (4, 0), "{seconds}");
        b.untouched();
        assert!(!b.native.services.empty);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Rounds(usize),
    Scale(i32),
    Wait(i64),
    Promote,
    Pause(bool),
    Die(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..6usize).prop_map(Event::Rounds),
        1 => (1..30i32).prop_map(Event::Scale),
        2 => (1..40i64).prop_map(Event::Wait),
        1 => Just(Event::Promote),
        1 => any::<bool>().prop_map(Event::Pause),
        3 => (0..3usize).prop_map(Event::Die),
    ];
    prop::collection::vec(event, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes, in any order, and wherever the controller dies: the active Service never
    /// has fewer ready endpoints than replicas and never those of both versions, until somebody
    /// takes it back after the old pods have begun to go.
    #[test]
    fn one_version_serves_all_of_it_at_every_instant(
        n in 1..30i32,
        auto in any::<bool>(),
        few in prop::option::of(1..10i32),
        events in events(),
        abort in any::<bool>(),
    ) {
        let mut settings = json!({"autoPromotionEnabled": auto});
        if let Some(few) = few { settings["previewReplicaCount"] = json!(few); }
        let mut b = Bench::new(n, settings);
        for event in events {
            match event {
                Event::Rounds(k) => for _ in 0..k { b.round(); },
                Event::Scale(n) => b.native.scale(n),
                Event::Wait(s) => b.now += SignedDuration::from_secs(s),
                Event::Promote => b.promote(),
                Event::Pause(on) => b.plan.paused = on,
                Event::Die(k) => b.deaths.push(k),
            }
        }
        b.deaths.clear();
        b.plan.paused = false;
        let seen = b.native.services.clone();
        // A smaller preview follows a change of scale in proportion, and pods come whole.
        let kept = few.is_some() || seen.worst.is_none_or(|w| w >= 0);
        prop_assert!(!seen.mixed && !seen.empty && kept, "{:?}", seen);
        b.native.services.worst = None;
        if abort && b.status.phase != Phase::Completed {
            let old = b.native.count(OLD) >= b.native.n;
            b.plan.abort = true;
            prop_assert_eq!(b.run(), Phase::Aborted);
            prop_assert_eq!(b.pods(), (b.native.n, 0));
            if old && few.is_none() { b.clean(); }
            prop_assert!(!b.native.services.empty);
        } else {
            for _ in 0..6 {
                b.promote();
                if b.wait(30) == Phase::Completed { break; }
            }
            prop_assert_eq!(b.status.phase, Phase::Completed, "{:#?}", b.status);
            prop_assert_eq!(b.pods(), (0, b.native.n));
            if few.is_none() { b.clean(); }
            prop_assert!(!b.native.services.empty && !b.native.services.mixed);
        }
        b.untouched();
    }
}
