//! What a copy waits for: a limit that was set, the source's CPU, the path, the disks that go with it, or the guest that dirties as
//! fast as it is copied; and at the other end whether the target has the CPU to take it in.
//!
//! Each end says what it sees: bytes that stand in the send queue wait for the path or for a target that does not take them, and
//! whoever has both ends joins the two. An empty queue means that QEMU makes nothing to send; then its copying thread is either on
//! a CPU all the time, waits for one, or is held back by the limit, or disks are read and written. Under KubeVirt QEMU sends to a
//! proxy over a Unix socket: no queue of its own shows the path, and it is not known. Source of the times:
//! `/proc/PID/task/TID/schedstat` (kernel
//! `Documentation/scheduler/sched-stats.rst`); of the queues: `tx_queue` of `/proc/PID/net/tcp`.

use kulprit_host::network::TcpSocket;
use kulprit_model::{Moment, attribute};

use crate::network::LIBVIRT_PORTS;

/// From this share of a limit on, the limit holds the copy back: QEMU keeps to it within some percent (measured: 38 of 40 MiB/s).
const AT_CAP: f64 = 0.85;
/// The copying thread needs a whole CPU from this share of the time on.
const BUSY: f64 = 0.9;
/// It waits for a CPU from this share of the time on.
const STARVED: f64 = 0.3;
/// Bytes that stand in a send queue of a copy that is held back there (measured: 1.4 MB at 40 MiB/s); a passing packet is less.
const QUEUED_BYTES: u64 = 128 << 10;
/// Looks over which a queue must stand.
const N_QUEUED: usize = 3;
/// What QEMU has where nobody set a limit, bytes per second. libvirt lifts it for a migration.
const QEMU_DEFAULT_CAP: u64 = 128 << 20;
/// The shortest time over which times are compared, microseconds.
const LEAST_USEC: i64 = 900_000;

/// What stood around a copy at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    /// When.
    pub at: Moment,
    /// Bytes in the send queues of its connections, see [`queued_bytes`]; `None` where they could not be told, and of a guest that
    /// arrives.
    pub queued_bytes: Option<u64>,
    /// How long the busiest thread that sends it or takes it in has run and has waited for a CPU since its start; `None` where
    /// there is none to be seen.
    pub thread: Option<ThreadTimes>,
}

/// Times of one thread, growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadTimes {
    /// Its id.
    pub tid: u32,
    /// On a CPU, nanoseconds.
    pub ran_nsec: u64,
    /// Ready and waiting for one, nanoseconds.
    pub waited_nsec: u64,
}

/// Bytes in the send queues of the migration's connections among those of a QEMU. `None` where there is none: it has not connected
/// yet, or sends over another kind of socket, as under KubeVirt.
#[must_use]
pub fn queued_bytes(sockets: &[TcpSocket]) -> Option<u64> {
    let is_its = |socket: &&TcpSocket| LIBVIRT_PORTS.contains(&socket.remote.port());
    sockets.iter().filter(is_its).map(|socket| socket.send_queue_bytes).reduce(u64::saturating_add)
}

/// What the copy waits for, one of the `LIMITED_BY_*` values of [`attribute`]; `None` where that cannot be told.
#[must_use]
pub fn limited_by(
    rate_bytes_per_sec: Option<f64>,
    cap_bytes_per_sec: Option<u64>,
    is_dirtying: bool,
    is_copying_disks: bool,
    looks: &[Around],
) -> Option<&'static str> {
    let cap = cap_bytes_per_sec.filter(|cap| *cap != QEMU_DEFAULT_CAP && *cap > 0);
    if rate_bytes_per_sec.zip(cap).is_some_and(|(rate, cap)| rate >= AT_CAP * super::as_f64(cap)) {
        return Some(attribute::LIMITED_BY_CAP);
    }
    let is_queued = is_queued(looks);
    if is_queued != Some(true) && is_thread_short(looks) == Some(true) {
        return Some(attribute::LIMITED_BY_SOURCE_CPU);
    }
    if is_dirtying && rate_bytes_per_sec.is_some_and(|rate| rate >= super::SLOW_BYTES_PER_SEC) {
        return Some(attribute::LIMITED_BY_GUEST);
    }
    match (is_queued, is_copying_disks) {
        (Some(true), _) => Some(attribute::LIMITED_BY_PATH),
        // Disks go before the memory does. Whose are slow, those that are read or those that are written, does not show here.
        (Some(false), true) => Some(attribute::LIMITED_BY_STORAGE),
        (Some(false), false) | (None, _) => None,
    }
}

