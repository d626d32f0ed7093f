//! How a VM's launcher is, from its processes: virt-launcher, libvirt's daemon beside it, the number of its QEMUs.
//!
//! The monitor (pid 1 of the container), virt-launcher below it, libvirt's daemon below that, and QEMU are siblings that live and
//! die together; one that is stopped or gone while the others live is the fault. That a process runs does not prove that it
//! answers: nothing here says that libvirt is responsive. Source: KubeVirt `cmd/virt-launcher-monitor` (v1.8).

use kulprit_host::captured::Descriptor;
use kulprit_host::launcher::{CommandSocket, Taps};
use kulprit_host::process::Thread;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::recorded::Health;
use crate::say::{PROCFS, Reading, SYSFS, absent, present, unknown};

/// The launcher's command socket, connected to.
const SOCKET: &str = "launcher-sock";
use crate::verdict::{StateVerdict, Verdict};

/// One process of a launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// How it does; `None` when its state was not recorded.
    pub health: Option<Health>,
}

/// One look at the launcher of one VM. A member that is `None` was not among the processes.
#[derive(Clone, Debug, Default)]
pub struct LauncherLook<'a> {
    /// When.
    pub at: Moment,
    /// UID of the VMI.
    pub vmi_uid: &'a str,
    /// virt-launcher-monitor.
    pub monitor: Option<Member>,
    /// virt-launcher.
    pub launcher: Option<Member>,
    /// virtqemud or libvirtd of the same container.
    pub libvirt: Option<Member>,
    /// Pids of its QEMUs that live.
    pub qemus: &'a [u32],
    /// Whether virt-handler has marked its command socket; `None` when that was not recorded.
    pub is_marked_unresponsive: Option<bool>,
    /// Who is behind that socket; `None` when there is none, or nobody asked.
    pub command: Option<CommandSocket>,
    /// The processes are those of a running machine: what was not among them is not there, and the same was so at every look
    /// since the state began.
    pub is_live: bool,
    /// A job runs on the domain, so that one of its QEMUs may be the target of a migration.
    pub has_job: bool,
}

/// `LauncherDefunct`, the states of its libvirt daemon, `TwoQemus`.
#[must_use]
pub fn judge(look: &LauncherLook<'_>) -> Vec<Verdict> {
    let mut verdicts = judge_own(look);
    verdicts.extend(judge_libvirt(look).into_iter().map(Verdict::State));
    verdicts
}

/// The same without libvirt, where that can be asked itself.
#[must_use]
pub fn judge_own(look: &LauncherLook<'_>) -> Vec<Verdict> {
    let vm = Subject::vm(look.vmi_uid);
    let count = judge_count(&vm, look.at, look.qemus, look.has_job);
    std::iter::once(Verdict::State(judge_defunct(look, &vm))).chain(count).collect()
}

fn judge_defunct(look: &LauncherLook<'_>, vm: &Subject) -> StateVerdict {
    let code = FindingCode::LauncherDefunct;
    let has_qemu = !look.qemus.is_empty();
    if look.is_marked_unresponsive == Some(true) {
        let text = "virt-handler has marked the launcher's command socket as unresponsive";
        return present(code, vm, look.at, PROCFS, Attributes::new().with(attribute::WHAT, "marked"), text);
    }
    for member in [&look.monitor, &look.launcher].into_iter().flatten() {
        let fault = match &member.health {
            Some(Health::Blocked { comm, wchan, tid: _ }) if look.is_live => {
                Some(format!("has a thread ({comm}) in state D in {wchan}"))
            }
            health => health.as_ref().and_then(Health::fault),
        };
        // A launcher that has ended is normal once its QEMU has.
        if let Some(fault) = fault.filter(|_| has_qemu || member.health != Some(Health::Ended)) {
            let text = format!("{} {} {fault}", member.name, member.pid);
            let hold_key = match &member.health {
                // Threads that wait one after the other are at work.
                Some(Health::Blocked { tid, wchan, comm: _ }) => Some(format!("{} {tid} {wchan}", member.pid)),
                Some(Health::Runs | Health::Stopped(_) | Health::Ended | Health::Unclear) | None => None,
            };
            return StateVerdict { hold_key, ..present(code, vm, look.at, PROCFS, facts(member), text) };
        }
    }
    match look.command.filter(|_| has_qemu) {
        Some(CommandSocket::Refuses) => {
            let facts = Attributes::new().with(attribute::WHAT, "refused");
            return present(code, vm, look.at, SOCKET, facts, "nobody listens on the launcher's command socket");
        }
        Some(CommandSocket::Full) => {
            let facts = Attributes::new().with(attribute::WHAT, "silent");
            let text = "the launcher takes no connection on its command socket: as many wait as the kernel allows";
            return present(code, vm, look.at, SOCKET, facts, text);
        }
        Some(CommandSocket::Listens) | None => {}
    }
    match (&look.monitor, &look.launcher) {
        (None, None) if has_qemu && look.is_live => {
            let text = format!("neither virt-launcher nor its monitor is there, while QEMU {} is", look.qemus[0]);
            present(code, vm, look.at, PROCFS, Attributes::new().with(attribute::WHAT, "gone"), text)
        }
        (Some(monitor), None) if has_qemu => {
            let text = format!(
                "virt-launcher is not among the processes, while its monitor {} and QEMU {} are",
                monitor.pid, look.qemus[0]
            );
            present(code, vm, look.at, PROCFS, facts(monitor).with(attribute::WHAT, "gone"), text)
        }
        (_, Some(Member { pid, name, health: Some(Health::Runs) })) => {
            absent(code, vm, look.at, PROCFS, format!("{name} {pid} runs"))
        }
        (_, Some(_)) => unknown(code, vm, "the state of virt-launcher was not recorded, or not clear"),
        (_, None) => unknown(code, vm, "virt-launcher is not among the recorded processes"),
    }
}

