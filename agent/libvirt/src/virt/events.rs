//! libvirt's events: one table of what is registered, and a callback for each.
//!
//! The callbacks run on the event loop's thread, copy what they are given and hand it to the one sink; they never wait and
//! never call the daemon. The opaque pointer carries no memory, only the number of the connection.

use std::{
    ffi::{c_char, c_int, c_longlong, c_uint, c_void},
    mem,
    ptr::NonNull,
    sync::OnceLock,
};

use kulprit_proto::worker::{
    ControlError, DomainEvent, IoError, JobCompleted, Lifecycle, MemoryFailure, MigrationIteration, QemuEvent,
    Watchdog, domain_event::Event,
};
use virt_sys as sys;

use super::{connection::Access, domain::identity, error::check, params::read_params};
use crate::{
    job::job_from_params,
    lane::Caller,
    text::{self, MAX_NAME},
};

/// What a callback saw.
#[derive(Debug)]
pub(crate) enum Seen {
    /// To be handed on.
    Event(Box<DomainEvent>),
    /// A device came or went: the disks may be others now.
    DevicesChanged { uuid: String },
    /// The connection ended, with its virConnectCloseReason.
    Closed { reason: u32 },
}

type Sink = Box<dyn Fn(u64, Seen) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Sets where everything seen goes, with the number of its connection. Once; the sink must not wait.
pub(crate) fn watch_events(sink: Sink) {
    assert!(SINK.set(sink).is_ok(), "the worker has one event loop");
}

type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

/// The events registered, and their callbacks in libvirt's general form.
fn table() -> [(sys::virDomainEventID, Generic); 9] {
    // SAFETY of each: libvirt wants the callback in this type and calls it with the arguments that belong to the event's
    // number (libvirt-domain.h, `VIR_DOMAIN_EVENT_CALLBACK`); all are plain function pointers.
    macro_rules! generic {
        ($callback:ident: $kind:ty) => {{
            let callback: $kind = Some($callback);
            // SAFETY: see above; the type is checked against libvirt's own by the line before.
            unsafe { mem::transmute::<$kind, Option<Generic>>(callback) }.expect("set in the line before")
        }};
    }
    [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic!(on_lifecycle: LifecycleCallback)),
        (sys::VIR_DOMAIN_EVENT_ID_WATCHDOG, generic!(on_watchdog: sys::virConnectDomainEventWatchdogCallback)),
        (
            sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            generic!(on_io_error: sys::virConnectDomainEventIOErrorReasonCallback),
        ),
        (sys::VIR_DOMAIN_EVENT_ID_CONTROL_ERROR, on_control_error),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, generic!(on_device: sys::virConnectDomainEventDeviceRemovedCallback)),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, generic!(on_device: sys::virConnectDomainEventDeviceAddedCallback)),
        (
            sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION,
            generic!(on_iteration: sys::virConnectDomainEventMigrationIterationCallback),
        ),
        (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, generic!(on_job: sys::virConnectDomainEventJobCompletedCallback)),
        (
            sys::VIR_DOMAIN_EVENT_ID_MEMORY_FAILURE,
            generic!(on_memory_failure: sys::virConnectDomainEventMemoryFailureCallback),
        ),
    ]
}

/// libvirt returns an int from this one alone.
type LifecycleCallback =
    Option<unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int>;

/// What is registered on a connection.
#[derive(Default)]
pub(super) struct Registered {
    event_ids: Vec<c_int>,
    pub(super) powerdown_id: Option<c_int>,
    pub(super) missing: Vec<c_int>,
}

impl Registered {
    pub(super) fn register(
        caller: &Caller,
        connection: NonNull<sys::virConnect>,
        generation: u64,
        access: Access,
    ) -> Self {
        let mut registered = Self::default();
        for (event, callback) in table() {
            // SAFETY: an open connection, a callback that lives forever, a number as its argument: nothing to free.
            let asked = check(caller, "virConnectDomainEventRegisterAny", None, || unsafe {
                sys::virConnectDomainEventRegisterAny(
                    connection.as_ptr(),
                    std::ptr::null_mut(),
                    event.cast_signed(),
                    Some(callback),
                    opaque(generation),
                    None,
                )
            });
            match asked {
                Ok(id) => registered.event_ids.push(id),
                Err(_) => registered.missing.push(event.cast_signed()),
            }
        }
        if access == Access::Writable {
            // Forwards an event that QEMU sends anyway; QEMU is sent no command and the domain is not tainted.
            // SAFETY: as above; the name is static.
            registered.powerdown_id = check(caller, "virConnectDomainQemuMonitorEventRegister", None, || unsafe {
                sys::virConnectDomainQemuMonitorEventRegister(
                    connection.as_ptr(),
                    std::ptr::null_mut(),
                    c"POWERDOWN".as_ptr(),
                    Some(on_qemu_event),
                    opaque(generation),
                    None,
                    0,
                )
            })
            .ok();
        }
        registered
    }

