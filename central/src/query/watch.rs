//! `WatchIncidents`: one client is told of incidents as they are and as they change.
//!
//! Nothing is queued for a client: it is told the newest state of each incident when it has room for it, so that a slow one
//! costs what a quick one does and holds nobody up. What became of an incident is the difference to the state that this
//! client knows ([`Teller`], pure). [`run`] moves messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kulprit_daemon::{CancellationToken, Clock};
use kulprit_proto::v1::{self, IncidentEvent, watch_incidents_response::Message};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc::Sender, watch},
    time::{sleep_until, timeout},
};
use tonic::Status;
use ulid::Ulid;

use super::{incidents::IncidentFilter, window::Window};
use crate::incident::{Incident, Incidents, Member, Whom};

/// Clients that may watch at the same time: a screen for each of a team, and programs. Each holds pointers to incidents, and one
/// connection's buffers.
pub(super) const WATCHERS_MAX: usize = 64;
/// How far a probability moves before it is told, above what one more look moves it.
const PROBABILITY_STEP: f64 = 0.1;
/// How long the reason of an end may wait for a client to read what was sent before.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// What is sent to a client.
pub(super) type Answer = Result<v1::WatchIncidentsResponse, Status>;

/// A place among the watchers; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    n_watchers: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    /// Takes the place that `permit` is for.
    pub(super) fn new(permit: OwnedSemaphorePermit, n_watchers: Gauge) -> Self {
        n_watchers.inc();
        Self { n_watchers, _permit: permit }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.n_watchers.dec();
    }
}

/// Tells one client until it goes or `stop`.
pub(super) async fn run(
    mut book: watch::Receiver<Arc<Incidents>>,
    mut window: Window,
    filter: IncidentFilter,
    clock: Clock,
    stop: CancellationToken,
    answers: Sender<Answer>,
    _seat: Seat,
) {
    let mut teller = Teller::new(filter);
    let asker = window.asker();
    let mut until_refused = Box::pin(asker.until_refused());
    let told = |message| Ok(v1::WatchIncidentsResponse { message: Some(message) });
    loop {
        // Whatever is decided during this round begins another one.
        book.mark_unchanged();
        let mut after = None;
        loop {
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => return end(&answers).await,
                status = &mut until_refused => return tell_end(&answers, status).await,
                slot = answers.reserve() => slot,
            };
            // The client has gone.
            let Ok(slot) = slot else { return };
            let newest = Arc::clone(&book.borrow());
            let newest = match window.look(&newest).await {
                Ok(newest) => newest,
                Err(status) => {
                    slot.send(Err(status));
                    return;
                }
            };
            if let Some((id, mut change)) = teller.next(&newest, after) {
                change.at_wall_usec = clock.now().wall_usec;
                slot.send(told(Message::Change(change)));
                after = Some(id);
                continue;
            }
            teller.forget_dropped(&newest);
            if !teller.is_complete {
                teller.is_complete = true;
                slot.send(told(Message::Complete(v1::WatchComplete {})));
            }
            break;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return end(&answers).await,
            status = &mut until_refused => return tell_end(&answers, status).await,
            () = answers.closed() => return,
            () = sleep_until(window.due()) => {}
            changed = book.changed() => if changed.is_err() { return end(&answers).await },
        }
    }
}

async fn end(answers: &Sender<Answer>) {
    tell_end(answers, Status::unavailable("central is ending")).await;
}

async fn tell_end(answers: &Sender<Answer>, status: Status) {
    // One that reads nothing is not waited for.
    let _ = timeout(TOLD_WITHIN, answers.send(Err(status))).await;
}

/// What one client knows, and what is news to it. Pure.
#[derive(Debug)]
struct Teller {
    filter: IncidentFilter,
    /// Every incident, as it was when this client was told of it or it was found that it need not be.
    known: BTreeMap<Ulid, Known>,
    /// Whether all that there was in the beginning has been told.
    is_complete: bool,
}

#[derive(Debug)]
struct Known {
    incident: Arc<Incident>,
    /// Whether the client takes it for one of those that it asked for.
    is_shown: bool,
}

impl Teller {
    const fn new(filter: IncidentFilter) -> Self {
        Self { filter, known: BTreeMap::new(), is_complete: false }
    }

