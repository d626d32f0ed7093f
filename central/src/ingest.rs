//! Agents report here: `Ingest.Report`.
//!
//! One live stream per node: a newer one replaces the older, since an agent that reconnects knows that its old connection
//! is dead long before we do. Who calls was asked by [`crate::access`]; [`hello`] checks what it says first, [`batch`] decides what each message does,
//! [`session`] moves messages and acks, [`share`] is what one node may take.

pub mod batch;
pub mod hello;
mod session;
pub mod share;

use std::{pin::Pin, sync::Arc};

use kulprit_daemon::CancellationToken;
use kulprit_proto::v1::{self, ingest_server::Ingest};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use self::share::{Allowances, Shares};
use crate::{
    access::{Access, Caller},
    live::Live,
    metrics::{CentralMetrics, KindLabel, OutcomeLabel, ReasonLabel},
    store::StoreWriter,
};

/// Largest message taken from an agent, bytes. A record with its evidence is below 20 KiB.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Acks that may wait for an agent to read them; later ones replace them.
const ACKS_WAITING: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct IngestService {
    context: Arc<Context>,
}

/// What every stream needs.
#[derive(Debug)]
struct Context {
    live: Live,
    store: StoreWriter,
    metrics: CentralMetrics,
    access: Access,
    /// What an empty cluster in Hello means.
    own_cluster: String,
    shares: Shares,
    stop: CancellationToken,
    sessions: TaskTracker,
}

impl IngestService {
    /// Takes reports into `live` and `store` until `stop`; an empty cluster in Hello means `own_cluster`, and each node may take as much as
    /// `allowances` say.
    #[must_use]
    pub fn new(
        live: Live,
        store: StoreWriter,
        metrics: CentralMetrics,
        access: Access,
        own_cluster: String,
        allowances: Allowances,
        stop: CancellationToken,
    ) -> Self {
        let (sessions, shares) = (TaskTracker::new(), Shares::new(allowances));
        Self { context: Arc::new(Context { live, store, metrics, access, own_cluster, shares, stop, sessions }) }
    }

    /// Resolves when every stream has ended after `stop`.
    pub async fn ended(&self) {
        self.context.sessions.close();
        self.context.sessions.wait().await;
    }
}

#[tonic::async_trait]
impl Ingest for IngestService {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<v1::CentralMessage, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (to_agent, answers) = mpsc::channel(ACKS_WAITING);
        let context = Arc::clone(&self.context);
        // The door (`access::guard`) says who it is.
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("nobody has asked who calls"))?;
        self.context.sessions.spawn(session::run(context, caller, request.into_inner(), to_agent));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn count_message(metrics: &CentralMetrics, kind: &'static str) {
    metrics.messages.get_or_create(&KindLabel::new(kind)).inc();
}

fn count_record(metrics: &CentralMetrics, outcome: &'static str) {
    metrics.records.get_or_create(&OutcomeLabel::new(outcome)).inc();
}

fn count_end(metrics: &CentralMetrics, reason: &'static str) {
    metrics.stream_ends.get_or_create(&ReasonLabel::new(reason)).inc();
}
