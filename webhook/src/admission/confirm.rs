//! The one live read on the allow path, and access reviews.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::time::Duration;
use upgrade_core::api::Upgrade;
use upgrade_core::policy::{
    Access, AccessNeed, Answers, Granted, Live, Question, UpgradeRef, User,
};

/// Time for everything that a question asks, together. The API server waits five seconds.
const LIMIT: Duration = Duration::from_secs(1);

/// Reads what a question asks for. Errors become answers that are refusals.
pub async fn answer(client: &Client, question: &Question, user: &User<'_>) -> Answers {
    let upgrade = async {
        match &question.upgrade {
            Some(reference) => read(client, reference).await,
            None => Live::NotAsked,
        }
    };
    let access = async {
        let needs = question.access.iter().map(|need| granted(client, need, user));
        futures::future::join_all(needs).await
    };
    let both = async { tokio::join!(upgrade, access) };
    if let Ok((upgrade, access)) = tokio::time::timeout(LIMIT, both).await {
        return Answers { upgrade, access };
    }
    let why = "the API server did not answer within 1 s".to_owned();
    let access = vec![Granted::Failed(why.clone()); question.access.len()];
    Answers { upgrade: Live::Failed(why), access }
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
                resource: Some(access.resource.to_owned()),
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
