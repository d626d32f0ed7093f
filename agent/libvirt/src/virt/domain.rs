//! One domain, and what is asked about it.
//!
//! Measured with libvirt 11.3 on a QEMU stopped with SIGSTOP: while nobody asks it anything (a), while somebody's command
//! to it is unanswered (b), and during its migration while nobody asks (c). `waits` = until the other's command ends, at
//! most libvirt's 30 s; `holds` = until QEMU answers, and everybody else waits.
//!
//! | call | a | b | c |
//! |---|---|---|---|
//! | `virConnectListAllDomains`, `virConnectGetAllDomainStats` of the state alone, `virDomainGetControlInfo` | < 1 ms | < 1 ms | < 1 ms |
//! | `virDomainGetXMLDesc`, with `INACTIVE` too | < 1 ms | waits | < 1 ms |
//! | `virDomainGetJobStats` | < 1 ms | waits | holds |
//! | `virDomainGetDiskErrors` | holds | waits | holds |
//!
//! So a look makes only the calls of the first row; the others are made apart and never while control info says that
//! somebody has a command in flight: XML at a start, job statistics right after QEMU told of a migration round, disk errors
//! on demand. Control info says `occupied` for (b); during a migration it says `job` instead, with the age of the migration
//! and not of the command, and `ok` while no command is in flight.

use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    ptr::NonNull,
};

use kulprit_proto::worker::{Control, DiskError, Job};
use virt_sys as sys;

use super::{
    error::{VirtError, check, check_ptr},
    params::OwnedParams,
};
use crate::{
    job::job_from_params,
    lane::Caller,
    text::{self, MAX_NAME},
};

/// Most disks asked for their errors.
const MAX_DISK_ERRORS: usize = 256;

/// A domain of a connection.
pub(crate) struct Domain {
    ptr: NonNull<sys::virDomain>,
    pub(crate) uuid: String,
    pub(crate) name: String,
    /// Of a running domain.
    pub(crate) id: Option<i32>,
    /// State and reason, if they came with it.
    pub(crate) state: Option<(i32, i32)>,
}

impl Domain {
    /// # Safety
    /// `ptr` is a live domain and its reference is ours.
    pub(super) unsafe fn own(ptr: NonNull<sys::virDomain>) -> Self {
        // SAFETY: a live domain, as the caller promises.
        let (uuid, name, id) = unsafe { identity(ptr.as_ptr()) };
        Self { ptr, uuid, name, id, state: None }
    }

    pub(super) fn with_state(mut self, state: Option<(i32, i32)>) -> Self {
        self.state = state;
        self
    }

    /// Whether libvirt waits for QEMU. Takes no job; only running domains have it.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn control(&self, caller: &Caller) -> Result<Control, VirtError> {
        let mut info = MaybeUninit::<sys::virDomainControlInfo>::zeroed();
        // SAFETY: a live domain, and a struct to write to.
        check(caller, "virDomainGetControlInfo", Some(&self.uuid), || unsafe {
            sys::virDomainGetControlInfo(self.ptr.as_ptr(), info.as_mut_ptr(), 0)
        })?;
        // SAFETY: three integers, for which zeroes are a value even if libvirt left one out.
        let info = unsafe { info.assume_init() };
        Ok(Control { state: info.state.cast_signed(), details: info.details.cast_signed(), state_ms: info.stateTime })
    }

    /// Figures of the job under way. Takes the query job, and during a migration asks QEMU.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn job(&self, caller: &Caller) -> Result<Job, VirtError> {
        let mut params = OwnedParams::none();
        let mut job_type = 0;
        // SAFETY: a live domain, and places to write to; what libvirt allocates, `params` frees.
        check(caller, "virDomainGetJobStats", Some(&self.uuid), || unsafe {
            sys::virDomainGetJobStats(
                self.ptr.as_ptr(),
                &raw mut job_type,
                &raw mut params.first,
                &raw mut params.count,
                0,
            )
        })?;
        Ok(job_from_params(job_type, params.read()))
    }

    /// The definition: of a running domain as it runs. Without secrets, which libvirt only gives when asked for. Takes
    /// the query job for a moment.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn xml(&self, caller: &Caller) -> Result<String, VirtError> {
        // SAFETY: a live domain.
        let xml = check_ptr(caller, "virDomainGetXMLDesc", Some(&self.uuid), || unsafe {
            sys::virDomainGetXMLDesc(self.ptr.as_ptr(), 0)
        })?;
        // SAFETY: a C string that libvirt made for us to free; it is copied before.
        unsafe {
            let text = String::from_utf8_lossy(CStr::from_ptr(xml.as_ptr()).to_bytes()).into_owned();
            nix::libc::free(xml.as_ptr().cast());
            Ok(text)
        }
    }

    /// The disks with an error. ACTIVE: takes the query job and asks QEMU.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn disk_errors(&self, caller: &Caller) -> Result<Vec<DiskError>, VirtError> {
        let mut errors = [sys::virDomainDiskError { disk: std::ptr::null_mut(), error: 0 }; MAX_DISK_ERRORS];
        let room = u32::try_from(MAX_DISK_ERRORS).unwrap_or(u32::MAX);
        // SAFETY: a live domain, and an array with room for as many as we say.
        let count = check(caller, "virDomainGetDiskErrors", Some(&self.uuid), || unsafe {
            sys::virDomainGetDiskErrors(self.ptr.as_ptr(), errors.as_mut_ptr(), room, 0)
        })?;
        let filled = usize::try_from(count).unwrap_or(0).min(MAX_DISK_ERRORS);
        let read = errors[..filled].iter().filter_map(|entry| {
            // SAFETY: libvirt filled this many entries, each with a C string for us to free; it is copied before.
            let target = unsafe {
                let target = text::from_ptr(entry.disk, MAX_NAME);
                nix::libc::free(entry.disk.cast());
                target?
            };
            Some(DiskError { target, error: entry.error })
        });
        Ok(read.collect())
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: our reference, given back once.
        unsafe { sys::virDomainFree(self.ptr.as_ptr()) };
    }
}

/// UUID, name and, if it runs, number: as the object carries them, without asking the daemon.
///
/// # Safety
/// `domain` is a live domain.
pub(super) unsafe fn identity(domain: sys::virDomainPtr) -> (String, String, Option<i32>) {
    let mut uuid: [c_char; sys::VIR_UUID_STRING_BUFLEN as usize] = [0; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: a live domain, a buffer of the size libvirt wants (NUL-terminated by it; zeroed before), and a name that the
    // domain owns.
    unsafe {
        sys::virDomainGetUUIDString(domain, uuid.as_mut_ptr());
        let uuid = text::from_ptr(uuid.as_ptr(), MAX_NAME).unwrap_or_default();
        let name = text::from_ptr(sys::virDomainGetName(domain), MAX_NAME).unwrap_or_default();
        // `(unsigned int)-1` stands for a domain that does not run.
        (uuid, name, i32::try_from(sys::virDomainGetID(domain)).ok())
    }
}
