//! One stream from its Hello to its end: messages in, acks out.
//!
//! Records act in memory at once; the write follows when the store has room. If it has none for [`STORE_PATIENCE`] (a disk
//! that hangs), the stream goes on without it: verdicts stay right, nothing is acked. Once the store is back the stream
//! ends, and the agent sends again what was not acked.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use kulprit_proto::v1::{self, agent_message::Message, central_message};
use prost::Message as _;
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};
use ulid::Ulid;

use super::{
    Context,
    batch::{StreamMemory, cost, take_in},
    count_end, count_message,
    hello::{self, HelloError},
};
use crate::{
    access::{Caller, Service},
    live::{NotConnected, Session},
    state::Epoch,
    store::{CaptureWrite, RecordsWrite, StoreWriter, Write, writer::MAX_WAITING},
    wishes::{AskedBook, WantedCapture, Wishes},
};

/// How long a caller may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long the reason of an end may wait for an agent to read what was sent before.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// How long a stream waits for room in the store before it goes on without; far below the silence limit.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// Most messages taken in at once: bounds how long the lock is held.
const BATCH_MAX: usize = 512;
/// And of what cost: about 1 MiB.
const BATCH_COST_MAX: u64 = 1_024;
/// What a Hello takes of its node's share: it is written, and makes all the node said wait for a snapshot.
const HELLO_COST: u64 = 100;
/// What may wait until the agent reads it. Suspects replace each other; captures beyond stay with the wishes of the node.
const WISHES_WAITING: usize = 16;
/// A capture is 256 KiB at most, and what frames it.
const MAX_CAPTURE_BYTES: usize = 320 * 1024;

type Answers = Sender<Result<v1::CentralMessage, Status>>;

/// Why a stream ended.
enum End {
    /// The agent closed it.
    Agent,
    /// It broke.
    Broken(Status),
    /// Told to the agent, with the reason as counted.
    Told(&'static str, Status),
}

/// Serves one stream to its end.
pub(super) async fn run(
    context: Arc<Context>,
    caller: Caller,
    mut inbound: Streaming<v1::AgentMessage>,
    answers: Answers,
) {
    let end = match greet(&context, &mut inbound).await {
        Ok(hello) => {
            context.metrics.streams.inc();
            let end = Box::pin(serve(&context, &caller, inbound, &answers, hello)).await;
            context.metrics.streams.dec();
            end
        }
        Err(end) => end,
    };
    match end {
        End::Agent => count_end(&context.metrics, "agent"),
        End::Broken(status) => {
            count_end(&context.metrics, "broken");
            debug!(code = ?status.code(), message = status.message(), "a stream broke");
        }
        End::Told(reason, status) => {
            count_end(&context.metrics, reason);
            // Acks may fill the channel, and the reason is worth a wait. If the agent is gone there is nobody to tell, and one that
            // reads nothing is not waited for.
            let _ = timeout(TOLD_WITHIN, answers.send(Err(status))).await;
        }
    }
}

async fn greet(context: &Context, inbound: &mut Streaming<v1::AgentMessage>) -> Result<v1::Hello, End> {
    let first = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(stopping()),
        first = timeout(HELLO_WITHIN, inbound.message()) => first,
    };
    let first = first.map_err(|_| End::Told("late_hello", Status::deadline_exceeded("hello: none within 10 s")))?;
    let Some(first) = first.map_err(broken)? else { return Err(End::Agent) };
    match first.message {
        Some(Message::Hello(hello)) => {
            count_message(&context.metrics, "hello");
            Ok(hello)
        }
        _ => Err(refused(&HelloError::NotFirst)),
    }
}

