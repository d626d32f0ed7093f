//! Domains, QEMU processes and their disks.

use kulprit_model::{Disk, Domain, Qemu};

use super::{ConvertError, filled, required};
use crate::v1;

impl From<Domain> for v1::Domain {
    fn from(Domain { uid, name, state, reason, since, is_persistent }: Domain) -> Self {
        Self { uid, name, state, reason, since: Some(since.into()), is_persistent }
    }
}

impl TryFrom<v1::Domain> for Domain {
    type Error = ConvertError;

    fn try_from(wire: v1::Domain) -> Result<Self, ConvertError> {
        let v1::Domain { uid, name, state, reason, since, is_persistent } = wire;
        let uid = filled(uid, "domain.uid")?;
        Ok(Self { uid, name, state, reason, since: required(since, "domain.since")?.into(), is_persistent })
    }
}

impl From<Disk> for v1::Disk {
    fn from(Disk { path, device, device_name, fstype, mount_point }: Disk) -> Self {
        Self { path, device, device_name, fstype, mount_point }
    }
}

impl From<v1::Disk> for Disk {
    fn from(v1::Disk { path, device, device_name, fstype, mount_point }: v1::Disk) -> Self {
        Self { path, device, device_name, fstype, mount_point }
    }
}

impl From<Qemu> for v1::Qemu {
    fn from(Qemu { uid, name, pid, start_ticks, since, disks }: Qemu) -> Self {
        let disks = disks.into_iter().map(Into::into).collect();
        Self { uid, name, pid, start_ticks, since: Some(since.into()), disks }
    }
}

impl TryFrom<v1::Qemu> for Qemu {
    type Error = ConvertError;

    fn try_from(wire: v1::Qemu) -> Result<Self, ConvertError> {
        let v1::Qemu { uid, name, pid, start_ticks, since, disks } = wire;
        if pid == 0 {
            return Err(ConvertError::Missing { path: "qemu.pid".to_owned() });
        }
        let uid = filled(uid, "qemu.uid")?;
        let since = required(since, "qemu.since")?.into();
        Ok(Self { uid, name, pid, start_ticks, since, disks: disks.into_iter().map(Into::into).collect() })
    }
}
