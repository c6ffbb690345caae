//! What must be read live before a request may pass.

use super::review::Review;
use super::snapshot::{Labels, NamespaceView};
use super::workload::ImageDelta;
use crate::api::{Decision, Identity, Upgrade, UpgradeSpec, WorkloadKind};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What must be read live, and what it is for. [`super::confirm`] ends it.
#[derive(Debug, PartialEq)]
pub struct Question {
    /// The Upgrade to read.
    pub upgrade: Option<UpgradeRef>,
    /// Rights that the requesting user must have, all of them; or whom it asks in the name of.
    pub access: Vec<AccessNeed>,
    /// The workloads whose labels to read: they say which policies hold.
    pub labels: LabelsOf,
    /// AnalysisTemplates to read: what they make the controller do takes rights of its own.
    pub templates: Vec<TemplateUse>,
    /// In whose name our own controller asks, where it does: the rights must be theirs.
    pub on_behalf_of: Option<Identity>,
    pub(super) topic: Topic,
}

/// Name of an Upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The attributes of one SubjectAccessReview for the requesting user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Verb, for instance `patch` or `approve`.
    pub verb: &'static str,
    /// API group.
    pub group: &'static str,
    /// Resource, plural; with its subresource, as `pods/log`.
    pub resource: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name; absent means every object of the namespace.
    pub name: Option<String>,
}

/// A right that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessNeed {
    /// Exactly this one.
    One(Access),
    /// This one, or every one of the others: a right to the whole namespace, else to each name.
    WholeOrEach {
        /// The right to all objects of the namespace; asked first.
        whole: Access,
        /// The rights by name; asked only when the first is missing.
        each: Vec<Access>,
    },
}

/// Workloads whose labels are to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LabelsOf {
    /// None.
    #[default]
    Nothing,
    /// These.
    Named {
        /// Their namespace.
        namespace: String,
        /// Kinds and names.
        workloads: Vec<(WorkloadKind, String)>,
    },
    /// Every target of the Upgrade that is read.
    Targets,
}

/// An AnalysisTemplate that an Upgrade measures by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateUse {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Upgrade gives arguments of its own choice, and so may say where its requests go.
    pub with_args: bool,
}

/// Labels of workloads; one that is not there has none.
pub type Labelled = BTreeMap<(WorkloadKind, String), Labels>;

/// Answer to [`LabelsOf`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing was asked.
    #[default]
    NotAsked,
    /// These are what the API server has.
    Found(Labelled),
    /// They could not be read.
    Failed(String),
}

/// Answer to one [`AccessNeed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    /// The user has it.
    Yes,
    /// The user lacks these.
    No(Vec<Access>),
    /// It could not be found out.
    Failed(String),
}

/// Answer to "read this Upgrade".
#[derive(Debug, Default)]
pub enum Live {
    /// Nothing was asked.
    #[default]
    NotAsked,
    /// This is what the API server has.
    Found(Box<Upgrade>),
    /// There is none of this name.
    Missing,
    /// It could not be read.
    Failed(String),
}

/// Everything a [`Question`] asked for.
#[derive(Debug, Default)]
pub struct Answers {
    /// The Upgrade.
    pub upgrade: Live,
    /// One answer for each of [`Question::access`], in order.
    pub access: Vec<Granted>,
    /// The labels.
    pub labels: Seen,
    /// One answer for each of [`Question::templates`], in order.
    pub templates: Vec<Granted>,
}

/// What the question is about, kept for the end.
#[derive(Debug, PartialEq)]
pub(super) enum Topic {
    /// Our own controller changes images of a workload in flight.
    Images(ImagesTopic),
    /// Rights alone decide.
    Rights {
        /// What the user wants, for the refusal: "start Upgrade shop/web-v2".
        what: String,
        /// Who asks.
        username: String,
    },
    /// Somebody asks for an Upgrade.
    Start(StartTopic),
    /// Somebody approves or rejects.
    Approval(ApprovalTopic),
}

/// Our own controller changes images of a workload in flight.
#[derive(Debug, PartialEq)]
pub(super) struct ImagesTopic {
    pub kind: WorkloadKind,
    pub namespace: String,
    pub name: String,
    pub upgrade: String,
    pub deltas: Vec<ImageDelta>,
    /// New pods are held back, or the workload replaces all pods at once anyway.
    pub may_go_forward: bool,
    /// It is put back to where mode `Hold` had it: the new template, paused.
    pub held: bool,
    /// It is not the workload of that name but its canary, a Deployment of its own that is made.
    pub canary: bool,
}

/// Somebody asks for an Upgrade.
#[derive(Debug, PartialEq)]
pub(super) struct StartTopic {
    /// For refusals: "Upgrade shop/web-v2".
    pub object: String,
    pub username: String,
    pub spec: UpgradeSpec,
    /// The policies of the namespace, as they were when the question was asked.
    pub view: Arc<NamespaceView>,
}

/// Somebody approves or rejects.
#[derive(Debug, PartialEq)]
pub(super) struct ApprovalTopic {
    pub namespace: String,
    pub upgrade: String,
    pub uid: Option<String>,
    pub plan_hash: String,
    pub decision: Decision,
    pub stage: Option<String>,
    pub step: Option<i32>,
    pub approver: Identity,
    /// The policies of the namespace, as they were when the question was asked.
    pub view: Arc<NamespaceView>,
}

impl Access {
    /// The resource as kubectl takes it: `deployments.apps`, `services`.
    pub(super) fn kind(&self) -> String {
        match self.group {
            "" => self.resource.to_owned(),
            group => format!("{}.{group}", self.resource),
        }
    }

    /// A verb on one Upgrade.
    pub(super) fn upgrade(verb: &'static str, namespace: &str, name: &str) -> Self {
        Self {
            verb,
            group: crate::api::GROUP,
            resource: "upgrades",
            namespace: namespace.to_owned(),
            name: Some(name.to_owned()),
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` on {}", self.verb, self.kind())?;
        match &self.name {
            Some(name) => write!(f, "/{name} in namespace {}", self.namespace),
            None => write!(f, " in namespace {}", self.namespace),
        }
    }
}

impl Review<'_> {
    /// Name of the requested object, for messages.
    pub(super) fn named(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
