//! AnalysisTemplates: what the schema cannot check, and that whoever writes one could do by hand
//! what it makes the controller do.

use super::decide::Verdict;
use super::question::{Access, AccessNeed, LabelsOf, Question, Topic};
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review};
use crate::analysis::template::check;
use crate::api::AnalysisTemplate;
use std::collections::BTreeSet;

/// A write to an AnalysisTemplate.
pub fn decide(review: &Review<'_>, change: &Change<AnalysisTemplate>) -> Verdict {
    let Some(new) = change.new.as_ref().filter(|_| review.operation != Operation::Delete) else {
        return Verdict::Allow;
    };
    if let Err(why) = check(&new.spec) {
        return Refusal::new(
            Reason::InvalidField,
            format!("AnalysisTemplate {} cannot be measured by", review.named()),
            why,
            "correct that field; nothing was stored",
        )
        .run("kubectl explain analysistemplate.spec.metrics")
        .into();
    }
    let before = change.old.as_ref().map(|o| needed(review, o)).unwrap_or_default();
    let access: Vec<AccessNeed> =
        needed(review, new).difference(&before).cloned().map(to_access).collect();
    if access.is_empty() {
        return Verdict::Allow;
    }
    let what = format!("write AnalysisTemplate {}, which does so in their place", review.named());
    Question {
        upgrade: None,
        access,
        labels: LabelsOf::Nothing,
        on_behalf_of: None,
        topic: Topic::Rights { what, username: review.user.username.to_string() },
    }
    .into()
}

/// Verb, group, resource, namespace, name.
type Right = (&'static str, &'static str, &'static str, String, Option<String>);

/// Jobs that are made, and Secrets that are sent to wherever the template says.
fn needed(review: &Review<'_>, template: &AnalysisTemplate) -> BTreeSet<Right> {
    let namespace = review.namespace.to_string();
    let secret = |name: &str| ("get", "", "secrets", namespace.clone(), Some(name.to_owned()));
    let args = template.spec.args.iter().filter_map(|a| a.value_from.as_ref());
    let mut rights: BTreeSet<Right> =
        args.filter_map(|f| f.secret_key_ref.as_ref()).map(|s| secret(&s.name)).collect();
    for metric in &template.spec.metrics {
        if metric.provider.job.is_some() {
            rights.insert(("create", "batch", "jobs", namespace.clone(), None));
        }
        if let Some(datadog) = &metric.provider.datadog {
            let name = datadog.secret_ref.as_ref().and_then(|s| s.name.as_deref());
            rights.insert(secret(name.unwrap_or("datadog")));
        }
    }
    rights
}

fn to_access((verb, group, resource, namespace, name): Right) -> AccessNeed {
    AccessNeed::One(Access { verb, group, resource, namespace, name })
}
