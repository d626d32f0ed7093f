//! The rows of the catalogue of causes, one file each; [`crate::catalogue::CAUSES`] lists them.
//!
//! A row says what the cause means, which symptoms it explains how often, what speaks for and against it, what it brings
//! about, and what to do. How a cause is proved and ruled out comes from the interfaces named in its clues.

mod disk_io_error;
mod guest_ignores_shutdown;
mod kubelet_degraded;
mod kubelet_down;
mod kvm_device_inaccessible;
mod kvm_device_missing;
mod kvm_unusable;
mod libvirt_daemon_down;
mod libvirt_daemon_hung;
mod local_disk_stalled;
mod qemu_blocked_in_kernel;
mod qemu_crashed;
mod qemu_killed;
mod qemu_monitor_hung;
mod qemu_out_of_memory;
mod unexplained;
mod volume_out_of_space;

pub use disk_io_error::DISK_IO_ERROR;
pub use guest_ignores_shutdown::GUEST_IGNORES_SHUTDOWN;
pub use kubelet_degraded::KUBELET_DEGRADED;
pub use kubelet_down::KUBELET_DOWN;
pub use kvm_device_inaccessible::KVM_DEVICE_INACCESSIBLE;
pub use kvm_device_missing::KVM_DEVICE_MISSING;
pub use kvm_unusable::KVM_UNUSABLE;
pub use libvirt_daemon_down::LIBVIRT_DAEMON_DOWN;
pub use libvirt_daemon_hung::LIBVIRT_DAEMON_HUNG;
pub use local_disk_stalled::LOCAL_DISK_STALLED;
pub use qemu_blocked_in_kernel::QEMU_BLOCKED_IN_KERNEL;
pub use qemu_crashed::QEMU_CRASHED;
pub use qemu_killed::QEMU_KILLED;
pub use qemu_monitor_hung::QEMU_MONITOR_HUNG;
pub use qemu_out_of_memory::QEMU_OUT_OF_MEMORY;
pub use unexplained::UNEXPLAINED;
pub use volume_out_of_space::VOLUME_OUT_OF_SPACE;
