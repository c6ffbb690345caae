//! A CompatibilityMatrix, read once.

use super::facts::{Facts, Known};
use crate::api::matrix::{
    CompatibilityMatrix, CompatibilityMatrixSpec, Condition, Downgrade, RangeText, VersionSource,
};
use crate::api::{Verdict, matrix as api};
use crate::version::Range;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};

/// A valid CompatibilityMatrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) components: Vec<api::Component>,
    pub(super) rows: Vec<Row>,
    pub(super) default: Verdict,
    pub(super) unlisted: Verdict,
    pub(super) paths: Vec<Path>,
    pub(super) skew: Vec<api::Skew>,
    pub(super) order: Vec<api::Order>,
    pub(super) migrations: Vec<Migration>,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub versions: BTreeMap<String, Range>,
    pub of: api::Row,
}

#[derive(Clone, Debug)]
pub(super) struct Path {
    pub component: String,
    pub from: Option<Range>,
    pub to: Option<Range>,
    pub minimum_source: Option<Range>,
    pub of: api::PathRule,
}

#[derive(Clone, Debug)]
pub(super) struct Migration {
    pub from: Range,
    pub to: Range,
    pub requires: Range,
    pub of: api::Migration,
}

/// Why a CompatibilityMatrix cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CompatibilityMatrix {matrix}: {field}: {why}")]
pub struct MatrixError {
    /// Name of the matrix.
    pub matrix: String,
    /// Path of the field: `spec.rows[3].versions.agent`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Field and reason; the matrix's name comes last.
type Wrong = (String, String);

impl Matrix {
    /// Reads every range and checks every name.
    ///
    /// The API server checks names too, and cannot read ranges: whoever admits a matrix asks here.
    pub fn parse(object: &CompatibilityMatrix) -> Result<Self, MatrixError> {
        let name = object.name_any();
        compile(&name, &object.spec).map_err(|(field, why)| MatrixError {
            matrix: name,
            field: format!("spec.{field}"),
            why,
        })
    }

    /// Name of the matrix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the component whose version is judged.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Components, and where their versions are read: what whoever gathers [`Facts`] asks for.
    pub fn components(&self) -> impl Iterator<Item = (&str, &VersionSource)> {
        self.components.iter().map(|c| (c.name.as_str(), &c.version))
    }

    /// Settings that rows and order depend on: what whoever gathers [`Facts`] asks for.
    pub fn settings(&self) -> BTreeSet<&api::ConfigMapKey> {
        let rows = self.rows.iter().flat_map(|r| &r.of.when);
        rows.chain(self.order.iter().flat_map(|o| &o.when)).map(|c| &c.config_map).collect()
    }

    /// Index of a component, and the component.
    pub(super) fn component(&self, name: &str) -> Option<(usize, &api::Component)> {
        self.components.iter().enumerate().find(|(_, c)| c.name == name)
    }

    pub(super) fn known(&self, facts: &Facts, name: &str) -> Known {
        match self.component(name) {
            Some((_, component)) => facts.known(name, &component.version),
            None => Known::Unread("no component has this name".to_owned()),
        }
    }
}

/// Whether all of them hold; an error names one that was not read, where none fails.
pub(super) fn hold<'a>(when: &'a [Condition], facts: &Facts) -> Result<bool, &'a Condition> {
    let mut unread = None;
    for condition in when {
        match facts.holds(condition) {
            None => unread = unread.or(Some(condition)),
            Some(false) => return Ok(false),
            Some(true) => {}
        }
    }
    unread.map_or(Ok(true), Err)
}

