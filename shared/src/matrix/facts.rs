//! What was read from the cluster.

use crate::api::WorkloadKind;
use crate::api::matrix::{Condition, ConfigMapKey, VersionSource};
use crate::version::Version;
use std::collections::BTreeMap;

/// One version, and what it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What it was read from, for people and to tell readings apart; a workload is named by
    /// [`workload_object`].
    pub object: String,
    /// What was read.
    pub version: Version,
}

/// Versions of components and values of settings.
///
/// A component of which nothing was said is not known. One workload may have several readings: a
/// canary runs two versions at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    versions: BTreeMap<String, Vec<Reading>>,
    unread: BTreeMap<String, String>,
    settings: BTreeMap<ConfigMapKey, Option<String>>,
}

/// What is known of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It runs these versions; at least one.
    Runs(Vec<Reading>),
    /// It was looked for and is not there.
    Absent,
    /// It could not be read, or not all of it; the reason.
    Unread(String),
}

impl Facts {
    /// A version that was read.
    pub fn read(&mut self, component: &str, object: &str, version: &str) -> &mut Self {
        self.put(component, object, Version::parse(version));
        self
    }

    /// It was looked for and is not there.
    pub fn absent(&mut self, component: &str) -> &mut Self {
        self.versions.entry(component.to_owned()).or_default();
        self
    }

    /// It could not be read, or a part of it could not; whatever else is read of it, it is not
    /// known.
    pub fn unread(&mut self, component: &str, why: &str) -> &mut Self {
        self.unread.insert(component.to_owned(), why.to_owned());
        self
    }

    /// The value of a ConfigMap's key; `None` where there is no such ConfigMap or key.
    pub fn setting(&mut self, key: ConfigMapKey, value: Option<&str>) -> &mut Self {
        self.settings.insert(key, value.map(str::to_owned));
        self
    }

    /// What was read of a component, known in full or not.
    pub fn readings(&self, component: &str) -> &[Reading] {
        self.versions.get(component).map_or(&[], Vec::as_slice)
    }

    /// What is known of a component that is read from this source.
    pub fn known(&self, component: &str, source: &VersionSource) -> Known {
        if let Some(literal) = &source.literal {
            let object = "the matrix itself".to_owned();
            return Known::Runs(vec![Reading { object, version: Version::parse(literal) }]);
        }
        if let Some(why) = self.unread.get(component) {
            return Known::Unread(why.clone());
        }
        match self.versions.get(component) {
            None => Known::Unread("it was not read".to_owned()),
            Some(readings) if readings.is_empty() => Known::Absent,
            Some(readings) => Known::Runs(readings.clone()),
        }
    }

    /// Whether a setting has the value; `None` where it was not read.
    pub(super) fn holds(&self, condition: &Condition) -> Option<bool> {
        let value = self.settings.get(&condition.config_map)?;
        Some(value.as_deref() == Some(condition.equals.as_str()))
    }

    pub(super) fn put(&mut self, component: &str, object: &str, version: Version) {
        let reading = Reading { object: object.to_owned(), version };
        let readings = self.versions.entry(component.to_owned()).or_default();
        if !readings.contains(&reading) {
            readings.push(reading);
        }
    }

    /// Forgets what an object, or with `None` every object, runs of a component.
    pub(super) fn forget(&mut self, component: &str, object: Option<&str>) {
        if let Some(readings) = self.versions.get_mut(component) {
            readings.retain(|r| object.is_some_and(|o| o != r.object));
        }
    }

    /// What runs while one turns into the other: both.
    pub(super) fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (component, readings) in &other.versions {
            both.absent(component);
            for reading in readings {
                both.put(component, &reading.object, reading.version.clone());
            }
        }
        both
    }
}

/// The name of a workload's container in readings: `deployment.apps/web[app] in shop`. Without a
/// container where a label of its pods says the version.
pub fn workload_object(
    kind: WorkloadKind,
    namespace: &str,
    name: &str,
    container: Option<&str>,
) -> String {
    let container = container.map(|c| format!("[{c}]")).unwrap_or_default();
    format!("{}/{name}{container} in {namespace}", kind.resource())
}
