//! Jobs as measurements.

use crate::analysis::template::{Metric, Verdict};
use crate::api::GROUP;
use crate::api::analysis_run::{AnalysisPhase, MetricStatus};
use crate::engine::Walk;
use crate::engine::effect::{Effect, How, ObjectWrite};
use crate::engine::objects::{JOBS, Look, Sight};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Label of the Jobs of an Upgrade's analyses; its value names the Upgrade.
const LABEL: &str = "kubectl-upgrade.dev/analysis-of";

impl Walk<'_> {
    /// Makes the Job of a measurement, or looks what came of it.
    pub(super) fn measure_job(
        &mut self,
        run: usize,
        metric: &Metric,
        status: &mut MetricStatus,
        metadata: &Value,
        spec: &Value,
    ) -> Option<(Verdict, String)> {
        let error = |why: String| Some((Verdict::Is(AnalysisPhase::Error, why), String::new()));
        let run = self.status.analysis_runs.get(run)?.name.clone();
        let name = self.job_name(&run, metric, status.asked);
        let seen = match self.see(&self.jobs())? {
            Sight::Unavailable(why) => return error(format!("Jobs cannot be read: {why}")),
            Sight::Seen(jobs) => jobs,
        };
        let found = seen.iter().find(|j| j.metadata.name.as_deref() == Some(name.as_str()));
        let Some(job) = found else {
            if status.job.is_some() {
                return error(format!("Job {name} was deleted before it had ended"));
            }
            status.message = format!("Job {name} is made");
            let object = self.job(&name, &run, metric, metadata, spec);
            let why = format!("measure {} of analysis {run}", metric.name);
            let how = How::Create(object);
            self.effects.push(Effect::Write(ObjectWrite { resource: JOBS, name, how, why }));
            return None;
        };
        status.job = Some(name.clone());
        status.message = format!("Job {name} runs");
        let (phase, why) = ended(job)?;
        // What went well is cleared away where more come; what failed is there to be looked at.
        if phase == AnalysisPhase::Successful && metric.interval.is_some() {
            self.delete_job(job);
        }
        Some((Verdict::Is(phase, why), name))
    }

    /// Deletes the Jobs of a run that are still under way.
    pub(super) fn stop_jobs(&mut self, run: usize) {
        let metrics = self.status.analysis_runs.get(run).into_iter().flat_map(|r| &r.metrics);
        let names: Vec<String> = metrics.filter_map(|m| m.job.clone()).collect();
        if names.is_empty() {
            return;
        }
        let Some(Sight::Seen(jobs)) = self.see(&self.jobs()) else { return };
        let ours = |j: &&Arc<DynamicObject>| {
            j.metadata.name.as_ref().is_some_and(|n| names.contains(n)) && ended(j).is_none()
        };
        for job in jobs.iter().filter(ours) {
            self.delete_job(job);
        }
        let metrics =
            self.status.analysis_runs.get_mut(run).into_iter().flat_map(|r| &mut r.metrics);
        metrics.for_each(|m| m.job = None);
    }

    fn delete_job(&mut self, job: &DynamicObject) {
        let (Some(name), Some(uid)) = (job.metadata.name.clone(), job.metadata.uid.clone()) else {
            return;
        };
        if job.metadata.deletion_timestamp.is_some() {
            return;
        }
        let (how, why) = (How::Delete(uid), "its measurement is over".to_owned());
        self.effects.push(Effect::Write(ObjectWrite { resource: JOBS, name, how, why }));
    }

    fn jobs(&self) -> Look {
        Look::labels(JOBS, format!("{LABEL}={}", self.plan.name))
    }

    /// A name that no other measurement has, short enough for a label.
    fn job_name(&self, run: &str, metric: &Metric, asked: i32) -> String {
        let uid = self.plan.fields["metadata"]["uid"].as_str().unwrap_or_default();
        let all = format!("{uid}/{}/{run}/{}/{asked}", self.status.attempt, metric.name);
        let hash = crate::plan::hash::hex(Sha256::digest(all.as_bytes()).iter().take(5));
        let plain = |text: &str, most: usize| -> String {
            let low = text.chars().map(|c| c.to_ascii_lowercase());
            let plain = low.map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
            plain.take(most).collect()
        };
        let (upgrade, metric) = (plain(&self.plan.name, 30), plain(&metric.name, 20));
        format!("{}-{}-{hash}", upgrade.trim_matches('-'), metric.trim_matches('-'))
    }

    fn job(&self, name: &str, run: &str, metric: &Metric, meta: &Value, spec: &Value) -> Value {
        let of = |field: &str| meta[field].as_object().cloned().unwrap_or_default();
        let (mut labels, mut annotations) = (of("labels"), of("annotations"));
        labels.insert(LABEL.to_owned(), json!(self.plan.name));
        annotations.insert(format!("{GROUP}/analysis"), json!(run));
        annotations.insert(format!("{GROUP}/metric"), json!(metric.name));
        let uid = &self.plan.fields["metadata"]["uid"];
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name, "labels": labels, "annotations": annotations,
                "ownerReferences": [{"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Upgrade",
                    "name": self.plan.name, "uid": uid, "controller": true}]},
            "spec": spec,
        })
    }
}

/// How a Job has ended, if it has.
fn ended(job: &DynamicObject) -> Option<(AnalysisPhase, String)> {
    let conditions = job.data.get("status")?.get("conditions")?.as_array()?;
    let is = |kind: &str| conditions.iter().find(|c| c["type"] == kind && c["status"] == "True");
    if is("Complete").is_some() {
        return Some((AnalysisPhase::Successful, String::new()));
    }
    let failed = is("Failed")?;
    let why = failed["message"].as_str().unwrap_or("it failed");
    Some((AnalysisPhase::Failed, format!("the Job failed: {why}")))
}
