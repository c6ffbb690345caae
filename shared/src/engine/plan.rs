//! An Upgrade's spec, read once into types that cannot be wrong.

use crate::api::status::Phase;
use crate::api::upgrade::{CanaryStep, ImageChange, Stage, Strategy, WindowOverrun};
use crate::api::{Upgrade, WorkloadKind};
use crate::plan::plan_hash;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

/// A valid Upgrade.
#[expect(clippy::struct_excessive_bools, reason = "they are what the spec says, not modes")]
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the Upgrade.
    pub name: String,
    /// What an approval is bound to.
    pub hash: String,
    /// Stages in order.
    pub stages: Vec<PlanStage>,
    /// Failing pods take the upgrade back.
    pub rollback_on_failure: bool,
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
    /// `spec.notBefore`
    pub not_before: Option<Timestamp>,
}

/// A stage of kind `workloads`.
#[derive(Clone, Debug)]
pub struct PlanStage {
    /// Name of the stage.
    pub name: String,
    /// Positions in place, or the workload's own rolling update.
    pub canary: bool,
    /// Some weight is under 100: the template comes with the inflation.
    pub parts: bool,
    /// Mode `Hold` opened it: more of the template than its images may have changed.
    pub held: bool,
    /// Steps; the last weight is 100.
    pub steps: Vec<Step>,
    /// Hash of the steps, so that an index is never read against others.
    pub step_hash: String,
    /// Workloads.
    pub targets: Vec<PlanTarget>,
}

/// One step of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Share of the replicas on the new images, in percent.
    Weight(i32),
    /// A rest; `None` until somebody promotes.
    Pause(Option<SignedDuration>),
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
    #[error("spec.stages[{0}]: needs exactly one kind; this version knows `workloads`")]
    UnknownStage(usize),
    /// Neither or both of the strategies.
    #[error("spec.stages[{0}].workloads.strategy: needs exactly one of `rolling` and `canary`")]
    Strategy(usize),
    /// A step that is no step.
    #[error("spec.stages[{0}].workloads.strategy.canary.steps[{1}]: {2}")]
    Step(usize, usize, String),
    /// A kind that has no driver yet.
    #[error("spec.stages[{0}].workloads.targets: kind must be Deployment, not {1}")]
    Kind(usize, WorkloadKind),
    /// An image change that changes nothing.
    #[error(
        "spec.stages[{0}].workloads.targets: {1}: container {2}: `from` and `to` are the same image"
    )]
    NoChange(usize, String, String),
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
            .map(|(i, s)| stage(i, s, spec.held))
            .collect::<Result<_, _>>()?;
        let auto = spec.auto_rollback.clone().unwrap_or_default();
        let timeout = auto
            .on_timeout
            .map(|text| duration("spec.autoRollback.onTimeout", &text))
            .transpose()?;
        let control = spec.control.clone().unwrap_or_default();
        Ok(Self {
            hash: plan_hash(&namespace, &name, spec),
            name,
            stages,
            rollback_on_failure: auto.on_failure.health_check_failure,
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
            not_before: spec.not_before.as_ref().map(|t| t.0),
        })
    }

    /// Every target with the index of its stage.
    pub fn targets(&self) -> impl Iterator<Item = (usize, &PlanTarget)> {
        self.stages.iter().enumerate().flat_map(|(i, s)| s.targets.iter().map(move |t| (i, t)))
    }
}

fn stage(index: usize, stage: &Stage, held: bool) -> Result<PlanStage, PlanError> {
    let workloads = stage.workloads.as_ref().ok_or(PlanError::UnknownStage(index))?;
    let (canary, steps) = match &workloads.strategy {
        Strategy { rolling: Some(_), canary: None } => (false, vec![Step::Weight(100)]),
        Strategy { rolling: None, canary: Some(c) } => (true, steps(index, &c.steps)?),
        _ => return Err(PlanError::Strategy(index)),
    };
    if let Some(other) = workloads.targets.iter().find(|t| t.kind != WorkloadKind::Deployment) {
        return Err(PlanError::Kind(index, other.kind));
    }
    let mut targets = Vec::with_capacity(workloads.targets.len());
    for t in &workloads.targets {
        if let Some(same) = t.images.iter().find(|c| crate::image::same(&c.from, &c.to)) {
            return Err(PlanError::NoChange(index, t.name.clone(), same.container.clone()));
        }
        targets.push(PlanTarget { kind: t.kind, name: t.name.clone(), images: t.images.clone() });
    }
    let digest = Sha256::digest(format!("{steps:?}").as_bytes());
    let step_hash = crate::plan::hash::hex(digest.iter().take(5));
    let parts = steps.iter().any(|s| matches!(s, Step::Weight(w) if *w < 100));
    Ok(PlanStage { name: stage.name.clone(), canary, parts, held, steps, step_hash, targets })
}

/// After the last step a canary is at 100, whether the list says so or not.
fn steps(stage: usize, list: &[CanaryStep]) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::with_capacity(list.len() + 1);
    let mut weight = 0;
    for (i, step) in list.iter().enumerate() {
        let wrong = |why: &str| PlanError::Step(stage, i, why.to_owned());
        steps.push(match (step.set_weight, &step.pause) {
            (Some(w), None) if !(1..=100).contains(&w) => {
                return Err(wrong(&format!("setWeight is {w}; it is a percentage from 1 to 100")));
            }
            (Some(w), None) if w < weight => {
                return Err(wrong(&format!(
                    "setWeight goes down from {weight} to {w}; it only grows"
                )));
            }
            (Some(w), None) => {
                weight = w;
                Step::Weight(w)
            }
            (None, Some(pause)) => Step::Pause(
                pause.duration.as_deref().map(|d| duration("pause.duration", d)).transpose()?,
            ),
            _ => return Err(wrong("needs exactly one of `setWeight` and `pause`")),
        });
    }
    if weight < 100 {
        steps.push(Step::Weight(100));
    }
    Ok(steps)
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
