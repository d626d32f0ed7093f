//! On this machine's own procfs, on a QEMU recorded from KubeVirt, and on bytes that no kernel would write.

use std::process::{Child, Command};

use proptest::prelude::*;

use super::*;

/// A child that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn recorded() -> Procfs {
    Procfs::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/kubevirt-1.8.4/proc"))
}

/// Waits for the child to have become `sleep`.
fn process_named(procfs: &Procfs, pid: u32, comm: &str) -> Process {
    for _ in 0..1_000_000 {
        let process = procfs.process(pid).unwrap();
        if process.comm == comm && !process.args.is_empty() {
            return process;
        }
    }
    panic!("{pid} never became {comm}");
}

#[test]
fn a_live_process_shows_all_its_fields() {
    let sleeper = Sleeper::new();
    let procfs = Procfs::default();
    let process = process_named(&procfs, sleeper.0.id(), "sleep");
    assert_eq!(process.args, ["sleep", "1000"]);
    assert_eq!(process.ppid, std::process::id());
    assert_eq!(process.n_threads, 1);
    assert!(process.exe_name.is_some(), "the program of our own child can be seen");
    assert_eq!(process.status.tgid, Some(sleeper.0.id()));
    assert_eq!(process.status.uid, Some(rustix::process::geteuid().as_raw()));
    assert_eq!(process.status.is_pending(9), Some(false));
    assert!(!process.cgroups.is_empty());
    assert!(procfs.processes(&CgroupFilter::All).unwrap().rows.iter().any(|row| row.id == process.id));
}

#[test]
fn a_process_that_ended_is_not_found() {
    let pid = {
        let sleeper = Sleeper::new();
        sleeper.0.id()
    };
    assert!(Procfs::default().process(pid).unwrap_err().is_not_found());
    assert!(Procfs::default().threads(pid).unwrap_err().is_not_found());
}

#[test]
fn a_pending_signal_of_a_stopped_process_is_seen() {
    let sleeper = Sleeper::new();
    let pid = rustix::process::Pid::from_raw(sleeper.0.id().cast_signed()).unwrap();
    let procfs = Procfs::default();
    process_named(&procfs, sleeper.0.id(), "sleep");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    while procfs.stat(sleeper.0.id()).unwrap().state != TaskState::Stopped {}
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(procfs.status(sleeper.0.id()).unwrap().is_pending(15), Some(true));
}

