//! Decides what a text says: one search for every word and needle at once, then rows, then words.
//!
//! The text comes without its wrapping. A harmless form ends it. A row that matches fixes what it knows; the rest is told by
//! the words (the last of the highest tier, because errors are nested from the outside in), then by the event's reason, then
//! by who speaks. Of `Message from the source host: X. Message from the destination host: Y` only Y tells the class.

use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use kulprit_model::said::{actor, class, operation};
use kulprit_model::side::Side;
use kulprit_model::{Attributes, attribute};
use regex::bytes::{Regex, RegexBuilder};

use crate::healthy::HEALTHY;
use crate::layers::{Bare, Level, unwrap};
use crate::mentions::Mentions;
use crate::reasons::{Reason, is_healthy, reason};
use crate::table::{Row, SIGNATURES};
use crate::words::{self, Tells, Word};
use crate::{Peeled, Speaker, Text};

/// What a literal of the search stands for.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Word(&'static Word),
    Nothing { is_whole: bool },
    Row(usize),
    Healthy(usize),
}

/// A word that stands in the text.
#[derive(Clone, Copy, Debug)]
struct Hit {
    word: &'static Word,
    start: usize,
    end: usize,
}

/// Everything compiled.
#[derive(Debug)]
pub(crate) struct Peeler {
    search: AhoCorasick,
    entries: Vec<Entry>,
    rows: Vec<Pattern>,
    healthy: Vec<Pattern>,
    errno: Regex,
    mentions: Mentions,
}

/// Compiles a pattern of the tables: ASCII, without regard to case.
pub(crate) fn compile(pattern: &str) -> Regex {
    RegexBuilder::new(pattern).unicode(false).case_insensitive(true).build().expect("a test compiles every pattern")
}

/// A row's pattern, compiled when its needle is found for the first time: most rows never are.
#[derive(Debug)]
struct Pattern {
    text: &'static str,
    compiled: OnceLock<Regex>,
}

impl Pattern {
    const fn new(text: &'static str) -> Self {
        Self { text, compiled: OnceLock::new() }
    }

    /// `None` where the needle is enough.
    fn get(&self) -> Option<&Regex> {
        (!self.text.is_empty()).then(|| self.compiled.get_or_init(|| compile(self.text)))
    }
}

impl Peeler {
    pub(crate) fn new() -> Self {
        let lists =
            [words::CLASSES, words::WHOLE_CLASSES, words::OPERATIONS, words::ACTORS, words::BACKENDS, words::FAILURES];
        let mut literals: Vec<&'static str> = Vec::new();
        let mut entries = Vec::new();
        for word in lists.into_iter().flatten() {
            literals.push(word.literal);
            entries.push(Entry::Word(word));
        }
        for (list, is_whole) in [(words::NOTHINGS, false), (words::WHOLE_NOTHINGS, true)] {
            for literal in list {
                literals.push(literal);
                entries.push(Entry::Nothing { is_whole });
            }
        }
        for (index, row) in SIGNATURES.iter().enumerate() {
            literals.push(row.needle);
            entries.push(Entry::Row(index));
        }
        for (index, harmless) in HEALTHY.iter().enumerate() {
            literals.push(harmless.needle);
            entries.push(Entry::Healthy(index));
        }
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(&literals)
            .expect("the tables are far below the search's limits");
        Self {
            search,
            entries,
            rows: SIGNATURES.iter().map(|row| Pattern::new(row.pattern)).collect(),
            healthy: HEALTHY.iter().map(|harmless| Pattern::new(harmless.pattern)).collect(),
            errno: compile(
                r"(?:errno[ =:]*|error[ =:]+|err[ =:]+|result[ =:]+|\bret[ =:]+|returned|\brc[ =:]+|\brv[ =:]+|\bos error|\bcode[ =:]+|\(|: )\(?-?(\d{1,3})\b\)?",
            ),
            mentions: Mentions::new(),
        }
    }