async fn serve(
    context: &Context,
    caller: &Caller,
    mut inbound: Streaming<v1::AgentMessage>,
    answers: &Answers,
    hello: v1::Hello,
) -> End {
    let stream = match hello::check(&hello, &context.own_cluster) {
        Ok(stream) => stream,
        Err(error) => {
            warn!(error = %error, "refused an agent");
            return refused(&error);
        }
    };
    if let Err(refusal) = context.access.check_node(caller, &stream.node) {
        return End::Told(refusal.word(), refusal.status());
    }
    let (node, version, epoch) = (stream.node.clone(), hello.agent_version.clone(), hello.epoch);
    let (session, greeting) = match context.live.connect(stream, hello, &context.store) {
        Ok(connected) => connected,
        Err(error) => {
            warn!(node, error = %error, "refused an agent");
            return not_connected(&error);
        }
    };
    info!(node, agent_version = version, epoch, "an agent has connected");
    let mut link = Link {
        context,
        session,
        memory: StreamMemory::default(),
        is_behind: false,
        told: BTreeMap::new(),
        acks: BTreeMap::new(),
        told_suspects: None,
        wishes: VecDeque::new(),
        resting: None,
        is_resting_said: false,
        is_unkept_said: false,
    };
    link.pay(HELLO_COST);
    if let Some(end) = link.store(greeting).await {
        return end;
    }
    let mut batch = Batch::default();
    let mut until_refused = Box::pin(context.access.until_refused(Service::Ingest, caller));
    link.note_durable();
    link.note_wishes();
    loop {
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return stopping(),
            () = link.session.replaced.cancelled() => return link.replaced(),
            refusal = &mut until_refused => return End::Told("credential", refusal.status()),
            slot = answers.reserve(), if link.has_to_tell() => {
                // The agent has hung up.
                let Ok(slot) = slot else { return End::Agent };
                if let Some(message) = link.next_to_tell() {
                    slot.send(Ok(v1::CentralMessage { message: Some(message) }));
                }
            }
            () = link.session.durable.notified() => link.note_durable(),
            () = link.session.wished.notified() => link.note_wishes(),
            () = room(&context.store), if link.is_behind => {
                return End::Told("behind", Status::unavailable("the store was behind; send again what was not acked"));
            }
            () = rested(link.resting) => link.resting = None,
            more = next_batch(&mut inbound, &mut batch), if link.resting.is_none() => {
                let Batch { messages, cost } = std::mem::take(&mut batch);
                link.pay(cost);
                if let Some(end) = link.take_in(messages).await {
                    return end;
                }
                // Acks of what was sent again come from here: nothing becomes durable for it.
                link.note_durable();
                match more {
                    Ok(true) => {}
                    Ok(false) => return End::Agent,
                    Err(status) => return broken(status),
                }
            }
        }
    }
}

/// A stream that has said Hello.
struct Link<'a> {
    context: &'a Context,
    session: Session,
    memory: StreamMemory,
    /// Whether something was not queued for the store: no acks until the agent sends it again, on its next stream.
    is_behind: bool,
    /// What the agent was told to be durable, or is about to be.
    told: BTreeMap<Epoch, u64>,
    /// What it is about to be told.
    acks: BTreeMap<Epoch, u64>,
    /// The suspects that it knows of, once it was told of any.
    told_suspects: Option<BTreeSet<String>>,
    /// What it is about to be asked for.
    wishes: VecDeque<central_message::Message>,
    /// Until when nothing is read, since the node's share is used up.
    resting: Option<Instant>,
    is_resting_said: bool,
    is_unkept_said: bool,
}

