//! One task per row of [`ROWS`]: lists, watches, and says what it cannot see.
//!
//! What is known of a row stands in a [`Sink`]. A stream that ends is continued where it ended; what cannot be continued (the API
//! server forgot that version) is listed anew, and what is no longer listed is gone. A server that does not answer makes what was fed
//! unknown, never gone, from the last moment on at which it was seen: a dead connection is noticed within 65 s, because streams end by
//! themselves after a minute, and an answer that takes longer than 5 s is waited for in the dark.
//!
//! Everything is said once: one line when an outage begins and one when it is over, whatever is tried meanwhile.

mod outage;
#[cfg(test)]
mod tests;
mod trouble;

use std::{collections::HashSet, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use kube::Client;
use kulprit_daemon::{
    BoxError, CancellationToken,
    backoff::{Backoff, BackoffPolicy, random_seed, stable_seed},
};
use serde_json::{Value, value::RawValue};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt as _;
use tracing::{debug, warn};

use self::{
    outage::Outages,
    trouble::{Said, Trouble},
};
use super::{
    kinds::{ROWS, Row},
    object::{Line, Object, Page, version_of},
    requests::{Answer, Failure, Requests},
};

/// Streams end by themselves after 55 to 60 s, each row's at another moment.
const STREAM_SECS: u32 = 60;
const STREAM_SPREAD_SECS: u32 = 6;
/// Beyond its own end a stream has so long to end before its connection counts as dead.
const END_MARGIN: Duration = Duration::from_secs(5);
/// Rows begin one after the other, not all at once.
const START_SPREAD: Duration = Duration::from_millis(50);
/// Rows that are listed at the same time: what bounds memory and the API server's work.
const LISTS_AT_ONCE: usize = 4;
/// A stream that did not end so long stands.
const WELL_AFTER: Duration = Duration::from_secs(2);
/// Who waits longer for an answer does not see what happens meanwhile.
const SLOW: Duration = Duration::from_secs(5);

/// What the watches feed. Calls of one row come one after the other, those of different rows at the same time. None may block.
pub trait Sink: Send + Sync + 'static {
    /// All objects follow, and `end_list`; also in the middle of life. Another `begin_list` may come instead of the end.
    fn begin_list(&self, row: &'static Row);

    /// An object is as given; it has a name, `kind` and `apiVersion`. Answers whether it is kept: what is not is not deleted later.
    fn apply(&self, row: &'static Row, object: Value) -> bool;

    /// An object is gone. It may be one that is not known.
    fn delete(&self, row: &'static Row, namespace: &str, name: &str);

    /// All objects of the row are known; `delete` was called for each that was not listed again.
    fn end_list(&self, row: &'static Row);

    /// After `lost` or `refused`, without a list: nothing was missed, all that was fed is so.
    fn synced(&self, row: &'static Row);

    /// What was fed is no longer known to be so, since `unseen_for` ago. Comes again when the reason changes.
    fn lost(&self, row: &'static Row, unseen_for: Duration, why: &str);

    /// As `lost`: the API server does not allow it, until somebody changes the rights.
    fn refused(&self, row: &'static Row, why: &str);

    /// This kind does not exist here, so no object of it does; `delete` was called for each that was known.
    fn not_served(&self, row: &'static Row);

    /// The API server's clock showed this second, Unix time in microseconds, at some moment of the last `within`.
    fn told_time(&self, date_usec: i64, within: Duration);
}

/// Watches all rows until `stop`.
///
/// # Errors
/// If a watch ends by itself, which only a panic of the sink can bring about.
pub async fn watch(client: Client, sink: Arc<impl Sink>, stop: CancellationToken) -> Result<(), BoxError> {
    watch_rows(&ROWS, client, sink, stop).await
}

async fn watch_rows(
    rows: &'static [Row],
    client: Client,
    sink: Arc<impl Sink>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let shared = Shared { lists: Semaphore::new(LISTS_AT_ONCE), outages: Outages::default(), recovered: Notify::new() };
    let shared = Arc::new(shared);
    let seed = random_seed();
    let mut tasks = JoinSet::new();
    let mut start_after = Duration::ZERO;
    for row in rows {
        let watch = Watch::new(row, client.clone(), Arc::clone(&sink), Arc::clone(&shared), seed);
        tasks.spawn(watch.run(start_after));
        start_after += START_SPREAD;
    }
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        Some(ended) = tasks.join_next() => match ended {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        },
    }
}

/// What the rows share.
struct Shared {
    lists: Semaphore,
    outages: Outages,
    /// A row that was in an outage is well.
    recovered: Notify,
}

type Key = (Box<str>, Box<str>);

/// One row's task.
struct Watch<S> {
    row: &'static Row,
    requests: Arc<Requests>,
    sink: Arc<S>,
    shared: Arc<Shared>,
    stream_limit: Duration,
    backoff: Backoff,
    /// When the last stream began, until something fails.
    began: Option<Instant>,
    /// When the last list ended.
    listed: Option<Instant>,
    /// When all changes were known last.
    seen: Instant,
    /// Where the changes go on; `None`: list first.
    version: Option<String>,
    /// Objects that the sink keeps.
    known: HashSet<Key>,
    /// Those of them that the list has not told yet.
    unlisted: HashSet<Key>,
    /// Whether it was in sync since the kind is served.
    was_listed: bool,
    /// Since when this code is the answer.
    denied: Option<(u16, Instant)>,
    told: Option<Trouble>,
    said: Option<Said>,
    has_said_unreadable: bool,
}

impl<S: Sink> Watch<S> {
    fn new(row: &'static Row, client: Client, sink: Arc<S>, shared: Arc<Shared>, seed: u64) -> Self {
        let own_seed = stable_seed(&[row.name]);
        let spread = u32::try_from(own_seed % u64::from(STREAM_SPREAD_SECS)).unwrap_or(0);
        let stream_secs = STREAM_SECS - spread;
        Self {
            row,
            requests: Arc::new(Requests::new(client, row, stream_secs)),
            sink,
            shared,
            stream_limit: Duration::from_secs(u64::from(stream_secs)) + END_MARGIN,
            backoff: Backoff::new(BackoffPolicy::default(), seed ^ own_seed),
            began: None,
            listed: None,
            seen: Instant::now(),
            version: None,
            known: HashSet::new(),
            unlisted: HashSet::new(),
            was_listed: false,
            denied: None,
            told: None,
            said: None,
            has_said_unreadable: false,
        }
    }

    async fn run(mut self, start_after: Duration) -> Infallible {
        sleep(start_after).await;
        loop {
            let failure = match self.version.clone() {
                None => self.list().await.err(),
                Some(version) => self.follow(&version).await.err(),
            };
            if let Some(failure) = failure {
                let wanted = failure.wanted_pause();
                let delay = self.judge(failure);
                sleep(wanted).await;
                self.wait(delay).await;
            }
        }
    }

    /// Waits, in an outage until another row is over it at the latest.
    async fn wait(&mut self, delay: Duration) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.recovered.notified(), if self.is_lost() => {
                self.backoff.reset();
                sleep(self.backoff.next_delay()).await;
            }
            () = sleep(delay) => {}
        }
    }

    /// Waits for an answer, and says it when that takes long. Answers whether it came in time.
    async fn answer<T>(
        &mut self,
        answer: impl Future<Output = Result<Answer<T>, Failure>>,
    ) -> Result<(T, bool), Failure> {
        let mut answer = pin!(answer);
        let in_time = timeout(SLOW, &mut answer).await;
        let is_prompt = in_time.is_ok();
        let Answer { what, date_usec, asked } = match in_time {
            Ok(answer) => answer?,
            Err(_) => {
                self.is_slow();
                answer.await?
            }
        };
        if let Some(date_usec) = date_usec {
            self.sink.told_time(date_usec, asked.elapsed());
        }
        Ok((what, is_prompt))
    }

    /// Lists everything, page by page.
    async fn list(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let _permit = shared.lists.acquire().await.expect("nobody closes it");
        let mut token = None;
        let version = loop {
            let is_first = token.is_none();
            let requests = Arc::clone(&self.requests);
            let (text, _) = self.answer(requests.page(token)).await?;
            let page: Page<'_> = serde_json::from_str(&text).map_err(Failure::garbled)?;
            if is_first {
                self.sink.begin_list(self.row);
                self.unlisted.extend(self.known.drain());
            }
            for item in page.items.iter().flatten() {
                self.apply(item);
                // A page takes a while, and other tasks share the thread.
                tokio::task::consume_budget().await;
            }
            self.is_listing();
            token = page.metadata.token.filter(|token| !token.is_empty());
            if token.is_none() {
                break page.metadata.version.filter(|version| !version.is_empty());
            }
        };
        let version = version.ok_or_else(|| Failure::garbled("a list without a resourceVersion"))?;
        for (namespace, name) in self.unlisted.drain() {
            self.sink.delete(self.row, &namespace, &name);
        }
        self.sink.end_list(self.row);
        self.version = Some(version);
        self.was_listed = true;
        self.listed = Some(Instant::now());
        self.seen = Instant::now();
        self.told = None;
        Ok(())
    }

    /// Follows the changes until the stream ends.
    async fn follow(&mut self, version: &str) -> Result<(), Failure> {
        let requests = Arc::clone(&self.requests);
        let (mut lines, is_prompt) = self.answer(requests.changes(version)).await?;
        let began = Instant::now();
        self.began = Some(began);
        let mut is_well = false;
        loop {
            let limit = if is_well { self.stream_limit } else { WELL_AFTER.saturating_sub(began.elapsed()) };
            let next = timeout(limit, lines.next()).await;
            let is_only_well = !is_well && next.is_err();
            if !is_well && began.elapsed() >= WELL_AFTER {
                is_well = true;
                self.well(is_prompt);
            }
            // Whatever came, an end too: until then all was told. Where nothing comes at all, nobody knows since when.
            if is_well && (next.is_ok() || is_only_well) {
                self.seen = Instant::now();
            }
            match next {
                Ok(Some(Ok(line))) => self.take(&line)?,
                Ok(ended) => {
                    let error = ended.and_then(Result::err).map(tracing::field::display);
                    debug!(row = self.row.name, error, "the stream of changes has ended");
                    return if is_well { Ok(()) } else { Err(Failure::Cut) };
                }
                Err(_) if is_only_well => {}
                Err(_) => {
                    let secs = self.stream_limit.as_secs();
                    return Err(Failure::NoAnswer(format!(
                        "nothing came for {secs} s, not even the end of the stream"
                    )));
                }
            }
        }
    }

    /// One line of a stream.
    fn take(&mut self, line: &str) -> Result<(), Failure> {
        let Line { what, object } = serde_json::from_str(line).map_err(Failure::garbled)?;
        let version = match &*what {
            "ADDED" | "MODIFIED" => self.apply(object),
            "DELETED" => self.delete(object),
            "BOOKMARK" => version_of(object),
            "ERROR" => {
                let status = serde_json::from_str(object.get()).map_err(Failure::garbled)?;
                return Err(Failure::of_stream(&status));
            }
            other => return Err(Failure::garbled(format!("a change of the unknown type {other:?}"))),
        };
        if version.is_some() {
            self.version = version;
        }
        Ok(())
    }

    /// Returns its `resourceVersion`.
    fn apply(&mut self, text: &RawValue) -> Option<String> {
        let object = self.read(text)?;
        let key: Key = (object.namespace.into(), object.name.into());
        self.unlisted.remove(&key);
        if self.sink.apply(self.row, object.value) {
            self.known.insert(key);
        } else {
            self.known.remove(&key);
        }
        object.version
    }

    /// Returns its last `resourceVersion`.
    fn delete(&mut self, text: &RawValue) -> Option<String> {
        let object = self.read(text)?;
        self.sink.delete(self.row, &object.namespace, &object.name);
        self.known.remove(&(object.namespace.into(), object.name.into()));
        object.version
    }

    fn read(&mut self, text: &RawValue) -> Option<Object> {
        let object = Object::read(text, self.row);
        if object.as_ref().is_none_or(|object| object.is_name_only) && !self.has_said_unreadable {
            self.has_said_unreadable = true;
            let (namespace, name) = object.as_ref().map_or(("", ""), |object| (&object.namespace, &object.name));
            warn!(
                row = self.row.name,
                namespace, name, "an object cannot be read; of others like it nothing more is said"
            );
        }
        object
    }
}
