//! Logs of pods, QEMU and libvirt below a root: whose they are, rotation, bursts, restarts, and what cannot be read.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use kulprit_daemon::config::HumanDuration;
use kulprit_host::HostRoot;
use kulprit_model::attribute;

use super::*;
use crate::look::Look;
use crate::probes::testing::Probe;
use crate::probes::{Launcher, ProbeConfig};

const UID: &str = "1c2c0d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e";
const LAUNCHER: &str = "var/log/pods/prod_virt-launcher-db-0-x7k2p_1c2c0d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e/compute";
const HANDLER: &str = "var/log/pods/kubevirt_virt-handler-4x8rk_2d2c0d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e/virt-handler";
const BUSY: &str = "Failed to terminate process 76 with SIGTERM: Device or resource busy";

/// A host with logs.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn root(&self) -> HostRoot {
        HostRoot::new(self.dir.path())
    }

    async fn once(&self) -> Look {
        Probe::once_with(&SPEC, self.root(), quick).await
    }

    fn start(&self) -> Probe {
        Probe::start_with(&SPEC, self.root(), quick)
    }
}

fn quick(context: &mut ProbeContext) {
    context.config = Arc::new(ProbeConfig { log_every: HumanDuration::from_millis(20), ..ProbeConfig::default() });
}

/// A line of a container, written so many seconds ago.
fn line(secs_ago: i64, text: &str) -> String {
    let now = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(secs_ago);
    format!("{now:.9} stderr F {text}\n")
}

