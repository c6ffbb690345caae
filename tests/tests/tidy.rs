//! The rules that the repository keeps about itself, read from its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file may pass 500 lines by a little, so that nobody splits one at the wrong place.
const MOST_LINES: usize = 560;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the checkout")
}

/// Every file of the checkout that is text, by its path from the root. Walked, not asked of git:
/// an unpacked archive has none.
fn files() -> Vec<(String, String)> {
    let root = root();
    let (mut found, mut rooms) = (vec![], vec![root.clone()]);
    while let Some(room) = rooms.pop() {
        for entry in std::fs::read_dir(&room).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    rooms.push(path);
                }
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).expect("below the root");
                found.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    let rust =
        |(path, _): &(String, String)| Path::new(path).extension().is_some_and(|e| e == "rs");
    files().into_iter().filter(rust)
}

/// `PATH:LINE: needle` wherever a line holds one of the needles.
fn hits<'a>(
    files: impl IntoIterator<Item = (String, String)>,
    needles: &'a [&'a str],
) -> Vec<String> {
    let mut hits = vec![];
    for (path, text) in files {
        for (n, line) in text.lines().enumerate() {
            let found = needles.iter().filter(|needle| line.contains(**needle));
            hits.extend(found.map(|needle| format!("{path}:{}: {needle}", n + 1)));
        }
    }
    hits
}

fn none(hits: &[String]) {
    assert!(hits.is_empty(), "\n{}\n", hits.join("\n"));
}

#[test]
fn shared_reaches_nothing_outside_itself() {
    let doors = [
        "tokio",
        "reqwest",
        "hyper",
        "axum",
        "std::env",
        "std::fs",
        "std::net",
        "std::process",
        "env!(",
        "Timestamp::now",
        "Instant::now",
        "SystemTime::now",
        "Zoned::now",
    ];
    let shared = rust_files().filter(|(path, _)| path.starts_with("shared/src/"));
    none(&hits(shared, &doors));

    // `cargo metadata` shows the features that the whole workspace asks for, under which kube has a
    // client; `cargo tree -p` shows what `shared` itself asks for.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .current_dir(root())
        .args(["tree", "--offline", "--locked", "--package", "upgrade-core"])
        .args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .output()
        .expect("cargo runs");
    let (out, err) = (String::from_utf8_lossy(&tree.stdout), String::from_utf8_lossy(&tree.stderr));
    assert!(tree.status.success(), "{err}");
    let crates: BTreeSet<&str> =
        out.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains("kube-core"), "{crates:?}");
    let outside = [
        "tokio",
        "hyper",
        "hyper-util",
        "kube-client",
        "kube-runtime",
        "reqwest",
        "axum",
        "rustls",
        "mio",
        "socket2",
        "rustix",
    ];
    let reached: Vec<_> = outside.iter().filter(|o| crates.contains(*o)).collect();
    assert!(reached.is_empty(), "upgrade-core depends on {reached:?}");
}

#[test]
fn no_rust_file_is_much_over_500_lines() {
    let long: Vec<_> = rust_files()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > MOST_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines, {MOST_LINES} are the most"))
        .collect();
    none(&long);
}

#[test]
fn no_todo_no_ignore_no_dbg() {
    // In two halves, so that this file does not hold what it forbids.
    let needles = [
        concat!("to", "do!"),
        concat!("unimpl", "emented!"),
        concat!("#[ig", "nore"),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X"),
        concat!("HA", "CK"),
    ];
    none(&hits(rust_files(), &needles));
}

#[test]
fn no_machine_paths() {
    let needles = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("proxy.", "golang.org"),
        concat!("sum.", "golang.org"),
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("static.", "rust-lang.org"),
    ];
    // Lock files name where what they lock comes from.
    let of_people = |(path, _): &(String, String)| {
        let extension = Path::new(path).extension().unwrap_or_default();
        path != "Cargo.lock" && extension != "sum"
    };
    none(&hits(files().into_iter().filter(of_people), &needles));
}

/// What a paragraph has in backticks; a code fence has none.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn architecture() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}

/// The text between a heading and the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(heading).expect("the heading");
    rest.split("\n## ").next().unwrap_or(rest)
}

