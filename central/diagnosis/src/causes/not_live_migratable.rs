//! `NotLiveMigratable`: KubeVirt says that the VM cannot be live-migrated.
//!
//! Proof is the VMI's LiveMigratable condition with its reason: a disk that only one node can have, a bridge on the pod
//! network, a host device. It lies in the specification; no node is at fault.

use kulprit_model::{
    FindingCode::{MigrationDirtying, MigrationProgressing, VmiNotMigratable},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The VMI's LiveMigratable condition is false: its specification rules out live migration.
pub const NOT_LIVE_MIGRATABLE: Cause = Cause {
    id: "NotLiveMigratable",
    meaning: "The VMI's LiveMigratable condition is false: its specification rules out live \
migration.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    possible: &[SymptomId::ExcessiveMigrations],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "condition",
            strength: Strength::Strong,
            look: Look::Present(VmiNotMigratable, &[]),
            text: "the VMI's LiveMigratable condition is false",
        },
        Clue {
            group: "condition",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(VmiNotMigratable),
            text: "KubeVirt says that the VM can be live-migrated",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &["migration-blocked-device", "migration-unsafe", "migration-not-possible", "migration-not-migratable"],
            )]),
            text: "libvirt, QEMU or KubeVirt refuse to migrate such a VM",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::EVICT_POD, operation::MIGRATE]),
                Fact::OneOf(CLASS, &[class::UNSUPPORTED]),
                Fact::Not(SIGNATURE, &["postcopy-unsupported"]),
            ]),
            text: "such a VM cannot be migrated",
        },
        Clue {
            group: "copies",
            strength: Strength::Against,
            look: Look::Present(MigrationProgressing, &[]),
            text: "a migration of it copies",
        },
        Clue {
            group: "copies",
            strength: Strength::Against,
            look: Look::Present(MigrationDirtying, &[]),
            text: "a migration of it copies",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o \
jsonpath='{.status.conditions[?(@.type==\"LiveMigratable\")]}'",
            ),
            Step::KubeVirt(
                "virtctl stop -n {namespace} {vm}   # to leave the node: shut it down and let it \
start elsewhere",
            ),
            Step::KubeVirt(
                "kubectl edit vm -n {namespace} {vm}   # RWX volumes, masquerade instead of bridge, \
no host device; or evictionStrategy: None",
            ),
        ],
        check: &[Step::KubeVirt(
            "kubectl get pvc -n {namespace} -o \
custom-columns=NAME:.metadata.name,MODES:.spec.accessModes",
        )],
        prevent: &[Step::Any(
            "evictionStrategy LiveMigrateIfPossible for VMs that cannot migrate, so that they do \
not block a drain",
        )],
    },
    runbook_item: "limitations",
};
