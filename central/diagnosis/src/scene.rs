//! What can be seen of one symptom at one place: the findings of its nodes and of the VM, each with how near it is.
//!
//! Findings come out in one fixed order, whatever order the snapshot has them in, so that the same facts give the same bytes. What is
//! another VM's says nothing and is left out once, here.

use kulprit_cluster::{ClusterFinding, ClusterVm};
use kulprit_model::{
    Finding, FindingCode, Occurrence, Qemu, Side, State, Status, Subject,
    attribute::{READ_FROM_USEC, READ_UNTIL_USEC, SIDE},
    catalogue::{TEXT, TEXT_PROBES},
};

pub(crate) use crate::nearness::{Nearness, SAME_MOMENT_USEC};
use crate::{
    compared::{Compared, is_told_by},
    identity::Identity,
    indexed::Indexed,
    nearness::Who,
    snapshot::{NodeView, Settings, VmView},
    standalone,
    symptom::{Symptom, SymptomId, SymptomSubject, kubevirt::is_shown_well},
};

/// How far logs are read back when an agent starts for the first time.
const LOG_LOOK_BACK_USEC: i64 = 900_000_000;

/// What a scene is made from.
pub(crate) struct Setting<'s, 'a> {
    pub(crate) snapshot: &'a Indexed<'a>,
    pub(crate) symptom: &'a Symptom,
    pub(crate) cluster_vm: Option<&'a ClusterVm>,
    pub(crate) who: &'s Who<'a>,
    /// When the migration in question began, if that is known.
    pub(crate) begin_usec: Option<i64>,
    /// Of a node that is looked at only to compare: what is compared. There another VM's findings count as the node's.
    pub(crate) only: Option<&'s Compared>,
}

/// A node at which a scene looks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Host<'a> {
    /// Empty: the node is not known.
    pub(crate) name: &'a str,
    /// `None`: nothing of its host was seen.
    pub(crate) node: Option<&'a NodeView>,
    /// 1 where the VM is there, less where it only could be.
    factor: f64,
}

impl<'a> Host<'a> {
    pub(crate) fn new(snapshot: &'a Indexed<'a>, name: &'a str, factor: f64) -> Self {
        Self { name, node: snapshot.node(name), factor }
    }

    /// Whether the VM is there, not only possibly.
    pub(crate) fn is_certain(&self) -> bool {
        self.factor >= 1.0 && !self.name.is_empty()
    }
}

/// One finding as this scene sees it.
#[derive(Debug)]
pub(crate) struct Sighting<'a, T> {
    pub(crate) of: &'a T,
    pub(crate) nearness: Nearness,
    /// Subject factor, 0..=1.
    pub(crate) factor: f64,
    /// Node that saw it; empty for the VM's objects.
    pub(crate) node: &'a str,
    /// Whether whoever says it is heard: a silent agent's states are `Unknown`.
    is_heard: bool,
}

impl<T> Clone for Sighting<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Sighting<'_, T> {}

impl Sighting<'_, State> {
    /// The status as of now.
    pub(crate) const fn status(&self) -> Status {
        if self.is_heard { self.of.status } else { Status::Unknown }
    }
}

/// What can be said about one symptom of one subject at one place.
pub(crate) struct Scene<'a> {
    pub(crate) symptom: &'a Symptom,
    pub(crate) side: Side,
    pub(crate) cluster_vm: Option<&'a ClusterVm>,
    /// The node at which the VM's own process is looked for. `None`: the snapshot has no such node.
    pub(crate) node: Option<&'a NodeView>,
    /// The VM, if the subject is one and the node knows it.
    pub(crate) vm: Option<&'a VmView>,
    /// Empty: not known.
    pub(crate) node_name: &'a str,
    /// The other end of a path.
    pub(crate) peer_name: Option<&'a str>,
    /// Whether the VM is there, not only possibly.
    pub(crate) is_certain: bool,
    pub(crate) settings: &'a Settings,
    pub(crate) now_usec: i64,
    /// The symptom's onset; the moment of asking if that is not known.
    pub(crate) onset_usec: i64,
    /// From here to the onset nothing ages: the migration whose end the symptom is.
    pub(crate) begin_usec: i64,
    /// Whether that begin is known: what was said before is of another migration.
    pub(crate) has_begin: bool,
    /// Whether old evidence counts less. Not where the onset is unknown.
    pub(crate) ages: bool,
    /// Whether the subject is a VM that libvirt alone runs.
    pub(crate) is_standalone_vm: bool,
    /// Whether what is known of the VM was recorded: then what nobody wrote down was not looked at.
    pub(crate) is_recorded: bool,
    views: Vec<&'a NodeView>,
    states: Vec<Sighting<'a, State>>,
    occurrences: Vec<Sighting<'a, Occurrence>>,
}

