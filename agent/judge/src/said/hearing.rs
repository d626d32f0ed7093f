//! Listens to logs that are written now, at a bounded cost.
//!
//! What fails is tried again, so most lines that say something have been heard before: a line that differs from an earlier one
//! of its log in nothing but its times is counted without being taken apart again. What is left of a storm, lines that all
//! differ, is heard up to a number; how many were not is told.

use std::collections::HashMap;

use kulprit_host::log::Line;
use kulprit_model::{Attributes, Moment};

use super::{Heard, LogSource, Signatures, Statements, hear};
use crate::verdict::OccurrenceVerdict;

/// Lines that are remembered: about 0.3 MB.
const MAX_KNOWN: usize = 256;
/// Lines taken apart between two calls of [`Hearing::take`]: some 10 ms of work.
const MAX_HEARD: u32 = 500;
/// Different statements between two calls, the names in further ones are left out.
const MAX_STATEMENTS: usize = 32;
/// Shortest time with its date or fraction: `06:42:07.1`.
const MIN_TIME_BYTES: usize = 10;

/// See the module.
#[derive(Debug)]
pub struct Hearing {
    signatures: Signatures,
    known: HashMap<u64, Known>,
    statements: Statements,
    n_left: u32,
    n_unheard: u64,
}

/// What a line said when it was heard.
#[derive(Debug)]
struct Known {
    verdict: Option<Box<OccurrenceVerdict>>,
    /// How often it came since, and when last.
    again: Option<(u64, Moment)>,
}

/// What was heard since the last call.
#[derive(Debug, Default)]
pub struct Told {
    /// The statements, equal ones merged.
    pub verdicts: Vec<OccurrenceVerdict>,
    /// Lines that may have said something and were not taken apart.
    pub n_unheard: u64,
}

impl Default for Hearing {
    fn default() -> Self {
        Self::new()
    }
}

impl Hearing {
    /// Has heard nothing; the first one of a process compiles the table of signatures.
    #[must_use]
    pub fn new() -> Self {
        Self {
            signatures: Signatures::new(),
            known: HashMap::new(),
            statements: Statements::new(MAX_STATEMENTS),
            n_left: MAX_HEARD,
            n_unheard: 0,
        }
    }

    /// The first of some whole lines that is to be given to [`Self::hear`]: an offset inside it. Those before it say nothing, or
    /// were heard before and are counted. `log` tells logs apart; `time_of` is asked when a line heard before was written.
    pub fn find(&mut self, log: u64, lines: &[u8], time_of: &dyn Fn(&[u8]) -> Moment) -> Option<usize> {
        let mut from = 0;
        loop {
            let found = from + self.signatures.find_candidate(lines.get(from..)?)?;
            let start = memchr::memrchr(b'\n', &lines[..found]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &lines[found..]).map_or(lines.len(), |end| found + end);
            let line = &lines[start..end];
            if !is_partial(line) {
                match self.known.get_mut(&fingerprint(log, line)) {
                    Some(known) => known.count(line, time_of),
                    None if self.n_left == 0 => self.n_unheard += 1,
                    None => return Some(found),
                }
            } else if self.n_left == 0 {
                self.n_unheard += 1;
            } else {
                return Some(found);
            }
            from = end;
        }
    }

    /// Takes a line, taken apart, that was written `at`; `place` adds to what it says whose log it is.
    pub fn hear(
        &mut self,
        log: u64,
        source: &LogSource,
        line: &Line<'_>,
        at: Moment,
        is_dated: bool,
        place: impl FnOnce(Attributes) -> Attributes,
    ) {
        self.n_left = self.n_left.saturating_sub(1);
        let verdict = match hear(&self.signatures, source, line, at, is_dated) {
            Heard::Nothing | Heard::Harmless => None,
            Heard::Error(verdict) => {
                let verdict = OccurrenceVerdict { attributes: place(verdict.attributes), ..verdict };
                self.statements.add(verdict.clone());
                Some(Box::new(verdict))
            }
        };
        if self.known.len() >= MAX_KNOWN {
            self.flush();
            self.known.clear();
        }
        self.known.insert(fingerprint(log, line.raw.as_bytes()), Known { verdict, again: None });
    }

