//! How near a finding of one node is to the subject: its own, its node's, or another VM's.
//!
//! The subject of a finding decides first (a VM, a process, a device, a mount); where it is only the node, what the finding mentions
//! does: a pod, a volume, a VM. On a node where no other VM is known, a finding about a QEMU or a launcher is this VM's own.

use std::cell::OnceCell;

use kulprit_cluster::{ClusterVm, MigrationLife};
use kulprit_model::{
    Attributes, Occurrence, Qemu, State, Subject,
    attribute::{ACTOR, COMM, DEVICE, DEVICE_NAME, IMAGE, OPERATION, POD, POD_UID, UNDATED, VMI, VOLUME},
    said::{actor, operation},
};

use crate::{
    identity::{Identity, Mention},
    indexed::{Indexed, Other},
    snapshot::{NodeView, VmView},
    standalone,
    symptom::SymptomSubject,
};

/// Two looks of one fault may differ by this much and still be of one moment: a look every 2 s, a hold of 10 s, clock error.
pub(crate) const SAME_MOMENT_USEC: i64 = 15_000_000;

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

/// Everybody that the snapshot knows, and the subject among them.
pub(crate) struct Who<'a> {
    subject: &'a SymptomSubject,
    snapshot: &'a Indexed<'a>,
    pub(crate) me: Identity<'a>,
    own: Option<&'a ClusterVm>,
    /// The VM as nodes know it, in their order.
    own_views: Vec<(&'a NodeView, &'a VmView)>,
    /// Whether libvirt alone runs the VM, wherever it is shown.
    pub(crate) is_standalone: bool,
    /// Whether the symptom is a migration's, and no other VM is known to migrate at that time.
    is_sole_migrant: OnceCell<bool>,
}

impl<'a> Who<'a> {
    pub(crate) fn new(snapshot: &'a Indexed<'a>, subject: &'a SymptomSubject) -> Self {
        let uid = match subject {
            SymptomSubject::Vm { uid, .. } => uid.as_str(),
            SymptomSubject::Node { .. } => "",
        };
        let own = snapshot.cluster_vm(uid).filter(|_| !uid.is_empty());
        let mut me = own.map_or_else(|| Identity::of_uid(uid), Identity::of_cluster_vm);
        let views = snapshot.views_of_any(me.uids(), me.pair());
        if own.is_some() {
            for (_, view) in &views {
                me = me.with_uid(&view.uid);
            }
        }
        let own_views = snapshot.views_of_any(me.uids(), me.pair());
        let is_standalone =
            own.is_none() && !own_views.is_empty() && own_views.iter().all(|(_, view)| view.namespace.is_none());
        Self { subject, snapshot, me, own, own_views, is_standalone, is_sole_migrant: OnceCell::new() }
    }

    /// Whether Kubernetes has the VM: then its runs are told apart by objects, not by when a process was first seen.
    const fn is_in_cluster(&self) -> bool {
        self.own.is_some()
    }

    fn is_sole_migrant(&self) -> bool {
        *self.is_sole_migrant.get_or_init(|| match (self.own, self.subject) {
            (Some(own), _) => is_sole_migrant(self.snapshot, own),
            (None, SymptomSubject::Vm { uid, .. }) => standalone::is_sole_migrant(self.snapshot, uid),
            (None, SymptomSubject::Node { .. }) => standalone::is_sole_migrant(self.snapshot, ""),
        })
    }

    /// Whether no other VM is known to be on the node.
    fn is_alone_on(&self, node: &NodeView) -> bool {
        let n_own = self.own_views.iter().filter(|(on, _)| std::ptr::eq(*on, node)).count();
        n_own == node.vms.len() && self.snapshot.told_on(&node.name).iter().all(|vm| self.me.is_uid(&vm.uid))
    }

    fn is_another(&self, other: Other<'_>) -> bool {
        match other {
            Other::Vm(vm) => self.own.is_none_or(|own| !std::ptr::eq(own, vm)),
            Other::View(view) => !self.me.is_view(view),
        }
    }

    /// The judge of one node's findings.
    pub(crate) fn on(&self, node: &'a NodeView) -> OnNode<'_, 'a> {
        OnNode { who: self, node, vm: self.view_on(node) }
    }

