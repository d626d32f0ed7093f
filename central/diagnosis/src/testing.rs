//! Builders for snapshots in tests: a node `n1` with one VM `db-0` that is well, and what can befall it; as a plain libvirt
//! domain, or (`in_kubernetes`) as a VM of KubeVirt with objects, a second node and migrations.
//!
//! Every time is seconds before the moment of asking, [`NOW`]. A healthy node has every state that its probes own looked at and
//! absent, since an hour.

use std::sync::Arc;

use kulprit_cluster::{ClusterFinding, ClusterNode, ClusterVm, Life, MigrationLife, PodRef};
use kulprit_model::{
    Attributes, Disk, Domain, Evidence, Finding, FindingCode, Moment, Occurrence, Qemu, Side, State, Status, Subject,
    attribute::{ACTOR, CLASS, OPERATION},
    catalogue::{CATALOGUE, Kind},
    subject::SubjectType,
};

use crate::{
    Attribution, NodeView, Shared, Snapshot, Symptom, SymptomId, SymptomSubject, VmView, attribute, libvirt,
    symptom_of, symptoms,
};

/// The moment of asking, Unix time in microseconds: 2026-03-01T10:15:00Z.
pub(crate) const NOW: i64 = 1_772_360_100_000_000;
pub(crate) const UID: &str = "0b2c0b2c-0000-4000-8000-000000000001";
pub(crate) const OTHER_UID: &str = "0b2c0b2c-0000-4000-8000-000000000002";
pub(crate) const PID: u32 = 4711;
const HOUR: i64 = 3_600;

/// `secs` before the moment of asking, on both clocks.
pub(crate) fn ago(secs: i64) -> Moment {
    Moment { wall_usec: NOW - secs * 1_000_000, boottime_usec: (100_000 - secs) * 1_000_000 }
}

pub(crate) fn mk_state(code: FindingCode, subject: Subject, status: Status, since_secs: i64) -> State {
    State {
        code,
        subject,
        status,
        since: ago(since_secs),
        looked: ago(1),
        unknown_because: (status == Status::Unknown).then(|| "no answer within 2 s".to_owned()),
        attributes: Attributes::new(),
        evidence: match status {
            Status::Present => vec![Evidence::new("procfs", ago(since_secs), format!("{code} as seen"))],
            Status::Absent | Status::Unknown => Vec::new(),
        },
    }
}

pub(crate) fn mk_occurrence(code: FindingCode, subject: Subject, secs: i64, attributes: Attributes) -> Occurrence {
    Occurrence {
        code,
        subject,
        first: ago(secs),
        last: ago(secs),
        count: 1,
        attributes,
        evidence: vec![Evidence::new("kmsg", ago(secs), format!("{code} as logged"))],
    }
}

pub(crate) fn mk_domain(uid: &str, state: i32, reason: i32, since_secs: i64) -> Domain {
    Domain { uid: uid.to_owned(), name: "db-0".to_owned(), state, reason, since: ago(since_secs), is_persistent: true }
}

pub(crate) fn mk_qemu(uid: &str, pid: u32, device_name: &str, device: &str) -> Qemu {
    Qemu {
        uid: uid.to_owned(),
        name: Some("db-0".to_owned()),
        pid,
        start_ticks: u64::from(pid) * 10,
        since: ago(HOUR),
        disks: vec![Disk {
            path: format!("/mnt/{device_name}/disk.img"),
            device: Some(device.to_owned()),
            device_name: Some(device_name.to_owned()),
            fstype: Some("ext4".to_owned()),
            mount_point: Some(format!("/mnt/{device_name}")),
        }],
    }
}

fn mk_vm(uid: &str, name: &str, pid: u32, device_name: &str, device: &str) -> VmView {
    VmView {
        uid: uid.to_owned(),
        namespace: None,
        name: name.to_owned(),
        domain: Some(mk_domain(uid, libvirt::RUNNING, 1, HOUR)),
        qemu: Some(mk_qemu(uid, pid, device_name, device)),
        last_qemu: None,
    }
}

