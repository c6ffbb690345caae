//! An Upgrade's spec, read once into types that cannot be wrong.

use crate::api::analysis::AnalysisRef;
use crate::api::separate::Separate;
use crate::api::status::Phase;
use crate::api::upgrade::{
    BlueGreen, CheckTarget, HealthCheck, ImageChange, JobStage, OnConflict, Stage, Strategy,
    StrategyName, WindowOverrun, WorkloadTarget, WorkloadsStage,
};
use crate::api::{Upgrade, WorkloadKind};
use crate::engine::stages::job;
use crate::engine::steps;
use crate::engine::traffic::Traffic;
use crate::engine::{checks, separate};
use crate::plan::plan_hash;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub use crate::engine::steps::{Rest, Share, Step};

/// A valid Upgrade.
#[expect(clippy::struct_excessive_bools, reason = "they are what the spec says, not modes")]
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespace of the Upgrade.
    pub namespace: String,
    /// Name of the Upgrade.
    pub name: String,
    /// `metadata.uid` of the Upgrade: a namesake's Jobs are not its own.
    pub uid: String,
    /// What an approval is bound to.
    pub hash: String,
    /// Stages in order.
    pub stages: Vec<PlanStage>,
    /// Failing pods take the upgrade back.
    pub rollback_on_failure: bool,
    /// What metrics say takes the upgrade back.
    pub rollback_on_analysis: bool,
    /// Share of measurements that may fail, in percent.
    pub error_threshold: Option<i32>,
    /// `metadata` and `spec` of the Upgrade, for arguments of analyses.
    pub fields: serde_json::Value,
    /// Longest time from the first write to the end, pauses left out.
    pub timeout: Option<SignedDuration>,
    /// Mode `Hold` opened it.
    pub held: bool,
    /// `spec.paused`
    pub paused: bool,
    /// `spec.control.abort`
    pub abort: bool,
    /// `spec.control.promote`
    pub promote: Option<crate::api::upgrade::Promote>,
    /// `spec.control.retry`
    pub retry: i32,
    /// `spec.from`
    pub from: Option<String>,
    /// `spec.to`
    pub to: Option<String>,
    /// `spec.requester`
    pub requester: Option<crate::api::Identity>,
    /// `spec.windowOverrun`
    pub overrun: WindowOverrun,
    /// `spec.onConflict`
    pub on_conflict: OnConflict,
    /// `spec.notBefore`
    pub not_before: Option<Timestamp>,
}

/// One stage of the plan.
#[derive(Clone, Debug)]
pub struct PlanStage {
    /// Name of the stage.
    pub name: String,
    /// Hash of the steps, so that an index is never read against others.
    pub step_hash: String,
    /// What it does.
    pub kind: StageKind,
}

/// What a stage does: one variant a stage kind.
#[derive(Clone, Debug)]
pub enum StageKind {
    /// Rolls workloads out.
    Workloads(Box<WorkloadsPlan>),
    /// Runs a Job to its end.
    Job(JobPlan),
    /// Checks the health of what runs.
    Checks(ChecksPlan),
}

/// A stage of kind `job`.
#[derive(Clone, Debug)]
pub struct JobPlan {
    /// Name of the stage.
    pub stage: String,
    /// Value of the label `app`.
    pub app: String,
    /// What the stage says.
    pub job: JobStage,
}

/// A stage of kind `checks`.
#[derive(Clone, Debug)]
pub struct ChecksPlan {
    /// Name of the stage.
    pub stage: String,
    /// Workloads whose pods are asked.
    pub targets: Vec<CheckTarget>,
    /// What is asked.
    pub checks: Vec<HealthCheck>,
}