impl<'a> Scene<'a> {
    /// `here` is the node of the place, `hosts` every node of the VM: they may speak of this place too.
    pub(crate) fn new(setting: &Setting<'_, 'a>, side: Side, here: Host<'a>, hosts: &[Host<'a>]) -> Self {
        let Setting { snapshot, symptom, cluster_vm, who, begin_usec, .. } = setting;
        let onset_usec = symptom.since_wall_usec.unwrap_or(snapshot.reference_wall_usec);
        let is_well = cluster_vm.is_none_or(is_shown_well) && symptom.id == SymptomId::Unspecified;
        let mut scene = Self {
            symptom,
            side,
            cluster_vm: *cluster_vm,
            node: here.node,
            vm: here.node.and_then(|node| who.view_on(node)),
            node_name: here.name,
            peer_name: None,
            is_certain: here.is_certain(),
            settings: &snapshot.settings,
            now_usec: snapshot.reference_wall_usec,
            onset_usec,
            begin_usec: begin_usec.map_or(onset_usec, |begin_usec| begin_usec.min(onset_usec)),
            has_begin: begin_usec.is_some(),
            is_recorded: cluster_vm.is_some() && !snapshot.cluster_sight.is_watched,
            ages: symptom.since_wall_usec.is_some() || cluster_vm.is_none() || is_well,
            is_standalone_vm: who.is_standalone,
            views: Vec::new(),
            states: Vec::new(),
            occurrences: Vec::new(),
        };
        let mut looked_at: Vec<&str> = Vec::new();
        for host in hosts {
            if !looked_at.contains(&host.name) {
                looked_at.push(host.name);
                scene.look_at(setting, *host);
            }
        }
        if let Some(vm) = cluster_vm {
            for of in &vm.findings {
                let is_wanted = setting.only.is_none_or(|only| only.wants(&of.finding));
                if is_wanted && scene.shows(of, setting.only.is_some()) {
                    scene.add(&of.finding, Nearness::Own, 1.0, of.node.as_deref().unwrap_or_default(), true);
                }
            }
        }
        scene.sort();
        scene
    }

    /// Adds what a node and its objects say, as far as it is of this place.
    fn look_at(&mut self, setting: &Setting<'_, 'a>, host: Host<'a>) {
        let Setting { snapshot, who, only, .. } = setting;
        let near = |nearness: Nearness| {
            if only.is_some() && nearness == Nearness::Foreign { Nearness::OfNode } else { nearness }
        };
        let factor = |nearness: Nearness| {
            if nearness == Nearness::Own { 1.0 } else { nearness.factor() * host.factor }
        };
        let is_here = self.is_union() || host.name == self.node_name;
        if let Some(node) = host.node {
            let on = who.on(node);
            let (states, occurrences) = match only {
                Some(only) => only.findings_on(snapshot, node),
                None => (node.states.iter().collect(), node.occurrences.iter().collect()),
            };
            for state in states {
                let nearness = near(on.of_state(state));
                // The job of a migration is both ends', whoever looked at it.
                let is_of_both = state.code.spec().probe == "migration" && nearness == Nearness::Own;
                if (is_here || is_of_both) && nearness != Nearness::Foreign {
                    let sighting = Sighting {
                        of: state,
                        nearness,
                        factor: factor(nearness),
                        node: host.name,
                        is_heard: node.is_reporting,
                    };
                    self.states.push(sighting);
                }
            }
            for occurrence in occurrences {
                let nearness = near(on.of_occurrence(occurrence));
                // Whoever says it may speak of the other end, as the source's libvirt does of what the target refused.
                let told = occurrence.attributes.get(SIDE).and_then(|side| side.parse::<Side>().ok());
                let is_of_here = match told {
                    Some(told @ (Side::Source | Side::Target)) if matches!(self.side, Side::Source | Side::Target) => {
                        told == self.side
                    }
                    Some(_) | None => is_here,
                };
                if is_of_here && nearness != Nearness::Foreign {
                    self.push_occurrence(occurrence, nearness, factor(nearness), host.name);
                }
            }
            if is_here && !self.views.iter().any(|view| view.name == node.name) {
                self.views.push(node);
            }
        }
        let of_objects = if is_here { snapshot.cluster_nodes_named(host.name) } else { &[] };
        let of_objects = of_objects.iter().flat_map(|node| &node.findings);
        for finding in of_objects.filter(|finding| only.is_none_or(|only| only.wants(finding))) {
            let nearness = near(who.of_mention(finding.attributes()));
            if nearness != Nearness::Foreign {
                self.add(finding, nearness, factor(nearness), host.name, true);
            }
        }
    }

    fn add(&mut self, finding: &'a Finding, nearness: Nearness, factor: f64, node: &'a str, is_heard: bool) {
        match finding {
            Finding::State(state) => self.states.push(Sighting { of: state, nearness, factor, node, is_heard }),
            Finding::Occurrence(occurrence) => self.push_occurrence(occurrence, nearness, factor, node),
        }
    }

    /// What had not begun at the time of asking is left out.
    fn push_occurrence(&mut self, of: &'a Occurrence, nearness: Nearness, factor: f64, node: &'a str) {
        if of.first.wall_usec <= self.now_usec.saturating_add(SAME_MOMENT_USEC) {
            self.occurrences.push(Sighting { of, nearness, factor, node, is_heard: true });
        }
    }

    /// Whether what the VM's objects say is of this place: by its node and its side, as far as they are told.
    fn shows(&self, of: &ClusterFinding, is_elsewhere: bool) -> bool {
        if is_elsewhere {
            return of.node.as_deref() == Some(self.node_name);
        }
        if self.is_union() {
            return true;
        }
        let attributes = of.finding.attributes();
        let pod = self.cluster_vm.and_then(|vm| Identity::of_cluster_vm(vm).pod_of(attributes));
        let node = of.node.as_deref().or_else(|| pod?.node.as_deref());
        let is_node = node.is_none_or(|node| node == self.node_name);
        let told = of.side.or_else(|| attributes.get(SIDE)?.parse().ok()).or_else(|| pod.map(|pod| pod.side));
        let is_exact_node = node.is_some() && is_node;
        let is_side = match told {
            None | Some(Side::Path | Side::Shared | Side::Cluster) => true,
            Some(Side::Hosting | Side::Source) => self.side != Side::Target || is_exact_node,
            Some(Side::Target) => self.side == Side::Target || is_exact_node && self.side == Side::Hosting,
        };
        is_node && is_side
    }

    const fn is_union(&self) -> bool {
        matches!(self.side, Side::Path | Side::Shared | Side::Cluster)
    }

    fn sort(&mut self) {
        self.states.sort_by(|a, b| {
            let key = |s: &Sighting<'a, State>| (s.of.code, s.of.status, s.of.since, s.of.looked);
            (a.of.code, &a.of.subject)
                .cmp(&(b.of.code, &b.of.subject))
                .then_with(|| key(a).cmp(&key(b)))
                .then_with(|| a.of.attributes.cmp(&b.of.attributes))
                .then_with(|| a.node.cmp(b.node))
        });
        self.occurrences.sort_by(|a, b| {
            (a.of.first, a.of.code, &a.of.subject, a.of.last, a.of.count, &a.of.attributes, a.node).cmp(&(
                b.of.first,
                b.of.code,
                &b.of.subject,
                b.of.last,
                b.of.count,
                &b.of.attributes,
                b.node,
            ))
        });
    }

    /// Whether the agent of the node is heard.
    pub(crate) fn is_reporting(&self) -> bool {
        self.node.is_some_and(|node| node.is_reporting)
    }

    /// The states of the subject and its nodes, by (code, subject).
    pub(crate) fn states(&self) -> impl Iterator<Item = Sighting<'a, State>> + '_ {
        self.states.iter().copied()
    }

    /// Those of one code.
    pub(crate) fn states_of(&self, code: FindingCode) -> &[Sighting<'a, State>] {
        let from = self.states.partition_point(|sighting| sighting.of.code < code);
        let until = self.states.partition_point(|sighting| sighting.of.code <= code);
        &self.states[from..until]
    }

    /// The occurrences of the subject and its nodes, by (first, code, subject).
    pub(crate) fn occurrences(&self) -> impl Iterator<Item = Sighting<'a, Occurrence>> + '_ {
        self.occurrences.iter().copied()
    }

    /// The QEMU that the symptom is about: the one that lives, or the last one that did.
    pub(crate) fn run(&self) -> Option<&'a Qemu> {
        let vm = self.vm?;
        vm.qemu.as_ref().or(vm.last_qemu.as_ref())
    }

    /// What is known of a probe's own blindness on the node of this place; `None` if nothing is.
    pub(crate) fn blindness(&self, probe: &str) -> Option<Sighting<'a, State>> {
        // Of the probes that read texts the one that could not: what it would have shown is not known.
        let own = self.blindnesses(probe).filter(|sighting| sighting.node == self.node_name);
        own.min_by_key(|sighting| sighting.status() == Status::Absent)
    }

    fn blindnesses<'s>(&'s self, probe: &'s str) -> impl Iterator<Item = Sighting<'a, State>> + 's {
        let is_it = move |state: &State| match &state.subject {
            Subject::Probe { name } => is_told_by(name, probe),
            _ => false,
        };
        self.states_of(FindingCode::ProbeBlind).iter().copied().filter(move |sighting| is_it(sighting.of))
    }

    /// Since when a probe is known to look; `None` if that is not known or it does not.
    pub(crate) fn probe_looks_since(&self, probe: &str) -> Option<i64> {
        let blindness = self.blindness(probe)?;
        (blindness.status() == Status::Absent).then_some(blindness.of.since.wall_usec)
    }

    /// Whether it would be known had it happened: all that show it were looking over the onset.
    pub(crate) fn would_show(&self, code: FindingCode) -> bool {
        let own = code.spec().probe;
        // Of a recorded log nobody says what else could have been read.
        let is_recorded = self.blindnesses(own).any(|own| own.of.attributes.number(READ_FROM_USEC).is_some());
        let mut asked = code.shown_by().filter(|probe| *probe == own || !is_recorded);
        asked.all(|probe| self.was_watched_at_onset(probe))
    }

    /// Whether whoever would have seen an occurrence of this probe was looking over the onset, on every node of this place.
    pub(crate) fn was_watched_at_onset(&self, probe: &str) -> bool {
        !self.views.is_empty()
            && self.views.iter().all(|view| {
                let mut of_node = self.blindnesses(probe).filter(|sighting| sighting.node == view.name).peekable();
                of_node.peek().is_some() && of_node.all(|sighting| self.spans_onset(&sighting, probe))
            })
    }

    fn spans_onset(&self, blindness: &Sighting<'a, State>, probe: &str) -> bool {
        if blindness.status() != Status::Absent {
            return false;
        }
        let attributes = &blindness.of.attributes;
        if let Some(from) = attributes.number(READ_FROM_USEC) {
            let until = attributes.number(READ_UNTIL_USEC).unwrap_or(i64::MIN);
            return from <= self.begin_usec && until >= self.onset_usec;
        }
        let since = blindness.of.since.wall_usec;
        let is_spanned = since.saturating_sub(look_back_usec(probe)) <= self.onset_usec;
        let window = self.settings.occurrence_fresh_usec;
        let has_hole = probe == "kernel-log"
            && self.occurrences().any(|sighting| {
                sighting.of.code == FindingCode::KernelLogLost
                    && sighting.node == blindness.node
                    && sighting.of.last.wall_usec >= self.onset_usec.saturating_sub(window)
                    && sighting.of.first.wall_usec <= self.onset_usec.saturating_add(window)
            });
        is_spanned && !has_hole
    }

    /// Whether it is certain that this VM has no QEMU here: somebody looks at processes, and there is none of it.
    pub(crate) fn is_qemu_gone(&self) -> bool {
        let is_known = self.vm.is_some() || self.cluster_vm.is_some();
        if !is_known || self.vm.is_some_and(|vm| vm.qemu.is_some()) || !self.is_reporting() {
            return false;
        }
        // A QEMU of which nobody knows whose it is may be its.
        let is_nobodys = |view: &VmView| view.qemu.is_some() && view.name.is_empty() && view.domain.is_none();
        if self.node.is_some_and(|node| node.vms.iter().any(is_nobodys)) {
            return false;
        }
        match self.blindness("qemu") {
            Some(blindness) => blindness.status() == Status::Absent,
            None => self.occurrences().any(|sighting| {
                sighting.of.code == FindingCode::QemuExited
                    && sighting.nearness == Nearness::Own
                    && sighting.node == self.node_name
            }),
        }
    }

    /// Whether a log of the host goes on after the onset: whoever writes it lives.
    fn is_log_going_on(&self) -> bool {
        ["text", "kernel-log"].into_iter().filter_map(|probe| self.blindness(probe)).any(|sighting| {
            let until = sighting.of.attributes.number(READ_UNTIL_USEC);
            sighting.status() == Status::Absent && until.is_some_and(|until| until > self.onset_usec)
        })
    }

    /// Whether nothing of the host was looked at but texts that end before the onset.
    pub(crate) fn is_host_unseen(&self) -> bool {
        let is_a_look = |state: &State| {
            let probe = state.code.spec().probe;
            state.status != Status::Unknown && !matches!(probe, "text" | "agent" | "cluster")
        };
        self.node.is_none_or(|node| !node.is_reporting || !node.states.iter().any(is_a_look)) && !self.is_log_going_on()
    }

    /// Whether the onset is one thing's. Where no symptom was derived, faults stand beside each other, each with its own.
    pub(crate) fn has_onset(&self) -> bool {
        self.symptom.id != SymptomId::Unspecified
    }

    /// Whether the symptom is of one moment: what began after it is not its cause. What is stuck began to be so when its phase did.
    pub(crate) const fn is_moment(&self) -> bool {
        match self.symptom.id {
            SymptomId::PausedUnexpectedly
            | SymptomId::StoppedUnexpectedly
            | SymptomId::MigrationFailed
            | SymptomId::Unresponsive => true,
            SymptomId::StuckStarting
            | SymptomId::StuckStopping
            | SymptomId::StuckTerminating
            | SymptomId::InError
            | SymptomId::StuckMigrating
            | SymptomId::ExcessiveMigrations
            | SymptomId::EvacuationBlocked
            | SymptomId::Unspecified => false,
        }
    }

    /// Whether the symptom is still being made, so that what is well now cannot be its cause. A guest stays paused, and a QEMU
    /// stays dead, long after what did it is over.
    pub(crate) const fn is_ongoing(&self) -> bool {
        match self.symptom.id {
            SymptomId::StuckStarting
            | SymptomId::StuckStopping
            | SymptomId::StuckTerminating
            | SymptomId::InError
            | SymptomId::StuckMigrating
            | SymptomId::Unresponsive
            | SymptomId::EvacuationBlocked
            | SymptomId::Unspecified => true,
            SymptomId::MigrationFailed
            | SymptomId::ExcessiveMigrations
            | SymptomId::PausedUnexpectedly
            | SymptomId::StoppedUnexpectedly => false,
        }
    }
}

