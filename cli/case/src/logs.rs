//! Logs of a case: kernel, units, pods, QEMU and libvirt, streamed line by line into findings.
//!
//! Lines of the kernel, whichever file they stand in, go through the kernel's rules; every other line through the signatures,
//! and becomes an [`FindingCode::ErrorSaid`] of the node, with what the file tells of its pod or VM. Equal ones are one
//! occurrence with its first and last time. A line without a time counts as inside the window and carries `undated`.
//! virt-launcher's migration lines are kept and judged together with what `virsh domjobinfo` shows of the same VM.

mod wanted;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use kulprit_host::command::job::{JobInfo, parse_migration_info};
use kulprit_host::log::{Clock, Line, LogReader, audit_usec};
use kulprit_judge::kernel_log::{KernelLog, TaskOwner, is_lasting};
use kulprit_judge::migration::{self, Sample};
use kulprit_judge::network;
use kulprit_judge::said::{self, Heard, Statements, vm_of_line, vm_of_source};
use kulprit_judge::{OccurrenceVerdict, Verdict};
use kulprit_model::said::operation;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};
use kulprit_signature::{Signatures, Speaker};

use crate::gathered::{Gathered, Problem, Span};
pub use kulprit_judge::said::LogSource;
use wanted::{Kernel, Wanted};

/// How far back a line matters: CASES, "the window".
const WINDOW_USEC: i64 = 86_400 * 1_000_000;
/// Logs are collected after the moment of asking: so much later a line still counts.
const AFTER_USEC: i64 = 60 * 1_000_000;
/// Samples of one VM's migrations that are kept: a day of one every 4 s.
const MAX_SAMPLES: usize = 21_600;
/// Losses of carriers that are kept of one log, the first ones.
const MAX_LOSSES: usize = 100_000;
/// Lines without a rule that are kept for people.
const MAX_KEPT: usize = 40;
/// Different statements of one log.
const MAX_OF_LOG: usize = 5_000;
/// Different statements of all logs together: with two lines of evidence each about 60 MB.
const MAX_OF_CASE: usize = 40_000;
/// One log may take such a part of what is left, so that a talkative one leaves room for the others.
const SHARE: usize = 4;
/// Between systemd's line and the kubelet's own of one start.
const SAME_START_USEC: i64 = 10_000_000;

/// What is compiled once for all files, and what several files tell together.
#[derive(Debug)]
pub struct Readers {
    signatures: Signatures,
    wanted: Wanted,
    /// Samples of migrations by VM.
    samples: BTreeMap<String, Vec<Sample>>,
    /// When the last of a VM's migrations ended, where its launcher says so.
    ended: BTreeMap<String, Moment>,
    /// Different statements of logs that were kept so far.
    n_said: usize,
    /// Names that a line must mention to be kept although no rule knows it: the subject's.
    mentions: Vec<String>,
}

impl Default for Readers {
    fn default() -> Self {
        Self::new()
    }
}

