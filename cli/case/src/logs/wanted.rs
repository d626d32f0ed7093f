//! Which lines of a log are taken apart: one search for everything that any rule needs, each byte looked at once.
//!
//! The literals are those of the signatures, of the kernel's rules (where the kernel's lines may stand), of the few lines that
//! are known whole, and the subject's names. A line that has nothing but a name is wanted only if it tells of trouble, because
//! a launcher's log names its VM in every line.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use kulprit_judge::kernel_log;
use memchr::memmem;

/// Lines that are known whole, and those whose text is not written as text.
const ALWAYS: [&str; 10] = [
    "Migration info for ",
    "\"MESSAGE\":[",
    "\"MESSAGE\" : [",
    "Kubelet version",
    "Started kubelet",
    "Started k3s",
    "Started rke2",
    "Started Kubernetes",
    "Started Lightweight Kubernetes",
    "Started Rancher Kubernetes",
];
/// What a line of trouble that no rule knows has beside a name: a level.
const LEVELS: [&[u8]; 7] = [b"rror", b"arn", b"WARN", b"ERR", b"rit", b"CRIT", b"PRIORITY"];

/// A literal of the kernel's as short as that begins a word: `ata` is in `data` too.
const SHORT_BYTES: usize = 4;

/// Where the kernel speaks in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Never: a log of a pod, QEMU or libvirt.
    Nowhere,
    /// In lines that say so: a journal.
    Named,
    /// Everywhere: its own log.
    Everywhere,
}

/// The searches, compiled.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The subject's, then those of texts.
    literals: Vec<String>,
    n_names: usize,
    /// For logs in which the kernel does not speak; each is compiled for the first log of its kind.
    texts: OnceLock<AhoCorasick>,
    /// The same, then the kernel's.
    host: OnceLock<AhoCorasick>,
}

impl Wanted {
    /// `names` are the subject's.
    pub(super) fn new(names: &[String]) -> Self {
        let mut literals: Vec<String> = names.iter().filter(|name| !name.is_empty()).cloned().collect();
        let n_names = literals.len();
        literals.extend(ALWAYS.into_iter().chain(kulprit_signature::literals()).map(ToOwned::to_owned));
        Self { literals, n_names, texts: OnceLock::new(), host: OnceLock::new() }
    }

    fn search(&self, kernel: Kernel) -> &AhoCorasick {
        let compile = |more: &[&str]| {
            let literals = self.literals.iter().map(String::as_str).chain(more.iter().copied());
            let search = AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(literals);
            search.expect("a few hundred short literals are far below the search's limits")
        };
        match kernel {
            Kernel::Nowhere => self.texts.get_or_init(|| compile(&[])),
            Kernel::Named | Kernel::Everywhere => {
                self.host.get_or_init(|| compile(&kernel_log::needles().collect::<Vec<_>>()))
            }
        }
    }

    /// An offset inside the first line of `bytes` that matters.
    pub(super) fn find(&self, bytes: &[u8], kernel: Kernel) -> Option<usize> {
        let search = self.search(kernel);
        let mut from = 0;
        loop {
            let found = search.find(bytes.get(from..)?)?;
            let (start, end) = (from + found.start(), from + found.end());
            let index = found.pattern().as_usize();
            let matters = if index < self.n_names {
                self.is_trouble(line_of(bytes, start), search)
            } else if index < self.literals.len() {
                true
            } else {
                let is_kernels = || memmem::find(line_of(bytes, start), b"kernel").is_some();
                !begins_inside_word(bytes, start, end) && (kernel == Kernel::Everywhere || is_kernels())
            };
            if matters {
                return Some(start);
            }
            from = end;
        }
    }

    /// A name alone is in every line of a launcher: the level decides.
    fn is_trouble(&self, line: &[u8], search: &AhoCorasick) -> bool {
        LEVELS.iter().any(|level| memmem::find(line, level).is_some())
            || is_klog_trouble(line)
            || line.starts_with(b"<")
            || search.find_overlapping_iter(line).any(|found| found.pattern().as_usize() >= self.n_names)
    }
}

