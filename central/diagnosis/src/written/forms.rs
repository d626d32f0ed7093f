//! The forms: one for each type of a snapshot, field by field. A field that is new in a type does not compile until it stands here.
//!
//! What may be empty may be missing. A form of a type with a default takes the default's value for what is missing.

use std::{collections::BTreeMap, sync::Arc};

use kulprit_cluster::{
    ClusterFinding, ClusterNode, ClusterVm, Initiator, Life, MigrationCounts, MigrationLife, MigrationRecord, PodRef,
};
use kulprit_model::{
    Attributes, Disk, Domain, Evidence, Finding, FindingCode, Moment, Occurrence, Qemu, Side, State, Status, Subject,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::glue::{Text, held, many, maybe, one, shared, word};
use crate::snapshot::{ClusterSight, NodeView, Settings, Shared, Snapshot, VmView};

macro_rules! forms {
    ($($ours:ty: $form:ty,)*) => {
        $(impl Text for $ours {
            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                <$form>::serialize(self, to)
            }

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                <$form>::deserialize(from)
            }
        })*
    };
}

forms! {
    Snapshot: SnapshotForm,
    Settings: SettingsForm,
    ClusterSight: SightForm,
    NodeView: NodeForm,
    VmView: VmForm,
    ClusterVm: ClusterVmForm,
    ClusterNode: ClusterNodeForm,
    ClusterFinding: ClusterFindingForm,
    PodRef: PodForm,
    Life: LifeForm,
    MigrationLife: MigrationForm,
    MigrationRecord: RecordForm,
    Finding: FindingForm,
    State: StateForm,
    Occurrence: OccurrenceForm,
    Status: StatusForm,
    Evidence: EvidenceForm,
    Domain: DomainForm,
    Qemu: QemuForm,
    Disk: DiskForm,
    Moment: MomentForm,
}

impl Text for Attributes {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<String, String>::deserialize(from)?.into_iter().collect())
    }
}

macro_rules! words {
    ($($ours:ty,)*) => {
        $(impl Text for $ours {
            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                word::serialize(self, to)
            }

            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                word::deserialize(from)
            }
        })*
    };
}

words! {
    Side,
    Initiator,
}

