//! `deploy/alerts/kulprit.yaml`: an alert for each cause of the catalogue, alerts on Kulprit itself, and recording rules.
//!
//! Generated, so that a new cause brings its alert and every alert leads to its section of the docs. The series are those of
//! [`crate::metrics`] and of the agent; a test compares every name with docs/metrics.md, and promtool checks the whole.

use std::fmt::Write as _;

use kulprit_diagnosis::{
    CAUSES, Cause,
    catalogue::{Class, Step},
};

/// Where the docs are read.
const DOCS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs");
/// How long an incident has to be open. It was held before it was opened, and closes a minute after its last symptom: this only spares
/// what is over before anybody could look.
const CAUSE_FOR: &str = "30s";

/// An alert on Kulprit itself.
struct OwnAlert {
    name: &'static str,
    expr: &'static str,
    lasts: &'static str,
    severity: &'static str,
    summary: &'static str,
    description: &'static str,
    /// The heading in docs/operations.md, as an anchor.
    anchor: &'static str,
}

/// A rule that is computed ahead.
struct Recording {
    name: &'static str,
    expr: &'static str,
}

const RECORDINGS: &[Recording] = &[
    Recording {
        name: "class_severity:kulprit_central_incidents_open:max",
        expr: "sum by (class, severity) (max by (class, cause, severity, node) (kulprit_central_incidents_open))",
    },
    Recording { name: "symptom:kulprit_central_symptoms:max", expr: "max by (symptom) (kulprit_central_symptoms)" },
    Recording {
        name: "condition_status:kulprit_central_node_conditions:max",
        expr: "max by (condition, status) (kulprit_central_node_conditions)",
    },
    Recording { name: "status:kulprit_central_nodes:max", expr: "max by (status) (kulprit_central_nodes)" },
    Recording {
        name: "kulprit_central_diagnosis_seconds:p99_5m",
        expr: "histogram_quantile(0.99, sum by (le) (rate(kulprit_central_diagnosis_seconds_bucket[5m])))",
    },
    Recording {
        name: "kulprit_central_store_commit_seconds:p99_5m",
        expr: "histogram_quantile(0.99, sum by (le) (rate(kulprit_central_store_commit_seconds_bucket[5m])))",
    },
    Recording {
        name: "outcome:kulprit_central_writes:rate5m",
        expr: "sum by (what, outcome) (rate(kulprit_central_writes_total[5m]))",
    },
    Recording {
        name: "probe:kulprit_probe_look_seconds:mean5m",
        expr: "sum by (probe) (rate(kulprit_probe_look_seconds_total[5m])) / sum by (probe) (rate(kulprit_probe_looks_total[5m]))",
    },
];

