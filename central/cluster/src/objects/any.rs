//! An object of any kind, on its way into the cluster or out of it.

use serde_json::Value;

use super::{
    Attachment, Claim, CsiNode, DataVolume, Event, KubeVirt, Lease, Meta, Migration, MigrationPolicy, Namespace, Node,
    Pod, Vm, Vmi, Volume,
};
use crate::kind::Kind;

/// An object of any kind.
#[derive(Debug)]
pub(crate) enum Object {
    Vm(Box<Vm>),
    Vmi(Box<Vmi>),
    Migration(Box<Migration>),
    KubeVirt(Box<KubeVirt>),
    Policy(Box<MigrationPolicy>),
    DataVolume(Box<DataVolume>),
    Pod(Box<Pod>),
    Node(Box<Node>),
    Lease(Box<Lease>),
    Event(Box<Event>),
    Claim(Box<Claim>),
    Volume(Box<Volume>),
    Attachment(Box<Attachment>),
    CsiNode(Box<CsiNode>),
    Namespace(Box<Namespace>),
}

impl Object {
    /// `None` without a name; of an event without what it is about, or says.
    pub(crate) fn read(kind: Kind, object: &Value) -> Option<Self> {
        Some(match kind {
            Kind::VirtualMachine => Self::Vm(Vm::read(object)?.into()),
            Kind::VirtualMachineInstance => Self::Vmi(Vmi::read(object)?.into()),
            Kind::VirtualMachineInstanceMigration => Self::Migration(Migration::read(object)?.into()),
            Kind::KubeVirt => Self::KubeVirt(KubeVirt::read(object)?.into()),
            Kind::MigrationPolicy => Self::Policy(MigrationPolicy::read(object)?.into()),
            Kind::DataVolume => Self::DataVolume(DataVolume::read(object)?.into()),
            Kind::Pod => Self::Pod(Pod::read(object)?.into()),
            Kind::Node => Self::Node(Node::read(object)?.into()),
            Kind::Lease => Self::Lease(Lease::read(object)?.into()),
            Kind::Event => Self::Event(Event::read(object)?.into()),
            Kind::PersistentVolumeClaim => Self::Claim(Claim::read(object)?.into()),
            Kind::PersistentVolume => Self::Volume(Volume::read(object)?.into()),
            Kind::VolumeAttachment => Self::Attachment(Attachment::read(object)?.into()),
            Kind::CsiNode => Self::CsiNode(CsiNode::read(object)?.into()),
            Kind::Namespace => Self::Namespace(Namespace::read(object)?.into()),
        })
    }

    /// Namespace and name.
    pub(crate) fn key(&self) -> (String, String) {
        match self {
            Self::Event(event) => event.key.clone(),
            _ => self.meta().map(|meta| (meta.namespace.clone(), meta.name.clone())).unwrap_or_default(),
        }
    }

    pub(crate) fn uid(&self) -> Option<&str> {
        self.meta()?.uid.as_deref()
    }

    /// Of an event only its key is kept.
    fn meta(&self) -> Option<&Meta> {
        Some(match self {
            Self::Event(_) => return None,
            Self::Vm(vm) => &vm.meta,
            Self::Vmi(vmi) => &vmi.meta,
            Self::Migration(migration) => &migration.meta,
            Self::KubeVirt(kubevirt) => &kubevirt.meta,
            Self::Policy(policy) => &policy.meta,
            Self::DataVolume(data_volume) => &data_volume.meta,
            Self::Pod(pod) => &pod.meta,
            Self::Node(node) => &node.meta,
            Self::Lease(lease) => &lease.meta,
            Self::Claim(claim) => &claim.meta,
            Self::Volume(volume) => &volume.meta,
            Self::Attachment(attachment) => &attachment.meta,
            Self::CsiNode(node) => &node.meta,
            Self::Namespace(namespace) => &namespace.meta,
        })
    }

    /// The newest moment that it tells.
    pub(crate) fn newest_usec(&self) -> Option<i64> {
        match self {
            Self::Vm(vm) => vm.conditions.newest_usec().max(vm.meta.created_usec),
            Self::Vmi(vmi) => vmi
                .conditions
                .newest_usec()
                .max(vmi.phase_times.iter().map(|(_, usec)| *usec).max())
                .max(vmi.meta.created_usec)
                .max(vmi.meta.deleted_usec),
            Self::Migration(migration) => {
                migration.phase_times.iter().map(|(_, usec)| *usec).max().max(migration.meta.created_usec)
            }
            Self::DataVolume(data_volume) => data_volume.conditions.newest_usec(),
            Self::Pod(pod) => pod.newest_usec(),
            Self::Node(node) => node.heartbeat_usec().max(node.conditions.newest_usec()),
            Self::Lease(lease) => lease.renewed_usec,
            Self::Event(event) => event.last_usec,
            Self::KubeVirt(_)
            | Self::Policy(_)
            | Self::Claim(_)
            | Self::Volume(_)
            | Self::Attachment(_)
            | Self::CsiNode(_)
            | Self::Namespace(_) => None,
        }
    }
}