/// Numbered items, with the lines that go on.
fn numbered(text: &str) -> Vec<String> {
    let mut items: Vec<String> = vec![];
    for line in text.lines() {
        let number = line.split_once(". ").map(|(n, _)| n.parse::<usize>());
        match (number, items.last_mut()) {
            (Some(Ok(n)), _) => {
                assert_eq!(n, items.len() + 1, "numbered in order: {line}");
                items.push(line.to_owned());
            }
            (_, Some(item)) if line.starts_with(' ') => {
                item.push(' ');
                item.push_str(line.trim());
            }
            _ => {}
        }
    }
    items
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let text = architecture();
    let items = numbered(section(&text, "## Invariants"));
    assert!(items.len() >= 9, "{} invariants", items.len());
    let code: Vec<String> = rust_files().map(|(_, text)| text).collect();
    let declared = |what: &str| code.iter().any(|text| text.contains(what));
    let identifier = |name: &str| {
        name.contains('_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    };
    let mut wrong = vec![];
    for item in &items {
        let mut tests = 0;
        for name in quoted(item) {
            let last = name.rsplit("::").next().unwrap_or(name);
            let there = if Path::new(name).extension().is_some_and(|e| e == "rs") {
                root().join(name).is_file()
            } else if name.contains("::") {
                declared(&format!("fn {last}(")) || declared(&format!("mod {last};"))
            } else if identifier(name) {
                declared(&format!("fn {name}("))
            } else {
                // A field or a word.
                continue;
            };
            tests += 1;
            if !there {
                wrong.push(format!("`{name}` does not exist: {item}"));
            }
        }
        if tests == 0 {
            wrong.push(format!("no test: {item}"));
        }
    }
    none(&wrong);
}

/// `a/{b,c}.rs` is two files.
fn braces(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (choices, after) = rest.split_once('}').expect("a closing brace");
    let written = |choice| format!("{before}{choice}{after}");
    choices.split(',').map(written).collect()
}

/// A name in the map that is a place in the tree, in full or from the paragraph's rooms on.
fn place(name: &str) -> bool {
    let path = Path::new(name).extension().is_some_and(|e| e == "rs") || name.contains('/');
    path && !name.contains([' ', '(', ':'])
}

#[test]
fn every_file_named_in_the_map_exists() {
    let text = architecture();
    let all: Vec<String> = files().into_iter().map(|(path, _)| path).collect();
    let crates = ["plugin/", "webhook/", "shared/", "tests/", "manifests/"];
    let mut missing: Vec<String> = crates
        .iter()
        .filter(|name| !text.contains(**name) || !root().join(name).is_dir())
        .map(|name| format!("{name} is not in the map, or not there"))
        .collect();
    // Fences are pictures; what they name stands in the paragraphs too.
    let prose: String = text.split("```").step_by(2).collect();
    for paragraph in prose.split("\n\n") {
        let names: Vec<String> = quoted(paragraph)
            .into_iter()
            .filter(|name| place(name))
            // One file a verb: the room has to be there.
            .map(|name| name.trim_end_matches("VERB.rs"))
            .flat_map(braces)
            .collect();
        let full = |name: &&String| crates.iter().any(|c| name.starts_with(c));
        let rooms: Vec<PathBuf> = names
            .iter()
            .filter(full)
            .filter_map(|name| Path::new(name).parent())
            .map(|parent| root().join(parent))
            .collect();
        for name in &names {
            let there = if full(&name) {
                root().join(name).exists()
            } else {
                let end = name.trim_end_matches('/').trim_end_matches(".rs");
                rooms.iter().any(|room| room.join(name).exists())
                    // Where a paragraph names no room: any place that ends like this.
                    || rooms.is_empty()
                        && all.iter().any(|path| {
                            let path = format!("/{path}");
                            path.contains(&format!("/{end}/")) || path.ends_with(&format!("/{end}.rs"))
                        })
            };
            if !there {
                missing.push(format!("`{name}` does not exist"));
            }
        }
    }
    // The row of `tests/tests/` names its files by their stems.
    let row = text.lines().find(|line| line.starts_with("| `tests/tests/`"));
    for stem in quoted(row.expect("the row of tests/tests")).into_iter().skip(1) {
        if !root().join(format!("tests/tests/{stem}.rs")).is_file() {
            missing.push(format!("tests/tests/{stem}.rs"));
        }
    }
    none(&missing);
}

#[test]
fn the_ci_script_calls_the_test_command_of_the_readme() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("a file");
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let (_, rest) = readme
        .split_once("<!-- test-command -->\n```console\n")
        .expect("the marker, and a block right after it");
    let command = rest.lines().next().expect("a command");
    assert!(command.starts_with("cargo test"), "{command}");

    // The script's own line is run, so that its reading is held to the README and not to ours.
    let reads =
        ci.lines().find(|line| line.starts_with("test_command=")).expect("a line that reads it");
    let said = Command::new("bash")
        .current_dir(root())
        .args(["-euc", &format!("{reads}\nprintf %s \"$test_command\"")])
        .output()
        .expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), command);
    let calls = ci.lines().any(|line| line == "eval \"$test_command\"");
    assert!(calls, "it is run");
    for lint in ["cargo fmt --all --check", "cargo clippy --workspace"] {
        assert!(ci.contains(lint), "{lint}");
    }
}
