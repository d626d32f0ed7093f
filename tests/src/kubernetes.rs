//! A real Kubernetes in the lab: etcd, API server, controllers and scheduler in the lab's network, kubelet and containerd on lab nodes.
//!
//! The programs are those that `scripts/kubernetes.sh` builds. [`Cluster::start`] brings up the control plane and boots the nodes at the
//! same time; a node of the cluster is a [`Node`] like any other, with the units `containerd.service` and `kubelet.service` and without a
//! libvirt of its own. Everything ends with the lab, whatever happens: the control plane is in its cgroup, the pods in their node's.
//!
//! The API server is at 10.77.0.1:6443, reached from all nodes; pods have addresses in 10.78.*n*.0/24 on the node 10.77.0.*n* and reach
//! each other. Cluster addresses are served where a test asks for them ([`Cluster::serve_services`]); there are no cluster names, and there is
//! no registry: images are imported ([`images`], [`product`]).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::lab::{self, GATEWAY, Lab};
use crate::node::Node;
use crate::{shell, wait};

pub mod accounts;
mod certificates;
mod control_plane;
pub mod images;
mod names;
mod node;
pub mod owned;
mod pod;
pub mod product;
mod runtime;
mod services;

use certificates::Authority;
use names::NameServer;
pub use pod::Requested;
pub use runtime::ensure_runtime;

/// How long a node may take to be Ready; 5 to 10 s are normal.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// A running cluster: its control plane, and what it takes to add nodes. Ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    programs: Vec<control_plane::Program>,
    authority: Authority,
    binaries: PathBuf,
    folder: PathBuf,
    lab: Lab,
    /// Of each node.
    names: Mutex<Vec<NameServer>>,
}

impl Cluster {
    /// Starts the control plane and nodes of these names, and returns when all of them are Ready.
    ///
    /// # Errors
    /// If the programs are not built, or something does not come up in time: the end of its log.
    pub fn start(lab: &Lab, names: &[&str]) -> Result<(Self, Vec<Node>)> {
        let binaries = binaries()?;
        std::thread::scope(|scope| {
            let boots: Vec<_> = names
                .iter()
                .map(|name| lab.node(name).without_libvirt())
                .map(|node| scope.spawn(|| node.start()))
                .collect();
            let cluster = Self::start_control_plane(lab, binaries)?;
            let boot =
                |boot: std::thread::ScopedJoinHandle<'_, Result<Node>>| boot.join().expect("a boot does not panic");
            let nodes: Vec<Node> = boots.into_iter().map(boot).collect::<Result<_>>()?;
            for node in &nodes {
                cluster.join(node)?;
            }
            for node in &nodes {
                cluster.wait_for_node(node, true, READY_LIMIT).with_context(|| journal_tail(node))?;
            }
            Ok((cluster, nodes))
        })
    }

    fn start_control_plane(lab: &Lab, binaries: PathBuf) -> Result<Self> {
        let folder = lab::folder().join("kubernetes");
        fs::create_dir_all(&folder)?;
        let authority = Authority::new(&folder)?;
        let admin = authority.client("admin", "/O=system:masters/CN=lab-admin")?;
        fs::write(folder.join("admin.conf"), admin.kubeconfig())?;
        let mut cluster =
            Self { programs: Vec::new(), authority, binaries, folder, lab: lab.clone(), names: Mutex::default() };
        let is_ready = || cluster.answers();
        cluster.programs = control_plane::start(lab, &cluster.binaries, &cluster.folder, &cluster.authority, is_ready)?;
        Ok(cluster)
    }

    /// Kills the API server; etcd keeps what it knew.
    pub fn stop_api_server(&mut self) {
        control_plane::stop_api_server(&mut self.programs);
    }

    /// Starts the API server again, and returns when it is ready.
    ///
    /// # Errors
    /// If it does not come up in time: the ends of the logs.
    pub fn start_api_server(&mut self) -> Result<()> {
        let mut programs = std::mem::take(&mut self.programs);
        let is_ready = || self.answers();
        let up = control_plane::start_api_server(&mut programs, &self.lab, &self.binaries, &self.folder, is_ready);
        self.programs = programs;
        up
    }

    fn answers(&self) -> bool {
        self.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|answer| answer == "ok")
    }

    /// Gives a booted node containerd, kubelet and the lab's images, and starts them.
    ///
    /// # Errors
    /// If a unit does not start.
    pub fn join(&self, node: &Node) -> Result<()> {
        let names = Self::serve_names(node)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(names);
        node::join(self, node)
    }

    /// Runs `kubectl` as an administrator and returns what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        shell::output(self.kubectl_command().args(args))
    }

    /// What `kubectl get … --output json` prints.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&[&["get", "--output", "json"], args].concat())?)?)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// If the API server refuses it: what it said.
    pub fn create(&self, object: &Value) -> Result<()> {
        let mut command = self.kubectl_command();
        command.args(["create", "--filename", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start kubectl")?;
        child.stdin.take().context("standard input is piped")?.write_all(object.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// The built `kubectl`, for a test that starts it in its own way.
    #[must_use]
    pub fn kubectl_program(&self) -> PathBuf {
        self.binaries.join("kubectl")
    }

    /// A kubeconfig with every right, for a program in the lab's network.
    #[must_use]
    pub fn admin_config(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// Whether the node's condition Ready is True.
    ///
    /// # Errors
    /// If the API server does not answer, or there is no such node.
    pub fn is_ready(&self, node: &Node) -> Result<bool> {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        Ok(self.kubectl(&["get", "node", node.name(), "--output", path])? == "True")
    }

    /// Waits until a node is Ready, or is not any more; returns how long that took.
    ///
    /// # Errors
    /// If that does not happen within `limit`.
    pub fn wait_for_node(&self, node: &Node, is_ready: bool, limit: Duration) -> Result<Duration> {
        let what = format!("{} to be {}", node.name(), if is_ready { "Ready" } else { "NotReady" });
        // Until kubelet has registered there is no such node.
        wait::wait_until(&what, limit, || Ok(self.is_ready(node).is_ok_and(|ready| ready == is_ready)))
    }

    /// The last lines of the control plane's logs, to be shown with a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        control_plane::logs(&self.folder)
    }

    /// A `kubectl` with every right that ends with the lab, up to its subcommand, and a folder of the cluster.
    pub(crate) fn proxy_command(&self) -> (Command, PathBuf) {
        let mut command = self.lab.command(self.binaries.join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin_config()).env("HOME", &self.folder);
        (command, self.folder.clone())
    }

    fn kubectl_command(&self) -> Command {
        let mut command = self.lab.brief_command(self.binaries.join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin_config()).env("HOME", &self.folder);
        command
    }
}

/// The folder of the built programs.
fn binaries() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kubernetes.sh");
    let folder = shell::run(&[&script.to_string_lossy(), "--where"])?;
    Ok(PathBuf::from(folder))
}

fn tail(path: &Path, name: &str) -> String {
    let log = fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n");
    format!("{name} ends:\n{last}")
}

fn journal_tail(node: &Node) -> String {
    let journal = ["journalctl", "--no-pager", "--lines=25", "--output=cat", "--unit=kubelet", "--unit=containerd"];
    node.run(&journal).unwrap_or_else(|error| format!("{error:#}"))
}

/// The first three parts of the addresses of a node's pods.
pub(crate) fn pod_subnet(node: &Node) -> String {
    let number = node.address().rsplit('.').next().unwrap_or_default();
    format!("10.78.{number}")
}

/// Where the API server is reached.
pub(crate) fn server() -> String {
    format!("https://{GATEWAY}:{}", control_plane::PORT)
}
