//! Manifests from files, directories and standard input.

use crate::output::Refusal;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use upgrade_core::plan::{ObjectId, flatten};

/// Most bytes of one source; far over any release that is known, far under what a laptop has.
const MAX_BYTES: u64 = 64 << 20;

/// Reads every source and gives the objects in it, each with where it stands.
pub fn read(sources: &[String], recursive: bool) -> Result<Vec<(ObjectId, Value)>, Refusal> {
    let mut documents = Vec::new();
    for source in sources {
        if source == "-" {
            documents.extend(parse(
                &slurp(std::io::stdin().lock(), "standard input")?,
                "standard input",
            )?);
            continue;
        }
        if source.starts_with("http://") || source.starts_with("https://") {
            return Err(Refusal::usage(format!(
                "-f {source}: addresses are not read; fetch it first"
            ))
            .hint(format!("curl -fsSL {source} | kubectl upgrade plan -f -")));
        }
        for path in files(Path::new(source), recursive)? {
            let shown = path.display().to_string();
            let file = std::fs::File::open(&path).map_err(|e| cannot_read(&shown, &e))?;
            documents.extend(parse(&slurp(file, &shown)?, &shown)?);
        }
    }
    let objects =
        flatten(documents).map_err(|e| Refusal::new("BadManifest", format!("-f: {e}")))?;
    if objects.is_empty() {
        return Err(Refusal::new(
            "BadManifest",
            format!("-f {}: no objects in it", sources.join(", ")),
        ));
    }
    Ok(objects)
}

fn cannot_read(shown: &str, error: &std::io::Error) -> Refusal {
    Refusal::new("BadManifest", format!("-f {shown}: {error}"))
}

fn slurp(from: impl Read, shown: &str) -> Result<String, Refusal> {
    let mut text = String::new();
    from.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| cannot_read(shown, &e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Refusal::new(
            "BadManifest",
            format!("-f {shown}: over {} MiB", MAX_BYTES >> 20),
        ));
    }
    Ok(text)
}

/// The files that a source names; in a directory those that kubectl would read, in order.
fn files(source: &Path, recursive: bool) -> Result<Vec<PathBuf>, Refusal> {
    let shown = source.display().to_string();
    let meta = std::fs::metadata(source).map_err(|e| cannot_read(&shown, &e))?;
    if !meta.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let mut found = Vec::new();
    walk(source, recursive, &mut found)?;
    found.sort();
    if found.is_empty() {
        let refusal =
            Refusal::new("BadManifest", format!("-f {shown}: no .yaml, .yml or .json file in it"));
        return Err(if recursive { refusal } else { refusal.hint("-R descends into directories") });
    }
    Ok(found)
}

fn walk(directory: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<(), Refusal> {
    let fail = |e: std::io::Error| cannot_read(&directory.display().to_string(), &e);
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A link is followed to a file but not to a directory: that could lead in a circle.
        let is_dir = entry.file_type().map_err(fail)?.is_dir();
        let path = entry.path();
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_dir && recursive {
            walk(&path, recursive, found)?;
        } else if !is_dir && manifest && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

/// Reads YAML or JSON with any number of documents, the way kubectl's reader does.
pub fn parse(text: &str, shown: &str) -> Result<Vec<Value>, Refusal> {
    let bad = |why: String| Refusal::new("BadManifest", format!("-f {shown}: {why}"));
    if text.trim_start().starts_with('{') {
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        return stream.collect::<Result<_, _>>().map_err(|e| bad(e.to_string()));
    }
    let mut options = serde_saphyr::Options::default();
    // kubectl reads `0644` as YAML 1.1 does.
    options.legacy_octal_numbers = true;
    // A release with its CRDs has more nodes than the default allows; the size is bounded already.
    options.budget = None;
    options.with_snippet = false;
    serde_saphyr::from_multiple_with_options::<Value>(text, options).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_is_read_as_kubectl_reads_it() {
        let text = "# head\n---\na: 0644\nb: \"0644\"\nc: yes\nd: 1.5\ne: ~\nf: 0.1\ng: v1\n---\n---\nh: [1, x]\n";
        let got = parse(text, "x").expect("valid");
        assert_eq!(
            got,
            [
                json!({"a": 420, "b": "0644", "c": true, "d": 1.5, "e": null, "f": 0.1, "g": "v1"}),
                json!({"h": [1, "x"]})
            ]
        );
        let got = parse("{\"a\": 1}\n{\"b\": 2}", "x").expect("valid");
        assert_eq!(got, [json!({"a": 1}), json!({"b": 2})]);
    }

    #[test]
    fn a_bad_document_names_the_file_and_the_place() {
        let refusal = parse("a: [1\nb: 2\n", "web.yaml").expect_err("bad");
        assert!(refusal.message.starts_with("-f web.yaml: "), "{}", refusal.message);
        assert!(refusal.message.contains("line"), "{}", refusal.message);
        let refusal = parse("{\"a\": }", "web.json").expect_err("bad");
        assert!(refusal.message.contains("line 1"), "{}", refusal.message);
    }
}
