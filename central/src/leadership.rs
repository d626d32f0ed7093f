//! Of several centrals of a cluster one leads: it alone takes reports, decides, answers and writes.
//!
//! The others watch Kubernetes, so that they are warm, and refuse all else with the leader's name: who is not ready gets nothing through the
//! Service, and agents try again there. A leader that reads another's name in the Lease ends, and is started again as a standby. One that
//! cannot reach the API server stops writing and is not ready, and goes on otherwise: an outage of the API server is what people ask about.

use std::{fs, io, path::Path};

use kulprit_daemon::{BoxError, CancellationToken, Readiness, UsageError, backoff::random_seed};
use tokio::sync::watch;
use tonic::{Request, Status};

use crate::{kubernetes::lease::Leading, metrics::CentralMetrics};

/// What `/ready` waits for.
const WAITS_FOR: &str = "this central leads (holds its Lease)";
/// In the data folder: what this central calls itself.
const IDENTITY_FILE: &str = "identity";
/// More is none of ours.
const MAX_IDENTITY_BYTES: usize = 300;

/// Keeps everything out until this central leads for the first time; clones share it.
#[derive(Clone, Debug)]
pub struct Gate {
    has_led: watch::Sender<bool>,
    leading: Leading,
    metrics: CentralMetrics,
}

impl Gate {
    /// Open once `leading` holds.
    #[must_use]
    pub fn new(leading: Leading, metrics: CentralMetrics) -> Self {
        Self { has_led: watch::Sender::new(leading.holds()), leading, metrics }
    }

    /// Lets a request through, or says who leads.
    ///
    /// # Errors
    /// `UNAVAILABLE` while this central stands by; counted.
    pub fn pass(&self, request: Request<()>) -> Result<Request<()>, Status> {
        if *self.has_led.borrow() {
            return Ok(request);
        }
        self.metrics.standby_refusals.inc();
        Err(Status::unavailable(match self.leading.holder() {
            Some(holder) => format!("this central stands by; {holder} leads: ask the one that is ready"),
            None => "this central does not lead yet: it has not got its Lease; its log says why".to_owned(),
        }))
    }

    /// Resolves when this central has led. Cancel-safe.
    pub async fn opened(&self) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.has_led.subscribe().wait_for(|has_led| *has_led).await;
    }

    /// Opens it, and says whether this central is ready, until `stop`. Not ready from this call on, until it leads.
    pub fn keep(
        self,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
        let mut waits = readiness.block_on(WAITS_FOR);
        async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = self.leading.gained() => {}
                }
                waits.ready();
                self.has_led.send_replace(true);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = self.leading.lost() => {}
                }
                waits = readiness.block_on(WAITS_FOR);
            }
        }
    }
}

/// What no other central calls itself: a name made up once and kept in the data folder, which no two use at the same time. So a central that
/// was killed takes up its Lease at once when it starts again.
///
/// # Errors
/// If the folder cannot be read or written.
pub fn identity(folder: &Path) -> Result<String, UsageError> {
    let path = folder.join(IDENTITY_FILE);
    let failed = |error: io::Error| {
        UsageError::new(format!("failed to keep this central's name in `{}`", path.display()))
            .because(error)
            .fix("make the folder readable and writable for this user")
    };
    match fs::read_to_string(&path) {
        Ok(known) if is_name(known.trim()) => return Ok(known.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{}_{:016x}", host.trim(), random_seed());
    fs::write(&path, format!("{name}\n")).map_err(failed)?;
    Ok(name)
}

fn is_name(text: &str) -> bool {
    (1..=MAX_IDENTITY_BYTES).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_central_keeps_its_name_and_no_two_have_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = identity(one.path()).unwrap();
        assert_eq!(identity(one.path()).unwrap(), name);
        assert_ne!(identity(other.path()).unwrap(), name);
        fs::write(one.path().join(IDENTITY_FILE), "").unwrap();
        assert_ne!(identity(one.path()).unwrap(), name, "what a crash left empty is made anew");
    }
}
