//! Whole-process figures on a lab node: what the agent costs, and how fast a death is known. Prints rows of a Markdown table.
//!
//! Everything is real: a booted node, libvirt, QEMUs, release binaries, and central's file as the judge of what is durable. `make bench`
//! runs it. Costs are read from the scheduler's own account of each thread (`/proc/PID/task/*/schedstat`, nanoseconds), because a minute
//! within the budget is six ticks of the clock that `top` shows.
#![expect(clippy::print_stdout, reason = "the rows are what the program is for")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::guest::Program;
use kulprit_tests::lab::GATEWAY;
use kulprit_tests::programs::{Started, binary, child_of};
use kulprit_tests::wait::{Stopwatch, pause, wait_until};
use kulprit_tests::{Guest, Lab, Node, process};
use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};

const N_GUESTS: usize = 10;
const N_DEATHS: usize = 30;
/// How long idleness is measured.
const IDLE: Duration = Duration::from_secs(60);
/// After a start, until nothing of the start is left.
const SETTLE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let system = System::start(&node)?;
    pause(SETTLE);
    system.idle("no VM")?;
    let guests: Vec<Guest<'_>> = (0..N_GUESTS)
        .map(|n| Guest::define(&node, &format!("vm-{n}"), Program::Idle).start())
        .collect::<Result<_>>()?;
    pause(SETTLE);
    system.idle(&format!("{N_GUESTS} idle VMs"))?;

    let mut deaths = Vec::new();
    for guest in guests.iter().cycle().take(N_DEATHS) {
        let pid = guest.qemu_pid().context("it runs")?;
        deaths.push(system.time_to("QemuExited", || process::signal(pid, Signal::SIGKILL))?);
        wait_until("libvirt to see it", LIMIT, || Ok(guest.state()?.starts_with("shut off")))?;
        guest.start()?;
        // Its process and thread are known to the agent.
        pause(Duration::from_millis(2_500));
    }
    row("QEMU death → durable at central", &spread(&mut deaths), "p99 ≤ 60 ms", percentile(&deaths, 99) <= 60.0);

    // Without a restart by systemd, the unit is dead when its process is.
    let drop_in = node.root().join("etc/systemd/system/kubelet.service.d");
    fs::create_dir_all(&drop_in)?;
    fs::write(drop_in.join("bench.conf"), "[Service]\nRestart=no\n[Unit]\nStartLimitIntervalSec=0\n")?;
    node.systemctl(&["daemon-reload"])?;
    let mut deaths = Vec::new();
    for _ in 0..N_DEATHS {
        let pid = node.main_pid("kubelet.service")?.context("kubelet runs")?;
        deaths.push(system.time_to("KubeletInactive", || process::signal(pid, Signal::SIGKILL))?);
        node.systemctl(&["start", "kubelet.service"])?;
        // Seen to be well again, and longer ago than changes of a flapping state are held together.
        pause(Duration::from_secs(4));
    }
    row(
        "unit death → finding durable at central",
        &spread(&mut deaths),
        "p99 ≤ 50 ms",
        percentile(&deaths, 99) <= 50.0,
    );
    Ok(())
}

fn row(what: &str, measured: &str, budget: &str, is_met: bool) {
    println!("| {what} | {measured} | {budget} | {} |", if is_met { "met" } else { "**not met**" });
}

/// The value below which so many percent lie, milliseconds; `sorted` is not empty.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}

fn spread(times_ms: &mut [f64]) -> String {
    times_ms.sort_unstable_by(f64::total_cmp);
    let at = |percent| percentile(times_ms, percent);
    format!("p50 {:.1} ms, p99 {:.1} ms of {}", at(50), at(99), times_ms.len())
}

/// Release binaries of central and agent for one node.
struct System {
    folder: tempfile::TempDir,
    _central: Started,
    agent: Started,
}

