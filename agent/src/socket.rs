//! The local socket: the agent's own status without central, for its owner only.
//!
//! A Unix socket of mode 0600 with the gRPC service `AgentStatus`. A socket file that a killed agent left is replaced; one
//! behind which somebody answers is not.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use kulprit_daemon::{BoxError, CancellationToken, Clock, UsageError};
use kulprit_model::Body;
use kulprit_proto::v1::{
    self, GetStatusRequest, GetStatusResponse,
    agent_status_server::{AgentStatus, AgentStatusServer},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    hello::HelloSource,
    spool::SpoolStatus,
    tracker::{
        ProbeView,
        run::{Ask, View},
    },
    uplink::UplinkState,
};

/// A socket that answers; its file is removed when it is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens on `path`, mode 0600.
///
/// # Errors
/// If another agent answers there, or the file cannot be made.
pub async fn listen(path: &Path) -> Result<LocalSocket, UsageError> {
    let failed = |error: io::Error| {
        UsageError::new(format!("failed to listen on the socket `{}`", path.display()))
            .because(error)
            .fix("choose another folder with --run-dir")
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(UsageError::new(format!("`{}` is in the way: it is no socket", path.display()))
                .fix("remove it, or choose another folder with --run-dir"));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(UsageError::new(format!("another agent answers on `{}`", path.display()))
                .fix("end that one, or choose another folder with --run-dir"));
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Nobody can connect before the mode is set: bind gives the socket a name that only we know.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new).map_err(failed)?;
    let named = fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&new, path));
    if let Err(error) = named {
        let _ = fs::remove_file(&new);
        return Err(failed(error));
    }
    Ok(LocalSocket { listener, file: SocketFile(path.to_owned()) })
}

/// What answers.
#[derive(Debug)]
pub struct StatusService {
    /// Who we are.
    pub hello: HelloSource,
    /// Address of central.
    pub central: String,
    /// Who knows.
    pub tracker: mpsc::Sender<Ask>,
    /// How the uplink stands.
    pub uplink: watch::Receiver<UplinkState>,
    /// How the spool stands.
    pub spool: watch::Receiver<SpoolStatus>,
    /// The time.
    pub clock: Clock,
}

impl StatusService {
    /// Serves until `stop`.
    ///
    /// # Errors
    /// If the socket fails for good.
    pub async fn serve(self, socket: LocalSocket, stop: CancellationToken) -> Result<(), BoxError> {
        let LocalSocket { listener, file } = socket;
        let server = Server::builder().add_service(AgentStatusServer::new(self));
        let served =
            server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.clone().cancelled_owned());
        // A client that keeps its connection open must not hold up our end.
        let served = tokio::select! {
            served = served => served,
            () = stop.cancelled() => Ok(()),
        };
        drop(file);
        Ok(served?)
    }
}

#[tonic::async_trait]
impl AgentStatus for StatusService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let (reply, view) = oneshot::channel();
        let ended = |_| Status::unavailable("the agent is ending");
        self.tracker.send(Ask::View(reply)).await.map_err(|_| Status::unavailable("the agent is ending"))?;
        let view = view.await.map_err(ended)?;
        let uplink = self.uplink.borrow().clone();
        let spool = *self.spool.borrow();
        Ok(Response::new(self.answer(view, uplink, spool)))
    }
}

impl StatusService {
    fn answer(&self, view: View, uplink: UplinkState, spool: SpoolStatus) -> GetStatusResponse {
        let UplinkState { is_connected, error } = uplink;
        let uplink = v1::UplinkStatus {
            central: self.central.clone(),
            is_connected,
            error: error.unwrap_or_default(),
            n_spooled: spool.n_waiting,
            last_acked_seq: spool.acked_seq,
            n_lost: spool.n_lost,
        };
        let mut answer = GetStatusResponse {
            hello: Some(self.hello.now(&self.clock)),
            probes: view.probes.into_iter().map(probe_status).collect(),
            uplink: Some(uplink),
            ..GetStatusResponse::default()
        };
        for body in view.bodies {
            match body {
                Body::State(state) => answer.states.push(state.into()),
                Body::Occurrence(occurrence) => answer.occurrences.push(occurrence.into()),
                Body::Domain(domain) => answer.domains.push(domain.into()),
                Body::Qemu(qemu) => answer.qemus.push(qemu.into()),
                Body::SubjectGone { .. } => {}
            }
        }
        answer
    }
}

fn probe_status(probe: ProbeView) -> v1::ProbeStatus {
    let ProbeView { name, looked, last_success, took_usec, blind_because } = probe;
    let outcome = match (&blind_because, looked) {
        (Some(_), _) => "blind",
        (None, Some(_)) => "ok",
        (None, None) => "starting",
    };
    v1::ProbeStatus {
        name: name.to_owned(),
        outcome: outcome.to_owned(),
        blind_because: blind_because.unwrap_or_default(),
        last_success: last_success.map(Into::into),
        duration_usec: took_usec,
    }
}

#[cfg(test)]
mod tests;
