//! The libvirt domain of a launcher's guest, in the form virt-launcher gives it.
//!
//! As `pkg/virt-launcher/virtwrap/converter` writes it where it shows from outside: the domain's name, KubeVirt's metadata, a disk image
//! below `vmi-disks`, a tap that is there already. `qemu64` and one vCPU as in [`crate::domain_xml`], for the same reasons.

use super::Identity;

/// The domain of a VMI with a firmware UUID of its own, which is not the VMI's UID, and that much memory.
pub(super) fn to_xml(identity: &Identity, firmware_uuid: &str, memory_mib: u32) -> String {
    let (domain, vmi_uid) = (identity.domain(), &identity.vmi_uid);
    format!(
        "<domain type='kvm'>
  <name>{domain}</name>
  <uuid>{firmware_uuid}</uuid>
  <metadata>
    <kubevirt xmlns='http://kubevirt.io'>
      <uid>{vmi_uid}</uid>
      <graceperiod><deletionGracePeriodSeconds>30</deletionGracePeriodSeconds></graceperiod>
    </kubevirt>
  </metadata>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='stop' discard='unmap'/>
      <source file='/var/run/kubevirt-private/vmi-disks/rootdisk/disk.img'/>
      <target dev='vda' bus='virtio'/>
      <alias name='ua-rootdisk'/>
    </disk>
    <interface type='ethernet'>
      <target dev='tap0' managed='no'/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <mtu size='1500'/>
      <rom enabled='no'/>
      <alias name='ua-default'/>
    </interface>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"
    )
}
