//! The same incident as a case, as an archive of it, as a must-gather and as a sosreport.
//!
//! Layouts: `kubevirt/must-gather` (`collection-scripts/gather_nodes`, `gather_vms_details`) with `oc adm inspect`, and `sos report`.

use std::{
    fs::{self, File},
    path::Path,
};

use kulprit_case::{Case, Options, SubjectName};

const MANIFEST: &str =
    "apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-01T10:15:00Z\nsubject: {namespace: prod, name: db-0}\n";
const VMI: &str = "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: db-0, namespace: prod, uid: 6992a243-a0c3-4730-b40a-1f0e196f2469, creationTimestamp: 2026-03-01T08:00:00Z}
status:
  phase: Failed
  nodeName: worker-3
  phaseTransitionTimestamps:
  - {phase: Running, phaseTransitionTimestamp: 2026-03-01T08:01:00Z}
  - {phase: Failed, phaseTransitionTimestamp: 2026-03-01T10:10:01Z}
";
const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: virt-launcher-db-0-x7x7x
  namespace: prod
  uid: d26c87cd-3191-4ef0-810b-8e1f6044c767
  labels: {kubevirt.io: virt-launcher, vm.kubevirt.io/name: db-0, kubevirt.io/created-by: 6992a243-a0c3-4730-b40a-1f0e196f2469}
spec: {nodeName: worker-3}
status: {phase: Failed}
";
/// The kernel killed QEMU because the node had no memory left.
const OOM: [&str; 3] = [
    "qemu-kvm invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0",
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/kubepods/burstable/podd26c87cd-3191-4ef0-810b-8e1f6044c767/a38f,task=qemu-kvm,pid=4711,uid=107",
    "Out of memory: Killed process 4711 (qemu-kvm) total-vm:9000000kB, anon-rss:8000000kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:1kB oom_score_adj:0",
];
/// The cause, as the catalogue calls it.
const WANT: &str = "NodeMemoryExhausted";

fn journal() -> String {
    let lines = OOM.map(|text| format!("Mar 01 10:10:00 worker-3 kernel: {text}\n"));
    format!(
        "Feb 28 09:00:00 worker-3 kernel: Linux version 5.14.0\n{}Mar 01 10:14:00 worker-3 kernel: x\n",
        lines.concat()
    )
}

fn dmesg() -> String {
    OOM.map(|text| format!("[Sun Mar  1 10:10:00 2026] {text}\n")).concat()
}

fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn mk_case() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (journal, log) = (
        journal(),
        "Mar 01 10:10:01 worker-3 kubelet[7]: E0301 10:10:01.000000       7 pod_workers.go:1324] \"Error syncing pod, skipping\" err=\"connection refused\"\n",
    );
    write(
        folder.path(),
        &[
            ("case.yaml", MANIFEST.as_bytes()),
            ("cluster/vmi.yaml", VMI.as_bytes()),
            ("cluster/pods.yaml", POD.as_bytes()),
            ("nodes/worker-3/kmsg.log", journal.as_bytes()),
            ("nodes/worker-3/journal/kubelet.log", log.as_bytes()),
            ("nodes/worker-3/root/proc/stat", b"cpu  1 2 3 4 5 6 7 8 9 10\nbtime 1772000000\n"),
        ],
    );
    folder
}

/// Everything that a reader makes of it, as text.
fn said(path: &Path) -> String {
    let case = Case::open(path, &Options::default(), &mut |_, _| {}).unwrap();
    format!("{:#?}\n{:#?}\n{:#?}", case.snapshot, case.attributions(), case.problems)
}

#[track_caller]
fn check(folder: &Path) {
    let subject = SubjectName { namespace: "prod".to_owned(), name: "db-0".to_owned(), migration: None };
    let options = Options { subject: Some(subject), ..Options::default() };
    let case = Case::open(folder, &options, &mut |_, _| {}).unwrap();
    let attributions = case.attributions();
    let [one] = attributions.as_slice() else { panic!("{} verdicts", attributions.len()) };
    assert_eq!((one.causes[0].id, one.causes[0].node.as_deref()), (WANT, Some("worker-3")), "{:#?}", one.causes);
    assert!(one.causes[0].probability >= 0.6, "{}", one.causes[0].probability);
}

