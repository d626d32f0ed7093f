//! Sorts out the lines that say nothing of a failure, before anything else looks at them.
//!
//! One search for a hundred short literals, one table look-up a byte. Every text that is peeled without a reason beside it
//! holds one of them: `peel` asks here first, and a test asks for every row.

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// Parts of words, so that one literal serves `Failed`, `failed` and `failure`.
const PARTS: [&str; 60] = [
    "rror",
    "fail",
    "Fail",
    "FAIL",
    "anno",
    "an't ",
    "could",
    "Could",
    "nable to",
    "imed out",
    "imeout",
    "efused",
    "enied",
    "not ",
    "Not",
    "No ",
    "no ",
    "orbidden",
    "uthor",
    "nvalid",
    "xceed",
    "anic",
    "orrupt",
    "illed",
    "bort",
    "nexpect",
    "nsupport",
    "eset",
    "roken",
    "EOF",
    "nsufficient",
    "oo many",
    "usy",
    "in use",
    "tale ",
    "ead-only",
    "xpired",
    "x509",
    "nhealthy",
    "navail",
    "rash",
    "stuck",
    "respon",
    "ost ",
    "lost",
    "ffline",
    "ejected",
    "isabled",
    "mismatch",
    "issing",
    "exit",
    "vict",
    "OOM",
    "uperblock",
    " lock",
    "anceled",
    "eadline",
    "xhaust",
    "low on",
    "sserti",
];

/// What rows say without any of the parts.
const RARE: [&str; 54] = [
    "sing PersistentVolumeClaim",
    "nknown ",
    "arger than",
    "erminating",
    "alformed",
    "nsafe",
    "nschedulable",
    "ackoff",
    "ack-off",
    "was cleared",
    "zombie",
    "disappear",
    "is still",
    "eservation",
    "need a /sbin/",
    "remaining active",
    "faulted",
    "aiting for a volume",
    "unbound",
    "any Requests",
    "rate limit",
    "ystem load",
    " exists",
    "is down",
    "misbehaving",
    "table full",
    "affinity",
    "reclaim",
    "arking for deletion",
    "stopped posting",
    "een rebooted",
    "too quickly",
    "imiting",
    "egraded",
    "ow space",
    "pressure",
    "exhausted",
    "terminated",
    "quorum",
    "detached",
    "ongoing",
    "outdated",
    "denied",
    "conflict",
    "PRESSURE",
    "blocked",
    "SIGKILL",
    "signal",
    "panick",
    "BUG:",
    "stall",
    "hung",
    "atal",
    "rrno",
];

/// The literals, for a search of one's own.
pub(crate) fn literals() -> impl Iterator<Item = &'static str> {
    PARTS.into_iter().chain(RARE)
}

/// The search, compiled.
#[derive(Debug)]
pub(crate) struct Candidate(AhoCorasick);

impl Candidate {
    pub(crate) fn new() -> Self {
        let search = AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(literals());
        Self(search.expect("a hundred short literals are far below the search's limits"))
    }

    /// Where the first literal begins.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.0.find(bytes).map(|found| found.start())
    }

    pub(crate) fn is_match(&self, line: &[u8]) -> bool {
        self.0.is_match(line)
    }
}
