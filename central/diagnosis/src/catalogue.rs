//! The catalogue of causes: what each means, what speaks for and against it, what to do.
//!
//! Everything here is data. A new cause is one file in `causes/` and one line in [`CAUSES`]; scoring, chains, remedies,
//! `docs/causes.md` and the query API follow from it. Ids are a contract: they are added to, never renamed.

use kulprit_model::FindingCode;
pub use kulprit_model::Side as Role;

use crate::{causes, symptom::SymptomId};

/// Every cause, in the order of the catalogue; [`causes::UNEXPLAINED`] is last.
pub const CAUSES: &[&Cause] = &[
    &causes::NODE_CPU_EXHAUSTED,
    &causes::NODE_MEMORY_EXHAUSTED,
    &causes::NODE_HUGEPAGES_EXHAUSTED,
    &causes::NODE_DISK_FULL,
    &causes::NODE_PIDS_EXHAUSTED,
    &causes::NODE_KERNEL_LIMIT_REACHED,
    &causes::NODE_FILESYSTEM_READ_ONLY,
    &causes::KERNEL_FAULT,
    &causes::NODE_DOWN,
    &causes::NODE_UNDER_MAINTENANCE,
    &causes::NODE_CLOCK_SKEWED,
    &causes::NODE_CERTIFICATE_EXPIRED,
    &causes::KUBELET_DOWN,
    &causes::KUBELET_DEGRADED,
    &causes::KUBELET_RESTARTED,
    &causes::KUBELET_MISCONFIGURED,
    &causes::CONTAINER_RUNTIME_DOWN,
    &causes::CONTAINER_RUNTIME_HUNG,
    &causes::POD_NETWORK_SETUP_FAILED,
    &causes::NODE_NETWORK_DEGRADED,
    &causes::MIGRATION_PATH_UNREACHABLE,
    &causes::MIGRATION_PATH_MTU_MISMATCH,
    &causes::MIGRATION_TLS_FAILED,
    &causes::KVM_DEVICE_MISSING,
    &causes::KVM_DISABLED_IN_FIRMWARE,
    &causes::KVM_DEVICE_INACCESSIBLE,
    &causes::KVM_UNUSABLE,
    &causes::KVM_NOT_ADVERTISED,
    &causes::NESTED_VIRTUALIZATION_DISABLED,
    &causes::CPU_INCOMPATIBLE,
    &causes::HARDWARE_MEMORY_ERROR,
    &causes::HOST_DEVICE_UNAVAILABLE,
    &causes::QEMU_CRASHED,
    &causes::QEMU_KILLED,
    &causes::QEMU_OUT_OF_MEMORY,
    &causes::LAUNCHER_OUT_OF_MEMORY,
    &causes::LAUNCHER_LIMIT_REACHED,
    &causes::QEMU_BLOCKED_IN_KERNEL,
    &causes::QEMU_MONITOR_HUNG,
    &causes::QEMU_ZOMBIE,
    &causes::DEVICE_CGROUP_DENIED,
    &causes::QEMU_LOAD_STATE_FAILED,
    &causes::STORAGE_BACKEND_UNREACHABLE,
    &causes::DISK_IO_ERROR,
    &causes::LOCAL_DISK_STALLED,
    &causes::STALE_BLOCK_DEVICE,
    &causes::VOLUME_OUT_OF_SPACE,
    &causes::VOLUME_MOUNT_FAILED,
    &causes::VOLUME_PERMISSION_DENIED,
    &causes::VOLUME_ATTACH_TIMEOUT,
    &causes::VOLUME_HELD_ELSEWHERE,
    &causes::VOLUME_TEARDOWN_STUCK,
    &causes::IMAGE_LOCK_HELD,
    &causes::STORAGE_DRIVER_DOWN,
    &causes::IMAGE_PULL_FAILED_ON_NODE,
    &causes::IMAGE_REGISTRY_UNAVAILABLE,
    &causes::IMAGE_CACHE_CORRUPTED,
    &causes::LAUNCHER_CPU_THROTTLED,
    &causes::LAUNCHER_CONTAINER_FAILED,
    &causes::LAUNCHER_UNRESPONSIVE,
    &causes::SECURITY_POLICY_DENIED,
    &causes::LIBVIRT_DAEMON_DOWN,
    &causes::LIBVIRT_DAEMON_HUNG,
    &causes::DOMAIN_CONFLICT,
    &causes::HOTPLUG_FAILED,
    &causes::VIRT_HANDLER_DOWN,
    &causes::VIRT_HANDLER_RESTARTED,
    &causes::MIGRATION_NOT_CONVERGING,
    &causes::MIGRATION_BANDWIDTH_STARVED,
    &causes::MIGRATION_TARGET_POD_FAILED,
    &causes::MIGRATION_TIMEOUT_TOO_SHORT,
    &causes::MIGRATION_LEFTOVER,
    &causes::MIGRATION_SETTING_MISSING,
    &causes::VM_MISCONFIGURED,
    &causes::VOLUME_NOT_FOUND,
    &causes::DATA_IMPORT_FAILED,
    &causes::IMAGE_NOT_FOUND,
    &causes::UNSCHEDULABLE,
    &causes::QUOTA_EXCEEDED,
    &causes::NOT_LIVE_MIGRATABLE,
    &causes::VERSION_SKEW,
    &causes::MIGRATION_LIMIT_REACHED,
    &causes::MIGRATION_ABORTED,
    &causes::MIGRATIONS_REQUESTED,
    &causes::GUEST_IGNORES_SHUTDOWN,
    &causes::GUEST_FAULT,
    &causes::CONTROL_PLANE_FAULT,
    &causes::UNEXPLAINED,
];

