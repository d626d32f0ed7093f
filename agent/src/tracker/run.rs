//! The loop around the tracker: looks in, batches out to the spool, questions answered.
//!
//! The spool's queue is bounded: while it is full the loop waits, then the probes wait, and nothing is lost. Ticks come when
//! something is due, not by the second: each wake-up costs more than what it does.

use std::time::Duration;

use kulprit_daemon::{BoxError, CancellationToken, Clock, readiness::Guard};
use kulprit_model::{Body, Moment};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{Counts, ProbeView, Tracker};
use crate::{
    look::Look,
    metrics::AgentMetrics,
    spool::{Span, Spool},
};

/// Shorter waits are stretched to this: due times within it share a wake-up.
const SHORTEST_SLEEP: Duration = Duration::from_millis(50);
/// A probe that hangs at the start holds the first snapshot back so long.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// What others ask of the tracker.
#[derive(Debug)]
pub enum Ask {
    /// Spool all that holds now and tell which records it became; once every probe has looked, or 5 s after the start.
    Snapshot(oneshot::Sender<Span>),
    /// Show what is known.
    View(oneshot::Sender<View>),
    /// Where a probe is to go on, after all looks that are already on their way.
    Position(&'static str, oneshot::Sender<Option<String>>),
    /// A probe's task ended, and why.
    ProbeEnded(&'static str, String),
}

/// What is known at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// States, occurrences of the last hour, domains and processes.
    pub bodies: Vec<Body>,
    /// The probes, in table order.
    pub probes: Vec<ProbeView>,
}

/// The ends of the tracker's channels.
#[derive(Debug)]
pub struct Ends {
    /// Looks of the probes.
    pub looks: mpsc::Receiver<Look>,
    /// Questions.
    pub asks: mpsc::Receiver<Ask>,
}

/// Runs until `stop`; then takes in the looks that are already there.
///
/// # Errors
/// If the spool's thread has ended.
pub async fn run(
    mut tracker: Tracker,
    mut ends: Ends,
    spool: Spool,
    clock: Clock,
    metrics: AgentMetrics,
    ready: Guard,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut snapshots: Vec<oneshot::Sender<Span>> = Vec::new();
    let mut ready = Some(ready);
    let settle_by = Instant::now() + SETTLE_WITHIN;
    let mut counted = Counts::default();
    loop {
        let wake = wake_at(&tracker, clock.now(), ready.is_some().then_some(settle_by));
        let batch = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ask) = ends.asks.recv() => match ask {
                Ask::Snapshot(reply) => { snapshots.push(reply); tracker.tick(clock.now()) }
                Ask::View(reply) => {
                    let view = View { bodies: tracker.bodies(), probes: tracker.probes().cloned().collect() };
                    let _ = reply.send(view);
                    continue;
                }
                Ask::Position(name, reply) => {
                    // Of a probe that starts again: what its last run sent counts, or it would be read and counted twice.
                    while let Ok(look) = ends.looks.try_recv() {
                        metrics.looked(&look);
                        spool.append(tracker.look(look)).await?;
                    }
                    let _ = reply.send(tracker.position(name).map(str::to_owned));
                    continue;
                }
                Ask::ProbeEnded(name, because) => tracker.probe_ended(name, &because, clock.now()),
            },
            Some(look) = ends.looks.recv() => {
                metrics.looked(&look);
                let mut batch = tracker.look(look);
                // What else this beat showed goes to the disk with it: each write wakes the spool's thread and the uplink.
                while let Ok(look) = ends.looks.try_recv() {
                    metrics.looked(&look);
                    batch.extend(tracker.look(look));
                }
                batch
            }
            () = sleep_until(wake) => tracker.tick(clock.now()),
        };
        if !batch.is_empty() {
            spool.append(batch).await?;
        }
        metrics.tracked(&tracker, &mut counted);
        if ready.is_some() && (tracker.is_settled() || Instant::now() >= settle_by) {
            ready.take().into_iter().for_each(Guard::ready);
        }
        if ready.is_none() {
            for reply in snapshots.drain(..) {
                let span = spool.append(tracker.snapshot(clock.now())).await?.committed().await?;
                let _ = reply.send(span);
            }
        }
    }
    ends.looks.close();
    while let Ok(look) = ends.looks.try_recv() {
        let batch = tracker.look(look);
        if !batch.is_empty() {
            spool.append(batch).await?;
        }
    }
    // Whatever waits for its turn goes out now, with the positions that wait for it.
    spool.append(tracker.drain(clock.now())).await?.committed().await?;
    Ok(())
}

fn wake_at(tracker: &Tracker, now: Moment, settle_by: Option<Instant>) -> Instant {
    let wait_usec = tracker.due_usec().saturating_sub(now.boottime_usec);
    let wait = Duration::from_micros(u64::try_from(wait_usec).unwrap_or(0)).max(SHORTEST_SLEEP);
    let wake = Instant::now() + wait;
    settle_by.map_or(wake, |settle_by| wake.min(settle_by))
}