    /// The VM of the symptom, as a node knows it.
    pub(crate) fn view_on(&self, node: &'a NodeView) -> Option<&'a VmView> {
        self.own_views.iter().find(|(on, _)| std::ptr::eq(*on, node)).map(|(_, view)| *view)
    }

    /// What a text of Kubernetes' objects about a node mentions.
    pub(crate) fn of_mention(&self, attributes: &Attributes) -> Nearness {
        if matches!(self.subject, SymptomSubject::Node { .. }) {
            return Nearness::Own;
        }
        match self.me.mention(attributes) {
            Mention::Named => Nearness::Own,
            Mention::NotNamed => Nearness::Foreign,
            Mention::Nothing => {
                let is_others = mentions_anybody(attributes)
                    && self.snapshot.names_another(attributes, |other| self.is_another(other));
                if is_others { Nearness::Foreign } else { Nearness::OfNode }
            }
        }
    }
}

/// The judge of the findings of one node.
pub(crate) struct OnNode<'w, 'a> {
    who: &'w Who<'a>,
    node: &'a NodeView,
    vm: Option<&'a VmView>,
}

impl<'a> OnNode<'_, 'a> {
    /// The QEMU that the symptom is about: the one that lives, or the last one that did.
    fn run(&self) -> Option<&'a Qemu> {
        let vm = self.vm?;
        vm.qemu.as_ref().or(vm.last_qemu.as_ref())
    }

    /// How near a state is.
    pub(crate) fn of_state(&self, state: &State) -> Nearness {
        let nearness = match &state.subject {
            Subject::Vm { uid } => return self.of_uid(uid),
            Subject::Process { pid, start_ticks } => self.of_process(*pid, *start_ticks, state.looked.wall_usec),
            Subject::Device { name } => self.of_device(name, state.attributes.get(DEVICE), state.since.wall_usec),
            Subject::Mount { point } => self.of_mount(point),
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Libvirt { .. }
            | Subject::Problem { .. }
            | Subject::Probe { .. } => self.of_node(),
        };
        self.refined(nearness, &state.attributes, state.since.wall_usec)
    }

    /// How near an occurrence is. What happened to a VM before its last QEMU started is of an earlier run.
    pub(crate) fn of_occurrence(&self, occurrence: &Occurrence) -> Nearness {
        let attributes = &occurrence.attributes;
        // What has no date may be of this run.
        let last = if attributes.get(UNDATED).is_some() { i64::MAX } else { occurrence.last.wall_usec };
        let nearness = match &occurrence.subject {
            Subject::Vm { uid } => {
                let is_earlier_run = !self.who.is_in_cluster()
                    && self.run().is_some_and(|run| last < run.since.wall_usec.saturating_sub(SAME_MOMENT_USEC));
                return if is_earlier_run { Nearness::Foreign } else { self.of_uid(uid) };
            }
            Subject::Process { pid, start_ticks } => self.of_process(*pid, *start_ticks, last),
            Subject::Device { name } => self.of_device(name, attributes.get(DEVICE), last),
            Subject::Mount { point } => self.of_mount(point),
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Libvirt { .. }
            | Subject::Problem { .. }
            | Subject::Probe { .. } => self.of_node(),
        };
        self.refined(nearness, attributes, last)
    }

    /// What is only the node's by its subject may be somebody's by what it mentions.
    fn refined(&self, nearness: Nearness, attributes: &Attributes, at_usec: i64) -> Nearness {
        if nearness != Nearness::OfNode || matches!(self.who.subject, SymptomSubject::Node { .. }) {
            return nearness;
        }
        let mentioned = self.who.of_mention(attributes);
        if mentioned != Nearness::OfNode {
            return mentioned;
        }
        if let Some(name) = attributes.get(DEVICE_NAME) {
            let of_device = self.of_device(name, attributes.get(DEVICE), at_usec);
            if of_device != Nearness::OfNode {
                return of_device;
            }
        }
        let names_nobody = [POD, POD_UID].into_iter().all(|key| attributes.get(key).is_none());
        let is_of_a_vm = attributes.get(COMM).is_some_and(is_comm_of_a_vm)
            || attributes
                .get(ACTOR)
                .is_some_and(|actor| matches!(actor, actor::QEMU | actor::LAUNCHER | actor::LIBVIRT | actor::GUEST));
        // The proxies of a node carry every migration there, and so does a libvirt that is the node's; their lines name none.
        let is_of_a_migration =
            attributes.get(ACTOR).zip(attributes.get(OPERATION)).is_some_and(|(actor, operation)| match actor {
                actor::HANDLER => {
                    matches!(operation, operation::CONNECT_PEER | operation::HANDSHAKE | operation::MIGRATE)
                }
                actor::LIBVIRT => matches!(operation, operation::MIGRATE | operation::MIGRATE_PREPARE),
                _ => false, // says whom it means
            });
        let is_own = is_of_a_vm && self.who.is_alone_on(self.node) || is_of_a_migration && self.who.is_sole_migrant();
        if is_own && names_nobody { Nearness::Own } else { nearness }
    }

    const fn of_node(&self) -> Nearness {
        match self.who.subject {
            SymptomSubject::Vm { .. } => Nearness::OfNode,
            SymptomSubject::Node { .. } => Nearness::Own,
        }
    }

    fn of_uid(&self, uid: &str) -> Nearness {
        match self.who.subject {
            SymptomSubject::Vm { .. } if self.who.me.is_uid(uid) => Nearness::Own,
            SymptomSubject::Vm { .. } | SymptomSubject::Node { .. } => Nearness::Foreign,
        }
    }

    /// A process that is no VM's QEMU is only something of the node. `start_ticks` 0: the kernel log knows but the pid.
    fn of_process(&self, pid: u32, start_ticks: u64, at_usec: i64) -> Nearness {
        let is = |qemu: &Qemu| {
            let is_of_this_run =
                self.who.is_in_cluster() || at_usec >= qemu.since.wall_usec.saturating_sub(SAME_MOMENT_USEC);
            qemu.pid == pid && (start_ticks == qemu.start_ticks || start_ticks == 0 && is_of_this_run)
        };
        if self.run().is_some_and(is) {
            return Nearness::Own;
        }
        let is_a_vms = self.node.vms.iter().any(|vm| vm.qemu.iter().chain(&vm.last_qemu).any(|qemu| qemu.pid == pid));
        if is_a_vms { Nearness::Foreign } else { self.of_node() }
    }

    /// A device is the VM's own if a disk of it lies there and its QEMU already ran: names are given anew.
    fn of_device(&self, name: &str, number: Option<&str>, at_usec: i64) -> Nearness {
        if matches!(self.who.subject, SymptomSubject::Node { .. }) {
            return Nearness::Own;
        }
        if let Some(run) = self.run()
            && lies_on(run, name, number)
        {
            let is_of_this_run =
                self.who.is_in_cluster() || at_usec >= run.since.wall_usec.saturating_sub(SAME_MOMENT_USEC);
            return if is_of_this_run { Nearness::Own } else { Nearness::OfNode };
        }
        if self.is_others(|qemu| lies_on(qemu, name, number)) { Nearness::Foreign } else { Nearness::OfNode }
    }

    /// A mount is the VM's own if a disk of it lies there, or if it is one of its pod's folders.
    fn of_mount(&self, point: &str) -> Nearness {
        let lies_there =
            |qemu: &Qemu| qemu.disks.iter().any(|disk| disk.mount_point.as_deref().is_some_and(|own| own == point));
        if matches!(self.who.subject, SymptomSubject::Node { .. }) {
            return Nearness::Own;
        }
        if self.run().is_some_and(lies_there) || self.who.me.is_path(point) {
            return Nearness::Own;
        }
        let is_others = || self.who.snapshot.has_path_of_another(point, |other| self.who.is_another(other));
        if self.is_others(lies_there) || is_others() { Nearness::Foreign } else { Nearness::OfNode }
    }

    fn is_others(&self, is: impl Fn(&Qemu) -> bool) -> bool {
        self.node
            .vms
            .iter()
            .filter(|vm| self.vm.is_none_or(|own| own.uid != vm.uid))
            .any(|vm| vm.qemu.iter().chain(&vm.last_qemu).any(&is))
    }
}