/// The subjects that a finding of this type has on the healthy node.
fn subjects(subject: SubjectType) -> Vec<Subject> {
    match subject {
        SubjectType::Node => vec![Subject::Node],
        SubjectType::Unit => vec![Subject::unit("kubelet.service")],
        SubjectType::Vm => vec![Subject::vm(UID), Subject::vm(OTHER_UID)],
        SubjectType::Libvirt => vec![Subject::Libvirt { uri: "qemu:///system".to_owned() }],
        SubjectType::Probe => ["kubelet", "kvm", "qemu", "domain", "kernel-log", "journal", "container-log"]
            .map(|name| Subject::Probe { name: name.to_owned() })
            .to_vec(),
        SubjectType::Process
        | SubjectType::Device
        | SubjectType::Mount
        | SubjectType::NodeOrVm
        | SubjectType::Problem => Vec::new(),
    }
}

/// One fault or change of the healthy node.
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
}

impl World {
    /// A node `n1` with the VM `db-0` on `loop3` and the VM `other` on `loop4`, everything looked at and well.
    pub(crate) fn well() -> Self {
        let mut states: Vec<State> = CATALOGUE
            .iter()
            .filter(|spec| spec.kind == Kind::State)
            .flat_map(|spec| subjects(spec.subject).into_iter().map(|subject| (spec.code, subject)))
            .map(|(code, subject)| mk_state(code, subject, Status::Absent, HOUR))
            .collect();
        states.sort_by(|a, b| (a.code, &a.subject).cmp(&(b.code, &b.subject)));
        let node = NodeView {
            name: "n1".to_owned(),
            is_reporting: true,
            last_heard_wall_usec: Some(ago(1).wall_usec),
            vms: vec![mk_vm(UID, "db-0", PID, "loop3", "7:3"), mk_vm(OTHER_UID, "other", 815, "loop4", "7:4")].into(),
            states: states.into(),
            occurrences: Shared::default(),
            cannot_show: Vec::new(),
        };
        Self { snapshot: Snapshot { reference_wall_usec: NOW, nodes: vec![node], ..Snapshot::default() } }
    }

    pub(crate) fn node(&mut self) -> &mut NodeView {
        &mut self.snapshot.nodes[0]
    }

    pub(crate) fn vm(&mut self) -> &mut VmView {
        &mut self.node().vms[0]
    }

    /// The VM as one that KubeVirt runs.
    pub(crate) fn kubevirt(mut self) -> Self {
        self.vm().namespace = Some("prod".to_owned());
        self
    }

    /// Sets a state of the node, replacing what was known of it.
    pub(crate) fn set(mut self, state: State) -> Self {
        self.node().states.retain(|old| (old.code, &old.subject) != (state.code, &state.subject));
        self.node().states.push(state);
        self
    }

    /// A state of the VM that is present.
    pub(crate) fn vm_has(self, code: FindingCode, since_secs: i64) -> Self {
        self.vm_has_with(code, since_secs, Attributes::new())
    }

    pub(crate) fn vm_has_with(self, code: FindingCode, since_secs: i64, attributes: Attributes) -> Self {
        let state = mk_state(code, Subject::vm(UID), Status::Present, since_secs);
        self.set(State { attributes, ..state })
    }

    /// A state of the node, of its kubelet or of its libvirt that is present.
    pub(crate) fn node_has(self, code: FindingCode, since_secs: i64) -> Self {
        let subject = subjects(code.spec().subject).remove(0);
        self.set(mk_state(code, subject, Status::Present, since_secs))
    }

