//! `kubectl kulprit` on a real Kubernetes: a real kubeconfig, API server, kubelet and containerd between the command and central.
//!
//! Central listens on the loopback of a node alone, where only a forwarded stream comes in, and asks Kubernetes who comes; a pod on the node's
//! network with central's labels stands for its own. Asked by the plugin itself, and by the real `kubectl` that finds it in `PATH`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::{assert_contains, failure, report};
use kulprit_tests::kubernetes::images::PAUSE;
use kulprit_tests::lab::built_binary;
use kulprit_tests::node::Running;
use kulprit_tests::wait::{wait_for, wait_until};
use kulprit_tests::{Cluster, Lab, Node, shell};
use serde_json::json;
use tempfile::TempDir;

const NAMESPACE: &str = "kulprit";
/// Not central's own, so that the port's name is what leads there.
const PORT: u16 = 17443;
/// A pod's start, an agent's first looks: debug builds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Central and an agent in a node's network, and a folder in which the command has its other names.
struct Scene<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster,
    folder: TempDir,
    central: Option<Running>,
    _agent: Running,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, cluster: &'a Cluster, node: &Node) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let binary = |name: &str| built_binary(name).with_context(|| format!("`{name}` is not built"));
        for name in ["kubectl-kulprit", "kubectl_complete-kulprit"] {
            symlink(binary("kulprit")?, at(name))?;
        }
        let log = |name: &str| fs::File::create(at(&format!("{name}.log")));
        let start = |name: &str, words: &[String]| -> Result<Running> {
            let mut command = node.agent_command(binary(name)?);
            Running::start(command.args(words).stdout(log(name)?).stderr(log(name)?))
        };
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        fs::write(at("central.yaml"), "access: {queries: review}\n")?;
        let central = start(
            "kulprit-central",
            &[
                format!("--config={}", path(at("central.yaml"))),
                format!("--listen=127.0.0.1:{PORT}"),
                format!("--admin-listen=127.0.0.1:{}", PORT + 1),
                format!("--data-dir={}", path(at("central"))),
                format!("--kubeconfig={}", path(cluster.admin_config())),
            ],
        )?;
        let agent = start(
            "kulprit-agent",
            &[
                "run".to_owned(),
                format!("--node-name={}", node.name()),
                format!("--central=http://127.0.0.1:{PORT}"),
                format!("--host-root={}", path(node.root())),
                format!("--state-dir={}", path(at("agent"))),
            ],
        )?;
        Ok(Self { lab, cluster, folder, central: Some(central), _agent: agent })
    }

    /// What a command of the lab's network prints, with the plugin in its PATH.
    fn ask(&self, program: PathBuf, words: &[&str]) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.lab.brief_command(program);
        command
            .args(words)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env_remove("KULPRIT_CENTRAL");
        shell::output(&mut command)
    }

    fn plugin(&self, words: &[&str]) -> Result<String> {
        self.ask(self.folder.path().join("kubectl-kulprit"), words)
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.ask(self.cluster.kubectl_program(), words)
    }

    /// The cluster's, copied, so that a context can be added.
    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Where to look when nothing answers.
    fn told(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
        };
        let pods = self.cluster.kubectl(&["describe", "pods", "--namespace", NAMESPACE]);
        format!(
            "central ends:\n{}\nagent ends:\n{}\npods:\n{}\n{}",
            tail("kulprit-central"),
            tail("kulprit-agent"),
            pods.unwrap_or_else(|error| format!("{error:#}")),
            self.cluster.logs()
        )
    }

    /// Waits until the plugin is refused so, because of what was changed last.
    fn is_refused(&self, context: &str, words: &[&str]) -> Result<()> {
        let (said, took) = wait_for(&format!("{context} to be told {words:?}"), SOON, || {
            let said = failure(self.plugin(&["--context", context, "nodes"]));
            Ok(words.iter().all(|word| said.contains(word)).then_some(said))
        })
        .with_context(|| failure(self.plugin(&["--context", context, "nodes"])))?;
        report(&said, took);
        Ok(())
    }
}

/// A pod that is central to who looks for it: on the node's network, where central listens.
fn create_pod(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.ensure_namespace(NAMESPACE)?;
    cluster.create(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "central-0",
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "kulprit", "app.kubernetes.io/component": "central"},
        },
        "spec": {
            "hostNetwork": true,
            "nodeSelector": {"kubernetes.io/hostname": node.name()},
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "central",
                "image": PAUSE,
                "imagePullPolicy": "Never",
                "ports": [{"name": "grpc", "containerPort": PORT}],
            }],
        },
    }))?;
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    let get = ["get", "pod", "central-0", "--namespace", NAMESPACE, "--output", ready];
    let took = wait_until("central's pod to be Ready", SOON, || Ok(cluster.kubectl(&get)? == "True"))
        .with_context(|| cluster.kubectl(&["describe", "pod", "--namespace", NAMESPACE]).unwrap_or_default())?;
    report("central's pod", took);
    Ok(())
}

