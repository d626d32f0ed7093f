//! People and programs ask here: the `Query` service.
//!
//! Every answer comes from memory, decided at the moment of asking, so that `kulprit why` knows what arrived a millisecond
//! ago; only the history is read from disk. What is wrong with a question is said with the field's name. [`answer`] and
//! [`incidents`] are pure, [`watch`] tells of incidents as they change, [`page`] makes page tokens, [`record`] gives a case away, [`support`] what one has to see of central,
//! [`wire`] turns attributions and views into messages.

pub mod answer;
pub mod can_migrate;
mod capture;
pub mod incidents;
mod named;
pub mod page;
mod record;
mod support;
mod watch;
mod wire;

use std::sync::Arc;

use kulprit_daemon::{CancellationToken, Chain, http::Pages, metrics::ClosedName};
use kulprit_diagnosis::Snapshot;
use kulprit_proto::v1::{self, query_server::Query};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tracing::warn;

use crate::{
    engine::Decided,
    incident::Incidents,
    live::Live,
    metrics::{CentralMetrics, QueryLabels},
    store::{HistoryReader, StoreError},
};

/// What answers are made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What is known now.
    pub live: Live,
    /// Incidents.
    pub decided: Decided,
    /// The history.
    pub history: HistoryReader,
    /// What to count.
    pub metrics: CentralMetrics,
}

/// The service.
#[derive(Clone, Debug)]
pub struct QueryService {
    sources: Arc<Sources>,
    /// Places for clients that watch.
    seats: Arc<Semaphore>,
    /// Captures that may be asked for now.
    captures: Arc<Semaphore>,
    /// What this process says of itself.
    pages: Option<Pages>,
    stop: CancellationToken,
}

/// Names and keys in questions are no longer than this, bytes.
const MAX_TEXT_BYTES: usize = 1_024;

impl QueryService {
    /// Answers from `sources`; what goes on for longer than one answer ends with `stop`.
    #[must_use]
    pub fn new(sources: Sources, stop: CancellationToken) -> Self {
        let seats = Arc::new(Semaphore::new(watch::WATCHERS_MAX));
        let captures = Arc::new(Semaphore::new(capture::CAPTURES_MAX));
        Self { sources: Arc::new(sources), seats, captures, pages: None, stop }
    }

    /// Shows in a support bundle what the process says of itself.
    #[must_use]
    pub fn with_pages(self, pages: Pages) -> Self {
        Self { pages: Some(pages), ..self }
    }

    fn answer<T>(&self, method: &'static str, answer: Result<T, Status>) -> Result<Response<T>, Status> {
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let labels = QueryLabels { method: ClosedName(method), code: ClosedName(code_name(code)) };
        self.sources.metrics.queries.get_or_create(&labels).inc();
        answer.map(Response::new)
    }

    /// Decides on a thread where it may take its time, on a snapshot of its own.
    async fn decide<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Snapshot, &Incidents) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let sources = Arc::clone(&self.sources);
        spawn_blocking(move || decide(&mut sources.live.snapshot_at_once(), &sources.decided.incidents()))
            .await
            .unwrap_or_else(|_| Err(Status::internal("the answer could not be decided; the log of central says why")))
    }

    /// Begins to tell a client of incidents.
    fn watch(&self, request: v1::WatchIncidentsRequest) -> Result<ReceiverStream<watch::Answer>, Status> {
        let v1::WatchIncidentsRequest { include_closed, namespace, node, cause } = request;
        let filter = incidents::IncidentFilter::new(include_closed, namespace, node, cause)?;
        let permit = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let most = watch::WATCHERS_MAX;
            Status::resource_exhausted(format!(
                "{most} clients watch already, more are not served; list incidents instead"
            ))
        })?;
        let seat = watch::Seat::new(permit, self.sources.metrics.watchers.clone());
        // One: what waits longer is told as it is by then.
        let (to_client, answers) = mpsc::channel(1);
        let (book, clock) = (self.sources.decided.subscribe(), self.sources.live.clock().clone());
        // Its end is the end of the client's stream.
        tokio::spawn(watch::run(book, filter, clock, self.stop.clone(), to_client, seat));
        Ok(ReceiverStream::new(answers))
    }

    /// Asks the nodes of a VM for captures, and waits for them.
    async fn ask_captures(&self, request: Request<v1::CaptureVmRequest>) -> Result<v1::CaptureVmResponse, Status> {
        let (began, within) = (Instant::now(), capture::within(request.metadata()));
        let v1::CaptureVmRequest { vm, node } = request.into_inner();
        check_texts(&[("vm", &vm), ("node", &node)]).and_then(|()| check_given("vm", &vm))?;
        let _permit = self.captures.try_acquire().map_err(|_| {
            let most = capture::CAPTURES_MAX;
            Status::resource_exhausted(format!("{most} captures are waited for already; ask again in some seconds"))
        })?;
        let wanted = self.decide(move |snapshot, _| capture::wanted(snapshot, &vm, &node)).await?;
        capture::capture(&self.sources.live, wanted, began, within, &self.stop).await
    }

    async fn findings(&self, request: v1::ListFindingsRequest) -> Result<v1::ListFindingsResponse, Status> {
        let question = answer::FindingsQuestion::new(request)?;
        let Some(query) = question.history() else {
            return self.decide(move |snapshot, _| answer::current_findings(snapshot, &question)).await;
        };
        let entries = self.sources.history.read(query).await.map_err(|error| {
            warn!(error = %Chain(&error), "a question about history could not be answered");
            match error {
                StoreError::NoAnswer => {
                    Status::unavailable("the store does not answer; what holds now can still be asked")
                }
                _ => Status::internal("the history could not be read; the log of central says why"),
            }
        })?;
        Ok(answer::history_findings(&self.sources.live.snapshot_at_once(), &question, entries))
    }
}

