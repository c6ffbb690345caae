//! What is to change: workloads and images, workloads and a tag, or manifests.

use crate::cli::ChangeArgs;
use crate::output::Refusal;
use std::collections::BTreeSet;
use upgrade_core::api::WorkloadKind;
use upgrade_core::image::Image;

/// A workload by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

/// A container and the image it is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Name of the container.
    pub name: String,
    /// Its new image.
    pub image: String,
}

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Images of named containers.
    Images {
        /// The workloads.
        workloads: Vec<Reference>,
        /// The new images; a container is looked for in each of the workloads.
        images: Vec<Container>,
    },
    /// The tag of the workloads' images.
    Tag {
        /// The workloads.
        workloads: Vec<Reference>,
        /// The new tag.
        tag: String,
    },
    /// Whatever differs from these manifests.
    Manifests {
        /// Files, directories, or `-`.
        sources: Vec<String>,
        /// Whether directories are descended into.
        recursive: bool,
        /// Whether differences other than images are left out knowingly.
        images_only: bool,
    },
}

/// Checks what is to change.
pub fn lower(args: &ChangeArgs) -> Result<Change, Refusal> {
    if !args.filenames.is_empty() {
        return manifests(args);
    }
    for (given, flag) in [(args.recursive, "-R"), (args.images_only, "--images-only")] {
        if given {
            return Err(Refusal::usage(format!("{flag} belongs to -f, which is not given")));
        }
    }
    if args.workloads.is_empty() {
        return Err(Refusal::usage(
            "nothing to upgrade: name a workload, or give manifests with -f",
        )
        .hint("kubectl upgrade plan deploy/web --to v2")
        .hint("kubectl upgrade plan -f release.yaml"));
    }
    let workloads = args.workloads.iter().map(|w| reference(w)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = workloads.iter().find(|w| !seen.insert(*w)) {
        return Err(Refusal::usage(format!(
            "{}/{} is named twice",
            twice.kind.short(),
            twice.name
        )));
    }
    match &args.to {
        Some(tag) => Ok(Change::Tag { workloads, tag: checked_tag(tag)? }),
        None => images(args, workloads),
    }
}

fn manifests(args: &ChangeArgs) -> Result<Change, Refusal> {
    if args.filenames.iter().filter(|f| *f == "-").count() > 1 {
        return Err(Refusal::usage("-f - is given twice, but there is one standard input"));
    }
    Ok(Change::Manifests {
        sources: args.filenames.clone(),
        recursive: args.recursive,
        images_only: args.images_only,
    })
}

fn images(args: &ChangeArgs, workloads: Vec<Reference>) -> Result<Change, Refusal> {
    if args.images.is_empty() {
        let first = args.workloads.first().map_or("deploy/web", String::as_str);
        return Err(Refusal::usage(
            "what should they run? give --image CONTAINER=IMAGE or --to TAG",
        )
        .hint(format!("kubectl upgrade plan {first} --to v2")));
    }
    let mut images: Vec<Container> = Vec::new();
    for text in &args.images {
        let Some((name, image)) =
            text.split_once('=').filter(|(n, i)| !n.is_empty() && !i.is_empty())
        else {
            return Err(Refusal::usage(format!("--image: `{text}` is not CONTAINER=IMAGE"))
                .hint("for instance --image web=registry.example/web:v2"));
        };
        Image::parse(image).map_err(|e| Refusal::usage(format!("--image {name}: {e}")))?;
        if images.iter().any(|c| c.name == name) {
            return Err(Refusal::usage(format!("--image: container `{name}` is given twice")));
        }
        images.push(Container { name: name.to_owned(), image: image.to_owned() });
    }
    Ok(Change::Images { workloads, images })
}

fn checked_tag(tag: &str) -> Result<String, Refusal> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'));
    if !good {
        return Err(Refusal::usage(format!(
            "--to: `{tag}` is not an image tag: at most 128 of letters, digits, `_`, `.` and `-`"
        ))
        .hint("for a whole reference use --image CONTAINER=IMAGE"));
    }
    Ok(tag.to_owned())
}

/// Reads `deploy/web`.
pub fn reference(text: &str) -> Result<Reference, Refusal> {
    let Some((kind, name)) = text.split_once('/').filter(|(k, n)| !k.is_empty() && !n.is_empty())
    else {
        return Err(Refusal::usage(format!("`{text}` is not TYPE/NAME"))
            .hint(format!("for a Deployment write deploy/{}", text.trim_matches('/'))));
    };
    let name_ok = name.len() <= 253
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    if !name_ok {
        return Err(Refusal::usage(format!("`{text}`: `{name}` is not a valid object name")));
    }
    let base = kind.to_ascii_lowercase();
    let kind = match base.split('.').next().unwrap_or_default() {
        "deploy" | "deployment" | "deployments" => WorkloadKind::Deployment,
        "sts" | "statefulset" | "statefulsets" => WorkloadKind::StatefulSet,
        "ds" | "daemonset" | "daemonsets" => WorkloadKind::DaemonSet,
        "rs" | "replicaset" | "replicasets" | "cronjob" | "cronjobs" | "cj" | "job" | "jobs"
        | "pod" | "pods" | "po" => {
            return Err(Refusal::usage(format!(
                "`{text}`: an Upgrade is of Deployments, StatefulSets and DaemonSets, of no {kind}"
            )));
        }
        _ => {
            return Err(Refusal::usage(format!("`{text}`: `{kind}` is no kind of workload"))
                .hint("workloads are written deploy/NAME, sts/NAME or ds/NAME"));
        }
    };
    Ok(Reference { kind, name: name.to_owned() })
}
