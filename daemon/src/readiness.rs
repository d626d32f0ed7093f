//! Ready means: everything somebody said would take time has said it is done.
//!
//! Each part takes a named [`Guard`] before it starts and consumes it with [`Guard::ready`]. `/ready` names what is still
//! missing, so an administrator sees *why* a pod is not ready. A guard that is dropped without `ready()` (an error, a panic,
//! a cancelled task) never makes the process ready: its name stays, marked as given up, until the restarted part takes the
//! same name again. Take all guards before the first task starts, or the process is ready for a moment in between.
//!
//! What is wrong and yet no reason to send nobody here any more is a remark ([`Readiness::remark`]): `/ready` says it and stays 200.
//!
//! A guard may be taken at any time: a standby takes `leader` again when it loses the lease.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// What the process still waits for; clones share it.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waits: watch::Sender<Waits>,
    remarks: Mutex<BTreeMap<&'static str, String>>,
}

type Waits = BTreeMap<&'static str, Wait>;

#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    n_open: usize,
    is_given_up: bool,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Waits for nothing, so is ready.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared { waits: watch::Sender::new(Waits::new()), remarks: Mutex::default() }))
    }

    /// Not ready until the returned guard says so. `what` is what `/ready` prints, for example `spool opened`.
    ///
    /// Takes back an earlier giving up under the same name: the part is being tried again.
    pub fn block_on(&self, what: &'static str) -> Guard {
        self.0.waits.send_modify(|waits| {
            let wait = waits.entry(what).or_default();
            wait.n_open += 1;
            wait.is_given_up = false;
        });
        Guard { what, readiness: self.clone(), is_ready: false }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.waits.borrow().is_empty()
    }

    /// What is missing, by name.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        self.0.waits.borrow().iter().map(|(what, wait)| Missing { what, is_given_up: wait.n_open == 0 }).collect()
    }

    /// Says `text` about `what` beside being ready; `None` takes it back.
    pub fn remark(&self, what: &'static str, text: Option<String>) {
        let mut remarks = self.0.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => remarks.insert(what, text),
            None => remarks.remove(what),
        };
    }

    /// What is remarked, `what: text`, by what it is about.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let remarks = self.0.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.iter().map(|(what, text)| format!("{what}: {text}")).collect()
    }

    /// Resolves when nothing is missing. Cancel-safe.
    pub async fn wait(&self) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.0.waits.subscribe().wait_for(Waits::is_empty).await;
    }

    fn close(&self, what: &'static str, is_ready: bool) {
        self.0.waits.send_modify(|waits| {
            let Some(wait) = waits.get_mut(what) else { return };
            wait.n_open -= 1;
            wait.is_given_up |= !is_ready;
            if wait.n_open == 0 && !wait.is_given_up {
                waits.remove(what);
            }
        });
    }
}

/// One thing a [`Readiness`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The name given to [`Readiness::block_on`].
    pub what: &'static str,
    /// Nobody works on it any more: the guard was dropped by an error, a panic or a cancelled task.
    pub is_given_up: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if self.is_given_up {
            f.write_str(" (given up: what would do it ended before it was done; see the log)")
        } else {
            Ok(())
        }
    }
}

/// Keeps the process from being ready; see [`Readiness::block_on`].
#[derive(Debug)]
#[must_use = "dropping it without `ready()` leaves the process not ready"]
pub struct Guard {
    what: &'static str,
    readiness: Readiness,
    is_ready: bool,
}

impl Guard {
    /// This part is done.
    pub fn ready(mut self) {
        self.is_ready = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.close(self.what, self.is_ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(readiness: &Readiness) -> Vec<(&'static str, bool)> {
        readiness.missing().into_iter().map(|missing| (missing.what, missing.is_given_up)).collect()
    }

    #[test]
    fn ready_when_every_guard_said_so() {
        let readiness = Readiness::new();
        let spool = readiness.block_on("spool opened");
        let dbus = readiness.block_on("D-Bus connected");
        assert_eq!(missing(&readiness), [("D-Bus connected", false), ("spool opened", false)]);
        dbus.ready();
        assert_eq!(missing(&readiness), [("spool opened", false)]);
        assert!(!readiness.is_ready());
        spool.ready();
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn a_panic_never_makes_it_ready() {
        let readiness = Readiness::new();
        let guard = readiness.block_on("spool opened");
        let task = tokio::spawn(async move {
            let _guard = guard;
            panic!("planted");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(missing(&readiness), [("spool opened", true)]);
        assert!(readiness.missing()[0].to_string().starts_with("spool opened (given up"));
    }

    #[test]
    fn a_second_try_under_the_same_name_can_succeed() {
        let readiness = Readiness::new();
        drop(readiness.block_on("spool opened"));
        let again = readiness.block_on("spool opened");
        assert_eq!(missing(&readiness), [("spool opened", false)]);
        again.ready();
        assert!(readiness.is_ready());
    }

    #[test]
    fn one_of_two_guards_of_a_name_given_up_is_not_ready() {
        let readiness = Readiness::new();
        let (one, two) = (readiness.block_on("listeners"), readiness.block_on("listeners"));
        drop(one);
        two.ready();
        assert_eq!(missing(&readiness), [("listeners", true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn wait_resolves_at_the_last_guard_and_can_block_again() {
        let readiness = Readiness::new();
        let guard = readiness.block_on("leader");
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.wait().await }
        });
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        guard.ready();
        waiting.await.unwrap();
        let _lost = readiness.block_on("leader");
        assert!(!readiness.is_ready());
    }
}