const OWN: &[OwnAlert] = &[
    OwnAlert {
        name: "KulpritCentralAbsent",
        expr: "absent(kulprit_central_diagnosis_passes_total)",
        lasts: "5m",
        severity: "critical",
        summary: "No central of Kulprit is scraped: nobody explains VMs.",
        description: "Central does not run, or Prometheus does not reach its admin port. Alerts of causes are silent meanwhile.",
        anchor: "central-is-absent-or-not-ready",
    },
    OwnAlert {
        name: "KulpritCentralNotReady",
        expr: "max(kulprit_ready{program=\"kulprit-central\"}) == 0",
        lasts: "5m",
        severity: "critical",
        summary: "No central of Kulprit is ready.",
        description: "`/ready` of its admin port says what is missing, one thing a line.",
        anchor: "central-is-absent-or-not-ready",
    },
    OwnAlert {
        name: "KulpritTaskDown",
        expr: "kulprit_task_up == 0",
        lasts: "5m",
        severity: "warning",
        summary: "Task {{ $labels.task }} of {{ $labels.instance }} does not run.",
        description: "It ended by an error or a panic and waits for its restart; the log says why.",
        anchor: "a-task-or-probe-ends-again-and-again",
    },
    OwnAlert {
        name: "KulpritAgentSilent",
        expr: "max by (node) (kulprit_central_silent_node_last_heard_timestamp_seconds) >= 0",
        lasts: "5m",
        severity: "warning",
        summary: "The agent of node {{ $labels.node }} is not heard: everything of it is unknown.",
        description: "Its pod is gone or cannot reach central, or the node is down. Conditions of the node are Unknown, not False.",
        anchor: "an-agent-is-not-connected",
    },
    OwnAlert {
        name: "KulpritAgentMissing",
        expr: "max(kulprit_central_nodes{status=\"missing\"}) > 0",
        lasts: "15m",
        severity: "warning",
        summary: "{{ $value }} nodes of Kubernetes never had an agent.",
        description: "`kulprit nodes` shows `none` as their agent. The DaemonSet does not run there, or reports to another central.",
        anchor: "an-agent-is-not-connected",
    },
    OwnAlert {
        name: "KulpritAgentDisconnected",
        expr: "kulprit_uplink_connected == 0",
        lasts: "5m",
        severity: "warning",
        summary: "The agent at {{ $labels.instance }} has no stream to central.",
        description: "What it sees is kept in its spool until central has it. Its log says why the stream fails.",
        anchor: "an-agent-is-not-connected",
    },
    OwnAlert {
        name: "KulpritSpoolLosesRecords",
        expr: "increase(kulprit_spool_lost_records_total[15m]) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "The agent at {{ $labels.instance }} drops records: its spool is full.",
        description: "Central was away for longer than the spool holds; what was dropped is said to central as a loss.",
        anchor: "the-spool-is-full",
    },
    OwnAlert {
        name: "KulpritRecordsMissing",
        expr: "increase(kulprit_central_missing_records_total[1h]) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "Records of agents never came, and nobody said why.",
        description: "A state folder was deleted or put back from a backup, or an agent is broken.",
        anchor: "the-spool-is-full",
    },
    OwnAlert {
        name: "KulpritProbeBlind",
        expr: "max by (probe) (kulprit_central_blind_probes) > 0",
        lasts: "30m",
        severity: "info",
        summary: "Probe {{ $labels.probe }} cannot look on {{ $value }} nodes.",
        description: "What it would see is unknown there: `kulprit findings --code ProbeBlind` names the nodes, `kulprit node NAME` the reason.",
        anchor: "everything-is-unknown",
    },
    OwnAlert {
        name: "KulpritStoreHangs",
        expr: "kulprit_central_store_waits_seconds > 60",
        lasts: "1m",
        severity: "warning",
        summary: "Central's store takes nothing: no agent gets an ack.",
        description: "Its volume hangs. Verdicts go on from memory; agents keep their records in their spools until the volume answers.",
        anchor: "the-store-does-not-ack",
    },
    OwnAlert {
        name: "KulpritStoreFails",
        expr: "increase(kulprit_central_store_failures_total[5m]) > 0",
        lasts: "2m",
        severity: "warning",
        summary: "Commits of central's store fail and are tried again.",
        description: "Its volume is full, read-only or broken: the log of central has the error and what to do.",
        anchor: "the-store-does-not-ack",
    },
    OwnAlert {
        name: "KulpritAgentTooLoud",
        expr: "sum(increase(kulprit_central_records_total{outcome=\"excess\"}[15m])) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "An agent says more than is kept of one node.",
        description: "What is beyond does not act. A host in a storm, or an agent that is broken or not what it says.",
        anchor: "an-agent-says-too-much",
    },
    OwnAlert {
        name: "KulpritConnectionsRefused",
        expr: "sum by (reason) (increase(kulprit_central_refused_connections_total[10m])) > 0",
        lasts: "10m",
        severity: "warning",
        summary: "Central closes connections to its gRPC port ({{ $labels.reason }}).",
        description: "More come than it takes, in all or of one address, or they do not speak HTTP/2, or show nothing that is let in. Agents that are turned away try again.",
        anchor: "an-agent-says-too-much",
    },
    OwnAlert {
        name: "KulpritDiagnosisSlow",
        expr: "kulprit_central_diagnosis_seconds:p99_5m > 2",
        lasts: "15m",
        severity: "warning",
        summary: "One diagnosis of everything takes {{ $value | humanizeDuration }}.",
        description: "Central is short of CPU, or the cluster is larger than what it was given: see docs/operations.md on sizing.",
        anchor: "verdicts-come-late",
    },
    OwnAlert {
        name: "KulpritKubernetesUnseen",
        expr: "sum by (status) (max by (status) (kulprit_central_watches{status=~\"lost|refused\"})) > 0",
        lasts: "5m",
        severity: "warning",
        summary: "Central does not see {{ $value }} parts of Kubernetes ({{ $labels.status }}).",
        description: "lost: the API server does not answer; refused: a right is missing. `kulprit why` says what cannot be seen.",
        anchor: "kubernetes-is-not-seen",
    },
    OwnAlert {
        name: "KulpritNobodyWrites",
        expr: "max(kulprit_central_leading) == 0 and max(kulprit_central_watches{status=\"seen\"}) > 0",
        lasts: "5m",
        severity: "warning",
        summary: "No central holds the Lease: conditions and taints of nodes stand still.",
        description: "Central may not get, create or update its Lease, or the API server refuses it.",
        anchor: "no-conditions-on-nodes",
    },
    OwnAlert {
        name: "KulpritWritesFail",
        expr: "sum by (what, outcome) (rate(kulprit_central_writes_total{outcome!~\"ok|conflict|gone\"}[10m])) > 0",
        lasts: "15m",
        severity: "warning",
        summary: "Writes of {{ $labels.what }} to Kubernetes fail ({{ $labels.outcome }}).",
        description: "forbidden: a right is missing; refused: a webhook or the schema; throttled, server, no_answer: the API server.",
        anchor: "no-conditions-on-nodes",
    },
    OwnAlert {
        name: "KulpritTaintBudgetSpent",
        expr: "max(kulprit_central_taints_withheld{reason=\"budget\"}) > 0",
        lasts: "10m",
        severity: "warning",
        summary: "{{ $value }} taints are wanted and the budget of their zones is spent.",
        description: "As many nodes as may be out at the same time are out: by taints of ours or of others, cordoned or not ready. Sick nodes keep getting VMs.",
        anchor: "nodes-are-not-tainted",
    },
    OwnAlert {
        name: "KulpritTaintBreakerOpen",
        expr: "max(kulprit_central_taints_withheld{reason=\"breaker\"}) > 0",
        lasts: "5m",
        severity: "warning",
        summary: "Too many nodes came to want a taint at once: none is added.",
        description: "Something that they share is at work. Look at incidents whose place is shared, and at what changed everywhere.",
        anchor: "nodes-are-not-tainted",
    },
    OwnAlert {
        name: "KulpritCannotVerify",
        expr: "sum by (api, instance) (rate(kulprit_central_access_total{outcome=\"cannot_verify\"}[5m])) > 0",
        lasts: "5m",
        severity: "warning",
        summary: "Central cannot verify who calls its {{ $labels.api }} API.",
        description: "Nobody could be asked: the API server does not answer, or central may not create TokenReviews or SubjectAccessReviews. Callers are sent away, not let in.",
        anchor: "callers-are-refused",
    },
    OwnAlert {
        name: "KulpritForgedNode",
        expr: "sum by (outcome) (increase(kulprit_central_access_total{api=\"ingest\",outcome=\"node\"}[15m])) > 0 or label_replace(sum(increase(kulprit_central_stream_ends_total{reason=\"other_cluster\"}[15m])) > 0, \"outcome\", \"cluster\", \"\", \"\")",
        lasts: "0s",
        severity: "warning",
        summary: "An agent reports for another {{ $labels.outcome }} than its own.",
        description: "Its stream is refused whole. A name that differs from Kubernetes' or from central's (`cluster`), or somebody who tries.",
        anchor: "callers-are-refused",
    },
    OwnAlert {
        name: "KulpritCertificateEnds",
        // Of its own life, whatever that is: some live for a day.
        expr: "min by (certificate) (kulprit_central_certificate_not_after_seconds - time()) < 0.1 * max by (certificate) (max_over_time((kulprit_central_certificate_not_after_seconds - time())[30d:1h]))",
        lasts: "15m",
        severity: "warning",
        summary: "Central's certificate ({{ $labels.certificate }}) ends in {{ $value | humanizeDuration }}.",
        description: "Nobody has renewed it. When it has ended, no agent and nobody who asks gets through: all nodes fall silent in the same minute.",
        anchor: "an-agent-is-not-connected",
    },
    OwnAlert {
        name: "KulpritRightMissing",
        expr: "max by (verb, resource) (kulprit_central_rights_missing) > 0",
        lasts: "5m",
        severity: "warning",
        summary: "Kubernetes refuses central the right to {{ $labels.verb }} {{ $labels.resource }}.",
        description: "What needs it is not done or not seen. Compare central's role with what this version needs.",
        anchor: "kubernetes-is-not-seen",
    },
    OwnAlert {
        name: "KulpritConfigRefused",
        expr: "increase(kulprit_config_reads_total{outcome=\"refused\"}[1h]) > 0",
        lasts: "0s",
        severity: "warning",
        summary: "The agent at {{ $labels.instance }} refuses its changed configuration.",
        description: "The last good one stays in force; the log names the key and the line.",
        anchor: "a-configuration-is-refused",
    },
];

