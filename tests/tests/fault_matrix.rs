//! Each probe against each way in which a host can refuse to be read: missing, EIO, EACCES, hang, garbage, storm.
//!
//! The real agent, given a whole root that is broken. It never ends by itself, every probe answers within its time, none says that all is
//! well of what it could not read, and none blames the host for our blindness. A row of the matrix is printed for each fault.

#![expect(clippy::print_stdout, reason = "the rows of the matrix")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::broken_root::{BrokenRoot, Fault};
use kulprit_tests::process;
use kulprit_tests::programs::{Started, binary, run_to_end};
use kulprit_tests::wait::{wait_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A check waits 15 s for a probe and 12 s for holds.
const CHECK_LIMIT: Duration = Duration::from_secs(60);
/// The agent's own drain is 10 s.
const END_LIMIT: Duration = Duration::from_secs(15);

/// Probes that have something to read on any machine. The others look at what need not be there (pods, launchers' folders, SELinux, a
/// kubelet), and a folder that is not there is a positive look.
const READS_ANYWHERE: [&str; 10] =
    ["qemu", "launcher", "kernel-log", "limits", "pressure", "filesystem", "volumes", "network", "cpu-hardware", "kvm"];
/// FUSE mounts have no devices (`nodev`): that /dev/kvm cannot be opened is true there.
const TRUE_ON_FUSE: &str = "KvmDeviceInaccessible";

/// What each probe said: its outcome, and the codes of faults it claims.
type Row = BTreeMap<String, (String, Vec<String>)>;

/// Runs a check. `end_hang` is called when the answer is there: a thread of the agent that hangs in the kernel lets nobody end before.
fn check(root: &Path, procfs: &Path, end_hang: impl FnOnce()) -> Result<Row> {
    let folder = tempfile::tempdir()?;
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let mut command = Command::new(binary("kulprit-agent")?);
    command.args(["check", "--output", "json", "--host-root"]).arg(root).arg("--procfs").arg(procfs);
    command.stdout(File::create(&out)?);
    let mut agent = Started::start(&mut command, &err)?;
    let answer = wait_for("the check to answer", CHECK_LIMIT, || {
        let text = fs::read_to_string(&out)?;
        Ok(serde_json::from_str::<Value>(&text).is_ok().then_some(text))
    });
    end_hang();
    let status = agent.wait(CHECK_LIMIT)?;
    let (stdout, _) = answer.with_context(|| format!("{:?}", agent.log()))?;
    let stderr = agent.log()?;
    ensure!(matches!(status.code(), Some(0..=2)), "ended with {status}: {stderr}");
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
        // What `pressure` reads cannot hang, and does not in this tree: it speaks of this machine, which may be busy.
        if (name, probe.as_str()) == ("hang", "pressure") {
            continue;
        }
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
        let row = check(root.path(), &root.path().join("proc"), || root.release())?;
        print(name, &row);
        ensure_unknown(name, &row)?;
    }
    Ok(())
}

#[test]
fn a_host_that_is_not_there_is_no_host_that_is_well() -> Result<()> {
    let empty = tempfile::tempdir()?;
    let row = check(empty.path(), &empty.path().join("proc"), || ())?;
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
        print(name, &check(root.path(), &root.path().join("proc"), || ())?);
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
    let mut agent = Started::start(&mut command, &log)?;
    let lived = live_and_end(&mut agent, folder.path());
    println!("{} reads hang", root.n_held());
    let did_hang = root.n_held() > 0;
    // Whoever still waits in the kernel could not end before.
    root.release();
    let status = agent.wait(CHECK_LIMIT)?;
    lived?;
    let said = agent.log()?;
    ensure!(status.success(), "SIGTERM: {status}: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(did_hang == (fault == Fault::Hang), "{fault:?}: this test tests something else");
    Ok(())
}

/// Waits until each probe has looked or is known to be blind, then ends the agent as systemd does: within its drain it is gone, but for
/// threads that the kernel holds.
fn live_and_end(agent: &mut Started, folder: &Path) -> Result<()> {
    let socket = folder.join("state/agent.sock");
    let status = || -> Result<Value> {
        let mut ask = Command::new(binary("kulprit")?);
        ask.args(["status", "--output", "json", "--socket"]).arg(&socket);
        Ok(serde_json::from_str(&run_to_end(&mut ask, CHECK_LIMIT)?.stdout)?)
    };
    let looked = wait_until("every probe to have looked, or to be known as blind", CHECK_LIMIT, || {
        ensure!(agent.is_running()?, "the agent has ended");
        let Ok(status) = status() else { return Ok(false) };
        let probes = status["probes"].as_array().cloned().unwrap_or_default();
        let n_probes = kulprit_agent::probes::PROBES.len();
        Ok(probes.len() == n_probes && probes.iter().all(|probe| probe["outcome"] != "starting"))
    });
    let looked = looked.with_context(|| format!("the agent says {:?}; its log: {:?}", status(), agent.log()));
    process::signal(agent.pid(), Signal::SIGTERM)?;
    looked?;
    wait_until("the agent to have ended but for threads that hang", END_LIMIT, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap_or_default();
        Ok(!agent.is_running()? || stat.contains(") Z "))
    })?;
    Ok(())
}

#[test]
fn an_agent_on_a_host_that_hangs_answers_and_can_be_stopped() -> Result<()> {
    run_and_stop(Fault::Hang)
}

#[test]
fn an_agent_on_a_host_of_garbage_answers_and_can_be_stopped() -> Result<()> {
    run_and_stop(Fault::Garbage)
}