#[test]
fn central_is_asked_through_kubernetes_with_no_more_rights_than_it_says() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    let mut scene = Scene::new(&lab, &cluster, node)?;
    fs::copy(cluster.admin_config(), scene.kubeconfig())?;

    assert_contains(&failure(scene.plugin(&["nodes"])), "no pod of central in the namespace kulprit");
    create_pod(&cluster, node)?;
    // The administrator's kubeconfig has a client certificate, which central is not shown.
    let refused =
        || Ok(failure(scene.plugin(&["nodes"])).contains("service account kulprit/kulprit-reader could be had"));
    wait_until("the plugin to be told what it lacks", SOON, refused)
        .with_context(|| format!("{:?}\n{}", scene.plugin(&["nodes"]), scene.told()))?;
    cluster.kubectl(&["create", "serviceaccount", "kulprit-reader", "--namespace", NAMESPACE])?;
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reader-role.yaml");
    cluster.kubectl(&["apply", "--filename", &role.to_string_lossy()])?;
    let account = format!("--serviceaccount={NAMESPACE}:kulprit-reader");
    cluster.kubectl(&["create", "clusterrolebinding", "kulprit-reader", "--clusterrole=kulprit-reader", &account])?;
    let is_asked = || Ok(scene.plugin(&["nodes"]).is_ok_and(|answer| answer.contains("reporting")));
    let took = wait_until("the plugin's answer", SOON, is_asked)
        .with_context(|| format!("{:?}\n{}", scene.plugin(&["nodes"]), scene.told()))?;
    report("nodes, through Kubernetes", took);
    assert_contains(&scene.plugin(&["node", "n1"])?, "n1: reporting");
    // Exit status 3 is an answer too: what the build machine's own kernel log holds is not the test's.
    let why = scene.plugin(&["why", "node/n1"]);
    let is_answer =
        why.as_ref().map_or_else(|error| format!("{error:#}").contains("status: 3"), |page| page.contains("n1"));
    ensure!(is_answer, "{why:?}\n{}", scene.told());
    assert_contains(&failure(scene.plugin(&["why", "db-0"])), "default/db-0");
    assert_contains(&failure(scene.plugin(&["why", "vm/db-0", "-n", "prod"])), "prod/db-0");

    // The real kubectl finds the plugin, and its completion, by their names.
    assert_contains(&scene.kubectl(&["kulprit", "nodes"])?, "n1");
    assert_contains(&scene.kubectl(&["kulprit", "--help"])?, "kubectl kulprit");
    let offered = scene.kubectl(&["__complete", "kulprit", "node", ""])?;
    ensure!(offered.lines().any(|line| line == "n1"), "kubectl offers {offered:?}");

    // Somebody with no rights is told which ones, one after the other, until they are enough.
    cluster.kubectl(&["create", "serviceaccount", "eve", "--namespace", NAMESPACE])?;
    let token = cluster.kubectl(&["create", "token", "eve", "--namespace", NAMESPACE])?;
    scene.kubectl(&["config", "set-credentials", "eve", &format!("--token={token}")])?;
    scene.kubectl(&["config", "set-context", "eve", "--cluster=lab", "--user=eve"])?;
    let grant = |name: &str, verbs: &str, resource: &str| -> Result<()> {
        let (verbs, resource) = (format!("--verb={verbs}"), format!("--resource={resource}"));
        cluster.kubectl(&["create", "role", name, &verbs, &resource, "--namespace", NAMESPACE])?;
        let (role, account) = (format!("--role={name}"), format!("--serviceaccount={NAMESPACE}:eve"));
        cluster.kubectl(&["create", "rolebinding", name, &role, &account, "--namespace", NAMESPACE]).map(drop)
    };
    scene.is_refused("eve", &["may not list pods in the namespace kulprit", "eve"])?;
    grant("see", "list", "pods")?;
    scene.is_refused("eve", &["may not forward to pod kulprit/central-0", "get and create pods/portforward"])?;
    grant("forward", "get,create", "pods/portforward")?;
    // She reaches central, shows it her own token, and is told what she lacks there.
    scene.is_refused("eve", &["`system:serviceaccount:kulprit:eve` may not get nodes"])?;
    let account = format!("--serviceaccount={NAMESPACE}:eve");
    cluster.kubectl(&["create", "clusterrole", "get-nodes", "--verb=get", "--resource=nodes"])?;
    cluster.kubectl(&["create", "clusterrolebinding", "get-nodes", "--clusterrole=get-nodes", &account])?;
    let is_enough = || Ok(scene.plugin(&["--context", "eve", "nodes"]).is_ok());
    wait_until("the rights to be enough", SOON, is_enough)
        .with_context(|| failure(scene.plugin(&["--context", "eve", "nodes"])))?;

    // A pod where nobody listens is named, with what kubelet says of it.
    scene.central.take();
    let said = failure(scene.plugin(&["nodes"]));
    for word in ["nobody answers in pod kulprit/central-0 at port 17443", "refused"] {
        assert_contains(&said, word);
    }
    Ok(())
}
