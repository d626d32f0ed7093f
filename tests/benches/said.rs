//! How fast logs of pods are read: lines sorted out, taken apart and peeled, as the `container-log` probe does it.
//!
//! Two storms of a hundred thousand lines, one in a thousand planted: of what healthy pods write (only the filter works), and of one
//! error again and again (counted by its fingerprint). Before anything is measured, every planted line must have been counted,
//! and nothing else.

use std::cell::RefCell;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kulprit_host::log::{Clock, LogReader};
use kulprit_judge::said::{Hearing, LogSource, Speaker};
use kulprit_model::{Moment, attribute};

const N_LINES: usize = 100_000;
const PLANTED_EVERY: usize = 1_000;
/// What is read at once.
const N_LINES_AT_ONCE: usize = 1_000;
const CLOCK: Clock = Clock { at_usec: 1_795_243_350_000_000, btime_usec: Some(0) };
const AT: Moment = Moment { wall_usec: CLOCK.at_usec, boottime_usec: CLOCK.at_usec };

/// What a healthy launcher, virt-handler and CSI driver write all day.
const NOISE: [&str; 4] = [
    r#"{"component":"virt-launcher","kind":"","level":"info","msg":"Synced vmi","name":"db-0","namespace":"prod","pos":"server.go:207","timestamp":"2026-11-21T06:42:07.123456Z","uid":"1c2c0d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"}"#,
    r#"{"component":"virt-handler","level":"info","msg":"Processing event prod/db-0","pos":"vm.go:1234","timestamp":"2026-11-21T06:42:07.123456Z"}"#,
    r#"I1121 06:42:07.114982       1 utils.go:165] ID: 4711 GRPC call: /csi.v1.Node/NodeGetVolumeStats"#,
    r#"{"component":"virt-launcher","level":"info","msg":"kubevirt domain status: Running(1):Unpaused(5)","pos":"client.go:296","timestamp":"2026-11-21T06:42:07.123456Z"}"#,
];
/// The same error again and again, but for its times.
const ERROR: &str = r#"{"component":"virt-handler","level":"error","msg":"dial tcp 10.0.0.7:49152: connect: connection refused","pos":"proxy.go:321","timestamp":"2026-11-21T06:42:07.123456Z"}"#;
const PLANTED: &str = r#"{"component":"virt-launcher","level":"error","msg":"Failed to terminate process 76 with SIGTERM: Device or resource busy","subcomponent":"libvirt","timestamp":"2026-11-21T06:42:07.123456Z"}"#;

fn storm(text_of: impl Fn(usize) -> &'static str) -> Vec<String> {
    let line = |n: usize| {
        let text = if n.is_multiple_of(PLANTED_EVERY) { PLANTED } else { text_of(n) };
        format!("2026-11-21T06:42:{:02}.{:09}Z stdout F {text}\n", n / 1_000 % 60, n % 1_000)
    };
    let lines: Vec<String> = (0..N_LINES).map(line).collect();
    lines.chunks(N_LINES_AT_ONCE).map(<[String]>::concat).collect()
}

/// How often the planted line and how often another was said.
fn read(storm: &[String]) -> (u64, u64) {
    let (namespace, pod, container) = ("prod".to_owned(), "virt-launcher-db-0-x".to_owned(), "compute".to_owned());
    let source = LogSource::Pod { speaker: Speaker::Launcher, namespace, pod, container };
    let (mut reader, hearing) = (LogReader::new(CLOCK), RefCell::new(Hearing::new()));
    let (mut n_planted, mut n_others) = (0, 0);
    for lines in storm {
        let find = |lines: &[u8]| hearing.borrow_mut().find(1, lines, &|_| AT);
        reader.read_lines(black_box(lines.as_bytes()), find, |line| {
            hearing.borrow_mut().hear(1, &source, line, AT, true, |attributes| attributes);
        });
        for verdict in hearing.borrow_mut().take().verdicts {
            match verdict.attributes.get(attribute::OPERATION) {
                Some("destroy-domain") => n_planted += verdict.count,
                _ => n_others += verdict.count,
            }
        }
    }
    (n_planted, n_others)
}

fn said(criterion: &mut Criterion) {
    let n_planted = N_LINES.div_ceil(PLANTED_EVERY) as u64;
    let mut group = criterion.benchmark_group("said");
    group.throughput(Throughput::Elements(N_LINES as u64)).sample_size(20);
    let calm = storm(|n| NOISE[n % NOISE.len()]);
    assert_eq!(read(&calm), (n_planted, 0), "every planted line, and nothing else");
    group.bench_function("healthy", |bencher| bencher.iter(|| read(&calm)));
    let errors = storm(|_| ERROR);
    assert_eq!(read(&errors), (n_planted, N_LINES as u64 - n_planted), "none is lost");
    group.bench_function("one_error", |bencher| bencher.iter(|| read(&errors)));
    group.finish();
}

criterion_group!(benches, said);
criterion_main!(benches);