    /// What was said since the last call; as much again may be heard from now on.
    pub fn take(&mut self) -> Told {
        self.flush();
        self.n_left = MAX_HEARD;
        let statements = std::mem::replace(&mut self.statements, Statements::new(MAX_STATEMENTS));
        Told {
            verdicts: statements.into_verdicts(|attributes| attributes).collect(),
            n_unheard: std::mem::take(&mut self.n_unheard),
        }
    }

    fn flush(&mut self) {
        for known in self.known.values_mut() {
            if let (Some((count, at)), Some(verdict)) = (known.again.take(), &known.verdict) {
                let mut verdict = OccurrenceVerdict { at, count, ..(**verdict).clone() };
                verdict.evidence.iter_mut().for_each(|evidence| evidence.at = at);
                self.statements.add(verdict);
            }
        }
    }
}

impl Known {
    fn count(&mut self, line: &[u8], time_of: &dyn Fn(&[u8]) -> Moment) {
        if self.verdict.is_none() {
            return;
        }
        let at = time_of(line);
        let (count, last) = self.again.unwrap_or((0, at));
        self.again = Some((count + 1, last.max(at)));
    }
}

/// A CRI line that goes on in the next: what it says is known when that has come.
fn is_partial(line: &[u8]) -> bool {
    let head = &line[..line.len().min(64)];
    memchr::memmem::find(head, b" stdout P ").or_else(|| memchr::memmem::find(head, b" stderr P ")).is_some()
}

/// Equal for two lines of a log that differ in nothing but times.
fn fingerprint(log: u64, line: &[u8]) -> u64 {
    let mut hash = mix(SEED, log);
    let is_of_time = |byte: &u8| matches!(byte, b'0'..=b'9' | b':' | b'.' | b'-' | b'T' | b'Z' | b'+');
    let mut from = 0;
    // What has no colon in it is no time of the day.
    for colon in memchr::memchr_iter(b':', line) {
        if colon < from {
            continue;
        }
        let start = colon - line[from..colon].iter().rev().take_while(|byte| is_of_time(byte)).count();
        let end = colon + line[colon..].iter().take_while(|byte| is_of_time(byte)).count();
        let run = &line[start..end];
        if run.len() >= MIN_TIME_BYTES && memchr::memchr_iter(b':', run).take(2).count() == 2 {
            hash = add(hash, &line[from..start]);
            from = end;
        }
    }
    add(hash, &line[from..])
}

