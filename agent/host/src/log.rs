//! Logs of every kind that a host and its pods write, read as one stream of lines.
//!
//! Which form a line has is recognised line by line, because files mix them: `/dev/kmsg`, dmesg, journalctl, klog, KubeVirt's
//! and other JSON, libvirt, QEMU, CRI, logrus. Only lines that the caller wants are taken apart; of the others only the bytes
//! are looked at, a block at a time, so that a log of gigabytes costs little more than reading it. A line of which no stamp can
//! be read belongs to the one before it, as the lines of a stack or of QEMU's command line do. Nothing is buffered beyond
//! [`MAX_LINE_BYTES`] of a line; what a line has more is counted and left out.

mod form;
mod json;
mod lines;
mod stamp;

use std::borrow::Cow;
use std::io::{self, BufRead};

use form::Meta;
use lines::Blocks;
use stamp::{Quality, When};

/// What is kept of a line, bytes.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Lines before a line without a stamp in which its stamp is looked for.
const MAX_LOOK_BACK: usize = 256;
/// Lines at the beginning of a log, and at the end of each block, in which a stamp is looked for.
const MAX_EDGE_LINES: usize = 16;

/// What stamps that do not tell all are completed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The moment of asking, Unix time in microseconds: for stamps without a year.
    pub at_usec: i64,
    /// When the kernel booted, Unix time in microseconds: for seconds since boot. `None` if not known.
    pub btime_usec: Option<i64>,
}

/// The object that a structured line is about, as it names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Kind, for example `VirtualMachineInstance`; KubeVirt leaves it out or empty for VMIs.
    pub kind: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// UID.
    pub uid: Option<String>,
}

/// One line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Number in the file, from 1; of several joined lines the last.
    pub number: usize,
    /// When it was written, Unix time in microseconds. `None` where neither the line nor one before it tells.
    pub stamp_usec: Option<i64>,
    /// Since boot, microseconds, for lines of the kernel's log whose boot is not known.
    pub since_boot_usec: Option<i64>,
    /// Whether the stamp is that of an earlier line.
    pub is_continuation: bool,
    /// The program: syslog identifier, or component of a structured line.
    pub ident: Option<String>,
    /// `subcomponent` of virt-launcher's lines: `libvirt` or `qemu`.
    pub part: Option<String>,
    /// Process id of the writer, or a thread of it.
    pub pid: Option<u32>,
    /// Severity as in syslog, 0 (emergency) to 7 (debug). `None` where the line does not say.
    pub priority: Option<u8>,
    /// Whether the kernel wrote it. `None` where the line does not say.
    pub is_kernel: Option<bool>,
    /// What a structured line is about.
    pub about: About,
    /// What was said, without stamp and wrapping.
    pub text: Cow<'a, str>,
    /// The line as it stands in the file.
    pub raw: Cow<'a, str>,
    /// Bytes of the line that were left out.
    pub n_cut_bytes: usize,
}

/// What there was in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Lines, joined or not.
    pub n_lines: usize,
    /// Lines longer than [`MAX_LINE_BYTES`].
    pub n_cut_lines: usize,
    /// Bytes that were left out of them.
    pub n_cut_bytes: usize,
    /// First stamp that could be read, Unix time in microseconds.
    pub first_usec: Option<i64>,
    /// Last stamp that could be read.
    pub last_usec: Option<i64>,
}

/// Reads logs.
#[derive(Clone, Debug)]
pub struct LogReader {
    clock: Clock,
    /// Time of the last line that had one.
    last: Option<When>,
    /// Beginning of a line that its writer split.
    partial: String,
    span: Span,
}

/// Takes one line apart that stands alone, without knowing what was before it.
#[must_use]
pub fn parse_line(line: &str, clock: Clock) -> Line<'_> {
    let mut reader = LogReader::new(clock);
    let (meta, text) = form::peel(line, clock.at_usec);
    reader.learn_boot(line, &meta);
    reader.line(1, meta, text, Cow::Borrowed(line), None, 0)
}

/// The Unix time, microseconds, that stands at the beginning of a text in any of the forms of logs. `None` where there is none,
/// and for seconds since boot.
#[must_use]
pub fn parse_stamp(text: &str, at_usec: i64) -> Option<i64> {
    if let Some(usec) = audit_usec(text) {
        return Some(usec);
    }
    let text = text.trim_start();
    let klog = || stamp::klog(text.strip_prefix(['I', 'W', 'E', 'F'])?, at_usec);
    // containerd's lines begin with the name of the stamp.
    match stamp::take(text.strip_prefix("time=\"").unwrap_or(text), at_usec).or_else(klog)?.when {
        When::Wall(usec) => Some(usec),
        When::Boot(_) => None,
    }
}

