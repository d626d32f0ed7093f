//! `RecordCase`: the files of a case, decided at the moment of asking, then the history of the nodes concerned from disk.
//!
//! What the files say is [`crate::record`]'s; here a question is checked, names are found, and pages of history are put together. A
//! store that does not answer costs the history only.

use std::sync::Arc;

use kulprit_daemon::Chain;
use kulprit_diagnosis::{Indexed, Snapshot};
use kulprit_proto::v1::{self, record_case_request::Subject};
use tokio::task::spawn_blocking;
use tonic::Status;
use tracing::warn;

use super::{Sources, answer, check_given, check_texts, named, wire};
use crate::{
    access::rights::Sight,
    record::{About, MAX_CASE_BYTES, MAX_HISTORY, Recording},
    store::{HistoryEntry, HistoryQuery},
};

/// Bytes of one message.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Findings of one question to the store.
const PAGE: usize = 1_000;
const DAY_USEC: i64 = 86_400_000_000;

/// The messages of an answer.
pub(super) type Messages = Vec<Result<v1::RecordCaseResponse, Status>>;

/// Records what was asked for.
///
/// # Errors
/// INVALID_ARGUMENT names the field; NOT_FOUND what does not exist; FAILED_PRECONDITION lists the candidates of an ambiguous name;
/// RESOURCE_EXHAUSTED if the case is too large.
pub(super) async fn record(sources: Arc<Sources>, request: v1::RecordCaseRequest) -> Result<Messages, Status> {
    let v1::RecordCaseRequest { subject, from_wall_usec, to_wall_usec } = request;
    let subject = subject.ok_or_else(|| Status::invalid_argument("subject: missing: a VM, a migration or a node"))?;
    let (Subject::Vm(name) | Subject::Migration(name) | Subject::Node(name)) = &subject;
    check_texts(&[("subject", name)]).and_then(|()| check_given("subject", name))?;
    let now_usec = sources.live.clock().now().wall_usec;
    let to_usec = if to_wall_usec == 0 { now_usec } else { to_wall_usec };
    let from_usec = if from_wall_usec == 0 { to_usec.saturating_sub(DAY_USEC) } else { from_wall_usec };
    if from_usec > to_usec {
        return Err(Status::invalid_argument("from_wall_usec: later than to_wall_usec"));
    }
    let deciding = Arc::clone(&sources);
    let mut recording = spawn_blocking(move || decide(&deciding, &subject))
        .await
        .unwrap_or_else(|_| Err(Status::internal("the case could not be decided; the log of central says why")))?;
    for node in recording.nodes.clone() {
        match history(&sources, &node, from_usec, to_usec).await {
            Ok((entries, is_cut)) => recording.add_history(&node, entries, is_cut),
            Err(why) => {
                recording.lack_history(&why);
                break;
            }
        }
        check_size(&recording)?;
    }
    check_size(&recording)?;
    let (files, notes) = recording.into_parts();
    let pieces = files.into_iter().flat_map(|file| {
        let pieces: Vec<v1::RecordCaseResponse> = file
            .content
            .chunks(CHUNK_BYTES)
            .map(|piece| v1::RecordCaseResponse {
                path: file.path.clone(),
                content: piece.to_vec(),
                note: String::new(),
            })
            .collect();
        pieces
    });
    let notes = notes.into_iter().map(|note| v1::RecordCaseResponse { note, ..v1::RecordCaseResponse::default() });
    Ok(pieces.chain(notes).map(Ok).collect())
}

fn decide(sources: &Sources, subject: &Subject) -> Result<Recording, Status> {
    let mut snapshot = sources.live.snapshot();
    let now_usec = snapshot.reference_wall_usec;
    let nodes: Vec<v1::Node> =
        sources.live.look(|state| state.nodes().map(|(id, node)| wire::node(id, node, now_usec)).collect());
    let recording =
        |snapshot: &Snapshot, symptoms: &[_], about: &About| Recording::new(snapshot, symptoms, about, &nodes);
    // Who may not see everything is not given a case (`access::needs`).
    let whole = Sight::whole();
    match subject {
        Subject::Vm(name) => {
            let vm = named::vm(&snapshot, name, "", &whole)?;
            let (namespace, name) = match vm {
                named::NamedVm::OfCluster(vm) => (vm.namespace.clone(), vm.name.clone()),
                // Names of plain hosts may be those of several VMs.
                named::NamedVm::OfHost(_, vm) => (String::new(), vm.uid.clone()),
            };
            let about = About::Vm { namespace, name, migration: None };
            Ok(recording(&snapshot, &answer::symptoms_of_vm(&Indexed::new(&snapshot), vm), &about))
        }
        Subject::Migration(name) => {
            let found = sources.live.cluster().map(|cluster| cluster.migrations(name, now_usec)).unwrap_or_default();
            let asked = answer::migration_asked(&mut snapshot, name, found)?;
            let (namespace, vm) = asked.vm;
            let about = About::Vm { namespace, name: vm, migration: Some(asked.name) };
            Ok(recording(&snapshot, &[asked.symptom], &about))
        }
        Subject::Node(name) => {
            let node = named::node(&snapshot, name, &whole)?;
            let about = About::Node { name: node.name.clone() };
            Ok(recording(&snapshot, &answer::symptoms_of_node(&Indexed::new(&snapshot), node), &about))
        }
    }
}

/// What a node, or with an empty name each, found in that time, oldest first, and whether there was more.
pub(super) async fn history(
    sources: &Sources,
    node: &str,
    from_wall_usec: i64,
    to_wall_usec: i64,
) -> Result<(Vec<HistoryEntry>, bool), String> {
    let mut entries: Vec<HistoryEntry> = Vec::new();
    while entries.len() < MAX_HISTORY {
        let query = HistoryQuery {
            from_wall_usec,
            to_wall_usec,
            node: node.to_owned(),
            include_absent: true,
            after: entries.last().map(|entry| entry.position),
            limit: PAGE,
            ..HistoryQuery::default()
        };
        let page = sources.history.read(query).await.map_err(|error| {
            warn!(error = %Chain(&error), "the history of a recorded case could not be read");
            error.to_string()
        })?;
        let is_last = page.len() < PAGE;
        entries.extend(page);
        if is_last {
            return Ok((entries, false));
        }
    }
    Ok((entries, true))
}

fn check_size(recording: &Recording) -> Result<(), Status> {
    let n_bytes = recording.n_bytes();
    if n_bytes <= MAX_CASE_BYTES {
        return Ok(());
    }
    let (n_mib, max_mib) = (n_bytes >> 20, MAX_CASE_BYTES >> 20);
    Err(Status::resource_exhausted(format!(
        "the case has {n_mib} MiB, at most {max_mib} are given: ask for less history"
    )))
}
