//! Whether the servers behind mounts and devices answer: errors at a mount, checks of a server, iSCSI sessions.
//!
//! A server has no subject of its own: its mount point stands for it, or its name where no mount was asked. Present is said of
//! what only a server's silence explains. A refusal by a port mapper, or a list without sessions, is normal for many servers;
//! `EIO` is a server's only on a mount that is known to come over the network; and a mount of a pod that answers clears that
//! mount alone.

use kulprit_host::command::files::DfRow;
use kulprit_host::command::reach::{IscsiSession, MountFailure, NoReach, Reach};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use super::{absent, present};
use crate::verdict::Verdict;

const CODE: FindingCode = FindingCode::BackendUnreachable;
/// What listens at a port. Others tell nothing of storage.
const PORTS: [(u16, &str); 10] = [
    (2049, "nfs"),
    (111, "nfs"),
    (3260, "iscsi"),
    (4420, "nvme"),
    (8009, "nvme"),
    (3300, "ceph"),
    (6789, "ceph"),
    (24_007, "glusterfs"),
    (445, "cifs"),
    (9500, "longhorn"),
];
/// Programs that serve a mount on the node itself: their death is the driver's, not the server's.
const FUSE: &str = "fuse";

/// Which storage a mount's source or file system is of; `None` for local ones.
#[must_use]
pub fn backend_of(source: &str, fs_type: Option<&str>) -> Option<&'static str> {
    match fs_type {
        Some("nfs" | "nfs4") => Some("nfs"),
        Some("ceph") => Some("ceph"),
        Some("cifs" | "smb3") => Some("cifs"),
        Some("fuse.glusterfs") => Some("glusterfs"),
        Some(kind) if kind.starts_with("fuse") => Some(FUSE),
        Some(_) => None,
        // `10.0.0.5:/export` is NFS, `mon1:6789,mon2:6789:/volumes` Ceph.
        None if source.contains(":6789") || source.contains(":3300") => Some("ceph"),
        None if source.starts_with("//") => Some("cifs"),
        None if source.contains(":/") && !source.contains("://") => Some("nfs"),
        None => None,
    }
}

fn server_of(source: &str) -> Option<&str> {
    let (server, _) = source.split_once(":/")?;
    (!server.is_empty()).then_some(server)
}

/// The kubelet's folder of a volume names the plugin that mounted it: `kubernetes.io~nfs`.
fn backend_of_path(path: &str) -> Option<&'static str> {
    let named =
        [("kubernetes.io~nfs/", "nfs"), ("kubernetes.io~cephfs/", "ceph"), ("kubernetes.io~glusterfs/", "glusterfs")];
    named.into_iter().find(|(part, _)| path.contains(part)).map(|(_, backend)| backend)
}

fn facts(backend: Option<&str>, server: Option<&str>, failure: NoReach) -> Attributes {
    let failure = match failure {
        NoReach::TimedOut => attribute::FAILURE_TIMEOUT,
        NoReach::Refused => attribute::FAILURE_REFUSED,
        NoReach::NoRoute => "no_route",
        NoReach::Stale => "stale",
        NoReach::NotConnected => "not_connected",
        NoReach::IoError => attribute::IO_OTHER,
    };
    Attributes::new()
        .with_some(attribute::BACKEND, backend)
        .with_some(attribute::SERVER, server.filter(|server| !server.is_empty()))
        .with(attribute::FAILURE, failure)
}

const fn words_of(failure: NoReach) -> &'static str {
    match failure {
        NoReach::TimedOut => "no answer in time",
        NoReach::Refused => "connection refused",
        NoReach::NoRoute => "no route to it",
        NoReach::Stale => "stale file handle",
        NoReach::NotConnected => "transport endpoint is not connected",
        NoReach::IoError => "input/output error",
    }
}

