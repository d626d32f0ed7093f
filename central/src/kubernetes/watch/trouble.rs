//! What a failure means for a row, who is told of it, and when it is tried again.
//!
//! An API server that starts says for a while that it does not know a kind or does not allow it, so both count only after a time for
//! what was served before. After a start it no longer knows the versions from before: that is no failure but a reason to list.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Failure, SLOW, Sink, Watch};

/// A kind that was served or allowed before counts as not so only after so long: an API server that starts says both for a while.
const SETTLE: Duration = Duration::from_secs(30);
/// Custom resources may be installed later.
const NOT_SERVED_AGAIN: Duration = Duration::from_secs(30);
/// Somebody has to change the rights first.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// No longer even if the API server asks for more: nothing is seen meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// So many failures in a row that each alone would be normal are an outage.
const MAX_HARMLESS: u32 = 3;
/// A failure so long after the begin of a stream is a first one again.
const RESET_AFTER: Duration = Duration::from_secs(10);

/// What the sink was told of a row that is not in sync.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Lost(String),
    Refused(String),
    NotServed,
}

/// What the log was told of a row, until it is well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Outage,
    Refused,
    NotServed,
}

impl Failure {
    /// How long the API server wants to be left alone. Whoever was told so comes later than that, not all at once.
    pub(super) fn wanted_pause(&self) -> Duration {
        match self {
            Self::Status { retry_after, .. } => (*retry_after).min(MAX_RETRY_AFTER),
            Self::NoAnswer(_) | Self::Garbled(_) | Self::Cut => Duration::ZERO,
        }
    }
}

impl<S: Sink> Watch<S> {
    /// What a failure means, told where it has to be; returns how long to wait.
    pub(super) fn judge(&mut self, failure: Failure) -> Duration {
        let is_following = self.version.is_some();
        if self.began.take().is_some_and(|began| began.elapsed() >= RESET_AFTER) {
            self.backoff.reset();
        }
        let delay = self.backoff.next_delay();
        let is_harmless = self.backoff.n_failures() <= MAX_HARMLESS;
        debug!(row = self.row.name, ?failure, ?delay, "cannot go on");
        match failure {
            // What was missed cannot be told any more: all is listed again, unless that was just done.
            Failure::Status { code: 410, .. }
                if is_following && self.listed.is_none_or(|listed| listed.elapsed() >= RESET_AFTER) =>
            {
                self.version = None;
                self.backoff.reset();
                self.backoff.next_delay()
            }
            Failure::Status { code: 410, .. } | Failure::Garbled(_) if is_following && is_harmless => {
                self.version = None;
                delay
            }
            Failure::Status { code: 410, .. } | Failure::Cut if is_harmless => delay,
            Failure::Status { code: 404, message, .. } => {
                self.version = None;
                if self.is_settled(404) {
                    self.not_served();
                    return if is_harmless { delay } else { NOT_SERVED_AGAIN };
                }
                self.lost(404, format!("404: {message}"));
                delay
            }
            Failure::Status { code: 403, message, .. } => {
                let verb = if is_following { "watch" } else { "list" };
                let why = format!("may not {verb} {}: {message}", self.row.resource());
                if self.is_settled(403) {
                    self.refused(why);
                    return if is_harmless { delay } else { REFUSED_AGAIN };
                }
                self.lost(403, why);
                delay
            }
            Failure::Status { code, message, .. } => {
                self.version = self.version.take().filter(|_| code != 410);
                self.lost(code, format!("{code}: {message}"));
                delay
            }
            Failure::NoAnswer(why) => {
                self.lost(0, why);
                delay
            }
            Failure::Garbled(why) => {
                self.version = None;
                self.lost(0, why);
                delay
            }
            cut @ Failure::Cut => {
                self.lost(0, cut.to_string());
                delay
            }
        }
    }

    /// Whether the sink was told of an outage that is not over.
    pub(super) const fn is_lost(&self) -> bool {
        matches!(self.told, Some(Trouble::Lost(_)))
    }

    /// Whether the answer is what it will stay.
    fn is_settled(&mut self, code: u16) -> bool {
        let since = match self.denied {
            Some((denied, since)) if denied == code => since,
            _ => Instant::now(),
        };
        self.denied = Some((code, since));
        !self.was_listed || since.elapsed() >= SETTLE
    }

    /// An answer is late: what happens meanwhile is not seen.
    pub(super) fn is_slow(&mut self) {
        if self.told.is_none() {
            self.lost(0, format!("no answer for {} s", SLOW.as_secs()));
        }
    }

    /// A list goes on: what happens meanwhile is not seen until its end, however fast its pages come.
    pub(super) fn is_listing(&mut self) {
        if self.was_listed && self.told.is_none() && self.seen.elapsed() >= SLOW {
            self.tell(Trouble::Lost("it is being listed anew".to_owned()));
        }
    }

    fn lost(&mut self, class: u16, why: String) {
        if self.said.is_none() {
            self.said = Some(Said::Outage);
            if self.shared.outages.begin(self.row.name, class) {
                warn!(row = self.row.name, why, "Kubernetes cannot be watched: what was known of it is unknown now");
            }
        }
        self.tell(Trouble::Lost(why));
    }

    fn refused(&mut self, why: String) {
        if self.said != Some(Said::Refused) {
            self.said = Some(Said::Refused);
            self.shared.outages.end(self.row.name);
            warn!(row = self.row.name, why, again_secs = REFUSED_AGAIN.as_secs(), "Kubernetes refuses");
        }
        self.tell(Trouble::Refused(why));
    }

    fn not_served(&mut self) {
        if self.said != Some(Said::NotServed) {
            self.said = Some(Said::NotServed);
            self.shared.outages.end(self.row.name);
            let resource = self.row.resource();
            info!(resource, again_secs = NOT_SERVED_AGAIN.as_secs(), "Kubernetes does not serve this");
        }
        for (namespace, name) in self.known.drain().chain(self.unlisted.drain()) {
            self.sink.delete(self.row, &namespace, &name);
        }
        self.was_listed = false;
        self.tell(Trouble::NotServed);
    }

    fn tell(&mut self, trouble: Trouble) {
        if self.told.as_ref() == Some(&trouble) {
            return;
        }
        match &trouble {
            Trouble::Lost(why) => self.sink.lost(self.row, self.seen.elapsed(), why),
            Trouble::Refused(why) => self.sink.refused(self.row, why),
            Trouble::NotServed => self.sink.not_served(self.row),
        }
        self.told = Some(trouble);
    }

    /// The stream of changes stands. The log is told of it once the API server answers promptly again: until then the next answer is
    /// likely to be as late as this one was.
    pub(super) fn well(&mut self, is_prompt: bool) {
        self.denied = None;
        if self.told.take().is_some() {
            self.sink.synced(self.row);
        }
        if !is_prompt {
            return;
        }
        match self.said.take() {
            Some(Said::Outage) => {
                self.shared.recovered.notify_waiters();
                if let Some(outage) = self.shared.outages.end(self.row.name) {
                    let secs = outage.as_secs();
                    info!(row = self.row.name, secs, "Kubernetes is watched again");
                }
            }
            Some(Said::Refused) => info!(row = self.row.name, "Kubernetes allows this now"),
            Some(Said::NotServed) => info!(resource = self.row.resource(), "Kubernetes serves this now"),
            None => {}
        }
    }
}