/// A stage of kind `workloads`.
#[derive(Clone, Debug)]
pub struct WorkloadsPlan {
    /// Name of the stage.
    pub stage: String,
    /// Positions in place, or the workload's own rolling update.
    pub canary: bool,
    /// Some weight is under 100: the template comes with the inflation.
    pub parts: bool,
    /// Mode `Hold` opened it: more of the template than its images may have changed.
    pub held: bool,
    /// All new pods beside all old ones, and a Service that is switched.
    pub blue_green: Option<BlueGreenPlan>,
    /// Steps; the last weight is 100.
    pub steps: Vec<Step>,
    /// Of so many revisions before the present one it goes back to each without a rest.
    pub rollback_window: Option<usize>,
    /// What is measured beside the steps.
    pub background: Option<AnalysisRef>,
    /// Workloads.
    pub targets: Vec<PlanTarget>,
    /// How traffic is split; of one target only.
    pub traffic: Option<Traffic>,
    /// Labels of the nodes that a DaemonSet's canary takes first.
    pub canary_nodes: BTreeMap<String, String>,
    /// What the new pods are asked after each weight.
    pub checks: Vec<HealthCheck>,
    /// The canary is a Deployment of its own.
    pub separate: Option<Separate>,
}

/// Settings of the strategy blueGreen. Its steps are a rest with the preview, which is over at once
/// where it lasts no time, and the switch.
#[derive(Clone, Debug, PartialEq)]
pub struct BlueGreenPlan {
    /// Name of the active Service.
    pub active: String,
    /// Name of the preview Service.
    pub preview: String,
    /// The preview Service is made and deleted.
    pub generated: bool,
    /// How long the old pods stay after the switch.
    pub delay: SignedDuration,
    /// New pods until it is promoted, where fewer than all.
    pub preview_replicas: Option<i32>,
    /// What is measured before the switch.
    pub before: Option<AnalysisRef>,
    /// What is measured after it.
    pub after: Option<AnalysisRef>,
}

impl PlanStage {
    /// The workloads that it changes: none where it is of another kind.
    pub fn targets(&self) -> &[PlanTarget] {
        self.workloads().map_or(&[], |w| &w.targets)
    }

    /// Its steps: none where it is of another kind.
    pub fn steps(&self) -> &[Step] {
        self.workloads().map_or(&[], |w| &w.steps)
    }

    /// Every analysis that it makes, and whether that one runs beside the steps.
    pub fn analyses(&self) -> Vec<(&AnalysisRef, bool)> {
        let beside = self.workloads().and_then(|w| w.background.as_ref());
        let at_steps = self.steps().iter().filter_map(|s| match s {
            Step::Analysis(asked) => Some((asked.as_ref(), false)),
            _ => None,
        });
        let promotion = self.workloads().and_then(|w| w.blue_green.as_ref());
        let around = promotion.into_iter().flat_map(|b| b.before.iter().chain(&b.after));
        let around = around.map(|asked| (asked, false));
        beside.map(|a| (a, true)).into_iter().chain(at_steps).chain(around).collect()
    }

    /// The stage as one that rolls workloads out, where it is one.
    pub fn workloads(&self) -> Option<&WorkloadsPlan> {
        match &self.kind {
            StageKind::Workloads(workloads) => Some(workloads),
            StageKind::Job(_) | StageKind::Checks(_) => None,
        }
    }
}

/// A workload and its image changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanTarget {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload.
    pub name: String,
    /// Changes, at most one for a container.
    pub images: Vec<ImageChange>,
}

impl std::fmt::Display for PlanTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.resource(), self.name)
    }
}

