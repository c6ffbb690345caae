//! Tables as kubectl prints them: three spaces between columns, no borders, nothing that `awk`
//! would stumble over.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A table under construction.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `<none>`.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cell = |c: S| {
            let c: String = c.into();
            if c.is_empty() { "<none>".to_owned() } else { c }
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The table as text; lines longer than `width` columns are cut where one is given.
    pub fn render(&self, width: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| {
                self.rows.iter().filter_map(|r| r.get(i)).map(|c| visible(c)).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if i + 1 < row.len() {
                    let wide = widths.get(i).copied().unwrap_or(0);
                    line.extend(std::iter::repeat_n(' ', wide.saturating_sub(visible(cell)) + 3));
                }
            }
            text.push_str(width.map_or(line.as_str(), |w| cut(&line, w)).trim_end());
            text.push('\n');
        }
        text
    }
}

/// Columns that a text takes.
pub fn visible(text: &str) -> usize {
    text.width()
}

/// The start of a line that fits into so many columns.
pub fn cut(line: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in line.char_indices() {
        used += c.width().unwrap_or(0);
        if used > width {
            return line.get(..at).unwrap_or(line);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_are_cut_only_on_a_terminal() {
        let mut table = Table::new(&["NAME", "PHASE", "MESSAGE"]);
        table.row(["web-v2", "Paused", "rests at 10 %"]);
        table.row(["→", "", "x"]);
        assert_eq!(
            table.render(None),
            "NAME     PHASE    MESSAGE\nweb-v2   Paused   rests at 10 %\n→        <none>   x\n"
        );
        assert_eq!(table.render(Some(12)), "NAME     PHA\nweb-v2   Pau\n→        <no\n");
        assert_eq!(cut("日本語", 4), "日本");
    }
}
