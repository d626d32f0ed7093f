//! Fifty normal lives of VMs, with central's own clocks: started, paused by their user, resumed, saved, restored, shut down or destroyed.
//! Kulprit sees each of them and has nothing to say: no finding that is a fault, no verdict, no incident.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::{SOON, report};
use kulprit_tests::guest::Program;
use kulprit_tests::system::{
    System,
    answers::{Finding, Incident},
};
use kulprit_tests::wait::{Stopwatch, pause, wait_until};
use kulprit_tests::{Guest, Lab, Node};

const N_LIVES: usize = 50;
/// At the same time: starts and ends of one VM fall into looks at others.
const N_AT_ONCE: usize = 5;
/// Longer than any hold of a finding: what the last life left would show.
const AFTERWARDS: Duration = Duration::from_secs(12);

#[test]
fn fifty_normal_lives_raise_nothing() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let mut system = System::start(&lab, "")?;
    system.watch(&node)?;
    let clock = Stopwatch::start();
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&system, &is_over));
        let lives: Vec<_> = (0..N_AT_ONCE).map(|_| scope.spawn(|| live_on(&node, &next))).collect();
        let lived = lives.into_iter().try_for_each(|lives| lives.join().expect("no life panics"));
        if lived.is_ok() {
            pause(AFTERWARDS);
        }
        is_over.store(true, Ordering::Relaxed);
        let n_looks = watcher.join().expect("the watcher does not panic")?;
        lived?;
        report(&format!("{N_LIVES} lives, {n_looks} times asked meanwhile"), clock.elapsed());
        anyhow::Ok(())
    })
    .with_context(|| system.logs())?;

    let said = system.findings(&["--since", "1h"])?;
    // True texts of no weight for a VM that runs or was ended: QEMU warns at each start that nested KVM lacks `pni` here, and
    // libvirt now and then reads the monitor of a QEMU that just ended with something unread (`qemuMonitorIORead`).
    let weighs_nothing = |text: &str| {
        text.contains("warning: host doesn't support requested feature")
            || text.contains("Unable to read from monitor: Connection reset by peer")
    };
    let is_harmless = |finding: &Finding| {
        !finding.evidence.is_empty() && finding.evidence.iter().all(|seen| weighs_nothing(&seen.text))
    };
    let is_wrong = |finding: &&Finding| {
        finding.severity == "fault" && finding.holds() && !is_of_load(&finding.code) && !is_harmless(finding)
    };
    let faults: Vec<_> = said.iter().filter(is_wrong).collect();
    ensure!(faults.is_empty(), "faults were found in healthy VMs: {faults:#?}");
    let touches_a_vm = |incident: &Incident| incident.members.iter().any(|member| !member.subject.name.is_empty());
    let incidents: Vec<_> = system.incidents()?.into_iter().filter(touches_a_vm).collect();
    ensure!(incidents.is_empty(), "incidents: {incidents:#?}");
    // The agent was not blind: it saw the end of every QEMU, of restored ones twice.
    let ends: BTreeSet<&str> =
        said.iter().filter(|finding| finding.code == "QemuExited").map(|finding| finding.subject.as_str()).collect();
    ensure!(ends.len() == N_LIVES, "{} VMs were seen to end", ends.len());
    Ok(())
}

/// Five guests that boot at once on two cores do make the node's tasks wait: that is true, and no fault of any VM.
fn is_of_load(said: &str) -> bool {
    ["NodeCpuStalled", "NodeCpuExhausted"].contains(&said)
}

/// Asks again and again; whatever is said is wrong. Returns how often.
fn watch(system: &System, is_over: &AtomicBool) -> Result<usize> {
    let mut n_looks = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut verdicts = system.why()?;
        // Of the node itself, while it is loaded: what is said of VMs is what this is about.
        verdicts.retain(|verdict| {
            !(verdict.subject.name.is_empty() && verdict.causes.iter().any(|cause| is_of_load(&cause.id)))
        });
        ensure!(verdicts.is_empty(), "said of healthy VMs: {verdicts:#?}");
        n_looks += 1;
        pause(Duration::from_millis(200));
    }
    Ok(n_looks)
}

fn live_on(node: &Node, next: &AtomicUsize) -> Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= N_LIVES {
            return Ok(());
        }
        live(node, number).with_context(|| format!("life {number}"))?;
    }
}

/// One life; which, the number says. Every way to pass the time meets every way to end.
fn live(node: &Node, number: usize) -> Result<()> {
    let guest = Guest::define(node, &format!("vm-{number}"), Program::Polite).start()?;
    match number % 3 {
        0 => {}
        1 => {
            guest.virsh("suspend")?;
            guest.virsh("resume")?;
        }
        _ => {
            let saved = format!("/var/lib/libvirt/images/vm-{number}.save");
            node.virsh(&["save", guest.name(), &saved])?;
            node.virsh(&["restore", &saved])?;
            node.run(&["rm", &saved])?;
        }
    }
    match number / 3 % 3 {
        0 => {
            guest.virsh("shutdown")?;
            guest.wait_for_state("shut off (shutdown)", SOON)?;
        }
        1 => drop(guest.virsh("destroy")?),
        _ => {
            guest.virsh("suspend")?;
            guest.virsh("destroy")?;
        }
    }
    wait_until("QEMU to end", SOON, || Ok(guest.qemu_pid().is_none())).map(drop)
}
