//! A launcher's family with one member missing or ill at a time.

use kulprit_host::process::TaskState;
use kulprit_model::Status::{self, Absent, Present, Unknown};

use super::*;
use crate::testing::{status_of, statuses};

fn member(pid: u32, health: Health) -> Option<Member> {
    Some(Member { pid, name: "virt-launcher".to_owned(), health: Some(health) })
}

fn well() -> LauncherLook<'static> {
    LauncherLook {
        at: Moment::default(),
        vmi_uid: "u",
        monitor: member(1, Health::Runs),
        launcher: member(2, Health::Runs),
        libvirt: member(3, Health::Runs),
        qemus: &[4],
        is_marked_unresponsive: Some(false),
        ..LauncherLook::default()
    }
}

/// Defunct, unreachable, unresponsive, two QEMUs; `None` where nothing is said.
#[track_caller]
fn check(look: &LauncherLook<'_>, want: [Option<Status>; 4]) {
    use FindingCode::{LauncherDefunct, LibvirtUnreachable, LibvirtUnresponsive, TwoQemus};
    let verdicts = judge(look);
    statuses(&verdicts);
    let seen =
        [LauncherDefunct, LibvirtUnreachable, LibvirtUnresponsive, TwoQemus].map(|code| status_of(&verdicts, code));
    assert_eq!(seen, want, "{look:?}");
}

const STOPPED: Health = Health::Stopped(TaskState::Stopped);

#[test]
fn a_whole_family_is_well_but_nobody_asked_libvirt() {
    check(&well(), [Some(Absent), Some(Absent), Some(Unknown), Some(Absent)]);
}

#[test]
fn a_stopped_daemon_is_unresponsive_and_a_missing_one_unreachable() {
    check(
        &LauncherLook { libvirt: member(3, STOPPED), ..well() },
        [Some(Absent), Some(Absent), Some(Present), Some(Absent)],
    );
    let blocked = Health::Blocked { tid: 12, comm: "prio-rpc".to_owned(), wchan: "rpc_wait_bit_killable".to_owned() };
    check(
        &LauncherLook { libvirt: member(3, blocked), ..well() },
        [Some(Absent), Some(Absent), Some(Present), Some(Absent)],
    );
    check(&LauncherLook { libvirt: None, ..well() }, [Some(Absent), Some(Present), None, Some(Absent)]);
    check(
        &LauncherLook { libvirt: member(3, Health::Ended), ..well() },
        [Some(Absent), Some(Present), None, Some(Absent)],
    );
}

#[test]
fn a_missing_daemon_proves_nothing_where_the_others_are_missing_too() {
    let look = LauncherLook { libvirt: None, launcher: None, monitor: None, ..well() };
    check(&look, [Some(Unknown), Some(Unknown), Some(Unknown), Some(Absent)]);
    let ending = LauncherLook { libvirt: None, launcher: None, qemus: &[], ..well() };
    check(&ending, [Some(Unknown), Some(Unknown), Some(Unknown), None]);
}

#[test]
fn a_launcher_that_is_stopped_marked_or_gone_is_defunct() {
    for look in [
        LauncherLook { launcher: member(2, STOPPED), ..well() },
        LauncherLook { monitor: member(1, STOPPED), ..well() },
        LauncherLook { launcher: None, ..well() },
        LauncherLook { launcher: member(2, Health::Ended), ..well() },
        LauncherLook { is_marked_unresponsive: Some(true), ..well() },
    ] {
        assert_eq!(status_of(&judge(&look), FindingCode::LauncherDefunct), Some(Present), "{look:?}");
    }
    let ended = LauncherLook { launcher: member(2, Health::Ended), qemus: &[], ..well() };
    assert_eq!(status_of(&judge(&ended), FindingCode::LauncherDefunct), Some(Unknown), "the end of any VM");
    let unclear = LauncherLook { launcher: member(2, Health::Unclear), ..well() };
    assert_eq!(status_of(&judge(&unclear), FindingCode::LauncherDefunct), Some(Unknown), "D state for a moment");
}

#[test]
fn two_qemus_of_one_vm_are_told() {
    check(&LauncherLook { qemus: &[4, 5], ..well() }, [Some(Absent), Some(Absent), Some(Unknown), Some(Present)]);
}

fn thread(comm: &str) -> Vec<Thread> {
    vec![Thread {
        tid: 1,
        comm: comm.to_owned(),
        state: TaskState::Sleeping,
        wchan: None,
        start_time_ticks: None,
        utime_ticks: None,
        stime_ticks: None,
    }]
}

fn open(target: &str, is_deleted: bool) -> Reading<Option<Vec<Descriptor>>> {
    Ok(Some(vec![Descriptor { fd: 9, target: target.to_owned(), is_deleted }]))
}

#[test]
fn emulation_shows_in_threads_then_in_descriptors_then_in_arguments() {
    let vm = Subject::vm("u");
    let none = Ok(None);
    let tcg = ["tcg".to_owned()];
    for (threads, descriptors, accelerators, want) in [
        (thread("CPU 0/TCG"), open("anon_inode:kvm-vm", false), &[][..], Present),
        (thread("CPU 0/KVM"), none.clone(), &tcg[..], Absent),
        (thread("worker"), open("anon_inode:kvm-vm", false), &[][..], Absent),
        (thread("worker"), none.clone(), &tcg[..], Present),
        (thread("worker"), none, &[][..], Unknown),
    ] {
        let verdict = judge_emulation(&vm, Moment::default(), &threads, &descriptors, accelerators);
        assert_eq!(statuses(&[verdict]), [want], "{threads:?} {descriptors:?}");
    }
}