/// The row of an id; `None` if this version has no such cause.
#[must_use]
pub fn find(id: &str) -> Option<&'static Cause> {
    CAUSES.iter().copied().find(|cause| cause.id == id)
}

/// One row of the catalogue.
#[derive(Debug)]
pub struct Cause {
    /// CamelCase id.
    pub id: &'static str,
    /// What it means, one sentence.
    pub meaning: &'static str,
    /// Where it can sit relative to the VM.
    pub roles: &'static [Role],
    /// What the cause sits in: it decides which symptoms share an incident.
    pub scope: Scope,
    /// Whose business it is.
    pub class: Class,
    /// Symptoms it usually explains: prior 0.
    pub usual: &'static [SymptomId],
    /// Symptoms it possibly explains: prior −5. Rare ones have −10, all others −15.
    pub possible: &'static [SymptomId],
    /// Symptoms it rarely explains: prior −10.
    pub rare: &'static [SymptomId],
    /// What speaks for and against it.
    pub clues: &'static [Clue],
    /// Ids of the causes it brings about.
    pub explains: &'static [&'static str],
    /// What to do about it.
    pub advice: Advice,
    /// The item of KubeVirt's runbooks it answers.
    pub runbook_item: &'static str,
}

/// What a cause sits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The node as a whole.
    Node,
    /// A block device of the node, or the VM while the device is not known.
    Device,
    /// One VM.
    Vm,
    /// The way between two nodes.
    Path,
    /// Something that nodes share, a storage backend or a registry; the node while others show that it is only this one.
    Shared,
    /// No host at all: configuration, control plane, guest, a user's wish. One incident per VM.
    Cluster,
}

/// Whose business a cause is: alerts and dashboards are cut by it. A cause whose verdict clears the host is `Outside`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The machine, its kernel, kubelet and container runtime.
    Node,
    /// The network of pods, nodes and migrations.
    Network,
    /// KVM, QEMU and hardware.
    Hypervisor,
    /// Disks, volumes, storage backends and images.
    Storage,
    /// virt-launcher, libvirt and KubeVirt's components.
    VirtStack,
    /// The migration as such.
    Migration,
    /// Not the host: configuration, control plane, guest, a user's wish, or nothing that is known.
    Outside,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Node, Self::Network, Self::Hypervisor, Self::Storage, Self::VirtStack, Self::Migration, Self::Outside];

    /// The word used in metrics, alerts and the generated catalogue.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Network => "network",
            Self::Hypervisor => "hypervisor",
            Self::Storage => "storage",
            Self::VirtStack => "virt-stack",
            Self::Migration => "migration",
            Self::Outside => "outside",
        }
    }
}

/// How much a clue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// A direct look at the thing itself.
    Proof,
    /// Hardly anything else looks like this.
    Strong,
    /// More often this than anything else.
    Good,
    /// Fits.
    Some,
    /// Fits, and much else does.
    Hint,
    /// Does not fit.
    Against,
    /// A fresh positive look that the thing is well.
    StronglyAgainst,
}

