//! Central's volume full, then hung: verdicts go on, acks stop, `/ready` says it, and nothing is lost once the disk is back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::{get, report};
use kulprit_tests::disk::FileDisk;
use kulprit_tests::fault::KvmMissing;
use kulprit_tests::system::System;
use kulprit_tests::wait::{wait_for, wait_until};
use kulprit_tests::{Lab, Node};

/// A look of the probe, its hold, and a busy machine.
const SEEN: Duration = Duration::from_secs(30);
/// Several tries of a commit.
const BACK: Duration = Duration::from_secs(15);
const AGENT_ADMIN_PORT: u16 = 7442;
const CODE: &str = "KvmDeviceMissing";

/// Waits until central shows the fault, or shows that it is gone.
fn shows(system: &System, is_missing: bool) -> Result<Duration> {
    let is_shown = || {
        let findings = system.findings(&["--node", "n1"])?;
        Ok(findings.iter().any(|finding| finding.code == CODE && finding.status.as_deref() == Some("Present"))
            == is_missing)
    };
    wait_until(if is_missing { "the fault" } else { "its end" }, SEEN, is_shown).with_context(|| system.logs())
}

/// Records that central has not acked.
fn waiting(node: &Node) -> Result<u64> {
    let page = get(node, AGENT_ADMIN_PORT, "/metrics")?;
    let value = page.lines().find_map(|line| line.strip_prefix("kulprit_spool_waiting_records ")?.trim().parse().ok());
    value.with_context(|| page.clone())
}

/// Waits until `/ready` says that the store takes nothing, and why.
fn is_said(system: &System, why: &str) -> Result<Duration> {
    let said = || {
        let page = system.admin("/ready")?;
        Ok(page.contains(" 200 OK") && page.contains("degraded: store: takes nothing") && page.contains(why))
    };
    wait_until("/ready to say it", SEEN, said).with_context(|| system.logs())
}

/// Waits until the agent has nothing left that is not acked, and `/ready` no remark.
fn is_back(system: &System, node: &Node) -> Result<Duration> {
    let is_well = || Ok(waiting(node)? == 0 && !system.admin("/ready")?.contains("degraded"));
    wait_until("acks", BACK, is_well).with_context(|| system.logs())
}

#[test]
fn a_full_and_a_hung_volume_stop_acks_and_no_verdict_and_nothing_is_lost() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let disk = FileDisk::create_shared(&[], "central", 16)?;
    let mut system = System::start_keeping(&lab, "", disk.here().join("data"))?;
    system.watch(&node)?;
    is_back(&system, &node)?;

    let full = disk.fill(16)?;
    let mut n_faults = 0;
    // What is left of the last blocks takes some commits more.
    let (missing, _) = wait_for("the disk to be full", SEEN * 2, || {
        let missing = KvmMissing::new(&node)?;
        shows(&system, true)?;
        n_faults += 1;
        if system.admin("/ready")?.contains("degraded") {
            return Ok(Some(missing));
        }
        drop(missing);
        shows(&system, false)?;
        Ok(None)
    })?;
    report("said that the disk is full", is_said(&system, "full")?);
    drop(missing);
    report("full: recovery shown", shows(&system, false)?);
    ensure!(waiting(&node)? > 0, "what is not on disk is not acked");
    drop(full);
    report("full: acked after there was room", is_back(&system, &node)?);

    let frozen = disk.freeze()?;
    let missing = KvmMissing::new(&node)?;
    report("hung: fault shown", shows(&system, true)?);
    report("said that the disk hangs", is_said(&system, "the disk does not answer")?);
    ensure!(waiting(&node)? > 0, "what is not on disk is not acked");
    drop(frozen);
    report("hung: acked after it answered", is_back(&system, &node)?);

    let page = system.admin("/metrics")?;
    for series in ["kulprit_central_lost_records_total 0", "kulprit_central_missing_records_total 0"] {
        ensure!(page.lines().any(|line| line == series), "{series} is not in {page}");
    }
    // What was acked is on disk.
    system.kill_central();
    system.start_central()?;
    report("known after a restart", shows(&system, true)?);
    let kept = system.findings(&["--node", "n1", "--since", "1h"])?;
    let n_kept =
        kept.iter().filter(|finding| finding.code == CODE && finding.status.as_deref() == Some("Present")).count();
    ensure!(n_kept > n_faults, "{n_kept} of {} faults are in the history", n_faults + 1);
    drop(missing);
    shows(&system, false)?;
    Ok(())
}
