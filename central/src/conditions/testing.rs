//! A node for tests whose probes all look and see nothing, and what can befall it.

use std::collections::BTreeSet;

use kulprit_diagnosis::{NodeView, Snapshot};
use kulprit_model::{
    Attributes, FindingCode, FindingSpec, Moment, Occurrence, State, Status, Subject,
    catalogue::{CATALOGUE, Kind, ONLY_RECORDED},
    subject::SubjectType,
};

/// The moment of asking, Unix time in microseconds.
pub(crate) const NOW: i64 = 1_772_360_100_000_000;

pub(crate) fn subject(spec: &FindingSpec) -> Subject {
    match spec.subject {
        SubjectType::Node | SubjectType::NodeOrVm => Subject::Node,
        SubjectType::Unit => Subject::unit("a.service"),
        SubjectType::Vm => Subject::vm("uid-of-a-vm"),
        SubjectType::Process => Subject::Process { pid: 7, start_ticks: 8 },
        SubjectType::Device => Subject::Device { name: "sda".to_owned() },
        SubjectType::Mount => Subject::Mount { point: "/mnt".to_owned() },
        SubjectType::Libvirt => Subject::Libvirt { uri: "qemu:///system".to_owned() },
        SubjectType::Problem => Subject::Problem { name: "p".to_owned() },
        SubjectType::Probe => Subject::Probe { name: "p".to_owned() },
    }
}

pub(crate) fn state(code: FindingCode, subject: Subject, status: Status) -> State {
    State {
        code,
        subject,
        status,
        since: at(60),
        looked: at(1),
        unknown_because: (status == Status::Unknown).then(|| "no answer within 2 s".to_owned()),
        attributes: Attributes::new(),
        evidence: Vec::new(),
    }
}

fn at(secs_ago: i64) -> Moment {
    Moment { wall_usec: NOW - secs_ago * 1_000_000, boottime_usec: 0 }
}

/// A node that is well: every state of every probe of an agent was looked for.
pub(crate) fn well(name: &str) -> NodeView {
    let of_agents = || CATALOGUE.iter().filter(|spec| !ONLY_RECORDED.contains(&spec.probe) && spec.probe != "agent");
    let states = of_agents().filter(|spec| spec.kind == Kind::State);
    let states = states.map(|spec| state(spec.code, subject(spec), Status::Absent));
    let probes: BTreeSet<&str> = of_agents().map(|spec| spec.probe).collect();
    let probes = probes
        .into_iter()
        .map(|name| state(FindingCode::ProbeBlind, Subject::Probe { name: name.to_owned() }, Status::Absent));
    NodeView {
        name: name.to_owned(),
        is_reporting: true,
        states: states.chain(probes).collect::<Vec<_>>().into(),
        ..NodeView::default()
    }
}

/// The state, which the node has, is this now.
pub(crate) fn set(node: &mut NodeView, code: FindingCode, status: Status) {
    let known = node.states.iter_mut().find(|state| state.code == code).expect("the node has it");
    *known = state(code, known.subject.clone(), status);
}

pub(crate) fn happened(node: &mut NodeView, code: FindingCode, subject: Subject, secs_ago: i64) {
    let (first, last) = (at(secs_ago), at(secs_ago));
    node.occurrences.push(Occurrence {
        code,
        subject,
        first,
        last,
        count: 1,
        attributes: Attributes::new(),
        evidence: Vec::new(),
    });
}

pub(crate) fn snapshot(nodes: Vec<NodeView>) -> Snapshot {
    Snapshot { reference_wall_usec: NOW, nodes, ..Snapshot::default() }
}
