//! Which lines of a log are taken apart: one search for everything that any rule needs, each byte looked at once.
//!
//! The literals are those of the signatures, of the kernel's rules (where the kernel's lines may stand), of the few lines that
//! are known whole, and the subject's names. A line that has nothing but a name is wanted only if it tells of trouble, because
//! a launcher's log names its VM in every line.

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use kulprit_judge::kernel_log;

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

/// The searches, compiled.
#[derive(Debug)]
pub(super) struct Wanted {
    /// For logs of pods, QEMU and libvirt.
    texts: AhoCorasick,
    /// For logs in which the kernel may speak.
    host: AhoCorasick,
    n_names: usize,
}

impl Wanted {
    /// Compiles; `names` are the subject's.
    pub(super) fn new(names: &[String]) -> Self {
        let mut literals: Vec<String> = names.iter().filter(|name| !name.is_empty()).cloned().collect();
        let n_names = literals.len();
        literals.extend(ALWAYS.into_iter().chain(kulprit_signature::literals()).map(ToOwned::to_owned));
        let compile = |literals: &[String]| {
            let search = AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(literals);
            search.expect("a few hundred short literals are far below the search's limits")
        };
        let texts = compile(&literals);
        literals.extend(kernel_log::needles().map(ToOwned::to_owned));
        Self { texts, host: compile(&literals), n_names }
    }

    /// An offset inside the first line of `bytes` that matters.
    pub(super) fn find(&self, bytes: &[u8], is_host: bool) -> Option<usize> {
        let search = if is_host { &self.host } else { &self.texts };
        let mut from = 0;
        loop {
            let found = search.find(bytes.get(from..)?)?;
            let at = from + found.start();
            if found.pattern().as_usize() >= self.n_names {
                return Some(at);
            }
            // A name alone: what the whole line says decides.
            let start = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
            if self.is_trouble(&bytes[start..end], search) {
                return Some(at);
            }
            from = end;
        }
    }

    fn is_trouble(&self, line: &[u8], search: &AhoCorasick) -> bool {
        LEVELS.iter().any(|level| memchr::memmem::find(line, level).is_some())
            || is_klog_trouble(line)
            || line.starts_with(b"<")
            || search.find_overlapping_iter(line).any(|found| found.pattern().as_usize() >= self.n_names)
    }
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
        for is_host in [false, true] {
            assert_eq!(wanted.find(line.as_bytes(), is_host).is_some(), want, "{line}");
            let both = format!("db-0 is fine\n{line}\n");
            let found = wanted.find(both.as_bytes(), is_host);
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
        let n_kernel = kernel_log::needles().filter(|needle| wanted.find(needle.as_bytes(), true).is_none()).count();
        assert_eq!(n_kernel, 0);
        assert!(wanted.find(b"kvm: entered promiscuous mode", false).is_none());
    }
}