#[test]
fn our_own_threads_are_listed_by_name() {
    let (tell, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("CPU 0/KVM".to_owned()).spawn(move || wait.recv()).unwrap();
    let procfs = Procfs::default();
    let named = || procfs.threads(std::process::id()).unwrap().into_iter().find(|t| t.comm == "CPU 0/KVM");
    let seen = (0..1_000_000).find_map(|_| named()).expect("the thread names itself as it starts");
    assert!(seen.utime_ticks.is_some() && seen.start_time_ticks.is_some());
    drop(tell);
    assert!(thread.join().unwrap().is_err());
}

#[test]
fn a_kernel_stack_is_shown_to_root_and_none_to_others() {
    let sleeper = Sleeper::new();
    let pid = sleeper.0.id();
    let procfs = Procfs::default();
    if !rustix::process::geteuid().is_root() {
        assert_eq!(procfs.kernel_stack(pid, pid).unwrap(), None);
        return;
    }
    // A program that is still starting sleeps elsewhere.
    let is_asleep = || procfs.kernel_stack(pid, pid).unwrap().unwrap().iter().any(|frame| frame.contains("nanosleep"));
    assert!((0..1_000_000).any(|_| is_asleep()), "{:?}", procfs.kernel_stack(pid, pid));
}

#[test]
fn a_recorded_qemu_reads_as_it_did_on_its_node() {
    let qemu = recorded().process(3888).unwrap();
    assert_eq!((qemu.comm.as_str(), qemu.ppid, qemu.n_threads), ("qemu-kvm", 3762, 5));
    assert_eq!(qemu.id.start_time_ticks, 305_684);
    assert_eq!(qemu.status.ns_pids, [3888, 77]);
    assert_eq!((qemu.status.uid, qemu.status.gid), (Some(107), Some(107)));
    assert_eq!(qemu.status.rss_bytes, Some(49_876 * 1024));
    let threads = recorded().threads(3888).unwrap();
    assert_eq!(threads.len(), 5);
    assert_eq!(threads.iter().filter(|thread| thread.comm == "CPU 0/KVM").count(), 1);
    assert_eq!(recorded().wchan(3888, 3888).as_deref(), Some("poll_schedule_timeout.constprop.0"));
    let stack = recorded().kernel_stack(3888, 3888).unwrap().unwrap();
    assert_eq!(stack[..2], ["poll_schedule_timeout.constprop.0", "do_sys_poll"]);
}

#[test]
fn the_filter_takes_a_cgroup_and_what_is_below_it() {
    let of = |path: &str| vec![CgroupMembership { hierarchy: 0, controllers: String::new(), path: path.to_owned() }];
    let filter = CgroupFilter::Under("/lab/n1/".to_owned());
    for (path, want) in
        [("/lab/n1", true), ("/lab/n1/kubepods", true), ("/lab/n10", false), ("/", false), ("/lab", false)]
    {
        assert_eq!(filter.matches(&of(path)), want, "{path}");
    }
    assert!(CgroupFilter::Under("/".to_owned()).matches(&of("/any")));
    assert!(CgroupFilter::All.matches(&[]));
}

#[test]
fn a_scan_reads_only_the_wanted() {
    let (rows, errors) = recorded().scan(&CgroupFilter::All, |stat| stat.comm.starts_with("qemu")).unwrap();
    assert_eq!(rows.iter().map(|row| row.pid).collect::<Vec<_>>(), [3888]);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_name_full_of_brackets_does_not_move_the_fields() {
    let stat = parse_stat(b"7 (a) R 1 (\xff) S 5 7 7 0 -1 0 0 0 0 0 11 22 0 0 20 0 3 0 99 0 0").unwrap();
    assert_eq!((stat.comm.as_str(), stat.state, stat.ppid), ("a) R 1 (\u{fffd}", TaskState::Sleeping, 5));
    assert_eq!((stat.utime_ticks, stat.stime_ticks, stat.n_threads, stat.start_time_ticks), (11, 22, 3, 99));
}

#[test]
fn half_a_line_is_malformed_and_half_a_status_is_not() {
    assert_eq!(parse_stat(b"7 (sleep) S 1 7").unwrap_err().line, 1);
    let status = parse_status("Name:\tx\nState:\tD (disk sleep)\nSigPnd:\tzz\nShdPnd:\t0000000000000100\n").unwrap();
    assert_eq!(status.state, TaskState::Uninterruptible);
    assert_eq!((status.thread_pending_signals, status.process_pending_signals), (None, Some(0x100)));
    assert_eq!(status.is_pending(9), None, "half of the answer is no answer");
    assert!(parse_status("Name:\tx\n").is_err());
}

#[test]
fn a_zombie_leader_with_a_live_thread_keeps_its_arguments() {
    let dir = tempfile::tempdir().unwrap();
    for task in ["task/7", "task/8"] {
        std::fs::create_dir_all(dir.path().join("7").join(task)).unwrap();
    }
    std::fs::write(dir.path().join("7/cmdline"), "").unwrap();
    std::fs::write(dir.path().join("7/task/7/cmdline"), "").unwrap();
    std::fs::write(dir.path().join("7/task/8/cmdline"), "qemu-kvm\0-name\0guest=a\0").unwrap();
    assert_eq!(Procfs::new(dir.path()).command_line(7).unwrap(), ["qemu-kvm", "-name", "guest=a"]);
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = parse_stat(&bytes);
        let _ = parse_status(&text);
        let _ = parse_cmdline(&bytes);
        let _ = parse_kernel_stack(&text);
    }

    #[test]
    fn no_near_miss_makes_a_parser_panic(line in "[0-9]{0,3} ?\\(.{0,4}\\) ?[A-Zé]?( -?[0-9]{0,21}){0,22}", signal in any::<u32>()) {
        let _ = parse_stat(line.as_bytes());
        if let Ok(status) = parse_status(&format!("State:\t{line}\nSigPnd:\t{line}\nVmRSS:\t{line} kB")) {
            let _ = status.is_pending(signal);
        }
    }
}
