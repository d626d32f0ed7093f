//! The calls to a container runtime, over its socket below the host's root.
//!
//! None has a deadline of its own: whoever awaits them has. A call that fails is sorted by what that says of the runtime; the words
//! of its answer become the host's observations here. Source: k8s.io/cri-api v0.36, `runtime/v1/api.proto`.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;

use hyper_util::rt::TokioIo;
use kulprit_host::HostRoot;
use kulprit_host::cri::{Container, ContainerExit, ContainerState, RuntimeInfo, Sandbox};
use kulprit_host::socket::connect_unix;
use kulprit_model::attribute;
use kulprit_proto::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::probes::chain;

/// Most of one answer, bytes: as the kubelet takes.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// Label that KubeVirt gives to the pods of launchers, and the one with the VMI's UID in it.
/// Source: KubeVirt `staging/src/kubevirt.io/api/core/v1/types.go`, `AppLabel`, `CreatedByLabel`.
const LAUNCHER_LABEL: (&str, &str) = ("kubevirt.io", "virt-launcher");
const VMI_UID_LABEL: &str = "kubevirt.io/created-by";

/// A connection to one runtime.
#[derive(Clone, Debug)]
pub(in crate::probes) struct CriClient {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::probes) enum CallError {
    /// There is no such socket.
    NotFound,
    /// We may not connect, or our side failed.
    Ours(String),
    /// Nobody listens, or so many wait to be taken in that the kernel takes no more.
    Refused(String),
    /// The connection broke, or what came is not the protocol.
    Broken(String),
    /// It answered, with an error.
    Error(String),
    /// It answered, and does not serve CRI v1.
    NotServed,
}

impl CallError {
    /// The `FAILURE_*` value of what counts against the runtime.
    pub(super) fn failure(&self) -> Option<&'static str> {
        match self {
            Self::NotFound | Self::Ours(_) | Self::NotServed => None,
            Self::Refused(_) => Some(attribute::FAILURE_REFUSED),
            Self::Broken(_) => Some(attribute::FAILURE_RESET),
            Self::Error(_) => Some(attribute::FAILURE_MALFORMED),
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::NotFound => "there is no socket",
            Self::NotServed => "it does not serve CRI v1",
            Self::Ours(text) | Self::Refused(text) | Self::Broken(text) | Self::Error(text) => text,
        }
    }
}

/// Connects to the socket at `path` below the host's root, and waits for nobody.
pub(in crate::probes) fn open(host: &HostRoot, path: &str) -> Result<UnixStream, CallError> {
    connect_unix(host, path).map_err(|error| {
        let text = format!("{}: {error}", host.display_path(path).display());
        match error.kind() {
            io::ErrorKind::NotFound => CallError::NotFound,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock => CallError::Refused(text),
            _ => CallError::Ours(text),
        }
    })
}

