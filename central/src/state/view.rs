//! What diagnosis and queries see of a node: everything on central's clock, silence and forgetting as Unknown.

use std::{cell::OnceCell, collections::BTreeSet};

use kulprit_diagnosis::{NodeView, Shared, VmView};
use kulprit_model::{Domain, Evidence, Moment, Occurrence, Qemu, State, Status};
use kulprit_proto::v1;

use super::{StateCounts, node::NodeState, states::HeldState};

/// What was shown last, until it would be shown otherwise.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    vms: OnceCell<Shared<VmView>>,
    states: OnceCell<Shared<State>>,
    occurrences: OnceCell<Shared<Occurrence>>,
    counts: OnceCell<StateCounts>,
}

impl NodeState {
    /// The node as a part of a snapshot.
    #[must_use]
    pub fn view(&self) -> NodeView {
        let Shown { vms, states, occurrences, counts: _ } = &self.shown;
        NodeView {
            name: self.id.node.clone(),
            is_reporting: !self.is_silent,
            last_heard_wall_usec: self.last_heard.map(|at| at.wall_usec),
            vms: vms.get_or_init(|| self.vm_views().into()).clone(),
            states: states.get_or_init(|| self.shown_states().into()).clone(),
            occurrences: occurrences.get_or_init(|| self.shown_occurrences().into()).clone(),
            cannot_show: self.hello.cannot_show.clone(),
        }
    }

    /// How many of its states are Present, Absent and Unknown, as shown. Every tick asks, so it is counted once.
    pub(super) fn count_states(&self) -> StateCounts {
        *self.shown.counts.get_or_init(|| {
            let mut counts = StateCounts::default();
            for held in self.states.iter() {
                match held.state.status {
                    _ if self.is_silent || held.forgotten.is_some() => counts.n_unknown += 1,
                    Status::Present => counts.n_present += 1,
                    Status::Absent => counts.n_absent += 1,
                    Status::Unknown => counts.n_unknown += 1,
                }
            }
            counts
        })
    }

    fn shown_states(&self) -> Vec<State> {
        self.states.iter().map(|held| self.shift_state(self.shown_state(held))).collect()
    }

    fn shown_occurrences(&self) -> Vec<Occurrence> {
        let shown = self.occurrences.values().map(|occurrence| self.shift_occurrence(occurrence.clone()));
        let mut shown: Vec<Occurrence> = shown.collect();
        shown.sort_by(|a, b| (a.first, a.code, &a.subject).cmp(&(b.first, b.code, &b.subject)));
        shown
    }

    /// What the agent said of itself last.
    #[must_use]
    pub const fn hello_message(&self) -> &v1::Hello {
        &self.hello
    }

    /// Central's clock minus the node's as estimated, microseconds.
    #[must_use]
    pub fn clock_offset_usec(&self) -> i64 {
        self.offset.estimate_usec()
    }

    /// What is added to the node's times, microseconds.
    #[must_use]
    pub const fn applied_offset_usec(&self) -> i64 {
        self.offset.applied_usec()
    }

    /// Whether the node has fallen silent.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// The state as it is to be taken: Unknown where nobody vouches for it.
    fn shown_state(&self, held: &HeldState) -> State {
        let mut state = (*held.state).clone();
        if state.status == Status::Unknown {
            return state;
        }
        let unknown = if let Some(forgotten) = &held.forgotten {
            Some((forgotten.since, forgotten.because.clone()))
        } else if self.is_silent {
            let since = self.last_heard.map_or(held.said.at, |at| self.offset.on_node(at));
            Some((since.max(state.looked), "the agent has fallen silent".to_owned()))
        } else {
            None
        };
        if let Some((since, because)) = unknown {
            state.status = Status::Unknown;
            state.since = since;
            state.unknown_because = Some(because);
        }
        state
    }

    fn vm_views(&self) -> Vec<VmView> {
        let uids: BTreeSet<&String> =
            self.domains.keys().chain(self.qemus.keys()).chain(self.last_qemus.keys()).collect();
        uids.into_iter()
            .map(|uid| {
                let domain = self.domains.get(uid).map(|held| self.shift_domain(held.value.clone()));
                let qemu = self.qemus.get(uid).map(|held| self.shift_qemu(held.value.clone()));
                let last_qemu = self.last_qemus.get(uid).map(|held| self.shift_qemu(held.value.clone()));
                let of_process = || qemu.as_ref().or(last_qemu.as_ref()).and_then(|qemu| qemu.name.clone());
                let name = domain.as_ref().map(|domain| domain.name.clone()).or_else(of_process);
                VmView {
                    uid: uid.clone(),
                    namespace: None,
                    name: name.unwrap_or_else(|| uid.clone()),
                    domain,
                    qemu,
                    last_qemu,
                }
            })
            .collect()
    }

    const fn shift(&self, moment: &mut Moment) {
        moment.wall_usec = moment.wall_usec.saturating_add(self.offset.applied_usec());
    }

    fn shift_evidence(&self, evidence: &mut [Evidence]) {
        for piece in evidence {
            self.shift(&mut piece.at);
        }
    }

    fn shift_state(&self, mut state: State) -> State {
        self.shift(&mut state.since);
        self.shift(&mut state.looked);
        self.shift_evidence(&mut state.evidence);
        state
    }

    fn shift_occurrence(&self, mut occurrence: Occurrence) -> Occurrence {
        self.shift(&mut occurrence.first);
        self.shift(&mut occurrence.last);
        self.shift_evidence(&mut occurrence.evidence);
        occurrence
    }

    fn shift_domain(&self, mut domain: Domain) -> Domain {
        self.shift(&mut domain.since);
        domain
    }

    fn shift_qemu(&self, mut qemu: Qemu) -> Qemu {
        self.shift(&mut qemu.since);
        qemu
    }
}
