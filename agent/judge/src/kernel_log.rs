//! What the kernel's log says, line by line: OOM kills, hung tasks, crashes, I/O and file system errors, KVM.
//!
//! [`KernelLog`] takes one line after the other and gives occurrences. It remembers two things for a few lines: the facts the
//! kernel prints before it reports an OOM kill, and a hung task whose process is named only in the lines that follow. What the
//! lines look like stands in one table (`rules.rs`, `storage_rules.rs`, `node_rules.rs`). An ordinary line costs one pass of a
//! multi-literal search.

mod node_rules;
mod rules;
mod storage_rules;

use std::sync::{LazyLock, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use kulprit_model::subject::SubjectType;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};
use regex::bytes::{Captures, Regex, RegexBuilder};

use crate::verdict::OccurrenceVerdict;
use rules::{Meaning, Rule};

/// Facts of an OOM kill belong to the kills of the next 10 s: with `memory.oom.group` many follow one report.
const OOM_FACTS_USEC: i64 = 10_000_000;
/// The groups that become attributes.
const GROUPS: [&str; 10] = [
    attribute::PID,
    attribute::TID,
    attribute::COMM,
    attribute::DEVICE_NAME,
    attribute::MEMCG,
    attribute::BLOCKED_SECS,
    attribute::SIGNAL,
    attribute::SERVER,
    attribute::OBJECT,
    attribute::VOLUME,
];
const SOURCE: &str = "kmsg";

/// The process of a thread or process that the kernel named by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOwner {
    /// Its pid.
    pub pid: u32,
    /// Its start, clock ticks since boot.
    pub start_ticks: u64,
    /// The VM whose QEMU it is or was.
    pub vm_uid: Option<String>,
}

/// Finds the process of a pid or thread id of the initial pid namespace at a moment; `None` when nobody knows it any more.
pub type FindOwner<'a> = &'a dyn Fn(u32, Moment) -> Option<TaskOwner>;

/// The table, compiled once per process; a row's pattern when its needle is found for the first time.
#[derive(Debug)]
struct Table {
    needles: AhoCorasick,
    rows: Vec<(&'static Rule, OnceLock<Regex>)>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let needles = AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::DFA))
        .build(needles())
        .expect("the table is far below the search's limits");
    Table { needles, rows: rules::all().map(|rule| (rule, OnceLock::new())).collect() }
});

/// One of these literals is in every line that [`KernelLog::read_line`] takes: for who searches logs for more than the kernel's
/// lines, and wants to look at each byte only once.
pub fn needles() -> impl Iterator<Item = &'static str> {
    rules::all().map(|rule| rule.needle)
}

/// Reads the log.
#[derive(Debug)]
pub struct KernelLog {
    table: &'static Table,
    oom_facts: Option<(Moment, Option<String>, String)>,
    hung_task: Option<OccurrenceVerdict>,
}

impl Default for KernelLog {
    fn default() -> Self {
        Self::new()
    }
}

/// Compiles without Unicode classes: they make the programs ten times as large and the kernel writes ASCII.
fn compile(pattern: &str) -> Regex {
    RegexBuilder::new(pattern).unicode(false).build().expect("a test compiles every pattern of the table")
}

impl KernelLog {
    /// A reader that has read nothing; the first one compiles the table.
    #[must_use]
    pub fn new() -> Self {
        Self { table: &TABLE, oom_facts: None, hung_task: None }
    }

    /// Whether a line, or a block of lines, may say something: one pass of a multi-literal search. Never false for what
    /// [`Self::read_line`] would take.
    #[must_use]
    pub fn is_candidate(&self, bytes: &[u8]) -> bool {
        self.table.needles.is_match(bytes)
    }

