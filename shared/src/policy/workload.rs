//! What a decision needs of an object that carries images, borrowed from the request's bytes.

use super::snapshot::Labels;
use crate::api::status::UpdateStrategy;
use crate::api::{Held, IN_FLIGHT_LABEL, LedgerEntry, WorkloadKind};
use crate::engine::law;
use crate::image::same;
use k8s_openapi::api::apps::v1::DeploymentStrategy;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// An object that carries images.
#[derive(Debug)]
pub struct Workload<'a> {
    /// Kind of the object.
    pub kind: WorkloadKind,
    /// `metadata.name`
    pub name: Cow<'a, str>,
    /// `metadata.labels`
    pub labels: Labels,
    /// The CronJob that its controller reference names. Anybody can write one: it says what to
    /// compare with, and proves nothing.
    pub cron_job: Option<Cow<'a, str>>,
    /// Labels of its pods.
    pub pod_labels: Labels,
    /// Images of containers, init containers, ephemeral containers and image volumes, in the
    /// order of container names.
    pub images: Vec<Image<'a>>,
    /// The pod template, or a Pod's spec.
    pub template: Option<&'a RawValue>,
    /// The fields that the controller guards in flight.
    pub guarded: Guarded,
    /// The annotation of a held object as it is written; it counts only beside our label.
    pub held: Option<Cow<'a, str>>,
    /// What tells one moment of a Deployment from another.
    pub moment: Moment<'a>,
}

/// Where a Deployment is in its life and in its rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment<'a> {
    /// `metadata.uid`
    pub uid: Cow<'a, str>,
    /// `metadata.generation`
    pub generation: i64,
    /// `spec.replicas`
    pub replicas: i64,
    /// Every pod is of the present template, whether available or not.
    pub rolled_out: bool,
}

/// Image of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image<'a> {
    /// Name of the container, or `volume:NAME`.
    pub container: Cow<'a, str>,
    /// The image as it is written.
    pub image: Cow<'a, str>,
}

/// Fields of a workload that belong to the controller while an Upgrade is in flight.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Guarded {
    /// `spec.paused`
    pub paused: Option<bool>,
    /// `spec.minReadySeconds`
    pub min_ready_seconds: Option<i64>,
    /// `spec.progressDeadlineSeconds`
    pub progress_deadline_seconds: Option<i64>,
    /// `spec.strategy`
    pub strategy: Option<DeploymentStrategy>,
    /// `spec.updateStrategy` of a StatefulSet or DaemonSet
    pub update_strategy: Option<UpdateStrategy>,
}

/// An image before and after; `None` where the container is new or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDelta {
    /// Name of the container, or `volume:NAME`.
    pub container: String,
    /// Image before.
    pub from: Option<String>,
    /// Image after.
    pub to: Option<String>,
}