fn judge_libvirt(look: &LauncherLook<'_>) -> Vec<StateVerdict> {
    use FindingCode::{LibvirtUnreachable, LibvirtUnresponsive};
    let subject = Subject::Libvirt { uri: libvirt_uri(look.vmi_uid) };
    match &look.libvirt {
        Some(member) => judge_daemon(look.at, &subject, member),
        None => match (&look.monitor, &look.launcher, look.qemus.first()) {
            (Some(_), Some(launcher), Some(qemu)) if launcher.health == Some(Health::Runs) => {
                let text = format!(
                    "no libvirt daemon is among the processes, while virt-launcher {} and QEMU {qemu} are",
                    launcher.pid
                );
                let facts = Attributes::new().with(attribute::FAILURE, attribute::FAILURE_NOT_FOUND);
                vec![present(LibvirtUnreachable, &subject, look.at, PROCFS, facts, text)]
            }
            _ => [LibvirtUnreachable, LibvirtUnresponsive]
                .map(|code| unknown(code, &subject, "no libvirt daemon is among the recorded processes"))
                .to_vec(),
        },
    }
}

/// The states of a libvirt daemon that is there, from its process alone.
#[must_use]
pub fn judge_daemon(at: Moment, subject: &Subject, member: &Member) -> Vec<StateVerdict> {
    use FindingCode::{LibvirtUnreachable, LibvirtUnresponsive};
    let text = |fault: &str| format!("{} {} {fault}", member.name, member.pid);
    match &member.health {
        Some(Health::Ended) => {
            let facts = facts(member).with(attribute::FAILURE, attribute::FAILURE_REFUSED);
            vec![present(LibvirtUnreachable, subject, at, PROCFS, facts, text("has ended and is not reaped"))]
        }
        Some(health @ (Health::Stopped(_) | Health::Blocked { .. })) => {
            let facts = facts(member).with(attribute::FAILURE, attribute::FAILURE_TIMEOUT);
            let fault = health.fault().unwrap_or_default();
            vec![
                absent(LibvirtUnreachable, subject, at, PROCFS, text("is there")),
                present(LibvirtUnresponsive, subject, at, PROCFS, facts, text(&fault)),
            ]
        }
        Some(Health::Runs) => vec![
            absent(LibvirtUnreachable, subject, at, PROCFS, text("runs")),
            unknown(LibvirtUnresponsive, subject, "the daemon runs; whether it answers was not asked"),
        ],
        Some(Health::Unclear) | None => [LibvirtUnreachable, LibvirtUnresponsive]
            .map(|code| unknown(code, subject, "the state of the libvirt daemon was not recorded, or not clear"))
            .to_vec(),
    }
}

/// How the daemon of a launcher is called as a subject.
#[must_use]
pub fn libvirt_uri(vmi_uid: &str) -> String {
    format!("launcher/{vmi_uid}")
}

/// Whether several QEMUs of the VM live though no job runs on its domain; nothing without a QEMU.
#[must_use]
pub fn judge_count(vm: &Subject, at: Moment, qemus: &[u32], has_job: bool) -> Option<Verdict> {
    let code = FindingCode::TwoQemus;
    let pids = || qemus.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    Some(Verdict::State(match qemus {
        [] => return None,
        [one] => absent(code, vm, at, PROCFS, format!("QEMU {one} is the only one of the VM on this node")),
        many if has_job => {
            let text = format!("{} QEMUs of the VM live on this node ({}) while a job runs on it", many.len(), pids());
            absent(code, vm, at, PROCFS, text)
        }
        many => {
            let text = format!("{} QEMUs of the VM live on this node: {}", many.len(), pids());
            present(code, vm, at, PROCFS, Attributes::new().with(attribute::MEASURED, many.len()), text)
        }
    }))
}

