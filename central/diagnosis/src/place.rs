//! Where a root cause sits, and the key of the incident it makes.
//!
//! Two VMs on one hung disk are one incident; two QEMUs that crash on one node are two. So the place is as narrow as the
//! cause: the node, a block device of it, one VM, the way between two nodes, or a thing that nodes share.

use std::fmt;

use crate::{
    attribution::Attribution,
    symptom::{SymptomId, SymptomSubject},
};

/// What a root cause sits in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The node as a whole: its kubelet, its KVM, its libvirt daemon.
    Node {
        /// Name of the node.
        node: String,
    },
    /// A block device of a node, shared by every VM that has a disk on it.
    Device {
        /// Name of the node.
        node: String,
        /// Name or `major:minor` of the device, as the evidence has it.
        device: String,
    },
    /// One VM on a node.
    Vm {
        /// Name of the node.
        node: String,
        /// UID of the VM.
        uid: String,
    },
    /// The way between two nodes.
    Path {
        /// Name of the node that a migration leaves.
        from: String,
        /// Name of the node that it goes to.
        to: String,
    },
    /// Something that nodes share.
    Shared {
        /// A server, a registry, a kind of backend; the cause's id where the evidence names none.
        thing: String,
    },
    /// No host: what Kubernetes, the configuration, a user or the guest makes of one VM.
    Cluster {
        /// UID of the VM.
        uid: String,
    },
}

impl Place {
    /// Name of the node it is on, of a path the one it leaves; empty for what is on none.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Node { node } | Self::Device { node, .. } | Self::Vm { node, .. } => node,
            Self::Path { from, .. } => from,
            Self::Shared { .. } | Self::Cluster { .. } => "",
        }
    }
}

impl fmt::Display for Place {
    /// Writes a stable key: `node/n1`, `node/n1/device/loop3`, `node/n1/vm/<uid>`, `path/n1/n2`,
    /// `shared/<thing>`, `cluster/vm/<uid>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { node } => write!(f, "node/{node}"),
            Self::Device { node, device } => write!(f, "node/{node}/device/{device}"),
            Self::Vm { node, uid } => write!(f, "node/{node}/vm/{uid}"),
            Self::Path { from, to } => write!(f, "path/{from}/{to}"),
            Self::Shared { thing } => write!(f, "shared/{thing}"),
            Self::Cluster { uid } => write!(f, "cluster/vm/{uid}"),
        }
    }
}

/// The (root cause, place) under which this attribution is an incident. `None` for a VM that was only asked about by name:
/// no symptom, no incident. A symptom without an explanation is the incident `Unexplained` of its subject.
#[must_use]
pub fn incident_key(attribution: &Attribution) -> Option<(&'static str, Place)> {
    let is_only_asked = attribution.symptom.id == SymptomId::Unspecified
        && matches!(attribution.symptom.subject, SymptomSubject::Vm { .. });
    if is_only_asked {
        return None;
    }
    let first = attribution.causes.first()?;
    Some((first.id, first.place.clone()))
}
