//! A snapshot with tables: who is meant by a UID or a name, and where something is said of whom.
//!
//! Diagnosis asks of every VM what every node says of it. Walked, that is VMs × nodes × findings; looked up, it is what there is of
//! the VM. The tables are made once for a snapshot and tell nothing that a walk over it would not (`tests/indexed.rs` holds
//! that). Order is the snapshot's.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, HashMap},
    ops::Deref,
    ptr,
    rc::Rc,
};

use kulprit_cluster::{ClusterNode, ClusterVm};
use kulprit_model::{Attributes, FindingCode, Occurrence, State, Status, attribute::SIGNATURE, catalogue::CATALOGUE};

use crate::{
    attribution::{Attribution, attribute_causes_in, attribute_in},
    catalogue::Look,
    compared::{COMPARED, Compared},
    identity::pairs_of,
    mentions::{Mentions, Named},
    shared::{Asked, Tally},
    snapshot::{NodeView, Snapshot, VmView},
    symptom::{DEAD_SOCKET, Symptom, UNANSWERED, symptom_in, symptoms_in},
};

/// A snapshot of which many questions are asked.
#[derive(Debug)]
pub struct Indexed<'a> {
    snapshot: &'a Snapshot,
    /// Names of all nodes, by agents and by objects, in order.
    names: Vec<&'a str>,
    /// By name; of several with one name the first.
    nodes: HashMap<&'a str, &'a NodeView>,
    /// By name.
    cluster_nodes: HashMap<&'a str, Vec<&'a ClusterNode>>,
    /// By each UID that stands for it; of several the first.
    cluster_vms: HashMap<&'a str, &'a ClusterVm>,
    /// By UID: node and VM of it.
    views: HashMap<&'a str, Vec<Spot>>,
    /// By namespace and name, as names of domains and QEMUs have them.
    views_of_pair: HashMap<(&'a str, &'a str), Vec<Spot>>,
    /// Present states of VMs, by UID, on nodes that report.
    present: HashMap<&'a str, Vec<(&'a NodeView, &'a State)>>,
    /// Present states of any subject, by the address of the node, on nodes that report.
    present_on: HashMap<usize, Vec<&'a State>>,
    /// Migrations of VMs that did not complete, by UID, on nodes that report.
    not_completed: HashMap<&'a str, Vec<(&'a NodeView, &'a Occurrence)>>,
    /// What is said of the command sockets of launchers.
    of_sockets: Vec<&'a Occurrence>,
    /// VMs of the cluster that are told to have something on a node, by its name.
    told_on: HashMap<&'a str, Vec<&'a ClusterVm>>,
    // What only some snapshots need is made when it is asked for; positions in the snapshot, so that it borrows nothing.
    mentions: OnceCell<Mentions>,
    by_code: OnceCell<HashMap<FindingCode, Vec<Place>>>,
    /// Indices of `of_sockets`, by the address of the VM that each names.
    sockets_of: OnceCell<HashMap<usize, Vec<usize>>>,
    /// Positions of VMs of the cluster whose migration is under way, or ended not long ago.
    migrating: OnceCell<Vec<usize>>,
    /// What is compared between nodes, by the address of the look.
    compared: RefCell<HashMap<usize, Rc<Compared>>>,
    /// What nodes show of what they share.
    tallies: RefCell<HashMap<Asked, Rc<Tally>>>,
}

/// Positions of a node in the snapshot and of a VM in it.
type Spot = (usize, usize);

/// Positions of a node and of a finding of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    State(usize, usize),
    Occurrence(usize, usize),
}

impl Deref for Indexed<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.snapshot
    }
}

