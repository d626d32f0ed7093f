//! What a large cluster costs central, and how soon it answers: 1,000 nodes, 10,000 VMs, 20,000 pods.
//!
//! All of central but for the wire and the disk's fsync: written objects go through the watches' own door, findings through the
//! state, the engine decides as it does live, and questions are asked of the service itself. Rows of docs/figures.md come out.
//! Criterion times one thing again and again; here are waits (p50, p99), a whole process's memory and its idle seconds.
//! `cargo bench --bench cluster -- 100` is a tenth of the nodes and of all the rest, `-- storm` only what is written to nodes that are sick at once.
#![expect(clippy::print_stdout, reason = "the rows are what the benchmark is for")]

#[path = "cluster/objects.rs"]
mod objects;
#[path = "cluster/requests.rs"]
mod requests;
#[path = "cluster/storm.rs"]
mod storm;
#[path = "cluster/world.rs"]
mod world;

use std::{fs, time::Duration};

use kulprit_central::{
    engine::pass,
    incident::{Incidents, Timers},
};
use kulprit_diagnosis::Indexed;
use kulprit_model::{FindingCode, Status};
use requests::Requests;
use storm::Storm;
use tokio::{runtime::Runtime, time::Instant, time::sleep};
use world::World;

/// How long idle and busy costs are looked at.
const WINDOW: Duration = Duration::from_secs(20);
/// Changes of objects a second, of what a diagnosis reads and of what it does not.
const TRICKLE_PER_SEC: usize = 50;
const N_PASSES: usize = 30;
const N_ASKED: usize = 50;

fn main() {
    let n_nodes = std::env::args().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(1_000);
    let (n_lists, n_streams) = Requests::of_an_hour();
    row(
        "central: requests to the API server in an hour of steady state",
        &format!("{n_lists} pages of lists, {n_streams} streams continued"),
    );
    let runtime = Runtime::new().expect("a runtime starts");
    runtime.block_on(measure_storm(n_nodes));
    if std::env::args().any(|arg| arg == "storm") {
        return;
    }
    runtime.block_on(measure(n_nodes));
}

async fn measure_storm(n_nodes: usize) {
    let Storm { first, conditions, taints } = Storm::over(n_nodes).await;
    let said = |(n, took): (usize, Duration)| format!("{n} writes in {:.1} s", secs(took));
    row(&format!("central, {n_nodes} nodes: conditions of all written after a start"), &said(first));
    row(
        &format!("central, {n_nodes} nodes: the condition of {} flips at once", n_nodes / 2),
        &format!(
            "{}, taints set in the next {} s: {taints} (2 may be)",
            said(conditions),
            storm::TAINTS_AFTER.as_secs()
        ),
    );
}

