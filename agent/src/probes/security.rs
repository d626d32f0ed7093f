//! The `security` probe: SELinux's mode, what confines each VM's QEMU, and device cgroups that would refuse a VM's devices.
//!
//! What was refused is told by the kernel's log and by error texts, which other probes read; here is what explains it. The rules
//! of a device cgroup can be read in version 1 only, so nothing is said of them elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kulprit_host::HostRoot;
use kulprit_host::cgroup::{controller_directories, parse_devices_list};
use kulprit_host::mount::DeviceNumber;
use kulprit_host::process::{ProcessId, Procfs};
use kulprit_judge::security::{NeededDevice, judge_confinement, judge_devices, judge_selinux};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::{Moment, Subject};

use super::blocking::Late;
use super::counters::count;
use super::descriptors::ByDescriptors;
use super::{ProbeConfig, ProbeContext, ProbeSpec, VmProcess, chain};

const NAME: &str = "security";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether SELinux enforces, what confines a VM's QEMU, and whether a device cgroup forbids what it has open.",
    sources: "/sys/fs/selinux/enforce, /sys/kernel/security/lsm; /proc/PID/{attr/current,attr/apparmor/current,status} of QEMU; devices.list of VMs' cgroups (version 1) and /proc/PID/fd of QEMU",
    needs: "/sys/fs/selinux, /sys/kernel/security; /proc/PID/attr (root)",
    lost_without: "everything it says; denials stand in the kernel log as well",
    look_every: Duration::from_secs(120),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes 0.1 ms for the node and 0.5 ms for a VM.
const DEADLINE: Duration = Duration::from_secs(10);
/// VMs that start together are looked at together.
const SETTLE: Duration = Duration::from_secs(1);
/// `/dev/kvm`. Source: kernel `Documentation/admin-guide/devices.txt`.
const KVM: DeviceNumber = DeviceNumber { major: 10, minor: 232 };

/// Looks at which a QEMU's devices are taken for the same as long as it has as many descriptors: ten minutes.
const MAX_LOOKS: u32 = 5;

/// The devices that QEMUs need, as long as they have as many descriptors.
type AllNeeded = ByDescriptors<Vec<NeededDevice>>;

async fn run(context: ProbeContext) {
    let mut blocking = context.blocking();
    let mut needed = None;
    let mut arrivals = context.vms.arrivals();
    loop {
        arrivals.mark_unchanged();
        let draft = context.begin(NAME);
        let launchers = context.launchers.borrow().clone();
        let known = |pid: u32| {
            let row = launchers.by_qemu(pid)?;
            let cgroup = row.cgroups.iter().find(|row| row.controller.split(',').any(|name| name == "devices"))?;
            Some(cgroup.directory.clone())
        };
        let vm = |(pid, process): (u32, Arc<VmProcess>)| Vm {
            id: ProcessId { pid, start_time_ticks: process.start_ticks },
            uid: process.uid.clone(),
            devices: known(pid),
        };
        let vms: Vec<Vm> = context.vms.running().into_iter().map(vm).collect();
        let (host, config, at) = (context.host.clone(), Arc::clone(&context.config), context.clock.now());
        let new = || AllNeeded::new(MAX_LOOKS);
        let read = move |known: &mut AllNeeded| look(&host, &config, at, &vms, known);
        let draft = match blocking.run_with(DEADLINE, &mut needed, new, read).await {
            Ok((verdicts, n_errors)) => {
                count(&context.counters.errors, n_errors);
                draft.verdicts(verdicts)
            }
            Err(Late { for_secs }) => {
                draft.blind(format!("reading security modules has not returned for {for_secs} s"))
            }
        };
        if !context.send(draft.end(&context.clock)).await || context.once {
            return;
        }
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return,
            Ok(()) = arrivals.changed() => tokio::time::sleep(SETTLE).await,
            () = context.beat.wait(SPEC.look_every) => {}
        }
    }
}

