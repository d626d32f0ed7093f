//! The parts of a capture, each a small reader of files.
//!
//! Nothing here waits for a process or keeps a file open. Where a file is not there, the part says so and the rest is shown.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use kulprit_host::{
    HostRoot, ReadError,
    cgroup::controller_directories,
    kmsg::{KmsgItem, KmsgReader, KmsgStart},
    process::{Procfs, TaskState},
};
use kulprit_model::Moment;

use super::redact;
use crate::probes::{Launcher, PODS, PodName, newest_logs};

/// Where the node's files and processes are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The host's root.
    pub(super) host: HostRoot,
    /// Its procfs.
    pub(super) procfs: Procfs,
    /// Where the node's own root lies in our view of the cgroup hierarchies, if not at theirs.
    pub(super) cgroup_prefix: Option<String>,
}

/// What belongs to the VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Its QEMUs.
    pub(super) qemu_pids: Vec<u32>,
    /// Its launcher, where it has one.
    pub(super) launcher: Option<Launcher>,
    /// Its name in libvirt.
    pub(super) domain: Option<String>,
}

/// What a reader gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) text: String,
    pub(super) lacks: Option<String>,
}

impl Part {
    pub(super) const fn whole(text: String) -> Self {
        Self { text, lacks: None }
    }

    pub(super) const fn lacking(why: String) -> Self {
        Self { text: String::new(), lacks: Some(why) }
    }

    fn of(text: String, problems: Vec<String>) -> Self {
        Self { text, lacks: (!problems.is_empty()).then(|| problems.join("; ")) }
    }
}

/// A part: its name, how much of it is sent at most, and how it is read.
pub(super) struct Reader {
    pub(super) name: &'static str,
    pub(super) limit_bytes: usize,
    pub(super) read: fn(&Files, &Place, Moment) -> Part,
}

/// The parts after the findings, in the order of a person's questions. Their limits sum to less than 256 KiB with the series.
pub(super) const READERS: &[Reader] = &[
    Reader { name: "threads", limit_bytes: 56 << 10, read: threads },
    Reader { name: "processes", limit_bytes: 16 << 10, read: processes },
    Reader { name: "domain", limit_bytes: 24 << 10, read: domain },
    Reader { name: "cgroup", limit_bytes: 12 << 10, read: cgroup },
    Reader { name: "pressure", limit_bytes: 8 << 10, read: pressure },
    Reader { name: "kernel-log", limit_bytes: 40 << 10, read: kernel_log },
    Reader { name: "launcher-log", limit_bytes: 32 << 10, read: launcher_log },
    Reader { name: "qemu-log", limit_bytes: 16 << 10, read: qemu_log },
];

/// Threads of one process that are shown; a QEMU with 200 vCPUs has about as many.
const N_THREADS: usize = 256;
/// Kernel log records that are shown, the newest of the last [`KERNEL_LOG_USEC`].
const N_RECORDS: usize = 300;
const KERNEL_LOG_USEC: i64 = 15 * 60 * 1_000_000;
/// Most of a small file of procfs or cgroupfs that is read, bytes.
const SMALL_FILE_BYTES: usize = 16 << 10;

/// The QEMUs' threads: state, where they wait, and the kernel's stack of those that do not run.
fn threads(files: &Files, place: &Place, _: Moment) -> Part {
    let mut text = String::new();
    let mut problems = Vec::new();
    for pid in &place.qemu_pids {
        let threads = match files.procfs.threads(*pid) {
            Ok(threads) => threads,
            Err(error) => {
                problems.push(said(&error));
                continue;
            }
        };
        let _ = writeln!(text, "QEMU {pid}: {} threads", threads.len());
        for thread in threads.iter().take(N_THREADS) {
            let wchan = thread.wchan.clone().or_else(|| files.procfs.wchan(*pid, thread.tid));
            let _ = writeln!(
                text,
                "  {} {:<16} {} utime {} stime {} wchan {}",
                thread.tid,
                thread.comm,
                thread.state.letter(),
                thread.utime_ticks.unwrap_or_default(),
                thread.stime_ticks.unwrap_or_default(),
                wchan.as_deref().unwrap_or("-"),
            );
            if thread.state == TaskState::Uninterruptible
                && let Ok(Some(frames)) = files.procfs.kernel_stack(*pid, thread.tid)
            {
                frames.iter().for_each(|frame| text.push_str(&format!("      {frame}\n")));
            }
        }
    }
    if place.qemu_pids.is_empty() {
        problems.push("no QEMU of the VM is known on this node".to_owned());
    }
    Part::of(text, problems)
}

