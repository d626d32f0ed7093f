//! The only place that prints: standard output for answers, standard error for what went wrong.

use std::io::{self, IsTerminal as _, Write};

/// Where answers go, and whether colour may be used.
pub struct Terminal {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    has_colour: bool,
    /// Columns of the terminal; `None` when the answer goes into a file or pipe.
    width: Option<usize>,
    /// Whether a person waits in front of it: standard error is a terminal.
    is_interactive: bool,
}

/// Pages are broken at this width where there is no terminal, and on wider ones: longer lines are hard to read.
const MAX_PAGE_WIDTH: usize = 110;

impl Terminal {
    /// Standard output and error. Colour only when output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn of_this_process() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            has_colour: is_terminal && !no_colour,
            width,
            is_interactive: io::stderr().is_terminal(),
        }
    }

    /// A terminal that writes elsewhere, without colour; for tests.
    #[must_use]
    pub fn capturing(out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self { out, err, has_colour: false, width: None, is_interactive: false }
    }

    /// Whether a person waits in front of it, so that a bar may show how far a long reading is.
    pub(crate) const fn is_interactive(&self) -> bool {
        self.is_interactive
    }

    /// Prints an answer. A reader who has closed the pipe is no error.
    pub(crate) fn print(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    /// Prints a part of an answer that goes on.
    ///
    /// # Errors
    /// If the reader has closed the pipe: the rest need not be asked for.
    pub(crate) fn print_on(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Prints a line on standard error, beside an answer that goes on.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Prints `error: …` on standard error, in one line.
    pub(crate) fn error(&mut self, text: &str) {
        let _ = writeln!(self.err, "error: {text}");
    }

    /// How wide running text may be, columns.
    pub(crate) fn page_width(&self) -> usize {
        self.width.map_or(MAX_PAGE_WIDTH, |width| width.clamp(40, MAX_PAGE_WIDTH))
    }

    /// How wide a table may be, columns; `None`: as wide as it is, nothing is cut from what another program reads.
    pub(crate) const fn table_width(&self) -> Option<usize> {
        self.width
    }

    /// `text` in bold.
    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// `text` in the colour of something wrong.
    pub(crate) fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// `text` in the colour of something well.
    pub(crate) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// `text` in the colour of something not known.
    pub(crate) fn yellow(&self, text: &str) -> String {
        self.paint("33", text)
    }

    /// `text` less prominent.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.has_colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
