//! Sorts out the lines that say nothing of a failure, before anything else looks at them.
//!
//! One search for a few dozen short literals, few enough for the vectorised search of the `regex` crate. Every text that is
//! peeled without a reason beside it holds one of them: `peel` asks here first, and a test asks for every row.

use regex::bytes::{Regex, RegexBuilder};

/// Parts of words, so that one literal serves `Failed`, `failed` and `failure`.
const PARTS: [&str; 60] = [
    "rror", "fail", "Fail", "FAIL", "anno", "an't ", "could", "Could", "nable to", "imed out", "imeout", "efused", "enied",
    "not ", "Not", "No ", "no ", "orbidden", "uthor", "nvalid", "xceed", "anic", "orrupt", "illed", "bort", "nexpect", "nsupport",
    "eset", "roken", "EOF", "nsufficient", "oo many", "usy", "in use", "tale ", "ead-only", "xpired", "x509", "nhealthy",
    "navail", "rash", "stuck", "respon", "ost ", "lost", "ffline", "ejected", "isabled", "mismatch", "issing", "exit", "vict",
    "OOM", "uperblock", " lock", "anceled", "eadline", "xhaust", "low on", "sserti",
];

/// What rows say without any of the parts.
const RARE: [&str; 52] = [
    "nknown ", "erminating", "alformed", "nsafe", "nschedulable", "ackoff", "ack-off", "was cleared", "zombie", "disappear", "is still", "eservation",
    "need a /sbin/", "remaining active", "faulted", "aiting for a volume", "unbound", "any Requests", "rate limit", "ystem load", " exists",
    "is down", "misbehaving", "table full", "affinity", "reclaim", "arking for deletion", "stopped posting", "een rebooted", "too quickly",
    "imiting", "egraded", "ow space", "pressure", "exhausted", "terminated", "quorum", "detached", "ongoing", "outdated", "denied", "conflict",
    "PRESSURE", "blocked", "SIGKILL", "signal", "panick", "BUG:", "stall", "hung", "atal", "rrno",
];

/// The search, compiled.
#[derive(Debug)]
pub(crate) struct Candidate {
    parts: Regex,
    rare: Regex,
}

impl Candidate {
    pub(crate) fn new() -> Self {
        Self { parts: search(&PARTS), rare: search(&RARE) }
    }

    pub(crate) fn is_match(&self, line: &[u8]) -> bool {
        self.parts.is_match(line) || self.rare.is_match(line)
    }
}

fn search(literals: &[&str]) -> Regex {
    let escaped: Vec<String> = literals.iter().map(|literal| regex::escape(literal)).collect();
    RegexBuilder::new(&escaped.join("|")).unicode(false).build().expect("a test compiles it")
}
