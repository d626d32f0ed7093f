//! Who may talk to central, decided by a real API server: real tokens, bound to pods, and real users with roles.
//!
//! A control plane without kubelets: a token of a pod needs the pod's object, not its containers. Central has the rights of `docs/central-role.yaml`
//! and no others. The test speaks gRPC from inside the lab's network, where central listens on loopback.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_proto::v1::{self, agent_message::Message, ingest_client::IngestClient, query_client::QueryClient};
use kulprit_tests::check::report;
use kulprit_tests::kubernetes::accounts::{MISSING, Right, THERE, document, logged, rights, used, without};
use kulprit_tests::lab::built_binary;
use kulprit_tests::node::Running;
use kulprit_tests::wait::wait_until;
use kulprit_tests::{Cluster, Lab};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const NAMESPACE: &str = "kulprit";
const CENTRAL: &str = "kulprit-central";
const AUDIENCE: &str = "kulprit-central";
const PORT: u16 = 17443;
/// Central's start, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Nothing that is asked here takes longer.
const ANSWER: Duration = Duration::from_secs(20);

fn role(name: &str, namespace: Option<&str>, rules: &Value) -> Value {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "rules": rules})
}

fn binding(name: &str, namespace: Option<&str>) -> Value {
    let (kind, of) = if namespace.is_some() { ("RoleBinding", "Role") } else { ("ClusterRoleBinding", "ClusterRole") };
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": of, "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": name}]})
}