/// Whether the VM has a migration in question, and no other VM is known to have had one under way between its begin and its end.
fn is_sole_migrant<'a>(snapshot: &'a Indexed<'a>, own: &ClusterVm) -> bool {
    let span = |migration: &MigrationLife| {
        let begin = migration.created_usec.or(migration.started_usec).or(migration.phase_since_usec);
        let is_over = migration.outcome.is_some();
        let end = if is_over { migration.ended_usec.or(migration.phase_since_usec) } else { None };
        (begin.unwrap_or(i64::MIN), end.unwrap_or(i64::MAX))
    };
    let Some(migration) = &own.life.migration else { return false };
    let (begin, end) = span(migration);
    snapshot.cluster_vms.iter().filter(|vm| !std::ptr::eq(&***vm, own)).filter_map(|vm| vm.life.migration.as_ref()).all(
        |other| {
            let (other_begin, other_end) = span(other);
            other_end < begin || end < other_begin
        },
    )
}

/// Whether a finding mentions anything by which somebody is known.
fn mentions_anybody(attributes: &Attributes) -> bool {
    [POD_UID, VMI, POD, VOLUME, IMAGE].into_iter().any(|key| attributes.get(key).is_some())
}

/// Whether the kernel's name of a process or thread is one of a VM: QEMU, its threads, the launcher and its libvirt.
fn is_comm_of_a_vm(comm: &str) -> bool {
    let is_vcpu = comm.strip_prefix("CPU ").is_some_and(|rest| rest.ends_with("/KVM") || rest.ends_with("/TCG"));
    is_vcpu
        || ["qemu", "virt-launcher", "virtqemud", "virtlogd", "swtpm", "virtiofsd", "passt"]
            .iter()
            .any(|name| comm.starts_with(name))
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

    #[test]
    fn the_kernels_names_of_a_vms_processes_are_known() {
        for comm in ["qemu-kvm", "qemu-system-x86", "CPU 0/KVM", "CPU 12/TCG", "virt-launcher-m", "virtqemud"] {
            assert!(is_comm_of_a_vm(comm), "{comm}");
        }
        for comm in ["kubelet", "CPU", "java", "containerd-shim"] {
            assert!(!is_comm_of_a_vm(comm), "{comm}");
        }
    }
}
