//! The device itself: its node in `/dev`, and the two calls that prove it works.
//!
//! Source: kernel `Documentation/virt/kvm/api.rst`. Making a virtual machine is the only proof that the processor can be
//! used; it is closed at once and costs under 1 ms. None of it waits for a running guest.
#![allow(unsafe_code, reason = "the KVM ioctls have no safe wrapper in rustix")]

use std::ffi::c_void;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::KVM_PATH;
use crate::mount::DeviceNumber;
use crate::{HostRoot, ReadError};

/// What stands at a path in `/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device, as it should be.
    CharacterDevice(DeviceNumber),
    /// A plain file: what a container runtime or an admin's typo leaves behind.
    RegularFile,
    /// Anything else.
    Other,
}

/// The node of `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvmNode {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, `0o666` say.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// An error number of the kernel, kept as a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsError {
    /// The number: 13 is `EACCES`.
    pub errno: i32,
}

impl std::fmt::Display for OsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.errno).fmt(f)
    }
}

impl From<Errno> for OsError {
    fn from(errno: Errno) -> Self {
        Self { errno: errno.raw_os_error() }
    }
}

/// How the device answered. A step that came after a failed one was not tried and is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvmCalls {
    /// Opening for reading and writing, as us: root, and under our own device cgroup.
    pub open: Result<(), OsError>,
    /// `KVM_GET_API_VERSION`; 12 since 2007.
    pub api_version: Option<Result<i32, OsError>>,
    /// `KVM_CREATE_VM` of the default type.
    pub create_vm: Option<Result<(), OsError>>,
}

/// Looks at the node of `/dev/kvm`. `None` when nothing has that name.
///
/// # Errors
/// See [`ReadError`].
pub fn read_kvm_node(root: &HostRoot) -> Result<Option<KvmNode>, ReadError> {
    let stat = match root.stat(KVM_PATH) {
        Err(Errno::NOENT) => return Ok(None),
        result => result.map_err(|errno| ReadError::from_io(root.display_path(KVM_PATH), errno.into()))?,
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => NodeKind::CharacterDevice(DeviceNumber::from_raw(stat.st_rdev)),
        FileType::RegularFile => NodeKind::RegularFile,
        _ => NodeKind::Other,
    };
    Ok(Some(KvmNode { kind, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }))
}

/// Opens the device, asks its version and makes a virtual machine, which is closed at once.
///
/// Call it only for a node that [`read_kvm_node`] found to be a character device: opening others may have effects.
pub fn read_kvm_calls(root: &HostRoot) -> KvmCalls {
    let mut calls = KvmCalls { open: Ok(()), api_version: None, create_vm: None };
    let device = match root.open_raw(Path::new(KVM_PATH), OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(device) => device,
        Err(errno) => return KvmCalls { open: Err(errno.into()), ..calls },
    };
    // SAFETY: KVM_GET_API_VERSION takes no argument and returns a number; on a descriptor that is not KVM's the call fails.
    let version = unsafe { ioctl(&device, GetApiVersion) };
    calls.api_version = Some(version.map_err(OsError::from));
    if version.is_ok() {
        // SAFETY: KVM_CREATE_VM takes a machine type by value, 0 for the default, and returns a new descriptor that is ours.
        let vm = unsafe { ioctl(&device, CreateVm) };
        calls.create_vm = Some(vm.map(drop).map_err(OsError::from));
    }
    calls
}

/// Group of KVM's calls, `KVMIO`.
const KVMIO: u8 = 0xAE;

struct GetApiVersion;

// SAFETY: the opcode takes no argument, so nothing is read or written through the null pointer; the result is the version.
unsafe impl Ioctl for GetApiVersion {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(KVMIO, 0x00)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        Ok(output)
    }
}

struct CreateVm;

// SAFETY: the argument is the machine type by value (0), not a pointer; a non-negative result is a descriptor opened for us.
unsafe impl Ioctl for CreateVm {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(KVMIO, 0x01)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        // SAFETY: the kernel has just made this descriptor for the call that succeeded, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(output) })
    }
}
