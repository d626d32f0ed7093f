//! The note of an Event: what is wrong, why, how sure that is, by what it is known, what to do, and where there is more.
//!
//! The API server takes 1,024 bytes. What does not fit is cut from the evidence and from what to do: the cause, how sure it is and the
//! incident stay. Who may read Events may not read a host's logs: what looks like a secret is left out of what they say.

use kulprit_diagnosis::{Attribution, Candidate, Confidence, WeighedEvidence, catalogue};

use super::{About, MAX_NOTE_BYTES, Report, UNEXPLAINED};
use crate::{
    conditions::shortened,
    incident::{Incident, observe::named},
    record::secrets,
};

/// Of the symptom so much is said, bytes.
const MAX_SYMPTOM_BYTES: usize = 160;
/// Of a piece of evidence so much is said, bytes.
const MAX_EVIDENCE_BYTES: usize = 240;
/// Steps of what to do.
const MAX_STEPS: usize = 2;

/// Of one whom the incident touches, while it lasts. Without an attribution (its symptom cannot be seen now, or the cause sits there and
/// shows no symptom of its own) what the incident knows.
pub(super) fn of_trouble(
    incident: &Incident,
    about: &About,
    symptom: &str,
    attribution: Option<&Attribution>,
) -> String {
    let named = attribution.and_then(|shown| named(shown, &incident.key));
    let cause = &incident.key.cause;
    let is_unexplained = cause == UNEXPLAINED;
    let confidence = named.map(Candidate::confidence);
    let probability = named.map_or(incident.probability, |named| named.probability);
    // A node's own symptom is its fault itself.
    let symptom = match (about, attribution) {
        (About::Node { .. }, _) => String::new(),
        (About::Vm { .. }, Some(shown)) => {
            let text = shortened(&secrets::clean(&shown.symptom.text), MAX_SYMPTOM_BYTES);
            format!("{}: {}. ", shown.symptom.id.as_str(), text.trim().trim_end_matches('.'))
        }
        (About::Vm { .. }, None) => format!("{symptom}. "),
    };
    let word = if confidence == Some(Confidence::Suspected) { "Suspected cause" } else { "Cause" };
    let at = place(incident, about, named);
    let chain = incident.chain.iter().skip(1).map(|id| format!(" → {id}")).collect::<String>();
    let why = if is_unexplained {
        "Cause: nothing that can be seen explains it".to_owned()
    } else {
        let meaning = catalogue::find(cause).map_or("", |cause| cause.meaning);
        let meaning = if meaning.is_empty() { String::new() } else { format!(": {}", meaning.trim_end_matches('.')) };
        format!("{word}: {cause}{chain}, {} sure{at}{meaning}", percent(probability))
    };
    let head = shortened(&format!("{symptom}{why}."), MAX_NOTE_BYTES * 5 / 8);
    let more = match about {
        About::Vm { namespace, name, .. } => format!("kulprit why {namespace}/{name}"),
        About::Node { .. } => format!("kulprit incidents {}", incident.id),
    };
    let tail = shortened(&format!(" Incident {}: {more}", incident.id), MAX_NOTE_BYTES / 4);
    // Evidence may name VMs.
    let is_of_vm = matches!(about, About::Vm { .. });
    let evidence = named.filter(|_| is_of_vm).and_then(evidence);
    let steps = named.map(|named| named.remedy.now.as_slice()).unwrap_or_default();
    let steps = steps.iter().filter(|_| is_of_vm || attribution.is_some()).take(MAX_STEPS);
    let steps = steps.map(|step| step.split("   #").next().unwrap_or_default().trim().to_owned()).collect::<Vec<_>>();
    let steps = if steps.is_empty() { String::new() } else { format!(" Do: {}.", steps.join("; ")) };
    let middle = format!("{}{steps}", evidence.unwrap_or_default());
    let room = MAX_NOTE_BYTES - head.len() - tail.len();
    format!("{head}{}{tail}", shortened(&middle, room))
}

/// That it is over.
pub(super) fn of_end(report: &Report) -> String {
    let Report { cause, node, incident, .. } = report;
    let at = if node.is_empty() { String::new() } else { format!(" at node {node}") };
    let what = if cause == UNEXPLAINED { "What nothing explained" } else { cause };
    shortened(&format!("{what}{at} is over. Incident {incident}"), MAX_NOTE_BYTES)
}

/// ` on node n1`, ` on node n1 (target)`.
fn place(incident: &Incident, about: &About, named: Option<&Candidate>) -> String {
    let own = matches!(about, About::Node { name } if *name == incident.node);
    let node = named.and_then(|named| named.node.clone()).unwrap_or_else(|| incident.node.clone());
    let role = named.map_or("", |named| named.role);
    match (own, node.is_empty(), role) {
        (true, ..) | (_, true, "") => String::new(),
        (_, true, role) => format!(" ({role})"),
        (_, false, "") => format!(", on node {node}"),
        (_, false, role) => format!(", on node {node} ({role})"),
    }
}

/// The strongest that speaks for it.
fn evidence(named: &Candidate) -> Option<String> {
    let WeighedEvidence { source, node, text, .. } = named.evidence.iter().find(|one| one.weight_db > 0.0)?;
    let text = shortened(&secrets::clean(text), MAX_EVIDENCE_BYTES);
    let by = if node.is_empty() { source.clone() } else { format!("{source}, {node}") };
    Some(format!(" Evidence: {} ({by}).", text.trim().trim_end_matches('.')))
}

fn percent(probability: f64) -> String {
    match probability * 100.0 {
        p if p > 99.0 => "over 99 %".to_owned(),
        p => format!("{p:.0} %"),
    }
}