/// What procfs says of the QEMUs and the launcher's processes.
fn processes(files: &Files, place: &Place, _: Moment) -> Part {
    let mut text = String::new();
    let mut problems = Vec::new();
    let launcher = place.launcher.iter().flat_map(|row| std::iter::once(row.pid).chain(row.libvirt_pid));
    let root = HostRoot::new(files.procfs.path());
    for pid in place.qemu_pids.iter().copied().chain(launcher) {
        let _ = writeln!(text, "pid {pid}");
        for file in [
            "stat",
            "status",
            "cgroup",
            "limits",
            "oom_score",
            "oom_score_adj",
            "attr/current",
            "attr/apparmor/current",
        ] {
            match root.read_bytes(format!("{pid}/{file}"), SMALL_FILE_BYTES) {
                Ok(bytes) => add_file(&mut text, file, &bytes, |line| file != "status" || is_telling(line)),
                Err(error) if error.is_not_found() => {}
                // No security module has an answer.
                Err(ReadError::Io { source, .. }) if source.kind() == ErrorKind::InvalidInput => {}
                Err(error) => problems.push(said(&error)),
            }
        }
    }
    Part::of(text, problems)
}

/// The lines of `/proc/PID/status` that tell something of a process in trouble.
fn is_telling(line: &str) -> bool {
    const KEYS: [&str; 17] = [
        "State",
        "PPid",
        "TracerPid",
        "Uid",
        "NSpid",
        "VmRSS",
        "VmLck",
        "VmPin",
        "Threads",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "CapEff",
        "Seccomp",
        "Cpus_allowed_list",
        "Mems_allowed_list",
        "RssShmem",
    ];
    line.split_once(':').is_some_and(|(key, _)| KEYS.contains(&key))
}

/// libvirt's own file of the running domain: state, job, pid and definition. A call for it would wait for a hung QEMU.
fn domain(files: &Files, place: &Place, _: Moment) -> Part {
    let Some(name) = safe_name(place) else {
        return Part::lacking("libvirt's name of the VM is not known".to_owned());
    };
    let paths = ["run/libvirt/qemu", "var/run/libvirt/qemu", "run/libvirt/qemu/run", "var/run/libvirt/qemu/run"];
    first_file(files, place, paths.map(|folder| Path::new(folder).join(format!("{name}.xml"))), 256 << 10)
}

/// What QEMU wrote last.
fn qemu_log(files: &Files, place: &Place, _: Moment) -> Part {
    let Some(name) = safe_name(place) else {
        return Part::lacking("libvirt's name of the VM is not known".to_owned());
    };
    let folders = ["var/log/libvirt/qemu", "var/run/kubevirt-private/libvirt/qemu/log"];
    first_file(files, place, folders.map(|folder| Path::new(folder).join(format!("{name}.log"))), 16 << 10)
}

/// A name that is a file's name and no path.
fn safe_name(place: &Place) -> Option<&str> {
    place.domain.as_deref().filter(|name| !name.is_empty() && !name.contains('/'))
}