    pub(super) fn deregister(&mut self, connection: NonNull<sys::virConnect>) {
        for id in self.event_ids.drain(..) {
            // SAFETY: an open connection and a registration of it.
            unsafe { sys::virConnectDomainEventDeregisterAny(connection.as_ptr(), id) };
        }
        if let Some(id) = self.powerdown_id.take() {
            // SAFETY: as above.
            unsafe { sys::virConnectDomainQemuMonitorEventDeregister(connection.as_ptr(), id) };
        }
    }
}

/// A number in the place of a pointer; never followed.
pub(super) fn opaque(generation: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(usize::try_from(generation).expect("fewer connections than addresses"))
}

fn emit(opaque: *mut c_void, seen: Seen) {
    if let Some(sink) = SINK.get() {
        sink(u64::try_from(opaque.addr()).expect("an address fits"), seen);
    }
}

/// # Safety
/// `domain` is a live domain: libvirt lends it for the time of the callback.
unsafe fn emit_event(domain: sys::virDomainPtr, opaque: *mut c_void, event: Event) {
    // SAFETY: as the caller promises.
    let (uuid, name, id) = unsafe { identity(domain) };
    emit(opaque, Seen::Event(Box::new(DomainEvent { uuid, name, id, event: Some(event) })));
}

pub(super) unsafe extern "C" fn on_close(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    emit(opaque, Seen::Closed { reason: reason.cast_unsigned() });
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt lends a live domain.
    unsafe { emit_event(domain, opaque, Event::Lifecycle(Lifecycle { event, detail })) };
    0
}

unsafe extern "C" fn on_watchdog(_: sys::virConnectPtr, domain: sys::virDomainPtr, action: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt lends a live domain.
    unsafe { emit_event(domain, opaque, Event::Watchdog(Watchdog { action })) };
}

unsafe extern "C" fn on_io_error(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    source: *const c_char,
    alias: *const c_char,
    action: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends a live domain and C strings, or nulls, for the time of the call.
    unsafe {
        let text = |ptr| text::from_ptr(ptr, MAX_NAME).unwrap_or_default();
        let event = IoError { source: text(source), alias: text(alias), action, reason: text(reason) };
        emit_event(domain, opaque, Event::IoError(event));
    }
}

unsafe extern "C" fn on_control_error(_: sys::virConnectPtr, domain: sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: libvirt lends a live domain.
    unsafe { emit_event(domain, opaque, Event::ControlError(ControlError {})) };
}

unsafe extern "C" fn on_device(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends a live domain.
    let (uuid, ..) = unsafe { identity(domain) };
    emit(opaque, Seen::DevicesChanged { uuid });
}

unsafe extern "C" fn on_iteration(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    iteration: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends a live domain.
    unsafe { emit_event(domain, opaque, Event::MigrationIteration(MigrationIteration { iteration })) };
}

unsafe extern "C" fn on_job(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    n_params: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends a live domain and that many parameters, which it frees itself.
    unsafe {
        // The event says by `success` how it went, and carries no job type.
        let job = job_from_params(sys::VIR_DOMAIN_JOB_COMPLETED.cast_signed(), read_params(params, n_params));
        emit_event(domain, opaque, Event::JobCompleted(JobCompleted { job: Some(job) }));
    }
}

unsafe extern "C" fn on_memory_failure(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    recipient: c_int,
    action: c_int,
    flags: c_uint,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends a live domain.
    unsafe { emit_event(domain, opaque, Event::MemoryFailure(MemoryFailure { recipient, action, flags })) };
}

unsafe extern "C" fn on_qemu_event(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: *const c_char,
    seconds: c_longlong,
    micros: c_uint,
    _details: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends a live domain and a C string.
    unsafe {
        let event = text::from_ptr(event, MAX_NAME).unwrap_or_default();
        emit_event(domain, opaque, Event::QemuEvent(QemuEvent { event, wall_secs: seconds, wall_usec: micros }));
    }
}
