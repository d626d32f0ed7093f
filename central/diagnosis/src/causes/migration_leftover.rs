//! `MigrationLeftover`: an earlier migration left something behind: two QEMUs, a paused source, a half-made target, a
//! state that says it still runs.
//!
//! Proof are two QEMUs of one VM while no migration runs. libvirt's or KubeVirt's refusal because a migration "is
//! already" under way, when none is, comes next. It explains image locks and domains that exist already.

use kulprit_model::{
    FindingCode::{MigrationAbortRequested, TwoQemus},
    attribute::{CLASS, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// An earlier migration left two QEMUs, a paused source, a half-made target or a stale state behind.
pub const MIGRATION_LEFTOVER: Cause = Cause {
    id: "MigrationLeftover",
    meaning: "An earlier migration left two QEMUs, a paused source, a half-made target or a stale \
state behind.",
    roles: &[Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Migration,
    usual: &[
        SymptomId::StuckMigrating,
        SymptomId::StuckTerminating,
        SymptomId::MigrationFailed,
        SymptomId::Unresponsive,
    ],
    possible: &[
        SymptomId::StuckStopping,
        SymptomId::InError,
        SymptomId::StuckStarting,
        SymptomId::PausedUnexpectedly,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "two",
            strength: Strength::Proof,
            look: Look::Present(TwoQemus, &[]),
            text: "two QEMUs of the VM live, and no migration runs",
        },
        Clue {
            group: "two",
            strength: Strength::Proof,
            look: Look::Vm(VmFact::TwoQemus),
            text: "QEMUs of the VM live on two nodes, and no migration runs",
        },
        Clue {
            group: "paused",
            strength: Strength::Strong,
            look: Look::Vm(VmFact::PausedByPastMigration),
            text: "a migration that is over left the domain paused",
        },
        Clue { group: "two", strength: Strength::Against, look: Look::Absent(TwoQemus), text: "the VM has one QEMU" },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE]),
                Fact::OneOf(CLASS, &[class::EXISTS, class::BUSY, class::HELD]),
                Fact::Not(SIGNATURE, &["migration-executed-already"]),
            ]),
            text: "a migration of it is said to run already",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-domain-not-seen", "migration-unknown-host"])]),
            text: "after the migration the domain is not where it should be",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(OPERATION, &[operation::MIGRATE_FINISH])]),
            text: "finishing or cleaning up after a migration failed",
        },
        Clue {
            group: "abort",
            strength: Strength::Against,
            look: Look::Present(MigrationAbortRequested, &[]),
            text: "this migration is being aborted now",
        },
    ],
    explains: &["ImageLockHeld", "DomainConflict"],
    advice: Advice {
        now: &[
            Step::Any(
                "pgrep -af \"qemu.*guest=\"   # on both nodes: which QEMU runs the guest (not \
-incoming, not paused)?",
            ),
            Step::KubeVirt(
                "kubectl exec -n {namespace} POD -c compute -- virsh list --all   # in each launcher \
of the VM",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n {namespace} POD_WITHOUT_THE_RUNNING_GUEST   # only when it is \
certain which one that is",
            ),
            Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.migrationState}' | jq ."),
        ],
        check: &[Step::KubeVirt(
            "kubectl get vmim -n {namespace} -o wide; kubectl get pod -n {namespace} -l \
vm.kubevirt.io/name={vm} -o wide",
        )],
        prevent: &[Step::Any("do not force-delete launcher pods or VMIMs while a migration runs")],
    },
    runbook_item: "migration failures",
};