/// A VM's QEMU, and the directory of its device cgroup where a launcher's row tells it.
#[derive(Debug)]
struct Vm {
    id: ProcessId,
    uid: String,
    devices: Option<PathBuf>,
}

fn look(host: &HostRoot, config: &ProbeConfig, at: Moment, vms: &[Vm], known: &mut AllNeeded) -> (Vec<Verdict>, u64) {
    let procfs = &Procfs::new(&config.procfs);
    let mut n_errors = 0;
    let is_enforcing = read_enforce(host);
    n_errors += u64::from(is_enforcing.is_err());
    let modules = host.read_text("sys/kernel/security/lsm").ok();
    let mut verdicts = vec![judge_selinux(at, &is_enforcing, modules.as_deref().map(str::trim))];
    known.retain(|id| vms.iter().any(|vm| vm.id == *id));
    for Vm { id, uid, devices } in vms {
        let pid = id.pid;
        let subject = &Subject::vm(uid);
        let confinement = match procfs.confinement(pid) {
            Ok(confinement) => Ok(confinement),
            // It has ended since.
            Err(error) if error.is_not_found() => continue,
            Err(error) => Err(chain(&error)),
        };
        n_errors += u64::from(confinement.is_err());
        verdicts.push(judge_confinement(subject, at, &confinement, &is_enforcing));
        let Some(rules) = read_rules(host, procfs, config.cgroup_prefix.as_deref(), pid, devices.as_ref()) else {
            continue;
        };
        let rules = rules.map(|text| parse_devices_list(&text));
        let needed = match known.get(procfs, *id, || read_needed(procfs, pid)) {
            Ok(needed) => Ok(needed),
            // It has ended since.
            Err(error) if error.is_not_found() => continue,
            Err(error) => Err(chain(&error)),
        };
        n_errors += u64::from(rules.is_err()) + u64::from(needed.is_err());
        verdicts.push(judge_devices(subject, at, &rules, &needed));
    }
    (verdicts, n_errors)
}

/// `None` where SELinux has no file system: not built, or switched off.
fn read_enforce(host: &HostRoot) -> Reading<Option<bool>> {
    if let Err(error) = host.list("sys/fs") {
        return Err(chain(&error));
    }
    let text = host.read_text_if_any("sys/fs/selinux/enforce").map_err(|error| chain(&error))?;
    match text.as_deref().map(str::trim) {
        None => Ok(None),
        Some("1") => Ok(Some(true)),
        Some("0") => Ok(Some(false)),
        Some(other) => Err(format!("unexpected content in `/sys/fs/selinux/enforce`: {other:?}")),
    }
}

/// The text of the VM's `devices.list`; `None` where its cgroup has none, as in version 2.
fn read_rules(
    host: &HostRoot,
    procfs: &Procfs,
    prefix: Option<&str>,
    pid: u32,
    known: Option<&PathBuf>,
) -> Option<Reading<String>> {
    let directories = match known {
        Some(directory) => vec![directory.clone()],
        None => controller_directories(&procfs.cgroups(pid).ok()?, prefix, "devices"),
    };
    directories.into_iter().find_map(|directory| match host.read_text_if_any(directory.join("devices.list")) {
        Ok(text) => text.map(Ok),
        Err(error) => Some(Err(chain(&error))),
    })
}

