//! A libvirt call that failed, and reading why.

use kulprit_proto::worker::CallError;
use virt_sys as sys;

use crate::{
    lane::Caller,
    text::{self, MAX_MESSAGE},
};

/// What libvirt says about a failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {text}")]
pub(crate) struct VirtError {
    /// The function that failed.
    pub(crate) call: &'static str,
    /// virErrorNumber; 0 = libvirt set no error.
    pub(crate) code: u32,
    /// virErrorDomain.
    pub(crate) domain: i32,
    /// errno, of an error that came from a system call.
    pub(crate) os_error: Option<i32>,
    pub(crate) text: String,
}

impl VirtError {
    /// An error of our own, in the same form.
    pub(crate) fn own(call: &'static str, text: impl Into<String>) -> Self {
        Self { call, code: 0, domain: 0, os_error: None, text: text.into() }
    }

    /// Reads the last error of this thread. Must follow the failed call on the same thread.
    fn last(call: &'static str) -> Self {
        // SAFETY: returns null or a pointer to this thread's last error, which stays as it is until the next call.
        let error = unsafe { sys::virGetLastError().as_ref() };
        let Some(error) = error else {
            return Self::own(call, "libvirt gave no reason");
        };
        // SAFETY: the message is null or a C string owned by the error.
        let text = unsafe { text::from_ptr(error.message, MAX_MESSAGE) };
        let code = u32::try_from(error.code).unwrap_or(0);
        // virReportSystemErrorFull puts errno there; other errors use it for what they like.
        let os_error = (code == sys::VIR_ERR_SYSTEM_ERROR).then_some(error.int1);
        Self { call, code, domain: error.domain, os_error, text: text.unwrap_or_default() }
    }

    /// The domain is gone.
    pub(crate) fn is_no_domain(&self) -> bool {
        self.code == sys::VIR_ERR_NO_DOMAIN
    }
}

impl From<&VirtError> for CallError {
    fn from(error: &VirtError) -> Self {
        let VirtError { call, code, domain, os_error: _, text } = error;
        Self { call: (*call).into(), code: code.cast_signed(), domain: *domain, text: text.clone() }
    }
}

/// Makes a call that returns a negative number when it fails.
pub(super) fn check(
    caller: &Caller,
    call: &'static str,
    domain: Option<&str>,
    make: impl FnOnce() -> i32,
) -> Result<i32, VirtError> {
    let outcome = caller.call(call, domain, make);
    if outcome < 0 { Err(VirtError::last(call)) } else { Ok(outcome) }
}

/// Makes a call that returns null when it fails.
pub(super) fn check_ptr<T>(
    caller: &Caller,
    call: &'static str,
    domain: Option<&str>,
    make: impl FnOnce() -> *mut T,
) -> Result<std::ptr::NonNull<T>, VirtError> {
    std::ptr::NonNull::new(caller.call(call, domain, make)).ok_or_else(|| VirtError::last(call))
}
