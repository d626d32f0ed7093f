//! The uplink: from the spool to central, over one gRPC stream.
//!
//! Each stream begins with Hello and a snapshot; then follows the spool in its order. Nothing leaves the spool before central
//! has acked it, so a lost connection costs a repetition and nothing else. Retries back off with full jitter; a central that is
//! not there is said once, not once per try.
//!
//! The snapshot is spooled like everything else, as one run of records. What was not acked before stands between
//! `SnapshotBegin` and those records: it is older than they are, and they have the last word.

mod central;

use std::{error::Error as _, sync::Arc, time::Duration};

use kulprit_daemon::{
    BoxError, CancellationToken, Chain, Clock,
    backoff::{Backoff, BackoffPolicy, random_seed},
};
use kulprit_proto::v1::{
    self, AgentMessage, CentralMessage, agent_message::Message, central_message, ingest_client::IngestClient,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};
use tracing::{info, warn};

pub use central::Central;

use central::{CONNECT_WITHIN, ConnectError};

use crate::{
    hello::HelloSource,
    metrics::AgentMetrics,
    probes::{Beat, Suspects},
    spool::{Cursor, Item, Span, Spool, SpoolEnded},
    tracker::run::Ask,
};

/// Central takes 20 s of silence for unknown: four of these may get lost.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// A connection that held this long was well: the next failure is waited for like the first.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// What is committed when the agent is told to end may still be sent for so long.
const LAST_SEND: Duration = Duration::from_millis(500);
/// Messages on their way into the stream; then the reader of the spool waits.
const N_QUEUED: usize = 64;
/// Where a bearer token goes.
const AUTHORIZATION: &str = "authorization";
/// More suspects than a node has VMs are a mistake of central's.
const N_SUSPECTS: usize = 4_096;

/// How the uplink stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkState {
    /// Whether central has accepted our stream.
    pub is_connected: bool,
    /// Why not.
    pub error: Option<String>,
}

/// What the uplink needs.
#[derive(Debug)]
pub struct Uplink {
    /// Central.
    pub central: Central,
    /// Who we are.
    pub hello: HelloSource,
    /// Where the records are.
    pub spool: Spool,
    /// Where the snapshot comes from.
    pub tracker: mpsc::Sender<Ask>,
    /// Where to say how it stands.
    pub state: watch::Sender<UplinkState>,
    /// Where to say whom central suspects.
    pub suspects: Arc<watch::Sender<Arc<Suspects>>>,
    /// Where to hand captures that central asks for; while it is full, what central asks for is left out.
    pub capture_asks: mpsc::Sender<v1::CaptureRequest>,
    /// The captures made. A capture that meets no connection is lost: central asks again for what is still in trouble.
    pub captures: Mutex<mpsc::Receiver<v1::CaptureResult>>,
    /// When its signs of life fall together with what the probes wake up for.
    pub beat: Beat,
    /// What to count.
    pub metrics: AgentMetrics,
    /// The time.
    pub clock: Clock,
}

/// Why a stream ended. None of it ends the agent but the last.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("central ended the connection: {0}")]
    Tls(String),
    #[error("the connection to central broke: {0}; does it speak TLS there, and is it asked to?")]
    Broken(String),
    #[error("central refused the stream ({code:?}): {message}")]
    Refused { code: tonic::Code, message: String },
    #[error("central did not accept the stream within {0:?}")]
    NotAccepted(Duration),
    #[error("central ended the stream")]
    Ended,
    #[error("the tracker has ended")]
    TrackerEnded,
    #[error(transparent)]
    SpoolEnded(#[from] SpoolEnded),
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        // What central itself says has no source.
        let broke = matches!(status.code(), tonic::Code::Unknown | tonic::Code::Internal);
        match (kulprit_tls::error::find(&status), status.source().filter(|_| broke)) {
            (Some(refused), _) => Self::Tls(refused.to_string()),
            (None, Some(source)) => Self::Broken(Chain(source).to_string()),
            (None, None) => Self::Refused { code: status.code(), message: status.message().to_owned() },
        }
    }
}

