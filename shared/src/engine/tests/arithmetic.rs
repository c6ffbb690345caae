//! Replica arithmetic, exhaustively: every size from 0 to 1,000 and every weight.

use super::{Bench, steps};
use crate::api::status::Phase;
use crate::engine::law;
use crate::engine::model::Native;
use jiff::SignedDuration;
use serde_json::json;

/// As far as the arithmetic reaches.
const MOST: i32 = 1000;

#[test]
fn every_weight_of_every_size_is_reached_from_below_and_never_passed() {
    let mut pairs = 0;
    for n in 1..=MOST {
        let mut before = 0;
        for weight in 1..=100 {
            pairs += 1;
            let k = law::canary_count(weight, n);
            assert!(k >= before, "{n} at {weight}: {k} after {before}");
            assert!(k == 1 || i64::from(k) * 100 <= i64::from(weight) * i64::from(n));
            // What the percentages say of it: never a stable pod less than N - k, and no more than
            // the tolerance on top.
            let u = law::share_down(law::unavailable_percent(k, n), n);
            let s = law::share_up(law::surge_percent(k - u, n), n);
            assert!(u <= k && k <= s + u, "{n} at {weight}: {s} and {u} for {k}");
            assert!(
                (s + u).min(n) - k <= law::tolerance(n),
                "{n} at {weight}: {s} and {u} for {k}"
            );
            before = k;
        }
        assert_eq!(before, n, "the end is exactly N new");
    }
    assert_eq!(pairs, 100 * MOST);
    assert_eq!(law::canary_count(50, 0), 0);
}

/// Every tenth weight of each size, so that ten sizes in a row have them all.
#[test]
fn every_size_walks_its_weights_with_every_promise_kept() {
    for n in 0..=MOST {
        let weights: Vec<i32> = (0..10).map(|tens| tens * 10 + n % 10 + 1).collect();
        let mut list = steps(&weights);
        if n % 3 == 0 {
            let pause = json!({"pause": {"duration": "1s"}});
            list.as_array_mut().expect("a list").insert(5, pause);
        }
        let mut bench = Bench::new(Native::new(n, "25%", "25%"), &list);
        let surge = law::resolve_surge(bench.native.fields.max_surge.as_ref(), n);
        let mut phase = bench.run();
        if n == 0 {
            assert_eq!((phase, bench.native.spec_writes), (Phase::Progressing, 0));
            continue;
        }
        if phase == Phase::Paused {
            let (_, canary) = bench.pods();
            assert!(
                canary <= law::canary_count(weights[4], n) + law::tolerance(n),
                "{n}: {canary}"
            );
            bench.now += SignedDuration::from_secs(2);
            phase = bench.run();
        }
        assert_eq!(phase, Phase::Completed, "{n}");
        assert_eq!(bench.pods(), (0, n));
        assert!(bench.native.least >= n, "{n}: {} ready", bench.native.least);
        let most = n + surge + 2 * law::tolerance(n);
        assert!(bench.native.most <= most, "{n}: {} live, {most} are the most", bench.native.most);
        assert!(bench.native.monotone, "{n}: the canary shrank on the way up");
        bench.untouched();
    }
}
