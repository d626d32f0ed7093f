//! The libvirt domain of a lab guest.
//!
//! The smallest that behaves like a KubeVirt guest where it counts: KVM, a virtio disk with `cache=none`, and pause on disk errors, as
//! KubeVirt sets them. `qemu64` without libvirt's own check: nested KVM lacks features that libvirt would insist on and these guests
//! never use. A checked CPU is `pentium3`, the one model of which nested KVM gives every feature.

/// What differs from guest to guest.
#[derive(Debug)]
pub(crate) struct Domain<'a> {
    pub(crate) name: &'a str,
    pub(crate) memory_mib: u32,
    /// Path of the disk image in the node.
    pub(crate) image: &'a str,
    /// Answer to disk errors: `stop`, `report`.
    pub(crate) on_disk_error: &'a str,
    /// Whether libvirt checks that the guest gets every feature of its CPU model, here and where it migrates to. `partial`, as KubeVirt
    /// has it: `full` also refuses what the hypervisor adds.
    pub(crate) has_checked_cpu: bool,
}

impl Domain<'_> {
    pub(crate) fn to_xml(&self) -> String {
        let Self { name, memory_mib, image, on_disk_error, has_checked_cpu } = self;
        let (check, model) = if *has_checked_cpu { ("partial", "pentium3") } else { ("none", "qemu64") };
        format!(
            "<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='{check}'><model fallback='allow'>{model}</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='{on_disk_error}' rerror_policy='{on_disk_error}'/>
      <source file='{image}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"
        )
    }
}