impl Uplink {
    /// Keeps a stream to central until `stop`; then sends what is committed, as far as central takes it at once.
    ///
    /// # Errors
    /// If spool or tracker have ended.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let mut backoff = Backoff::new(BackoffPolicy::default(), random_seed());
        let mut is_said = false;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                biased;
                ended = self.stream(&mut is_said, &stop) => ended,
                () = async { stop.cancelled().await; sleep(LAST_SEND).await } => return Ok(()),
            };
            let Err(error) = ended else { return Ok(()) };
            let was_connected = self.state.borrow().is_connected;
            if let StreamError::SpoolEnded(_) | StreamError::TrackerEnded = error {
                return if stop.is_cancelled() { Ok(()) } else { Err(error.into()) };
            }
            self.metrics.disconnected();
            self.state.send_replace(UplinkState { is_connected: false, error: Some(Chain(&error).to_string()) });
            if !is_said {
                is_said = true;
                warn!(central = self.central.address, error = %Chain(&error), "no connection to central, keeping records and trying on");
            }
            if was_connected && began.elapsed() >= WELL_AFTER {
                backoff.reset();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// One stream, from connect to its end; `Ok` when told to stop.
    async fn stream(&self, is_said: &mut bool, stop: &CancellationToken) -> Result<(), StreamError> {
        let (channel, token) = self.central.connect().await?;
        let (outgoing, messages) = mpsc::channel(N_QUEUED);
        let outgoing = Outgoing(outgoing);
        let hello = self.hello.now(&self.clock);
        outgoing.send(Message::Hello(hello)).await?;
        let mut client = IngestClient::new(channel);
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(token) = token {
            request.metadata_mut().insert(AUTHORIZATION, token);
        }
        let accepted = timeout(CONNECT_WITHIN, client.report(request)).await;
        let mut incoming = accepted.map_err(|_| StreamError::NotAccepted(CONNECT_WITHIN))??.into_inner();
        self.state.send_replace(UplinkState { is_connected: true, error: None });
        self.metrics.connected();
        *is_said = false;
        info!(central = self.central.address, "connected to central");
        tokio::select! {
            biased;
            ended = self.listen(&mut incoming) => Err(ended),
            ended = self.send_all(&outgoing, stop) => ended,
            ended = self.beat(&outgoing) => Err(ended),
            ended = self.send_captures(&outgoing) => Err(ended),
        }
    }

    async fn listen(&self, incoming: &mut Streaming<CentralMessage>) -> StreamError {
        use central_message::Message;
        loop {
            let message = match incoming.message().await {
                Ok(Some(CentralMessage { message })) => message,
                Ok(None) => return StreamError::Ended,
                Err(status) => return status.into(),
            };
            match message {
                Some(Message::Ack(ack)) => {
                    if let Err(error) = self.spool.ack(ack).await {
                        return error.into();
                    }
                    self.metrics.acked();
                }
                Some(Message::Suspects(v1::Suspects { vm_uids })) => {
                    let named: Suspects = vm_uids.into_iter().take(N_SUSPECTS).collect();
                    self.suspects.send_if_modified(|known| {
                        let is_new = **known != named;
                        if is_new {
                            *known = Arc::new(named);
                        }
                        is_new
                    });
                }
                Some(Message::CaptureRequest(request)) => {
                    if let Err(error) = self.capture_asks.try_send(request) {
                        warn!(error = %Chain(&error), "a capture that central asks for is not made");
                    }
                }
                // A newer central says something that we need not understand.
                None => {}
            }
        }
    }

    async fn send_captures(&self, outgoing: &Outgoing) -> StreamError {
        let mut captures = self.captures.lock().await;
        while let Some(capture) = captures.recv().await {
            if let Err(error) = outgoing.send(Message::CaptureResult(capture)).await {
                return error;
            }
        }
        // The agent ends: the other halves of the stream do so in their own time.
        std::future::pending().await
    }

    async fn beat(&self, outgoing: &Outgoing) -> StreamError {
        let status = self.spool.status();
        loop {
            let n_spooled = status.borrow().n_waiting;
            let beat = v1::Heartbeat { sent: Some(self.clock.now().into()), n_spooled };
            if let Err(error) = outgoing.send(Message::Heartbeat(beat)).await {
                return error;
            }
            self.beat.wait(HEARTBEAT_EVERY).await;
        }
    }

    async fn send_all(&self, outgoing: &Outgoing, stop: &CancellationToken) -> Result<(), StreamError> {
        let mut committed = self.spool.status();
        let mut snapshot = Snapshot::Waiting(self.ask_snapshot().await?);
        outgoing.send(Message::SnapshotBegin(v1::SnapshotBegin {})).await?;
        let mut cursor = Cursor::default();
        loop {
            if committed.borrow_and_update().end == cursor {
                if stop.is_cancelled() {
                    return Ok(());
                }
                snapshot.at_end(outgoing).await?;
                tokio::select! {
                    // Not when central acks: each question wakes the spool's thread.
                    grown = committed.wait_for(|status| status.end != cursor) => drop(grown.map_err(|_| SpoolEnded)?),
                    () = stop.cancelled() => {}
                    () = snapshot.ready() => {}
                }
                continue;
            }
            let (items, next) = self.spool.read(cursor).await?;
            cursor = next;
            for item in items {
                match item {
                    Item::Loss(loss) => outgoing.send(Message::Loss(loss)).await?,
                    Item::Record(record) => {
                        let seq = self.own_seq(&record);
                        outgoing.send(Message::Record(*record)).await?;
                        self.metrics.sent();
                        snapshot.passed(seq, outgoing).await?;
                    }
                }
            }
        }
    }

    async fn ask_snapshot(&self) -> Result<oneshot::Receiver<Span>, StreamError> {
        let (reply, span) = oneshot::channel();
        self.tracker.send(Ask::Snapshot(reply)).await.map_err(|_| StreamError::TrackerEnded)?;
        Ok(span)
    }

    /// The record's number if it is of this start; records kept from before are never in the snapshot.
    fn own_seq(&self, record: &v1::Record) -> Option<u64> {
        self.hello.is_own(&record.boot_id, record.epoch).then_some(record.seq)
    }
}