    /// Everything that a probe says is unknown, or its log was not read: as if its file were missing from a case.
    pub(crate) fn blind(mut self, probe: &str) -> Self {
        for state in self.node().states.iter_mut() {
            let is_its_blindness = matches!(&state.subject, Subject::Probe { name } if name == probe);
            if state.code.spec().probe == probe || is_its_blindness {
                state.status = Status::Unknown;
                state.unknown_because = Some("permission denied".to_owned());
            }
        }
        self.node().occurrences.retain(|occurrence| occurrence.code.spec().probe != probe);
        self
    }

    pub(crate) fn happened(mut self, code: FindingCode, subject: Subject, secs: i64, attributes: Attributes) -> Self {
        self.node().occurrences.push(mk_occurrence(code, subject, secs, attributes));
        self
    }

    pub(crate) fn domain(mut self, state: i32, reason: i32, since_secs: i64) -> Self {
        self.vm().domain = Some(mk_domain(UID, state, reason, since_secs));
        self
    }

    /// QEMU ended so many seconds ago; its per-process states are gone with it.
    pub(crate) fn qemu_ended(mut self, secs: i64, attributes: Attributes) -> Self {
        let vm = self.vm();
        vm.last_qemu = vm.qemu.take();
        self.node().states.retain(|state| state.subject != Subject::vm(UID));
        self.happened(FindingCode::QemuExited, Subject::vm(UID), secs, attributes)
    }

    /// The agent of the node has been silent for a minute.
    pub(crate) fn silent(mut self) -> Self {
        let node = self.node();
        node.is_reporting = false;
        node.last_heard_wall_usec = Some(ago(60).wall_usec);
        for state in node.states.iter_mut() {
            state.status = Status::Unknown;
        }
        self
    }

    pub(crate) fn symptoms(&self) -> Vec<Symptom> {
        symptoms(&self.snapshot)
    }

    /// The symptom of the VM `db-0`, which it must have.
    #[track_caller]
    pub(crate) fn symptom(&self) -> Symptom {
        let found = self.symptoms().into_iter().find(|symptom| symptom.subject == vm_subject());
        found.expect("the VM shows a symptom")
    }

    /// The answer for the symptom of the VM `db-0`.
    #[track_caller]
    pub(crate) fn why(&self) -> Attribution {
        attribute(&self.snapshot, &self.symptom())
    }

    /// The answer for a symptom that was raised before, whatever can be seen now.
    pub(crate) fn why_symptom(&self, id: SymptomId, onset_secs: i64) -> Attribution {
        let since_wall_usec = Some(ago(onset_secs).wall_usec);
        attribute(
            &self.snapshot,
            &Symptom { subject: vm_subject(), id, since_wall_usec, text: String::new(), migration: None },
        )
    }

    /// The answer for the node.
    #[track_caller]
    pub(crate) fn why_node(&self) -> Attribution {
        let subject = SymptomSubject::Node { node: "n1".to_owned() };
        let found = self.symptoms().into_iter().find(|symptom| symptom.subject == subject);
        attribute(&self.snapshot, &found.expect("the node shows a symptom"))
    }
}

/// What an error text says, without its signature.
pub(crate) fn said(actor: &str, operation: &str, class: &str) -> Attributes {
    Attributes::new().with(ACTOR, actor).with(OPERATION, operation).with(CLASS, class)
}