/// Paths at which a command failed. `mounts`: source, file system and mount point of what is known to be mounted.
#[must_use]
pub fn judge_mount_failures(
    at: Moment,
    command: &str,
    failures: &[MountFailure],
    mounts: &[(String, String, String)],
) -> Vec<Verdict> {
    let judge = |seen: &MountFailure| {
        // Devices answer for themselves; what a command only looked through is not what is mounted.
        let is_own = ["/dev/", "/proc/", "/sys/"].iter().any(|folder| seen.path.starts_with(folder));
        let is_below = |point: &str| {
            point.len() > 1
                && seen.path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mount = mounts.iter().filter(|(_, _, point)| is_below(point)).max_by_key(|(_, _, point)| point.len());
        let backend = mount
            .and_then(|(source, kind, _)| backend_of(source, Some(kind.as_str()).filter(|kind| !kind.is_empty())))
            .or_else(|| backend_of_path(&seen.path))
            .or((seen.failure == NoReach::NotConnected).then_some(FUSE))
            .or((seen.failure == NoReach::Stale).then_some("nfs"));
        let is_told = match seen.failure {
            NoReach::Stale | NoReach::NotConnected | NoReach::TimedOut | NoReach::NoRoute => true,
            NoReach::IoError => backend.is_some(),
            NoReach::Refused => false,
        };
        if is_own || !is_told {
            return None;
        }
        let point = mount.map_or(seen.path.as_str(), |(_, _, point)| point);
        let server = mount.and_then(|(source, _, _)| server_of(source));
        let facts = facts(backend, server, seen.failure).with(attribute::MOUNT_POINT, point);
        let text = format!("{command}: {}: {}", seen.path, words_of(seen.failure));
        Some(present(CODE, Subject::Mount { point: point.to_owned() }, at, command, facts, text))
    };
    failures.iter().filter_map(judge).collect()
}

/// A command about a path that never came back: broken off by hand or by its time limit.
#[must_use]
pub fn judge_hang(at: Moment, command: &str, path: &str) -> Verdict {
    let facts = facts(backend_of_path(path), None, NoReach::TimedOut).with(attribute::MOUNT_POINT, path);
    let text = format!("{command} {path} did not come back");
    present(CODE, Subject::Mount { point: path.to_owned() }, at, command, facts, text)
}

/// Rows of `df` of pods' volumes that come over the network: they answered.
#[must_use]
pub fn judge_answers(rows: &[DfRow]) -> Vec<Verdict> {
    let is_answer = |row: &&DfRow| {
        row.size.is_some_and(|size| size > 0)
            && row.mount_point.contains("/pods/")
            && backend_of(&row.source, row.fs_type.as_deref()).is_some_and(|backend| backend != FUSE)
    };
    rows.iter().filter(is_answer).map(|row| absent(CODE, Subject::Mount { point: row.mount_point.clone() })).collect()
}

/// Checks of a server. `backend` where the command tells it (`showmount`, `ceph`); else the port does.
#[must_use]
pub fn judge_reach(
    at: Moment,
    command: &str,
    backend: Option<&str>,
    asked: Option<&str>,
    seen: &[Reach],
) -> Vec<Verdict> {
    let judge = |reach: &Reach| {
        let port = reach.port.and_then(|port| PORTS.iter().find(|(number, _)| *number == port).map(|(_, name)| *name));
        let backend = backend.or(port)?;
        let server = Some(reach.server.as_str()).filter(|server| !server.is_empty()).or(asked).unwrap_or(backend);
        let subject = Subject::Mount { point: server.to_owned() };
        let Some(failure) = reach.failure else { return Some(absent(CODE, subject)) };
        // A server of NFS 4 alone has no port mapper, and refuses whoever asks for one.
        if failure == NoReach::Refused && matches!(command, "showmount" | "rpcinfo") {
            return None;
        }
        let text = format!("{command}: {server}: {}", words_of(failure));
        Some(present(CODE, subject, at, command, facts(Some(backend), Some(server), failure), text))
    };
    seen.iter().filter_map(judge).collect()
}

/// Sessions of `iscsiadm -m session -P 1` and more.
#[must_use]
pub fn judge_iscsi(at: Moment, sessions: &[IscsiSession]) -> Vec<Verdict> {
    let judge = |session: &IscsiSession| {
        let subject = Subject::Mount { point: session.target.clone() };
        if session.is_logged_in? {
            return Some(absent(CODE, subject));
        }
        let facts = facts(Some("iscsi"), Some(&session.portal), NoReach::NotConnected);
        let text = format!("iscsiadm: the session to {} at {} is not logged in", session.target, session.portal);
        Some(present(CODE, subject, at, "iscsiadm", facts, text))
    };
    sessions.iter().filter_map(judge).collect()
}