/// Where the stream is within its snapshot.
#[derive(Debug)]
enum Snapshot {
    /// The tracker has not yet spooled it.
    Waiting(oneshot::Receiver<Span>),
    /// It is in the spool; records up to `last_seq` belong to it.
    Under { last_seq: u64, passed_seq: u64 },
    /// `SnapshotEnd` is sent.
    Done,
}

impl Snapshot {
    /// A record of this start was sent.
    async fn passed(&mut self, seq: Option<u64>, outgoing: &Outgoing) -> Result<(), StreamError> {
        if let Self::Waiting(span) = self
            && let Ok(span) = span.try_recv()
        {
            *self = Self::Under { last_seq: span.last_seq, passed_seq: 0 };
        }
        if let (Self::Under { passed_seq, .. }, Some(seq)) = (&mut *self, seq) {
            *passed_seq = seq;
        }
        self.end_if_over(outgoing, false).await
    }

    /// The spool has nothing more: a snapshot that is spooled has passed.
    async fn at_end(&mut self, outgoing: &Outgoing) -> Result<(), StreamError> {
        self.end_if_over(outgoing, true).await
    }

    async fn end_if_over(&mut self, outgoing: &Outgoing, is_at_end: bool) -> Result<(), StreamError> {
        if let Self::Under { last_seq, passed_seq } = *self
            && (is_at_end || passed_seq >= last_seq)
        {
            *self = Self::Done;
            outgoing.send(Message::SnapshotEnd(v1::SnapshotEnd { seq: last_seq })).await?;
        }
        Ok(())
    }

    /// Resolves when the tracker has spooled the snapshot; never again after that. Cancel-safe.
    async fn ready(&mut self) {
        if let Self::Waiting(span) = self
            && let Ok(span) = span.await
        {
            *self = Self::Under { last_seq: span.last_seq, passed_seq: 0 };
        } else {
            std::future::pending::<()>().await;
        }
    }
}

/// The sending half of the stream; bounded, so that a slow central slows the reader of the spool and nobody else.
#[derive(Debug)]
struct Outgoing(mpsc::Sender<AgentMessage>);

impl Outgoing {
    async fn send(&self, message: Message) -> Result<(), StreamError> {
        self.0.send(AgentMessage { message: Some(message) }).await.map_err(|_| StreamError::Ended)
    }
}

#[cfg(test)]
mod tests;
