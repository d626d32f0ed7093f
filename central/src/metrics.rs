//! What central counts: every series, in one table.
//!
//! The table makes the fields, the registration and the documentation; a test moves each row and fails for one that cannot
//! be moved. Label values come from closed sets; a node's name is the one exception, and only of nodes that are in trouble.

mod now;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use kulprit_daemon::metrics::ClosedName;

pub use now::Now;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricRow {
    /// Full name as scraped.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label and its values, or empty.
    pub label: &'static str,
    /// What it counts.
    pub meaning: &'static str,
}

macro_rules! label {
    ($name:ident, $key:ident) => {
        /// The one label of a family.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
        pub struct $name {
            /// Its value, of a closed set.
            pub $key: ClosedName,
        }

        impl $name {
            /// With this value.
            #[must_use]
            pub const fn new(value: &'static str) -> Self {
                Self { $key: ClosedName(value) }
            }
        }
    };
}

label!(KindLabel, kind);
label!(OutcomeLabel, outcome);
label!(ReasonLabel, reason);
label!(StatusLabel, status);
label!(EventLabel, event);
label!(SymptomLabel, symptom);
label!(ConfidenceLabel, confidence);
label!(ProbeLabel, probe);

/// A node that is in trouble, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct NodeLabel {
    /// Its name.
    pub node: String,
}

/// What open incidents are cut by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct IncidentLabels {
    /// Class of the root cause.
    pub class: ClosedName,
    /// Id of the root cause.
    pub cause: ClosedName,
    /// `critical` while a VM is touched that does not serve, else `warning`.
    pub severity: ClosedName,
    /// Node where the cause sits; empty where it is not one node's.
    pub node: String,
}

/// Which condition, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    /// Its type, without the prefix.
    pub condition: ClosedName,
    /// `True`, `False` or `Unknown`.
    pub status: ClosedName,
}
label!(CertificateLabel, certificate);

/// Method and gRPC code of an answered question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueryLabels {
    /// Name of the RPC.
    pub method: ClosedName,
    /// gRPC status code.
    pub code: ClosedName,
}

/// What was written to Kubernetes and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// What was written.
    pub what: ClosedName,
    /// What became of it.
    pub outcome: ClosedName,
}

impl WriteLabels {
    /// With these values.
    #[must_use]
    pub const fn new(what: &'static str, outcome: &'static str) -> Self {
        Self { what: ClosedName(what), outcome: ClosedName(outcome) }
    }
}

/// A right of Kubernetes' RBAC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RightLabels {
    /// `list`, `patch` …
    pub verb: ClosedName,
    /// `nodes/status`, `events.events.k8s.io` …
    pub resource: ClosedName,
}

impl RightLabels {
    /// With these values.
    #[must_use]
    pub const fn new(verb: &'static str, resource: &'static str) -> Self {
        Self { verb: ClosedName(verb), resource: ClosedName(resource) }
    }
}

/// A part of central's API and what became of somebody who called it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AccessLabels {
    /// Which part. Not `service`: that is what Prometheus' operator calls where it scrapes.
    pub api: ClosedName,
    /// What became of him.
    pub outcome: ClosedName,
}

impl AccessLabels {
    /// With these values.
    #[must_use]
    pub const fn new(api: &'static str, outcome: &'static str) -> Self {
        Self { api: ClosedName(api), outcome: ClosedName(outcome) }
    }
}

/// Seconds; from a quick fsync to a disk in trouble.
const SECONDS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// A histogram of seconds.
#[derive(Clone, Debug)]
pub struct Seconds(Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(SECONDS))
    }
}

