//! How the process is told to end, and what it says about it.
//!
//! The first SIGTERM or SIGINT cancels a token; tasks then finish what they hold within the drain deadline, which must lie
//! below the pod's `terminationGracePeriodSeconds` (Kubernetes' default: 30 s). The second signal ends the process at once.
//!
//! Signals are served by a thread with a runtime of its own (64 KiB of stack): when the main runtime hangs, say in a read
//! that entered D state, the second signal still works and the deadline is still kept. Otherwise a hung agent could keep its
//! own pod from being removed.

use std::{io, process, sync::mpsc, thread, time::Duration};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use crate::{BoxError, exit};

/// How long tasks may take to end. A third of the grace period Kubernetes gives by default.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// How much longer than the drain deadline a hung main runtime is given before the process is ended for it.
const HUNG_AFTER: Duration = Duration::from_secs(1);

/// How the tasks ended after they were told to.
#[derive(Debug)]
pub struct Drain {
    /// From the order to end until the last task ended, or until the deadline.
    pub took: Duration,
    /// What the tasks were given.
    pub deadline: Duration,
    /// Tasks that did not end in time and were aborted, by name.
    pub late: Vec<&'static str>,
    /// Tasks that ended in time, but with an error or a panic: something may not have been written.
    pub failed: Vec<(&'static str, BoxError)>,
}

/// Why a drain was not clean.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// Tasks had to be aborted; exit code 3.
    #[error("not ended {deadline:?} after being told to: {}", tasks.join(", "))]
    Late {
        /// Their names.
        tasks: Vec<&'static str>,
        /// What they were given.
        deadline: Duration,
    },
    /// A task ended in time, but failed; exit code 1.
    #[error("task `{task}` failed while ending")]
    Failed {
        /// The first of them.
        task: &'static str,
        /// What it said.
        #[source]
        source: BoxError,
    },
}

impl Drain {
    /// `Ok` if every task ended in time and well.
    ///
    /// # Errors
    /// Names the late tasks, or else the first failed one.
    pub fn into_result(self) -> Result<(), DrainError> {
        if !self.late.is_empty() {
            return Err(DrainError::Late { tasks: self.late, deadline: self.deadline });
        }
        match self.failed.into_iter().next() {
            Some((task, source)) => Err(DrainError::Failed { task, source }),
            None => Ok(()),
        }
    }
}

/// Ends the watch when dropped: the process has ended by itself.
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub struct SignalWatch {
    _over: DropGuard,
}

/// Cancels `stop` at the first SIGTERM or SIGINT. The second, or a main runtime that still runs one second after the
/// drain deadline, ends the process with [`exit::ABORTED`] or [`exit::DRAIN_LATE`].
///
/// # Errors
/// If the kernel gives no thread, pipe or signal handler.
pub fn watch_signals(stop: CancellationToken, drain_deadline: Duration) -> io::Result<SignalWatch> {
    let over = CancellationToken::new();
    let (is_watching, watching) = mpsc::sync_channel(1);
    let watch = Watch { stop, over: over.clone(), drain_deadline };
    thread::Builder::new().name("signals".to_owned()).stack_size(64 * 1024).spawn(move || watch.run(&is_watching))?;
    watching.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread ended")))?;
    Ok(SignalWatch { _over: over.drop_guard() })
}

struct Watch {
    stop: CancellationToken,
    over: CancellationToken,
    drain_deadline: Duration,
}

impl Watch {
    fn run(self, is_watching: &mpsc::SyncSender<io::Result<()>>) {
        let opened = runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let _entered = runtime.enter();
            let signals = Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
            Ok((runtime, signals))
        });
        match opened {
            Ok((runtime, signals)) => {
                let _ = is_watching.send(Ok(()));
                runtime.block_on(self.watch(signals));
            }
            Err(error) => {
                let _ = is_watching.send(Err(error));
            }
        }
    }

    async fn watch(self, mut signals: Signals) {
        tokio::select! {
            biased;
            () = self.over.cancelled() => return,
            name = signals.next() => {
                // Cancel before saying so: a log that blocks must not keep us from ending.
                self.stop.cancel();
                say(move || info!(signal = name, "told to end, draining"));
            }
            () = self.stop.cancelled() => {}
        }
        tokio::select! {
            biased;
            () = self.over.cancelled() => {}
            name = signals.next() => {
                say(move || warn!(signal = name, "told to end again, ending at once"));
                process::exit(exit::ABORTED.into());
            }
            () = sleep(self.drain_deadline + HUNG_AFTER) => {
                let deadline = self.drain_deadline;
                say(move || error!(?deadline, "the main runtime hangs after the drain deadline, ending the process"));
                process::exit(exit::DRAIN_LATE.into());
            }
        }
    }
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Cancel-safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Logs, but for 100 ms at most: the lock of stderr may be held by a thread that hangs, and a pipe may be full.
fn say(log: impl FnOnce() + Send + 'static) {
    let (is_said, said) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("last words".to_owned()).spawn(move || {
        log();
        let _ = is_said.send(());
    });
    if spawned.is_ok() {
        let _ = said.recv_timeout(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(late: Vec<&'static str>, failed: Vec<(&'static str, BoxError)>) -> Drain {
        Drain { took: Duration::ZERO, deadline: DEFAULT_DRAIN, late, failed }
    }

    #[test]
    fn a_clean_drain_is_ok() {
        assert!(drain(vec![], vec![]).into_result().is_ok());
    }

    #[test]
    fn late_tasks_are_named_before_failed_ones() {
        let error = drain(vec!["uplink", "spool"], vec![("store", "disk full".into())]).into_result().unwrap_err();
        assert_eq!(error.to_string(), "not ended 10s after being told to: uplink, spool");
    }

    #[test]
    fn a_task_that_failed_while_ending_is_not_a_clean_end() {
        let error = drain(vec![], vec![("store", "disk full".into())]).into_result().unwrap_err();
        assert_eq!(crate::Chain(&error).to_string(), "task `store` failed while ending: disk full");
    }

    #[test]
    fn the_default_deadline_leaves_room_in_the_grace_period() {
        assert!(DEFAULT_DRAIN + HUNG_AFTER < Duration::from_secs(30));
    }
}
