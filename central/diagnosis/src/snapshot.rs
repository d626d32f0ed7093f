//! Everything a diagnosis may look at, as one immutable value that carries its own time.
//!
//! Central builds it from memory, a recorded case from its files. All wall times are on the clock of whoever built the
//! snapshot (central corrects each node's by its clock offset), so that they can be compared across nodes.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use kulprit_cluster::{ClusterNode, ClusterVm};
use kulprit_model::{Domain, Occurrence, Qemu, State};

/// What is known at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The moment of asking, Unix time in microseconds.
    pub reference_wall_usec: i64,
    /// Every node that ever reported and is not gone for good, sorted by name.
    pub nodes: Vec<NodeView>,
    /// Every VM that Kubernetes has, sorted by (namespace, name); empty without Kubernetes.
    pub cluster_vms: Vec<Arc<ClusterVm>>,
    /// Every node that Kubernetes has, sorted by name; empty without Kubernetes.
    pub cluster_nodes: Vec<Arc<ClusterNode>>,
    /// How much of Kubernetes can be seen.
    pub cluster_sight: ClusterSight,
    /// The clocks of symptoms.
    pub settings: Settings,
}

/// How much of Kubernetes can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSight {
    /// Whether Kubernetes is watched: what an agent did not say it did not see. False: a recorded case, or no Kubernetes.
    pub is_watched: bool,
    /// The last moment at which all that is watched was known to be so, Unix time in microseconds: no clock of a VM's life runs on
    /// after it. `None`: now, or nothing is watched.
    pub until_usec: Option<i64>,
    /// What cannot be seen of Kubernetes, one sentence each.
    pub unseen: Vec<String>,
}

/// The clocks after which a VM counts as stuck. All in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Standalone: how long a guest may take to shut down after it was asked to. KubeVirt has the VM's own grace period.
    pub shutdown_grace_usec: i64,
    /// How long after the grace period a stop is stuck.
    pub stop_margin_usec: i64,
    /// How long a killed QEMU may take to end.
    pub kill_grace_usec: i64,
    /// A finding that is older than this and was never refreshed is history, not evidence for now.
    pub occurrence_fresh_usec: i64,
    /// Stuck in phase Pending (Provisioning, WaitingForVolumeBinding) after this; the time in which its DataVolumes fill is not counted.
    pub pending_usec: i64,
    /// Stuck in phase Scheduling after this.
    pub scheduling_usec: i64,
    /// Stuck in phase Scheduled after this.
    pub scheduled_usec: i64,
    /// A migration is stuck in a phase before Running after this.
    pub migration_phase_usec: i64,
    /// A migration that runs is stuck when it got no nearer to its end for this long.
    pub migration_progress_usec: i64,
    /// Standalone: a migration that failed is a symptom of its VM for this long.
    pub migration_failed_usec: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shutdown_grace_usec: 120_000_000,
            stop_margin_usec: 30_000_000,
            kill_grace_usec: 15_000_000,
            occurrence_fresh_usec: 300_000_000,
            pending_usec: 300_000_000,
            scheduling_usec: 120_000_000,
            scheduled_usec: 60_000_000,
            migration_phase_usec: 60_000_000,
            migration_progress_usec: 30_000_000,
            migration_failed_usec: 900_000_000,
        }
    }
}

/// A list that several snapshots hold: a node that says nothing new costs nothing. Whoever changes it has a copy of his own.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared<T>(Arc<Vec<T>>);

impl<T> From<Vec<T>> for Shared<T> {
    fn from(list: Vec<T>) -> Self {
        Self(Arc::new(list))
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T> Deref for Shared<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a Shared<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// One node and what its agent says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Whether its agent was heard within the time limit. If not, every state is already `Unknown` here.
    pub is_reporting: bool,
    /// When its agent was last heard, Unix time in microseconds; `None` if never since central started.
    pub last_heard_wall_usec: Option<i64>,
    /// Its VMs, sorted by UID.
    pub vms: Shared<VmView>,
    /// Its states, sorted by (code, subject). A key that is not here was never looked at: the same as `Unknown`.
    pub states: Shared<State>,
    /// Its occurrences within retention, sorted by (first, code, subject).
    pub occurrences: Shared<Occurrence>,
    /// What this host cannot show, one sentence each.
    pub cannot_show: Vec<String>,
}

/// One VM on a node: what libvirt and procfs say, joined by UID. At least one of the two is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmView {
    /// UID of the VMI; standalone: the domain's UUID.
    pub uid: String,
    /// Namespace; `None` in standalone mode.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// What libvirt says, last known. `None`: libvirt never said anything.
    pub domain: Option<Domain>,
    /// The QEMU process that lives now. `None`: there is none, or procfs could not be read.
    pub qemu: Option<Qemu>,
    /// The QEMU that ran last, kept after it is gone: its disks and pid are what kernel log lines speak of.
    pub last_qemu: Option<Qemu>,
}

impl Snapshot {
    /// The VM of that UID as Kubernetes has it, or `None`.
    #[must_use]
    pub fn cluster_vm(&self, uid: &str) -> Option<&ClusterVm> {
        self.cluster_vms.iter().map(|vm| &**vm).find(|vm| vm.uid == uid || vm.uids.iter().any(|own| own == uid))
    }

    /// Until when Kubernetes' objects were known to be so, Unix time in microseconds.
    #[must_use]
    pub fn cluster_seen_usec(&self) -> i64 {
        self.cluster_sight.until_usec.map_or(self.reference_wall_usec, |until| until.min(self.reference_wall_usec))
    }

    /// The node of that name, or `None`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

impl NodeView {
    /// The VM with that UID, or `None`.
    #[must_use]
    pub fn vm(&self, uid: &str) -> Option<&VmView> {
        self.vms.iter().find(|vm| vm.uid == uid)
    }
}
