//! `kill -9` of agent, worker or central at 200 random moments, on a real node with real guests and a kernel log that grows.
//!
//! What must hold: no status changes by a restart, nothing acked is lost, nothing is counted twice. It is read where a person would read it,
//! in central's query API, and where it was committed, in central's file. The truth is the kernel's own log and what was done to the guests.
//!
//! The moments come from a seed, which is printed; `KULPRIT_SEED=<seed>` repeats a run as far as a machine can.
#![expect(clippy::print_stdout, reason = "the seed, and figures of the run")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kulprit_tests::fault::Hung;
use kulprit_tests::guest::Program;
use kulprit_tests::kernel_log::KernelLog;
use kulprit_tests::programs::{Started, binary, child_of, free_address};
use kulprit_tests::wait::{Stopwatch, pause, wait_for, wait_until};
use kulprit_tests::{Guest, Lab, Node, process, shell};
use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags, params};
use serde_json::Value;

const N_KILLS: usize = 200;
/// Between two kills, at most; restarts included the whole takes about two minutes.
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// The kernel takes ten lines of user space in five seconds; slower than that none is dropped.
const LINE_EVERY: Duration = Duration::from_millis(600);
/// Device names of the lines: each is a subject that counts on its own.
const N_DEVICES: usize = 4;
/// A killed agent, a missing central and the longest back-off (30 s) one after the other.
const SETTLED: Duration = Duration::from_secs(60);

/// xorshift64*: enough to choose moments.
struct Random(u64);

