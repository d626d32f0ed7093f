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

/// The search, compiled.
#[derive(Debug)]
pub(crate) struct Candidate(Regex);

impl Candidate {
    pub(crate) fn new() -> Self {
        let parts: Vec<String> = PARTS.iter().map(|part| regex::escape(part)).collect();
        Self(RegexBuilder::new(&parts.join("|")).unicode(false).build().expect("a test compiles it"))
    }

    pub(crate) fn is_match(&self, line: &[u8]) -> bool {
        self.0.is_match(line)
    }
}
