//! People and programs ask here: the `Query` service.
//!
//! Every answer comes from memory, decided at the moment of asking, so that `kulprit why` knows what arrived a millisecond
//! ago; only the history is read from disk. Who asks is told what Kubernetes lets him get ([`crate::access`]): `asker` says what that is, and `shown`
//! leaves out the rest. What is wrong with a question is said with the field's name. [`answer`] and
//! [`incidents`] are pure, [`watch`] tells of incidents as they change, [`page`] makes page tokens, [`record`] gives a case away, [`support`] what one has to see of central,
//! [`wire`] turns attributions and views into messages.

pub mod answer;
mod asker;
pub mod can_migrate;
mod capture;
pub mod incidents;
mod named;
pub mod page;
mod record;
mod shown;
mod support;
mod watch;
mod window;
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

use asker::Asker;
use shown::Owners;
use window::Window;

use crate::{
    access::{
        Access,
        rights::{About, Resource, Sight},
    },
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
    access: Access,
    /// Questions that may be decided now.
    turns: Arc<Semaphore>,
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
/// Questions that are decided at the same time. Each may walk over everything and hold what it finds: more of them would only take memory and
/// time from the engine.
const DECIDED_AT_ONCE: usize = 8;

impl QueryService {
    /// Answers from `sources` what `access` lets those see who ask; what goes on for longer than one answer ends with `stop`.
    #[must_use]
    pub fn new(sources: Sources, access: Access, stop: CancellationToken) -> Self {
        let seats = Arc::new(Semaphore::new(watch::WATCHERS_MAX));
        let captures = Arc::new(Semaphore::new(capture::CAPTURES_MAX));
        let turns = Arc::new(Semaphore::new(DECIDED_AT_ONCE));
        Self { sources: Arc::new(sources), access, turns, seats, captures, pages: None, stop }
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
        in_turn(&self.turns, move || decide(&mut sources.live.snapshot_at_once(), &sources.decided.incidents()))
            .await
            .unwrap_or_else(|| Err(Status::internal("the answer could not be decided; the log of central says why")))
    }

    /// Begins to tell a client of incidents.
    async fn watch(
        &self,
        asker: Asker,
        request: v1::WatchIncidentsRequest,
    ) -> Result<ReceiverStream<watch::Answer>, Status> {
        let v1::WatchIncidentsRequest { include_closed, namespace, node, cause } = request;
        let mut window = Window::new(asker, namespace.clone());
        let filter = incidents::IncidentFilter::new(include_closed, namespace, node, cause)?;
        let permit = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let most = watch::WATCHERS_MAX;
            Status::resource_exhausted(format!(
                "{most} clients watch already, more are not served; list incidents instead"
            ))
        })?;
        let book = self.sources.decided.subscribe();
        // Who may see nothing of it is told so at once.
        let now = Arc::clone(&book.borrow());
        window.look(&now).await?;
        let seat = watch::Seat::new(permit, self.sources.metrics.watchers.clone());
        // One: what waits longer is told as it is by then.
        let (to_client, answers) = mpsc::channel(1);
        let clock = self.sources.live.clock().clone();
        // Its end is the end of the client's stream.
        tokio::spawn(watch::run(book, window, filter, clock, self.stop.clone(), to_client, seat));
        Ok(ReceiverStream::new(answers))
    }

    /// Asks the nodes of a VM for captures, and waits for them.
    async fn ask_captures(&self, request: Request<v1::CaptureVmRequest>) -> Result<v1::CaptureVmResponse, Status> {
        let (began, within) = (Instant::now(), capture::within(request.metadata()));
        let asker = self.asker(&request)?;
        let v1::CaptureVmRequest { vm, node } = request.into_inner();
        check_texts(&[("vm", &vm), ("node", &node)]).and_then(|()| check_given("vm", &vm))?;
        let sight = asker.sight_of_vm(self, &vm).await?;
        let _permit = self.captures.try_acquire().map_err(|_| {
            let most = capture::CAPTURES_MAX;
            Status::resource_exhausted(format!("{most} captures are waited for already; ask again in some seconds"))
        })?;
        let wanted = self.decide(move |snapshot, _| capture::wanted(snapshot, &vm, &node, &sight)).await?;
        capture::capture(&self.sources.live, wanted, began, within, &self.stop).await
    }

    async fn explained_vm(&self, request: Request<v1::ExplainVmRequest>) -> Result<v1::ExplainVmResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::ExplainVmRequest { vm, node } = request.into_inner();
        check_texts(&[("vm", &vm), ("node", &node)]).and_then(|()| check_given("vm", &vm))?;
        let sight = asker.sight_of_vm(self, &vm).await?;
        let explain = move |snapshot: &mut Snapshot, incidents: &Incidents| {
            answer::explain_vm(snapshot, incidents, &vm, &node, &sight)
        };
        Ok(v1::ExplainVmResponse { verdicts: self.decide(explain).await? })
    }

    async fn explained_migration(
        &self,
        request: Request<v1::ExplainMigrationRequest>,
    ) -> Result<v1::ExplainMigrationResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::ExplainMigrationRequest { migration } = request.into_inner();
        check_texts(&[("migration", &migration)]).and_then(|()| check_given("migration", &migration))?;
        let sight = asker.sight_of_migration(self, &migration).await?;
        let live = self.sources.live.clone();
        let explain = move |snapshot: &mut Snapshot, incidents: &Incidents| {
            let now_usec = snapshot.reference_wall_usec;
            let mut found = live.cluster().map(|cluster| cluster.migrations(&migration, now_usec)).unwrap_or_default();
            found.retain(|(name, vm)| sight.shows_migration(&vm.namespace, name));
            answer::explain_migration(snapshot, incidents, &migration, found)
        };
        Ok(v1::ExplainMigrationResponse { verdicts: self.decide(explain).await? })
    }

    async fn explained_node(
        &self,
        request: Request<v1::ExplainNodeRequest>,
    ) -> Result<v1::ExplainNodeResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::ExplainNodeRequest { node } = request.into_inner();
        check_texts(&[("node", &node)]).and_then(|()| check_given("node", &node))?;
        let sight = asker.sight_of_node(&node).await?;
        let explain = move |snapshot: &mut Snapshot, incidents: &Incidents| {
            answer::explain_node(snapshot, incidents, &node, &sight)
        };
        Ok(v1::ExplainNodeResponse { verdicts: self.decide(explain).await? })
    }

    async fn verdicts(&self, request: Request<v1::ListVerdictsRequest>) -> Result<v1::ListVerdictsResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::ListVerdictsRequest { node } = request.into_inner();
        check_texts(&[("node", &node)])?;
        let sight = asker.sight(&About::default()).await?;
        let seen = sight.clone();
        let decide = move |snapshot: &mut Snapshot, incidents: &Incidents| {
            let verdicts = answer::verdicts(snapshot, incidents, &node, &seen)?;
            Ok(v1::ListVerdictsResponse { verdicts, unseen: snapshot.cluster_sight.unseen.clone() })
        };
        let mut answer = self.decide(decide).await?;
        if !sight.shows_all() {
            let sight = asker.sight(&shown::about_verdicts(&answer.verdicts)).await?;
            shown::verdicts(&mut answer.verdicts, &sight);
            answer.unseen.push("what you may not get in Kubernetes is left out".to_owned());
        }
        Ok(answer)
    }

    async fn migratable(&self, request: Request<v1::CanMigrateRequest>) -> Result<v1::CanMigrateResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::CanMigrateRequest { vm, to } = request.into_inner();
        check_texts(&[("vm", &vm), ("to", &to)]).and_then(|()| check_given("vm", &vm))?;
        let sight = asker.sight_of_vm(self, &vm).await?;
        let live = self.sources.live.clone();
        self.decide(move |snapshot, _| {
            let now_usec = snapshot.reference_wall_usec;
            let preflight = |namespace: &str, name: &str| live.cluster()?.preflight(namespace, name, now_usec);
            can_migrate::answer(snapshot, &vm, &to, &sight, preflight)
        })
        .await
    }

    /// Incidents as somebody may see them; only those that touch a namespace if it is not empty.
    async fn incidents_of(&self, asker: Asker, namespace: String) -> Result<Arc<Incidents>, Status> {
        Window::new(asker, namespace).look(&self.sources.decided.incidents()).await
    }

    async fn incident(&self, request: Request<v1::GetIncidentRequest>) -> Result<v1::Incident, Status> {
        let asker = self.asker(&request)?;
        let v1::GetIncidentRequest { id } = request.into_inner();
        let seen = self.incidents_of(asker.clone(), String::new()).await?;
        let incident = Arc::clone(incidents::named(&seen, &id)?);
        let mut shown: v1::Incident = (&*incident).into();
        match self.sources.history.captures(incident.id.to_string()).await {
            Ok(captures) => shown.captures = captures,
            // The incident is known all the same.
            Err(error) => warn!(error = %Chain(&error), "the captures of an incident could not be read"),
        }
        shown::captures(&mut shown.captures, &incident, &asker.sight(&About::default()).await?);
        Ok(shown)
    }

    async fn node(&self, request: Request<v1::GetNodeRequest>) -> Result<v1::GetNodeResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::GetNodeRequest { name } = request.into_inner();
        check_texts(&[("name", &name)]).and_then(|()| check_given("name", &name))?;
        let sight = asker.sight_of_node(&name).await?;
        let (sources, seen) = (Arc::clone(&self.sources), sight.clone());
        let decide = move |snapshot: &mut Snapshot, _: &Incidents| {
            let now = snapshot.reference_wall_usec;
            let node = sources.live.look(|state| {
                state.nodes().find(|(id, _)| id.node == name).map(|(id, node)| wire::node(id, node, now))
            });
            let owners = if seen.shows_all_vms() { Owners::default() } else { Owners::of(snapshot) };
            Ok((answer::node_detail(snapshot, node, &name, &seen)?, owners))
        };
        let (mut answer, owners) = self.decide(decide).await?;
        if !sight.shows_all_vms() {
            let uids = answer.vms.iter().map(|vm| vm.uid.as_str());
            // He may get this node, whose plain VMs are facts of it.
            let sight = asker.sight(&owners.about(uids)).await?.with_nodes();
            shown::vms(&mut answer.vms, &owners, &sight);
            shown::findings(&mut answer.findings, &owners, &sight);
        }
        Ok(answer)
    }

    /// Nodes, whoever may see them.
    async fn all_nodes(&self) -> Result<v1::ListNodesResponse, Status> {
        let live = self.sources.live.clone();
        let decide = move |snapshot: &mut Snapshot, _: &Incidents| {
            let now = snapshot.reference_wall_usec;
            let heard = live.look(|state| state.nodes().map(|(id, node)| wire::node(id, node, now)).collect());
            Ok(answer::all_nodes(snapshot, heard))
        };
        self.decide(decide).await
    }

    async fn vms(&self, request: Request<v1::ListVmsRequest>) -> Result<v1::ListVmsResponse, Status> {
        let asker = self.asker(&request)?;
        let v1::ListVmsRequest { node } = request.into_inner();
        check_texts(&[("node", &node)])?;
        let sight = asker.sight(&About::default()).await?;
        let seen = sight.clone();
        let decide = move |snapshot: &mut Snapshot, _: &Incidents| {
            let owners = if seen.shows_all() { Owners::default() } else { Owners::of(snapshot) };
            Ok((answer::vms(snapshot, &node, &seen)?, owners))
        };
        let (mut answer, owners) = self.decide(decide).await?;
        if !sight.shows_all() {
            let sight = asker.sight(&owners.about(answer.vms.iter().map(|vm| vm.uid.as_str()))).await?;
            shown::vms(&mut answer.vms, &owners, &sight);
        }
        Ok(answer)
    }

    async fn findings(&self, request: Request<v1::ListFindingsRequest>) -> Result<v1::ListFindingsResponse, Status> {
        let asker = self.asker(&request)?;
        let question = answer::FindingsQuestion::new(request.into_inner())?;
        let sight = asker.sight(&About::default()).await?;
        if sight.shows_all() {
            return self.found(question, sight).await;
        }
        let owners = self.decide(|snapshot, _| Ok(Owners::of(snapshot))).await?;
        let asked = question.vm_uid().and_then(|uid| owners.key(&uid).cloned());
        let mut about = About::vms(asked.clone());
        let is_of_his_vm = match asked {
            Some((namespace, name)) => asker.sight(&about).await?.shows_vm(&namespace, &name),
            None => false,
        };
        if !sight.shows_nodes() && !is_of_his_vm {
            asker.require(Resource::Node.one("", question.node())).await?;
        }
        let mut answer = self.found(question, sight).await?;
        let uids: Vec<String> = answer.findings.iter().filter_map(shown::vm_of).collect();
        about.namespaces = owners.about(uids.iter().map(String::as_str)).namespaces;
        let sight = asker.sight(&about).await?;
        shown::findings(&mut answer.findings, &owners, &sight);
        Ok(answer)
    }

    /// Findings, whoever may see them.
    async fn found(
        &self,
        question: answer::FindingsQuestion,
        sight: Sight,
    ) -> Result<v1::ListFindingsResponse, Status> {
        let Some(query) = question.history() else {
            return self.decide(move |snapshot, _| answer::current_findings(snapshot, &question, &sight)).await;
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

    /// Who asks.
    fn asker<T>(&self, request: &Request<T>) -> Result<Asker, Status> {
        Asker::of(&self.access, request)
    }
}

#[tonic::async_trait]
impl Query for QueryService {
    async fn explain_vm(
        &self,
        request: Request<v1::ExplainVmRequest>,
    ) -> Result<Response<v1::ExplainVmResponse>, Status> {
        self.answer("ExplainVm", self.explained_vm(request).await)
    }

    async fn explain_migration(
        &self,
        request: Request<v1::ExplainMigrationRequest>,
    ) -> Result<Response<v1::ExplainMigrationResponse>, Status> {
        self.answer("ExplainMigration", self.explained_migration(request).await)
    }

    async fn explain_node(
        &self,
        request: Request<v1::ExplainNodeRequest>,
    ) -> Result<Response<v1::ExplainNodeResponse>, Status> {
        self.answer("ExplainNode", self.explained_node(request).await)
    }

    async fn list_verdicts(
        &self,
        request: Request<v1::ListVerdictsRequest>,
    ) -> Result<Response<v1::ListVerdictsResponse>, Status> {
        self.answer("ListVerdicts", self.verdicts(request).await)
    }

    async fn can_migrate(
        &self,
        request: Request<v1::CanMigrateRequest>,
    ) -> Result<Response<v1::CanMigrateResponse>, Status> {
        self.answer("CanMigrate", self.migratable(request).await)
    }

    async fn list_incidents(
        &self,
        request: Request<v1::ListIncidentsRequest>,
    ) -> Result<Response<v1::ListIncidentsResponse>, Status> {
        let answer = match self.asker(&request) {
            Ok(asker) => {
                let request = request.into_inner();
                let seen = self.incidents_of(asker, request.namespace.clone()).await;
                seen.and_then(|seen| incidents::list(&seen, request))
            }
            Err(status) => Err(status),
        };
        self.answer("ListIncidents", answer)
    }

    type WatchIncidentsStream = ReceiverStream<watch::Answer>;

    async fn watch_incidents(
        &self,
        request: Request<v1::WatchIncidentsRequest>,
    ) -> Result<Response<Self::WatchIncidentsStream>, Status> {
        let answer = match self.asker(&request) {
            Ok(asker) => self.watch(asker, request.into_inner()).await,
            Err(status) => Err(status),
        };
        self.answer("WatchIncidents", answer)
    }

    async fn get_incident(&self, request: Request<v1::GetIncidentRequest>) -> Result<Response<v1::Incident>, Status> {
        self.answer("GetIncident", self.incident(request).await)
    }

    async fn capture(&self, request: Request<v1::CaptureVmRequest>) -> Result<Response<v1::CaptureVmResponse>, Status> {
        let answer = self.ask_captures(request).await;
        self.answer("Capture", answer)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        // The door has asked for what it needs.
        let answer = match self.asker(&request) {
            Ok(_) => self.all_nodes().await,
            Err(status) => Err(status),
        };
        self.answer("ListNodes", answer)
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::GetNodeResponse>, Status> {
        self.answer("GetNode", self.node(request).await)
    }

    async fn list_vms(&self, request: Request<v1::ListVmsRequest>) -> Result<Response<v1::ListVmsResponse>, Status> {
        self.answer("ListVms", self.vms(request).await)
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        self.answer("ListFindings", self.findings(request).await)
    }

    type RecordCaseStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::RecordCaseResponse, Status>>>;

    async fn record_case(
        &self,
        request: Request<v1::RecordCaseRequest>,
    ) -> Result<Response<Self::RecordCaseStream>, Status> {
        // As of ListNodes.
        let answer = match self.asker(&request) {
            Ok(_) => record::record(Arc::clone(&self.sources), request.into_inner()).await,
            Err(status) => Err(status),
        };
        self.answer("RecordCase", answer.map(tokio_stream::iter))
    }

    type SupportBundleStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::SupportBundleResponse, Status>>>;

    async fn support_bundle(
        &self,
        request: Request<v1::SupportBundleRequest>,
    ) -> Result<Response<Self::SupportBundleStream>, Status> {
        // As of ListNodes.
        let answer = match self.asker(&request) {
            Ok(_) => support::bundle(Arc::clone(&self.sources), self.pages.clone()).await,
            Err(status) => Err(status),
        };
        self.answer("SupportBundle", answer.map(tokio_stream::iter))
    }

    async fn list_causes(&self, _: Request<v1::ListCausesRequest>) -> Result<Response<v1::ListCausesResponse>, Status> {
        self.answer("ListCauses", Ok(v1::ListCausesResponse { causes: wire::catalogue() }))
    }
}

/// Works on a thread where it may take its time, once one of `turns` is free. The turn lasts as long as the work, also where nobody waits for it
/// any more. `None` if it panicked.
async fn in_turn<T: Send + 'static>(turns: &Arc<Semaphore>, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let turn = Arc::clone(turns).acquire_owned().await.expect("the turns are never closed");
    let worked = spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    worked.await.ok()
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
        Code::PermissionDenied => "permission_denied",
        Code::Unauthenticated => "unauthenticated",
        Code::FailedPrecondition => "failed_precondition",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        Code::Internal => "internal",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_keeps_its_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let mut first = Box::pin(in_turn(&turns, move || ended.recv().is_ok()));
        tokio::select! {
            biased;
            _ = &mut first => panic!("it was told to end"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        let mut second = Box::pin(in_turn(&turns, || 7));
        tokio::select! {
            biased;
            _ = &mut second => panic!("both work"),
            () = std::future::ready(()) => {}
        }
        end.send(()).unwrap();
        assert_eq!(second.await, Some(7));
        assert_eq!(in_turn(&turns, || panic!("as told")).await, None::<()>);
        assert_eq!(in_turn(&turns, || 8).await, Some(8), "a panic gives its turn back");
    }
}