impl Random {
    fn new() -> Result<Self> {
        let seed = match std::env::var("KULPRIT_SEED") {
            Ok(text) => text.parse().context("KULPRIT_SEED is a number")?,
            Err(_) => {
                let mut bytes = [0; 8];
                File::open("/dev/urandom")?.read_exact(&mut bytes)?;
                u64::from_le_bytes(bytes) | 1
            }
        };
        println!("crash: seed {seed}");
        Ok(Self(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn pause(&mut self) -> Duration {
        let most = u64::try_from(LONGEST_PAUSE.as_millis()).expect("it is short");
        Duration::from_millis(self.below(most))
    }
}

/// Central and the agent of a node, which can be killed and started again, with all they keep.
struct Pair {
    folder: tempfile::TempDir,
    root: PathBuf,
    listen: SocketAddr,
    central: Started,
    agent: Started,
}

impl Pair {
    fn start(node: &Node) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (root, listen) = (node.root(), free_address()?);
        let central = start_central(folder.path(), listen)?;
        let agent = start_agent(folder.path(), &root, listen)?;
        Ok(Self { folder, root, listen, central, agent })
    }

    fn worker(&self) -> Option<i32> {
        child_of(self.agent.pid(), "kulprit-agent-l")
    }

    /// What the command prints as JSON, or `None` while nobody answers.
    fn ask(&self, line: &[&str]) -> Result<Option<Value>> {
        let mut command = Command::new(binary("kulprit")?);
        command.env("KULPRIT_CENTRAL", format!("http://{}", self.listen)).args(line).args(["-o", "json"]);
        Ok(shell::output(&mut command).ok().and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// The agent's own word, over its socket.
    fn status(&self) -> Result<Option<Value>> {
        let socket = self.folder.path().join("agent/agent.sock");
        self.ask(&["status", "--socket", &socket.to_string_lossy()])
    }

    fn kill_central(&mut self) -> Result<()> {
        let acked = self.status()?;
        self.central.kill()?;
        if let Some(status) = acked {
            self.check_acked(&status)?;
        }
        self.central = start_central(self.folder.path(), self.listen)?;
        Ok(())
    }

    fn kill_agent(&mut self) -> Result<()> {
        self.agent.kill()?;
        self.agent = start_agent(self.folder.path(), &self.root, self.listen)?;
        Ok(())
    }

    /// Kills the worker, if the agent has one now.
    fn kill_worker(&mut self) -> Result<bool> {
        let Some(pid) = self.worker() else { return Ok(false) };
        process::signal(pid, Signal::SIGKILL)?;
        Ok(true)
    }

    fn store(&self) -> Result<Connection> {
        let path = self.folder.path().join("central/central.db");
        Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
    }

    /// What the agent knows to be acked is in the file of a central that was killed.
    fn check_acked(&self, status: &Value) -> Result<()> {
        let acked = status["central"]["last_acked_seq"].as_i64().context("last_acked_seq")?;
        let epoch = status["epoch"].as_i64().context("epoch")?;
        if acked == 0 {
            return Ok(());
        }
        let sql = "SELECT coalesce(max(seq), 0) FROM watermark WHERE epoch = ?1";
        let durable: i64 = self.store()?.query_row(sql, params![epoch], |row| row.get(0))?;
        ensure!(durable >= acked, "epoch {epoch}: {acked} was acked, and central's file has {durable}");
        Ok(())
    }
}

fn start_central(folder: &Path, listen: SocketAddr) -> Result<Started> {
    let mut command = Command::new(binary("kulprit-central")?);
    command
        .args(["--listen", &listen.to_string(), "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("central"));
    Started::start(&mut command, &folder.join("central.log"))
}

fn start_agent(folder: &Path, root: &Path, central: SocketAddr) -> Result<Started> {
    let mut command = Command::new(binary("kulprit-agent")?);
    command.args(["--node-name", "n1", "--cgroup-prefix", "/kulprit-lab/n1", "--admin-listen", "127.0.0.1:0"]);
    command
        .args(["--central", &format!("http://{central}"), "--host-root"])
        .arg(root)
        .arg("--state-dir")
        .arg(folder.join("agent"));
    Started::start(&mut command, &folder.join("agent.log"))
}

/// Lines in the kernel's log that look like I/O errors of devices that nobody has.
struct Feeder {
    log: KernelLog,
    marker: String,
    clock: Stopwatch,
    n_due: u32,
    /// What the kernel has logged, by device.
    logged: BTreeMap<String, u64>,
}

impl Feeder {
    fn new() -> Result<Self> {
        let marker = format!("kulprit{}x", std::process::id());
        Ok(Self { log: KernelLog::from_now()?, marker, clock: Stopwatch::start(), n_due: 0, logged: BTreeMap::new() })
    }

    /// Waits, and writes what is due meanwhile.
    fn wait(&mut self, time: Duration) -> Result<()> {
        let end = self.clock.elapsed() + time;
        while self.clock.elapsed() < end {
            let next = LINE_EVERY * self.n_due;
            if self.clock.elapsed() >= next {
                let device = usize::try_from(self.n_due)? % N_DEVICES;
                let line = format!(
                    "<4>I/O error, dev {}{device}, sector {} op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
                    self.marker, self.n_due
                );
                File::options().write(true).open("/dev/kmsg")?.write_all(line.as_bytes())?;
                self.n_due += 1;
            }
            pause(
                (LINE_EVERY * self.n_due).min(end).saturating_sub(self.clock.elapsed()).min(Duration::from_millis(100)),
            );
        }
        self.take_stock()
    }

    /// Counts what the kernel really logged.
    fn take_stock(&mut self) -> Result<()> {
        for line in self.log.new_lines()? {
            let device = line.strip_prefix("I/O error, dev ").and_then(|rest| rest.split(',').next());
            if let Some(device) = device.filter(|device| device.starts_with(&self.marker)) {
                *self.logged.entry(device.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }
}

fn list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// How often each device failed, as central counts.
fn counted(pair: &Pair, marker: &str) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let answer = pair.ask(&["findings", "--code", "BlockIoError"])?.context("central answers")?;
    for finding in list(&answer, "findings") {
        let device = finding["attributes"]["device_name"].as_str().unwrap_or_default();
        if device.starts_with(marker) {
            *counts.entry(device.to_owned()).or_default() += finding["count"].as_u64().unwrap_or(0);
        }
    }
    Ok(counts)
}

/// How long tasks wait on this machine changes with whatever else it does, its last compilation among it: no truth of this test.
const OF_THE_MACHINES_LOAD: [&str; 4] = ["NodeCpuStalled", "NodeIoStalled", "NodeMemoryStalled", "VmStalled"];

/// (code, subject) and status.
type Statuses = BTreeMap<(String, String), String>;

/// All states that central holds for true now, but for the machine's load.
fn statuses(pair: &Pair) -> Result<Option<Statuses>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let Some(answer) = pair.ask(&["findings", "--all"])? else { return Ok(None) };
    let is_of_load = |code: &str| OF_THE_MACHINES_LOAD.contains(&code);
    let states = list(&answer, "findings")
        .iter()
        .filter(|finding| finding["kind"] == "state" && !finding["code"].as_str().is_some_and(is_of_load));
    Ok(Some(states.map(|state| ((text(&state["code"]), text(&state["subject"])), text(&state["status"]))).collect()))
}

/// All states, once no new one has come for 30 s: what a probe says of a VM may need its second look.
fn all_statuses(pair: &Pair) -> Result<Statuses> {
    let (mut known, mut quiet) = (0, Stopwatch::start());
    let (statuses, _) = wait_for("the last of the states", Duration::from_secs(180), || {
        let Some(statuses) = statuses(pair)? else { return Ok(None) };
        if statuses.len() != known {
            (known, quiet) = (statuses.len(), Stopwatch::start());
        }
        Ok((quiet.elapsed() >= Duration::from_secs(30)).then_some(statuses))
    })?;
    Ok(statuses)
}

/// Waits until everything the agent has is durable at central.
fn settle(pair: &Pair) -> Result<()> {
    let took = wait_until("all records to be acked", SETTLED, || {
        let Some(status) = pair.status()? else { return Ok(false) };
        let is_whole = list(&status, "probes").iter().all(|probe| probe["outcome"] == "ok");
        Ok(is_whole && status["central"]["connected"] == true && status["central"]["spooled"] == 0)
    });
    let took = took.with_context(|| format!("the agent says {:?}", pair.status()))?;
    println!("crash: settled after {:.1} s", took.as_secs_f64());
    Ok(())
}

/// Each record of each start of the agent is in the history, once.
fn check_history(pair: &Pair) -> Result<()> {
    let store = pair.store()?;
    let tables: Vec<String> = store
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'history\\_%' ESCAPE '\\'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let all = tables
        .iter()
        .map(|table| format!("SELECT epoch, seq, kind FROM {table}"))
        .collect::<Vec<_>>()
        .join(" UNION ALL ");
    let losses: i64 =
        store.query_row(&format!("SELECT count(*) FROM ({all}) WHERE kind = 'loss'"), [], |row| row.get(0))?;
    assert_eq!(losses, 0, "nothing had to be dropped");
    let sql = format!(
        "SELECT w.epoch, w.seq, count(h.seq), count(DISTINCT h.seq), coalesce(min(h.seq), 0), coalesce(max(h.seq), 0)
         FROM watermark w LEFT JOIN ({all}) h ON h.epoch = w.epoch GROUP BY w.epoch, w.seq ORDER BY w.epoch"
    );
    let mut statement = store.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let (mut n_epochs, mut n_records) = (0, 0);
    while let Some(row) = rows.next()? {
        let (epoch, mark, n, n_distinct): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let (first, last): (i64, i64) = (row.get(4)?, row.get(5)?);
        assert_eq!((n, n_distinct, first, last), (mark, mark, 1, mark), "epoch {epoch}: count, distinct, first, last");
        (n_epochs, n_records) = (n_epochs + 1, n_records + n);
    }
    println!("crash: {n_records} records of {n_epochs} starts, each once");
    ensure!(n_epochs > 1 && n_records > 100, "too little was recorded to prove anything");
    Ok(())
}

/// The statuses that (code, subject) went through, repetitions left out, as the history tells.
fn way(history: &Value, code: &str, subject: &str) -> Vec<String> {
    let rows = list(history, "findings").iter().filter(|row| row["code"] == code && row["subject"] == subject);
    let mut way: Vec<String> = rows.map(|row| row["status"].as_str().unwrap_or_default().to_owned()).collect();
    way.dedup();
    way
}

#[test]
fn kills_change_no_status_lose_nothing_and_count_nothing_twice() -> Result<()> {
    let mut random = Random::new()?;
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let _healthy = Guest::define(&node, "db-0", Program::Idle).start()?;
    let stopped = Guest::define(&node, "db-1", Program::Idle).start()?;
    let stopped_key = format!("vm/{}", node.virsh(&["domuuid", stopped.name()])?.trim());
    let mut pair = Pair::start(&node)?;
    let wait_for_status = |wanted: &str| {
        let key = ("QemuStopped".to_owned(), stopped_key.clone());
        let is_it = |all: &Statuses| all.get(&key).is_some_and(|status| status == wanted);
        wait_for("central to know db-1", SETTLED, || Ok(statuses(&pair)?.filter(is_it)))
    };
    wait_for_status("Absent")?;
    let _hung = Hung::qemu(&stopped)?;
    wait_for_status("Present")?;
    settle(&pair)?;
    let before = all_statuses(&pair)?;

    let mut feeder = Feeder::new()?;
    let clock = Stopwatch::start();
    let mut n_killed = BTreeMap::<&str, usize>::new();
    while n_killed.values().sum::<usize>() < N_KILLS {
        feeder.wait(random.pause())?;
        let victim = match random.below(3) {
            0 => pair.kill_agent().map(|()| Some("agent")),
            1 => pair.kill_central().map(|()| Some("central")),
            _ => pair.kill_worker().map(|is_killed| is_killed.then_some("worker")),
        };
        let logs = || format!("central: {}\nagent: {}", tail(&pair.central), tail(&pair.agent));
        if let Some(victim) = victim.with_context(logs)? {
            *n_killed.entry(victim).or_default() += 1;
        }
        if clock.elapsed() > Duration::from_secs(240) {
            bail!("only {n_killed:?} in 240 s");
        }
    }
    println!(
        "crash: {n_killed:?} in {:.0} s, {} lines in the kernel's log",
        clock.elapsed().as_secs_f64(),
        feeder.logged.values().sum::<u64>()
    );
    settle(&pair)?;
    feeder.take_stock()?;

    check_history(&pair)?;
    ensure!(feeder.logged.len() == N_DEVICES, "the kernel logged {:?}", feeder.logged);
    assert_eq!(counted(&pair, &feeder.marker)?, feeder.logged, "central's counts, and the kernel's lines");
    // What is looked at seldom is told a moment after the start.
    let is_same = |all: &Statuses| *all == before;
    wait_for("all states to be as they were", SETTLED, || Ok(statuses(&pair)?.filter(is_same)))
        .with_context(|| format!("{before:?} before, {:?} now", statuses(&pair)))?;

    let history = pair.ask(&["findings", "--all", "--since", "1h"])?.context("central answers")?;
    for ((code, subject), status) in &before {
        let is_stopped = (code.as_str(), subject) == ("QemuStopped", &stopped_key);
        let wanted = if is_stopped { vec!["Absent", "Present"] } else { vec![status.as_str()] };
        assert_eq!(way(&history, code, subject), wanted, "{code} {subject}");
    }
    println!("crash: none of {} states changed", before.len());

    // A central whose agents are all gone says after its start what it said before its end.
    pair.agent.kill()?;
    let said = statuses(&pair)?.context("central answers")?;
    pair.kill_central()?;
    let (again, _) = wait_for("central to answer", SETTLED, || statuses(&pair))?;
    assert_eq!(again, said);
    Ok(())
}

fn tail(program: &Started) -> String {
    let log = program.log().unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
