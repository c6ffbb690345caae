//! Which image of which container: from `--image` and from `--to`.

use super::live;
use crate::client::Session;
use crate::lower::{Container, Reference};
use crate::output::Refusal;
use crate::output::hint::nearest;
use std::collections::BTreeSet;
use upgrade_core::api::upgrade::ImageChange;
use upgrade_core::image::{self, Image};
use upgrade_core::plan::{Autoscaler, Live, Workload};

/// A container of a live workload.
struct Running {
    name: String,
    image: String,
    init: bool,
}

fn running(live: &Live) -> Vec<Running> {
    let Some(pod) = live.pod() else { return Vec::new() };
    let main = pod.containers.iter().map(|c| (c, false));
    let init = pod.init_containers.iter().flatten().map(|c| (c, true));
    main.chain(init)
        .map(|(c, init)| Running {
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            init,
        })
        .collect()
}

fn workload(live: Live, images: Vec<ImageChange>) -> Workload {
    Workload { live, images, autoscaler: Autoscaler::None }
}

fn change(container: &Running, to: String) -> Option<ImageChange> {
    (!image::same(&container.image, &to)).then(|| ImageChange {
        container: container.name.clone(),
        from: container.image.clone(),
        to,
    })
}

/// Named containers get named images, in every workload that has them.
pub async fn by_container(
    session: &Session,
    references: &[Reference],
    wanted: &[Container],
) -> Result<Vec<Workload>, Refusal> {
    let live = live::workloads(session, references).await?;
    let mut workloads = Vec::new();
    let mut used = BTreeSet::new();
    for deployment in live {
        let running = running(&deployment);
        let mut images = Vec::new();
        let mut hit = false;
        for want in wanted {
            let Some(container) = running.iter().find(|c| c.name == want.name) else {
                continue;
            };
            hit = true;
            used.insert(&want.name);
            images.extend(change(container, want.image.clone()));
        }
        if !hit {
            return Err(no_such_container(&deployment, wanted.first(), &running));
        }
        workloads.push(workload(deployment, images));
    }
    if let Some(unused) = wanted.iter().find(|c| !used.contains(&c.name)) {
        let all: Vec<Running> = workloads.iter().flat_map(|w| running(&w.live)).collect();
        let first = workloads.first().map(|w| w.live.clone()).unwrap_or_default();
        return Err(no_such_container(&first, Some(unused), &all));
    }
    Ok(workloads)
}

fn no_such_container(live: &Live, want: Option<&Container>, running: &[Running]) -> Refusal {
    let want = want.map(|c| c.name.as_str()).unwrap_or_default();
    let names: Vec<&str> = running.iter().map(|c| c.name.as_str()).collect();
    let refusal = Refusal::new(
        "NoSuchContainer",
        format!(
            "--image: {} has no container `{want}`; it has {}",
            live.reference(),
            names.join(", ")
        ),
    );
    match nearest(want, names.iter().copied()) {
        Some(near) => refusal.hint(format!("did you mean `{near}`?")),
        None => refusal,
    }
}

/// The containers that carry the version get another tag.
pub async fn by_tag(
    session: &Session,
    references: &[Reference],
    tag: &str,
) -> Result<Vec<Workload>, Refusal> {
    let live = live::workloads(session, references).await?;
    let all: Vec<(Live, Vec<Running>)> = live
        .into_iter()
        .map(|d| {
            let r = running(&d);
            (d, r)
        })
        .collect();
    let common = common_tag(&all);
    let mut workloads = Vec::new();
    for (deployment, running) in all {
        let chosen = carriers(&deployment, &running, common.as_deref())?;
        let mut images = Vec::new();
        for container in chosen {
            images.extend(change(container, retag(&container.image, tag)));
        }
        workloads.push(workload(deployment, images));
    }
    Ok(workloads)
}

/// The one tag that a container of every workload has.
fn common_tag(all: &[(Live, Vec<Running>)]) -> Option<String> {
    let tags = |running: &[Running]| -> BTreeSet<String> {
        running.iter().filter(|c| !c.init).filter_map(|c| tag_of(&c.image)).collect()
    };
    let mut sets = all.iter().map(|(_, r)| tags(r));
    let first = sets.next()?;
    let mut common = sets.fold(first, |a, b| a.intersection(&b).cloned().collect());
    if common.len() == 1 { common.pop_first() } else { None }
}

