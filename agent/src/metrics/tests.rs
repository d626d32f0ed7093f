//! Every documented series is there, and moves.

use std::time::Duration;

use kulprit_daemon::Clock;
use kulprit_judge::{OccurrenceVerdict, StateVerdict, Verdict};
use kulprit_model::{Attributes, FindingCode, Subject};

use super::*;
use crate::tracker::{Memory, ProbeRow};

fn look(verdicts: Vec<Verdict>) -> Look {
    let at = Clock::kernel().now();
    Look { probe: "kvm", at, took_usec: 1_500, blind_because: None, verdicts, sightings: Vec::new(), position: None }
}

fn moved(metrics: &AgentMetrics) {
    let rows = [ProbeRow { name: "kvm", look_every: Duration::from_secs(60) }];
    let mut tracker = Tracker::new(&rows, "b", Memory::default(), Clock::kernel().now());
    let mut counted = Counts::default();
    let missing =
        |is_missing| Verdict::State(StateVerdict::seen(FindingCode::KvmDeviceMissing, Subject::Node, is_missing));
    let foreign = Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::NodeOomKill,
        subject: Subject::vm("x"),
        at: Clock::kernel().now(),
        count: 1,
        attributes: Attributes::new(),
        evidence: Vec::new(),
    });
    let of_another_probe =
        Verdict::State(StateVerdict::seen(FindingCode::KubeletInactive, Subject::unit("kubelet.service"), true));
    for n in 0..20 {
        let look = look(vec![missing(n % 2 == 0), of_another_probe.clone()]);
        metrics.looked(&look);
        tracker.look(look);
    }
    let blind = Look { blind_because: Some("x".to_owned()), ..look(vec![missing(true)]) };
    metrics.looked(&blind);
    tracker.look(blind);
    let rows = [ProbeRow { name: "kernel-log", look_every: Duration::from_secs(60) }];
    metrics.tracked(&tracker, &mut counted);
    let mut log = Tracker::new(&rows, "b", Memory::default(), Clock::kernel().now());
    log.look(Look { probe: "kernel-log", ..look(vec![foreign]) });
    metrics.tracked(&log, &mut Counts::default());
    // The gauge of the first tracker, again: it is what is shown last that counts.
    metrics.tracked(&tracker, &mut Counts::default());
    metrics.probe_ended("kvm");
    metrics.connected();
    metrics.disconnected();
    metrics.connected();
    metrics.sent();
    metrics.acked();
    metrics.config_read(true);
}

#[test]
fn every_documented_series_moves_and_every_series_is_documented() {
    let mut all = Metrics::new("kulprit-agent", "0", &Clock::kernel());
    let metrics = AgentMetrics::default();
    metrics.register(&mut all);
    let status = SpoolStatus {
        last_seq: 9,
        acked_seq: 4,
        n_waiting: 5,
        n_lost: 2,
        bytes: 100,
        n_commits: 3,
        commit_usec: 1_000,
        n_damaged: 1,
        is_durable: true,
        ..SpoolStatus::default()
    };
    SpoolSeries(watch::channel(status).1).register(&mut all);
    let probes = Arc::new(ProbeCounters::default());
    for counter in [&probes.errors, &probes.kernel_log_records, &probes.worker_starts, &probes.bus_connects] {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    ProbeSeries(probes).register(&mut all);
    moved(&metrics);
    let text = all.encode();
    let value_of = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, f64::max)
    };
    for SeriesDoc { name, .. } in SERIES {
        assert!(value_of(name) > 0.0, "`{name}` is documented and did not move:\n{text}");
    }
    let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next());
    let ours = names.filter(|name| name.starts_with("kulprit_") && !name.starts_with("kulprit_build"));
    for name in ours {
        assert!(SERIES.iter().any(|series| series.name == name), "`{name}` is not documented");
    }
}

#[test]
fn the_docs_have_a_row_for_each() {
    let text = metrics_markdown();
    for SeriesDoc { name, meaning, .. } in SERIES {
        assert!(text.contains(&format!("| `{name}` |")) && text.contains(meaning));
    }
}