/// The name of the alert of a cause.
#[must_use]
pub fn alert_of(cause: &Cause) -> String {
    format!("Kulprit{}", cause.id)
}

/// The names of the alerts on Kulprit itself.
pub fn own_alerts() -> impl Iterator<Item = &'static str> {
    OWN.iter().map(|alert| alert.name)
}

/// The whole file, YAML, ending with a newline.
#[must_use]
pub fn alerts_yaml() -> String {
    let mut text = String::from(
        "# Rules for Prometheus. Generated from the catalogue of causes and central/src/alerts.rs; do not edit.\n\
         # Severity of an alert on a cause: critical while a VM is touched that does not serve, else warning.\n\
         groups:\n  - name: kulprit-recording\n    rules:\n",
    );
    for Recording { name, expr } in RECORDINGS {
        line(&mut text, format_args!("      - record: {name}\n        expr: {}", quoted(expr)));
    }
    line(&mut text, format_args!("  - name: kulprit-itself\n    rules:"));
    for OwnAlert { name, expr, lasts, severity, summary, description, anchor } in OWN {
        line(&mut text, format_args!("      - alert: {name}\n        expr: {}\n        for: {lasts}", quoted(expr)));
        line(&mut text, format_args!("        labels: {{severity: {severity}}}\n        annotations:"));
        line(&mut text, format_args!("          summary: {}", quoted(summary)));
        line(&mut text, format_args!("          description: {}", quoted(description)));
        line(&mut text, format_args!("          runbook_url: {DOCS}/operations.md#{anchor}"));
    }
    for class in Class::ALL {
        line(&mut text, format_args!("  - name: kulprit-{}\n    rules:", class.as_str()));
        CAUSES.iter().filter(|cause| cause.class == class).for_each(|cause| of_cause(&mut text, cause));
    }
    text
}

