//! Who may talk to central, over real gRPC: agents by the tokens of their pods, people by what Kubernetes lets them get.
//!
//! Each attack is counted under its word. What an API server may answer, and when, is in `central/src/access/tests.rs`.

use std::{path::Path, time::Duration};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use kulprit_central::{
    access::{Agents, Queries},
    config::AccessConfig,
};
use kulprit_model::{FindingCode, Status, Subject};
use kulprit_proto::v1::{self, agent_message::Message, query_client::QueryClient, watch_incidents_response};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    agent::{Agent, PATIENCE, channel, hello, kubelet, state},
    api::{AT, Api},
    app::App,
};

const AGENT: &str = "system:serviceaccount:ops:kulprit-agent";
const VMIS: &str = "virtualmachineinstances";
const OF_PROD: &str = "23a93a57-8a28-4551-94a0-f9ee63305db5";
const OF_TEST: &str = "7f1002cb-5c91-449c-bc33-51fc02ac65f4";

type Metadata = MetadataValue<Ascii>;
type Client = QueryClient<InterceptedService<Channel, Shows>>;

/// Shows a token with each question, or none.
#[derive(Clone)]
struct Shows(Option<Metadata>);

impl tonic::service::Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        if let Some(token) = self.0.clone() {
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }
}

/// A central that lets in whom the API server knows, and two stuck VMs on `n2`, whose kubelet is down: `prod/db-0` and `test/secret`.
struct Scene {
    api: Api,
    app: App,
}

impl Scene {
    async fn start(folder: &Path) -> Self {
        let api = Api::recorded().await;
        let access = AccessConfig {
            agents: Some(Agents::Token),
            queries: Some(Queries::Review),
            agent_account: Some("ops/kulprit-agent".to_owned()),
            ..AccessConfig::default()
        };
        let app = api.guarded_central(folder, AT, access).await;
        Self { api, app }
    }

    /// Somebody with these rights: `resource namespace`.
    async fn user(&self, name: &str, rights: &[&str]) -> Client {
        self.api.set(|state| {
            state.users.insert(name.to_owned(), json!({"username": name}));
            state.rights.extend(rights.iter().map(|right| format!("{name} {right}")));
        });
        self.client(Some(name)).await
    }

    async fn client(&self, token: Option<&str>) -> Client {
        let token = token.map(|token| format!("Bearer {token}").parse().unwrap());
        QueryClient::with_interceptor(channel(self.app.grpc()).await, Shows(token))
    }

    /// The token of an agent's pod on that node.
    fn token(&self, node: &str, lives_secs: i64, audience: &str) -> String {
        let payload = json!({"node": node, "aud": [audience], "exp": AT.wall_usec / 1_000_000 + lives_secs});
        let token = format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(payload.to_string().as_bytes()));
        let user = json!({"username": AGENT, "extra": {"authentication.kubernetes.io/node-name": [node]}});
        self.api.set(|state| state.users.insert(token.clone(), user));
        token
    }

    async fn agent(&self, node: &str, token: &str) -> Result<Agent, tonic::Status> {
        let first = Message::Hello(v1::Hello { cluster: String::new(), ..hello(node, 1, self.app.now()) });
        Agent::try_open(self.app.grpc(), first, Some(token)).await
    }

    /// How often a word was counted.
    async fn counted(&self, service: &str, outcome: &str) -> u64 {
        let series = format!("kulprit_central_access_total{{api=\"{service}\",outcome=\"{outcome}\"}} ");
        let metrics = self.app.admin("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
        value.unwrap_or(0)
    }

    /// Two VMs that do not stop, and the fault that explains both.
    async fn stuck(&self) -> Agent {
        let vmi = |namespace: &str, name: &str, uid: &str| {
            let recorded: Value = serde_json::from_str(include_str!("../../cluster/fixtures/two-nodes.json")).unwrap();
            let items = recorded["items"].as_array().unwrap();
            let mut vmi = items.iter().find(|item| item["kind"] == "VirtualMachineInstance").unwrap().clone();
            for (key, value) in [("namespace", namespace), ("name", name), ("uid", uid)] {
                vmi["metadata"][key] = json!(value);
            }
            vmi["metadata"]["deletionTimestamp"] = json!("2026-11-21T05:20:00Z");
            vmi["metadata"]["deletionGracePeriodSeconds"] = json!(30);
            vmi
        };
        self.api.put(vmi("prod", "db-0", OF_PROD));
        self.api.put(vmi("test", "secret", OF_TEST));
        let now = self.app.now();
        let mut agent = self.agent("n2", &self.token("n2", 3_600, "kulprit-central")).await.unwrap();
        let of_vm = state(FindingCode::VmDiskStalled, Subject::vm(OF_TEST), Status::Present, now);
        agent.snapshot(vec![kubelet(Status::Present, now.offset_usec(-600_000_000)), of_vm], now).await;
        agent.acked(2).await;
        agent
    }
}