impl<'a> Indexed<'a> {
    /// Makes the tables: one walk over the snapshot.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut indexed = Self {
            snapshot,
            names: Vec::with_capacity(snapshot.nodes.len() + snapshot.cluster_nodes.len()),
            nodes: HashMap::with_capacity(snapshot.nodes.len()),
            cluster_nodes: HashMap::with_capacity(snapshot.cluster_nodes.len()),
            cluster_vms: HashMap::with_capacity(snapshot.cluster_vms.len() * 2),
            views: HashMap::new(),
            views_of_pair: HashMap::new(),
            present: HashMap::new(),
            present_on: HashMap::new(),
            not_completed: HashMap::new(),
            of_sockets: Vec::new(),
            told_on: HashMap::new(),
            mentions: OnceCell::new(),
            by_code: OnceCell::new(),
            sockets_of: OnceCell::new(),
            migrating: OnceCell::new(),
            compared: RefCell::default(),
            tallies: RefCell::default(),
        };
        indexed.names.extend(snapshot.nodes.iter().map(|node| node.name.as_str()));
        indexed.names.extend(snapshot.cluster_nodes.iter().map(|node| node.name.as_str()));
        indexed.names.sort_unstable();
        indexed.names.dedup();
        for (index, node) in snapshot.nodes.iter().enumerate() {
            indexed.add_node(index, node);
        }
        for node in &snapshot.cluster_nodes {
            indexed.cluster_nodes.entry(&node.name).or_default().push(node);
        }
        for vm in &snapshot.cluster_vms {
            indexed.add_cluster_vm(vm);
        }
        indexed
    }

    fn add_node(&mut self, index: usize, node: &'a NodeView) {
        self.nodes.entry(&node.name).or_insert(node);
        for (nth, view) in node.vms.iter().enumerate() {
            let spot = (index, nth);
            self.views.entry(&view.uid).or_default().push(spot);
            let of_namespace = view.namespace.as_deref().map(|namespace| (namespace, view.name.as_str()));
            for pair in view.uid.split_once('/').into_iter().chain(of_namespace).chain(pairs_of(view)) {
                let spots = self.views_of_pair.entry(pair).or_default();
                if spots.last() != Some(&spot) {
                    spots.push(spot);
                }
            }
        }
        for state in node.states.iter().filter(|state| node.is_reporting && state.status == Status::Present) {
            self.present_on.entry(address(node)).or_default().push(state);
            if let Some(uid) = state.subject.vm_uid() {
                self.present.entry(uid).or_default().push((node, state));
            }
        }
        for occurrence in &node.occurrences {
            if is_of_socket(occurrence) {
                self.of_sockets.push(occurrence);
            }
            if node.is_reporting
                && occurrence.code == FindingCode::MigrationNotCompleted
                && let Some(uid) = occurrence.subject.vm_uid()
            {
                self.not_completed.entry(uid).or_default().push((node, occurrence));
            }
        }
    }

    fn add_cluster_vm(&mut self, vm: &'a ClusterVm) {
        for uid in std::iter::once(&vm.uid).chain(&vm.uids) {
            self.cluster_vms.entry(uid).or_insert(vm);
        }
        let ends = [&vm.hosting, &vm.source, &vm.target].into_iter().flatten().map(String::as_str);
        for name in ends.chain(vm.pods.iter().filter_map(|pod| pod.node.as_deref())) {
            let told = self.told_on.entry(name).or_default();
            if told.last().is_none_or(|last| !ptr::eq(*last, vm)) {
                told.push(vm);
            }
        }
    }

    /// The symptoms of every VM of the cluster, of every other VM on a node that reports, and of those nodes themselves, sorted by
    /// (node, node before VMs, UID).
    #[must_use]
    pub fn symptoms(&self) -> Vec<Symptom> {
        symptoms_in(self)
    }

    /// As [`crate::symptom_of`].
    #[must_use]
    pub fn symptom_of(&self, uid: &str, migration: Option<&str>, is_named: bool) -> Symptom {
        symptom_in(self, uid, migration, is_named)
    }

    /// As [`crate::attribute`].
    #[must_use]
    pub fn attribute(&self, symptom: &Symptom) -> Attribution {
        attribute_in(self, symptom)
    }

    /// The same causes, and nothing beside them: what was ruled out, looked at and not seen is left empty. That takes several walks over
    /// all that a node says, and who explains every symptom at each change shows it to nobody.
    #[must_use]
    pub fn attribute_causes(&self, symptom: &Symptom) -> Attribution {
        attribute_causes_in(self, symptom)
    }

    /// VMs of the cluster whose migration is under way, or ended within `scheduling_usec`: as many as KubeVirt has slots, and who waits.
    pub(crate) fn migrating(&self) -> impl Iterator<Item = &'a ClusterVm> {
        let oldest_usec = self.snapshot.cluster_seen_usec().saturating_sub(self.snapshot.settings.scheduling_usec);
        let positions = self.migrating.get_or_init(|| {
            let is_so = |vm: &ClusterVm| {
                vm.life.migration.as_ref().is_some_and(|migration| {
                    migration.outcome.is_none() || migration.ended_usec.is_some_and(|ended| ended > oldest_usec)
                })
            };
            let vms = self.snapshot.cluster_vms.iter().enumerate();
            vms.filter(|(_, vm)| is_so(vm)).map(|(position, _)| position).collect()
        });
        positions.iter().map(|position| &*self.snapshot.cluster_vms[*position])
    }

    /// The snapshot itself.
    #[must_use]
    pub const fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// As [`Snapshot::cluster_vm`].
    #[must_use]
    pub fn cluster_vm(&self, uid: &str) -> Option<&'a ClusterVm> {
        self.cluster_vms.get(uid).copied()
    }

    /// As [`Snapshot::node`].
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&'a NodeView> {
        self.nodes.get(name).copied()
    }

    /// The names of all nodes, in order.
    pub(crate) fn names(&self) -> &[&'a str] {
        &self.names
    }

    /// Where a name stands among them.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.names.binary_search(&name).ok()
    }

    /// Every node that knows the VM of that UID, and the VM as it knows it.
    pub fn views(&self, uid: &str) -> impl Iterator<Item = (&'a NodeView, &'a VmView)> + use<'a> {
        let mut last = None;
        let spots = self.views.get(uid).cloned().unwrap_or_default().into_iter();
        let snapshot = self.snapshot;
        // Of several on one node the first.
        let firsts = spots.filter(move |(node, _)| last.replace(*node) != Some(*node));
        firsts.map(move |(node, nth)| (&snapshot.nodes[node], &snapshot.nodes[node].vms[nth]))
    }

    /// Everything on nodes that is one of these: by UID, and by namespace and name if they are known.
    pub(crate) fn views_of_any<'u>(
        &self,
        uids: impl Iterator<Item = &'u str>,
        pair: Option<(&str, &str)>,
    ) -> Vec<(&'a NodeView, &'a VmView)> {
        let mut spots: Vec<Spot> = uids.filter_map(|uid| self.views.get(uid)).flatten().copied().collect();
        spots.extend(pair.and_then(|pair| self.views_of_pair.get(&pair)).into_iter().flatten());
        spots.sort_unstable();
        spots.dedup();
        let nodes = &self.snapshot.nodes;
        spots.into_iter().map(|(node, nth)| (&nodes[node], &nodes[node].vms[nth])).collect()
    }

    /// The Node objects of that name.
    pub(crate) fn cluster_nodes_named(&self, name: &str) -> &[&'a ClusterNode] {
        self.cluster_nodes.get(name).map_or(&[], Vec::as_slice)
    }

    /// What nodes that report see present of the VM of that UID.
    pub(crate) fn present(&self, uid: &str) -> &[(&'a NodeView, &'a State)] {
        self.present.get(uid).map_or(&[], Vec::as_slice)
    }

    /// What a node that reports sees present of anything; the node is one of the snapshot's.
    pub(crate) fn present_on(&self, node: &NodeView) -> &[&'a State] {
        self.present_on.get(&address(node)).map_or(&[], Vec::as_slice)
    }

    /// Every such state of any VM, in no order.
    pub(crate) fn all_present(&self) -> impl Iterator<Item = &'a State> {
        self.present.values().flatten().map(|(_, state)| *state)
    }

    /// Migrations of the VM of that UID that nodes that report saw end where they began.
    pub(crate) fn not_completed(&self, uid: &str) -> &[(&'a NodeView, &'a Occurrence)] {
        self.not_completed.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Those of any VM, in no order.
    pub(crate) fn all_not_completed(&self) -> impl Iterator<Item = &'a Occurrence> {
        self.not_completed.values().flatten().map(|(_, occurrence)| *occurrence)
    }

    /// VMs of the cluster of which something is told to be on a node.
    pub(crate) fn told_on(&self, node: &str) -> &[&'a ClusterVm] {
        self.told_on.get(node).map_or(&[], Vec::as_slice)
    }

    /// What nodes say of the command socket of this VM's launcher; the VM is one of the snapshot's.
    pub(crate) fn of_sockets(&self, vm: &ClusterVm) -> impl Iterator<Item = &'a Occurrence> {
        let indices = if self.of_sockets.is_empty() { None } else { self.sockets_of().get(&address(vm)) };
        indices.into_iter().flatten().map(|index| self.of_sockets[*index])
    }

    fn sockets_of(&self) -> &HashMap<usize, Vec<usize>> {
        self.sockets_of.get_or_init(|| {
            let mut of = HashMap::<usize, Vec<usize>>::new();
            for (index, occurrence) in self.of_sockets.iter().enumerate() {
                for vm in self.named_vms(&occurrence.attributes) {
                    of.entry(address(vm)).or_default().push(index);
                }
            }
            of
        })
    }

    fn mentions(&self) -> &Mentions {
        self.mentions.get_or_init(|| Mentions::new(self.snapshot))
    }

    /// The VMs of the cluster that a finding names.
    fn named_vms<'s>(&'s self, attributes: &'s Attributes) -> impl Iterator<Item = &'a ClusterVm> + use<'s, 'a> {
        let vms = &self.snapshot.cluster_vms;
        self.mentions().named_by(self.snapshot, attributes).filter_map(|named| match named {
            Named::Vm(index) => Some(&*vms[index]),
            Named::View(..) => None,
        })
    }

    /// Whether a finding names somebody of whom `is_other` holds.
    pub(crate) fn names_another(&self, attributes: &Attributes, is_other: impl Fn(Other<'a>) -> bool) -> bool {
        self.mentions().named_by(self.snapshot, attributes).any(|named| is_other(self.other(named)))
    }

    /// Whether a path of a node is in a folder of somebody of whom `is_other` holds.
    pub(crate) fn has_path_of_another(&self, path: &str, is_other: impl Fn(Other<'a>) -> bool) -> bool {
        self.mentions().owning(self.snapshot, path).any(|named| is_other(self.other(named)))
    }

    fn other(&self, named: Named) -> Other<'a> {
        match named {
            Named::Vm(index) => Other::Vm(&self.snapshot.cluster_vms[index]),
            Named::View(node, nth) => Other::View(&self.snapshot.nodes[node].vms[nth]),
        }
    }

    /// Where findings of these codes, which clues compare, are: by the position of the node's name; of several nodes with one name the first's.
    pub(crate) fn places_of(&self, codes: impl Iterator<Item = FindingCode>) -> BTreeMap<usize, Vec<Place>> {
        let by_code = self.by_code.get_or_init(|| {
            let is_compared: Vec<bool> = CATALOGUE.iter().map(|spec| COMPARED.contains(&spec.code)).collect();
            let is_compared = |code: FindingCode| is_compared[code as usize];
            let mut by_code = HashMap::<FindingCode, Vec<Place>>::new();
            for (node, view) in self.snapshot.nodes.iter().enumerate() {
                if !self.node(&view.name).is_some_and(|first| ptr::eq(first, view)) {
                    continue;
                }
                for (nth, state) in view.states.iter().enumerate().filter(|(_, state)| is_compared(state.code)) {
                    by_code.entry(state.code).or_default().push(Place::State(node, nth));
                }
                let of_node = view.occurrences.iter().enumerate();
                for (nth, occurrence) in of_node.filter(|(_, occurrence)| is_compared(occurrence.code)) {
                    by_code.entry(occurrence.code).or_default().push(Place::Occurrence(node, nth));
                }
            }
            by_code
        });
        let mut places = BTreeMap::<usize, Vec<Place>>::new();
        for place in codes.filter_map(|code| by_code.get(&code)).flatten() {
            let (Place::State(node, _) | Place::Occurrence(node, _)) = place;
            let position = self.position(&self.snapshot.nodes[*node].name);
            places.entry(position.expect("every node's name is there")).or_default().push(*place);
        }
        places
    }

    /// What of nodes a look compares.
    pub(crate) fn compared(&self, look: &'static Look) -> Rc<Compared> {
        let known = self.compared.borrow().get(&address(look)).cloned();
        known.unwrap_or_else(|| {
            let compared = Rc::new(Compared::new(self, &[look]));
            self.compared.borrow_mut().insert(address(look), Rc::clone(&compared));
            compared
        })
    }

    /// What nodes show of what is asked.
    pub(crate) fn tally(&self, asked: &Asked) -> Rc<Tally> {
        let known = self.tallies.borrow().get(asked).cloned();
        known.unwrap_or_else(|| {
            let tally = Rc::new(Tally::new(self, asked));
            self.tallies.borrow_mut().insert(asked.clone(), Rc::clone(&tally));
            tally
        })
    }
}

/// Somebody whom a finding names.
#[derive(Clone, Copy)]
pub(crate) enum Other<'a> {
    Vm(&'a ClusterVm),
    View(&'a VmView),
}

fn is_of_socket(occurrence: &Occurrence) -> bool {
    occurrence.code == FindingCode::ErrorSaid
        && occurrence.attributes.get(SIGNATURE).is_some_and(|name| name == UNANSWERED || DEAD_SOCKET.contains(&name))
}

fn address<T>(of: &T) -> usize {
    ptr::from_ref(of).addr()
}