fn facts(member: &Member) -> Attributes {
    let letter = member.health.as_ref().and_then(|health| match health {
        Health::Stopped(state) => Some(state.letter()),
        Health::Ended => Some('Z'),
        Health::Blocked { .. } | Health::Unclear => Some('D'),
        Health::Runs => None,
    });
    let wchan = match &member.health {
        Some(Health::Blocked { wchan, .. }) => Some(wchan.as_str()).filter(|name| !name.is_empty()),
        _ => None,
    };
    Attributes::new()
        .with(attribute::PID, member.pid)
        .with(attribute::COMM, &member.name)
        .with_some(attribute::PROCESS_STATE, letter)
        .with_some(attribute::WCHAN, wchan)
}

/// Whether the VM runs without KVM, by its threads, its descriptors, or what it was told.
#[must_use]
pub fn judge_emulation(
    vm: &Subject,
    at: Moment,
    threads: &[Thread],
    descriptors: &Reading<Option<Vec<Descriptor>>>,
    accelerators: &[String],
) -> Verdict {
    let code = FindingCode::SoftwareEmulation;
    let vcpu = |suffix: &str| threads.iter().find(|row| row.comm.starts_with("CPU ") && row.comm.ends_with(suffix));
    let has_kvm = matches!(descriptors, Ok(Some(rows)) if rows.iter().any(|row| row.target == "anon_inode:kvm-vm"));
    Verdict::State(if let Some(thread) = vcpu("/TCG") {
        let facts = Attributes::new().with(attribute::COMM, &thread.comm);
        present(code, vm, at, PROCFS, facts, format!("QEMU has a thread {}: its processors are emulated", thread.comm))
    } else if let Some(thread) = vcpu("/KVM") {
        absent(code, vm, at, PROCFS, format!("QEMU has a thread {}", thread.comm))
    } else if has_kvm {
        absent(code, vm, at, PROCFS, "QEMU has a machine of KVM open")
    } else if accelerators.first().is_some_and(|first| first == "tcg") {
        present(code, vm, at, PROCFS, Attributes::new(), "QEMU was started with accel=tcg")
    } else {
        unknown(code, vm, "neither threads nor open files of QEMU that tell were recorded")
    })
}

/// Whether the VM is cut off from the network of its own pod: a tap that QEMU has open is gone, or a link that is set up has no
/// carrier.
#[must_use]
pub fn judge_links(vm: &Subject, at: Moment, taps: &Reading<Taps>) -> Verdict {
    let code = FindingCode::VmLinkLost;
    Verdict::State(match taps {
        Err(error) => unknown(code, vm, error.as_str()),
        Ok(Taps { held, links, carriers }) => {
            let is_there = |tap: &&String| links.contains(*tap);
            let n_lost = held.iter().filter(|tap| tap.as_ref().filter(is_there).is_none()).count();
            let facts = |what: &str| Attributes::new().with(attribute::WHAT, what);
            if n_lost > 0 {
                let lost = held.iter().flatten().find(|tap| !links.contains(tap));
                let text = match lost {
                    Some(tap) => format!("QEMU has {tap} open, which is no link of its network namespace"),
                    None => format!("{n_lost} of the tap devices that QEMU has open are deleted"),
                };
                present(code, vm, at, PROCFS, facts("tap").with_some(attribute::DEVICE_NAME, lost), text)
            } else if let Some((link, _)) = carriers.iter().find(|(_, has_carrier)| !**has_carrier) {
                let text = format!("{link} of the pod is set up and has no carrier");
                present(code, vm, at, SYSFS, facts("carrier").with(attribute::DEVICE_NAME, link), text)
            } else {
                absent(code, vm, at, PROCFS, format!("QEMU has {} taps open, each a link", held.len()))
            }
        }
    })
}

/// Whether QEMU holds a block device whose node is gone.
///
/// `devices` are paths of disks that its command line calls devices. Files in memory file systems under `/dev` are none.
#[must_use]
pub fn judge_open_devices(
    vm: &Subject,
    at: Moment,
    descriptors: &Reading<Option<Vec<Descriptor>>>,
    devices: &[String],
) -> Verdict {
    let code = FindingCode::StaleDevice;
    let in_memory = ["/dev/shm/", "/dev/hugepages", "/dev/mqueue/", "/dev/zero"];
    let is_device = |target: &str| {
        devices.iter().any(|device| device == target || device.strip_prefix("/var") == Some(target))
            || (target.starts_with("/dev/") && !in_memory.iter().any(|prefix| target.starts_with(prefix)))
    };
    Verdict::State(match descriptors {
        Err(error) => unknown(code, vm, error.as_str()),
        Ok(None) => unknown(code, vm, "the open files of QEMU were not recorded"),
        Ok(Some(rows)) => match rows.iter().find(|row| row.is_deleted && is_device(&row.target)) {
            Some(row) => {
                let facts = Attributes::new().with(attribute::PATH, &row.target);
                let text = format!("descriptor {} of QEMU is {} (deleted)", row.fd, row.target);
                present(code, vm, at, PROCFS, facts, text)
            }
            None => absent(code, vm, at, PROCFS, "no open device of QEMU has lost its name"),
        },
    })
}

#[cfg(test)]
mod tests;
