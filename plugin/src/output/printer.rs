//! The one place that writes: data to stdout, everything else to stderr.

use super::hint::Refusal;
use super::table::visible;
use crate::cli::{Color, Format};
use anstream::{AutoStream, ColorChoice};
use owo_colors::OwoColorize;
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal, Write};

/// Writes for people and for scripts.
pub struct Printer {
    out: AutoStream<io::Stdout>,
    err: AutoStream<io::Stderr>,
    /// Lines of the region that the next redraw replaces.
    drawn: usize,
    /// Marks that the terminal can show.
    pub marks: Marks,
}

/// Marks of a tree, in Unicode or ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Whether Unicode can be shown.
    pub unicode: bool,
}

impl Marks {
    /// Reads the locale as C programs do: the first that is set decides.
    fn from_locale() -> Self {
        let set = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
        let unicode = set.is_none_or(|v| {
            let v = v.to_ascii_lowercase();
            v.contains("utf-8") || v.contains("utf8") || v == "c.utf-8"
        });
        Self { unicode }
    }

    /// The mark in the alphabet that can be shown.
    pub fn pick(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }
}

impl Printer {
    /// A printer for this process.
    pub fn new(color: Color) -> Self {
        let choice = match color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        let out = AutoStream::new(io::stdout(), choose(choice, io::stdout().is_terminal()));
        let err = AutoStream::new(io::stderr(), choose(choice, io::stderr().is_terminal()));
        Self { out, err, drawn: 0, marks: Marks::from_locale() }
    }

    /// Whether a person looks at stdout and lines can be redrawn.
    pub fn is_live() -> bool {
        io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|t| t != "dumb")
    }

    /// Whether a person can be asked.
    pub fn can_ask() -> bool {
        io::stdin().is_terminal()
    }

    /// Columns of the terminal; `None` where stdout is none.
    pub fn width() -> Option<usize> {
        if !io::stdout().is_terminal() {
            return None;
        }
        terminal_size::terminal_size().map(|(w, _)| usize::from(w.0))
    }

    /// Data, for stdout.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        write!(self.out, "{}", ended(text))?;
        self.out.flush()
    }

    /// Progress and remarks, for stderr.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        write!(self.err, "{}", ended(text))?;
        self.err.flush()
    }

    /// A warning, for stderr.
    pub fn warn(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.err, "{} {text}", "warning:".yellow().bold())
    }

    /// One object or list, in a machine's format.
    pub fn document(&mut self, format: Format, value: &impl Serialize) -> anyhow::Result<()> {
        let text = match format {
            Format::Yaml => serde_saphyr::to_string(value)?,
            _ => serde_json::to_string_pretty(value)?,
        };
        self.data(&text)?;
        Ok(())
    }

    /// One object on one line of JSON.
    pub fn json_line(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value)?;
        self.data(&text)?;
        Ok(())
    }

    /// Replaces what the last redraw left on the terminal.
    pub fn redraw(&mut self, text: &str) -> io::Result<()> {
        if self.drawn > 0 {
            write!(self.out, "\x1b[{}A\x1b[J", self.drawn)?;
        }
        let (width, height) = terminal_size::terminal_size()
            .map_or((80, 24), |(w, h)| (usize::from(w.0).max(1), usize::from(h.0)));
        let lines = fit(text, width, height.saturating_sub(1).max(4));
        // A line that wraps takes more than one row, and the cursor has to go back over all of them.
        self.drawn = lines.iter().map(|l| rows(l, width)).sum();
        writeln!(self.out, "{}", lines.join("\n"))?;
        self.out.flush()
    }

    /// Asks a question that only `y` or `yes` answers with yes.
    pub fn ask(&mut self, question: &str) -> io::Result<bool> {
        write!(self.err, "{question} [y/N] ")?;
        self.err.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// A refusal, for stderr: as text, or as one JSON object where JSON was asked for.
    pub fn refusal(&mut self, refusal: &Refusal, json: bool) -> io::Result<()> {
        if json {
            let body = serde_json::json!({
                "kind": "Error",
                "reason": refusal.reason,
                "message": refusal.message,
                "hints": refusal.hints,
                "exitCode": refusal.exit as u8,
            });
            return writeln!(self.err, "{body}");
        }
        writeln!(self.err, "{} {}", "error:".red().bold(), refusal.message)?;
        for hint in &refusal.hints {
            writeln!(self.err, "{} {hint}", "hint:".cyan().bold())?;
        }
        Ok(())
    }
}

/// `NO_COLOR` and `CLICOLOR_FORCE` are asked only where the flag leaves it open.
fn choose(choice: ColorChoice, terminal: bool) -> ColorChoice {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    match choice {
        ColorChoice::Auto if set("NO_COLOR") => ColorChoice::Never,
        ColorChoice::Auto
            if std::env::var("CLICOLOR_FORCE").is_ok_and(|v| !v.is_empty() && v != "0") =>
        {
            ColorChoice::Always
        }
        ColorChoice::Auto if !terminal || std::env::var("TERM").is_ok_and(|t| t == "dumb") => {
            ColorChoice::Never
        }
        ColorChoice::Auto => ColorChoice::Always,
        other => other,
    }
}

/// Rows that a line takes on a terminal.
fn rows(line: &str, width: usize) -> usize {
    let plain = anstream::adapter::strip_str(line).to_string();
    visible(&plain).div_ceil(width).max(1)
}

/// As many lines as the terminal has room for: what scrolled away could not be redrawn. The middle
/// gives way, for the head says where it is and the tail what to do.
fn fit(text: &str, width: usize, height: usize) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut used: usize = lines.iter().map(|l| rows(l, width)).sum();
    while used > height && lines.len() > 1 {
        let at = lines.len().saturating_sub(4);
        used -= rows(lines.remove(at), width);
    }
    lines
}

fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::{fit, rows};

    #[test]
    fn what_is_redrawn_fits_the_terminal() {
        assert_eq!(rows("\u{1b}[33mPaused\u{1b}[39m", 6), 1);
        assert_eq!((rows("", 10), rows("12345678901", 10)), (1, 2));
        let text = (0..30).map(|i| i.to_string()).collect::<Vec<_>>().join("\n");
        let lines = fit(&text, 80, 10);
        assert_eq!((lines.len(), lines[0], lines[9]), (10, "0", "29"));
    }
}