/// Eight bytes at a time: a hash that withstands attackers costs more than all else here, and whoever can write a log can make
/// its lines equal anyway.
fn add(hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(mix(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[expect(clippy::cast_possible_truncation, reason = "the halves of a product are what is wanted")]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = ((hash ^ word) as u128).wrapping_mul(0xd6e8_feb8_6659_fd93);
    // Both halves of the product: high bits of the input reach low bits of the hash.
    (product >> 64) as u64 ^ (product & u64::MAX as u128) as u64 ^ hash.rotate_left(23)
}

#[cfg(test)]
mod tests {
    use kulprit_host::log::{Clock, parse_line};
    use kulprit_model::attribute;

    use super::*;

    const CLOCK: Clock = Clock { at_usec: 1_795_243_350_000_000, btime_usec: None };
    const ERROR: &str = "stderr F {\"component\":\"virt-handler\",\"level\":\"error\",\"msg\":\"dial tcp 10.0.0.7:49152: connect: connection refused\",\"name\":\"db-0\",\"namespace\":\"prod\"";

    fn line(secs: i64) -> String {
        format!("2026-11-21T06:42:{secs:02}.123456789Z {ERROR},\"timestamp\":\"2026-11-21T06:42:{secs:02}.100000Z\"}}")
    }

    fn at(secs: i64) -> Moment {
        Moment { wall_usec: secs, boottime_usec: secs }
    }

    /// Gives lines as a probe does; which of them were taken apart.
    fn listen(hearing: &mut Hearing, log: u64, lines: &[String]) -> Vec<usize> {
        let text = lines.join("\n");
        let source = LogSource::Unit("x".to_owned());
        let mut taken = Vec::new();
        let mut from = 0;
        while let Some(found) = hearing.find(log, &text.as_bytes()[from..], &|_| at(9)) {
            let number = text[..from + found].lines().count() - 1;
            taken.push(number);
            hearing.hear(log, &source, &parse_line(&lines[number], CLOCK), at(1), true, |attributes| attributes);
            from = lines[..=number].iter().map(|line| line.len() + 1).sum::<usize>().min(text.len());
        }
        taken
    }

    #[test]
    fn a_line_that_comes_again_is_counted_and_not_taken_apart() {
        let mut hearing = Hearing::new();
        let lines: Vec<String> = (0..50).map(line).collect();
        assert_eq!(listen(&mut hearing, 1, &lines), [0]);
        let told = hearing.take();
        let counts: Vec<_> = told.verdicts.iter().map(|verdict| (verdict.at, verdict.count)).collect();
        assert_eq!(counts, [(at(1), 1), (at(9), 49)]);
        assert!(listen(&mut hearing, 1, &lines[..2]).is_empty(), "and later, too");
        assert_eq!(hearing.take().verdicts.iter().map(|verdict| verdict.count).sum::<u64>(), 2);
        assert_eq!(listen(&mut hearing, 2, &lines), [0], "another log is another speaker");
    }

    #[test]
    fn what_differs_in_more_than_its_times_is_another() {
        for (one, other, want) in [
            ("E1121 06:42:07.114982 1 a.go:1] x failed", "E1121 06:43:08.200000 1 a.go:1] x failed", true),
            ("x failed on db-0", "x failed on db-1", false),
            ("lock of 10.244.100.100:49152 failed", "lock of 10.244.100.101:49152 failed", false),
            (
                "pvc 12345678-1234-4123-8123-123456789012 failed",
                "pvc 12345678-1234-4123-8123-123456789013 failed",
                false,
            ),
            ("at 2026-11-21T06:42:07Z and 06:42:07.5 x", "at 2026-11-21T07:42:07Z and 06:42:08.7 x", true),
        ] {
            assert_eq!(fingerprint(1, one.as_bytes()) == fingerprint(1, other.as_bytes()), want, "{one}");
        }
    }

    #[test]
    fn a_storm_of_different_lines_is_heard_up_to_a_number_and_the_rest_told() {
        let mut hearing = Hearing::new();
        let lines: Vec<String> = (0..2_000).map(|n| format!("mount of pvc-{n} failed: Connection timed out")).collect();
        assert_eq!(listen(&mut hearing, 1, &lines).len(), MAX_HEARD as usize);
        let told = hearing.take();
        assert_eq!(told.n_unheard, 2_000 - u64::from(MAX_HEARD));
        assert_eq!(told.verdicts.iter().map(|verdict| verdict.count).sum::<u64>(), u64::from(MAX_HEARD));
        assert!(told.verdicts.len() <= 2 * (MAX_STATEMENTS + 2), "{}", told.verdicts.len());
        assert_eq!(listen(&mut hearing, 1, &lines[1_999..]), [0], "and then goes on");
    }

    #[test]
    fn a_planted_line_is_heard_in_a_storm_of_equal_ones() {
        let mut hearing = Hearing::new();
        let mut lines: Vec<String> = (0..5_000).map(|n| line(n % 60)).collect();
        lines[4_321] = "PLEG is not healthy: pleg was last seen active 3m3.2s ago; threshold is 3m0s".to_owned();
        assert_eq!(listen(&mut hearing, 1, &lines), [0, 4_321]);
        let told = hearing.take();
        assert!(told.verdicts.iter().any(|verdict| verdict.attributes.get(attribute::OPERATION) == Some("list-pods")));
    }
}