impl Readers {
    /// Readers for a case that names nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::mentioning(Vec::new())
    }

    /// Readers that keep lines of trouble which mention one of these names, although no rule knows them.
    #[must_use]
    pub fn mentioning(mentions: Vec<String>) -> Self {
        let wanted = Wanted::new(&mentions);
        Self {
            signatures: Signatures::new(),
            wanted,
            samples: BTreeMap::new(),
            ended: BTreeMap::new(),
            n_said: 0,
            mentions,
        }
    }

    /// The table of signatures.
    #[must_use]
    pub const fn signatures(&self) -> &Signatures {
        &self.signatures
    }

    /// Adds a sample of a VM's migration.
    pub(crate) fn add_sample(&mut self, vm: &str, at: Moment, job: JobInfo, source: &'static str) {
        let samples = self.samples.entry(vm.to_owned()).or_default();
        if samples.len() < MAX_SAMPLES {
            samples.push(Sample { at, job, source, is_round_begin: false });
        }
    }

    /// Judges all samples of a VM anew, in place of what was said of fewer.
    pub(crate) fn judge_migration(&self, vm: &str, out: &mut Gathered) {
        let subject = Subject::vm(vm);
        let Some(samples) = self.samples.get(vm) else { return };
        let last = samples.iter().map(|sample| sample.at).max();
        let verdicts = match self.ended.get(vm).filter(|ended| Some(**ended) >= last) {
            Some(ended) => migration::judge_ended(&subject, samples, *ended),
            None => migration::judge(&subject, samples),
        };
        let is_earlier = |verdict: &Verdict| match verdict {
            Verdict::State(state) => state.subject == subject && verdicts.iter().any(|new| is_state(new, state.code)),
            Verdict::Occurrence(of) => of.subject == subject && of.code == FindingCode::MigrationNotCompleted,
        };
        out.verdicts.retain(|verdict| !is_earlier(verdict));
        if !verdicts.is_empty() {
            out.looked.insert("migration");
        }
        out.verdicts.extend(verdicts);
    }
}

fn is_state(verdict: &Verdict, code: FindingCode) -> bool {
    matches!(verdict, Verdict::State(state) if state.code == code)
}

/// The moment of a wall time on the node's clocks.
#[must_use]
pub fn moment(clock: Clock, wall_usec: i64) -> Moment {
    Moment { wall_usec, boottime_usec: wall_usec.saturating_sub(clock.btime_usec.unwrap_or(0)) }
}

/// One log, while it is read.
struct Reading<'a> {
    source: &'a LogSource,
    clock: Clock,
    signatures: &'a Signatures,
    mentions: &'a [String],
    kernel: Option<KernelLog>,
    /// Devices that lost their carrier, and when.
    losses: Vec<(String, Moment)>,
    owners: BTreeMap<u32, TaskOwner>,
    said: Statements,
    samples: Vec<(Option<String>, Moment, JobInfo)>,
    /// When a launcher said last that its migration failed.
    ended: Option<Moment>,
    kept: Vec<Evidence>,
    /// The VM that a launcher's log names.
    vm: Option<String>,
    last_start_usec: Option<i64>,
}

/// Reads a log into `out`. What cannot be read to its end is a problem; what was read before counts.
pub fn read_log(
    input: impl BufRead,
    file: &Path,
    source: &LogSource,
    clock: Clock,
    readers: &mut Readers,
    out: &mut Gathered,
) {
    let owners = out.qemus.iter().map(|qemu| {
        (qemu.pid, TaskOwner { pid: qemu.pid, start_ticks: qemu.start_ticks, vm_uid: Some(qemu.uid.clone()) })
    });
    let mut reading = Reading {
        source,
        clock,
        signatures: &readers.signatures,
        mentions: &readers.mentions,
        kernel: None,
        losses: Vec::new(),
        owners: owners.collect(),
        said: Statements::new(MAX_OF_LOG.min(MAX_OF_CASE.saturating_sub(readers.n_said) / SHARE)),
        samples: Vec::new(),
        ended: None,
        kept: Vec::new(),
        vm: None,
        last_start_usec: None,
    };
    let mut reader = LogReader::new(clock);
    let kernel = match source {
        LogSource::Kernel | LogSource::Command(_) => Kernel::Everywhere,
        LogSource::Unit(_) => Kernel::Named,
        LogSource::Pod { .. } | LogSource::Libvirt { .. } | LogSource::Qemu { .. } => Kernel::Nowhere,
    };
    let find = |bytes: &[u8]| readers.wanted.find(bytes, kernel);
    let result = reader.read(input, find, |line| reading.take(line));
    let span = reader.span();
    let problem = |line, why: String| Problem { file: file.to_owned(), line, why };
    if let Err(error) = result {
        out.problems.push(problem(Some(span.n_lines), format!("cannot be read further: {error}")));
    }
    if span.n_cut_lines > 0 {
        let why = format!(
            "{} lines are longer than 64 KiB, {} bytes of them were left out",
            span.n_cut_lines, span.n_cut_bytes
        );
        out.problems.push(problem(None, why));
    }
    let Reading { kernel, losses, mut said, samples, ended, kept, vm, .. } = reading;
    let vm = vm.or_else(|| vm_of_source(source));
    if let Some(mut kernel) = kernel {
        let mut rest = Vec::new();
        kernel.flush(&mut rest);
        rest.into_iter().for_each(|verdict| said.add(verdict));
    }
    out.verdicts.extend(network::judge_logged(moment(clock, clock.at_usec), &losses));
    let probe = if *source == LogSource::Kernel { "kernel-log" } else { "text" };
    out.looked.insert(probe);
    if let (Some(from_usec), Some(until_usec)) = (span.first_usec, span.last_usec) {
        out.spans.push(Span { probe, file: file.to_owned(), from_usec, until_usec });
    }
    readers.n_said += said.len();
    out.verdicts.extend(said.into_verdicts(|attributes| with_vm(attributes, vm.as_deref())).map(Verdict::Occurrence));
    out.kept.extend(kept.into_iter().take(MAX_KEPT.saturating_sub(out.kept.len())));
    let mut sampled = Vec::new();
    for (name, at, job) in samples {
        let Some(name) = name.or_else(|| vm.clone()) else { continue };
        readers.add_sample(&name, at, job, "launcher");
        readers.ended.extend(ended.map(|ended| (name.clone(), ended)));
        if !sampled.contains(&name) {
            sampled.push(name);
        }
    }
    for name in sampled {
        readers.judge_migration(&name, out);
    }
}

