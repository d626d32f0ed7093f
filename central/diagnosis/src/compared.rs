//! What of other nodes is compared with what is here.
//!
//! Whether a thing is the same elsewhere is asked of every node of the cluster, for every symptom: only the findings that can
//! answer are looked at, and nodes that have none of them are passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use kulprit_model::{
    Finding, FindingCode, Occurrence, State, Status, Subject,
    attribute::READ_FROM_USEC,
    catalogue::{Kind, TEXT, TEXT_PROBES},
};

use crate::{
    catalogue::{CAUSES, Look},
    evidence::fits,
    indexed::{Indexed, Place},
    nearness::Nearness,
    scene::look_back_usec,
    shared,
    snapshot::NodeView,
};

/// Codes that any clue compares between nodes, and what tells who looked there.
pub(crate) static COMPARED: LazyLock<BTreeSet<FindingCode>> = LazyLock::new(|| {
    let mut codes = BTreeSet::from([FindingCode::ProbeBlind, FindingCode::KernelLogLost, FindingCode::QemuExited]);
    CAUSES.iter().flat_map(|cause| cause.clues).for_each(|clue| add_compared(&clue.look, &mut codes));
    codes.extend(CAUSES.iter().flat_map(|cause| shared::looks(cause)).flat_map(|(_, look)| look.codes()));
    codes
});

fn add_compared(look: &Look, codes: &mut BTreeSet<FindingCode>) {
    match look {
        Look::Elsewhere(look) | Look::WellElsewhere(look) => codes.extend(look.codes()),
        Look::All(looks) => looks.iter().for_each(|look| add_compared(look, codes)),
        Look::Present(..) | Look::Absent(_) | Look::Happened(..) | Look::NotHappened(_) | Look::Vm(_) => {}
    }
}

/// The findings of nodes that some looks compare. Nodes by position among their names; nothing of a symptom is in it.
#[derive(Debug)]
pub(crate) struct Compared {
    codes: BTreeSet<FindingCode>,
    /// Probes of which it is asked whether they look.
    probes: Vec<&'static str>,
    /// Where they are, by node.
    places: BTreeMap<usize, Vec<Place>>,
    /// Nodes of which anything can be compared, in order.
    pub(crate) nodes: Vec<usize>,
    /// Those of them at which a look can be fulfilled, in order: the others only show that it is not.
    pub(crate) fulfilling: Vec<usize>,
}

/// What a node and its objects say of what is compared.
pub(crate) struct Said<'a> {
    /// With whether whoever says it is heard.
    pub(crate) states: Vec<(&'a State, bool)>,
    pub(crate) occurrences: Vec<&'a Occurrence>,
}

/// When a probe looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    /// From then on, Unix time in microseconds.
    From { usec: i64 },
    /// With an end, or with holes.
    AtTimes,
}

impl Said<'_> {
    /// When a probe looked, as [`crate::scene::Scene::was_watched_at_onset`] has it. `None`: never, or nobody knows.
    pub(crate) fn watched(&self, probe: &str) -> Option<Watched> {
        let of_probe = self.states.iter().filter(|(state, _)| {
            state.code == FindingCode::ProbeBlind
                && matches!(&state.subject, Subject::Probe { name } if is_told_by(name, probe))
        });
        let mut from_usec: Option<i64> = None;
        let mut is_at_times =
            probe == "kernel-log" && self.occurrences.iter().any(|of| of.code == FindingCode::KernelLogLost);
        for (state, is_heard) in of_probe {
            if !*is_heard || state.status != Status::Absent {
                return None;
            }
            is_at_times |= state.attributes.get(READ_FROM_USEC).is_some();
            from_usec =
                from_usec.into_iter().chain([state.since.wall_usec.saturating_sub(look_back_usec(probe))]).max();
        }
        from_usec.map(|usec| if is_at_times { Watched::AtTimes } else { Watched::From { usec } })
    }

    /// States of a code with that status, as of now.
    pub(crate) fn states(&self, code: FindingCode, status: Status) -> impl Iterator<Item = &State> {
        let is_it = move |state: &State| state.code == code && state.status == status;
        self.states.iter().filter(move |(state, is_heard)| *is_heard && is_it(state)).map(|(state, _)| *state)
    }
}

