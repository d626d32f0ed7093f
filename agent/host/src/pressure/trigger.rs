//! The kernel's own alarm on a pressure file: it says when tasks have stalled for so long within a window.
//!
//! A trigger belongs to the descriptor that it was written to, and ends with it. Windows below 2 s need `CAP_SYS_RESOURCE`;
//! multiples of 2 s are allowed to everybody since Linux 6.5, but are looked at by the kernel every 2 s only.
//! Source: kernel `Documentation/accounting/psi.rst`, `kernel/sched/psi.c`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;

use crate::kept::is_of_kernel;
use crate::readiness::watch_priority;
use crate::{HostRoot, ReadError};

/// An armed trigger.
#[derive(Debug)]
pub struct PressureTrigger {
    file: AsyncFd<OwnedFd>,
}

impl PressureTrigger {
    /// Asks the kernel to tell when tasks (`some`) have stalled for `stall` within `window`, 500 ms to 10 s.
    ///
    /// Must be called in a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// `Denied` or `Io` (`EINVAL`) where such a window needs a privilege that we lack; `Unsupported` for a file that is not the
    /// kernel's, to which nothing is written.
    pub fn open(root: &HostRoot, path: impl AsRef<Path>, stall: Duration, window: Duration) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let at = |source: std::io::Error| ReadError::from_io(root.display_path(path), source);
        let file = root.open_fd(path, OFlags::RDWR | OFlags::NONBLOCK)?;
        if !is_of_kernel(&file) {
            return Err(ReadError::Unsupported { path: root.display_path(path) });
        }
        // The kernel wants the NUL.
        let text = format!("some {} {}\0", stall.as_micros(), window.as_micros());
        rustix::io::write(&file, text.as_bytes()).map_err(|errno| at(errno.into()))?;
        Ok(Self { file: watch_priority(file).map_err(at)? })
    }

    /// Returns when tasks have stalled so long; at most once a window. Cancel-safe.
    ///
    /// # Errors
    /// `Io` when the file is gone (its cgroup was removed).
    pub async fn fired(&self) -> Result<(), ReadError> {
        let at = |source: std::io::Error| ReadError::from_io("a pressure trigger", source);
        let mut guard = self.file.ready(tokio::io::Interest::PRIORITY).await.map_err(at)?;
        let is_gone = guard.ready().is_error();
        guard.clear_ready();
        if is_gone { Err(at(rustix::io::Errno::NODEV.into())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plain_file_is_no_trigger() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cpu"), "some").unwrap();
        let open = |path| {
            PressureTrigger::open(&HostRoot::new(dir.path()), path, Duration::from_millis(50), Duration::from_secs(1))
        };
        assert!(matches!(open("cpu").unwrap_err(), ReadError::Unsupported { .. }));
        assert_eq!(std::fs::read_to_string(dir.path().join("cpu")).unwrap(), "some", "nothing is written to it");
        assert!(open("memory").unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn this_kernel_tells_of_a_stall_where_it_lets_us_ask() {
        let window = Duration::from_secs(2);
        let open = PressureTrigger::open(&HostRoot::new("/"), "proc/pressure/cpu", Duration::from_micros(1), window);
        let Ok(trigger) = open else { return eprintln!("no triggers here: {}", open.unwrap_err()) };
        let is_done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        // Twice as many busy threads as processors: some of them wait.
        let n_threads = 2 * std::thread::available_parallelism().unwrap().get();
        let threads: Vec<_> = (0..n_threads)
            .map(|_| {
                let is_done = std::sync::Arc::clone(&is_done);
                std::thread::spawn(move || {
                    while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        let fired = tokio::time::timeout(Duration::from_secs(30), trigger.fired()).await;
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        fired.expect("a stall in time").unwrap();
    }
}
