//! Writes that fail: when each object is tried again, and what a person is told of it, once.

use std::{collections::BTreeMap, time::Duration};

use kulprit_daemon::backoff::{Backoff, BackoffPolicy, random_seed};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::kubernetes::Failure;

/// From a second to five minutes: a webhook that refuses one node's write is mended by a person.
const POLICY: BackoffPolicy = BackoffPolicy { base: Duration::from_secs(1), cap: Duration::from_secs(300) };

/// No longer even if the API server asks for more.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What fails now.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// By what was to be written and the object.
    failing: BTreeMap<(&'static str, String), Failing>,
    /// By what was to be written: nobody took any of it, or said why not this one.
    resting: BTreeMap<&'static str, Resting>,
    /// When the API server wants to be asked again, as it said last.
    retry_after: Duration,
}

#[derive(Debug)]
struct Failing {
    code: u16,
    again_at: Instant,
    backoff: Backoff,
}

#[derive(Debug)]
struct Resting {
    until: Instant,
    backoff: Backoff,
}

impl Troubles {
    /// Forgets objects of which that does not hold.
    pub(super) fn keep(&mut self, is_known: impl Fn(&str) -> bool) {
        self.failing.retain(|(_, object), _| is_known(object));
    }

    /// Whether all wait, since the API server did not work last.
    pub(super) fn is_resting(&self, what: &'static str) -> bool {
        self.resting.get(what).is_some_and(|resting| resting.until > Instant::now())
    }

    /// Whether it is time to try the object (again).
    pub(super) fn may_try(&self, what: &'static str, object: &str) -> bool {
        let now = Instant::now();
        !self.is_resting(what)
            && self.failing.get(&(what, object.to_owned())).is_none_or(|failing| failing.again_at <= now)
    }

    /// Some writes are over, and the API server worked for one of them, or for none: then all others wait, longer and longer.
    pub(super) fn rest(&mut self, what: &'static str, has_worked: bool) {
        let asked = std::mem::take(&mut self.retry_after).min(MAX_RETRY_AFTER);
        if has_worked {
            self.resting.remove(what);
            return;
        }
        let new = || Resting { until: Instant::now(), backoff: Backoff::new(BackoffPolicy::default(), random_seed()) };
        let resting = self.resting.entry(what).or_insert_with(new);
        resting.until = Instant::now() + resting.backoff.next_delay().max(asked);
    }

    /// A write has failed; said if no other write fails in the same way.
    pub(super) fn failed(&mut self, what: &'static str, object: &str, failure: &Failure) {
        if let Failure::Status { retry_after, .. } = failure {
            self.retry_after = self.retry_after.max(*retry_after);
        }
        let code = failure.code();
        let is_first = !self.failing.iter().any(|((other, _), failing)| *other == what && failing.code == code);
        let key = (what, object.to_owned());
        let failing = self.failing.entry(key).or_insert_with(|| Failing {
            code,
            again_at: Instant::now(),
            backoff: Backoff::new(POLICY, random_seed()),
        });
        failing.code = code;
        failing.again_at = Instant::now() + failing.backoff.next_delay();
        // An object that is gone is no trouble, and what another changed meanwhile is seen soon.
        if is_first && !matches!(code, 404 | 409) {
            warn!(what, object, why = %failure, "Kubernetes does not take a write");
        } else {
            debug!(what, object, ?failure, "Kubernetes does not take a write");
        }
    }

    /// A write has worked; said if it was the last that failed in its way.
    pub(super) fn worked(&mut self, what: &'static str, object: &str) {
        let Some(Failing { code, .. }) = self.failing.remove(&(what, object.to_owned())) else { return };
        let is_last = !self.failing.iter().any(|((other, _), failing)| *other == what && failing.code == code);
        if is_last && !matches!(code, 404 | 409) {
            info!(what, object, "Kubernetes takes writes again");
        }
    }
}
