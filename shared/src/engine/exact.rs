//! Weights that whole pods cannot express, where a policy lets none be rounded.

use super::Walk;
use super::checkpoint::Checkpoint;
use super::law;
use super::observed::Workload;
use super::plan::{Step, WorkloadsPlan};
use super::traffic::Traffic;
use crate::api::status::{Gate, GateStatus};

impl Walk<'_> {
    /// The first weight that would be rounded: of any step before the start, of the step that is to
    /// begin afterwards.
    pub(crate) fn inexact(&self, at: Checkpoint) -> Option<GateStatus> {
        let policy = self.observed.governance.exact_weights.as_ref()?;
        let stages = self.plan.stages.iter().zip(&self.observed.workloads).enumerate();
        let stages = stages.filter(|(i, _)| at.start || *i == at.stage);
        let mut by_pods = stages.filter_map(|(i, (stage, seen))| {
            let plan = stage.workloads().filter(|plan| is_by_pods(plan))?;
            Some((i, plan, seen))
        });
        let why = by_pods.find_map(|(i, plan, seen)| {
            let steps = plan.steps.iter().enumerate();
            let mut asked = steps.filter(|(s, _)| at.start || (i == at.stage && *s == at.step));
            asked.find_map(|(s, step)| {
                let Step::Weight(weight) = step else { return None };
                let mut targets = plan.targets.iter().zip(seen);
                targets.find_map(|(target, workload)| {
                    let (now, could) = rounded(*weight, workload.as_ref()?)?;
                    Some(format!(
                        "policy {policy} lets no weight be rounded: stages[{i}] steps[{s}] is \
                         {weight} % of {target}, which would be {now} %; {could}"
                    ))
                })
            })
        })?;
        Some(GateStatus { gate: Gate::Policy, open: false, message: why, next: None })
    }
}

/// A router carries its weights to the percent, and blue-green has none.
fn is_by_pods(plan: &WorkloadsPlan) -> bool {
    plan.blue_green.is_none() && !plan.traffic.as_ref().is_some_and(Traffic::routes)
}

/// What a weight amounts to where it is not what was asked for, and what could be asked for.
fn rounded(weight: i32, workload: &Workload) -> Option<(i32, String)> {
    let n = workload.replicas;
    if weight >= 100 || n <= 0 {
        return None;
    }
    if workload.recreate {
        return Some((100, "its strategy is Recreate: all of its pods at once".to_owned()));
    }
    let effective = |k: i32| law::effective_weight(k, n - k);
    let k = law::canary_count(weight, n);
    if effective(k) == weight {
        return None;
    }
    let mut near = vec![effective(k), effective((k + 1).min(n))];
    near.dedup();
    let near: Vec<String> = near.iter().map(|w| format!("{w} %")).collect();
    let could = format!(
        "with {n} pods it can be {}: correct the step (`setReplicas` counts pods), or scale it",
        near.join(" or ")
    );
    Some((effective(k), could))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload_of(replicas: i32) -> Workload {
        Workload { replicas, ..Workload::default() }
    }

    #[test]
    fn a_weight_is_exact_where_whole_pods_come_to_the_same_percent() {
        for (weight, n) in [(10, 10), (33, 3), (100, 3), (50, 2), (14, 7), (29, 7), (1, 100)] {
            assert_eq!(rounded(weight, &workload_of(n)), None, "{weight} % of {n}");
        }
        for (weight, n, now) in [(10, 3, 33), (50, 1, 100), (28, 7, 14), (1, 40, 3)] {
            let found = rounded(weight, &workload_of(n)).map(|r| r.0);
            assert_eq!(found, Some(now), "{weight} % of {n}");
        }
        let (_, could) = rounded(50, &workload_of(3)).expect("rounded");
        assert!(could.contains("33 % or 67 %") && could.contains("`setReplicas`"), "{could}");
    }
}
