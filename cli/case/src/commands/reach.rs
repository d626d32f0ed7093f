//! Outputs that tell whether storage answers, and how full it is under a VM: which part of them is of what.
//!
//! A command line names what its output leaves out: the server that `nc` asked, the path at which `ls` was broken off, the pod in
//! which `df` ran.

use kulprit_host::command::files::{self, DfRow};
use kulprit_host::command::reach as host;
use kulprit_judge::Verdict;
use kulprit_judge::command::{reach, storage};
use kulprit_model::Moment;

use crate::gathered::Gathered;

/// Where virt-launcher's container has the VM's disks. Source: KubeVirt `pkg/host-disk`, `pkg/hotplug-disk`.
const IN_LAUNCHER: [&str; 3] =
    ["/run/kubevirt-private/", "/run/kubevirt/hotplug-disks/", "/run/kubevirt/container-disks/"];

/// What a text says of mounts and servers that do or do not answer.
pub(super) fn read(at: Moment, called: &str, words: &[String], body: &str, mounts: &[files::MountRow]) -> Vec<Verdict> {
    let has = |name: &str| words.iter().any(|word| word == name);
    let argument = |is_wanted: &dyn Fn(&str) -> bool| called.split_whitespace().rfind(|word| is_wanted(word));
    let path = || argument(&|word| word.starts_with('/') && !word.starts_with("/dev/") && !word.contains("/bin/"));
    let looks = ["df", "ls", "stat", "du", "find", "umount", "cat", "touch"];
    if let Some(command) = looks.into_iter().find(|command| has(command))
        && let Some(path) = path().filter(|path| !path.starts_with("/proc/") && !path.starts_with("/sys/"))
        && called.contains(' ')
        && host::is_broken_off(body)
    {
        return vec![reach::judge_hang(at, command, path)];
    }
    if has("nc") || has("ncat") || has("netcat") {
        return reach::judge_reach(at, "nc", None, None, &port_checks(called, body));
    }
    if has("showmount") || has("rpcinfo") {
        let command = if has("showmount") { "showmount" } else { "rpcinfo" };
        let server = argument(&|word| !word.starts_with('-') && word.contains('.') && !word.contains('/'));
        let seen: Vec<host::Reach> = host::parse_rpc_check(body).into_iter().collect();
        return reach::judge_reach(at, command, Some("nfs"), server, &seen);
    }
    if has("ceph") || has("rbd") || has("rados") {
        let seen: Vec<host::Reach> = host::parse_ceph_answer(body).into_iter().collect();
        return reach::judge_reach(at, "ceph", Some("ceph"), None, &seen);
    }
    if has("iscsiadm") {
        let sessions = host::parse_iscsi_sessions(body).unwrap_or_default();
        let mut verdicts = reach::judge_iscsi(at, &sessions);
        verdicts.extend(reach::judge_reach(at, "iscsiadm", Some("iscsi"), None, &host::parse_iscsi_errors(body)));
        return verdicts;
    }
    failures(at, body, mounts)
}

/// Errors at mounts, with what the rest of the text tells of these mounts.
pub(super) fn failures(at: Moment, body: &str, mounts: &[files::MountRow]) -> Vec<Verdict> {
    let seen = host::parse_mount_failures(body);
    if seen.is_empty() {
        return Vec::new();
    }
    let from_mount = mounts.iter().map(|row| (row.source.clone(), row.fs_type.clone(), row.mount_point.clone()));
    let from_df = files::parse_df(body).unwrap_or_default().into_iter();
    let from_df = from_df.map(|row| (row.source, row.fs_type.unwrap_or_default(), row.mount_point));
    let mounts: Vec<_> = from_mount.chain(from_df).collect();
    let command = body.split(':').next().and_then(|text| text.lines().next_back()).unwrap_or_default();
    let command = if command.len() < 16 && !command.contains(' ') { command } else { "stat" };
    reach::judge_mount_failures(at, command, &seen, &mounts)
}

/// `nc -zv 10.0.0.5 2049` may answer with `Connection timed out` and no more.
fn port_checks(called: &str, body: &str) -> Vec<host::Reach> {
    let mut seen = host::parse_port_check(body);
    let words: Vec<&str> = called.split_whitespace().filter(|word| !word.starts_with('-')).collect();
    if let [.., server, port] = words.as_slice()
        && let Ok(port) = port.parse::<u16>()
    {
        for check in &mut seen {
            if check.server.is_empty() {
                check.server = (*server).to_owned();
            }
            check.port = check.port.or(Some(port));
        }
    }
    seen
}

/// `df` on the node, or inside of a launcher.
pub(super) fn read_df(at: Moment, called: &str, rows: &[DfRow], out: &mut Gathered) -> Vec<Verdict> {
    let in_launcher = |row: &&DfRow| IN_LAUNCHER.iter().any(|folder| row.mount_point.contains(folder));
    let pod = called
        .split_once("virt-launcher-")
        .map(|(_, rest)| rest.split([' ', '.', '_', '/']).next().unwrap_or(rest))
        .map(|rest| format!("pod/virt-launcher-{rest}"));
    if pod.is_some() || rows.iter().any(|row| in_launcher(&row)) {
        let sole = match out.qemus.as_slice() {
            [qemu] => Some(qemu.uid.clone()),
            _ => None,
        };
        let Some(vm) = pod.or(sole) else { return Vec::new() };
        let place = |row: &DfRow| storage::DiskPlace { vm: vm.clone(), path: row.mount_point.clone() };
        let disks: Vec<_> = rows.iter().filter(in_launcher).map(place).collect();
        return storage::judge_vm_df(at, rows, &disks);
    }
    out.looked.insert("filesystem");
    // A launcher's QEMU has paths of its container; only those of plain libvirt are the node's.
    let is_launched = |uid: &str| out.launchers.iter().any(|launcher| launcher.vmi_uid == uid);
    let own = out.qemus.iter().filter(|qemu| !is_launched(&qemu.uid));
    let disks: Vec<_> = own
        .flat_map(|qemu| qemu.disks.iter().map(|disk| (&qemu.uid, &disk.path)))
        .filter(|(_, path)| path.starts_with('/') && !path.starts_with("/dev/") && !path.contains("/run/kubevirt"))
        .map(|(uid, path)| storage::DiskPlace { vm: uid.clone(), path: path.clone() })
        .collect();
    let mut verdicts = storage::judge_df(at, rows);
    verdicts.extend(storage::judge_vm_df(at, rows, &disks));
    verdicts.extend(reach::judge_answers(rows));
    verdicts
}
