//! Why there is no connection, told from libvirt's error numbers and never from its texts.
//!
//! Source: virterror.h (`virErrorNumber`, `virErrorDomain`). An error of a system call (`VIR_ERR_SYSTEM_ERROR`) carries
//! errno in `int1`; measured with libvirt 11.3 for every class in the tests of this crate.

use kulprit_proto::worker::LostClass;
use nix::errno::Errno;
use virt_sys as sys;

/// The class of a failed `virConnectOpen`. `code` and `domain` say what failed and in which part of libvirt.
pub(crate) fn class_of_open(code: u32, domain: u32, os_error: Option<i32>) -> LostClass {
    if let Some(os_error) = os_error {
        match Errno::from_raw(os_error) {
            // ESRCH: the process whose root it is has ended.
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH => return LostClass::NoSocket,
            Errno::ECONNREFUSED => return LostClass::Refused,
            Errno::EACCES | Errno::EPERM => return LostClass::Denied,
            Errno::EAGAIN | Errno::ETIMEDOUT => return LostClass::Unanswered,
            // It accepted and hung up.
            Errno::EIO | Errno::ECONNRESET | Errno::EPIPE => return LostClass::Closed,
            _ => {}
        }
    }
    match code {
        // "client socket is closed", "received hangup event on socket": it went away while we asked.
        sys::VIR_ERR_INTERNAL_ERROR if domain == sys::VIR_FROM_RPC => LostClass::Closed,
        sys::VIR_ERR_AUTH_FAILED
        | sys::VIR_ERR_AUTH_CANCELLED
        | sys::VIR_ERR_AUTH_UNAVAILABLE
        | sys::VIR_ERR_ACCESS_DENIED
        | sys::VIR_ERR_OPERATION_DENIED => LostClass::Denied,
        sys::VIR_ERR_RPC | sys::VIR_ERR_NO_CLIENT => LostClass::Protocol,
        sys::VIR_ERR_OPERATION_TIMEOUT => LostClass::Unanswered,
        _ => LostClass::Other,
    }
}

/// The class of a connection that ended, from `virConnectCloseReason`. `None`: we closed it ourselves.
pub(crate) fn class_of_close(reason: u32) -> Option<LostClass> {
    match reason {
        sys::VIR_CONNECT_CLOSE_REASON_ERROR => Some(LostClass::Protocol),
        sys::VIR_CONNECT_CLOSE_REASON_EOF => Some(LostClass::Closed),
        sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => Some(LostClass::Keepalive),
        sys::VIR_CONNECT_CLOSE_REASON_CLIENT => None,
        _ => Some(LostClass::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u32, os_error: Option<Errno>, want: LostClass) {
        let class = class_of_open(code, sys::VIR_FROM_NONE, os_error.map(|errno| errno as i32));
        assert_eq!(class, want, "code={code} errno={os_error:?}");
    }

    #[test]
    fn errno_tells_the_kinds_of_a_dead_socket_apart() {
        check(sys::VIR_ERR_SYSTEM_ERROR, Some(Errno::ENOENT), LostClass::NoSocket);
        check(sys::VIR_ERR_SYSTEM_ERROR, Some(Errno::ECONNREFUSED), LostClass::Refused);
        check(sys::VIR_ERR_SYSTEM_ERROR, Some(Errno::EACCES), LostClass::Denied);
        check(sys::VIR_ERR_SYSTEM_ERROR, Some(Errno::ECONNRESET), LostClass::Closed);
        check(sys::VIR_ERR_SYSTEM_ERROR, Some(Errno::EMFILE), LostClass::Other);
        check(sys::VIR_ERR_SYSTEM_ERROR, None, LostClass::Other);
    }

    #[test]
    fn refused_authentication_is_denied() {
        check(sys::VIR_ERR_AUTH_UNAVAILABLE, None, LostClass::Denied);
        check(sys::VIR_ERR_ACCESS_DENIED, None, LostClass::Denied);
    }

    #[test]
    fn nonsense_from_the_other_side_is_a_protocol_error() {
        check(sys::VIR_ERR_RPC, None, LostClass::Protocol);
    }

    #[test]
    fn an_internal_error_of_the_transport_is_its_end() {
        assert_eq!(class_of_open(sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_RPC, None), LostClass::Closed);
        assert_eq!(class_of_open(sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_QEMU, None), LostClass::Other);
    }

    #[test]
    fn numbers_of_a_newer_libvirt_are_other() {
        check(9999, None, LostClass::Other);
        assert_eq!(class_of_close(77), Some(LostClass::Other));
    }

    #[test]
    fn our_own_close_is_no_loss() {
        assert_eq!(class_of_close(sys::VIR_CONNECT_CLOSE_REASON_CLIENT), None);
        assert_eq!(class_of_close(sys::VIR_CONNECT_CLOSE_REASON_EOF), Some(LostClass::Closed));
        assert_eq!(class_of_close(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE), Some(LostClass::Keepalive));
    }
}
