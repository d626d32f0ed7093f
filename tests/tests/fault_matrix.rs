//! Each probe against each way in which a host can refuse to be read: missing, EIO, EACCES, hang, garbage, storm.
//!
//! The real agent, given a whole root that is broken. It never ends by itself, every probe answers within its time, none says that all is
//! well of what it could not read, and none blames the host for our blindness. A row of the matrix is printed for each fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::broken_root::{BrokenRoot, Fault};
use kulprit_tests::programs::{Said, Started, binary, run_to_end};
use kulprit_tests::wait::wait_until;
use serde_json::Value;

/// A check waits 15 s for a probe and 12 s for holds.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// Probes that have something to read on any machine. The others look at what need not be there (pods, launchers' folders, SELinux, a
/// kubelet), and a folder that is not there is a positive look.
const READS_ANYWHERE: [&str; 10] =
    ["qemu", "launcher", "kernel-log", "limits", "pressure", "filesystem", "volumes", "network", "cpu-hardware", "kvm"];
/// FUSE mounts have no devices (`nodev`): that /dev/kvm cannot be opened is true there.
const TRUE_ON_FUSE: &str = "KvmDeviceInaccessible";

/// What each probe said: its outcome, and the codes of faults it claims.
type Row = BTreeMap<String, (String, Vec<String>)>;

fn check(root: &Path, procfs: &Path) -> Result<Row> {
    let mut command = Command::new(binary("kulprit-agent")?);
    command.args(["check", "--output", "json", "--host-root"]).arg(root).arg("--procfs").arg(procfs);
    let Said { code, stdout, stderr } = run_to_end(&mut command, CHECK_LIMIT)?;
    ensure!(matches!(code, Some(0..=2)), "ended with {code:?}: {stderr}");
    ensure!(!stderr.contains("panicked"), "{stderr}");
    let checked: Value = serde_json::from_str(&stdout)?;
    let row = |probe: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let faults = probe["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|finding| finding["severity"] == "fault" && finding["status"] == "Present");
        (text(&probe["name"]), (text(&probe["outcome"]), faults.map(|finding| text(&finding["code"])).collect()))
    };
    Ok(checked["probes"].as_array().context("a list of probes")?.iter().map(row).collect())
}

fn print(name: &str, row: &Row) {
    let cells: Vec<String> = row
        .iter()
        .map(|(probe, (outcome, faults))| {
            let faults = if faults.is_empty() { String::new() } else { format!(" {}", faults.join(" ")) };
            format!("{probe}: {outcome}{faults}")
        })
        .collect();
    println!("{name:<8} {}", cells.join(" | "));
}

/// What cannot be read is neither well nor a fault.
fn ensure_unknown(name: &str, row: &Row) -> Result<()> {
    let names: Vec<&str> = kulprit_agent::probes::PROBES.iter().map(|spec| spec.name).collect();
    ensure!(row.keys().map(String::as_str).collect::<std::collections::BTreeSet<_>>() == names.into_iter().collect());
    for (probe, (outcome, faults)) in row {
        let is_reader = READS_ANYWHERE.contains(&probe.as_str());
        ensure!(
            !is_reader || outcome != "ok",
            "{name}: `{probe}` could read nothing and says that it looked at everything"
        );
        let claims: Vec<&String> = faults.iter().filter(|code| *code != TRUE_ON_FUSE).collect();
        ensure!(claims.is_empty(), "{name}: `{probe}` could read nothing and claims {claims:?}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_read_is_unknown_and_ends_nobody() -> Result<()> {
    for (name, fault) in [("EIO", Fault::Eio), ("EACCES", Fault::Denied), ("hang", Fault::Hang)] {
        let root = BrokenRoot::mount(fault)?;
        let row = check(root.path(), &root.path().join("proc"))?;
        print(name, &row);
        ensure_unknown(name, &row)?;
    }
    Ok(())
}

#[test]
fn a_host_that_is_not_there_is_no_host_that_is_well() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let row = check(empty.path(), &empty.path().join("proc"))?;
    print("missing", &row);
    // No device node is a positive look: the folder can be read, and there is none.
    let claims: Vec<&String> =
        row.values().flat_map(|(_, faults)| faults).filter(|code| *code != "KvmDeviceMissing").collect();
    ensure!(claims.is_empty(), "an empty host is blamed for {claims:?}");
    Ok(())
}

#[test]
fn garbage_and_files_beyond_all_measure_are_survived() -> Result<()> {
    for (name, fault) in [("garbage", Fault::Garbage), ("storm", Fault::Storm)] {
        let root = BrokenRoot::mount(fault)?;
        print(name, &check(root.path(), &root.path().join("proc"))?);
    }
    Ok(())
}

/// Starts the agent as a service on a broken root, lets it look, and ends it as systemd would.
fn run_and_stop(fault: Fault) -> Result<()> {
    let root = BrokenRoot::mount(fault)?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("agent.yaml");
    fs::write(&config, "probes: {kmsg_look_back: 1s}\n")?;
    let log = folder.path().join("log");
    let mut command = Command::new(binary("kulprit-agent")?);
    command
        .args(["--node-name", "broken", "--central", "http://127.0.0.1:1", "--admin-listen", "127.0.0.1:0", "--config"])
        .arg(&config)
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .arg("--host-root")
        .arg(root.path())
        .arg("--procfs")
        .arg(root.path().join("proc"));
    let agent = Started::start(&mut command, &log)?;
    let n_held = || root.n_held();
    let lived = live_and_stop(agent, folder.path(), &n_held);
    // Whoever still waits could not end, and neither could we.
    root.release();
    let status = lived?;
    let said = fs::read_to_string(&log)?;
    ensure!(status.success(), "SIGTERM: {status}: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

/// Waits until each probe has looked or is known to be blind, then ends the agent. The agent is not waited for where something fails.
fn live_and_stop(mut agent: Started, folder: &Path, n_held: &dyn Fn() -> usize) -> Result<ExitStatus> {
    let socket = folder.join("state/agent.sock");
    let status = || -> Result<Value> {
        let mut ask = Command::new(binary("kulprit")?);
        ask.args(["status", "--output", "json", "--socket"]).arg(&socket);
        Ok(serde_json::from_str(&run_to_end(&mut ask, CHECK_LIMIT)?.stdout)?)
    };
    let looked = wait_until("every probe to have looked, or to be known as blind", CHECK_LIMIT, || {
        ensure!(agent.is_running()?, "the agent has ended: {}", agent.log()?);
        let Ok(status) = status() else { return Ok(false) };
        let probes = status["probes"].as_array().cloned().unwrap_or_default();
        let n_probes = kulprit_agent::probes::PROBES.len();
        Ok(probes.len() == n_probes && probes.iter().all(|probe| probe["outcome"] != "starting"))
    });
    if let Err(error) = looked {
        let said = format!("the agent says {:?}; its log: {}", status(), agent.log()?);
        // Its drop would wait for what cannot end.
        std::mem::forget(agent);
        return Err(error.context(said));
    }
    println!("{} reads hang", n_held());
    match agent.stop() {
        Ok(status) => Ok(status),
        Err(error) => Err(error.context("it does not end")),
    }
}

#[test]
fn an_agent_on_a_host_that_hangs_answers_and_can_be_stopped() -> Result<()> {
    run_and_stop(Fault::Hang)
}

#[test]
fn an_agent_on_a_host_of_garbage_answers_and_can_be_stopped() -> Result<()> {
    run_and_stop(Fault::Garbage)
}
