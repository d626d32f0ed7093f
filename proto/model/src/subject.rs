//! What a finding is about, as a key that is equal exactly when the thing is the same.
//!
//! The text form (`vm/<uid>`, `unit/kubelet.service`) is used on the wire, in the store and in JSON. Keys hold what
//! identifies a thing and nothing that may change; names for people travel beside them.

use std::{fmt, str::FromStr};

/// The subject of a finding. A key is unique within one node; across nodes together with the node's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The node itself.
    Node,
    /// A systemd unit.
    Unit {
        /// Full unit name, for example `kubelet.service`.
        name: String,
    },
    /// A virtual machine.
    Vm {
        /// UID of the VMI; on a plain libvirt host the domain's UUID. Lower-case with dashes.
        uid: String,
    },
    /// A process that is not a known VM's QEMU.
    Process {
        /// Process id in the initial pid namespace.
        pid: u32,
        /// Start time in clock ticks since boot (`/proc/PID/stat` field 22); 0 if the process was gone before a look.
        start_ticks: u64,
    },
    /// A block device of the node, by the name that the kernel prints.
    Device {
        /// For example `sda`, `dm-3`, `loop0`.
        name: String,
    },
    /// A mounted file system of the node.
    Mount {
        /// Where it is mounted, as the node sees it.
        point: String,
    },
    /// A libvirt daemon.
    Libvirt {
        /// Its connection URI, for example `qemu:///system`.
        uri: String,
    },
    /// A condition or event of a node-problem-detector rule of the operator's own.
    Problem {
        /// The condition's type or the event's reason, for example `KernelDeadlock`.
        name: String,
    },
    /// One of our own probes.
    Probe {
        /// Name in the probe table, for example `kernel-log`.
        name: String,
    },
}

/// The types a subject can have; the catalogue says for each finding which are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubjectType {
    /// [`Subject::Node`]
    Node,
    /// [`Subject::Unit`]
    Unit,
    /// [`Subject::Vm`], or [`Subject::Process`] while the VM behind a QEMU is not known.
    Vm,
    /// [`Subject::Process`], or [`Subject::Vm`] when the process is a known VM's QEMU.
    Process,
    /// [`Subject::Device`]
    Device,
    /// [`Subject::Mount`]
    Mount,
    /// [`Subject::Libvirt`]
    Libvirt,
    /// [`Subject::Problem`]
    Problem,
    /// [`Subject::Probe`]
    Probe,
    /// [`Subject::Node`] or [`Subject::Vm`]: what a text of the node says, and whose it is if that can be told.
    NodeOrVm,
}

impl SubjectType {
    /// The word used in the generated catalogue.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Unit => "unit",
            Self::Vm => "VM",
            Self::Process => "process",
            Self::Device => "device",
            Self::Mount => "mount",
            Self::Libvirt => "libvirt daemon",
            Self::Problem => "problem",
            Self::Probe => "probe",
            Self::NodeOrVm => "node or VM",
        }
    }

    /// Whether `subject` may carry a finding of this type.
    #[must_use]
    pub const fn allows(self, subject: &Subject) -> bool {
        matches!(
            (self, subject),
            (Self::Node | Self::NodeOrVm, Subject::Node)
                | (Self::NodeOrVm, Subject::Vm { .. })
                | (Self::Unit, Subject::Unit { .. })
                | (Self::Vm | Self::Process, Subject::Vm { .. } | Subject::Process { .. })
                | (Self::Device, Subject::Device { .. })
                | (Self::Mount, Subject::Mount { .. })
                | (Self::Libvirt, Subject::Libvirt { .. })
                | (Self::Problem, Subject::Problem { .. })
                | (Self::Probe, Subject::Probe { .. })
        )
    }
}

impl Subject {
    /// A VM by its UID.
    #[must_use]
    pub fn vm(uid: impl Into<String>) -> Self {
        Self::Vm { uid: uid.into() }
    }

    /// A unit by its name.
    #[must_use]
    pub fn unit(name: impl Into<String>) -> Self {
        Self::Unit { name: name.into() }
    }

    /// The VM's UID, if this is a VM.
    #[must_use]
    pub fn vm_uid(&self) -> Option<&str> {
        match self {
            Self::Vm { uid } => Some(uid),
            Self::Node
            | Self::Unit { .. }
            | Self::Process { .. }
            | Self::Device { .. }
            | Self::Mount { .. }
            | Self::Libvirt { .. }
            | Self::Problem { .. }
            | Self::Probe { .. } => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Unit { name } => write!(f, "unit/{name}"),
            Self::Vm { uid } => write!(f, "vm/{uid}"),
            Self::Process { pid, start_ticks } => write!(f, "process/{pid}@{start_ticks}"),
            Self::Device { name } => write!(f, "device/{name}"),
            Self::Mount { point } => write!(f, "mount/{point}"),
            Self::Libvirt { uri } => write!(f, "libvirt/{uri}"),
            Self::Problem { name } => write!(f, "problem/{name}"),
            Self::Probe { name } => write!(f, "probe/{name}"),
        }
    }
}

/// A text is not a subject key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a subject key (expected node, unit/…, vm/…, process/PID@START, device/…, mount/…, libvirt/…, problem/… or probe/…)"
)]
pub struct ParseSubjectError(String);

impl FromStr for Subject {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSubjectError(text.chars().take(200).collect());
        if text == "node" {
            return Ok(Self::Node);
        }
        let (kind, rest) = text.split_once('/').ok_or_else(error)?;
        if rest.is_empty() {
            return Err(error());
        }
        let rest_owned = rest.to_owned();
        match kind {
            "unit" => Ok(Self::Unit { name: rest_owned }),
            "vm" => Ok(Self::Vm { uid: rest_owned }),
            "process" => {
                let (pid, start) = rest.split_once('@').ok_or_else(error)?;
                Ok(Self::Process {
                    pid: pid.parse().map_err(|_| error())?,
                    start_ticks: start.parse().map_err(|_| error())?,
                })
            }
            "device" => Ok(Self::Device { name: rest_owned }),
            "mount" => Ok(Self::Mount { point: rest_owned }),
            "libvirt" => Ok(Self::Libvirt { uri: rest_owned }),
            "problem" => Ok(Self::Problem { name: rest_owned }),
            "probe" => Ok(Self::Probe { name: rest_owned }),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_key_reads_back_as_itself() {
        for key in [
            "node",
            "unit/kubelet.service",
            "vm/0b2c0b2c-0000-4000-8000-000000000001",
            "process/12@345",
            "device/dm-3",
            "mount//var/lib/kubelet",
            "libvirt/qemu:///system",
            "problem/KernelDeadlock",
            "probe/kernel-log",
        ] {
            assert_eq!(key.parse::<Subject>().unwrap().to_string(), key);
        }
    }

    #[test]
    fn a_wrong_key_is_named_in_the_error() {
        for key in ["", "unit", "unit/", "process/1", "process/x@1", "planet/earth"] {
            assert!(key.parse::<Subject>().unwrap_err().to_string().contains(&format!("`{key}`")));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            if let Ok(subject) = text.parse::<Subject>() {
                prop_assert_eq!(subject.to_string().parse::<Subject>(), Ok(subject));
            }
        }
    }
}
