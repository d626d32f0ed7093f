//! The last lines of a log, and which of them a pattern matches.
//!
//! A pattern may span lines (`a\nb`), and must match to the end of the newest: so each new line is judged once.
//! Source: kubernetes/node-problem-detector `pkg/systemlogmonitor/log_buffer.go`.

use std::collections::VecDeque;

use regex::bytes::Regex;

/// Longer lines are cut: the kernel's are at most 1 KiB, and a pattern is tried over all lines kept.
const MAX_LINE_BYTES: usize = 4 << 10;

/// The newest lines, at most as many as asked for.
#[derive(Debug)]
pub(super) struct Window {
    n_lines: usize,
    lines: VecDeque<Vec<u8>>,
    joined: Vec<u8>,
}

impl Window {
    pub(super) fn new(n_lines: usize) -> Self {
        Self { n_lines: n_lines.max(1), lines: VecDeque::new(), joined: Vec::new() }
    }

    /// Adds a line, without its end.
    pub(super) fn push(&mut self, line: &[u8]) {
        self.lines.push_back(line[..line.len().min(MAX_LINE_BYTES)].to_vec());
        if self.lines.len() > self.n_lines {
            self.lines.pop_front();
        }
        self.joined.clear();
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                self.joined.push(b'\n');
            }
            self.joined.extend_from_slice(line);
        }
    }

    /// The lines that the match touches, whole; `None` where the pattern does not match to the end.
    pub(super) fn matched(&self, pattern: &Regex) -> Option<String> {
        let start = pattern.find(&self.joined)?.start();
        let line_start = self.joined[..start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Some(String::from_utf8_lossy(&self.joined[line_start..]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], pattern: &str, want: Option<&str>) {
        let mut window = Window::new(3);
        lines.iter().for_each(|line| window.push(line.as_bytes()));
        let pattern = Regex::new(&format!(r"(?:{pattern})\z")).unwrap();
        assert_eq!(window.matched(&pattern).as_deref(), want);
    }

    #[test]
    fn a_match_ends_with_the_newest_line_and_shows_its_lines_whole() {
        check(&["x", "task a hung"], "a hung", Some("task a hung"));
        check(&["task a hung", "x"], "a hung", None);
        check(&["first a", "b last"], r"a\nb.*", Some("first a\nb last"));
    }

    #[test]
    fn lines_beyond_the_window_are_forgotten() {
        check(&["a", "b", "c", "d"], r"a\nb\nc\nd", None);
        check(&["a", "b", "c", "d"], r"b\nc\nd", Some("b\nc\nd"));
    }

    #[test]
    fn bytes_that_are_no_text_are_matched_as_bytes() {
        let mut window = Window::new(1);
        window.push(b"bad \xff block");
        assert_eq!(window.matched(&Regex::new(r"(?-u:bad . block\z)").unwrap()).as_deref(), Some("bad \u{fffd} block"));
    }
}
