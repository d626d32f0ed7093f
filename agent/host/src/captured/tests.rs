//! On trees written by hand to lack this and that, and on trees that no tool would write.

use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const STAT: &str = "12 (qemu-kvm) D 7 1 1 0 -1 4194560 1 0 0 0 14 438 0 0 20 0 5 0 356935 620253184 12453 0 0\n";

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn read(dir: &Path) -> Captured {
    read_captured(&HostRoot::new(dir), |name| name.starts_with("qemu")).unwrap()
}

#[test]
fn a_process_is_read_from_whichever_files_were_saved() {
    let dir = tempfile::tempdir().unwrap();
    let status = "Name:\tqemu-kvm\nState:\tT (stopped)\nPPid:\t7\n";
    write(
        dir.path(),
        &[
            ("proc/12/stat", STAT),
            ("proc/13/status", status),
            ("proc/14/comm", "qemu-kvm\n"),
            ("proc/15/cmdline", "/usr/libexec/qemu-kvm\0-S\0"),
            ("proc/16/status", "Name:\tbash\nState:\tS (sleeping)\n"),
            ("proc/17/fd.txt", ""),
        ],
    );
    let captured = read(dir.path());
    assert!(captured.errors.is_empty(), "{:?}", captured.errors);
    let shown: Vec<_> =
        captured.processes.iter().map(|row| (row.pid, row.state, row.ppid, row.start_time_ticks)).collect();
    let stopped = Some(TaskState::Stopped);
    let blocked = Some(TaskState::Uninterruptible);
    assert_eq!(
        shown,
        [
            (12, blocked, Some(7), Some(356_935)),
            (13, stopped, Some(7), None),
            (14, None, None, None),
            (15, None, None, None)
        ]
    );
}

#[test]
fn a_damaged_stat_is_told_and_the_status_is_used() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("proc/12/stat", "12 (qe"), ("proc/12/status", "Name:\tqemu-kvm\nState:\tZ (zombie)\n")]);
    let captured = read(dir.path());
    assert_eq!(captured.processes[0].state, Some(TaskState::Zombie));
    assert!(matches!(captured.errors[..], [ReadError::Malformed { .. }]));
}

#[test]
fn threads_in_d_state_show_what_they_wait_in() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("proc/12/task/12/status", "Name:\tqemu-kvm\nState:\tZ (zombie)\n"),
            ("proc/12/task/13/status", "Name:\tworker\nState:\tD (disk sleep)\n"),
            ("proc/12/task/13/wchan", "io_schedule"),
            ("proc/12/task/13/stack", "[<0>] io_schedule+0x46/0x70\n[<0>] ext4_file_write_iter+0x1/0x2\n"),
            ("proc/12/task/14/comm", "CPU 0/KVM\n"),
        ],
    );
    let (threads, errors) = read_captured_threads(&HostRoot::new(dir.path()), 12);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(threads.iter().map(|row| row.thread.tid).collect::<Vec<_>>(), [12, 13], "14 has no state");
    assert_eq!(threads[1].thread.wchan.as_deref(), Some("io_schedule"));
    assert_eq!(threads[1].frames.as_ref().unwrap().len(), 2);
}

#[test]
fn descriptors_come_from_links_and_from_listings() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    assert_eq!(read_captured_descriptors(&root, 12).unwrap(), None);
    std::fs::create_dir_all(dir.path().join("proc/12/fd")).unwrap();
    symlink("/dev/root-disk (deleted)", dir.path().join("proc/12/fd/9")).unwrap();
    let want = Descriptor { fd: 9, target: "/dev/root-disk".to_owned(), is_deleted: true };
    assert_eq!(read_captured_descriptors(&root, 12).unwrap(), Some(vec![want.clone()]));
    let listing = "total 0\nlrwx------ 1 107 107 64 Nov 21 05:00 9 -> /dev/root-disk (deleted)\n";
    assert_eq!(parse_fd_listing(listing), [want]);
    assert_eq!(parse_fd_listing("11 -> /dev/kvm\n")[0].target, "/dev/kvm");
}

#[test]
fn links_out_of_the_tree_loops_and_directories_in_place_of_files_are_only_errors() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("proc/12/status", "Name:\tqemu-kvm\nState:\tS (sleeping)\n")]);
    std::fs::create_dir_all(dir.path().join("proc/12/cgroup")).unwrap();
    symlink("/proc/self/cmdline", dir.path().join("proc/12/cmdline")).unwrap();
    symlink("stat", dir.path().join("proc/12/stat")).unwrap();
    symlink(".", dir.path().join("proc/13")).unwrap();
    let captured = read(dir.path());
    assert_eq!(captured.processes.len(), 1);
    assert!(captured.processes[0].args.is_empty(), "never read from our own machine");
    assert_eq!(captured.errors.len(), 2, "{:?}", captured.errors);
}

#[test]
fn of_very_many_processes_a_bounded_number_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for pid in 1..=4200 {
        write(dir.path(), &[(&format!("proc/{pid}/comm"), "qemu-kvm\n")]);
    }
    let captured = read(dir.path());
    assert_eq!((captured.processes.len(), captured.is_cut), (MAX_PROCESSES, true));
}

proptest! {
    #[test]
    fn no_listing_makes_the_parser_panic(text in "[0-9]{0,12}( -> )?\\PC{0,20}( \\(deleted\\))?\\n?") {
        for row in parse_fd_listing(&text) {
            prop_assert!(!row.target.ends_with(" (deleted)") || row.is_deleted);
        }
    }
}