/// Why a spec cannot run. The API server refuses most of these; an older CRD may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A stage without a kind that this version knows.
    #[error(
        "spec.stages[{0}]: needs exactly one kind; this version knows `workloads`, `job` and `checks`"
    )]
    UnknownStage(usize),
    /// None or several of the strategies.
    #[error(
        "spec.stages[{0}].workloads.strategy: needs exactly one of `rolling`, `canary` and `blueGreen`"
    )]
    Strategy(usize),
    /// A step that is no step.
    #[error("spec.stages[{0}].workloads.strategy.canary.steps[{1}]: {2}")]
    Step(usize, usize, String),
    /// Traffic routing that cannot be.
    #[error("spec.stages[{0}].workloads.strategy.canary: {1}")]
    Traffic(usize, String),
    /// Settings of blueGreen that do not go together.
    #[error("spec.stages[{0}].workloads.strategy.blueGreen: {1}")]
    BlueGreen(usize, String),
    /// A kind that has no driver.
    #[error(
        "spec.stages[{0}].workloads.targets: kind must be Deployment, StatefulSet or DaemonSet, \
         not {1}"
    )]
    Kind(usize, WorkloadKind),
    /// A strategy that a kind cannot follow.
    #[error("spec.stages[{0}].workloads.strategy: {1} is not for a {2}; use `rolling` or `canary`")]
    Unfit(usize, StrategyName, WorkloadKind),
    /// Mode Hold is about Deployments.
    #[error("spec.stages[{0}].workloads.targets: mode Hold holds Deployments only, no {1}")]
    NotHeld(usize, WorkloadKind),
    /// Nodes are named, and nothing runs by nodes.
    #[error(
        "spec.stages[{0}].workloads.strategy.canary.canaryNodes: is for DaemonSets, and none of \
         the targets is one; leave it out"
    )]
    CanaryNodes(usize),
    /// An image change that changes nothing.
    #[error(
        "spec.stages[{0}].workloads.targets: {1}: container {2}: `from` and `to` are the same image"
    )]
    NoChange(usize, String, String),
    /// A health check that cannot be asked.
    #[error("spec.stages[{0}]: health check {1}: {2}")]
    Check(usize, String, String),
    /// A Job that cannot be made.
    #[error("spec.stages[{0}].job: {1}")]
    Job(usize, String),
    /// A duration that is no duration.
    #[error("{0}: `{1}` is no duration; write for instance 30s, 5m or 1h30m")]
    Duration(&'static str, String),
}

impl Plan {
    /// Reads an Upgrade.
    pub fn new(upgrade: &Upgrade) -> Result<Self, PlanError> {
        let spec = &upgrade.spec;
        let namespace = upgrade.namespace().unwrap_or_default();
        let name = upgrade.name_any();
        let stages = spec
            .stages
            .iter()
            .enumerate()
            .map(|(i, s)| stage(i, s, upgrade))
            .collect::<Result<_, _>>()?;
        let auto = spec.auto_rollback.clone().unwrap_or_default();
        let timeout = auto
            .on_timeout
            .map(|text| duration("spec.autoRollback.onTimeout", &text))
            .transpose()?;
        let control = spec.control.clone().unwrap_or_default();
        Ok(Self {
            hash: plan_hash(&namespace, &name, spec),
            namespace,
            uid: upgrade.uid().unwrap_or_default(),
            name,
            stages,
            rollback_on_failure: auto.on_failure.health_check_failure,
            rollback_on_analysis: auto.on_failure.analysis_failure,
            error_threshold: auto.on_failure.error_threshold.map(|t| t.percent),
            fields: fields(upgrade),
            timeout,
            held: spec.held,
            paused: spec.paused,
            abort: control.abort,
            promote: control.promote,
            retry: control.retry,
            from: spec.from.clone(),
            to: spec.to.clone(),
            requester: spec.requester.clone(),
            overrun: spec.window_overrun.unwrap_or_default(),
            on_conflict: spec.on_conflict.unwrap_or_default(),
            not_before: spec.not_before.as_ref().map(|t| t.0),
        })
    }

    /// Every target with the index of its stage.
    pub fn targets(&self) -> impl Iterator<Item = (usize, &PlanTarget)> {
        self.stages.iter().enumerate().flat_map(|(i, s)| s.targets().iter().map(move |t| (i, t)))
    }
}

/// What arguments of analyses may be read from.
fn fields(upgrade: &Upgrade) -> serde_json::Value {
    let mut metadata = upgrade.metadata.clone();
    metadata.managed_fields = None;
    serde_json::json!({ "metadata": metadata, "spec": upgrade.spec })
}

