//! One admission request, borrowed from its bytes.

use super::workload::Workload;
use crate::api::{
    AnalysisTemplate, CompatibilityMatrix, Identity, MaintenanceWindow, Upgrade, UpgradeApproval,
    UpgradeSchedule,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One admission request: who asks for what.
#[derive(Debug)]
pub struct Review<'a> {
    /// `request.uid`: the answer must repeat it.
    pub uid: Cow<'a, str>,
    /// What is done to the object.
    pub operation: Operation,
    /// Subresource, empty for the object itself.
    pub subresource: Cow<'a, str>,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: Cow<'a, str>,
    /// Name; empty where the API server has yet to generate it.
    pub name: Cow<'a, str>,
    /// Whether nothing will be stored. Changes a verdict only where a policy says so.
    pub dry_run: bool,
    /// Who asks, as the API server authenticated it.
    pub user: User<'a>,
    /// The object.
    pub subject: Subject<'a>,
}

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// A connection is made to it.
    Connect,
}

/// Who asks: `request.userInfo`.
#[derive(Debug, Deserialize)]
pub struct User<'a> {
    /// `username`
    #[serde(borrow, default)]
    pub username: Cow<'a, str>,
    /// `uid`, empty where the authenticator has none.
    #[serde(borrow, default)]
    pub uid: Cow<'a, str>,
    /// `groups`
    #[serde(default)]
    pub groups: Option<Vec<String>>,
    /// `extra`, unread: it is only handed on to access reviews.
    #[serde(borrow, default)]
    pub extra: Option<&'a RawValue>,
}

/// The object of a request, before and after.
#[derive(Debug)]
pub enum Subject<'a> {
    /// An object that carries images.
    Workload(Box<Change<Workload<'a>>>),
    /// An Upgrade.
    Upgrade(Box<Change<Upgrade>>),
    /// An UpgradeApproval.
    Approval(Box<Change<UpgradeApproval>>),
    /// An UpgradeSchedule.
    Schedule(Box<Change<UpgradeSchedule>>),
    /// A MaintenanceWindow.
    Window(Box<Change<MaintenanceWindow>>),
    /// A CompatibilityMatrix.
    Matrix(Box<Change<CompatibilityMatrix>>),
    /// An AnalysisTemplate.
    Analysis(Box<Change<AnalysisTemplate>>),
    /// An UpgradeLedger; only who writes it matters.
    Ledger,
    /// Anything else: nothing here is about it.
    Other,
}

/// An object before and after a request.
#[derive(Debug)]
pub struct Change<T> {
    /// As it is; absent on CREATE.
    pub old: Option<T>,
    /// As it will be; absent on DELETE.
    pub new: Option<T>,
}

impl User<'_> {
    /// The identity as our objects record it.
    pub fn identity(&self) -> Identity {
        Identity {
            username: self.username.to_string(),
            uid: (!self.uid.is_empty()).then(|| self.uid.to_string()),
            groups: self.groups.clone().unwrap_or_default(),
        }
    }

    /// Whether the identity says exactly who asks.
    pub fn is(&self, identity: &Identity) -> bool {
        identity.username == self.username
            && identity.uid.as_deref().unwrap_or_default() == self.uid
            && identity.groups.as_slice() == self.groups.as_deref().unwrap_or_default()
    }
}
