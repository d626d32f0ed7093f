//! A recorded case of a live system: what a verdict was decided from, as the files that `kulprit diagnose` reads.
//!
//! Central keeps no objects of Kubernetes but what they say, so that is what is written: `snapshot.json` is the snapshot itself, narrowed
//! to whom the case is about ([`kulprit_diagnosis::narrow`]), without secrets ([`secrets`]). The same engine on it gives the same verdict;
//! that is checked here each time, and where narrowing would change it everything is written. Beside it, for people: what each
//! node concerned is, and what it found before. Pure: the snapshot and the history come in, files come out.

pub mod secrets;

use std::collections::BTreeSet;

use kulprit_diagnosis::{
    Candidate, Snapshot, Symptom, attribute, narrow,
    written::{read_snapshot, write_finding, write_snapshot},
};
use kulprit_model::{Body, Finding, Record};
use kulprit_proto::v1;
use serde_json::{Value, json};

use crate::store::HistoryEntry;

/// A case larger than this is refused, bytes: what `kulprit` takes for one answer.
pub const MAX_CASE_BYTES: usize = 64 << 20;
/// Of one node's history so many findings are written, the oldest of the time asked for.
pub const MAX_HISTORY: usize = 10_000;

/// Whom a case is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A VM, and maybe one of its migrations.
    Vm {
        /// Namespace; empty where no cluster knows the VM.
        namespace: String,
        /// Name.
        name: String,
        /// Name of the migration.
        migration: Option<String>,
    },
    /// A node.
    Node {
        /// Its name.
        name: String,
    },
}

/// One file of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFile {
    /// Where it is in the case's folder, with slashes.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// A case, decided and cleaned, before its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    files: Vec<CaseFile>,
    /// Nodes of which the history belongs to the case.
    pub nodes: BTreeSet<String>,
    /// What is to be known of it, one sentence each.
    pub notes: Vec<String>,
    n_secrets: usize,
}

impl Recording {
    /// Writes down what these symptoms of a snapshot are decided from. `nodes` are what central knows of nodes as such.
    #[must_use]
    pub fn new(snapshot: &Snapshot, symptoms: &[Symptom], about: &About, nodes: &[v1::Node]) -> Self {
        let narrowed = narrow(snapshot, symptoms);
        let near = narrowed.nodes;
        let mut notes = Vec::new();
        let (mut value, mut n_secrets) = cleaned(&narrowed.snapshot);
        if !is_same_verdict(snapshot, symptoms, &value) {
            (value, n_secrets) = cleaned(snapshot);
            if !is_same_verdict(snapshot, symptoms, &value) {
                notes.push("without secrets the verdict of the case may differ from central's".to_owned());
            }
        }
        let mut recording = Self { files: Vec::new(), nodes: near, notes, n_secrets };
        recording.add("case.yaml", manifest(about, snapshot.reference_wall_usec).into_bytes());
        recording.add_json("snapshot.json", &value);
        for node in nodes.iter().filter(|node| recording.nodes.contains(&node.name)).cloned().collect::<Vec<_>>() {
            let mut value = node_value(&node);
            recording.n_secrets += secrets::leave_out(&mut value);
            recording.add_json(&format!("nodes/{}/node.json", file_name(&node.name)), &value);
        }
        recording
    }

    /// Adds what a node found, oldest first; `is_cut`: there was more.
    pub fn add_history(&mut self, node: &str, entries: Vec<HistoryEntry>, is_cut: bool) {
        let mut content = Vec::new();
        let mut n_foreign = 0_usize;
        for entry in entries {
            match history_line(entry) {
                HistoryLine::Finding(mut line) => {
                    self.n_secrets += secrets::leave_out(&mut line);
                    content.extend_from_slice(line.to_string().as_bytes());
                    content.push(b'\n');
                }
                HistoryLine::Other => {}
                HistoryLine::Foreign => n_foreign += 1,
            }
        }
        if n_foreign > 0 {
            self.notes.push(format!("{n_foreign} records of {node} are left out: this version cannot read them"));
        }
        if is_cut {
            self.notes.push(format!("the history of {node} is cut after {MAX_HISTORY} findings"));
        }
        if !content.is_empty() {
            self.add(&format!("nodes/{}/history.jsonl", file_name(node)), content);
        }
    }

    /// A node's history is not to be had.
    pub fn lack_history(&mut self, why: &str) {
        self.notes.push(format!("the history is left out: {why}"));
    }