impl Strength {
    /// Decibans.
    #[must_use]
    pub const fn decibans(self) -> f64 {
        match self {
            Self::Proof => 30.0,
            Self::Strong => 20.0,
            Self::Good => 13.0,
            Self::Some => 7.0,
            Self::Hint => 3.0,
            Self::Against => -7.0,
            Self::StronglyAgainst => -20.0,
        }
    }

    /// The word used in the generated catalogue.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Strong => "strong",
            Self::Good => "good",
            Self::Some => "some",
            Self::Hint => "hint",
            Self::Against => "against",
            Self::StronglyAgainst => "strongly against",
        }
    }
}

/// One thing that speaks for or against a cause.
#[derive(Debug)]
pub struct Clue {
    /// Evidence of one origin has one group, and counts once.
    pub group: &'static str,
    /// How much it says.
    pub strength: Strength,
    /// What has to be seen.
    pub look: Look,
    /// What that means, a sentence without a full stop.
    pub text: &'static str,
}

/// What has to be seen for a clue to count. Nothing here fires on `Unknown`.
#[derive(Debug)]
pub enum Look {
    /// The state is present, with these facts.
    Present(FindingCode, &'static [Fact]),
    /// The state was looked for and is not there.
    Absent(FindingCode),
    /// It happened, with these facts.
    Happened(FindingCode, &'static [Fact]),
    /// It did not happen, and whoever would know was looking from before the onset on.
    NotHappened(FindingCode),
    /// Something about the VM itself.
    Vm(VmFact),
    /// The same look on the other side of the migration, or on any other node of the snapshot that is not the place judged.
    Elsewhere(&'static Self),
    /// On another node that was looked at it is not so: a state is absent there, an image is there. For occurrences: that node's
    /// texts were read over the onset and say nothing of it.
    WellElsewhere(&'static Self),
    /// All of these; as sure and as fresh as the weakest.
    All(&'static [Self]),
}

/// What an attribute of a finding, or its subject, has to be.
#[derive(Clone, Copy, Debug)]
pub enum Fact {
    /// The attribute is one of these.
    OneOf(&'static str, &'static [&'static str]),
    /// The attribute is there and none of these.
    NoneOf(&'static str, &'static [&'static str]),
    /// The attribute is not there, or none of these.
    Not(&'static str, &'static [&'static str]),
    /// The attribute is not there.
    Missing(&'static str),
    /// The attribute is a number of at least this.
    AtLeast(&'static str, i64),
    /// The subject is this VM's own process or disk, not only something of its node.
    Own,
}

/// Something about the VM itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFact {
    /// Its QEMU process is seen alive.
    QemuLives,
    /// Procfs is being read, and there is no QEMU of it.
    QemuGone,
    /// It is a plain libvirt domain that no pod runs.
    Standalone,
    /// libvirt says that it is off because somebody wanted that, or because it was saved or migrated.
    EndedAsAsked,
    /// libvirt says that it could not be started.
    FailedToStart,
    /// Nothing of its host was looked at but texts: whoever asks has no look of the node.
    HostNotSeen,
    /// QEMUs of it live on two nodes, and no migration of it runs.
    TwoQemus,
    /// libvirt shows it paused for a migration, and none runs.
    PausedByPastMigration,
    /// The place in question is the target of its migration: what both ends show of the copy is asked of this one.
    ArrivesHere,
    /// The place in question is not the target of its migration.
    LeavesHere,
}

/// An error text with these facts: `said(&[Fact::OneOf(OPERATION, &[MOUNT]), …])`.
#[must_use]
pub const fn said(facts: &'static [Fact]) -> Look {
    Look::Happened(FindingCode::ErrorSaid, facts)
}

/// What to do about a cause, before it is made to fit a VM.
#[derive(Debug)]
pub struct Advice {
    /// What to do now.
    pub now: &'static [Step],
    /// What to check.
    pub check: &'static [Step],
    /// How to prevent it.
    pub prevent: &'static [Step],
}

/// One step of an advice. `{vm}`, `{namespace}`, `{node}`, `{pid}`, `{device}`, `{mount}` and `{unit}` stand for what the
/// evidence says, quoted for a shell.
#[derive(Debug)]
pub enum Step {
    /// Everywhere.
    Any(&'static str),
    /// Only where libvirt alone runs the VM.
    Standalone(&'static str),
    /// Only where KubeVirt runs the VM.
    KubeVirt(&'static str),
}

impl Step {
    /// The text, placeholders as they are.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        match self {
            Self::Any(text) | Self::Standalone(text) | Self::KubeVirt(text) => text,
        }
    }
}

impl Cause {
    /// What it is worth for a symptom before anything was looked at, decibans.
    #[must_use]
    pub fn prior_db(&self, symptom: SymptomId) -> f64 {
        if self.id == causes::UNEXPLAINED.id {
            UNEXPLAINED_DB
        } else if self.usual.contains(&symptom) {
            0.0
        } else if self.possible.contains(&symptom) {
            -5.0
        } else if self.rare.contains(&symptom) {
            -10.0
        } else {
            -15.0
        }
    }

    /// The anchor of its section in `docs/causes.md`.
    #[must_use]
    pub fn anchor(&self) -> String {
        self.id.to_lowercase()
    }

    /// Whether a finding of this code, of the place itself, speaks for it: present, or happened.
    #[must_use]
    pub fn is_spoken_for_by(&self, code: FindingCode) -> bool {
        let speaks_for = |clue: &Clue| clue.strength.decibans() > 0.0 && clue.look.is_met_by(code);
        self.clues.iter().any(speaks_for)
    }

    /// The symptoms it usually or possibly explains, in that order.
    pub fn symptoms(&self) -> impl Iterator<Item = SymptomId> + '_ {
        self.usual.iter().chain(self.possible).copied()
    }
}

/// The score of `Unexplained`, decibans: what a cause has to beat.
pub const UNEXPLAINED_DB: f64 = 10.0;

impl Clue {
    /// The clue as one line of the catalogue: `+30 proof: <text> (<what is looked at>)`.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{:+} {}: {} ({})", self.strength.decibans(), self.strength.as_str(), self.text, self.look.describe())
    }
}

impl Look {
    /// What is looked at, in the codes of the finding catalogue.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Present(code, facts) => format!("{code} present{}", describe_facts(facts)),
            Self::Absent(code) => format!("{code} absent"),
            Self::Happened(code, facts) => format!("{code} happened{}", describe_facts(facts)),
            Self::NotHappened(code) => format!("{code} did not happen while somebody watched"),
            Self::Vm(VmFact::QemuLives) => "its QEMU is alive".to_owned(),
            Self::Vm(VmFact::QemuGone) => "it has no QEMU".to_owned(),
            Self::Vm(VmFact::Standalone) => "no pod runs it".to_owned(),
            Self::Vm(VmFact::EndedAsAsked) => "libvirt shows it off as asked".to_owned(),
            Self::Vm(VmFact::FailedToStart) => "libvirt shows that its start failed".to_owned(),
            Self::Vm(VmFact::HostNotSeen) => "its host was not looked at".to_owned(),
            Self::Vm(VmFact::TwoQemus) => "QEMUs of it live on two nodes".to_owned(),
            Self::Vm(VmFact::PausedByPastMigration) => "a migration that is over left it paused".to_owned(),
            Self::Vm(VmFact::ArrivesHere) => "at the target".to_owned(),
            Self::Vm(VmFact::LeavesHere) => "not at the target".to_owned(),
            Self::Elsewhere(look) => format!("also on another node: {}", look.describe()),
            Self::WellElsewhere(look) => format!("not so on another node: {}", look.describe()),
            Self::All(looks) => looks.iter().map(Self::describe).collect::<Vec<_>>().join(", and "),
        }
    }

    /// The findings it reads.
    pub fn codes(&self) -> Vec<FindingCode> {
        match self {
            Self::Present(code, _) | Self::Absent(code) | Self::Happened(code, _) | Self::NotHappened(code) => {
                vec![*code]
            }
            Self::Vm(_) => Vec::new(),
            Self::Elsewhere(look) | Self::WellElsewhere(look) => look.codes(),
            Self::All(looks) => looks.iter().flat_map(Self::codes).collect(),
        }
    }

    fn is_met_by(&self, code: FindingCode) -> bool {
        match self {
            Self::Present(own, _) | Self::Happened(own, _) => *own == code,
            Self::All(looks) => looks.iter().any(|look| look.is_met_by(code)),
            Self::Absent(_) | Self::NotHappened(_) | Self::Vm(_) | Self::Elsewhere(_) | Self::WellElsewhere(_) => false,
        }
    }

    /// Whether it, or one of what it joins, asks for a state that is present, of a code for which `is_it`.
    pub(crate) fn asks_for_present(&self, is_it: fn(FindingCode) -> bool) -> bool {
        match self {
            Self::Present(code, _) => is_it(*code),
            Self::All(looks) => looks.iter().any(|look| look.asks_for_present(is_it)),
            Self::Absent(_)
            | Self::Happened(..)
            | Self::NotHappened(_)
            | Self::Vm(_)
            | Self::Elsewhere(_)
            | Self::WellElsewhere(_) => false,
        }
    }
}

fn describe_facts(facts: &[Fact]) -> String {
    let mut text = String::new();
    for fact in facts {
        text.push_str(&match fact {
            Fact::OneOf(key, values) => format!(", {key} is {}", values.join(" or ")),
            Fact::NoneOf(key, []) => format!(", {key} known"),
            Fact::NoneOf(key, values) | Fact::Not(key, values) => format!(", {key} is not {}", values.join(" or ")),
            Fact::Missing(key) => format!(", {key} not known"),
            Fact::AtLeast(key, least) => format!(", {key} at least {least}"),
            Fact::Own => ", of this VM itself".to_owned(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kulprit_model::catalogue::{CATALOGUE, Kind};

    use super::*;

    #[test]
    fn ids_are_unique_and_read_back() {
        for cause in CAUSES {
            assert_eq!(find(cause.id).map(|found| found.meaning), Some(cause.meaning));
        }
        let ids: BTreeSet<_> = CAUSES.iter().map(|cause| cause.id).collect();
        assert_eq!(ids.len(), CAUSES.len());
    }

    #[test]
    fn every_explained_cause_exists_and_no_chain_is_a_circle() {
        fn walk(cause: &Cause, path: &mut Vec<&'static str>) {
            for id in cause.explains {
                assert!(!path.contains(id), "{path:?} comes back to {id}");
                path.push(id);
                walk(find(id).expect("an explained cause is in the catalogue"), path);
                path.pop();
            }
        }
        for cause in CAUSES {
            walk(cause, &mut vec![cause.id]);
        }
    }

    #[test]
    fn looks_fit_the_kind_of_their_finding() {
        fn check(look: &Look) {
            match look {
                Look::Present(code, _) | Look::Absent(code) => assert_eq!(code.spec().kind, Kind::State, "{code}"),
                Look::Happened(code, _) | Look::NotHappened(code) => {
                    assert_eq!(code.spec().kind, Kind::Occurrence, "{code}");
                }
                Look::Vm(_) => {}
                Look::Elsewhere(look) | Look::WellElsewhere(look) => check(look),
                Look::All(looks) => looks.iter().for_each(check),
            }
        }
        for cause in CAUSES {
            cause.clues.iter().for_each(|clue| check(&clue.look));
        }
    }

    #[test]
    fn every_cause_has_clues_for_and_against_and_something_to_do() {
        for cause in CAUSES {
            assert!(cause.meaning.ends_with('.') && !cause.advice.now.is_empty(), "{}", cause.id);
            if cause.id != causes::UNEXPLAINED.id {
                assert!(cause.clues.iter().any(|clue| clue.strength.decibans() >= 20.0), "{}", cause.id);
                assert!(cause.clues.iter().any(|clue| clue.strength.decibans() < 0.0), "{}", cause.id);
                assert!(!cause.usual.is_empty(), "{}", cause.id);
            }
        }
    }

    #[test]
    fn a_finding_speaks_for_a_cause_that_asks_for_it_here_and_for_no_other() {
        let of = |id: &str| find(id).expect("it is in the catalogue");
        assert!(of("KvmDeviceMissing").is_spoken_for_by(FindingCode::KvmDeviceMissing));
        assert!(!of("KvmDeviceMissing").is_spoken_for_by(FindingCode::KubeletInactive));
        assert!(of("KubeletDown").is_spoken_for_by(FindingCode::KubeletInactive));
        assert!(!of("LibvirtDaemonDown").is_spoken_for_by(FindingCode::LibvirtUnresponsive), "it does not fit");
        assert!(CATALOGUE.iter().all(|spec| !causes::UNEXPLAINED.is_spoken_for_by(spec.code)));
    }

    #[test]
    fn a_symptom_has_one_prior_per_cause() {
        for cause in CAUSES {
            let all: Vec<_> = cause.usual.iter().chain(cause.possible).chain(cause.rare).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{}", cause.id);
        }
    }
}
