//! The kinds of objects that a diagnosis reads: the one list of them.
//!
//! Groups are told apart because names are not: Longhorn has Nodes, too. Source: the groups of Kubernetes' and KubeVirt's APIs.

/// A kind of object that a diagnosis reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A VM, as KubeVirt's users know it.
    VirtualMachine,
    /// A VM that runs, or is to.
    VirtualMachineInstance,
    /// A live migration.
    VirtualMachineInstanceMigration,
    /// KubeVirt's configuration and health.
    KubeVirt,
    /// Limits of some VMs' migrations.
    MigrationPolicy,
    /// CDI's order to fill a claim.
    DataVolume,
    /// Launchers, attachment pods, importers, virt-handlers, the control plane.
    Pod,
    /// A node.
    Node,
    /// Of `kube-node-lease`: a kubelet's heartbeat.
    Lease,
    /// What a component said of an object.
    Event,
    /// A claim.
    PersistentVolumeClaim,
    /// A volume.
    PersistentVolume,
    /// A volume attached to a node.
    VolumeAttachment,
    /// The storage drivers of a node.
    CsiNode,
    /// A namespace: its labels alone.
    Namespace,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::VirtualMachine,
        Self::VirtualMachineInstance,
        Self::VirtualMachineInstanceMigration,
        Self::KubeVirt,
        Self::MigrationPolicy,
        Self::DataVolume,
        Self::Pod,
        Self::Node,
        Self::Lease,
        Self::Event,
        Self::PersistentVolumeClaim,
        Self::PersistentVolume,
        Self::VolumeAttachment,
        Self::CsiNode,
        Self::Namespace,
    ];

    /// `kind` of its objects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualMachine => "VirtualMachine",
            Self::VirtualMachineInstance => "VirtualMachineInstance",
            Self::VirtualMachineInstanceMigration => "VirtualMachineInstanceMigration",
            Self::KubeVirt => "KubeVirt",
            Self::MigrationPolicy => "MigrationPolicy",
            Self::DataVolume => "DataVolume",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Lease => "Lease",
            Self::Event => "Event",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::PersistentVolume => "PersistentVolume",
            Self::VolumeAttachment => "VolumeAttachment",
            Self::CsiNode => "CSINode",
            Self::Namespace => "Namespace",
        }
    }

    /// Its API group; empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::VirtualMachine
            | Self::VirtualMachineInstance
            | Self::VirtualMachineInstanceMigration
            | Self::KubeVirt => "kubevirt.io",
            Self::MigrationPolicy => "migrations.kubevirt.io",
            Self::DataVolume => "cdi.kubevirt.io",
            Self::Pod
            | Self::Node
            | Self::Event
            | Self::PersistentVolumeClaim
            | Self::PersistentVolume
            | Self::Namespace => "",
            Self::Lease => "coordination.k8s.io",
            Self::VolumeAttachment | Self::CsiNode => "storage.k8s.io",
        }
    }

    /// Whether its objects belong to a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::VirtualMachine
            | Self::VirtualMachineInstance
            | Self::VirtualMachineInstanceMigration
            | Self::KubeVirt
            | Self::DataVolume
            | Self::Pod
            | Self::Lease
            | Self::Event
            | Self::PersistentVolumeClaim => true,
            Self::MigrationPolicy
            | Self::Node
            | Self::PersistentVolume
            | Self::VolumeAttachment
            | Self::CsiNode
            | Self::Namespace => false,
        }
    }

    /// Whether VMs and nodes are described with it. What is not is read by the pre-flight alone, and holds nothing else up.
    #[must_use]
    pub const fn is_described(self) -> bool {
        !matches!(self, Self::Namespace)
    }

    /// The kind of an object of this `kind` and group; an object that tells no group is taken at its word.
    pub(crate) fn of(kind: &str, group: &str) -> Option<Self> {
        let own = Self::ALL.into_iter().find(|own| own.as_str() == kind)?;
        let is_its = match own {
            Self::Event => group == "events.k8s.io",
            _ if own.group().ends_with("kubevirt.io") => group.ends_with("kubevirt.io"),
            _ => group == own.group(),
        };
        (is_its || group.is_empty()).then_some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_by_its_name_and_group() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.as_str(), kind.group()), Some(kind));
            assert_eq!(Kind::of(kind.as_str(), "example.org"), None, "{kind:?}");
        }
        assert_eq!(Kind::of("Event", "events.k8s.io"), Some(Kind::Event));
        assert_eq!(Kind::of("Secret", ""), None);
    }
}
