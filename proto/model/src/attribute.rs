//! Facts of a finding that logic may read: a small sorted map of named values.
//!
//! Texts are for people; whatever a rule needs (a signal number, an errno, a device) stands here under one of the keys
//! below. Unknown keys from newer agents are kept and shown.

use std::collections::BTreeMap;

/// Number of the signal that ended a process, decimal.
pub const SIGNAL: &str = "signal";
/// Exit code of a process, decimal.
pub const EXIT_CODE: &str = "exit_code";
/// Process id in the initial pid namespace, decimal.
pub const PID: &str = "pid";
/// Thread id in the initial pid namespace, decimal.
pub const TID: &str = "tid";
/// Name of a process or thread as the kernel keeps it (at most 15 bytes).
pub const COMM: &str = "comm";
/// Kernel function a blocked thread waits in (`/proc/PID/task/TID/wchan`).
pub const WCHAN: &str = "wchan";
/// What a blocked thread waits for: one of the `WAIT_*` values.
pub const WAIT: &str = "wait";
/// Symbolic errno of a failed call, for example `EACCES`.
pub const ERRNO: &str = "errno";
/// Block device as `major:minor`.
pub const DEVICE: &str = "device";
/// Name of a block device as the kernel prints it, for example `sda` or `loop3`.
pub const DEVICE_NAME: &str = "device_name";
/// Path of a file or device node.
pub const PATH: &str = "path";
/// File system type of the mount a disk lies on, for example `ext4` or `nfs4`.
pub const FSTYPE: &str = "fstype";
/// Mount point of the file system a disk lies on.
pub const MOUNT_POINT: &str = "mount_point";
/// Target of a disk in the domain, for example `vda`.
pub const DISK: &str = "disk";
/// Permission bits, octal with four digits, for example `0660`.
pub const MODE: &str = "mode";
/// Kind of an I/O error: one of the `IO_*` values.
pub const IO_ERROR: &str = "io_error";
/// systemd `ActiveState` of a unit.
pub const ACTIVE_STATE: &str = "active_state";
/// systemd `SubState` of a unit.
pub const SUB_STATE: &str = "sub_state";
/// systemd `Result` of a unit, for example `exit-code`, `signal`, `success`.
pub const RESULT: &str = "result";
/// systemd `UnitFileState` of a unit, for example `enabled`.
pub const UNIT_FILE_STATE: &str = "unit_file_state";
/// systemd `NRestarts` of a unit, decimal.
pub const N_RESTARTS: &str = "n_restarts";
/// State letter of a process or thread in `/proc/PID/stat`, for example `D`.
pub const PROCESS_STATE: &str = "process_state";
/// Memory cgroup that ran out of memory, path below the hierarchy's root.
pub const MEMCG: &str = "memcg";
/// Seconds the kernel says a task has been blocked, decimal.
pub const BLOCKED_SECS: &str = "blocked_secs";
/// HTTP status code of an answer, decimal.
pub const HTTP_STATUS: &str = "http_status";
/// AppArmor profile of a process and, in brackets, its mode: `cri-containerd.apparmor.d (enforce)`; `unconfined`.
pub const APPARMOR: &str = "apparmor";
/// SELinux label of a process.
pub const SELINUX_LABEL: &str = "selinux_label";
/// How seccomp holds a process: `disabled`, `strict`, `filter`.
pub const SECCOMP: &str = "seccomp";
/// Why a connection or call failed: one of the `FAILURE_*` values.
pub const FAILURE: &str = "failure";
/// libvirt's number of a state reason or event detail, decimal.
pub const DETAIL: &str = "detail";
/// API version that `KVM_GET_API_VERSION` returned, decimal.
pub const API_VERSION: &str = "api_version";

/// [`WAIT`]: a local file system or block device.
pub const WAIT_LOCAL_STORAGE: &str = "local_storage";
/// [`WAIT`]: storage over a network (NFS, Ceph, iSCSI, DRBD, FUSE to a server).
pub const WAIT_NETWORK_STORAGE: &str = "network_storage";
/// [`WAIT`]: memory reclaim or swap-in.
pub const WAIT_MEMORY: &str = "memory";
/// [`WAIT`]: something that the tables do not know.
pub const WAIT_OTHER: &str = "other";

/// [`IO_ERROR`]: no space left under the disk (`ENOSPC`).
pub const IO_NO_SPACE: &str = "no_space";
/// [`IO_ERROR`]: any other error (`EIO` and what libvirt does not specify).
pub const IO_OTHER: &str = "io_error";

