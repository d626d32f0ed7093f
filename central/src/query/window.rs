//! Incidents as one client may see them, while they change and his rights may.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::Status;

use super::{asker::Asker, shown};
use crate::{
    access::{
        Refusal,
        rights::{About, Sight},
    },
    incident::Incidents,
};

/// How long what somebody may see is taken to be so: a right that was taken away ends his watch within this time.
const SIGHT_FOR: Duration = Duration::from_secs(60);

/// What one client may see.
#[derive(Debug)]
pub(super) struct Window {
    asker: Asker,
    /// The one he asked about; empty: all.
    namespace: String,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Incidents as they are, and as he may see them.
    incidents: Arc<Incidents>,
    shown: Arc<Incidents>,
    about: About,
    sight: Sight,
    since: Instant,
}

impl Window {
    /// For who asks about incidents of a namespace, or of all if that is empty.
    pub(super) const fn new(asker: Asker, namespace: String) -> Self {
        Self { asker, namespace, seen: None }
    }

    /// Whose it is.
    pub(super) fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// When his rights are to be looked at anew, whatever happens.
    pub(super) fn due(&self) -> Instant {
        self.seen.as_ref().map_or_else(Instant::now, |seen| seen.since + SIGHT_FOR)
    }

    /// These incidents as he may see them.
    ///
    /// # Errors
    /// PERMISSION_DENIED if he may see less than before: what he was told cannot be taken back. UNAVAILABLE if nobody can tell.
    pub(super) async fn look(&mut self, incidents: &Arc<Incidents>) -> Result<Arc<Incidents>, Status> {
        let is_due = self.due() <= Instant::now();
        if let Some(seen) = self.seen.as_ref().filter(|seen| !is_due && Arc::ptr_eq(&seen.incidents, incidents)) {
            return Ok(Arc::clone(&seen.shown));
        }
        let about = shown::about(incidents, &self.namespace);
        let (sight, since) = match &self.seen {
            Some(seen) if !is_due && seen.about == about => (seen.sight.clone(), seen.since),
            before => {
                let sight = self.asker.sight(&about).await?;
                if before.as_ref().is_some_and(|before| sight.has_lost(&before.sight, &about)) {
                    let why = "you may see less than when this watch began: watch again".to_owned();
                    return Err(self.asker.refuse(&Refusal::Forbidden(why)));
                }
                (sight, Instant::now())
            }
        };
        let shown = shown::incidents(incidents, &sight);
        let incidents = Arc::clone(incidents);
        self.seen = Some(Seen { incidents, shown: Arc::clone(&shown), about, sight, since });
        Ok(shown)
    }
}