fn compile(name: &str, spec: &CompatibilityMatrixSpec) -> Result<Matrix, Wrong> {
    let names = components(spec)?;
    let known = |field: &str, name: &str| -> Result<(), Wrong> {
        if names.contains(name) {
            return Ok(());
        }
        let all: Vec<&str> = names.iter().copied().collect();
        Err((field.to_owned(), format!("`{name}` is no component; there are {}", all.join(", "))))
    };
    known("subject.component", &spec.subject.component)?;
    let mut rows = vec![];
    for (n, row) in spec.rows.iter().enumerate() {
        let mut versions = BTreeMap::new();
        for (name, text) in &row.versions {
            let field = format!("rows[{n}].versions.{name}");
            known(&field, name)?;
            versions.insert(name.clone(), range(&field, text)?);
        }
        rows.push(Row { versions, of: row.clone() });
    }
    for (n, skew) in spec.skew.iter().enumerate() {
        known(&format!("skew[{n}].component"), &skew.component)?;
        known(&format!("skew[{n}].notAheadOf"), &skew.not_ahead_of)?;
    }
    for (n, order) in spec.order.iter().enumerate() {
        known(&format!("order[{n}].first"), &order.first)?;
        known(&format!("order[{n}].then"), &order.then)?;
    }
    let mut migrations = vec![];
    for (n, migration) in spec.migrations.iter().enumerate() {
        let field = format!("migrations[{n}]");
        known(&format!("{field}.requires.component"), &migration.requires.component)?;
        migrations.push(Migration {
            from: range(&format!("{field}.from"), &migration.from)?,
            to: range(&format!("{field}.to"), &migration.to)?,
            requires: range(&format!("{field}.requires.range"), &migration.requires.range)?,
            of: migration.clone(),
        });
    }
    let paths = paths(spec, &known)?;
    let always: Vec<&api::Order> = spec.order.iter().filter(|o| o.when.is_empty()).collect();
    super::order::topological(&names, &always).map_err(|c| ("order".to_owned(), c.to_string()))?;
    Ok(Matrix {
        name: name.to_owned(),
        subject: spec.subject.component.clone(),
        components: spec.components.clone(),
        rows,
        default: spec.default,
        unlisted: spec.unlisted,
        paths,
        skew: spec.skew.clone(),
        order: spec.order.clone(),
        migrations,
    })
}

fn components(spec: &CompatibilityMatrixSpec) -> Result<BTreeSet<&str>, Wrong> {
    let mut names = BTreeSet::new();
    for (n, component) in spec.components.iter().enumerate() {
        if !names.insert(component.name.as_str()) {
            let why = format!("`{}` is there twice; names are unique", component.name);
            return Err((format!("components[{n}].name"), why));
        }
        let sources = component.version.sources().len();
        if sources != 1 {
            let why = format!("it has {sources} sources; give exactly one");
            return Err((format!("components[{n}].version"), why));
        }
    }
    Ok(names)
}

fn paths(
    spec: &CompatibilityMatrixSpec,
    known: &dyn Fn(&str, &str) -> Result<(), Wrong>,
) -> Result<Vec<Path>, Wrong> {
    let mut paths = vec![];
    for (n, path) in spec.paths.iter().enumerate() {
        let component = path.component.as_ref().unwrap_or(&spec.subject.component);
        known(&format!("paths[{n}].component"), component)?;
        let read = |field: &str, text: &Option<RangeText>| {
            text.as_ref().map(|t| range(&format!("paths[{n}].{field}"), t)).transpose()
        };
        paths.push(Path {
            component: component.clone(),
            from: read("from", &path.from)?,
            to: read("to", &path.to)?,
            minimum_source: read("minimumSource", &path.minimum_source)?,
            of: path.clone(),
        });
    }
    Ok(paths)
}

fn range(field: &str, text: &RangeText) -> Result<Range, Wrong> {
    Range::parse(&text.0).map_err(|e| (field.to_owned(), e.to_string()))
}

impl Path {
    /// It limits something, so that its verdict is about what breaks the limit.
    pub(super) fn limits(&self) -> bool {
        self.of.max_minor_step.is_some()
            || self.of.max_major_step.is_some()
            || self.minimum_source.is_some()
            || self.of.downgrade.is_some()
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.of.verdict.unwrap_or(Verdict::Unsupported)
    }

    pub(super) fn refuses_downgrade(&self) -> Option<bool> {
        self.of.downgrade.map(|d| d == Downgrade::Refused)
    }
}

impl VersionSource {
    /// What it names, in the words of the API; exactly one in a valid object.
    pub fn sources(&self) -> Vec<String> {
        let workload = self.workload.as_ref().map(|w| {
            let container = w.container.as_deref();
            super::workload_object(w.kind, &w.namespace, &w.name, container)
        });
        [
            self.kubernetes.as_ref().map(|_| "the API server".to_owned()),
            self.kubelets.as_ref().map(|_| "the kubelet of every node".to_owned()),
            workload,
            self.workloads.as_ref().map(|w| format!("selected workloads in {}", w.namespace)),
            self.crd.as_ref().map(|c| format!("customresourcedefinition/{}", c.name)),
            self.config_map.as_ref().map(ToString::to_string),
            self.schema.as_ref().map(ToString::to_string),
            self.literal.as_ref().map(|_| "the matrix itself".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
