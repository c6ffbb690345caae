//! The one live read on the allow path, access reviews, and the templates that they depend on.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{ListParams, ObjectMeta, PartialObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;
use upgrade_core::api::{AnalysisTemplate, Identity, Upgrade, WorkloadKind};
use upgrade_core::policy::analysis;
use upgrade_core::policy::snapshot::targets;
use upgrade_core::policy::{
    Access, AccessNeed, Answers, Granted, Labelled, LabelsOf, Live, Question, Seen, TemplateUse,
    UpgradeRef, User,
};

/// Time for everything that a question asks, together. The API server waits five seconds.
const LIMIT: Duration = Duration::from_secs(1);

/// Reads what a question asks for. Errors become answers that are refusals.
pub async fn answer(client: &Client, question: &Question, user: &User<'_>) -> Answers {
    let upgrade = async {
        let upgrade = match &question.upgrade {
            Some(reference) => read(client, reference).await,
            None => Live::NotAsked,
        };
        let labels = labels(client, &question.labels, &upgrade).await;
        (upgrade, labels)
    };
    let behalf = question.on_behalf_of.as_ref().map(borrowed);
    let user = behalf.as_ref().unwrap_or(user);
    let access = async {
        let needs = question.access.iter().map(|need| granted(client, need, user));
        futures::future::join_all(needs).await
    };
    let templates = async {
        let read = question.templates.iter().map(|template| measured(client, template, user));
        futures::future::join_all(read).await
    };
    let all = async { tokio::join!(upgrade, access, templates) };
    if let Ok(((upgrade, labels), access, templates)) = tokio::time::timeout(LIMIT, all).await {
        return Answers { upgrade, access, labels, templates };
    }
    let why = "the API server did not answer within 1 s".to_owned();
    let failed = |count| vec![Granted::Failed(why.clone()); count];
    Answers {
        upgrade: Live::Failed(why.clone()),
        access: failed(question.access.len()),
        templates: failed(question.templates.len()),
        labels: Seen::Failed(why),
    }
}

/// Whether the user has every right that measuring by a template takes, as it is now.
async fn measured(client: &Client, template: &TemplateUse, user: &User<'_>) -> Granted {
    let api: Api<AnalysisTemplate> = Api::namespaced(client.clone(), &template.namespace);
    let found = match api.get_opt(&template.name).await {
        Ok(found) => found,
        Err(error) => return Granted::Failed(error.to_string()),
    };
    let needs = analysis::rights(template, found.as_ref());
    let answers = needs.iter().map(|need| granted(client, need, user));
    let mut missing = Vec::new();
    for answer in futures::future::join_all(answers).await {
        match answer {
            Granted::Yes => {}
            Granted::No(more) => missing.extend(more),
            failed @ Granted::Failed(_) => return failed,
        }
    }
    if missing.is_empty() { Granted::Yes } else { Granted::No(missing) }
}

async fn labels(client: &Client, wanted: &LabelsOf, upgrade: &Live) -> Seen {
    let (namespace, workloads) = match (wanted, upgrade) {
        (LabelsOf::Nothing, _) => return Seen::NotAsked,
        (LabelsOf::Named { namespace, workloads }, _) => (namespace.clone(), workloads.clone()),
        (LabelsOf::Targets, Live::Found(upgrade)) => {
            let namespace = upgrade.metadata.namespace.clone().unwrap_or_default();
            (namespace, targets(upgrade).map(|t| (t.kind, t.name.clone())).collect())
        }
        (LabelsOf::Targets, _) => return Seen::Failed("the Upgrade was not read".to_owned()),
    };
    let mut found = Labelled::new();
    let mut kinds: Vec<WorkloadKind> = workloads.iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let mine = workloads.iter().filter(|(k, _)| *k == kind);
        let names: Vec<&str> = mine.map(|(_, name)| name.as_str()).collect();
        let read = match kind {
            WorkloadKind::Deployment => of::<Deployment>(client, &namespace, kind, &names).await,
            WorkloadKind::StatefulSet => of::<StatefulSet>(client, &namespace, kind, &names).await,
            WorkloadKind::DaemonSet => of::<DaemonSet>(client, &namespace, kind, &names).await,
            _ => return Seen::Failed(format!("an Upgrade is about no {kind}")),
        };
        match read {
            Ok(more) => found.extend(more),
            Err(error) => return Seen::Failed(error.to_string()),
        }
    }
    Seen::Found(found)
}

