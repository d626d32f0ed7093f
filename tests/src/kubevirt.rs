//! KubeVirt without KubeVirt: its kinds on the lab's real API server, and a driver that writes what its controllers write.
//!
//! [`KubeVirt::install`] brings the kinds (`kubernetes/kubevirt-crds.yaml`) and a `KubeVirt` object. From then on the driver stands for
//! virt-api, virt-controller, virt-handler and, where no kubelet runs, for kubelet: [`Vm`] and [`Migration`] go from phase to phase as the
//! test says, with the objects, conditions, finalizers and events of each. The rest is real: the scheduler, the garbage collector, the node
//! controller. The real launcher of a VM on a lab node is a [`Launcher`](crate::Launcher) with the UIDs of its objects
//! ([`LauncherBuilder::of_pod`](crate::launcher::LauncherBuilder::of_pod)).
//!
//! What is written is what KubeVirt v1.8.4 wrote on a real cluster, field by field and word by word; only its times may be put into the past
//! ([`Vm::ago`]), so that no test waits for a clock. `creationTimestamp` and `deletionTimestamp` are the API server's own, and now.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kubernetes::Cluster;
use crate::node::Node;
use crate::wait;

pub mod api;
mod host;
mod migration;
mod node;
mod object;
mod pod;
mod stage;
mod vm;

use api::{Api, Kind, Place};
pub use host::Host;
pub use migration::Migration;
pub use node::RegisteredNode;
use object::Told;
pub use stage::Stage;
pub use vm::{Vm, VmSpec};

/// The release whose objects these are.
const VERSION: &str = "v1.8.4";
/// Where KubeVirt itself is installed.
const NAMESPACE: &str = "kubevirt";
/// How long a new kind may take to be served, and what real controllers do may take; a second is normal.
const SERVED_LIMIT: Duration = Duration::from_secs(30);

/// An installed KubeVirt. See the module.
#[derive(Debug)]
pub struct KubeVirt {
    api: Arc<Api>,
    n_events: AtomicU64,
}

impl KubeVirt {
    /// Installs it into a cluster.
    ///
    /// # Errors
    /// If the API server refuses something, or does not serve the kinds in time.
    pub fn install(cluster: &Cluster) -> Result<Self> {
        let (kubectl, folder) = cluster.proxy_command();
        Self::install_by(Api::start(kubectl, &folder)?)
    }

    /// Installs it by a way to any API server.
    ///
    /// # Errors
    /// As [`KubeVirt::install`].
    pub fn install_by(api: Api) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/kubevirt-crds.yaml");
        let kinds = std::fs::read_to_string(&path)?;
        for kind in kinds.split("\n---\n") {
            let kind: Value = serde_saphyr::from_str(kind).context("kubevirt-crds.yaml")?;
            api.ensure(Kind::CRD, "", &kind)?;
        }
        let kubevirt = Self { api: Arc::new(api), n_events: AtomicU64::new(0) };
        kubevirt.ensure_namespace(NAMESPACE)?;
        let object = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "KubeVirt",
            "metadata": {"name": "kubevirt", "namespace": NAMESPACE, "finalizers": ["foregroundDeleteKubeVirt"]},
            "spec": {"configuration": {"migrations": {
                "completionTimeoutPerGiB": 150, "parallelMigrationsPerCluster": 5,
                "parallelOutboundMigrationsPerNode": 2, "progressTimeout": 150,
            }}},
        });
        let is_served = || Ok(kubevirt.api.ensure(Kind::KUBEVIRT, NAMESPACE, &object).is_ok());
        wait::wait_until("KubeVirt's kinds to be served", SERVED_LIMIT, is_served)?;
        for kind in [Kind::VM, Kind::VMI, Kind::VMIM, Kind::DATA_VOLUME, Kind::POLICY] {
            wait::wait_until("a kind to be served", SERVED_LIMIT, || kubevirt.api.is_served(kind))?;
        }
        let place = Place::new(Kind::KUBEVIRT, NAMESPACE, "kubevirt");
        kubevirt.api.update_status(&place, |object| {
            object["status"]["phase"] = "Deployed".into();
            object["status"]["observedKubeVirtVersion"] = VERSION.into();
            object["status"]["targetKubeVirtVersion"] = VERSION.into();
            for (kind, status) in [("Available", true), ("Progressing", false), ("Degraded", false)] {
                let why = ("AllComponentsReady", "All components are ready.");
                object::set_condition(object, kind, status, Some(why), Timestamp::now());
            }
        })?;
        Ok(kubevirt)
    }

    /// The API server, for objects that the driver does not know.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Sets how many migrations KubeVirt lets run at the same time.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn limit_migrations(&self, per_cluster: u32, per_node: u32) -> Result<()> {
        let place = Place::new(Kind::KUBEVIRT, NAMESPACE, "kubevirt");
        let set = |object: &mut Value| {
            let migrations = &mut object["spec"]["configuration"]["migrations"];
            migrations["parallelMigrationsPerCluster"] = per_cluster.into();
            migrations["parallelOutboundMigrationsPerNode"] = per_node.into();
        };
        self.api.update(&place, set).map(drop)
    }

    /// Makes a Node object, Ready as long as the guard lives, with a virt-handler on it.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn register(&self, name: &str, address: &str) -> Result<RegisteredNode> {
        RegisteredNode::new(&self.api, name, address)
    }

    /// Takes a real node, with its kubelet, for VMs: what virt-handler writes on its object, and the devices of its device plugins, which
    /// kubelet leaves as they are. There is no virt-handler pod then, which kubelet could not run.
    ///
    /// # Errors
    /// If there is no such node, or the API server refuses.
    pub fn adopt(&self, node: &Node) -> Result<()> {
        let now = object::stamp(Timestamp::now());
        let mark = |object: &mut Value| {
            object["metadata"]["labels"]["kubevirt.io/schedulable"] = "true".into();
            object["metadata"]["annotations"][node::HEARTBEAT] = now.as_str().into();
        };
        let place = Place::new(Kind::NODE, "", node.name());
        self.api.update(&place, mark)?;
        self.api.update_status(&place, node::offer_devices).map(drop)
    }

    /// Makes a namespace that pods are admitted to; one that is there is as good.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn ensure_namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.api.ensure(Kind::NAMESPACE, "", &namespace)?;
        // Made here, it need not be waited for.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.api.ensure(Kind::ACCOUNT, name, &account)
    }

    fn tell(&self, about: &Value, told: Told<'_>, at: Timestamp) -> Result<()> {
        let number = self.n_events.fetch_add(1, Ordering::Relaxed);
        let event = object::event(about, told, number, at);
        let namespace = about["metadata"]["namespace"].as_str().unwrap_or("default");
        self.api.create(Kind::EVENT, namespace, &event).map(drop)
    }
}
