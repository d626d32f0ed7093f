//! libvirt's C interface, made safe: the only place of the worker with `unsafe` calls into it.
//!
//! Every call goes through a `Caller`, so that whoever watches the thread sees which call it is in and for how long: any of
//! them can hang with its daemon. Errors are read right after the call on the same thread, where libvirt keeps them.
//!
//! A panic in a callback ends the process: an `extern "C"` function cannot unwind (Rust 1.81 aborts), and the agent starts
//! a new worker. That is wanted: a worker whose callbacks are wrong has nothing to say.

mod connection;
mod domain;
mod error;
mod event_loop;
mod events;
mod params;

use virt_sys as sys;

pub(crate) use self::{
    connection::{Access, Connection},
    domain::Domain,
    error::VirtError,
    events::{Seen, watch_events},
};
use crate::lane::Caller;

/// Makes libvirt ready: its event loop, and no printing of its own. Once, before anything else here.
///
/// # Errors
/// libvirt could not start; nothing will work.
pub(crate) fn initialize(caller: &Caller) -> Result<(), VirtError> {
    unsafe extern "C" fn say_nothing(_: *mut std::ffi::c_void, _: sys::virErrorPtr) {}
    // SAFETY: no arguments beyond a function that lives forever and touches nothing.
    error::check(caller, "virInitialize", None, || unsafe {
        sys::virSetErrorFunc(std::ptr::null_mut(), Some(say_nothing));
        sys::virInitialize()
    })?;
    event_loop::register().map_err(|errno| VirtError::own("virEventRegisterImpl", errno.desc()))
}

/// One turn of libvirt's event loop: waits for something to happen, and handles it.
///
/// # Errors
/// The loop itself is broken.
pub(crate) fn run_event_loop_once() -> Result<(), VirtError> {
    event_loop::run_once().map_err(|errno| VirtError::own("the event loop", errno.desc()))
}

/// Version of the library: major * 1,000,000 + minor * 1,000 + release. 0 if it does not say.
pub(crate) fn lib_version() -> u64 {
    let mut version = 0;
    // SAFETY: a pointer to write one number to; the other two may be null.
    unsafe { sys::virGetVersion(&raw mut version, std::ptr::null(), std::ptr::null_mut()) };
    version
}