/// Nodes, pods of agents on them, accounts and their rights.
fn prepare(cluster: &Cluster) -> Result<()> {
    for namespace in [NAMESPACE, "prod", "test"] {
        cluster.ensure_namespace(namespace)?;
    }
    for name in ["kulprit-agent", "kulprit-central", "kulprit-reader", "ada", "web"] {
        cluster.kubectl(&["create", "serviceaccount", name, "--namespace", NAMESPACE])?;
    }
    for node in ["n1", "n2"] {
        cluster.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}))?;
        cluster.create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("agent-{node}"), "namespace": NAMESPACE},
            "spec": {"serviceAccountName": "kulprit-agent", "nodeName": node, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "agent", "image": "none", "imagePullPolicy": "Never"}]},
        }))?;
    }
    cluster.grant(CENTRAL, &document("central-role.yaml")?)?;
    cluster.apply(&document("reader-role.yaml")?)?;
    cluster.create(&binding("kulprit-reader", None))?;
    let get_vms = json!([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachineinstances"], "verbs": ["get"]}]);
    cluster.create(&role("ada", Some("prod"), &get_vms))?;
    cluster.create(&binding("ada", Some("prod")))
}

const ASKING: &str = "access: {agents: token, queries: review}\n";

/// A central that asks the cluster's API server who calls.
struct Scene<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster,
    folder: tempfile::TempDir,
    _central: Running,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, cluster: &'a Cluster, config_text: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::copy(cluster.admin_config(), at("kubeconfig"))?;
        let config =
            |words: &[&str]| cluster.kubectl(&[&["config", "--kubeconfig", &at("kubeconfig")], words].concat());
        let token = cluster.kubectl(&["create", "token", "kulprit-central", "--namespace", NAMESPACE])?;
        config(&["set-credentials", "central", &format!("--token={token}")])?;
        let namespace = format!("--namespace={NAMESPACE}");
        config(&["set-context", "central", "--cluster=lab", "--user=central", &namespace])?;
        let yaml = format!(
            "{config_text}leader_election: false\nkubernetes: {{kubeconfig: {}, context: central}}\n",
            at("kubeconfig")
        );
        fs::write(at("central.yaml"), yaml)?;
        let log = File::create(at("central.log"))?;
        let mut command = lab.command(built_binary("kulprit-central").context("`kulprit-central` is not built")?);
        command
            .args(["--config", &at("central.yaml"), "--data-dir", &at("central")])
            .args([format!("--listen=127.0.0.1:{PORT}"), format!("--admin-listen=127.0.0.1:{}", PORT + 1)])
            .stdout(log.try_clone()?)
            .stderr(log);
        let central = Running::start(&mut command)?;
        let scene = Self { lab, cluster, folder, _central: central };
        let took =
            wait_until("central to listen", SOON, || Ok(scene.metrics().is_ok())).with_context(|| scene.log())?;
        report("central", took);
        Ok(scene)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("central.log")).unwrap_or_default()
    }

    /// Waits until a line of central's log has both.
    fn says(&self, words: &str, right: &Right) -> Result<()> {
        let is_said = || Ok(self.log().lines().any(|line| line.contains(words) && line.contains(&logged(right))));
        let what = format!("{words}: {}", logged(right));
        let took = wait_until(&what, SOON, is_said).with_context(|| self.log())?;
        report(&what, took);
        Ok(())
    }

    /// A token of a service account; of a pod's if one is named.
    fn token(&self, account: &str, audience: Option<&str>, pod: Option<&str>) -> Result<String> {
        let audience = audience.map(|audience| format!("--audience={audience}"));
        let pod = pod.map(|pod| format!("--bound-object-name={pod}"));
        let mut words = vec!["create", "token", account, "--namespace", NAMESPACE];
        words.extend(audience.as_deref());
        if let Some(pod) = &pod {
            words.extend(["--bound-object-kind=Pod", pod]);
        }
        self.cluster.kubectl(&words)
    }

    /// An agent's stream; how it ended if that was soon.
    fn agent(&self, node: &str, token: Option<&str>) -> Result<Result<Stream, Status>> {
        let hello = v1::Hello { node: node.to_owned(), boot_id: "boot-1".to_owned(), epoch: 1, ..v1::Hello::default() };
        let (node, token) = (node.to_owned(), token.map(str::to_owned));
        self.lab.inside(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let opened = runtime.block_on(open(hello, token.as_deref()))?;
            Ok(opened.map(|stream| Stream { runtime, stream, node }))
        })
    }

    /// What a question is answered with.
    fn ask<T: Send + 'static>(
        &self,
        token: Option<&str>,
        ask: impl AsyncFnOnce(QueryClient<Channel>, Option<&str>) -> T + Send + 'static,
    ) -> Result<T> {
        let token = token.map(str::to_owned);
        self.lab.inside(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = QueryClient::new(channel().await?);
                Ok(tokio::time::timeout(ANSWER, ask(client, token.as_deref())).await?)
            })
        })
    }

    fn explain(&self, token: &str, vm: &str) -> Result<Status> {
        let vm = vm.to_owned();
        let answer = self.ask(Some(token), async move |mut client, token| {
            client.explain_vm(with(v1::ExplainVmRequest { vm, node: String::new() }, token)).await
        })?;
        answer.map(|answer| answer.into_inner()).err().context("no VM is known")
    }

    /// Nodes of which an agent was heard.
    fn nodes(&self, token: Option<&str>) -> Result<Result<Vec<String>, Status>> {
        let answer =
            self.ask(token, async |mut client, token| client.list_nodes(with(v1::ListNodesRequest {}, token)).await)?;
        let heard = |node: v1::Node| (node.last_heard_wall_usec != 0).then_some(node.name);
        Ok(answer.map(|answer| answer.into_inner().nodes.into_iter().filter_map(heard).collect()))
    }

    fn metrics(&self) -> Result<String> {
        self.lab.inside(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", PORT + 1))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// A series' value.
    fn value(&self, series: &str) -> Result<u64> {
        let metrics = self.metrics()?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        Ok(value.unwrap_or(0))
    }

    /// Refused with that code, and counted under that word.
    fn is_refused(&self, node: &str, token: Option<&str>, code: Code, word: &str) -> Result<()> {
        let series = format!("kulprit_central_access_total{{api=\"ingest\",outcome=\"{word}\"}}");
        let before = self.value(&series)?;
        let status = self.agent(node, token)?.err().with_context(|| format!("{word}: it was let in"))?;
        ensure!(status.code() == code, "{word}: {status:?}\n{}", self.log());
        ensure!(self.value(&series)? == before + 1, "{word} is not counted: {}", self.metrics()?);
        Ok(())
    }
}

/// An agent's stream that stays open.
struct Stream {
    runtime: tokio::runtime::Runtime,
    stream: (mpsc::Sender<v1::AgentMessage>, tonic::Streaming<v1::CentralMessage>),
    node: String,
}

impl Stream {
    /// Whether central still takes what it says: it acks a heartbeat with nothing, and ends with a reason.
    fn is_open(&mut self) -> Result<bool> {
        let heartbeat = v1::AgentMessage { message: Some(Message::Heartbeat(v1::Heartbeat::default())) };
        let (to_central, from_central) = &mut self.stream;
        self.runtime.block_on(async {
            let sent = to_central.send(heartbeat).await;
            let ended = tokio::time::timeout(Duration::from_millis(500), from_central.message()).await;
            sent.with_context(|| format!("the stream of {} is closed", self.node))?;
            Ok(!matches!(ended, Ok(Ok(None) | Err(_))))
        })
    }
}

fn with<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a token is plain text");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

async fn channel() -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://127.0.0.1:{PORT}"))?.connect().await?)
}

