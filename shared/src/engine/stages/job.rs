//! The stage kind `job`: one Job for each attempt, made once and remembered when it is gone.

use super::StageMove;
use crate::api::status::{Activity, JobPhase, JobStatus};
use crate::api::upgrade::JobStage;
use crate::api::{GROUP, IN_FLIGHT_LABEL, Upgrade, VERSION};
use crate::engine::Walk;
use crate::engine::effect::{Effect, How, ObjectWrite};
use crate::engine::objects::{JOBS, Look, Sight};
use crate::engine::plan::{JobPlan, Plan, StageKind};
use crate::engine::questions::Question;
use crate::plan::hash::hex;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Name of the container that is made from `image`.
pub const CONTAINER: &str = "job";
/// Seconds after which the API server is asked again whether a Job is there.
const LIVE_SECONDS: i64 = 5;
/// Value of the label `type` of every Job of ours.
const TYPE: &str = "migration";

/// Images of a Job by container, or why its template cannot be read.
pub fn images(job: &JobStage) -> Result<Vec<(String, String)>, String> {
    let Some(template) = &job.template else {
        let image = job.image.clone().ok_or("needs exactly one of `image` and `template`")?;
        return Ok(vec![(CONTAINER.to_owned(), image)]);
    };
    let read: PodTemplateSpec = serde_json::from_value(template.clone())
        .map_err(|e| format!("template is no pod template: {e}"))?;
    let spec = read.spec.ok_or("template has no spec")?;
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut found: Vec<_> =
        containers.map(|c| (c.name.clone(), c.image.clone().unwrap_or_default())).collect();
    for volume in spec.volumes.iter().flatten() {
        if volume.image.is_none() && volume.csi.is_none() {
            continue;
        }
        // As the ledger names them; what mounts images by other means is found there, too.
        let of_driver = volume.csi.as_ref().and_then(|c| c.volume_attributes.as_ref());
        let of_driver = of_driver.and_then(|a| a.get("image")).cloned();
        let reference = volume.image.as_ref().and_then(|i| i.reference.clone()).or(of_driver);
        found.extend(reference.map(|r| (crate::api::ledger::volume(&volume.name), r)));
    }
    Ok(found)
}

/// Value of the label `app`.
pub fn app(job: &JobStage, upgrade: &Upgrade) -> String {
    let first = crate::policy::snapshot::targets(upgrade).next().map(|t| t.name.clone());
    let own = job.app.clone().or_else(|| first.filter(|name| name.len() <= 63));
    own.unwrap_or_else(|| upgrade.name_any())
}

/// Name of the Job of an attempt: short enough for the label that its pods get of it.
fn name(upgrade: &str, uid: &str, hash: &str, stage: &str, attempt: i32) -> String {
    let digest = Sha256::digest(format!("{uid}/{hash}/{stage}/{attempt}").as_bytes());
    let begin: String = format!("{upgrade}-{stage}").chars().take(52).collect();
    // A dot is no part of a label; pods take the name as their hostname's beginning.
    let begin = begin.replace('.', "-");
    format!("{}-{}", begin.trim_end_matches('-'), hex(digest.iter().take(5)))
}

/// How a Job ended, where it has.
enum End {
    Succeeded,
    Failed(String),
}

fn end(job: &DynamicObject) -> Option<End> {
    let conditions = job.data.pointer("/status/conditions").and_then(Value::as_array)?;
    let text = |c: &Value, key: &str| {
        let text = c.get(key).and_then(Value::as_str).unwrap_or_default();
        text.chars().filter(|c| !c.is_control()).take(256).collect::<String>()
    };
    let is = |c: &&Value, kind: &str| text(c, "type") == kind && text(c, "status") == "True";
    if conditions.iter().any(|c| is(&c, "Complete")) {
        return Some(End::Succeeded);
    }
    let failed = conditions.iter().find(|c| is(c, "Failed"))?;
    Some(End::Failed(format!("{}: {}", text(failed, "reason"), text(failed, "message"))))
}

impl<'a> Walk<'a> {
    /// One round of a Job stage.
    pub(crate) fn walk_job(&mut self, index: usize, plan: &'a JobPlan) -> StageMove {
        let known = self.status.stages.get(index).and_then(|s| s.job.clone());
        match known.as_ref().map(|j| j.phase) {
            Some(JobPhase::Succeeded) => return StageMove::Done,
            None if index > 0 && !self.may_make(index) => return StageMove::Waiting,
            _ => {}
        }
        self.status.activity = Some(Activity::Migrating);
        self.begin_plain(index, &plan.stage);
        let Plan { name: upgrade, uid, hash, .. } = self.plan;
        let name = name(upgrade, uid, hash, &plan.stage, self.status.attempt);
        let mut status = known.unwrap_or_else(|| JobStatus { name, ..JobStatus::default() });
        let moved = self.job_round(index, plan, &mut status);
        if let Some(slot) = self.status.stages.get_mut(index) {
            slot.job = Some(status);
        }
        moved
    }

