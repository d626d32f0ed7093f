//! Measures `kulprit diagnose` as a user runs it: whole processes, release build, one row of docs/figures.md each.
//!
//! The large cases are made here: two nodes whose kubelet, kernel and pods log as real ones do (forms of lines from a recorded
//! KubeVirt), one line in two thousand an error, and one planted cause.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kulprit_tests::{bench::row, programs::binary, wait::Stopwatch};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike},
};

/// What a must-gather of a few days has.
const LARGE_BYTES: u64 = 200 << 20;
/// What somebody leaves running over the weekend.
const HUGE_BYTES: u64 = 2 << 30;
const MAX_RSS_MIB: f64 = 256.0;

fn main() -> Result<()> {
    let kulprit = binary("kulprit")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ is in the root")?;
    typical(&kulprit, root)?;
    let folder = tempfile::tempdir()?;
    let small = mk_case(&folder.path().join("large"), LARGE_BYTES)?;
    let cpu_before = cpu_secs()?;
    let took = diagnose(&kulprit, &small)?;
    let cpu_secs = cpu_secs()? - cpu_before;
    let peak = peak_mib()?;
    row(
        &format!("`diagnose`, {} MiB of logs", LARGE_BYTES >> 20),
        &format!("{:.2} s, peak {peak:.0} MiB", took.as_secs_f64()),
        "≤ 256 MiB",
        peak <= MAX_RSS_MIB,
    );
    // It has one thread: its processor time is one core's, whatever else this machine does.
    let mib_per_sec = mib(LARGE_BYTES) / cpu_secs;
    row(
        "log through the signatures, one core (processor time)",
        &format!("{mib_per_sec:.0} MiB/s"),
        "≥ 300 MB/s",
        mib_per_sec * 1.048_576 >= 300.0,
    );
    let huge = mk_case(&folder.path().join("huge"), HUGE_BYTES)?;
    let took = diagnose(&kulprit, &huge)?;
    let peak = peak_mib()?;
    row(
        &format!("`diagnose`, {} GiB of logs", HUGE_BYTES >> 30),
        &format!("{:.1} s, peak {peak:.0} MiB", took.as_secs_f64()),
        "≤ 256 MiB",
        peak <= MAX_RSS_MIB,
    );
    Ok(())
}

/// The project's own cases, one process each, as a user would ask them one by one.
fn typical(kulprit: &Path, root: &Path) -> Result<()> {
    let cases = root.join("central/diagnosis/fixtures/cases");
    let mut times: Vec<Duration> = Vec::new();
    for entry in fs::read_dir(&cases).with_context(|| format!("{}", cases.display()))? {
        times.push(diagnose(kulprit, &entry?.path())?);
    }
    times.sort();
    ensure!(!times.is_empty(), "no cases in {}", cases.display());
    let p50 = times[times.len() / 2].as_secs_f64() * 1e3;
    let p99 = times[times.len() * 99 / 100].as_secs_f64() * 1e3;
    row(
        "`diagnose`, a typical case",
        &format!("p50 {p50:.0} ms, p99 {p99:.0} ms of {}", times.len()),
        "≤ 200 ms",
        p99 <= 200.0,
    );
    let watch = Stopwatch::start();
    let status = Command::new(kulprit).arg("eval").arg(root.join("central/diagnosis/fixtures")).output()?.status;
    ensure!(status.success(), "kulprit eval: {status}");
    let secs = watch.elapsed().as_secs_f64();
    let n_cases = times.len() + fs::read_dir(root.join("central/diagnosis/fixtures/recordings"))?.count();
    row(
        "`eval`, three baselines included",
        &format!("{:.0} cases/s", n_cases as f64 / secs),
        "(none of its own)",
        true,
    );
    Ok(())
}

fn diagnose(kulprit: &Path, case: &Path) -> Result<Duration> {
    let watch = Stopwatch::start();
    let output = Command::new(kulprit).arg("diagnose").arg(case).args(["-o", "json"]).output()?;
    let took = watch.elapsed();
    let is_answered = matches!(output.status.code(), Some(0 | 3));
    ensure!(is_answered, "{}: {}", case.display(), String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// Largest resident set of all children so far, MiB.
fn peak_mib() -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "kibibytes")]
    let kib = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() as f64;
    Ok(kib / 1024.0)
}

/// Processor time of all children so far, user and system, seconds.
fn cpu_secs() -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "minutes in microseconds")]
    let secs = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(secs(usage.user_time()) + secs(usage.system_time()))
}

#[expect(clippy::cast_precision_loss, reason = "a size for a person")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

const MANIFEST: &str = "apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-02T00:00:00Z\nsubject: {namespace: prod, name: db-0}\nnodes: {hosting: n0}\n";
const VMI: &str = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: db-0, namespace: prod, uid: 6992a243-a0c3-4730-b40a-1f0e196f2469}\nstatus: {phase: Failed, nodeName: n0}\n";