type Opened = (mpsc::Sender<v1::AgentMessage>, tonic::Streaming<v1::CentralMessage>);

/// A stream that has said Hello, once central has taken a snapshot of nothing; an error if it is refused.
async fn open(hello: v1::Hello, token: Option<&str>) -> Result<Result<Opened, Status>> {
    let (to_central, messages) = mpsc::channel(16);
    let first = [
        Message::Hello(hello),
        Message::SnapshotBegin(v1::SnapshotBegin {}),
        Message::SnapshotEnd(v1::SnapshotEnd { seq: 0 }),
    ];
    for message in first {
        to_central.send(v1::AgentMessage { message: Some(message) }).await?;
    }
    let mut client = IngestClient::new(channel().await?);
    let mut stream = match client.report(with(ReceiverStream::new(messages), token)).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    // Whom Hello gives away is told at once.
    match tokio::time::timeout(Duration::from_secs(2), stream.message()).await {
        Ok(Err(status)) => Ok(Err(status)),
        Ok(Ok(_)) | Err(_) => Ok(Ok((to_central, stream))),
    }
}

#[test]
fn kubernetes_says_who_may_talk_to_central_and_be_told_what() -> Result<()> {
    let lab = Lab::open()?;
    let (mut cluster, _) = Cluster::start(&lab, &[])?;
    prepare(&cluster)?;
    let scene = Scene::new(&lab, &cluster, ASKING)?;
    let token = |account: &str, audience: Option<&str>, pod: Option<&str>| scene.token(account, audience, pod);

    // An agent, by the token of its pod.
    let of_n1 = token("kulprit-agent", Some(AUDIENCE), Some("agent-n1"))?;
    let mut agent =
        scene.agent("n1", Some(&of_n1))?.map_err(|status| anyhow::anyhow!("{status:?}\n{}", scene.log()))?;
    ensure!(agent.is_open()?, "{}", scene.log());

    // Attacks.
    use Code::{PermissionDenied, Unauthenticated};
    scene.is_refused("n2", Some(&of_n1), PermissionDenied, "node")?;
    let of_none = token("kulprit-agent", Some(AUDIENCE), None)?;
    scene.is_refused("n1", Some(&of_none), PermissionDenied, "node")?;
    scene.is_refused("n1", None, Unauthenticated, "no_token")?;
    let for_the_api = token("kulprit-agent", None, Some("agent-n1"))?;
    scene.is_refused("n1", Some(&for_the_api), Unauthenticated, "audience")?;
    scene.is_refused("n1", Some(&token("web", Some(AUDIENCE), None)?), PermissionDenied, "account")?;
    let (claims, _) = of_n1.rsplit_once('.').context("a token has three parts")?;
    scene.is_refused("n1", Some(&format!("{claims}.c2ln")), Unauthenticated, "unauthenticated")?;
    let of_n2 = token("kulprit-agent", Some(AUDIENCE), Some("agent-n2"))?;
    // At once: no kubelet is there to say that it has ended.
    cluster.kubectl(&["delete", "pod", "agent-n2", "--namespace", NAMESPACE, "--force", "--grace-period=0"])?;
    scene.is_refused("n2", Some(&of_n2), Unauthenticated, "unauthenticated")?;

    // People: their own tokens, and what Kubernetes lets them get.
    let ada = token("ada", None, None)?;
    ensure!(scene.explain(&ada, "prod/db-0")?.code() == Code::NotFound);
    let refused = scene.explain(&ada, "test/db-0")?;
    let want = "`system:serviceaccount:kulprit:ada` may not get virtualmachineinstances.kubevirt.io `db-0` in the namespace `test`";
    ensure!((refused.code(), refused.message()) == (PermissionDenied, want), "{refused:?}");
    let refused = scene.nodes(Some(&ada))?.err().context("ada may not get nodes")?;
    ensure!(refused.code() == PermissionDenied, "{refused:?}");
    let refused = scene.nodes(None)?.err().context("nobody may ask")?;
    ensure!(refused.code() == Unauthenticated, "{refused:?}");
    let reader = token("kulprit-reader", Some(AUDIENCE), None)?;
    let seen = scene.nodes(Some(&reader))?.map_err(|status| anyhow::anyhow!("{status:?}"))?;
    ensure!(seen == ["n1"], "{seen:?}: nothing of what was refused is known");
    // Somebody else's audience is nobody's.
    let refused = scene.nodes(Some(&token("ada", Some("vault"), None)?))?.err().context("it was not made for us")?;
    ensure!(refused.code() == Unauthenticated, "{refused:?}");

    // An API server that does not answer ends no stream, and lets nobody in: which is another answer than no.
    let late = scene.token("kulprit-agent", Some(AUDIENCE), Some("agent-n1"))?;
    // Whoever changes the cluster is the only one who has it.
    let Scene { folder, _central, .. } = scene;
    cluster.stop_api_server();
    let scene = Scene { lab: &lab, cluster: &cluster, folder, _central };
    scene.is_refused("n1", Some(&late), Code::Unavailable, "cannot_verify")?;
    ensure!(agent.is_open()?, "{}", scene.log());
    let cannot = scene.nodes(Some(&reader))?;
    ensure!(cannot.is_ok() || cannot.as_ref().is_err_and(|status| status.code() == Code::Unavailable), "{cannot:?}");
    Ok(())
}

