//! `docs/bypass.md`, held against the tests.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Row;

/// Rows of the research's table.
const LAST: u8 = 50;

/// One row of the document.
struct Entry {
    /// Out of reach, in whole or in part.
    beyond: bool,
    part: bool,
    why: String,
    test: Option<String>,
}

/// The document's table, by number.
pub struct Table {
    rows: BTreeMap<u8, Entry>,
    malformed: Vec<String>,
}

/// Reads the table.
pub fn read() -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bypass.md");
    let text = std::fs::read_to_string(path).expect("docs/bypass.md");
    let mut found = Table { rows: BTreeMap::new(), malformed: vec![] };
    for line in text.lines() {
        let cells: Vec<_> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        let Some(number) = cells.first().and_then(|c| c.trim_matches('|').trim().parse().ok())
        else {
            continue;
        };
        let [_, _, state, why, name] = cells[..] else {
            found.malformed.push(format!("row {number} has {} cells, not 5", cells.len()));
            continue;
        };
        let (beyond, part) = match state {
            "closed" => (false, false),
            "out of reach" => (true, false),
            "out of reach in part" => (true, true),
            other => {
                found.malformed.push(format!("row {number} is `{other}`"));
                continue;
            }
        };
        let name = name.trim_matches('`');
        let tried_by = name.starts_with("row_").then(|| name.to_owned());
        let entry = Entry { beyond, part, why: why.to_owned(), test: tried_by };
        if found.rows.insert(number, entry).is_some() {
            found.malformed.push(format!("row {number} is there twice"));
        }
    }
    found
}

impl Table {
    /// What does not fit together: a row that is missing, a closed one without a test, a test
    /// without a row.
    pub fn wrong(&self, tests: &[Row]) -> Vec<String> {
        let mut wrong = self.malformed.clone();
        for number in 1..=LAST {
            let Some(entry) = self.rows.get(&number) else {
                wrong.push(format!("row {number} is missing"));
                continue;
            };
            if entry.why.len() < 20 {
                wrong.push(format!("row {number} says neither how nor why"));
            }
            match &entry.test {
                None if !entry.beyond || entry.part => {
                    wrong.push(format!("row {number} is closed and names no test"));
                }
                Some(name) if !name.starts_with(&format!("row_{number:02}_")) => {
                    wrong.push(format!("row {number} names the test of another, {name}"));
                }
                Some(name) if !tests.iter().any(|t| t.name == name) => {
                    wrong.push(format!("row {number}: there is no test {name}"));
                }
                None | Some(_) => {}
            }
        }
        for row in self.rows.keys().filter(|n| !(1..=LAST).contains(*n)) {
            wrong.push(format!("there is no row {row}"));
        }
        let named = |t: &&Row| self.rows.values().any(|e| e.test.as_deref() == Some(t.name));
        wrong
            .extend(tests.iter().filter(|t| !named(t)).map(|t| format!("{} is in no row", t.name)));
        wrong
    }

    /// The last line of a run. A row counts as closed where its test passed in this run.
    pub fn summary(&self, passed: &[&str], failed: usize, whole: bool) -> String {
        let shown = |e: &&Entry| e.test.as_deref().is_some_and(|t| passed.contains(&t));
        let closed = self.rows.values().filter(|e| !e.beyond).filter(shown).count();
        let beyond = self.rows.values().filter(|e| e.beyond).count();
        let part = self.rows.values().filter(|e| e.part).count();
        let open = self.rows.values().filter(|e| !e.beyond).count() - closed;
        let ran = if whole { "" } else { " (not all tests were run)" };
        format!(
            "bypass: {closed} rows closed, {beyond} documented as out of reach ({part} of them in \
             part), {open} not shown, {} in all; {} tests passed, {failed} failed{ran}",
            self.rows.len(),
            passed.len()
        )
    }
}
