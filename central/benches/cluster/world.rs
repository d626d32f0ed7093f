//! Central in this process, with the watches' and the agents' ends of it in our hands.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kulprit_central::{
    access::{Access, Caller},
    conditions::NpdMode,
    engine::{Decided, Engine},
    incident::{Incidents, Timers},
    kubernetes::{
        kinds::{ROWS, Row},
        store::ClusterStore,
        watch::Sink as _,
    },
    live::{Live, Session, Touched},
    metrics::CentralMetrics,
    publish::Verdicts,
    query::{QueryService, Sources},
    state::{Arrived, CurrentState, Limits, StateCounts},
    store::{HistoryReader, StoreWriter, sqlite::SqliteStore},
};
use kulprit_daemon::{BoxError, CancellationToken, Clock, metrics::Metrics};
use kulprit_diagnosis::Settings;
use kulprit_model::{
    Attributes, Body, Disk, Domain, Evidence, FindingCode, Moment, Qemu, Record, Stamp, State, Status, StreamId,
    Subject, attribute,
    catalogue::{CATALOGUE, Kind},
    subject::SubjectType,
};
use kulprit_proto::v1::{self, query_server::Query as _};
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::Request;

use crate::objects;

const BOOT: &str = "boot";
/// VMs of a node.
const VMS: usize = 10;
const RETENTION: Duration = Duration::from_secs(86_400);
/// As the agents do, so that none is taken for silent.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) live: Live,
    n_nodes: usize,
    cluster: ClusterStore,
    clock: Clock,
    sessions: Arc<Vec<Session>>,
    writer: StoreWriter,
    decided: Decided,
    pub(crate) metrics: CentralMetrics,
    query: QueryService,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<(), BoxError>>>,
    seq: u64,
    began: Moment,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(n_nodes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Clock::kernel();
        let (store, _) = SqliteStore::open(folder.path()).expect("a new store");
        let history = HistoryReader::start(store.history().expect("it is there")).expect("a thread starts");
        let metrics = CentralMetrics::register(Metrics::new("bench", "0", &clock).section("central"));
        let (writer, _) = StoreWriter::start(store, Box::new(|_, _| {}), metrics.clone()).expect("a thread starts");
        let live =
            Live::new(CurrentState::new(Limits::default(), clock.now()), clock.clone(), Settings::default(), true);
        let decided = Decided::new(Incidents::default());
        let access = Access::open(clock.clone(), metrics.clone());
        let sources = Sources { live: live.clone(), decided: decided.clone(), history, metrics: metrics.clone() };
        Self {
            n_nodes,
            cluster: live.cluster().expect("it is watched").clone(),
            began: clock.now(),
            clock,
            sessions: Arc::new(Vec::new()),
            writer,
            decided,
            metrics,
            query: QueryService::new(sources, access, CancellationToken::new()),
            live,
            stop: CancellationToken::new(),
            tasks: Vec::new(),
            seq: 0,
            _folder: folder,
        }
    }

    /// Every agent says everything: each state of the catalogue looked at and absent, for its node and each of its VMs.
    pub(crate) fn report_nodes(&mut self) {
        let mut sessions = Vec::new();
        for node in 0..self.n_nodes {
            let stream = StreamId { cluster: "c".to_owned(), node: objects::node_name(node) };
            let hello = v1::Hello {
                node: objects::node_name(node),
                boot_id: BOOT.to_owned(),
                epoch: 1,
                sent: Some(self.began.into()),
                ..v1::Hello::default()
            };
            let (session, _) = self.live.connect(stream, hello, &self.writer).expect("there is room");
            let bodies = self.bodies(node);
            let (now, first) = (self.clock.now(), self.seq);
            self.seq += u64::try_from(bodies.len()).expect("few");
            session.change(&self.writer, |state| {
                state.begin_snapshot();
                let mut changes = Vec::new();
                for (seq, body) in (first + 1..).zip(bodies) {
                    let stamp = Stamp { boot_id: BOOT.to_owned(), epoch: 1, seq, at: now };
                    state.apply(Arrived::new(Record { stamp, body }), &Limits::default(), now, &mut changes);
                }
                state.end_snapshot(0, now);
                state.heard(now);
                Touched { is_shown_otherwise: true, is_node_row_old: false }
            });
            sessions.push(session);
        }
        self.sessions = Arc::new(sessions);
    }

    fn bodies(&self, node: usize) -> Vec<Body> {
        let at = self.began;
        let mut bodies = Vec::new();
        for vm in node * VMS..(node + 1) * VMS {
            let name = format!("{}_{}", objects::namespace(vm), objects::vm_name(vm));
            bodies.push(Body::Domain(Domain {
                uid: objects::uid(vm),
                name: name.clone(),
                state: 1,
                reason: 1,
                since: at,
                is_persistent: true,
            }));
            bodies.push(Body::Qemu(Qemu {
                uid: objects::uid(vm),
                name: Some(name),
                pid: u32::try_from(1_000 + vm % VMS).expect("small"),
                start_ticks: 1,
                since: at,
                disks: vec![Disk {
                    path: format!("/run/kubevirt-private/{}/disk.img", objects::vm_name(vm)),
                    device: Some("0:52".to_owned()),
                    device_name: None,
                    fstype: Some("nfs4".to_owned()),
                    mount_point: Some(format!("/var/lib/kubelet/pods/{}", objects::uid(vm))),
                }],
            }));
        }
        let states = CATALOGUE.iter().filter(|spec| spec.kind == Kind::State);
        for spec in states {
            let subjects: Vec<Subject> = match spec.subject {
                SubjectType::Node | SubjectType::NodeOrVm => vec![Subject::Node],
                SubjectType::Unit => vec![Subject::unit("kubelet.service"), Subject::unit("containerd.service")],
                SubjectType::Vm => (node * VMS..(node + 1) * VMS).map(|vm| Subject::vm(objects::uid(vm))).collect(),
                SubjectType::Libvirt => vec![Subject::Libvirt { uri: "qemu:///system".to_owned() }],
                SubjectType::Probe => {
                    ["kubelet", "kvm", "qemu", "domain", "kernel-log", "journal", "container-log", "volumes"]
                        .map(|name| Subject::Probe { name: name.to_owned() })
                        .to_vec()
                }
                SubjectType::Mount => vec![mount()],
                SubjectType::Process | SubjectType::Device | SubjectType::Problem => Vec::new(),
            };
            let attributes =
                if spec.code == FindingCode::BackendUnreachable { self.server(node) } else { Attributes::new() };
            let states = subjects.into_iter().map(|subject| absent(spec.code, subject, at));
            bodies.extend(states.map(|state| Body::State(State { attributes: attributes.clone(), ..state })));
        }
        bodies
    }

    /// What is behind the mount of a node: one half of them has one server, the other another.
    fn server(&self, node: usize) -> Attributes {
        let server = if node < self.n_nodes / 2 { "nas.example" } else { "nas-2.example" };
        Attributes::new().with(attribute::BACKEND, "nfs").with(attribute::SERVER, server)
    }

    /// The watches list the nodes, and nothing else is there.
    pub(crate) fn list_nodes(&self) {
        for node in 0..self.n_nodes {
            self.cluster.apply(row("Node"), objects::node(node, 0));
        }
        ROWS.iter().for_each(|row| self.cluster.end_list(row));
    }

    /// The watches list everything.
    pub(crate) fn list_objects(&self) {
        let apply = |value: Value| {
            let kind = value["kind"].as_str().expect("a kind").to_owned();
            self.cluster.apply(row(&kind), value);
        };
        for node in 0..self.n_nodes {
            apply(objects::node(node, 0));
            apply(objects::lease(node, "2026-03-01T10:15:00Z"));
            apply(objects::handler(node));
        }
        for vm in 0..self.n_vms() {
            apply(objects::vm(vm));
            apply(objects::vmi(vm, "Running", true));
            apply(objects::claim(vm));
            apply(objects::volume(vm));
            apply(objects::launcher(vm, false));
            // With the handlers it makes twice as many pods as VMs.
            if vm % VMS != 0 {
                apply(objects::launcher(vm, true));
            }
        }
        ROWS.iter().for_each(|row| self.cluster.end_list(row));
    }

    /// How many states the nodes have.
    pub(crate) fn n_states(&self) -> f64 {
        let StateCounts { n_present, n_absent, n_unknown } = self.live.look(|state| state.count_states());
        f64::from(u32::try_from(n_present + n_absent + n_unknown).expect("a million"))
    }

    fn n_vms(&self) -> usize {
        self.n_nodes * VMS
    }

    pub(crate) fn start_engine(&mut self) {
        self.start_engine_with(None);
    }

    /// The same, and what nodes come to is told.
    pub(crate) fn start_engine_with(&mut self, verdicts: Option<watch::Sender<Verdicts>>) {
        let (live, writer, decided) = (self.live.clone(), self.writer.clone(), self.decided.clone());
        let engine = Engine::new(live, writer.clone(), decided, self.metrics.clone(), Timers::default(), RETENTION);
        let engine = match verdicts {
            Some(verdicts) => engine.with_verdicts(verdicts, NpdMode::Coexist),
            None => engine,
        };
        self.tasks.push(tokio::spawn(engine.run(self.stop.clone())));
        let (sessions, clock, stop) = (Arc::clone(&self.sessions), self.clock.clone(), self.stop.clone());
        self.tasks.push(tokio::spawn(async move {
            let mut beats = interval(HEARTBEAT_EVERY);
            beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while !stop.is_cancelled() {
                beats.tick().await;
                for session in sessions.iter() {
                    session.change(&writer, |state| {
                        state.heard(clock.now());
                        Touched::default()
                    });
                }
            }
            Ok(())
        }));
    }

    /// Something changes again and again and nothing goes wrong: half of it is read by a diagnosis.
    pub(crate) async fn trickle(&self, window: Duration, per_sec: usize) {
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(per_sec).expect("small"));
        let end = Instant::now() + window;
        for n in 0.. {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let vm = n * 37 % self.n_vms();
            let change = match n % 4 {
                0 | 1 => objects::vmi(vm, "Running", n / self.n_vms() % 2 == 1),
                2 => objects::node(vm / VMS, n),
                _ => objects::event(vm, n),
            };
            let kind = change["kind"].as_str().expect("a kind").to_owned();
            self.cluster.apply(row(&kind), change);
        }
    }

    pub(crate) fn each_hundredth_vm(&mut self, mut what: impl FnMut(&mut Self, usize)) {
        for vm in (0..self.n_vms()).step_by(100) {
            what(self, vm);
        }
    }

    /// An agent says something else of one of its VMs.
    pub(crate) fn raise(&mut self, vm: usize, code: FindingCode, status: Status) {
        let now = self.clock.now();
        let evidence = vec![Evidence::new("procfs", now, "state T")];
        let state = State { status, evidence, ..absent(code, Subject::vm(objects::uid(vm)), now) };
        self.say(vm / VMS, vec![state]);
    }

    /// The same of the node itself.
    pub(crate) fn raise_of_node(&mut self, node: usize, code: FindingCode, status: Status) {
        let now = self.clock.now();
        let evidence = vec![Evidence::new("kvm", now, "/dev/kvm is not there")];
        self.say(node, vec![State { status, evidence, ..absent(code, Subject::Node, now) }]);
    }

    /// The server behind the node's mounts is silent, and every VM of it waits.
    pub(crate) fn lose_storage(&mut self, node: usize) {
        let now = self.clock.now();
        let lost = State {
            status: Status::Present,
            attributes: self.server(node),
            evidence: vec![Evidence::new("statx", now, "no answer in 5 s")],
            ..absent(FindingCode::BackendUnreachable, mount(), now)
        };
        let stalled = (node * VMS..(node + 1) * VMS).map(|vm| State {
            status: Status::Present,
            attributes: Attributes::new()
                .with(attribute::WAIT, attribute::WAIT_NETWORK_STORAGE)
                .with(attribute::WCHAN, "rpc_wait_bit_killable"),
            evidence: vec![Evidence::new("procfs", now, "a thread in state D, waits in rpc_wait_bit_killable")],
            ..absent(FindingCode::VmDiskStalled, Subject::vm(objects::uid(vm)), now)
        });
        let states = stalled.chain([lost]).collect();
        self.say(node, states);
    }

    fn say(&mut self, node: usize, states: Vec<State>) {
        let now = self.clock.now();
        let first = self.seq;
        self.seq += u64::try_from(states.len()).expect("few");
        self.sessions[node].change(&self.writer, |known| {
            let mut changes = Vec::new();
            for (seq, state) in (first + 1..).zip(states) {
                let stamp = Stamp { boot_id: BOOT.to_owned(), epoch: 1, seq, at: now };
                let record = Record { stamp, body: Body::State(state) };
                known.apply(Arrived::new(record), &Limits::default(), now, &mut changes);
            }
            Touched { is_shown_otherwise: true, is_node_row_old: false }
        });
    }

    pub(crate) fn fail(&self, vm: usize) {
        self.cluster.apply(row("VirtualMachineInstance"), objects::vmi(vm, "Failed", true));
    }

    pub(crate) fn heal(&self, vm: usize) {
        self.cluster.apply(row("VirtualMachineInstance"), objects::vmi(vm, "Running", true));
    }

    /// Symptom and first cause of a VM, as a question is answered.
    pub(crate) async fn explain(&self, vm: usize) -> String {
        let question = v1::ExplainVmRequest {
            vm: format!("{}/{}", objects::namespace(vm), objects::vm_name(vm)),
            node: String::new(),
        };
        let mut question = Request::new(question);
        question.extensions_mut().insert(Caller::Anyone);
        let answer = self.query.explain_vm(question).await.expect("the VM is known").into_inner();
        let verdict = &answer.verdicts[0];
        format!("{} {}", verdict.symptom, verdict.causes[0].id)
    }

    pub(crate) fn has_incident(&self, vm: usize) -> bool {
        let uid = objects::uid(vm);
        self.decided.incidents().open().any(|incident| {
            incident.members.iter().any(|member| member.whom.uid == uid && member.until_wall_usec.is_none())
        })
    }

    /// Whether so many nodes and all their VMs are in trouble, and by one and the same.
    pub(crate) fn is_one_incident_of(&self, n_nodes: usize) -> bool {
        let incidents = self.decided.incidents();
        let lasting = incidents
            .open()
            .map(|incident| incident.members.iter().filter(|member| member.until_wall_usec.is_none()).count());
        let in_trouble: Vec<usize> = lasting.filter(|n_members| *n_members > 0).collect();
        in_trouble == [n_nodes * (VMS + 1)]
    }

    /// The open incidents with how many are in trouble by each, the largest first.
    pub(crate) fn causes(&self) -> String {
        let mut of_key = BTreeMap::<String, (usize, usize)>::new();
        for incident in self.decided.incidents().open() {
            let place = if incident.key.place.starts_with("node/") { "a node" } else { &incident.key.place };
            let (n, members) = of_key.entry(format!("{} at {place}", incident.key.cause)).or_default();
            *n += 1;
            *members += incident.members.iter().filter(|member| member.until_wall_usec.is_none()).count();
        }
        let mut of_key: Vec<_> = of_key.into_iter().filter(|(_, (_, members))| *members > 0).collect();
        of_key.sort_by_key(|(_, (_, members))| std::cmp::Reverse(*members));
        let said = of_key.iter().map(|(key, (n, members))| format!("{n} × {key} ({members} in trouble)"));
        said.take(3).collect::<Vec<_>>().join(", ")
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("it does not panic").expect("it ends well");
        }
    }
}

fn absent(code: FindingCode, subject: Subject, at: Moment) -> State {
    State {
        code,
        subject,
        status: Status::Absent,
        since: at,
        looked: at,
        unknown_because: None,
        attributes: Attributes::new(),
        evidence: Vec::new(),
    }
}

fn mount() -> Subject {
    Subject::Mount { point: "/mnt/nas".to_owned() }
}

fn row(kind: &str) -> &'static Row {
    ROWS.iter().find(|row| row.kind.as_str() == kind).expect("a kind that is watched")
}
