//! AnalysisTemplates: what the schema cannot check, and that whoever writes one, or asks for an
//! Upgrade that measures by one, could do by hand what it makes the controller do.

use super::decide::Verdict;
use super::question::{Access, AccessNeed, LabelsOf, Question, TemplateUse, Topic};
use super::refusal::{Reason, Refusal};
use super::review::{Change, Operation, Review};
use crate::analysis::template::check;
use crate::api::analysis::AnalysisArg;
use crate::api::{AnalysisTemplate, Upgrade};
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
    let before = change.old.as_ref().map(|o| needed(&review.namespace, o)).unwrap_or_default();
    let access: Vec<AccessNeed> =
        needed(&review.namespace, new).difference(&before).cloned().map(to_access).collect();
    if access.is_empty() {
        return Verdict::Allow;
    }
    let what = format!("write AnalysisTemplate {}, which does so in their place", review.named());
    Question {
        upgrade: None,
        access,
        labels: LabelsOf::Nothing,
        templates: Vec::new(),
        on_behalf_of: None,
        topic: Topic::Rights { what, username: review.user.username.to_string() },
    }
    .into()
}

/// Verb, group, resource, namespace, name.
type Right = (&'static str, &'static str, &'static str, String, Option<String>);

/// The templates that an Upgrade measures by.
pub(super) fn uses(upgrade: &Upgrade, namespace: &str) -> Vec<TemplateUse> {
    let stages = upgrade.spec.stages.iter().filter_map(|s| s.workloads.as_ref());
    let asked = stages.flat_map(|w| w.strategy.analyses());
    let mut uses: Vec<_> = asked
        .flat_map(|analysis| {
            analysis.templates.iter().map(|template| TemplateUse {
                namespace: namespace.to_owned(),
                name: template.template_name.clone(),
                with_args: analysis.args.iter().any(is_chosen),
            })
        })
        .collect();
    uses.sort_unstable();
    uses.dedup();
    uses
}

/// Its value is the requester's choice; a pod's hash is nobody's.
fn is_chosen(arg: &AnalysisArg) -> bool {
    arg.value_from.as_ref().is_none_or(|from| from.pod_template_hash_value.is_none())
}

/// The rights that measuring by a template takes: to make its Jobs; and to read its Secrets, where
/// arguments of the Upgrade may say to whom they are sent. Without arguments they go where the
/// template's author, who may read them, sends them. One that is not there may be one of Jobs.
pub fn rights(template: &TemplateUse, found: Option<&AnalysisTemplate>) -> Vec<AccessNeed> {
    let namespace = &template.namespace;
    let needed = match found {
        Some(found) => needed(namespace, found),
        None => [job(namespace)].into(),
    };
    let asked = needed.into_iter().filter(|right| template.with_args || right.2 != "secrets");
    asked.map(to_access).collect()
}

fn job(namespace: &str) -> Right {
    ("create", "batch", "jobs", namespace.to_owned(), None)
}

/// Jobs that are made, and Secrets that are sent to wherever the template says.
fn needed(namespace: &str, template: &AnalysisTemplate) -> BTreeSet<Right> {
    let secret = |name: &str| ("get", "", "secrets", namespace.to_owned(), Some(name.to_owned()));
    let args = template.spec.args.iter().filter_map(|a| a.value_from.as_ref());
    let mut rights: BTreeSet<Right> =
        args.filter_map(|f| f.secret_key_ref.as_ref()).map(|s| secret(&s.name)).collect();
    for metric in &template.spec.metrics {
        if metric.provider.job.is_some() {
            rights.insert(job(namespace));
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