#[test]
fn a_device_whose_name_is_gone_is_stale_and_a_temporary_file_is_not() {
    let vm = Subject::vm("u");
    let devices = ["/var/run/kubevirt/hotplug-disks/data".to_owned()];
    for (descriptors, want) in [
        (open("/dev/root-disk", true), Present),
        (open("/run/kubevirt/hotplug-disks/data", true), Present),
        (open("/dev/root-disk", false), Absent),
        (open("/dev/shm/qemu-shm", true), Absent),
        (open("/var/tmp/vl.XYZ", true), Absent),
        (Ok(None), Unknown),
        (Err("no".to_owned()), Unknown),
    ] {
        let verdict = judge_open_devices(&vm, Moment::default(), &descriptors, &devices);
        assert_eq!(statuses(&[verdict]), [want], "{descriptors:?}");
    }
}

/// `LauncherDefunct` of a live launcher.
#[track_caller]
fn check_live(look: LauncherLook<'_>, want: Status, words: &str) {
    let verdicts = judge_own(&LauncherLook { is_live: true, ..look });
    assert_eq!(status_of(&verdicts, FindingCode::LauncherDefunct), Some(want), "{verdicts:?}");
    let said = format!("{verdicts:?}");
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("Libvirt"), "libvirt is asked itself: {said}");
}

#[test]
fn of_a_live_launcher_what_is_not_there_is_gone() {
    check_live(well(), Absent, "runs");
    check_live(LauncherLook { monitor: None, launcher: None, ..well() }, Present, "neither virt-launcher");
    check_live(LauncherLook { monitor: None, launcher: None, qemus: &[], ..well() }, Unknown, "");
    let waits = Health::Blocked { tid: 11, comm: "virt-launcher".to_owned(), wchan: "fuse_wait".to_owned() };
    check_live(LauncherLook { launcher: member(2, waits), ..well() }, Present, "in state D in fuse_wait");
}

#[test]
fn a_command_socket_counts_only_while_qemu_lives() {
    use CommandSocket::{Full, Listens, Refuses};
    check_live(LauncherLook { command: Some(Listens), ..well() }, Absent, "runs");
    check_live(LauncherLook { command: Some(Refuses), ..well() }, Present, "nobody listens");
    check_live(LauncherLook { command: Some(Full), ..well() }, Present, "takes no connection");
    check_live(LauncherLook { command: Some(Refuses), qemus: &[], ..well() }, Absent, "runs");
}

#[test]
fn two_qemus_are_a_fault_unless_a_job_runs() {
    let of = |qemus: &[u32], has_job| {
        judge_count(&Subject::vm("u"), Moment::default(), qemus, has_job)
            .and_then(|verdict| status_of(&[verdict], FindingCode::TwoQemus))
    };
    assert_eq!([of(&[], false), of(&[4], false), of(&[4], true)], [None, Some(Absent), Some(Absent)]);
    assert_eq!([of(&[4, 5], false), of(&[4, 5], true)], [Some(Present), Some(Absent)]);
}

/// `VmLinkLost`, and which link it names.
#[track_caller]
fn check_links(held: &[Option<&str>], links: &[&str], carriers: &[(&str, bool)], want: Status, name: Option<&str>) {
    let taps = Taps {
        held: held.iter().map(|tap| tap.map(str::to_owned)).collect(),
        links: links.iter().map(|link| (*link).to_owned()).collect(),
        carriers: carriers.iter().map(|(link, has)| ((*link).to_owned(), *has)).collect(),
    };
    let verdict = judge_links(&Subject::vm("u"), Moment::default(), &Ok(taps));
    let Verdict::State(state) = &verdict else { panic!("a state") };
    assert_eq!((state.code, state.status), (FindingCode::VmLinkLost, want), "{state:?}");
    assert_eq!(state.attributes.get(attribute::DEVICE_NAME), name);
}

#[test]
fn a_vm_whose_tap_is_gone_or_whose_pod_has_no_carrier_is_cut_off() {
    let pod = ["lo", "eth0", "k6t-eth0", "tap0"];
    let well = [("eth0", true), ("k6t-eth0", true), ("tap0", true)];
    check_links(&[Some("tap0")], &pod, &well, Absent, None);
    check_links(&[], &pod, &well, Absent, None);
    check_links(&[None], &pod[..3], &well[..2], Present, None);
    check_links(&[Some("tap0")], &pod[..3], &well[..2], Present, Some("tap0"));
    check_links(&[Some("tap0")], &pod, &[("eth0", false), ("tap0", true)], Present, Some("eth0"));
    let denied = judge_links(&Subject::vm("u"), Moment::default(), &Err("permission denied".to_owned()));
    assert_eq!(status_of(&[denied], FindingCode::VmLinkLost), Some(Unknown));
}
