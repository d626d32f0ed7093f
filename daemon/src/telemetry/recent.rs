//! The last lines of the log, in memory: what a support bundle shows of a process whose log is somewhere else.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that are kept: a day of a process that is well, the last minutes of one that is not.
const MAX_BYTES: usize = 256 << 10;

/// Whole lines, the newest last; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<String>,
    n_bytes: usize,
}

impl Recent {
    /// All of them, oldest first.
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().map(String::as_str).collect()
    }

    fn add(&self, line: String) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.n_bytes += line.len();
        kept.lines.push_back(line);
        while kept.n_bytes > MAX_BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.n_bytes -= oldest.len();
        }
    }
}

/// One event: it is written at once, as one line.
#[derive(Debug)]
pub(super) struct Line(Recent);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Recent {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, subscriber::with_default};
    use tracing_subscriber::{fmt::layer, layer::SubscriberExt as _, registry};

    use super::*;

    #[test]
    fn the_newest_lines_are_kept_whole_and_no_more_than_there_is_room_for() {
        let recent = Recent::default();
        with_default(registry().with(layer().with_ansi(false).with_writer(recent.clone())), || {
            info!(node = "n0", "the first");
            for n in 0..10_000 {
                info!(n, "a line of the usual length, of which there are many when something goes wrong");
            }
        });
        let text = recent.text();
        assert!(text.len() <= MAX_BYTES && text.len() > MAX_BYTES - 1_000, "{}", text.len());
        assert!(!text.contains("the first") && text.ends_with("n=9999\n"), "{}", &text[text.len() - 200..]);
        assert!(text.lines().all(|line| line.contains(" INFO ")), "{}", &text[..200]);
    }
}