impl<'a> Workload<'a> {
    /// Reads an object; missing and null lists are empty lists.
    pub fn parse(kind: WorkloadKind, raw: &'a RawValue) -> Result<Self, serde_json::Error> {
        let mut object: Object<'a> = serde_json::from_str(raw.get())?;
        let labels = object.metadata.labels.take().unwrap_or_default();
        let (template, pod_labels, pod) = if kind == WorkloadKind::Pod {
            (object.spec, labels.clone(), optional::<PodSpec<'a>>(object.spec)?)
        } else {
            let spec: Spec<'a> = optional(object.spec)?.unwrap_or_default();
            let raw = spec.template.or(spec.job_template.and_then(|j| j.spec?.template));
            let template: Template<'a> = optional(raw)?.unwrap_or_default();
            let labels = template.metadata.and_then(|m| m.labels).unwrap_or_default();
            (raw, labels, template.spec)
        };
        let (guarded, moment) = match kind {
            WorkloadKind::Deployment => {
                let status = optional(object.status)?.unwrap_or_default();
                let scale = optional(object.spec)?.unwrap_or_default();
                let moment = moment(&object.metadata, &scale, &status);
                (optional(object.spec)?.unwrap_or_default(), moment)
            }
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
                let scale: Scale = optional(object.spec)?.unwrap_or_default();
                let moment = moment(&object.metadata, &scale, &Status::default());
                (optional(object.spec)?.unwrap_or_default(), moment)
            }
            _ => (Guarded::default(), Moment::default()),
        };
        let owners = object.metadata.owner_references.unwrap_or_default();
        let cron_job =
            owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "CronJob");
        Ok(Self {
            kind,
            held: object.metadata.annotations.and_then(|a| a.held).map(|t| t.0),
            moment,
            name: object.metadata.name,
            labels,
            cron_job: cron_job.map(|o| o.name),
            pod_labels,
            images: pod.map(images).unwrap_or_default(),
            template,
            guarded,
        })
    }

    /// The Upgrade that the object's label names.
    pub fn in_flight(&self) -> Option<&str> {
        self.labels.get(IN_FLIGHT_LABEL).map(String::as_str)
    }

    /// What mode `Hold` noted of it, where it is held: its new template has not begun.
    pub fn held(&self) -> Option<Held> {
        self.in_flight()?;
        Held::read(self.held.as_deref()?)
    }

    /// Whether its images are those of the ledger entry, container by container.
    pub fn runs(&self, entry: &LedgerEntry) -> bool {
        self.images.len() == entry.images.len()
            && self.images.iter().all(|i| {
                entry.images.iter().any(|e| e.container == i.container && same(&e.image, &i.image))
            })
    }

    /// Whether a canary's template can be written without going to 100 % at once: new pods can
    /// never become available, a partition holds the others, or nothing moves but what is deleted.
    pub fn is_held_back(&self) -> bool {
        let strategy = self.guarded.update_strategy.as_ref();
        match self.kind {
            WorkloadKind::StatefulSet => {
                self.moment.replicas <= 1 || strategy.is_some_and(|s| s.partition() > 0)
            }
            WorkloadKind::DaemonSet => strategy.is_some_and(UpdateStrategy::is_on_delete),
            _ => self.is_inflated(),
        }
    }

    fn is_inflated(&self) -> bool {
        self.guarded.min_ready_seconds == Some(law::INFLATED_MIN_READY_SECONDS.into())
            && self.guarded.progress_deadline_seconds
                == Some(law::INFLATED_PROGRESS_DEADLINE_SECONDS.into())
    }

    /// Whether all pods are replaced at once.
    pub fn recreates(&self) -> bool {
        self.guarded.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }
}

impl Guarded {
    /// Names of the fields in which two objects differ; what the API server defaults counts as
    /// its default.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("spec.paused", self.paused.unwrap_or(false) == other.paused.unwrap_or(false)),
            (
                "spec.minReadySeconds",
                self.min_ready_seconds.unwrap_or(0) == other.min_ready_seconds.unwrap_or(0),
            ),
            (
                "spec.progressDeadlineSeconds",
                self.progress_deadline_seconds.unwrap_or(600)
                    == other.progress_deadline_seconds.unwrap_or(600),
            ),
            ("spec.strategy", self.strategy == other.strategy),
            ("spec.updateStrategy", self.update_strategy == other.update_strategy),
        ];
        pairs.into_iter().filter(|(_, equal)| !equal).map(|(name, _)| name).collect()
    }
}

/// Whether any image differs, or a container came or went. Allocates nothing.
pub fn differ(old: &[Image<'_>], new: &[Image<'_>]) -> bool {
    old.len() != new.len()
        || old.iter().zip(new).any(|(a, b)| a.container != b.container || !same(&a.image, &b.image))
}

/// Every image that differs, and every container that came or went, by container name.
pub fn deltas(old: &[Image<'_>], new: &[Image<'_>]) -> Vec<ImageDelta> {
    let delta = |container: &str, from: Option<&Image<'_>>, to: Option<&Image<'_>>| ImageDelta {
        container: container.to_owned(),
        from: from.map(|i| i.image.to_string()),
        to: to.map(|i| i.image.to_string()),
    };
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a.container == b.container => {
                if !same(&a.image, &b.image) {
                    found.push(delta(&a.container, Some(a), Some(b)));
                }
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none_or(|b| a.container < b.container) => {
                found.push(delta(&a.container, Some(a), None));
                i += 1;
            }
            (_, Some(b)) => {
                found.push(delta(&b.container, None, Some(b)));
                j += 1;
            }
            // Both lists are through: the guard above takes every `old` without a `new`.
            (_, None) => return found,
        }
    }
}