/// The VM `prod/db-0` as Kubernetes has it: running on `n1`, with one launcher pod and one claim.
pub(crate) fn mk_cluster_vm() -> ClusterVm {
    ClusterVm {
        namespace: "prod".to_owned(),
        name: "db-0".to_owned(),
        uid: UID.to_owned(),
        uids: vec![UID.to_owned(), "0b2c0b2c-0000-4000-8000-0000000000aa".to_owned()],
        pods: vec![PodRef {
            namespace: "prod".to_owned(),
            name: "virt-launcher-db-0-abcde".to_owned(),
            uid: Some("0b2c0b2c-0000-4000-8000-0000000000bb".to_owned()),
            node: Some("n1".to_owned()),
            side: Side::Hosting,
        }],
        volumes: vec!["rootdisk".to_owned(), "db-0-rootdisk".to_owned(), "pvc-0b2c0b2c-cc".to_owned()],
        images: vec!["registry.example/kubevirt/virt-launcher:v1.6.0".to_owned()],
        hosting: Some("n1".to_owned()),
        life: Life {
            has_vm: true,
            has_vmi: true,
            printable_status: Some("Running".to_owned()),
            wants_to_run: Some(true),
            phase: Some("Running".to_owned()),
            phase_since_usec: Some(ago(HOUR).wall_usec),
            created_usec: Some(ago(HOUR).wall_usec),
            grace_secs: Some(30),
            launcher_phase: Some("Running".to_owned()),
            ..Life::default()
        },
        ..ClusterVm::default()
    }
}

/// A cluster in which the VM `db-0` runs on `n1`; see [`mk_cluster_vm`]. The other VM stays a stranger to Kubernetes.
impl World {
    pub(crate) fn in_kubernetes(self) -> Self {
        let mut world = self.kubevirt();
        world.snapshot.cluster_vms = vec![Arc::new(mk_cluster_vm())];
        world.snapshot.cluster_nodes = vec![Arc::new(ClusterNode { name: "n1".to_owned(), findings: Vec::new() })];
        world
    }

    /// The same with a second node `n2`, as well as `n1`, without VMs.
    pub(crate) fn with_second_node(mut self) -> Self {
        let mut second = self.node().clone();
        second.name = "n2".to_owned();
        second.vms.clear();
        second.occurrences.clear();
        second.states.retain(|state| state.subject.vm_uid().is_none());
        self.snapshot.nodes.push(second);
        self.snapshot.cluster_nodes.push(Arc::new(ClusterNode { name: "n2".to_owned(), findings: Vec::new() }));
        self
    }

    pub(crate) fn cluster_vm(&mut self) -> &mut ClusterVm {
        Arc::make_mut(&mut self.snapshot.cluster_vms[0])
    }

    pub(crate) fn life(mut self, change: impl FnOnce(&mut Life)) -> Self {
        change(&mut self.cluster_vm().life);
        self
    }

    /// In a phase of its start for so many seconds; it has a pod on `n1`, and no QEMU yet.
    pub(crate) fn starting(mut self, phase: &str, secs: i64) -> Self {
        let vm = self.vm();
        vm.qemu = None;
        vm.domain = None;
        self.node().states.retain(|state| state.subject != Subject::vm(UID));
        self.life(|life| {
            life.printable_status = Some("Starting".to_owned());
            life.printable_since_usec = Some(ago(secs).wall_usec);
            life.phase = Some(phase.to_owned());
            life.phase_since_usec = Some(ago(secs).wall_usec);
            life.created_usec = Some(ago(secs + 5).wall_usec);
            life.launcher_phase = Some("Pending".to_owned());
        })
    }

    /// Migrating from `n1` to `n2`, in a phase for so many seconds; `Failed` makes it a failed one.
    pub(crate) fn migrating(self, phase: &str, secs: i64) -> Self {
        let mut world = if self.snapshot.nodes.len() < 2 { self.with_second_node() } else { self };
        let is_failed = phase == "Failed";
        let vm = world.cluster_vm();
        vm.source = Some("n1".to_owned());
        vm.target = Some("n2".to_owned());
        vm.pods[0].side = Side::Source;
        vm.pods.push(PodRef {
            namespace: "prod".to_owned(),
            name: "virt-launcher-db-0-fghij".to_owned(),
            uid: Some("0b2c0b2c-0000-4000-8000-0000000000dd".to_owned()),
            node: Some("n2".to_owned()),
            side: Side::Target,
        });
        vm.life.migration = Some(MigrationLife {
            name: "db-0-mig-1".to_owned(),
            uid: None,
            phase: Some(phase.to_owned()),
            phase_since_usec: Some(ago(secs).wall_usec),
            created_usec: Some(ago(secs + 60).wall_usec),
            started_usec: Some(ago(secs + 30).wall_usec),
            ended_usec: is_failed.then(|| ago(secs).wall_usec),
            outcome: is_failed.then_some(false),
            ..MigrationLife::default()
        });
        world
    }