/// When the kernel wrote a record that auditd keeps, microseconds: `type=AVC msg=audit(1735079251.599:81009): …`. `None` for what is
/// no such record. Source: linux-audit `auditd.conf(5)`, kernel `kernel/audit.c` audit_log_start.
#[must_use]
pub fn audit_usec(text: &str) -> Option<i64> {
    let (_, rest) = text.strip_prefix("type=")?.split_once(" msg=audit(")?;
    let (secs, rest) = rest.split_once('.')?;
    let millis = rest.get(..3)?;
    secs.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(millis.parse::<i64>().ok()?.checked_mul(1_000)?)
}

impl LogReader {
    /// A reader of one log.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, last: None, partial: String::new(), span: Span::default() }
    }

    /// The boot time, Unix microseconds, as given or as learnt from a line that has both clocks.
    #[must_use]
    pub fn btime_usec(&self) -> Option<i64> {
        self.clock.btime_usec
    }

    /// Reads a log to its end. `find` is given whole lines and answers with the offset of any byte of the first one that matters,
    /// its end not included, so that each byte is looked at once; these lines are taken apart and given to `each`. Bytes that
    /// are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// When `input` cannot be read further. What was read before is kept in [`Self::span`].
    pub fn read(
        &mut self,
        input: impl BufRead,
        mut find: impl FnMut(&[u8]) -> Option<usize>,
        mut each: impl FnMut(&Line<'_>),
    ) -> io::Result<Span> {
        let mut blocks = Blocks::new(input);
        while let Some(block) = blocks.next()? {
            self.take_block(block.bytes, block.n_cut_bytes, &mut find, &mut each);
        }
        Ok(self.span)
    }

    /// Reads further lines of the same log from memory, for who reads it while it is written; a last line without its end is a
    /// line. Otherwise as [`Self::read`].
    pub fn read_lines(
        &mut self,
        bytes: &[u8],
        mut find: impl FnMut(&[u8]) -> Option<usize>,
        mut each: impl FnMut(&Line<'_>),
    ) {
        self.take_block(bytes, 0, &mut find, &mut each);
    }

    /// What stamps are completed with from now on, for who reads a log while it is written.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// What was read so far.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    fn take_block(
        &mut self,
        bytes: &[u8],
        n_cut_bytes: usize,
        find: &mut impl FnMut(&[u8]) -> Option<usize>,
        each: &mut impl FnMut(&Line<'_>),
    ) {
        if n_cut_bytes > 0 {
            self.span.n_cut_lines += 1;
            self.span.n_cut_bytes += n_cut_bytes;
        }
        self.learn_boot_of_block(bytes);
        if self.span.first_usec.is_none() {
            self.span.first_usec = lines::each(bytes).take(MAX_EDGE_LINES).find_map(|line| self.wall_of(line));
        }
        // Start of what was not looked at, and start of what was not counted.
        let (mut next, mut counted) = (0, 0);
        while next < bytes.len() {
            let start = match self.partial.is_empty() {
                true => match find(&bytes[next..]) {
                    Some(offset) => lines::start_of(bytes, next, next.saturating_add(offset)),
                    None => break,
                },
                false => next,
            };
            let (line, after) = lines::at(bytes, start);
            self.span.n_lines += lines::count(&bytes[counted..start]) + 1;
            (next, counted) = (after, after);
            self.take_line(self.span.n_lines, line, bytes, n_cut_bytes, each);
        }
        self.span.n_lines += lines::count(&bytes[counted.min(bytes.len())..]);
        if let Some(when) = lines::back(bytes).take(MAX_EDGE_LINES).find_map(|line| self.when_of(line)) {
            self.last = Some(when);
            self.span.last_usec = self.to_wall(when).or(self.span.last_usec);
        }
    }

    fn take_line(
        &mut self,
        number: usize,
        line: &[u8],
        block: &[u8],
        n_cut_bytes: usize,
        each: &mut impl FnMut(&Line<'_>),
    ) {
        let raw = String::from_utf8_lossy(line);
        if is_no_line(&raw) {
            return;
        }
        let (meta, text) = form::peel(&raw, self.clock.at_usec);
        if meta.is_partial {
            let room = MAX_LINE_BYTES.saturating_sub(self.partial.len());
            let end = text.floor_char_boundary(room.min(text.len()));
            self.partial.push_str(&text[..end]);
            return;
        }
        let before = match meta.time {
            Some(_) => None,
            None => self.look_back(line, block),
        };
        if self.partial.is_empty() {
            each(&self.line(number, meta, text, raw.clone(), before, n_cut_bytes));
            return;
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.push_str(&text);
        // Joined, it may have a layer of its own.
        let (mut inner, text) = form::peel(&joined, self.clock.at_usec);
        if let Some((when, quality)) = meta.time {
            inner.time = inner.time.or(Some((when, quality)));
        }
        each(&self.line(number, inner, text, Cow::Borrowed(joined.as_str()), before, n_cut_bytes));
    }

    /// The time of the nearest line before `line` that has one.
    fn look_back(&self, line: &[u8], block: &[u8]) -> Option<When> {
        let start = (line.as_ptr() as usize).saturating_sub(block.as_ptr() as usize).min(block.len());
        lines::back(&block[..start]).take(MAX_LOOK_BACK).find_map(|line| self.when_of(line)).or(self.last)
    }

    fn line<'a>(
        &self,
        number: usize,
        meta: Meta,
        text: Cow<'a, str>,
        raw: Cow<'a, str>,
        before: Option<When>,
        n_cut_bytes: usize,
    ) -> Line<'a> {
        let when = meta.time.map(|(when, _)| when).or(before);
        let since_boot_usec = when.and_then(|when| match when {
            When::Boot(usec) => Some(usec),
            When::Wall(_) => None,
        });
        Line {
            number,
            stamp_usec: when.and_then(|when| self.to_wall(when)),
            since_boot_usec,
            is_continuation: meta.time.is_none() && before.is_some(),
            ident: meta.ident,
            part: meta.part,
            pid: meta.pid,
            priority: meta.priority,
            is_kernel: meta.is_kernel,
            about: meta.about,
            text,
            raw,
            n_cut_bytes,
        }
    }

    fn to_wall(&self, when: When) -> Option<i64> {
        match when {
            When::Wall(usec) => Some(usec),
            When::Boot(usec) => self.clock.btime_usec?.checked_add(usec),
        }
    }

    fn when_of(&self, line: &[u8]) -> Option<When> {
        let text = String::from_utf8_lossy(line);
        Some(form::peel(&text, self.clock.at_usec).0.time?.0)
    }

    fn wall_of(&self, line: &[u8]) -> Option<i64> {
        self.to_wall(self.when_of(line)?)
    }

    /// The kernel writes both clocks into one line when it sets the system clock, and in each audit record.
    fn learn_boot_of_block(&mut self, bytes: &[u8]) {
        if self.clock.btime_usec.is_some() {
            return;
        }
        for needle in BOTH_CLOCKS {
            if let Some(found) = memchr::memmem::find(bytes, needle) {
                let start = memchr::memrchr(b'\n', &bytes[..found]).map_or(0, |end| end + 1);
                let end = memchr::memchr(b'\n', &bytes[found..]).map_or(bytes.len(), |end| found + end);
                let line = String::from_utf8_lossy(&bytes[start..end]);
                let (meta, _) = form::peel(&line, self.clock.at_usec);
                self.learn_boot(&line, &meta);
            }
        }
    }

    fn learn_boot(&mut self, line: &str, meta: &Meta) {
        if self.clock.btime_usec.is_some() {
            return;
        }
        let Some((When::Boot(since_boot), Quality::Boot)) = meta.time else { return };
        let secs = |text: &str| {
            let number: String = text.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
            stamp::whole(&number, self.clock.at_usec).map(|(usec, _)| usec)
        };
        // `rtc_cmos 00:02: setting system clock to 2026-11-21T05:11:52 UTC (1763701912)`; `audit(1763701912.123:45): …`.
        let wall = line
            .split_once("setting system clock to ")
            .and_then(|(_, text)| secs(text.split_once('(')?.1))
            .or_else(|| secs(line.split_once("audit(")?.1));
        self.clock.btime_usec = wall.and_then(|wall| wall.checked_sub(since_boot));
    }
}

const BOTH_CLOCKS: [&[u8]; 2] = [b"setting system clock to ", b" audit("];

/// What journalctl prints between lines, and the ` KEY=value` lines of `/dev/kmsg`.
fn is_no_line(raw: &str) -> bool {
    raw.trim().is_empty()
        || (raw.starts_with("-- ") && raw.ends_with(" --"))
        || raw.starts_with("-- No entries --")
        || ((raw.starts_with(" SUBSYSTEM=") || raw.starts_with(" DEVICE=")) && !raw.trim_start().contains(' '))
}

#[cfg(test)]
mod tests;
