//! How fast a death is known, on a lab node. Prints rows of a Markdown table; what it costs is told by `kulprit-bench-cost`.
//!
//! Everything is real: a booted node, libvirt, QEMUs, release binaries, and central's file as the judge of what is durable. `make bench`
//! runs it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::bench::{LIMIT, System, percentile, row, spread};
use kulprit_tests::guest::Program;
use kulprit_tests::wait::{pause, wait_until};
use kulprit_tests::{Guest, Lab, process};
use nix::sys::signal::Signal;

const N_GUESTS: usize = 10;
const N_DEATHS: usize = 30;
/// After a start, until nothing of the start is left.
const SETTLE: Duration = Duration::from_secs(15);

fn main() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let system = System::start(&node)?;
    let guests: Vec<Guest<'_>> = (0..N_GUESTS)
        .map(|n| Guest::define(&node, &format!("vm-{n}"), Program::Idle).start())
        .collect::<Result<_>>()?;
    pause(SETTLE);

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
