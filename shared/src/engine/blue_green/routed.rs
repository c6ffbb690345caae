//! Blue-green by route, against the model of the native controller, of Services and of a route.

use crate::api::BlueGreenPhase;
use crate::api::status::Phase;
use crate::engine::model::{Behaviour, NEW, OLD};
use crate::engine::traffic::world::World;
use proptest::prelude::*;
use serde_json::{Value, json};

#[expect(clippy::needless_pass_by_value, reason = "a literal reads best")]
fn world(n: i32, more: Value) -> World {
    let mut settings =
        json!({"activeService": "web", "trafficRouting": {"gatewayAPI": {"httpRoute": "web"}}});
    for (key, value) in more.as_object().expect("an object") {
        settings[key] = value.clone();
    }
    World::of(n, &json!({"blueGreen": settings}))
}

fn at(world: &World) -> Option<BlueGreenPhase> {
    let target = world.status.stages.first()?.targets.first()?;
    target.blue_green.as_ref().map(|b| b.phase)
}

fn rests(world: &mut World, phase: BlueGreenPhase) {
    world.until(|w| at(w) == Some(phase) && w.native.count(NEW) > 0);
}

fn pods(world: &World) -> (i32, i32) {
    (world.native.count(OLD), world.native.count(NEW))
}

/// Fewest pods less replicas that clients reached, and whether they met both versions.
#[derive(Debug, Default)]
struct Seen {
    worst: Option<i32>,
    mixed: bool,
}

impl Seen {
    fn note(&mut self, world: &World) {
        let all = world.clients();
        self.mixed |= all.len() != 1;
        for pods in all {
            let of = |image: &str| pods.iter().filter(|p| p.starts_with(image)).count();
            self.mixed |= of(OLD) > 0 && of(NEW) > 0;
            let less = i32::try_from(pods.len()).expect("few") - world.native.n;
            self.worst = Some(self.worst.map_or(less, |w| w.min(less)));
        }
    }
}

#[test]
fn the_route_is_switched_at_once_and_all_is_as_it_was() {
    for n in [1, 3, 10] {
        let mut world = world(n, json!({}));
        rests(&mut world, BlueGreenPhase::ScaleDownDelay);
        assert_eq!(pods(&world), (n, n), "the old pods stay");
        assert_eq!(world.status.canary_weight, 100);
        let start = world.now;
        assert_eq!(world.ends(), Phase::Completed);
        assert!(world.now.duration_since(start).as_secs() >= 29);
        assert_eq!(world.weights, [0, 100, 0], "{n}");
        assert_eq!(pods(&world), (0, n));
        world.clean();
    }
}

#[test]
fn until_somebody_promotes_the_preview_is_there_and_clients_stay_with_the_old_pods() {
    let mut world = world(4, json!({"autoPromotionEnabled": false, "previewReplicaCount": 2}));
    world.until(|w| w.status.phase == Phase::Paused);
    assert_eq!((at(&world), pods(&world)), (Some(BlueGreenPhase::PrePromotion), (4, 2)));
    assert_eq!(world.status.canary_weight, 0);
    let workload = world.workload();
    assert_eq!(world.ready("web-preview", &workload).len(), 2);
    assert_eq!(world.clients()[0].len(), 4);
    world.promote();
    assert_eq!(world.ends(), Phase::Completed);
    world.clean();
}

#[test]
fn an_abort_or_a_deletion_at_any_round_puts_everything_back() {
    for rounds in 0..70 {
        let mut world = world(4, json!({"scaleDownDelaySeconds": 10}));
        (0..rounds).for_each(|_| world.round());
        if rounds % 2 == 0 {
            world.plan.abort = true;
        } else {
            world.deleting = true;
        }
        let phase = world.ends();
        assert!(matches!(phase, Phase::Aborted | Phase::Completed), "{rounds}: {phase}");
        world.clean();
        assert_eq!(pods(&world), if phase == Phase::Aborted { (4, 0) } else { (0, 4) });
    }
}

#[test]
fn an_abort_after_the_switch_is_one_write_of_the_route() {
    let mut world = world(4, json!({}));
    rests(&mut world, BlueGreenPhase::ScaleDownDelay);
    let writes = world.native.spec_writes;
    world.plan.abort = true;
    world.round();
    assert_eq!((world.weights.last(), pods(&world)), (Some(&0), (4, 4)));
    assert_eq!(world.native.spec_writes, writes, "clients first");
    assert_eq!(world.ends(), Phase::Aborted);
    world.clean();
}