#[track_caller]
fn check<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, code: Code, text: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Asks until `is` holds of the answer.
async fn wait_for<T: std::fmt::Debug>(ask: impl AsyncFn() -> T, is: impl Fn(&T) -> bool) -> T {
    let mut last = None;
    let waited = timeout(PATIENCE, async {
        loop {
            let answer = ask().await;
            if is(&answer) {
                return answer;
            }
            last = Some(answer);
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("it stays {last:#?}"))
}

fn names(incidents: &[v1::Incident]) -> Vec<String> {
    let members = incidents.iter().flat_map(|incident| &incident.members);
    let mut names: Vec<String> = members
        .map(|member| {
            let subject = member.subject.clone().unwrap();
            if subject.uid.is_empty() { subject.node } else { format!("{}/{}", subject.namespace, subject.name) }
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[tokio::test]
async fn an_agent_reports_for_the_node_of_its_token_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path()).await;
    let mut good = scene.agent("n1", &scene.token("n1", 3_600, "kulprit-central")).await.unwrap();
    good.snapshot(vec![kubelet(Status::Absent, scene.app.now())], scene.app.now()).await;
    good.acked(1).await;

    // A token of another node's pod: refused whole, nothing of it is known afterwards.
    let mut forged = scene.agent("n2", &scene.token("n1", 3_601, "kulprit-central")).await.unwrap();
    let end = forged.end().await;
    assert_eq!(end.code(), Code::PermissionDenied);
    assert_eq!(end.message(), format!("hello.node: `n2`, but {AGENT} is of the node `n1`"));
    let first = v1::Hello { cluster: "another".to_owned(), ..hello("n1", 1, scene.app.now()) };
    let token = scene.token("n1", 3_602, "kulprit-central");
    let mut foreign = Agent::try_open(scene.app.grpc(), Message::Hello(first), Some(&token)).await.unwrap();
    assert_eq!(foreign.end().await.code(), Code::InvalidArgument);
    let admin = scene.user("admin", &["nodes ", &format!("{VMIS} ")]).await;
    let nodes = admin.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let heard = nodes.iter().filter(|node| node.last_heard_wall_usec != 0 || !node.agent_version.is_empty());
    assert_eq!(heard.map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1"]);

    let refused = async |token: Option<&str>, code: Code| {
        let first = Message::Hello(hello("n1", 1, scene.app.now()));
        let status = Agent::try_open(scene.app.grpc(), first, token).await.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
    };
    refused(None, Code::Unauthenticated).await;
    refused(Some("garbage"), Code::Unauthenticated).await;
    refused(Some(&"a".repeat(10_000)), Code::Unauthenticated).await;
    refused(Some(&scene.token("n1", -120, "kulprit-central")), Code::Unauthenticated).await;
    refused(Some(&scene.token("n1", 3_600, "vault")), Code::Unauthenticated).await;
    let of_another = scene.token("n1", 3_603, "kulprit-central");
    scene
        .api
        .set(|state| state.users.insert(of_another.clone(), json!({"username": "system:serviceaccount:shop:web"})));
    refused(Some(&of_another), Code::PermissionDenied).await;
    let unknown = scene.token("n1", 3_604, "kulprit-central");
    scene.api.set(|state| state.users.remove(&unknown));
    refused(Some(&unknown), Code::Unauthenticated).await;
    scene.api.set(|state| state.reviews_fail = Some(500));
    refused(Some(&scene.token("n1", 3_605, "kulprit-central")), Code::Unavailable).await;
    let want = [
        ("let_in", 3),
        ("no_token", 1),
        ("malformed", 2),
        ("expired", 1),
        ("audience", 1),
        ("account", 1),
        ("unauthenticated", 1),
        ("cannot_verify", 1),
        ("node", 1),
    ];
    for (word, n) in want {
        assert_eq!(scene.counted("ingest", word).await, n, "{word}");
    }
    // A header that HTTP/2 itself does not take ends that call and nothing else; the first agent is served all the while.
    let first = Message::Hello(hello("n1", 1, scene.app.now()));
    assert!(Agent::try_open(scene.app.grpc(), first, Some(&"a".repeat(100_000))).await.is_err());
    let seq = good.say(kubelet(Status::Present, scene.app.now()), scene.app.now()).await;
    good.acked(seq).await;
    scene.app.stop().await;
}

/// What is looked at of a `google.protobuf.FileDescriptorProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    /// Names of those that it imports.
    #[prost(string, repeated, tag = "3")]
    needs: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    services: Vec<Described>,
}

/// The same of a service.
#[derive(Clone, PartialEq, prost::Message)]
struct Described {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<Method>,
}

/// The same of a method.
#[derive(Clone, PartialEq, prost::Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
}

#[tokio::test]
async fn what_can_be_asked_is_told_without_a_token_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path()).await;
    let mut reflection = ServerReflectionClient::new(channel(scene.app.grpc()).await);
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("kulprit.v1.Query".to_owned()),
        MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned()),
        MessageRequest::FileByFilename("kulprit/v1/finding.proto".to_owned()),
        MessageRequest::FileByFilename("kulprit/v1/report.proto".to_owned()),
        MessageRequest::FileContainingSymbol("kulprit.v1.Nothing".to_owned()),
    ];
    let questions =
        questions.map(|question| ServerReflectionRequest { host: String::new(), message_request: Some(question) });
    let mut answers = reflection.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
    let mut next = async || answers.message().await.map(|answer| answer.unwrap().message_response.unwrap());

    let MessageResponse::ListServicesResponse(listed) = next().await.unwrap() else { panic!("services") };
    let mut services: Vec<&str> = listed.service.iter().map(|service| service.name.as_str()).collect();
    services.sort_unstable();
    let want =
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "kulprit.v1.Ingest", "kulprit.v1.Query"];
    assert_eq!(services, want, "what is served, and nothing else");
    let mut file = async || {
        let MessageResponse::FileDescriptorResponse(found) = next().await? else { panic!("a file") };
        Ok::<_, tonic::Status>(File::decode(found.file_descriptor_proto[0].as_slice()).unwrap())
    };
    let has = |file: &File, service: &str, method: &str| {
        let described = file.services.iter().find(|described| described.name == service).unwrap();
        described.methods.iter().any(|known| known.name == method)
    };
    let of_query = file().await.unwrap();
    assert!(of_query.name == "kulprit/v1/query.proto" && has(&of_query, "Query", "ExplainVm"), "{of_query:?}");
    let of_health = file().await.unwrap();
    assert!(has(&of_health, "Health", "Check"), "{of_health:?}");
    assert_eq!(of_query.needs, [file().await.unwrap().name, file().await.unwrap().name], "all that it needs is told");
    assert_eq!(file().await.unwrap_err().code(), Code::NotFound);

    // Who knows what could be asked is told no answer.
    let refused = scene.client(None).await.list_nodes(v1::ListNodesRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    scene.app.stop().await;
}