    /// The first news of the incidents after `after`; without a time.
    fn next(&mut self, incidents: &Incidents, after: Option<Ulid>) -> Option<(Ulid, v1::IncidentChange)> {
        incidents.after(after).find_map(|incident| {
            let events = self.look(incident)?.into_iter().map(i32::from).collect();
            let change = v1::IncidentChange { incident: Some((&**incident).into()), events, at_wall_usec: 0 };
            Some((incident.id, change))
        })
    }

    /// What became of it since the last look, if that is news.
    fn look(&mut self, incident: &Arc<Incident>) -> Option<Vec<IncidentEvent>> {
        let is_shown = self.filter.wants(incident);
        let (events, is_news) = match self.known.get(&incident.id) {
            Some(known) if Arc::ptr_eq(&known.incident, incident) => return None,
            Some(known) => {
                let events = became(&known.incident, incident);
                if events.is_empty() {
                    // What is known stays: small steps add up to one that is told.
                    return None;
                }
                // The client has to learn that it is none of those it asked for any more.
                let is_news = is_shown || known.is_shown;
                (events, is_news)
            }
            None if self.is_complete => (since_opened(incident), is_shown),
            None => (Vec::new(), is_shown),
        };
        self.known.insert(incident.id, Known { incident: Arc::clone(incident), is_shown });
        is_news.then_some(events)
    }

    /// Lets go of what retention has dropped from the book.
    fn forget_dropped(&mut self, incidents: &Incidents) {
        if self.known.len() > incidents.n_kept() {
            self.known.retain(|id, _| incidents.get(*id).is_some());
        }
    }
}

/// What became of an incident that was not known before.
fn since_opened(incident: &Incident) -> Vec<IncidentEvent> {
    [IncidentEvent::Opened].into_iter().chain(how_closed(incident)).collect()
}

fn how_closed(incident: &Incident) -> Option<IncidentEvent> {
    match (incident.is_open(), incident.merged_into) {
        (true, _) => None,
        (false, Some(_)) => Some(IncidentEvent::Merged),
        (false, None) => Some(IncidentEvent::Closed),
    }
}

/// What became of an incident between two looks at it, in the order of the enum. Empty if only figures moved, and not far.
fn became(before: &Incident, now: &Incident) -> Vec<IncidentEvent> {
    let has_closed = !now.is_open() && before.closed_wall_usec != now.closed_wall_usec;
    let has_reopened = !before.is_open() && (now.is_open() || has_closed);
    let has_other_cause = before.key != now.key;
    let has_moved = (before.probability - now.probability).abs() > PROBABILITY_STEP - 1e-9;
    let members = MemberChanges::between(before, now);
    let events = [
        has_reopened.then_some(IncidentEvent::Reopened),
        has_other_cause.then_some(IncidentEvent::CauseChanged),
        members.has_joined.then_some(IncidentEvent::MemberJoined),
        members.has_ended.then_some(IncidentEvent::MemberEnded),
        members.has_left.then_some(IncidentEvent::MemberLeft),
        // The probability of another cause is another figure.
        (has_moved && !has_other_cause).then_some(IncidentEvent::ProbabilityChanged),
        how_closed(now).filter(|_| has_closed),
    ];
    events.into_iter().flatten().collect()
}

#[derive(Debug, Default)]
struct MemberChanges {
    has_joined: bool,
    has_ended: bool,
    has_left: bool,
}

impl MemberChanges {
    fn between(before: &Incident, now: &Incident) -> Self {
        fn key(member: &Member) -> (&Whom, &str) {
            (&member.whom, &member.symptom)
        }
        let old: BTreeMap<_, Option<i64>> =
            before.members.iter().map(|member| (key(member), member.until_wall_usec)).collect();
        let mut changes = Self::default();
        for member in &now.members {
            match (old.get(&key(member)), member.until_wall_usec) {
                (None | Some(Some(_)), None) => changes.has_joined = true,
                (Some(None), Some(_)) => changes.has_ended = true,
                // It came and went between the two looks.
                (None, Some(_)) => (changes.has_joined, changes.has_ended) = (true, true),
                (Some(Some(before)), Some(until)) if *before != until => {
                    (changes.has_joined, changes.has_ended) = (true, true);
                }
                (Some(None), None) | (Some(Some(_)), Some(_)) => {}
            }
        }
        let new: BTreeSet<_> = now.members.iter().map(key).collect();
        changes.has_left = old.keys().any(|key| !new.contains(key));
        changes
    }
}

#[cfg(test)]
mod tests;