/// Labels `class`, `severity` and `node` come from the series.
fn of_cause(text: &mut String, cause: &Cause) {
    let Cause { id, meaning, .. } = cause;
    let expr = format!("max by (class, severity, node) (kulprit_central_incidents_open{{cause=\"{id}\"}}) > 0");
    line(
        text,
        format_args!("      - alert: {}\n        expr: {}\n        for: {CAUSE_FOR}", alert_of(cause), quoted(&expr)),
    );
    line(text, format_args!("        labels: {{cause: {id}}}\n        annotations:"));
    let place = "{{ with $labels.node }} Node {{ . }}.{{ end }}";
    line(text, format_args!("          summary: {}", quoted(&format!("{meaning}{place}"))));
    let mut description =
        format!("`kulprit incidents --cause {id}` lists the incidents, `kulprit why VM` has the evidence.");
    let mut steps = cause.advice.now.iter().filter(|step| !matches!(step, Step::Standalone(_)));
    // Braces of a command, Go's templates for one, are not Prometheus'.
    if let Some(first) = steps.next().map(Step::text).filter(|text| !text.contains("{{")) {
        description.push_str(&format!(" First: {}", first.replace("{node}", "{{ $labels.node }}")));
    }
    line(text, format_args!("          description: {}", quoted(&description)));
    line(text, format_args!("          runbook_url: {DOCS}/causes.md#{}", cause.anchor()));
}

/// A text of JSON is one of YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}