#[tonic::async_trait]
impl Query for QueryService {
    async fn explain_vm(
        &self,
        request: Request<v1::ExplainVmRequest>,
    ) -> Result<Response<v1::ExplainVmResponse>, Status> {
        let v1::ExplainVmRequest { vm, node } = request.into_inner();
        let answer = match check_texts(&[("vm", &vm), ("node", &node)]).and_then(|()| check_given("vm", &vm)) {
            Ok(()) => self.decide(move |snapshot, incidents| answer::explain_vm(snapshot, incidents, &vm, &node)).await,
            Err(status) => Err(status),
        };
        self.answer("ExplainVm", answer.map(|verdicts| v1::ExplainVmResponse { verdicts }))
    }

    async fn explain_migration(
        &self,
        request: Request<v1::ExplainMigrationRequest>,
    ) -> Result<Response<v1::ExplainMigrationResponse>, Status> {
        let v1::ExplainMigrationRequest { migration } = request.into_inner();
        let is_good = check_texts(&[("migration", &migration)]).and_then(|()| check_given("migration", &migration));
        let answer = match is_good {
            Ok(()) => {
                let live = self.sources.live.clone();
                self.decide(move |snapshot, incidents| {
                    let now_usec = snapshot.reference_wall_usec;
                    let found = live.cluster().map(|cluster| cluster.migrations(&migration, now_usec));
                    answer::explain_migration(snapshot, incidents, &migration, found.unwrap_or_default())
                })
                .await
            }
            Err(status) => Err(status),
        };
        self.answer("ExplainMigration", answer.map(|verdicts| v1::ExplainMigrationResponse { verdicts }))
    }

    async fn explain_node(
        &self,
        request: Request<v1::ExplainNodeRequest>,
    ) -> Result<Response<v1::ExplainNodeResponse>, Status> {
        let v1::ExplainNodeRequest { node } = request.into_inner();
        let answer = match check_texts(&[("node", &node)]).and_then(|()| check_given("node", &node)) {
            Ok(()) => self.decide(move |snapshot, incidents| answer::explain_node(snapshot, incidents, &node)).await,
            Err(status) => Err(status),
        };
        self.answer("ExplainNode", answer.map(|verdicts| v1::ExplainNodeResponse { verdicts }))
    }

    async fn list_verdicts(
        &self,
        request: Request<v1::ListVerdictsRequest>,
    ) -> Result<Response<v1::ListVerdictsResponse>, Status> {
        let v1::ListVerdictsRequest { node } = request.into_inner();
        let answer = match check_texts(&[("node", &node)]) {
            Ok(()) => {
                self.decide(move |snapshot, incidents| {
                    let verdicts = answer::verdicts(snapshot, incidents, &node)?;
                    Ok(v1::ListVerdictsResponse { verdicts, unseen: snapshot.cluster_sight.unseen.clone() })
                })
                .await
            }
            Err(status) => Err(status),
        };
        self.answer("ListVerdicts", answer)
    }

    async fn can_migrate(
        &self,
        request: Request<v1::CanMigrateRequest>,
    ) -> Result<Response<v1::CanMigrateResponse>, Status> {
        let v1::CanMigrateRequest { vm, to } = request.into_inner();
        let answer = match check_texts(&[("vm", &vm), ("to", &to)]).and_then(|()| check_given("vm", &vm)) {
            Ok(()) => {
                let live = self.sources.live.clone();
                self.decide(move |snapshot, _| {
                    let now_usec = snapshot.reference_wall_usec;
                    let preflight = |namespace: &str, name: &str| live.cluster()?.preflight(namespace, name, now_usec);
                    can_migrate::answer(snapshot, &vm, &to, preflight)
                })
                .await
            }
            Err(status) => Err(status),
        };
        self.answer("CanMigrate", answer)
    }

    async fn list_incidents(
        &self,
        request: Request<v1::ListIncidentsRequest>,
    ) -> Result<Response<v1::ListIncidentsResponse>, Status> {
        let answer = incidents::list(&self.sources.decided.incidents(), request.into_inner());
        self.answer("ListIncidents", answer)
    }