    /// How large it is, bytes.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.files.iter().map(|file| file.content.len()).sum()
    }

    /// The files, and what is to be known of them.
    #[must_use]
    pub fn into_parts(mut self) -> (Vec<CaseFile>, Vec<String>) {
        if self.n_secrets > 0 {
            self.notes.push(format!("what looks like a secret is left out of {} texts", self.n_secrets));
        }
        (self.files, self.notes)
    }

    fn add(&mut self, path: &str, content: Vec<u8>) {
        self.files.push(CaseFile { path: path.to_owned(), content });
    }

    fn add_json(&mut self, path: &str, value: &Value) {
        let mut content = serde_json::to_vec_pretty(value).expect("all keys are texts");
        content.push(b'\n');
        self.add(path, content);
    }
}

/// One row of the history, with what looks like a secret.
pub(crate) enum HistoryLine {
    /// A finding.
    Finding(Value),
    /// What a case has elsewhere.
    Other,
    /// Of a version that says more.
    Foreign,
}

/// A row of the history as it is written.
pub(crate) fn history_line(entry: HistoryEntry) -> HistoryLine {
    let at = rfc3339(entry.position.at_wall_usec);
    let Ok(Record { stamp, body }) = Record::try_from(entry.record) else { return HistoryLine::Foreign };
    let finding = match body {
        Body::State(state) => Finding::State(state),
        Body::Occurrence(occurrence) => Finding::Occurrence(occurrence),
        Body::Domain(_) | Body::Qemu(_) | Body::SubjectGone { .. } => return HistoryLine::Other,
    };
    HistoryLine::Finding(json!({
        "at": at, "boot_id": stamp.boot_id, "epoch": stamp.epoch, "seq": stamp.seq, "finding": write_finding(&finding),
    }))
}

/// The snapshot as it is written, and out of how many texts something was left.
fn cleaned(snapshot: &Snapshot) -> (Value, usize) {
    let mut value = write_snapshot(snapshot);
    let n_secrets = secrets::leave_out(&mut value);
    (value, n_secrets)
}

/// Whether the engine says the same of what is written as of what is known.
fn is_same_verdict(snapshot: &Snapshot, symptoms: &[Symptom], written: &Value) -> bool {
    let Ok(read) = read_snapshot(written.clone()) else { return false };
    symptoms.iter().all(|symptom| {
        let (known, kept) = (attribute(snapshot, symptom), attribute(&read.snapshot, symptom));
        let said = |causes: &[Candidate]| -> Vec<(&'static str, u64, Vec<&'static str>)> {
            causes.iter().map(|cause| (cause.id, cause.probability.to_bits(), cause.chain.clone())).collect()
        };
        said(&known.causes) == said(&kept.causes) && said(&known.contributing) == said(&kept.contributing)
    })
}

fn manifest(about: &About, at_usec: i64) -> String {
    // A text of JSON is one of YAML.
    let text = |text: &str| Value::from(text).to_string();
    let subject = match about {
        About::Vm { namespace, name, migration } => {
            let migration = migration.as_ref().map(|name| format!(", migration: {}", text(name))).unwrap_or_default();
            format!("namespace: {}, name: {}{migration}", text(namespace), text(name))
        }
        About::Node { name } => format!("node: {}", text(name)),
    };
    format!(
        "# Recorded by kulprit-central {} from a live system: snapshot.json is what it decided from.\n\
         apiVersion: kulprit.io/v1\nkind: Case\nat: {}\nsubject: {{{subject}}}\n",
        env!("CARGO_PKG_VERSION"),
        rfc3339(at_usec)
    )
}

/// What central knows of a node as such.
pub(crate) fn node_value(node: &v1::Node) -> Value {
    json!({
        "name": node.name, "cluster": node.cluster, "is_reporting": node.is_reporting,
        "last_heard": rfc3339(node.last_heard_wall_usec), "clock_offset_usec": node.clock_offset_usec,
        "agent": node.agent_version, "kernel": node.kernel, "os": node.os, "libvirt": node.libvirt, "qemu": node.qemu,
        "runtime": node.runtime, "processor": node.processor, "microcode": node.microcode,
    })
}

/// A node's name as a folder: names of Kubernetes are, others are made so.
fn file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().take(253).map(|c| if is_plain(c) { c } else { '_' }).collect();
    if name.chars().all(|c| c == '.') { format!("_{name}") } else { name }
}

/// Unix microseconds as RFC 3339; empty for 0, which means not known.
pub(crate) fn rfc3339(wall_usec: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(wall_usec).ok().filter(|_| wall_usec != 0);
    time.map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
