//! `MigrationSettingMissing`: a node lacks a setting that this kind of migration needs.
//!
//! Post-copy needs userfaultfd on the target; the kernel's setting together with QEMU's refusal is as good as proof.
//! The setting alone says nothing about a migration that does not use post-copy.

use kulprit_model::{
    FindingCode::{CpuModelsDiffer, UserfaultfdForbidden},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A node lacks a setting that the migration mode needs, such as userfaultfd for post-copy.
pub const MIGRATION_SETTING_MISSING: Cause = Cause {
    id: "MigrationSettingMissing",
    meaning: "A node lacks a setting that the migration mode needs, such as userfaultfd for \
post-copy.",
    roles: &[Role::Target, Role::Source],
    scope: Scope::Node,
    class: Class::Migration,
    usual: &[SymptomId::MigrationFailed],
    possible: &[SymptomId::StuckMigrating, SymptomId::EvacuationBlocked, SymptomId::ExcessiveMigrations],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "setting",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(UserfaultfdForbidden, &[]),
                said(&[
                    Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE, operation::LOAD_STATE]),
                    Fact::OneOf(CLASS, &[class::UNSUPPORTED, class::NOT_PERMITTED, class::DENIED, class::INVALID]),
                ]),
            ]),
            text: "post-copy is refused, and the kernel of the node does not allow userfaultfd",
        },
        Clue {
            group: "setting",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["postcopy-unsupported", "userfaultfd-forbidden"])]),
            text: "post-copy is not possible on the node",
        },
        Clue {
            group: "setting",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE]),
                Fact::OneOf(CLASS, &[class::NOT_PERMITTED]),
                Fact::Not(
                    SIGNATURE,
                    &[
                        "migration-blocked-device",
                        "migration-unsafe",
                        "migration-not-possible",
                        "migration-not-migratable",
                    ],
                ),
            ]),
            text: "the node does not permit this kind of migration",
        },
        // libvirt on the source says the same of a VM that cannot be migrated at all.
        Clue {
            group: "setting",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE]),
                Fact::OneOf(CLASS, &[class::UNSUPPORTED]),
                Fact::Not(
                    SIGNATURE,
                    &[
                        "migration-blocked-device",
                        "migration-unsafe",
                        "migration-not-possible",
                        "migration-not-migratable",
                    ],
                ),
            ]),
            text: "this kind of migration is not supported",
        },
        Clue {
            group: "setting",
            strength: Strength::Hint,
            look: Look::Present(UserfaultfdForbidden, &[]),
            text: "the kernel of the node does not allow userfaultfd",
        },
        Clue {
            group: "setting",
            strength: Strength::Against,
            look: Look::Absent(UserfaultfdForbidden),
            text: "the kernel of the node allows userfaultfd",
        },
        Clue {
            group: "cpu",
            strength: Strength::Against,
            look: Look::Present(CpuModelsDiffer, &[]),
            text: "the nodes offer different CPU models",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::Any(
                "sysctl -w vm.unprivileged_userfaultfd=1   # on {node}, and in /etc/sysctl.d for the \
next boot",
            ),
            Step::KubeVirt(
                "kubectl get kubevirt -A -o jsonpath='{.items[*].spec.configuration.migrations}'   # \
or do without post-copy: allowPostCopy false",
            ),
        ],
        check: &[
            Step::Any(
                "sysctl vm.unprivileged_userfaultfd; grep -H . \
/sys/kernel/mm/hugepages/*/free_hugepages   # on both nodes",
            ),
            Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.migrationState}' | jq ."),
        ],
        prevent: &[Step::Any("the same sysctl profile on every node that runs VMs")],
    },
    runbook_item: "migration failures",
};