#[tokio::test]
async fn vms_that_no_host_shows_are_for_who_may_get_them() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path()).await;
    let vmi = |namespace: &str, name: &str, uid: &str| {
        let metadata = json!({"namespace": namespace, "name": name, "uid": uid});
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata})
    };
    scene.api.put(vmi("test", "secret", OF_TEST));
    let listed = async |client: &Client| {
        let vms = client.clone().list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms;
        vms.into_iter().map(|vm| format!("{}/{} {}", vm.namespace, vm.name, vm.node)).collect::<Vec<_>>()
    };
    let admin = scene.user("admin", &["nodes ", &format!("{VMIS} ")]).await;
    let both = ["prod/db-0 n2", "test/secret "];
    wait_for(async || listed(&admin).await, |vms| vms == &both).await;
    let ada = scene.user("ada", &[&format!("{VMIS} prod")]).await;
    assert_eq!(listed(&ada).await, both[..1]);
    let nobody = scene.user("nobody", &[]).await;
    assert_eq!(listed(&nobody).await, [] as [String; 0]);
    scene.app.stop().await;
}

#[tokio::test]
async fn who_is_never_let_in_loses_his_connection_and_nobody_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path()).await;
    let mut agent = scene.agent("n1", &scene.token("n1", 3_600, "kulprit-central")).await.unwrap();
    let mut user = scene.user("ada", &["nodes "]).await;
    user.list_nodes(v1::ListNodesRequest {}).await.unwrap();
    // Loopback: a supervisor of this host.
    let mut supervisor = HealthClient::new(channel(scene.app.grpc()).await);
    supervisor.check(HealthCheckRequest::default()).await.unwrap();
    let mut stranger = scene.client(None).await;
    assert_eq!(stranger.list_nodes(v1::ListNodesRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    // Says nothing, as the connection that the scene has of its own.
    let silent = channel(scene.app.grpc()).await;
    // Nor does who was let in once, when the API server is away.
    scene.api.set(|state| state.reviews_fail = Some(500));
    scene.app.wait_for_metric("kulprit_central_connections 6").await;
    sleep(Duration::from_secs(20)).await;
    scene.app.wait_for_metric("kulprit_central_refused_connections_total{reason=\"unadmitted\"} 3").await;
    scene.app.wait_for_metric("kulprit_central_connections 3").await;
    let seq = agent.say(kubelet(Status::Present, scene.app.now()), scene.app.now()).await;
    agent.acked(seq).await;
    scene.app.wait_for_metric("kulprit_central_connections 3").await;
    drop((user, supervisor, stranger, silent));
    scene.app.stop().await;
}

#[tokio::test]
async fn who_may_get_a_vm_is_told_of_it_and_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path()).await;
    let _agent = scene.stuck().await;
    let of_prod = format!("{VMIS} prod");
    let ada = scene.user("ada", &[&of_prod]).await;
    let explain = async |client: &Client, vm: &str| {
        let request = v1::ExplainVmRequest { vm: vm.to_owned(), node: String::new() };
        client.clone().explain_vm(request).await.map(tonic::Response::into_inner)
    };
    // Single: by whichever name, the node and its evidence are part of it.
    for name in ["prod/db-0", "db-0", OF_PROD] {
        let answer = wait_for(async || explain(&ada, name).await, Result::is_ok).await.unwrap();
        let subject = answer.verdicts[0].subject.clone().unwrap();
        assert_eq!((subject.namespace.as_str(), subject.node.as_str()), ("prod", "n2"), "{name}");
    }
    let forbidden = |name: &str, namespace: &str| {
        format!("`ada` may not get virtualmachineinstances.kubevirt.io `{name}` in the namespace `{namespace}`")
    };
    // What is there and what is not sound the same.
    check(explain(&ada, "test/secret").await, Code::PermissionDenied, &forbidden("secret", "test"));
    check(explain(&ada, "test/nothing").await, Code::PermissionDenied, &forbidden("nothing", "test"));
    for name in ["secret", "nothing", OF_TEST] {
        check(explain(&ada, name).await, Code::NotFound, &format!("no VM `{name}` that you may get"));
    }
    let migration = v1::ExplainMigrationRequest { migration: "prod/db-0-mig-1".to_owned() };
    check(
        ada.clone().explain_migration(migration.clone()).await,
        Code::PermissionDenied,
        "`ada` may not get virtualmachineinstancemigrations.kubevirt.io `db-0-mig-1` in the namespace `prod`",
    );
    let mover = scene.user("mover", &["virtualmachineinstancemigrations prod"]).await;
    mover.clone().explain_migration(migration).await.unwrap();
    let migration = v1::ExplainMigrationRequest { migration: "db-0-mig-1".to_owned() };
    assert_eq!(ada.clone().explain_migration(migration).await.unwrap_err().code(), Code::NotFound);

    // Facts of nodes, captures, cases, and findings of others are not hers.
    let request = v1::GetNodeRequest { name: "n2".to_owned() };
    check(ada.clone().get_node(request).await, Code::PermissionDenied, "`ada` may not get nodes `n2`");
    let request = v1::ExplainNodeRequest { node: "nowhere".to_owned() };
    check(ada.clone().explain_node(request).await, Code::PermissionDenied, "`ada` may not get nodes `nowhere`");
    check(ada.clone().list_nodes(v1::ListNodesRequest {}).await, Code::PermissionDenied, "`ada` may not get nodes");
    let request = v1::CaptureVmRequest { vm: "prod/db-0".to_owned(), node: String::new() };
    check(ada.clone().capture(request).await, Code::PermissionDenied, "`ada` may not get nodes");
    let subject = Some(v1::record_case_request::Subject::Vm("prod/db-0".to_owned()));
    let request = v1::RecordCaseRequest { subject, from_wall_usec: 0, to_wall_usec: 0 };
    assert_eq!(ada.clone().record_case(request).await.map(|_| ()).unwrap_err().code(), Code::PermissionDenied);
    for from_wall_usec in [0, 1] {
        let find = async |client: &Client, subject: &str| {
            let subject = subject.to_owned();
            let request = v1::ListFindingsRequest {
                subject,
                from_wall_usec,
                to_wall_usec: i64::from(from_wall_usec > 0) * i64::MAX,
                ..Default::default()
            };
            client.clone().list_findings(request).await.map(|answer| answer.into_inner().findings.len())
        };
        check(find(&ada, "").await, Code::PermissionDenied, "`ada` may not get nodes");
        check(find(&ada, &format!("vm/{OF_TEST}")).await, Code::PermissionDenied, "`ada` may not get nodes");
        assert_eq!(find(&ada, &format!("vm/{OF_PROD}")).await.unwrap(), 0);
        let tester = scene.user("tester", &[&format!("{VMIS} test")]).await;
        assert_eq!(find(&tester, &format!("vm/{OF_TEST}")).await.unwrap(), 1, "{from_wall_usec}");
        let noder = scene.user("noder", &["nodes "]).await;
        assert_eq!(find(&noder, "").await.unwrap(), 1, "kubelet's, not that of the VM");
    }

    // Could it migrate: yes or no is hers, the nodes are not.
    let request = v1::CanMigrateRequest { vm: "prod/db-0".to_owned(), to: String::new() };
    let answer = ada.clone().can_migrate(request).await.unwrap().into_inner();
    assert!(answer.nodes.is_empty() && answer.notes.iter().any(|note| note.contains("may get nodes")), "{answer:#?}");
    scene.app.stop().await;
}