impl Compared {
    /// Everything that decides whether one of these looks finds something, or finds that there is nothing.
    pub(crate) fn new(snapshot: &Indexed<'_>, looks: &[&Look]) -> Self {
        // What is asked of the VM itself may be answered where nothing is said.
        let is_of_vm = looks.iter().any(|look| asks_of_vm(look));
        let mut codes: BTreeSet<FindingCode> = looks.iter().flat_map(|look| look.codes()).collect();
        let logged = codes.iter().map(|code| code.spec()).filter(|spec| spec.kind == Kind::Occurrence);
        let mut probes: Vec<&'static str> = logged.flat_map(|spec| spec.code.shown_by()).collect();
        if is_of_vm {
            probes.extend(["qemu", "kernel-log", TEXT]);
            codes.insert(FindingCode::QemuExited);
        }
        if !probes.is_empty() {
            codes.extend([FindingCode::ProbeBlind, FindingCode::KernelLogLost]);
        }
        let places = snapshot.places_of(codes.iter().copied());
        let mut compared = Self { codes, probes, places, nodes: Vec::new(), fulfilling: Vec::new() };
        for node in 0..snapshot.names().len() {
            let said = compared.said_on(snapshot, node);
            if is_of_vm || !said.states.is_empty() || !said.occurrences.is_empty() {
                compared.nodes.push(node);
                if looks.iter().any(|look| may_be_fulfilled(look, &said)) {
                    compared.fulfilling.push(node);
                }
            }
        }
        compared
    }

    /// What a node and its objects say, as far as it is compared.
    pub(crate) fn said_on<'a>(&self, snapshot: &Indexed<'a>, node: usize) -> Said<'a> {
        let name = snapshot.names()[node];
        let mut said = Said { states: Vec::new(), occurrences: Vec::new() };
        if let Some(view) = snapshot.node(name) {
            let (states, occurrences) = self.findings_at(snapshot, node);
            said.states.extend(states.into_iter().map(|state| (state, view.is_reporting)));
            said.occurrences = occurrences;
        }
        for finding in snapshot.cluster_nodes_named(name).iter().flat_map(|of| &of.findings).filter(|of| self.wants(of))
        {
            match finding {
                Finding::State(state) => said.states.push((state, true)),
                Finding::Occurrence(occurrence) => said.occurrences.push(occurrence),
            }
        }
        said
    }

    /// What of a node is compared; the node is one of the snapshot's.
    pub(crate) fn findings_on<'a>(
        &self,
        snapshot: &Indexed<'a>,
        node: &NodeView,
    ) -> (Vec<&'a State>, Vec<&'a Occurrence>) {
        snapshot.position(&node.name).map(|node| self.findings_at(snapshot, node)).unwrap_or_default()
    }

    fn findings_at<'a>(&self, snapshot: &Indexed<'a>, node: usize) -> (Vec<&'a State>, Vec<&'a Occurrence>) {
        let nodes = &snapshot.snapshot().nodes;
        let (mut states, mut occurrences) = (Vec::new(), Vec::new());
        for place in self.places.get(&node).into_iter().flatten() {
            match *place {
                Place::State(at, nth) => states.push(&nodes[at].states[nth]),
                Place::Occurrence(at, nth) => occurrences.push(&nodes[at].occurrences[nth]),
            }
        }
        states.retain(|state| self.wants_state(state));
        (states, occurrences)
    }

    pub(crate) fn wants(&self, finding: &Finding) -> bool {
        match finding {
            Finding::State(state) => self.codes.contains(&state.code),
            Finding::Occurrence(occurrence) => self.codes.contains(&occurrence.code),
        }
    }

    fn wants_state(&self, state: &State) -> bool {
        match &state.subject {
            Subject::Probe { name } if state.code == FindingCode::ProbeBlind => {
                self.probes.iter().any(|probe| is_told_by(name, probe))
            }
            _ => true,
        }
    }
}

/// Whether a look can be fulfilled by what a node says, whoever asks. True where that depends on who asks.
fn may_be_fulfilled(look: &Look, said: &Said<'_>) -> bool {
    match look {
        Look::Present(code, facts) => {
            said.states(*code, Status::Present).any(|state| fits(facts, &state.attributes, Nearness::Own))
        }
        Look::Happened(code, facts) => {
            let mut of_code = said.occurrences.iter().filter(|occurrence| occurrence.code == *code);
            of_code.any(|occurrence| fits(facts, &occurrence.attributes, Nearness::Own))
        }
        Look::All(looks) => looks.iter().all(|look| may_be_fulfilled(look, said)),
        Look::Absent(_) | Look::NotHappened(_) | Look::Vm(_) | Look::Elsewhere(_) | Look::WellElsewhere(_) => true,
    }
}

fn asks_of_vm(look: &Look) -> bool {
    match look {
        Look::Vm(_) => true,
        Look::All(looks) => looks.iter().any(asks_of_vm),
        Look::Elsewhere(look) | Look::WellElsewhere(look) => asks_of_vm(look),
        Look::Present(..) | Look::Absent(_) | Look::Happened(..) | Look::NotHappened(_) => false,
    }
}

/// Whether the blindness of the probe of that name is that of `probe`: texts are read by several.
pub(crate) fn is_told_by(name: &str, probe: &str) -> bool {
    name == probe || probe == TEXT && TEXT_PROBES.contains(&name)
}