impl CriClient {
    /// Speaks to a runtime over a stream from [`open`].
    pub(in crate::probes) async fn new(stream: UnixStream) -> Result<Self, CallError> {
        let channel = channel(stream).await.map_err(|error| CallError::Broken(chain(&error)))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT_BYTES),
            image: ImageServiceClient::new(channel).max_decoding_message_size(ANSWER_LIMIT_BYTES),
        })
    }

    /// The runtime's name and version: `containerd 2.4.2`.
    pub(in crate::probes) async fn version(&mut self) -> Result<String, CallError> {
        let answer = self.runtime.version(cri::VersionRequest { version: "v1".to_owned() }).await.map_err(sort)?;
        let answer = answer.into_inner();
        Ok(format!("{} {}", answer.runtime_name, answer.runtime_version))
    }

    /// What the runtime thinks of itself.
    pub(in crate::probes) async fn status(&mut self) -> Result<RuntimeInfo, CallError> {
        let answer = self.runtime.status(cri::StatusRequest { verbose: false }).await.map_err(sort)?;
        let conditions = answer.into_inner().status.unwrap_or_default().conditions;
        let find = |name: &str| conditions.iter().find(|row| row.r#type == name);
        // The reason is the word, the message the text; either may be empty.
        let message = |name: &str| {
            let row = find(name)?;
            Some(&row.message)
                .filter(|text| !text.is_empty())
                .or(Some(&row.reason))
                .filter(|text| !text.is_empty())
                .cloned()
        };
        Ok(RuntimeInfo {
            is_ready: find("RuntimeReady").map(|row| row.status),
            ready_message: message("RuntimeReady"),
            is_network_ready: find("NetworkReady").map(|row| row.status),
            network_message: message("NetworkReady"),
        })
    }

    /// The mount points of the image store. CRI-O walks its store for that: not for every look.
    pub(in crate::probes) async fn image_filesystems(&mut self) -> Result<Vec<String>, CallError> {
        let answer = self.image.image_fs_info(cri::ImageFsInfoRequest {}).await.map_err(sort)?;
        let rows = answer.into_inner().image_filesystems.into_iter();
        Ok(rows.filter_map(|row| row.fs_id).map(|id| id.mountpoint).collect())
    }

    /// Whether the runtime has this image; it asks no registry.
    pub(in crate::probes) async fn has_image(&mut self, image: &str) -> Result<bool, CallError> {
        let image = Some(cri::ImageSpec { image: image.to_owned() });
        let answer = self.image.image_status(cri::ImageStatusRequest { image }).await.map_err(sort)?;
        Ok(answer.into_inner().image.is_some())
    }

    /// The sandboxes of launchers.
    pub(in crate::probes) async fn launcher_sandboxes(&mut self) -> Result<Vec<Sandbox>, CallError> {
        let (key, value) = LAUNCHER_LABEL;
        let label_selector = HashMap::from([(key.to_owned(), value.to_owned())]);
        let filter = Some(cri::PodSandboxFilter { id: String::new(), label_selector });
        let answer = self.runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter }).await.map_err(sort)?;
        Ok(answer.into_inner().items.into_iter().map(sandbox).collect())
    }

    /// All containers of the node, as the kubelet's PLEG asks for them, or those of one sandbox.
    pub(in crate::probes) async fn containers(
        &mut self,
        sandbox_id: Option<&str>,
    ) -> Result<Vec<Container>, CallError> {
        let filter = sandbox_id.map(|id| cri::ContainerFilter { id: String::new(), pod_sandbox_id: id.to_owned() });
        let answer = self.runtime.list_containers(cri::ListContainersRequest { filter }).await.map_err(sort)?;
        Ok(answer.into_inner().containers.into_iter().map(container).collect())
    }

    /// How a container ended; `None` when it has not, or is not there any more.
    pub(in crate::probes) async fn exit_of(&mut self, container_id: &str) -> Result<Option<ContainerExit>, CallError> {
        let request = cri::ContainerStatusRequest { container_id: container_id.to_owned(), verbose: false };
        let answer = match self.runtime.container_status(request).await {
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            answer => answer.map_err(sort)?.into_inner(),
        };
        let status = answer.status.unwrap_or_default();
        let has_ended = status.state() == cri::ContainerState::ContainerExited;
        Ok(has_ended.then_some(ContainerExit {
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            finished_usec: status.finished_at / 1_000,
        }))
    }
}

/// An HTTP/2 connection over a stream that stands. When it breaks it is not made anew here.
async fn channel(stream: UnixStream) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let taken = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(taken.and_then(tokio::net::UnixStream::from_std).map(TokioIo::new))
    });
    // The authority that other clients of CRI send.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// What a failed call says of the runtime. A status that came over the wire is an answer; one that tonic made of its transport has a
/// source.
fn sort(status: tonic::Status) -> CallError {
    use std::error::Error as _;
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unimplemented => CallError::NotServed,
        Code::ResourceExhausted | Code::OutOfRange => CallError::Ours(text),
        _ if status.source().is_some() => CallError::Broken(chain(&status)),
        _ => CallError::Error(text),
    }
}

fn sandbox(row: cri::PodSandbox) -> Sandbox {
    let is_ready = row.state() == cri::PodSandboxState::SandboxReady;
    let metadata = row.metadata.unwrap_or_default();
    Sandbox {
        id: row.id,
        pod_uid: metadata.uid,
        namespace: metadata.namespace,
        name: metadata.name,
        is_ready,
        vmi_uid: row.labels.get(VMI_UID_LABEL).filter(|uid| !uid.is_empty()).cloned(),
    }
}

fn container(row: cri::Container) -> Container {
    let state = match cri::ContainerState::try_from(row.state) {
        Ok(cri::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(cri::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(cri::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    };
    let metadata = row.metadata.unwrap_or_default();
    Container {
        id: row.id,
        sandbox_id: row.pod_sandbox_id,
        name: metadata.name,
        n_attempts: metadata.attempt,
        state,
        created_usec: row.created_at / 1_000,
        exit: None,
    }
}