    /// Whether the stage may begin. Stage 0 was looked at on the way from seen to started.
    fn may_make(&mut self, index: usize) -> bool {
        if self.observed.governance.unjudged {
            // The stage was reached in this round; the next one asks the matrices.
            self.alarms.extend(self.now.checked_add(SignedDuration::from_millis(1)).ok());
            return false;
        }
        self.may_begin(index, 0, true)
    }

    fn job_round(&mut self, index: usize, plan: &'a JobPlan, status: &mut JobStatus) -> StageMove {
        let look = Look::name(JOBS, &status.name);
        let found = match self.see(&look) {
            None => {
                status.message = format!("waits for job/{} to be seen", status.name);
                return StageMove::Waiting;
            }
            Some(Sight::Unavailable(why)) => {
                status.message = format!("job/{} cannot be seen: {why}", status.name);
                return StageMove::Waiting;
            }
            Some(Sight::Seen(found)) => found.first(),
        };
        match found {
            None if status.phase == JobPhase::Pending => self.make(index, plan, status),
            None => {
                let why = format!("job/{} was deleted before its end was seen", status.name);
                self.job_failed(status, why)
            }
            Some(job) if !self.is_our_job(job) => {
                let why = format!("job/{} is there already and none of ours", status.name);
                self.job_failed(status, why)
            }
            Some(job) => self.job_seen(job, status),
        }
    }

    fn job_seen(&mut self, job: &DynamicObject, status: &mut JobStatus) -> StageMove {
        match end(job) {
            None => {
                if status.phase == JobPhase::Pending {
                    self.event(false, "JobStarted", format!("job/{}", status.name));
                }
                status.phase = JobPhase::Running;
                status.message = format!("job/{} runs", status.name);
                StageMove::Waiting
            }
            Some(End::Succeeded) => {
                self.event(false, "JobSucceeded", format!("job/{}", status.name));
                status.phase = JobPhase::Succeeded;
                status.message.clear();
                StageMove::Done
            }
            Some(End::Failed(why)) => {
                let logs = format!("kubectl logs job/{} -n {}", status.name, self.plan.namespace);
                let why = format!("job/{} failed ({why}); `{logs}` says more", status.name);
                self.job_failed(status, why)
            }
        }
    }

    fn job_failed(&mut self, status: &mut JobStatus, why: String) -> StageMove {
        status.phase = JobPhase::Failed;
        status.message.clone_from(&why);
        let deployed = self.status.stages.iter().flat_map(|s| &s.targets);
        let touched = deployed.into_iter().any(|t| t.originals.is_some());
        let why = if touched { why } else { format!("{why}; nothing was deployed") };
        self.event(true, "JobFailed", why.clone());
        StageMove::Failed(why)
    }

    /// Makes it, once the API server has said that it would take it.
    fn make(&mut self, index: usize, plan: &JobPlan, status: &mut JobStatus) -> StageMove {
        let object = self.job_object(plan, &status.name);
        let key = format!("{}/{index}/job/would-create", self.status.attempt);
        let question = Question::WouldCreate { resource: JOBS, object: object.clone() };
        status.message = format!("makes job/{}", status.name);
        let Some(answer) = self.ask(&key, question) else {
            return StageMove::Waiting;
        };
        // No answer at all says nothing: the create itself is tried then, and tried again.
        let refused = answer.result.as_ref().ok().and_then(|v| v.get("refused")?.as_str());
        if let Some(why) = refused {
            let why: String = why.chars().take(512).collect();
            let why = format!("job/{} cannot be made: {why}", status.name);
            return self.job_failed(status, why);
        }
        self.effects.push(Effect::Write(ObjectWrite {
            resource: JOBS,
            name: status.name.clone(),
            how: How::Create(object),
            why: format!("the Job of stage {}", plan.stage),
        }));
        StageMove::Waiting
    }

    fn is_our_job(&self, job: &DynamicObject) -> bool {
        let owners = job.metadata.owner_references.iter().flatten();
        let owned = owners.into_iter().any(|o| o.uid == self.plan.uid);
        owned && job.labels().get(IN_FLIGHT_LABEL) == Some(&self.plan.name)
    }

