//! One connection to a libvirt daemon.

use std::{
    ffi::{CString, c_void},
    ptr::{self, NonNull},
};

use virt_sys as sys;

use super::{
    domain::Domain,
    error::{VirtError, check, check_ptr},
    events::{self, Registered},
    params::read_params,
};
use crate::{
    job::state_from_params,
    lane::Caller,
    text::{self, MAX_NAME},
};

/// How a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// libvirt refuses every call that would change something.
    ReadOnly,
    /// Nothing but that more is *allowed*: the worker makes the same reading calls. libvirt 11.3 wants it for QEMU's events.
    Writable,
}

/// An open connection. Dropping it deregisters and closes, which on a daemon that does not answer can hang: so it is only
/// dropped on a call thread, once the connection is known to be dead.
pub(crate) struct Connection {
    ptr: NonNull<sys::virConnect>,
    registered: Registered,
    /// Number of this connection since the worker started; events carry it.
    pub(crate) generation: u64,
    pub(crate) access: Access,
}

// SAFETY: libvirt's connections may be used from several threads at once (libvirt.org, "Thread safety": since 0.6.0).
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// Connects. Hangs when the daemon accepts and does not answer.
    ///
    /// # Errors
    /// libvirt's, with errno where a system call failed.
    pub(crate) fn open(caller: &Caller, uri: &str, access: Access, generation: u64) -> Result<Self, VirtError> {
        let name = "virConnectOpen";
        let uri = CString::new(uri).map_err(|_| VirtError::own(name, "the URI holds a NUL byte"))?;
        let ptr = match access {
            // SAFETY: a C string that outlives the call.
            Access::ReadOnly => check_ptr(caller, "virConnectOpenReadOnly", None, || unsafe {
                sys::virConnectOpenReadOnly(uri.as_ptr())
            }),
            // SAFETY: as above.
            Access::Writable => check_ptr(caller, name, None, || unsafe { sys::virConnectOpen(uri.as_ptr()) }),
        }?;
        Ok(Self { ptr, registered: Registered::default(), generation, access })
    }

    /// Registers the events and the notice of the connection's end. Events the daemon does not know are left out.
    ///
    /// # Errors
    /// The notice could not be registered; the connection is of no use.
    pub(crate) fn watch(&mut self, caller: &Caller) -> Result<(), VirtError> {
        let generation = events::opaque(self.generation);
        // SAFETY: the callback lives forever, its argument is a number and needs no freeing.
        check(caller, "virConnectRegisterCloseCallback", None, || unsafe {
            sys::virConnectRegisterCloseCallback(self.as_ptr(), Some(events::on_close), generation, None)
        })?;
        self.registered = Registered::register(caller, self.ptr, self.generation, self.access);
        Ok(())
    }

    /// Whether QEMU's POWERDOWN is seen.
    pub(crate) fn sees_powerdown(&self) -> bool {
        self.registered.powerdown_id.is_some()
    }

    /// Events that could not be registered.
    pub(crate) fn missing_events(&self) -> &[i32] {
        &self.registered.missing
    }

    /// Sets the keepalive, once for a connection. Asks the daemon nothing. Drivers without a daemon have none.
    ///
    /// # Errors
    /// The connection is dead.
    pub(crate) fn set_keepalive(&self, caller: &Caller, interval_secs: i32, count: u32) -> Result<(), VirtError> {
        // SAFETY: an open connection and two numbers.
        check(caller, "virConnectSetKeepAlive", None, || unsafe {
            sys::virConnectSetKeepAlive(self.as_ptr(), interval_secs, count)
        })?;
        Ok(())
    }

    /// Version of the daemon: major * 1,000,000 + minor * 1,000 + release. A short question to the daemon itself, none to
    /// a domain.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn daemon_version(&self, caller: &Caller) -> Result<u64, VirtError> {
        let mut version = 0;
        // SAFETY: an open connection, and a number to write to.
        check(caller, "virConnectGetLibVersion", None, || unsafe {
            sys::virConnectGetLibVersion(self.as_ptr(), &raw mut version)
        })?;
        Ok(version)
    }

    /// Name and version of the driver, `QEMU`.
    pub(crate) fn hypervisor(&self, caller: &Caller) -> (Option<String>, Option<u64>) {
        // SAFETY: an open connection; the string is static in libvirt, or null.
        let name = caller.call("virConnectGetType", None, || unsafe {
            text::from_ptr(sys::virConnectGetType(self.as_ptr()), MAX_NAME)
        });
        let mut version = 0;
        // SAFETY: an open connection, and a number to write to.
        let asked = check(caller, "virConnectGetVersion", None, || unsafe {
            sys::virConnectGetVersion(self.as_ptr(), &raw mut version)
        });
        (name, asked.ok().map(|_| version))
    }

    /// Whether libvirt thinks that the other side is still there. Asks nobody.
    pub(crate) fn is_alive(&self, caller: &Caller) -> bool {
        // SAFETY: an open connection.
        check(caller, "virConnectIsAlive", None, || unsafe { sys::virConnectIsAlive(self.as_ptr()) }) != Ok(0)
    }

    /// The domains that match `flags` (virConnectListAllDomainsFlags), 0 = all. Takes no domain's job.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn list(&self, caller: &Caller, flags: u32) -> Result<Vec<Domain>, VirtError> {
        let mut first: *mut sys::virDomainPtr = ptr::null_mut();
        // SAFETY: an open connection, and a pointer to write the list's address to.
        let count = check(caller, "virConnectListAllDomains", None, || unsafe {
            sys::virConnectListAllDomains(self.as_ptr(), &raw mut first, flags)
        })?;
        if first.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: libvirt made a list of that many domains, each one ours to free, and the list itself too.
        let domains = unsafe {
            let list = std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or(0));
            let domains =
                list.iter().filter_map(|domain| NonNull::new(*domain).map(|domain| Domain::own(domain))).collect();
            nix::libc::free(first.cast::<c_void>());
            domains
        };
        Ok(domains)
    }

    /// All domains with their states. One question, however many there are; it takes no domain's job, for libvirt needs none for this
    /// one group of its statistics.
    ///
    /// # Errors
    /// libvirt's.
    pub(crate) fn list_with_states(&self, caller: &Caller) -> Result<Vec<Domain>, VirtError> {
        let mut first: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
        // SAFETY: an open connection, and a pointer to write the list's address to.
        let count = check(caller, "virConnectGetAllDomainStats", None, || unsafe {
            sys::virConnectGetAllDomainStats(self.as_ptr(), sys::VIR_DOMAIN_STATS_STATE, &raw mut first, 0)
        })?;
        if first.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: libvirt made a list of that many records, each with a live domain and that many parameters. The list is freed with
        // all that is in it, so each domain is given a reference of its own before.
        let domains = unsafe {
            let list = std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or(0));
            let domains = list.iter().filter_map(|record| {
                let record = record.as_ref()?;
                let domain = NonNull::new(record.dom)?;
                let state = state_from_params(read_params(record.params, record.nparams));
                let is_ours = sys::virDomainRef(domain.as_ptr()) == 0;
                is_ours.then(|| Domain::own(domain).with_state(state))
            });
            let domains = domains.collect();
            sys::virDomainStatsRecordListFree(first);
            domains
        };
        Ok(domains)
    }

    /// The domain with this UUID. Takes no job.
    ///
    /// # Errors
    /// libvirt's; `is_no_domain` when there is none.
    pub(crate) fn lookup(&self, caller: &Caller, uuid: &str) -> Result<Domain, VirtError> {
        let name = "virDomainLookupByUUIDString";
        let text = CString::new(uuid).map_err(|_| VirtError::own(name, "the UUID holds a NUL byte"))?;
        // SAFETY: an open connection, and a C string that outlives the call.
        let ptr = check_ptr(caller, name, Some(uuid), || unsafe {
            sys::virDomainLookupByUUIDString(self.as_ptr(), text.as_ptr())
        })?;
        // SAFETY: libvirt gave us a reference of our own.
        Ok(unsafe { Domain::own(ptr) })
    }

    fn as_ptr(&self) -> sys::virConnectPtr {
        self.ptr.as_ptr()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Each registration holds a reference of its own: without this the connection would stay in memory.
        self.registered.deregister(self.ptr);
        // SAFETY: an open connection, whose last reference of ours this is; nothing uses it afterwards. Errors do not
        // matter: it is over.
        unsafe {
            sys::virConnectUnregisterCloseCallback(self.as_ptr(), Some(events::on_close));
            sys::virConnectClose(self.as_ptr());
        }
    }
}