#[test]
fn failing_pods_never_get_a_client_and_lose_those_they_have() {
    let mut bad = world(4, json!({}));
    bad.native.behaviour = Behaviour::Crash;
    assert_eq!(bad.ends(), Phase::RolledBack);
    assert_eq!(bad.weights, [0]);
    bad.clean();
    let mut late = world(4, json!({}));
    rests(&mut late, BlueGreenPhase::ScaleDownDelay);
    late.native.behaviour = Behaviour::Crash;
    late.round();
    assert_eq!(late.weights.last(), Some(&0));
    assert_eq!(late.ends(), Phase::RolledBack);
    late.clean();
}

#[test]
fn a_route_that_is_applied_again_is_carried_again_in_the_next_round() {
    for phase in [BlueGreenPhase::PrePromotion, BlueGreenPhase::ScaleDownDelay] {
        let auto = phase == BlueGreenPhase::ScaleDownDelay;
        let mut world = world(4, json!({"autoPromotionEnabled": auto}));
        rests(&mut world, phase);
        for paused in [false, true] {
            world.plan.paused = paused;
            let before = world.clients();
            world.reapply();
            world.round();
            assert_eq!(world.clients(), before);
        }
    }
}

#[test]
fn scaled_to_nothing_and_back_it_goes_on() {
    for settings in [json!({"autoPromotionEnabled": false}), json!({"scaleDownDelaySeconds": 5})] {
        let mut world = world(10, settings);
        world.until(|w| at(w) >= Some(BlueGreenPhase::PrePromotion));
        world.native.scale(0);
        world.lax = true;
        (0..20).for_each(|_| world.round());
        world.native.scale(6);
        for _ in 0..200 {
            world.promote();
            world.round();
        }
        assert_eq!(world.status.phase, Phase::Completed, "{:#?}", world.status);
        assert_eq!(pods(&world), (0, 6));
        world.clean();
    }
}

#[derive(Clone, Debug)]
enum Event {
    Rounds(usize),
    Scale(i32),
    Promote,
    Pause(bool),
    Die(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..9usize).prop_map(Event::Rounds),
        1 => (1..30i32).prop_map(Event::Scale),
        1 => Just(Event::Promote),
        1 => any::<bool>().prop_map(Event::Pause),
        3 => (0..4usize).prop_map(Event::Die),
    ];
    prop::collection::vec(event, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    /// Whatever comes, in any order, and wherever the controller dies: the route always sends to
    /// ready pods of one version, never fewer than replicas, and the end is all old or all new.
    #[test]
    fn one_version_serves_all_of_it_at_every_instant(
        n in 1..30i32,
        auto in any::<bool>(),
        few in prop::option::of(1..10i32),
        events in events(),
        abort in any::<bool>(),
    ) {
        let mut settings = json!({"autoPromotionEnabled": auto, "scaleDownDelaySeconds": 8});
        if let Some(few) = few { settings["previewReplicaCount"] = json!(few); }
        let mut world = world(n, settings);
        let mut seen = Seen::default();
        for event in events {
            match event {
                Event::Rounds(k) => for _ in 0..k { world.round(); seen.note(&world); },
                Event::Scale(n) => world.native.scale(n),
                Event::Promote => world.promote(),
                Event::Pause(on) => world.plan.paused = on,
                Event::Die(k) => world.deaths.push(k),
            }
            seen.note(&world);
        }
        world.deaths.clear();
        world.plan.paused = false;
        world.plan.abort = abort && world.status.phase != Phase::Completed;
        // Once old pods have begun to go, the way back makes them again: the new ones serve.
        for _ in 0..200 {
            if world.status.phase.is_terminal() && world.native.label.is_none() { break; }
            if world.status.phase == Phase::Paused { world.promote(); }
            world.round();
            seen.note(&world);
        }
        // A smaller preview follows a change of scale in proportion, and pods come whole.
        let kept = few.is_some() || seen.worst.is_none_or(|w| w >= 0);
        prop_assert!(!seen.mixed && kept, "{:?}", seen);
        let end = if world.plan.abort { Phase::Aborted } else { Phase::Completed };
        prop_assert_eq!(world.status.phase, end, "{:#?}", world.status);
        let n = world.native.n;
        prop_assert_eq!(pods(&world), if world.plan.abort { (n, 0) } else { (0, n) });
        world.clean();
    }
}