    fn job_object(&self, plan: &JobPlan, name: &str) -> Value {
        let job = &plan.job;
        let mut template = job.template.clone().unwrap_or_else(|| {
            let mut container = json!({"name": CONTAINER, "image": job.image});
            let fields = [
                ("command", json!(job.command)),
                ("args", json!(job.args)),
                ("env", json!(job.env)),
            ];
            for (field, value) in fields {
                if value.as_array().is_some_and(|list| !list.is_empty()) {
                    container[field] = value;
                }
            }
            let mut spec = json!({"containers": [container]});
            if let Some(account) = &job.service_account_name {
                spec["serviceAccountName"] = json!(account);
            }
            json!({ "spec": spec })
        });
        if template.pointer("/spec/restartPolicy").is_none() && template.get("spec").is_some() {
            template["spec"]["restartPolicy"] = json!("Never");
        }
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": name, "namespace": self.plan.namespace,
                "labels": {"app": plan.app, "type": TYPE, IN_FLIGHT_LABEL: self.plan.name},
                "annotations": {format!("{GROUP}/stage"): plan.stage},
                "ownerReferences": [{"apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Upgrade",
                    "name": self.plan.name, "uid": self.plan.uid, "controller": true}],
            },
            "spec": {
                "backoffLimit": job.backoff_limit,
                "activeDeadlineSeconds": job.active_deadline_seconds,
                "ttlSecondsAfterFinished": job.ttl_seconds_after_finished,
                "template": template,
            },
        })
    }

    /// Takes away a Job that is still running; what one has done to its end stays done.
    pub(crate) fn roll_back_job(&mut self, stage: usize, plan: &JobPlan) -> bool {
        let Some(mut status) = self.status.stages.get(stage).and_then(|s| s.job.clone()) else {
            return true;
        };
        if !matches!(status.phase, JobPhase::Pending | JobPhase::Running) {
            return true;
        }
        let found = match self.see(&Look::name(JOBS, &status.name)) {
            Some(Sight::Seen(found)) => found.first(),
            // Without a look at it nobody can say that it does not run.
            _ => return false,
        };
        let done = match found.filter(|job| self.is_our_job(job)) {
            // It may have been made a moment ago, before the watch tells of it.
            None if status.phase == JobPhase::Pending && !self.is_gone(stage, &status.name) => {
                false
            }
            None => {
                status.phase = JobPhase::Deleted;
                true
            }
            Some(job) if end(job).is_some() => {
                let well = matches!(end(job), Some(End::Succeeded));
                status.phase = if well { JobPhase::Succeeded } else { JobPhase::Failed };
                true
            }
            Some(job) => {
                if job.metadata.deletion_timestamp.is_none() {
                    self.effects.push(Effect::Write(ObjectWrite {
                        resource: JOBS,
                        name: status.name.clone(),
                        how: How::Delete(job.uid().unwrap_or_default()),
                        why: format!("the Job of stage {}, taken back", plan.stage),
                    }));
                }
                status.phase = JobPhase::Running;
                false
            }
        };
        status.message =
            if done { String::new() } else { format!("job/{} is being deleted", status.name) };
        if status.phase == JobPhase::Deleted {
            self.event(false, "JobDeleted", format!("job/{}, before its end", status.name));
        }
        if let Some(slot) = self.status.stages.get_mut(stage) {
            slot.job = Some(status);
        }
        done
    }

    /// Whether the API server itself says that there is no such Job.
    fn is_gone(&mut self, stage: usize, name: &str) -> bool {
        // An answer that is an error says nothing; a few seconds later it is asked anew.
        let time = self.now.as_second() / LIVE_SECONDS;
        self.alarms.extend(Timestamp::from_second((time + 1) * LIVE_SECONDS).ok());
        let key = format!("{}/{stage}/job/live/{time}", self.status.attempt);
        let question = Question::Live { resource: JOBS, name: name.to_owned() };
        self.ask(&key, question).is_some_and(|a| a.result == Ok(Value::Null))
    }

    /// For the last message of the way back: what Jobs have done stays.
    pub(crate) fn what_stays(&self) -> String {
        let jobs = self.status.stages.iter().zip(&self.plan.stages);
        let ran = jobs.filter(|(_, plan)| matches!(plan.kind, StageKind::Job(_)));
        let names: Vec<_> = ran
            .filter_map(|(s, _)| s.job.as_ref().filter(|j| j.phase == JobPhase::Succeeded))
            .map(|j| format!("job/{}", j.name))
            .collect();
        if names.is_empty() {
            return String::new();
        }
        format!("; what {} did is not undone", names.join(", "))
    }
}