/// Labels of workloads of a kind: one request for each of a few, one for all of the namespace else.
async fn of<K>(
    client: &Client,
    namespace: &str,
    kind: WorkloadKind,
    names: &[&str],
) -> kube::Result<Labelled>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    const FEW: usize = 8;
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = if names.len() <= FEW {
        let gets = names.iter().map(|name| api.get_metadata_opt(name));
        let got = futures::future::try_join_all(gets).await?;
        got.into_iter().flatten().collect()
    } else {
        api.list_metadata(&ListParams::default()).await?.items
    };
    let labels = |o: PartialObjectMeta<K>| {
        let name = o.metadata.name.unwrap_or_default();
        ((kind, name), o.metadata.labels.unwrap_or_default())
    };
    Ok(found.into_iter().map(labels).collect())
}

/// An identity of our objects as a user; `extra` is not kept there, so no right can come of it.
fn borrowed(identity: &Identity) -> User<'_> {
    User {
        username: identity.username.as_str().into(),
        uid: identity.uid.as_deref().unwrap_or_default().into(),
        groups: Some(identity.groups.clone()),
        extra: None,
    }
}

/// Reads an Upgrade from the API server, not from any cache.
pub async fn read(client: &Client, reference: &UpgradeRef) -> Live {
    let api: Api<Upgrade> = Api::namespaced(client.clone(), &reference.namespace);
    match tokio::time::timeout(LIMIT, api.get_opt(&reference.name)).await {
        Ok(Ok(Some(upgrade))) => Live::Found(Box::new(upgrade)),
        Ok(Ok(None)) => Live::Missing,
        Ok(Err(error)) => Live::Failed(error.to_string()),
        Err(_) => Live::Failed("the API server did not answer within 1 s".to_owned()),
    }
}

async fn granted(client: &Client, need: &AccessNeed, user: &User<'_>) -> Granted {
    let (whole, each) = match need {
        AccessNeed::One(access) => (access, [].as_slice()),
        AccessNeed::WholeOrEach { whole, each } => (whole, each.as_slice()),
    };
    match may(client, whole, user).await {
        Ok(true) => return Granted::Yes,
        Ok(false) if each.is_empty() => return Granted::No(vec![whole.clone()]),
        Ok(false) => {}
        Err(why) => return Granted::Failed(why),
    }
    let answers = futures::future::join_all(each.iter().map(|a| may(client, a, user))).await;
    let mut missing = Vec::new();
    for (access, answer) in each.iter().zip(answers) {
        match answer {
            Ok(true) => {}
            Ok(false) => missing.push(access.clone()),
            Err(why) => return Granted::Failed(why),
        }
    }
    if missing.is_empty() { Granted::Yes } else { Granted::No(missing) }
}

async fn may(client: &Client, access: &Access, user: &User<'_>) -> Result<bool, String> {
    let identity = user.identity();
    let extra: Option<BTreeMap<String, Vec<String>>> = match user.extra {
        Some(raw) => serde_json::from_str(raw.get()).map_err(|e| format!("userInfo.extra: {e}"))?,
        None => None,
    };
    let (resource, subresource) = match access.resource.split_once('/') {
        Some((resource, part)) => (resource, Some(part.to_owned())),
        None => (access.resource, None),
    };
    let review = SubjectAccessReview {
        metadata: ObjectMeta::default(),
        spec: SubjectAccessReviewSpec {
            user: Some(identity.username),
            uid: identity.uid,
            groups: Some(identity.groups),
            extra,
            resource_attributes: Some(ResourceAttributes {
                verb: Some(access.verb.to_owned()),
                group: Some(access.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                namespace: Some(access.namespace.clone()),
                name: access.name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        status: None,
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.map_err(|e| e.to_string())?;
    let status = answer.status.ok_or("the access review came back without a status")?;
    // `denied` is a no even where another authorizer said yes.
    Ok(status.allowed && !status.denied.unwrap_or(false))
}