impl System {
    fn start(node: &Node) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listen = format!("{GATEWAY}:7443");
        let mut central = node.lab().command(binary("kulprit-central")?);
        central
            .args(["--listen", &listen, "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join("central"));
        let central = Started::start(&mut central, &folder.path().join("central.log"))?;
        wait_until("central to be up", LIMIT, || Ok(central.log()?.contains("central is up")))?;
        let mut agent = node.agent_command(binary("kulprit-agent")?);
        agent.args(["--node-name", "n1", "--cgroup-prefix", "/kulprit-lab/n1", "--admin-listen", "127.0.0.1:0"]);
        agent.args(["--central", &format!("http://{listen}"), "--host-root"]).arg(node.root());
        agent.arg("--state-dir").arg(folder.path().join("agent"));
        let agent = Started::start(&mut agent, &folder.path().join("agent.log"))?;
        let system = Self { folder, _central: central, agent };
        wait_until("the agent to reach central", LIMIT, || Ok(system.store()?.is_some()))?;
        Ok(system)
    }

    /// Central's file and the name of its newest table of history, once there is one.
    fn store(&self) -> Result<Option<(Connection, String)>> {
        let store = Connection::open_with_flags(
            self.folder.path().join("central/central.db"),
            OpenFlags::SQLITE_OPEN_READ_ONLY,
        )?;
        let sql = "SELECT max(name) FROM sqlite_schema WHERE type = 'table' AND name LIKE 'history\\_%' ESCAPE '\\'";
        let table: Option<String> = store.query_row(sql, [], |row| row.get(0))?;
        Ok(table.map(|table| (store, table)))
    }

    /// Measures a minute in which nothing happens.
    fn idle(&self, with: &str) -> Result<()> {
        let worker = child_of(self.agent.pid(), "kulprit-agent-l").context("the worker runs")?;
        let pids = [self.agent.pid(), worker];
        let before = pids.map(on_cpu_nsec);
        let clock = Stopwatch::start();
        pause(IDLE);
        let elapsed_nsec = clock.elapsed().as_secs_f64() * 1e9;
        let share = |n: usize| spent_nsec(&before[n], &on_cpu_nsec(pids[n])) / elapsed_nsec * 100.0;
        let (agent, worker_share) = (share(0), share(1));
        row(&format!("idle CPU, {with}: agent"), &format!("{agent:.3} % of a core"), "≤ 0.1 %", agent <= 0.1);
        row(
            &format!("idle CPU, {with}: libvirt worker"),
            &format!("{worker_share:.3} % of a core"),
            "(none of its own)",
            true,
        );
        let mib = |pid| rss_kib(pid).map(|kib| kib / 1024.0);
        let (agent, worker) = (mib(pids[0])?, mib(pids[1])?);
        row(
            &format!("RSS, {with}: agent"),
            &format!("{agent:.1} MiB ({:.1} anonymous)", anonymous_kib(pids[0])? / 1024.0),
            "≤ 8 MB",
            agent <= 7.63,
        );
        row(
            &format!("RSS, {with}: agent and worker"),
            &format!("{:.1} MiB", agent + worker),
            "≤ 24 MB",
            agent + worker <= 22.9,
        );
        Ok(())
    }

    /// Milliseconds from `event` until central's file has a new record of that code.
    fn time_to(&self, code: &str, event: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (store, table) = self.store()?.context("central has a history")?;
        let sql = format!("SELECT coalesce(max(id), 0) FROM {table} WHERE code = ?1 AND NOT is_absent");
        let mut newest = store.prepare(&sql)?;
        let mut look = || newest.query_row([code], |row| row.get::<_, i64>(0));
        let before = look()?;
        let clock = Stopwatch::start();
        event()?;
        // Not `wait`: its period is as long as what is measured.
        while look()? == before {
            anyhow::ensure!(clock.elapsed() < LIMIT, "no {code} within {} s: {}", LIMIT.as_secs(), self.agent.log()?);
            pause(Duration::from_micros(200));
        }
        Ok(clock.elapsed().as_secs_f64() * 1e3)
    }
}

/// Time on a CPU of each thread, nanoseconds; the scheduler's own account.
fn on_cpu_nsec(pid: i32) -> BTreeMap<String, f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |path: &Path| fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok();
    tasks.filter_map(|task| Some((task.file_name().into_string().ok()?, of(&task.path())?))).collect()
}

fn spent_nsec(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> f64 {
    after.iter().map(|(tid, nsec)| nsec - before.get(tid).copied().unwrap_or(0.0)).sum()
}

fn rss_kib(pid: i32) -> Result<f64> {
    status_kib(pid, "VmRSS:")
}

fn anonymous_kib(pid: i32) -> Result<f64> {
    status_kib(pid, "RssAnon:")
}

fn status_kib(pid: i32, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok());
    value.with_context(|| format!("no {key} of {pid}"))
}