/// A case whose logs have `n_bytes` together.
fn mk_case(folder: &Path, n_bytes: u64) -> Result<PathBuf> {
    fs::create_dir_all(folder.join("cluster"))?;
    fs::write(folder.join("case.yaml"), MANIFEST)?;
    fs::write(folder.join("cluster/vmi.yaml"), VMI)?;
    for node in 0..2 {
        let journal = folder.join(format!("nodes/n{node}/journal"));
        fs::create_dir_all(&journal)?;
        mk_log(&journal.join("kubelet.log"), n_bytes / 5, kubelet_line)?;
        mk_log(&folder.join(format!("nodes/n{node}/kmsg.log")), n_bytes / 10, kernel_line)?;
    }
    let pods = folder.join("pods");
    fs::create_dir_all(&pods)?;
    mk_log(&pods.join("kubevirt_virt-handler-8v5x2_virt-handler.log"), n_bytes / 5, handler_line)?;
    mk_log(&pods.join("prod_virt-launcher-db-0-kbtkz_compute.log"), n_bytes / 5, handler_line)?;
    Ok(folder.to_owned())
}

fn mk_log(path: &Path, n_bytes: u64, line: fn(u64, &mut Vec<u8>)) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut written, mut n, mut text) = (0, 0, Vec::new());
    while written < n_bytes {
        text.clear();
        line(n, &mut text);
        file.write_all(&text)?;
        written += text.len() as u64;
        n += 1;
    }
    file.flush()?;
    Ok(())
}

/// Hour, minute, second and microsecond of the `n`th line of a day.
fn clock(n: u64) -> (u64, u64, u64, u64) {
    let secs = n / 50 % 86_400;
    (secs / 3_600, secs / 60 % 60, secs % 60, n * 7_919 % 1_000_000)
}

fn kubelet_line(n: u64, out: &mut Vec<u8>) {
    let (hour, minute, second, micro) = clock(n);
    let head = format!("Mar 01 {hour:02}:{minute:02}:{second:02} n0 kubelet[21574]: ");
    let level = if n % 2_000 == 77 { 'E' } else { 'I' };
    let klog = format!("{level}0301 {hour:02}:{minute:02}:{second:02}.{micro:06}   21574 ");
    let body = match n % 2_000 {
        77 => "pod_workers.go:1324] \"Error syncing pod, skipping\" err=\"failed to \\\"StartContainer\\\" for \\\"app\\\" with CrashLoopBackOff: \\\"back-off 5m0s restarting failed container\\\"\" pod=\"shop/web-7d9c\"".to_owned(),
        _ if n.is_multiple_of(3) => format!("reconciler_common.go:251] \"operationExecutor.VerifyControllerAttachedVolume started for volume \\\"public\\\" (UniqueName: \\\"kubernetes.io/empty-dir/d26c87cd-3191-4ef0-810b-8e1f6044c767-public\\\") pod \\\"virt-launcher-db-{n}-kbtkz\\\" (UID: \\\"d26c87cd-3191-4ef0-810b-8e1f6044c767\\\") \" pod=\"prod/virt-launcher-db-{n}-kbtkz\""),
        _ => format!("pod_startup_latency_tracker.go:148] \"Observed pod startup duration\" pod=\"prod/web-{n}\" podStartSLOduration=2.781007357 podStartE2EDuration=\"2.781007357s\" totalImagesPullingTime=\"0s\" isStatefulPod=false"),
    };
    out.extend(format!("{head}{klog}{body}\n").bytes());
}

fn kernel_line(n: u64, out: &mut Vec<u8>) {
    let line = match n % 4 {
        0 => format!(
            "[{:>8}.{:06}] IPv6: ADDRCONF(NETDEV_CHANGE): veth1a2b3c4d: link becomes ready\n",
            n / 50,
            n % 1_000_000
        ),
        1 => format!("[{:>8}.{:06}] cni0: port 3(veth1a2b3c4d) entered forwarding state\n", n / 50, n % 1_000_000),
        2 => format!(
            "[{:>8}.{:06}] audit: type=1400 audit(1763712000.123:456): apparmor=\"STATUS\" operation=\"profile_replace\" profile=\"unconfined\" name=\"docker-default\" pid=4711\n",
            n / 50,
            n % 1_000_000
        ),
        _ => format!("[{:>8}.{:06}] kvm [4711]: ignored rdmsr: 0x140 data 0x0\n", n / 50, n % 1_000_000),
    };
    out.extend(line.bytes());
}

fn handler_line(n: u64, out: &mut Vec<u8>) {
    let (hour, minute, second, micro) = clock(n);
    let msg = match n % 3 {
        0 => "Synced vmi",
        1 => "resyncing virt-launcher domains",
        _ => "Successfully connected to domain notify socket",
    };
    out.extend(format!("{{\"component\":\"virt-handler\",\"kind\":\"\",\"level\":\"info\",\"msg\":\"{msg}\",\"name\":\"db-1\",\"namespace\":\"prod\",\"pos\":\"server.go:210\",\"timestamp\":\"2026-03-01T{hour:02}:{minute:02}:{second:02}.{micro:06}Z\",\"uid\":\"6992a243-a0c3-4730-b40a-1f0e196f2469\"}}\n").bytes());
}