    /// Takes the next line of the log, without its end, and adds what it says to `out`.
    pub fn read_line(&mut self, at: Moment, line: &str, find_owner: FindOwner<'_>, out: &mut Vec<OccurrenceVerdict>) {
        if !self.table.needles.is_match(line) {
            return;
        }
        let mut candidates: Vec<usize> =
            self.table.needles.find_overlapping_iter(line).map(|found| found.pattern().as_usize()).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let matches = |index: usize| {
            let (rule, pattern) = &self.table.rows[index];
            let pattern = pattern.get_or_init(|| compile(rule.pattern));
            pattern.captures(line.as_bytes()).map(|groups| (*rule, groups))
        };
        let Some((rule, groups)) = candidates.into_iter().find_map(matches) else { return };
        match rule.meaning {
            Meaning::Harmless => {}
            Meaning::OomFacts => {
                self.oom_facts = Some((at, text_of(&groups, attribute::MEMCG), line.to_owned()));
            }
            Meaning::HungTaskFacts => self.end_hung_task(&groups, find_owner, out),
            Meaning::Finding(code) => {
                let verdict = self.verdict(code, rule, at, line, &groups, find_owner);
                if code == FindingCode::HungTask {
                    self.flush(out);
                    self.hung_task = Some(verdict);
                } else {
                    out.push(verdict);
                }
            }
        }
    }

    /// Whether a report is not complete: the next lines belong to it.
    #[must_use]
    pub fn is_mid_report(&self, now: Moment) -> bool {
        self.hung_task.is_some() || self.oom_facts.as_ref().is_some_and(|(at, ..)| now.usec_since(*at) < 1_000_000)
    }

    /// Gives what still waits for further lines; for when none came.
    pub fn flush(&mut self, out: &mut Vec<OccurrenceVerdict>) {
        out.extend(self.hung_task.take());
    }

    fn verdict(
        &mut self,
        code: FindingCode,
        rule: &Rule,
        at: Moment,
        line: &str,
        groups: &Captures<'_>,
        find_owner: FindOwner<'_>,
    ) -> OccurrenceVerdict {
        let mut code = code;
        let mut attributes: Attributes = rule.tells.iter().copied().collect();
        for name in GROUPS {
            attributes = attributes.with_some(name, text_of(groups, name));
        }
        let mut evidence = Vec::new();
        if matches!(code, FindingCode::NodeOomKill | FindingCode::MemcgOomKill) {
            let facts = self.oom_facts.as_ref().filter(|(since, ..)| at.usec_since(*since) < OOM_FACTS_USEC);
            if let Some((since, memcg, facts_line)) = facts {
                attributes = attributes.with_some(attribute::MEMCG, memcg.as_deref());
                evidence.push(Evidence::new(SOURCE, *since, facts_line.as_str()));
                if memcg.is_some() {
                    code = FindingCode::MemcgOomKill;
                }
            }
        }
        if attributes.get(attribute::POD_UID).is_none() {
            let pod = attributes.get(attribute::MEMCG).and_then(pod_of_cgroup);
            attributes = attributes.with_some(attribute::POD_UID, pod);
        }
        evidence.push(Evidence::new(SOURCE, at, line));
        let (subject, attributes) = place(code, attributes, at, find_owner);
        OccurrenceVerdict { code, subject, at, count: 1, attributes, evidence }
    }

    /// The hung task's own line names its process.
    fn end_hung_task(&mut self, groups: &Captures<'_>, find_owner: FindOwner<'_>, out: &mut Vec<OccurrenceVerdict>) {
        let is_same = |verdict: &mut OccurrenceVerdict| {
            verdict.attributes.get(attribute::TID) == text_of(groups, attribute::TID).as_deref()
        };
        let Some(mut verdict) = self.hung_task.take_if(is_same) else { return };
        let attributes = verdict.attributes.with_some(attribute::PID, text_of(groups, attribute::PID));
        (verdict.subject, verdict.attributes) = place(verdict.code, attributes, verdict.at, find_owner);
        out.push(verdict);
    }
}

