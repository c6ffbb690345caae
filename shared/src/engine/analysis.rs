//! Analyses: metrics measured at a step, beside the steps, before and after a promotion.
//!
//! What is measured is decided from templates that are looked at, and what was measured stands in
//! the status. A run is held to the templates as they were when it began; others are said, and not
//! measured by.

mod jobs;
mod ready;
mod rest;
mod values;

pub(crate) use ready::Ready;

use super::Walk;
use super::objects::{Look, Resource, Sight};
use crate::analysis::template::{Metric, Verdict, compile, hash};
use crate::analysis::{assess, source::Source};
use crate::api::analysis::{AnalysisRef, AnalysisTemplateSpec};
use crate::api::analysis_run::{AnalysisPhase, AnalysisRunStatus, MetricStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// AnalysisTemplates, to look at.
pub(crate) const TEMPLATES: Resource = Resource {
    api_version: "kubectl-upgrade.dev/v1alpha1",
    kind: "AnalysisTemplate",
    plural: "analysistemplates",
};

/// Where an analysis is after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AnalysisMove {
    /// Measurements are under way or due later; the alarms are set.
    Wait,
    /// Every metric that counts has said yes; or somebody went on past one that could not say.
    Passed,
    /// One has said no, or could not be measured too often.
    Failed(String),
    /// It can say neither: somebody has to.
    Inconclusive(String),
}

/// What keeps an analysis from being made now.
pub(crate) enum Hindrance {
    /// Something is not known yet.
    Wait,
    /// Somebody has to do something.
    Said(String),
}

/// Templates by name, as they are.
type Templates = Vec<(String, AnalysisTemplateSpec)>;

fn borrowed(templates: &Templates) -> Vec<(&str, &AnalysisTemplateSpec)> {
    templates.iter().map(|(name, spec)| (name.as_str(), spec)).collect()
}

