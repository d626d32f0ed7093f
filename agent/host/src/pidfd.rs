//! Knowing when a process ends, and how, without being its parent.
//!
//! A pidfd becomes readable the moment the process has ended: no polling, no reused pid. How it ended is for its parent, except
//! on kernels from 6.15 on, which keep the exit status for whoever holds a pidfd (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`);
//! on older ones it is `None`. Sources: `pidfd_open(2)`, kernel `include/uapi/linux/pidfd.h`.
#![allow(unsafe_code, reason = "PIDFD_GET_INFO has no safe wrapper in rustix")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use crate::ReadError;
use crate::process::{ProcessId, Procfs};
use crate::readiness::watch_readable;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By a signal.
    Signal {
        /// 9 is SIGKILL, 11 is SIGSEGV.
        number: u8,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
}

impl Exit {
    /// Reads a status as `wait(2)` gives it. `None` for one that says "stopped" or "continued".
    pub fn from_wait_status(status: i32) -> Option<Self> {
        let [low, high, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Some(Self::Code(high)),
            0x7f => None,
            number => Some(Self::Signal { number, core_dumped: low & 0x80 != 0 }),
        }
    }
}

/// A process that is watched for its end.
#[derive(Debug)]
pub struct ProcessWatch {
    id: ProcessId,
    path: PathBuf,
    pidfd: AsyncFd<OwnedFd>,
}

impl ProcessWatch {
    /// Starts to watch a process of our own pid namespace; `procfs` must be of that namespace too.
    ///
    /// Must be called in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// `NotFound` when the process has ended, also when another has taken its pid; `Unsupported` before Linux 5.3.
    pub fn open(procfs: &Procfs, id: ProcessId) -> Result<Self, ReadError> {
        let path = procfs.path().join(id.pid.to_string());
        let at = |errno: Errno| ReadError::from_io(&path, errno.into());
        let pid = i32::try_from(id.pid).ok().and_then(Pid::from_raw).ok_or_else(|| at(Errno::SRCH))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(at)?;
        // The descriptor is fixed to a process now; the start time says whether it is the one that was meant.
        if procfs.stat(id.pid)?.id() != id {
            return Err(at(Errno::SRCH));
        }
        let pidfd = watch_readable(pidfd).map_err(|source| ReadError::from_io(&path, source))?;
        Ok(Self { id, path, pidfd })
    }

    /// The process that is watched.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Waits until the process has ended: all its threads, the leader's too. Cancel-safe.
    ///
    /// # Errors
    /// `Io` when the descriptor cannot be waited for.
    pub async fn ended(&self) -> Result<(), ReadError> {
        self.pidfd.readable().await.map(drop).map_err(|source| ReadError::from_io(&self.path, source))
    }

    /// Waits until the process has ended, and then at most `reap_deadline` for its parent to take note of it, which is when
    /// the kernel lets others know how it ended. `None` when that did not happen in time, or the kernel is older than 6.15.
    ///
    /// # Errors
    /// As [`Self::ended`].
    pub async fn exit(&self, reap_deadline: Duration) -> Result<Option<Exit>, ReadError> {
        self.ended().await?;
        let reaped = async {
            loop {
                match self.exit_status() {
                    ExitStatus::Known(exit) => return Ok(exit),
                    ExitStatus::NeverKnown => return Ok(None),
                    ExitStatus::NotYet => {}
                }
                // The descriptor becomes ready once more (EPOLLHUP) when the process is reaped.
                let mut guard = self.pidfd.readable().await.map_err(|source| ReadError::from_io(&self.path, source))?;
                if guard.ready().is_read_closed() {
                    return Ok(match self.exit_status() {
                        ExitStatus::Known(exit) => exit,
                        ExitStatus::NeverKnown | ExitStatus::NotYet => None,
                    });
                }
                guard.clear_ready();
            }
        };
        tokio::time::timeout(reap_deadline, reaped).await.unwrap_or(Ok(None))
    }

    fn exit_status(&self) -> ExitStatus {
        exit_status_of(self.pidfd.get_ref())
    }
}

/// What the kernel says of a process that ended.
enum ExitStatus {
    /// `None` for a status that cannot be, see [`Exit::from_wait_status`].
    Known(Option<Exit>),
    /// Nobody has reaped it yet.
    NotYet,
    /// This kernel keeps no such thing.
    NeverKnown,
}

/// `struct pidfd_info` as of its first version, 64 bytes; the kernel fills as much as the call's number says we have.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    /// In: what is asked for. Out: what was given.
    mask: u64,
    cgroupid: u64,
    /// pid, tgid, ppid, and eight user and group ids.
    ids: [u32; 11],
    /// As `wait(2)` gives it.
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xFF, 11);
const _: () = assert!(size_of::<PidfdInfo>() == 64, "PIDFD_INFO_SIZE_VER0");

