//! QEMU processes: which they are, whose VM each runs, its disks, and the files it really has open.
//!
//! A QEMU is recognised by what it is, not by who started it: libvirt of the host, a libvirt in a KubeVirt launcher, or
//! nobody. Its command line is the source of identity and disks at start; disks plugged in later, or swapped, show only in its
//! open files. libvirt's pidfiles tie a domain's name to a process that can say nothing itself any more.

mod command_line;
mod disk;
mod open_files;
mod pidfile;

pub use command_line::{CommandLine, Monitor, parse_command_line};
pub use disk::Disk;
pub use open_files::{OpenFile, parse_fdinfo};
pub use pidfile::{PidFile, parse_pid, read_pidfiles};

use crate::ReadError;
use crate::process::{CgroupFilter, ProcessId, Procfs, TaskState};

/// A running QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// Pid and start time.
    pub id: ProcessId,
    /// Name of its leader, at most 15 bytes: `qemu-system-x86`.
    pub comm: String,
    /// What its leader is doing; other threads may do otherwise.
    pub state: TaskState,
    /// Parent: libvirt's daemon, a launcher's monitor, 1.
    pub ppid: u32,
    /// What it was started with. `None` when it has no arguments any more: all its threads are dead but not reaped.
    pub command_line: Option<CommandLine>,
}

/// Whether a process name is one of QEMU's: `qemu-system-x86_64` (also cut at 15 bytes), `qemu-kvm`, `kvm`.
pub fn is_qemu_name(name: &str) -> bool {
    name.starts_with("qemu-system") || name == "qemu-kvm" || name == "kvm"
}

impl Procfs {
    /// The QEMU processes of the node, with errors for those that are there and could not be read.
    ///
    /// Candidates come from the task's name, which is the cheap look; the program's name decides where it can be seen. A QEMU
    /// that was given another name (`-name process=`) is not found this way, only by its pidfile.
    ///
    /// # Errors
    /// When the list of processes itself cannot be read.
    pub fn qemus(&self, filter: &CgroupFilter) -> Result<(Vec<Qemu>, Vec<ReadError>), ReadError> {
        let (stats, mut errors) = self.scan(filter, |stat| is_qemu_name(&stat.comm))?;
        let mut qemus = Vec::new();
        for stat in stats {
            if self.exe_name(stat.pid).is_some_and(|exe| !is_qemu_name(&exe)) {
                continue;
            }
            match self.command_line(stat.pid) {
                Ok(args) => qemus.push(Qemu {
                    id: stat.id(),
                    comm: stat.comm,
                    state: stat.state,
                    ppid: stat.ppid,
                    command_line: (!args.is_empty()).then(|| parse_command_line(&args)),
                }),
                Err(error) if error.is_not_found() => {}
                Err(error) => errors.push(error),
            }
        }
        Ok((qemus, errors))
    }
}

#[cfg(test)]
mod tests;
