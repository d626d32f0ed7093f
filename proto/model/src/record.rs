//! A record: what the agent keeps in its spool and sends to central, one stamp each.
//!
//! Besides findings, two things travel: what libvirt knows of a domain and what procfs knows of a QEMU. Central joins them
//! by UID into the VMs of the node; either may be missing when its source cannot be asked.

use crate::{
    finding::{Occurrence, State},
    time::{Moment, Stamp},
};

/// The stream a record belongs to: one node of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// UID of the kube-system namespace; standalone: the machine id of central's host, or what was configured.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
}

/// A stamped piece of what the agent knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its unique stamp.
    pub stamp: Stamp,
    /// What it says.
    pub body: Body,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A state changed, or is refreshed.
    State(State),
    /// Something happened. A later record with the same code, subject and `first` replaces this one (its count has grown).
    Occurrence(Occurrence),
    /// A libvirt domain is as told.
    Domain(Domain),
    /// A QEMU process is as told.
    Qemu(Qemu),
    /// The subject is gone: everything said of it is history, and none of it is a clearing.
    SubjectGone {
        /// The subject, a VM or process that exists no more on this node.
        subject: crate::subject::Subject,
        /// When that was seen.
        at: Moment,
    },
}

/// What libvirt knows of one domain. Source: `virConnectGetAllDomainStats`, lifecycle events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The domain's UUID, lower-case with dashes: the VM's UID in standalone mode.
    pub uid: String,
    /// Name of the domain; with KubeVirt `<namespace>_<name>`.
    pub name: String,
    /// libvirt's number of the state (`virDomainState`).
    pub state: i32,
    /// libvirt's number of the reason, its meaning depends on `state` (`virDomain*Reason`).
    pub reason: i32,
    /// When this state was first seen.
    pub since: Moment,
    /// Whether the definition outlives the run (`virDomainIsPersistent`).
    pub is_persistent: bool,
}

/// One disk of a VM, and where it lies on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Disk {
    /// Path of the image file or block device as QEMU was given it.
    pub path: String,
    /// Block device under it as `major:minor`: the device itself, or that of the file system. `None` if not a device.
    pub device: Option<String>,
    /// Name of that device in the kernel log, for example `sda`.
    pub device_name: Option<String>,
    /// File system type, `None` for a bare device or where it could not be found.
    pub fstype: Option<String>,
    /// Mount point of the file system, as the node sees it.
    pub mount_point: Option<String>,
}

/// What procfs knows of one QEMU process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// UID of the VM it runs.
    pub uid: String,
    /// Name of the guest (`-name guest=`), if the command line could be read.
    pub name: Option<String>,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// When it was first seen.
    pub since: Moment,
    /// Its disks.
    pub disks: Vec<Disk>,
}
