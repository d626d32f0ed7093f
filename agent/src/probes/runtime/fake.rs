//! A container runtime in this process, as the test says: it answers, answers late, with an error, or with rubbish.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use kulprit_proto::cri::{
    self, image_service_server::ImageService, image_service_server::ImageServiceServer,
    runtime_service_server::RuntimeService, runtime_service_server::RuntimeServiceServer,
};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What it says. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    inner: Arc<Mutex<Says>>,
    hung: Arc<watch::Sender<Option<&'static str>>>,
}

#[derive(Debug, Default)]
pub(super) struct Says {
    /// Conditions by type: whether they are true.
    pub(super) conditions: BTreeMap<&'static str, bool>,
    pub(super) sandboxes: Vec<cri::PodSandbox>,
    pub(super) containers: Vec<cri::Container>,
    /// By container id: exit code and reason.
    pub(super) exits: BTreeMap<String, (i32, &'static str)>,
    /// What this call answers with an error.
    pub(super) failing: Option<&'static str>,
    /// How often each call was made.
    pub(super) n_calls: BTreeMap<&'static str, usize>,
}

impl Fake {
    pub(super) fn ready() -> Self {
        let conditions = BTreeMap::from([("RuntimeReady", true), ("NetworkReady", true)]);
        Self {
            inner: Arc::new(Mutex::new(Says { conditions, ..Says::default() })),
            hung: Arc::new(watch::channel(None).0),
        }
    }

    pub(super) fn says(&self) -> MutexGuard<'_, Says> {
        self.inner.lock().unwrap()
    }

    /// This call is not answered until another word.
    pub(super) fn hang(&self, call: Option<&'static str>) {
        self.hung.send_replace(call);
    }

    pub(super) fn n_calls(&self, call: &'static str) -> usize {
        self.says().n_calls.get(call).copied().unwrap_or_default()
    }

    /// Serves on `path` until the handle is aborted.
    pub(super) fn serve(&self, path: &Path) -> tokio::task::JoinHandle<()> {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(path);
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let server = Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()));
        tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() })
    }

    async fn enter(&self, call: &'static str) -> Result<MutexGuard<'_, Says>, Status> {
        *self.says().n_calls.entry(call).or_default() += 1;
        self.hung.subscribe().wait_for(|hung| *hung != Some(call)).await.unwrap();
        let says = self.says();
        match says.failing == Some(call) {
            true => Err(Status::unknown("server is not initialized yet")),
            false => Ok(says),
        }
    }
}

/// A launcher's sandbox of this VMI.
pub(super) fn sandbox(id: &str, vmi_uid: &str, is_ready: bool) -> cri::PodSandbox {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    cri::PodSandbox {
        id: id.to_owned(),
        metadata: Some(cri::PodSandboxMetadata {
            name: "virt-launcher-db-0-abcde".to_owned(),
            uid: format!("pod-of-{id}"),
            namespace: "prod".to_owned(),
            attempt: 0,
        }),
        state: i32::from(!is_ready),
        created_at: 0,
        labels: [label("kubevirt.io", "virt-launcher"), label("kubevirt.io/created-by", vmi_uid)].into(),
    }
}

pub(super) fn container(id: &str, sandbox_id: &str, name: &str, state: cri::ContainerState) -> cri::Container {
    cri::Container {
        id: id.to_owned(),
        pod_sandbox_id: sandbox_id.to_owned(),
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        state: state.into(),
        created_at: 0,
    }
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Result<Response<cri::VersionResponse>, Status> {
        drop(self.enter("Version").await?);
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1.2.3".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, _: Request<cri::StatusRequest>) -> Result<Response<cri::StatusResponse>, Status> {
        let says = self.enter("Status").await?;
        let row = |(name, status): (&&str, &bool)| cri::RuntimeCondition {
            r#type: (*name).to_owned(),
            status: *status,
            reason: "NetworkPluginNotReady".to_owned(),
            message: "cni plugin not initialized".to_owned(),
        };
        let conditions = says.conditions.iter().map(row).collect();
        Ok(Response::new(cri::StatusResponse { status: Some(cri::RuntimeStatus { conditions }) }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let says = self.enter("ListPodSandbox").await?;
        let wanted = request.into_inner().filter.unwrap_or_default().label_selector;
        let has_all = |row: &&cri::PodSandbox| wanted.iter().all(|(key, value)| row.labels.get(key) == Some(value));
        let items = says.sandboxes.iter().filter(has_all).cloned().collect();
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    async fn list_containers(
        &self,
        _: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        let containers = self.enter("ListContainers").await?.containers.clone();
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        let says = self.enter("ContainerStatus").await?;
        let id = request.into_inner().container_id;
        let (exit_code, reason) = *says.exits.get(&id).ok_or_else(|| Status::not_found("no such container"))?;
        let status = cri::ContainerStatus {
            id,
            state: cri::ContainerState::ContainerExited.into(),
            exit_code,
            reason: reason.to_owned(),
            ..cri::ContainerStatus::default()
        };
        Ok(Response::new(cri::ContainerStatusResponse { status: Some(status) }))
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        drop(self.enter("ImageStatus").await?);
        let name = request.into_inner().image.unwrap_or_default().image;
        let image = (name == "here").then_some(cri::Image { id: name, size: 1 });
        Ok(Response::new(cri::ImageStatusResponse { image }))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        drop(self.enter("ImageFsInfo").await?);
        let fs_id = Some(cri::FilesystemIdentifier { mountpoint: "/var/lib/fake".to_owned() });
        let usage = cri::FilesystemUsage { fs_id, ..cri::FilesystemUsage::default() };
        Ok(Response::new(cri::ImageFsInfoResponse { image_filesystems: vec![usage] }))
    }
}