/// Whether two pieces of JSON say the same; equal bytes always do.
pub fn same_json(a: Option<&RawValue>, b: Option<&RawValue>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if a.get() == b.get() => true,
        (Some(a), Some(b)) => {
            let read = |r: &RawValue| serde_json::from_str::<serde_json::Value>(r.get()).ok();
            matches!((read(a), read(b)), (Some(a), Some(b)) if a == b)
        }
        _ => false,
    }
}

fn optional<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> serde_json::Result<Option<T>> {
    raw.map(|r| serde_json::from_str(r.get())).transpose()
}

fn images(pod: PodSpec<'_>) -> Vec<Image<'_>> {
    let containers = [pod.containers, pod.init_containers, pod.ephemeral_containers];
    let mut all: Vec<Image<'_>> = containers
        .into_iter()
        .flatten()
        .flatten()
        .map(|c| Image { container: c.name, image: c.image.map_or(Cow::Borrowed(""), |t| t.0) })
        .collect();
    for volume in pod.volumes.unwrap_or_default() {
        let of_driver = volume.csi.and_then(|c| c.volume_attributes).and_then(|a| a.image);
        let reference = match volume.image {
            Some(image) => image.reference.or(of_driver).map_or(Cow::Borrowed(""), |t| t.0),
            None => match of_driver {
                Some(image) => image.0,
                None => continue,
            },
        };
        let container = Cow::Owned(crate::api::ledger::volume(&volume.name));
        all.push(Image { container, image: reference });
    }
    all.sort_unstable();
    all
}

fn moment<'a>(meta: &Meta<'a>, scale: &Scale, status: &Status) -> Moment<'a> {
    let replicas = scale.replicas.unwrap_or(1);
    Moment {
        uid: meta.uid.clone(),
        generation: meta.generation,
        replicas,
        rolled_out: status.observed_generation >= meta.generation
            && (status.replicas, status.updated_replicas) == (replicas, replicas),
    }
}

/// Text that is borrowed where it has no escapes, also inside an `Option`.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    spec: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(borrow, default)]
    annotations: Option<Annotations<'a>>,
    #[serde(borrow, default)]
    owner_references: Option<Vec<Owner<'a>>>,
}

/// Of the annotations only ours is read; [`crate::api::HELD_ANNOTATION`].
#[derive(Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, default, rename = "kubectl-upgrade.dev/held")]
    held: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Owner<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Scale {
    #[serde(default)]
    replicas: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    replicas: i64,
    updated_replicas: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    template: Option<&'a RawValue>,
    #[serde(borrow, default)]
    job_template: Option<JobTemplate<'a>>,
}

#[derive(Deserialize)]
struct JobTemplate<'a> {
    #[serde(borrow, default)]
    spec: Option<JobSpec<'a>>,
}

#[derive(Deserialize)]
struct JobSpec<'a> {
    #[serde(borrow, default)]
    template: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Template<'a> {
    #[serde(default)]
    metadata: Option<TemplateMeta>,
    #[serde(borrow, default)]
    spec: Option<PodSpec<'a>>,
}

#[derive(Deserialize)]
struct TemplateMeta {
    #[serde(default)]
    labels: Option<Labels>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec<'a> {
    #[serde(borrow, default)]
    containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    init_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    ephemeral_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    volumes: Option<Vec<Volume<'a>>>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    image: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Volume<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    image: Option<ImageVolume<'a>>,
    #[serde(borrow, default)]
    csi: Option<CsiVolume<'a>>,
}

/// A volume of a CSI driver that mounts an image: those that there are name it `image`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CsiVolume<'a> {
    #[serde(borrow, default)]
    volume_attributes: Option<CsiAttributes<'a>>,
}

#[derive(Deserialize)]
struct CsiAttributes<'a> {
    #[serde(borrow, default)]
    image: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct ImageVolume<'a> {
    #[serde(borrow, default)]
    reference: Option<Text<'a>>,
}