    type WatchIncidentsStream = ReceiverStream<watch::Answer>;

    async fn watch_incidents(
        &self,
        request: Request<v1::WatchIncidentsRequest>,
    ) -> Result<Response<Self::WatchIncidentsStream>, Status> {
        let answer = self.watch(request.into_inner());
        self.answer("WatchIncidents", answer)
    }

    async fn get_incident(&self, request: Request<v1::GetIncidentRequest>) -> Result<Response<v1::Incident>, Status> {
        let v1::GetIncidentRequest { id } = request.into_inner();
        let found = incidents::named(&self.sources.decided.incidents(), &id).cloned();
        let answer = match found {
            Ok(incident) => {
                let mut shown: v1::Incident = (&*incident).into();
                match self.sources.history.captures(incident.id.to_string()).await {
                    Ok(captures) => shown.captures = captures,
                    // The incident is known all the same.
                    Err(error) => warn!(error = %Chain(&error), "the captures of an incident could not be read"),
                }
                Ok(shown)
            }
            Err(status) => Err(status),
        };
        self.answer("GetIncident", answer)
    }

    async fn capture(&self, request: Request<v1::CaptureVmRequest>) -> Result<Response<v1::CaptureVmResponse>, Status> {
        let answer = self.ask_captures(request).await;
        self.answer("Capture", answer)
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Result<Response<v1::ListNodesResponse>, Status> {
        let answer = self.sources.live.look(|state| {
            let nodes = state.nodes().map(|(id, node)| wire::node(id, node, self.sources.live.clock().now().wall_usec));
            v1::ListNodesResponse { nodes: nodes.collect() }
        });
        self.answer("ListNodes", Ok(answer))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeResponse>, Status> {
        let v1::GetNodeRequest { name } = request.into_inner();
        let answer = match check_texts(&[("name", &name)]).and_then(|()| check_given("name", &name)) {
            Err(status) => Err(status),
            Ok(()) => {
                let sources = Arc::clone(&self.sources);
                self.decide(move |snapshot, _| {
                    let now = snapshot.reference_wall_usec;
                    let node = sources.live.look(|state| {
                        state.nodes().find(|(id, _)| id.node == name).map(|(id, node)| wire::node(id, node, now))
                    });
                    answer::node_detail(snapshot, node, &name)
                })
                .await
            }
        };
        self.answer("GetNode", answer)
    }

    async fn list_vms(&self, request: Request<v1::ListVmsRequest>) -> Result<Response<v1::ListVmsResponse>, Status> {
        let v1::ListVmsRequest { node } = request.into_inner();
        let answer = match check_texts(&[("node", &node)]) {
            Ok(()) => self.decide(move |snapshot, _| answer::vms(snapshot, &node)).await,
            Err(status) => Err(status),
        };
        self.answer("ListVms", answer)
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        let answer = self.findings(request.into_inner()).await;
        self.answer("ListFindings", answer)
    }

    type RecordCaseStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::RecordCaseResponse, Status>>>;

    async fn record_case(
        &self,
        request: Request<v1::RecordCaseRequest>,
    ) -> Result<Response<Self::RecordCaseStream>, Status> {
        let answer = record::record(Arc::clone(&self.sources), request.into_inner()).await;
        self.answer("RecordCase", answer.map(tokio_stream::iter))
    }

    type SupportBundleStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::SupportBundleResponse, Status>>>;

    async fn support_bundle(
        &self,
        _: Request<v1::SupportBundleRequest>,
    ) -> Result<Response<Self::SupportBundleStream>, Status> {
        let answer = support::bundle(Arc::clone(&self.sources), self.pages.clone()).await;
        self.answer("SupportBundle", answer.map(tokio_stream::iter))
    }

    async fn list_causes(&self, _: Request<v1::ListCausesRequest>) -> Result<Response<v1::ListCausesResponse>, Status> {
        self.answer("ListCauses", Ok(v1::ListCausesResponse { causes: wire::catalogue() }))
    }
}

/// Refuses texts that cannot be names.
fn check_texts(texts: &[(&str, &str)]) -> Result<(), Status> {
    match texts.iter().find(|(_, text)| text.len() > MAX_TEXT_BYTES) {
        Some((field, _)) => Err(Status::invalid_argument(format!("{field}: longer than {MAX_TEXT_BYTES} bytes"))),
        None => Ok(()),
    }
}

/// Refuses a question about nobody.
fn check_given(field: &str, text: &str) -> Result<(), Status> {
    if text.is_empty() { Err(Status::invalid_argument(format!("{field}: missing"))) } else { Ok(()) }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The word for a code that an answer of ours can have.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::NotFound => "not_found",
        Code::FailedPrecondition => "failed_precondition",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        Code::Internal => "internal",
        _ => "other",
    }
}