fn exit_status_of(pidfd: impl AsFd) -> ExitStatus {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the opcode carries the size of the structure that is passed, whose fields and padding (none) match the kernel's
    // first version; any bytes are valid in it. On a descriptor that is no pidfd, or an older kernel, the call fails.
    let result = unsafe { ioctl(pidfd, Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info)) };
    match result {
        Ok(()) if info.mask & PIDFD_INFO_EXIT != 0 => ExitStatus::Known(Exit::from_wait_status(info.exit_code)),
        Ok(()) => ExitStatus::NotYet,
        // 6.13 and 6.14 know the call but forget the process: ESRCH. Before: ENOTTY, EINVAL.
        Err(_) => ExitStatus::NeverKnown,
    }
}

/// Whether this kernel tells how a process ended that is not our child.
///
/// Found out by asking about ourselves, which a kernel that knows [`PIDFD_INFO_EXIT`] answers with "not yet"; 6.13 and 6.14
/// do so too, and are told apart by nothing but a process that ended.
///
/// # Errors
/// `Io` when no descriptor can be had.
pub fn has_pidfd_info() -> Result<bool, ReadError> {
    let ourselves = rustix::process::getpid();
    let pidfd = pidfd_open(ourselves, PidfdFlags::empty())
        .map_err(|errno| ReadError::from_io("/proc/self", io::Error::from(errno)))?;
    Ok(matches!(exit_status_of(pidfd), ExitStatus::NotYet | ExitStatus::Known(_)))
}

#[cfg(test)]
mod tests {
    use tokio::process::{Child, Command};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn child(script: &str) -> (Child, ProcessWatch) {
        let child = Command::new("sh").args(["-c", script]).kill_on_drop(true).spawn().unwrap();
        let procfs = Procfs::default();
        let id = procfs.stat(child.id().unwrap()).unwrap().id();
        (child, ProcessWatch::open(&procfs, id).unwrap())
    }

    /// Waits for the end as a stranger, while the parent reaps.
    async fn exit_of(script: &str) -> Option<Exit> {
        let (mut child, watch) = child(script);
        let (exit, _) = tokio::join!(watch.exit(LONG), child.wait());
        exit.unwrap()
    }

    /// The kernel's release says whether exit status is kept; the test must fail if it is and we do not see it.
    fn keeps_exit_status() -> bool {
        let release = crate::HostRoot::new("/").kernel_release().unwrap();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(6), Some(15))
    }

    #[track_caller]
    fn check(seen: Option<Exit>, want: Exit) {
        assert_eq!(seen, keeps_exit_status().then_some(want));
    }

    #[tokio::test]
    async fn an_exit_code_is_seen_by_a_stranger() {
        check(exit_of("sleep 0.05; exit 7").await, Exit::Code(7));
    }

    #[tokio::test]
    async fn a_killing_signal_is_seen_by_a_stranger() {
        check(exit_of("sleep 0.05; kill -9 $$").await, Exit::Signal { number: 9, core_dumped: false });
    }

    #[tokio::test]
    async fn a_process_nobody_reaps_gives_none_after_the_deadline() {
        let (child, watch) = child("sleep 0.05; exit 3");
        // Not waited for: tokio reaps only what somebody asks about.
        assert_eq!(watch.exit(Duration::from_millis(300)).await.unwrap(), None);
        drop(child);
    }

    #[tokio::test]
    async fn a_process_that_lives_has_not_ended() {
        let (_child, watch) = child("exec sleep 1000");
        assert!(tokio::time::timeout(Duration::from_millis(50), watch.ended()).await.is_err());
    }

    #[tokio::test]
    async fn another_process_of_the_same_pid_is_not_found() {
        let (_child, watch) = child("exec sleep 1000");
        let other = ProcessId { start_time_ticks: watch.id().start_time_ticks + 1, ..watch.id() };
        assert!(ProcessWatch::open(&Procfs::default(), other).unwrap_err().is_not_found());
        assert!(
            ProcessWatch::open(&Procfs::default(), ProcessId { pid: u32::MAX, ..other }).unwrap_err().is_not_found()
        );
    }

    #[test]
    fn a_wait_status_is_read_as_the_shell_reads_it() {
        assert_eq!(Exit::from_wait_status(0), Some(Exit::Code(0)));
        assert_eq!(Exit::from_wait_status(0x0100), Some(Exit::Code(1)));
        assert_eq!(Exit::from_wait_status(9), Some(Exit::Signal { number: 9, core_dumped: false }));
        assert_eq!(Exit::from_wait_status(0x8b), Some(Exit::Signal { number: 11, core_dumped: true }));
        assert_eq!(Exit::from_wait_status(0x137f), None, "stopped");
        assert_eq!(Exit::from_wait_status(0xffff), None, "continued");
    }

    #[test]
    fn the_running_kernel_says_whether_it_keeps_exits() {
        assert!(has_pidfd_info().unwrap() || !keeps_exit_status());
    }
}
