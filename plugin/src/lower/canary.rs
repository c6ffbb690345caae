//! What a canary's flags say besides its steps.

use super::{Change, Reference};
use crate::cli::CanaryArgs;
use crate::output::Refusal;
use std::collections::BTreeMap;
use upgrade_core::api::WorkloadKind;
use upgrade_core::api::analysis::{AnalysisArg, AnalysisRef};
use upgrade_core::api::upgrade::{Canary, CanaryStep, RollbackWindow};

/// Most labels that the API takes.
const MOST_LABELS: usize = 8;
/// Most arguments that the API takes.
const MOST_ARGS: usize = 32;

/// The first of its flags that is given, where one is.
pub fn given(args: &CanaryArgs) -> Option<&'static str> {
    let flags = [
        (args.canary_nodes.is_some(), "--canary-nodes"),
        (args.analysis.is_some(), "--analysis"),
        (args.rollback_window.is_some(), "--rollback-window"),
    ];
    flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
}

/// A canary of these steps.
pub fn lower(args: &CanaryArgs, steps: Vec<CanaryStep>) -> Result<Canary, Refusal> {
    Ok(Canary {
        steps,
        canary_nodes: args.canary_nodes.as_deref().map(nodes).transpose()?.unwrap_or_default(),
        analysis: args.analysis.as_deref().map(analysis).transpose()?,
        rollback_window: args.rollback_window.map(|revisions| RollbackWindow { revisions }),
        ..Canary::default()
    })
}

/// Nodes are for DaemonSets; of manifests it is not known yet what they are.
pub fn fits(change: &Change, canary: &Canary) -> Result<(), Refusal> {
    let (Change::Images { workloads, .. } | Change::Tag { workloads, .. }) = change else {
        return Ok(());
    };
    let by_node = |w: &Reference| w.kind == WorkloadKind::DaemonSet;
    if canary.canary_nodes.is_empty() || workloads.iter().any(by_node) {
        return Ok(());
    }
    Err(Refusal::usage("--canary-nodes is for DaemonSets, and none of the workloads is one")
        .hint("leave it out: any pod of a Deployment or StatefulSet may be the first"))
}

fn nodes(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let mut labels = BTreeMap::new();
    for word in text.split(',').map(str::trim) {
        let bad = |why: &str| {
            Refusal::usage(format!("--canary-nodes: `{word}` {why}"))
                .hint("labels of nodes, for instance --canary-nodes pool=canary,zone=a")
        };
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(bad("is not KEY=VALUE"));
        };
        if value.len() > 63 {
            return Err(bad("has a value of more than 63 characters"));
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(bad("names a label that is given already"));
        }
    }
    if labels.len() > MOST_LABELS {
        return Err(Refusal::usage(format!(
            "--canary-nodes: {} labels are more than the {MOST_LABELS} that fit",
            labels.len()
        )));
    }
    Ok(labels)
}

fn analysis(text: &str) -> Result<AnalysisRef, Refusal> {
    let bad = |why: String| {
        Refusal::usage(format!("--analysis: {why}"))
            .hint("a template and its arguments, for instance --analysis success-rate,service=web")
    };
    let mut words = text.split(',').map(str::trim);
    let name = words.next().unwrap_or_default();
    let template = super::steps::template(name).map_err(bad)?;
    let mut args: Vec<AnalysisArg> = Vec::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(bad(format!("`{word}` is not ARG=VALUE")));
        };
        if args.iter().any(|a| a.name == key) {
            return Err(bad(format!("argument `{key}` is given twice")));
        }
        args.push(AnalysisArg {
            name: key.to_owned(),
            value: Some(value.to_owned()),
            value_from: None,
        });
    }
    if args.len() > MOST_ARGS {
        return Err(bad(format!(
            "{} arguments are more than the {MOST_ARGS} that fit",
            args.len()
        )));
    }
    Ok(AnalysisRef { templates: vec![template], args, ..AnalysisRef::default() })
}