#[tokio::test]
async fn lists_watches_and_incidents_leave_out_what_somebody_may_not_get() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path()).await;
    let agent = scene.stuck().await;
    let of_prod = format!("{VMIS} prod");
    let (ada, eve) = (scene.user("ada", &[&of_prod]).await, scene.user("eve", &[]).await);
    let admin = scene.user("admin", &["nodes ", &format!("{VMIS} ")]).await;
    let incidents = async |client: &Client, namespace: &str| {
        let request = v1::ListIncidentsRequest { namespace: namespace.to_owned(), ..Default::default() };
        client.clone().list_incidents(request).await.unwrap().into_inner().incidents
    };
    let all =
        wait_for(async || incidents(&admin, "").await, |all| names(all).contains(&"test/secret".to_owned())).await;
    let shared = all.iter().find(|incident| names(std::slice::from_ref(incident)).contains(&"prod/db-0".to_owned()));
    let shared = shared.unwrap_or_else(|| panic!("no incident of prod/db-0: {all:#?}"));
    let seen = incidents(&ada, "").await;
    assert_eq!(names(&seen), ["prod/db-0"], "{seen:#?}");
    assert!(!format!("{seen:?}").contains("secret") && !format!("{seen:?}").contains(OF_TEST), "{seen:#?}");
    assert_eq!(incidents(&eve, "").await, []);
    // Whom else it touches is no way to find it either.
    assert_eq!(incidents(&ada, "test").await, []);
    assert_eq!(names(&incidents(&ada, "prod").await), ["prod/db-0"]);

    // By its id, or the end of it.
    let others = all.iter().find(|incident| !names(std::slice::from_ref(incident)).contains(&"prod/db-0".to_owned()));
    let named = async |client: &Client, id: &str| {
        let request = v1::GetIncidentRequest { id: id.to_owned() };
        client.clone().get_incident(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(names(&[named(&ada, &shared.id).await.unwrap()]), ["prod/db-0"]);
    for id in [Some(shared.id.as_str()), others.map(|other| other.id.as_str())].into_iter().flatten() {
        for id in [id, &id[id.len() - 8..]] {
            assert_eq!(named(&eve, id).await.unwrap_err().code(), Code::NotFound);
        }
    }

    // Lists.
    let verdicts = async |client: &Client| {
        client.clone().list_verdicts(v1::ListVerdictsRequest::default()).await.unwrap().into_inner()
    };
    let whom = |answer: &v1::ListVerdictsResponse| {
        let subjects = answer.verdicts.iter().map(|verdict| verdict.subject.clone().unwrap().name);
        subjects.collect::<std::collections::BTreeSet<_>>()
    };
    assert!(whom(&verdicts(&admin).await).contains("secret"));
    let hers = verdicts(&ada).await;
    assert_eq!(whom(&hers), ["db-0".to_owned()].into());
    assert!(!format!("{hers:?}").contains("secret"), "{hers:#?}");
    assert!(hers.unseen.iter().any(|text| text.contains("left out")), "{:?}", hers.unseen);
    assert!(verdicts(&eve).await.verdicts.is_empty());
    let request = v1::ListVerdictsRequest { node: "nowhere".to_owned() };
    assert!(ada.clone().list_verdicts(request.clone()).await.unwrap().into_inner().verdicts.is_empty());
    assert_eq!(admin.clone().list_verdicts(request).await.unwrap_err().code(), Code::NotFound);

    // A watch.
    let mut watch = ada.clone().watch_incidents(v1::WatchIncidentsRequest::default()).await.unwrap().into_inner();
    let mut told = Vec::new();
    loop {
        let message = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap().message.unwrap();
        match message {
            watch_incidents_response::Message::Change(change) => told.extend(change.incident),
            watch_incidents_response::Message::Complete(_) => break,
        }
    }
    assert_eq!(names(&told), ["prod/db-0"]);
    assert!(!format!("{told:?}").contains("secret"), "{told:#?}");

    // Nobody, and somebody whom Kubernetes does not know.
    let text = "no token: ask with `kubectl kulprit`, which shows that of your kubeconfig, or with --token-file";
    let nobody = scene.client(None).await;
    check(nobody.clone().list_causes(v1::ListCausesRequest {}).await, Code::Unauthenticated, text);
    let stranger = scene.client(Some("stranger")).await;
    let answer = stranger.clone().list_causes(v1::ListCausesRequest {}).await;
    check(answer, Code::Unauthenticated, "Kubernetes does not accept the token");
    assert!(!eve.clone().list_causes(v1::ListCausesRequest {}).await.unwrap().into_inner().causes.is_empty());
    assert_eq!((scene.counted("query", "no_token").await, scene.counted("query", "unauthenticated").await), (1, 1));

    // Whether he may is asked once for many questions.
    let n_before = scene.api.set(|state| state.n_reviews);
    for _ in 0..100 {
        eve.clone().list_causes(v1::ListCausesRequest {}).await.unwrap();
    }
    assert_eq!(scene.api.set(|state| state.n_reviews), n_before);
    // Nobody can be asked: that is no refusal.
    scene.api.set(|state| state.reviews_fail = Some(429));
    let answer = scene.client(Some("late")).await.clone().list_causes(v1::ListCausesRequest {}).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("cannot verify the token: "), "{status:?}");
    drop(agent);
    scene.app.stop().await;
}
