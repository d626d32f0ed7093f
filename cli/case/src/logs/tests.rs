//! The window, undated lines, merging, whose a line is, and junk.

use super::*;

const AT: i64 = 1_795_243_350_000_000; // 2026-11-21T06:42:30Z
const CLOCK: Clock = Clock { at_usec: AT, btime_usec: None };
const OOM: &str = "Out of memory: Killed process 2201 (qemu-system-x86) total-vm:9437184kB, anon-rss:8388608kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:17000kB oom_score_adj:0";
const REFUSED: &str = "failed to connect to 10.0.0.1: connection refused";

fn read(source: &LogSource, text: &str) -> Gathered {
    let mut out = Gathered::default();
    read_log(text.as_bytes(), Path::new("x.log"), source, CLOCK, &mut Readers::new(), &mut out);
    out
}

fn occurrences(out: &Gathered, code: FindingCode) -> Vec<&OccurrenceVerdict> {
    let mut found = Vec::new();
    for verdict in &out.verdicts {
        match verdict {
            Verdict::Occurrence(occurrence) if occurrence.code == code => found.push(occurrence),
            Verdict::Occurrence(_) | Verdict::State(_) => {}
        }
    }
    found
}

fn pod(speaker: Speaker) -> LogSource {
    let (namespace, pod, container) = ("prod".to_owned(), "virt-launcher-db-0-x".to_owned(), "compute".to_owned());
    LogSource::Pod { speaker, namespace, pod, container }
}

#[test]
fn only_the_last_day_counts() {
    let line = |stamp: &str| format!("{stamp} n1 kernel: {OOM}\n");
    for (stamp, want) in [
        ("2026-11-20T06:42:30+0000", 1),
        ("2026-11-20T06:42:29+0000", 0),
        ("2026-11-21T06:43:30+0000", 1),
        ("2026-11-21T06:43:31+0000", 0),
    ] {
        let out = read(&LogSource::Kernel, &line(stamp));
        assert_eq!(occurrences(&out, FindingCode::NodeOomKill).len(), want, "{stamp}");
    }
}

#[test]
fn a_line_without_a_time_is_undated_and_counts() {
    let out = read(&LogSource::Kernel, &format!("[  123.456789] {OOM}\n"));
    let found = occurrences(&out, FindingCode::NodeOomKill);
    assert_eq!((found[0].at.wall_usec, found[0].attributes.get(attribute::UNDATED)), (AT, Some("true")));
    assert_eq!(out.spans, []);
    let clock = Clock { btime_usec: Some(AT - 200_000_000), ..CLOCK };
    let mut dated = Gathered::default();
    let text = format!("[  123.000000] {OOM}\n");
    read_log(text.as_bytes(), Path::new("x"), &LogSource::Kernel, clock, &mut Readers::new(), &mut dated);
    let found = occurrences(&dated, FindingCode::NodeOomKill);
    assert_eq!((found[0].at.wall_usec, found[0].attributes.get(attribute::UNDATED)), (AT - 77_000_000, None));
}

#[test]
fn kernel_lines_in_a_units_journal_are_the_kernels() {
    let out = read(&LogSource::Unit("kubelet".to_owned()), &format!("Nov 21 06:42:00 n1 kernel: {OOM}\n"));
    assert_eq!(occurrences(&out, FindingCode::NodeOomKill).len(), 1);
    let out = read(&LogSource::Unit("kubelet".to_owned()), &format!("Nov 21 06:42:00 n1 kubelet[7]: {OOM}\n"));
    assert_eq!(occurrences(&out, FindingCode::NodeOomKill).len(), 0, "a program's text is not the kernel's");
}

#[test]
fn equal_errors_are_one_with_first_last_and_count() {
    let line = |secs: u32| {
        format!(
            "2026-11-21T06:42:{secs:02}.000000+0000 n1 containerd[7]: time=\"2026-11-21T06:42:{secs:02}Z\" level=error msg=\"pull failed\" error=\"{REFUSED}\"\n"
        )
    };
    let out = read(&LogSource::Unit("containerd".to_owned()), &(line(1) + &line(5) + &line(9)));
    let said = occurrences(&out, FindingCode::ErrorSaid);
    let got: Vec<_> = said.iter().map(|one| ((one.at.wall_usec - AT) / 1_000_000, one.count)).collect();
    assert_eq!(got, [(-29, 1), (-21, 2)]);
    assert_eq!((out.spans[0].from_usec, out.spans[0].until_usec), (AT - 29_000_000, AT - 21_000_000));
}

#[test]
fn a_launchers_line_is_of_its_pod_and_of_the_vm_that_the_log_names() {
    let named = r#"{"component":"virt-launcher","kind":"","level":"info","msg":"Synced vmi","name":"db-0","namespace":"prod","timestamp":"2026-11-21T06:42:00.000000Z"}"#;
    let error = format!(
        r#"{{"component":"virt-launcher","level":"error","msg":"{REFUSED}","subcomponent":"libvirt","timestamp":"2026-11-21T06:42:01.000000Z"}}"#
    );
    let readers = &mut Readers::new();
    readers.mentions.push("db-0".to_owned());
    let mut out = Gathered::default();
    let text = format!("{named}\n{error}\n");
    read_log(text.as_bytes(), Path::new("x"), &pod(Speaker::Launcher), CLOCK, readers, &mut out);
    let said = occurrences(&out, FindingCode::ErrorSaid);
    assert_eq!(said[0].attributes.get(attribute::VMI), Some("prod/db-0"));
    assert_eq!(said[0].attributes.get(attribute::POD), Some("prod/virt-launcher-db-0-x"));
}

