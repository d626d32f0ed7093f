//! When those who write to Kubernetes look for what is due: as time passes, on news, and when the Lease comes; and what of it ends with the Lease.

use std::time::Duration;

use kulprit_daemon::{BoxError, CancellationToken};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::kubernetes::lease::Leading;

/// Somebody who writes while this central holds the Lease.
pub(super) trait Rounds {
    /// How often it looks without news.
    const EVERY: Duration;

    /// Resolves when there is news; never once nobody makes any. Cancel-safe.
    fn news(&mut self) -> impl Future<Output = ()> + Send;

    /// Decides what is due and writes it. Dropped when the Lease is lost, in the middle of a write too.
    fn look(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// A look is over, or was dropped; without the Lease another may write now, and what is remembered of it is not all.
    fn looked(&mut self, is_leading: bool);
}

/// Resolves when `told` has something new to say; never once nobody says anything any more. Cancel-safe.
pub(super) async fn news_of<T>(told: &mut watch::Receiver<T>) {
    if told.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Looks again and again until `stop`.
///
/// # Errors
/// If a look fails.
pub(super) async fn run<R: Rounds>(mut who: R, mut leading: Leading, stop: CancellationToken) -> Result<(), BoxError> {
    let mut ticks = interval(R::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
            () = leading.changed() => {}
            () = who.news() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = leading.lost() => {}
            done = who.look() => done?,
        }
        who.looked(leading.holds());
    }
}