fn begins_inside_word(bytes: &[u8], start: usize, end: usize) -> bool {
    end - start < SHORT_BYTES && start.checked_sub(1).is_some_and(|before| bytes[before].is_ascii_alphanumeric())
}

/// The line around `at`.
fn line_of(bytes: &[u8], at: usize) -> &[u8] {
    let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |end| end + 1);
    let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
    &bytes[start..end]
}

/// `E0301 …`, `W0301 …` and `F0301 …`, at the line's beginning or after a journal's.
fn is_klog_trouble(line: &[u8]) -> bool {
    let is_head = |at: usize| {
        line.get(at + 1..at + 6).is_some_and(|rest| rest[..4].iter().all(u8::is_ascii_digit) && rest[4] == b' ')
    };
    memchr::memchr3_iter(b'E', b'W', b'F', line).any(is_head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: bool) {
        let wanted = Wanted::new(&["db-0".to_owned()]);
        for kernel in [Kernel::Nowhere, Kernel::Named, Kernel::Everywhere] {
            assert_eq!(wanted.find(line.as_bytes(), kernel).is_some(), want, "{line}");
            let both = format!("db-0 is fine\n{line}\n");
            let found = wanted.find(both.as_bytes(), kernel);
            assert_eq!(found.is_some_and(|at| at > 12), want, "{both}");
        }
    }

    #[test]
    fn a_name_is_not_enough_and_trouble_with_it_is() {
        check("{\"level\":\"info\",\"msg\":\"Synced vmi\",\"name\":\"db-0\"}", false);
        check("{\"level\":\"warning\",\"msg\":\"odd\",\"name\":\"db-0\"}", true);
        check("Mar 01 10:00:00 n1 kubelet[1]: W0301 10:00:00.000000       1 x.go:1] db-0 is odd", true);
        check("Mar 01 10:00:00 n1 kubelet[1]: I0301 10:00:00.000000       1 x.go:1] db-0 is good", false);
        check("db-0 cannot be had: Connection timed out", true);
        check("{\"level\":\"warning\",\"msg\":\"odd\",\"name\":\"db-1\"}", false);
    }

    #[test]
    fn the_kernels_literals_are_looked_for_where_the_kernel_speaks() {
        let wanted = Wanted::new(&[]);
        let find = |text: &str, kernel| wanted.find(text.as_bytes(), kernel).is_some();
        let lost = kernel_log::needles().filter(|needle| !find(needle, Kernel::Everywhere));
        assert_eq!(lost.count(), 0);
        for (line, places) in [
            ("[ 12.5] ata1: SATA link up 6.0 Gbps", [false, false, true]),
            ("Mar 01 10:00:00 n1 kernel: ata1: SATA link up 6.0 Gbps", [false, true, true]),
            ("Mar 01 10:00:00 n1 kubelet[7]: I0301 x.go:1] SetUp of data", [false; 3]),
            ("Mar 01 10:00:00 n1 kernel: rdmsr: 0x140 data 0x0", [false; 3]),
        ] {
            let found = [Kernel::Nowhere, Kernel::Named, Kernel::Everywhere].map(|kernel| find(line, kernel));
            assert_eq!(found, places, "{line}");
        }
    }

    #[test]
    fn every_known_line_of_the_kernel_is_found_in_each_form() {
        let wanted = Wanted::new(&[]);
        for (_, _, line) in kernel_log::known_lines() {
            for text in [format!("6,1,10,-;{line}"), format!("[   12.345678] {line}"), line.to_owned()] {
                assert!(wanted.find(text.as_bytes(), Kernel::Everywhere).is_some(), "{text}");
            }
            let journal = format!("Mar 01 10:00:00 n1 kernel: {line}");
            assert!(wanted.find(journal.as_bytes(), Kernel::Named).is_some(), "{journal}");
        }
    }
}