impl Seconds {
    /// Takes in one duration, seconds.
    pub fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

trait Registered: Clone + Send + Sync + 'static {
    type Metric: prometheus_client::registry::Metric;
    fn metric(&self) -> Self::Metric;
    /// Makes each series of `label` known before it counts: to Prometheus one that begins with 1 has not increased.
    fn begin(&self, _label: &'static str) {}
}

/// The values of a label, `outcome: new, duplicate`.
fn values(label: &'static str) -> impl Iterator<Item = &'static str> + Clone {
    label.split_once(": ").into_iter().flat_map(|(_, values)| values.split(", "))
}
macro_rules! counted {
    ($($label:ident),*) => {$(
        impl Registered for Family<$label, Counter> {
            type Metric = Self;
            fn metric(&self) -> Self {
                self.clone()
            }
            fn begin(&self, label: &'static str) {
                values(label).for_each(|value| drop(self.get_or_create(&$label::new(value))));
            }
        }
    )*};
}
counted!(KindLabel, OutcomeLabel, ReasonLabel, EventLabel);
impl Registered for Family<AccessLabels, Counter> {
    type Metric = Self;
    fn metric(&self) -> Self {
        self.clone()
    }
    fn begin(&self, label: &'static str) {
        let Some((apis, outcomes)) = label.split_once("; ") else { return };
        for api in values(apis) {
            values(outcomes).for_each(|outcome| drop(self.get_or_create(&AccessLabels::new(api, outcome))));
        }
    }
}
macro_rules! registered {
    ($($type:ty),*) => {$(
        impl Registered for $type {
            type Metric = Self;
            fn metric(&self) -> Self {
                self.clone()
            }
        }
    )*};
}
registered!(
    Counter,
    Gauge,
    Family<StatusLabel, Gauge>,
    Family<QueryLabels, Counter>,
    Family<ReasonLabel, Gauge>,
    Family<CertificateLabel, Gauge>,
    Family<WriteLabels, Counter>,
    Family<RightLabels, Gauge>,
    Now<SymptomLabel>,
    Now<ConfidenceLabel>,
    Now<ProbeLabel>,
    Now<NodeLabel>,
    Now<IncidentLabels>,
    Now<ConditionLabels>
);
impl Registered for Seconds {
    type Metric = Histogram;
    fn metric(&self) -> Histogram {
        self.0.clone()
    }
}

macro_rules! table {
    ($($field:ident: $type:ty, $kind:literal, $name:literal, $full:literal, $label:literal, $meaning:literal;)*) => {
        /// The series of central; clones share them.
        #[derive(Clone, Debug)]
        pub struct CentralMetrics {
            $(#[doc = $meaning] pub $field: $type,)*
        }

        /// Every series, in the order of the documentation.
        pub const TABLE: &[MetricRow] =
            &[$(MetricRow { name: $full, kind: $kind, label: $label, meaning: $meaning },)*];

        impl CentralMetrics {
            /// Registers all of them in the section `central`.
            pub fn register(registry: &mut Registry) -> Self {
                let metrics = Self { $($field: <$type>::default(),)* };
                $(registry.register($name, $meaning.trim_end_matches('.'), metrics.$field.metric());)*
                $(metrics.$field.begin($label);)*
                metrics
            }
        }
    };
}

table! {
    messages: Family<KindLabel, Counter>, "counter", "messages", "kulprit_central_messages_total",
        "kind: hello, snapshot, record, heartbeat, loss, capture, unknown", "Messages from agents.";
    records: Family<OutcomeLabel, Counter>, "counter", "records", "kulprit_central_records_total",
        "outcome: new, duplicate, unknown, malformed, excess",
        "Records from agents by what became of them; unknown is of a newer agent, malformed of a broken one, excess beyond what is kept of one node: these three do not act.";
    lost_records: Counter, "counter", "lost_records", "kulprit_central_lost_records_total", "",
        "Records that agents had to drop and said so.";
    missing_records: Counter, "counter", "missing_records", "kulprit_central_missing_records_total", "",
        "Records that never came and nobody said why.";
    unkept_records: Counter, "counter", "unkept_records", "kulprit_central_unkept_records_total", "",
        "Records that acted and were left out of the history, since their node had used up its share of it.";
    rests: Counter, "counter", "rests", "kulprit_central_rests_total", "",
        "Times that a stream was not read for a while, since its node had used up its share.";
    unasked_captures: Counter, "counter", "unasked_captures", "kulprit_central_unasked_captures_total", "",
        "Captures that nobody had asked for, not kept.";
    connections: Gauge, "gauge", "connections", "kulprit_central_connections", "", "Connections to the gRPC port now.";
    refused_connections: Family<ReasonLabel, Counter>, "counter", "refused_connections", "kulprit_central_refused_connections_total",
        "reason: whole, address, no_file, silent, unadmitted",
        "Connections to the gRPC port that were closed: too many in all, of one address, or for the files that central may open; or they did not begin to speak HTTP/2 in time, or had no call let in within 30 s.";
    handshakes: Family<OutcomeLabel, Counter>, "counter", "handshakes", "kulprit_central_handshakes_total",
        "outcome: ok, plaintext, old_version, no_certificate, bad_certificate, distrusted, timeout, crowded, closed, other",
        "TLS handshakes; bad_certificate is the client's, distrusted means that the client does not accept ours.";
    certificate_ends: Family<CertificateLabel, Gauge>, "gauge", "certificate_not_after_seconds",
        "kulprit_central_certificate_not_after_seconds", "certificate: server, client_ca",
        "Until when a certificate in use is valid, Unix time; of several the first to end. None without TLS.";
    certificate_changes: Family<OutcomeLabel, Counter>, "counter", "certificate_changes",
        "kulprit_central_certificate_changes_total", "outcome: taken, bad, failed",
        "Certificates taken into use, or not: bad ones, and those that Kubernetes did not give or keep. What was in use stays so.";
    streams: Gauge, "gauge", "streams", "kulprit_central_streams", "", "Agents connected now.";
    stream_ends: Family<ReasonLabel, Counter>, "counter", "stream_ends", "kulprit_central_stream_ends_total",
        "reason: agent, replaced, behind, broken, stopping, credential, oversize, late_hello, no_hello, bad_hello, other_cluster, old_epoch, too_many_nodes, node",
        "Streams that ended; from oversize on those that were refused.";
    access: Family<AccessLabels, Counter>, "counter", "access", "kulprit_central_access_total",
        "api: ingest, query; outcome: let_in, no_token, no_certificate, malformed, expired, audience, unauthenticated, account, node, forbidden, too_much, guesses, busy, cannot_verify",
        "Calls by whether they were let in; guesses: of an address that has shown too many tokens which are nobody's; busy: of a user who has asked too much at once; cannot_verify is no refusal: nobody could be asked.";
    reviews: Family<WriteLabels, Counter>, "counter", "reviews", "kulprit_central_reviews_total",
        "what: token, right, pod; outcome: yes, no, forbidden, gone, conflict, throttled, server, refused, no_answer",
        "Questions to Kubernetes of who somebody is and what he may see; what is remembered is not asked.";
    nodes: Family<StatusLabel, Gauge>, "gauge", "nodes", "kulprit_central_nodes", "status: reporting, silent, missing",
        "Nodes by what is heard of their agents; missing are those of Kubernetes of which no agent has ever reported.";
    silent_nodes: Now<NodeLabel>, "gauge", "silent_node_last_heard_timestamp_seconds",
        "kulprit_central_silent_node_last_heard_timestamp_seconds", "node: only silent ones",
        "When the agent of a node that is silent now was heard last, Unix time; 0: not since this central started.";
    blind_probes: Now<ProbeLabel>, "gauge", "blind_probes", "kulprit_central_blind_probes", "probe: of the catalogue",
        "Nodes that report and where this probe cannot look.";
    unknown_since: Now<ProbeLabel>, "gauge", "unknown_since_timestamp_seconds", "kulprit_central_unknown_since_timestamp_seconds",
        "probe: of the catalogue, only those with something unknown",
        "Since when the oldest state of a probe is unknown on a node that reports, Unix time.";
    states: Family<StatusLabel, Gauge>, "gauge", "states", "kulprit_central_states", "status: present, absent, unknown",
        "States of all nodes.";
    watches: Family<StatusLabel, Gauge>, "gauge", "watches", "kulprit_central_watches", "status: coming, seen, lost, refused, not_served",
        "Parts of Kubernetes that are watched, by what is known of them; none without Kubernetes.";
    leading: Gauge, "gauge", "leading", "kulprit_central_leading", "",
        "1 while this central holds the Lease and writes to Kubernetes.";
    standby_refusals: Counter, "counter", "standby_refusals", "kulprit_central_standby_refusals_total", "",
        "Streams and questions refused since another central leads.";
    writes: Family<WriteLabels, Counter>, "counter", "writes", "kulprit_central_writes_total",
        "what: conditions, taints, events; outcome: ok, conflict, forbidden, gone, no_answer, refused, server, throttled",
        "Writes to Kubernetes; of events, conflict is one that was there already.";
    taints_withheld: Family<ReasonLabel, Gauge>, "gauge", "taints_withheld", "kulprit_central_taints_withheld",
        "reason: waits, taken, budget, breaker", "Taints that are wanted and not set.";
    tainted_nodes: Gauge, "gauge", "tainted_nodes", "kulprit_central_tainted_nodes", "", "Nodes that have a taint of ours.";
    node_conditions: Now<ConditionLabels>, "gauge", "node_conditions", "kulprit_central_node_conditions",
        "condition, status: True, False, Unknown", "Nodes of Kubernetes by what each condition comes to, written or not.";
    store_waiting: Gauge, "gauge", "store_waiting_records", "kulprit_central_store_waiting_records", "",
        "Rows that were taken in and are not durable yet; their agents wait for the ack.";
    events_waiting: Gauge, "gauge", "events_waiting", "kulprit_central_events_waiting", "",
        "Events that wait for budget: so much was said of their objects, or of all.";
    events_dropped: Family<ReasonLabel, Counter>, "counter", "events_dropped", "kulprit_central_events_dropped_total",
        "reason: budget, refused", "Events that were never written: what they say was over before there was budget, or Kubernetes did not take them.";
    rights_missing: Family<RightLabels, Gauge>, "gauge", "rights_missing", "kulprit_central_rights_missing",
        "verb, resource: of the rights that central uses", "1 while Kubernetes refuses a request for want of that right, 0 once it was granted.";
    store_commits: Counter, "counter", "store_commits", "kulprit_central_store_commits_total", "", "Groups made durable.";
    store_commit_seconds: Seconds, "histogram", "store_commit_seconds", "kulprit_central_store_commit_seconds", "",
        "How long a group took to become durable, retries included.";
    store_records: Counter, "counter", "store_records", "kulprit_central_store_records_total", "",
        "Records added to the history.";
    store_failures: Counter, "counter", "store_failures", "kulprit_central_store_failures_total", "",
        "Commits that failed and were tried again.";
    store_waits_seconds: Gauge, "gauge", "store_waits_seconds", "kulprit_central_store_waits_seconds", "",
        "How long the commit that is under way has been so, seconds; 0 for none. Grows while the disk is full or hangs.";
    store_dropped_days: Counter, "counter", "store_dropped_days", "kulprit_central_store_dropped_days_total", "",
        "Days of history dropped by retention.";
    diagnosis_passes: Counter, "counter", "diagnosis_passes", "kulprit_central_diagnosis_passes_total", "",
        "Times that everything was diagnosed.";
    diagnosis_seconds: Seconds, "histogram", "diagnosis_seconds", "kulprit_central_diagnosis_seconds", "",
        "How long one pass took.";
    symptoms: Now<SymptomLabel>, "gauge", "symptoms", "kulprit_central_symptoms", "symptom: id of the catalogue",
        "Symptoms that VMs and nodes show now.";
    verdicts: Now<ConfidenceLabel>, "gauge", "verdicts", "kulprit_central_verdicts", "confidence: verdict, suspected, unexplained",
        "The same by how sure the first cause is: 0.6 or more, 0.3 to 0.6, less.";
    incidents_open: Now<IncidentLabels>, "gauge", "incidents_open", "kulprit_central_incidents_open",
        "class, cause, severity: critical, warning; node",
        "Incidents open now; critical while a VM is touched that does not serve. Beyond 1,000 series nodes are left out.";
    incident_probability: Now<IncidentLabels>, "gauge", "incident_probability", "kulprit_central_incident_probability",
        "class, cause, severity: critical, warning; node", "The highest probability that such an incident's cause reached, 0 to 1.";
    incident_events: Family<EventLabel, Counter>, "counter", "incident_events", "kulprit_central_incident_events_total",
        "event: opened, reopened, closed, cause_changed, merged, member_joined, member_ended",
        "What happened to incidents.";
    queries: Family<QueryLabels, Counter>, "counter", "queries", "kulprit_central_queries_total",
        "method, code: of the RPC", "Questions answered; a watch counts when it begins.";
    watchers: Gauge, "gauge", "watchers", "kulprit_central_watchers", "", "Clients that watch incidents now.";
}

/// The table as a part of docs/metrics.md.
#[must_use]
pub fn metrics_markdown() -> String {
    let mut text = String::from("| series | kind | label | meaning |\n|---|---|---|---|\n");
    for MetricRow { name, kind, label, meaning } in TABLE {
        text.push_str(&format!("| `{name}` | {kind} | {label} | {meaning} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use kulprit_daemon::{Clock, metrics::Metrics};

    use super::*;

    #[test]
    fn every_row_is_registered_under_the_name_it_documents() {
        let mut metrics = Metrics::new("kulprit-central", "0", &Clock::kernel());
        let central = CentralMetrics::register(metrics.section("central"));
        // A family without a value is not shown.
        central.messages.get_or_create(&KindLabel::new("x")).inc();
        central.records.get_or_create(&OutcomeLabel::new("x")).inc();
        central.refused_connections.get_or_create(&ReasonLabel::new("x")).inc();
        central.handshakes.get_or_create(&OutcomeLabel::new("x")).inc();
        central.certificate_ends.get_or_create(&CertificateLabel::new("x")).inc();
        central.certificate_changes.get_or_create(&OutcomeLabel::new("x")).inc();
        central.stream_ends.get_or_create(&ReasonLabel::new("x")).inc();
        central.nodes.get_or_create(&StatusLabel::new("x")).inc();
        central.states.get_or_create(&StatusLabel::new("x")).inc();
        central.watches.get_or_create(&StatusLabel::new("x")).inc();
        central.access.get_or_create(&AccessLabels::new("query", "let_in")).inc();
        central.reviews.get_or_create(&WriteLabels::new("x", "yes")).inc();
        central.writes.get_or_create(&WriteLabels::new("x", "ok")).inc();
        central.taints_withheld.get_or_create(&ReasonLabel::new("x")).inc();
        central.events_dropped.get_or_create(&ReasonLabel::new("x")).inc();
        central.rights_missing.get_or_create(&RightLabels::new("list", "x")).inc();
        central.incident_events.get_or_create(&EventLabel::new("x")).inc();
        central.queries.get_or_create(&QueryLabels { method: ClosedName("x"), code: ClosedName("ok") }).inc();
        central.symptoms.replace([(SymptomLabel::new("x"), 2.0)].into());
        central.symptoms.replace([(SymptomLabel::new("y"), 1.0)].into());
        let text = metrics.encode();
        for row in TABLE {
            let family = row.name.trim_end_matches("_total");
            assert!(text.contains(&format!("# TYPE {family} {}\n", row.kind)), "{} is not registered", row.name);
        }
        assert!(
            text.contains("\nkulprit_central_symptoms{symptom=\"y\"} 1.0\n") && !text.contains("symptom=\"x\""),
            "{text}"
        );
        let n_registered = text.lines().filter(|line| line.starts_with("# TYPE kulprit_central_")).count();
        assert_eq!(n_registered, TABLE.len(), "{text}");
    }

    #[test]
    fn no_label_is_one_that_prometheus_gives_to_whom_it_scrapes() {
        // By the Prometheus operator; a series' own label of that name becomes `exported_…`, and no rule finds it.
        const TAKEN: [&str; 7] = ["container", "endpoint", "instance", "job", "namespace", "pod", "service"];
        for row in TABLE {
            let labels = row.label.split(';').map(|label| label.split(':').next().unwrap_or_default());
            let names = labels.flat_map(|names| names.split(',')).map(str::trim);
            assert!(names.clone().all(|name| !TAKEN.contains(&name)), "{}: {}", row.name, row.label);
        }
    }

    #[test]
    fn what_alerts_count_from_its_first_time_on_is_there_before() {
        let mut metrics = Metrics::new("kulprit-central", "0", &Clock::kernel());
        CentralMetrics::register(metrics.section("central"));
        let text = metrics.encode();
        for series in [
            "access_total{api=\"ingest\",outcome=\"node\"} 0",
            "access_total{api=\"query\",outcome=\"cannot_verify\"} 0",
            "stream_ends_total{reason=\"other_cluster\"} 0",
            "records_total{outcome=\"excess\"} 0",
            "refused_connections_total{reason=\"address\"} 0",
        ] {
            assert!(text.contains(&format!("kulprit_central_{series}\n")), "{series}: {text}");
        }
    }

    #[test]
    fn the_documentation_has_one_line_a_row() {
        assert_eq!(metrics_markdown().lines().count(), TABLE.len() + 2);
    }
}