    /// Peels a text; it has passed the candidates' search or has a reason beside it.
    pub(crate) fn peel(&self, said: &Text<'_>) -> Peeled {
        let Bare { level, has_error, text } = unwrap(said.text);
        let bytes = text.as_bytes();
        let (mut hits, mut nothings, mut rows): (Vec<Hit>, Vec<(usize, usize)>, Vec<usize>) = Default::default();
        for found in self.search.find_overlapping_iter(bytes) {
            let (start, end) = (found.start(), found.end());
            match self.entries[found.pattern().as_usize()] {
                Entry::Word(word) => {
                    if stands_alone(bytes, start, end, word.is_whole) && !is_inside_name(&text, start, end, word) {
                        hits.push(Hit { word, start, end });
                    }
                }
                Entry::Nothing { is_whole } => {
                    if !is_whole || stands_alone(bytes, start, end, true) {
                        nothings.push((start, end));
                    }
                }
                Entry::Row(index) => rows.push(index),
                Entry::Healthy(index) => {
                    if self.healthy[index].get().is_none_or(|pattern| pattern.is_match(bytes)) {
                        return Peeled::Healthy;
                    }
                }
            }
        }
        if said.reason.is_some_and(is_healthy) {
            return Peeled::Healthy;
        }
        hits.retain(|hit| !nothings.iter().any(|(start, end)| hit.start < *end && *start < hit.end));
        let inner = inner_start(&text);
        let row = self.row(&mut rows, bytes, inner);
        let because = said.reason.and_then(reason);
        if row.is_none() && because.is_none() && !says_failure(level, has_error, &hits) {
            return Peeled::Nothing;
        }
        Peeled::Said(self.describe(said, &text, &hits, row, because, inner))
    }

    /// The first row of the table that matches the inner text, else the whole.
    fn row(&self, rows: &mut Vec<usize>, bytes: &[u8], inner: usize) -> Option<&'static Row> {
        rows.sort_unstable();
        rows.dedup();
        let matches = |index: usize, bytes: &[u8]| {
            self.rows[index].get().map_or_else(
                || contains_ignoring_case(bytes, SIGNATURES[index].needle.as_bytes()),
                |pattern| pattern.is_match(bytes),
            )
        };
        let find = |bytes: &[u8]| rows.iter().copied().find(|index| matches(*index, bytes));
        let found = if inner > 0 { find(&bytes[inner..]).or_else(|| find(bytes)) } else { find(bytes) };
        found.map(|index| &SIGNATURES[index])
    }

    fn describe(
        &self,
        said: &Text<'_>,
        text: &str,
        hits: &[Hit],
        row: Option<&'static Row>,
        because: Option<&'static Reason>,
        inner: usize,
    ) -> Attributes {
        let speaker = speaker_of(said);
        let fixed = |value: &'static str| (!value.is_empty()).then_some(value);
        let is_known = |value: &&'static str| *value != class::OTHER;
        let operation = row
            .and_then(|row| fixed(row.operation))
            .or_else(|| last(hits, 0, operation_of).map(|(value, _)| value))
            .or_else(|| because.map(|because| because.operation))
            .unwrap_or_else(|| usual_operation(speaker));
        let by_words = last(hits, inner, class_of).or_else(|| last(hits, 0, class_of));
        let by_words =
            by_words.filter(|(value, tier)| *tier > 1 || !(*value == class::CRASHED && is_command(operation)));
        let class = row
            .and_then(|row| fixed(row.class))
            .or_else(|| by_words.filter(|(_, tier)| *tier >= 3).map(|(value, _)| value))
            .or_else(|| self.class_of_number(&text[inner..]))
            .or_else(|| by_words.map(|(value, _)| value).filter(is_known))
            .or_else(|| because.map(|because| because.class))
            .unwrap_or(class::OTHER);
        let named = last(hits, 0, actor_of);
        let is_drivers = is_volume_step(operation) && text.contains("rpc error: code");
        let actor = row
            .and_then(|row| fixed(row.actor))
            .or_else(|| named.filter(|(_, tier)| *tier >= 3).map(|(value, _)| value))
            .or_else(|| is_drivers.then_some(actor::CSI))
            .or_else(|| named.map(|(value, _)| value))
            .or_else(|| because.map(|because| because.actor))
            .unwrap_or_else(|| usual_actor(speaker));
        let side = row.and_then(|row| row.side).or_else(|| side_of(operation, text, inner));
        let attributes = Attributes::new()
            .with(attribute::ACTOR, actor)
            .with(attribute::OPERATION, operation)
            .with(attribute::CLASS, class)
            .with_some(attribute::SIGNATURE, row.map(|row| row.name))
            .with_some(attribute::SIDE, side)
            .with_some(
                attribute::BACKEND,
                (operation != operation::PULL).then(|| last(hits, 0, backend_of)).flatten().map(|(value, _)| value),
            );
        self.mentions.add(said.text, text, attributes)
    }

    /// The class of an errno that the text gives as a number.
    fn class_of_number(&self, text: &str) -> Option<&'static str> {
        let numbers = self.errno.captures_iter(text.as_bytes());
        let classes = numbers.filter_map(|groups| {
            let whole = groups.get(1)?;
            let digits = std::str::from_utf8(whole.as_bytes()).ok()?;
            // `LibvirtError(Code=1, Domain=10, …)`: libvirt counts its errors by itself.
            if text.as_bytes()[whole.end()..].starts_with(b", Domain=") {
                return class_of_libvirt(digits.parse().ok()?);
            }
            let is_named = groups[0].starts_with(b"(") || groups[0].starts_with(b": ");
            // A bare number counts as an errno only with its sign: `(108)` is one in rbd's texts, `(5)` a count elsewhere.
            if is_named && !groups[0].contains(&b'-') && !text.contains("rbd") {
                return None;
            }
            class_of_errno(digits.parse().ok()?)
        });
        classes.last()
    }
}