fn of_launcher(text: &str) -> String {
    format!(r#"{{"component":"virt-launcher","level":"error","msg":"{text}","subcomponent":"libvirt"}}"#)
}

fn occurrences(look: &Look, code: FindingCode) -> Vec<&OccurrenceVerdict> {
    let of_code = |verdict: &'_ Verdict| matches!(verdict, Verdict::Occurrence(one) if one.code == code);
    let found = look.verdicts.iter().filter(|verdict| of_code(verdict));
    found
        .map(|verdict| match verdict {
            Verdict::Occurrence(one) => one,
            Verdict::State(_) => unreachable!("filtered"),
        })
        .collect()
}

fn said(look: &Look) -> Vec<&OccurrenceVerdict> {
    occurrences(look, FindingCode::ErrorSaid)
}

fn count(look: &Look) -> u64 {
    said(look).iter().map(|one| one.count).sum()
}

#[tokio::test]
async fn a_launchers_line_is_of_its_pod_and_vm() {
    let host = Host::new();
    host.write(&format!("{LAUNCHER}/0.log"), &line(5, &of_launcher(BUSY)));
    let look = host.once().await;
    let [one] = said(&look)[..] else { panic!("{look:?}") };
    let get = |key| one.attributes.get(key);
    assert_eq!(get(attribute::OPERATION), Some("destroy-domain"));
    assert_eq!(get(attribute::POD), Some("prod/virt-launcher-db-0-x7k2p"));
    assert_eq!((get(attribute::POD_UID), get(attribute::CONTAINER)), (Some(UID), Some("compute")));
    assert_eq!(get(attribute::VMI), Some("prod/db-0"), "by the pod's name");
    assert_eq!(look.blind_because, None);
}

#[tokio::test]
async fn the_launcher_on_the_node_tells_the_vms_name() {
    let host = Host::new();
    host.write(&format!("{LAUNCHER}/0.log"), &line(5, &of_launcher(BUSY)));
    let look = Probe::once_with(&SPEC, host.root(), |context| {
        quick(context);
        let row = Launcher {
            namespace: "prod".to_owned(),
            name: "db-with-a-long-name-0".to_owned(),
            pod_uid: Some(UID.to_owned()),
            ..Launcher::default()
        };
        context.launchers.send_replace(Arc::new(Launchers { rows: vec![row] }));
    });
    assert_eq!(said(&look.await)[0].attributes.get(attribute::VMI), Some("prod/db-with-a-long-name-0"));
}

#[tokio::test]
async fn what_virt_handler_says_is_of_the_vm_it_names_and_other_pods_are_not_read() {
    let host = Host::new();
    let error = r#"{"component":"virt-handler","kind":"","level":"error","msg":"x509: certificate has expired or is not yet valid","name":"web-1","namespace":"prod"}"#;
    host.write(&format!("{HANDLER}/0.log"), &line(5, error));
    host.write(&format!("var/log/pods/prod_shop-1_{UID}/app/0.log"), &line(5, "connection refused"));
    let look = host.once().await;
    let [one] = said(&look)[..] else { panic!("{look:?}") };
    assert_eq!(one.attributes.get(attribute::VMI), Some("prod/web-1"));
    assert_eq!((one.attributes.get(attribute::POD_UID), one.attributes.get(attribute::CLASS)), (None, Some("expired")));
}

#[tokio::test]
async fn the_first_start_looks_back_15_minutes_and_a_later_one_to_where_it_was() {
    let host = Host::new();
    let path = format!("{LAUNCHER}/0.log");
    host.write(&path, &line(16 * 60, &of_launcher(BUSY)));
    host.write(&path, &line(14 * 60, &of_launcher(BUSY)));
    let first = host.once().await;
    assert_eq!(count(&first), 1);
    host.write(&path, &line(-1, &of_launcher(BUSY)));
    let second = Probe::once_with(&SPEC, host.root(), |context| {
        quick(context);
        context.start_at = first.position.clone();
    });
    assert_eq!(count(&second.await), 1, "only what is new");
}

#[tokio::test]
async fn lines_are_heard_through_a_rotation_a_restart_and_a_new_pod() {
    let host = Host::new();
    host.write(&format!("{LAUNCHER}/0.log"), &line(5, "{\"level\":\"info\",\"msg\":\"fine\"}"));
    let mut probe = host.start();
    assert_eq!(count(&probe.look().await), 0);
    host.write(&format!("{LAUNCHER}/0.log"), &line(0, &of_launcher(BUSY)));
    assert_eq!(count(&probe.look_until(|look| count(look) > 0).await), 1);
    let rotated = format!("{LAUNCHER}/0.log.20261121-064207");
    host.write(
        &format!("{LAUNCHER}/0.log"),
        &line(0, &of_launcher("Unable to read from monitor: Connection reset by peer")),
    );
    fs::rename(host.path(&format!("{LAUNCHER}/0.log")), host.path(&rotated)).unwrap();
    host.write(&format!("{LAUNCHER}/0.log"), &line(0, &of_launcher(BUSY)));
    let mut n_said = 0;
    while n_said < 2 {
        n_said += count(&probe.look_until(|look| count(look) > 0).await);
    }
    assert_eq!(n_said, 2, "the end of the renamed file and the new one");
    host.write(&format!("{LAUNCHER}/1.log"), &line(0, &of_launcher(BUSY)));
    assert_eq!(count(&probe.look_until(|look| count(look) > 0).await), 1, "the container was restarted");
    host.write(&format!("{HANDLER}/0.log"), &line(0, "connection refused"));
    assert_eq!(count(&probe.look_until(|look| count(look) > 0).await), 1, "a pod that came");
    fs::remove_dir_all(host.path(LAUNCHER).parent().unwrap()).unwrap();
    host.write(&format!("{HANDLER}/0.log"), &line(0, "connection refused"));
    assert_eq!(count(&probe.look_until(|look| count(look) > 0).await), 1, "a pod that went");
    probe.stop().await;
}

#[tokio::test]
async fn qemus_log_inside_a_launcher_and_on_a_plain_host_is_of_its_vm() {
    let started =
        "2026-11-21 06:42:00.000+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.2\nLC_ALL=C \\\n";
    let failed = "qemu-kvm: load of migration failed: Input/output error\n";
    for (folder, file, vmi) in [
        (
            format!("var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/private/libvirt/qemu/log"),
            "prod_db-0.log",
            "prod/db-0",
        ),
        ("var/log/libvirt/qemu".to_owned(), "db-0.log", "db-0"),
    ] {
        let host = Host::new();
        host.write(&format!("{LAUNCHER}/0.log"), "");
        host.write(&format!("{folder}/{file}"), started);
        let mut probe = host.start();
        assert_eq!(count(&probe.look().await), 0);
        host.write(&format!("{folder}/{file}"), failed);
        let look = probe.look_until(|look| count(look) > 0).await;
        let one = said(&look)[0];
        assert_eq!(one.attributes.get(attribute::VMI), Some(vmi));
        assert_eq!(one.attributes.get(attribute::UNDATED), None, "it is of now");
        probe.stop().await;
        // After a restart what was read is known by its inode.
        let again = Probe::once_with(&SPEC, host.root(), |context| {
            quick(context);
            context.start_at = look.position.clone();
        });
        assert_eq!(count(&again.await), 0);
        assert_eq!(count(&host.once().await), 1, "and without a position read again");
    }
}

#[tokio::test]
async fn a_burst_is_bounded_and_what_was_left_out_is_said() {
    let host = Host::new();
    let path = format!("{HANDLER}/0.log");
    host.write(&path, &line(0, "up"));
    let mut probe = host.start();
    probe.look().await;
    let noise = line(0, &"x".repeat(150)).repeat(40_000);
    host.write(&path, &noise);
    let look = probe.look_until(|look| !occurrences(look, FindingCode::LogLinesSkipped).is_empty()).await;
    let skipped = occurrences(&look, FindingCode::LogLinesSkipped)[0];
    assert!(
        skipped.evidence[0].text.contains("virt-handler/0.log: ")
            && skipped.evidence[0].text.contains("bytes were left out")
    );
    // What comes after is heard.
    host.write(&path, &line(0, "connection refused"));
    probe.look_until(|look| count(look) > 0).await;
    probe.stop().await;
}

#[tokio::test]
async fn a_storm_of_one_line_is_one_statement_and_a_planted_line_is_not_missed() {
    let host = Host::new();
    let path = format!("{LAUNCHER}/0.log");
    let storm = line(3, &of_launcher("dial tcp 10.0.0.7:49152: connect: connection refused")).repeat(5_000);
    host.write(&path, &(storm.clone() + &line(2, &of_launcher(BUSY)) + &storm));
    let look = host.once().await;
    assert_eq!(count(&look), 10_001);
    let planted =
        said(&look).into_iter().filter(|one| one.attributes.get(attribute::OPERATION) == Some("destroy-domain"));
    assert_eq!(planted.map(|one| one.count).collect::<Vec<_>>(), [1]);
    assert!(look.verdicts.len() <= 3, "{}", look.verdicts.len());
}

#[tokio::test]
async fn a_host_with_neither_pods_nor_libvirt_is_blind_and_a_plain_one_is_not() {
    let host = Host::new();
    let because = host.once().await.blind_because.unwrap();
    assert!(because.contains("var/log/pods"), "{because}");
    fs::create_dir_all(host.path("var/log/libvirt/qemu")).unwrap();
    assert_eq!(host.once().await.blind_because, None);
    let host = Host::new();
    host.write("var/log/pods", "a file in its place");
    assert!(host.once().await.blind_because.is_some());
}

/// A link to itself is what root cannot open either, as where SELinux denies.
#[tokio::test]
async fn logs_and_folders_that_cannot_be_read_make_it_blind_for_as_long_as_they_are_there() {
    let unread = [
        format!("{HANDLER}/0.log"),
        HANDLER.to_owned(),
        HANDLER.rsplit_once('/').unwrap().0.to_owned(),
        format!("var/log/pods/kube-system_agent-9xk2p_{UID}"),
        format!("var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/private/libvirt/qemu/log"),
        "var/log/libvirt/qemu".to_owned(),
    ];
    for unread in unread {
        let host = Host::new();
        host.write(&format!("{LAUNCHER}/0.log"), &line(5, &of_launcher(BUSY)));
        let link = host.path(&unread);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(link.file_name().unwrap(), &link).unwrap();
        let look = host.once().await;
        let because = look.blind_because.as_deref().unwrap_or_default();
        assert!(because.contains(&unread), "{unread}: {because}");
        assert_eq!(count(&look), 1, "{unread}: what can be read is");
        fs::remove_file(&link).unwrap();
        assert_eq!(host.once().await.blind_because, None, "{unread}");
    }
}

#[tokio::test]
async fn a_pod_that_could_not_be_read_and_is_gone_makes_nobody_blind() {
    let host = Host::new();
    host.write(&format!("{LAUNCHER}/0.log"), "");
    let link = host.path(HANDLER).parent().unwrap().to_owned();
    std::os::unix::fs::symlink(link.file_name().unwrap(), &link).unwrap();
    let mut probe = host.start();
    assert!(probe.look().await.blind_because.is_some());
    fs::remove_file(&link).unwrap();
    host.write(&format!("var/log/pods/prod_shop-1_{UID}/app/0.log"), "");
    probe.look_until(|look| look.blind_because.is_none()).await;
    probe.stop().await;
}

#[tokio::test]
async fn kubelet_and_containerd_are_heard_where_they_write_to_files() {
    let utc = |secs_ago: i64| jiff::Timestamp::now() - jiff::SignedDuration::from_secs(secs_ago);
    let klog = |secs_ago| {
        format!("E{} 1 a.go:1] \"x\" err=\"connection refused\"\n", utc(secs_ago).strftime("%m%d %H:%M:%S.%6f"))
    };
    let containerd = |secs_ago| format!("time=\"{:.9}\" level=error msg=\"connection refused\"\n", utc(secs_ago));
    for (path, lines, actor) in [
        ("rke2/agent/logs/kubelet.log", [klog(20 * 60), klog(5)], "kubelet"),
        ("rke2/agent/containerd/containerd.log", [containerd(20 * 60), containerd(5)], "containerd"),
        ("k3s/agent/containerd/containerd.log", [containerd(20 * 60), containerd(5)], "containerd"),
    ] {
        let host = Host::new();
        fs::create_dir_all(host.path("var/log/pods")).unwrap();
        host.write(&format!("var/lib/rancher/{path}"), &lines.concat());
        let look = host.once().await;
        assert_eq!(count(&look), 1, "{path}: of the last 15 minutes");
        assert_eq!(said(&look)[0].evidence[0].source, actor, "{path}");
        assert_eq!(look.blind_because, None);
    }
}

#[tokio::test]
async fn denials_that_auditd_keeps_are_heard_through_its_rotation() {
    let host = Host::new();
    fs::create_dir_all(host.path("var/log/pods")).unwrap();
    let record = |secs_ago: i64, comm: &str, permissive: u8| {
        let at = jiff::Timestamp::now().as_second() - secs_ago;
        format!(
            "type=AVC msg=audit({at}.091:4411): avc:  denied  {{ open }} for  pid=4000000 comm=\"{comm}\" path=\"/dev/sdb\" dev=\"devtmpfs\" permissive={permissive}\n"
        )
    };
    let audit = "var/log/audit/audit.log";
    let noise = "type=SYSCALL msg=audit(1795243350.091:4411): arch=c000003e syscall=257 success=no exit=-13\n";
    host.write(
        audit,
        &[&record(20 * 60, "old", 0), noise, &record(5, "qemu-kvm", 0), &record(5, "x", 1)]
            .map(|line| line.to_owned())
            .concat(),
    );
    let mut probe = host.start();
    let denied = |look: &Look| occurrences(look, FindingCode::SecurityDenied).into_iter().cloned().collect::<Vec<_>>();
    let first = denied(&probe.look_until(|look| !denied(look).is_empty()).await);
    let [one] = &first[..] else { panic!("{first:?}") };
    let get = |key| one.attributes.get(key);
    assert_eq!((get(attribute::COMM), get(attribute::OBJECT)), (Some("qemu-kvm"), Some("/dev/sdb")));
    assert_eq!((get(attribute::WHAT), one.count, one.evidence[0].source.as_str()), (Some("selinux"), 1, "audit"));
    host.write(audit, &record(0, "virtqemud", 0));
    fs::rename(host.path(audit), host.path("var/log/audit/audit.log.1")).unwrap();
    host.write(audit, noise);
    let second = denied(&probe.look_until(|look| !denied(look).is_empty()).await);
    assert_eq!(second[0].attributes.get(attribute::COMM), Some("virtqemud"));
    probe.stop().await;
}

#[tokio::test]
async fn garbage_in_names_and_logs_is_passed_over() {
    let host = Host::new();
    host.write(&format!("{LAUNCHER}/0.log"), "\u{0}\u{1}garbage error failed\n");
    fs::write(host.path(&format!("{LAUNCHER}/1.log")), [0xff; 70_000]).unwrap();
    fs::create_dir_all(host.path(&format!("{LAUNCHER}/2.log"))).unwrap();
    host.write("var/log/pods/not-a-pod", "");
    host.write(&format!("{HANDLER}/0.log"), &line(1, "connection refused"));
    let look = host.once().await;
    assert!(count(&look) >= 1, "{look:?}");
    assert_eq!(look.blind_because, None);
}
