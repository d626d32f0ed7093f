//! How fast the kernel's log is read: a record parsed and matched, as the `kernel-log` probe does it with what `/dev/kmsg` gives.
//!
//! The storm is a hundred thousand records of a noisy machine, one in a thousand a planted fault. Before anything is measured, every planted
//! line must have been found, and nothing else.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kulprit_host::kmsg::parse_kmsg_record;
use kulprit_judge::kernel_log::{KernelLog, known_lines};
use kulprit_model::Moment;

const N_RECORDS: usize = 100_000;
const PLANTED_EVERY: usize = 1_000;
const N_FAULTS: usize = 100_000;

/// What machines without a fault log all day: net, audit, firmware, USB, and lines that only begin like a fault.
const NOISE: [&str; 8] = [
    "IPv6: ADDRCONF(NETDEV_CHANGE): veth1a2b3c4d: link becomes ready",
    "audit: type=1400 audit(1763712000.123:456): apparmor=\"STATUS\" operation=\"profile_replace\" profile=\"unconfined\" name=\"docker-default\" pid=4711",
    "eth0: Caught tx_queue_len zero misconfig",
    "kvm [4711]: ignored rdmsr: 0x140 data 0x0",
    "EXT4-fs (dm-3): mounted filesystem 6f1d0c52-7a35-4dc5-b0f5-0f8b1d6b7c11 r/w with ordered data mode. Quota mode: none.",
    "cni0: port 3(veth1a2b3c4d) entered forwarding state",
    "IN=eth0 OUT= MAC=52:54:00:12:34:56 SRC=10.0.0.17 DST=10.0.0.1 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=54321 DF PROTO=TCP SPT=49152 DPT=22",
    "TCP: request_sock_TCP: Possible SYN flooding on port 0.0.0.0:8443. Sending cookies.",
];
const PLANTED: &str = "I/O error, dev sdb, sector 6400 op 0x0:(READ) flags 0x800 phys_seg 8 prio class 2";

fn storm() -> Vec<String> {
    let text = |n: usize| if n.is_multiple_of(PLANTED_EVERY) { PLANTED } else { NOISE[n % NOISE.len()] };
    (0..N_RECORDS).map(|n| format!("6,{},{},-;{}\n SUBSYSTEM=net\n", n + 1, n * 10, text(n))).collect()
}

fn read(storm: &[String]) -> usize {
    let (mut log, mut out) = (KernelLog::new(), Vec::new());
    for bytes in storm {
        let record = parse_kmsg_record(black_box(bytes).as_bytes()).expect("the storm is of records");
        let usec = i64::try_from(record.usec).expect("it is small");
        let at = Moment { wall_usec: usec, boottime_usec: usec };
        log.read_line(at, &record.text, &|_, _| None, &mut out);
    }
    log.flush(&mut out);
    out.len()
}

fn kernel_log(criterion: &mut Criterion) {
    let storm = storm();
    assert_eq!(read(&storm), N_RECORDS.div_ceil(PLANTED_EVERY), "every planted line, and nothing else");
    let mut group = criterion.benchmark_group("kernel_log");
    group.throughput(Throughput::Elements(N_RECORDS as u64)).sample_size(20);
    group.bench_function("storm", |bencher| bencher.iter(|| read(&storm)));
    // Every form the table knows, over and over: the patterns are compiled once for all of them, as in a running agent.
    let known: Vec<&str> = known_lines().map(|(_, line, _)| line).collect();
    let faults: Vec<String> = known
        .iter()
        .cycle()
        .take(N_FAULTS)
        .enumerate()
        .map(|(n, line)| format!("3,{},{n},-;{line}\n", n + 1))
        .collect();
    group.throughput(Throughput::Elements(faults.len() as u64));
    group.bench_function("faults_only", |bencher| bencher.iter(|| read(&faults)));
    group.finish();
}

criterion_group!(benches, kernel_log);
criterion_main!(benches);