fn tag_of(image: &str) -> Option<String> {
    Image::parse(image).ok()?.tag().map(str::to_owned)
}

fn carriers<'a>(
    live: &Live,
    running: &'a [Running],
    common: Option<&str>,
) -> Result<Vec<&'a Running>, Refusal> {
    if let Some(common) = common {
        return Ok(running
            .iter()
            .filter(|c| tag_of(&c.image).as_deref() == Some(common))
            .collect());
    }
    let main: Vec<&Running> = running.iter().filter(|c| !c.init).collect();
    if let [one] = main.as_slice() {
        // Init containers that carry the same version go along.
        let tag = tag_of(&one.image);
        let same = |c: &&Running| !c.init || (tag.is_some() && tag_of(&c.image) == tag);
        return Ok(running.iter().filter(same).collect());
    }
    let listed: Vec<String> = main.iter().map(|c| format!("{}={}", c.name, c.image)).collect();
    let first = main.first().map_or("CONTAINER", |c| c.name.as_str());
    Err(Refusal::new(
        "AmbiguousContainer",
        format!(
            "--to: {} has several containers with different tags, and no one tag that all \
             workloads share: {}",
            live.reference(),
            listed.join(", ")
        ),
    )
    .hint(format!("say which: --image {first}=IMAGE")))
}

/// Another tag, in an image that is otherwise written as it was; a digest named the old one.
fn retag(image: &str, tag: &str) -> String {
    let bare = image.split('@').next().unwrap_or(image);
    let name_start = bare.rfind('/').map_or(0, |i| i + 1);
    let end =
        bare.get(name_start..).and_then(|n| n.find(':')).map_or(bare.len(), |i| name_start + i);
    format!("{}:{tag}", bare.get(..end).unwrap_or(bare))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    fn pair(name: &str, containers: &[(&str, &str)]) -> (Live, Vec<Running>) {
        let list: Vec<_> = containers.iter().map(|(n, i)| json!({"name": n, "image": i})).collect();
        let live: Deployment = serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"selector": {}, "template": {"spec": {"containers": list}}}}))
        .expect("a Deployment");
        let live = Live::from(live);
        let running = running(&live);
        (live, running)
    }

    fn chosen(all: &[(Live, Vec<Running>)]) -> Result<Vec<String>, String> {
        let common = common_tag(all);
        let mut names = Vec::new();
        for (live, running) in all {
            let picked = carriers(live, running, common.as_deref()).map_err(|e| e.message)?;
            names.extend(picked.iter().map(|c| format!("{}/{}", live.name_any(), c.name)));
        }
        Ok(names)
    }

    #[test]
    fn a_tag_replaces_a_tag_and_a_digest() {
        for (from, to) in [
            ("web", "web:v2"),
            ("r:5000/web", "r:5000/web:v2"),
            ("r:5000/a/web:v1", "r:5000/a/web:v2"),
            ("r/web:v1@sha256:abc", "r/web:v2"),
        ] {
            assert_eq!(retag(from, "v2"), to);
        }
    }

    #[test]
    fn the_tag_is_given_to_the_containers_that_carry_the_version() {
        let web = || pair("web", &[("web", "r/web:v1"), ("proxy", "envoy:1.30")]);
        let api = || pair("api", &[("api", "r/api:v1")]);
        assert_eq!(chosen(&[web(), api()]).expect("clear"), ["web/web", "api/api"]);
        assert_eq!(chosen(&[api()]).expect("clear"), ["api/api"]);
        let odd = pair("odd", &[("odd", "r/odd:7")]);
        assert_eq!(chosen(&[odd, api()]).expect("clear"), ["odd/odd", "api/api"]);
        let both = pair("both", &[("a", "r/a:v1"), ("b", "r/b:v1")]);
        assert_eq!(chosen(&[both]).expect("clear"), ["both/a", "both/b"]);
        let refused = chosen(&[web()]).expect_err("ambiguous");
        assert!(refused.contains("web=r/web:v1, proxy=envoy:1.30"), "{refused}");
    }
}