/// Whether bytes stand in the send queue, by the last looks. One that saw few shows that they do not; `None` where neither was seen.
fn is_queued(looks: &[Around]) -> Option<bool> {
    let last = || looks.iter().rev().take(N_QUEUED).map(|look| look.queued_bytes.map(|bytes| bytes >= QUEUED_BYTES));
    if last().any(|is_full| is_full == Some(false)) {
        return Some(false);
    }
    (last().flatten().count() == N_QUEUED).then_some(true)
}

/// What a guest that arrives waits for: [`attribute::LIMITED_BY_TARGET`] where the thread that takes it in has no CPU to use.
#[must_use]
pub fn arrival_limited_by(looks: &[Around]) -> Option<&'static str> {
    (is_thread_short(looks) == Some(true)).then_some(attribute::LIMITED_BY_TARGET)
}

/// Whether the copying thread had no more CPU to use. `None` where two looks at one thread are missing.
fn is_thread_short(looks: &[Around]) -> Option<bool> {
    let last = looks.last()?;
    let thread = last.thread?;
    let (before, then) = looks.iter().rev().find_map(|look| {
        let then = look.thread.filter(|then| then.tid == thread.tid)?;
        (last.at.usec_since(look.at) >= LEAST_USEC).then_some((look, then))
    })?;
    let usec = u64::try_from(last.at.usec_since(before.at)).ok()?;
    let share = |now: u64, then: u64| {
        let nsec = now.checked_sub(then)?;
        Some(super::as_f64(nsec) / (super::as_f64(usec) * 1_000.0))
    };
    let ran = share(thread.ran_nsec, then.ran_nsec)?;
    let waited = share(thread.waited_nsec, then.waited_nsec)?;
    Some(ran >= BUSY || waited >= STARVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    /// A look each second: bytes queued, and milliseconds that the thread ran and waited since the one before.
    fn looks(rows: &[(u64, u64, u64)]) -> Vec<Around> {
        let (mut ran, mut waited) = (0, 0);
        let mut at = Moment { wall_usec: 0, boottime_usec: 0 };
        rows.iter()
            .map(|(queued, ran_ms, waited_ms)| {
                ran += ran_ms * 1_000_000;
                waited += waited_ms * 1_000_000;
                at = at.offset_usec(1_000_000);
                let thread = ThreadTimes { tid: 7, ran_nsec: ran, waited_nsec: waited };
                Around { at, queued_bytes: Some(*queued), thread: Some(thread) }
            })
            .collect()
    }

    #[track_caller]
    fn check(rate_mib: f64, cap_mib: Option<u64>, is_dirtying: bool, rows: &[(u64, u64, u64)], want: Option<&str>) {
        let cap = cap_mib.map(|cap| cap << 20);
        assert_eq!(
            limited_by(Some(rate_mib * MIB), cap, is_dirtying, false, &looks(rows)),
            want,
            "{rate_mib} {cap_mib:?} {rows:?}"
        );
    }

    #[test]
    fn a_limit_that_is_reached_is_what_the_copy_waits_for() {
        check(34.0, Some(40), true, &[], Some("cap"));
        check(33.9, Some(40), false, &[], None);
        check(128.0, Some(128), false, &[], None);
        check(500.0, Some(0), false, &[], None);
    }

    #[test]
    fn a_copying_thread_that_waits_for_a_cpu_or_needs_a_whole_one_is_short_of_it() {
        check(5.0, None, false, &[(0, 0, 0), (0, 300, 300)], Some("source_cpu"));
        check(5.0, None, false, &[(0, 0, 0), (0, 300, 299)], None);
        check(5.0, None, true, &[(0, 0, 0), (0, 900, 0)], Some("source_cpu"));
        check(5.0, None, false, &[(0, 0, 0), (0, 899, 0)], None);
        let mut other_thread = looks(&[(0, 0, 0), (0, 950, 0)]);
        other_thread[0].thread = other_thread[0].thread.map(|thread| ThreadTimes { tid: 8, ..thread });
        assert_eq!(
            limited_by(None, None, false, false, &other_thread),
            None,
            "counters of two threads are not compared"
        );
        let mut back = looks(&[(0, 500, 0), (0, 500, 0)]);
        back[1].thread = back[1].thread.map(|thread| ThreadTimes { ran_nsec: 1, ..thread });
        assert_eq!(limited_by(None, None, false, false, &back), None, "a counter that went back tells nothing");
    }

    #[test]
    fn what_stands_in_the_send_queue_waits_for_the_path() {
        let full = 128 << 10;
        check(5.0, None, false, &[(full, 0, 0), (full, 0, 0), (full, 0, 900)], Some("path"));
        check(5.0, None, false, &[(full, 0, 0), (full - 1, 0, 0), (full, 0, 0)], None);
        check(5.0, None, false, &[(full, 0, 0), (full, 0, 0)], None);
    }

    #[test]
    fn disks_are_waited_for_when_nothing_else_holds_the_copy_back() {
        let full = 128 << 10;
        for (cap, rows, want) in [
            (None, &[(0, 0, 0), (0, 100, 0), (0, 0, 0)][..], "storage"),
            (None, &[(full, 0, 0), (full, 0, 0), (0, 0, 0)], "storage"),
            (Some(5 << 20), &[], "cap"),
            (None, &[(full, 0, 0), (full, 0, 0), (full, 0, 0)], "path"),
            (None, &[(0, 0, 0), (0, 0, 400)], "source_cpu"),
        ] {
            assert_eq!(limited_by(Some(5.0 * MIB), cap, false, true, &looks(rows)), Some(want), "{cap:?} {rows:?}");
        }
    }

    #[test]
    fn a_queue_that_is_not_known_leaves_open_whether_disks_or_the_path_are_waited_for() {
        let full = 128 << 10;
        let waits_for = |looks: &[Around]| limited_by(Some(5.0 * MIB), None, false, true, looks);
        assert_eq!(waits_for(&[]), None);
        assert_eq!(waits_for(&looks(&[(full, 0, 0), (full, 0, 0)])), None, "it may be about to stand");
        let mut over_unix = looks(&[(0, 0, 0), (0, 100, 0), (0, 100, 0)]);
        for look in &mut over_unix {
            look.queued_bytes = None;
        }
        assert_eq!(waits_for(&over_unix), None);
    }

    #[test]
    fn the_queue_is_known_where_qemu_has_a_tcp_connection_of_the_migration() {
        let to = |remote: &str, send_queue_bytes| TcpSocket {
            local: "192.0.2.1:40000".parse().unwrap(),
            remote: remote.parse().unwrap(),
            state: 1,
            n_retransmits: 0,
            send_queue_bytes,
            receive_queue_bytes: 0,
            inode: 1,
        };
        // The listening socket of its VNC server, and a storage server.
        let others = [to("0.0.0.0:0", 0), to("192.0.2.5:6800", 9)];
        assert_eq!(queued_bytes(&[]), None);
        assert_eq!(queued_bytes(&others), None);
        let [vnc, storage] = others;
        assert_eq!(queued_bytes(&[vnc, storage, to("192.0.2.2:49152", 7), to("192.0.2.2:49153", 0)]), Some(7));
        assert_eq!(queued_bytes(&[to("192.0.2.2:49152", 0)]), Some(0));
    }

    #[test]
    fn a_target_that_has_no_cpu_for_what_arrives_is_the_limit() {
        for (rows, want) in [
            (&[(0, 0, 0), (0, 900, 0)][..], Some("target")),
            (&[(0, 0, 0), (0, 100, 300)], Some("target")),
            (&[(0, 0, 0), (0, 899, 299)], None),
            (&[(0, 900, 0)], None),
        ] {
            assert_eq!(arrival_limited_by(&looks(rows)), want, "{rows:?}");
        }
    }

    #[test]
    fn a_guest_that_dirties_at_a_good_rate_is_the_limit_itself() {
        check(16.0, None, true, &[], Some("guest"));
        check(15.9, None, true, &[], None);
        check(16.0, None, false, &[], None);
    }
}
