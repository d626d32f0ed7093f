//! The agent's series, one table for code and docs.
//!
//! Label values come from closed sets: probes, finding codes, outcomes. VM names and error texts never are labels. Values that
//! others keep anyway (spool, probe counters) are read when somebody asks.

use std::{collections::BTreeMap, fmt, fmt::Write as _, sync::Arc};

use kulprit_daemon::metrics::{ClosedName, Metrics};
use kulprit_model::{
    Moment, State, Status,
    catalogue::{CATALOGUE, Kind},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Unit,
};
use tokio::sync::watch;

use crate::{
    look::Look,
    probes::ProbeCounters,
    spool::SpoolStatus,
    tracker::{Counts, Tracker},
};

/// One documented series.
#[derive(Clone, Copy, Debug)]
pub struct SeriesDoc {
    /// Its name as Prometheus sees it.
    pub name: &'static str,
    /// Its labels, or empty.
    pub labels: &'static str,
    /// What it counts or shows, one sentence.
    pub meaning: &'static str,
}

const fn doc(name: &'static str, labels: &'static str, meaning: &'static str) -> SeriesDoc {
    SeriesDoc { name, labels, meaning }
}

/// Every series of the agent; those of any process (`process_*`, `kulprit_build_info`, `kulprit_task_*`) come besides.
pub const SERIES: &[SeriesDoc] = &[
    doc("kulprit_probe_looks_total", "probe, outcome", "Looks taken; outcome is ok or blind."),
    doc("kulprit_probe_look_seconds_total", "probe", "Time spent looking; divide by looks for the mean."),
    doc("kulprit_probe_last_success_timestamp_seconds", "probe", "When the probe last saw something, Unix time."),
    doc("kulprit_probe_ends_total", "probe", "Ends of the probe's task by panic or error; it starts again."),
    doc(
        "kulprit_probe_errors_total",
        "",
        "Things a probe could not read or understand while the rest of its look was good.",
    ),
    doc("kulprit_probe_kernel_log_records_total", "", "Kernel log records read."),
    doc("kulprit_probe_worker_starts_total", "", "Starts of the libvirt worker, the first included."),
    doc("kulprit_probe_bus_connects_total", "", "Connections to the system bus, the first included."),
    doc("kulprit_finding_subjects", "code, status", "Subjects for which a state is present or unknown."),
    doc("kulprit_finding_edges_total", "", "Changes of a status."),
    doc("kulprit_finding_edges_coalesced_total", "", "Changes overtaken by the next one before they were sent."),
    doc("kulprit_finding_occurrences_total", "", "Occurrences, bursts counted out."),
    doc("kulprit_finding_refused_total", "", "Verdicts the catalogue forbids: a bug of a probe."),
    doc("kulprit_spool_records_total", "", "Records made durable since the start."),
    doc("kulprit_spool_waiting_records", "", "Records that central has not acked."),
    doc("kulprit_spool_size_bytes", "", "Bytes of the spool."),
    doc("kulprit_spool_lost_records_total", "", "Records dropped because the spool was full."),
    doc("kulprit_spool_damaged_frames_total", "", "Frames of the spool that could not be read back."),
    doc(
        "kulprit_spool_commits_total",
        "",
        "Writes to the spool made durable; each holds what gathered during the one before.",
    ),
    doc("kulprit_spool_commit_seconds_total", "", "Time spent making them durable."),
    doc("kulprit_spool_durable", "", "1 while what is spooled survives a crash, 0 while it is in memory only."),
    doc("kulprit_uplink_connected", "", "1 while central has our stream."),
    doc("kulprit_uplink_connects_total", "", "Streams that central accepted."),
    doc("kulprit_uplink_failures_total", "", "Streams that failed or could not be opened."),
    doc("kulprit_uplink_sent_records_total", "", "Records sent, repetitions included."),
    doc("kulprit_uplink_acks_total", "", "Acks received."),
    doc(
        "kulprit_config_reads_total",
        "outcome",
        "Times the changed configuration file was read; outcome is taken, or refused: then the last good one stays.",
    ),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookLabels {
    probe: ClosedName,
    outcome: ClosedName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    probe: ClosedName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: ClosedName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabels {
    code: ClosedName,
    status: ClosedName,
}

/// The series that are moved by events. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct AgentMetrics {
    looks: Family<LookLabels, Counter>,
    look_seconds: Family<ProbeLabels, Counter<f64, std::sync::atomic::AtomicU64>>,
    last_success: Family<ProbeLabels, Gauge>,
    probe_ends: Family<ProbeLabels, Counter>,
    subjects: Family<FindingLabels, Gauge>,
    edges: Counter,
    edges_coalesced: Counter,
    occurrences: Counter,
    refused: Counter,
    is_connected: Gauge,
    connects: Counter,
    failures: Counter,
    sent: Counter,
    acks: Counter,
    config_reads: Family<OutcomeLabels, Counter>,
}

impl AgentMetrics {
    /// Makes the series known.
    pub fn register(&self, metrics: &mut Metrics) {
        let probe = metrics.section("probe");
        probe.register("looks", "Looks taken", self.looks.clone());
        probe.register_with_unit("look", "Time spent looking", Unit::Seconds, self.look_seconds.clone());
        let help = "When the probe last saw something, Unix time";
        probe.register_with_unit("last_success_timestamp", help, Unit::Seconds, self.last_success.clone());
        probe.register("ends", "Ends of the probe's task by panic or error", self.probe_ends.clone());
        let finding = metrics.section("finding");
        finding.register("subjects", "Subjects for which a state is present or unknown", self.subjects.clone());
        finding.register("edges", "Changes of a status", self.edges.clone());
        finding.register("edges_coalesced", "Changes overtaken before they were sent", self.edges_coalesced.clone());
        finding.register("occurrences", "Occurrences, bursts counted out", self.occurrences.clone());
        finding.register("refused", "Verdicts the catalogue forbids", self.refused.clone());
        let uplink = metrics.section("uplink");
        uplink.register("connected", "1 while central has our stream", self.is_connected.clone());
        uplink.register("connects", "Streams that central accepted", self.connects.clone());
        uplink.register("failures", "Streams that failed or could not be opened", self.failures.clone());
        uplink.register("sent_records", "Records sent, repetitions included", self.sent.clone());
        uplink.register("acks", "Acks received", self.acks.clone());
        let config = metrics.section("config");
        config.register("reads", "Times the changed configuration file was read", self.config_reads.clone());
        self.count_subjects(std::iter::empty());
        let _ = (self.config_reads(true), self.config_reads(false));
    }

    fn subjects(&self, code: &'static str, status: Status) -> Gauge {
        let labels = FindingLabels { code: ClosedName(code), status: ClosedName(status.as_str()) };
        self.subjects.get_or_create(&labels).clone()
    }

    /// A probe handed over a look.
    pub fn looked(&self, look: &Look) {
        let probe = ClosedName(look.probe);
        let outcome = ClosedName(if look.blind_because.is_some() { "blind" } else { "ok" });
        self.looks.get_or_create(&LookLabels { probe, outcome }).inc();
        self.look_seconds.get_or_create(&ProbeLabels { probe }).inc_by(seconds(look.took_usec));
        if look.blind_because.is_none() {
            let Moment { wall_usec, .. } = look.at;
            self.last_success.get_or_create(&ProbeLabels { probe }).set(wall_usec / 1_000_000);
        }
    }

    /// A probe's task ended too early.
    pub fn probe_ended(&self, probe: &'static str) {
        self.probe_ends.get_or_create(&ProbeLabels { probe: ClosedName(probe) }).inc();
    }

    /// The tracker has worked; `counted` is what was counted before.
    pub fn tracked(&self, tracker: &Tracker, counted: &mut Counts) {
        let counts = tracker.counts();
        if counts == *counted {
            return;
        }
        self.edges.inc_by(counts.edges - counted.edges);
        self.edges_coalesced.inc_by(counts.edges_coalesced - counted.edges_coalesced);
        self.occurrences.inc_by(counts.occurrences - counted.occurrences);
        self.refused.inc_by(counts.verdicts_refused - counted.verdicts_refused);
        *counted = counts;
        self.count_subjects(tracker.states());
    }

    fn count_subjects<'a>(&self, states: impl Iterator<Item = &'a State>) {
        let mut n_subjects: BTreeMap<(&'static str, Status), i64> = BTreeMap::new();
        for state in states.filter(|state| state.status != Status::Absent) {
            *n_subjects.entry((state.code.as_str(), state.status)).or_default() += 1;
        }
        for spec in CATALOGUE.iter().filter(|spec| spec.kind == Kind::State) {
            for status in [Status::Present, Status::Unknown] {
                let code = spec.code.as_str();
                self.subjects(code, status).set(n_subjects.get(&(code, status)).copied().unwrap_or(0));
            }
        }
    }

    /// The configuration's file changed and was read; it was taken, or refused.
    pub fn config_read(&self, is_taken: bool) {
        self.config_reads.get_or_create(&outcome_of_config(is_taken)).inc();
    }

    /// How often it was.
    pub(crate) fn config_reads(&self, is_taken: bool) -> u64 {
        self.config_reads.get_or_create(&outcome_of_config(is_taken)).get()
    }

    /// Central accepted a stream.
    pub fn connected(&self) {
        self.connects.inc();
        self.is_connected.set(1);
    }

    /// A stream ended or could not be opened.
    pub fn disconnected(&self) {
        self.failures.inc();
        self.is_connected.set(0);
    }

    /// A record went out.
    pub fn sent(&self) {
        self.sent.inc();
    }

    /// An ack came in.
    pub fn acked(&self) {
        self.acks.inc();
    }
}

const fn outcome_of_config(is_taken: bool) -> OutcomeLabels {
    OutcomeLabels { outcome: ClosedName(if is_taken { "taken" } else { "refused" }) }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a process's life fit 53 bits")]
const fn seconds(usec: u64) -> f64 {
    usec as f64 / 1e6
}

/// The spool's series, read when somebody asks.
#[derive(Debug)]
pub struct SpoolSeries(pub watch::Receiver<SpoolStatus>);

/// The series of what the probes count, read when somebody asks.
#[derive(Debug)]
pub struct ProbeSeries(pub Arc<ProbeCounters>);

impl SpoolSeries {
    /// Makes the series known.
    pub fn register(self, metrics: &mut Metrics) {
        metrics.section("spool").register_collector(Box::new(self));
    }
}

impl ProbeSeries {
    /// Makes the series known.
    pub fn register(self, metrics: &mut Metrics) {
        metrics.section("probe").register_collector(Box::new(self));
    }
}

impl Collector for SpoolSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = *self.0.borrow();
        for (name, help, value) in [
            ("records", "Records made durable since the start", status.last_seq),
            ("lost_records", "Records dropped because the spool was full", status.n_lost),
            ("damaged_frames", "Frames that could not be read back", status.n_damaged),
            ("commits", "Writes to the spool made durable", status.n_commits),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Time spent making them durable";
        let descriptor = encoder.encode_descriptor("commit", help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(seconds(status.commit_usec)).encode(descriptor)?;
        for (name, help, value) in [
            ("waiting_records", "Records that central has not acked", status.n_waiting),
            ("size_bytes", "Bytes of the spool", status.bytes),
            ("durable", "1 while what is spooled survives a crash", u64::from(status.is_durable)),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

impl Collector for ProbeSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.read();
        for (name, help, value) in [
            ("errors", "Things a probe could not read or understand", counts.errors),
            ("kernel_log_records", "Kernel log records read", counts.kernel_log_records),
            ("worker_starts", "Starts of the libvirt worker", counts.worker_starts),
            ("bus_connects", "Connections to the system bus", counts.bus_connects),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

/// The table of series for the docs.
#[must_use]
pub fn metrics_markdown() -> String {
    let mut text = String::from("| series | labels | meaning |\n|---|---|---|\n");
    for SeriesDoc { name, labels, meaning } in SERIES {
        writeln!(text, "| `{name}` | {labels} | {meaning} |").expect("writing to a String does not fail");
    }
    text
}

#[cfg(test)]
mod tests;
