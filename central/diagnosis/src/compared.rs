//! What of other nodes is compared with what is here.
//!
//! Whether a thing is the same elsewhere is asked of every node of the cluster, for every symptom: only the findings that can
//! answer are looked at, and nodes that have none of them are passed over.

use std::collections::{BTreeSet, HashMap};

use kulprit_model::{
    Finding, FindingCode, Occurrence, State, Subject,
    catalogue::{Kind, TEXT, TEXT_PROBES},
};

use crate::{
    catalogue::Look,
    indexed::{Indexed, Place},
    scene::Setting,
    snapshot::NodeView,
};

/// The findings that are compared between nodes.
pub(crate) struct Compared<'a> {
    codes: BTreeSet<FindingCode>,
    /// Probes of which it is asked whether they look.
    probes: Vec<&'static str>,
    /// Whether it is asked of the VM itself: that may be answered where nothing is said.
    is_of_vm: bool,
    /// By node.
    places: HashMap<&'a str, Vec<Place>>,
}

impl<'a> Compared<'a> {
    /// Everything that decides whether one of these looks finds something, or finds that there is nothing.
    pub(crate) fn new(snapshot: &'a Indexed<'a>, looks: &[&Look]) -> Self {
        let mut compared = Self {
            codes: looks.iter().flat_map(|look| look.codes()).collect(),
            probes: Vec::new(),
            is_of_vm: looks.iter().any(|look| asks_of_vm(look)),
            places: HashMap::new(),
        };
        let logged = compared.codes.iter().map(|code| code.spec()).filter(|spec| spec.kind == Kind::Occurrence);
        compared.probes = logged.map(|spec| spec.probe).collect();
        if compared.is_of_vm {
            compared.probes.extend(["qemu", "kernel-log", TEXT]);
            compared.codes.insert(FindingCode::QemuExited);
        }
        if !compared.probes.is_empty() {
            compared.codes.extend([FindingCode::ProbeBlind, FindingCode::KernelLogLost]);
        }
        let codes: Vec<FindingCode> = compared.codes.iter().copied().collect();
        compared.places = snapshot.places_of(&codes);
        compared
    }

    /// Whether anything of a node can be compared.
    pub(crate) fn has(&self, setting: &Setting<'_, 'a>, node: &str) -> bool {
        let of_objects = || setting.snapshot.cluster_nodes_named(node).iter().any(|node| !node.findings.is_empty());
        let of_vm =
            || setting.cluster_vm.is_some_and(|vm| vm.findings.iter().any(|of| of.node.as_deref() == Some(node)));
        self.is_of_vm || self.places.contains_key(node) || of_objects() || of_vm()
    }

    /// What of a node is compared.
    pub(crate) fn findings_on(
        &self,
        snapshot: &'a Indexed<'a>,
        node: &'a NodeView,
    ) -> (Vec<&'a State>, Vec<&'a Occurrence>) {
        let (mut states, mut occurrences) = (Vec::new(), Vec::new());
        for place in self.places.get(node.name.as_str()).into_iter().flatten() {
            match *place {
                Place::State(at, nth) if std::ptr::eq(&snapshot.nodes[at], node) => states.push(&node.states[nth]),
                Place::Occurrence(at, nth) if std::ptr::eq(&snapshot.nodes[at], node) => {
                    occurrences.push(&node.occurrences[nth]);
                }
                // Of another node with the same name.
                Place::State(..) | Place::Occurrence(..) => {}
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