/// The classes of libvirt's error numbers, as far as they say one. Source: libvirt `include/libvirt/virterror.h`.
const fn class_of_libvirt(code: u32) -> Option<&'static str> {
    Some(match code {
        2 => class::OUT_OF_MEMORY,
        3 | 74 | 84 => class::UNSUPPORTED,
        8 | 27 | 32 | 33 | 35 | 67 | 92 => class::INVALID,
        28 => class::EXISTS,
        29 | 88 => class::DENIED,
        42 | 43 | 49 | 50 | 53 | 99 => class::NOT_FOUND,
        68 => class::TIMEOUT,
        78 => class::CANCELLED,
        86 => class::UNAVAILABLE,
        87 => class::BUSY,
        91 => class::INCOMPATIBLE,
        _ => return None,
    })
}

/// The classes of errno values, Linux on all our architectures.
fn class_of_errno(errno: u32) -> Option<&'static str> {
    Some(match errno {
        1 => class::NOT_PERMITTED,
        2 | 6 => class::NOT_FOUND,
        5 | 121 => class::IO_ERROR,
        11 | 23 | 24 => class::LIMIT,
        12 => class::OUT_OF_MEMORY,
        13 => class::DENIED,
        16 => class::BUSY,
        17 | 98 => class::EXISTS,
        19 | 38 | 95 => class::UNSUPPORTED,
        22 => class::INVALID,
        28 | 122 => class::NO_SPACE,
        30 => class::READ_ONLY,
        32 | 103 | 104 => class::RESET,
        74 | 117 => class::CORRUPT,
        107 | 116 => class::STALE,
        108 => class::HELD,
        110 => class::TIMEOUT,
        111 => class::REFUSED,
        100 | 101 | 112 | 113 => class::UNREACHABLE,
        _ => return None,
    })
}

fn contains_ignoring_case(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len().max(1)).any(|window| window.eq_ignore_ascii_case(needle))
}