impl Link<'_> {
    /// Takes from the node's share. Acks and wishes go out while it rests, and what it said holds.
    fn pay(&mut self, cost: u64) {
        let node = &self.session.stream;
        self.resting = self.context.shares.take(node, cost, Instant::now());
        if self.resting.is_some() {
            self.context.metrics.rests.inc();
            if !std::mem::replace(&mut self.is_resting_said, true) {
                warn!(node = %node.node, "the node says more than its share and is read more slowly; its agent keeps the rest");
            }
        }
    }

    /// Leaves out of the history what is beyond the node's share.
    fn keep_share(&mut self, write: &mut RecordsWrite) {
        let n_kept = self.context.shares.keep(&write.stream, write.history.len(), Instant::now());
        let n_dropped = write.history.len() - n_kept;
        if n_dropped > 0 {
            write.history.truncate(n_kept);
            self.context.metrics.unkept_records.inc_by(u64::try_from(n_dropped).unwrap_or(u64::MAX));
            if !std::mem::replace(&mut self.is_unkept_said, true) {
                warn!(node = %write.stream.node, "the node has used up its share of the history; what it says acts and is not kept");
            }
        }
    }

    /// Lets messages act, then hands them to the store.
    async fn take_in(&mut self, messages: Vec<v1::AgentMessage>) -> Option<End> {
        if messages.is_empty() {
            return None;
        }
        let messages = self.keep_captures(messages);
        self.forget_told_of_repeats(&messages);
        let (context, memory) = (self.context, &mut self.memory);
        let now = context.live.clock().now();
        let limits = context.live.look(|state| state.limits());
        let mut write = RecordsWrite::new(self.session.stream.clone(), now.wall_usec);
        let changed = self
            .session
            .change(&context.store, |node| take_in(node, messages, now, &limits, &context.metrics, memory, &mut write));
        if changed.is_none() {
            return Some(self.replaced());
        }
        self.keep_share(&mut write);
        self.store(write).await
    }

    async fn store(&mut self, write: RecordsWrite) -> Option<End> {
        if write.is_empty() || self.is_behind {
            return None;
        }
        let permits = self.context.store.permits();
        let permit = tokio::select! {
            biased;
            () = self.session.replaced.cancelled() => return Some(self.replaced()),
            permit = timeout(STORE_PATIENCE, permits.acquire_many_owned(StoreWriter::n_permits(write.weight()))) => permit,
        };
        if let Ok(Ok(permit)) = permit {
            return if self.session.queue(&self.context.store, write, permit) { None } else { Some(self.replaced()) };
        }
        self.is_behind = true;
        warn!(node = %self.session.stream.node, "the store has no room; the node's records act and are not acked");
        None
    }

    /// Hands captures to the store and gives back the rest. They change nothing of the node.
    fn keep_captures(&self, messages: Vec<v1::AgentMessage>) -> Vec<v1::AgentMessage> {
        let mut rest = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(Message::CaptureResult(result)) = message.message else {
                rest.push(message);
                continue;
            };
            count_message(&self.context.metrics, "capture");
            let node = &self.session.stream.node;
            let number = Ulid::from_string(&result.incident_id);
            let (Ok(number), true) = (number, result.encoded_len() <= MAX_CAPTURE_BYTES) else {
                warn!(%node, bytes = result.encoded_len(), "dropped a capture that is too large or of no incident");
                continue;
            };
            if !self.session.was_asked(number, &result.vm_uid) {
                self.context.metrics.unasked_captures.inc();
                continue;
            }
            if AskedBook::is_asked(number) {
                self.session.answer_capture(number, result);
                continue;
            }
            let write = CaptureWrite { node: node.clone(), result, is_early: false };
            if !self.context.store.try_queue(Write::Capture(write)) {
                warn!(%node, "the store has no room for a capture; it is lost");
            }
        }
        rest
    }

    /// A record that is sent again was not acked as far as the agent knows: it is told once more.
    fn forget_told_of_repeats(&mut self, messages: &[v1::AgentMessage]) {
        for message in messages {
            let Some(Message::Record(record)) = &message.message else { continue };
            let is_repeat = |epoch: &Epoch, told: u64| {
                epoch.boot_id == record.boot_id && epoch.epoch == record.epoch && record.seq <= told
            };
            self.told.retain(|epoch, told| !is_repeat(epoch, *told));
        }
    }

    /// Lines up acks of what is durable and was not told yet; a later one replaces one that still waits.
    fn note_durable(&mut self) {
        for (epoch, seq) in self.session.durable_marks() {
            // A new stream is told everything once: the agent may still keep records of earlier starts.
            if self.told.get(&epoch).is_none_or(|told| *told < seq) {
                self.told.insert(epoch.clone(), seq);
                self.acks.insert(epoch, seq);
            }
        }
    }

    /// Lines up what else is wanted of the node.
    fn note_wishes(&mut self) {
        let n_captures = WISHES_WAITING.saturating_sub(self.wishes.len() + 1);
        let Wishes { suspects, captures, .. } = self.session.take_wishes(n_captures);
        if self.told_suspects.as_ref().map_or(!suspects.is_empty(), |told| *told != suspects) {
            let vm_uids = suspects.iter().cloned().collect();
            self.wishes.retain(|wish| !matches!(wish, central_message::Message::Suspects(_)));
            self.wishes.push_back(central_message::Message::Suspects(v1::Suspects { vm_uids }));
            self.told_suspects = Some(suspects);
        }
        self.wishes.extend(captures.into_iter().map(|wanted| {
            let WantedCapture { incident, vm_uid } = wanted;
            central_message::Message::CaptureRequest(v1::CaptureRequest { incident_id: incident.to_string(), vm_uid })
        }));
    }

    fn has_to_tell(&self) -> bool {
        !self.acks.is_empty() || !self.wishes.is_empty()
    }

    /// Acks first: spools wait for them.
    fn next_to_tell(&mut self) -> Option<central_message::Message> {
        match self.acks.pop_first() {
            Some((Epoch { boot_id, epoch }, seq)) => {
                Some(central_message::Message::Ack(v1::Ack { boot_id, epoch, seq }))
            }
            None => {
                let wish = self.wishes.pop_front();
                if self.wishes.is_empty() {
                    self.note_wishes();
                }
                wish
            }
        }
    }

    fn replaced(&self) -> End {
        let node = &self.session.stream.node;
        info!(%node, "a newer stream of the node replaces this one");
        End::Told(
            "replaced",
            Status::new(Code::Aborted, format!("a newer stream of node {node} has replaced this one")),
        )
    }
}

