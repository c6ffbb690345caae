//! Checks and what they found, in groups: `√` fine, `‼` a warning, `×` an error.

use super::printer::Marks;
use super::table::visible;
use owo_colors::OwoColorize;
use serde::Serialize;
use std::fmt::Write;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Nothing to judge, but worth knowing.
    Info,
    /// Not as it should be; governance holds.
    Warning,
    /// Governance does not hold, or soon will not.
    Error,
    /// It could not be looked at, which is never a pass.
    NotChecked,
    /// There is nothing to look at in this installation.
    NotApplicable,
    /// Left out by `--ignore`.
    Ignored,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Stable word for `--ignore` and for scripts.
    pub id: &'static str,
    /// Heading it stands under.
    pub group: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// The result in one sentence.
    pub message: String,
    /// What was seen, one thing a line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What would help, each a sentence or a command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl Check {
    /// A check with this outcome; its group is filled in by who collects it.
    pub fn new(id: &'static str, outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            id,
            group: "",
            outcome,
            message: message.into(),
            evidence: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// One that passed.
    pub fn passed(id: &'static str, message: impl Into<String>) -> Self {
        Self::new(id, Outcome::Passed, message)
    }

    /// One that found an error.
    pub fn error(id: &'static str, message: impl Into<String>) -> Self {
        Self::new(id, Outcome::Error, message)
    }

    /// One that found something to warn of.
    pub fn warning(id: &'static str, message: impl Into<String>) -> Self {
        Self::new(id, Outcome::Warning, message)
    }

    /// One that could not be made, and what it would have needed.
    pub fn not_checked(id: &'static str, needs: &str) -> Self {
        Self::new(id, Outcome::NotChecked, format!("not checked: {needs}"))
    }

    /// One that there is nothing to look at for.
    pub fn not_applicable(id: &'static str, why: &str) -> Self {
        Self::new(id, Outcome::NotApplicable, format!("not applicable: {why}"))
    }

    /// Adds what was seen.
    pub fn seen(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    /// Adds what would help.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// How checks are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Marks that can be shown.
    pub marks: Marks,
    /// Columns of the terminal, if it is one.
    pub width: Option<usize>,
    /// Most lines of evidence of a check; `None` shows all.
    pub most: Option<usize>,
}

/// All checks, group by group, in the order given.
pub fn render(checks: &[Check], style: Style) -> String {
    let widest = checks.iter().map(|c| visible(c.id)).max().unwrap_or(0);
    let mut text = String::new();
    let mut group = "";
    for check in checks {
        if check.group != group {
            group = check.group;
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{}", group.bold());
        }
        draw(&mut text, check, widest, style);
    }
    text
}

fn draw(text: &mut String, check: &Check, widest: usize, style: Style) {
    let mark = mark(check.outcome, style.marks);
    let head = format!("{mark} {:widest$}  ", check.id);
    let indent = visible(mark) + 1 + widest + 2;
    for (n, line) in wrap(&check.message, style.width, indent).iter().enumerate() {
        let lead = if n == 0 { paint(check.outcome, &head) } else { " ".repeat(indent) };
        let _ = writeln!(text, "{lead}{line}");
    }
    let most = style.most.unwrap_or(usize::MAX);
    let mut evidence: Vec<String> = check.evidence.iter().take(most).cloned().collect();
    if check.evidence.len() > most {
        let more = check.evidence.len() - most;
        evidence.push(format!("and {more} more (-o wide shows all)"));
    }
    let entries = evidence.iter().map(|e| ("", e)).chain(check.hints.iter().map(|h| ("hint: ", h)));
    for (label, entry) in entries {
        let lines = wrap(entry, style.width, 5 + label.len() + 2);
        for (n, line) in lines.iter().enumerate() {
            match n {
                0 => {
                    let _ = writeln!(text, "     {}{line}", label.cyan().bold());
                }
                _ => {
                    let _ = writeln!(text, "{}{line}", " ".repeat(5 + label.len() + 2));
                }
            }
        }
    }
}

/// A mark, as wide as the others of its alphabet.
fn mark(outcome: Outcome, marks: Marks) -> &'static str {
    match outcome {
        Outcome::Passed => marks.pick("√", "ok"),
        Outcome::Info => marks.pick("i", "i "),
        Outcome::Warning => marks.pick("‼", "!!"),
        Outcome::Error => marks.pick("×", "x "),
        Outcome::NotChecked => marks.pick("?", "? "),
        Outcome::NotApplicable | Outcome::Ignored => marks.pick("-", "- "),
    }
}

fn paint(outcome: Outcome, text: &str) -> String {
    match outcome {
        Outcome::Passed => text.green().to_string(),
        Outcome::Warning => text.yellow().to_string(),
        Outcome::Error => text.red().to_string(),
        Outcome::NotChecked => text.magenta().to_string(),
        Outcome::Info => text.cyan().to_string(),
        Outcome::NotApplicable | Outcome::Ignored => text.dimmed().to_string(),
    }
}

/// Breaks a text at spaces so that it fits beside an indent; on no terminal it stays one line.
pub fn wrap(text: &str, width: Option<usize>, indent: usize) -> Vec<String> {
    // Narrower than this, a column of single words is worse than lines that run over.
    const LEAST: usize = 30;
    let room = match width {
        Some(width) if width >= indent + LEAST => width - indent,
        _ => return vec![text.to_owned()],
    };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if visible(line) + 1 + visible(word) <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_on_a_terminal_only() {
        let text = "the rules of one webhook do not cover what they should";
        assert_eq!(wrap(text, None, 10), [text]);
        assert_eq!(
            wrap(text, Some(42), 10),
            ["the rules of one webhook do not", "cover what they should"]
        );
        assert_eq!(wrap(text, Some(20), 10), [text], "too narrow to break");
    }

    #[test]
    fn groups_marks_evidence_and_hints_line_up() {
        let checks = [
            Check { group: "a", ..Check::passed("one", "fine") },
            Check { group: "b", ..Check::error("longer", "not fine") }
                .seen(["x".to_owned(), "y".to_owned()])
                .hint("do it"),
        ];
        let style = Style { marks: Marks { unicode: false }, width: None, most: Some(1) };
        let plain = anstream::adapter::strip_str(&render(&checks, style)).to_string();
        assert_eq!(
            plain,
            "a\nok one     fine\n\nb\nx  longer  not fine\n     x\n     and 1 more (-o wide shows \
             all)\n     hint: do it\n"
        );
    }
}