#[test]
fn the_same_case_twice_says_the_same_bytes() {
    let folder = mk_case();
    assert_eq!(said(folder.path()), said(folder.path()));
    check(folder.path());
}

#[test]
fn an_archive_says_what_its_folder_says() {
    let folder = mk_case();
    let archive = tempfile::Builder::new().suffix(".tar.gz").tempfile().unwrap();
    let encoder = flate2::write::GzEncoder::new(File::create(archive.path()).unwrap(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    builder.append_dir_all("db-0-stuck", folder.path()).unwrap();
    builder.into_inner().unwrap().finish().unwrap();
    let in_folder = tempfile::tempdir().unwrap();
    fs::rename(folder.path(), in_folder.path().join("db-0-stuck")).unwrap();
    assert_eq!(said(archive.path()), said(in_folder.path()));
    check(archive.path());
}

#[test]
fn a_must_gather_reaches_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let image = "must-gather.local.123/quay-io-kubevirt-must-gather-sha256-abc";
    let (journal, dmesg) = (gzip(&journal()), dmesg());
    let events = "apiVersion: v1\nkind: EventList\nitems:\n- {apiVersion: v1, kind: Event, metadata: {name: a.1, namespace: prod}, involvedObject: {kind: VirtualMachineInstance, namespace: prod, name: db-0}, reason: Stopped, type: Warning, message: 'The VirtualMachineInstance crashed.', lastTimestamp: '2026-03-01T10:10:02Z'}\n";
    let pods = format!("apiVersion: v1\nkind: PodList\nitems:\n- {}\n", POD.trim_end().replace('\n', "\n  "));
    for (path, bytes) in [
        ("namespaces/prod/kubevirt.io/virtualmachineinstances/db-0.yaml", VMI.as_bytes()),
        ("namespaces/prod/core/pods.yaml", pods.as_bytes()),
        ("namespaces/prod/core/events.yaml", events.as_bytes()),
        ("namespaces/prod/pods/virt-launcher-db-0-x7x7x/compute/compute/logs/current.log", b"2026-03-01T10:10:01.000000000Z {\"component\":\"virt-launcher\",\"level\":\"info\",\"msg\":\"x\",\"timestamp\":\"2026-03-01T10:10:01.000000Z\"}\n"),
        ("cluster-scoped-resources/core/nodes/worker-3.yaml", b"apiVersion: v1\nkind: Node\nmetadata: {name: worker-3}\n"),
        ("nodes/worker-3/worker-3_logs_kubelet.gz", journal.as_slice()),
        ("nodes/worker-3/dmesg", dmesg.as_bytes()),
        ("nodes/worker-3/lspci", b"00:00.0 Host bridge [0600]: Intel Corporation\n"),
        ("version", b"kubevirt/must-gather\n"),
    ] {
        write(&folder.path().join(image), &[(path, bytes)]);
    }
    check(folder.path());
}

#[test]
fn a_sosreport_reaches_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let journal = journal();
    for (path, bytes) in [
        ("date", b"Sun Mar  1 10:15:00 UTC 2026\n".as_slice()),
        ("sos_commands/logs/journalctl_--no-pager_--boot", journal.as_bytes()),
        ("sos_commands/process/ps_auxwww", b"USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND\nroot           1  0.0  0.1 170000 10000 ?        Ss   08:00   0:01 /usr/lib/systemd/systemd\nroot        4600  0.0  0.1 170000 10000 ?        Ssl  08:00   0:01 /usr/bin/virt-launcher-monitor --qemu-timeout 240s --name db-0 --uid 6992a243-a0c3-4730-b40a-1f0e196f2469 --namespace prod\n"),
        ("proc/stat", b"cpu  1 2 3 4 5 6 7 8 9 10\nbtime 1772000000\n"),
        ("etc/hostname", b"worker-3\n"),
    ] {
        write(&folder.path().join("sosreport-worker-3-2026-03-01-abcdefg"), &[(path, bytes)]);
    }
    check(folder.path());
}
