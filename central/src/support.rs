//! A support bundle: what somebody who was not there has to see of this central, as files without secrets.
//!
//! Pure. What could not be had is a note, and no reason for a bundle not to be made. Secrets are left out as in a recorded case
//! ([`crate::record::secrets`]); texts go line by line, so that one that looks like the beginning of something costs one line.

use std::fmt::Write as _;

use kulprit_proto::v1;
use serde_json::{Value, json};

use crate::{
    incident::{Incident, Incidents, Member},
    record::{CaseFile, HistoryLine, history_line, node_value, rfc3339, secrets},
    store::HistoryEntry,
};

/// What a running process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// What it waits for; none when it is ready.
    pub missing: Vec<String>,
    /// Its series, OpenMetrics.
    pub metrics: String,
    /// Its configuration, JSON.
    pub config: String,
}

/// A bundle that is being made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    files: Vec<CaseFile>,
    notes: Vec<String>,
    n_secrets: usize,
}

impl Bundle {
    /// What central says of itself, and what it does not see of Kubernetes. `None`: it was not asked.
    pub fn add_said(&mut self, said: Option<Said>, unseen: &[String], now_usec: i64) {
        let mut status = json!({
            "program": "kulprit-central", "version": env!("CARGO_PKG_VERSION"), "at": rfc3339(now_usec), "kubernetes_unseen": unseen,
        });
        match said {
            Some(Said { missing, metrics, config }) => {
                status["ready"] = json!(missing.is_empty());
                status["waits_for"] = json!(missing);
                self.add_text("central/metrics.txt", &metrics);
                match serde_json::from_str(&config) {
                    Ok(config) => self.add_json("central/config.json", config),
                    Err(error) => self.lack("the configuration", &error.to_string()),
                }
            }
            None => self.lack("configuration, readiness and metrics", "this central has no admin port"),
        }
        self.add_json("central/status.json", status);
    }

    /// Its last log lines; `None`: it does not keep them.
    pub fn add_log(&mut self, lines: Option<&str>) {
        match lines {
            Some(lines) => self.add_text("central/log.txt", lines),
            None => self.lack("central's log", "this central keeps no lines in memory"),
        }
    }

    /// What it knows of nodes as such.
    pub fn add_nodes(&mut self, nodes: &[v1::Node]) {
        let nodes = nodes.iter().map(|node| {
            let mut value = node_value(node);
            value["n_vms"] = json!(node.n_vms);
            value["n_faults"] = json!(node.n_faults);
            value["n_unknown"] = json!(node.n_unknown);
            value["cannot_show"] = json!(node.cannot_show);
            value
        });
        self.add_json("nodes.json", nodes.collect());
    }

    /// All incidents that are kept, newest first.
    pub fn add_incidents(&mut self, incidents: &Incidents) {
        self.add_json("incidents.json", incidents.iter().rev().map(|incident| incident_value(incident)).collect());
    }

    /// What agents found, oldest first; `is_cut`: there was more.
    pub fn add_findings(&mut self, entries: Vec<HistoryEntry>, is_cut: bool) {
        let (mut content, mut n_foreign, n_entries) = (String::new(), 0_usize, entries.len());
        for entry in entries {
            let node = entry.node.clone();
            match history_line(entry) {
                HistoryLine::Finding(mut line) => {
                    line["node"] = json!(node);
                    self.n_secrets += secrets::leave_out(&mut line);
                    writeln!(content, "{line}").expect("writing to a String cannot fail");
                }
                HistoryLine::Other => {}
                HistoryLine::Foreign => n_foreign += 1,
            }
        }
        if n_foreign > 0 {
            self.notes.push(format!("{n_foreign} findings are left out: this version cannot read them"));
        }
        if is_cut {
            self.notes.push(format!("the findings of the last hour are cut after the oldest {n_entries}"));
        }
        self.add("findings.jsonl", content);
    }

    /// Something is not to be had.
    pub fn lack(&mut self, what: &str, why: &str) {
        let why = secrets::clean(why);
        self.notes.push(format!("{what}: not to be had: {why}"));
    }

    /// The files, and what is to be known of them.
    #[must_use]
    pub fn into_parts(mut self) -> (Vec<CaseFile>, Vec<String>) {
        if self.n_secrets > 0 {
            self.notes.push(format!("what looks like a secret is left out of {} texts", self.n_secrets));
        }
        (self.files, self.notes)
    }

    fn add(&mut self, path: &str, content: String) {
        self.files.push(CaseFile { path: path.to_owned(), content: content.into_bytes() });
    }

    fn add_json(&mut self, path: &str, mut value: Value) {
        self.n_secrets += secrets::leave_out(&mut value);
        let content = serde_json::to_string_pretty(&value).expect("all keys are texts");
        self.add(path, content + "\n");
    }

    fn add_text(&mut self, path: &str, text: &str) {
        let mut cleaned = String::with_capacity(text.len());
        for line in text.lines() {
            let kept = secrets::clean(line);
            self.n_secrets += usize::from(kept != line);
            cleaned.push_str(&kept);
            cleaned.push('\n');
        }
        self.add(path, cleaned);
    }
}

fn incident_value(incident: &Incident) -> Value {
    let Incident {
        id,
        key,
        node,
        opened_wall_usec,
        closed_wall_usec,
        quiet_since_wall_usec: _,
        members,
        timeline,
        probability,
        chain,
        merged_into,
    } = incident;
    let members = members.iter().map(|member| {
        let Member { whom, namespace, name, symptom, since_wall_usec, until_wall_usec, based_on } = member;
        json!({
            "node": whom.node, "uid": whom.uid, "namespace": namespace, "name": name, "symptom": symptom,
            "since": since_wall_usec.map(rfc3339), "until": until_wall_usec.map(rfc3339), "based_on": based_on,
        })
    });
    let timeline = timeline.iter().map(|entry| json!({"at": rfc3339(entry.at_wall_usec), "text": entry.text}));
    json!({
        "id": id.to_string(), "cause": key.cause, "place": key.place, "node_of_cause": node, "probability": probability, "chain": chain,
        "opened": rfc3339(*opened_wall_usec), "closed": closed_wall_usec.map(rfc3339), "merged_into": merged_into.map(|id| id.to_string()),
        "members": members.collect::<Vec<_>>(), "timeline": timeline.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
