//! Where a root cause sits, and the key of the incident it makes.
//!
//! Two VMs on one hung disk are one incident; two QEMUs that crash on one node are two. So the place is as narrow as the
//! cause: the node, a block device of it, or one VM.

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
}

impl Place {
    /// Name of the node it is on.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Node { node } | Self::Device { node, .. } | Self::Vm { node, .. } => node,
        }
    }
}

impl fmt::Display for Place {
    /// Writes a stable key: `node/n1`, `node/n1/device/loop3`, `node/n1/vm/<uid>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { node } => write!(f, "node/{node}"),
            Self::Device { node, device } => write!(f, "node/{node}/device/{device}"),
            Self::Vm { node, uid } => write!(f, "node/{node}/vm/{uid}"),
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