    /// A state that Kubernetes' objects show of the VM, on a side or a node if that is certain.
    pub(crate) fn shown(
        mut self,
        side: Option<Side>,
        node: Option<&str>,
        code: FindingCode,
        status: Status,
        since_secs: i64,
        attributes: Attributes,
    ) -> Self {
        let state = State { attributes, ..mk_state(code, Subject::vm(UID), status, since_secs) };
        let finding = ClusterFinding { side, node: node.map(ToOwned::to_owned), finding: Finding::State(state) };
        self.cluster_vm().findings.push(finding);
        self
    }

    /// The same, present and of no certain place.
    pub(crate) fn cluster_has(self, code: FindingCode, since_secs: i64, attributes: Attributes) -> Self {
        self.shown(None, None, code, Status::Present, since_secs, attributes)
    }

    /// An event or a condition about the VM says that something failed.
    pub(crate) fn vm_said(mut self, side: Option<Side>, node: Option<&str>, secs: i64, attributes: Attributes) -> Self {
        let said = mk_occurrence(FindingCode::ErrorSaid, Subject::vm(UID), secs, attributes);
        let finding = ClusterFinding { side, node: node.map(ToOwned::to_owned), finding: Finding::Occurrence(said) };
        self.cluster_vm().findings.push(finding);
        self
    }

    /// A log of a node says that something failed; whose it is, if its attributes name a pod, a volume or a VM, the scene tells.
    pub(crate) fn node_said(mut self, node: &str, secs: i64, attributes: Attributes) -> Self {
        let said = mk_occurrence(FindingCode::ErrorSaid, Subject::Node, secs, attributes);
        let view = self.snapshot.nodes.iter_mut().find(|view| view.name == node).expect("the world has this node");
        view.occurrences.push(said);
        self
    }

    /// A state of any subject on a node of that name, replacing what was known of it.
    pub(crate) fn set_on(mut self, node: &str, state: State) -> Self {
        let view = self.snapshot.nodes.iter_mut().find(|view| view.name == node).expect("the world has this node");
        view.states.retain(|old| (old.code, &old.subject) != (state.code, &state.subject));
        view.states.push(state);
        self
    }

    /// A state that a Node object shows, present.
    pub(crate) fn node_shown(mut self, node: &str, code: FindingCode, since_secs: i64, attributes: Attributes) -> Self {
        let state = State { attributes, ..mk_state(code, Subject::Node, Status::Present, since_secs) };
        let of = self.snapshot.cluster_nodes.iter_mut().find(|of| of.name == node).expect("the world has this node");
        Arc::make_mut(of).findings.push(Finding::State(state));
        self
    }

    /// The answer for the VM `db-0` of the cluster as if it had been named, with its migration if that is named too.
    pub(crate) fn why_named(&self, migration: Option<&str>) -> Attribution {
        attribute(&self.snapshot, &symptom_of(&self.snapshot, UID, migration, true))
    }
}

pub(crate) fn vm_subject() -> SymptomSubject {
    SymptomSubject::Vm { node: "n1".to_owned(), uid: UID.to_owned() }
}

/// One line per cause for a failing test.
pub(crate) fn table(attribution: &Attribution) -> String {
    let mut text = String::new();
    for cause in attribution.causes.iter().take(5) {
        text.push_str(&format!("\n  {:.3} {:+.1} {} {:?}", cause.probability, cause.score_db, cause.id, cause.chain));
        for line in &cause.evidence {
            text.push_str(&format!("\n      {:+.1} {} {}", line.weight_db, line.cause, line.text));
        }
    }
    text
}