fn stage(index: usize, stage: &Stage, upgrade: &Upgrade) -> Result<PlanStage, PlanError> {
    let invalid = |(check, why)| PlanError::Check(index, check, why);
    let name = stage.name.clone();
    let (step_hash, kind) = match (&stage.workloads, &stage.job, &stage.checks) {
        (Some(_), None, None) => return workloads_stage(index, stage, upgrade),
        (None, Some(job), None) => {
            job::images(job).map_err(|why| PlanError::Job(index, why))?;
            let app = job::app(job, upgrade);
            (hashed("job"), StageKind::Job(JobPlan { stage: name.clone(), app, job: job.clone() }))
        }
        (None, None, Some(stage)) => {
            checks::validate(&stage.health_checks).map_err(invalid)?;
            let (targets, checks) = (stage.targets.clone(), stage.health_checks.clone());
            let plan = ChecksPlan { stage: name.clone(), targets, checks };
            (hashed("checks"), StageKind::Checks(plan))
        }
        _ => return Err(PlanError::UnknownStage(index)),
    };
    Ok(PlanStage { name, step_hash, kind })
}

fn hashed(text: &str) -> String {
    crate::plan::hash::hex(Sha256::digest(text.as_bytes()).iter().take(5))
}

fn workloads_stage(index: usize, stage: &Stage, upgrade: &Upgrade) -> Result<PlanStage, PlanError> {
    let held = upgrade.spec.held;
    let workloads = stage.workloads.as_ref().ok_or(PlanError::UnknownStage(index))?;
    let checks = workloads.health_checks.clone();
    checks::validate(&checks).map_err(|(check, why)| PlanError::Check(index, check, why))?;
    let (canary, steps) = ways(index, &workloads.strategy)?;
    let targets = targets(index, workloads, held)?;
    let blue_green = workloads.strategy.blue_green.as_ref();
    let blue_green = blue_green.map(|b| blue_green_plan(index, b, workloads, held)).transpose()?;
    let namespace = upgrade.namespace().unwrap_or_default();
    let traffic = router(index, &workloads.strategy, &namespace, targets.len())?;
    let separate = separate::read(workloads, held).map_err(|why| PlanError::Traffic(index, why))?;
    let step_hash = hashed(&format!("{steps:?}"));
    // With a router all stable pods stay to the last weight, so that it is one part, too.
    let parts = blue_green.is_some()
        || steps.iter().any(|s| s.moves() && !s.share().is_full())
        || traffic.as_ref().is_some_and(Traffic::routes);
    let name = stage.name.clone();
    let asked = workloads.strategy.canary.as_ref();
    let window = asked.and_then(|c| c.rollback_window.as_ref());
    let kind = WorkloadsPlan {
        stage: name.clone(),
        canary,
        parts,
        held,
        blue_green,
        steps,
        rollback_window: window.and_then(|w| usize::try_from(w.revisions).ok()),
        background: asked.and_then(|c| c.analysis.clone()),
        targets,
        canary_nodes: asked.map(|c| c.canary_nodes.clone()).unwrap_or_default(),
        checks,
        traffic,
        separate,
    };
    Ok(PlanStage { name, step_hash, kind: StageKind::Workloads(Box::new(kind)) })
}

/// Whether new pods are held back in place, and the steps.
fn ways(index: usize, strategy: &Strategy) -> Result<(bool, Vec<Step>), PlanError> {
    Ok(match strategy {
        Strategy { rolling: Some(_), canary: None, blue_green: None } => {
            (false, vec![Step::Weight(100)])
        }
        Strategy { rolling: None, canary: Some(c), blue_green: None } => {
            (c.separate.is_none(), steps::read(index, &c.steps, c.separate.is_some())?)
        }
        Strategy { rolling: None, canary: None, blue_green: Some(b) } => (true, preview_steps(b)),
        _ => return Err(PlanError::Strategy(index)),
    })
}

/// The workloads of a stage; each fits the strategy, and has something to change.
fn targets(
    index: usize,
    workloads: &WorkloadsStage,
    held: bool,
) -> Result<Vec<PlanTarget>, PlanError> {
    for target in &workloads.targets {
        fits(index, workloads.strategy.name(), target.kind, held)?;
    }
    let by_node = workloads.strategy.canary.as_ref().is_some_and(|c| !c.canary_nodes.is_empty());
    let on_nodes = |t: &WorkloadTarget| t.kind == WorkloadKind::DaemonSet;
    if by_node && !workloads.targets.iter().any(on_nodes) {
        return Err(PlanError::CanaryNodes(index));
    }
    let target = |t: &WorkloadTarget| {
        if let Some(same) = t.images.iter().find(|c| crate::image::same(&c.from, &c.to)) {
            return Err(PlanError::NoChange(index, t.name.clone(), same.container.clone()));
        }
        Ok(PlanTarget { kind: t.kind, name: t.name.clone(), images: t.images.clone() })
    };
    workloads.targets.iter().map(target).collect()
}