#[test]
fn migration_lines_become_states_of_the_vm() {
    let line = |secs: u32, rest: u32| {
        format!(
            "{{\"component\":\"virt-launcher\",\"kind\":\"\",\"level\":\"info\",\"msg\":\"Migration info for m: TimeElapsed:{secs}000ms DataProcessed:{}MiB DataRemaining:{rest}MiB DataTotal:256MiB MemoryBandwidth:420Mbps DirtyRate:400Mbps Iteration:{secs}\",\"name\":\"db-0\",\"namespace\":\"prod\",\"timestamp\":\"2026-11-21T06:42:{secs:02}.000000Z\"}}\n",
            secs * 40
        )
    };
    let out = read(&pod(Speaker::Launcher), &(line(4, 40) + &line(8, 44) + &line(12, 41)));
    let is_dirtying = |verdict: &Verdict| matches!(verdict, Verdict::State(state) if state.code == FindingCode::MigrationDirtying && state.status == kulprit_model::Status::Present && state.subject == Subject::vm("prod/db-0"));
    assert_eq!(out.verdicts.iter().filter(|verdict| is_dirtying(verdict)).count(), 1);
}

#[test]
fn an_unknown_line_of_trouble_that_names_the_subject_is_kept() {
    let mut readers = Readers::mentioning(vec!["db-0".to_owned()]);
    let mut out = Gathered::default();
    let line = |name: &str| format!("E1121 06:42:00.000000 1 a.go:1] the flux of {name} is out of phase\n");
    let text = line("db-0") + &line("other");
    read_log(text.as_bytes(), Path::new("x"), &LogSource::Unit("kubelet".to_owned()), CLOCK, &mut readers, &mut out);
    assert_eq!(out.kept.len(), 1);
    assert!(out.kept[0].text.contains("db-0"));
}

#[test]
fn ten_thousand_different_errors_stay_bounded_and_none_is_lost() {
    let text: String = (0..10_000).map(|n| format!("Nov 21 06:42:00 n1 kubelet[7]: E1121 06:42:00.000000 7 a.go:1] \"MountVolume.SetUp failed for volume \\\"pvc-{n}\\\"\" err=\"connection refused\"\n")).collect();
    let out = read(&LogSource::Unit("kubelet".to_owned()), &text);
    let said = occurrences(&out, FindingCode::ErrorSaid);
    assert!(said.len() <= 2 * 5_002, "{}", said.len());
    assert_eq!(said.iter().map(|one| one.count).sum::<u64>(), 10_000);
}

thread_local! {
    /// Compiling the tables costs more than reading a thousand lines.
    static READERS: std::cell::RefCell<Readers> = std::cell::RefCell::new(Readers::new());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let mut out = Gathered::default();
        READERS.with_borrow_mut(|readers| read_log(bytes.as_slice(), Path::new("x"), &LogSource::Pod { speaker: Speaker::Other, namespace: String::new(), pod: String::new(), container: String::new() }, CLOCK, readers, &mut out));
    }
}

#[test]
fn a_record_of_auditd_is_the_kernels_and_of_its_own_time() {
    let record = |secs: i64| {
        format!(
            "type=AVC msg=audit({secs}.091:4411): avc:  denied  {{ read }} for  pid=7 comm=\"qemu-kvm\" name=\"root\" permissive=0\n"
        )
    };
    let unit = LogSource::Unit(String::new());
    let now = AT / 1_000_000;
    let out = read(&unit, &record(now - 60));
    let [denied] = occurrences(&out, FindingCode::SecurityDenied)[..] else { panic!("{:?}", out.verdicts) };
    assert_eq!(denied.at.wall_usec, AT - 60_000_000 + 91_000);
    assert!(
        occurrences(&read(&unit, &record(now - 90_000)), FindingCode::SecurityDenied).is_empty(),
        "before the window"
    );
}

#[test]
fn a_guests_console_tells_of_the_guest_only() {
    let source = LogSource::Pod {
        speaker: Speaker::Launcher,
        namespace: "prod".to_owned(),
        pod: "virt-launcher-db-0-x7k2p".to_owned(),
        container: "guest-console-log".to_owned(),
    };
    let said = |text: &str| {
        let out = read(&source, text);
        occurrences(&out, FindingCode::ErrorSaid)
            .iter()
            .map(|said| said.attributes.get(attribute::ACTOR) == Some("guest"))
            .collect::<Vec<_>>()
    };
    assert!(said("[ 1.0] nfs: mount failed: Connection refused\n[ 2.0] EXT4-fs error: I/O error\n").is_empty());
    assert_eq!(said("[ 2.1] Kernel panic - not syncing: VFS: Unable to mount root fs\n"), [true]);
}
