//! What is told of one VM or node: the form in which a snapshot carries it.

use kulprit_model::{Finding, Side};

use crate::history::MigrationRecord;

/// One VM as Kubernetes has it: who it is, where it is in its life, and what its objects and events say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterVm {
    /// Namespace.
    pub namespace: String,
    /// Name of the VM and its VMI.
    pub name: String,
    /// The VMI's UID, else the VM's, else `namespace/name`: the UID of [`kulprit_model::Subject::Vm`] in findings.
    pub uid: String,
    /// Every UID that stands for it: of the VM, of each VMI known.
    pub uids: Vec<String>,
    /// Its pods: launchers, migration targets, attachment pods, importers.
    pub pods: Vec<PodRef>,
    /// Every name a text can have for a volume of it: of the pod's volume, the claim, the persistent volume, its handle.
    pub volumes: Vec<String>,
    /// Images of its pods and container disks.
    pub images: Vec<String>,
    /// Node that hosts it, or the last that did.
    pub hosting: Option<String>,
    /// Source of the migration in question.
    pub source: Option<String>,
    /// Target of the migration in question.
    pub target: Option<String>,
    /// Nodes that its selector or affinity names, where it is not scheduled.
    pub wanted_nodes: Vec<String>,
    /// Where it is in its life.
    pub life: Life,
    /// What its objects and events say.
    pub findings: Vec<ClusterFinding>,
}

/// A pod of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name; empty where only its UID is known.
    pub name: String,
    /// UID, if known.
    pub uid: Option<String>,
    /// Its node, if it has one.
    pub node: Option<String>,
    /// `Hosting` for the launcher (without a migration in question), `Source` and `Target` with one.
    pub side: Side,
}

/// Where a VM is in its life, for deriving symptoms. Times are Unix microseconds; `None`: not told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// Whether a VirtualMachine object is known.
    pub has_vm: bool,
    /// Whether a VirtualMachineInstance object is known.
    pub has_vmi: bool,
    /// `status.printableStatus` of the VM.
    pub printable_status: Option<String>,
    /// Since when it has been so, where a condition or managed field tells.
    pub printable_since_usec: Option<i64>,
    /// Whether its run strategy wants it to run.
    pub wants_to_run: Option<bool>,
    /// Phase of the VMI.
    pub phase: Option<String>,
    /// Since when (`phaseTransitionTimestamps`).
    pub phase_since_usec: Option<i64>,
    /// Whether the VMI was ever Running, where its phases are told.
    pub has_run: Option<bool>,
    /// When the VMI, else the VM, was created.
    pub created_usec: Option<i64>,
    /// When the VM was asked to be deleted.
    pub vm_deleted_usec: Option<i64>,
    /// When the VMI was asked to be deleted: stop or delete of the VM.
    pub vmi_deleted_usec: Option<i64>,
    /// The guest's grace period, seconds.
    pub grace_secs: Option<i64>,
    /// Reason of the Paused condition, if it is true.
    pub paused_reason: Option<String>,
    /// Since when it is paused.
    pub paused_since_usec: Option<i64>,
    /// Reason of the Ready condition, if it is false.
    pub not_ready_reason: Option<String>,
    /// Reason and message of the Synchronized condition, if it is false.
    pub not_synchronized: Option<(String, String)>,
    /// Phase of the launcher pod (the newest that is no migration target), `Terminating` when it is being deleted.
    pub launcher_phase: Option<String>,
    /// The STATUS column `kubectl get pods` would show for it: `ContainerCreating`, `CrashLoopBackOff`, `Init:0/2` …
    pub launcher_status: Option<String>,
    /// Since when the launcher pod is there, or being deleted.
    pub launcher_since_usec: Option<i64>,
    /// The migration in question: the named one, else the newest.
    pub migration: Option<MigrationLife>,
    /// How many migrations ended in the 24 h before the moment of asking, as far as is known.
    pub n_migrations_24h: MigrationCounts,
    /// Whether that is all: somebody has watched for so long.
    pub knows_all_migrations: bool,
    /// The newest of those that ended in these 24 h, newest first.
    pub past_migrations: Vec<MigrationRecord>,
    /// The node it is to leave (`status.evacuationNodeName`), and since when if known.
    pub evacuation: Option<(String, Option<i64>)>,
}

/// How many migrations ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationCounts {
    /// The VM arrived.
    pub succeeded: u32,
    /// Failed by themselves.
    pub failed: u32,
    /// Cancelled.
    pub aborted: u32,
    /// Vanished before anybody saw how they ended.
    pub unknown: u32,
}

impl MigrationCounts {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.succeeded.saturating_add(self.failed).saturating_add(self.aborted).saturating_add(self.unknown)
    }

    /// In words: `9 succeeded, 2 failed`, and what else there was.
    #[must_use]
    pub fn words(self) -> String {
        let Self { succeeded, failed, aborted, unknown } = self;
        let others = [(aborted, "cancelled"), (unknown, "not seen to end")].into_iter().filter(|(n, _)| *n > 0);
        let others: String = others.map(|(n, word)| format!(", {n} {word}")).collect();
        format!("{succeeded} succeeded, {failed} failed{others}")
    }
}

/// One migration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationLife {
    /// Name of the VirtualMachineInstanceMigration; empty if only the VMI tells of it.
    pub name: String,
    /// Its UID.
    pub uid: Option<String>,
    /// Its phase as KubeVirt writes it; `Running` while the VMI's state has a start and no end and no object is known.
    pub phase: Option<String>,
    /// Since when.
    pub phase_since_usec: Option<i64>,
    /// When it was asked for.
    pub created_usec: Option<i64>,
    /// When copying started.
    pub started_usec: Option<i64>,
    /// When it ended.
    pub ended_usec: Option<i64>,
    /// Whether it succeeded (`Some(true)`), failed (`Some(false)`), or is under way.
    pub outcome: Option<bool>,
    /// `failureReason`.
    pub failure_reason: Option<String>,
    /// Whether its abort was asked for, or its object deleted.
    pub is_aborted: bool,
    /// Who asked for it: a word of [`crate::Initiator`].
    pub initiator: Option<String>,
}

/// A finding that Kubernetes' objects tell, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterFinding {
    /// On which side it is, if that is certain.
    pub side: Option<Side>,
    /// On which node it is, if that is certain.
    pub node: Option<String>,
    /// The finding. Its subject is the VM.
    pub finding: Finding,
}

/// One node as Kubernetes has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// What its object, its lease, its virt-handler and the events about it say. Subject: the node.
    pub findings: Vec<Finding>,
}
