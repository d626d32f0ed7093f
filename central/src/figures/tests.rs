//! Each number, and that an agent cannot make them many.

use std::sync::Arc;

use kulprit_cluster::ClusterNode;
use kulprit_daemon::{Clock, metrics::Metrics};
use kulprit_diagnosis::{Indexed, NodeView};

use super::*;
use crate::{
    conditions::{
        NpdMode, judge,
        testing::{NOW, set, snapshot, state, well},
    },
    incident::testing::{incident, member},
};

/// What a scrape shows of these.
fn scrape(snapshot: &Snapshot, incidents: &Incidents) -> String {
    let mut metrics = Metrics::new("kulprit-central", "0", &Clock::kernel());
    let central = CentralMetrics::register(metrics.section("central"));
    let indexed = Indexed::new(snapshot);
    let attributions: Vec<_> = indexed.symptoms().iter().map(|symptom| indexed.attribute(symptom)).collect();
    let judged = judge(snapshot, &attributions, incidents, NpdMode::Coexist);
    Figures::of(snapshot, &attributions, incidents, Some(&judged)).show(&central);
    metrics.encode()
}

#[track_caller]
fn check(text: &str, line: &str) {
    assert!(text.lines().any(|own| own.strip_prefix("kulprit_central_") == Some(line)), "{line} is not in\n{text}");
}

#[test]
fn incidents_are_counted_by_cause_and_are_critical_while_a_vm_does_not_serve() {
    let stuck = member("prod", "db-0", "n1");
    let mut down = crate::incident::Member { symptom: "Unresponsive".to_owned(), ..member("prod", "db-1", "n1") };
    let of = |id: u128, members| Incident { members, ..incident(id, "LocalDiskStalled", "n1") };
    let of_all = |incidents: Vec<Incident>| scrape(&snapshot(vec![]), &incidents.into_iter().collect());
    let series = |severity: &str, n: &str| {
        format!(
            "incidents_open{{class=\"storage\",cause=\"LocalDiskStalled\",severity=\"{severity}\",node=\"n1\"}} {n}"
        )
    };
    let text = of_all(vec![of(1, vec![stuck.clone()]), of(2, vec![]), incident(3, "KubeletDown", "n2")]);
    check(&text, &series("warning", "2.0"));
    check(&text, "incidents_open{class=\"node\",cause=\"KubeletDown\",severity=\"warning\",node=\"n2\"} 1.0");
    check(&text, "incident_probability{class=\"node\",cause=\"KubeletDown\",severity=\"warning\",node=\"n2\"} 0.7");
    check(&of_all(vec![of(1, vec![stuck, down.clone()])]), &series("critical", "1.0"));
    down.until_wall_usec = Some(7);
    check(&of_all(vec![of(1, vec![down])]), &series("warning", "1.0"));
    let closed = Incident { closed_wall_usec: Some(7), ..of(1, vec![]) };
    assert!(!of_all(vec![closed]).contains("kulprit_central_incidents_open{"));
    let text = of_all(vec![incident(1, "OfAnotherVersion", "n1")]);
    check(&text, "incidents_open{class=\"outside\",cause=\"other\",severity=\"warning\",node=\"n1\"} 1.0");
}

#[test]
fn there_are_no_more_series_of_incidents_than_a_store_of_metrics_can_bear() {
    let many = (0..5_000).map(|n| incident(n, "KubeletDown", &format!("n{n}")));
    let text = scrape(&snapshot(vec![]), &many.collect());
    let n_series = text.lines().filter(|line| line.starts_with("kulprit_central_incidents_open{")).count();
    assert_eq!(n_series, MAX_INCIDENT_SERIES + 1);
    check(&text, "incidents_open{class=\"node\",cause=\"KubeletDown\",severity=\"warning\",node=\"\"} 4000.0");
}

#[test]
fn symptoms_verdicts_and_conditions_are_counted_and_those_that_nobody_shows_are_zero() {
    let mut sick = well("n1");
    set(&mut sick, FindingCode::KvmDeviceMissing, Status::Present);
    let text = scrape(&snapshot(vec![sick, well("n2")]), &Incidents::default());
    check(&text, "symptoms{symptom=\"Unspecified\"} 1.0");
    check(&text, "symptoms{symptom=\"StuckStopping\"} 0.0");
    check(&text, "verdicts{confidence=\"verdict\"} 1.0");
    check(&text, "verdicts{confidence=\"unexplained\"} 0.0");
    check(&text, "node_conditions{condition=\"KvmUnavailable\",status=\"True\"} 1.0");
    check(&text, "node_conditions{condition=\"KvmUnavailable\",status=\"False\"} 1.0");
    check(&text, "node_conditions{condition=\"KubeletDegraded\",status=\"Unknown\"} 0.0");
}

#[test]
fn nodes_that_nobody_hears_are_told() {
    let silent = NodeView { is_reporting: false, last_heard_wall_usec: Some(NOW - 7_500_000), ..well("n1") };
    let never = NodeView { is_reporting: false, last_heard_wall_usec: None, ..well("n2") };
    let mut snapshot = snapshot(vec![silent, never, well("n3")]);
    let of_cluster = |name: &str| Arc::new(ClusterNode { name: name.to_owned(), findings: Vec::new() });
    snapshot.cluster_nodes = ["n1", "n3", "n4", "n5"].map(of_cluster).into();
    let text = scrape(&snapshot, &Incidents::default());
    check(&text, "silent_node_last_heard_timestamp_seconds{node=\"n1\"} 1772360092.5");
    check(&text, "silent_node_last_heard_timestamp_seconds{node=\"n2\"} 0.0");
    check(&text, "nodes{status=\"missing\"} 2");
    assert!(!text.contains("node=\"n3\""), "{text}");
}

#[test]
fn blind_probes_and_the_oldest_unknown_are_told_of_the_catalogue_alone() {
    let blind = |name: &str, status| state(FindingCode::ProbeBlind, Subject::Probe { name: name.to_owned() }, status);
    let (mut first, mut second) = (well("n1"), well("n2"));
    for node in [&mut first, &mut second] {
        node.states.retain(|state| state.code != FindingCode::ProbeBlind);
        node.states.extend([blind("kvm", Status::Present), blind("made-up-1", Status::Present)]);
        set(node, FindingCode::KvmUnusable, Status::Unknown);
    }
    let silent = NodeView { is_reporting: false, ..first.clone() };
    let text =
        scrape(&snapshot(vec![first, second, NodeView { name: "n3".to_owned(), ..silent }]), &Incidents::default());
    check(&text, "blind_probes{probe=\"kvm\"} 2.0");
    check(&text, "unknown_since_timestamp_seconds{probe=\"kvm\"} 1772360040.0");
    assert!(!text.contains("made-up"), "{text}");
}