/// Numbers in the order of the fields; those that a writer did not know are 0.
mod counts {
    use super::{Deserialize as _, Deserializer, MigrationCounts, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(counts: &MigrationCounts, to: S) -> Result<S::Ok, S::Error> {
        let MigrationCounts { succeeded, failed, aborted, unknown } = *counts;
        [succeeded, failed, aborted, unknown].serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MigrationCounts, D::Error> {
        let mut numbers = Vec::<u32>::deserialize(from)?.into_iter();
        let mut next = || numbers.next().unwrap_or(0);
        Ok(MigrationCounts { succeeded: next(), failed: next(), aborted: next(), unknown: next() })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Snapshot", default = "Snapshot::default")]
struct SnapshotForm {
    reference_wall_usec: i64,
    #[serde(with = "many")]
    nodes: Vec<NodeView>,
    #[serde(with = "shared")]
    cluster_vms: Vec<Arc<ClusterVm>>,
    #[serde(with = "shared")]
    cluster_nodes: Vec<Arc<ClusterNode>>,
    #[serde(with = "one")]
    cluster_sight: ClusterSight,
    #[serde(with = "one")]
    settings: Settings,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Settings", default = "Settings::default")]
struct SettingsForm {
    shutdown_grace_usec: i64,
    stop_margin_usec: i64,
    kill_grace_usec: i64,
    occurrence_fresh_usec: i64,
    pending_usec: i64,
    scheduling_usec: i64,
    scheduled_usec: i64,
    migration_phase_usec: i64,
    migration_progress_usec: i64,
    migration_failed_usec: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ClusterSight", default = "ClusterSight::default")]
struct SightForm {
    is_watched: bool,
    until_usec: Option<i64>,
    unseen: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "NodeView", default = "NodeView::default")]
struct NodeForm {
    name: String,
    is_reporting: bool,
    last_heard_wall_usec: Option<i64>,
    #[serde(with = "held")]
    vms: Shared<VmView>,
    #[serde(with = "held")]
    states: Shared<State>,
    #[serde(with = "held")]
    occurrences: Shared<Occurrence>,
    cannot_show: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "VmView", default = "VmView::default")]
struct VmForm {
    uid: String,
    namespace: Option<String>,
    name: String,
    #[serde(with = "maybe")]
    domain: Option<Domain>,
    #[serde(with = "maybe")]
    qemu: Option<Qemu>,
    #[serde(with = "maybe")]
    last_qemu: Option<Qemu>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ClusterVm", default = "ClusterVm::default")]
struct ClusterVmForm {
    namespace: String,
    name: String,
    uid: String,
    uids: Vec<String>,
    #[serde(with = "many")]
    pods: Vec<PodRef>,
    volumes: Vec<String>,
    images: Vec<String>,
    hosting: Option<String>,
    source: Option<String>,
    target: Option<String>,
    wanted_nodes: Vec<String>,
    #[serde(with = "one")]
    life: Life,
    #[serde(with = "many")]
    findings: Vec<ClusterFinding>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ClusterNode", default = "ClusterNode::default")]
struct ClusterNodeForm {
    name: String,
    #[serde(with = "many")]
    findings: Vec<Finding>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ClusterFinding")]
struct ClusterFindingForm {
    #[serde(with = "maybe", default)]
    side: Option<Side>,
    node: Option<String>,
    #[serde(with = "one")]
    finding: Finding,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PodRef")]
struct PodForm {
    namespace: String,
    name: String,
    uid: Option<String>,
    node: Option<String>,
    #[serde(with = "one")]
    side: Side,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Life", default = "Life::default")]
struct LifeForm {
    has_vm: bool,
    has_vmi: bool,
    printable_status: Option<String>,
    printable_since_usec: Option<i64>,
    wants_to_run: Option<bool>,
    phase: Option<String>,
    phase_since_usec: Option<i64>,
    has_run: Option<bool>,
    created_usec: Option<i64>,
    vm_deleted_usec: Option<i64>,
    vmi_deleted_usec: Option<i64>,
    grace_secs: Option<i64>,
    paused_reason: Option<String>,
    paused_since_usec: Option<i64>,
    not_ready_reason: Option<String>,
    not_synchronized: Option<(String, String)>,
    launcher_phase: Option<String>,
    launcher_status: Option<String>,
    launcher_since_usec: Option<i64>,
    #[serde(with = "maybe")]
    migration: Option<MigrationLife>,
    #[serde(with = "counts")]
    n_migrations_24h: MigrationCounts,
    knows_all_migrations: bool,
    #[serde(with = "many")]
    past_migrations: Vec<MigrationRecord>,
    evacuation: Option<(String, Option<i64>)>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "MigrationLife", default = "MigrationLife::default")]
struct MigrationForm {
    name: String,
    uid: Option<String>,
    phase: Option<String>,
    phase_since_usec: Option<i64>,
    created_usec: Option<i64>,
    started_usec: Option<i64>,
    ended_usec: Option<i64>,
    outcome: Option<bool>,
    failure_reason: Option<String>,
    is_aborted: bool,
    initiator: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "MigrationRecord", default = "MigrationRecord::default")]
struct RecordForm {
    namespace: String,
    vm: String,
    uid: String,
    name: String,
    vmi_uid: Option<String>,
    source: Option<String>,
    target: Option<String>,
    created_usec: Option<i64>,
    started_usec: Option<i64>,
    ended_usec: Option<i64>,
    deleted_usec: Option<i64>,
    gone_usec: Option<i64>,
    has_succeeded: Option<bool>,
    is_abort_requested: bool,
    reason: Option<String>,
    #[serde(with = "maybe")]
    initiator: Option<Initiator>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Finding", rename_all = "snake_case")]
enum FindingForm {
    State(#[serde(with = "one")] State),
    Occurrence(#[serde(with = "one")] Occurrence),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "State")]
struct StateForm {
    #[serde(with = "word")]
    code: FindingCode,
    #[serde(with = "word")]
    subject: Subject,
    #[serde(with = "one")]
    status: Status,
    #[serde(with = "one")]
    since: Moment,
    #[serde(with = "one")]
    looked: Moment,
    unknown_because: Option<String>,
    #[serde(with = "one", default)]
    attributes: Attributes,
    #[serde(with = "many", default)]
    evidence: Vec<Evidence>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Occurrence")]
struct OccurrenceForm {
    #[serde(with = "word")]
    code: FindingCode,
    #[serde(with = "word")]
    subject: Subject,
    #[serde(with = "one")]
    first: Moment,
    #[serde(with = "one")]
    last: Moment,
    count: u64,
    #[serde(with = "one", default)]
    attributes: Attributes,
    #[serde(with = "many", default)]
    evidence: Vec<Evidence>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Status")]
enum StatusForm {
    Present,
    Absent,
    Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Evidence")]
struct EvidenceForm {
    source: String,
    #[serde(with = "one")]
    at: Moment,
    text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Domain")]
struct DomainForm {
    uid: String,
    name: String,
    state: i32,
    reason: i32,
    #[serde(with = "one")]
    since: Moment,
    is_persistent: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Qemu")]
struct QemuForm {
    uid: String,
    name: Option<String>,
    pid: u32,
    start_ticks: u64,
    #[serde(with = "one")]
    since: Moment,
    #[serde(with = "many", default)]
    disks: Vec<Disk>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Disk", default = "Disk::default")]
struct DiskForm {
    path: String,
    device: Option<String>,
    device_name: Option<String>,
    fstype: Option<String>,
    mount_point: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Moment", default = "Moment::default")]
struct MomentForm {
    wall_usec: i64,
    boottime_usec: i64,
}