/// Whether the literal at `start..end` begins a word, and ends one too if `is_whole`.
fn stands_alone(bytes: &[u8], start: usize, end: usize, is_whole: bool) -> bool {
    let begins = match start.checked_sub(1).map(|before| bytes[before]) {
        Some(before) if before.is_ascii_alphanumeric() && bytes[start].is_ascii_alphanumeric() => {
            !is_whole && before.is_ascii_lowercase() && bytes[start].is_ascii_uppercase()
        }
        _ => true,
    };
    begins && !(is_whole && bytes.get(end).is_some_and(u8::is_ascii_alphanumeric))
}

/// Whether the literal is only part of a path, an address, an image's name, or a quoted name.
fn is_inside_name(text: &str, start: usize, end: usize, word: &Word) -> bool {
    if matches!(word.tells, Tells::Backend(_)) || word.literal.contains(' ') {
        return false;
    }
    let bytes = text.as_bytes();
    let is_edge = |byte: &u8| {
        byte.is_ascii_whitespace()
            || matches!(byte, b'"' | b'\'' | b'(' | b')' | b'[' | b']' | b',' | b'=' | b'{' | b'}' | b'`')
    };
    let from = bytes[..start].iter().rposition(is_edge).map_or(0, |at| at + 1);
    let to = bytes[end..].iter().position(is_edge).map_or(bytes.len(), |at| end + at);
    let token = &bytes[from..to];
    let trimmed = token.strip_suffix(b":").unwrap_or(token);
    if end - start >= trimmed.len() {
        return false;
    }
    let is_quoted = from > 0 && bytes[from - 1] == b'"' && bytes.get(to) == Some(&b'"');
    if is_quoted {
        return true;
    }
    if word.literal.contains('/') {
        return false;
    }
    let n_slashes = trimmed.iter().filter(|byte| **byte == b'/').count();
    let is_domain = || trimmed.iter().position(|byte| *byte == b'/').is_some_and(|at| trimmed[..at].contains(&b'.'));
    (trimmed.first() == Some(&b'/') && trimmed.len() > 1)
        || trimmed.windows(3).any(|window| window == b"://")
        || n_slashes >= 2
        || (n_slashes == 1 && is_domain() && !trimmed.starts_with(b"kubernetes.io/"))
}

/// Where the text of the end begins that a migration failed on; 0 where there is no such part.
fn inner_start(text: &str) -> usize {
    const HEAD: &str = "Message from the destination host:";
    match text.rfind(HEAD) {
        Some(at) if text[at + HEAD.len()..].trim_matches(['\'', '"', ')', ' ', '.']).len() > 3 => at + HEAD.len(),
        _ => 0,
    }
}

fn says_failure(level: Level, has_error: bool, hits: &[Hit]) -> bool {
    let class_tier = hits.iter().filter(|hit| matches!(hit.word.tells, Tells::Class(_))).map(|hit| hit.word.tier).max();
    let failure_tier = hits.iter().filter(|hit| hit.word.tells == Tells::Failure).map(|hit| hit.word.tier).max();
    match level {
        Level::Error => class_tier.is_some() || failure_tier.is_some(),
        Level::Warning => class_tier >= Some(2) || failure_tier.is_some(),
        Level::Info => has_error && class_tier >= Some(2),
        Level::Unknown => {
            class_tier >= Some(3) || failure_tier >= Some(1) || (class_tier >= Some(2) && failure_tier.is_some())
        }
    }
}

/// The last of the words of the highest tier that stand at or after `from`, and its tier.
fn last(hits: &[Hit], from: usize, value: fn(Tells) -> Option<&'static str>) -> Option<(&'static str, u8)> {
    let told = hits.iter().filter(|hit| hit.start >= from).filter_map(|hit| Some((hit, value(hit.word.tells)?)));
    told.max_by_key(|(hit, _)| (hit.word.tier, hit.end, hit.end - hit.start)).map(|(hit, value)| (value, hit.word.tier))
}

fn class_of(tells: Tells) -> Option<&'static str> {
    if let Tells::Class(value) = tells { Some(value) } else { None }
}