/// Resolves when half of the store's room is free again.
async fn room(store: &StoreWriter) {
    let half = u32::try_from(MAX_WAITING / 2).unwrap_or(u32::MAX);
    // Given back at once: this only waits.
    let _ = store.permits().acquire_many_owned(half).await;
}

/// Resolves at `until`; never without one.
async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn refused(error: &HelloError) -> End {
    End::Told(error.reason(), Status::invalid_argument(error.to_string()))
}

fn not_connected(error: &NotConnected) -> End {
    let code = match error {
        NotConnected::OldEpoch { .. } => Code::FailedPrecondition,
        NotConnected::TooManyNodes { .. } => Code::ResourceExhausted,
    };
    End::Told(error.reason(), Status::new(code, error.to_string()))
}

/// A stream that broke; a message that is too large is told to whoever sent it.
fn broken(status: Status) -> End {
    if status.code() != Code::OutOfRange {
        return End::Broken(status);
    }
    let text = "a message is larger than 1 MiB; what an agent says never is: look at what speaks for it";
    End::Told("oversize", Status::out_of_range(text))
}

fn stopping() -> End {
    End::Told("stopping", Status::unavailable("central is ending"))
}

/// What has arrived.
#[derive(Default)]
struct Batch {
    messages: Vec<v1::AgentMessage>,
    cost: u64,
}

/// Adds what has arrived to `batch`, at least one message; false at the end of the stream. Cancel-safe: what was taken
/// from the stream is in `batch`.
async fn next_batch(inbound: &mut Streaming<v1::AgentMessage>, batch: &mut Batch) -> Result<bool, Status> {
    poll_fn(|cx: &mut TaskContext<'_>| {
        loop {
            match Pin::new(&mut *inbound).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    batch.cost += cost(&message);
                    batch.messages.push(message);
                    if batch.messages.len() >= BATCH_MAX || batch.cost >= BATCH_COST_MAX {
                        return Poll::Ready(Ok(true));
                    }
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(status)),
                Poll::Ready(None) => return Poll::Ready(Ok(false)),
                Poll::Pending if batch.messages.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(true)),
            }
        }
    })
    .await
}