impl Walk<'_> {
    /// One round of an analysis of the present stage. `run` names it in the status, and is unique
    /// in the attempt: `web/step-2`, `web/prePromotion`.
    ///
    /// To be called in every round in which its answer matters. Where that is `Inconclusive`,
    /// [`Walk::rests_undecided`] says whether somebody has gone on past it.
    pub(crate) fn analyse(&mut self, run: &str, asked: &AnalysisRef) -> AnalysisMove {
        if let Some(over) = self.run_of(run).filter(|r| r.phase.is_over()) {
            return verdict(over);
        }
        match self.measure_run(run, asked) {
            Ok(moved) => moved,
            Err(Hindrance::Wait) => AnalysisMove::Wait,
            // Nothing of it is noted: once it is put right, the run goes on.
            Err(Hindrance::Said(why)) => match self.run_of(run).filter(|r| r.overruled) {
                Some(_) => AnalysisMove::Passed,
                None => AnalysisMove::Inconclusive(format!("analysis {run}: {why}")),
            },
        }
    }

    /// Ends an analysis that nobody waits for any more; what it has not said is no reason.
    pub(crate) fn end_analysis(&mut self, run: &str, why: &str) {
        let Some(index) = self.run_index(run) else { return };
        self.stop_jobs(index);
        let now = MicroTime(self.now);
        if let Some(run) = self.status.analysis_runs.get_mut(index).filter(|r| !r.phase.is_over()) {
            run.phase = AnalysisPhase::Successful;
            run.message = why.to_owned();
            run.completed_at = Some(now);
            for metric in run.metrics.iter_mut().filter(|m| !m.phase.is_over()) {
                metric.phase = AnalysisPhase::Successful;
                metric.message = why.to_owned();
                metric.next = None;
            }
        }
    }

    /// Ends every analysis: the upgrade is taken back.
    pub(crate) fn stop_analyses(&mut self) {
        for index in 0..self.status.analysis_runs.len() {
            self.stop_jobs(index);
            let now = MicroTime(self.now);
            let run = self.status.analysis_runs.get_mut(index).filter(|r| !r.phase.is_over());
            if let Some(run) = run {
                run.phase = AnalysisPhase::Inconclusive;
                run.message = "stopped with the upgrade".to_owned();
                run.completed_at = Some(now);
                for metric in run.metrics.iter_mut().filter(|m| !m.phase.is_over()) {
                    metric.phase = AnalysisPhase::Inconclusive;
                    metric.next = None;
                }
            }
        }
    }

    /// The clock of every analysis stood still for so long.
    pub(crate) fn shift_analyses(&mut self, by: SignedDuration) {
        let shift = |time: &mut Option<MicroTime>| {
            if let Some(time) = time {
                time.0 = time.0.saturating_add(by).unwrap_or(time.0);
            }
        };
        for run in self.status.analysis_runs.iter_mut().filter(|r| !r.phase.is_over()) {
            shift(&mut run.started_at);
            run.metrics.iter_mut().for_each(|m| shift(&mut m.next));
        }
    }

    /// What analyses under way are at, for the message.
    pub(crate) fn analysis_messages(&self) -> impl Iterator<Item = String> {
        let running = self.status.analysis_runs.iter();
        let running = running.filter(|r| !r.phase.is_over() && !r.message.is_empty());
        running.map(|r| format!("analysis {}: {}", r.name, r.message))
    }

    fn run_index(&self, run: &str) -> Option<usize> {
        self.status.analysis_runs.iter().position(|r| r.name == run)
    }

    fn run_of(&self, run: &str) -> Option<&AnalysisRunStatus> {
        self.status.analysis_runs.iter().find(|r| r.name == run)
    }

    fn measure_run(&mut self, run: &str, asked: &AnalysisRef) -> Result<AnalysisMove, Hindrance> {
        let templates = self.templates(asked)?;
        let hash = hash(&borrowed(&templates));
        if self.run_of(run).is_some_and(|r| r.templates_hash != hash) {
            let names: Vec<_> = templates.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Hindrance::Said(format!(
                "AnalysisTemplate {} was changed while it was under way; put it back, or take the \
                 decision yourself",
                names.join(" or ")
            )));
        }
        let args = self.values(&templates, asked)?;
        let metrics = compile(&borrowed(&templates), asked, &args).map_err(Hindrance::Said)?;
        let index = self.begin_run(run, &hash, &metrics);
        for (at, metric) in metrics.iter().enumerate() {
            self.measure(index, at, metric);
        }
        Ok(self.judge_run(index, &metrics))
    }

    fn judge_run(&mut self, index: usize, metrics: &[Metric]) -> AnalysisMove {
        let now = self.now;
        let Some(run) = self.status.analysis_runs.get_mut(index) else {
            return AnalysisMove::Wait;
        };
        assess::run(metrics, run, false, now);
        let over = self
            .plan
            .error_threshold
            .and_then(|percent| assess::over_threshold(&self.status.analysis_runs, percent));
        let Some(run) = self.status.analysis_runs.get_mut(index) else {
            return AnalysisMove::Wait;
        };
        if let Some(why) = over {
            (run.phase, run.message) = (AnalysisPhase::Failed, why);
            run.completed_at = Some(MicroTime(now));
        }
        let (phase, note) = (run.phase, format!("analysis {}: {}", run.name, run.message));
        if !phase.is_over() {
            let next = run.metrics.iter().filter_map(|m| m.next.as_ref()).map(|t| t.0);
            self.alarms.extend(next);
            return AnalysisMove::Wait;
        }
        let moved = verdict(run);
        self.stop_jobs(index);
        let reason = match phase {
            AnalysisPhase::Successful => "AnalysisPassed",
            AnalysisPhase::Inconclusive => "AnalysisInconclusive",
            _ => "AnalysisFailed",
        };
        self.event(phase != AnalysisPhase::Successful, reason, note);
        moved
    }

    /// The run's entry, made where there is none; its index.
    fn begin_run(&mut self, run: &str, hash: &str, metrics: &[Metric]) -> usize {
        if let Some(index) = self.run_index(run) {
            return index;
        }
        // What has ended well needs no history: the status is one object.
        for old in self.status.analysis_runs.iter_mut().filter(|r| r.phase.is_over()) {
            for metric in &mut old.metrics {
                let over = metric.measurements.len().saturating_sub(1);
                metric.measurements.drain(..over);
            }
        }
        let now = self.now;
        let first = |m: &Metric| MetricStatus {
            name: m.name.clone(),
            dry_run: m.dry_run,
            next: now.saturating_add(m.initial_delay).ok().map(MicroTime),
            ..MetricStatus::default()
        };
        self.status.analysis_runs.push(AnalysisRunStatus {
            name: run.to_owned(),
            phase: AnalysisPhase::Running,
            templates_hash: hash.to_owned(),
            started_at: Some(MicroTime(now)),
            metrics: metrics.iter().map(first).collect(),
            ..AnalysisRunStatus::default()
        });
        self.event(false, "AnalysisStarted", format!("analysis {run} has begun"));
        self.status.analysis_runs.len() - 1
    }

    /// Takes a measurement that is due, or goes on with the one under way.
    fn measure(&mut self, run: usize, at: usize, metric: &Metric) {
        let slot = self.status.analysis_runs.get(run).and_then(|r| r.metrics.get(at));
        let Some(before) = slot.cloned() else { return };
        let due = before.next.as_ref().map_or(self.now, |t| t.0);
        let done = metric.count.is_some_and(|c| before.count >= c);
        if before.phase.is_over() || done || due > self.now {
            return;
        }
        let mut status = before;
        let measured = match &metric.source {
            Source::Job(metadata, spec) => {
                self.measure_job(run, metric, &mut status, metadata, spec)
            }
            source => self.measure_by_question(run, source, metric, &status),
        };
        if let Some((verdict, value)) = measured {
            assess::note(metric, &mut status, verdict, &value, self.now);
        }
        let slot = self.status.analysis_runs.get_mut(run).and_then(|r| r.metrics.get_mut(at));
        if let Some(slot) = slot {
            *slot = status;
        }
    }

    fn measure_by_question(
        &mut self,
        run: usize,
        source: &Source,
        metric: &Metric,
        status: &MetricStatus,
    ) -> Option<(Verdict, String)> {
        let name = self.status.analysis_runs.get(run)?.name.clone();
        let attempt = self.status.attempt;
        let key = format!("analysis/{attempt}/{name}/{}/{}", metric.name, status.asked);
        let answer = self.ask(&key, source.question(self.now)?)?;
        let value = answer.result.as_ref().map_err(Clone::clone).and_then(|a| source.value(a));
        Some(match value {
            Ok(value) => (metric.judge(&value), value.to_string()),
            Err(why) => (Verdict::Is(AnalysisPhase::Error, why), String::new()),
        })
    }

    /// The templates that an analysis names, as they are now.
    fn templates(&mut self, asked: &AnalysisRef) -> Result<Templates, Hindrance> {
        let mut found = Vec::with_capacity(asked.templates.len());
        for reference in &asked.templates {
            let name = &reference.template_name;
            let seen = match self.see(&Look::name(TEMPLATES, name.clone())) {
                None => return Err(Hindrance::Wait),
                Some(Sight::Unavailable(why)) => {
                    let why = format!("AnalysisTemplates cannot be read: {why}");
                    return Err(Hindrance::Said(why));
                }
                Some(Sight::Seen(objects)) => objects,
            };
            let Some(object) = seen.iter().find(|o| o.metadata.name.as_deref() == Some(name))
            else {
                return Err(Hindrance::Said(format!(
                    "AnalysisTemplate {name} does not exist; `kubectl get analysistemplates` shows \
                     those that do"
                )));
            };
            let spec = object.data.get("spec").cloned().unwrap_or_default();
            match serde_json::from_value(spec) {
                Ok(spec) => found.push((name.clone(), spec)),
                Err(error) => {
                    let why = format!("AnalysisTemplate {name} cannot be read: {error}");
                    return Err(Hindrance::Said(why));
                }
            }
        }
        Ok(found)
    }
}

/// What a run that is over means.
fn verdict(run: &AnalysisRunStatus) -> AnalysisMove {
    let why = || format!("analysis {}: {}", run.name, run.message);
    match run.phase {
        AnalysisPhase::Successful => AnalysisMove::Passed,
        _ if run.overruled => AnalysisMove::Passed,
        AnalysisPhase::Inconclusive => AnalysisMove::Inconclusive(why()),
        AnalysisPhase::Failed | AnalysisPhase::Error => AnalysisMove::Failed(why()),
        AnalysisPhase::Running | AnalysisPhase::Pending => AnalysisMove::Wait,
    }
}

/// When something that began then has lasted so long.
fn after(time: Option<Timestamp>, by: SignedDuration) -> Option<Timestamp> {
    time.and_then(|t| t.saturating_add(by).ok())
}