/// The router that carries a canary's weights, or a blue-green switch.
fn router(
    index: usize,
    strategy: &Strategy,
    namespace: &str,
    targets: usize,
) -> Result<Option<Traffic>, PlanError> {
    let canary = strategy.canary.as_ref().map(|c| Traffic::read(c, namespace, targets));
    let canary = canary.transpose().map_err(|why| PlanError::Traffic(index, why))?.flatten();
    let switched = strategy.blue_green.as_ref().map(|b| Traffic::switched(b, namespace));
    let switched = switched.transpose().map_err(|why| PlanError::BlueGreen(index, why))?.flatten();
    Ok(canary.or(switched))
}

/// Which kinds follow which strategy.
fn fits(
    stage: usize,
    strategy: StrategyName,
    kind: WorkloadKind,
    held: bool,
) -> Result<(), PlanError> {
    let driven = [WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::DaemonSet];
    if !driven.contains(&kind) {
        return Err(PlanError::Kind(stage, kind));
    }
    if held && kind != WorkloadKind::Deployment {
        return Err(PlanError::NotHeld(stage, kind));
    }
    let kinds: &[WorkloadKind] = match strategy {
        StrategyName::Rolling | StrategyName::Canary => &driven,
        StrategyName::BlueGreen => &[WorkloadKind::Deployment],
    };
    if kinds.contains(&kind) { Ok(()) } else { Err(PlanError::Unfit(stage, strategy, kind)) }
}

/// The preview, then the switch.
fn preview_steps(settings: &BlueGreen) -> Vec<Step> {
    let seconds = i64::from(settings.auto_promotion_seconds.unwrap_or(0));
    let rest = if settings.auto_promotion_enabled {
        Rest::For(SignedDuration::from_secs(seconds))
    } else {
        Rest::UntilPromoted
    };
    vec![Step::Pause(rest), Step::Weight(100)]
}

fn blue_green_plan(
    index: usize,
    settings: &BlueGreen,
    stage: &WorkloadsStage,
    held: bool,
) -> Result<BlueGreenPlan, PlanError> {
    let wrong = |why: &str| Err(PlanError::BlueGreen(index, why.to_owned()));
    let (preview, generated) = settings.preview();
    if held {
        return wrong("mode Hold opens no blueGreen Upgrade; give hold.strategy another strategy");
    }
    if stage.targets.len() != 1 {
        return wrong("the stage needs exactly one target; make a stage for each");
    }
    if preview == settings.active_service {
        return wrong("previewService must be another Service than activeService");
    }
    if settings.preview_replica_count.is_some_and(|n| n < 1) {
        return wrong("previewReplicaCount must be at least 1");
    }
    Ok(BlueGreenPlan {
        active: settings.active_service.clone(),
        preview,
        generated,
        delay: SignedDuration::from_secs(i64::from(settings.scale_down_delay_seconds.max(0))),
        preview_replicas: settings.preview_replica_count,
        before: settings.pre_promotion_analysis.clone(),
        after: settings.post_promotion_analysis.clone(),
    })
}

pub(crate) fn duration(field: &'static str, text: &str) -> Result<SignedDuration, PlanError> {
    let wrong = || PlanError::Duration(field, text.to_owned());
    let parsed: kube::core::Duration = text.parse().map_err(|_| wrong())?;
    let positive = !parsed.is_negative();
    SignedDuration::try_from(std::time::Duration::from(parsed))
        .ok()
        .filter(|_| positive)
        .ok_or_else(wrong)
}

/// The phase that says how an Upgrade that is taken back ends.
pub fn taken_back(abort: bool) -> Phase {
    if abort { Phase::Aborted } else { Phase::RolledBack }
}
