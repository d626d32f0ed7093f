//! What the agent costs its node with 0, 10 and 100 VMs, beside node_exporter in the same run. Prints rows of a Markdown table.
//!
//! Everything is real: a booted node, its libvirt, QEMUs with tiny guests, release binaries. `make bench` runs it. System calls are counted
//! by strace in a minute of their own, because strace costs what it counts.
#![expect(clippy::print_stdout, reason = "the rows are what the program is for")]

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::bench::{System, Used, agent_admin, memory_mib, row};
use kulprit_tests::guest::Program;
use kulprit_tests::programs::{binary, child_of};
use kulprit_tests::shell;
use kulprit_tests::wait::{Stopwatch, pause};
use kulprit_tests::{Guest, Lab, Node};

/// How many VMs, and the agent's budget with so many, percent of a core (DESIGN).
const SIZES: [(usize, f64); 3] = [(0, 0.1), (10, 0.1), (100, 0.3)];
/// How long idleness is measured.
const IDLE: Duration = Duration::from_secs(60);
/// After a start, until nothing of the start is left.
const SETTLE: Duration = Duration::from_secs(20);
/// How often node_exporter is asked, as Prometheus asks by default.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);
/// Where node_exporter answers, in the node.
const EXPORTER: &str = "127.0.0.1:9100";

fn main() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let system = System::start(&node)?;
    let exporter = Exporter::start(&node)?;
    let mut guests: Vec<Guest<'_>> = Vec::new();
    for (n_guests, budget) in SIZES {
        while guests.len() < n_guests {
            guests.push(Guest::define(&node, &format!("vm-{}", guests.len()), Program::Idle).start()?);
        }
        pause(SETTLE);
        measure(&node, &system, exporter.as_ref(), n_guests, budget)?;
    }
    looks(&node)
}

/// node_exporter in the node, where it is installed.
struct Exporter {
    pid: i32,
}

impl Exporter {
    fn start(node: &Node) -> Result<Option<Self>> {
        let Ok(path) = std::env::var("NODE_EXPORTER") else { return Ok(None) };
        let unit = "lab-exporter.service";
        let inside = node.root().join("usr/local/bin/node_exporter");
        std::fs::copy(&path, &inside).with_context(|| format!("failed to copy {path}"))?;
        let listen = format!("--web.listen-address={EXPORTER}");
        node.run(&["systemd-run", "--unit", unit, "--service-type=exec", "/usr/local/bin/node_exporter", &listen])?;
        let pid = node.main_pid(unit)?.context("node_exporter runs")?;
        Ok(Some(Self { pid }))
    }
}

/// A minute in which nothing happens, and a minute of system calls.
fn measure(node: &Node, system: &System, exporter: Option<&Exporter>, n_guests: usize, budget: f64) -> Result<()> {
    let worker = child_of(system.agent.pid(), "kulprit-agent-l").context("the worker runs")?;
    let agent = system.agent.pid();
    let pids: Vec<i32> = [agent, worker].into_iter().chain(exporter.map(|exporter| exporter.pid)).collect();
    let before: Vec<Used> = pids.iter().map(|pid| Used::of(*pid)).collect();
    let clock = Stopwatch::start();
    while clock.elapsed() < IDLE {
        if exporter.is_some() {
            node.run(&["curl", "--silent", "--output", "/dev/null", &format!("http://{EXPORTER}/metrics")])?;
        }
        pause(SCRAPE_EVERY);
    }
    let elapsed = clock.elapsed();
    let with = format!("{n_guests} VMs");
    let names = ["agent", "libvirt worker", "node_exporter, asked every 15 s"];
    let used: Vec<(Used, f64, f64)> = pids
        .iter()
        .map(|pid| memory_mib(*pid).map(|(rss, anonymous)| (Used::of(*pid), rss, anonymous)))
        .collect::<Result<_>>()?;
    let calls = system_calls(&pids)?;
    let mut of_both = 0.0;
    for (((before, (after, rss, anonymous)), calls), name) in before.iter().zip(used).zip(calls).zip(names) {
        let percent = after.percent_since(before, elapsed);
        let measured = format!(
            "{percent:.3} % of a core, {:.1} wake-ups/s, RSS {rss:.1} MiB ({anonymous:.1} anonymous), {} system calls/min",
            after.wakeups_since(before, elapsed),
            calls.map_or_else(|| "?".to_owned(), |count| count.to_string()),
        );
        match name {
            "agent" => {
                of_both += rss;
                let is_met = percent <= budget && (n_guests > 10 || rss <= 7.63);
                let memory = if n_guests > 10 { String::new() } else { ", ≤ 8 MB".to_owned() };
                row(&format!("cost, {with}: {name}"), &measured, &format!("≤ {budget} %{memory}"), is_met);
            }
            "libvirt worker" => {
                of_both += rss;
                let memory = if n_guests > 10 { "(none of its own)" } else { "≤ 24 MB with the agent" };
                row(&format!("cost, {with}: {name}"), &measured, memory, n_guests > 10 || of_both <= 22.9);
            }
            _ => row(&format!("cost, {with}: {name}"), &measured, "(to compare)", true),
        }
    }
    Ok(())
}

/// System calls of all threads of each process in the same minute; `None` without strace.
fn system_calls(pids: &[i32]) -> Result<Vec<Option<u64>>> {
    if !shell::succeeds(&["strace", "--version"]) {
        return Ok(vec![None; pids.len()]);
    }
    let limit = IDLE.as_secs().to_string();
    let count = |pid: &i32| {
        Command::new("timeout")
            .args(["--signal=INT", &limit, "strace", "--follow-forks", "--summary-only", "--attach", &pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to run strace")
    };
    let counting = pids.iter().map(count).collect::<Result<Vec<_>>>()?;
    let counted = counting.into_iter().map(|child| {
        let output = child.wait_with_output().context("strace was lost")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let total = text.lines().find(|line| line.trim_end().ends_with(" total"));
        // `100.00 0.012345 12 1234 56 total`: the errors may be missing.
        Ok(total.and_then(|line| line.split_ascii_whitespace().nth(3)?.parse().ok()))
    });
    counted.collect()
}

/// The mean time of a look of each probe, waits included, from the agent's own figures.
fn looks(node: &Node) -> Result<()> {
    let url = format!("http://{}/metrics", agent_admin());
    let text = node.run(&["curl", "--silent", &url])?;
    let of = |series: &str, probe: &str| -> f64 {
        let lines =
            text.lines().filter(|line| line.starts_with(series) && line.contains(&format!("probe=\"{probe}\"")));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    for name in probe_names()? {
        let (n_looks, seconds) =
            (of("kulprit_probe_looks_total", &name), of("kulprit_probe_look_seconds_total", &name));
        let mean = if n_looks > 0.0 { seconds / n_looks * 1e6 } else { 0.0 };
        println!(
            "| a look of `{name}`, 100 VMs, waits included | {mean:.0} µs, {n_looks:.0} looks | (none of its own) | met |"
        );
    }
    Ok(())
}

/// Names of the probes, as the agent lists them.
fn probe_names() -> Result<Vec<String>> {
    let listed = Command::new(binary("kulprit-agent")?).args(["probes", "--output", "json"]).output()?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let probes = listed["probes"].as_array().context("a list of probes")?;
    Ok(probes.iter().filter_map(|probe| Some(probe["name"].as_str()?.to_owned())).collect())
}
