//! A capture of a real process, of nothing, and of what does not return.

use std::collections::BTreeSet;

use kulprit_daemon::Clock;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, State, Status};

use super::*;
use crate::{probes::Launcher, recorder::Figure};

const VM: &str = "00000000-0000-4000-8000-00000000000a";

fn view() -> View {
    let at = Moment { wall_usec: 1, boottime_usec: 2_500_000 };
    let state = |uid: &str, text: &str| {
        Body::State(State {
            code: FindingCode::QemuStopped,
            subject: Subject::vm(uid),
            status: Status::Present,
            since: at,
            looked: at,
            unknown_because: None,
            attributes: Attributes::new(),
            evidence: vec![Evidence::new("procfs", at, text.to_owned())],
        })
    };
    View { bodies: vec![state(VM, "state T"), state("other", "not this one")], probes: Vec::new() }
}

/// A capturer whose VM runs as this very process, with a tracker that answers.
fn capturer(host: &std::path::Path) -> Capturer {
    let (tracker, mut asks) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(ask) = asks.recv().await {
            if let Ask::View(reply) = ask {
                let _ = reply.send(view());
            }
        }
    });
    let vms = Arc::new(VmIndex::new());
    vms.insert(std::process::id(), 1, VM);
    vms.set_name(VM, "db-0");
    Capturer {
        host: HostRoot::new(host),
        config: watch::channel(Arc::default()).1,
        launchers: Arc::default(),
        vms,
        recorder: Arc::default(),
        tracker,
        clock: Clock::kernel(),
    }
}

async fn capture(capturer: &Capturer, vm: &str) -> v1::CaptureResult {
    let request = v1::CaptureRequest { incident_id: "i".to_owned(), vm_uid: vm.to_owned() };
    capturer.capture(request, &mut BTreeMap::new()).await
}

fn part<'a>(capture: &'a v1::CaptureResult, name: &str) -> &'a v1::CaptureSection {
    capture.sections.iter().find(|section| section.name == name).unwrap()
}

#[tokio::test]
async fn a_capture_shows_threads_counters_files_and_the_minutes_before() {
    let host = tempfile::tempdir().unwrap();
    let folder = host.path().join("run/libvirt/qemu");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("db-0.xml"), "<domstatus state='running'>\n<graphics passwd='s3cret'/>\n").unwrap();
    let capturer = capturer(host.path());
    let cpu = Figure { name: "cpu some", unit: "percent" };
    let at = Moment::default();
    capturer.recorder.sample_node(at, cpu, 1.0);
    capturer.recorder.follow(&BTreeSet::from([VM.to_owned()]));
    capturer.recorder.sample_node(at.offset_usec(2_000_000), cpu, 99.0);

    let made = capture(&capturer, VM).await;
    assert_eq!((made.incident_id.as_str(), made.vm_uid.as_str()), ("i", VM));
    assert_eq!(part(&made, "findings").text, "QemuStopped Present since 2.500000 s after boot: state T\n");
    let threads = part(&made, "threads");
    assert!(threads.text.contains(&format!("QEMU {}: ", std::process::id())), "{threads:?}");
    assert!(part(&made, "processes").text.contains("State:"), "{made:?}");
    let domain = &part(&made, "domain").text;
    assert!(domain.contains("running") && !domain.contains("s3cret"), "{domain}");
    assert!(part(&made, "pressure").text.contains("MemTotal"), "{made:?}");
    assert!(part(&made, "launcher-log").lacks.contains("no launcher"), "{made:?}");
    assert_eq!((made.series.len(), made.series[0].name.as_str()), (1, "node cpu some"));
    assert_eq!(made.series[0].values, [1.0], "as it was when the VM became suspect");
}

#[tokio::test]
async fn of_a_vm_that_is_not_here_each_part_says_what_it_lacks() {
    let host = tempfile::tempdir().unwrap();
    let made = capture(&capturer(host.path()), "another").await;
    for name in ["threads", "domain", "cgroup", "kernel-log", "launcher-log", "qemu-log"] {
        assert_ne!(part(&made, name).lacks, "", "{name}");
    }
    assert_eq!(part(&made, "findings").text, "");
}

#[tokio::test]
async fn the_log_of_a_launcher_is_the_newest_of_its_pod() {
    let host = tempfile::tempdir().unwrap();
    let folder = host.path().join("var/log/pods/prod_virt-launcher-db-0-x_pod-1/compute");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("9.log"), "old\n").unwrap();
    std::fs::write(folder.join("10.log"), "new token=abc\n").unwrap();
    let capturer = capturer(host.path());
    let launcher = Launcher {
        vmi_uid: VM.to_owned(),
        pod_uid: Some("pod-1".to_owned()),
        pid: std::process::id(),
        ..Launcher::default()
    };
    capturer.launchers.send_replace(Arc::new(Launchers { rows: vec![launcher] }));
    let made = capture(&capturer, VM).await;
    assert_eq!(part(&made, "launcher-log").text, "new token(left out)\n");
}

#[tokio::test]
async fn a_part_that_hangs_is_left_out_and_costs_the_others_nothing() {
    let host = tempfile::tempdir().unwrap();
    let capturer = capturer(host.path());
    let mut threads = BTreeMap::new();
    let (free, hold) = std::sync::mpsc::channel::<()>();
    let hung: &mut Blocking = threads.entry("pressure").or_default();
    assert!(hung.run(Duration::from_millis(1), move || hold.recv().unwrap_err()).await.is_err());
    let request = v1::CaptureRequest { incident_id: String::new(), vm_uid: VM.to_owned() };
    let made = capturer.capture(request, &mut threads).await;
    assert!(part(&made, "pressure").lacks.contains("has not returned"), "{made:?}");
    assert_ne!(part(&made, "threads").text, "");
    drop(free);
}

#[test]
fn all_parts_at_their_limits_stay_below_256_kib() {
    let texts: usize = READERS.iter().map(|reader| reader.limit_bytes).sum();
    // Twenty figures of five minutes.
    assert!(FINDINGS_BYTES + texts + 20 * 300 * 4 <= 256 << 10);
}

#[test]
fn a_text_that_is_too_long_is_cut_at_a_char_and_says_so() {
    let cut = section("x", Part::whole("ab\u{e9}".to_owned()), 3);
    assert_eq!((cut.text.as_str(), cut.lacks.as_str()), ("ab", "2 bytes more are left out"));
    assert_eq!(section("x", Part::whole("ab".to_owned()), 2).lacks, "");
}