/// KVM, and the block devices that a QEMU has open.
fn read_needed(procfs: &Procfs, pid: u32) -> Result<Vec<NeededDevice>, kulprit_host::ReadError> {
    let block = procfs.open_files(pid)?.into_iter().filter(|file| file.is_block_device).filter_map(|file| {
        Some(NeededDevice { path: file.path.display().to_string(), is_block: true, device: file.device? })
    });
    let has_kvm = procfs.has_open(pid, |target| target == "anon_inode:kvm-vm" || target == "/dev/kvm")?;
    let kvm = has_kvm.then(|| NeededDevice { path: "/dev/kvm".to_owned(), is_block: false, device: KVM });
    Ok(kvm.into_iter().chain(block).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use kulprit_model::FindingCode::{DeviceForbidden, QemuUnconfined, SelinuxNotEnforcing};
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;
    use crate::look::Look;
    use crate::probes::testing::{Probe, status_of, write};

    #[tokio::test]
    async fn this_machine_is_read() {
        let look = Probe::once(&SPEC, HostRoot::new("/")).await;
        let is_enforcing = std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
        let want = if is_enforcing { Absent } else { Present };
        assert_eq!(status_of(&look, SelinuxNotEnforcing), Some(want), "{look:?}");
    }

    #[tokio::test]
    async fn selinux_is_told_from_no_selinux_and_from_what_cannot_be_read() {
        let root = tempfile::tempdir().unwrap();
        let status = async || status_of(&Probe::once(&SPEC, HostRoot::new(root.path())).await, SelinuxNotEnforcing);
        assert_eq!(status().await, Some(Unknown), "no sysfs at all");
        std::fs::create_dir_all(root.path().join("sys/fs/selinux")).unwrap();
        assert_eq!(status().await, Some(Present));
        for (text, want) in [("1", Absent), ("0\n", Present), ("yes", Unknown)] {
            write(root.path(), "sys/fs/selinux/enforce", text);
            assert_eq!(status().await, Some(want), "{text:?}");
        }
    }

    async fn look_at_vm(root: &std::path::Path) -> Look {
        Probe::once_with(&SPEC, HostRoot::new(root), |context| {
            let mut config = (*context.config).clone();
            config.procfs = root.join("proc");
            context.config = Arc::new(config);
            context.vms.insert(7, 1, "vm-a");
        })
        .await
    }

    async fn devices(list: Option<&str>) -> Option<Status> {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/7/status", "State:\tS\n");
        let dir = "sys/fs/cgroup/devices/kubepods/pod0b2c0b2c-0000-4000-8000-000000000001/a";
        list.into_iter().for_each(|list| write(root.path(), &format!("{dir}/devices.list"), list));
        write(root.path(), "proc/7/cgroup", "4:devices:/kubepods/pod0b2c0b2c-0000-4000-8000-000000000001/a\n0::/x\n");
        write(root.path(), "proc/7/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n");
        std::fs::create_dir_all(root.path().join("proc/7/fd")).unwrap();
        symlink("anon_inode:kvm-vm", root.path().join("proc/7/fd/9")).unwrap();
        status_of(&look_at_vm(root.path()).await, DeviceForbidden)
    }

    #[tokio::test]
    async fn what_confines_a_qemu_is_told_of_each_and_of_none_that_has_ended() {
        let root = tempfile::tempdir().unwrap();
        let confined = async || status_of(&look_at_vm(root.path()).await, QemuUnconfined);
        assert_eq!(confined().await, None, "it has ended");
        write(root.path(), "proc/7/status", "State:\tS\nSeccomp:\t0\n");
        assert_eq!(confined().await, Some(Present));
        write(root.path(), "proc/7/attr/current", "cri-containerd.apparmor.d (complain)\n");
        assert_eq!(confined().await, Some(Present));
        write(root.path(), "proc/7/attr/apparmor/current", "cri-containerd.apparmor.d (enforce)\n");
        assert_eq!(confined().await, Some(Absent));
        write(root.path(), "proc/7/status", "no status\n");
        assert_eq!(confined().await, Some(Unknown));
    }

    #[tokio::test]
    async fn a_device_cgroup_that_would_refuse_kvm_is_told_where_it_can_be_read() {
        assert_eq!(devices(Some("c 1:3 rwm\nc 10:232 rwm\n")).await, Some(Absent));
        assert_eq!(devices(Some("c 1:3 rwm\n")).await, Some(Present));
        assert_eq!(devices(Some("a *:* rwm\n")).await, Some(Absent));
        assert_eq!(devices(None).await, None, "version 2 says nothing");
    }
}