/// The end of the first of `paths` that is there: in the launcher, else on the host.
fn first_file<const N: usize>(files: &Files, place: &Place, paths: [PathBuf; N], tail_bytes: u64) -> Part {
    let root = match &place.launcher {
        Some(launcher) => HostRoot::new(files.procfs.path().join(launcher.pid.to_string()).join("root")),
        None => files.host.clone(),
    };
    for path in &paths {
        match tail(&root, path, tail_bytes) {
            Ok(text) => return Part::whole(redact(&text)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Part::lacking(said(&error)),
        }
    }
    Part::lacking(format!("none of {} files is there, {} the first", paths.len(), paths[0].display()))
}

/// Counters of the VM's cgroups.
fn cgroup(files: &Files, place: &Place, _: Moment) -> Part {
    const FILES: &[(&str, &[&str])] = &[
        (
            "memory",
            &[
                "memory.current",
                "memory.max",
                "memory.high",
                "memory.events",
                "memory.swap.current",
                "memory.pressure",
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
                "memory.failcnt",
                "memory.oom_control",
            ],
        ),
        ("cpu", &["cpu.max", "cpu.stat", "cpu.pressure", "cpu.cfs_quota_us", "cpu.cfs_period_us"]),
        ("pids", &["pids.current", "pids.max", "pids.events"]),
        ("io", &["io.pressure", "io.stat"]),
    ];
    let mut text = String::new();
    let Some(pid) = place.qemu_pids.first().copied().or(place.launcher.as_ref().map(|row| row.pid)) else {
        return Part::lacking("no process of the VM is known on this node".to_owned());
    };
    let rows = match files.procfs.cgroups(pid) {
        Ok(rows) => rows,
        Err(error) => return Part::lacking(said(&error)),
    };
    let mut problems = Vec::new();
    for (controller, names) in FILES {
        for directory in controller_directories(&rows, files.cgroup_prefix.as_deref(), controller) {
            for name in *names {
                match files.host.read_bytes(directory.join(name), SMALL_FILE_BYTES) {
                    Ok(bytes) => add_file(&mut text, &directory.join(name).display().to_string(), &bytes, |_| true),
                    Err(ReadError::NotFound { .. } | ReadError::Unsupported { .. }) => {}
                    Err(error) => problems.push(said(&error)),
                }
            }
        }
    }
    Part::of(text, problems)
}

/// The node's own pressure and memory.
fn pressure(files: &Files, _: &Place, _: Moment) -> Part {
    let mut text = String::new();
    let mut problems = Vec::new();
    let names = ["loadavg", "pressure/cpu", "pressure/memory", "pressure/io", "meminfo", "diskstats"];
    let root = HostRoot::new(files.procfs.path());
    for name in names {
        match root.read_bytes(name, SMALL_FILE_BYTES) {
            // Disks that do nothing say nothing: field 12 is requests in flight.
            Ok(bytes) => add_file(&mut text, name, &bytes, |line| {
                name != "diskstats" || line.split_ascii_whitespace().nth(11).is_some_and(|in_flight| in_flight != "0")
            }),
            Err(ReadError::NotFound { .. } | ReadError::Unsupported { .. }) => {
                problems.push(format!("{name} is not offered by this kernel"));
            }
            Err(error) => problems.push(said(&error)),
        }
    }
    Part::of(text, problems)
}

/// The kernel's last lines.
fn kernel_log(files: &Files, _: &Place, at: Moment) -> Part {
    let mut reader = match KmsgReader::open(&files.host, &KmsgStart::Oldest) {
        Ok(reader) => reader,
        Err(error) => return Part::lacking(said(&error)),
    };
    let since_usec = at.boottime_usec.saturating_sub(KERNEL_LOG_USEC);
    let mut lines = std::collections::VecDeque::new();
    loop {
        match reader.try_next() {
            Ok(Some(KmsgItem::Record(record))) => {
                let usec = i64::try_from(record.usec).unwrap_or(i64::MAX);
                if usec >= since_usec {
                    let text = redact(&record.text);
                    lines.push_back(format!("[{:>5}.{:06}] {text}\n", usec / 1_000_000, usec % 1_000_000));
                    if lines.len() > N_RECORDS {
                        lines.pop_front();
                    }
                }
            }
            Ok(Some(KmsgItem::Lost { .. } | KmsgItem::Malformed(_))) => {}
            Ok(None) => return Part::whole(lines.into_iter().collect()),
            Err(error) => return Part::of(lines.into_iter().collect(), vec![said(&error)]),
        }
    }
}

/// The last lines of the launcher's compute container.
fn launcher_log(files: &Files, place: &Place, _: Moment) -> Part {
    let Some(launcher) = &place.launcher else { return Part::lacking("the VM has no launcher here".to_owned()) };
    let Some(pod_uid) = &launcher.pod_uid else {
        return Part::lacking("the launcher's pod is not known".to_owned());
    };
    newest_log_of(&files.host, pod_uid).map_or_else(Part::lacking, |text| Part::whole(redact(&text)))
}

fn newest_log_of(host: &HostRoot, pod_uid: &str) -> Result<String, String> {
    let pods = text_names(host, Path::new(PODS))?;
    let is_its = |folder: &&String| PodName::parse(folder).is_some_and(|pod| pod.uid == pod_uid);
    let folder = pods.iter().find(is_its).ok_or_else(|| format!("{PODS} has nothing of pod {pod_uid}"))?;
    let folder = Path::new(PODS).join(folder).join("compute");
    let number = newest_logs(&text_names(host, &folder)?).pop();
    let number = number.ok_or_else(|| format!("{} has no log", folder.display()))?;
    tail(host, &folder.join(format!("{number}.log")), 32 << 10).map_err(|error| said(&error))
}

/// The names in a folder that are text; the kubelet writes no others.
fn text_names(host: &HostRoot, folder: &Path) -> Result<Vec<String>, String> {
    let names = host.list(folder).map_err(|error| said(&error))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// The last bytes of a file, from the first whole line on.
fn tail(root: &HostRoot, path: &Path, bytes: u64) -> Result<String, ReadError> {
    let at = |source| ReadError::from_io(root.display_path(path), source);
    let mut file = root.open(path)?;
    let length = file.metadata().map_err(at)?.len();
    let start = length.saturating_sub(bytes);
    file.seek(SeekFrom::Start(start)).map_err(at)?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail).map_err(at)?;
    let whole = match (start, tail.iter().position(|byte| *byte == b'\n')) {
        (0, _) | (_, None) => &tail[..],
        (_, Some(end)) => &tail[end + 1..],
    };
    Ok(String::from_utf8_lossy(whole).into_owned())
}

fn add_file(text: &mut String, name: &str, bytes: &[u8], is_wanted: impl Fn(&str) -> bool) {
    let content = String::from_utf8_lossy(bytes);
    let content = content.trim_matches(['\n', '\0', ' ']);
    if !content.contains('\n') {
        let _ = writeln!(text, "  {name}: {content}");
        return;
    }
    let _ = writeln!(text, "  {name}:");
    for line in content.lines().filter(|line| is_wanted(line)) {
        let _ = writeln!(text, "    {line}");
    }
}

fn said(error: &ReadError) -> String {
    kulprit_daemon::Chain(error).to_string()
}