/// What [`rights.rs`](./rights.rs) does with all other rights.
#[test]
fn central_names_the_right_to_ask_who_calls_and_to_keep_its_certificate_where_it_is_missing() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, _) = Cluster::start(&lab, &[])?;
    prepare(&cluster)?;
    let right = |namespace: &str, group: &str, resource: &str, verb: &str| {
        [namespace, group, resource, verb].map(str::to_owned)
    };
    let used_well = |granted: &BTreeSet<Right>| -> Result<BTreeSet<Right>> {
        let mut audited = cluster.audited(CENTRAL)?;
        audited.retain(|one| one.code < 400);
        Ok(used(&audited, granted))
    };

    // Who calls.
    let roles = document("central-role.yaml")?;
    let tokens = right("", "authentication.k8s.io", "tokenreviews", "create");
    let access = right("", "authorization.k8s.io", "subjectaccessreviews", "create");
    let scene = Scene::new(&lab, &cluster, ASKING)?;
    let of_agent = || scene.token("kulprit-agent", Some(AUDIENCE), Some("agent-n1"));
    let ada = scene.token("ada", None, None)?;
    ensure!(scene.agent("n1", Some(&of_agent()?))?.is_ok(), "{}", scene.log());
    ensure!(scene.explain(&ada, "prod/db-0")?.code() == Code::NotFound, "{}", scene.log());
    let seen = used_well(&rights(&roles)?)?;
    ensure!(seen.contains(&tokens) && seen.contains(&access), "{seen:?}");
    cluster.apply(&without(&roles, |right| *right == tokens)?)?;
    // An answer that is kept asks nobody, so each of these is by a token of its own.
    wait_until("an agent to be refused", SOON, || Ok(scene.agent("n1", Some(&of_agent()?))?.is_err()))?;
    scene.says(MISSING, &tokens)?;
    scene.is_refused("n1", Some(&of_agent()?), Code::Unavailable, "cannot_verify")?;
    cluster.apply(&without(&roles, |right| *right == access)?)?;
    wait_until("an agent to be let in", SOON, || Ok(scene.agent("n1", Some(&of_agent()?))?.is_ok()))?;
    scene.says(THERE, &tokens)?;
    // What was allowed is known for a while; of another VM it has to be asked.
    let refused = scene.explain(&ada, "prod/db-1")?;
    ensure!(refused.code() == Code::Unavailable, "not known is not no: {refused:?}");
    scene.says(MISSING, &access)?;
    cluster.apply(&roles)?;
    wait_until("ada to be told", SOON, || Ok(scene.explain(&ada, "prod/db-1")?.code() == Code::NotFound))?;
    scene.says(THERE, &access)?;
    drop(scene);

    // The certificate: first as it is made, then as it is made again for another name, with the CA that others see spoilt.
    let roles = document("made-role.yaml")?;
    cluster.grant(CENTRAL, &roles)?;
    let own = |resource: &str, verb: &str| right(NAMESPACE, "", resource, verb);
    let mut all_named = BTreeSet::new();
    let (first, then) = (
        ["secrets create", "configmaps create"],
        ["secrets get", "secrets update", "configmaps get", "configmaps update"],
    );
    for (name, order) in [("one.example", &first[..]), ("other.example", &then[..])] {
        let config = format!("access: {{agents: open, queries: open}}\ntls: {{made: {{names: [{name}]}}}}\n");
        let mut running = None;
        for words in order {
            let (resource, verb) = words.split_once(' ').context("two words")?;
            let taken = own(resource, verb);
            cluster.apply(&without(&roles, |right| *right == taken)?)?;
            let scene = match running.take() {
                Some(scene) => scene,
                None => Scene::new(&lab, &cluster, &config)?,
            };
            scene.says(MISSING, &taken)?;
            all_named.insert(taken);
            running = Some(scene);
        }
        // With the names of what is kept, which the Role has and its parts above have not.
        cluster.apply(&roles)?;
        let scene = running.context("there is an order")?;
        let map = ["get", "configmap", "kulprit-central-ca", "--namespace", NAMESPACE, "--output", "yaml"];
        let is_kept = || Ok(cluster.kubectl(&map).is_ok_and(|map| map.contains("BEGIN CERTIFICATE")));
        wait_until("the CA that all may see", SOON, is_kept).with_context(|| scene.log())?;
        drop(scene);
        let spoilt = r#"{"data": {"ca.crt": "spoilt"}}"#;
        cluster.kubectl(&["patch", "configmap", "kulprit-central-ca", "--namespace", NAMESPACE, "--patch", spoilt])?;
    }
    let granted = rights(&roles)?;
    ensure!(all_named == granted, "each right was taken away once: {all_named:?}");
    let seen = used_well(&granted)?;
    ensure!(granted.is_subset(&seen), "granted and not used: {:?}", granted.difference(&seen));
    Ok(())
}
