//! Health checks on the walk: after each weight of a `workloads` stage, and the stage kind `checks`.

use super::StageMove;
use crate::api::WorkloadKind;
use crate::api::status::{Activity, StageStatus};
use crate::api::upgrade::CheckTarget;
use crate::engine::Walk;
use crate::engine::checks::{Checked, Instance};
use crate::engine::objects::{Look, PODS, Resource, Sight};
use crate::engine::observed::Workload;
use crate::engine::plan::{ChecksPlan, PlanStage, PlanTarget, Step, WorkloadsPlan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, MicroTime};
use kube::ResourceExt;
use kube::core::{DynamicObject, Selector};
use serde_json::Value;

impl<'a> Walk<'a> {
    /// What is asked of the new pods once a weight is reached.
    pub(crate) fn check_step(
        &mut self,
        index: usize,
        stage: &'a WorkloadsPlan,
        at: usize,
    ) -> Checked {
        let moves = stage.steps.get(at).is_some_and(Step::moves);
        if !moves || stage.checks.is_empty() {
            return Checked::Passed;
        }
        let pods = self.new_pods(index);
        // Of what is scaled to nothing, nothing can be asked.
        if pods.is_empty() && self.nothing_runs(index) {
            return Checked::Passed;
        }
        let pods = if pods.is_empty() { Err("no new pod is ready".to_owned()) } else { Ok(pods) };
        self.check_health(index, at, &stage.checks, &pods)
    }

    fn nothing_runs(&self, stage: usize) -> bool {
        let seen = self.observed.workloads.get(stage).into_iter().flatten();
        seen.flatten().all(|w| w.replicas == 0)
    }

    /// Pods of the new images that are Ready: one that is not keeps the weight from being reached,
    /// or was made since and is the workload's own affair.
    fn new_pods(&self, stage: usize) -> Vec<Instance> {
        let seen = self.observed.workloads.get(stage).into_iter().flatten();
        let plan = self.plan.stages.get(stage).map(PlanStage::targets).unwrap_or_default();
        let mut found = Vec::new();
        for (target, workload) in plan.iter().zip(seen) {
            for workload in workload.iter().flat_map(Workload::and_its_canary) {
                let new = |set: &str| workload.set(set).is_some_and(|s| runs_new(target, s));
                let pods = workload.pods.iter().filter(|p| p.ready_since.is_some() && new(&p.set));
                found.extend(pods.map(|pod| Instance {
                    name: format!("pod {}", pod.name),
                    pod: Some(pod.name.clone()),
                    ip: pod.ip.clone(),
                    trouble: None,
                }));
            }
        }
        found
    }

    /// One round of a stage that only checks.
    pub(crate) fn walk_checks(&mut self, index: usize, plan: &'a ChecksPlan) -> StageMove {
        self.status.activity = Some(Activity::HealthChecking);
        self.begin_plain(index, &plan.stage);
        let mut pods = Ok(Vec::new());
        for target in &plan.targets {
            pods = match (pods, self.pods_of(target)) {
                (Ok(mut all), Ok(more)) => {
                    all.extend(more);
                    Ok(all)
                }
                (Err(why), _) | (_, Err(why)) => Err(why),
            };
        }
        match self.check_health(index, 0, &plan.checks, &pods) {
            Checked::Passed => StageMove::Done,
            Checked::Waiting => StageMove::Waiting,
            Checked::Failed(why) => StageMove::Failed(why),
        }
    }

    /// An entry for a stage without targets, made when it begins.
    pub(crate) fn begin_plain(&mut self, index: usize, name: &str) {
        if self.status.stages.len() > index {
            return;
        }
        self.event(false, "StageStarted", format!("stage {name}"));
        self.status.stages.push(StageStatus {
            name: name.to_owned(),
            step_start_time: Some(MicroTime(self.now)),
            ..StageStatus::default()
        });
    }

    /// Every pod of a workload that is not on its way out.
    fn pods_of(&mut self, target: &CheckTarget) -> Result<Vec<Instance>, String> {
        let shown = format!("{}/{}", target.kind.resource(), target.name);
        let missing =
            |why: String| Instance { name: shown.clone(), pod: None, ip: None, trouble: Some(why) };
        let Some(resource) = workload(target.kind) else {
            return Ok(vec![missing("is of a kind that has no pods to ask".to_owned())]);
        };
        let waiting = || format!("waits for {shown} to be seen");
        let owner = match self.see(&Look::name(resource, &target.name)).ok_or_else(waiting)? {
            Sight::Seen(found) => found.first(),
            Sight::Unavailable(why) => return Err(format!("{shown}: {why}")),
        };
        let Some(owner) = owner else { return Ok(vec![missing("does not exist".to_owned())]) };
        let selector = owner.data.pointer("/spec/selector").cloned().unwrap_or(Value::Null);
        let selector: Option<LabelSelector> = serde_json::from_value(selector).ok();
        let Some(selector) = selector.and_then(|s| Selector::try_from(s).ok()) else {
            return Ok(vec![missing("has no selector that can be read".to_owned())]);
        };
        let pods = match self.see(&Look::labels(PODS, selector.to_string())).ok_or_else(waiting)? {
            Sight::Seen(pods) => pods,
            Sight::Unavailable(why) => return Err(format!("pods of {shown}: {why}")),
        };
        let found: Vec<_> = pods.iter().filter_map(|p| instance(p)).collect();
        Ok(if found.is_empty() { vec![missing("has no pods".to_owned())] } else { found })
    }
}

fn runs_new(target: &PlanTarget, set: &crate::engine::observed::Set) -> bool {
    target.images.iter().all(|c| set.runs(&c.container, &c.to))
}

fn workload(kind: WorkloadKind) -> Option<Resource> {
    let (kind, plural) = match kind {
        WorkloadKind::Deployment => ("Deployment", "deployments"),
        WorkloadKind::StatefulSet => ("StatefulSet", "statefulsets"),
        WorkloadKind::DaemonSet => ("DaemonSet", "daemonsets"),
        _ => return None,
    };
    Some(Resource { api_version: "apps/v1", kind, plural })
}

/// A pod that is neither finished nor being deleted.
fn instance(pod: &DynamicObject) -> Option<Instance> {
    let text = |p: &str| pod.data.pointer(p).and_then(Value::as_str);
    let finished = matches!(text("/status/phase"), Some("Succeeded" | "Failed"));
    if pod.metadata.deletion_timestamp.is_some() || finished {
        return None;
    }
    let conditions = pod.data.pointer("/status/conditions").and_then(Value::as_array);
    let is = |c: &Value, key: &str, value: &str| c.get(key).and_then(Value::as_str) == Some(value);
    let ready = conditions
        .is_some_and(|list| list.iter().any(|c| is(c, "type", "Ready") && is(c, "status", "True")));
    Some(Instance {
        name: format!("pod {}", pod.name_any()),
        pod: Some(pod.name_any()),
        ip: text("/status/podIP").map(str::to_owned),
        trouble: (!ready).then(|| "is not Ready".to_owned()),
    })
}

impl StageStatus {
    /// What a stage waits for, where no target of it says so.
    pub(crate) fn waits_for(&self) -> Option<String> {
        if let Some(job) = self.job.as_ref().filter(|j| !j.message.is_empty()) {
            return Some(job.message.clone());
        }
        let health = self.health.as_ref()?;
        let open = health.checks.iter().find(|c| !c.passed)?;
        Some(if open.message.is_empty() {
            format!("health check {} is asked", open.name)
        } else {
            format!("health check {}: {}", open.name, open.message)
        })
    }
}
