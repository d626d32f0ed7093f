//! Plain tables: columns as wide as their widest cell, two spaces between, no lines.
//!
//! On a terminal the last column is cut to fit, so that a row stays a line; in a file or pipe nothing is cut.

use std::fmt::Write as _;

/// A table that is filled row by row and printed once.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A cell: its text, and how it is painted once it has been padded.
pub(crate) struct Cell {
    text: String,
    paint: Option<fn(&crate::Terminal, &str) -> String>,
}

impl Cell {
    /// A cell painted by one of the terminal's colours.
    pub(crate) fn painted(text: impl Into<String>, paint: fn(&crate::Terminal, &str) -> String) -> Self {
        Self { text: one_line(&text.into()), paint: Some(paint) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: one_line(&text.into()), paint: None }
    }
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole table, ending in a line feed.
    pub(crate) fn render(&self, terminal: &crate::Terminal) -> String {
        let n_columns = self.header.len();
        let width = |idx: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(idx)).map(|cell| cell.text.chars().count());
            cells.chain([self.header[idx].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        let before_last: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        let room =
            terminal.table_width().map_or(usize::MAX, |width| width.saturating_sub(before_last).max(MIN_LAST_COLUMN));
        let mut text = String::new();
        let head: Vec<Cell> = self.header.iter().map(|name| Cell::painted(*name, crate::Terminal::bold)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            for (idx, cell) in row.iter().enumerate().take(n_columns) {
                let padding = if idx + 1 == n_columns { 0 } else { widths[idx] - cell.text.chars().count() + 2 };
                let shown = if idx + 1 == n_columns { cut(&cell.text, room) } else { cell.text.clone() };
                let painted = match cell.paint {
                    Some(paint) => paint(terminal, &shown),
                    None => shown,
                };
                let _ = write!(text, "{painted}{:padding$}", "");
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// The last column is never cut below this, columns: on a terminal too narrow for the rest it wraps instead.
const MIN_LAST_COLUMN: usize = 30;

/// `text` in at most `room` columns, with an ellipsis where something was cut.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// Host text may hold anything; on a terminal it must be one line and no escape sequence.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_says_so_and_a_short_one_stays() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }

    #[test]
    fn columns_line_up_and_control_characters_are_gone() {
        let terminal = crate::Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()));
        let mut table = Table::new(&["NODE", "STATE"]);
        table.row(["a-long-name".into(), "up\x1b[31m".into()]);
        table.row(["b".into(), "down".into()]);
        assert_eq!(table.render(&terminal), "NODE         STATE\na-long-name  up [31m\nb            down\n");
    }
}