/// How far back of its first look a probe sees, microseconds.
pub(crate) fn look_back_usec(probe: &str) -> i64 {
    if matches!(probe, "kernel-log" | TEXT) || TEXT_PROBES.contains(&probe) { LOG_LOOK_BACK_USEC } else { 0 }
}

/// When the migration whose failure is the symptom began; that of one that runs where its agent saw the begin.
pub(crate) fn begin_of_migration<'a>(
    snapshot: &'a Indexed<'a>,
    symptom: &Symptom,
    vm: Option<&ClusterVm>,
) -> Option<i64> {
    let is_failed = symptom.id == SymptomId::MigrationFailed;
    if !is_failed && (symptom.id != SymptomId::StuckMigrating || vm.is_some()) {
        return None;
    }
    let Some(vm) = vm else {
        let SymptomSubject::Vm { uid, .. } = &symptom.subject else { return None };
        return standalone::migration_of(snapshot, uid).map(|migration| migration.began_usec);
    };
    let migration = vm.life.migration.as_ref()?;
    [migration.created_usec, migration.started_usec].into_iter().flatten().min()
}

impl SymptomSubject {
    /// Whether it is a VM.
    pub(crate) const fn is_vm(&self) -> bool {
        matches!(self, Self::Vm { .. })
    }
}