/// What the log as a whole tells of its VM, where the line does not.
fn with_vm(attributes: Attributes, vm: Option<&str>) -> Attributes {
    match (attributes.get(attribute::VMI), vm) {
        (None, Some(vm)) => attributes.with(attribute::VMI, vm),
        _ => attributes,
    }
}

/// What systemd calls the services that are or carry a kubelet: upstream's packages, OpenShift, k3s, RKE2.
const KUBELETS: [(&str, &str); 5] = [
    ("Kubernetes Node Agent", "kubelet"),
    ("Kubernetes Kubelet", "kubelet"),
    ("Lightweight Kubernetes", "k3s"),
    ("Rancher Kubernetes Engine v2 (agent)", "rke2-agent"),
    ("Rancher Kubernetes Engine v2 (server)", "rke2-server"),
];

impl Reading<'_> {
    fn take(&mut self, line: &Line<'_>) {
        // libvirt dates the start of a QEMU; what QEMU writes below without a date of its own came any time after.
        let is_after_start = line.is_continuation && matches!(self.source, LogSource::Qemu { .. });
        let stamp_usec = line.stamp_usec.filter(|_| !is_after_start).or_else(|| audit_usec(&line.text));
        let is_dated = stamp_usec.is_some();
        let wall_usec = stamp_usec.unwrap_or(self.clock.at_usec);
        let at = moment(self.clock, wall_usec);
        let is_in_window = (self.clock.at_usec.saturating_sub(WINDOW_USEC)
            ..=self.clock.at_usec.saturating_add(AFTER_USEC))
            .contains(&wall_usec);
        if self.is_kernels(line) {
            self.take_kernel(at, line, is_dated, is_in_window);
            return;
        }
        if !is_in_window {
            return;
        }
        self.learn_vm(line);
        if let Some(job) = parse_migration_info(&line.text) {
            if self.samples.len() < MAX_SAMPLES {
                self.samples.push((vm_of_line(line), at, job));
            }
            return;
        }
        self.take_start(at, line);
        match said::hear(self.signatures, self.source, line, at, is_dated) {
            Heard::Nothing => self.keep(at, line),
            Heard::Harmless => {}
            Heard::Error(verdict) => {
                let is_of_migration = verdict.attributes.get(attribute::OPERATION) == Some(operation::MIGRATE);
                if is_of_migration && matches!(self.source, LogSource::Pod { speaker: Speaker::Launcher, .. }) {
                    self.ended = Some(at);
                }
                self.said.add(verdict);
            }
        }
    }

    /// Unknown lines of trouble that name the subject are for people to read.
    fn keep(&mut self, at: Moment, line: &Line<'_>) {
        let is_trouble = line.priority.is_some_and(|priority| priority <= 4);
        if is_trouble && self.kept.len() < MAX_KEPT && self.mentions.iter().any(|name| line.raw.contains(name.as_str()))
        {
            self.kept.push(Evidence::new(&said::source_name(self.source, line), at, line.text.trim()));
        }
    }

    fn is_kernels(&self, line: &Line<'_>) -> bool {
        match self.source {
            LogSource::Kernel => line.is_kernel != Some(false),
            LogSource::Unit(_) => line.is_kernel == Some(true) || audit_usec(&line.text).is_some(),
            // dmesg pasted into a file: the form tells, its stamp is since boot.
            LogSource::Command(name) => {
                line.is_kernel == Some(true)
                    || (line.is_kernel.is_none() && name.contains("dmesg"))
                    || audit_usec(&line.text).is_some()
            }
            LogSource::Pod { .. } | LogSource::Libvirt { .. } | LogSource::Qemu { .. } => false,
        }
    }

    fn take_kernel(&mut self, at: Moment, line: &Line<'_>, is_dated: bool, is_in_window: bool) {
        let kernel = self.kernel.get_or_insert_with(KernelLog::new);
        let mut found = Vec::new();
        let owners = &self.owners;
        kernel.read_line(at, &line.text, &|pid, _| owners.get(&pid).cloned(), &mut found);
        for mut verdict in found {
            if !is_dated {
                verdict.attributes = verdict.attributes.with(attribute::UNDATED, true);
            }
            if let (FindingCode::NetworkLinkDown, Subject::Device { name }) = (verdict.code, &verdict.subject)
                && is_dated
                && is_in_window
                && self.losses.len() < MAX_LOSSES
            {
                self.losses.push((name.clone(), verdict.at));
            }
            if is_in_window || is_lasting(verdict.code) {
                self.said.add(verdict);
            }
        }
    }

    /// A start of the kubelet, by systemd's line or its own.
    fn take_start(&mut self, at: Moment, line: &Line<'_>) {
        let ident = line.ident.as_deref().unwrap_or_default();
        let by_systemd = ident == "systemd" && line.text.starts_with("Started ");
        let unit = ["kubelet", "k3s-agent", "k3s", "rke2-agent", "rke2-server"]
            .into_iter()
            .find(|unit| by_systemd && line.text.contains(&format!("{unit}.service")))
            .or_else(|| {
                let named = KUBELETS.into_iter().find(|(name, _)| by_systemd && line.text.contains(name));
                named.map(|(_, unit)| unit)
            })
            .or_else(|| {
                let says_so = ["Kubelet version", "Started kubelet"].iter().any(|text| line.text.contains(text));
                (ident == "kubelet" && says_so).then_some("kubelet")
            });
        let Some(unit) = unit else { return };
        if self.last_start_usec.is_some_and(|last| (at.wall_usec - last).abs() < SAME_START_USEC) {
            return;
        }
        self.last_start_usec = Some(at.wall_usec);
        self.said.add(OccurrenceVerdict {
            code: FindingCode::KubeletRestarted,
            subject: Subject::unit(format!("{unit}.service")),
            at,
            count: 1,
            attributes: Attributes::new(),
            evidence: vec![Evidence::new(&said::source_name(self.source, line), at, line.text.trim())],
        });
    }

    fn learn_vm(&mut self, line: &Line<'_>) {
        if self.vm.is_none() && matches!(self.source, LogSource::Pod { speaker: Speaker::Launcher, .. }) {
            self.vm = vm_of_line(line);
        }
    }
}

#[cfg(test)]
mod tests;