async fn measure(n_nodes: usize) {
    let size = format!("{n_nodes} nodes, {} VMs, {} pods", n_nodes * 10, n_nodes * 20);
    let mut world = World::new(n_nodes);

    let (began, before) = (Instant::now(), rss_mib());
    world.report_nodes();
    let reported = began.elapsed();
    let held = rss_mib() - before;
    drop(world.live.snapshot());
    let (shown, n_states) = (rss_mib() - before - held, world.n_states());
    let each = |mib: f64| mib * 1_048_576.0 / n_states;
    row(
        "central: memory of a state (RSS)",
        &format!("{:.0} bytes held, {:.0} more shown, of {n_states:.0}", each(held), each(shown)),
    );
    let began = Instant::now();
    world.list_objects();
    let listed = began.elapsed();
    assert!(world.explain(7).await.starts_with("Unspecified"), "the VM is well");
    row(
        &format!("central, {size}: first verdict after a restart"),
        &format!("{:.1} s, {:.1} s of it to take the lists in", secs(began.elapsed()), secs(listed)),
    );
    row(&format!("central, {size}: findings of all nodes taken in"), &format!("{:.1} s", secs(reported)));

    let incidents = Incidents::default();
    let run = |world: &World| pass(&world.live.snapshot(), &incidents, &Timers::default());
    assert_eq!(run(&world).attributions.len(), 0, "all is well");
    let passes = times(N_PASSES, || drop(run(&world)));
    row("central: a pass, all well (processor time)", &percentiles(&passes));

    world.each_hundredth_vm(|world, vm| world.raise(vm, FindingCode::QemuStopped, Status::Present));
    let n_symptoms = run(&world).attributions.len();
    let passes = times(N_PASSES, || drop(run(&world)));
    row(
        &format!("central: a pass, one VM in a hundred hung ({n_symptoms} symptoms; processor time)"),
        &percentiles(&passes),
    );
    let snapshot = world.live.snapshot();
    let indexed = Indexed::new(&snapshot);
    let symptoms = indexed.symptoms();
    let diagnoses = times(N_PASSES, || symptoms.iter().for_each(|symptom| drop(indexed.attribute(symptom))));
    let each = secs(diagnoses.iter().sum::<Duration>()) / f64::from(u32::try_from(N_PASSES * n_symptoms).expect("few"));
    row("central: diagnoses a second of one core", &format!("{:.0}/s", 1.0 / each));
    let diagnoses = times(N_PASSES, || symptoms.iter().for_each(|symptom| drop(indexed.attribute_causes(symptom))));
    let each = secs(diagnoses.iter().sum::<Duration>()) / f64::from(u32::try_from(N_PASSES * n_symptoms).expect("few"));
    row("central: the same, causes alone, as passes ask", &format!("{:.0}/s", 1.0 / each));
    drop((symptoms, snapshot));
    world.each_hundredth_vm(|world, vm| world.raise(vm, FindingCode::QemuStopped, Status::Absent));

    world.start_engine();
    sleep(Duration::from_secs(3)).await;
    let idle = share_of_a_core(WINDOW, async { sleep(WINDOW).await }).await;
    row(&format!("central, {size}: idle"), &format!("{idle:.2} % of a core, RSS {:.0} MiB", rss_mib()));
    let busy = share_of_a_core(WINDOW, world.trickle(WINDOW, TRICKLE_PER_SEC)).await;
    row(
        &format!("central, {size}: {TRICKLE_PER_SEC} changes of objects a second"),
        &format!("{busy:.1} % of a core, RSS {:.0} MiB", rss_mib()),
    );

    let (mut asked, mut decided) = (Vec::new(), Vec::new());
    for n in 0..N_ASKED {
        let vm = (n * 97 + 3) % (n_nodes * 10);
        let began = Instant::now();
        world.raise(vm, FindingCode::QemuStopped, Status::Present);
        assert!(world.explain(vm).await.starts_with("Unresponsive"), "the VM is in trouble");
        asked.push(began.elapsed());
        while !world.has_incident(vm) {
            sleep(Duration::from_millis(1)).await;
        }
        decided.push(began.elapsed());
        world.raise(vm, FindingCode::QemuStopped, Status::Absent);
    }
    verdict_row("central: finding raised → verdict readable", &asked);
    row("central: finding raised → incident open", &percentiles(&decided));
    let mut asked = Vec::new();
    for n in 0..N_ASKED {
        let vm = (n * 89 + 5) % (n_nodes * 10);
        let began = Instant::now();
        world.fail(vm);
        assert!(world.explain(vm).await.starts_with("StoppedUnexpectedly"), "the VM is in trouble");
        asked.push(began.elapsed());
        world.heal(vm);
    }
    verdict_row("central: symptom raised (phase of a VMI) → verdict readable", &asked);

    let n_failing = n_nodes / 2;
    let before = cpu_secs();
    let began = Instant::now();
    (0..n_failing).for_each(|node| world.lose_storage(node));
    let waited = async {
        while !world.is_one_incident_of(n_failing) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(900), waited).await;
    let (took, cpu) = (secs(began.elapsed()), cpu_secs() - before);
    let how = if outcome.is_ok() { format!("{took:.1} s") } else { format!("not within {took:.0} s") };
    budget_row(
        &format!("central: {n_failing} nodes and their VMs lose one backend at once → one incident of all"),
        &format!("{how}, {cpu:.1} s of processor time; {}; RSS {:.0} MiB", world.causes(), rss_mib()),
        "5,000 nodes ≤ 1 s",
        outcome.is_ok() && n_failing >= 5_000 && took <= 1.0,
    );
    world.stop().await;
}

fn row(what: &str, measured: &str) {
    budget_row(what, measured, "(none of its own)", true);
}

fn verdict_row(what: &str, times: &[Duration]) {
    let is_met = percentile(times, 50) <= 300.0 && percentile(times, 99) <= 2_000.0;
    budget_row(what, &percentiles(times), "p50 ≤ 300 ms, p99 ≤ 2 s", is_met);
}

fn budget_row(what: &str, measured: &str, budget: &str, is_met: bool) {
    let met = if is_met { "met" } else { "**not met**" };
    println!("| {what} | {measured} | {budget} | {met} |");
}

/// Processor time of each time, on one core, whatever else this machine does.
fn times(n: usize, mut what: impl FnMut()) -> Vec<Duration> {
    let timed = (0..n).map(|_| {
        let began = thread_cpu();
        what();
        thread_cpu() - began
    });
    timed.collect()
}

/// Source: the first field of /proc/thread-self/schedstat, nanoseconds on a processor.
fn thread_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("/proc is mounted");
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number of nanoseconds"))
}

fn percentiles(times: &[Duration]) -> String {
    format!("p50 {:.1} ms, p99 {:.1} ms of {}", percentile(times, 50), percentile(times, 99), times.len())
}

/// Milliseconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    secs(times[(times.len() * percent / 100).min(times.len() - 1)]) * 1e3
}

fn secs(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Source: fields 14 and 15 of /proc/self/stat, hundredths of a second; what ended threads used is in it.
fn cpu_secs() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks") / 100.0).sum()
}

async fn share_of_a_core(window: Duration, during: impl Future<Output = ()>) -> f64 {
    let before = cpu_secs();
    during.await;
    100.0 * (cpu_secs() - before) / secs(window)
}

/// Source: `VmRSS` of /proc/self/status, kB.
fn rss_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a size");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("kB") / 1_024.0
}