/// Who failed: one of [`crate::said::actor`].
pub const ACTOR: &str = "actor";
/// What was being done: one of [`crate::said::operation`].
pub const OPERATION: &str = "operation";
/// How it failed: one of [`crate::said::class`].
pub const CLASS: &str = "class";
/// A known text, kebab-case: a row of the signature table.
pub const SIGNATURE: &str = "signature";
/// What it was done to, as the text names it, shortened.
pub const OBJECT: &str = "object";
/// Where the thing failed, if the text tells: one of [`crate::side::Side`]'s words.
pub const SIDE: &str = "side";
/// The line could be given no time: it counts as inside the window, without order.
pub const UNDATED: &str = "undated";
/// The first look ever saw it so: it may have begun at any time before.
pub const FIRST_LOOK: &str = "first_look";
/// Wall time from which a log was read without a hole, Unix microseconds.
pub const READ_FROM_USEC: &str = "read_from_usec";
/// Wall time until which a log was read, Unix microseconds.
pub const READ_UNTIL_USEC: &str = "read_until_usec";
/// A pod that the text names, `namespace/name`, or only the name.
pub const POD: &str = "pod";
/// UID of a pod, lower-case with dashes.
pub const POD_UID: &str = "pod_uid";
/// A container, by name or id.
pub const CONTAINER: &str = "container";
/// A volume that the text names: of the pod, the claim, the persistent volume or its handle.
pub const VOLUME: &str = "volume";
/// A VM that the text names, `namespace/name`, or only the name.
pub const VMI: &str = "vmi";
/// A container image.
pub const IMAGE: &str = "image";
/// Another node that the text or object names.
pub const OTHER_NODE: &str = "other_node";
/// What a finding of one of several kinds is about: see its row.
pub const WHAT: &str = "what";
/// A reason in Kubernetes' words, for example `PodTerminating`.
pub const REASON: &str = "reason";
/// A share, percent.
pub const PERCENT: &str = "percent";
/// A measured number, in the unit of the row's threshold.
pub const MEASURED: &str = "measured";
/// The limit it is measured against, in the same unit.
pub const LIMIT: &str = "limit";
/// Kind of storage backend: `nfs`, `ceph`, `iscsi`, `nvme`, `drbd`, `multipath`, `longhorn`, `fc`, `local`.
pub const BACKEND: &str = "backend";
/// What I/O of a multipath device does without a path, in multipathd's words: `on` waits for ever, `off` fails, `5 chk`.
pub const QUEUEING: &str = "queueing";
/// Server, monitor or portal of a storage backend.
pub const SERVER: &str = "server";
/// What a storage backend's server gives out, as it names it: an NFS export, an IQN, an NQN, `pool/image`.
pub const EXPORT: &str = "export";
/// Whether the host of a silent server answers to other packets; not there where it did not, or was not asked.
pub const HOST_ANSWERS: &str = "host_answers";
/// Largest packet of a link, bytes.
pub const MTU: &str = "mtu";
/// Version of a component.
pub const VERSION: &str = "version";
/// Who asked for a migration: `user`, `evacuation`, `descheduler`, `workload-update`, `hot-plug`.
pub const INITIATOR: &str = "initiator";

/// What the copy of a migration waits for: one of the `LIMITED_BY_*` values.
pub const LIMITED_BY: &str = "limited_by";
/// Phase of a migration in libvirt's words, for example `perform3`.
pub const PHASE: &str = "phase";
/// How long a thing that is over went on, seconds.
pub const RAN_SECS: &str = "ran_secs";
/// Round over the memory that a migration is in, decimal.
pub const ROUND: &str = "round";
/// How long the guest would stand if a migration sent its rest now, by QEMU's estimate, ms.
pub const EXPECTED_DOWNTIME_MS: &str = "expected_downtime_ms";
/// Percent by which auto-converge slows the guest.
pub const THROTTLE_PCT: &str = "throttle_pct";

/// [`LIMITED_BY`]: the guest dirties its memory as fast as it is copied.
pub const LIMITED_BY_GUEST: &str = "guest";
/// [`LIMITED_BY`]: a bandwidth limit that somebody set.
pub const LIMITED_BY_CAP: &str = "cap";
/// [`LIMITED_BY`]: QEMU on the source gets no CPU for its copy, or needs a whole one.
pub const LIMITED_BY_SOURCE_CPU: &str = "source_cpu";
/// [`LIMITED_BY`]: QEMU on the target gets no CPU to take in what arrives, or needs a whole one. The target says so.
pub const LIMITED_BY_TARGET: &str = "target";
/// [`LIMITED_BY`]: what was sent is not acknowledged in time: the path, or the target behind it.
pub const LIMITED_BY_PATH: &str = "path";
/// [`LIMITED_BY`]: disks are copied, and neither a CPU, the path nor a limit holds that back.
pub const LIMITED_BY_STORAGE: &str = "storage";

/// [`FAILURE`]: the socket or file is not there.
pub const FAILURE_NOT_FOUND: &str = "not_found";
/// [`FAILURE`]: nobody listens.
pub const FAILURE_REFUSED: &str = "refused";
/// [`FAILURE`]: no answer within the deadline.
pub const FAILURE_TIMEOUT: &str = "timeout";
/// [`FAILURE`]: no permission.
pub const FAILURE_DENIED: &str = "denied";
/// [`FAILURE`]: the connection broke.
pub const FAILURE_RESET: &str = "reset";
/// [`FAILURE`]: an answer that makes no sense.
pub const FAILURE_MALFORMED: &str = "malformed";

/// Named values of one finding, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// No attributes.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The same attributes with `key` set; a later value replaces an earlier one.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.0.insert(key.to_owned(), value.to_string());
        self
    }

    /// The same attributes with `key` set if there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The value of `key`, or `None`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of `key` as a number, of one with a fraction (`97.8`) its whole part; `None` if missing or not a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<i64> {
        let value = self.get(key)?;
        let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
        let is_fraction = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
        whole.parse().ok().filter(|_| is_fraction)
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, want: Option<i64>) {
        assert_eq!(Attributes::new().with(MEASURED, value).number(MEASURED), want, "{value}");
    }

    /// Pressure is told as `97.8`; the clue "at least 90" must see it.
    #[test]
    fn a_number_with_a_fraction_counts_by_its_whole_part() {
        check("97.8", Some(97));
        check("97", Some(97));
        check("-3", Some(-3));
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in ["", "a", "1.", "1.5s", "1.2.3", ".5"] {
            check(text, None);
        }
    }
}
