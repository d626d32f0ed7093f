//! The part of a snapshot that can say something about one subject, and how near each finding is to it.
//!
//! Findings come out in one fixed order, whatever order the snapshot has them in, so that the same facts give the same bytes.

use kulprit_model::{FindingCode, Occurrence, Qemu, State, Status, Subject, attribute};

use crate::{
    snapshot::{NodeView, Settings, Snapshot, VmView},
    symptom::{Symptom, SymptomId, SymptomSubject},
};

/// Two looks of one fault may differ by this much and still be of one moment: a look every 2 s, a hold of 10 s, clock error.
pub(crate) const SAME_MOMENT_USEC: i64 = 15_000_000;

/// How far the kernel log is read back when an agent starts for the first time.
const LOG_LOOK_BACK_USEC: i64 = 900_000_000;

/// How near a finding is to the subject of the symptom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nearness {
    /// Its own process or disk; for a node: the node.
    Own,
    /// Something of the node it runs on.
    OfNode,
    /// Another VM's, or of an earlier run of this one: says nothing.
    Foreign,
}

impl Nearness {
    /// The subject factor of the engine.
    pub(crate) const fn factor(self) -> f64 {
        match self {
            Self::Own => 1.0,
            Self::OfNode => 0.6,
            Self::Foreign => 0.0,
        }
    }
}