/// The subject that the attributes name, and the attributes with the process's pid where only a thread was named.
fn place(code: FindingCode, attributes: Attributes, at: Moment, find_owner: FindOwner<'_>) -> (Subject, Attributes) {
    let subject_type = code.spec().subject;
    if subject_type == SubjectType::Node {
        return (Subject::Node, attributes);
    }
    // DRBD names its resource, and not always the device of it.
    let resource = || attributes.get(attribute::VOLUME).filter(|_| subject_type == SubjectType::Device);
    if let Some(name) = attributes.get(attribute::DEVICE_NAME).or_else(resource) {
        return (Subject::Device { name: name.to_owned() }, attributes);
    }
    let number = |key| attributes.get(key).and_then(|text| text.parse::<u32>().ok());
    let Some(pid) = number(attribute::PID).or_else(|| number(attribute::TID)) else {
        return (Subject::Node, attributes);
    };
    match find_owner(pid, at) {
        Some(owner) => {
            let subject = match owner.vm_uid {
                Some(uid) => Subject::Vm { uid },
                None if subject_type == SubjectType::NodeOrVm => Subject::Node,
                None => Subject::Process { pid: owner.pid, start_ticks: owner.start_ticks },
            };
            (subject, attributes.with(attribute::PID, owner.pid))
        }
        None if subject_type == SubjectType::NodeOrVm => (Subject::Node, attributes),
        None => (Subject::Process { pid, start_ticks: 0 }, attributes),
    }
}

fn text_of(groups: &Captures<'_>, name: &str) -> Option<String> {
    groups.name(name).map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

/// The name of the libvirt domain whose memory cgroup this is, as systemd's machine knows it: libvirt leaves out characters
/// that a host name may not have. `None` for other cgroups. Source: libvirt `virDomainGenerateMachineName`,
/// `machine-qemu\x2d1\x2ddb\x2d0.scope` for `db-0`.
#[must_use]
pub fn machine_of_cgroup(path: &str) -> Option<String> {
    let scope = path.split('/').find_map(|segment| segment.strip_prefix("machine-")?.strip_suffix(".scope"))?;
    let unescaped = scope.replace("\\x2d", "-");
    let (_run, name) = unescaped.strip_prefix("qemu-")?.split_once('-')?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The UID of the pod whose cgroup this is: `…/pod<uid>/…` of the cgroupfs driver, `…-pod<uid with _>.slice` of systemd's.
/// `None` for other cgroups. Source: kubernetes `pkg/kubelet/cm/{pod_container_manager,cgroup_manager}_linux.go`.
#[must_use]
pub fn pod_of_cgroup(path: &str) -> Option<String> {
    path.split('/').find_map(|segment| {
        let slice = segment.strip_suffix(".slice").unwrap_or(segment);
        let uid = slice.strip_prefix("pod").or_else(|| slice.rsplit_once("-pod").map(|(_, uid)| uid))?;
        let uid = uid.replace('_', "-");
        let is_uid = uid.len() == 36 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        is_uid.then_some(uid)
    })
}

/// The forms of lines that are findings: code, which kernels write it, an example. For the generated docs.
pub fn known_lines() -> impl Iterator<Item = (FindingCode, &'static str, &'static str)> {
    rules::all().filter_map(|rule| match rule.meaning {
        Meaning::Finding(code) => Some((code, rule.source, rule.example)),
        Meaning::OomFacts | Meaning::HungTaskFacts | Meaning::Harmless => None,
    })
}

/// Whether it stays true for the rest of the boot, so that it counts however long ago it was logged.
#[must_use]
pub fn is_lasting(code: FindingCode) -> bool {
    matches!(code, FindingCode::KvmDisabledByFirmware | FindingCode::KvmNotSupported)
}

/// Lines were overwritten before they could be read.
#[must_use]
pub fn lost(at: Moment, n_records: u64) -> OccurrenceVerdict {
    OccurrenceVerdict {
        code: FindingCode::KernelLogLost,
        subject: Subject::Node,
        at,
        count: n_records.max(1),
        attributes: Attributes::new(),
        evidence: vec![Evidence::new(
            SOURCE,
            at,
            format!("{n_records} records were overwritten before they were read"),
        )],
    }
}

/// Adds `verdict` to those of equal code and subject in `merged`: counts add up, the last facts stay, and of the evidence
/// the first and the last.
pub fn merge(merged: &mut Vec<OccurrenceVerdict>, verdict: OccurrenceVerdict) {
    let is_same = |known: &&mut OccurrenceVerdict| known.code == verdict.code && known.subject == verdict.subject;
    let Some(known) = merged.iter_mut().find(is_same) else { return merged.push(verdict) };
    known.count = known.count.saturating_add(verdict.count);
    known.at = known.at.max(verdict.at);
    known.attributes = verdict.attributes;
    known.evidence.truncate(1);
    known.evidence.extend(verdict.evidence.into_iter().last());
}

#[cfg(test)]
mod tests;
