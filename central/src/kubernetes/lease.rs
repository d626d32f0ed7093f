//! Central's Lease: of several centrals its holder alone writes.
//!
//! As client-go's leader election does it: a holder renews; another takes the Lease once it did not change for as long as its holder said,
//! by the taker's own clock, so that clocks need not agree. A holder may write for [`VALID`] after it began to renew last, shorter than
//! the Lease lasts by more than a write may take: what was begun in time has ended before another begins. One that is told to end
//! gives the Lease back; one that has led and reads another's name in it ends the process. Source: `k8s.io/client-go/tools/leaderelection`, `coordination/v1/types.go`.

use std::{sync::Arc, time::Duration};

use kulprit_daemon::{
    BoxError, CancellationToken, Clock,
    backoff::{Backoff, BackoffPolicy, random_seed},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    requests::Failure,
    write::{ANSWER_WITHIN, Owned, Writes, micro_time},
};

/// Its name.
pub const LEASE: &str = "kulprit-central";
/// How long it lasts without being renewed, as others are told.
const LASTS_SECS: u64 = 15;
/// How long its holder writes without renewing it.
const VALID: Duration = Duration::from_secs(10);
/// Two renewals may fail before that.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// To give it back at the end.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);
const _: () = assert!(VALID.as_secs() + ANSWER_WITHIN.as_secs() < LASTS_SECS, "a write may outlive the Lease");

/// Longer than any process.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Until when this central may write; clones share it.
#[derive(Clone, Debug)]
pub struct Leading {
    until: watch::Receiver<Option<Instant>>,
    /// Whom the Lease names, if not us.
    holder: watch::Receiver<Option<String>>,
    /// Without an election nobody ends it.
    _for_ever: Option<Arc<watch::Sender<Option<Instant>>>>,
}

impl Leading {
    /// Where there is no election: whoever runs, leads.
    #[must_use]
    pub fn for_ever() -> Self {
        let sender = watch::Sender::new(Some(Instant::now() + FOR_EVER));
        let holder = watch::Sender::new(None).subscribe();
        Self { until: sender.subscribe(), holder, _for_ever: Some(Arc::new(sender)) }
    }

    /// Whom the Lease named last, if another.
    #[must_use]
    pub fn holder(&self) -> Option<String> {
        self.holder.borrow().clone()
    }

