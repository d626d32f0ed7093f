//! What the benchmarks share: rows of a Markdown table, the agent and central of one node, and what a process costs.
//!
//! Costs are read from the scheduler's own account of each thread (`/proc/PID/task/*/schedstat`, nanoseconds), because a minute within the
//! budget is six ticks of the clock that `top` shows.
#![expect(clippy::print_stdout, reason = "the rows are what the benchmarks are for")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags};

use crate::certificates::Certificates;
use crate::lab::GATEWAY;
use crate::node::Node;
use crate::programs::{Started, binary};
use crate::wait::{Stopwatch, pause, wait_until};

/// How long anything here may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Prints a row: figure, measured, budget, met.
pub fn row(what: &str, measured: &str, budget: &str, is_met: bool) {
    println!("| {what} | {measured} | {budget} | {} |", if is_met { "met" } else { "**not met**" });
}

/// The value below which so many percent lie, milliseconds; `sorted` is not empty.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}

/// Sorts them, and says what most take and what the worst do.
pub fn spread(times_ms: &mut [f64]) -> String {
    times_ms.sort_unstable_by(f64::total_cmp);
    let at = |percent| percentile(times_ms, percent);
    format!("p50 {:.1} ms, p99 {:.1} ms of {}", at(50), at(99), times_ms.len())
}

/// Release binaries of central and agent for one node.
#[derive(Debug)]
pub struct System {
    folder: tempfile::TempDir,
    _central: Started,
    /// The agent.
    pub agent: Started,
}

impl System {
    /// Starts both; the agent's `/metrics` answer on port 7442 in the node.
    ///
    /// # Errors
    /// If a binary is not built, or does not come up.
    pub fn start(node: &Node) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listen = format!("{GATEWAY}:7443");
        let certificates = Certificates::new(folder.path())?;
        let (config, of_agent) = (folder.path().join("central.yaml"), folder.path().join("agent.yaml"));
        fs::write(&config, certificates.central())?;
        fs::write(&of_agent, certificates.agent("n1"))?;
        let mut central = node.lab().command(binary("kulprit-central")?);
        central.arg("--config").arg(config);
        central
            .args(["--listen", &listen, "--admin-listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join("central"));
        let central = Started::start(&mut central, &folder.path().join("central.log"))?;
        wait_until("central to be up", LIMIT, || Ok(central.log()?.contains("central is up")))?;
        let mut agent = node.agent_command(binary("kulprit-agent")?);
        agent.arg("--config").arg(of_agent);
        agent.args(["--node-name", "n1", "--cgroup-prefix", "/kulprit-lab/n1", "--admin-listen", "127.0.0.1:7442"]);
        agent.args(["--central", &format!("https://{listen}"), "--host-root"]).arg(node.root());
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

    /// Milliseconds from `event` until central's file has a new record of that code.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn time_to(&self, code: &str, event: impl FnOnce() -> Result<()>) -> Result<f64> {
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

/// What a process has used since it began.
#[derive(Clone, Debug)]
pub struct Used {
    /// By thread, nanoseconds.
    on_cpu_nsec: BTreeMap<String, f64>,
    /// By thread: times it went to sleep by itself, and so was woken.
    n_sleeps: BTreeMap<String, f64>,
}

impl Used {
    /// Reads it now; threads that have ended are not in it.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().collect();
        let each = |read: &dyn Fn(&Path) -> Option<f64>| {
            tasks.iter().filter_map(|task| Some((task.file_name().into_string().ok()?, read(&task.path())?))).collect()
        };
        let on_cpu = |path: &Path| fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok();
        let sleeps = |path: &Path| {
            let status = fs::read_to_string(path.join("status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok())
        };
        Self { on_cpu_nsec: each(&on_cpu), n_sleeps: each(&sleeps) }
    }

    /// Share of a core since `before`, percent.
    #[must_use]
    pub fn percent_since(&self, before: &Self, elapsed: Duration) -> f64 {
        grown(&before.on_cpu_nsec, &self.on_cpu_nsec) / elapsed.as_secs_f64() / 1e9 * 100.0
    }

    /// Wake-ups a second since `before`.
    #[must_use]
    pub fn wakeups_since(&self, before: &Self, elapsed: Duration) -> f64 {
        grown(&before.n_sleeps, &self.n_sleeps) / elapsed.as_secs_f64()
    }
}

fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> f64 {
    after.iter().map(|(tid, value)| value - before.get(tid).copied().unwrap_or(0.0)).sum()
}

/// Resident memory, MiB: all of it, and what is its own.
///
/// # Errors
/// If the process is gone.
pub fn memory_mib(pid: i32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |key: &str| {
        let value =
            text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        value.map(|kib| kib / 1024.0).with_context(|| format!("no {key} of {pid}"))
    };
    Ok((value("VmRSS:")?, value("RssAnon:")?))
}

/// Where the agent's `/metrics` answer, in its node's network.
#[must_use]
pub fn agent_admin() -> SocketAddr {
    ([127, 0, 0, 1], 7442).into()
}
