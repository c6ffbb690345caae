//! Refusals: what, why, what would help, and the exit code that goes with it.

use std::fmt;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// An error, or the Upgrade failed or was taken back.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Something or somebody holds it: an approval is missing, or it was denied.
    Blocked = 4,
    /// `--timeout` expired.
    TimedOut = 124,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An answer other than yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable word for scripts.
    pub reason: &'static str,
    /// What and why, in one sentence.
    pub message: String,
    /// What would help, each a sentence or a command.
    pub hints: Vec<String>,
    /// The exit code.
    pub exit: Exit,
}

impl Refusal {
    /// An error.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hints: Vec::new(), exit: Exit::Failed }
    }

    /// Something is wrong with the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new("BadUsage", message) }
    }

    /// Something or somebody holds it.
    pub fn blocked(reason: &'static str, message: impl Into<String>) -> Self {
        Self { exit: Exit::Blocked, ..Self::new(reason, message) }
    }

    /// Adds what would help.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// What is known of an error, however it came up.
pub fn refusal_of(error: &anyhow::Error) -> Refusal {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.clone();
    }
    Refusal::new("InternalError", format!("{error:#}"))
}

/// Whether the reader of our output went away, which is its good right.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The name that is meant, if one is close enough to what was typed.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(typed, name), name))
        .filter(|(d, name)| {
            *d <= name.len().max(typed.len()).div_ceil(2).min(3) || name.starts_with(typed)
        })
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *slot;
            *slot = replaced.min(left + 1).min(diagonal + 1);
            left = *slot;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_found_and_a_stranger_is_not() {
        assert_eq!(nearest("wbe", ["web", "api"]), Some("web"));
        assert_eq!(nearest("fronted", ["frontend", "adservice"]), Some("frontend"));
        assert_eq!(nearest("front", ["frontend", "adservice"]), Some("frontend"));
        assert_eq!(nearest("database", ["web", "api"]), None);
        assert_eq!(
            (distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")),
            (3, 2, 0)
        );
    }
}