fn operation_of(tells: Tells) -> Option<&'static str> {
    if let Tells::Operation(value) = tells { Some(value) } else { None }
}

fn actor_of(tells: Tells) -> Option<&'static str> {
    if let Tells::Actor(value) = tells { Some(value) } else { None }
}

fn backend_of(tells: Tells) -> Option<&'static str> {
    if let Tells::Backend(value) = tells { Some(value) } else { None }
}

fn is_volume_step(word: &str) -> bool {
    [operation::MOUNT, operation::MAP, operation::UNMOUNT, operation::ATTACH, operation::DETACH, operation::PROVISION]
        .contains(&word)
}

/// Whether an exit status in such a text is a helper's, so that it says only that the step failed.
fn is_command(word: &str) -> bool {
    is_volume_step(word)
        || [operation::SETUP_NETWORK, operation::PULL, operation::UNPACK, operation::SET_OWNERSHIP, operation::IMPORT]
            .contains(&word)
}

fn side_of(word: &str, text: &str, inner: usize) -> Option<Side> {
    // Of the two QEMUs of a migration only the target's is started, and opens its disks and devices.
    let is_of_a_start = [
        operation::START_DOMAIN,
        operation::DEFINE_DOMAIN,
        operation::OPEN_IMAGE,
        operation::LOCK_IMAGE,
        operation::ACCESS_KVM,
        operation::ALLOCATE_DEVICE,
    ]
    .contains(&word);
    let is_target = inner > 0
        || word == operation::MIGRATE_PREPARE
        || word == operation::LOAD_STATE
        || text.contains("-incoming")
        || is_of_a_start && text.contains("MigrateToURI");
    is_target.then_some(Side::Target)
}

/// Who wrote it: KubeVirt's lines say it themselves, and the launcher's log is also libvirt's and QEMU's.
fn speaker_of(said: &Text<'_>) -> Speaker {
    let names =
        |field: &str, value: &str| said.text.starts_with('{') && said.text.contains(&format!("\"{field}\":\"{value}"));
    if names("subcomponent", "libvirt") {
        Speaker::Libvirt
    } else if names("subcomponent", "qemu") {
        Speaker::Qemu
    } else if names("component", "virt-launcher") {
        Speaker::Launcher
    } else if names("component", "virt-handler") {
        Speaker::Handler
    } else if ["virt-controller", "virt-api", "virt-operator"].iter().any(|name| names("component", name)) {
        Speaker::Controller
    } else {
        said.speaker
    }
}

const fn usual_actor(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::Kubelet => actor::KUBELET,
        Speaker::Runtime => actor::RUNTIME,
        Speaker::Launcher | Speaker::LauncherSidecar => actor::LAUNCHER,
        Speaker::Handler => actor::HANDLER,
        Speaker::Controller => actor::CONTROLLER,
        Speaker::Libvirt => actor::LIBVIRT,
        Speaker::Qemu => actor::QEMU,
        Speaker::Csi => actor::CSI,
        Speaker::Cni => actor::CNI,
        Speaker::Cdi => actor::CDI,
        Speaker::Scheduler => actor::SCHEDULER,
        Speaker::ControllerManager => actor::CONTROLLER_MANAGER,
        Speaker::ApiServer => actor::API_SERVER,
        Speaker::Host | Speaker::Other => actor::SYSTEMD,
    }
}

const fn usual_operation(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::Handler => operation::SYNC_VMI,
        Speaker::LauncherSidecar => operation::CREATE_CONTAINER,
        Speaker::Cni => operation::SETUP_NETWORK,
        Speaker::Cdi => operation::IMPORT,
        Speaker::Scheduler => operation::SCHEDULE,
        Speaker::ApiServer => operation::CALL_API,
        Speaker::Kubelet
        | Speaker::Runtime
        | Speaker::Launcher
        | Speaker::Qemu
        | Speaker::Controller
        | Speaker::ControllerManager
        | Speaker::Libvirt
        | Speaker::Csi
        | Speaker::Host
        | Speaker::Other => operation::UNTOLD,
    }
}