    /// Resolves when a write may begin. Cancel-safe.
    pub async fn gained(&self) {
        let mut until = self.until.clone();
        if until.wait_for(|until| until.is_some_and(|until| Instant::now() < until)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a write may begin now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Resolves when the Lease is another's, or was not renewed in time. Cancel-safe.
    pub async fn lost(&self) {
        let mut until = self.until.clone();
        loop {
            let Some(valid) = *until.borrow_and_update() else { return };
            tokio::select! {
                () = sleep_until(valid) => {
                    if self.until.borrow().is_none_or(|until| until <= valid) {
                        return;
                    }
                }
                changed = until.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Resolves when the Lease comes or goes. Cancel-safe.
    pub async fn changed(&mut self) {
        let held = self.until.borrow_and_update().is_some();
        while self.until.changed().await.is_ok() {
            if self.until.borrow_and_update().is_some() != held {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Takes the Lease and keeps it.
pub struct Election {
    writes: Writes,
    namespace: String,
    identity: String,
    clock: Clock,
    until: watch::Sender<Option<Instant>>,
    holder: watch::Sender<Option<String>>,
    /// Whether it was ours once.
    has_led: bool,
    /// The Lease as it was answered when it was ours last.
    own: Option<Value>,
    /// The version of another's, and since when it is that.
    observed: Option<(String, Instant)>,
    said: Option<Said>,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Ours,
    Others(String),
    Failed(u16),
}

impl Election {
    /// Of the central that calls itself `identity`; no two may do so.
    #[must_use]
    pub fn new(writes: Writes, namespace: String, identity: String, clock: Clock) -> (Self, Leading) {
        let (until, holder) = (watch::Sender::new(None), watch::Sender::new(None));
        let leading = Leading { until: until.subscribe(), holder: holder.subscribe(), _for_ever: None };
        let (own, observed, said) = (None, None, None);
        (Self { writes, namespace, identity, clock, until, holder, has_led: false, own, observed, said }, leading)
    }

    /// Runs until `stop`, then gives the Lease back.
    ///
    /// # Errors
    /// If another takes it after it was ours.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let policy = BackoffPolicy { cap: Duration::from_secs(30), ..BackoffPolicy::default() };
        let mut backoff = Backoff::new(policy, random_seed());
        loop {
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                round = self.round() => round,
            };
            let rest = match round {
                Ok(()) => {
                    if let (true, Some(holder)) = (self.has_led, self.holder.borrow().as_ref()) {
                        return Err(format!(
                            "the Lease `{}/{LEASE}` is {holder}'s now; this central ends, and stands by when it is started again",
                            self.namespace
                        )
                        .into());
                    }
                    backoff.reset();
                    RENEW_EVERY
                }
                Err(failure) => {
                    self.failed(&failure);
                    // While it holds, a renewal is worth more than the API server's rest.
                    let is_held = self.until.borrow().is_some_and(|until| Instant::now() < until);
                    if is_held { Duration::from_secs(1) } else { backoff.next_delay().max(Duration::from_secs(1)) }
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep(rest) => {}
            }
        }
        let was_held = self.until.borrow().is_some_and(|until| Instant::now() < until);
        self.until.send_replace(None);
        if was_held {
            let _ = timeout(RELEASE_WITHIN, self.release()).await;
        }
        Ok(())
    }

    /// Takes or renews it if that is ours to do.
    async fn round(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        if let Some(own) = self.own.take() {
            match self.replace(own).await {
                Err(Failure::Status { code: 409 | 404, .. }) => {}
                renewed => return self.held(renewed?, began),
            }
        }
        let lease = match self.writes.owned(Owned::Lease, &self.namespace, LEASE).await {
            Err(Failure::Status { code: 404, .. }) => {
                let new = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": LEASE, "namespace": self.namespace}});
                let new = self.ours(new);
                return match self.writes.create_owned(Owned::Lease, &self.namespace, &new).await {
                    Err(Failure::Status { code: 409, .. }) => self.lost("another"),
                    made => self.held(made?, began),
                };
            }
            lease => lease?,
        };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        if holder != self.identity && !holder.is_empty() && !self.is_over(&lease, began) {
            return self.lost(&holder);
        }
        match self.replace(lease).await {
            // Ours may have been touched by somebody who is no central: read again.
            Err(Failure::Status { code: 409, .. }) if !self.has_led => self.lost("another"),
            taken => self.held(taken?, began),
        }
    }

    /// Whether its holder let it lapse: it is what it was for as long as it lasts.
    fn is_over(&mut self, lease: &Value, now: Instant) -> bool {
        let version = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let since = match &self.observed {
            Some((observed, since)) if observed == version => *since,
            Some(_) | None => now,
        };
        self.observed = Some((version.to_owned(), since));
        let lasts_secs = lease["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(LASTS_SECS);
        now.duration_since(since) >= Duration::from_secs(lasts_secs)
    }

    async fn replace(&self, lease: Value) -> Result<Value, Failure> {
        self.writes.replace_owned(Owned::Lease, &self.namespace, LEASE, &self.ours(lease)).await
    }

    /// The Lease with us as its holder from now on.
    fn ours(&self, mut lease: Value) -> Value {
        let now = micro_time(self.clock.now().wall_usec);
        let is_new = lease["spec"]["holderIdentity"] != self.identity.as_str();
        let n_transitions = lease["spec"]["leaseTransitions"].as_u64();
        let spec = &mut lease["spec"];
        if is_new {
            spec["acquireTime"] = json!(now);
            spec["leaseTransitions"] = json!(n_transitions.map_or(0, |n| n + 1));
        }
        spec["holderIdentity"] = json!(self.identity);
        spec["leaseDurationSeconds"] = json!(LASTS_SECS);
        spec["renewTime"] = json!(now);
        lease
    }

    fn held(&mut self, lease: Value, began: Instant) -> Result<(), Failure> {
        if lease["spec"]["holderIdentity"] != self.identity.as_str() {
            return Err(Failure::garbled("a Lease that is not what was written"));
        }
        self.own = Some(lease);
        self.has_led = true;
        self.holder.send_if_modified(|holder| holder.take().is_some());
        self.until.send_replace(Some(began + VALID));
        if self.said != Some(Said::Ours) {
            self.said = Some(Said::Ours);
            info!(namespace = self.namespace, identity = self.identity, "this central holds the Lease and leads");
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "a round that ends so is no failure")]
    fn lost(&mut self, holder: &str) -> Result<(), Failure> {
        self.own = None;
        self.until.send_if_modified(|until| until.take().is_some());
        self.holder.send_replace(Some(holder.to_owned()));
        if self.said.as_ref().is_none_or(|said| !matches!(said, Said::Others(other) if other == holder)) {
            self.said = Some(Said::Others(holder.to_owned()));
            info!(namespace = self.namespace, holder, "another central holds the Lease and leads; this one stands by");
        }
        Ok(())
    }

    fn failed(&mut self, failure: &Failure) {
        let is_held = self.until.borrow().is_some_and(|until| Instant::now() < until);
        if !is_held {
            self.until.send_if_modified(|until| until.take().is_some());
        }
        let code = failure.code();
        if is_held || self.said == Some(Said::Failed(code)) {
            debug!(?failure, "the Lease cannot be held");
            return;
        }
        self.said = Some(Said::Failed(code));
        let (namespace, why) = (&self.namespace, failure);
        if self.has_led {
            warn!(namespace, lease = LEASE, %why, "the Lease cannot be renewed: nothing is written to Kubernetes");
        } else {
            warn!(namespace, lease = LEASE, %why,
                "the Lease cannot be held: this central does not lead and takes no reports; it needs get, create and update of leases there, or leader_election: false");
        }
    }

    async fn release(&mut self) {
        let Some(mut lease) = self.own.take() else { return };
        lease["spec"]["holderIdentity"] = json!("");
        lease["spec"]["leaseDurationSeconds"] = json!(1);
        if let Err(failure) = self.writes.replace_owned(Owned::Lease, &self.namespace, LEASE, &lease).await {
            debug!(?failure, "the Lease was not given back");
        }
    }
}