/// What can be said about one symptom of one subject.
pub(crate) struct Scene<'a> {
    pub(crate) symptom: &'a Symptom,
    /// `None`: the snapshot has no such node.
    pub(crate) node: Option<&'a NodeView>,
    /// The VM, if the subject is one and the node knows it.
    pub(crate) vm: Option<&'a VmView>,
    pub(crate) node_name: &'a str,
    pub(crate) settings: &'a Settings,
    pub(crate) now_usec: i64,
    /// The symptom's onset; the moment of asking if that is not known.
    pub(crate) onset_usec: i64,
    states: Vec<(&'a State, Nearness)>,
    occurrences: Vec<(&'a Occurrence, Nearness)>,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, symptom: &'a Symptom) -> Self {
        let (node_name, uid) = match &symptom.subject {
            SymptomSubject::Vm { node, uid } => (node, Some(uid)),
            SymptomSubject::Node { node } => (node, None),
        };
        let node = snapshot.node(node_name);
        let vm = uid.and_then(|uid| node?.vm(uid));
        let mut scene = Self {
            symptom,
            node,
            vm,
            node_name,
            settings: &snapshot.settings,
            now_usec: snapshot.reference_wall_usec,
            onset_usec: symptom.since_wall_usec.unwrap_or(snapshot.reference_wall_usec),
            states: Vec::new(),
            occurrences: Vec::new(),
        };
        if let Some(node) = node {
            scene.states = scene.near_states(&node.states);
            scene.occurrences = scene.near_occurrences(&node.occurrences);
        }
        scene
    }

    /// What is another VM's says nothing, and is left out here once.
    fn near_states(&self, states: &'a [State]) -> Vec<(&'a State, Nearness)> {
        let mut near: Vec<_> = states.iter().map(|state| (state, self.nearness_of_state(state))).collect();
        near.retain(|(_, nearness)| *nearness != Nearness::Foreign);
        near.sort_by(|(a, _), (b, _)| {
            (a.code, &a.subject, a.status, a.since, a.looked, &a.attributes).cmp(&(
                b.code,
                &b.subject,
                b.status,
                b.since,
                b.looked,
                &b.attributes,
            ))
        });
        near
    }

    /// The same for occurrences, without those that had not begun at the time of asking.
    fn near_occurrences(&self, occurrences: &'a [Occurrence]) -> Vec<(&'a Occurrence, Nearness)> {
        let until_usec = self.now_usec.saturating_add(SAME_MOMENT_USEC);
        let known = occurrences.iter().filter(|occurrence| occurrence.first.wall_usec <= until_usec);
        let mut near: Vec<_> = known.map(|occurrence| (occurrence, self.nearness_of_occurrence(occurrence))).collect();
        near.retain(|(_, nearness)| *nearness != Nearness::Foreign);
        near.sort_by(|(a, _), (b, _)| {
            (a.first, a.code, &a.subject, a.last, a.count, &a.attributes).cmp(&(
                b.first,
                b.code,
                &b.subject,
                b.last,
                b.count,
                &b.attributes,
            ))
        });
        near
    }

    /// Whether the agent of the node is heard.
    pub(crate) fn is_reporting(&self) -> bool {
        self.node.is_some_and(|node| node.is_reporting)
    }

    /// The states of the subject and its node with how near they are, by (code, subject). On a silent node each is `Unknown`.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&'a State, Nearness)> + '_ {
        self.states.iter().copied()
    }

    /// The status of a state as of now.
    pub(crate) fn status(&self, state: &State) -> Status {
        if self.is_reporting() { state.status } else { Status::Unknown }
    }

    /// The occurrences of the subject and its node with how near they are, by (first, code, subject).
    pub(crate) fn occurrences(&self) -> impl Iterator<Item = (&'a Occurrence, Nearness)> + '_ {
        self.occurrences.iter().copied()
    }

    /// The QEMU that the symptom is about: the one that lives, or the last one that did.
    pub(crate) fn run(&self) -> Option<&'a Qemu> {
        let vm = self.vm?;
        vm.qemu.as_ref().or(vm.last_qemu.as_ref())
    }

    /// Whether the subject is a VM that libvirt alone runs.
    pub(crate) fn is_standalone_vm(&self) -> bool {
        self.vm.is_some_and(|vm| vm.namespace.is_none())
    }

    /// What is known of a probe's own blindness; `None` if nothing is.
    pub(crate) fn blindness(&self, probe: &str) -> Option<&'a State> {
        let is_it = |state: &State| {
            state.code == FindingCode::ProbeBlind && matches!(&state.subject, Subject::Probe { name } if name == probe)
        };
        self.states().map(|(state, _)| state).find(|state| is_it(state))
    }

    /// Since when a probe is known to look; `None` if that is not known or it does not.
    pub(crate) fn probe_looks_since(&self, probe: &str) -> Option<i64> {
        let blindness = self.blindness(probe)?;
        (self.status(blindness) == Status::Absent).then_some(blindness.since.wall_usec)
    }

    /// Whether whoever would have seen an occurrence of this probe was looking from before the onset on.
    pub(crate) fn was_watched_at_onset(&self, probe: &str) -> bool {
        let Some(since) = self.probe_looks_since(probe) else { return false };
        let reach = if probe == "kernel-log" { LOG_LOOK_BACK_USEC } else { 0 };
        let is_spanned = since.saturating_sub(reach) <= self.onset_usec;
        let window = self.settings.occurrence_fresh_usec;
        let has_hole = probe == "kernel-log"
            && self.occurrences().any(|(occurrence, _)| {
                occurrence.code == FindingCode::KernelLogLost
                    && occurrence.last.wall_usec >= self.onset_usec.saturating_sub(window)
                    && occurrence.first.wall_usec <= self.onset_usec.saturating_add(window)
            });
        is_spanned && !has_hole
    }

    /// Whether it is certain that this VM has no QEMU: somebody looks at processes, and there is none of it.
    pub(crate) fn is_qemu_gone(&self) -> bool {
        let Some(vm) = self.vm else { return false };
        if vm.qemu.is_some() || !self.is_reporting() {
            return false;
        }
        match self.blindness("qemu") {
            Some(blindness) => self.status(blindness) == Status::Absent,
            None => self
                .occurrences()
                .any(|(occurrence, nearness)| occurrence.code == FindingCode::QemuExited && nearness == Nearness::Own),
        }
    }

    /// How near a state is.
    fn nearness_of_state(&self, state: &State) -> Nearness {
        match &state.subject {
            Subject::Vm { uid } => self.nearness_of_uid(uid),
            Subject::Process { pid, start_ticks } => {
                self.nearness_of_process(*pid, *start_ticks, state.looked.wall_usec)
            }
            Subject::Device { name } => {
                self.nearness_of_device(name, state.attributes.get(attribute::DEVICE), state.since.wall_usec)
            }
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Mount { .. }
            | Subject::Libvirt { .. }
            | Subject::Probe { .. } => self.nearness_of_node(),
        }
    }

    /// How near an occurrence is. What happened to the VM before its last QEMU started is of an earlier run.
    fn nearness_of_occurrence(&self, occurrence: &Occurrence) -> Nearness {
        let last = occurrence.last.wall_usec;
        match &occurrence.subject {
            Subject::Vm { uid } => {
                let is_earlier_run =
                    self.run().is_some_and(|run| last < run.since.wall_usec.saturating_sub(SAME_MOMENT_USEC));
                if is_earlier_run { Nearness::Foreign } else { self.nearness_of_uid(uid) }
            }
            Subject::Process { pid, start_ticks } => self.nearness_of_process(*pid, *start_ticks, last),
            Subject::Device { name } => {
                self.nearness_of_device(name, occurrence.attributes.get(attribute::DEVICE), last)
            }
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Mount { .. }
            | Subject::Libvirt { .. }
            | Subject::Probe { .. } => self.nearness_of_node(),
        }
    }

    fn nearness_of_node(&self) -> Nearness {
        match self.symptom.subject {
            SymptomSubject::Vm { .. } => Nearness::OfNode,
            SymptomSubject::Node { .. } => Nearness::Own,
        }
    }

    fn nearness_of_uid(&self, uid: &str) -> Nearness {
        match &self.symptom.subject {
            SymptomSubject::Vm { uid: own, .. } if own == uid => Nearness::Own,
            SymptomSubject::Vm { .. } | SymptomSubject::Node { .. } => Nearness::Foreign,
        }
    }

    /// A process that is no VM's QEMU is only something of the node. `start_ticks` 0: the kernel log knows but the pid.
    fn nearness_of_process(&self, pid: u32, start_ticks: u64, at_usec: i64) -> Nearness {
        let is = |qemu: &Qemu| {
            qemu.pid == pid
                && (start_ticks == qemu.start_ticks
                    || start_ticks == 0 && at_usec >= qemu.since.wall_usec.saturating_sub(SAME_MOMENT_USEC))
        };
        if self.run().is_some_and(is) {
            return Nearness::Own;
        }
        let is_a_vms = self.node.is_some_and(|node| {
            node.vms.iter().any(|vm| vm.qemu.iter().chain(&vm.last_qemu).any(|qemu| qemu.pid == pid))
        });
        if is_a_vms { Nearness::Foreign } else { self.nearness_of_node() }
    }

    /// A device is the VM's own if a disk of it lies there and its QEMU already ran: names are given anew.
    fn nearness_of_device(&self, name: &str, number: Option<&str>, at_usec: i64) -> Nearness {
        if matches!(self.symptom.subject, SymptomSubject::Node { .. }) {
            return Nearness::Own;
        }
        if let Some(run) = self.run()
            && lies_on(run, name, number)
        {
            let is_of_this_run = at_usec >= run.since.wall_usec.saturating_sub(SAME_MOMENT_USEC);
            return if is_of_this_run { Nearness::Own } else { Nearness::OfNode };
        }
        let is_other_vms = self.node.is_some_and(|node| {
            node.vms
                .iter()
                .filter(|vm| self.vm.is_none_or(|own| own.uid != vm.uid))
                .any(|vm| vm.qemu.iter().chain(&vm.last_qemu).any(|qemu| lies_on(qemu, name, number)))
        });
        if is_other_vms { Nearness::Foreign } else { Nearness::OfNode }
    }

    /// Whether the onset is one thing's. Where no symptom was derived, faults stand beside each other, each with its own.
    pub(crate) fn has_onset(&self) -> bool {
        self.symptom.id != SymptomId::Unspecified
    }

    /// Whether the symptom is still being made, so that what is well now cannot be its cause. A guest stays paused, and a QEMU
    /// stays dead, long after what did it is over.
    pub(crate) fn is_ongoing(&self) -> bool {
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

/// Whether a disk of this QEMU lies on a device, or on a partition of it.
fn lies_on(qemu: &Qemu, name: &str, number: Option<&str>) -> bool {
    qemu.disks.iter().any(|disk| {
        let is_same_name = disk.device_name.as_deref().is_some_and(|own| own == name || whole_disk(own) == name);
        let is_same_number = number.is_some() && disk.device.as_deref() == number;
        is_same_name || is_same_number
    })
}

/// The disk of a partition by the kernel's naming: `sda1` → `sda`, `nvme0n1p2` → `nvme0n1`; a name without a partition as it is.
fn whole_disk(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() || stem.is_empty() {
        return name;
    }
    if let Some(disk) = stem.strip_suffix('p')
        && disk.ends_with(|c: char| c.is_ascii_digit())
    {
        return disk;
    }
    let is_scsi_like = ["sd", "vd", "xvd", "hd"].iter().any(|prefix| stem.starts_with(prefix));
    if is_scsi_like { stem } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_names_its_disk() {
        for (name, want) in [
            ("sda1", "sda"),
            ("sdaa12", "sdaa"),
            ("nvme0n1p2", "nvme0n1"),
            ("mmcblk0p1", "mmcblk0"),
            ("loop3", "loop3"),
            ("loop3p1", "loop3"),
            ("dm-3", "dm-3"),
            ("nvme0n1", "nvme0n1"),
            ("vda", "vda"),
            ("1", "1"),
            ("", ""),
        ] {
            assert_eq!(whole_disk(name), want, "{name}");
        }
    }
}
