//! How a check is printed.

use std::fmt::Write as _;

use jiff::Timestamp;
use kulprit_model::{Attributes, Evidence, Finding, Moment, Severity};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Checked, Outcome};

#[derive(Serialize)]
struct Json<'a> {
    probes: Vec<JsonProbe<'a>>,
}

#[derive(Serialize)]
struct JsonProbe<'a> {
    name: &'a str,
    outcome: Outcome,
    duration_ms: u64,
    findings: Vec<JsonFinding<'a>>,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    code: &'a str,
    subject: String,
    kind: &'a str,
    severity: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_because: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    first: String,
    last: String,
    attributes: Map<String, Value>,
    evidence: Vec<JsonEvidence<'a>>,
}

#[derive(Serialize)]
struct JsonEvidence<'a> {
    source: &'a str,
    at: String,
    text: &'a str,
}

/// One JSON object: `{"probes":[{"name","outcome","duration_ms","findings":[…]}]}`.
#[must_use]
pub fn json(checked: &[Checked]) -> String {
    let probes = checked.iter().map(|probe| JsonProbe {
        name: probe.name,
        outcome: probe.outcome,
        duration_ms: probe.duration_ms,
        findings: probe.findings.iter().map(json_finding).collect(),
    });
    let all = Json { probes: probes.collect() };
    serde_json::to_string_pretty(&all).expect("keys are texts and numbers are finite") + "\n"
}

fn json_finding(finding: &Finding) -> JsonFinding<'_> {
    let (first, last) = times(finding);
    let (status, unknown_because, count) = match finding {
        Finding::State(state) => (Some(state.status.as_str()), state.unknown_because.as_deref(), None),
        Finding::Occurrence(occurrence) => (None, None, Some(occurrence.count)),
    };
    let spec = finding.code().spec();
    JsonFinding {
        code: finding.code().as_str(),
        subject: finding.subject().to_string(),
        kind: spec.kind.as_str(),
        severity: spec.severity.as_str(),
        status,
        unknown_because,
        count,
        first: in_words(first),
        last: in_words(last),
        attributes: json_attributes(finding.attributes()),
        evidence: finding.evidence().iter().map(json_evidence).collect(),
    }
}

fn json_attributes(attributes: &Attributes) -> Map<String, Value> {
    attributes.iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}

fn json_evidence(evidence: &Evidence) -> JsonEvidence<'_> {
    JsonEvidence { source: &evidence.source, at: in_words(evidence.at), text: &evidence.text }
}

/// The one line of a node-problem-detector custom plugin: what is wrong first, then what could not be seen, then that all is well.
///
/// node-problem-detector cuts it at 80 bytes where its configuration says nothing else, so the code comes first.
#[must_use]
pub fn npd_line(checked: &[Checked]) -> String {
    let said = |is_wanted: &dyn Fn(&Finding) -> bool| {
        let findings = checked.iter().flat_map(|probe| &probe.findings).filter(|finding| is_wanted(finding));
        let mut lines: Vec<String> = findings.map(npd_finding).collect();
        lines.dedup();
        (!lines.is_empty()).then(|| lines.join("; "))
    };
    let faults = said(&|finding| is_fault(finding) && !super::is_unknown(finding));
    let unknown = said(&super::is_unknown);
    let names: Vec<&str> = checked.iter().map(|probe| probe.name).collect();
    let line = faults.or(unknown).unwrap_or_else(|| format!("{}: nothing is wrong", names.join(", ")));
    line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn npd_finding(finding: &Finding) -> String {
    let because = match finding {
        Finding::State(state) => state.unknown_because.as_deref(),
        Finding::Occurrence(_) => None,
    };
    let text = because.or(finding.evidence().first().map(|evidence| &*evidence.text));
    text.map_or_else(|| finding.code().to_string(), |text| format!("{}: {text}", finding.code()))
}

fn is_fault(finding: &Finding) -> bool {
    finding.code().spec().severity == Severity::Fault
}

/// Since when and seen last, or first and last time.
const fn times(finding: &Finding) -> (Moment, Moment) {
    match finding {
        Finding::State(state) => (state.since, state.looked),
        Finding::Occurrence(occurrence) => (occurrence.first, occurrence.last),
    }
}

/// A table for a person: a line per probe, below it what it found.
#[must_use]
pub fn human(checked: &[Checked]) -> String {
    let mut text = format!("{:<14} {:<8} {:>8}  FINDINGS\n", "PROBE", "OUTCOME", "TOOK");
    for Checked { name, outcome, duration_ms, findings } in checked {
        let outcome = match outcome {
            Outcome::Ok => "ok",
            Outcome::Partial => "partial",
            Outcome::Blind => "blind",
        };
        let n_findings = if findings.is_empty() { "none".to_owned() } else { findings.len().to_string() };
        line(&mut text, &format!("{name:<14} {outcome:<8} {:>8}  {n_findings}", format!("{duration_ms} ms")));
        for finding in findings {
            line(&mut text, &format!("  {}", said(finding)));
            let evidence = finding.evidence().iter();
            let mut lines: Vec<String> = evidence
                .map(|seen| format!("      {} {}: {}", in_words(seen.at), seen.source, plain(&seen.text)))
                .collect();
            // What was said twice within a second reads the same.
            lines.dedup();
            lines.iter().for_each(|seen| line(&mut text, seen));
        }
    }
    text
}

fn said(finding: &Finding) -> String {
    let (code, subject) = (finding.code(), plain(&finding.subject().to_string()));
    let severity = code.spec().severity.as_str();
    match finding {
        Finding::State(state) => match &state.unknown_because {
            Some(because) => format!("Unknown  {code}  {subject}: {}", plain(because)),
            None => format!("{}  {code}  {subject}  ({severity}, since {})", state.status, in_words(state.since)),
        },
        Finding::Occurrence(occurrence) => {
            format!("{}x  {code}  {subject}  ({severity}, last {})", occurrence.count, in_words(occurrence.last))
        }
    }
}

/// Host text cannot move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// RFC 3339 in UTC, to the second.
fn in_words(moment: Moment) -> String {
    let second = moment.wall_usec.div_euclid(1_000_000);
    Timestamp::from_second(second).map_or_else(|_| format!("@{second}"), |time| time.to_string())
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("writing to a String does not fail");
}
